"""Half lists of neighbour pairs on the CPU: atoms sorted into bins, bins searched around every atom.

Bins are slices of the cell of about half the cut-off. A row of bins along the third vector is contiguous in
memory, so the atoms near one atom lie in a few long runs. Every image needed is visited, also in cells smaller
than the cut-off. Of the two directions of a pair the one is kept that looks ahead: to an image in a later cell,
or, in the same cell, to an atom in a later place of the bins; half of the runs need not be visited. Atoms are
taken bin by bin: the pairs of an atom stand together, near those of its neighbours in space, in an order that
depends on nothing but the geometry.

The search is limited by flops, at an eighth of what the processor does, sorting into bins by counting and writing at
random places, at a thirtieth and half (`python -m examples.benchmarks limits`: 12,288 atoms, one thread, AVX2).
"""

import itertools
from functools import partial

import numpy as np
from numpy.typing import NDArray

from grahame.kernels import cpu_memory, vectors
from grahame.kernels.compiling import FUSED, kernel
from grahame.kernels.pair_rows import PairRows, Piece
from grahame.kernels.threads import Steps, chunks, together

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Short = NDArray[np.int32]

_CHUNK = 2000  # atoms below which a second thread does not pay
_PIECES = 6  # of the search of one thread
_MOST_BINS = 4.0  # bins per atom, at most
_FARTHEST = 1e6  # cells; beyond, positions have lost the digits that forces need
_DENSEST = 0.15  # atoms per Å³ that memory is taken for at once
_ROOM = 1.15  # memory taken for pairs, relative to those of a uniform density
_WIDTH = 8  # atoms that are compared at once


def half_rows(
    x: Floats, cell: Floats, periodic: tuple[bool, bool, bool], cutoff: float, touching: float = 0.0
) -> PairRows:
    """All pairs with |x_j + S @ cell - x_i| < cutoff, each once, in one of its two directions.

    Args:
        x: (n,3) Å, n > 0.
        cell: (3,3) rows in Å, zero in the directions that do not repeat.
        periodic: which cell vectors repeat the atoms.
        cutoff: Å.
        touching: Å, at most the cut-off; closer pairs are listed in `near` as well.

    Raises:
        ValueError: for atoms too many cells away from the origin.
    """
    repeats = np.asarray(periodic, dtype=bool)
    frame = _complete(cell, repeats)
    inverse = np.ascontiguousarray(np.linalg.inv(frame))
    # Directions that do not repeat are cut where the atoms are.
    low, width = np.zeros(3), np.ones(3)
    for d in np.flatnonzero(~repeats):
        along = x @ inverse[:, d]
        low[d] = along.min()
        width[d] = max(along.max() - low[d], 1e-9)
    thickness = width / np.linalg.norm(inverse, axis=0)
    counts = np.maximum(np.floor(2.0 * thickness / cutoff), 1.0)
    # Far fewer atoms than bins: no use in looking through empty ones.
    divided = counts > 1.0
    fewer = min(1.0, _MOST_BINS * len(x) / counts.prod()) ** (1.0 / max(1, int(divided.sum())))
    counts = np.where(divided, np.maximum(np.floor(counts * fewer), 1.0), counts)
    # Rounding may put an atom at the edge of a bin into the next one.
    exact = cutoff * counts / thickness + 1e-6
    reach = np.ceil(np.where(repeats, exact, np.minimum(exact, counts))).astype(np.int64)
    size = counts.astype(np.int64)
    cells = (inverse, frame, repeats, low, counts / width, size)
    density = min(len(x) / max(float(np.prod(thickness)), 1e-9), _DENSEST)
    guess = min(_ROOM * density * 2.0 * np.pi / 3.0 * cutoff**3, len(x))
    found: PairRows = together(_steps(x, cells, reach, cutoff, touching, guess), small=len(x) < 2 * _CHUNK)[0]
    return found


def _steps(
    x: Floats,
    cells: tuple[Floats, Floats, NDArray[np.bool_], Floats, Floats, Ints],
    reach: Ints,
    cutoff: float,
    touching: float,
    guess: float,
) -> Steps[PairRows]:
    """`half_rows` with the bins chosen, and memory for `guess` pairs of every atom."""
    inverse, frame, repeats, low, scale, size = cells
    n, parts = len(x), chunks(len(x), _CHUNK)
    flat, far, free = (
        np.empty(n, np.int32),
        np.empty(len(parts), np.int64),
        np.empty((len(parts), size.prod()), np.int32),
    )
    yield [
        [partial(_count_bins, a, b, x, inverse, repeats, low, scale, size, flat, free[c], far[c : c + 1])]
        for c, (a, b) in enumerate(parts)
    ]
    if far.max() >= 0:
        lost = int(far[far >= 0][0])
        raise ValueError(
            f"positions[{lost}] = {x[lost]} Å must lie within {_FARTHEST:g} cells of the origin: "
            "wrap the atoms into the cell"
        )
    start = first_places(free)
    order, base = cpu_memory.empty(n, np.int32), cpu_memory.empty((n, 3), np.int32)
    moved = cpu_memory.empty((3, n + _WIDTH))
    moved[:, n:] = 0.0
    yield [
        [partial(_place, a, b, x, inverse, frame, repeats, flat, free[c], order, base, moved)]
        for c, (a, b) in enumerate(parts)
    ]
    images = int(np.prod(np.where(repeats, 2 * reach // size + 2, 1)))
    around = int(np.prod(2 * reach + 1)) * int(np.diff(start).max()) + (images + 1) * _WIDTH
    places = np.arange(n + _WIDTH, dtype=np.int32)
    bins = _bins_of_chunks(start, len(parts) * (_PIECES if len(parts) > 1 else 1))
    # One block of memory, in which every piece begins where it should have enough of it.
    begins = [int(guess * start[a]) + 1000 * k for k, (a, _) in enumerate(bins)]
    memory = cpu_memory.empty(int(guess * n) + 1000 * len(bins), np.int32)
    found: list[tuple[Short, int, Ints, Short, int, Short, int]] = [None] * len(bins)  # type: ignore[list-item]

    def search(k: int, room: Short) -> None:
        found[k] = _search(
            *bins[k], moved, frame, size, reach, repeats, start, cutoff * cutoff, touching * touching, room, around,
            images, places,
        )  # fmt: skip

    rooms = [memory[a:b] for a, b in itertools.pairwise([*begins, len(memory)])]
    yield [[partial(search, k, room)] for k, room in enumerate(rooms)]
    # Left where they were found: to join them would pass all pairs through memory once more.
    pieces = tuple(
        Piece(row[: 4 * rows].reshape(-1, 4), begins_of[: rows + 1], second[:pairs])
        for row, rows, begins_of, second, pairs, _, _ in found
    )
    near = np.concatenate([close[: 5 * touch] for *_, close, touch in found]).reshape(-1, 5)
    return PairRows(order, base, pieces, near)


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


@kernel()
def _count_bins(
    begin: int,
    end: int,
    x: Floats,
    inverse: Floats,
    repeats: NDArray[np.bool_],
    low: Floats,
    scale: Floats,
    size: Ints,
    flat: Short,
    count: Short,
    far: Ints,
) -> None:
    """The bin of every atom begin..end, how many are in each, and an atom too far away (or -1)."""
    count[:] = 0
    far[0] = -1
    for a in range(begin, end):
        bin_of = 0
        for d in range(3):
            u = x[a, 0] * inverse[0, d] + x[a, 1] * inverse[1, d] + x[a, 2] * inverse[2, d]
            cells = np.floor(u) if repeats[d] else 0.0
            if far[0] < 0 and abs(cells) > _FARTHEST:
                far[0] = a
            u = min(max((u - cells - low[d]) * scale[d], 0.0), size[d] - 1.0)
            bin_of = bin_of * size[d] + np.int64(u)
        flat[a] = bin_of
        count[bin_of] += 1


@kernel()
def first_places(counts: Short) -> Ints:
    """Numbers of atoms (parts, bins) -> the first place of each; returns the first place of every bin (bins + 1,).

    So atoms are sorted by counting, in parts: those of one bin stand in their order whatever the number of parts.
    """
    start, total = np.empty(counts.shape[1] + 1, np.int64), 0
    for b in range(counts.shape[1]):
        start[b] = total
        for c in range(len(counts)):
            here = counts[c, b]
            counts[c, b] = total
            total += here
    start[-1] = total
    return start


@kernel()
def _place(
    begin: int,
    end: int,
    x: Floats,
    inverse: Floats,
    frame: Floats,
    repeats: NDArray[np.bool_],
    flat: Short,
    free: Short,
    order: Short,
    base: Short,
    moved: Floats,
) -> None:
    """By place: atom, base and moved (3,n + 8), of the atoms begin..end; `free` is the first place of every bin.

    Limited by the latency of memory: atoms may lie anywhere.
    """
    following = free.copy()
    for a in range(begin, end):
        place = following[flat[a]]
        following[flat[a]] += 1
        order[place] = a
        for d in range(3):
            u = x[a, 0] * inverse[0, d] + x[a, 1] * inverse[1, d] + x[a, 2] * inverse[2, d]
            base[place, d] = np.int32(np.floor(u)) if repeats[d] else 0
        for e in range(3):
            moved[e, place] = x[a, e] - (
                base[place, 0] * frame[0, e] + base[place, 1] * frame[1, e] + base[place, 2] * frame[2, e]
            )


@kernel(FUSED | {"nsz"})
def _search(
    first: int,
    last: int,
    moved: Floats,
    h: Floats,
    size: Ints,
    reach: Ints,
    repeats: NDArray[np.bool_],
    start: Ints,
    limit: float,
    touching: float,
    out: Short,
    around: int,
    images: int,
    places: Short,
) -> tuple[Short, int, Ints, Short, int, Short, int]:
    """Pairs of all atoms in the bins first..last with what lies ahead of them.

    The second atoms are put into `out`, or into a longer array if it has no room for them.
    Returns rows (of four), their number, their first pairs and the end of the last, the second atoms, their number, near
    pairs (of five), their number.

    Everything around a bin, at most `around` atoms, is copied side by side once, image by image, then compared with
    each of its atoms. Limited by these comparisons: about four distances for each pair that is kept.
    """
    # In one dimension, and returned whole with the numbers of entries: less to compile.
    rows = np.empty(8 * (start[last] - start[first]) + 256, np.int32)
    starts = np.empty(2 * (start[last] - start[first]) + 64, np.int64)
    starts[0] = 0
    close = np.empty(80, np.int32)
    total, row, closest = 0, 0, 0
    n1, n2, n3 = size[0], size[1], size[2]
    wx, wy, wz = moved[0], moved[1], moved[2]
    # Not empty: what is compared beyond the end of an image must be a number.
    cx, cy, cz, place = np.zeros(around), np.zeros(around), np.zeros(around), np.zeros(around, np.int32)
    begins, ends = np.empty(images, np.int64), np.empty(images, np.int64)
    image = np.empty((images, 3), np.int32)
    for flat in range(first, last):
        own = start[flat]
        if own == start[flat + 1]:
            continue
        b1, b2, b3 = flat // (n2 * n3), flat // n3 % n2, flat % n3
        count, found = 0, 0
        # The cells that the bins around reach into; that of the atom itself comes first, with what lies ahead.
        for s1 in range(0, (b1 + reach[0]) // n1 + 1 if repeats[0] else 1):
            low2, high2 = ((b2 - reach[1]) // n2, (b2 + reach[1]) // n2) if repeats[1] else (0, 0)
            for s2 in range(0 if s1 == 0 else low2, high2 + 1):
                low3, high3 = ((b3 - reach[2]) // n3, (b3 + reach[2]) // n3) if repeats[2] else (0, 0)
                for s3 in range(0 if s1 == 0 and s2 == 0 else low3, high3 + 1):
                    begins[found] = count
                    ox = vectors.fill(s1 * h[0, 0] + s2 * h[1, 0] + s3 * h[2, 0], _WIDTH)
                    oy = vectors.fill(s1 * h[0, 1] + s2 * h[1, 1] + s3 * h[2, 1], _WIDTH)
                    oz = vectors.fill(s1 * h[0, 2] + s2 * h[1, 2] + s3 * h[2, 2], _WIDTH)
                    low, high = max(b3 - reach[2] - s3 * n3, 0), min(b3 + reach[2] - s3 * n3, n3 - 1)
                    for u in range(max(b1 - reach[0] - s1 * n1, 0), min(b1 + reach[0] - s1 * n1, n1 - 1) + 1):
                        for v in range(
                            max(b2 - reach[1] - s2 * n2, 0), min(b2 + reach[1] - s2 * n2, n2 - 1) + 1
                        ):
                            line = (u * n2 + v) * n3
                            begin, end = start[line + low], start[line + high + 1]
                            if s1 == 0 and s2 == 0 and s3 == 0:
                                begin = max(begin, own)
                            # Eight at once; those beyond the end are overwritten.
                            for k in range(begin, end, _WIDTH):
                                c = count + k - begin
                                vectors.store(cx, c, vectors.axpy(1.0, vectors.load(wx, k, _WIDTH), ox))
                                vectors.store(cy, c, vectors.axpy(1.0, vectors.load(wy, k, _WIDTH), oy))
                                vectors.store(cz, c, vectors.axpy(1.0, vectors.load(wz, k, _WIDTH), oz))
                                vectors.copy_index(place, c, places, k, _WIDTH)
                            count += max(end - begin, 0)
                    ends[found] = count
                    if count > begins[found] or found == 0:
                        image[found, 0], image[found, 1], image[found, 2] = s1, s2, s3
                        found += 1
                        # Farther than anything: what is compared beyond the end of an image.
                        vectors.store(cx, count, vectors.fill(np.inf, _WIDTH))
                        count += _WIDTH
        atoms = start[flat + 1] - own
        # Here and not below: an array that a loop may replace is counted anew at every turn.
        if total + atoms * count > len(out):
            out = _longer(out, atoms * count)
        if 5 * (closest + atoms * count) > len(close):
            close = _longer(close, 5 * atoms * count)
        if 4 * (row + atoms * found) > len(rows):
            rows = _longer(rows, 4 * atoms * found)
        if row + atoms * found >= len(starts):
            more = np.empty(2 * len(starts) + atoms * found, np.int64)
            for k in range(row + 1):
                more[k] = starts[k]
            starts = more
        for p in range(own, start[flat + 1]):
            px, py, pz = vectors.fill(wx[p], _WIDTH), vectors.fill(wy[p], _WIDTH), vectors.fill(wz[p], _WIDTH)
            for g in range(found):
                before = total
                # The atom itself and those of its bin that come before it stand at the beginning.
                for k in range(begins[g] + (p - own + 1 if g == 0 else 0), ends[g], _WIDTH):
                    dx, dy, dz = (
                        vectors.minus(vectors.load(cx, k, _WIDTH), px),
                        vectors.minus(vectors.load(cy, k, _WIDTH), py),
                        vectors.minus(vectors.load(cz, k, _WIDTH), pz),
                    )
                    squared = vectors.fma(
                        dz, dz, vectors.fma(dy, dy, vectors.fma(dx, dx, vectors.fill(0.0, _WIDTH)))
                    )
                    inside = vectors.below(squared, limit)
                    vectors.keep_index(out, total, place, k, inside)
                    total += vectors.count(inside)
                    touches = vectors.bits(vectors.below(squared, touching))
                    if touches > 0:
                        for c in range(_WIDTH):
                            if touches >> c & 1:
                                close[5 * closest], close[5 * closest + 1] = p, place[k + c]
                                for d in range(3):
                                    close[5 * closest + 2 + d] = image[g, d]
                                closest += 1
                if total > before:
                    rows[4 * row] = p
                    for d in range(3):
                        rows[4 * row + 1 + d] = image[g, d]
                    row += 1
                    starts[row] = total
    return rows, row, starts, out, total, close, closest


@kernel()
def _longer(array: Short, more: int) -> Short:
    """The array with room for twice as many entries, or `more` of them if that is more."""
    out = np.empty(max(2 * len(array), len(array) + more), np.int32)
    for k in range(len(array)):
        out[k] = array[k]
    return out
