"""Small systems with known answers: crystals, plates, slabs of every cell geometry, electrode cells."""

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class System:
    """Atoms for the Coulomb operator: positions and cell in Å, charges in e, Gaussian widths in Å."""

    positions: Array
    charges: Array
    cell: Array
    smearing: Array

    @property
    def volume(self) -> float:
        return float(abs(np.linalg.det(self.cell)))


def system(positions: object, charges: object, cell: object, smearing: object = 0.0) -> System:
    """A System from anything array-like; one width may stand for all."""
    x = np.asarray(positions, dtype=float).reshape(-1, 3)
    q = np.asarray(charges, dtype=float)
    s = np.broadcast_to(np.asarray(smearing, dtype=float), (len(x),)).copy()
    return System(x, q, np.asarray(cell, dtype=float), s)


# Crystals. The energy per formula unit is -constant k q²/length.


@dataclass(frozen=True)
class Crystal:
    """A lattice, its Madelung constant and the length (Å) and number of formula units it refers to."""

    name: str
    atoms: System
    constant: float
    length: float
    units: int
    digits: float  # how far the literature value may be trusted

    def energy(self, k: float) -> float:
        """Literature lattice energy of the cell in eV, for charges as in `atoms` (+-1 e)."""
        return -self.constant * k / self.length * self.units


def _crystal(
    name: str,
    basis: object,
    charges: object,
    lattice: object,
    constant: float,
    length: float,
    units: int,
    digits: float = 1e-11,
) -> Crystal:
    cell = np.asarray(lattice, dtype=float)
    x = np.asarray(basis, dtype=float) @ cell + np.array([0.13, 0.27, 0.41])
    return Crystal(name, system(x, charges, cell), constant, length, units, digits)


def crystals(scale: float = 1.0) -> list[Crystal]:
    """Lattices with literature Madelung constants, the nearest-neighbour distance near 2.8 Å x scale."""
    a = 5.6 * scale
    fcc = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    nacl = _crystal(
        "NaCl",
        np.concatenate([fcc, fcc + np.array([0.5, 0, 0])]),
        [1] * 4 + [-1] * 4,
        np.eye(3) * a,
        1.7475645946331821,
        a / 2,
        4,
    )
    primitive = _crystal(
        "NaCl primitive",
        [[0, 0, 0], [0.5, 0.5, 0.5]],
        [1, -1],
        np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) * a,
        1.7475645946331821,
        a / 2,
        1,
    )
    b = 3.3 * scale
    cscl = _crystal(
        "CsCl",
        [[0, 0, 0], [0.5, 0.5, 0.5]],
        [1, -1],
        np.eye(3) * b,
        1.7626747730709884,
        b * math.sqrt(3) / 2,
        1,
    )
    zns = _crystal(
        "ZnS zincblende",
        np.concatenate([fcc, fcc + 0.25]),
        [1] * 4 + [-1] * 4,
        np.eye(3) * a,
        1.6380550533888956,
        a * math.sqrt(3) / 4,
        4,
        1e-10,
    )
    w = 3.9 * scale
    c = w * math.sqrt(8 / 3)
    wurtzite = _crystal(
        "ZnS wurtzite",
        [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, 0.375], [2 / 3, 1 / 3, 0.875]],
        [1, 1, -1, -1],
        [[w, 0, 0], [-w / 2, w * math.sqrt(3) / 2, 0], [0, 0, c]],
        1.6413216273,
        0.375 * c,
        2,
        1e-9,
    )
    return [nacl, primitive, cscl, zns, wurtzite]


def wigner_crystals(scale: float = 1.0) -> list[Crystal]:
    """One charge per site in its neutralising background; the length is the Wigner-Seitz radius."""
    a = 3.1 * scale
    bcc = _crystal(
        "Wigner bcc",
        [[0, 0, 0], [0.5, 0.5, 0.5]],
        [1, 1],
        np.eye(3) * a,
        0.895929255682,
        a * (3 / (8 * math.pi)) ** (1 / 3),
        2,
        1e-11,
    )
    fcc = _crystal(
        "Wigner fcc",
        [[0, 0, 0]],
        [1],
        np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) * a,
        0.895873615195,
        a * (3 / (16 * math.pi)) ** (1 / 3),
        1,
        1e-11,
    )
    return [bcc, fcc]


def planar_crystals(scale: float = 1.0) -> list[Crystal]:
    """Two-dimensional lattices, for the slab boundaries: the ionic square and two electron lattices."""
    a = 2.8 * scale
    height = np.diag([0.0, 0.0, 12.0 * scale])
    square = _crystal(
        "2D square",
        [[0, 0, 0.3], [0.5, 0.5, 0.3]],
        [1, -1],
        np.array([[a, a, 0], [a, -a, 0], [0, 0, 0]]) + height,
        1.6155426267128247,
        a,
        1,
    )
    # Bonsall and Maradudin, Phys. Rev. B 15, 1959 (1977): -c sqrt(n)/2 per charge with c = 3.921034, 3.900265
    hexagonal = _crystal(
        "2D electrons, hexagonal",
        [[0, 0, 0.3]],
        [1],
        np.array([[a, 0, 0], [a / 2, a * math.sqrt(3) / 2, 0], [0, 0, 0]]) + height,
        3.921034 / 2,
        a * math.sqrt(math.sqrt(3) / 2),
        1,
        1e-6,
    )
    plain = _crystal(
        "2D electrons, square", [[0, 0, 0.3]], [1], np.diag([a, a, 0]) + height, 3.900265 / 2, a, 1, 1e-6
    )
    return [square, hexagonal, plain]


# Disordered cells.


def spread_points(n: int, cell: Array, heights: tuple[float, float], closest: float, seed: int) -> Array:
    """n points in a cell, no two images nearer than `closest` Å, fractional c coordinate in `heights`."""
    rng = np.random.default_rng(seed)
    steps = np.array([[i, j, k] for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)]) @ cell
    points: list[Array] = []
    for _ in range(200_000):
        u = rng.random(3)
        u[2] = heights[0] + (heights[1] - heights[0]) * u[2]
        x = u @ cell
        if all(np.linalg.norm(x - y + steps, axis=1).min() > closest for y in points):
            points.append(x)
        if len(points) == n:
            return np.array(points)
    raise RuntimeError(f"{n} points {closest} Å apart do not fit")


def random_charges(n: int, total: float, seed: int) -> Array:
    """n charges between 0.3 and 1.2 e in size, both signs, with the given sum."""
    rng = np.random.default_rng(seed)
    q = rng.uniform(0.3, 1.2, n) * np.where(np.arange(n) % 2 == 0, 1, -1)
    return np.asarray(q - (q.sum() - total) / n)


CELLS_3D: dict[str, list[list[float]]] = {
    "cubic": [[9.0, 0, 0], [0, 9.0, 0], [0, 0, 9.0]],
    "orthorhombic": [[8.1, 0, 0], [0, 9.3, 0], [0, 0, 10.9]],
    "hexagonal": [[9.2, 0, 0], [-4.6, 9.2 * math.sqrt(3) / 2, 0], [0, 0, 9.7]],
    "triclinic": [[9.5, 0.4, -0.8], [3.4, 8.9, 0.6], [-2.4, 3.1, 8.4]],
    "left-handed": [[0, 9.3, 0.2], [8.6, 0.5, 0], [1.1, -0.4, 9.9]],
    "flat": [[13.0, 0, 0], [0.9, 12.2, 0], [1.0, 2.0, 5.1]],
}


def ions_3d(
    cell: str = "orthorhombic", n: int = 20, total: float = 0.0, widths: str = "mixed", seed: int = 1
) -> System:
    """Disordered charges in a 3D cell; widths "points", "mixed" (half are points) or "gaussian"."""
    h = np.array(CELLS_3D[cell])
    x = spread_points(n, h, (0.0, 1.0), 1.7, seed)
    rng = np.random.default_rng(seed + 50)
    s = rng.uniform(0.35, 0.75, n)
    if widths == "points":
        s[:] = 0.0
    elif widths == "mixed":
        s[::2] = 0.0
    return System(x, random_charges(n, total, seed), h, s)


SLAB_GEOMETRIES = (
    "orthorhombic",
    "hexagonal",
    "oblique",
    "tilted-c",
    "rotated",
    "left-handed",
    "reversed-c",
    "unwrapped",
)


def slab(
    geometry: str = "orthorhombic",
    n: int = 16,
    total: float = 0.0,
    widths: str = "mixed",
    seed: int = 2,
    height: float = 24.0,
    thickness: float = 8.0,
) -> System:
    """Disordered charges in the middle of a slab cell of the named geometry."""
    planes = {
        "hexagonal": [[8.4, 0, 0], [-4.2, 8.4 * math.sqrt(3) / 2, 0]],
        "oblique": [[8.7, 0.6, 0], [2.9, 7.8, 0]],
    }
    h = np.array([*planes.get(geometry, [[8.2, 0, 0], [0, 7.9, 0]]), [0, 0, height]])
    low = 0.5 - 0.5 * thickness / height
    x = spread_points(n, h, (low, 1 - low), 1.7, seed)
    rng = np.random.default_rng(seed + 60)
    s = rng.uniform(0.35, 0.75, n)
    if widths == "points":
        s[:] = 0.0
    elif widths == "mixed":
        s[::2] = 0.0
    plain = System(x, random_charges(n, total, seed), h, s)
    return transformed(plain, geometry, seed)


def transformed(plain: System, geometry: str, seed: int = 0) -> System:
    """The same slab written down differently: its energy must not change."""
    x, h = plain.positions.copy(), plain.cell.copy()
    if geometry == "tilted-c":
        h[2] += 0.37 * h[0] - 0.61 * h[1]
    elif geometry == "rotated":
        r = rotation(seed + 5)
        x, h = x @ r.T, h @ r.T
    elif geometry == "left-handed":
        h = h[[1, 0, 2]]
    elif geometry == "reversed-c":
        h[2] = -h[2]
    elif geometry == "unwrapped":
        shifts = np.random.default_rng(seed).integers(-3, 4, (len(x), 2))
        x = x + shifts @ h[:2]
    return replace(plain, positions=x, cell=h)


def rotation(seed: int) -> Array:
    """A proper rotation matrix drawn at random."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    if np.linalg.det(q) < 0:
        q[:, 0] = -q[:, 0]
    return np.asarray(q)


def supercell(atoms: System, repeats: tuple[int, int, int]) -> System:
    """The system repeated along its cell vectors."""
    steps = np.array(
        [[i, j, k] for i in range(repeats[0]) for j in range(repeats[1]) for k in range(repeats[2])]
    )
    x = np.concatenate([atoms.positions + s @ atoms.cell for s in steps])
    m = len(steps)
    return System(
        x, np.tile(atoms.charges, m), atoms.cell * np.array(repeats)[:, None], np.tile(atoms.smearing, m)
    )


# Electrodes.


@dataclass(frozen=True)
class ElectrodeCell:
    """Electrode atoms and ions; `groups` are index arrays, ion widths in `smearing`, in Å."""

    positions: Array
    charges: Array
    cell: Array
    smearing: Array
    groups: list[NDArray[np.int64]]

    @property
    def solved(self) -> NDArray[np.int64]:
        return np.concatenate(self.groups)

    @property
    def volume(self) -> float:
        return float(abs(np.linalg.det(self.cell)))


def plates(
    gap: float = 9.0,
    layers: int = 1,
    repeat: int = 2,
    spacing: float = 2.9,
    ions: int = 4,
    height: float = 24.0,
    ion_charge: float = 0.0,
    geometry: str = "orthorhombic",
    width: float = 0.5,
    ion_width: float = 0.0,
    groups: int = 2,
    ruffle: float = 0.05,
    seed: int = 3,
) -> ElectrodeCell:
    """Square-lattice plates with ions between them; atoms shuffled so that order and group never coincide.

    Three groups put a third plate in the middle of the gap, four divide each plate into two halves.
    """
    rng = np.random.default_rng(seed)
    grid = np.array([[i, j] for i in range(repeat) for j in range(repeat)], dtype=float) * spacing
    side = repeat * spacing
    h = np.diag([side, side, height])
    bottom, top = 0.5 * height - 0.5 * gap, 0.5 * height + 0.5 * gap
    levels = [[bottom - spacing * k for k in range(layers)], [top + spacing * k for k in range(layers)]]
    if groups == 3:
        levels.append([0.5 * height])
    blocks: list[Array] = []
    for group_levels in levels:
        block = [
            np.column_stack([grid + 0.5 * spacing * (k % 2), np.full(len(grid), z)])
            for k, z in enumerate(group_levels)
        ]
        blocks.append(
            np.concatenate(block) + rng.uniform(-ruffle, ruffle, (len(grid) * len(group_levels), 3))
        )
    if groups == 4:
        blocks = [half for block in blocks for half in np.array_split(block, 2)]
    solved = np.concatenate(blocks)
    if ions:
        free = [(bottom + 1.9, top - 1.9)] if groups != 3 else [(bottom + 1.6, 0.5 * height - 1.6)]
        clear: list[Array] = []
        for _ in range(100_000):
            u = rng.random(3)
            x = np.array([u[0] * side, u[1] * side, free[0][0] + u[2] * (free[0][1] - free[0][0])])
            images = [x + np.array([i * side, j * side, 0]) for i in (-1, 0, 1) for j in (-1, 0, 1)]
            if all(min(np.linalg.norm(y - image) for image in images) > 1.7 for y in clear):
                clear.append(x)
            if len(clear) == ions:
                break
        moving = np.array(clear)
        q = random_charges(ions, ion_charge, seed)
    else:
        moving, q = np.zeros((0, 3)), np.zeros(0)
    x = np.concatenate([solved, moving])
    charges = np.concatenate([np.zeros(len(solved)), q])
    s = np.concatenate([np.full(len(solved), width), np.full(len(q), ion_width)])
    order = rng.permutation(len(x))
    place = np.argsort(order)
    edges = np.cumsum([0] + [len(b) for b in blocks])
    index = [np.sort(place[a:b]) for a, b in pairwise(edges)]
    moved = transformed(System(x[order], charges[order], h, s[order]), geometry, seed)
    return ElectrodeCell(moved.positions, moved.charges, moved.cell, moved.smearing, index)
