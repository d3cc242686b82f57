"""The quintic switch: 1 inside, 0 outside, with two continuous derivatives.

S(x) = 1 - 10 x³ + 15 x⁴ - 6 x⁵ with x = (r - inner)/(outer - inner) clipped to [0, 1]; S, S', S'' are
1, 0, 0 at the inner and 0, 0, 0 at the outer radius.
"""

import math
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

T = TypeVar("T", float, NDArray[np.floating], Tensor)


def switch(r: T, inner: float, outer: float) -> T:
    """Quintic switching function of a distance.

    S = 1 - 10 x³ + 15 x⁴ - 6 x⁵, x = (r - inner)/(outer - inner) clipped to [0, 1].

    Args:
        r: distances in Å, any shape; a float, a numpy array or a torch tensor.
        inner: radius in Å below which S = 1.
        outer: radius in Å above which S = 0.

    Returns:
        S(r), of the kind and shape of `r`, without unit.

    Raises:
        ValueError: if the radii do not satisfy 0 <= inner < outer.

    >>> switch(4.0, 3.0, 5.0)
    0.5
    """
    if not (math.isfinite(inner) and math.isfinite(outer) and 0.0 <= inner < outer):
        raise ValueError(
            f"inner, outer = {inner:g}, {outer:g} Å must satisfy 0 <= inner < outer: "
            "a step is not a switch, give the switch a width"
        )
    if isinstance(r, Tensor):
        x = torch.clamp((r - inner) / (outer - inner), 0.0, 1.0)
        return 1.0 - x**3 * (10.0 - 15.0 * x + 6.0 * x**2)
    y = np.clip((np.asarray(r) - inner) / (outer - inner), 0.0, 1.0)
    value = 1.0 - y**3 * (10.0 - 15.0 * y + 6.0 * y**2)
    return float(value) if np.ndim(r) == 0 else value  # type: ignore[return-value]
