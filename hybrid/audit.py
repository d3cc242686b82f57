"""Are the forces of a calculator the gradient of its energy? Asked of the forces themselves.

Forces are a gradient where their Jacobian J = dF/dR is symmetric. With random directions v_1 ... v_k of all free atoms,
the k x k matrix A_ij = v_i · J v_j stands for it: the ratio of the squares of A - Aᵀ and A + Aᵀ is an unbiased sample of
that of J - Jᵀ and J + Jᵀ, for k(k-1)/2 pairs from k derivatives. Each derivative is a central difference of fourth
order; the same with twice the step says how much of the answer is rounding, truncation or a jump.

Direct force heads, forces of interpolated tables, charges whose dependence on the positions was forgotten, and friction
fail here; a potential whose energy and forces belong together does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from numpy.typing import NDArray

__all__ = ["ForceAudit", "audit_forces"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ForceAudit:
    """What the forces of a calculator are, at one geometry.

    Attributes:
        asymmetry: ‖J - Jᵀ‖ / ‖J + Jᵀ‖ of J = dF/dR at fixed cell and fixed conditions (potentials, charges, field).
        asymmetry_noise: what it changes by with twice the step.
        energy_mismatch: rms of dE/ds + F·v over directions, relative to the rms of F·v.
        energy_noise: what that changes by with twice the step.
        net_force: length of the sum of all forces, eV/Å; 0 but for a field on a charged system, or atoms that something
            outside holds.
        atoms: free ones, which were moved; directions: number of them; step: Å, per coordinate.
        tolerance: what both ratios may reach.
    """

    asymmetry: float
    asymmetry_noise: float
    energy_mismatch: float
    energy_noise: float
    net_force: float
    atoms: int
    directions: int
    step: float
    tolerance: float

    @property
    def symmetric(self) -> bool | None:
        """Whether the Jacobian is symmetric within the tolerance; None where the noise is too large to tell."""
        return _within(self.asymmetry, self.asymmetry_noise, self.tolerance)

    @property
    def gradient(self) -> bool | None:
        """Whether the forces are the gradient of the energy within the tolerance; None where noise hides it."""
        return _within(self.energy_mismatch, self.energy_noise, self.tolerance)

    @property
    def conservative(self) -> bool | None:
        """Both of them; False where one fails."""
        answers = (self.symmetric, self.gradient)
        return False if False in answers else None if None in answers else True

    def as_dict(self) -> dict[str, Any]:
        """All numbers and the three answers."""
        answers = {
            "symmetric": self.symmetric,
            "gradient": self.gradient,
            "conservative": self.conservative,
        }
        return asdict(self) | answers


def audit_forces(
    atoms: Atoms, directions: int = 6, step: float = 1e-3, tolerance: float = 1e-6, seed: int = 0
) -> ForceAudit:
    """Test the forces of `atoms.calc` at one geometry.

    A = [v_i · (dF/dR) v_j], asymmetry = ‖A - Aᵀ‖ / ‖A + Aᵀ‖, at fixed cell.

    Args:
        atoms: with a calculator; atoms that FixAtoms holds stay where they are, other constraints are ignored. The
            positions are as before afterwards.
        directions: k random directions; 6 k + 1 evaluations, k (k - 1) / 2 pairs.
        step: Å, root mean square change of a coordinate; rounding falls with it, truncation grows as its fourth power.
        tolerance: largest ratio that counts as zero; energies in single precision show no less than about 1e-3.
        seed: of the directions.
    Returns:
        The ratios, what noise there is in them, and the verdict.
    Raises:
        ValueError: without a calculator or free atoms, and for numbers outside their range.
    """
    if atoms.calc is None:
        raise ValueError("atoms.calc = None must be a calculator: set atoms.calc first")
    if directions < 2:
        raise ValueError(f"directions = {directions} must be at least 2: two directions make one pair")
    for name, value, unit in (("step", step, " Å"), ("tolerance", tolerance, "")):
        if not 0.0 < value < 1.0:
            raise ValueError(f"{name} = {value:g}{unit} must lie between 0 and 1: 0.001 and 1e-6 are usual")
    free = np.ones(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            free[constraint.index] = False
    if not free.any():
        raise ValueError(
            f"atoms = {len(atoms)} held by FixAtoms must leave at least one free: remove constraints"
        )
    ways = np.random.default_rng(seed).standard_normal((directions, int(free.sum()), 3))
    start = atoms.get_positions()

    def at(shift: Array) -> tuple[float, Array]:
        positions = start.copy()
        positions[free] += shift
        atoms.set_positions(positions, apply_constraint=False)
        return float(atoms.get_potential_energy()), np.array(atoms.get_forces(apply_constraint=False))

    try:
        forces = at(np.zeros_like(ways[0]))[1]
        found = [_derivatives(at, way, step, free) for way in ways]
    finally:
        atoms.set_positions(start, apply_constraint=False)
    fine, coarse = (np.einsum("iax,jax->ij", ways, np.array([f[1][k] for f in found])) for k in (0, 1))
    along = np.einsum("iax,ax->i", ways, forces[free])
    slopes = np.array([f[0] for f in found]) + along[:, None]
    size = _norm(fine + fine.T)
    return ForceAudit(
        asymmetry=_ratio(_norm(fine - fine.T), size),
        asymmetry_noise=_ratio(_norm((fine - coarse) - (fine - coarse).T), size),
        energy_mismatch=_ratio(_norm(slopes[:, 0]), _norm(along)),
        energy_noise=_ratio(_norm(slopes[:, 0] - slopes[:, 1]), _norm(along)),
        net_force=_norm(forces.sum(axis=0)),
        atoms=int(free.sum()),
        directions=directions,
        step=step,
        tolerance=tolerance,
    )


def _derivatives(
    at: Callable[[Array], tuple[float, Array]], way: Array, step: float, free: NDArray[np.bool_]
) -> tuple[Array, Array]:
    """Derivatives of energy (2,) and free forces (2,n,3) along a way, with the step and with twice the step."""
    energies, forces = [], []
    for size in (step, 2 * step, 4 * step):
        (e_plus, f_plus), (e_minus, f_minus) = at(size * way), at(-size * way)
        energies.append((e_plus - e_minus) / (2 * size))
        forces.append((f_plus[free] - f_minus[free]) / (2 * size))
    # 4/3 D(h) - 1/3 D(2h) is free of the term in h².
    e, f = np.array(energies), np.array(forces)
    return (4 * e[:2] - e[1:]) / 3, (4 * f[:2] - f[1:]) / 3


def _norm(values: Array) -> float:
    return sqrt(float((values**2).sum()))


def _ratio(part: float, whole: float) -> float:
    """0 of nothing is 0: forces that vanish everywhere are a gradient."""
    return part / whole if whole > 0.0 else 0.0 if part == 0.0 else float("inf")


def _within(value: float, noise: float, tolerance: float) -> bool | None:
    """A value is what it is within three times the noise."""
    if value <= tolerance:
        return True
    return None if value <= 3.0 * noise else False
