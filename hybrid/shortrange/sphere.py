"""Functions on the unit sphere: real harmonics, and products of functions by exact quadrature.

A set of coefficients c_lm stands for f(u) = sum c_lm Y_lm(u). Rotating atoms rotates f, so the product of two
such functions is again one, and its coefficients are equivariant: this is the coupling by Gaunt coefficients,
done on a grid of directions that integrates it exactly. Harmonics are normalised to a mean square of 1:

    (1/4pi) integral Y_lm Y_l'm' = delta_ll' delta_mm'

Sources: Lebedev, USSR Comput. Math. Math. Phys. 16, 10 (1976) for the grid; Luo, Chen and Krishnapriyan, ICLR
2024 (arXiv 2401.10216) for products of equivariant features through functions on the sphere.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import lebedev_rule
from torch import Tensor

LARGEST = 3


def size(l_max: int) -> int:
    """Number of harmonics up to l_max.

    >>> size(2)
    9
    """
    return (l_max + 1) ** 2


def slices(l_max: int) -> list[slice]:
    """Where the harmonics of each l stand."""
    return [slice(l * l, (l + 1) ** 2) for l in range(l_max + 1)]


def degrees(l_max: int) -> NDArray[np.int64]:
    """The l of every harmonic.

    >>> degrees(1).tolist()
    [0, 1, 1, 1]
    """
    return np.repeat(np.arange(l_max + 1), 2 * np.arange(l_max + 1) + 1)


def harmonics(u: Tensor, l_max: int) -> Tensor:
    """(..., (l_max+1)²) real harmonics of unit vectors u (..., 3), in the order l, m = -l ... l.

    Raises:
        ValueError: for l_max outside 0 ... 3.
    """
    if not 0 <= l_max <= LARGEST:
        raise ValueError(f"l_max = {l_max} must be between 0 and {LARGEST}: 2 is usual")
    x, y, z = u.unbind(-1)
    out = [torch.ones_like(x)]
    if l_max >= 1:
        a = math.sqrt(3.0)
        out += [a * y, a * z, a * x]
    if l_max >= 2:
        a, b = math.sqrt(15.0), 0.5 * math.sqrt(5.0)
        out += [a * x * y, a * y * z, b * (3.0 * z * z - 1.0), a * x * z, 0.5 * a * (x * x - y * y)]
    if l_max >= 3:
        a, b, c = math.sqrt(35.0 / 8.0), math.sqrt(105.0), math.sqrt(21.0 / 8.0)
        out += [
            a * y * (3.0 * x * x - y * y),
            b * x * y * z,
            c * y * (5.0 * z * z - 1.0),
            0.5 * math.sqrt(7.0) * z * (5.0 * z * z - 3.0),
            c * x * (5.0 * z * z - 1.0),
            0.5 * b * z * (x * x - y * y),
            a * x * (x * x - 3.0 * y * y),
        ]
    return torch.stack(out, dim=-1)


def product_grid(l_max: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matrices (P,L) from coefficients to values on a grid, and (L,P) from values to coefficients.

    The grid integrates polynomials of degree 3 l_max exactly, so that the product of two functions up to l_max,
    projected onto l_max, has no error but rounding.
    """
    degree = max(3, 3 * l_max + (3 * l_max + 1) % 2)
    points, weights = lebedev_rule(degree)
    values = harmonics(torch.as_tensor(points.T.copy()), l_max).numpy()
    return values, (values * weights[:, None] / (4.0 * math.pi)).T.copy()
