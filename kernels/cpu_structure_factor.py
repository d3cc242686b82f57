"""The waves of the Ewald sum on the CPU: the formulas of `structure_factor`, compiled, with derivatives.

exp(i G.x) is the product of powers of exp(2 pi i u_d), u the fractional coordinates, which are tabulated for
each atom, in blocks of atoms, once per geometry. A thread owns waves when the structure factors are summed and atoms when the derivatives are, so no
sum depends on the number of threads. With c, s = cos, sin of G.x_j and W = (4 pi/V) exp(-G²/4 alpha²)/G² for
half of the waves,

    dE/dq_j = sum over G of 2 W (Re S c + Im S s),    dE/dx_j = q_j sum over G of 2 W G (Im S c - Re S s),
    dE/dh = inv(h)^T {-E 1 + sum over G of 2 W |S|² (1/4 alpha² + 1/G²) G G^T - sum_j x_j (dE/dx_j)^T}.

Limited by reading the tables from the first cache: the sum over atoms of each wave does almost half, that over waves of
each atom nine tenths of the reads that the processor does, the tables move four fifths of its bytes
(`python -m examples.benchmarks limits`: 12,288 atoms, 1,000 waves, one thread, AVX2).
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from grahame.kernels.compiling import FAST, inlined, kernel
from grahame.kernels.threads import chunks, run

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Waves = NDArray[np.complex128]

_BLOCK = 128  # atoms whose tables stay in the cache
_SHARE = 20  # blocks below which a second thread does not pay for their tables


@dataclass(frozen=True)
class WaveDerivatives:
    """Energy in e²/Å and the derivatives that were asked for (None otherwise)."""

    energy: float
    positions: Floats | None
    charges: Floats | None
    cell: Floats | None


@kernel(FAST)
def _powers(begin: int, end: int, re: Floats, im: Floats, size: Ints) -> None:
    """cos and sin of 2 pi m u_d of the blocks begin..end, m = 2..size[d], from those of m = 1."""
    for block in range(begin, end):
        for d in range(3):
            for m in range(2, size[d] + 1):
                # Halving keeps the rounding error at log2(m) products.
                r1, i1 = re[block, d, m // 2], im[block, d, m // 2]
                r2, i2 = re[block, d, m - m // 2], im[block, d, m - m // 2]
                out_r, out_i = re[block, d, m], im[block, d, m]
                for a in range(_BLOCK):
                    out_r[a] = r1[a] * r2[a] - i1[a] * i2[a]
                    out_i[a] = r1[a] * i2[a] + i1[a] * r2[a]


# Inlined, as every function that a kernel calls: see `compiling`.
@inlined(FAST)
def _plane(re: Floats, im: Floats, m1: int, m2: int, count: int, cr: Floats, ci: Floats) -> None:
    """exp(2 pi i (m1 u_1 + m2 u_2)) of the first atoms of a block."""
    s1 = 1.0 if m1 >= 0 else -1.0
    s2 = 1.0 if m2 >= 0 else -1.0
    r1, i1, r2, i2 = re[0, abs(m1)], im[0, abs(m1)], re[1, abs(m2)], im[1, abs(m2)]
    for a in range(count):
        cr[a] = r1[a] * r2[a] - s1 * s2 * i1[a] * i2[a]
        ci[a] = s2 * r1[a] * i2[a] + s1 * i1[a] * r2[a]


@kernel(FAST)
def _sum_waves(begin: int, end: int, tables: tuple[Floats, Floats], q: Floats, m: Ints, out: Floats) -> None:
    """Structure factors (re, im) of the waves begin..end into out (k,2)."""
    cr, ci = np.empty(_BLOCK), np.empty(_BLOCK)
    for start in range(0, len(q), _BLOCK):
        count = min(_BLOCK, len(q) - start)
        re, im = tables[0][start // _BLOCK], tables[1][start // _BLOCK]
        for k in range(begin, end):
            if k == begin or m[k, 0] != m[k - 1, 0] or m[k, 1] != m[k - 1, 1]:
                _plane(re, im, m[k, 0], m[k, 1], count, cr, ci)
                for a in range(count):
                    cr[a] *= q[start + a]
                    ci[a] *= q[start + a]
            r3, i3 = re[2, abs(m[k, 2])], im[2, abs(m[k, 2])]
            sign = 1.0 if m[k, 2] >= 0 else -1.0
            sr = si = tr = ti = 0.0
            for a in range(count):
                sr += cr[a] * r3[a]
                tr += ci[a] * i3[a]
                si += ci[a] * r3[a]
                ti += cr[a] * i3[a]
            out[k, 0] += sr - sign * tr
            out[k, 1] += si + sign * ti


@kernel(FAST)
def _sum_atoms(
    begin: int,
    end: int,
    tables: tuple[Floats, Floats],
    q: Floats,
    m: Ints,
    g: Floats,
    weighted: Floats,
    potential: Floats,
    gradient: Floats,
) -> None:
    """dE/dq and, where that array is not empty, dE/dx of the blocks begin..end; weighted = 2 W S (k,2)."""
    cr, ci, pot = np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK)
    f = np.empty((3, _BLOCK))
    want = len(gradient) > 0
    for block in range(begin, end):
        start = block * _BLOCK
        count = min(_BLOCK, len(q) - start)
        re, im = tables[0][block], tables[1][block]
        pot[:] = 0.0
        f[:] = 0.0
        for k in range(len(m)):
            if k == 0 or m[k, 0] != m[k - 1, 0] or m[k, 1] != m[k - 1, 1]:
                _plane(re, im, m[k, 0], m[k, 1], count, cr, ci)
            r3, i3 = re[2, abs(m[k, 2])], im[2, abs(m[k, 2])]
            sign = 1.0 if m[k, 2] >= 0 else -1.0
            wr, wi = weighted[k, 0], weighted[k, 1]
            if want:
                g1, g2, g3 = g[k, 0], g[k, 1], g[k, 2]
                for a in range(count):
                    c = cr[a] * r3[a] - sign * ci[a] * i3[a]
                    s = ci[a] * r3[a] + sign * cr[a] * i3[a]
                    pot[a] += wr * c + wi * s
                    t = wi * c - wr * s
                    f[0, a] += t * g1
                    f[1, a] += t * g2
                    f[2, a] += t * g3
            else:
                for a in range(count):
                    c = cr[a] * r3[a] - sign * ci[a] * i3[a]
                    s = ci[a] * r3[a] + sign * cr[a] * i3[a]
                    pot[a] += wr * c + wi * s
        for a in range(count):
            potential[start + a] = pot[a]
            if want:
                for d in range(3):
                    gradient[start + a, d] = q[start + a] * f[d, a]


def _tables(u: Floats, size: Ints) -> tuple[Floats, Floats]:
    """cos and sin of 2 pi m u_d, m = 0..size[d], each (blocks, 3, largest + 1, block)."""
    n, largest = len(u), int(size.max(initial=0))
    blocks = -(-n // _BLOCK)
    padded = np.zeros((blocks * _BLOCK, 3))
    padded[:n] = 2 * np.pi * (u - np.floor(u))
    angle = padded.reshape(blocks, _BLOCK, 3).transpose(0, 2, 1)
    re, im = np.empty((blocks, 3, largest + 1, _BLOCK)), np.empty((blocks, 3, largest + 1, _BLOCK))
    re[:, :, 0], im[:, :, 0] = 1.0, 0.0
    if largest > 0:
        re[:, :, 1], im[:, :, 1] = np.cos(angle), np.sin(angle)
    run([partial(_powers, a, b, re, im, size) for a, b in chunks(blocks, _SHARE)])
    return re, im


class WaveSum:
    """The waves of one geometry, for one or many sets of charges."""

    def __init__(self, x: Floats, h: Floats, alpha: float, m: Ints) -> None:
        self._x, self._h, self._alpha, self._m = x, h, alpha, m
        self._inverse = np.linalg.inv(h)
        u = x @ self._inverse
        self._g = 2 * np.pi * m @ self._inverse.T
        self._g2 = (self._g**2).sum(1)
        volume = abs(float(np.linalg.det(h)))
        self._weight = 4 * np.pi / volume * np.exp(-self._g2 / (4 * alpha**2)) / self._g2
        self._tables = _tables(u, np.abs(m).max(axis=0) if len(m) else np.zeros(3, np.int64))

    def __call__(self, q: Floats, forces: bool, potential: bool, cell: bool) -> WaveDerivatives:
        """Energy and the wanted derivatives; those of the cell need the forces."""
        n, m = len(q), self._m
        smallest = max(1, 200_000 // max(n, 1))
        factors = np.zeros((len(m), 2))
        run([partial(_sum_waves, a, b, self._tables, q, m, factors) for a, b in chunks(len(m), smallest)])
        square = self._weight * (factors**2).sum(1)
        energy = float(square.sum())
        if not (forces or potential or cell):
            return WaveDerivatives(energy, None, None, None)
        weighted = 2 * self._weight[:, None] * factors
        at_atoms, gradient = np.empty(n), np.empty((n if forces or cell else 0, 3))
        smallest = 200_000 // (_BLOCK * max(len(m), 1))
        run(
            [
                partial(_sum_atoms, a, b, self._tables, q, m, self._g, weighted, at_atoms, gradient)
                for a, b in chunks(len(self._tables[0]), smallest)
            ]
        )
        strain = None
        if cell:
            factor = 2 * square * (0.25 / self._alpha**2 + 1 / self._g2)
            tensor = (self._g * factor[:, None]).T @ self._g
            strain = self._inverse.T @ (tensor - energy * np.eye(3) - self._x.T @ gradient)
        return WaveDerivatives(energy, gradient if forces else None, at_atoms if potential else None, strain)
