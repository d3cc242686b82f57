"""Water molecules in a trajectory: finding them by their bonds, and how they are oriented."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.geometry import find_mic
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from grahame.electrostatics.profiles import surface_normal
from grahame.hybrid.profiles import Grid, first_frame, jackknife

__all__ = ["OrientationProfile", "find_waters", "orientation_profile", "water_bonds"]

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

_BOND = 1.3  # Å; O-H bonds are 0.95-1.15, hydrogen bonds above 1.5


@dataclass(frozen=True)
class OrientationProfile:
    """Orientation of water molecules along the normal, binned at their oxygen.

    Attributes:
        z: (m,) centres of the bins, Å.
        cos_theta: (m,) mean of d.n/|d|, d the dipole direction (from O to the middle of the two H); +1: the
            hydrogens point along +n. nan where there is no molecule.
        error: standard errors of `cos_theta`.
        density: (m,) molecules/Å³.
        frames: number of frames.
    """

    z: Array
    cos_theta: Array
    error: Array
    density: Array
    frames: int


def find_waters(atoms: Atoms) -> Ints:
    """Water molecules as rows O, H, H, (w,3): oxygens with exactly two hydrogens within 1.3 Å.

    Hydroxide, hydronium and anything else is left out; periodic images count.
    """
    oxygen, hydrogen = np.flatnonzero(atoms.numbers == 8), np.flatnonzero(atoms.numbers == 1)
    if not len(oxygen) or not len(hydrogen):
        return np.zeros((0, 3), dtype=np.int64)
    cell, pbc = np.array(atoms.cell), np.asarray(atoms.pbc)
    axes = np.flatnonzero(pbc)
    x = atoms.positions.copy()
    if len(axes):
        inverse = np.linalg.pinv(cell[axes])
        x -= np.floor(x @ inverse) @ cell[axes]
        reach = [range(-m, m + 1) for m in np.ceil(_BOND * np.linalg.norm(inverse, axis=0)).astype(int)]
        shifts = np.stack(np.meshgrid(*reach, indexing="ij"), -1).reshape(-1, len(axes)) @ cell[axes]
    else:
        shifts = np.zeros((1, 3))
    images = (x[hydrogen][None] + shifts[:, None]).reshape(-1, 3)
    owner = np.tile(hydrogen, len(shifts))
    bonded = cKDTree(images).query_ball_point(x[oxygen], _BOND)
    rows = [[o, *sorted(owner[b])] for o, b in zip(oxygen, bonded) if len(b) == 2]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def water_bonds(atoms: Atoms, waters: Ints) -> Array:
    """Vectors O-H1 and O-H2 of the nearest images, (w,2,3) in Å."""
    x = atoms.positions
    vectors = (x[waters[:, 1:]] - x[waters[:, :1]]).reshape(-1, 3)
    if len(vectors):
        vectors = find_mic(vectors, atoms.cell, atoms.pbc)[0]
    return np.asarray(vectors, dtype=np.float64).reshape(-1, 2, 3)


class OrientationCounter:
    """Sums cos theta in bins, frame by frame; `orientation_profile` is its short form."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.waters: Ints | None = None
        self.cosines: list[Array] = []
        self.counts: list[Array] = []
        self.areas: list[float] = []

    def add(self, atoms: Atoms) -> None:
        """Add one frame; molecules are found anew when a bond is longer than 1.3 Å."""
        if self.waters is None:
            self.waters = find_waters(atoms)
        bonds = water_bonds(atoms, self.waters)
        if len(self.waters) and float(np.linalg.norm(bonds, axis=-1).max()) > _BOND:
            self.waters = find_waters(atoms)
            bonds = water_bonds(atoms, self.waters)
        n, _, _ = surface_normal(np.array(atoms.cell))
        dipole = bonds.mean(axis=1)
        cosine = dipole @ n / np.linalg.norm(dipole, axis=1)
        z, area = self.grid.heights(atoms, self.waters[:, 0])
        self.cosines.append(self.grid.histogram(z, cosine))
        self.counts.append(self.grid.histogram(z))
        self.areas.append(area)

    def result(self) -> OrientationProfile:
        """Means and errors over the frames so far."""
        counts = np.array(self.counts)
        cosine, error = jackknife(np.array(self.cosines), counts)
        density = (counts / np.array(self.areas)[:, None]).mean(0) / self.grid.width
        return OrientationProfile(self.grid.z, cosine, error, density, len(counts))


def orientation_profile(
    frames: Iterable[Atoms], *, spacing: float = 0.2, limits: tuple[float, float] | None = None
) -> OrientationProfile:
    """Mean cosine between the dipoles of water molecules and +n; arguments as `density_profile`."""
    first, every = first_frame(frames)
    counter = OrientationCounter(Grid(first, spacing, limits))
    for atoms in every:
        counter.add(atoms)
    return counter.result()
