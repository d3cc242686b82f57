"""The sections of a LAMMPS data file as checked tables of numbers."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grahame.hybrid.shortrange.base import FloatArray

_COUNTS = {
    "atoms": "Atoms",
    "bonds": "Bonds",
    "angles": "Angles",
    "dihedrals": "Dihedrals",
    "impropers": "Impropers",
    "atom types": "Masses",
    "bond types": "Bond Coeffs",
    "angle types": "Angle Coeffs",
}
_READ = ("Masses", "Pair Coeffs", "Bond Coeffs", "Angle Coeffs", "Atoms", "Velocities", "Bonds", "Angles")
# Style hints that LAMMPS writes behind a section's name, and what is understood here.
_STYLES = {
    "Atoms": ("full",),
    "Bond Coeffs": ("harmonic",),
    "Angle Coeffs": ("harmonic",),
    "Pair Coeffs": (
        "lj/cut",
        "lj/cut/coul/long",
        "lj/cut/coul/cut",
        "lj/cut/coul/msm",
        "lj/cut/coul/dsf",
        "lj/cut/coul/wolf",
        "lj/cut/coul/debye",
        "lj/long/coul/long",
    ),
}
_HEADING = re.compile(r"^[A-Z][A-Za-z]*(\s+(Coeffs|[A-Z][A-Za-z]*))*$")


@dataclass(frozen=True)
class DataFile:
    """Header and sections of a data file.

    Attributes:
        path: where it was read.
        counts: how many rows the header announces, by section.
        cell: (3,3) rows, Å.
        origin: (3,) lower corner of the box, Å.
        sections: lines of each section, split into words, comments removed.
    """

    path: Path
    counts: dict[str, int]
    cell: FloatArray
    origin: FloatArray
    sections: dict[str, list[list[str]]]

    def table(self, section: str, columns: int) -> FloatArray:
        """First `columns` columns of a section as numbers, sorted by the id in the first one.

        Raises:
            ValueError: a section that is missing, cut off, or whose ids are not 1 ... count.
        """
        name = self.path.name
        counted = {"Velocities": "Atoms", "Pair Coeffs": "Masses"}.get(section, section)
        wanted = self.counts.get(counted, 0)
        rows = self.sections.get(section)
        if rows is None:
            raise ValueError(
                f"section {section} of {name} = missing must hold {wanted} rows: the file is cut off or was "
                "written without it"
            )
        if section == "Atoms" and len(rows) > 1 and len(rows[0]) in (8, 9):
            # LAMMPS takes 7 columns of this style, or 10; with image flags others would pass for it.
            raise ValueError(
                f"columns of section Atoms of {name} = {len(rows[0])} must be 7, or 10 with image flags: write the file in "
                "atom_style full (id molecule type charge x y z)"
            )
        good = 0
        table = np.zeros((len(rows), columns))
        # Rows of one section are equally long (coefficients may be followed by more): a short one is cut.
        width = columns if section.endswith("Coeffs") else max(columns, len(rows[0]) if rows else 0)
        for row in rows:
            if len(row) < width:
                break
            try:
                table[good] = [float(word) for word in row[:columns]]
            except ValueError:
                break
            good += 1
        if good < len(rows) and good != len(rows) - 1:
            raise ValueError(
                f"row {good + 1} of section {section} of {name} = {' '.join(rows[good])!r} must start with "
                f"{columns} numbers: check the file (atom_style full, harmonic bonds and angles)"
            )
        if good != wanted:
            raise ValueError(
                f"rows of section {section} of {name} = {good} must be {wanted} as the header says: "
                "the file is "
                "cut off, copy it again"
            )
        ids = table[:wanted, 0].astype(np.int64)
        order = np.argsort(ids, kind="stable")
        if not np.array_equal(ids[order], np.arange(1, wanted + 1)):
            raise ValueError(
                f"ids of section {section} of {name} must be 1 to {wanted}, each once: renumber "
                "them with LAMMPS' "
                "reset_atoms id and write_data"
            )
        sorted_table: FloatArray = table[:wanted][order]
        return sorted_table


def read_sections(path: Path) -> DataFile:
    """Read header, box and sections of a data file.

    Args:
        path: the file.

    Returns:
        Its content; row counts are checked where a section is used.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no header, no box, an unknown section or a style that is not understood.
    """
    if not path.is_file():
        raise FileNotFoundError(f"path = {path} must be a LAMMPS data file: check the name and the folder")
    lines = path.read_text().splitlines()
    counts: dict[str, int] = {}
    box: dict[str, tuple[float, float]] = {}
    tilt = np.zeros(3)
    sections: dict[str, list[list[str]]] = {}
    current: list[list[str]] | None = None
    # The first line of a data file is always a comment.
    for line in lines[1:]:
        text, _, comment = line.partition("#")
        words = text.split()
        if not words:
            continue
        heading = " ".join(words)
        if _HEADING.match(heading):
            _check_section(path, heading, comment.strip())
            current = sections.setdefault(heading, [])
        elif current is not None:
            current.append(words)
        elif len(words) >= 2 and " ".join(words[1:]) in _COUNTS:
            counts[_COUNTS[" ".join(words[1:])]] = int(words[0])
        elif len(words) == 4 and words[2][1:] == "lo" and words[3][1:] == "hi":
            box[words[2][0]] = (float(words[0]), float(words[1]))
        elif words[3:] == ["xy", "xz", "yz"]:
            tilt = np.array([float(word) for word in words[:3]])
    _check_header(path, counts, box)
    (xlo, xhi), (ylo, yhi), (zlo, zhi) = box["x"], box["y"], box["z"]
    xy, xz, yz = tilt
    cell = np.array([[xhi - xlo, 0, 0], [xy, yhi - ylo, 0], [xz, yz, zhi - zlo]], dtype=np.float64)
    return DataFile(path, counts, cell, np.array([xlo, ylo, zlo]), sections)


def _check_section(path: Path, heading: str, style: str) -> None:
    if heading not in _READ:
        raise ValueError(
            f"section = {heading} of {path.name} must be one of {', '.join(_READ)}: other terms are "
            "not computed "
            "here, remove them from the file if they do not matter"
        )
    known = _STYLES.get(heading)
    if known and style and style.split()[0] not in known:
        raise ValueError(
            f"style of section {heading} of {path.name} = {style.split()[0]} must be one of "
            f"{', '.join(known)}: "
            "other forms are not computed here"
        )


def _check_header(path: Path, counts: dict[str, int], box: dict[str, tuple[float, float]]) -> None:
    for section, words in (("Atoms", "atoms"), ("Masses", "atom types")):
        if counts.get(section, 0) < 1:
            raise ValueError(
                f"header of {path.name} must say the number of {words}, as in '100 {words}': it is no LAMMPS "
                "data file or it is cut off"
            )
    for section in ("Dihedrals", "Impropers"):
        if counts.get(section, 0) > 0:
            raise ValueError(
                f"{section.lower()} of {path.name} = {counts[section]} must be 0: dihedral and "
                "improper terms are "
                "not computed here"
            )
    for axis in "xyz":
        if axis not in box:
            raise ValueError(
                f"header of {path.name} must give the box as '0.0 10.0 {axis}lo {axis}hi': it is no "
                "LAMMPS data "
                "file or it is cut off"
            )
        low, high = box[axis]
        if not high > low:
            raise ValueError(
                f"box of {path.name} along {axis} = {low} to {high} Å must have a positive length: "
                "check the header"
            )
