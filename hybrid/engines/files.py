"""Files of a run: a trajectory frame as text, log rows, and writing that survives a kill."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.data import atomic_masses


def frame_text(atoms: Atoms, results: dict[str, Any], info: dict[str, Any]) -> str:
    """One extended-XYZ frame: positions, electrode, charges, forces, momenta, and results in the header.

    Masses (amu) are a column where they are not those that ASE has for the elements.
    Units are ASE's (Å, e, eV/Å, amu Å per ASE time); `ase.io.read` gives back forces, charges and energies
    as calculator results, momenta and electrode as arrays, everything else in `info`.
    """
    lattice = " ".join(repr(float(v)) for v in np.asarray(atoms.cell).ravel())
    header = {
        "Properties": "species:S:1:pos:R:3:electrode:I:1:charge:R:1:forces:R:3:momenta:R:3:move_mask:L:1",
        "energy": repr(float(results["energy"])),
        "free_energy": repr(float(results["energy"])),
        "dipole": _row(results["dipole"]),
        "electrode_charges": _row(results["electrode_charges"]),
        "electrode_potentials": _row(results["electrode_potentials"]),
        "internal_energy": repr(float(results["internal_energy"])),
        **{k: str(v) if isinstance(v, str | int) else repr(float(v)) for k, v in info.items()},
        "pbc": '"' + " ".join("T" if p else "F" for p in atoms.pbc) + '"',
    }
    moves = np.ones(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            moves[constraint.index] = False
    electrode = atoms.arrays.get("electrode", np.full(len(atoms), -1))
    columns = np.column_stack([atoms.positions, results["charges"], results["forces"], atoms.get_momenta()])
    if not np.allclose(atoms.get_masses(), atomic_masses[atoms.numbers], rtol=1e-8, atol=0.0):
        columns = np.column_stack([columns, atoms.get_masses()])
        header["Properties"] = header["Properties"].replace(":move_mask", ":masses:R:1:move_mask")
    row = "{:<2s} {:18.10f} {:18.10f} {:18.10f} {:3d}" + " {:16.10f}" * (columns.shape[1] - 3) + " {:s}"
    comment = f'Lattice="{lattice}" ' + " ".join(f"{k}={v}" for k, v in header.items())
    lines = [
        row.format(symbol, *values[:3], group, *values[3:], "T" if moved else "F")
        for symbol, values, group, moved in zip(
            atoms.get_chemical_symbols(), columns.tolist(), electrode.tolist(), moves.tolist()
        )
    ]
    return "\n".join([str(len(atoms)), comment, *lines, ""])


def _row(values: Any) -> str:
    return '"' + " ".join(repr(float(v)) for v in values) + '"'


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: a reader sees the old or the new content, also after a power cut."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        # A full disk gets its room back.
        temporary.unlink(missing_ok=True)
        raise


class Output:
    """Trajectory and log of a run, appended to, and cut back to a checkpoint at a restart.

    Args:
        trajectory, log: paths of the two files.
        columns: of the log.
        lengths: bytes of both at the checkpoint; (0, 0) starts new files.
    Raises:
        ValueError: when a file is shorter than at the checkpoint.
    """

    def __init__(
        self, trajectory: Path, log: Path, columns: list[str], lengths: tuple[int, int] = (0, 0)
    ) -> None:
        for path, length in zip((trajectory, log), lengths):
            size = path.stat().st_size if path.exists() else 0
            if size < length:
                raise ValueError(
                    f"{path} = {size} bytes must hold the {length} bytes of the checkpoint: restore the file, or "
                    "start again under another output.name"
                )
        self._columns = columns
        self._files = [open(path, "ab") for path in (trajectory, log)]  # noqa: SIM115 - closed in close()
        for file, length in zip(self._files, lengths):
            file.truncate(length)
            file.seek(length)
        if lengths[1] == 0:
            self._row(columns)

    def frame(self, text: str) -> None:
        """Append one frame."""
        self._files[0].write(text.encode())

    def log(self, values: dict[str, Any]) -> None:
        """Append one row; a column without value stays empty."""
        self._row([_cell(values.get(c)) for c in self._columns])

    def _row(self, cells: list[str]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        self._files[1].write(text.getvalue().encode())
        self._files[1].flush()

    def lengths(self) -> tuple[int, int]:
        """Bytes of both files, after everything is on the disk."""
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
        return self._files[0].tell(), self._files[1].tell()

    def close(self) -> None:
        """Flush and close both files."""
        for file in self._files:
            file.close()

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else str(value) if isinstance(value, int) else f"{value:.10g}"
