"""Pair sums on the CPU: the formulas of `pairs`, compiled, with the first derivatives that are wanted.

The bare interaction of excluded pairs is the case alpha = 0 without a cut-off: erfc(0) = 1.

The sum is limited by flops and by what it reads at places that nothing tells in advance (second atoms, what they collect): it
does a fifth as many of these reads as the processor does when it does nothing else (`python -m examples.benchmarks
limits`: 12,288 atoms, one thread, AVX2). Atoms moved into the list's order, and results put back into their own, are
limited by such reads at seven tenths and a third; rows of listed pairs by memory, at three tenths.
"""

import itertools
import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from grahame.kernels import cpu_memory, vectors
from grahame.kernels.compiling import FAST, FUSED, kernel
from grahame.kernels.cpu_erfc import erfc_and_slope
from grahame.kernels.pair_rows import PairRows, Piece
from grahame.kernels.pairs import shift_terms
from grahame.kernels.threads import Lane, Steps, Task, available, chunks, together

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Short = NDArray[np.int32]

_GAUSSIAN_END = (
    5.6  # erfc(5.6) = 2e-15: what Gaussians lack of points beyond is lost in the rounding of the sum
)
BLOCK = 256  # pairs whose intermediate values stay in the cache
CHUNK = 20_000  # pairs below which a second thread does not pay
_PIECES = 8  # of the pairs of one thread, at most
_ATOMS = 3000  # atoms below which a second thread does not pay for moving them and collecting what they got
_WIDTH = 8  # distances that are compared at once
_NO_POTENTIAL, _NO_GRADIENT = np.empty(0), np.empty((0, 3))
_BARE = (0.0, np.inf, 0.0, 0.0, 0.0)  # no splitting, no cut-off and no terms at it


@dataclass(frozen=True)
class PairDerivatives:
    """Energy in e²/Å and the derivatives that were asked for (None otherwise)."""

    energy: float
    positions: Floats | None
    charges: Floats | None
    cell: Floats | None
    smearing: Floats | None


@kernel(FUSED)
def _move(
    begin: int,
    end: int,
    x: Floats,
    q: Floats,
    h: Floats,
    order: Short,
    base: Short,
    out: Floats,
    field: Floats,
) -> None:
    """Positions and charge (n,4) by place: the atoms moved into the cell of the list; zeros in all fields there."""
    for c in range(len(field)):
        field[c, begin:end] = 0.0
    for k in range(begin, end):
        a, u, v, w = order[k], float(base[k, 0]), float(base[k, 1]), float(base[k, 2])
        for d in range(3):
            out[k, d] = x[a, d] - (u * h[0, d] + v * h[1, d] + w * h[2, d])
        out[k, 3] = q[a]


@kernel(FAST)
def _chunk(
    first: int,
    last: int,
    moved: Floats,
    s: Floats,
    axes: Floats,
    places: Short,
    rows: Short,
    start: Ints,
    j: Short,
    alpha: float,
    limit: float,
    origin: float,
    edge: float,
    edge_slope: float,
    sign: float,
    field: Floats,
    cell: Floats,
    width: Floats,
) -> None:
    """Adds, with a sign, what the pairs of the rows first..last with r² < limit give; axes (3,4) are the cell's rows and a zero.

    With e = sum over the others of q f(r): field (n,4) by place holds de/dx and e of every atom, cell (3,3) the
    derivative by the cell at fixed moved positions, width (n,) the one by s; s and width are empty for points.
    Limited by flops and by reading at random places, at a fifth of what the processor does.
    """
    gaussian = len(s) > 0
    between, squared = np.empty((BLOCK, 4)), np.empty(BLOCK)
    near, distance = np.empty(BLOCK, np.int32), np.empty(BLOCK)
    f, slope, dwidth = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    exponent, scaled, overlap, steepness = (
        np.empty(BLOCK),
        np.empty(BLOCK),
        np.empty(BLOCK, np.int32),
        np.empty(BLOCK),
    )
    parts, ends = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int64)
    # Not added to `cell` at once: another thread's lies in the same cache line.
    cell_here, collected, zero = np.zeros((3, 3)), np.empty(4), vectors.fill(0.0, 4)
    flipped = vectors.with_last(vectors.fill(-1.0, 4), 1.0)
    row = first
    at = start[first]
    while row < last:
        # A block of pairs: all of some rows, or a part of one.
        begin, filled, segments = at, 0, 0
        while row < last and filled < BLOCK:
            take = min(start[row + 1] - at, BLOCK - filled)
            seen = vectors.load(moved, 4 * rows[row, 0], 4)
            for d in range(3):
                seen = vectors.axpy(-float(rows[row, 1 + d]), vectors.load(axes, 4 * d, 4), seen)
            for c in range(take):
                vectors.store(
                    between, 4 * (filled + c), vectors.minus(vectors.load(moved, 4 * j[at + c], 4), seen)
                )
            filled += take
            at += take
            parts[segments], ends[segments] = row, filled
            segments += 1
            if at == start[row + 1]:
                row += 1
        for c in range(filled):
            squared[c] = (
                between[c, 0] * between[c, 0] + between[c, 1] * between[c, 1] + between[c, 2] * between[c, 2]
            )
        for c in range(filled, min(BLOCK, filled + _WIDTH)):
            squared[c] = np.inf
        count = 0
        for c in range(0, filled, _WIDTH):
            r2 = vectors.load(squared, c, _WIDTH)
            inside = vectors.below(r2, limit)
            vectors.keep(distance, count, r2, inside)
            vectors.keep_index(near, count, places, c, inside)
            count += vectors.count(inside)
        for c in range(count):
            distance[c] = math.sqrt(distance[c])
            f[c], derivative = erfc_and_slope(alpha * distance[c])
            slope[c] = alpha * derivative
        if gaussian:
            c = 0
            for g in range(segments):
                mine = s[rows[parts[g], 0]]
                while c < count and near[c] < ends[g]:
                    other = s[j[begin + near[c]]]
                    exponent[c] = mine * mine + other * other
                    c += 1
            for c in range(count):
                # Infinite between two points.
                exponent[c] = 1.0 / math.sqrt(2.0 * exponent[c])
                scaled[c] = exponent[c] * distance[c]
                dwidth[c] = 0.0
            for c in range(count, min(BLOCK, count + _WIDTH)):
                scaled[c] = np.inf
            overlapping = 0
            for c in range(0, count, _WIDTH):
                reach = vectors.load(scaled, c, _WIDTH)
                inside = vectors.below(reach, _GAUSSIAN_END)
                vectors.keep(scaled, overlapping, reach, inside)
                vectors.keep_index(overlap, overlapping, places, c, inside)
                overlapping += vectors.count(inside)
            for m in range(overlapping):
                scaled[m], steepness[m] = erfc_and_slope(scaled[m])
            for m in range(overlapping):
                c = overlap[m]
                e, derivative = exponent[c], steepness[m]
                f[c] -= scaled[m]
                slope[c] -= e * derivative
                # d/dg of -erfc(g r)/r is -erfc'(g r), and dg/ds_i = -2 g³ s_i.
                dwidth[c] = -2.0 * e * e * e * derivative
        for c in range(count):
            inverse = 1.0 / distance[c]
            value = f[c] * inverse
            slope[c] = sign * ((slope[c] - value) * inverse - edge_slope) * inverse
            f[c] = sign * (value - edge - edge_slope * (distance[c] - origin))
        c = 0
        for g in range(segments):
            place = np.int64(rows[parts[g], 0])
            charge = moved[place, 3]
            mine = zero
            while c < count and near[c] < ends[g]:
                other = np.int64(j[begin + near[c]])
                pair = vectors.with_last(
                    vectors.axpy(slope[c], vectors.load(between, 4 * near[c], 4), zero), f[c]
                )
                vectors.store(field, 4 * other, vectors.axpy(charge, pair, vectors.load(field, 4 * other, 4)))
                mine = vectors.axpy(moved[other, 3], pair, mine)
                if len(width) > 0:
                    w = -sign * charge * moved[other, 3] * dwidth[c]
                    width[place] += w * s[place]
                    width[other] += w * s[other]
                c += 1
            vectors.store(field, 4 * place, vectors.fma(mine, flipped, vectors.load(field, 4 * place, 4)))
            vectors.store(collected, 0, mine)
            for d in range(3):
                shift = charge * rows[parts[g], 1 + d]
                for e in range(3):
                    cell_here[d, e] += shift * collected[e]
    for d in range(3):
        for e in range(3):
            cell[d, e] += cell_here[d, e]


@kernel(FUSED)
def _collect(
    begin: int,
    end: int,
    moved: Floats,
    order: Short,
    base: Short,
    field: Floats,
    cell: Floats,
    gradient: Floats,
    potential: Floats,
    energies: Floats,
) -> None:
    """Derivatives by the positions and charges of the atoms as they are, of the places begin..end.

    Their share of the energy is put into energies (1,), and what they add to the derivative by the cell is added to it.
    """
    energy = 0.0
    for k in range(begin, end):
        a, q, e = order[k], moved[k, 3], 0.0
        for c in range(len(field)):
            e += field[c, k, 3]
        energy += q * e
        if len(potential) > 0:
            potential[a] = e
        if len(gradient) > 0:
            for d in range(3):
                g = 0.0
                for c in range(len(field)):
                    g += field[c, k, d]
                gradient[a, d] = q * g
            for d in range(3):
                if base[k, d] != 0:
                    for c in range(3):
                        cell[d, c] -= base[k, d] * gradient[a, c]
    energies[0] = 0.5 * energy


@kernel()
def _first_pairs(i: Short, j: Short, shifts: Short) -> tuple[Short, Ints]:
    """Rows and their first pairs of listed pairs: a new one wherever atom or shift change."""
    rows, start = np.empty((len(i), 4), np.int32), np.empty(len(i) + 1, np.int64)
    count = 0
    for k in range(len(i)):
        same = k > 0 and i[k] == i[k - 1]
        for d in range(3):
            same = same and shifts[k, d] == shifts[k - 1, d]
        if not same:
            rows[count, 0], start[count] = i[k], k
            for d in range(3):
                rows[count, 1 + d] = shifts[k, d]
            count += 1
    start[count] = len(i)
    return rows[:count].copy(), start[: count + 1].copy()


def as_rows(atoms: int, i: Short, j: Short, shifts: Short) -> PairRows:
    """Pairs given by their atoms in the short form: every atom in its own place."""
    rows, start = _first_pairs(i, j, shifts)
    none = np.zeros((0, 5), np.int32)
    every, unmoved = np.arange(atoms, dtype=np.int32), np.zeros((atoms, 3), np.int32)
    return PairRows(every, unmoved, (Piece(rows, start, j),), none)


class PairSum:
    """`pairs.screened_energy` of one list, for any positions and charges; its arrays and tasks are made once.

    Every thread has a field of its own; its pairs come in pieces, one after the other, so that a thread that waits
    for another sum finds something to do.

    Args:
        x: (n,3) Å; q: (n,) e; both are read whenever the sum is asked for.
        h: (3,3) rows in Å; s: (n,) Å; pairs: the list; these must not change.
        alpha: splitting in 1/Å; cutoff: Å; shift: whether the terms at the cut-off are there.
        widths: whether derivatives by the widths will be wanted.
        less: pairs whose bare interaction is taken away, at whatever distance.
    """

    def __init__(
        self,
        x: Floats,
        q: Floats,
        h: Floats,
        s: Floats,
        pairs: PairRows,
        alpha: float,
        cutoff: float,
        shift: bool,
        widths: bool = False,
        less: PairRows | None = None,
    ) -> None:
        self._x, self._q, self._h, self.pairs, self.less = x, q, h, pairs, less
        edge, slope = shift_terms(alpha, cutoff) if shift else (0.0, 0.0)
        # Unshifted, the cut-off may be infinite: 0 times infinity must not appear.
        self._terms = (alpha, cutoff * cutoff, cutoff if shift else 0.0, edge, slope)
        self._gaussian, self._widths = bool(s.any()), widths
        self._spread = s[pairs.order] if self._gaussian else np.empty(0)
        self._axes = np.zeros((3, 4))
        self._axes[:, :3] = h
        self._threads = 0

    def __call__(self, forces: bool, potential: bool) -> PairDerivatives:
        """Energy and derivatives, in arrays that the next call overwrites; those by the cell come with the forces."""
        found: PairDerivatives = together(self.steps(forces, potential), small=self.pairs.pairs < 2 * CHUNK)[
            0
        ]
        return found

    def steps(self, forces: bool, potential: bool) -> Steps[PairDerivatives]:
        """The same as one of several sums."""
        if self._threads != available():
            self._divide()
        self._cells[:] = 0.0
        self._width[:] = 0.0
        self._more[:] = 0.0
        yield self._moving
        yield [*self._pieces]
        yield self._collecting(forces, potential)
        by_width = None
        if self._widths:
            by_width = np.zeros(len(self._x))
            by_width[self.pairs.order] = self._width.sum(0) if self._gaussian else 0.0
        return PairDerivatives(
            float(self._energies.sum()),
            self._gradient if forces else None,
            self._potential if potential else None,
            self._cells.sum(0) + self._more.sum(0) if forces else None,
            by_width,
        )

    def _divide(self) -> None:
        """Arrays and tasks for as many threads as there are."""
        pairs, n = self.pairs, len(self._x)
        self._threads = available()
        lanes = len(chunks(pairs.pairs, CHUNK))
        self._moved, self._field = cpu_memory.empty((n, 4)), cpu_memory.empty((lanes, n, 4))
        self._cells = np.empty((lanes, 3, 3))
        self._width = np.empty((lanes, n if self._widths and self._gaussian else 0))
        self._potential, self._gradient = cpu_memory.empty(n), cpu_memory.empty((0, 3))
        self._places = chunks(n, _ATOMS)
        self._energies = np.empty((len(self._places), 1))
        self._more = np.empty((len(self._places), 3, 3))
        move = (self._x, self._q, self._h, pairs.order, pairs.base, self._moved, self._field)
        self._moving: list[Lane] = [[partial(_move, a, b, *move)] for a, b in self._places]
        where = (self._moved, self._spread, self._axes, np.arange(BLOCK, dtype=np.int32))
        least = 1 if lanes == 1 else lanes * min(_PIECES, pairs.pairs // (lanes * CHUNK))
        own = list(zip(self._field, self._cells, self._width))
        self._pieces: list[list[Task]] = [
            [partial(_chunk, a, b, *where, *piece, *self._terms, 1.0, *own[c]) for piece, a, b in lane]
            for c, lane in enumerate(_shared(pairs.pieces, lanes, least))
        ]
        if self.less is not None and self.less.pairs:
            less = _at_places_of(self.less, pairs)
            bare = (*where, *less, *_BARE, -1.0)
            self._pieces[0] = [partial(_chunk, 0, len(less.rows), *bare, *own[0]), *self._pieces[0]]
        self._tasks: dict[tuple[bool, bool], list[Lane]] = {}

    def _collecting(self, forces: bool, potential: bool) -> list[Lane]:
        """The last stage, made once for what is wanted."""
        key = (forces, potential)
        if key not in self._tasks:
            if forces and len(self._gradient) == 0:
                self._gradient = cpu_memory.empty((len(self._x), 3))
            gradient = self._gradient if forces else _NO_GRADIENT
            at_atoms = self._potential if potential else _NO_POTENTIAL
            given = (self._moved, self.pairs.order, self.pairs.base, self._field)
            self._tasks[key] = [
                [partial(_collect, a, b, *given, self._more[c], gradient, at_atoms, self._energies[c])]
                for c, (a, b) in enumerate(self._places)
            ]
        return self._tasks[key]


def _at_places_of(listed: PairRows, other: PairRows) -> Piece:
    """Rows, first pairs and second places of a list, between the places and moved atoms of another list of the same atoms."""
    place = np.empty_like(other.order)
    place[other.order] = np.arange(len(place), dtype=np.int32)
    i, j, shifts = listed.triples()
    first, second = place[i], place[j]
    rows, start = _first_pairs(first, second, shifts + other.base[second] - other.base[first])
    return Piece(rows, start, second)


def _shared(pieces: tuple[Piece, ...], lanes: int, least: int) -> list[list[tuple[Piece, int, int]]]:
    """For every lane pieces and ranges of their rows, with equally many pairs in each lane; in all about `least` parts."""
    shares: list[list[tuple[Piece, int, int]]] = [[] for _ in range(lanes)]
    total, before = sum(len(piece.j) for piece in pieces), 0
    for piece in pieces:
        pairs = len(piece.j)
        count = max(1, round(least * pairs / max(total, 1)))
        # Cut where the pairs of a lane end, too; rounded up, so that what begins there belongs to the next one.
        ends = (-(-total * c // lanes) - before for c in range(1, lanes))
        cuts = sorted({-(-pairs * k // count) for k in range(count)} | {c for c in ends if 0 < c < pairs})
        edges = [*np.searchsorted(piece.start[:-1], cuts).tolist(), len(piece.rows)]
        for cut, (a, b) in zip(cuts, itertools.pairwise(edges)):
            if b > a:
                shares[(before + cut) * lanes // total].append((piece, a, b))
        before += pairs
    return shares
