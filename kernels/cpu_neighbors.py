"""Half lists of neighbour pairs on the CPU: atoms sorted into bins, bins searched around every atom.

Bins are slices of the cell of about half the cut-off. A row of bins along the third vector is contiguous in
memory, so the atoms near one atom lie in a few long runs. Every image needed is visited, also in cells smaller
than the cut-off. Of the two directions of a pair the one is kept that looks ahead: to an image in a later cell,
or, in the same cell, to an atom in a later place of the bins; half of the runs need not be visited. Atoms are
taken bin by bin: the pairs of an atom stand together, near those of its neighbours in space, in an order that
depends on nothing but the geometry.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import cast

import numba
import numpy as np
from numpy.typing import NDArray

from grahame.kernels.threads import chunks, run

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Short = NDArray[np.int32]

_CHUNK = 2000  # atoms below which a second thread does not pay
_MOST_BINS = 4.0  # bins per atom, at most
_FARTHEST = 1e6  # cells; beyond, positions have lost the digits that forces need
_DENSEST = 0.15  # atoms per Å³ that memory is taken for at once
_ROOM = 1.15  # memory taken for pairs, relative to those of a uniform density


def half_pairs(
    x: Floats, cell: Floats, periodic: tuple[bool, bool, bool], cutoff: float
) -> tuple[Short, Short, Short]:
    """i (p,), j (p,) and shifts (p,3) of all pairs with |x_j + S @ cell - x_i| < cutoff, each once.

    Args:
        x: (n,3) Å, n > 0.
        cell: (3,3) rows in Å, zero in the directions that do not repeat.
        periodic: which cell vectors repeat the atoms.
        cutoff: Å.

    Returns:
        Each pair in one of its two directions; those of one i stand together.

    Raises:
        ValueError: for atoms too many cells away from the origin.
    """
    repeats = np.asarray(periodic, dtype=bool)
    frame = _complete(cell, repeats)
    fractional = x @ np.linalg.inv(frame)
    base = np.where(repeats, np.floor(fractional), 0.0)
    far = np.flatnonzero(np.abs(base).max(axis=1) > _FARTHEST)
    if len(far):
        raise ValueError(
            f"positions[{far[0]}] = {x[far[0]]} Å must lie within {_FARTHEST:g} cells of the origin: "
            "wrap the atoms into the cell"
        )
    fractional -= base
    # Directions that do not repeat are cut where the atoms are.
    low = np.where(repeats, 0.0, fractional.min(axis=0))
    width = np.where(repeats, 1.0, np.maximum(fractional.max(axis=0) - low, 1e-9))
    thickness = width / np.linalg.norm(np.linalg.inv(frame), axis=0)
    counts = np.maximum(np.floor(2.0 * thickness / cutoff), 1.0)
    # Far fewer atoms than bins: no use in looking through empty ones.
    divided = counts > 1.0
    fewer = min(1.0, _MOST_BINS * len(x) / counts.prod()) ** (1.0 / max(1, int(divided.sum())))
    counts = np.where(divided, np.maximum(np.floor(counts * fewer), 1.0), counts)
    # Rounding may put an atom at the edge of a bin into the next one.
    exact = cutoff * counts / thickness + 1e-6
    reach = np.ceil(np.where(repeats, exact, np.minimum(exact, counts))).astype(np.int64)
    bins = np.clip(((fractional - low) / width * counts).astype(np.int64), 0, counts.astype(np.int64) - 1)
    size = counts.astype(np.int64)
    start, order = _sort_into_bins(bins, size)
    wrapped = np.ascontiguousarray((x - base @ frame)[order].T)
    shifts = np.ascontiguousarray(base.astype(np.int32)[order].T)
    density = min(len(x) / max(float(np.prod(thickness)), 1e-9), _DENSEST)
    guess = min(_ROOM * density * 2.0 * np.pi / 3.0 * cutoff**3, len(x))
    around = int(np.prod(2 * reach + 1)) * int(np.diff(start).max())
    parts = _bins_of_chunks(start, len(chunks(len(x), _CHUNK)))
    tasks: list[Callable[[], object]] = [
        partial(
            _search, a, b, wrapped, frame, shifts, size, reach, repeats, start, order,
            cutoff * cutoff, int(guess * (start[b] - start[a])) + 1000, around,
        )
        for a, b in parts
    ]  # fmt: skip
    found = cast(list[tuple[Short, Short, Short]], run(tasks))
    if len(found) == 1:
        return found[0]
    first, second, images = zip(*found)
    return np.concatenate(first), np.concatenate(second), np.concatenate(images)


def _bins_of_chunks(start: Ints, count: int) -> list[tuple[int, int]]:
    """Ranges of bins with about equally many atoms."""
    atoms = start[-1]
    edges = [int(np.searchsorted(start, atoms * c // count)) for c in range(count)] + [len(start) - 1]
    edges[0] = 0
    return [(a, b) for a, b in itertools.pairwise(edges) if b > a]


def _complete(cell: Floats, repeats: NDArray[np.bool_]) -> Floats:
    """The cell with unit vectors, orthogonal to all others, in the directions that do not repeat."""
    frame = cell.copy()
    free = np.flatnonzero(~repeats)
    if len(free):
        # The last right singular vectors span what the repeating ones leave.
        frame[free] = np.linalg.svd(cell[repeats], full_matrices=True)[2][3 - len(free) :]
    return frame


@numba.njit(cache=True, nogil=True)
def _sort_into_bins(bins: Ints, size: Ints) -> tuple[Ints, Ints]:
    """First place of every bin (bins + 1,), and the atoms (n,) in the order of their bins."""
    flat = np.empty(len(bins), np.int64)
    start = np.zeros(size[0] * size[1] * size[2] + 1, np.int64)
    for a in range(len(bins)):
        flat[a] = (bins[a, 0] * size[1] + bins[a, 1]) * size[2] + bins[a, 2]
        start[flat[a] + 1] += 1
    for b in range(1, len(start)):
        start[b] += start[b - 1]
    free = start.copy()
    order = np.empty(len(bins), np.int64)
    for a in range(len(bins)):
        order[free[flat[a]]] = a
        free[flat[a]] += 1
    return start, order


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"}, error_model="numpy")
def _search(
    first: int,
    last: int,
    wrapped: Floats,
    h: Floats,
    base: Short,
    size: Ints,
    reach: Ints,
    repeats: NDArray[np.bool_],
    start: Ints,
    order: Ints,
    limit: float,
    room: int,
    around: int,
) -> tuple[Short, Short, Short]:
    """Pairs of all atoms in the bins first..last with what lies ahead of them.

    Everything around a bin, at most `around` atoms, is copied side by side once, then compared with each of its atoms.
    """
    out_i, out_j, out = np.empty(room, np.int32), np.empty(room, np.int32), np.empty((room, 3), np.int32)
    n1, n2, n3 = size[0], size[1], size[2]
    wx, wy, wz = wrapped[0], wrapped[1], wrapped[2]
    cx, cy, cz = np.empty(around), np.empty(around), np.empty(around)
    atom, image = np.empty(around, np.int32), np.empty((around, 3), np.int32)
    squared, near = np.empty(around), np.empty(around, np.int32)
    total = 0
    for flat in range(first, last):
        if start[flat] == start[flat + 1]:
            continue
        b1, b2, b3 = flat // (n2 * n3), flat // n3 % n2, flat % n3
        count, own = 0, 0
        for u in range(b1 - reach[0], b1 + reach[0] + 1):
            s1 = u // n1
            if s1 < 0 or (s1 > 0 and not repeats[0]):
                continue
            for v in range(b2 - reach[1], b2 + reach[1] + 1):
                s2 = v // n2
                if (s1 == 0 and s2 < 0) or (s2 != 0 and not repeats[1]):
                    continue
                row = ((u - s1 * n1) * n2 + v - s2 * n2) * n3
                low, high = b3 - reach[2], b3 + reach[2] + 1
                if not repeats[2]:
                    low, high = max(low, 0), min(high, n3)
                if s1 == 0 and s2 == 0:
                    low = max(low, 0)
                while low < high:
                    # One run: the bins up to the next face of the cell.
                    s3 = low // n3
                    end = min(high, (s3 + 1) * n3)
                    begin, stop = start[row + low - s3 * n3], start[row + end - s3 * n3]
                    low = end
                    if s1 == 0 and s2 == 0 and s3 == 0:
                        begin = max(begin, start[flat])
                        if begin == start[flat] and begin < stop:
                            own = count
                    ox = s1 * h[0, 0] + s2 * h[1, 0] + s3 * h[2, 0]
                    oy = s1 * h[0, 1] + s2 * h[1, 1] + s3 * h[2, 1]
                    oz = s1 * h[0, 2] + s2 * h[1, 2] + s3 * h[2, 2]
                    for k in range(begin, stop):
                        cx[count], cy[count], cz[count] = wx[k] + ox, wy[k] + oy, wz[k] + oz
                        atom[count] = order[k]
                        image[count, 0] = s1 - base[0, k]
                        image[count, 1] = s2 - base[1, k]
                        image[count, 2] = s3 - base[2, k]
                        count += 1
        for p in range(start[flat], start[flat + 1]):
            px, py, pz = wx[p], wy[p], wz[p]
            for k in range(count):
                dx, dy, dz = cx[k] - px, cy[k] - py, cz[k] - pz
                squared[k] = dx * dx + dy * dy + dz * dz
            # The atom itself and those of its bin that come before it.
            for k in range(own, own + p - start[flat] + 1):
                squared[k] = np.inf
            hits = 0
            for k in range(count):
                # Written always, kept when near: no branch to mispredict.
                near[hits] = k
                hits += 1 if squared[k] < limit else 0
            if total + hits > len(out_j):
                out_i, out_j, out = _longer(out_i, out_j, out, total + hits)
            a, b1p, b2p, b3p = order[p], base[0, p], base[1, p], base[2, p]
            for c in range(hits):
                k = near[c]
                out_i[total + c], out_j[total + c] = a, atom[k]
                out[total + c, 0] = image[k, 0] + b1p
                out[total + c, 1] = image[k, 1] + b2p
                out[total + c, 2] = image[k, 2] + b3p
            total += hits
    return out_i[:total], out_j[:total], out[:total]


@numba.njit(cache=True, nogil=True)
def _longer(i: Short, j: Short, shifts: Short, least: int) -> tuple[Short, Short, Short]:
    """The arrays with room for twice as many pairs, or `least` if that is more."""
    room = max(2 * len(i), least)
    out_i, out_j, out = np.empty(room, np.int32), np.empty(room, np.int32), np.empty((room, 3), np.int32)
    out_i[: len(i)], out_j[: len(i)], out[: len(i)] = i, j, shifts
    return out_i, out_j, out
