"""Neighbour pairs: all images within a cut-off, for any cell, and a list that is kept between steps.

A pair is (i, j, S) with integer lattice shifts S: its vector is x[j] + S @ cell - x[i]. Half lists hold each
pair once, in one of its two directions, and each image pair of an atom with itself once (one of S and -S);
full lists hold both directions. Pairs of one i stand together, in full lists sorted by i, and their order depends
on the geometry alone, so sums over a list do not depend on how many threads found it.

Full lists are found by vesin; half lists, the ones that molecular dynamics waits for, by `cpu_neighbors`.
Sorting what vesin finds is limited by memory, at a seventh of what the processor does; whether a list may be kept by
memory too, at half (`python -m examples.benchmarks limits`: 12,288 atoms, one thread, AVX2).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import vesin
from numpy.typing import NDArray

from grahame.kernels.compiling import kernel
from grahame.kernels.cpu_neighbors import half_rows
from grahame.kernels.pair_rows import PairRows, stable_order

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
_SMALLEST_VOLUME = 1e-10
_TOUCHING = 0.1  # Å; pairs shorter than this are always found by `closest`


@dataclass(frozen=True)
class Pairs:
    """Pairs of atoms and images.

    Attributes:
        i: (p,) index of the first atom, in int32 as all three.
        j: (p,) index of the second atom.
        shifts: (p,3) lattice shifts of the second atom.
    """

    i: Ints
    j: Ints
    shifts: Ints


class RowPairs(Pairs):
    """A half list in the short form of the compiled kernels; the arrays are made when they are asked for, and kept."""

    def __init__(self, rows: PairRows) -> None:
        object.__setattr__(self, "rows", rows)

    rows: PairRows

    @cached_property
    def _triples(self) -> tuple[Ints, Ints, Ints]:
        return self.rows.triples()

    @property
    def i(self) -> Ints:
        return self._triples[0]

    @property
    def j(self) -> Ints:
        return self._triples[1]

    @property
    def shifts(self) -> Ints:
        return self._triples[2]


def neighbor_pairs(
    positions: Floats, cell: Floats, periodic: tuple[bool, bool, bool], cutoff: float, half: bool = True
) -> Pairs:
    """All pairs with |x_j + S @ cell - x_i| < cutoff, every image counted.

    Args:
        positions: (n,3) Å, inside the cell or not.
        cell: (3,3) rows in Å: left-handed, tilted, smaller than the cut-off; rows of directions that do not
            repeat are ignored and may be zero.
        periodic: which cell vectors repeat the atoms.
        cutoff: Å.
        half: each pair once (True) or in both directions.

    Returns:
        `Pairs`; those of one i stand together, in full lists in ascending order.

    Raises:
        ValueError: for positions or cells that are not finite, a cut-off that is not positive, and repeating
            cell vectors that are zero or linearly dependent.
    """
    x, h = _checked(positions, cell, periodic, cutoff)
    if len(x) == 0:
        empty = np.zeros(0, dtype=np.int32)
        return Pairs(empty, empty, empty.reshape(0, 3))
    if half:
        return Pairs(*half_rows(x, h, periodic, float(cutoff)).triples())
    finder = vesin.NeighborList(cutoff=float(cutoff), full_list=True, sorted=False)
    # The arrays are the finder's own memory: sorting copies them.
    i, j, s = finder.compute(
        points=x, box=h, periodic=list(map(bool, periodic)), quantities="ijS", copy=False
    )
    # Sorted, since vesin's order depends on its threads.
    a, b = i.astype(np.int32), j.astype(np.int32)
    order = stable_order(a, stable_order(b, np.arange(len(a), dtype=np.int32), len(x)), len(x))
    return Pairs(*_sorted(a, b, s, order))


def _checked(
    positions: Floats, cell: Floats, periodic: tuple[bool, bool, bool], cutoff: float
) -> tuple[Floats, Floats]:
    """Positions and the repeating rows of the cell, after all that can be wrong with them."""
    x = np.ascontiguousarray(positions, dtype=np.float64).reshape(-1, 3)
    h = _repeating_rows(np.asarray(cell, dtype=np.float64).reshape(3, 3), periodic)
    if not (np.isfinite(cutoff) and cutoff > 0.0):
        raise ValueError(f"cutoff = {cutoff} Å must be positive and finite: give a length such as 6.0")
    if not np.isfinite(x.sum()):
        bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
        if len(bad):
            raise ValueError(f"positions[{bad[0]}] = {x[bad[0]]} Å must be finite: check the structure")
    return x, h


def _repeating_rows(cell: Floats, periodic: tuple[bool, bool, bool]) -> Floats:
    """The cell with zeros in the rows that do not repeat."""
    h = np.where(np.asarray(periodic, dtype=bool)[:, None], cell, 0.0)
    rows = h[np.asarray(periodic, dtype=bool)]
    if len(rows) == 0:
        return h
    if not np.isfinite(rows).all():
        raise ValueError(f"cell = {cell.tolist()} Å must be finite: check the structure")
    lengths = np.linalg.norm(rows, axis=1)
    # The generalised volume in units of the edges: 0 for dependent vectors.
    independent = (
        lengths.all() and np.linalg.svd(rows / lengths[:, None], compute_uv=False)[-1] > _SMALLEST_VOLUME
    )
    if not independent:
        raise ValueError(
            f"cell = {cell.tolist()} Å must have linearly independent vectors where it repeats: "
            "give the missing vectors or switch off their periodicity"
        )
    return h


@kernel()
def _sorted(a: Ints, b: Ints, shifts: Ints, order: Ints) -> tuple[Ints, Ints, Ints]:
    """Pairs sorted by (i, j, S), from the order by (i, j)."""
    p = len(a)
    out_i, out_j, out = np.empty(p, np.int32), np.empty(p, np.int32), np.empty((p, 3), np.int32)
    for k in range(p):
        o = order[k]
        place = k
        x, y, z = shifts[o, 0], shifts[o, 1], shifts[o, 2]
        # Images of one pair are few: sorted by insertion.
        while place > 0 and out_j[place - 1] == b[o] and out_i[place - 1] == a[o]:
            before = out[place - 1]
            if before[0] < x or (before[0] == x and (before[1] < y or (before[1] == y and before[2] < z))):
                break
            out[place] = before
            out_i[place], out_j[place] = a[o], b[o]
            place -= 1
        out_i[place], out_j[place] = a[o], b[o]
        out[place, 0], out[place, 1], out[place, 2] = x, y, z
    return out_i, out_j, out


class NeighborList:
    """A half or full list of pairs within cutoff + skin, found again only when an atom has moved far.

    The list is complete within `cutoff` as long as no atom has moved by more than skin/2 since it was found.
    `before_finding` is called when it is about to be found anew: who holds the old list lets it go, and its memory serves again.

    Attributes:
        builds: how often the pairs were found anew.

    Source: L. Verlet, Phys. Rev. 159, 98 (1967).
    """

    def __init__(
        self,
        cutoff: float,
        skin: float = 1.0,
        half: bool = True,
        before_finding: Callable[[], None] | None = None,
    ) -> None:
        if not (np.isfinite(cutoff) and cutoff > 0.0):
            raise ValueError(f"cutoff = {cutoff} Å must be positive and finite: give a length such as 6.0")
        if not (np.isfinite(skin) and skin >= 0.0):
            raise ValueError(f"skin = {skin} Å must be zero or positive: give a length such as 1.0")
        self.cutoff = float(cutoff)
        self.skin = float(skin)
        self.half = half
        self._before_finding = before_finding
        self.builds = 0
        self._pairs: Pairs | None = None
        self._near: Pairs | None = None
        self._shortest = math.inf
        self._farthest = 0.0
        self._positions: Floats = np.zeros((0, 3))
        self._cell: Floats = np.zeros((3, 3))
        self._periodic = (False, False, False)

    def update(self, positions: Floats, cell: Floats, periodic: tuple[bool, bool, bool]) -> Pairs:
        """Pairs that contain all those within the cut-off now; the same object until it is found again.

        Args:
            positions: (n,3) Å.
            cell: (3,3) rows in Å.
            periodic: which cell vectors repeat the atoms.

        Returns:
            `Pairs` within cutoff + skin of the positions at the last rebuild.

        Raises:
            ValueError: as `neighbor_pairs`.
        """
        x = np.asarray(positions, dtype=np.float64).reshape(-1, 3)
        h = np.asarray(cell, dtype=np.float64).reshape(3, 3)
        flags = (bool(periodic[0]), bool(periodic[1]), bool(periodic[2]))
        if self._pairs is None or self._moved(x, h, flags):
            self._find(x, h, flags)
            self.builds += 1
        assert self._pairs is not None
        return self._pairs

    def closest(self, positions: Floats, cell: Floats) -> tuple[int, int, float]:
        """Atoms and length (Å) of the shortest pair of the last `update`; (-1, -1, inf) if none is below 0.1 Å.

        Args:
            positions: (n,3) Å, those of the last `update`.
            cell: (3,3) rows in Å.

        Returns:
            i, j, length.
        """
        near = self._near
        if near is None or self._shortest - 2.0 * self._farthest > _TOUCHING:
            return -1, -1, np.inf
        x, h = (np.ascontiguousarray(a, dtype=np.float64) for a in (positions, cell))
        k, length = _shortest(near.i, near.j, near.shifts, x, h)
        if length > _TOUCHING:
            return -1, -1, np.inf
        return int(near.i[k]), int(near.j[k]), length

    def state(self) -> dict[str, NDArray[np.generic]]:
        """What a restart needs to continue with exactly the same list."""
        found = self._pairs is not None
        return {
            "builds": np.asarray(self.builds),
            "found": np.asarray(found),
            "positions": self._positions.copy(),
            "cell": self._cell.copy(),
            "periodic": np.asarray(self._periodic),
        }

    def load_state(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Take over a `state()` of a list with the same cut-off and skin."""
        self._pairs = None
        if bool(state["found"]):
            flags = np.asarray(state["periodic"], dtype=bool)
            self._find(
                np.asarray(state["positions"], dtype=np.float64),
                np.asarray(state["cell"], dtype=np.float64),
                (bool(flags[0]), bool(flags[1]), bool(flags[2])),
            )
        self.builds = int(state["builds"])

    def _moved(self, x: Floats, cell: Floats, periodic: tuple[bool, bool, bool]) -> bool:
        if periodic != self._periodic or x.shape != self._positions.shape:
            return True
        rows = np.asarray(periodic)
        if not np.array_equal(cell[rows], self._cell[rows]):
            return True
        if len(x) == 0:
            return False
        self._farthest = math.sqrt(_farthest_move(np.ascontiguousarray(x), self._positions))
        # A comparison that is also false for NaN, so that a bad position is reported and not kept.
        return not self._farthest <= 0.5 * self.skin

    def _find(self, x: Floats, cell: Floats, periodic: tuple[bool, bool, bool]) -> None:
        reach = self.cutoff + self.skin
        # No others can come as close as `closest` reports while the list is kept.
        touching = self.skin + _TOUCHING
        self._pairs = None  # room for the new ones
        if self._before_finding is not None:
            self._before_finding()
        if self.half and len(x):
            rows = half_rows(*_checked(x, cell, periodic, reach), periodic, reach, min(touching, reach))
            self._pairs, near = RowPairs(rows), Pairs(*rows.near_triples())
        else:
            p = self._pairs = neighbor_pairs(x, cell, periodic, reach, self.half)
            close = np.flatnonzero(_squared_lengths(p, x, cell) < touching**2)
            near = Pairs(p.i[close], p.j[close], p.shifts[close])
        self._near = near
        places, h = np.ascontiguousarray(x), np.ascontiguousarray(cell)
        self._shortest = _shortest(near.i, near.j, near.shifts, places, h)[1]
        self._positions, self._cell, self._periodic, self._farthest = x.copy(), cell.copy(), periodic, 0.0


def _squared_lengths(p: Pairs, x: Floats, cell: Floats) -> Floats:
    vectors = x[p.j] - x[p.i] + p.shifts @ cell
    lengths: Floats = (vectors * vectors).sum(axis=1)
    return lengths


@kernel()
def _shortest(i: Ints, j: Ints, shifts: Ints, x: Floats, cell: Floats) -> tuple[int, float]:
    """Place and length in Å of the shortest pair, infinite if there is none."""
    place, shortest = -1, np.inf
    for k in range(len(i)):
        squared = 0.0
        for d in range(3):
            along = x[j[k], d] - x[i[k], d]
            for e in range(3):
                along += shifts[k, e] * cell[e, d]
            squared += along * along
        if squared < shortest:
            place, shortest = k, squared
    return place, math.sqrt(shortest)


@kernel()
def all_below(
    limit: float,
    pairs: NDArray[np.int64],
    shifts: NDArray[np.int64],
    x: Floats,
    cell: Floats,
    projector: Floats,
) -> bool:
    """Whether |(x_j - x_i) P + S.cell| < limit for all pairs (m,2), P (3,3) a projector; false for NaN.

    Limited by memory, at a quarter of its rate.
    """
    square = limit * limit
    for k in range(len(pairs)):
        i, j = pairs[k, 0], pairs[k, 1]
        squared = 0.0
        for d in range(3):
            along = 0.0
            for e in range(3):
                along += (x[j, e] - x[i, e]) * projector[e, d] + shifts[k, e] * cell[e, d]
            squared += along * along
        if not squared < square:
            return False
    return True


@kernel()
def close_pairs(
    x: Floats,
    cells: Floats,
    frame: NDArray[np.int64],
    pairs: NDArray[np.int64],
    images: Floats,
    reach: float,
) -> NDArray[np.int64]:
    """Places, rising, of the pairs (p,2) with |x_j + S.cell - x_i| < reach; S (p,3), cells (B,3,3), frame (n,) of the atoms.

    Limited by memory, at a sixth of its rate.
    """
    places, count, limit = np.empty(len(pairs), np.int64), 0, reach * reach
    for k in range(len(pairs)):
        i, j = pairs[k, 0], pairs[k, 1]
        f, squared = frame[i], 0.0
        for d in range(3):
            along = x[j, d] - x[i, d]
            for e in range(3):
                along += images[k, e] * cells[f, e, d]
            squared += along * along
        # Written always, kept when close: no branch to mispredict.
        places[count] = k
        count += 1 if squared < limit else 0
    return places[:count].copy()


@kernel()
def _farthest_move(x: Floats, y: Floats) -> float:
    """Largest squared distance of two positions of one atom in Å², NaN if there is one; limited by memory."""
    farthest, total = 0.0, 0.0
    for a in range(len(x)):
        squared = (x[a, 0] - y[a, 0]) ** 2 + (x[a, 1] - y[a, 1]) ** 2 + (x[a, 2] - y[a, 2]) ** 2
        total += squared
        farthest = max(farthest, squared)
    return farthest if np.isfinite(total) else total
