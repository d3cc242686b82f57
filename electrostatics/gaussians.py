"""Gaussian charges: rho(r) = q (2 pi s²)^-3/2 exp(-r²/2s²); s = 0 is a point charge.

Two of them interact through erf(g r)/r with g = 1/sqrt(2 (s_i² + s_j²)), and one with itself through
1/(sqrt(pi) s), which is the diagonal of the operator and half of it the on-site energy. LAMMPS writes
the width as eta = 1/(sqrt(2) s).
"""

import math

import torch
from torch import Tensor


def smallest_exponent(smearing: Tensor) -> float:
    """Smallest g = 1/sqrt(2 (s_i² + s_j²)) over all pairs, in 1/Å; inf if all charges are points."""
    widest = float(smearing.detach().max()) if smearing.numel() else 0.0
    return 1.0 / (2.0 * widest) if widest > 0.0 else math.inf


def on_site_diagonal(smearing: Tensor) -> Tensor:
    """1/(sqrt(pi) s_i) in 1/Å, and 0 for points (their infinite self-energy is left out)."""
    # Elsewhere than on the CPU looking would mean waiting.
    if smearing.device.type == "cpu" and not smearing.requires_grad and not bool(smearing.any()):
        return torch.zeros_like(smearing)
    point = smearing == 0
    safe = torch.where(point, torch.ones_like(smearing), smearing)
    return torch.where(point, torch.zeros_like(smearing), 1.0 / (math.sqrt(math.pi) * safe))
