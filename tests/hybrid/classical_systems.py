"""Small classical structures: waters, ions and metal atoms in any cell, and numerical derivatives."""

from collections.abc import Callable

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from grahame.hybrid.shortrange import ClassicalForceField, ShortRangeResult

Array = NDArray[np.float64]

TILTED = np.array([[11.0, 0.4, 0.0], [3.1, 10.3, 0.7], [-1.2, 2.0, 12.5]])
"""A cell without any right angle, small against twice the usual cut-off."""


def water(position: object, rng: np.random.Generator, stretch: float = 0.04) -> Array:
    """O, H, H at a random orientation, near the SPC/Fw geometry, in Å."""
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    half = np.radians(113.24) / 2
    local = 1.012 * np.array([[0, 0, 0], [np.sin(half), np.cos(half), 0], [-np.sin(half), np.cos(half), 0]])
    return np.asarray(position) + (local + rng.uniform(-stretch, stretch, (3, 3))) @ axes


def mixture(seed: int = 0, cell: Array = TILTED, pbc: object = True) -> Atoms:
    """Four waters, Na, Cl and six gold atoms (electrodes 0 and 1) at distances of an ordinary liquid."""
    rng = np.random.default_rng(seed)
    sites = np.array(
        [[x, y, z] for z in (0.1, 0.37, 0.63, 0.88) for x, y in ((0.2, 0.2), (0.7, 0.25), (0.3, 0.75))]
    )
    centres = (sites + rng.uniform(-0.02, 0.02, sites.shape)) @ cell
    positions = [centres[:3], *(water(c, rng) for c in centres[3:7]), centres[7:9], centres[9:12]]
    atoms = Atoms("Au3" + "OH2" * 4 + "NaCl" + "Au3", positions=np.concatenate(positions), cell=cell, pbc=pbc)
    atoms.arrays["electrode"] = np.array([0] * 3 + [-1] * 14 + [1] * 3)
    return atoms


def compute(field: ClassicalForceField, atoms: Atoms, stress: bool = True) -> ShortRangeResult:
    return field.compute(
        atoms.positions, atoms.numbers, atoms.cell.array, tuple(map(bool, atoms.pbc)), stress
    )


def slope(function: Callable[[float], float], step: float = 2e-3) -> float:
    """Fourth-order derivative at 0."""
    f = function
    return (8 * (f(step) - f(-step)) - (f(2 * step) - f(-2 * step))) / (12 * step)


def numerical_force(field: ClassicalForceField, atoms: Atoms, atom: int, axis: int) -> float:
    def energy(shift: float) -> float:
        moved = atoms.copy()
        moved.positions[atom, axis] += shift
        return compute(field, moved, False).energy

    return -slope(energy)


def numerical_virial(field: ClassicalForceField, atoms: Atoms) -> Array:
    """dE/d(symmetric strain), (3,3) eV."""
    result = np.zeros((3, 3))
    for a in range(3):
        for b in range(3):

            def energy(e: float, a: int = a, b: int = b) -> float:
                strain = np.eye(3)
                strain[a, b] += 0.5 * e
                strain[b, a] += 0.5 * e
                moved = atoms.copy()
                moved.set_cell(atoms.cell.array @ strain)
                moved.positions = atoms.positions @ strain
                return compute(field, moved, False).energy

            result[a, b] = slope(energy, 5e-4)
    return result
