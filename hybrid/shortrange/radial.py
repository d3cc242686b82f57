"""Distances as smooth functions that end at the cut-off.

    B_n(r) = sqrt(2 / r_c) sin(n pi r / r_c) / r * f(r / r_c),   n = 1 ... N
    f(x)   = 1 - 28 x^6 + 48 x^7 - 21 x^8  for x < 1, 0 beyond

f and its first two derivatives vanish at x = 1, so energies made of B_n are twice continuously differentiable
where neighbours enter and leave.

Source: Gasteiger, Gross and Guennemann, ICLR 2020 (arXiv 2003.03123), eqs. 7 and 8.
"""

import math

import torch
from torch import Tensor


def envelope(x: Tensor) -> Tensor:
    """f(x) = 1 - 28 x^6 + 48 x^7 - 21 x^8 inside, 0 outside; x = r / cut-off.

    >>> envelope(torch.tensor([0.0, 1.0, 2.0])).tolist()
    [1.0, 0.0, 0.0]
    """
    inside = x.clamp(max=1.0)
    cube = inside * inside * inside
    return 1.0 + cube * cube * (-28.0 + inside * (48.0 - 21.0 * inside))


def bessel(r: Tensor, cutoff: float, count: int) -> Tensor:
    """(..., count) B_n(r), 1/Å^(3/2).

    The sines follow from the first by sin((n+1)t) = 2 cos(t) sin(n t) - sin((n-1)t).

    Args:
        r: (...) Å, greater than zero.
        cutoff: Å.
        count: number of functions.
    """
    angle = r * (math.pi / cutoff)
    scale = envelope(r / cutoff) * math.sqrt(2.0 / cutoff) / r
    twice = 2.0 * angle.cos()
    sines = [angle.sin() * scale]
    before = torch.zeros_like(r)
    for _ in range(count - 1):
        sines.append(twice * sines[-1] - before)
        before = sines[-2]
    return torch.stack(sines, dim=-1)
