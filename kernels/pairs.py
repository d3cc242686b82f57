"""Pair sums in torch: the real-space part of the Ewald sum and the bare interaction of excluded pairs.

Written as formulas, so that derivatives of any order follow on any device; the kernels that the CPU uses are
in `cpu_pairs` and are tested against these. Energies in e²/Å for charges in e and lengths in Å.
"""

import math

import torch
from torch import Tensor

TWO_OVER_SQRT_PI = 2.0 / math.sqrt(math.pi)


def pair_vectors(positions: Tensor, cell: Tensor, i: Tensor, j: Tensor, shifts: Tensor) -> Tensor:
    """x_j + S @ cell - x_i of listed pairs, (p,3) in Å."""
    return positions[j] - positions[i] + shifts.to(positions.dtype) @ cell


def gaussian_exponents(smearing: Tensor, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
    """g = 1/sqrt(2 (s_i² + s_j²)) in 1/Å, and whether both are points (then g is 1 and must not be used)."""
    squared = smearing[i] ** 2 + smearing[j] ** 2
    point = squared == 0
    return 1.0 / torch.sqrt(2.0 * torch.where(point, torch.ones_like(squared), squared)), point


def shift_terms(alpha: float, cutoff: float) -> tuple[float, float]:
    """Value and slope of erfc(alpha r)/r at the cut-off."""
    value = math.erfc(alpha * cutoff) / cutoff
    slope = -value / cutoff - TWO_OVER_SQRT_PI * alpha * math.exp(-((alpha * cutoff) ** 2)) / cutoff
    return value, slope


def screened_energy(
    positions: Tensor,
    charges: Tensor,
    cell: Tensor,
    smearing: Tensor,
    i: Tensor,
    j: Tensor,
    shifts: Tensor,
    alpha: float,
    cutoff: float,
    shift: bool,
) -> Tensor:
    """Sum over half pairs within the cut-off of q_i q_j f(r); see `dispatch.pair_energy`."""
    i, j, f = screened_values(positions, cell, smearing, i, j, shifts, alpha, cutoff, shift)
    energy: Tensor = (charges[i] * charges[j] * f).sum()
    return energy


def screened_values(
    positions: Tensor,
    cell: Tensor,
    smearing: Tensor,
    i: Tensor,
    j: Tensor,
    shifts: Tensor,
    alpha: float,
    cutoff: float,
    shift: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """i, j and f(r) of the pairs within the cut-off."""
    vectors = pair_vectors(positions, cell, i, j, shifts)
    near = ((vectors.detach() ** 2).sum(-1) < cutoff**2).nonzero()[:, 0]
    r = torch.linalg.vector_norm(vectors[near], dim=1)
    i, j = i[near], j[near]
    g, point = gaussian_exponents(smearing, i, j)
    gaussian = torch.where(point, torch.zeros_like(r), torch.special.erfc(g * r))
    f = (torch.special.erfc(alpha * r) - gaussian) / r
    if shift:
        value, slope = shift_terms(alpha, cutoff)
        f = f - value - slope * (r - cutoff)
    return i, j, f


def bare_energy(
    positions: Tensor,
    charges: Tensor,
    cell: Tensor,
    smearing: Tensor,
    i: Tensor,
    j: Tensor,
    shifts: Tensor,
) -> Tensor:
    """Sum over the listed pairs of q_i q_j erf(g r)/r, and q_i q_j/r for two points."""
    energy: Tensor = (charges[i] * charges[j] * bare_values(positions, cell, smearing, i, j, shifts)).sum()
    return energy


def bare_values(
    positions: Tensor, cell: Tensor, smearing: Tensor, i: Tensor, j: Tensor, shifts: Tensor
) -> Tensor:
    """erf(g r)/r of the listed pairs, and 1/r for two points, in 1/Å."""
    r = torch.linalg.vector_norm(pair_vectors(positions, cell, i, j, shifts), dim=1)
    g, point = gaussian_exponents(smearing, i, j)
    out: Tensor = torch.where(point, torch.ones_like(r), torch.special.erf(g * r)) / r
    return out


def symmetric_product(charges: Tensor, i: Tensor, j: Tensor, f: Tensor) -> Tensor:
    """Derivative of the sum over pairs of q_i q_j f with respect to the charges, (n,)."""
    return torch.zeros_like(charges).index_add(0, i, f * charges[j]).index_add(0, j, f * charges[i])
