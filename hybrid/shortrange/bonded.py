"""Harmonic bonds and angles on nearest images: energy, forces and strain derivative.

    E = sum 1/2 k (r - r0)² + sum 1/2 k (theta - theta0)²

A bond is always the nearest image of its two atoms, so a molecule cut by a periodic boundary, or an atom
wrapped in the middle of a run, changes nothing.
"""

from typing import Any

import numpy as np
from numba import njit

from grahame.hybrid.shortrange.base import FloatArray, IntArray


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
    energy += float(_bond_sum(along, bonds, bond_constants, bond_lengths, forces, strain))
    energy += float(_angle_sum(left, right, angles, angle_constants, angle_values, forces, strain))
    return energy, forces, strain


def _bond_loop(
    d: FloatArray, bonds: IntArray, k: FloatArray, r0: FloatArray, forces: FloatArray, strain: FloatArray
) -> float:
    energy = 0.0
    for p in range(len(bonds)):
        r = np.sqrt(d[p, 0] ** 2 + d[p, 1] ** 2 + d[p, 2] ** 2)
        energy += 0.5 * k[p] * (r - r0[p]) ** 2
        g = k[p] * (r - r0[p]) / r
        for a in range(3):
            forces[bonds[p, 0], a] += g * d[p, a]
            forces[bonds[p, 1], a] -= g * d[p, a]
            for b in range(3):
                strain[a, b] += g * d[p, a] * d[p, b]
    return energy


def _angle_loop(
    u: FloatArray,
    v: FloatArray,
    angles: IntArray,
    k: FloatArray,
    theta0: FloatArray,
    forces: FloatArray,
    strain: FloatArray,
) -> float:
    energy = 0.0
    for p in range(len(angles)):
        ux, uy, uz = u[p, 0], u[p, 1], u[p, 2]
        vx, vy, vz = v[p, 0], v[p, 1], v[p, 2]
        uu = ux * ux + uy * uy + uz * uz
        vv = vx * vx + vy * vy + vz * vz
        dot = ux * vx + uy * vy + uz * vz
        cx, cy, cz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        cross = np.sqrt(cx * cx + cy * cy + cz * cz)
        # atan2 keeps all digits where the cosine is flat.
        theta = np.arctan2(cross, dot)
        energy += 0.5 * k[p] * (theta - theta0[p]) ** 2
        # d(theta)/du = [u dot/uu - v]/cross and the same with u and v exchanged.
        g = k[p] * (theta - theta0[p]) / cross
        for a in range(3):
            du = g * (u[p, a] * dot / uu - v[p, a])
            dv = g * (v[p, a] * dot / vv - u[p, a])
            forces[angles[p, 0], a] -= du
            forces[angles[p, 2], a] -= dv
            forces[angles[p, 1], a] += du + dv
            for b in range(3):
                strain[a, b] += du * u[p, b] + dv * v[p, b]
    return energy


_bond_sum: Any = njit(cache=True, error_model="numpy")(_bond_loop)
_angle_sum: Any = njit(cache=True, error_model="numpy")(_angle_loop)
