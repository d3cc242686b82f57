"""erfc and its slope by arithmetic alone, without branches and tables: compilers turn loops over it into vectors.

    erfc(t) = exp(-t²) [1 - t s/(t + 3)],  s = (t + 3) [1 - exp(t²) erfc(t)]/t,  erfc'(t) = -2/sqrt(pi) exp(-t²)

s is smooth where t goes to infinity too: a polynomial in y = 8.8125/(t + 3) - 1.9375, which runs from 1 at t = 0 to
-1 at t = 6.4. Subtracted from 1 it costs no digits where erfc is near 1, which two large charges close together need.
exp(-u) = 2^-n exp(-r) with r = u - n ln 2 and |r| <= ln(2)/2. Both polynomials are Chebyshev's series, cut where they are
exact to double precision: erfc is within 3e-16, and its relative error below 1e-14 for all t < 6.4.

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
_S = (
    2.0155867366672715, 0.9365177550603484, 0.33511382399132256, 0.08585296661276384, 0.01271252394806145,
    -0.00016557413117691526, -0.00046177627344409756, -3.794554818090338e-05, 1.7693084403705414e-05, 2.2339461917764356e-06,
    -8.987133111602431e-07, -9.095643526894718e-08, 5.562891351788752e-08, 9.895773541819005e-10, -3.470162318688383e-09,
    3.245992684736949e-10, 1.5993949216839196e-10, -3.41446429515952e-11,
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
    even = _S[8] + z * (_S[10] + z * (_S[12] + z * (_S[14] + z * _S[16])))
    even = _S[0] + z * (_S[2] + z * (_S[4] + z * (_S[6] + z * even)))
    odd = _S[9] + z * (_S[11] + z * (_S[13] + z * (_S[15] + z * _S[17])))
    odd = _S[1] + z * (_S[3] + z * (_S[5] + z * (_S[7] + z * odd)))
    return e * (1.0 - t * inverse * (even + y * odd)), -1.1283791670955126 * e
