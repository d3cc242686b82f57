"""The matrix of the solved atoms, A without hardness.

A perfect crystal repeats within the cell: if a translation t along the surface carries the solved atoms into themselves, i to t(i),

    A_t(i)t(j) = A_ij,

so that one row for each set of equivalent atoms gives all of them. Such translations are found by comparing positions to 1e-9 Å,
and not used where atoms are displaced; then the Ewald sum's own dense matrix is made, whose waves cost atoms² and pairs atoms,
so that it wants a longer cut-off than a product.

Limits: rows by the waves of the Ewald sum, the dense matrix by its products of tables, flops in both.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor

from grahame.electrostatics import cells
from grahame.electrostatics.accuracy import Parameters
from grahame.electrostatics.arrays import host
from grahame.electrostatics.coulomb import Coulomb
from grahame.electrostatics.system import System
from grahame.kernels.neighbors import NeighborList

_SAME = 1e-9
# Fewer equivalent atoms than this do not pay for the comparison of rows.
_FEWEST = 4
# Seconds for a pair of atoms, and for a pair of table entries, in the dense matrix; only their ratio matters.
_PAIR_COST = 4e-7
_ENTRY_COST = 5e-11
_LONGEST = 30.0


def solved_matrix(coulomb: Coulomb, system: System, solved: Tensor, excluded: Tensor) -> Tensor:
    """K (s,s) in eV/e² of the solved atoms, without graph.

    A mesh's own matrix costs a transform per atom: an Ewald sum of the same accuracy takes its place, because charges are
    corrected until the mesh itself is content.

    Args:
        coulomb: the operator; system: its parameters and geometry.
        solved: (s,) atom indices.
        excluded: (m,2) excluded pairs between solved atoms, in their own numbering.
    """
    x, h, s, p = system.positions[solved], system.cell, system.smearing[solved], system.parameters
    with torch.no_grad():
        if p.method == "exact" or h is None:
            return coulomb.bind(x, h, s, excluded, 0, p).matrix()
        moves = None if len(excluded) else translations(host(x), host(h), host(s))
        repeats = moves is not None and len(moves) >= _FEWEST
        if p.method == "ewald":
            bound = coulomb.bind(x, h, s, excluded, 0, p, NeighborList(p.cutoff, skin=0.0), system.waves)
        else:
            cutoff = None if repeats else _balanced_cutoff(coulomb, p, x, h, s)
            bound = _ewald(coulomb, p, cutoff).bind(x, h, s, excluded)
        if moves is None or not repeats:
            return bound.matrix()
        return _repeated(bound, moves)


def translations(
    x: NDArray[np.float64], h: NDArray[np.float64], s: NDArray[np.float64]
) -> NDArray[np.int64] | None:
    """Where atoms go in every translation along a and b that carries the atoms into themselves, (t,n); None if only one does.

    Args:
        x: (n,3) Å; h: (3,3) Å; s: (n,) widths in Å.
    """
    if len(x) < 2:
        return None
    normal = host(cells.normal(torch.as_tensor(h)))
    heights, fractions = x @ normal, (x @ np.linalg.inv(h))[:, :2]
    edges = np.linalg.norm(h[:2], axis=1)
    # Atoms of one height and width can be equivalent; the fewest of them leave the fewest candidates.
    kinds = np.stack([np.round(heights / (1e3 * _SAME)), np.round(s / (1e-3 * _SAME))], axis=1)
    _, kind, counts = np.unique(kinds, axis=0, return_inverse=True, return_counts=True)
    alike = np.flatnonzero(kind.ravel() == int(counts.argmin()))
    if len(alike) < _FEWEST:
        return None
    box = np.array([*edges, 0.0])

    def places(shift: NDArray[np.float64]) -> NDArray[np.float64]:
        f = fractions + shift
        inside = (f - np.floor(f)) * edges
        return np.column_stack([np.where(inside < edges, inside, 0.0), heights])

    tree = KDTree(places(np.zeros(2)), boxsize=box)
    group = np.arange(len(x))[None, :]
    reached = np.zeros(len(x), dtype=bool)
    reached[alike[0]] = True
    for candidate in alike[1:]:
        if reached[candidate]:
            continue
        shift = fractions[candidate] - fractions[alike[0]]
        found = tree.query(places(shift), distance_upper_bound=1e-6)
        distance, image = np.asarray(found[0]), np.asarray(found[1])
        if not (distance < _SAME).all() or not np.allclose(s[image], s, rtol=0.0, atol=1e-12):
            # Nor do those that differ from it by a translation already found.
            reached[group[:, candidate]] = True
            continue
        power, parts = image, [group]
        seen = set(group[:, alike[0]].tolist())
        while int(power[alike[0]]) not in seen:
            parts.append(power[group])
            power = image[power]
        group = np.concatenate(parts)
        reached[group[:, alike[0]]] = True
    return group if len(group) > 1 else None


def _repeated(bound: System, moves: NDArray[np.int64]) -> Tensor:
    """The matrix from one row of each set of equivalent atoms."""
    n = moves.shape[1]
    apply = bound.operator()
    backwards = np.empty_like(moves)
    np.put_along_axis(backwards, moves, np.arange(n)[None, :], axis=1)
    columns = torch.as_tensor(backwards, device=bound.positions.device)
    out = bound.positions.new_empty((n, n))
    rows = torch.as_tensor(moves, device=out.device)
    for first in np.unique(moves.min(axis=0)):
        unit = out.new_zeros(n)
        unit[int(first)] = 1.0
        out[rows[:, int(first)]] = apply(unit)[columns]
    return out


def _ewald(c: Coulomb, p: Parameters, cutoff: float | None) -> Coulomb:
    vacuum: float | str = p.padding if c.boundary == "slab" and p.padding >= 0.0 else "auto"
    return Coulomb(
        c.boundary,
        "ewald",
        c.accuracy,
        vacuum,
        c.background,
        c.coulomb_constant,
        device=c.device,
        cutoff=cutoff,
    )


def _balanced_cutoff(c: Coulomb, p: Parameters, x: Tensor, h: Tensor, s: Tensor) -> float:
    """Cut-off in Å with the cheapest dense matrix: pairs grow as its cube, waves shrink as that."""
    shortest = _ewald(c, p, None).parameters(x, None, h, s)
    volume = float(cells.volume(cells.extend_along_normal(h, p.padding)))
    n, cutoff = len(x), shortest.cutoff
    waves = volume * shortest.reciprocal_cutoff**3 / (12 * math.pi**2)
    # Where charges lie in planes, a sphere of the cut-off holds fewer of them than in a full cell.
    z = x @ cells.normal(h)
    density = n / (volume * min(1.0, max(float(z.max() - z.min()), 1.0) / float(cells.height(h))))
    pairs = n * density * 2 * math.pi / 3 * cutoff**3
    longer = (n**2 * waves * _ENTRY_COST / (max(pairs, 1.0) * _PAIR_COST)) ** (1.0 / 6.0)
    return float(min(max(cutoff, round(2 * cutoff * longer) / 2), max(_LONGEST, cutoff)))
