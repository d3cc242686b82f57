"""Radial functions of local networks on the CPU: what each distance contributes to all of them.

    B_n(r) = sqrt(2/r_c) sin(n pi r/r_c)/r f(r/r_c),  f(t) = 1 - 28 t^6 + 48 t^7 - 21 t^8

One sine and one cosine serve all n: sin((n+1) a) = 2 cos(a) sin(n a) - sin((n-1) a). With pi t = y + pi/2 both are
polynomials in y, their Taylor series to rounding, which a loop over distances does many at a time.

Source: Gasteiger, Gross and Guennemann, ICLR 2020 (arXiv 2003.03123), eqs. 7 and 8.
"""

import math

import numpy as np
from numpy.typing import NDArray

from grahame.kernels.compiling import FAST, inlined

__all__ = ["radial_slopes", "radial_values"]

Floats = NDArray[np.float64]

_SINE = np.array([(-1) ** k / math.factorial(2 * k + 1) for k in range(11)])
_COSINE = np.array([(-1) ** k / math.factorial(2 * k) for k in range(11)])


@inlined(FAST)
def _circle(t: float) -> tuple[float, float]:
    """sin(pi t) and cos(pi t) for 0 <= t <= 1."""
    y = math.pi * (t - 0.5)
    square = y * y
    even, odd = _COSINE[10], _SINE[10]
    for k in range(9, -1, -1):
        even, odd = even * square + _COSINE[k], odd * square + _SINE[k]
    return even, -odd * y


@inlined(FAST)
def _envelope(t: float) -> tuple[float, float]:
    """f(t) and its slope."""
    cube = t * t * t
    value = 1.0 + cube * cube * (-28.0 + t * (48.0 - 21.0 * t))
    return value, cube * t * t * (-168.0 + t * (336.0 - 168.0 * t))


@inlined(FAST)
def radial_values(count: int, cutoff: float, distance: Floats, out: Floats) -> None:
    """For the first `count` distances (Å): sine and cosine of pi r/r_c, and the factor of all B_n; rows of out (3,...)."""
    norm = math.sqrt(2.0 / cutoff)
    for c in range(count):
        t = distance[c] / cutoff
        out[0, c], out[1, c] = _circle(t)
        out[2, c] = norm / distance[c] * _envelope(t)[0]


@inlined(FAST)
def radial_slopes(count: int, cutoff: float, distance: Floats, out: Floats) -> None:
    """As `radial_values`, and the slope of the factor in row 3 of out (4,...); distances become their inverse."""
    norm = math.sqrt(2.0 / cutoff)
    for c in range(count):
        inverse, t = 1.0 / distance[c], distance[c] / cutoff
        out[0, c], out[1, c] = _circle(t)
        value, slope = _envelope(t)
        out[2, c] = norm * inverse * value
        out[3, c] = norm * inverse * (slope / cutoff - value * inverse)
        distance[c] = inverse
