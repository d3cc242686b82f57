"""The command line from outside: what it prints, writes and returns."""

import errno
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.io import read, write

from grahame.hybrid.cli import main
from grahame.hybrid.cli_options import lammps_types
from grahame.hybrid.files import read_structure

RUN = """\
structure: {file: cell.extxyz}
coulomb: {boundary: slab, accuracy: 1.0e-4}
electrodes:
  - {group: 0, potential: 0.0}
  - {group: 1, potential: 1.0}
dynamics:
  minimise: {steps: 3, fmax: 0.1}
  produce: {ensemble: langevin, timestep_fs: 0.5, steps: 500}
output: {name: md}
"""


@pytest.fixture(name="folder")
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(line: str) -> None:
    """`grahame` with the words of a line."""
    main(shlex.split(line))


def build_small() -> None:
    call("build cell.extxyz --size 2 4 1 --gap 12 --waters 8 --ion-pairs 1 --seed 3")


def fails(line: str) -> int:
    """The exit status of a command that must not succeed."""
    with pytest.raises(SystemExit) as stop:
        call(line)
    assert isinstance(stop.value.code, int)
    return stop.value.code


def test_version_is_that_of_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"1.2.3 of {name}")
    call("--version")
    assert capsys.readouterr().out == "grahame 1.2.3 of grahame\n"


def test_help_answers_within_a_second_without_the_heavy_libraries() -> None:
    code = (
        "import sys, grahame.hybrid.cli as c\n"
        "try: c.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print('heavy:', sorted({'torch', 'numba', 'ase', 'numpy', 'scipy'} & set(sys.modules)))"
    )
    start = time.perf_counter()
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    took = time.perf_counter() - start
    for command in ("build", "run", "solve", "analyse", "audit", "doctor"):
        assert f" {command} " in out
    assert out.strip().endswith("heavy: []")
    assert took < 5.0  # a second on an idle machine; a busy one must not fail the test


def test_build_writes_what_it_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("build cell.extxyz --surface Pt100 --size 3 3 2 --gap 12 --concentration 2 --json")
    said = json.loads(capsys.readouterr().out)
    atoms = read(folder / "cell.extxyz")
    assert said["atoms"] == len(atoms)
    assert said["surface"] == "Pt(100)"
    np.testing.assert_allclose(said["cell"], atoms.cell.array, atol=1e-12)
    assert (atoms.arrays["electrode"] == 1).sum() == 18
    assert list(folder.iterdir()) == [folder / "cell.extxyz"]


def test_build_keeps_an_existing_file_unless_told_otherwise(folder: Path, capsys: Any) -> None:
    build_small()
    before = (folder / "cell.extxyz").read_bytes()
    assert fails("build cell.extxyz --seed 4") == 1
    expected = "Error: output = cell.extxyz must not exist yet: choose another name or add --overwrite\n"
    assert capsys.readouterr().err == expected
    assert (folder / "cell.extxyz").read_bytes() == before
    call("build cell.extxyz --size 2 4 1 --gap 12 --waters 8 --ion-pairs 1 --seed 4 --overwrite")
    assert (folder / "cell.extxyz").read_bytes() != before


@pytest.mark.usefixtures("folder")
def test_solve_prints_json_that_a_program_reads(capsys: pytest.CaptureFixture[str]) -> None:
    build_small()
    capsys.readouterr()
    call("solve cell.extxyz --potential 0=0 --potential 1=2 --json --output solved.json")
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads(Path("solved.json").read_text(encoding="utf-8"))
    assert said["potentials"] == [0.0, 2.0]
    assert said["capacitance"][1][1] > 0.0
    assert sum(said["charges"]) == pytest.approx(0.0, abs=1e-9)
    assert said["units"]["capacitance"] == "e/V"
    assert said["energy"] == pytest.approx(said["internal_energy"] - said["work"], abs=1e-10)
    call("solve cell.extxyz --potential 0=0 --charge 1=0.25 --electrode 0=0:8 --electrode 1=8:16")
    assert "0.250000" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_run_then_analyse_gives_charges_profiles_and_a_figure(capsys: pytest.CaptureFixture[str]) -> None:
    build_small()
    Path("run.yaml").write_text(RUN, encoding="utf-8")
    capsys.readouterr()
    call("run run.yaml --quick --no-progress --no-plot")
    out = capsys.readouterr().out
    assert "electrode" in out
    assert "capacitance" in out
    names = {p.name for p in Path().iterdir()}
    made = {"extxyz", "csv", "checkpoint.npz", "provenance.json", "analysis.json"}
    assert {f"md-quick.{ending}" for ending in made} <= names
    assert "md-quick.png" not in names
    # Trying again is allowed, and the files of the real run are not touched.
    call("run run.yaml --quick --no-progress --no-plot")
    assert {p.name for p in Path().iterdir()} == names
    assert not any(name.startswith("md.") for name in names)
    frames = read("md-quick.extxyz", index=":")
    assert [a.info["step"] for a in frames if a.info["stage"] == "produce"] == [3, 8, 13, 18, 23]
    capsys.readouterr()
    call("analyse md-quick.extxyz --json")
    said = json.loads(capsys.readouterr().out)
    assert said["electrodes"][1]["potential_V"]["value"] == 1.0
    assert said["frames"] == 5
    assert Path("md-quick.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("md.extxyz", "must not be a file of the analysed runs: choose another name"),
        ("./md.csv", "must not be a file of the analysed runs: choose another name"),
        ("md.provenance.json", "must not be a file of the analysed runs: choose another name"),
        ("zero.extxyz", "must not be a file of the analysed runs: choose another name"),
        ("zero.csv", "must not be a file of the analysed runs: choose another name"),
        ("md.png", "must not be the file of the figure: end its name with .json"),
    ],
)
def test_an_analysis_is_not_written_over_what_it_reads(
    target: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("md.extxyz", "md.csv", "md.provenance.json", "zero.extxyz", "zero.csv"):
        Path(name).write_text(name, encoding="utf-8")
    assert fails(f"analyse md.extxyz --reference zero.extxyz --overwrite --output {target}") == 1
    assert capsys.readouterr().err == f"Error: output = {Path(target)} {sentence}\n"
    assert all(p.read_text(encoding="utf-8") == p.name for p in Path().iterdir())


@pytest.mark.usefixtures("folder")
def test_an_analysis_keeps_an_existing_file_unless_told_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    write("water.xyz", molecule("H2O", cell=[8.0, 8.0, 8.0], pbc=True))
    Path("kept.json").write_text("old", encoding="utf-8")
    assert fails("analyse water.xyz --no-plot --output kept.json") == 1
    assert capsys.readouterr().err == (
        "Error: output = kept.json must not exist yet: choose another name or add --overwrite\n"
    )
    assert Path("kept.json").read_text(encoding="utf-8") == "old"
    call("analyse water.xyz --no-plot --output kept.json --overwrite")
    assert json.loads(Path("kept.json").read_text(encoding="utf-8"))["formula"] == "H2O"
    for _ in range(2):  # a file of the usual name is renewed
        call("analyse water.xyz --no-plot")


@pytest.mark.usefixtures("folder")
def test_an_analysis_elsewhere_keeps_the_figure_that_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    write("water.xyz", molecule("H2O", cell=[8.0, 8.0, 8.0], pbc=True))
    Path("paper").mkdir()
    figure = Path("paper") / "water.png"
    figure.write_text("old", encoding="utf-8")
    assert fails("analyse water.xyz --output paper/water.json") == 1
    assert capsys.readouterr().err == (
        f"Error: output = {figure} must not exist yet: choose another name or add --overwrite\n"
    )
    assert [p.name for p in Path("paper").iterdir()] == ["water.png"]
    assert figure.read_text(encoding="utf-8") == "old"
    for name in ("one.json", "two.json"):  # beside the trajectory its figure is renewed
        call(f"analyse water.xyz --output {name}")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("frame", [-1000, 3, 52])
def test_frames_that_a_trajectory_does_not_have_are_refused(
    frame: int, capsys: pytest.CaptureFixture[str]
) -> None:
    write("frames.xyz", [molecule("H2O")] * 3)
    assert fails(f"solve frames.xyz --potential 0=0 --frame {frame}") == 1
    assert capsys.readouterr().err == (
        f"Error: frame = {frame} must lie between -3 and 2: structure frames.xyz has 3 frames, counted from 0\n"
    )


def test_frames_are_counted_from_both_ends(tmp_path: Path) -> None:
    frames = [Atoms("H", positions=[[float(i), 0.0, 0.0]]) for i in range(3)]
    write(tmp_path / "frames.xyz", frames)
    found = [read_structure(tmp_path / "frames.xyz", i).positions[0, 0] for i in range(-3, 3)]
    assert found == [0.0, 1.0, 2.0, 0.0, 1.0, 2.0]


def test_types_of_one_electrode_add_up() -> None:
    assert lammps_types(["0=3", "1=4", "0=5,3"]) == [[3, 5], [4]]


@pytest.mark.usefixtures("folder")
def test_a_full_disk_is_not_a_wrong_format(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ase.io.write", full)
    assert fails("build cell.extxyz --size 2 4 1 --gap 12 --waters 8 --ion-pairs 1") == 1
    assert capsys.readouterr().err == (
        "Error: file = the output must be accessible: no space left on device; free some space; a run continues with "
        "--restart\n"
    )
    assert list(Path().iterdir()) == []


@pytest.mark.usefixtures("folder")
def test_doctor_passes_its_own_tests(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    call("doctor --json")
    assert torch.get_num_threads() == threads
    said = json.loads(capsys.readouterr().out)
    assert said["healthy"] is True
    assert [c["name"] for c in said["checks"]] == ["Madelung constant of NaCl", "parallel plates"]
    assert said["packages"]["torch"] is not None


@pytest.mark.usefixtures("folder")
def test_debug_shows_the_traceback_and_the_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert fails("--debug solve nothing.xyz") == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith(
        "Error: structure = nothing.xyz must be a file: give the path of a structure that ASE reads\n"
    )


@pytest.mark.usefixtures("folder")
def test_an_interrupted_write_leaves_the_old_file() -> None:
    from grahame.hybrid.files import replacing

    Path("kept.txt").write_text("old", encoding="utf-8")

    def interrupted() -> None:
        with replacing("kept.txt") as temporary:
            temporary.write_text("half", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert Path("kept.txt").read_text(encoding="utf-8") == "old"
    assert [p.name for p in Path().iterdir()] == ["kept.txt"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("build", "output = nothing must be given: see `grahame build --help`"),
        ("build a b c", "argument = b c must be left out: see `grahame build --help`"),
        ("build a --gap", "--gap = nothing must be given: see `grahame build --help`"),
        ("build a --size 4 x 3", "--size = 4 x 3 must be a valid integer: see `grahame build --help`"),
        ("run a.yaml --restart=3", "--restart must be given without a value: see `grahame run --help`"),
        (
            "train a.yaml --frobnicate",
            "option = --frobnicate must be one of grahame train: see `grahame train --help`",
        ),
        (
            "solve x.xyz --charges-from zz",
            "--charges-from = zz must be one of auto, file, classical: see `grahame solve --help`",
        ),
        ("--frobnicate", "option = --frobnicate must be one of grahame: see `grahame --help`"),
        (
            "runn",
            "command = runn must be one of analyse, audit, build, doctor, evaluate, run, solve, train: did you mean run?",
        ),
        (
            "fly",
            "command = fly must be one of analyse, audit, build, doctor, evaluate, run, solve, train: see `grahame --help`",
        ),
        ("", "command = none must be given: choose one of those above"),
    ],
)
def test_mistakes_on_the_command_line_itself(
    line: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        call(line)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"Error: {sentence}\n"
