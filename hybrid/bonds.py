"""What counts as a bond, and what as a metal, where structures are understood by their distances."""

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray

from grahame.kernels.neighbors import neighbor_pairs

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BOND_FACTOR = 1.3  # longest bond / sum of covalent radii: 1.26 Å for O-H, 3.5 Å for Au-Au
NO_METALS = frozenset(
    "H He B C N O F Ne Si P S Cl Ar Ge As Se Br Kr Te I Xe At Rn Ts Og".split()  # noqa: SIM905 - reads better
)
_WITHIN_FACTOR = 1.25  # of atoms that are known to belong together


def bonds(
    positions: Floats, numbers: Ints, cell: Floats, pbc: tuple[bool, bool, bool], factor: float = BOND_FACTOR
) -> tuple[Ints, Ints, Ints]:
    """Bonded pairs, each once.

    Args:
        positions: (n,3) Å; numbers: (n,); cell: (3,3) rows in Å; pbc: directions that repeat.
        factor: longest bond / sum of covalent radii.
    Returns:
        Atoms i and j (m,), and the lattice shifts (m,3) from j to the image that is bonded to i.
    """
    radius = covalent_radii[numbers]
    pairs = neighbor_pairs(positions, cell, pbc, 2.0 * factor * float(radius.max()))
    i, j, shifts = (a.astype(np.int64) for a in (pairs.i, pairs.j, pairs.shifts))
    rows = np.where(np.array(pbc)[:, None], cell, 0.0)
    length = np.linalg.norm(positions[j] + shifts @ rows - positions[i], axis=1)
    near = length < factor * (radius[i] + radius[j])
    return i[near], j[near], shifts[near]


def bonds_within(
    positions: Floats, numbers: Ints, cell: Floats, pbc: tuple[bool, bool, bool], owner: Ints
) -> tuple[Ints, Ints, Ints]:
    """The same of atoms that have the same owner (n,); those of owner -1 have no bonds."""
    i, j, shifts = bonds(positions, numbers, cell, pbc, _WITHIN_FACTOR)
    own = (owner[i] == owner[j]) & (owner[i] >= 0)
    return i[own], j[own], shifts[own]
