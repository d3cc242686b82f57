"""Harmonic bonds and angles on nearest images: energy, forces and strain derivative.

    E = sum 1/2 k (r - r0)² + sum 1/2 k (theta - theta0)²

A bond is always the nearest image of its two atoms, so a molecule cut by a periodic boundary, or an atom
wrapped in the middle of a run, changes nothing.
"""

import numpy as np

from grahame.hybrid.shortrange.base import FloatArray, IntArray
from grahame.kernels.cpu_molecules import angle_sum, bond_sum


def nearest_vectors(
    positions: FloatArray, pairs: IntArray, cell: FloatArray, pbc: tuple[bool, bool, bool]
) -> FloatArray:
    """Nearest-image vectors (m,3) Å from the first to the second atom of each pair.

    Fractional coordinates are rounded along the periodic directions, which is exact for bonds shorter than
    half the smallest distance between opposite faces of the cell.
    """
    vectors: FloatArray = positions[pairs[:, 1]] - positions[pairs[:, 0]]
    return vectors + nearest_shifts(vectors, cell, pbc) @ cell


def nearest_shifts(vectors: FloatArray, cell: FloatArray, pbc: tuple[bool, bool, bool]) -> FloatArray:
    """Whole lattice shifts (m,3) that bring each vector to its nearest image."""
    shifts = np.zeros_like(vectors)
    axes = [axis for axis in range(3) if pbc[axis]]
    if axes and len(vectors):
        # The pseudo-inverse projects out the directions that do not repeat.
        shifts[:, axes] = -np.round(vectors @ np.linalg.pinv(cell[axes]))
    return shifts


def bonded_terms(
    positions: FloatArray,
    cell: FloatArray,
    pbc: tuple[bool, bool, bool],
    bonds: IntArray,
    bond_constants: FloatArray,
    bond_lengths: FloatArray,
    angles: IntArray,
    angle_constants: FloatArray,
    angle_values: FloatArray,
) -> tuple[float, FloatArray, FloatArray]:
    """Energy (eV), forces (n,3) eV/Å and dE/d(strain) (3,3) eV of bonds and angles.

    Args:
        positions: (n,3) Å.
        cell: (3,3) rows, Å.
        pbc: periodic directions.
        bonds: (b,2); bond_constants (b,) eV/Å²; bond_lengths (b,) Å.
        angles: (a,3), vertex in the middle; angle_constants (a,) eV/rad²; angle_values (a,) rad.

    Returns:
        energy, forces, strain derivative.
    """
    forces = np.zeros((len(positions), 3))
    strain = np.zeros((3, 3))
    energy = 0.0
    if len(bonds) + len(angles) == 0:
        return energy, forces, strain
    ends = np.concatenate([bonds, angles[:, [1, 0]], angles[:, [1, 2]]])
    vectors = nearest_vectors(positions, ends, cell, pbc)
    along, left, right = np.split(vectors, [len(bonds), len(bonds) + len(angles)])
    energy += float(bond_sum(along, bonds, bond_constants, bond_lengths, forces, strain))
    energy += float(angle_sum(left, right, angles, angle_constants, angle_values, forces, strain))
    return energy, forces, strain
