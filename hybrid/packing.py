"""Placing water molecules and ions between two planes so that nothing overlaps.

Centres (oxygens and ions) start on a jittered grid and are pushed apart until every pair keeps its distance;
then every water is turned until its hydrogens keep theirs. The start of a simulation, not a sample of the
liquid: minimise and equilibrate afterwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Half of the smallest distance between two centres, Å: O-O 2.6, Na-O 2.3, Cl-O 2.95, ion-ion `ION_DISTANCE`.
RADII = {"O": 1.30, "Na": 1.00, "Cl": 1.65}
ION_DISTANCE = 4.5  # Å; ions of either sign start separated by water
HYDROGEN_DISTANCE = 1.65  # Å; hydrogen to any atom of another molecule (a hydrogen bond is 1.8 Å)
HYDROGEN_CATION = 2.1  # Å; the oxygen, not a hydrogen, faces a cation
HYDROGEN_METAL = 1.8  # Å; hydrogen to the plane of the outermost metal atoms

# The equilibrium geometry of SPC/E, exact, so that rigid water needs no first correction.
BOND_LENGTH = 1.0  # Å
ANGLE = math.radians(109.47)

_PUSHES = 1500
_SWEEPS = 40
_TRIALS = 40


@dataclass(frozen=True)
class Region:
    """Where centres may lie: a periodic rectangle and a range of heights, Å.

    Attributes:
        sides: lengths along x and y, both periodic.
        low, high: lowest and highest z of a centre.
        floor, ceiling: planes of metal atoms that hydrogens keep away from; None where there is vacuum.
    """

    sides: tuple[float, float]
    low: float
    high: float
    floor: float | None
    ceiling: float | None


def place_centres(kinds: list[str], region: Region, rng: np.random.Generator) -> Floats | None:
    """Positions of oxygens ("O") and ions that all keep their distances.

    Args:
        kinds: element of every centre.
        region: where they may lie.
        rng: the only source of chance.
    Returns:
        (n,3) Å with x and y in the rectangle, or None where they do not fit.
    """
    n = len(kinds)
    radius = np.array([RADII[k] for k in kinds])
    is_ion = np.array([k != "O" for k in kinds])
    sites = _grid(n, region)
    x = sites[rng.permutation(len(sites))[:n]] + rng.uniform(-0.12, 0.12, (n, 3))
    x[:, 2] = np.clip(x[:, 2], region.low, region.high)
    # Slightly more than asked for while pushing, so that the last step satisfies the limit itself.
    for push in range(_PUSHES):
        pairs, vectors, distances, wanted = _close_pairs(x, radius, is_ion, region.sides)
        if push and not len(pairs):
            return _wrapped(x, region.sides)
        excess = 0.55 * (1.01 * wanted - distances)[:, None] * vectors / distances[:, None]
        np.add.at(x, pairs[:, 1], excess)
        np.add.at(x, pairs[:, 0], -excess)
        x[:, 2] = np.clip(x[:, 2], region.low, region.high)
    return None


def _grid(n: int, region: Region) -> Floats:
    """At least n sites, as evenly spaced as a rectangular grid of the region allows."""
    (lx, ly), height = region.sides, region.high - region.low
    best, widest = (1, 1, n), 0.0
    for nz in range(1, n + 1):
        per_layer = math.ceil(n / nz)
        for nx in range(1, per_layer + 1):
            ny = math.ceil(per_layer / nx)
            steps = [lx / nx, ly / ny] + ([height / (nz - 1)] if nz > 1 else [])
            if min(steps) > widest:
                best, widest = (nx, ny, nz), min(steps)
            if lx / nx < widest:
                break
        if nz > 1 and height / (nz - 1) < widest:
            break
    nx, ny, nz = best
    z = np.linspace(region.low, region.high, nz) if nz > 1 else np.array([0.5 * (region.low + region.high)])
    axes = [(np.arange(nx) + 0.5) * lx / nx, (np.arange(ny) + 0.5) * ly / ny, z]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def _wrapped(x: Floats, sides: tuple[float, float]) -> Floats:
    """x and y in [0, side); the height as it is."""
    y = x.copy()
    y[:, :2] %= np.array(sides)
    y[:, :2][y[:, :2] >= np.array(sides)] = 0.0  # -1e-17 % L is L
    return y


def _nearest(vectors: Floats, sides: tuple[float, float]) -> Floats:
    """Nearest image along x and y."""
    v = vectors.copy()
    v[..., :2] -= np.round(v[..., :2] / np.array(sides)) * np.array(sides)
    return v


def _close_pairs(
    x: Floats, radius: Floats, is_ion: NDArray[np.bool_], sides: tuple[float, float]
) -> tuple[Ints, Floats, Floats, Floats]:
    """Pairs nearer than they may be: indices (p,2), vectors (p,3), distances (p,), wanted distances (p,)."""
    y = _wrapped(x, sides)
    reach = max(2.0 * float(radius.max()), ION_DISTANCE if is_ion.sum() > 1 else 0.0)
    tree = cKDTree(y, boxsize=np.array([*sides, 0.0]))  # 0 means: not periodic
    pairs = np.asarray(tree.query_pairs(reach, output_type="ndarray"), dtype=np.int64).reshape(-1, 2)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]  # a fixed order: equal seeds, equal bits
    vectors = _nearest(y[pairs[:, 1]] - y[pairs[:, 0]], sides)
    distances = np.maximum(np.linalg.norm(vectors, axis=1), 1e-6)
    wanted = radius[pairs[:, 0]] + radius[pairs[:, 1]]
    wanted[is_ion[pairs[:, 0]] & is_ion[pairs[:, 1]]] = ION_DISTANCE
    near = distances < wanted
    return pairs[near], vectors[near], distances[near], wanted[near]


def place_hydrogens(
    centres: Floats, kinds: list[str], region: Region, rng: np.random.Generator
) -> Floats | None:
    """Two hydrogens per water, turned away from everything else.

    Args:
        centres: (n,3) Å.
        kinds: element of every centre, the oxygens before the ions.
        region: of the centres.
        rng: the only source of chance.
    Returns:
        (waters,2,3) Å, or None where no orientations were found.
    """
    waters, half = kinds.count("O"), 0.5 * ANGLE
    keep = np.array([HYDROGEN_CATION if kind == "Na" else HYDROGEN_DISTANCE for kind in kinds])
    shape = BOND_LENGTH * np.array(
        [[math.sin(half), 0, math.cos(half)], [-math.sin(half), 0, math.cos(half)]]
    )
    oxygens = centres[:waters]
    hydrogens: Floats = oxygens[:, None] + np.einsum("wij,hj->whi", _rotations(waters, rng), shape)
    if waters == 0:
        return hydrogens
    tree = cKDTree(_wrapped(centres, region.sides), boxsize=np.array([*region.sides, 0.0]))
    reach = 2.0 * BOND_LENGTH + HYDROGEN_DISTANCE

    def room(w: int, trials: Floats) -> Floats:
        bonded = hydrogens[near[w][near[w] < waters]].reshape(-1, 3)
        others = np.concatenate([centres[near[w]], bonded])
        limits = np.concatenate([keep[near[w]], np.full(len(bonded), HYDROGEN_DISTANCE)])
        return _room(trials, others, limits, region)

    found: Any = tree.query_ball_point(_wrapped(oxygens, region.sides), reach)  # one list per oxygen
    near = [np.array([j for j in sorted(js) if j != w], dtype=np.int64) for w, js in enumerate(found)]
    for _ in range(_SWEEPS):
        bad = [w for w in range(waters) if room(w, hydrogens[w][None])[0] < 0.0]
        if not bad:
            return hydrogens
        for w in bad:
            trials = oxygens[w] + np.einsum("tij,hj->thi", _rotations(_TRIALS, rng), shape)
            trials[0] = hydrogens[w]
            hydrogens[w] = trials[int(np.argmax(room(w, trials)))]
        for w in bad:  # a cage that offers no room: its molecules must turn as well
            if room(w, hydrogens[w][None])[0] < 0.0:
                for v in near[w][near[w] < waters]:
                    hydrogens[v] = oxygens[v] + shape @ _rotations(1, rng)[0].T
    return None


def _room(trials: Floats, others: Floats, limits: Floats, region: Region) -> Floats:
    """How much nearer the closest atom of each orientation could come, Å; negative is an overlap."""
    flat = trials.reshape(-1, 3)
    room = np.full(len(flat), np.inf)
    if len(others):
        d = np.linalg.norm(_nearest(flat[:, None] - others[None], region.sides), axis=2)
        room = (d - limits).min(axis=1)
    if region.floor is not None:
        room = np.minimum(room, flat[:, 2] - region.floor - HYDROGEN_METAL)
    if region.ceiling is not None:
        room = np.minimum(room, region.ceiling - flat[:, 2] - HYDROGEN_METAL)
    return np.asarray(room.reshape(trials.shape[:2]).min(axis=1), dtype=np.float64)


def _rotations(n: int, rng: np.random.Generator) -> Floats:
    """(n,3,3) rotations, uniform (normalised Gaussian quaternions)."""
    q = rng.standard_normal((n, 4))
    w, x, y, z = (q / np.linalg.norm(q, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), 2, 0)
