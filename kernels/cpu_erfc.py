"""erfc and its slope by arithmetic alone, without branches and tables: compilers turn loops over it into vectors.

    erfc(t) = exp(-t²) g/(t + 3),  g = (t + 3) exp(t²) erfc(t),  erfc'(t) = -2/sqrt(pi) exp(-t²)

g is smooth where t goes to infinity too: a polynomial in y = 8.8125/(t + 3) - 1.9375, which runs from 1 at t = 0 to
-1 at t = 6.4. exp(-u) = 2^-n exp(-r) with r = u - n ln 2 and |r| <= ln(2)/2. Both polynomials are Chebyshev's series, cut
where they are exact to double precision; erfc is to 6e-16, and its relative error below 5e-15 for all t < 6.4.

Sources: Shepherd and Laframboise, Math. Comp. 36, 249 (1981) for the variable; Cody and Waite, Software Manual for the
Elementary Functions (1980) for the exponential.
"""

from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic

from grahame.kernels.compiling import FAST

_LARGEST = 26.0  # exp(-26²) = 3e-294
_G = (
    1.4274786012893856, 0.9340533385968444, 0.449114041089164, 0.15415149989490762, 0.033687653212187516,
    0.0025531050467009317, -0.0008590960587771542, -0.0002128496195776958, 2.37077114171971e-05, 1.1700541185104187e-05,
    -1.1883732936112494e-06, -6.374968724509899e-07, 1.0198146229261641e-07, 3.217505121574276e-08, -9.623616414436139e-09,
    -1.104339940301808e-09, 7.836279014183438e-10, -3.653314789355569e-12, -4.180330357846704e-11,
)  # fmt: skip
_E = (
    1.0, -1.0, 0.5000000000000019, -0.16666666666666702, 0.04166666666648808, -0.008333333333309526,
    0.0013888888952318045, -0.00019841269909219843, 2.480148547921643e-05, -2.755722495611072e-06,
    2.7632640675430235e-07, -2.5114870219497476e-08,
)  # fmt: skip
_DOUBLE, _SHORT, _LONG = ir.DoubleType(), ir.IntType(32), ir.IntType(64)


def _intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    made: Callable[..., Any] = intrinsic(function)
    return made


@_intrinsic
def _whole(typing: Any, x: Any) -> Any:
    """x without its fraction, for 0 <= x < 2^31. By way of 32 bits: processors turn no longer integers into vectors."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.sitofp(builder.fptosi(args[0], _SHORT), _DOUBLE)

    return types.float64(types.float64), code


@_intrinsic
def _two_to_minus(typing: Any, n: Any) -> Any:
    """2^-n for a whole n from 0 to 1022, put together from its bits."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = builder.zext(builder.fptosi(args[0], _SHORT), _LONG)
        moved = builder.shl(number, ir.Constant(_LONG, 52))
        return builder.bitcast(builder.sub(ir.Constant(_LONG, 1023 << 52), moved), _DOUBLE)

    return types.float64(types.float64), code


@numba.njit(nogil=True, inline="always", fastmath=set(FAST), error_model="numpy")
def erfc_and_slope(t: float) -> tuple[float, float]:
    """erfc(t) and its slope, for t >= 0."""
    t = min(t, _LARGEST)
    u = t * t
    n = _whole(1.4426950408889634 * u + 0.5)
    r = u - n * 0.6931471805599453
    # Even and odd powers apart: two short chains of products instead of a long one.
    w = r * r
    e = (_E[0] + w * (_E[2] + w * (_E[4] + w * (_E[6] + w * (_E[8] + w * _E[10]))))) + r * (
        _E[1] + w * (_E[3] + w * (_E[5] + w * (_E[7] + w * (_E[9] + w * _E[11]))))
    )
    e *= _two_to_minus(n)
    inverse = 1.0 / (t + 3.0)
    y = 8.8125 * inverse - 1.9375
    z = y * y
    g = _G[10] + z * (_G[12] + z * (_G[14] + z * (_G[16] + z * _G[18])))
    g = _G[0] + z * (_G[2] + z * (_G[4] + z * (_G[6] + z * (_G[8] + z * g))))
    h = _G[9] + z * (_G[11] + z * (_G[13] + z * (_G[15] + z * _G[17])))
    h = _G[1] + z * (_G[3] + z * (_G[5] + z * (_G[7] + z * h)))
    return e * inverse * (g + y * h), -1.1283791670955126 * e
