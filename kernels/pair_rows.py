"""Lists of neighbour pairs in rows, as the compiled kernels take them.

`PairRows` holds each pair once, in the order of the bins that it was found in; `Rows` holds it in the rows of both of its
atoms, for sums that every atom makes for itself.

With 12,288 atoms on one thread choosing the pairs of marked atoms, sorting by one key and making rows of both atoms reach
a third of the processor's reads at random places (`python -m examples.benchmarks limits`, AVX2).
"""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from grahame.kernels.compiling import kernel

__all__ = ["PairRows", "Piece", "Rows", "full_rows", "stable_order"]

Ints = NDArray[np.int64]
Short = NDArray[np.int32]


class Piece(NamedTuple):
    """Some rows of a list, with the pairs in them.

    Attributes:
        rows: (m,4) place of the first atom and lattice shift of the second ones; rows of one place stand together.
        start: (m+1,) first pair of every row, in int64.
        j: (p,) place of the second atom of every pair.
    """

    rows: Short
    start: Ints
    j: Short


@dataclass(frozen=True)
class PairRows:
    """A half list in rows: the pairs of one first atom with one lattice shift stand together.

    Atoms are counted by their places in the order of the bins, so that those of one row lie near each other in
    memory. The atom of place k is moved by -base[k] lattice vectors, and shifts are those between moved atoms.

    Attributes:
        order: (n,) the atom of every place, in int32 as all but `start`.
        base: (n,3) lattice vectors taken from the atom of every place.
        pieces: the rows, in the pieces that threads found them in; one after the other they do not depend on the number.
        near: (k,5) place of the first atom, place and shift of the second, of pairs below the smaller cut-off.
    """

    order: Short
    base: Short
    pieces: tuple[Piece, ...]
    near: Short

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return sum(len(piece.j) for piece in self.pieces)

    def joined(self) -> Piece:
        """All rows as one piece; copies where there are several."""
        if len(self.pieces) == 1:
            return self.pieces[0]
        before = itertools.accumulate((len(piece.j) for piece in self.pieces), initial=0)
        starts = [piece.start[:-1] + k for piece, k in zip(self.pieces, before)]
        return Piece(
            np.concatenate([piece.rows for piece in self.pieces]),
            np.concatenate([*starts, [self.pairs]]),
            np.concatenate([piece.j for piece in self.pieces]),
        )

    def triples(self) -> tuple[Short, Short, Short]:
        """i (p,), j (p,) and shifts (p,3) of all pairs, between the atoms as they are."""
        rows, start, j = self.joined()
        counts = np.diff(start)
        return self._unsorted(np.repeat(rows[:, 0], counts), j, np.repeat(rows[:, 1:], counts, axis=0))

    def near_triples(self) -> tuple[Short, Short, Short]:
        """The same of the pairs in `near`."""
        return _near_triples(self.near, self.order, self.base)

    def with_atoms(self, marked: NDArray[np.bool_]) -> "PairRows":
        """The pairs of which one atom, or both, are marked; `near` is left out.

        Args:
            marked: (n,) by atom.
        """
        places, none = marked[self.order], np.zeros((0, 5), np.int32)
        some = tuple(Piece(*_rows_with(places, *piece)) for piece in self.pieces)
        # They are few now: one piece is less to look after.
        one = PairRows(self.order, self.base, some, none).joined()
        return PairRows(self.order, self.base, (one,), none)

    def _unsorted(self, first: Short, second: Short, shifts: Short) -> tuple[Short, Short, Short]:
        shifts += self.base[first]
        shifts -= self.base[second]
        return self.order[first], self.order[second], shifts


@kernel()
def _near_triples(near: Short, order: Short, base: Short) -> tuple[Short, Short, Short]:
    """i, j and shifts, between the atoms as they are, of places and shifts (k,5) between moved ones."""
    i, j, shifts = (
        np.empty(len(near), np.int32),
        np.empty(len(near), np.int32),
        np.empty((len(near), 3), np.int32),
    )
    for k in range(len(near)):
        first, second = near[k, 0], near[k, 1]
        i[k], j[k] = order[first], order[second]
        for d in range(3):
            shifts[k, d] = near[k, 2 + d] + base[first, d] - base[second, d]
    return i, j, shifts


@kernel()
def _rows_with(marked: NDArray[np.bool_], rows: Short, start: Ints, j: Short) -> tuple[Short, Ints, Short]:
    """Rows, their first pairs and second places of the pairs with a marked place; rows without one are dropped.

    Limited by reading marks at random places, at a third of what the processor does.
    """
    found, first, second = np.empty_like(rows), np.empty(len(start), np.int64), np.empty(len(j), np.int32)
    count, kept = 0, 0
    first[0] = 0
    for row in range(len(rows)):
        own, before = marked[rows[row, 0]], count
        for k in range(start[row], start[row + 1]):
            # Written always, kept when marked: no branch to mispredict.
            second[count] = j[k]
            count += 1 if own or marked[j[k]] else 0
        if count > before:
            for d in range(4):
                found[kept, d] = rows[row, d]
            kept += 1
            first[kept] = count
    return found[:kept].copy(), first[: kept + 1].copy(), second[:count].copy()


@dataclass(frozen=True)
class Rows:
    """Neighbours of every atom, each pair in the rows of both atoms.

    Attributes:
        start: (n + 1,) where the row of each atom begins.
        j: (2p,) neighbours; shifts: (2p,3) their lattice shifts.
    """

    start: Ints
    j: Short
    shifts: Short


def full_rows(atoms: int, i: Short, j: Short, shifts: Short) -> Rows:
    """Rows of a half list; neighbours keep the order of the list."""
    start = np.zeros(atoms + 1, np.int64)
    np.cumsum(np.bincount(i, minlength=atoms) + np.bincount(j, minlength=atoms), out=start[1:])
    other, moved = np.empty(2 * len(i), np.int32), np.empty((2 * len(i), 3), np.int32)
    _place_both(i, j, shifts, start, other, moved)
    return Rows(start, other, moved)


@kernel()
def _place_both(i: Short, j: Short, shifts: Short, start: Ints, other: Short, moved: Short) -> None:
    """Every pair into the rows of both atoms; limited by reading and writing at random places."""
    free = start.copy()
    for k in range(len(i)):
        a, b = free[i[k]], free[j[k]]
        if i[k] == j[k]:
            b += 1
        other[a], other[b] = j[k], i[k]
        for d in range(3):
            moved[a, d] = shifts[k, d]
            moved[b, d] = -shifts[k, d]
        free[i[k]] += 1
        free[j[k]] += 1


@kernel()
def stable_order(keys: Short, order: Short, n: int) -> Short:
    """`order` sorted by keys in 0..n-1, equal keys left in their order (counting sort)."""
    start = np.zeros(n + 1, np.int64)
    for k in range(len(keys)):
        start[keys[k] + 1] += 1
    for a in range(n):
        start[a + 1] += start[a]
    out = np.empty(len(order), np.int32)
    for k in range(len(order)):
        a = keys[order[k]]
        out[start[a]] = order[k]
        start[a] += 1
    return out
