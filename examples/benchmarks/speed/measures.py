"""What is made of measured numbers: errors, medians with quartiles, exponents."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def relative_error(found: Floats, wanted: Floats) -> float:
    """|found - wanted|/|wanted| over all components, without unit."""
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def rms_error(found: Floats, wanted: Floats) -> float:
    """Root mean square of found - wanted over all components, in their unit."""
    return float(np.sqrt(((found - wanted) ** 2).mean()))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, both quartiles and their number.

    >>> spread([1.0, 2.0, 3.0, 4.0, 5.0])
    {'median': 3.0, 'low': 2.0, 'high': 4.0, 'rounds': 5}
    """
    low, middle, high = (float(v) for v in np.percentile(values, (25, 50, 75)))
    return {"median": middle, "low": low, "high": high, "rounds": len(values)}


def fitted_exponent(sizes: Sequence[float], times: Sequence[float]) -> float | None:
    """Slope p of log t against log n by least squares, t ~ n^p; None for fewer than two sizes.

    >>> round(fitted_exponent([10, 100, 1000], [2.0, 20.0, 200.0]), 12)
    1.0
    """
    if len(set(sizes)) < 2:
        return None
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])
