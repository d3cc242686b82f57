"""exp(-t²) and erfc(t) for t >= 0 in Triton, without tables and branches.

    erfc(t) = exp(-t²) P(w)/(1 + 2 t),  w = (t - 5/2)/(t + 5/2)

P is the Chebyshev interpolant of (1 + 2 t) exp(t²) erfc(t) on -1 <= w <= 1, which is all of t >= 0. It has degree 22
in float64, with |error| < 1e-14, and degree 9 in float32, with |error| < 6e-7 (both absolute; erfc(0) = 1).

Source: M. M. Shepherd and J. G. Laframboise, Math. Comp. 36, 249 (1981).
"""

import numpy as np
import triton
import triton.language as tl
from numpy.polynomial import chebyshev
from scipy.special import erfcx

_POLE = 2.5


def _coefficients(degree: int) -> tuple[float, ...]:
    """Of P in powers of w, the highest first."""
    nodes = 64
    angle = np.pi * (np.arange(nodes) + 0.5) / nodes
    t = _POLE / np.tan(0.5 * angle) ** 2  # w = cos(angle), without cancellation at t = 0
    series = 2 / nodes * np.cos(np.arange(degree + 1)[:, None] * angle) @ ((1 + 2 * t) * erfcx(t))
    series[0] *= 0.5
    return tuple(float(c) for c in chebyshev.cheb2poly(series)[::-1])


_DOUBLE, _DEGREE_DOUBLE = tl.constexpr(_coefficients(22)), tl.constexpr(22)
_SINGLE, _DEGREE_SINGLE = tl.constexpr(_coefficients(9)), tl.constexpr(9)
_C = tl.constexpr(_POLE)


@triton.jit
def gauss_and_erfc(t: tl.tensor) -> tl.tensor:
    """exp(-t²) and erfc(t) for t >= 0, in the type of t."""
    gauss = tl.exp(-t * t)
    double: tl.constexpr = t.dtype == tl.float64
    p: tl.constexpr = _DOUBLE if double else _SINGLE
    near, line = t + _C, 1.0 + 2.0 * t
    inverse = 1.0 / (near * line)
    w = (t - _C) * line * inverse
    degree: tl.constexpr = _DEGREE_DOUBLE if double else _DEGREE_SINGLE
    value = w * p[0] + p[1]
    for k in tl.static_range(2, degree + 1):
        value = value * w + p[k]
    return gauss, value * near * inverse * gauss
