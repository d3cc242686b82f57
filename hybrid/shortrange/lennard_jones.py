"""Lennard-Jones over a pair list: plain or force-switched truncation, forces, virial, reproducible sums.

    E = c12 [r^-12 + P_12(r)] - c6 [r^-6 + P_6(r)],   c12 = 4 epsilon sigma^12, c6 = 4 epsilon sigma^6.

Plain truncation has P = 0 and simply stops at the cut-off. The force switch adds to the force of r^-p the
polynomial A (r-r1)² + B (r-r1)³ between the switch distance r1 and the cut-off rc, with A and B such that
the force and its slope are zero at rc; the energy is shifted to zero there. Force and slope of the force
are then continuous everywhere, at r1 too, where the older CHARMM form has a kink in the force.

Sums run in a fixed order whatever the number of threads: rows of atoms are dealt into a fixed number of
chunks, each with its own buffer, and the buffers are added in order. The rows are sorted, so two neighbour
lists that hold the same pairs within the cut-off give the same bits.

Source: force switch as in D. van der Spoel, P. J. van Maaren, J. Chem. Theory Comput. 2, 1 (2006), and the
GROMACS reference manual, modified non-bonded interactions.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numba import njit

from grahame.hybrid.shortrange.base import FloatArray, IntArray
from grahame.kernels.threads import chunks, run

Truncation = Literal["force-switch", "plain"]

CHUNKS = 16
"""Number of partial sums: fixed, so that results do not depend on the number of threads."""

_PAIRS_PER_THREAD = 20_000  # below this a second thread costs more than it saves


@dataclass(frozen=True)
class Switch:
    """Cut-off and switching polynomials.

    Attributes:
        cutoff: rc, Å.
        start: r1, Å; equal to rc for plain truncation.
        cubic, quartic, constant: for p = 12 and 6, the energy terms of r^-p:
            - cubic (r-r1)³ - quartic (r-r1)^4 - constant (r > r1), - constant (r <= r1).
    """

    cutoff: float
    start: float
    cubic: tuple[float, float]
    quartic: tuple[float, float]
    constant: tuple[float, float]


def make_switch(cutoff: float, start: float | None, truncation: Truncation) -> Switch:
    """Coefficients of the truncation.

    Args:
        cutoff: rc, Å.
        start: r1, Å; None for rc - 2 Å (at least 0.8 rc). Refused with plain truncation.
        truncation: "force-switch" or "plain".

    Returns:
        The switch.

    Raises:
        ValueError: distances out of order, or an unknown truncation.
    """
    if not (np.isfinite(cutoff) and cutoff > 0):
        raise ValueError(f"cutoff = {cutoff} Å must be positive: 10 Å is usual for water")
    if truncation == "plain":
        if start is not None:
            raise ValueError(
                f"switch_distance = {start} Å must be left out with truncation='plain': "
                "use truncation='force-switch'"
            )
        return Switch(cutoff, cutoff, (0.0, 0.0), (0.0, 0.0), (0.0, 0.0))
    if truncation != "force-switch":
        raise ValueError(f"truncation = {truncation!r} must be 'force-switch' or 'plain': choose one of them")
    r1 = max(cutoff - 2.0, 0.8 * cutoff) if start is None else start
    if not 0 < r1 < cutoff:
        raise ValueError(
            f"switch_distance = {r1} Å must be above 0 and below the cut-off {cutoff} Å: 2 Å below "
            "it is usual"
        )
    width = cutoff - r1
    cubic, quartic, constant = [], [], []
    for p in (12, 6):
        a = -p * ((p + 4) * cutoff - (p + 1) * r1) / (cutoff ** (p + 2) * width**2)
        b = p * ((p + 3) * cutoff - (p + 1) * r1) / (cutoff ** (p + 2) * width**3)
        cubic.append(a / 3.0)
        quartic.append(b / 4.0)
        constant.append(cutoff**-p - a / 3.0 * width**3 - b / 4.0 * width**4)
    return Switch(cutoff, r1, (cubic[0], cubic[1]), (quartic[0], quartic[1]), (constant[0], constant[1]))


@dataclass(frozen=True)
class PairRows:
    """A half pair list in rows, sorted: pair p of row i is atom `second[p]` in lattice image `image[p]`.

    Attributes:
        start: (n+1,) first pair of each row.
        second: (p,) int32.
        image: (p,) int32 index into `shifts`.
        shifts: (s,3) distinct lattice shifts.
    """

    start: IntArray
    second: Any
    image: Any
    shifts: FloatArray


def make_rows(n: int, first: IntArray, second: IntArray, shifts: IntArray) -> PairRows:
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
    start, order = _sorted_rows(n, len(images), i, j, image.ravel())
    return PairRows(
        start=start,
        second=j[order].astype(np.int32),
        image=image.ravel()[order].astype(np.int32),
        shifts=distinct.astype(np.float64).reshape(-1, 3),
    )


def _sort_rows(n: int, images: int, i: IntArray, j: IntArray, image: IntArray) -> tuple[IntArray, IntArray]:
    start = np.zeros(n + 1, np.int64)
    for p in range(len(i)):
        start[i[p] + 1] += 1
    for row in range(n):
        start[row + 1] += start[row]
    fill = start[:-1].copy()
    order = np.empty(len(i), np.int64)
    for p in range(len(i)):
        order[fill[i[p]]] = p
        fill[i[p]] += 1
    for row in range(n):
        members = order[start[row] : start[row + 1]].copy()
        key = j[members] * images + image[members]
        order[start[row] : start[row + 1]] = members[np.argsort(key)]
    return start, order


_sorted_rows: Any = njit(cache=True)(_sort_rows)


def lennard_jones(
    positions: FloatArray,
    cell: FloatArray,
    rows: PairRows,
    types: IntArray,
    c12: FloatArray,
    c6: FloatArray,
    switch: Switch,
    virial: bool,
) -> tuple[float, FloatArray, FloatArray]:
    """Energy (eV), forces (n,3) eV/Å and dE/d(strain) (3,3) eV of the listed pairs within the cut-off.

    Args:
        positions: (n,3) Å.
        cell: (3,3) rows, Å.
        rows: half list, pairs within the cut-off (and some beyond).
        types: (n,) type per atom.
        c12: (t,t) eV Å^12.
        c6: (t,t) eV Å^6.
        switch: truncation.
        virial: compute the strain derivative (zeros otherwise).

    Returns:
        energy, forces, strain derivative.
    """
    offsets = rows.shifts @ cell
    forces = np.zeros((CHUNKS, len(positions), 3))
    sums = np.zeros((CHUNKS, 7))
    polynomial = np.array([switch.cubic, switch.quartic, switch.constant])

    def part(first: int, last: int) -> None:
        _pair_sums(
            positions,
            offsets,
            rows.start,
            rows.second,
            rows.image,
            types,
            c12,
            c6,
            switch.cutoff,
            switch.start,
            polynomial,
            virial,
            first,
            last,
            forces,
            sums,
        )

    # Chunks are shared out among the threads; each still has its own sums.
    share = max(1, CHUNKS * _PAIRS_PER_THREAD // max(len(rows.second), 1))
    run([partial(part, first, last) for first, last in chunks(CHUNKS, share)])
    total = np.zeros((len(positions), 3))
    row = np.zeros(7)
    for chunk in range(CHUNKS):
        total += forces[chunk]
        row += sums[chunk]
    xx, yy, zz, yz, xz, xy = row[1:]
    return float(row[0]), total, np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


def _pair_loop(
    x: FloatArray,
    offsets: FloatArray,
    start: IntArray,
    second: Any,
    image: Any,
    types: IntArray,
    c12: FloatArray,
    c6: FloatArray,
    cutoff: float,
    begin: float,
    polynomial: FloatArray,
    virial: bool,
    first: int,
    last: int,
    forces: FloatArray,
    sums: FloatArray,
) -> None:
    """Chunks `first` to `last` of the rows, each into its own buffers."""
    n = len(x)
    count = len(sums)
    cutoff2 = cutoff * cutoff
    begin2 = begin * begin
    for chunk in range(first, last):
        f = forces[chunk]
        energy = 0.0
        vxx = vyy = vzz = vyz = vxz = vxy = 0.0
        for i in range(chunk * n // count, (chunk + 1) * n // count):
            xi, yi, zi, ti = x[i, 0], x[i, 1], x[i, 2], types[i]
            fx = fy = fz = 0.0
            for p in range(start[i], start[i + 1]):
                j = second[p]
                s = image[p]
                dx = x[j, 0] + offsets[s, 0] - xi
                dy = x[j, 1] + offsets[s, 1] - yi
                dz = x[j, 2] + offsets[s, 2] - zi
                r2 = dx * dx + dy * dy + dz * dz
                # Written so that NaN positions reach the sums instead of passing for far away.
                if not r2 >= cutoff2:
                    a = c12[ti, types[j]]
                    b = c6[ti, types[j]]
                    inverse2 = 1.0 / r2
                    inverse6 = inverse2 * inverse2 * inverse2
                    energy += (a * inverse6 - b) * inverse6 - (a * polynomial[2, 0] - b * polynomial[2, 1])
                    # g = (dE/dr)/r
                    g = (-12.0 * a * inverse6 + 6.0 * b) * inverse6 * inverse2
                    if r2 > begin2:
                        r = np.sqrt(r2)
                        t = r - begin
                        c = a * polynomial[0, 0] - b * polynomial[0, 1]
                        q = a * polynomial[1, 0] - b * polynomial[1, 1]
                        energy -= (c + q * t) * t * t * t
                        g -= (3.0 * c + 4.0 * q * t) * t * t / r
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


_pair_sums: Any = njit(cache=True, nogil=True, error_model="numpy")(_pair_loop)
