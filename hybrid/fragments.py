"""Fragments of a frame: what bonds join, and each of them in one piece.

A dipole, and with charges that depend on positions its derivatives, see which image of an atom a file holds. Where a
fragment carries a charge of its own, only images that put it together mean anything: its atoms move by whole lattice
vectors until bonds join them, whichever images the file has.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from grahame.electrostatics.cells import nearest_image_shifts
from grahame.hybrid.bonds import bonds_within

__all__ = ["steps_to_whole"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Periodic = tuple[bool, bool, bool]


def steps_to_whole(positions: Floats, numbers: Ints, cell: Floats, pbc: Periodic, fragments: Ints) -> Ints:
    """(n,3) lattice steps that put every fragment together, next to its first atom.

    Parts that no bond joins go to the image that is nearest to the rest of their fragment. A fragment that is bonded to its
    own image has no end: it stays as it is.

    Args:
        positions: (n,3) Å; numbers: (n,); cell: (3,3) rows in Å; pbc: directions that repeat.
        fragments: (n,) of each atom, -1 for none.
    """
    n = len(positions)
    steps = np.zeros((n, 3), dtype=np.int64)
    if not any(pbc):
        return steps
    i, j, shifts = bonds_within(positions, numbers, cell, pbc, fragments)
    graph = csr_array(coo_array((np.ones(len(i)), (i, j)), shape=(n, n)))
    part = connected_components(graph, directed=False)[1]
    across = {(int(a), int(b)): s for a, b, s in zip(i, j, shifts)}
    across |= {(int(b), int(a)): -s for a, b, s in zip(i, j, shifts)}
    for cut in np.unique(part[i[shifts.any(axis=1)]]):
        root = int(np.flatnonzero(part == cut)[0])
        order, parents = breadth_first_order(graph, root, directed=False)
        for atom in order[1:]:
            parent = int(parents[atom])
            steps[atom] = steps[parent] + across[parent, int(atom)]
    endless = np.unique(fragments[i[(steps[i] + shifts != steps[j]).any(axis=1)]])
    for fragment in np.unique(fragments[fragments >= 0]):
        members = np.flatnonzero(fragments == fragment)
        if fragment in endless:
            steps[members] = 0
        elif (part[members] != part[members[0]]).any():
            steps[members] += _joined(positions[members] + steps[members] @ cell, cell, pbc, part[members])
    return steps


def _joined(positions: Floats, cell: Floats, pbc: Periodic, part: NDArray[np.int32]) -> Ints:
    """(m,3) lattice steps that bring parts of one fragment together, always the nearest of those that are left."""
    x, steps = positions.copy(), np.zeros((len(positions), 3), dtype=np.int64)
    new, left = part == part[0], part != part[0]
    nearest, towards = np.full(len(x), np.inf), np.zeros_like(steps)
    while left.any():
        vectors = (x[left][:, None] - x[new][None]).reshape(-1, 3)
        shifts = nearest_image_shifts(vectors, cell, pbc)
        length = np.linalg.norm(vectors + shifts @ cell, axis=1).reshape(int(left.sum()), -1)
        best = length.argmin(axis=1)
        places, rows = np.flatnonzero(left), np.arange(len(best))
        closer = length[rows, best] < nearest[places]
        nearest[places[closer]] = length[rows, best][closer]
        towards[places[closer]] = shifts.reshape(*length.shape, 3)[rows, best][closer]
        atom = int(places[nearest[places].argmin()])
        new = part == part[atom]
        steps[new] = towards[atom]
        x[new] += towards[atom] @ cell
        left &= ~new
    return steps
