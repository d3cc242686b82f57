"""Smooth particle mesh Ewald on the CPU: the formulas of `mesh`, compiled, with first derivatives.

Each thread owns planes of the mesh when charges are spread and atoms when potentials are gathered, so nothing
is added twice and nothing is added in an order that depends on the number of threads. The mesh, its waves and the
potentials on it share one array. Planes that no atom touches, the vacuum of a slab whose normal is the first vector, hold
nothing and are asked for nothing: two of the three directions of a transform leave them out.

With the potential on the mesh, phi(l) = dE/dQ(l) = 2 FFT^-1[W FFT[Q]], the derivatives are

    dE/dq_j = sum over l of phi(l) M M M,    dE/dx_j = q_j inv(h) n (sum over l of phi(l) M' M M, ...),
    dE/dh = inv(h)^T {-E 1 + sum over m of 2 W |FFT[Q]|² (1/4 alpha² + 1/G²) G G^T - sum_j x_j (dE/dx_j)^T},

where the first two parts of the last line change the cell at fixed fractional coordinates and the third
brings the atoms back to their places.

With 12,288 atoms on one thread multiplying the waves moves four tenths of the bytes that the processor moves,
weights take two thirds of its exponentials, and repeating the beginnings of rows moves a thirteenth of its bytes
(`python -m examples.benchmarks limits`, AVX2).
"""

import math
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from grahame.kernels import cpu_fft, cpu_memory
from grahame.kernels import mesh as formulas
from grahame.kernels.compiling import FAST, kernel
from grahame.kernels.cpu_splines import SortedAtoms, spline_kernels
from grahame.kernels.mesh import Mesh
from grahame.kernels.threads import Lane, Steps, available, chunks, run, together

Floats = NDArray[np.float64]
Waves = NDArray[np.complex128]
Ints = NDArray[np.int64]
Short = NDArray[np.int32]

_CHUNK = 2500  # atoms below which a second thread does not pay
_POINTS = 40_000  # mesh points below which it does not
_NO_MESH: Floats = np.empty((0, 0, 0))


@dataclass(frozen=True)
class MeshDerivatives:
    """Energy in e²/Å and the derivatives that were asked for (None otherwise)."""

    energy: float
    positions: Floats | None
    charges: Floats | None
    cell: Floats | None


@kernel(FAST)
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


@kernel()
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


@kernel()
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
    """The waves of one cell on the mesh, for any positions and charges; its arrays and tasks are made once.

    Args:
        x: (n,3) Å, read after each `moved`; h: (3,3) rows in Å; alpha: 1/Å; mesh: points; order: of the B-splines.
        q: (n,) e, read whenever the sum is asked for; None makes room for those that a call gives.
        changing: atoms, in int32, whose charges differ between calls at the same positions: what all others have on the
            mesh is then kept as long as it is the same.
    """

    def __init__(
        self,
        x: Floats,
        h: Floats,
        alpha: float,
        mesh: Mesh,
        order: int,
        q: Floats | None = None,
        changing: Short | None = None,
    ) -> None:
        n = len(x)
        self._x, self._q = x, np.empty(n) if q is None else q
        self._alpha, self._mesh, self._changing = alpha, mesh, changing
        kept = h.tobytes()
        self._inverse = _inverse(kept)
        self._reciprocal = np.ascontiguousarray(2 * np.pi * self._inverse.T)
        self._weights = _weights(kept, alpha, mesh, order)
        self._size = np.asarray(mesh, dtype=np.int64)
        self._kernels = spline_kernels(order)
        self._all = SortedAtoms(order, x, self._inverse, self._size)
        self._few = (
            self._all if changing is None else SortedAtoms(order, x, self._inverse, self._size, changing)
        )
        # Rows are even, with room for the waves and for splines that begin at the last point.
        row = 2 * (max(mesh[2] + 2, mesh[2] + order) // 2)
        self._on_mesh: Floats = cpu_memory.empty((mesh[0], mesh[1], row))
        # What the charges that do not change have on the mesh, and these charges.
        self._base = _NO_MESH if changing is None else cpu_memory.empty(self._on_mesh.shape)
        self._others, self._held = np.empty(0 if changing is None else n), False
        self._potential, self._gradient = cpu_memory.empty(n), cpu_memory.empty((0, 3))
        self._energies, self._tensors = np.empty(mesh[1]), np.empty((mesh[1], 3, 3))
        self._sorted = False
        self._tasks: dict[tuple[int, ...], list[list[Lane]]] = {}

    def __call__(self, q: Floats, forces: bool, potential: bool, cell: bool) -> MeshDerivatives:
        """Energy and the wanted derivatives."""
        self._q[:] = q
        small = len(q) < 2 * _CHUNK and self._on_mesh.size < _POINTS
        d: MeshDerivatives = together(self.steps(forces, potential, cell), small=small)[0]
        return MeshDerivatives(
            d.energy,
            None if d.positions is None else d.positions.copy(),
            None if d.charges is None else d.charges.copy(),
            d.cell,
        )

    def moved(self) -> None:
        """The atoms are elsewhere now."""
        self._sorted = self._held = False

    def steps(
        self, forces: bool, potential: bool, cell: bool = False, few: bool = False
    ) -> Steps[MeshDerivatives]:
        """The same as one of several sums, in arrays that the next one overwrites.

        With `few` potentials mean something at the changing atoms only.
        """
        if not self._sorted:
            yield from self._sort()
        slopes = forces or cell
        if slopes and len(self._gradient) == 0:
            self._gradient = cpu_memory.empty((len(self._q), 3))
        gathered = slopes or potential
        spread, across, along, gather = self._stages(slopes, cell, few, gathered, self._changed())
        self._energies[:] = 0.0
        self._tensors[:] = 0.0
        yield spread
        self._held = self._changing is not None
        yield across
        energy = float(self._energies.sum())
        if not gathered:
            return MeshDerivatives(energy, None, None, None)
        yield along
        yield gather
        strain = None
        if cell:
            strain = self._inverse.T @ (
                self._tensors.sum(0) - energy * np.eye(3) - self._x.T @ self._gradient
            )
        at_atoms = self._potential if potential else None
        return MeshDerivatives(energy, self._gradient if forces else None, at_atoms, strain)

    def _sort(self) -> Steps[None]:
        lists = [self._all] if self._few is self._all else [self._all, self._few]
        if self._all.small:

            def sort() -> None:
                for each in lists:
                    each.sort()

            yield [[sort]]
        else:
            for each in lists:
                yield from each.steps()
        self._sorted = True

    def _changed(self) -> bool:
        """Whether the charges that are to stay are others than those on the mesh."""
        if self._changing is None:
            return False
        others = self._q.copy()
        others[self._changing] = 0.0
        if self._held and np.array_equal(others, self._others):
            return False
        self._others[:] = others
        # Not before they are on the mesh: an interrupt may come between.
        self._held = False
        return True

    def _stages(self, slopes: bool, cell: bool, few: bool, gathered: bool, renew: bool) -> list[list[Lane]]:
        """What the threads do, one stage after the other; made once for each kind of sum and number of threads."""
        key = (available(), slopes, cell, few, gathered, renew)
        if key not in self._tasks:
            self._tasks[key] = self._made(slopes, cell, few, gathered, renew)
        return self._tasks[key]

    def _made(self, slopes: bool, cell: bool, few: bool, gathered: bool, renew: bool) -> list[list[Lane]]:
        # Tasks know arrays and not the sum: its memory serves again as soon as nobody has the sum.
        mesh, length, kernels = self._on_mesh, self._mesh[2], self._kernels
        lines = chunks(self._mesh[1], _planes(mesh.size, self._mesh[1]))
        parts = len(chunks(self._mesh[0], _planes(mesh.size, self._mesh[0])))
        every, some = self._all, self._few if few else self._all
        where = (self._inverse, self._size, kernels.polynomials)
        others = [(self._others, self._all, _NO_MESH, self._base)] if renew else []
        charged = [*others, (self._q, self._few, self._base, mesh)]
        x, q, potential, gradient = self._x, self._q, self._potential, self._gradient
        weigh = partial(
            _weigh_lines, transform=mesh.view(np.complex128), weight=self._weights, reciprocal=self._reciprocal,
            alpha=self._alpha, want_cell=cell, energy=self._energies, tensor=self._tensors,
        )  # fmt: skip

        def spread(part: int) -> None:
            for a, b in _runs(every.touched, part, parts):
                for of, atoms, base, out in charged:
                    kernels.spread(a, b, x, of, *where, atoms.start, atoms.atoms, base, out)
                cpu_fft.along(a, b, mesh, length)
            for a, b in _runs(every.untouched, part, parts):
                mesh[a:b] = 0.0

        def across(a: int, b: int) -> None:
            cpu_fft.across(a, b, mesh, length, True)
            weigh(a, b)
            if gathered:
                cpu_fft.across(a, b, mesh, length, False)

        def along(part: int) -> None:
            for a, b in _runs(some.touched, part, parts):
                cpu_fft.back_along(a, b, mesh, length)
                _repeat_rows(a, b, mesh, length)

        def gather(a: int, b: int) -> None:
            if slopes:
                kernels.gradient(a, b, x, *where, some.atoms, mesh, potential, q, gradient)
            else:
                kernels.potential(a, b, x, *where, some.atoms, mesh, potential)

        return [
            [[partial(spread, part)] for part in range(parts)],
            [[partial(across, a, b)] for a, b in lines],
            [[partial(along, part)] for part in range(parts)],
            [[partial(gather, a, b)] for a, b in chunks(len(some.atoms), _CHUNK)],
        ]


def _runs(planes: Ints, part: int, parts: int) -> list[tuple[int, int]]:
    """Ranges of neighbouring planes, in one of so many equal parts of rising planes."""
    n = len(planes)
    mine = planes[n * part // parts : n * (part + 1) // parts]
    if len(mine) == 0:
        return []
    if mine[-1] - mine[0] == len(mine) - 1:
        return [(int(mine[0]), int(mine[-1]) + 1)]
    ends = np.flatnonzero(np.diff(mine) > 1)
    return [(int(mine[a]), int(mine[b]) + 1) for a, b in zip([0, *(ends + 1)], [*ends, len(mine) - 1])]
