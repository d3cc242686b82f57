"""The dense reference method: every pair and every wave, converged to double precision.

Three-dimensional sums split at alpha, the exact two-dimensional sum of a slab, and the plain sum of an
open system. All values in e²/Å or 1/Å; the formulas stand in `grahame.kernels.reference`.
"""

import math

import torch
from torch import Tensor

from grahame.electrostatics.accuracy import Parameters
from grahame.kernels import reference

_SELF = 2.0 / math.sqrt(math.pi)

# exp(-REACH²) = 2e-17: what is cut off is below the last digit.
REACH = 6.2


def parameters(volume: float, atoms: int, smallest_exponent: float, planar: bool) -> Parameters:
    """Splitting that balances the two sums, both cut at double precision.

    Args:
        volume: of the k-space cell in Å³.
        atoms: number of atoms.
        smallest_exponent: smallest g of the Gaussian pairs in 1/Å.
        planar: for the two-dimensional sum, whose waves cost a matrix each.
    """
    # Pairs cost ~ atoms² rc³/V, waves ~ atoms V kc³; equal at alpha^6 ~ atoms/V².
    alpha = 0.25 if planar else min(1.2, max(0.15, 1.6 * (atoms / volume**2) ** (1.0 / 6.0)))
    cutoff = max(REACH / alpha, REACH / smallest_exponent)
    return Parameters("exact", cutoff, alpha, 2 * alpha * REACH, estimated_error=1e-15)


Pairs = tuple[Tensor, Tensor, Tensor]


def _screened(x: Tensor, h: Tensor, s: Tensor, p: Parameters, pairs: Pairs) -> Tensor:
    i, j, shifts = pairs
    r = reference.pair_distances(x, h, i, j, shifts)
    return reference.screened_kernel(r, s[i], s[j], p.splitting)


def periodic_energy(x: Tensor, q: Tensor, h: Tensor, s: Tensor, pairs: Pairs, p: Parameters) -> Tensor:
    """Three-dimensional Ewald sum without background and on-site terms."""
    i, j, _ = pairs
    real = 0.5 * (q[i] * q[j] * _screened(x, h, s, p, pairs)).sum()
    indices = reference.half_reciprocal_indices(h, p.reciprocal_cutoff)
    waves = reference.reciprocal_energy(x, q, h, p.splitting, indices)
    return real + waves - 0.5 * _SELF * p.splitting * (q**2).sum()


def periodic_matrix(x: Tensor, h: Tensor, s: Tensor, pairs: Pairs, p: Parameters) -> Tensor:
    """Matrix of `periodic_energy`."""
    i, j, _ = pairs
    real = reference.pair_matrix(len(x), i, j, _screened(x, h, s, p, pairs))
    indices = reference.half_reciprocal_indices(h, p.reciprocal_cutoff)
    waves = reference.reciprocal_matrix(x, h, p.splitting, indices)
    return real + waves - _SELF * p.splitting * torch.eye(len(x), dtype=x.dtype, device=x.device)


def planar_energy(x: Tensor, q: Tensor, h: Tensor, s: Tensor, pairs: Pairs, p: Parameters) -> Tensor:
    """Exact two-dimensional Ewald sum without on-site terms."""
    i, j, _ = pairs
    real = 0.5 * (q[i] * q[j] * _screened(x, h, s, p, pairs)).sum()
    waves = reference.planar_energy(x, q, h, p.splitting, p.reciprocal_cutoff)
    return real + waves - 0.5 * _SELF * p.splitting * (q**2).sum()


def planar_matrix(x: Tensor, h: Tensor, s: Tensor, pairs: Pairs, p: Parameters) -> Tensor:
    """Matrix of `planar_energy`."""
    i, j, _ = pairs
    real = reference.pair_matrix(len(x), i, j, _screened(x, h, s, p, pairs))
    waves = reference.planar_matrix(x, h, p.splitting, p.reciprocal_cutoff)
    return real + waves - _SELF * p.splitting * torch.eye(len(x), dtype=x.dtype, device=x.device)


def _open_pairs(x: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    n = len(x)
    i, j = (~torch.eye(n, dtype=torch.bool, device=x.device)).nonzero(as_tuple=True)
    # Only probes, which carry no charge, may lie on one place; they do not see each other.
    apart = ((x[j] - x[i]) ** 2).sum(1) > 0.0
    i, j = i[apart], j[apart]
    r = torch.linalg.vector_norm(x[j] - x[i], dim=1)
    return i, j, reference.bare_kernel(r, s[i], s[j])


def open_energy(x: Tensor, q: Tensor, s: Tensor) -> Tensor:
    """1/2 sum over i != j of q_i q_j erf(g r)/r."""
    i, j, kernel = _open_pairs(x, s)
    return 0.5 * (q[i] * q[j] * kernel).sum()


def open_matrix(x: Tensor, s: Tensor) -> Tensor:
    """erf(g r)/r off the diagonal."""
    i, j, kernel = _open_pairs(x, s)
    return reference.pair_matrix(len(x), i, j, kernel)


def exclusion_matrix(x: Tensor, h: Tensor | None, s: Tensor, excluded: Pairs) -> Tensor:
    """erf(g r)/r of the listed pairs, symmetric, to be subtracted."""
    i, j, shifts = excluded
    cell = x.new_zeros((3, 3)) if h is None else h
    r = reference.pair_distances(x, cell, i, j, shifts)
    kernel = reference.bare_kernel(r, s[i], s[j])
    one_way = reference.pair_matrix(len(x), i, j, kernel)
    return one_way + one_way.T
