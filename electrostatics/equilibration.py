"""Minimise 1/2 q'Aq + b'q - psi'q with the sums of q over disjoint sets of atoms held.

    A q + b + lambda_set = psi,     sum over set of q = d_set

A is positive definite where it matters, in the null space of the constraints, and often nowhere else (a
charged slab's A has eigenvalues of -600 eV/e²). Everything therefore happens in the null space: P removes
the mean of every constrained set, and P A P is completed by tau u u' on the set vectors u, which changes
nothing in the null space and makes a Cholesky factorisation possible. What is kept of it is the inverse: a product
with one triangle of it passes through memory once, where two triangular solves pass twice, one number after the other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor

from grahame.electrostatics.arrays import host
from grahame.kernels import cpu_symmetric
from grahame.kernels.operators import array

_DENSE_EIGENVALUES = 1500
# Relative residual below which conjugate gradients that stop descending have met rounding, not a defect.
_ROUNDING = 1e-10


@dataclass(frozen=True)
class Constraints:
    """Disjoint sets of solved atoms whose charge sums are held.

    Attributes:
        set_of: (n,) the set of each atom, -1 for atoms in none.
        count: number of sets.
    """

    set_of: Tensor
    count: int

    @cached_property
    def _slots(self) -> Tensor:
        return torch.where(self.set_of < 0, torch.full_like(self.set_of, self.count), self.set_of)

    def sums(self, v: Tensor) -> Tensor:
        """Sum of v (n,) or (n,m) over each set."""
        total = v.new_zeros((self.count + 1, *v.shape[1:])).index_add(0, self._slots, v)
        return total[: self.count]

    def sizes(self) -> Tensor:
        """Atoms in each set."""
        return self._sizes

    @cached_property
    def _sizes(self) -> Tensor:
        return self.sums(torch.ones(len(self.set_of), dtype=torch.float64, device=self.set_of.device))

    def spread(self, values: Tensor) -> Tensor:
        """One value per set, given to each of its atoms (0 to atoms in none)."""
        return torch.cat([values, values.new_zeros((1, *values.shape[1:]))])[self._slots]

    def shifted(self, v: Tensor, wanted: Tensor) -> Tensor:
        """v (n,) moved by one number in each set, so that the sums are those wanted."""
        if self.count == 1 and self._whole:
            return v + (wanted[0] - v.sum()) / len(v)
        return v + self.spread((wanted - self.sums(v)) / self.sizes())

    def project(self, v: Tensor) -> Tensor:
        """P v: remove the mean over each set."""
        if self.count == 0:
            return v
        if self.count == 1 and self._whole:
            return v - v.sum(dim=0) / len(v)  # torch's mean takes twice as long
        sizes = self.sizes().reshape((-1,) + (1,) * (v.ndim - 1))
        return v - self.spread(self.sums(v) / sizes)

    @cached_property
    def _whole(self) -> bool:
        """Whether every atom is in a set."""
        return bool((self.set_of >= 0).all())


class Factor:
    """Inverse of A in the null space of the constraints, by its Cholesky factor.

    Args:
        matrix: A (n,n) in eV/e².
        constraints: the held sums.

    Raises:
        ValueError: if A is not positive definite there.
    """

    def __init__(self, matrix: Tensor, constraints: Constraints) -> None:
        self.constraints = constraints
        self._matrix = matrix.detach()
        self._tau = float(self._matrix.diagonal().abs().mean())
        inverse = _inverse(self._completed())
        if inverse is None:
            smallest = float(np.linalg.eigvalsh(self._projected)[0])
            raise ValueError(
                f"smallest eigenvalue of the electrode matrix = {smallest:.4g} eV/e² must be greater than zero: "
                "charges would grow without bound; widen the Gaussians less than half the nearest-neighbour distance, "
                "add hardness, or check for atoms that nearly coincide"
            )
        self._inverse = inverse
        self._spectrum: tuple[float, float] | None = None

    def _completed(self) -> Tensor:
        """P A P + tau u u' = A - u w' - w u', w = A u - u (u'A u + tau)/2; limited by memory traffic."""
        u = self._units()
        w = self._matrix @ u
        w = w - 0.5 * u @ (u.T @ w + self._tau * torch.eye(u.shape[1], dtype=u.dtype, device=u.device))
        return torch.addmm(self._matrix, torch.cat([u, w], dim=1), torch.cat([w, u], dim=1).T, alpha=-1.0)

    def _units(self) -> Tensor:
        """The set vectors u, of length one, (n,sets)."""
        sets = torch.arange(self.constraints.count, device=self._matrix.device)
        members = (self.constraints.set_of[:, None] == sets).to(self._matrix.dtype)
        return members / members.sum(0).sqrt()

    @cached_property
    def _projected(self) -> NDArray[np.float64]:
        """The matrix that is factorised, on the host."""
        return host(self._completed())

    def solve(self, r: Tensor) -> Tensor:
        """(P A P)^-1 P r in the null space, for r (n,) or (n,m)."""
        b = self.constraints.project(r).detach()
        return self.constraints.project(symmetric_product(self._inverse, b))

    @property
    def spectrum(self) -> tuple[float, float]:
        """Smallest and largest eigenvalue in the null space, eV/e².

        Raises:
            ValueError: where the constraints fix every charge: an empty space has no eigenvalue.
        """
        if self._spectrum is None:
            n, dimension = len(self._matrix), len(self._matrix) - self.constraints.count
            if dimension == 0:
                raise ValueError(
                    "free electrode charges = 0 must be at least one: the constraints fix every charge and leave "
                    "no eigenvalue; solve more atoms, or drop total_charge"
                )
            if n <= _DENSE_EIGENVALUES:
                self._spectrum = self._dense_spectrum()
            else:
                self._spectrum = self._lanczos_spectrum()
        return self._spectrum

    def _dense_spectrum(self) -> tuple[float, float]:
        # The set vectors are eigenvectors too: with eigenvalue 0 they do not disturb the largest, and lifted
        # above it they do not disturb the smallest.
        inside = self._projected - self._tau * self._sets()
        largest = float(np.linalg.eigvalsh(inside)[-1])
        smallest = float(np.linalg.eigvalsh(inside + (largest + 1.0) * self._sets())[0])
        return smallest, largest

    def _sets(self) -> NDArray[np.float64]:
        u = self._units()
        return host(u @ u.T)

    def _lanczos_spectrum(self) -> tuple[float, float]:
        n, matrix = len(self._matrix), self._projected

        def vector(v: NDArray[np.float64]) -> Tensor:
            return torch.as_tensor(v.ravel()).to(self._matrix.device)

        def product(v: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.asarray(matrix @ host(self.constraints.project(vector(v))))

        def inverse(v: NDArray[np.float64]) -> NDArray[np.float64]:
            return host(self.solve(vector(v)))

        start = np.sin(np.arange(1.0, n + 1.0))
        ends = []
        for function in (inverse, product):
            operator = scipy.sparse.linalg.LinearOperator((n, n), matvec=function, dtype=np.float64)
            ends.append(float(scipy.sparse.linalg.eigsh(operator, k=1, which="LM", v0=start, tol=1e-6)[0][0]))
        return 1.0 / ends[0], ends[1]


def _inverse(matrix: Tensor) -> Tensor | None:
    """The inverse where the matrix lies, on the CPU its upper triangle; None if the matrix is not positive definite."""
    if matrix.device.type == "cpu":
        # The transpose is the same matrix, in the order of LAPACK: nothing is copied.
        factor, failed = scipy.linalg.lapack.dpotrf(matrix.numpy().T, lower=1, clean=0, overwrite_a=1)
        if failed:
            return None
        found, _ = scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
        return torch.from_numpy(found.T)
    lower, failed = torch.linalg.cholesky_ex(matrix)
    return None if int(failed) else torch.cholesky_inverse(lower)


def symmetric_product(matrix: Tensor, v: Tensor) -> Tensor:
    """A v of a symmetric A (n,n) and v (n,) or (n,m); on the CPU from its upper triangle, limited by reading that once."""
    if matrix.device.type != "cpu":
        return matrix @ v
    if v.ndim == 1:
        return torch.from_numpy(cpu_symmetric.product(array(matrix), array(v)))
    columns = v.reshape(len(v), -1)
    found = [cpu_symmetric.product(array(matrix), array(c)) for c in columns.T]
    return torch.from_numpy(np.stack(found, axis=1)).reshape(v.shape)


class ConstrainedInverse(torch.autograd.Function):
    """r -> P (P A P)^-1 P r with A held: linear and symmetric, hence its own derivative."""

    @staticmethod
    def forward(ctx: Any, r: Tensor, solve: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply the inverse."""
        ctx.solve = solve
        return solve(r)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        """The same inverse, applied to the gradient."""
        return ConstrainedInverse.apply(grads[0], ctx.solve), None  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Iterations:
    """Outcome of conjugate gradients: solution, iterations used, relative residual."""

    solution: Tensor
    iterations: int
    residual: float


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    precondition: Callable[[Tensor], Tensor],
    constraints: Constraints,
    residual: Tensor,
    scale: float,
    tolerance: float,
    max_iterations: int,
) -> Iterations:
    """Solve P A P x = P r by preconditioned conjugate gradients in the null space.

    Args:
        product: v -> A v.
        precondition: r -> approximately (P A P)^-1 r.
        constraints: the held sums.
        residual: r (n,), V.
        scale: norm in V that the tolerance is relative to.
        tolerance: |P r| <= tolerance * scale ends the iteration.
        max_iterations: upper limit.

    Returns:
        Iterations; the best iterate if rounding stops the descent above the tolerance.

    Raises:
        RuntimeError: if the limit is reached above the tolerance.
    """
    r = constraints.project(residual)
    x = torch.zeros_like(r)
    best, best_norm = x, float(r.norm())
    # What the projection leaves of a constant is rounding, and nothing to iterate on.
    enough = max(tolerance * scale, 1e-13 * float(residual.norm()))
    if best_norm <= enough:
        return Iterations(x, 0, best_norm / scale)
    z = constraints.project(precondition(r))
    p, rho = z, float(r @ z)
    stalled = 0
    for k in range(1, max_iterations + 1):
        ap = constraints.project(product(p))
        curvature = float(p @ ap)
        if not curvature > 0.0:
            if best_norm <= _ROUNDING * scale:
                return Iterations(best, k, best_norm / scale)
            raise RuntimeError(
                f"curvature of the electrode matrix = {curvature:.4g} must be positive at iteration {k}: "
                "the matrix is not positive definite; add hardness or narrow the Gaussians"
            )
        step = rho / curvature
        x = x + step * p
        r = r - step * ap
        norm = float(r.norm())
        if norm < best_norm:
            best, best_norm, stalled = x, norm, 0
        else:
            stalled += 1
        if norm <= enough:
            return Iterations(x, k, norm / scale)
        if stalled >= 20 and best_norm <= _ROUNDING * scale:
            return Iterations(best, k, best_norm / scale)
        z = constraints.project(precondition(r))
        rho, old = float(r @ z), rho
        p = z + (rho / old) * p
    raise RuntimeError(
        f"residual after {max_iterations} iterations = {best_norm / scale:.3g} must be below {tolerance:.3g}: "
        "loosen `tolerance`, or use solver='direct'"
    )
