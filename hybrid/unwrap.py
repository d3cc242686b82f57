"""Which periodic image along the surface normal an atom stands for.

A slab has an inside and an outside, so z = r.n matters, not z modulo the cell. Files and `atoms.wrap()` can
leave a hydrogen, a metal layer or a molecule on the far side of the cell boundary. Bonds tell which fragment an
atom belongs to and electrodes tell where the electrolyte is; what they leave open is refused by name.
The atoms' own positions are never changed: the shifts found here are added to what the energy terms see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from grahame.hybrid.bonds import BOND_FACTOR, NO_METALS
from grahame.kernels.neighbors import neighbor_pairs

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TOUCH = 3.5  # Å; electrolyte closer than this to other atoms is in contact with them
LAYER = 1.0  # Å; atoms of one metal layer lie less apart along the normal
NEAR = 4.0  # Å; matter closer than this along the normal is a molecule's surroundings
# Ions that touch water closer than covalent radii add up without being bonded to it.
_NEVER_BONDED = frozenset([3, 11, 19, 37, 55, 4, 12, 20, 38, 56])


def image_shifts(
    positions: Floats,
    numbers: Ints,
    cell: Floats,
    electrodes: Sequence[Ints] = (),
    boundary: str = "slab",
    wrapped: bool = False,
) -> Ints:
    """Number of cell vectors c to add to every atom so that nothing is cut by the boundary along the normal.

        r_i -> r_i + k_i c

    1. A fragment (atoms joined by bonds; an electrode's atoms bond only among themselves) that the boundary
       cuts is made whole, in the image that most of its atoms are in.
    2. A molecule outside the electrodes that has exactly one image between them moves there.
    3. A cut molecule that this does not place goes to the side where its surroundings are.
    With boundary "displacement" only 1. applies: there the boundary may lie in the electrolyte.
    Where c does not repeat (not `wrapped`), metal that a short c brings into contact with itself stays as it is: fragments
    without end, and metal of which each part has several layers.

    Args:
        positions: (n, 3) Å.
        numbers: (n,) atomic numbers.
        cell: (3, 3) Å, rows.
        electrodes: atom indices of each electrode.
        boundary: of the Coulomb operator; "3d" and "open" have no boundary along a normal.
        wrapped: whether positions are known up to c only (pbc along c). Then electrolyte that touches other
            atoms through the boundary of a slab is refused: the boundary would cut it.
    Returns:
        (n,) integers, all zero where the positions can stay as they are.
    Raises:
        ValueError: naming an atom for which two sides are equally good.
    """
    none = np.zeros(len(positions), dtype=np.int64)
    if boundary in ("3d", "open") or len(positions) == 0:
        return none
    normal = np.cross(cell[0], cell[1])
    normal /= np.linalg.norm(normal)
    length = float(cell[2] @ normal)
    height = positions @ normal / length  # fraction of the cell along the normal; any handedness
    owner = np.full(len(positions), -1, dtype=np.int64)
    for g, members in enumerate(electrodes):
        owner[members] = g
    reach = 2.0 * BOND_FACTOR * float(covalent_radii[numbers].max())
    vacuum = (1.0 - float(np.ptp(height))) * abs(length)
    cut_possible = vacuum < reach
    touch_possible = wrapped and vacuum < TOUCH and boundary.startswith("slab")
    solved = owner >= 0
    outside_possible = boundary != "displacement" and bool(solved.any()) and _any_outside(height, solved)
    shifts = none
    if outside_possible or (
        cut_possible and _cut_bonds(positions, numbers, cell, owner, height, reach / abs(length))
    ):
        shifts = _resolve(positions, numbers, cell, owner, boundary, height, abs(length), reach, wrapped)
    if touch_possible:
        _refuse_contact(
            positions + shifts[:, None] * cell[2], numbers, cell, owner, height + shifts, TOUCH / abs(length)
        )
    return shifts


def _any_outside(height: Floats, solved: NDArray[np.bool_]) -> bool:
    low, high = height[solved].min(), height[solved].max()
    free = height[~solved]
    return bool(((free < low) | (free > high)).any())


def _bonds(
    positions: Floats, numbers: Ints, cell: Floats, owner: Ints, reach: float
) -> tuple[Ints, Ints, Ints]:
    """Bonded pairs i, j and the number of c vectors from i to j's image."""
    pairs = neighbor_pairs(positions, cell, (True, True, True), reach)
    i, j = pairs.i, pairs.j
    vectors = positions[j] + pairs.shifts @ cell - positions[i]
    limit = BOND_FACTOR * (covalent_radii[numbers[i]] + covalent_radii[numbers[j]])
    lonely = np.isin(numbers, list(_NEVER_BONDED))
    keep = np.einsum("ij,ij->i", vectors, vectors) < limit**2
    keep &= (owner[i] == owner[j]) & ((owner[i] >= 0) | ~(lonely[i] | lonely[j]))
    return i[keep], j[keep], pairs.shifts[keep, 2]


def _cut_bonds(
    positions: Floats, numbers: Ints, cell: Floats, owner: Ints, height: Floats, width: float
) -> bool:
    """Whether a bond crosses the boundary; looks only at the atoms close enough to it."""
    chosen = _near_boundary(height, width)
    reach = 2.0 * BOND_FACTOR * float(covalent_radii[numbers].max())
    crossing = _bonds(positions[chosen], numbers[chosen], cell, owner[chosen], reach)[2]
    return bool((crossing != 0).any())


def _near_boundary(height: Floats, width: float) -> Ints:
    """Atoms with another one closer than `width` (fraction of the cell) through the boundary."""
    near = (height < height.max() - 1.0 + width) | (height > height.min() + 1.0 - width)
    return np.flatnonzero(near).astype(np.int64)


def _refuse_contact(
    positions: Floats, numbers: Ints, cell: Floats, owner: Ints, height: Floats, width: float
) -> None:
    """Raise where electrolyte touches anything through the boundary: no side is outside there."""
    chosen = _near_boundary(height, width)
    pairs = neighbor_pairs(positions[chosen], cell, (True, True, True), TOUCH)
    i, j = chosen[pairs.i], chosen[pairs.j]
    bad = np.flatnonzero((pairs.shifts[:, 2] != 0) & ((owner[i] < 0) | (owner[j] < 0)))
    if len(bad):
        # The lowest indices, whatever order the pairs come in.
        first, second = min(sorted((int(i[k]), int(j[k]))) for k in bad)
        atom, other = (first, second) if owner[first] < 0 else (second, first)
        name = f"{other} ({chemical_symbols[int(numbers[other])]})"
        raise _refusal(atom, numbers, f"it touches atom {name} through the boundary")


def _resolve(
    positions: Floats,
    numbers: Ints,
    cell: Floats,
    owner: Ints,
    boundary: str,
    height: Floats,
    length: float,
    reach: float,
    wrapped: bool,
) -> Ints:
    i, j, crossing = _bonds(positions, numbers, cell, owner, reach)
    n = len(positions)
    graph = csr_array(coo_array((np.ones(len(i)), (i, j)), shape=(n, n)))
    count, labels = connected_components(graph, directed=False)
    label = labels.astype(np.int64)
    shifts = _make_whole(graph, label, count, i, j, crossing, numbers, wrapped)
    if not wrapped:
        shifts[np.isin(label, _thick(label, i, j, crossing, numbers, height * length))] = 0
    cut = np.zeros(count, dtype=bool)
    touched = np.isin(label, label[shifts != 0])
    for fragment in np.unique(label[touched]):
        members = np.flatnonzero(label == fragment)
        values, counts = np.unique(shifts[members], return_counts=True)
        cut[fragment] = len(values) > 1
        best = values[counts == counts.max()]
        if len(best) > 1 and owner[members[0]] >= 0:
            rest = height[(owner < 0) & ~touched]
            best = best[
                [
                    _electrode_image(
                        height[members] + shifts[members], best, rest, length, (members[0], numbers)
                    )
                ]
            ]
        shifts[members] -= best[0]
    if boundary == "displacement":
        return shifts
    solved = owner >= 0
    where = height + shifts
    whole = ~np.isin(label, np.flatnonzero(cut))
    low, high = (where[solved].min(), where[solved].max()) if solved.any() else (1.0, -1.0)
    for fragment in np.unique(label[~solved & ((where < low) | (where > high))]):
        members = np.flatnonzero(label == fragment)
        centre = where[members].mean()
        inside = [k for k in (-2, -1, 0, 1, 2) if low <= centre + k <= high]
        if 0 in inside or not (inside or cut[fragment]):
            continue
        if len(inside) == 1:
            shifts[members] += inside[0]
        elif cut[fragment]:
            shifts[members] += _side(where, members, whole, length, numbers)
    return shifts


def _electrode_image(
    where: Floats, images: Ints, electrolyte: Floats, length: float, name: tuple[int, Ints]
) -> int:
    """Which of several equally populated images of a cut electrode is on the electrolyte's side."""
    if len(electrolyte):
        gaps = [np.median(np.abs(where.mean() - k - electrolyte)) * length for k in images]
        nearest, second = np.argsort(gaps)[:2]
        if gaps[second] - gaps[nearest] > 1.0:
            return int(nearest)
    raise _refusal(*name, "its electrode is cut in halves and either side could be meant")


def _thick(label: Ints, i: Ints, j: Ints, crossing: Ints, numbers: Ints, height: Floats) -> Ints:
    """Fragments of metal that the boundary cuts into parts of several layers each."""
    metal = np.array([chemical_symbols[z] not in NO_METALS for z in numbers])
    inside = crossing == 0
    n = len(label)
    graph = csr_array(coo_array((np.ones(int(inside.sum())), (i[inside], j[inside])), shape=(n, n)))
    part = connected_components(graph, directed=False)[1]
    found = []
    for fragment in np.unique(label[i[~inside]]):
        members = label == fragment
        parts = [height[members & (part == p)] for p in np.unique(part[members])]
        if metal[members].all() and all(np.ptp(heights) > LAYER for heights in parts):
            found.append(fragment)
    return np.array(found, dtype=np.int64)


def _make_whole(
    graph: Any, label: Ints, count: int, i: Ints, j: Ints, crossing: Ints, numbers: Ints, wrapped: bool
) -> Ints:
    """Shifts that undo every crossing along a spanning tree of each cut fragment."""
    shifts = np.zeros(len(label), dtype=np.int64)
    step = {(int(a), int(b)): int(k) for a, b, k in zip(i, j, crossing)}
    step |= {(int(b), int(a)): -int(k) for a, b, k in zip(i, j, crossing)}
    for fragment in np.unique(label[i[crossing != 0]]):
        root = int(np.flatnonzero(label == fragment)[0])
        order, parents = breadth_first_order(graph, root, directed=False)
        for atom in order[1:]:
            parent = int(parents[atom])
            shifts[atom] = shifts[parent] + step[parent, int(atom)]
    open_bonds = np.flatnonzero(shifts[i] + crossing != shifts[j])
    if not wrapped:
        shifts[np.isin(label, label[i[open_bonds]])] = 0
    elif len(open_bonds):
        raise _refusal(
            int(i[open_bonds[0]]), numbers, "its fragment continues through the boundary without end"
        )
    return shifts


def _side(where: Floats, members: Ints, whole: NDArray[np.bool_], length: float, numbers: Ints) -> int:
    """The image of a cut molecule that has surroundings, where only one has."""
    others = whole.copy()
    others[members] = False
    if not others.any():
        return 0
    images = [0, 1 if where[members].mean() < 0.5 * (where.min() + where.max()) else -1]
    distances = [
        float(np.abs(where[members][:, None] + k - where[others][None, :]).min()) * length for k in images
    ]
    near = [k for k, d in zip(images, distances) if d <= NEAR]
    if len(near) != 1:
        state = "both sides have matter close by" if near else "neither side has matter close by"
        raise _refusal(members[0], numbers, f"its molecule is cut and {state}")
    return near[0]


def _refusal(atom: int, numbers: Ints, reason: str) -> ValueError:
    name = chemical_symbols[int(numbers[atom])]
    return ValueError(
        f"atom {atom} ({name}) = on the cell boundary along the surface normal must belong to one side: {reason}; "
        "translate the atoms along c so that the boundary lies in vacuum, then wrap"
    )
