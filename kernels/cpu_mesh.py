"""Smooth particle mesh Ewald on the CPU: the formulas of `mesh`, compiled, with first derivatives.

Each thread owns planes of the mesh when charges are spread and atoms when potentials are gathered, so nothing
is added twice and nothing is added in an order that depends on the number of threads. The mesh, its waves and the
potentials on it share one array.

With the potential on the mesh, phi(l) = dE/dQ(l) = 2 FFT^-1[W FFT[Q]], the derivatives are

    dE/dq_j = sum over l of phi(l) M M M,    dE/dx_j = q_j inv(h) n (sum over l of phi(l) M' M M, ...),
    dE/dh = inv(h)^T {-E 1 + sum over m of 2 W |FFT[Q]|² (1/4 alpha² + 1/G²) G G^T - sum_j x_j (dE/dx_j)^T},

where the first two parts of the last line change the cell at fixed fractional coordinates and the third
brings the atoms back to their places.

With 12,288 atoms on one thread multiplying the waves moves nine tenths of the bytes that the processor moves,
weights take four fifths of its exponentials, and repeating the beginnings of rows, a sixtieth of the time,
moves a fourteenth of its bytes (`python -m examples.benchmarks limits`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numba
import numpy as np
from numpy.typing import NDArray

from grahame.kernels import cpu_fft, cpu_memory
from grahame.kernels import mesh as formulas
from grahame.kernels.cpu_splines import sorted_by_rows, spline_kernels
from grahame.kernels.mesh import Mesh
from grahame.kernels.threads import Steps, chunks, run, together

Floats = NDArray[np.float64]
Waves = NDArray[np.complex128]
Ints = NDArray[np.int64]
Short = NDArray[np.int32]

_CHUNK = 500  # atoms below which a second thread does not pay
_POINTS = 30_000  # mesh points below which it does not
_FAST = {"contract", "reassoc", "nsz", "arcp"}


@dataclass(frozen=True)
class MeshDerivatives:
    """Energy in e²/Å and the derivatives that were asked for (None otherwise)."""

    energy: float
    positions: Floats | None
    charges: Floats | None
    cell: Floats | None


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def _weigh_lines(
    begin: int,
    end: int,
    transform: Waves,
    weight: Floats,
    reciprocal: Floats,
    alpha: float,
    want_cell: bool,
    energy: Floats,
    tensor: Floats,
) -> None:
    """FFT[Q] -> 2 W FFT[Q] on the lines begin..end of all planes; energy (n2,) and G G^T sums (n2,3,3) of each line.

    Limited by memory: transform and weights pass once.
    """
    n1, n2, n3 = weight.shape
    g = np.empty(3)
    for i in range(n1):
        m1 = i if 2 * i < n1 else i - n1
        for j in range(begin, end):
            m2 = j if 2 * j < n2 else j - n2
            t = tensor[j]
            # Waves off the plane m3 = 0 stand for ±G; the edge has no weight.
            first, line = 0.0, 0.0
            for k in range(n3):
                value = transform[i, j, k]
                w = weight[i, j, k]
                square = w * (value.real * value.real + value.imag * value.imag)
                line += square
                if k == 0:
                    first = square
                transform[i, j, k] = 2.0 * w * value
                if want_cell and w != 0.0:
                    for d in range(3):
                        g[d] = m1 * reciprocal[0, d] + m2 * reciprocal[1, d] + k * reciprocal[2, d]
                    factor = (
                        2.0
                        * square
                        * (2.0 if k > 0 else 1.0)
                        * (0.25 / (alpha * alpha) + 1.0 / (g[0] * g[0] + g[1] * g[1] + g[2] * g[2]))
                    )
                    for d in range(3):
                        for e in range(3):
                            t[d, e] += factor * g[d] * g[e]
            energy[j] += 2.0 * line - first


@numba.njit(cache=True, nogil=True)
def _fill_weights(
    begin: int,
    end: int,
    reciprocal: Floats,
    scale: float,
    quarter: float,
    axis1: Floats,
    axis2: Floats,
    axis3: Floats,
    out: Floats,
) -> None:
    """scale exp(-quarter G²)/G² times the factors of the axes, 0 for G = 0; limited by exponentials."""
    n1, n2, n3 = out.shape
    for i in range(begin, end):
        m1 = i if 2 * i < n1 else i - n1
        for j in range(n2):
            m2 = j if 2 * j < n2 else j - n2
            for k in range(n3):
                square = 0.0
                for d in range(3):
                    g = m1 * reciprocal[0, d] + m2 * reciprocal[1, d] + k * reciprocal[2, d]
                    square += g * g
                out[i, j, k] = 0.0
                if square > 0.0:
                    factor = scale * axis1[i] * axis2[j] * axis3[k]
                    out[i, j, k] = factor * math.exp(-quarter * square) / square


@numba.njit(cache=True, nogil=True)
def _repeat_rows(begin: int, end: int, mesh: Floats, length: int) -> None:
    """Rows are periodic: what lies beyond `length` repeats their beginning."""
    for i in range(begin, end):
        for j in range(mesh.shape[1]):
            for k in range(length, mesh.shape[2]):
                mesh[i, j, k] = mesh[i, j, k % length]


def _axis_factors(n: int, order: int) -> Floats:
    """D(m)^-2, 0 at the edge."""
    square: Floats = formulas.interpolation_factors(n, order).numpy() ** -2
    if n % 2 == 0:
        square[n // 2] = 0.0
    return square


@lru_cache(maxsize=4)
def _weights(cell: bytes, alpha: float, mesh: Mesh, order: int) -> Floats:
    """Weight of one wave in the energy, (n1, n2, n3//2 + 1) in 1/Å; kept while the cell stays the same."""
    h = np.frombuffer(cell).reshape(3, 3)
    out: Floats = np.empty((mesh[0], mesh[1], mesh[2] // 2 + 1))
    axes = [_axis_factors(n, order) for n in mesh]
    fill = partial(
        _fill_weights, reciprocal=np.ascontiguousarray(2 * np.pi * np.linalg.inv(h).T),
        scale=2 * np.pi / abs(float(np.linalg.det(h))), quarter=0.25 / alpha**2,
        axis1=axes[0], axis2=axes[1], axis3=axes[2], out=out,
    )  # fmt: skip
    run([partial(fill, a, b) for a, b in chunks(mesh[0], _planes(out.size, mesh[0]))])
    return out


@lru_cache(maxsize=4)
def _inverse(cell: bytes) -> Floats:
    """Of a cell, kept while it stays the same."""
    return np.asarray(np.linalg.inv(np.frombuffer(cell).reshape(3, 3)), dtype=np.float64)


def _planes(points: int, planes: int) -> int:
    """Planes below which a second thread does not pay."""
    return 1 if points >= _POINTS else planes


class MeshSum:
    """The waves of one geometry on the mesh, for one or many sets of charges."""

    def __init__(self, x: Floats, h: Floats, alpha: float, mesh: Mesh, order: int, forces: bool) -> None:
        self._x, self._alpha, self._mesh = x, alpha, mesh
        kept = h.tobytes()
        self._inverse = _inverse(kept)
        self._weights = _weights(kept, alpha, mesh, order)
        # Even, with room for the waves and for splines that begin at the last point.
        self._row = 2 * (max(mesh[2] + 2, mesh[2] + order) // 2)
        self._size = np.asarray(mesh, dtype=np.int64)
        self._order, self._kernels = order, spline_kernels(order)
        self._sorted: tuple[Ints, Short] | None = None

    def __call__(self, q: Floats, forces: bool, potential: bool, cell: bool) -> MeshDerivatives:
        """Energy and the wanted derivatives; those of the cell need the forces."""
        small = len(q) < 2 * _CHUNK and self._mesh[0] * self._mesh[1] * self._row < _POINTS
        found: MeshDerivatives = together(self.steps(q, forces, potential, cell), small=small)[0]
        return found

    def steps(self, q: Floats, forces: bool, potential: bool, cell: bool) -> Steps[MeshDerivatives]:
        """The same as one of several sums."""
        n1, n2, length = self._mesh
        if self._sorted is None:
            self._sorted = yield from sorted_by_rows(self._order, self._x, self._inverse, self._size)
        start, atoms = self._sorted
        shared = {"x": self._x, "inverse": self._inverse, "mesh": self._size, "atoms": atoms}
        shared["polynomials"] = self._kernels.polynomials
        mesh: Floats = cpu_memory.empty((n1, n2, self._row))
        planes, lines = (chunks(k, _planes(mesh.size, k)) for k in (n1, n2))
        spread = partial(self._kernels.spread, **shared, q=q, start=start, out=mesh)
        yield [[partial(spread, a, b), partial(cpu_fft.along, a, b, mesh, length)] for a, b in planes]
        energies, tensors = np.zeros(n2), np.zeros((n2, 3, 3))
        weigh = partial(
            _weigh_lines, transform=mesh.view(np.complex128), weight=self._weights,
            reciprocal=np.ascontiguousarray(2 * np.pi * self._inverse.T), alpha=self._alpha, want_cell=cell,
            energy=energies, tensor=tensors,
        )  # fmt: skip
        gathered = forces or potential or cell
        yield [
            [partial(cpu_fft.across, a, b, mesh, length, True), partial(weigh, a, b)]
            + ([partial(cpu_fft.across, a, b, mesh, length, False)] if gathered else [])
            for a, b in lines
        ]
        energy = float(energies.sum())
        if not gathered:
            return MeshDerivatives(energy, None, None, None)
        yield [
            [partial(cpu_fft.back_along, a, b, mesh, length), partial(_repeat_rows, a, b, mesh, length)]
            for a, b in planes
        ]
        n = len(q)
        at_atoms, gradient = cpu_memory.empty(n), cpu_memory.empty((n if forces or cell else 0, 3))
        gather: Callable[..., object] = self._kernels.potential
        if forces or cell:
            gather = partial(self._kernels.gradient, q=q, gradient=gradient)
        yield [[partial(gather, a, b, **shared, phi=mesh, potential=at_atoms)] for a, b in chunks(n, _CHUNK)]
        strain = None
        if cell:
            strain = self._inverse.T @ (tensors.sum(0) - energy * np.eye(3) - self._x.T @ gradient)
        return MeshDerivatives(energy, gradient if forces else None, at_atoms if potential else None, strain)
