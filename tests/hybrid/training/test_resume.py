"""A training that was interrupted, anywhere, ends with the same bits as one that was not."""

import csv
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import write
from safetensors.torch import load_file

from grahame.hybrid.training.checkpoint import load_checkpoint
from grahame.hybrid.training.config import TrainConfig, parse_training
from grahame.hybrid.training.loop import Trainer
from grahame.hybrid.training.run import train
from tests.hybrid.model_cells import slab
from tests.hybrid.training.tiny import settings, write_data

STAGES: dict[str, Any] = {
    "stage_two": {"start": 0.5, "energy": 10.0},
    "optimiser": {"epochs": 4, "batch_size": 3, "learning_rate": 0.01, "kind": "amsgrad", "schedule": {"kind": "plateau"}},
}  # fmt: skip


@pytest.fixture(name="data", scope="module")
def _data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    train(parse_training(settings(folder / "whole", **STAGES), folder), progress=False)
    return folder


def rows(path: Path) -> list[list[str]]:
    """The learning curve without its times."""
    with path.open() as file:
        return [row[:-2] for row in csv.reader(file)]


def same(whole: Path, other: Path) -> None:
    """Two trainings left the same model, curve and state."""
    a, b = (load_file(folder / "model.safetensors") for folder in (whole, other))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert rows(whole / "model.csv") == rows(other / "model.csv")
    x, y = (load_checkpoint(folder / "model.checkpoint.pt") for folder in (whole, other))
    for part in ("model", "average", "best"):
        assert all(torch.equal(x[part][k], y[part][k]) for k in x[part])
    for k, values in x["optimiser"]["state"].items():
        assert all(torch.equal(v, y["optimiser"]["state"][k][name]) for name, v in values.items())
    assert (whole / "model.errors.csv").read_text() == (other / "model.errors.csv").read_text()


def dies_after(steps: int, monkeypatch: pytest.MonkeyPatch, how: Any) -> None:
    """Let the training end before step `steps`."""
    step = Trainer.step

    def wrapped(self: Trainer, *arguments: Any) -> bool:
        if self.at.steps == steps:
            how()
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "step", wrapped)


@pytest.mark.parametrize(("steps", "minutes"), [(6, 1e-9), (9, 1e-9), (7, 10.0)])
def test_a_killed_training_continues_with_the_same_bits(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, minutes: float
) -> None:
    """Killed in the middle of an epoch: goes on from that step, or from the last epoch if nothing was written since."""
    config = parse_training(
        settings(tmp_path, **STAGES, output={"checkpoint_minutes": minutes, "plots": False}), data
    )

    def die() -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        dies_after(steps, patch, die)
        with pytest.raises(RuntimeError, match="killed"):
            train(config, progress=False)
    assert load_checkpoint(tmp_path / "model.checkpoint.pt")["position"]["steps"] == (
        steps if minutes < 1 else 4
    )
    train(config, resume=True, progress=False)
    same(data / "whole", tmp_path)


def test_a_signal_ends_the_step_and_writes_a_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse_training(settings(tmp_path, **STAGES), data)
    with monkeypatch.context() as patch:
        dies_after(5, patch, lambda: os.kill(os.getpid(), signal.SIGTERM))
        summary = train(config, progress=False)
    assert not summary.completed
    assert 6 <= summary.steps <= 7
    train(config, resume=True, progress=False)
    same(data / "whole", tmp_path)


def test_a_finished_training_resumes_to_nothing(data: Path) -> None:
    before = (data / "whole" / "model.safetensors").read_bytes()
    summary = train(parse_training(settings(data / "whole", **STAGES), data), resume=True, progress=False)
    assert summary.steps == 16
    assert (data / "whole" / "model.safetensors").read_bytes() == before


def test_an_earlier_training_is_not_overwritten(data: Path) -> None:
    config = parse_training(settings(data / "whole", **STAGES), data)
    with pytest.raises(FileExistsError) as error:
        train(config, progress=False)
    assert str(error.value) == (
        f"output = {data / 'whole' / 'model.safetensors'} must not exist yet: add --resume to continue, --overwrite to "
        "start again, or choose another output.name"
    )


def test_other_settings_do_not_continue_a_training(data: Path) -> None:
    changed = settings(data / "whole", **STAGES, loss={"forces": 2.0})
    with pytest.raises(ValueError, match="resumed") as error:
        train(parse_training(changed, data), resume=True, progress=False)
    assert str(error.value) == (
        "loss.forces = changed must be as in the training that is resumed: restore the values, or train under another "
        "output.name"
    )


def test_other_frames_do_not_continue_a_training(data: Path, tmp_path: Path) -> None:
    write_data(tmp_path, train=11)
    with pytest.raises(ValueError, match="resumed") as error:
        train(parse_training(settings(data / "whole", **STAGES), tmp_path), resume=True, progress=False)
    assert str(error.value) == (
        "data = other frames must be those of the training that is resumed: restore the files, or train under another "
        "output.name"
    )


def test_a_checkpoint_runs_no_code(tmp_path: Path, data: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("touch " + str(tmp_path / "evil"),)

    path = tmp_path / "model.checkpoint.pt"
    torch.save({"format": 1, "x": Evil()}, path)
    with pytest.raises(ValueError, match="damaged") as error:
        load_checkpoint(path)
    assert str(error.value) == (
        f"checkpoint = {path} must be a complete file of `grahame train`: it is damaged; start again under another "
        "output.name"
    )
    assert not (tmp_path / "evil").exists()


def test_without_a_checkpoint_there_is_nothing_to_resume(data: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        train(parse_training(settings(tmp_path), data), resume=True, progress=False)
    assert str(error.value) == (
        f"checkpoint = {tmp_path / 'model.checkpoint.pt'} must exist: train once without --resume"
    )


def write_slabs(folder: Path) -> None:
    """Gold slabs with water between them, all metal one conductor; labels of no meaning."""
    rng = np.random.default_rng(0)
    for name, count in (("train", 5), ("valid", 2)):
        images = []
        for _ in range(count):
            atoms, groups = slab()
            atoms.cell[2, 2] = 24.0
            atoms.positions += rng.normal(scale=0.03, size=(len(atoms), 3))
            forces = rng.normal(scale=0.3, size=(len(atoms), 3))
            bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
            bare.set_array("metal", np.isin(np.arange(len(atoms)), np.concatenate(groups)) - 1)
            bare.arrays["REF_forces"] = forces - forces.mean(axis=0)
            bare.info |= {"REF_energy": float(rng.normal()), "total_charge": 0.0}
            images.append(bare)
        write(folder / f"{name}.xyz", images)


@pytest.mark.parametrize("site_constants", ["fixed", "environment"])
def test_a_training_through_the_electrode_solve_continues_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site_constants: str
) -> None:
    write_slabs(tmp_path)

    def config(name: str) -> TrainConfig:
        blocks = settings(
            tmp_path / name,
            model={"charges": {"site_constants": site_constants, "hardness": 2.0}, "accuracy": 1e-3},
            loss={"charges": 0.0}, optimiser={"epochs": 3, "batch_size": 2},
        )  # fmt: skip
        blocks["data"]["keys"] = {"energy": "REF_energy", "forces": "REF_forces"}
        blocks["data"] |= {"electrode_groups": "metal", "boundary": "slab"}
        blocks["loss"] = {"forces": 10.0}
        return parse_training(blocks, tmp_path)

    train(config("whole"), progress=False)

    def die() -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        dies_after(5, patch, die)
        with pytest.raises(RuntimeError, match="killed"):
            train(config("parts"), progress=False)
    train(config("parts"), resume=True, progress=False)
    same(tmp_path / "whole", tmp_path / "parts")


def test_a_farther_limit_goes_on_where_a_nearer_one_had_ended(tmp_path: Path) -> None:
    write_data(tmp_path)

    def epochs(name: str, resume: bool, **optimiser: float) -> int:
        options = {"epochs": 12, "batch_size": 3, "learning_rate": 1e-300} | optimiser
        config = parse_training(settings(tmp_path / name, optimiser=options), tmp_path)
        return train(config, resume=resume, progress=False).epochs

    assert epochs("a", False, max_minutes=1e-4) < 12
    assert epochs("a", True, max_minutes=10.0) == 12
    assert epochs("b", False, patience=2) == 3
    assert epochs("b", True, patience=6) == 7
