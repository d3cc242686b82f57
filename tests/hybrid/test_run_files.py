"""Files of a run: inputs are safe from it, checkpoints can be read, and nothing stands in them twice."""

import errno
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from ase.io import read, write

from grahame.hybrid.analysis import analyse
from grahame.hybrid.config import parse_config
from grahame.hybrid.engines import run as engine
from grahame.hybrid.engines.checkpoint import Progress, load_checkpoint, save_checkpoint
from grahame.hybrid.engines.files import write_atomically
from grahame.hybrid.engines.setup import load_structure, prepare
from tests.hybrid.small_cells import small_cell, small_run

NVE = {"steps": 6, "ensemble": "nve"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_does_not_write_over_what_it_reads(tmp_path: Path, overwrite: bool) -> None:
    structure = tmp_path / "small.extxyz"
    write(structure, small_cell(), format="extxyz")
    before = structure.read_bytes()
    output = {"name": "small", "folder": str(tmp_path), "overwrite": overwrite}
    config = small_run(tmp_path, NVE, structure={"file": structure.name}, output=output)
    with pytest.raises(
        ValueError, match=r"must not be a file that the run reads: choose another output\.name$"
    ):
        engine.run(config, progress=False)
    assert structure.read_bytes() == before


def test_the_trajectory_of_ase_is_a_file_of_the_run(tmp_path: Path) -> None:
    config = small_run(
        tmp_path, NVE, output={"name": "small", "folder": str(tmp_path), "ase_trajectory": True}
    )
    engine.run(config, progress=False)
    assert len(read(tmp_path / "small.traj", ":")) > 1
    for file in tmp_path.glob("small.*"):
        if file.suffix != ".traj":
            file.unlink()
    with pytest.raises(FileExistsError, match=r"output = .*small\.traj must not exist yet"):
        engine.run(config, progress=False)


def test_a_run_that_only_minimises_leaves_the_relaxed_structure(tmp_path: Path) -> None:
    config = small_run(tmp_path, {}, dynamics={"minimise": {"steps": 4}})
    run = engine._Run(config, restart=False)
    assert run.go(False).completed
    frames = read(tmp_path / "small.extxyz", ":")
    assert [(f.info["stage"], f.info["step"]) for f in frames] == [("minimise", 4)]
    assert np.abs(frames[0].positions - run.simulation.atoms.positions).max() < 1e-9
    with pytest.raises(ValueError, match=r"^stage = all .* has the stages minimise; choose another"):
        analyse(tmp_path / "small.extxyz", stage=None)
    before = (tmp_path / "small.extxyz").read_bytes()
    engine.run(config, progress=False, restart=True)
    assert (tmp_path / "small.extxyz").read_bytes() == before


def test_an_ase_trajectory_is_analysed_by_the_checkpoint_alone(tmp_path: Path) -> None:
    output = {"name": "small", "folder": str(tmp_path), "ase_trajectory": True, "trajectory_interval": 1}
    engine.run(small_run(tmp_path, {**NVE, "steps": 3}, output=output), progress=False)
    (tmp_path / "small.extxyz").unlink()
    result = analyse(tmp_path / "small.traj")
    assert result["electrodes_from"] == str(tmp_path / "small.checkpoint.npz")
    assert [e["atoms"] for e in result["electrodes"]] == [4, 4]


def test_the_folder_of_a_run_may_be_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    config = small_run(tmp_path, {**NVE, "steps": 1}, output={"name": "small", "folder": "~/runs"})
    assert engine.run(config, progress=False).log == tmp_path / "home" / "runs" / "small.csv"
    assert not (tmp_path / "~").exists()


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    write_atomically(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["state"]
    assert path.read_bytes() == b"old"


def test_the_files_that_a_run_reads_may_be_in_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    data = {
        "structure": {"file": "~/cell.xyz"},
        "dynamics": {},
        "short_range": {"model": "~/mine.safetensors"},
    }
    config = parse_config(data, tmp_path / "runs")
    assert config.structure_path == tmp_path / "cell.xyz"
    (tmp_path / "mine.safetensors").touch()
    assert config.model_path == tmp_path / "mine.safetensors"


def test_masses_of_the_dynamics_stand_in_the_frames_and_go_on(tmp_path: Path) -> None:
    heavy = small_cell()
    heavy.set_masses(np.where(heavy.numbers == 1, 2.014, heavy.get_masses()))
    write(tmp_path / "cell.xyz", heavy, format="extxyz")
    summary = engine.run(small_run(tmp_path, {**NVE, "steps": 3}), progress=False)
    frames = read(summary.trajectory, ":")
    assert all(f.get_masses().tolist() == heavy.get_masses().tolist() for f in frames)
    config = small_run(tmp_path, NVE, structure={"file": "small.extxyz"}, output={"name": "next"})
    atoms = prepare(config, load_structure(config)).atoms
    assert atoms.get_masses().tolist() == heavy.get_masses().tolist()
    # Frames of usual masses stay as they were.
    usual = engine.run(small_run(tmp_path / "usual", {**NVE, "steps": 3}), progress=False)
    assert "masses" not in usual.trajectory.read_text()


def test_columns_of_words_are_kept_in_checkpoints(tmp_path: Path) -> None:
    atoms = small_cell()
    atoms.set_array("atom_name", np.array([f"X{i}" for i in range(len(atoms))]))
    config = small_run(tmp_path, {**NVE, "steps": 2})
    write(tmp_path / "cell.xyz", atoms, format="extxyz")
    assert engine.run(config, progress=False).completed
    again = engine.run(small_run(tmp_path, {**NVE, "steps": 4}), progress=False, restart=True)
    assert again.completed
    assert again.steps > 4


def test_a_stage_begins_once(tmp_path: Path) -> None:
    """Also where a signal comes in the last step of the stage before, and where a stage has no steps."""
    config = small_run(tmp_path, NVE)
    stopped = engine._Run(config, restart=False)
    check = stopped._check_finite

    def interrupted() -> None:
        check()
        if stopped.progress.stage == "equilibrate" and stopped.progress.stage_step == 6:
            os.kill(os.getpid(), signal.SIGINT)

    stopped._check_finite = interrupted  # type: ignore[method-assign]
    assert not stopped.go(False).completed
    assert (stopped.progress.stage, stopped.progress.stage_step) == ("produce", 0)
    assert engine.run(config, progress=False, restart=True).completed
    steps = [a.info["step"] for a in read(tmp_path / "small.extxyz", ":") if a.info["stage"] == "produce"]
    assert steps == sorted(set(steps))
    rows = [row.split(",")[:2] for row in (tmp_path / "small.csv").read_text().splitlines()]
    assert len(rows) == len({tuple(row) for row in rows})

    empty = tmp_path / "empty"
    empty.mkdir()
    config = small_run(empty, {**NVE, "steps": 0})
    engine.run(config, progress=False)
    held = (empty / "small.extxyz").read_bytes()
    engine.run(config, progress=False, restart=True)
    assert (empty / "small.extxyz").read_bytes() == held


def test_checkpoints_of_earlier_versions_go_on_within_a_stage(tmp_path: Path) -> None:
    """They do not say whether the stage has begun."""
    path = tmp_path / "small.checkpoint.npz"
    engine.run(small_run(tmp_path, {**NVE, "steps": 3}), progress=False)
    saved = load_checkpoint(path)
    saved.progress.begun = Progress().begun
    save_checkpoint(path, saved)
    engine.run(small_run(tmp_path, NVE), progress=False, restart=True)
    steps = [a.info["step"] for a in read(tmp_path / "small.extxyz", ":") if a.info["stage"] == "produce"]
    assert steps == sorted(set(steps))
