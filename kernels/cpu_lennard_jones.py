"""Lennard-Jones pairs on the CPU, with polynomials that end them at a cut-off.

    E = sum over pairs of c12 [r^-12 - P_12] - c6 [r^-6 - P_6]
    P = a (r - r1)³ + b (r - r1)^4 + c for r > r1, c below

with types of atoms that share c12 and c6. Sums run in a fixed order whatever the number of threads: rows of atoms are dealt
into a fixed number of chunks, each with its own buffer, and the buffers are added in order. The rows are sorted, so two
lists that hold the same pairs within the cut-off give the same bits.

With 12,288 atoms on one thread pairs reach an eighth of the processor's reads at random places
(`python -m examples.benchmarks limits`, AVX2).
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from grahame.kernels.compiling import kernel
from grahame.kernels.pair_rows import stable_order
from grahame.kernels.threads import chunks, run

__all__ = ["SortedRows", "pair_sums", "sorted_rows"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Short = NDArray[np.int32]

_CHUNKS = 16  # partial sums: fixed, so that results do not depend on the number of threads
_PAIRS_PER_THREAD = 20_000  # below this a second thread costs more than it saves


@dataclass(frozen=True)
class SortedRows:
    """A half pair list in rows, sorted: pair p of row i is atom `second[p]` in lattice image `image[p]`.

    Attributes:
        start: (n+1,) first pair of each row.
        second: (p,) int32.
        image: (p,) int32 index into `shifts`.
        shifts: (s,3) distinct lattice shifts.
    """

    start: Ints
    second: Short
    image: Short
    shifts: Floats


def sorted_rows(n: int, first: Ints, second: Ints, shifts: Ints) -> SortedRows:
    """Deal pairs into rows of nearly equal length, each sorted by partner and image.

    A pair may be written from either end; the end is chosen by parity, which spreads the work evenly over
    the rows and depends on the indices alone.
    """
    flip = np.where((first + second) % 2 == 0, first > second, first < second)
    i = np.where(flip, second, first)
    j = np.where(flip, first, second)
    s = np.where(flip[:, None], -shifts, shifts)
    # A pair of an atom with its own image may be written either way; take the lexically larger shift.
    own = np.flatnonzero(i == j)
    if len(own):
        lead = np.array([next((x for x in row if x != 0), 0) for row in s[own]])
        s[own[lead < 0]] *= -1
    reach = int(np.abs(s).max()) if len(s) else 0
    base = 2 * reach + 1
    code = ((s[:, 0] + reach) * base + s[:, 1] + reach) * base + s[:, 2] + reach
    if base**3 <= 4 * len(code) + 1000:
        images = np.flatnonzero(np.bincount(code, minlength=base**3))
        number = np.zeros(base**3, dtype=np.int64)
        number[images] = np.arange(len(images))
        image = number[code]
    else:
        images, image = np.unique(code, return_inverse=True)
    distinct = np.column_stack([images // base**2, images // base % base, images % base]) - reach
    row, partner, which = (a.ravel().astype(np.int32) for a in (i, j, image))
    order = np.arange(len(row), dtype=np.int32)
    for keys, count in ((which, len(images)), (partner, n), (row, n)):
        order = stable_order(keys, order, count)
    start = np.zeros(n + 1, dtype=np.int64)
    np.cumsum(np.bincount(row, minlength=n), out=start[1:])
    return SortedRows(
        start=start,
        second=partner[order],
        image=which[order],
        shifts=distinct.astype(np.float64).reshape(-1, 3),
    )


def pair_sums(
    positions: Floats,
    cell: Floats,
    rows: SortedRows,
    types: Ints,
    c12: Floats,
    c6: Floats,
    cutoff: float,
    begin: float,
    polynomials: Floats,
    virial: bool,
) -> tuple[float, Floats, Floats]:
    """Energy, forces (n,3) and dE/d(strain) (3,3) of the listed pairs with r < cutoff.

    Args:
        positions: (n,3); cell: (3,3) rows.
        rows: pairs within the cut-off, and some beyond.
        types: (n,) 0 ... t - 1; c12, c6: (t,t).
        begin: r1; polynomials: (3,2) a, b and c of r^-12 and of r^-6.
        virial: compute the strain derivative (zeros otherwise).
    """
    offsets = rows.shifts @ cell
    forces = np.zeros((_CHUNKS, len(positions), 3))
    sums = np.zeros((_CHUNKS, 7))

    def part(first: int, last: int) -> None:
        _pairs(
            positions,
            offsets,
            rows.start,
            rows.second,
            rows.image,
            types,
            c12,
            c6,
            cutoff,
            begin,
            polynomials,
            virial,
            first,
            last,
            forces,
            sums,
        )

    # Chunks are shared out among the threads; each still has its own sums.
    share = max(1, _CHUNKS * _PAIRS_PER_THREAD // max(len(rows.second), 1))
    run([partial(part, first, last) for first, last in chunks(_CHUNKS, share)])
    total = np.zeros((len(positions), 3))
    row = np.zeros(7)
    for chunk in range(_CHUNKS):
        total += forces[chunk]
        row += sums[chunk]
    xx, yy, zz, yz, xz, xy = row[1:]
    return float(row[0]), total, np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


@kernel()
def _pairs(
    x: Floats,
    offsets: Floats,
    start: Ints,
    second: Short,
    image: Short,
    types: Ints,
    c12: Floats,
    c6: Floats,
    cutoff: float,
    begin: float,
    polynomial: Floats,
    virial: bool,
    first: int,
    last: int,
    forces: Floats,
    sums: Floats,
) -> None:
    """Chunks `first` to `last` of the rows, each into its own buffers."""
    n = len(x)
    parts = len(sums)
    longest = 0
    for i in range(n):
        longest = max(longest, start[i + 1] - start[i])
    between, strength, squared = np.empty((3, longest)), np.empty((2, longest)), np.empty(longest)
    energies, slope, other = np.empty(longest), np.empty(longest), np.empty(longest, np.int64)
    cutoff2 = cutoff * cutoff
    begin2 = begin * begin
    for chunk in range(first, last):
        f = forces[chunk]
        energy = 0.0
        vxx = vyy = vzz = vyz = vxz = vxy = 0.0
        for i in range(chunk * n // parts, (chunk + 1) * n // parts):
            xi, yi, zi, ti = x[i, 0], x[i, 1], x[i, 2], types[i]
            count = 0
            for p in range(start[i], start[i + 1]):
                j = second[p]
                s = image[p]
                dx = x[j, 0] + offsets[s, 0] - xi
                dy = x[j, 1] + offsets[s, 1] - yi
                dz = x[j, 2] + offsets[s, 2] - zi
                r2 = dx * dx + dy * dy + dz * dz
                # Written always, kept when near: no branch to mispredict. NaN is kept, and reaches the sums.
                between[0, count], between[1, count], between[2, count] = dx, dy, dz
                squared[count], other[count] = r2, j
                count += 0 if r2 >= cutoff2 else 1
            for c in range(count):
                kind = types[other[c]]
                strength[0, c], strength[1, c] = c12[ti, kind], c6[ti, kind]
            for c in range(count):
                a, b, r2 = strength[0, c], strength[1, c], squared[c]
                inverse2 = 1.0 / r2
                inverse6 = inverse2 * inverse2 * inverse2
                r = np.sqrt(r2)
                t = r - begin if r2 > begin2 else 0.0
                cubic = a * polynomial[0, 0] - b * polynomial[0, 1]
                quartic = a * polynomial[1, 0] - b * polynomial[1, 1]
                constant = a * polynomial[2, 0] - b * polynomial[2, 1]
                energies[c] = (a * inverse6 - b) * inverse6 - constant - (cubic + quartic * t) * t * t * t
                # (dE/dr)/r
                slope[c] = (-12.0 * a * inverse6 + 6.0 * b) * inverse6 * inverse2 - (
                    3.0 * cubic + 4.0 * quartic * t
                ) * t * t / r
            fx = fy = fz = 0.0
            for c in range(count):
                j, g = other[c], slope[c]
                dx, dy, dz = between[0, c], between[1, c], between[2, c]
                energy += energies[c]
                gx, gy, gz = g * dx, g * dy, g * dz
                fx += gx
                fy += gy
                fz += gz
                f[j, 0] -= gx
                f[j, 1] -= gy
                f[j, 2] -= gz
                if virial:
                    vxx += gx * dx
                    vyy += gy * dy
                    vzz += gz * dz
                    vyz += gy * dz
                    vxz += gx * dz
                    vxy += gx * dy
            f[i, 0] += fx
            f[i, 1] += fy
            f[i, 2] += fz
        sums[chunk, 0] = energy
        sums[chunk, 1] = vxx
        sums[chunk, 2] = vyy
        sums[chunk, 3] = vzz
        sums[chunk, 4] = vyz
        sums[chunk, 5] = vxz
        sums[chunk, 6] = vxy
