"""Densities of neighbours on the sphere around each atom on the CPU: what a local network sees of its surroundings.

    A_i(s, lm, n) = sum over neighbours j of species s with r < r_c of Y_lm(u) B_n(r),  r u = x_j + S @ h - x_i
    B_n(r) = sqrt(2/r_c) sin(n pi r/r_c)/r f(r/r_c),  f(t) = 1 - 28 t^6 + 48 t^7 - 21 t^8

with real harmonics of mean square 1 in the order l, m = -l ... l. Every neighbour stands in the row of its atom, so that
threads own atoms; neighbours within the cut-off are first moved together and their functions tabulated. An energy that
depends on A pulls at the atoms; atoms that move push A. Both are the first derivative of A, applied to one side or the
other: what a network needs for forces, and for learning from forces, since its weights do not move atoms.

What B_n begins with is tabulated by `cpu_radial`. Numbers of radial functions and l_max are constants of the compiled code.

With 12,288 atoms on one thread densities and pushes reach a fifth, pulls three tenths of the flops that the processor does
at best (`python -m examples.benchmarks limits`, AVX2).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from grahame.kernels import vectors
from grahame.kernels.compiling import FAST, inlined, kernel
from grahame.kernels.cpu_radial import radial_slopes, radial_values
from grahame.kernels.pair_rows import Rows
from grahame.kernels.threads import chunks, run

__all__ = ["Densities", "DensityKernels", "density_kernels"]

Floats = NDArray[np.float64]
Reals = NDArray[np.float32] | NDArray[np.float64]
Ints = NDArray[np.int64]
Short = NDArray[np.int32]

_CHUNK = 200  # atoms below which a second thread does not pay


@dataclass(frozen=True)
class DensityKernels:
    """Compiled code for one number of radial functions and one l_max, of a range of atoms.

    All begin with (begin, end, x, cells, frame, species, kinds, start, j, shifts, longest, cutoff).

    Attributes:
        density: (..., out) A.
        pull: (..., slopes, gradient, cell) adds the derivatives of an energy by x and cells, from those by A.
        push: (..., moves, cell_moves, out) the change of A with x and cells.
    """

    density: Callable[..., None]
    pull: Callable[..., None]
    push: Callable[..., None]


@dataclass(frozen=True)
class Densities:
    """What is summed: everything but positions and cells.

    Attributes:
        rows: neighbours, within the cut-off and some beyond.
        frame: (n,) which of the cells an atom belongs to; species: (n,) 0 ... kinds - 1.
        cutoff: Å; radial: number of radial functions; l_max: largest angular momentum.
    """

    rows: Rows
    frame: Ints
    species: Ints
    kinds: int
    cutoff: float
    radial: int
    l_max: int

    def __post_init__(self) -> None:
        # The kernels check no place that they write to.
        if not 0 <= self.l_max <= 3 or self.radial < 1:
            raise ValueError(
                f"l_max, radial = {self.l_max}, {self.radial} must be 0 to 3 and at least 1: choose others"
            )
        if len(self.species) and not 0 <= self.species.min() <= self.species.max() < self.kinds:
            raise ValueError(
                f"species = {self.species.min()} to {self.species.max()} must lie in 0 to {self.kinds - 1}: number them so"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of A: harmonics, atoms, and radial functions of one species after the other."""
        return (self.l_max + 1) ** 2, len(self.species), self.kinds * self.radial

    def density(self, x: Floats, cells: Floats, out: Reals) -> None:
        """A of positions (n,3) and cells (B,3,3), into `out`."""
        kernel = partial(self._kernels.density, **self._shared(x, cells), out=out)
        run([partial(kernel, a, b) for a, b in self._parts])

    def pull(self, x: Floats, cells: Floats, slopes: Reals) -> tuple[Floats, Floats]:
        """Derivatives by positions and cells of an energy whose derivatives by A are `slopes`."""
        parts = self._parts
        gradient, by_cells = np.zeros((len(parts), *x.shape)), np.zeros((len(parts), *cells.shape))
        kernel = partial(self._kernels.pull, **self._shared(x, cells), slopes=slopes)
        run([partial(kernel, a, b, gradient=gradient[c], cell=by_cells[c]) for c, (a, b) in enumerate(parts)])
        return gradient.sum(axis=0), by_cells.sum(axis=0)

    def push(self, x: Floats, cells: Floats, moves: Floats, cell_moves: Floats, out: Reals) -> None:
        """The change of A with positions that move (n,3) and cells that do (B,3,3), into `out`."""
        kernel = partial(
            self._kernels.push, **self._shared(x, cells), moves=moves, cell_moves=cell_moves, out=out
        )
        run([partial(kernel, a, b) for a, b in self._parts])

    @property
    def _kernels(self) -> DensityKernels:
        return density_kernels(self.radial, self.l_max)

    @property
    def _parts(self) -> list[tuple[int, int]]:
        return chunks(len(self.species), _CHUNK)

    def _shared(self, x: Floats, cells: Floats) -> dict[str, object]:
        r = self.rows
        return {
            "x": x,
            "cells": cells,
            "frame": self.frame,
            "species": self.species,
            "kinds": self.kinds,
            "start": r.start,
            "j": r.j,
            "shifts": r.shifts,
            "longest": int(np.diff(r.start).max(initial=0)),
            "cutoff": self.cutoff,
        }


@lru_cache(maxsize=8)
def density_kernels(radial: int, l_max: int) -> DensityKernels:
    """The kernels of a network's sizes; compiled when first used, and kept on disk."""
    return DensityKernels(_density(radial, l_max), _pull(radial, l_max), _push(radial, l_max))


@inlined(FAST)
def _near(
    a: int,
    x: Floats,
    h: Floats,
    start: Ints,
    j: Short,
    shifts: Short,
    limit: float,
    between: Floats,
    distance: Floats,
    near: Ints,
) -> int:
    """How many neighbours of an atom have r² < limit; their vectors (3,k), distances and places in the list."""
    count = 0
    for p in range(start[a], start[a + 1]):
        b, u, v, w = j[p], float(shifts[p, 0]), float(shifts[p, 1]), float(shifts[p, 2])
        dx = x[b, 0] - x[a, 0] + u * h[0, 0] + v * h[1, 0] + w * h[2, 0]
        dy = x[b, 1] - x[a, 1] + u * h[0, 1] + v * h[1, 1] + w * h[2, 1]
        dz = x[b, 2] - x[a, 2] + u * h[0, 2] + v * h[1, 2] + w * h[2, 2]
        squared = dx * dx + dy * dy + dz * dz
        # Written always, kept when near: no branch to mispredict.
        between[0, count], between[1, count], between[2, count] = dx, dy, dz
        distance[count], near[count] = squared, p
        count += 1 if squared < limit else 0
    for c in range(count):
        distance[c] = math.sqrt(distance[c])
    return count


@inlined(FAST)
def _harmonics(x: float, y: float, z: float, l_max: int, out: Floats) -> None:
    """Y_lm of a unit vector."""
    out[0] = 1.0
    if l_max >= 1:
        a = math.sqrt(3.0)
        out[1], out[2], out[3] = a * y, a * z, a * x
    if l_max >= 2:
        a, b = math.sqrt(15.0), 0.5 * math.sqrt(5.0)
        out[4], out[5], out[6] = a * x * y, a * y * z, b * (3.0 * z * z - 1.0)
        out[7], out[8] = a * x * z, 0.5 * a * (x * x - y * y)
    if l_max >= 3:
        a, b, c = math.sqrt(35.0 / 8.0), math.sqrt(105.0), math.sqrt(21.0 / 8.0)
        out[9], out[10], out[11] = a * y * (3.0 * x * x - y * y), b * x * y * z, c * y * (5.0 * z * z - 1.0)
        out[12] = 0.5 * math.sqrt(7.0) * z * (5.0 * z * z - 3.0)
        out[13], out[14] = c * x * (5.0 * z * z - 1.0), 0.5 * b * z * (x * x - y * y)
        out[15] = a * x * (x * x - 3.0 * y * y)


@inlined(FAST)
def _harmonic_slopes(x: float, y: float, z: float, l_max: int, out: Floats) -> None:
    """Derivatives (3,L) of the polynomials in `_harmonics` by x, y and z; those that vanish are left at 0."""
    if l_max >= 1:
        a = math.sqrt(3.0)
        out[1, 1], out[2, 2], out[0, 3] = a, a, a
    if l_max >= 2:
        a, b = math.sqrt(15.0), 0.5 * math.sqrt(5.0)
        out[0, 4], out[1, 4] = a * y, a * x
        out[1, 5], out[2, 5] = a * z, a * y
        out[2, 6] = 6.0 * b * z
        out[0, 7], out[2, 7] = a * z, a * x
        out[0, 8], out[1, 8] = a * x, -a * y
    if l_max >= 3:
        a, b, c = math.sqrt(35.0 / 8.0), math.sqrt(105.0), math.sqrt(21.0 / 8.0)
        out[0, 9], out[1, 9] = 6.0 * a * x * y, 3.0 * a * (x * x - y * y)
        out[0, 10], out[1, 10], out[2, 10] = b * y * z, b * x * z, b * x * y
        out[1, 11], out[2, 11] = c * (5.0 * z * z - 1.0), 10.0 * c * y * z
        out[2, 12] = 0.5 * math.sqrt(7.0) * (15.0 * z * z - 3.0)
        out[0, 13], out[2, 13] = c * (5.0 * z * z - 1.0), 10.0 * c * x * z
        out[0, 14], out[1, 14], out[2, 14] = b * x * z, -b * y * z, 0.5 * b * (x * x - y * y)
        out[0, 15], out[1, 15] = 3.0 * a * (x * x - y * y), -6.0 * a * x * y


@inlined(FAST)
def _steep(
    count: int,
    cutoff: float,
    l_max: int,
    between: Floats,
    distance: Floats,
    circle: Floats,
    basis: Floats,
    steep: Floats,
    angular: Floats,
    turning: Floats,
) -> None:
    """B_n and its slope, Y_lm and its slopes of the neighbours; vectors become directions, distances their inverse."""
    wave = math.pi / cutoff
    radial_slopes(count, cutoff, distance, circle)
    for c in range(count):
        for d in range(3):
            between[d, c] *= distance[c]
        sine, cosine, scale, change = circle[0, c], circle[1, c], circle[2, c], circle[3, c]
        twice, sine_before, cosine_before = 2.0 * cosine, 0.0, 1.0
        for n in range(basis.shape[1]):
            basis[c, n] = scale * sine
            steep[c, n] = change * sine + scale * (n + 1) * wave * cosine
            sine_before, sine = sine, twice * sine - sine_before
            cosine_before, cosine = cosine, twice * cosine - cosine_before
        _harmonics(between[0, c], between[1, c], between[2, c], l_max, angular[c])
        _harmonic_slopes(between[0, c], between[1, c], between[2, c], l_max, turning[c])


def _density(radial: int, l_max: int) -> Callable[..., None]:
    size = (l_max + 1) ** 2

    @kernel(FAST)
    def density(
        begin: int,
        end: int,
        x: Floats,
        cells: Floats,
        frame: Ints,
        species: Ints,
        kinds: int,
        start: Ints,
        j: Short,
        shifts: Short,
        longest: int,
        cutoff: float,
        out: Reals,
    ) -> None:
        # Limited by flops.
        between, distance = np.empty((3, longest)), np.empty(longest)
        near, circle = np.empty(longest, np.int64), np.empty((3, longest))
        basis, angular = np.empty((longest, radial)), np.empty((longest, size))
        total = np.empty((kinds, size, radial))
        for a in range(begin, end):
            h = cells[frame[a]]
            count = _near(a, x, h, start, j, shifts, cutoff * cutoff, between, distance, near)
            radial_values(count, cutoff, distance, circle)
            for c in range(count):
                inverse = 1.0 / distance[c]
                for d in range(3):
                    between[d, c] *= inverse
            for c in range(count):
                twice, before, value = 2.0 * circle[1, c], 0.0, circle[0, c] * circle[2, c]
                for n in range(radial):
                    basis[c, n] = value
                    before, value = value, twice * value - before
                _harmonics(between[0, c], between[1, c], between[2, c], l_max, angular[c])
            total[:] = 0.0
            for c in range(count):
                place = species[j[near[c]]] * size * radial
                line = vectors.load(basis, c * radial, radial)
                for l in range(size):
                    at = place + l * radial
                    vectors.store(
                        total, at, vectors.axpy(angular[c, l], line, vectors.load(total, at, radial))
                    )
            for k in range(kinds):
                for l in range(size):
                    for n in range(radial):
                        out[l, a, k * radial + n] = total[k, l, n]

    return density


def _pull(radial: int, l_max: int) -> Callable[..., None]:
    size = (l_max + 1) ** 2

    @kernel(FAST)
    def pull(
        begin: int,
        end: int,
        x: Floats,
        cells: Floats,
        frame: Ints,
        species: Ints,
        kinds: int,
        start: Ints,
        j: Short,
        shifts: Short,
        longest: int,
        cutoff: float,
        slopes: Reals,
        gradient: Floats,
        cell: Floats,
    ) -> None:
        # Limited by flops.
        between, distance = np.empty((3, longest)), np.empty(longest)
        near, circle = np.empty(longest, np.int64), np.empty((4, longest))
        basis, steep = np.empty((longest, radial)), np.empty((longest, radial))
        angular, turning = np.empty((longest, size)), np.zeros((longest, 3, size))
        wanted, none = np.empty((kinds, size, radial)), vectors.fill(0.0, radial)
        for a in range(begin, end):
            f = frame[a]
            count = _near(a, x, cells[f], start, j, shifts, cutoff * cutoff, between, distance, near)
            _steep(count, cutoff, l_max, between, distance, circle, basis, steep, angular, turning)
            for k in range(kinds):
                for l in range(size):
                    for n in range(radial):
                        wanted[k, l, n] = slopes[l, a, k * radial + n]
            own_x = own_y = own_z = 0.0
            for c in range(count):
                b = j[near[c]]
                place = species[b] * size * radial
                along = vectors.load(wanted, place, radial)
                to_x = to_y = to_z = none
                for l in range(1, size):
                    w = vectors.load(wanted, place + l * radial, radial)
                    along = vectors.axpy(angular[c, l], w, along)
                    to_x = vectors.axpy(turning[c, 0, l], w, to_x)
                    to_y = vectors.axpy(turning[c, 1, l], w, to_y)
                    to_z = vectors.axpy(turning[c, 2, l], w, to_z)
                line = vectors.load(basis, c * radial, radial)
                gx, gy, gz = vectors.dot(to_x, line), vectors.dot(to_y, line), vectors.dot(to_z, line)
                # Across the direction a vector's move turns it by 1/r; along it, it changes the distance.
                ux, uy, uz, inverse = between[0, c], between[1, c], between[2, c], distance[c]
                radially = vectors.dot(along, vectors.load(steep, c * radial, radial))
                radially -= inverse * (ux * gx + uy * gy + uz * gz)
                gx = inverse * gx + radially * ux
                gy = inverse * gy + radially * uy
                gz = inverse * gz + radially * uz
                own_x += gx
                own_y += gy
                own_z += gz
                gradient[b, 0] += gx
                gradient[b, 1] += gy
                gradient[b, 2] += gz
                for d in range(3):
                    shift = shifts[near[c], d]
                    if shift != 0:
                        cell[f, d, 0] += shift * gx
                        cell[f, d, 1] += shift * gy
                        cell[f, d, 2] += shift * gz
            gradient[a, 0] -= own_x
            gradient[a, 1] -= own_y
            gradient[a, 2] -= own_z

    return pull


def _push(radial: int, l_max: int) -> Callable[..., None]:
    size = (l_max + 1) ** 2

    @kernel(FAST)
    def push(
        begin: int,
        end: int,
        x: Floats,
        cells: Floats,
        frame: Ints,
        species: Ints,
        kinds: int,
        start: Ints,
        j: Short,
        shifts: Short,
        longest: int,
        cutoff: float,
        moves: Floats,
        cell_moves: Floats,
        out: Reals,
    ) -> None:
        # Limited by flops.
        between, distance = np.empty((3, longest)), np.empty(longest)
        near, circle = np.empty(longest, np.int64), np.empty((4, longest))
        basis, steep = np.empty((longest, radial)), np.empty((longest, radial))
        angular, turning = np.empty((longest, size)), np.zeros((longest, 3, size))
        total, move = np.empty((kinds, size, radial)), np.empty(3)
        for a in range(begin, end):
            f = frame[a]
            count = _near(a, x, cells[f], start, j, shifts, cutoff * cutoff, between, distance, near)
            _steep(count, cutoff, l_max, between, distance, circle, basis, steep, angular, turning)
            total[:] = 0.0
            for c in range(count):
                b = j[near[c]]
                for d in range(3):
                    move[d] = moves[b, d] - moves[a, d]
                    for e in range(3):
                        move[d] += shifts[near[c], e] * cell_moves[f, e, d]
                radially = between[0, c] * move[0] + between[1, c] * move[1] + between[2, c] * move[2]
                for d in range(3):
                    move[d] = distance[c] * (move[d] - radially * between[d, c])
                place = species[b] * size * radial
                line, slope = vectors.load(basis, c * radial, radial), vectors.load(steep, c * radial, radial)
                for l in range(size):
                    turn = (
                        turning[c, 0, l] * move[0] + turning[c, 1, l] * move[1] + turning[c, 2, l] * move[2]
                    )
                    at = place + l * radial
                    changed = vectors.axpy(turn, line, vectors.load(total, at, radial))
                    vectors.store(total, at, vectors.axpy(radially * angular[c, l], slope, changed))
            for k in range(kinds):
                for l in range(size):
                    for n in range(radial):
                        out[l, a, k * radial + n] = total[k, l, n]

    return push
