"""The Ewald sum: 1/r = erfc(alpha r)/r, summed over near pairs, + erf(alpha r)/r, summed over waves.

    E = sum over pairs q_i q_j [erfc(alpha r) - erfc(g_ij r)]/r
        + (2 pi/V) sum over G != 0 of exp(-G²/4 alpha²)/G² |S(G)|² - alpha/sqrt(pi) sum q²

Gaussian charges need no change to the waves: erfc(g r) in the near pairs turns points into Gaussians.

Source: P. P. Ewald, Ann. Phys. 369, 253 (1921); Kolafa and Perram, Mol. Simul. 9, 351 (1992).
"""

import math

import torch
from torch import Tensor

from grahame.electrostatics.accuracy import Parameters
from grahame.kernels import dispatch, reference, torchpme_backend

SELF = 2.0 / math.sqrt(math.pi)
"""The splitting's Gaussians interact with themselves by alpha times this: subtracted on the diagonal."""


def energy(
    x: Tensor,
    q: Tensor,
    h: Tensor,
    s: Tensor,
    pairs: tuple[Tensor, Tensor, Tensor],
    waves: Tensor,
    p: Parameters,
) -> Tensor:
    """Ewald energy in e²/Å over the half lists `pairs` and `waves`, without background and on-site terms."""
    if p.backend == "torch-pme":
        return torchpme_backend.ewald_energy(x, q, h, s, pairs, waves, p.splitting, p.cutoff)
    i, j, shifts = pairs
    near = dispatch.pair_energy(x, q, h, s, i, j, shifts, p.splitting, p.cutoff)
    far = dispatch.ewald_energy(x, q, h, p.splitting, waves)
    return near + far - 0.5 * SELF * p.splitting * (q**2).sum()


def matrix(
    x: Tensor,
    h: Tensor,
    s: Tensor,
    pairs: tuple[Tensor, Tensor, Tensor],
    waves: Tensor,
    p: Parameters,
) -> Tensor:
    """Matrix of `energy`, (n,n) in 1/Å."""
    i, j, shifts = (t.long() for t in pairs)
    r = reference.pair_distances(x, h, i, j, shifts)
    near = r < p.cutoff
    i, j, r = i[near], j[near], r[near]
    edge = torch.as_tensor(p.cutoff, dtype=x.dtype)
    # The same shift of energy and force at the cut-off as in the pair sum.
    tail = torch.special.erfc(p.splitting * edge) / edge
    slope = -tail / edge - SELF * p.splitting * torch.exp(-((p.splitting * edge) ** 2)) / edge
    kernel = reference.screened_kernel(r, s[i], s[j], p.splitting) - tail - slope * (r - edge)
    one_way = reference.pair_matrix(len(x), i, j, kernel)
    far = reference.reciprocal_matrix(x, h, p.splitting, waves)
    diagonal = SELF * p.splitting * torch.eye(len(x), dtype=x.dtype, device=x.device)
    return one_way + one_way.T + far - diagonal
