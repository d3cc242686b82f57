"""Every compiled kernel with the arguments that a sum of a water box gives it, to be called alone.

The sums are evaluated while every kernel is replaced by one that notes what it is called with. So a kernel is timed,
or its instructions are counted, on what it works on in production, whatever its arguments are.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np
from numba.core.dispatcher import Dispatcher
from numpy.typing import NDArray

from examples.benchmarks.speed.systems import Box
from grahame.kernels import (
    cpu_assembly,
    cpu_density,
    cpu_fft,
    cpu_lennard_jones,
    cpu_mesh,
    cpu_molecules,
    cpu_neighbors,
    cpu_pair_matrix,
    cpu_pairs,
    cpu_splines,
    cpu_structure_factor,
    cpu_symmetric,
    cpu_transfers,
    neighbors,
    pair_rows,
)

MODULES = (
    cpu_assembly,
    cpu_pairs,
    cpu_neighbors,
    neighbors,
    cpu_pair_matrix,
    cpu_splines,
    cpu_mesh,
    cpu_structure_factor,
    cpu_symmetric,
    cpu_transfers,
    cpu_density,
    cpu_lennard_jones,
    cpu_molecules,
    pair_rows,
)
ALL = (True, True, True)
ROWS = 900  # of the symmetric matrix
KINDS, RADIAL, L_MAX = 2, 8, 2  # of densities on the sphere; as many types of Lennard-Jones atoms
TERMS = 16  # of exchanged charges
SWITCHED = 0.8  # of the cut-off: where Lennard-Jones begins to end

Short = NDArray[np.int32]


@dataclass(frozen=True)
class Sums:
    """What the sums are set to: splitting (1/Å), cut-off and skin (Å), mesh, order, waves (k,3) of the sum without mesh."""

    alpha: float
    cutoff: float
    skin: float
    mesh: tuple[int, int, int]
    order: int
    waves: NDArray[np.int64]


@dataclass(frozen=True)
class Call:
    """One call of a kernel."""

    kernel: Callable[..., object]
    arguments: tuple[Any, ...]
    named: dict[str, Any]

    def fresh(self) -> Callable[[], object]:
        """The same call with arrays of its own: kernels write into theirs."""
        arguments, named = _copied(self.arguments), _copied(self.named)
        return lambda: self.kernel(*arguments, **named)


def kernels() -> dict[str, Callable[..., object]]:
    """All compiled kernels by module and name, but for those made for an order or sizes; what they inline is a part of them."""
    found: dict[str, Callable[..., object]] = {}
    for module in MODULES:
        for name, value in vars(module).items():
            if isinstance(value, Dispatcher) and value.__module__ == module.__name__:
                options = value.targetoptions
                if not options.get("forceinline") and options.get("inline") != "always":
                    found[f"{_last(module.__name__)}.{name}"] = value
    return found


def recorded(action: Callable[[], object]) -> dict[str, Call]:
    """The last call of every kernel that an action calls, by module and name."""
    action()  # compiles: numba must find kernels where they call each other
    held: dict[str, Call] = {}
    with _noted(held):
        action()
    return held


def evaluate(box: Box, sums: Sums) -> None:
    """Lists, pairs, mesh and waves of a box, with all derivatives, and as operators on charges."""
    x, q, h = box.positions, box.charges, box.cell
    points = np.zeros(len(q))
    neighbors.neighbor_pairs(x, h, ALL, sums.cutoff, half=False)
    kept = neighbors.NeighborList(sums.cutoff, sums.skin)
    kept.update(x + 0.01, h, ALL)
    pairs = kept.update(x, h, ALL)
    assert isinstance(pairs, neighbors.RowPairs)
    rows = pairs.rows
    rows.with_atoms(marked(len(q)))
    i, j, shifts = rows.triples()
    cpu_pairs.as_rows(len(q), i, j, shifts)
    cpu_pairs.PairSum(x, q, h, points, rows, sums.alpha, sums.cutoff, True)(True, True)
    cpu_pair_matrix.PairMatrix(x, h, points, i, j, shifts, sums.alpha, sums.cutoff, True)(q)
    cpu_mesh._weights.cache_clear()
    mesh = cpu_mesh.MeshSum(x, h, sums.alpha, sums.mesh, sums.order)
    mesh(q, True, True, True)
    mesh(q, False, True, False)
    normal, three = np.array([0.0, 0.0, 1.0]), np.eye(3)
    where = (cpu_assembly.SLAB, x, points + 0.4, q, normal, 0.0)
    numbers = cpu_assembly.moments(*where)
    felt, pull = np.ones(len(q)), np.ones((len(q), 3))
    every, out = np.arange(len(q), dtype=np.int32), (np.empty(len(q)), np.empty((len(q), 3)))
    cpu_assembly.assemble(every, *where, 1.0, numbers, 1.0, felt, felt, pull, pull, *out)
    bonds = every.reshape(-1, 3)[:, :2].astype(np.int64)
    neighbors.all_below(sums.cutoff, bonds, np.zeros((len(bonds), 3), np.int64), x, h, three)
    cpu_structure_factor.WaveSum(x, h, sums.alpha, sums.waves)(q, True, True, True)
    cpu_symmetric.product(np.ones((ROWS, ROWS)), np.ones(ROWS))
    around = pair_rows.full_rows(len(q), i, j, shifts)
    frame, species = np.zeros(len(q), np.int64), np.arange(len(q)) % KINDS
    surroundings = cpu_density.Densities(around, frame, species, KINDS, sums.cutoff, RADIAL, L_MAX)
    found = np.empty(surroundings.shape)
    surroundings.density(x, h[None], found)
    surroundings.pull(x, h[None], found)
    surroundings.push(x, h[None], x, h[None], found)
    pairs, images = np.stack([i, j], axis=1).astype(np.int64), shifts.astype(np.float64)
    neighbors.close_pairs(x, h[None], frame, pairs, images, sums.cutoff)
    nobody, both = np.zeros(len(q), np.bool_), np.ones((len(q), 2 * TERMS))
    moved = cpu_transfers.Transfers(
        frame,
        species,
        nobody,
        pairs,
        images,
        sums.cutoff,
        np.ones((KINDS**2, RADIAL)),
        np.ones((RADIAL, TERMS)),
    )
    gained = moved.gained(x, h[None], both)
    moved.pull(x, h[None], both, gained)
    _classical(box, sums, i, j, shifts)


def _classical(box: Box, sums: Sums, i: Short, j: Short, shifts: Short) -> None:
    """Lennard-Jones among all atoms, molecules of the box that are flexible, and such that are rigid."""
    x, n = box.positions, len(box.charges)
    pairs = cpu_lennard_jones.sorted_rows(n, *(a.astype(np.int64) for a in (i, j, shifts)))
    strength, types, begin = np.ones((KINDS, KINDS)), np.arange(n) % KINDS, SWITCHED * sums.cutoff
    polynomials = np.ones((3, 2))
    cpu_lennard_jones.pair_sums(
        x, box.cell, pairs, types, strength, strength, sums.cutoff, begin, polynomials, False
    )
    triples = np.arange(n).reshape(-1, 3)
    ones, forces, strain = np.ones(n), np.zeros((n, 3)), np.zeros((3, 3))
    ends = np.concatenate([triples[:, [0, 1]], triples[:, [0, 2]]])
    cpu_molecules.bond_sum(x[ends[:, 1]] - x[ends[:, 0]], ends, ones, ones, forces, strain)
    u, v = (x[triples[:, k]] - x[triples[:, 0]] for k in (1, 2))
    corners = triples[:, [1, 0, 2]]
    cpu_molecules.angle_sum(u, v, corners, ones, ones, forces, strain)
    old = np.stack([u, v, v - u], axis=1)
    lengths, masses = np.linalg.norm(old, axis=2), np.tile([16.0, 1.0, 1.0], n // 3)
    # As atoms move in a step of 1 fs at 300 K.
    new = x + np.random.default_rng(1).normal(size=x.shape) * (0.016 / np.sqrt(masses[:, None]))
    u, v = (new[triples[:, k]] - new[triples[:, 0]] for k in (1, 2))
    stuck = cpu_molecules.shake(
        new, triples, old, np.stack([u, v, v - u], axis=1), lengths, masses, 1e-13, 50
    )
    assert stuck < 0
    cpu_molecules.rattle(forces, triples, old, masses)


def marked(atoms: int) -> NDArray[np.bool_]:
    """Every tenth atom: those whose pairs `with_atoms` looks for."""
    return np.arange(atoms) % 10 == 0


@contextmanager
def _noted(held: dict[str, Call]) -> Iterator[None]:
    """Kernels that put their calls into `held`."""

    def noting(name: str, kernel: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: Any, **named: Any) -> object:
            held[name] = Call(kernel, _copied(arguments), _copied(named))
            return kernel(*arguments, **named)

        return call

    def splines(order: int) -> cpu_splines.SplineKernels:
        found = cpu_splines.spline_kernels(order)
        parts = ("spread", "potential", "gradient")
        return replace(found, **{p: noting(f"cpu_splines.{p}", getattr(found, p)) for p in parts})

    made = cpu_density.density_kernels

    def densities(radial: int, l_max: int) -> cpu_density.DensityKernels:
        found = made(radial, l_max)
        parts = ("density", "pull", "push")
        return replace(found, **{p: noting(f"cpu_density.{p}", getattr(found, p)) for p in parts})

    heads = cpu_transfers.transfer_kernels

    def transfers(radial: int, terms: int) -> cpu_transfers.TransferKernels:
        found = heads(radial, terms)
        parts = ("gained", "pull")
        return replace(found, **{p: noting(f"cpu_transfers.{p}", getattr(found, p)) for p in parts})

    patches = [mock.patch.object(cpu_mesh, "spline_kernels", splines)]
    patches.append(mock.patch.object(cpu_transfers, "transfer_kernels", transfers))
    patches.append(mock.patch.object(cpu_density, "density_kernels", densities))
    for part in ("across", "along", "back_along"):
        patches.append(mock.patch.object(cpu_fft, part, noting(f"cpu_fft.{part}", getattr(cpu_fft, part))))
    for name, kernel in kernels().items():
        for module in MODULES:
            # Where it is made, and where it is imported to.
            if vars(module).get(_last(name)) is kernel:
                patches.append(mock.patch.object(module, _last(name), noting(name, kernel)))
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def _copied(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, tuple):
        return tuple(map(_copied, value))
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    return value


def _last(name: str) -> str:
    return name.rpartition(".")[2]
