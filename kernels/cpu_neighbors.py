"""Half lists of neighbour pairs on the CPU: atoms sorted into bins, bins searched around every atom.

Bins are slices of the cell of about half the cut-off. A row of bins along the third vector is contiguous in
memory, so the atoms near one atom lie in a few long runs. Every image needed is visited, also in cells smaller
than the cut-off. Of the two directions of a pair the one is kept that looks ahead: to an image in a later cell,
or, in the same cell, to an atom in a later place of the bins; half of the runs need not be visited. Atoms are
taken in their order: pairs come out sorted by the first atom, in an order that depends on nothing but the
geometry.
"""

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
        Each pair in one of its two directions, sorted by i.

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
    counts = np.maximum(np.floor(counts * min(1.0, (_MOST_BINS * len(x) / counts.prod()) ** (1 / 3))), 1.0)
    # Rounding may put an atom at the edge of a bin into the next one.
    exact = cutoff * counts / thickness + 1e-6
    reach = np.ceil(np.where(repeats, exact, np.minimum(exact, counts))).astype(np.int64)
    bins = np.clip(((fractional - low) / width * counts).astype(np.int64), 0, counts.astype(np.int64) - 1)
    size = counts.astype(np.int64)
    start, order, place = _sort_into_bins(bins, size)
    wrapped = np.ascontiguousarray((x - base @ frame)[order].T)
    shifts = base.astype(np.int32)
    density = min(len(x) / max(float(np.prod(thickness)), 1e-9), _DENSEST)
    guess = _ROOM * density * 2.0 * np.pi / 3.0 * cutoff**3
    ranges = chunks(len(x), _CHUNK)
    tasks: list[Callable[[], object]] = [
        partial(
            _search, a, b, x, wrapped, frame, shifts, bins, size, reach, repeats, start, order, place,
            cutoff * cutoff, int(min(guess, len(x)) * (b - a)) + 1000,
        )
        for a, b in ranges
    ]  # fmt: skip
    parts = cast(list[tuple[Short, Short, Short]], run(tasks))
    if len(parts) == 1:
        return parts[0]
    first, second, images = zip(*parts)
    return np.concatenate(first), np.concatenate(second), np.concatenate(images)


def _complete(cell: Floats, repeats: NDArray[np.bool_]) -> Floats:
    """The cell with unit vectors, orthogonal to all others, in the directions that do not repeat."""
    frame = cell.copy()
    free = np.flatnonzero(~repeats)
    if len(free):
        # The last right singular vectors span what the repeating ones leave.
        frame[free] = np.linalg.svd(cell[repeats], full_matrices=True)[2][3 - len(free) :]
    return frame


@numba.njit(cache=True, nogil=True)
def _sort_into_bins(bins: Ints, size: Ints) -> tuple[Ints, Ints, Ints]:
    """First place of every bin (bins + 1,), the atoms in the order of their bins, and the place of each (n,)."""
    flat = np.empty(len(bins), np.int64)
    start = np.zeros(size[0] * size[1] * size[2] + 1, np.int64)
    for a in range(len(bins)):
        flat[a] = (bins[a, 0] * size[1] + bins[a, 1]) * size[2] + bins[a, 2]
        start[flat[a] + 1] += 1
    for b in range(1, len(start)):
        start[b] += start[b - 1]
    free = start.copy()
    order, place = np.empty(len(bins), np.int64), np.empty(len(bins), np.int64)
    for a in range(len(bins)):
        place[a] = free[flat[a]]
        order[place[a]] = a
        free[flat[a]] += 1
    return start, order, place


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"}, error_model="numpy")
def _search(
    first: int,
    last: int,
    x: Floats,
    wrapped: Floats,
    h: Floats,
    base: Short,
    bins: Ints,
    size: Ints,
    reach: Ints,
    repeats: NDArray[np.bool_],
    start: Ints,
    order: Ints,
    place: Ints,
    limit: float,
    room: int,
) -> tuple[Short, Short, Short]:
    """Pairs of the atoms first..last with all that lie ahead."""
    out_i, out_j, out = np.empty(room, np.int32), np.empty(room, np.int32), np.empty((room, 3), np.int32)
    n, n1, n2, n3 = len(x), size[0], size[1], size[2]
    squared, near = np.empty(n), np.empty(n, np.int64)
    wx, wy, wz = wrapped[0], wrapped[1], wrapped[2]
    total = 0
    for a in range(first, last):
        b1, b2, b3 = base[a, 0], base[a, 1], base[a, 2]
        px = x[a, 0] - (b1 * h[0, 0] + b2 * h[1, 0] + b3 * h[2, 0])
        py = x[a, 1] - (b1 * h[0, 1] + b2 * h[1, 1] + b3 * h[2, 1])
        pz = x[a, 2] - (b1 * h[0, 2] + b2 * h[1, 2] + b3 * h[2, 2])
        for u in range(bins[a, 0] - reach[0], bins[a, 0] + reach[0] + 1):
            s1 = u // n1
            if s1 < 0 or (s1 > 0 and not repeats[0]):
                continue
            for v in range(bins[a, 1] - reach[1], bins[a, 1] + reach[1] + 1):
                s2 = v // n2
                if (s1 == 0 and s2 < 0) or (s2 != 0 and not repeats[1]):
                    continue
                row = ((u - s1 * n1) * n2 + v - s2 * n2) * n3
                low, high = bins[a, 2] - reach[2], bins[a, 2] + reach[2] + 1
                if not repeats[2]:
                    low, high = max(low, 0), min(high, n3)
                if s1 == 0 and s2 == 0:
                    low = max(low, 0)
                while low < high:
                    # One run: the bins up to the next face of the cell.
                    s3 = low // n3
                    end = min(high, (s3 + 1) * n3)
                    begin, stop = start[row + low - s3 * n3], start[row + end - s3 * n3]
                    if s1 == 0 and s2 == 0 and s3 == 0:
                        begin = max(begin, place[a] + 1)
                    low = end
                    ox = s1 * h[0, 0] + s2 * h[1, 0] + s3 * h[2, 0] - px
                    oy = s1 * h[0, 1] + s2 * h[1, 1] + s3 * h[2, 1] - py
                    oz = s1 * h[0, 2] + s2 * h[1, 2] + s3 * h[2, 2] - pz
                    for k in range(stop - begin):
                        dx, dy, dz = wx[begin + k] + ox, wy[begin + k] + oy, wz[begin + k] + oz
                        squared[k] = dx * dx + dy * dy + dz * dz
                    count = 0
                    for k in range(stop - begin):
                        # Written always, kept when near: no branch to mispredict.
                        near[count] = order[begin + k]
                        count += 1 if squared[k] < limit else 0
                    if total + count > len(out_i):
                        out_i, out_j, out = _longer(out_i, out_j, out, total + count)
                    for c in range(count):
                        b = near[c]
                        out_i[total], out_j[total] = a, b
                        out[total, 0] = s1 + b1 - base[b, 0]
                        out[total, 1] = s2 + b2 - base[b, 1]
                        out[total, 2] = s3 + b3 - base[b, 2]
                        total += 1
    return out_i[:total], out_j[:total], out[:total]


@numba.njit(cache=True, nogil=True)
def _longer(i: Short, j: Short, shifts: Short, least: int) -> tuple[Short, Short, Short]:
    """The arrays with room for twice as many pairs, or `least` if that is more."""
    room = max(2 * len(i), least)
    out_i, out_j, out = np.empty(room, np.int32), np.empty(room, np.int32), np.empty((room, 3), np.int32)
    out_i[: len(i)], out_j[: len(i)], out[: len(i)] = i, j, shifts
    return out_i, out_j, out
