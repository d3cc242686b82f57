# %% [markdown]
# # What the program says to wrong input
# Every row is a command that a user may get wrong. It must answer with one sentence of the form
# `<name> = <value> <unit> must <rule>: <what to do>`, exit with an error and leave no half-written output.
# This script runs all of them and prints the table; the test suite compares every message.

# %%
from __future__ import annotations

import contextlib
import copy
import io
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase import Atoms
from ase.io import write

from grahame.electrostatics import Coulomb
from grahame.hybrid.build import build_cell
from grahame.hybrid.cli import main as grahame

RUN: dict[str, Any] = {
    "structure": {"file": "cell.extxyz"},
    "coulomb": {"boundary": "slab"},
    "electrodes": [{"group": 0, "potential": 0.0}, {"group": 1, "potential": 1.0}],
    "dynamics": {"produce": {"ensemble": "nve", "timestep_fs": 0.5, "steps": 2}},
    "output": {"name": "md"},
}
HOLD = ["--potential", "0=0", "--potential", "1=1"]


@dataclass(frozen=True)
class Case:
    """One wrong input.

    Attributes:
        kind: what is wrong.
        command: arguments of `grahame`, or "python" and an expression of the library.
        change: of the atoms in cell.extxyz; config: of the settings in run.yaml, both otherwise right.
        cut: a file and the fraction of its bytes that is left.
        before: a command that ran well before the file was cut; later: of the settings, after that command.
    """

    kind: str
    command: list[str]
    change: Callable[[Atoms], object] | None = None
    config: Callable[[dict[str, Any]], object] | None = None
    cut: tuple[str, float] | None = None
    before: list[str] | None = None
    later: Callable[[dict[str, Any]], object] | None = None


def cell() -> Atoms:
    """Two gold electrodes of one layer and five water molecules."""
    return build_cell("Au111", (2, 2, 1), 12.0, waters=5, ion_pairs=0, seed=1)


def prepare(case: Case) -> None:
    """Write cell.extxyz and run.yaml of a case into the working directory."""
    atoms = cell()
    if case.change is not None:
        case.change(atoms)
    write("cell.extxyz", atoms)
    settings = copy.deepcopy(RUN)
    if case.config is not None:
        case.config(settings)
    Path("run.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    if case.before is not None:
        grahame(case.before)
    if case.later is not None:
        case.later(settings)
        Path("run.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    if case.cut is not None:
        name, fraction = case.cut
        whole = Path(name).read_bytes()
        Path(name).write_bytes(whole[: int(fraction * len(whole))])


def answer(case: Case) -> tuple[int, str, list[str]]:
    """Exit status, what was printed on standard error, and files that were left behind."""
    said = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        with contextlib.redirect_stderr(io.StringIO()):
            prepare(case)
        before = {name: Path(name).read_bytes() for name in os.listdir()}
        with contextlib.redirect_stderr(said):
            status = _status(case.command)
        changed = [n for n in os.listdir() if before.get(n) != Path(n).read_bytes()]
        lost = sorted(set(before) - set(os.listdir()))
    return status, said.getvalue().strip().removeprefix("Error: "), sorted(changed) + lost


def _status(command: list[str]) -> int:
    if command[0] == "python":
        try:
            eval(command[1], {"np": np, "Coulomb": Coulomb, "cell": cell})
        except ValueError as error:
            print(error, file=sys.stderr)
            return 1
        return 0
    try:
        grahame(command)
    except SystemExit as error:
        return int(error.code or 0)
    return 0


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of one key of the configuration, `electrodes.0.potential`."""

    def change(settings: dict[str, Any]) -> None:
        *blocks, key = path.split(".")
        inner: Any = settings
        for block in blocks:
            inner = inner[int(block)] if isinstance(inner, list) else inner.setdefault(block, {})
        inner[key] = value

    return change


def _move(index: int, position: Any) -> Callable[[Atoms], None]:
    def change(atoms: Atoms) -> None:
        atoms.positions[index] = position

    return change


def _on_top(atoms: Atoms) -> None:
    atoms.positions[11] = atoms.positions[8]


def _element(symbol: str) -> Callable[[Atoms], None]:
    def change(atoms: Atoms) -> None:
        atoms.symbols[8] = symbol

    return change


def _flat(atoms: Atoms) -> None:
    atoms.cell[2] = 0.0


SOLVE = ["solve", "cell.extxyz", *HOLD]
MD = ["run", "run.yaml"]
GROUND = ["solve", "cell.extxyz", "--potential", "0=0"]


def _overlap(settings: dict[str, Any]) -> None:
    settings["electrodes"] = [
        {"indices": [0, 1, 2, 3], "potential": 0.0},
        {"indices": [3, 4, 5, 6], "potential": 1.0},
    ]


def _charged(settings: dict[str, Any]) -> None:
    settings["electrodes"] = [{"group": 0, "charge": 1.0}, {"group": 1, "charge": 1.0}]


def _same_metal_site(atoms: Atoms) -> None:
    atoms.positions[1] = atoms.positions[0]


def _all_periodic(atoms: Atoms) -> None:
    atoms.set_pbc(True)


def _wrong_pbc(atoms: Atoms) -> None:
    atoms.set_pbc((True, False, True))


NAN = _move(9, np.nan)
# fmt: off
CASES: list[Case] = [
    Case("unknown key", MD, config=_set("dynamics.produce.temprature_K", 300)),
    Case("mistyped choice", MD, config=_set("coulomb.boundary", "slabb")),
    Case("number with a unit", MD, config=_set("dynamics.produce.timestep_fs", "0.5 ps")),
    Case("millivolt as volt", MD, config=_set("electrodes.1.potential", 1000)),
    Case("overlapping electrodes", MD, config=_overlap),
    Case("overlapping electrodes", [*SOLVE, "--electrode", "0=0:4", "--electrode", "1=3:8"]),
    Case("electrode without atoms", MD, config=_set("electrodes.1.group", 7)),
    Case("electrode without atoms", [*GROUND, "--potential", "7=1"]),
    Case("electrode without atoms", [*SOLVE, "--electrode", "0=0:4", "--electrode", "1=4:4"]),
    Case("electrode outside", [*SOLVE, "--electrode", "0=0:4", "--electrode", "1=4:400"]),
    Case("electrode not held", GROUND),
    Case("electrode held twice", [*SOLVE, "--charge", "1=0.1"]),
    Case("wrong pbc", MD, config=_set("coulomb.boundary", "finite-field")),
    Case("wrong pbc", [*SOLVE, "--boundary", "finite-field"]),
    Case("wrong pbc", SOLVE, change=_wrong_pbc),
    Case("two potentials in 3d", [*SOLVE, "--boundary", "3d"], change=_all_periodic),
    Case("field in finite field", [*SOLVE, "--field", "0.1"], change=_all_periodic),
    Case("NaN position", SOLVE, change=NAN),
    Case("NaN position", MD, change=NAN),
    Case("NaN potential", [*GROUND, "--potential", "1=nan"]),
    Case("coincident atoms", SOLVE, change=_same_metal_site),
    Case("coincident atoms", MD, change=_same_metal_site),
    Case("coincident waters", SOLVE, change=_on_top),
    Case("negative width", [*SOLVE, "--smearing", "-0.4"]),
    Case("negative width", MD, config=_set("solver.smearing", -0.4)),
    Case("zero width", [*SOLVE, "--smearing", "0"]),
    Case("zero width", MD, config=_set("solver.smearing", 0.0)),
    Case("width beyond the cut-off", [
        "python", 'Coulomb("slab", cutoff=6.0)(cell().positions, np.zeros(23), cell().cell[:], smearing=2.0)',
    ]),
    Case("not neutral", ["solve", "cell.extxyz", "--charge", "0=1", "--charge", "1=1"]),
    Case("not neutral", MD, config=_charged),
    Case("not neutral in a field", [*SOLVE, "--total-charge", "1", "--field", "0.1"]),
    Case("element without parameters", SOLVE, change=_element("Xe")),
    Case("element without parameters", MD, change=_element("Xe")),
    Case("no element", SOLVE, change=_element("X")),
    Case("no element", MD, change=_element("X")),
    Case("cell of zero volume", SOLVE, change=_flat),
    Case("cell of zero volume", MD, change=_flat),
    Case("structure cut off", SOLVE, cut=("cell.extxyz", 0.7)),
    Case("structure cut off in a number", MD, cut=("cell.extxyz", 0.9995)),
    Case("structure empty", SOLVE, cut=("cell.extxyz", 0.0)),
    Case("trajectory cut off", ["analyse", "cell.extxyz"], cut=("cell.extxyz", 0.7)),
    Case("configuration cut off", MD, cut=("run.yaml", 0.25)),
    Case("configuration cut off", MD, cut=("run.yaml", 0.6)),
    Case("checkpoint cut off", [*MD, "--restart"], before=MD, cut=("md.checkpoint.npz", 0.5)),
    Case("run exists", MD, before=MD),
    Case(
        "restart with another configuration",
        [*MD, "--restart"],
        before=MD,
        later=_set("dynamics.produce.timestep_fs", 0.25),
    ),
    Case("no such file", ["run", "other.yaml"]),
    Case("no such file", ["solve", "other.xyz", *HOLD]),
    Case("no such file", ["analyse", "other.xyz"]),
    Case("no such file", MD, config=_set("structure.file", "other.xyz")),
    Case("not a structure", ["solve", "run.yaml", *HOLD]),
    Case("unknown option", [*GROUND, "--potental", "1=0"]),
    Case("unreadable option", ["solve", "cell.extxyz", "--potential", "zero"]),
    Case("unreadable option", ["build", "new.extxyz", "--gap", "wide"]),
    Case("gap too narrow", ["build", "new.extxyz", "--gap", "3"]),
    Case("too dense", ["build", "new.extxyz", "--size", "4", "4", "1", "--gap", "12", "--density", "1.9"]),
    Case("density in kg/m³", ["build", "new.extxyz", "--density", "997"]),
    Case("density twice", ["build", "new.extxyz", "--density", "1", "--waters", "50"]),
    Case("file exists", ["build", "cell.extxyz"]),
    Case("no such folder", ["build", "new/cell.extxyz"]),
    Case("unknown format", ["build", "new.nonsense"]),
]
# fmt: on


# %%
def table() -> str:
    """All cases as a Markdown table."""
    lines = ["| input | command | exit | message |", "| --- | --- | --- | --- |"]
    for case in CASES:
        status, message, left = answer(case)
        program = "" if case.command[0] == "python" else "grahame "
        command = program + " ".join(case.command)
        note = f" (changed {', '.join(left)})" if left else ""
        lines.append(f"| {case.kind} | `{command}` | {status} | {message}{note} |".replace("\n", "<br>"))
    return "\n".join(lines)


# %%
if __name__ == "__main__" and not hasattr(sys, "ps1"):
    print(table())
