"""What the labels of a frame were computed under: boundary, total charge, electrodes, fields, fragments.

All metal atoms of a frame share one Fermi level, so they are one electrode that takes the charge the rest leaves
over, unless the frame says what each of several electrodes is held at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from grahame.electrostatics.electrodes import Electrode
from grahame.hybrid.bonds import bonds_within
from grahame.hybrid.frames import Conditions
from grahame.hybrid.schema import ElectricState

if TYPE_CHECKING:
    from grahame.hybrid.reading import Reading

__all__ = ["boundary_of", "conditions_of"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_NEUTRALISED = ("explicit_ions", "uniform_background", "none")


def boundary_of(atoms: Atoms, boundary: str) -> tuple[str, tuple[bool, bool, bool]]:
    """The boundary and the directions in which neighbours repeat."""
    pbc = tuple(bool(p) for p in atoms.pbc)
    if not np.isfinite(atoms.positions).all():
        raise ValueError("positions = NaN or infinity must be finite: remove the frame")
    if boundary == "auto":
        known = {(False,) * 3: "open", (True,) * 3: "3d", (True, True, False): "slab"}
        if pbc not in known:
            raise ValueError(
                f"pbc = {pbc} must be periodic everywhere, nowhere, or along a and b: state the boundary"
            )
        boundary = known[pbc]
    if boundary == "open":
        return boundary, (False, False, False)
    used = (True, True, not boundary.startswith("slab"))
    cell = np.array(atoms.cell, dtype=float)
    spanned = cell if used[2] else np.vstack([cell[:2], np.cross(cell[0], cell[1])])
    lengths = np.linalg.norm(spanned, axis=1)
    if not np.isfinite(cell).all() or abs(np.linalg.det(spanned)) <= 1e-6 * max(lengths.prod(), 1e-6):
        raise ValueError(f"cell = {cell.tolist()} Å must span a volume: boundary {boundary} repeats it")
    if not all(p or not u for p, u in zip(pbc, used)):
        raise ValueError(f"pbc = {pbc} must repeat as boundary {boundary} does: correct one of the two")
    if pbc[2] and not used[2]:
        _check_uncut(atoms, cell)
    return boundary, used


def _check_uncut(atoms: Atoms, cell: Floats) -> None:
    """Refuse a slab that the cell's upper face cuts in two: across it, atoms would lose their neighbours."""
    everyone, numbers = np.zeros(len(atoms), dtype=np.int64), atoms.numbers.astype(np.int64)
    i, j, shifts = bonds_within(atoms.positions, numbers, cell, (True, True, True), everyone)
    across = np.flatnonzero(shifts[:, 2])
    if len(across):
        first, second = sorted((int(i[across[0]]), int(j[across[0]])))
        raise ValueError(
            f"atoms {first} and {second} must not be bonded across the face of the cell along z, which does not repeat in a "
            "slab: shift the frame so that the vacuum lies there"
        )


def conditions_of(atoms: Atoms, reading: Reading, state: ElectricState, boundary: str) -> Conditions:
    total = float(state.total_charge or 0.0)
    if state.dipole_correction and boundary == "3d":
        raise ValueError(
            "dipole_correction = true must go with boundary slab, not 3d: without its field the vacuum is part of another cell; "
            "state the boundary"
        )
    if state.slab_axis in ("x", "y") and boundary not in ("3d", "open"):
        raise ValueError(
            f"slab_axis = {state.slab_axis} must be z with boundary {boundary}: reorder the cell so that its third vector leaves "
            "the surface"
        )
    if state.countercharge is not None and total and boundary != "open":
        if state.countercharge not in _NEUTRALISED:
            raise ValueError(
                f"countercharge = {state.countercharge} must be one of {', '.join(_NEUTRALISED)}: there is no term "
                "for it; leave the frame out"
            )
        if state.countercharge == "explicit_ions":
            raise ValueError(
                f"countercharge = explicit_ions must go with total_charge = 0 e, not {total:g} e: the ions are part "
                "of the cell"
            )
        if state.countercharge == "uniform_background" and boundary.startswith("slab"):
            raise ValueError(
                f"countercharge = uniform_background must go with boundary 3d, not {boundary}: the vacuum would be "
                "charged; leave the frame out"
            )
    formal = _formal(atoms, reading)
    group = _groups(atoms, reading)
    fragments, fragment_charges = _fragments(atoms, reading, total, group)
    field_, displacement = _fields(atoms, reading, state, boundary)
    return Conditions(
        boundary=boundary,
        total_charge=total,
        electrodes=_electrodes(group, reading, state, total, formal, fragments, fragment_charges),
        field=field_,
        displacement=displacement,
        formal_charges=None if reading.formal_charges is None else formal,
        fragments=fragments,
        fragment_charges=fragment_charges,
    )


def _formal(atoms: Atoms, reading: Reading) -> Floats:
    if reading.formal_charges is None:
        return np.array([reading.formal.get(s, 0.0) for s in atoms.get_chemical_symbols()])
    return np.asarray(_array(atoms, reading.formal_charges), dtype=float)


def _array(atoms: Atoms, key: str) -> NDArray[Any]:
    if key not in atoms.arrays:
        raise ValueError(f"{key} = nothing must be given: the frame has no array of this name")
    return np.asarray(atoms.arrays[key])


def _groups(atoms: Atoms, reading: Reading) -> Ints:
    """(n,) electrode of each atom, -1 for none."""
    if reading.electrode_groups is not None:
        return _array(atoms, reading.electrode_groups).astype(np.int64)
    return np.where(np.isin(atoms.get_chemical_symbols(), reading.electrode_elements), 0, -1)


def _fragments(
    atoms: Atoms, reading: Reading, total: float, group: Ints
) -> tuple[Ints | None, Floats | None]:
    if reading.fragments is None:
        return None, None
    if reading.fragments != "connected":
        index = _array(atoms, reading.fragments).astype(np.int64)
    else:
        n, mobile = len(atoms), group < 0
        pbc = (bool(atoms.pbc[0]), bool(atoms.pbc[1]), bool(atoms.pbc[2]))
        owner = np.where(mobile, 0, -1).astype(np.int64)
        cell, numbers = np.array(atoms.cell, dtype=float), atoms.numbers.astype(np.int64)
        i, j, _ = bonds_within(atoms.positions, numbers, cell, pbc, owner)
        _, found = connected_components(coo_matrix((np.ones(len(i)), (i, j)), shape=(n, n)), directed=False)
        index = np.where(mobile, found, -1).astype(np.int64)
    _, first, ranks = np.unique(index[index >= 0], return_index=True, return_inverse=True)
    out = np.full(len(atoms), -1, dtype=np.int64)
    out[index >= 0] = np.argsort(np.argsort(first))[ranks]
    count = len(first)
    if reading.fragment_charges:
        charges = np.hstack(
            [np.atleast_1d(np.asarray(_key(atoms, k), float)) for k in reading.fragment_charges]
        )
    else:
        # Beside electrodes the charge is theirs: `_electrodes` takes what fragments leave.
        charges = np.array([total]) if count == 1 and not (group >= 0).any() else np.zeros(count)
    if len(charges) != count:
        raise ValueError(
            f"fragment_charges = {len(charges)} values must be one per fragment, {count}: correct the keys"
        )
    return out, charges


_NO_FIELD = "; add it, or say that the frames are in no field (`--field none` of `grahame evaluate`)"


def _key(atoms: Atoms, key: str, otherwise: str = "") -> Any:
    if key not in atoms.info:
        raise ValueError(f"{key} = nothing must be given: the frame has no key of this name{otherwise}")
    return atoms.info[key]


def _fields(
    atoms: Atoms, reading: Reading, state: ElectricState, boundary: str
) -> tuple[tuple[float, float, float] | None, float | None]:
    """The field and the displacement, V/Å, of a stated key or of the schema."""
    vector = None
    if reading.field_key is not None:
        value = np.atleast_1d(np.asarray(_key(atoms, reading.field_key, _NO_FIELD), dtype=float))
        vector = (0.0, 0.0, float(value[0])) if value.size == 1 else tuple(float(v) for v in value)
    elif state.field_kind in ("E", "sawtooth"):
        vector = state.field()
        if state.field_kind == "sawtooth" and boundary != "slab":
            raise ValueError(
                f"field_kind = sawtooth must go with boundary slab, not {boundary}: only there its slope is the "
                "field in the vacuum"
            )
    displacement = None
    if reading.displacement_key is not None:
        displacement = float(_key(atoms, reading.displacement_key, _NO_FIELD))
    elif state.field_kind == "D":
        displacement = _along_normal(state.field(), atoms)
    if (displacement is not None) != (boundary == "displacement"):
        raise ValueError(
            f"displacement = {displacement} V/Å must be given with boundary displacement and only then, not with "
            f"{boundary}: correct one of the two"
        )
    if vector is not None and len(vector) != 3:
        raise ValueError(f"field = {len(vector)} numbers must be one or three: correct {reading.field_key}")
    return vector, displacement


def _along_normal(field: tuple[float, float, float] | None, atoms: Atoms) -> float | None:
    """Component along n = a x b, of which alone constant displacement knows."""
    if field is None:
        return None
    cell, vector = np.array(atoms.cell, dtype=float), np.array(field)
    n = np.cross(cell[0], cell[1])
    n /= np.linalg.norm(n)
    along = float(vector @ n)
    if np.linalg.norm(vector - along * n) > 1e-9 * max(abs(along), 1e-9):
        raise ValueError(
            f"external_field = {list(field)} V/Å must be parallel to the surface normal with field_kind D: only that component "
            "is held"
        )
    return along


def _electrodes(
    group: Ints,
    reading: Reading,
    state: ElectricState,
    total: float,
    formal: Floats,
    fragments: Ints | None,
    fragment_charges: Floats | None,
) -> tuple[Electrode, ...]:
    """Groups of solved atoms: constrained ones as the frame says, else one that the cell's Fermi level joins."""
    labels = np.unique(group[group >= 0])
    if len(labels) == 0:
        return ()
    held = {"electrode_charge": state.electrode_charge, "potential": state.potential}
    for name, values in held.items():
        if values is not None:
            if len(values) != len(labels):
                raise ValueError(
                    f"{name} = {len(values)} values must be one per electrode group, {len(labels)}: correct the key"
                )
            atoms_of = [np.flatnonzero(group == g) for g in labels]
            if name == "potential":
                return tuple(Electrode(a, potential=v) for a, v in zip(atoms_of, values))
            return tuple(Electrode(a, charge=v) for a, v in zip(atoms_of, values))
    rest = group < 0
    if reading.boundary_transfer:
        # What the electrolyte carries follows from the geometry: the solver takes the rest of the total charge.
        return (Electrode(np.flatnonzero(~rest), potential=0.0),)
    if fragment_charges is not None and fragments is not None:
        left = total - float(fragment_charges.sum())
    else:
        left = total - float(formal[rest].sum())
    return (Electrode(np.flatnonzero(~rest), charge=left),)
