"""Averages along the surface normal of a trajectory: densities and electrostatics.

z = r.n with n = a x b/|a x b| of each frame, whatever the shape of the cell. In a cell that is periodic along
c all heights are folded into one period: [0, c.n), or if electrodes stand outside of it the period in whose middle
they stand; otherwise atoms are taken where they stand. Errors are standard errors from at most ten contiguous
blocks of frames (jackknife: ratios are treated like sums).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray
from scipy.constants import physical_constants

from grahame.electrostatics.profiles import planar_charges, surface_normal
from grahame.electrostatics.units import COULOMB_CONSTANT
from grahame.hybrid.trajectories import atom_charges, electrode_groups

__all__ = [
    "DensityProfile",
    "ElectrostaticProfile",
    "Grid",
    "density_profile",
    "electrostatic_profile",
]

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

_GRAM_PER_CM3 = physical_constants["atomic mass constant"][0] * 1e3 * 1e24  # amu/Å³ in g/cm³
_BLOCKS = 10


@dataclass(frozen=True)
class DensityProfile:
    """Densities of species along the normal.

    Attributes:
        z: (m,) centres of the bins, Å.
        number: (m,) per species, atoms/Å³.
        error: standard errors of `number`; nan with fewer than four frames.
        mass: (m,) mass density of all these species together, g/cm³, of the frames' own masses.
        frames: number of frames.
    """

    z: Array
    number: dict[str, Array]
    error: dict[str, Array]
    mass: Array
    frames: int


@dataclass(frozen=True)
class ElectrostaticProfile:
    """Plane-averaged electrostatics along the normal.

    Attributes:
        z: (m,) centres of the bins, Å.
        charge_density: (m,) of all atoms, e/Å³.
        electrolyte: (m,) the part of the atoms that are in no electrode, e/Å³.
        field: (m,) V/Å.
        potential: (m,) V, in the gauge of the boundary (see `grahame.electrostatics.profiles`).
        error: (m,) standard error of `potential` relative to its value at the first bin, V.
        frames: number of frames.
    """

    z: Array
    charge_density: Array
    electrolyte: Array
    field: Array
    potential: Array
    error: Array
    frames: int


class Grid:
    """Bins along the normal, fixed by the first frame.

    Args:
        atoms: the first frame.
        spacing: width of the bins in Å (made a little smaller to fill the limits evenly).
        limits: lowest and highest z in Å. Default: the period, with all electrodes in it as they stand, or cell and
            atoms with 5 Å on both sides.
    """

    def __init__(self, atoms: Atoms, spacing: float, limits: tuple[float, float] | None) -> None:
        if not (np.isfinite(spacing) and spacing > 0.0):
            raise ValueError(f"spacing = {spacing:g} Å must be positive: give the width of the bins")
        n, _, length = surface_normal(np.array(atoms.cell))
        self.given = limits is not None
        self.periodic = bool(atoms.pbc[2])
        end = float(np.array(atoms.cell)[2] @ n)
        if limits is None:
            low, high = min(0.0, end), max(0.0, end)
            if not self.periodic:
                z = atoms.positions @ n
                low, high = min(low, float(z.min())) - 5.0, max(high, float(z.max())) + 5.0
            elif groups := electrode_groups(atoms):
                z = atoms.positions[np.concatenate(groups)] @ n
                if (z.min() < low or z.max() > high) and np.ptp(z) <= length:
                    # As in cells that are centred on 0: folded, an electrode would stand on the other side of the liquid.
                    low = 0.5 * float(z.min() + z.max() - length)
                    high = low + length
        else:
            low, high = float(limits[0]), float(limits[1])
        if not (np.isfinite(low) and np.isfinite(high) and high > low):
            raise ValueError(f"limits = ({low:g}, {high:g}) Å must ascend: give the lower height first")
        self.low, self.period = low, length
        self.edges = np.linspace(low, high, max(1, int(np.ceil((high - low) / spacing - 1e-9))) + 1)
        self.z = 0.5 * (self.edges[1:] + self.edges[:-1])
        self.width = float(self.edges[1] - self.edges[0])

    def heights(self, atoms: Atoms, chosen: ArrayLike | slice = slice(None)) -> tuple[Array, float]:
        """z of chosen atoms within the grid, and the area of the surface cell."""
        n, area, length = surface_normal(np.array(atoms.cell))
        z = np.asarray(atoms.positions[chosen] @ n, dtype=np.float64)
        if self.periodic:
            z = self.low + np.mod(z - self.low, length)
        low, high = self.edges[0], self.edges[-1]
        if not self.given and len(z) and (z.min() < low or z.max() > high + 1e-9):
            raise ValueError(
                f"z = {z.min():g} to {z.max():g} Å must stay within {low:g} and {high:g} Å, the room of the "
                "first frame: give `limits` that suit the whole trajectory"
            )
        return z, area

    def histogram(self, z: Array, weights: Array | None = None) -> Array:
        """Sum of weights per bin; what lies outside given limits is left out."""
        return np.asarray(np.histogram(z, bins=self.edges, weights=weights)[0], dtype=np.float64)


def jackknife(numerator: Array, denominator: Array | None = None) -> tuple[Array, Array]:
    """Mean over frames (or ratio of two means) and its standard error from contiguous blocks.

        theta_b = estimate without block b,    error² = (B-1)/B sum_b (theta_b - mean theta)²

    Args:
        numerator: (frames, m). denominator: (frames, m), or None for a plain mean.
    Returns:
        (m,) and (m,); the error is nan with fewer than four frames, a ratio nan where nothing was seen.
    """
    frames = len(numerator)
    below = np.ones_like(numerator) if denominator is None else denominator
    top, bottom = numerator.sum(0), below.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = top / bottom
        if frames < 4:
            return value, np.full_like(value, np.nan)
        starts = np.linspace(0, frames, min(_BLOCKS, frames) + 1).astype(int)
        left = np.array(
            [(top - numerator[a:b].sum(0)) / (bottom - below[a:b].sum(0)) for a, b in pairwise(starts)]
        )
    spread = np.sqrt((len(left) - 1) * np.mean((left - left.mean(0)) ** 2, axis=0))
    return value, np.asarray(spread, dtype=np.float64)


class DensityCounter:
    """Counts species in bins, frame by frame; `density_profile` is its short form.

    With `electrolyte` atoms of electrodes are left out, whose elements the electrolyte may have as well.
    """

    def __init__(self, grid: Grid, species: Sequence[str], electrolyte: bool = False) -> None:
        self.grid, self.species, self.electrolyte = grid, list(species), electrolyte
        self.rows: dict[str, list[Array]] = {s: [] for s in self.species}
        self.masses: list[Array] = []

    def add(self, atoms: Atoms) -> None:
        """Count one frame."""
        symbols = np.array(atoms.get_chemical_symbols())
        groups = electrode_groups(atoms) if self.electrolyte else []
        if groups:
            symbols[np.concatenate(groups)] = ""
        z, area = self.grid.heights(atoms)
        volume = area * self.grid.width
        for s in self.species:
            self.rows[s].append(self.grid.histogram(z[symbols == s]) / volume)
        counted = np.isin(symbols, self.species)
        self.masses.append(self.grid.histogram(z[counted], atoms.get_masses()[counted]) / volume)

    def result(self) -> DensityProfile:
        """Means and errors over the frames so far."""
        pairs = {s: jackknife(np.array(rows)) for s, rows in self.rows.items()}
        mass = np.mean(self.masses, axis=0) * _GRAM_PER_CM3
        number, error = ({s: p[c] for s, p in pairs.items()} for c in (0, 1))
        return DensityProfile(self.grid.z, number, error, mass, len(self.masses))


class ElectrostaticCounter:
    """Averages the exact planar sums, frame by frame; `electrostatic_profile` is its short form."""

    def __init__(
        self,
        grid: Grid,
        boundary: str,
        smearing: Any = 0.392,
        field: float | None = None,
        displacement: float | None = None,
        coulomb_constant: float = COULOMB_CONSTANT,
    ) -> None:
        self.grid, self.boundary, self.smearing = grid, boundary, smearing
        self.field, self.displacement, self.coulomb_constant = field, displacement, coulomb_constant
        self.rows: list[Array] = []

    def add(self, atoms: Atoms) -> None:
        """Add one frame."""
        q, cell = atom_charges(atoms), np.array(atoms.cell)
        groups = electrode_groups(atoms)
        electrode = np.zeros(len(atoms), dtype=bool)
        if groups:
            electrode[np.concatenate(groups)] = True
        s = np.asarray(self.smearing, dtype=np.float64)
        widths = np.where(electrode, s, 0.0) if s.ndim == 0 else s
        options: dict[str, Any] = {
            "cell": cell,
            "boundary": self.boundary,
            "displacement": self.displacement,
            "coulomb_constant": self.coulomb_constant,
        }
        field = finite_field(atoms) if self.boundary == "finite-field" else float(self.field or 0.0)
        source = planar_charges(atoms.positions, q, smearing=widths, field=field, **options)
        # A part of the atoms need not be neutral: its density is that of any boundary.
        options |= {"boundary": "3d" if source.period else "slab", "displacement": None}
        fluid = planar_charges(
            atoms.positions[~electrode], q[~electrode], smearing=widths[~electrode], **options
        )
        edges, z = self.grid.edges, self.grid.z
        self.rows.append(
            np.array(
                [
                    source.charge_density(edges),
                    fluid.charge_density(edges),
                    source.field_at(z),
                    source.potential_at(z),
                ]
            )
        )

    def result(self) -> ElectrostaticProfile:
        """Means and errors over the frames so far."""
        rows = np.array(self.rows)
        density, electrolyte, field, potential = rows.mean(0)
        _, error = jackknife(rows[:, 3] - rows[:, 3, :1])
        return ElectrostaticProfile(self.grid.z, density, electrolyte, field, potential, error, len(rows))


def finite_field(atoms: Atoms) -> float:
    """E = -(psi_top - psi_bot)/L along n in V/Å, from the potentials in a frame's info.

    Raises:
        ValueError: unless the frame has two electrodes and their potentials.
    """
    groups = electrode_groups(atoms)
    potentials = np.atleast_1d(atoms.info.get("electrode_potentials", []))
    if len(groups) != 2 or len(potentials) != 2:
        raise ValueError(
            f"electrode_potentials = {len(potentials)} values for {len(groups)} electrodes must be two for "
            "two with boundary 'finite-field': write them into the frames' info, or choose another boundary"
        )
    n, _, length = surface_normal(np.array(atoms.cell))
    heights = [float((atoms.positions[g] @ n).mean()) for g in groups]
    bottom, top = np.argsort(heights)
    return -float(potentials[top] - potentials[bottom]) / length


def first_frame(frames: Iterable[Atoms]) -> tuple[Atoms, Iterable[Atoms]]:
    iterator = iter(frames)
    try:
        first = next(iterator)
    except StopIteration:
        raise ValueError("frames = 0 must be at least one: give a trajectory with frames") from None
    return first, chain([first], iterator)


def density_profile(
    frames: Iterable[Atoms],
    species: Sequence[str] | None = None,
    *,
    spacing: float = 0.1,
    limits: tuple[float, float] | None = None,
) -> DensityProfile:
    """Number and mass densities of species along the normal.

        n_X(z) = <atoms of X in the bin>/(A dz)

    Args:
        frames: Atoms, e.g. from `grahame.hybrid.trajectories.read_frames`.
        species: chemical symbols; None for all of the first frame's atoms that are in no electrode.
        spacing, limits: the bins, see `Grid`.
    Raises:
        ValueError: without frames, or when atoms leave the room of the first frame (give `limits`).
    """
    first, every = first_frame(frames)
    counter = DensityCounter(
        Grid(first, spacing, limits), electrolyte_species(first) if species is None else species
    )
    for atoms in every:
        counter.add(atoms)
    return counter.result()


def electrostatic_profile(
    frames: Iterable[Atoms],
    boundary: str,
    *,
    smearing: Any = 0.392,
    field: float | None = None,
    displacement: float | None = None,
    spacing: float = 0.1,
    limits: tuple[float, float] | None = None,
    coulomb_constant: float = COULOMB_CONSTANT,
) -> ElectrostaticProfile:
    """Charge density, field and potential along the normal, averaged over frames.

    Args:
        frames: Atoms with charges (see `atom_charges`) and the array `electrode`.
        boundary: as in `Coulomb`; "finite-field" takes the field from the frames' electrode potentials.
        smearing: Gaussian width in Å of the electrode atoms (the electrolyte then is points), or (n,) of all.
        field, displacement: along n, V/Å, as the run had them.
        spacing, limits: the bins, see `Grid`.
        coulomb_constant: k in eV Å/e², as the run had it.
    Raises:
        ValueError: as `density_profile` and `planar_charges`.
    """
    first, every = first_frame(frames)
    grid = Grid(first, spacing, limits)
    counter = ElectrostaticCounter(grid, boundary, smearing, field, displacement, coulomb_constant)
    for atoms in every:
        counter.add(atoms)
    return counter.result()


def electrolyte_species(atoms: Atoms) -> list[str]:
    """Chemical symbols of the atoms in no electrode, by first appearance."""
    groups = electrode_groups(atoms)
    inside = set(np.concatenate(groups).tolist()) if groups else set()
    return list(dict.fromkeys(s for i, s in enumerate(atoms.get_chemical_symbols()) if i not in inside))
