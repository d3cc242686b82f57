"""Frames from files: which keys hold the labels, and what the labels were computed under.

Nothing is guessed. A label that is named must be there, a total charge must be stated by the file or by the
user, and a frame that cannot be used is reported by file and index, all of them at once.
"""

from __future__ import annotations

import difflib
import fnmatch
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from grahame.hybrid.ensembles import boundary_of, conditions_of
from grahame.hybrid.fragments import steps_to_whole
from grahame.hybrid.frames import LABELS, Conditions, Frame
from grahame.hybrid.schema import ElectricState
from grahame.hybrid.unwrap import image_shifts
from grahame.hybrid.work_functions import SIDES, why_none

__all__ = [
    "BadFrames",
    "Problem",
    "Reading",
    "absent",
    "elements_of",
    "label_of",
    "make_frame",
    "not_an_element",
    "read_frames",
    "report",
]

Floats = NDArray[np.float64]

_TEXT = (".xyz", ".extxyz")


@dataclass(frozen=True)
class Problem:
    """Why a frame cannot be used."""

    source: str
    index: int
    text: str


class BadFrames(ValueError):
    """Frames that cannot be used; `problems` holds what the message may cut off."""

    def __init__(self, problems: Sequence[Problem], ending: str = "") -> None:
        super().__init__(report(problems) + ending)
        self.problems = list(problems)


@dataclass(frozen=True)
class Reading:
    """How the frames of a file are read.

    Attributes:
        keys: label to the file's key, e.g. {"energy": "REF_energy"}; labels that are not named are not read.
        optional: labels that some frames may lack.
        level: level of theory.
        boundary: of the labels; "auto" is "open", "3d" or "slab" as the directions that repeat say.
        total_charge: e, for frames that do not state it.
        electrode_elements: their atoms form one group that takes the charge the rest leaves over.
        electrode_groups: array with the group of each atom, -1 for none, instead of elements.
        formal: formal charge of elements, e; they decide what the rest leaves over.
        boundary_transfer: electrolyte atoms exchange charge with the metal, which then takes what they leave.
        formal_charges: array of formal charges per atom (e), instead of those by element.
        fragments: array with the fragment of each atom, or "connected" to find them by bonds; each is put together.
        fragment_charges: info keys with the charge of each fragment (e), ordered by their first atoms.
        field_key: info key of the field (V/Å), a vector, or a number along z; displacement_key: of D/eps0.
        born_transposed: the file's Born charges have the direction of the field first.
        work_function_side: "+" or "-", where frames do not state the side of their work function.
        select: info key to patterns; frames that match none of them are left out.
        state: keys of `ElectricState` for frames that do not give them.
        require: keys of `ElectricState` that must be given.
        ignore: keys of `ElectricState` that the file uses for something else.
    """

    keys: Mapping[str, str] = field(default_factory=lambda: {"energy": "energy", "forces": "forces"})
    optional: tuple[str, ...] = ()
    level: str = "default"
    boundary: str = "auto"
    total_charge: float | None = None
    electrode_elements: tuple[str, ...] = ()
    electrode_groups: str | None = None
    formal: Mapping[str, float] = field(default_factory=dict)
    boundary_transfer: bool = False
    formal_charges: str | None = None
    fragments: str | None = None
    fragment_charges: tuple[str, ...] = ()
    field_key: str | None = None
    displacement_key: str | None = None
    born_transposed: bool = False
    work_function_side: str | None = None
    select: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)
    require: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()


def read_frames(
    path: str | Path,
    reading: Reading = Reading(),
    problems: list[Problem] | None = None,
    source: str | None = None,
) -> list[Frame]:
    """Frames of a file that ASE reads.

    Args:
        path: the file.
        reading: which keys hold what.
        problems: takes what is wrong with frames, which are then left out; None raises instead.
        source: what frames and problems call the file; its name when left out.
    Raises:
        FileNotFoundError: when there is no such file.
        BadFrames: when frames cannot be used and `problems` is None.
        ValueError: when an electrode element is no chemical symbol.
    """
    import ase.io

    for element in reading.electrode_elements:
        remedy = not_an_element(element)
        if remedy:
            raise ValueError(f"electrode_elements = {element} must be a chemical symbol: {remedy}")
    path = Path(path)
    name = path.name if source is None else source
    if not path.is_file():
        raise FileNotFoundError(f"file = {path} must be a file: give the path of frames that ASE reads")
    found: list[Problem] = []
    frames: list[Frame] = []
    index, stream, whole = 0, ase.io.iread(path, index=":"), True
    while True:
        try:
            atoms = next(stream)
        except StopIteration:
            break
        except Exception as error:  # whatever ASE's many readers raise
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            found.append(Problem(name, index, f"cannot be read ({reason}): the file is cut or damaged here"))
            whole = False
            break
        if _selected(atoms, reading.select):
            try:
                frames.append(make_frame(atoms, reading, name, index))
            except ValueError as error:
                found += [Problem(name, index, line) for line in str(error).splitlines()]
        index += 1
    last = bool(frames) and frames[-1].index == index - 1
    if whole and last and path.suffix in _TEXT and not _ends_with_a_line(path):
        # A number that was cut in the middle still reads as a number.
        frames.pop()
        found.append(Problem(name, index - 1, "its last line has no end: the file is cut here"))
    if problems is None and found:
        raise BadFrames(found)
    if problems is not None:
        problems += found
    return frames


def report(problems: Sequence[Problem], shown: int = 50) -> str:
    """All problems as one message, a line for each."""
    lines = [f"{p.source}, frame {p.index}: {p.text}" for p in problems[:shown]]
    if len(problems) > shown:
        lines.append(f"... and {len(problems) - shown} more: add --json to list all of them")
    frames = len({(p.source, p.index) for p in problems})
    return f"frames = {frames} bad ones must be corrected or left out:\n" + "\n".join(lines)


def not_an_element(symbol: str) -> str | None:
    """What to do about text that is no chemical symbol; None for one."""
    if atomic_numbers.get(symbol, 0) > 0:
        return None
    near = symbol.capitalize()
    return f"did you mean {near}?" if atomic_numbers.get(near, 0) > 0 else "correct the symbol"


def absent(elements: Sequence[str], frames: Sequence[Frame]) -> str | None:
    """The end of a sentence about elements that no frame has: which, and what the frames hold; None without."""
    held = elements_of(frames)
    missing = [e for e in elements if e not in held]
    if not missing or not frames:
        return None
    return f"{', '.join(missing)} must occur in its frames, of {', '.join(held)}: correct the symbols"


def elements_of(frames: Sequence[Frame]) -> list[str]:
    """Chemical symbols of all atoms, in the order of the alphabet."""
    return sorted({chemical_symbols[z] for f in frames for z in np.unique(f.numbers)})


def make_frame(atoms: Atoms, reading: Reading = Reading(), source: str = "", index: int = 0) -> Frame:
    """One frame from ASE atoms.

    Raises:
        ValueError: one line for each thing that is wrong.
    """
    if not len(atoms):
        raise ValueError("atoms = 0 must be at least one: leave the frame out")
    wrong: list[str] = []
    info = _info(atoms, reading)
    try:
        periodic = bool(any(atoms.pbc)) and reading.boundary != "open"
        state = ElectricState.from_info(info, reading.require, periodic)
    except ValueError as error:
        wrong.append(str(error))
        state = ElectricState(total_charge=0.0)
    nothing = np.flatnonzero(atoms.numbers < 1)
    if len(nothing):
        wrong.append(
            f"atom {nothing[0]} = {atoms.symbols[nothing[0]]} must be an element: correct its symbol"
        )
    labels: dict[str, Floats] = {}
    for name, key in reading.keys.items():
        try:
            labels[name] = label_of(atoms, name, key)
            if name == "born" and reading.born_transposed:
                labels[name] = labels[name].swapaxes(-1, -2)
        except KeyError as error:
            if name not in reading.optional:
                wrong.append(str(error.args[0]))
        except ValueError as error:
            wrong.append(str(error))
    try:
        _check_numbers(atoms, reading)
        boundary, pbc = boundary_of(atoms, reading.boundary)
        conditions = conditions_of(atoms, reading, state, boundary)
        side = _side(reading, state) if "work_function" in labels else None
        positions = _whole(atoms, conditions, pbc)
        wrong += _kinds(labels, state, conditions)
        if "stress" in labels and not any(pbc) and not labels["stress"].any():
            # Some sets give zeros to molecules, which have no stress.
            del labels["stress"]
        wrong += _stress(labels, np.array(atoms.cell, dtype=float))
        reason = why_none(conditions) if side is not None else None
        if reason is not None:
            wrong.append(f"work_function = {float(labels['work_function']):g} eV {reason}")
    except ValueError as error:
        wrong.append(str(error))
    if wrong:
        raise ValueError("\n".join(wrong))
    return Frame(
        numbers=atoms.numbers.astype(np.int64),
        positions=positions,
        cell=np.array(atoms.cell, dtype=float),
        pbc=pbc,
        conditions=conditions,
        labels=labels,
        level=reading.level,
        source=source,
        index=index,
        info={k: v for k, v in info.items() if isinstance(v, str | int | float | bool | np.generic)},
        work_function_side=side,
    )


def _whole(atoms: Atoms, conditions: Conditions, pbc: tuple[bool, bool, bool]) -> Floats:
    """Positions (n,3) Å, with what the cell's faces cut made whole where a prediction would see it.

    A field along the normal sees it of all atoms, a dipole of fragments with charges of their own.
    """
    positions = np.array(atoms.positions, dtype=float)
    cell, numbers = np.array(atoms.cell, dtype=float), atoms.numbers.astype(np.int64)
    if conditions.boundary in ("finite-field", "displacement"):
        groups = [e.indices for e in conditions.electrodes]
        shifts = image_shifts(positions, numbers, cell, groups, conditions.boundary, wrapped=True)
        positions = positions + shifts[:, None] * cell[2]
    if conditions.fragments is not None:
        positions = positions + steps_to_whole(positions, numbers, cell, pbc, conditions.fragments) @ cell
    return positions


def _check_numbers(atoms: Atoms, reading: Reading) -> None:
    """Refuse what is named by a key, is there, and is not one finite number for each atom or of the frame."""
    arrays = {
        "formal_charges": reading.formal_charges,
        "electrode_groups": reading.electrode_groups,
        "fragments": None if reading.fragments == "connected" else reading.fragments,
    }
    keys = {"field": reading.field_key, "displacement": reading.displacement_key}
    named: list[tuple[str, str, Any]] = []
    for wanted, held in ((arrays, atoms.arrays), (keys, atoms.info)):
        named += [(n, k, held[k]) for n, k in wanted.items() if k is not None and k in held]
    named += [("fragment_charges", k, atoms.info[k]) for k in reading.fragment_charges if k in atoms.info]
    for name, key, values in named:
        try:
            numbers = np.asarray(values, dtype=float)
        except (TypeError, ValueError):
            raise ValueError(f"{name} = {key} must be numbers: correct the key") from None
        if not np.isfinite(numbers).all():
            raise ValueError(f"{name} = {key} must be finite: it holds NaN or infinity")
        if name in arrays and numbers.ndim != 1:
            raise ValueError(f"{name} = {key} must be one number per atom: it has another shape")
        if name in ("electrode_groups", "fragments") and (numbers != np.round(numbers)).any():
            raise ValueError(f"{name} = {key} must be whole numbers, -1 for none: correct the array")


def _kinds(labels: Mapping[str, Floats], state: ElectricState, held: Conditions) -> list[str]:
    """What the frame says of its labels that contradicts how the model will be evaluated."""
    by_potential = bool(held.electrodes) and state.potential is not None and state.electrode_charge is None
    in_field = held.field is not None and any(held.field)
    wrong, kind, born = [], state.energy_kind, state.born_kind
    remedy = "correct one of the two, or ignore the key where it is not about the label that is read"
    if "energy" in labels and kind is not None:
        if by_potential and kind == "E":
            wrong.append(f"energy_kind = E must be Omega with electrodes held at potentials: {remedy}")
        elif not by_potential and kind == "Omega":
            wrong.append(f"energy_kind = Omega must be E without electrodes held at potentials: {remedy}")
        elif not by_potential and in_field and kind == "E":
            wrong.append(f"energy_kind = E must be enthalpy in a field, whose -E.M is counted: {remedy}")
    if born is not None and {"born", "field_response"} & set(labels):
        if (born == "at_psi") != by_potential and (born in ("at_psi", "at_Q") and bool(held.electrodes)):
            are = "potentials" if by_potential else "charges"
            wrong.append(f"born_kind = {born} must go with what electrodes are held at, here {are}: {remedy}")
        if (born, held.boundary) in (("at_D", "3d"), ("at_E", "slab"), ("at_E", "slab-exact")):
            wrong.append(
                f"born_kind = {born} must go with the boundary, here {held.boundary}: there another field is held; {remedy}"
            )
    return wrong


def _stress(labels: Mapping[str, Floats], cell: Floats) -> list[str]:
    """What is wrong with a stress label: it is an energy per volume."""
    flat = abs(np.linalg.det(cell)) <= 1e-9 * float(np.linalg.norm(cell, axis=1).prod())
    if "stress" not in labels or not flat:
        return []
    return [
        "stress = given must be left out: a cell without volume has none; give the cell vectors, or remove the label from the "
        "frame and name it in `optional`"
    ]


def _side(reading: Reading, state: ElectricState) -> str:
    """The side of a work function, which the frame or the user must state."""
    stated = None if state.work_function_side is None else state.work_function_side[0]
    side = stated if reading.work_function_side is None else reading.work_function_side
    if side not in SIDES:
        given = "nothing" if side is None else side
        raise ValueError(
            f"work_function_side = {given} must be + or - beside a work_function: + is the side that n = a x b points to"
        )
    if stated not in (None, side):
        raise ValueError(
            f"work_function_side = {state.work_function_side} of the frame must not contradict the {side} that is asked for: "
            "correct one of the two, or ignore the key"
        )
    return side


def _selected(atoms: Atoms, select: Mapping[str, tuple[str, ...]]) -> bool:
    return all(
        any(fnmatch.fnmatchcase(str(atoms.info.get(key, "")), pattern) for pattern in patterns)
        for key, patterns in select.items()
    )


def _ends_with_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) in b" \n\r"


def _info(atoms: Atoms, reading: Reading) -> dict[str, Any]:
    """The frame's info, with what the reading says for what the frame does not."""
    stated = {k: v for k, v in atoms.info.items() if k not in reading.ignore}
    default: dict[str, Any] = dict(reading.state)
    if reading.total_charge is not None and "excess_charge" not in stated:
        default["total_charge"] = reading.total_charge
    return default | stated


def label_of(atoms: Atoms, name: str, key: str) -> Floats:
    """A label of a frame in its shape and unit.

    Args:
        atoms: the frame, with the label as an array, in its info, or as a result of a calculator.
        name: one of `LABELS`; key: what the file calls it.
    Raises:
        KeyError: when the frame lacks it; ValueError: when it is no number, has another shape or is not finite.
    """
    per, shape, unit = LABELS[name]
    results = {} if atoms.calc is None else atoms.calc.results
    where = atoms.arrays if per == "atom" else atoms.info
    value = where.get(key, results.get(key))
    if value is None:
        known = [k for k in (*where, *results) if k not in ("numbers", "positions")]
        near = difflib.get_close_matches(key, known, n=1)
        kind = "arrays" if per == "atom" else "keys"
        remedy = f"did you mean {near[0]}?" if near else f"the {kind} there are {', '.join(known) or 'none'}"
        raise KeyError(f"{name} = nothing under the key {key} must be given: {remedy}")
    if isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} = {key} must be a number: the file names it without a value")
    try:
        array = np.asarray(value, dtype=float)
        if name == "stress" and array.size == 6:
            xx, yy, zz, yz, xz, xy = array.ravel()
            array = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        array = array.reshape((len(atoms), *shape) if per == "atom" else shape)
    except (TypeError, ValueError):
        wanted = " x ".join(map(str, shape or (1,)))
        each = "per atom" if per == "atom" else "per frame"
        raise ValueError(f"{name} = {key} must be {wanted} numbers {each}: it has another shape") from None
    # A dipole may leave out, as nan, the directions in which it is not defined.
    if np.isinf(array).any() or (np.isnan(array).any() and name != "dipole"):
        raise ValueError(f"{name} = {key} must be finite: it holds NaN or infinity ({unit})")
    return array
