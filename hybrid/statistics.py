"""Means of correlated series with honest errors, and what electrode charges say about capacitance.

Successive values of a simulation are correlated, so the naive error sqrt(var/n) is too small. Averaging
blocks of 2, 4, 8, ... values leaves the mean and raises the error until the blocks are independent
(Flyvbjerg and Petersen). The block length is chosen by the rule B³ > 2 n (error(B)/error(1))⁴.

Sources: Flyvbjerg and Petersen, J. Chem. Phys. 91, 461 (1989); Lee, Drummond and Needs, Phys. Rev. E 83,
066706 (2011) for the choice of the block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from ase.units import kB
from numpy.typing import ArrayLike, NDArray

from grahame.electrostatics import ConstantPotential, fluctuation_capacitance
from grahame.electrostatics.units import microfarad_per_cm2

__all__ = [
    "Estimate",
    "Mean",
    "block_errors",
    "differential_capacitance",
    "integral_capacitance",
    "running_mean",
    "series_mean",
]

Array = NDArray[np.float64]

_BLOCKS = 16  # of a few blocks the spread says little: a slow drift passes for noise


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error, both in the unit that the function's docstring names."""

    value: float
    error: float


@dataclass(frozen=True)
class Mean:
    """Mean of a correlated series.

    Attributes:
        value: mean, in the unit of the series.
        error: standard error of the mean from blocking; nan with fewer than four values.
        deviation: standard deviation of the series itself.
        samples: number of values.
        independent: samples divided by the statistical inefficiency (error/naive error)².
        correlation_time: integrated autocorrelation time in the unit of `interval`.
        converged: False when the series is too short: fewer than 16 blocks are left when they have become
            independent. The error is then a lower bound.
    """

    value: float
    error: float
    deviation: float
    samples: int
    independent: float
    correlation_time: float
    converged: bool


def block_errors(series: ArrayLike) -> tuple[NDArray[np.int64], Array, Array]:
    """Error of the mean against block length.

        error(B) = sqrt( var(block means)/(n_B - 1) ),    its own error = error(B)/sqrt(2 (n_B - 1))

    Args:
        series: (n,) values at equal intervals.
    Returns:
        block lengths B = 1, 2, 4, ... while two blocks remain; error(B); the error of error(B).
    Raises:
        ValueError: for a series that is not one-dimensional, not finite or shorter than two.

    >>> [round(float(e), 3) for e in block_errors([0.0, 1.0, 0.0, 1.0])[1]]
    [0.289, 0.0]
    """
    x = _series(series)
    lengths, errors = [], []
    length = 1
    while len(x) >= 2:
        lengths.append(length)
        errors.append(math.sqrt(float(x.var()) / (len(x) - 1)))
        # An odd last value has no partner: dropped at this level only.
        x = 0.5 * (x[: len(x) // 2 * 2 : 2] + x[1 : len(x) // 2 * 2 : 2])
        length *= 2
    error = np.array(errors)
    blocks = len(_series(series)) // np.array(lengths)
    return np.array(lengths, dtype=np.int64), error, error / np.sqrt(2 * np.maximum(blocks - 1, 1))


def series_mean(series: ArrayLike, interval: float = 1.0) -> Mean:
    """Mean of a correlated series with its standard error.

    Args:
        series: (n,) values at equal intervals, equilibration already cut off.
        interval: time between values; the correlation time comes in this unit.
    Raises:
        ValueError: as `block_errors`, and for an interval that is not positive.

    >>> series_mean([1.0, 2.0, 3.0, 2.0] * 8).value
    2.0
    """
    x = _series(series)
    if not (math.isfinite(interval) and interval > 0.0):
        raise ValueError(f"interval = {interval:g} must be positive: give the time between two values")
    n = len(x)
    lengths, errors, _ = block_errors(x)
    # Of equal values the mean may differ from them by rounding.
    same = bool((x == x[0]).all())
    naive = 0.0 if same else float(errors[0])
    deviation = 0.0 if same else float(x.std(ddof=1))
    if naive == 0.0 or n < 4:
        error = 0.0 if naive == 0.0 else math.nan
        return Mean(float(x.mean()), error, deviation, n, float(n), 0.0, naive == 0.0)
    long_enough = lengths.astype(float) ** 3 > 2 * n * (errors / naive) ** 4
    chosen = int(np.argmax(long_enough)) if long_enough.any() else len(lengths) - 1
    converged = bool(long_enough.any()) and n // int(lengths[chosen]) >= _BLOCKS
    # Too short: the largest error of blocks that are still several is the best lower bound.
    several = errors[: max(1, len(errors) - 2)]
    error = max(float(errors[chosen] if converged else several.max()), naive)
    inefficiency = (error / naive) ** 2
    return Mean(
        float(x.mean()), error, deviation, n, n / inefficiency, 0.5 * (inefficiency - 1) * interval, converged
    )


def running_mean(series: ArrayLike) -> Array:
    """Mean of the first 1, 2, ..., n values: where it levels off the start has been forgotten."""
    x = _series(series)
    return np.asarray(np.cumsum(x) / np.arange(1, len(x) + 1), dtype=np.float64)


def integral_capacitance(
    charge: Mean | Estimate,
    voltage: float,
    area: float,
    reference: Mean | Estimate | None = None,
    reference_voltage: float = 0.0,
) -> Estimate:
    """Integral capacitance of a cell of two electrodes per electrode area.

        C = (<Q> - <Q_0>) / (A (U - U_0)),    error = sqrt(error(Q)² + error(Q_0)²) / (A |U - U_0|)

    with Q = (Q_top - Q_bottom)/2. Without a second run Q_0 = 0 at U_0 = 0 is taken as exact, which holds for
    two equal electrodes by symmetry (their electrolyte's time average).

    Args:
        charge: mean of Q and its error, e.
        voltage: U = psi_top - psi_bottom, V.
        area: of one electrode, Å².
        reference: mean of Q_0 and its error in an independent run, e.
        reference_voltage: U_0 of that run, V.
    Returns:
        µF/cm², of the whole cell (both double layers in series).
    Raises:
        ValueError: when the voltages do not differ or the area is not positive.

    >>> round(integral_capacitance(Estimate(1.0, 0.1), 2.0, 500.0).value, 6)
    1.602177
    """
    if not (math.isfinite(area) and area > 0.0):
        raise ValueError(f"area = {area:g} Å² must be positive: give |a x b| of the cell")
    difference = voltage - reference_voltage
    if difference == 0.0 or not math.isfinite(difference):
        raise ValueError(
            f"voltage = {voltage:g} V must differ from the reference's {reference_voltage:g} V: "
            "an integral capacitance is a charge difference over a voltage difference"
        )
    q0, e0 = (0.0, 0.0) if reference is None else (reference.value, reference.error)
    per = area * difference
    return Estimate(
        microfarad_per_cm2((charge.value - q0) / per),
        microfarad_per_cm2(math.hypot(charge.error, e0) / abs(per)),
    )


def differential_capacitance(
    charges: ArrayLike, temperature: float, cpm: ConstantPotential, area: float
) -> Estimate:
    """Differential capacitance of a cell of two electrodes from the fluctuations of its charge at one voltage.

        C = [Var(Q)/(k_B T) + C_0] / A

    with Q = (Q_top - Q_bottom)/2 and C_0 the response of the electrodes at fixed ions, which the solved charges
    do not sample. The error is that of the variance, from blocking (Q - <Q>)².

    Args:
        charges: (m,) samples of Q at equal intervals, e.
        temperature: K.
        cpm: the solver that made them, after a solve (C_0 comes from the electrodes' geometry).
        area: of one electrode, Å².
    Returns:
        µF/cm², of the whole cell.
    Raises:
        ValueError: for wrong samples, or an area that is not positive.

    Source: Scalfi et al., Phys. Chem. Chem. Phys. 22, 10480 (2020).
    """
    q = _series(charges)
    if not (math.isfinite(area) and area > 0.0):
        raise ValueError(f"area = {area:g} Å² must be positive: give |a x b| of the cell")
    whole = float(fluctuation_capacitance(q, temperature, cpm))
    error = series_mean((q - q.mean()) ** 2).error / (kB * temperature)
    return Estimate(microfarad_per_cm2(whole / area), microfarad_per_cm2(error / area))


def _series(series: ArrayLike) -> Array:
    x = np.asarray(series, dtype=np.float64)
    if x.ndim != 1 or len(x) < 2:
        raise ValueError(
            f"series = shape {x.shape} must hold at least two values: give one number per sample"
        )
    if not np.isfinite(x).all():
        at = int(np.flatnonzero(~np.isfinite(x))[0])
        raise ValueError(f"series[{at}] = {x[at]} must be finite: remove samples without a value")
    return x
