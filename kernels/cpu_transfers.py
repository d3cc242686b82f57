"""Charge that pairs of neighbours exchange, on the CPU: `heads.TransferCharges` with its first derivatives.

    p_ij = sum over n of D_ab,n B_n(r) + sum over d of w_d(r) (u_d(i) v_d(j) - v_d(i) u_d(j)),  w_d(r) = sum over n of W_nd B_n(r)

for pairs with r < r_c of which no solver owns an atom, 0 for all others; a, b are the species of i and j, B_n the radial
functions of `cpu_radial`. An energy that depends on p pulls at the atoms and at u and v. Pairs are looked through in
blocks; those that exchange are moved together, and the terms d of one pair stand side by side in registers. Numbers of
radial functions and terms are constants of the compiled code.

With 12,288 atoms on one thread both sums reach a third of the flops that the processor does at best
(`python -m examples.benchmarks limits`, AVX2).
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
from grahame.kernels.threads import chunks, run

__all__ = ["TransferKernels", "Transfers", "transfer_kernels"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_BLOCK = 256  # pairs whose intermediate values stay in the cache
_CHUNK = 5000  # pairs below which a second thread does not pay


@dataclass(frozen=True)
class TransferKernels:
    """Compiled code for one number of radial functions and one of terms, of a range of pairs.

    Both begin with (begin, end, x, cells, frame, species, solved, pairs, images, cutoff, plain, weights, both).

    Attributes:
        gained: (..., out) p.
        pull: (..., slopes, gradient, cell, by_both) adds the derivatives of an energy by x, cells and u, v from those by p.
    """

    gained: Callable[..., None]
    pull: Callable[..., None]


@dataclass(frozen=True)
class Transfers:
    """What is summed: everything but positions, cells, u and v.

    Attributes:
        frame: (n,) which of the cells an atom belongs to; species: (n,).
        solved: (n,) True for atoms that exchange nothing.
        pairs: (p,2) atoms, each pair once; images: (p,3) lattice shift of the second one, as floats.
        cutoff: r_c in Å.
        plain: (species², N) D, one row for each pair of species; weights: (N, terms) W.
    """

    frame: Ints
    species: Ints
    solved: Bools
    pairs: Ints
    images: Floats
    cutoff: float
    plain: Floats
    weights: Floats

    def gained(self, x: Floats, cells: Floats, both: Floats) -> Floats:
        """p (p,) e of positions (n,3), cells (B,3,3) and, side by side, u and v (n, 2 terms)."""
        out = np.zeros(len(self.pairs))
        sums = partial(self._kernels.gained, **self._shared(x, cells, both), out=out)
        run([partial(sums, a, b) for a, b in chunks(len(out), _CHUNK)])
        return out

    def pull(self, x: Floats, cells: Floats, both: Floats, slopes: Floats) -> tuple[Floats, Floats, Floats]:
        """Derivatives by positions, cells and u, v of an energy whose derivatives by p are `slopes`."""
        parts = chunks(len(self.pairs), _CHUNK)
        gradient, by_cells, by_both = (np.zeros((len(parts), *a.shape)) for a in (x, cells, both))
        sums = partial(self._kernels.pull, **self._shared(x, cells, both), slopes=slopes)
        run(
            [
                partial(sums, a, b, gradient=gradient[c], cell=by_cells[c], by_both=by_both[c])
                for c, (a, b) in enumerate(parts)
            ]
        )
        return gradient.sum(axis=0), by_cells.sum(axis=0), by_both.sum(axis=0)

    @property
    def _kernels(self) -> TransferKernels:
        return transfer_kernels(*self.weights.shape)

    def _shared(self, x: Floats, cells: Floats, both: Floats) -> dict[str, object]:
        return {
            "x": x,
            "cells": cells,
            "frame": self.frame,
            "species": self.species,
            "solved": self.solved,
            "pairs": self.pairs,
            "images": self.images,
            "cutoff": self.cutoff,
            "plain": self.plain,
            "weights": self.weights,
            "both": both,
        }


@lru_cache(maxsize=8)
def transfer_kernels(radial: int, terms: int) -> TransferKernels:
    """The kernels of a head's sizes; compiled when first used, and kept on disk."""
    return TransferKernels(_gained(radial, terms), _pull(radial, terms))


@inlined(FAST)
def _exchanging(
    begin: int,
    end: int,
    x: Floats,
    cells: Floats,
    frame: Ints,
    solved: Bools,
    pairs: Ints,
    images: Floats,
    limit: float,
    between: Floats,
    distance: Floats,
    near: Ints,
) -> int:
    """How many of the pairs begin..end have r² < limit and exchange; their vectors (3,k), distances and places in the list."""
    count = 0
    for k in range(begin, end):
        i, j = pairs[k, 0], pairs[k, 1]
        f, u, v, w = frame[i], images[k, 0], images[k, 1], images[k, 2]
        dx = x[j, 0] - x[i, 0] + u * cells[f, 0, 0] + v * cells[f, 1, 0] + w * cells[f, 2, 0]
        dy = x[j, 1] - x[i, 1] + u * cells[f, 0, 1] + v * cells[f, 1, 1] + w * cells[f, 2, 1]
        dz = x[j, 2] - x[i, 2] + u * cells[f, 0, 2] + v * cells[f, 1, 2] + w * cells[f, 2, 2]
        squared = dx * dx + dy * dy + dz * dz
        # Written always, kept when it counts: no branch to mispredict.
        between[0, count], between[1, count], between[2, count] = dx, dy, dz
        distance[count], near[count] = squared, k
        count += 1 if (squared < limit) & (not solved[i]) & (not solved[j]) else 0
    for c in range(count):
        distance[c] = math.sqrt(distance[c])
    return count


def _gained(radial: int, terms: int) -> Callable[..., None]:
    @kernel(FAST)
    def gained(
        begin: int,
        end: int,
        x: Floats,
        cells: Floats,
        frame: Ints,
        species: Ints,
        solved: Bools,
        pairs: Ints,
        images: Floats,
        cutoff: float,
        plain: Floats,
        weights: Floats,
        both: Floats,
        out: Floats,
    ) -> None:
        # Limited by flops.
        between, distance, near = np.empty((3, _BLOCK)), np.empty(_BLOCK), np.empty(_BLOCK, np.int64)
        circle, none = np.empty((3, _BLOCK)), vectors.fill(0.0, terms)
        kinds = round(math.sqrt(len(plain)))
        for first in range(begin, end, _BLOCK):
            last = min(first + _BLOCK, end)
            count = _exchanging(
                first, last, x, cells, frame, solved, pairs, images, cutoff * cutoff, between, distance, near
            )
            radial_values(count, cutoff, distance, circle)
            for c in range(count):
                i, j = pairs[near[c], 0], pairs[near[c], 1]
                kind, w, p = species[i] * kinds + species[j], none, 0.0
                twice, before, value = 2.0 * circle[1, c], 0.0, circle[0, c] * circle[2, c]
                for n in range(radial):
                    w = vectors.axpy(value, vectors.load(weights, n * terms, terms), w)
                    p += plain[kind, n] * value
                    before, value = value, twice * value - before
                u_i, v_i = (
                    vectors.load(both, 2 * terms * i, terms),
                    vectors.load(both, (2 * i + 1) * terms, terms),
                )
                u_j, v_j = (
                    vectors.load(both, 2 * terms * j, terms),
                    vectors.load(both, (2 * j + 1) * terms, terms),
                )
                turned = vectors.minus(vectors.fma(u_i, v_j, none), vectors.fma(v_i, u_j, none))
                out[near[c]] = p + vectors.dot(w, turned)

    return gained


def _pull(radial: int, terms: int) -> Callable[..., None]:
    @kernel(FAST)
    def pull(
        begin: int,
        end: int,
        x: Floats,
        cells: Floats,
        frame: Ints,
        species: Ints,
        solved: Bools,
        pairs: Ints,
        images: Floats,
        cutoff: float,
        plain: Floats,
        weights: Floats,
        both: Floats,
        slopes: Floats,
        gradient: Floats,
        cell: Floats,
        by_both: Floats,
    ) -> None:
        # Limited by flops.
        between, distance, near = np.empty((3, _BLOCK)), np.empty(_BLOCK), np.empty(_BLOCK, np.int64)
        circle, none = np.empty((4, _BLOCK)), vectors.fill(0.0, terms)
        kinds = round(math.sqrt(len(plain)))
        wave = math.pi / cutoff
        for first in range(begin, end, _BLOCK):
            last = min(first + _BLOCK, end)
            count = _exchanging(
                first, last, x, cells, frame, solved, pairs, images, cutoff * cutoff, between, distance, near
            )
            radial_slopes(count, cutoff, distance, circle)
            for c in range(count):
                k = near[c]
                i, j = pairs[k, 0], pairs[k, 1]
                kind, w, steep, along = species[i] * kinds + species[j], none, none, 0.0
                sine, cosine, scale, change = circle[0, c], circle[1, c], circle[2, c], circle[3, c]
                twice, sine_before, cosine_before = 2.0 * cosine, 0.0, 1.0
                for n in range(radial):
                    line = vectors.load(weights, n * terms, terms)
                    slope = change * sine + scale * (n + 1) * wave * cosine
                    w = vectors.axpy(scale * sine, line, w)
                    steep = vectors.axpy(slope, line, steep)
                    along += plain[kind, n] * slope
                    sine_before, sine = sine, twice * sine - sine_before
                    cosine_before, cosine = cosine, twice * cosine - cosine_before
                at_i, at_j = 2 * terms * i, 2 * terms * j
                u_i, v_i = vectors.load(both, at_i, terms), vectors.load(both, at_i + terms, terms)
                u_j, v_j = vectors.load(both, at_j, terms), vectors.load(both, at_j + terms, terms)
                turned = vectors.minus(vectors.fma(u_i, v_j, none), vectors.fma(v_i, u_j, none))
                along = slopes[k] * (along + vectors.dot(steep, turned))
                w, back = vectors.axpy(slopes[k], w, none), vectors.axpy(-slopes[k], w, none)
                vectors.store(by_both, at_i, vectors.fma(w, v_j, vectors.load(by_both, at_i, terms)))
                vectors.store(
                    by_both, at_i + terms, vectors.fma(back, u_j, vectors.load(by_both, at_i + terms, terms))
                )
                vectors.store(by_both, at_j, vectors.fma(back, v_i, vectors.load(by_both, at_j, terms)))
                vectors.store(
                    by_both, at_j + terms, vectors.fma(w, u_i, vectors.load(by_both, at_j + terms, terms))
                )
                along *= distance[c]
                for d in range(3):
                    force = along * between[d, c]
                    gradient[j, d] += force
                    gradient[i, d] -= force
                    for e in range(3):
                        if images[k, e] != 0.0:
                            cell[frame[i], e, d] += images[k, e] * force

    return pull
