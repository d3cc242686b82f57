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
    """One wrong input: what it is, how the files are made, the command and its answer."""

    kind: str
    command: list[str]
    message: str
    change: Callable[[Atoms], object] | None = None
    config: Callable[[dict[str, Any]], object] | None = None
    cut: tuple[str, float] | None = None


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
    if case.cut is not None:
        name, fraction = case.cut
        whole = Path(name).read_bytes()
        Path(name).write_bytes(whole[: int(fraction * len(whole))])


def answer(case: Case) -> tuple[int, str, list[str]]:
    """Exit status, what was printed on standard error, and files that were left behind."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        prepare(case)
        before = set(os.listdir())
        said = io.StringIO()
        status = 0
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            try:
                grahame(case.command)
            except SystemExit as error:
                status = int(error.code or 0)
        return status, said.getvalue().strip().removeprefix("Error: "), sorted(set(os.listdir()) - before)


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


CASES: list[Case] = []


# %%
def table() -> str:
    """All cases as a Markdown table."""
    lines = ["| input | command | exit | message |", "| --- | --- | --- | --- |"]
    for case in CASES:
        status, message, left = answer(case)
        command = "grahame " + " ".join(case.command)
        note = f" (left {', '.join(left)})" if left else ""
        lines.append(f"| {case.kind} | `{command}` | {status} | {message}{note} |".replace("\n", "<br>"))
    return "\n".join(lines)


# %%
if __name__ == "__main__" and not hasattr(sys, "ps1"):
    print(table())
