"""B-splines of one order on the CPU: charges to the mesh, potentials from it.

The order p is a constant of the compiled code, and the p points that an atom touches along one direction are one
vector. With M the splines of `mesh`, an atom at u touches the points first..first + p - 1 modulo n, first = floor(u)
- p + 1, of each direction. Their values are polynomials in t = u - floor(u) - 1/2, evaluated where they are
needed: that takes less time than to read them from memory, and no memory.

Atoms are taken in the order of the rows of the mesh that they touch first. Rows are longer than n3 by at least p - 1
points, so that an atom near their end needs no special case: `spread` adds what lies there to the beginning of
the row, and before potentials are gathered the beginning is repeated there.

With 12,288 atoms and order 8 on one thread spreading moves half of the bytes between registers and first
cache that the processor moves; potentials and gradients take two fifths of the flops that it does, and sorting
counts at a twentieth and writes at a fifth of its rate at random places (`python -m examples.benchmarks limits`, AVX2).
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from grahame.kernels import vectors
from grahame.kernels.compiling import FAST, kernel
from grahame.kernels.cpu_neighbors import first_places
from grahame.kernels.threads import Steps, chunks

__all__ = ["SortedAtoms", "SplineKernels", "spline_kernels"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Short = NDArray[np.int32]

_CHUNK = 5000  # atoms below which a second thread does not pay for sorting them


@dataclass(frozen=True)
class SplineKernels:
    """Compiled code of one order; `spread` works on a range of planes of the mesh, the others on one of sorted atoms.

    Attributes:
        polynomials: (2,p,p) coefficients of t^d for every point, of the splines and of their slopes.
        spread: (begin, end, x, q, inverse, mesh, polynomials, start, atoms, base, out) spreads the charges on the planes,
            beside those that `base` holds (none if it is empty); what lies beyond n3 is 0 afterwards.
        potential: (begin, end, x, inverse, mesh, polynomials, atoms, phi, potential) at the atoms.
        gradient: (begin, end, x, inverse, mesh, polynomials, atoms, phi, potential, q, gradient), with q times its
            gradient.
    """

    polynomials: Floats
    spread: Callable[..., None]
    potential: Callable[..., None]
    gradient: Callable[..., None]


@lru_cache(maxsize=16)
def spline_kernels(order: int) -> SplineKernels:
    """The kernels of an order; compiled when first used, and kept on disk."""
    return SplineKernels(_polynomials(order), _spread(order), _potential(order), _gradient(order))


def _polynomials(order: int) -> Floats:
    """Coefficients (2,p,p) of t^d, for the points first + c: M_p(t + 1/2 + p - 1 - c) and M_p' there."""
    half = Fraction(1, 2)
    # pieces[k][d]: coefficient of t^d of M_p(t + 1/2 + k), raised from p = 2.
    pieces = [[half, Fraction(1)], [half, Fraction(-1)]]
    for p in range(3, order + 1):
        lower = [*pieces, [Fraction(0)] * (p - 1)]
        pieces = []
        for k in range(p):
            # M_p(x) = [x M_{p-1}(x) + (p - x) M_{p-1}(x - 1)]/(p - 1) at x = t + 1/2 + k
            here, before = lower[k], lower[k - 1] if k > 0 else [Fraction(0)] * (p - 1)
            x = half + k
            raised = [Fraction(0)] * p
            for d in range(p - 1):
                raised[d] += (x * here[d] + (p - x) * before[d]) / (p - 1)
                raised[d + 1] += (here[d] - before[d]) / (p - 1)
            pieces.append(raised)
    out = np.zeros((2, order, order))
    for c in range(order):
        piece = pieces[order - 1 - c]
        out[0, :, c] = [float(a) for a in piece]
        out[1, :-1, c] = [float(d * a) for d, a in enumerate(piece)][1:]
    return out


class SortedAtoms:
    """Atoms in the order of the rows that they touch first, sorted anew when asked.

    Args:
        order: p; x: (n,3) Å, read whenever they are sorted; inverse: of the cell; mesh: (3,) points.
        of: the atoms that are sorted, in int32; all if None.

    Attributes:
        start: (n1 + 1,) first place of every plane; atoms: (m,) by place.
        touched, untouched: planes with a point of one of them, and all others, rising.
    """

    def __init__(self, order: int, x: Floats, inverse: Floats, mesh: Ints, of: Short | None = None) -> None:
        self._x, self._of, self._bins, self._lines = x, of, int(mesh[0] * mesh[1]), int(mesh[1])
        n = len(x) if of is None else len(of)
        self.start, self.atoms = np.empty(int(mesh[0]) + 1, np.int64), np.empty(n, np.int32)
        self._row = np.empty(n, np.int32)
        self._count = partial(_count_rows, order=order, inverse=inverse, mesh=mesh, row=self._row)
        self._free = np.empty((1, self._bins), np.int32)
        # Planes after the first one that an atom touches.
        self._further = np.arange(order)[:, None]
        self.touched = self.untouched = np.empty(0, np.int64)

    @property
    def small(self) -> bool:
        """Whether a second thread does not pay."""
        return len(chunks(len(self._row), _CHUNK)) == 1

    def sort(self) -> None:
        """On the calling thread."""
        places = self._places()
        self._count(0, len(places), x=places, count=self._free[0])
        self._begin(self._free)
        _place(0, len(places), self._row, self._free[0], self.atoms)
        self._name()

    def steps(self) -> Steps[None]:
        """The same as one of several sums."""
        places = self._places()
        parts = chunks(len(places), _CHUNK)
        free = np.empty((len(parts), self._bins), np.int32)
        yield [[partial(self._count, a, b, x=places, count=free[c])] for c, (a, b) in enumerate(parts)]
        self._begin(free)
        yield [[partial(_place, a, b, self._row, free[c], self.atoms)] for c, (a, b) in enumerate(parts)]
        self._name()

    def _places(self) -> Floats:
        return self._x if self._of is None else self._x[self._of]

    def _begin(self, free: Short) -> None:
        self.start[:] = first_places(free)[:: self._lines]
        planes = len(self.start) - 1
        empty = np.ones(planes, dtype=bool)
        empty[(np.flatnonzero(np.diff(self.start)) + self._further) % planes] = False
        self.touched, self.untouched = np.flatnonzero(~empty), np.flatnonzero(empty)

    def _name(self) -> None:
        """From places among those that are sorted to atoms."""
        if self._of is not None:
            self.atoms[:] = self._of[self.atoms]


@kernel()
def _count_rows(
    begin: int, end: int, order: int, x: Floats, inverse: Floats, mesh: Ints, row: Short, count: Short
) -> None:
    """The row that every atom begin..end touches first, and how many touch each."""
    n1, n2 = mesh[0], mesh[1]
    count[:] = 0
    for a in range(begin, end):
        u = (x[a, 0] * inverse[0, 0] + x[a, 1] * inverse[1, 0] + x[a, 2] * inverse[2, 0]) * n1
        v = (x[a, 0] * inverse[0, 1] + x[a, 1] * inverse[1, 1] + x[a, 2] * inverse[2, 1]) * n2
        l1 = (np.int64(np.floor(u)) - (order - 1)) % n1
        row[a] = l1 * n2 + (np.int64(np.floor(v)) - (order - 1)) % n2
        count[row[a]] += 1


@kernel()
def _place(begin: int, end: int, row: Short, free: Short, atoms: Short) -> None:
    """The atoms by place; `free` is the first place of every row. Limited by the latency of memory: they may lie anywhere."""
    following = free.copy()
    for a in range(begin, end):
        atoms[following[row[a]]] = a
        following[row[a]] += 1


def _spread(order: int) -> Callable[..., None]:
    @kernel(FAST)
    def spread(
        begin: int,
        end: int,
        x: Floats,
        q: Floats,
        inverse: Floats,
        mesh: Ints,
        polynomials: Floats,
        start: Ints,
        atoms: Short,
        base: Floats,
        out: Floats,
    ) -> None:
        # Limited by stores: every row of an atom's points is read and written once.
        n1, n2, n3 = mesh[0], mesh[1], mesh[2]
        flat = out.reshape(-1)
        row_length = out.shape[2]
        values = np.empty((2, order))
        first, t = np.empty(3, np.int64), np.empty(3)
        # Planes below 0 are those at the end: every point adds its atoms in one order, whoever owns it.
        for plane in range(begin - order + 1, end):
            here = plane % n1
            following = plane + order - 1
            if following < end:
                # Number by number: assigning arrays brings code for errors along that takes seconds to compile.
                for l2 in range(n2):
                    if len(base) > 0:
                        for k in range(row_length):
                            out[following, l2, k] = base[following, l2, k]
                    else:
                        for k in range(row_length):
                            out[following, l2, k] = 0.0
            for place in range(start[here], start[here + 1]):
                a = atoms[place]
                if q[a] == 0.0:
                    continue
                for d in range(3):
                    u = (x[a, 0] * inverse[0, d] + x[a, 1] * inverse[1, d] + x[a, 2] * inverse[2, d]) * mesh[
                        d
                    ]
                    floor = np.floor(u)
                    t[d] = u - floor - 0.5
                    first[d] = (np.int64(floor) - (order - 1)) % mesh[d]
                if first[0] != here:
                    # On a plane, where products and sums that are rounded once or twice fall on both sides.
                    t[0] += 1.0 if first[0] == (here + 1) % n1 else -1.0
                top = (order - 1) * order
                one = two = line = vectors.load(polynomials, top, order)
                for d in range(1, order):
                    c = vectors.load(polynomials, top - d * order, order)
                    one, two, line = (
                        vectors.axpy(t[0], one, c),
                        vectors.axpy(t[1], two, c),
                        vectors.axpy(t[2], line, c),
                    )
                vectors.store(values, 0, one)
                vectors.store(values, order, two)
                for i in range(max(0, begin - plane), min(order, end - plane)):
                    charge = q[a] * values[0, i]
                    l1, l2 = (plane + i) * n2, first[1]
                    for j in range(order):
                        point = (l1 + l2) * row_length + first[2]
                        vectors.store(
                            flat,
                            point,
                            vectors.axpy(charge * values[1, j], line, vectors.load(flat, point, order)),
                        )
                        l2 += 1
                        if l2 == n2:
                            l2 = 0
            if plane >= begin:
                for l2 in range(n2):
                    for k in range(n3, n3 + order - 1):
                        out[plane, l2, k % n3] += out[plane, l2, k]
                        out[plane, l2, k] = 0.0

    return spread


def _potential(order: int) -> Callable[..., None]:
    @kernel(FAST)
    def potential(
        begin: int,
        end: int,
        x: Floats,
        inverse: Floats,
        mesh: Ints,
        polynomials: Floats,
        atoms: Short,
        phi: Floats,
        potential: Floats,
    ) -> None:
        # Limited by loads: order² rows of the mesh for every atom.
        n1, n2, n3 = phi.shape
        flat = phi.reshape(-1)
        values = np.empty((2, order))
        first, t = np.empty(3, np.int64), np.empty(3)
        for place in range(begin, end):
            a = atoms[place]
            for d in range(3):
                u = (x[a, 0] * inverse[0, d] + x[a, 1] * inverse[1, d] + x[a, 2] * inverse[2, d]) * mesh[d]
                floor = np.floor(u)
                t[d] = u - floor - 0.5
                first[d] = (np.int64(floor) - (order - 1)) % mesh[d]
            top = (order - 1) * order
            one = two = line = vectors.load(polynomials, top, order)
            for d in range(1, order):
                c = vectors.load(polynomials, top - d * order, order)
                one, two, line = (
                    vectors.axpy(t[0], one, c),
                    vectors.axpy(t[1], two, c),
                    vectors.axpy(t[2], line, c),
                )
            vectors.store(values, 0, one)
            vectors.store(values, order, two)
            total = vectors.fill(0.0, order)
            l1 = first[0]
            for i in range(order):
                plane = vectors.fill(0.0, order)
                l2 = first[1]
                for j in range(order):
                    plane = vectors.axpy(
                        values[1, j], vectors.load(flat, (l1 * n2 + l2) * n3 + first[2], order), plane
                    )
                    l2 += 1
                    if l2 == n2:
                        l2 = 0
                total = vectors.axpy(values[0, i], plane, total)
                l1 += 1
                if l1 == n1:
                    l1 = 0
            potential[a] = vectors.dot(total, line)

    return potential


def _gradient(order: int) -> Callable[..., None]:
    @kernel(FAST)
    def gradient(
        begin: int,
        end: int,
        x: Floats,
        inverse: Floats,
        mesh: Ints,
        polynomials: Floats,
        atoms: Short,
        phi: Floats,
        potential: Floats,
        q: Floats,
        gradient: Floats,
    ) -> None:
        # Limited by loads and their latency: order² rows of the mesh for every atom.
        n1, n2, n3 = phi.shape
        flat = phi.reshape(-1)
        values = np.empty((4, order))
        first, t = np.empty(3, np.int64), np.empty(3)
        for place in range(begin, end):
            a = atoms[place]
            for d in range(3):
                u = (x[a, 0] * inverse[0, d] + x[a, 1] * inverse[1, d] + x[a, 2] * inverse[2, d]) * mesh[d]
                floor = np.floor(u)
                t[d] = u - floor - 0.5
                first[d] = (np.int64(floor) - (order - 1)) % mesh[d]
            top = (order - 1) * order
            one = two = line = vectors.load(polynomials, top, order)
            slope1 = slope2 = slope3 = vectors.load(polynomials, top + order * order, order)
            for d in range(1, order):
                c, s = (
                    vectors.load(polynomials, top - d * order, order),
                    vectors.load(polynomials, top + (order - d) * order, order),
                )
                one, two, line = (
                    vectors.axpy(t[0], one, c),
                    vectors.axpy(t[1], two, c),
                    vectors.axpy(t[2], line, c),
                )
                slope1, slope2, slope3 = (
                    vectors.axpy(t[0], slope1, s),
                    vectors.axpy(t[1], slope2, s),
                    vectors.axpy(t[2], slope3, s),
                )
            vectors.store(values, 0, one)
            vectors.store(values, order, two)
            vectors.store(values, 2 * order, slope1)
            vectors.store(values, 3 * order, slope2)
            # The sums over the first two directions, still resolved along the third.
            total = along1 = along2 = vectors.fill(0.0, order)
            l1 = first[0]
            for i in range(order):
                plane = plane2 = vectors.fill(0.0, order)
                l2 = first[1]
                for j in range(order):
                    row = vectors.load(flat, (l1 * n2 + l2) * n3 + first[2], order)
                    plane = vectors.axpy(values[1, j], row, plane)
                    plane2 = vectors.axpy(values[3, j], row, plane2)
                    l2 += 1
                    if l2 == n2:
                        l2 = 0
                total = vectors.axpy(values[0, i], plane, total)
                along1 = vectors.axpy(values[2, i], plane, along1)
                along2 = vectors.axpy(values[0, i], plane2, along2)
                l1 += 1
                if l1 == n1:
                    l1 = 0
            potential[a] = vectors.dot(total, line)
            g1 = q[a] * mesh[0] * vectors.dot(along1, line)
            g2 = q[a] * mesh[1] * vectors.dot(along2, line)
            g3 = q[a] * mesh[2] * vectors.dot(total, slope3)
            for d in range(3):
                gradient[a, d] = inverse[d, 0] * g1 + inverse[d, 1] * g2 + inverse[d, 2] * g3

    return gradient
