"""The systems that are timed, as arrays: water boxes, a small cell for batches, and what an electrode cell holds.

Workers that drive other programs import this and nothing heavier.
"""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MOLECULE = (18.01528 / (0.997 * 0.602214076)) ** (1 / 3)  # Å, edge of the cube that one molecule takes
WATER_SIDES = {"0.2k": 4, "1k": 7, "3k": 10, "12k": 16, "48k": 25, "192k": 40}  # molecules along each edge
SMEARING = 0.39172  # Å; eta = 1.805132 1/Å in LAMMPS
VOLTAGE = 1.0  # V between the electrodes
TIMESTEP = 1.0  # fs
FLIGHT = 60  # steps, in which a hydrogen flies 1 Å


@dataclass(frozen=True)
class CellSize:
    """Surface cells and layers of each gold electrode, distance of the facing layers (Å), what is between."""

    gold: tuple[int, int, int]
    gap: float
    waters: int
    ion_pairs: int


CELL_SIZES = {
    "0.4k": CellSize((4, 4, 3), 27.0, 80, 2),
    "2k": CellSize((8, 8, 3), 44.0, 604, 6),
    "8k": CellSize((12, 12, 3), 72.0, 2240, 20),
    "30k": CellSize((20, 20, 4), 98.0, 8924, 60),
}


class Stored:
    """A dataclass of arrays that one process writes and others read."""

    def save(self, path: Path) -> None:
        """Write all fields to a .npz file."""
        held: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        np.savez(path, **held)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        with np.load(path) as held:
            return cls(**{key: held[key] for key in held.files})


@dataclass(frozen=True)
class Box(Stored):
    """Point charges in a cube.

    Attributes:
        positions: (n,3) Å.
        charges: (n,) e.
        edge: Å.
        truth: (n,3) converged forces, eV/Å; empty until they are known.
        constant: Coulomb constant that they were computed with, eV Å/e²; every engine's forces are brought to it.
    """

    positions: Floats
    charges: Floats
    edge: Floats
    truth: Floats = field(default_factory=lambda: np.zeros(0))
    constant: Floats = field(default_factory=lambda: np.zeros(0))

    @property
    def cell(self) -> Floats:
        """(3,3) Å."""
        return np.eye(3) * float(self.edge)


@dataclass(frozen=True)
class Cell(Stored):
    """Two gold electrodes with salt water between them.

    Attributes:
        positions: (n,3) Å at step 0.
        charges: (n,) e, 0 on the electrodes.
        cell: (3,3) Å.
        exclusions: (m,2) pairs within one molecule.
        bottom, top: indices of the electrode atoms.
        stride: (n,3) Å per step, straight flight at 300 K; 0 on rigid electrodes.
        periodic: whether the cell is periodic along z (finite field) or a slab.
        true_charges: (s,) converged charges of bottom and top after `CHECKED` steps, e; empty until known.
        true_forces: (n,3) converged forces then, eV/Å.
        constant: Coulomb constant, eV Å/e².
    """

    positions: Floats
    charges: Floats
    cell: Floats
    exclusions: Ints
    bottom: Ints
    top: Ints
    stride: Floats
    periodic: NDArray[np.bool_]
    constant: Floats
    true_charges: Floats = field(default_factory=lambda: np.zeros(0))
    true_forces: Floats = field(default_factory=lambda: np.zeros(0))

    @property
    def solved(self) -> Ints:
        """Electrode atoms, bottom first."""
        return np.concatenate([self.bottom, self.top])

    @property
    def boundary(self) -> str:
        """The name of the boundary in `Coulomb`."""
        return "finite-field" if bool(self.periodic) else "slab"

    def at(self, step: int) -> Floats:
        """Positions after so many steps, Å: atoms fly straight for `FLIGHT` steps, then back, and so on."""
        there = step % (2 * FLIGHT)
        return self.positions + min(there, 2 * FLIGHT - there) * self.stride


# Steps before charges and forces are compared: solvers that start from the last charges have settled by then.
CHECKED = 5


def water(side: int, seed: int = 7) -> Box:
    """A box of side³ molecules of SPC/E geometry and charges at 0.997 g/cm³, turned at random on a disturbed grid."""
    rng = np.random.default_rng(seed)
    places = (np.indices((side,) * 3).reshape(3, -1).T + 0.5) * MOLECULE
    places = places + rng.uniform(-0.2, 0.2, places.shape)
    angle = math.radians(109.47)
    molecule = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [math.cos(angle), math.sin(angle), 0.0]])
    turns = np.linalg.qr(rng.normal(size=(len(places), 3, 3)))[0]
    positions = (places[:, None, :] + molecule @ turns).reshape(-1, 3)
    charges = np.tile([-0.8476, 0.4238, 0.4238], len(places))
    return Box(positions, charges, np.array(side * MOLECULE))


def small(seed: int) -> Box:
    """200 atoms: 64 molecules and 8 ions in the corners between them."""
    box = water(4, seed)
    rng = np.random.default_rng(seed + 1000)
    corners = np.indices((4, 4, 4)).reshape(3, -1).T * MOLECULE
    ions = corners[rng.choice(len(corners), 8, replace=False)]
    charges = np.concatenate([box.charges, np.tile([1.0, -1.0], 4)])
    return Box(np.concatenate([box.positions, ions]), charges, box.edge)
