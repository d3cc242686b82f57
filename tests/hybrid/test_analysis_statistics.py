"""Means of correlated series against known processes; capacitance against its definition."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import lfilter

from grahame.electrostatics import ConstantPotential, Coulomb, Electrode
from grahame.hybrid.statistics import (
    Estimate,
    block_errors,
    differential_capacitance,
    integral_capacitance,
    running_mean,
    series_mean,
)

Array = NDArray[np.float64]


def autoregressive(n: int, correlation_time: float, seed: int) -> Array:
    """x_t = a x_{t-1} + noise with variance 1 and a = exp(-1/tau): inefficiency (1+a)/(1-a)."""
    a = math.exp(-1 / correlation_time)
    noise = np.random.default_rng(seed).normal(size=n + 2000) * math.sqrt(1 - a * a)
    return np.asarray(lfilter([1.0], [1.0, -a], noise)[2000:], dtype=np.float64)


def test_error_of_uncorrelated_values_is_deviation_over_root_n() -> None:
    x = np.random.default_rng(1).normal(2.0, 0.5, size=20000)
    mean = series_mean(x)
    assert mean.value == pytest.approx(2.0, abs=4 * 0.5 / math.sqrt(20000))
    assert mean.error == pytest.approx(0.5 / math.sqrt(20000), rel=0.1)
    assert mean.converged


@pytest.mark.parametrize("tau", [5.0, 30.0])
def test_error_and_correlation_time_of_a_correlated_series_are_those_of_the_process(tau: float) -> None:
    a, n = math.exp(-1 / tau), 20000
    inefficiency = (1 + a) / (1 - a)
    runs = [series_mean(autoregressive(n, tau, seed), interval=0.5) for seed in range(60)]
    assert np.mean([r.error for r in runs]) == pytest.approx(math.sqrt(inefficiency / n), rel=0.1)
    assert np.mean([r.correlation_time for r in runs]) == pytest.approx(0.25 * (inefficiency - 1), rel=0.2)
    assert np.std([r.value for r in runs]) == pytest.approx(np.mean([r.error for r in runs]), rel=0.3)
    assert np.mean([r.converged for r in runs]) > 0.9


def test_mean_lies_within_its_error_as_often_as_a_gaussian_demands() -> None:
    runs = [series_mean(autoregressive(5000, 20.0, seed)) for seed in range(200)]
    assert np.mean([abs(r.value) < r.error for r in runs]) == pytest.approx(0.68, abs=0.1)


def test_a_series_shorter_than_its_memory_is_not_called_converged() -> None:
    drift = np.linspace(0.0, 1.0, 200)
    mean = series_mean(drift)
    assert not mean.converged
    assert mean.error > 3 * drift.std() / math.sqrt(200)


def test_a_slow_drift_under_noise_is_not_called_converged() -> None:
    noise = np.random.default_rng(0).normal(0.0, 0.1, size=81)
    assert not series_mean(noise + np.linspace(0.0, 0.3, 81)).converged


def test_blocking_keeps_the_first_error_and_halves_the_number_of_blocks() -> None:
    lengths, errors, of_errors = block_errors(np.arange(7.0))
    assert lengths.tolist() == [1, 2]
    assert errors[0] == pytest.approx(np.arange(7.0).std() / math.sqrt(6))
    assert of_errors[0] == pytest.approx(errors[0] / math.sqrt(12))


def test_constant_series_has_no_error() -> None:
    for value in (1.5, 1.3000000000000003):  # the mean of twelve of the second differs from it by rounding
        mean = series_mean([value] * 12)
        assert (mean.error, mean.deviation, mean.converged) == (0.0, 0.0, True)
        assert mean.value == pytest.approx(value, rel=1e-15)


def test_three_values_have_a_mean_but_no_error() -> None:
    mean = series_mean([1.0, 2.0, 3.0])
    assert mean.value == 2.0
    assert math.isnan(mean.error)


def test_running_mean_ends_at_the_mean() -> None:
    np.testing.assert_allclose(running_mean([1.0, 3.0, 5.0]), [1.0, 2.0, 3.0])


def test_capacitance_of_two_runs_subtracts_the_first_and_adds_errors_in_quadrature() -> None:
    out = integral_capacitance(Estimate(3.0, 0.3), 2.0, 400.0, Estimate(0.5, 0.4), -0.5)
    unit = 1.602176634e-19 * 1e22  # e/(V Å²) in µF/cm²
    assert out.value == pytest.approx(2.5 / (400.0 * 2.5) * unit, rel=1e-12)
    assert out.error == pytest.approx(0.5 / (400.0 * 2.5) * unit, rel=1e-12)


def test_capacitance_of_one_run_takes_no_charge_at_no_voltage() -> None:
    out = integral_capacitance(Estimate(-1.0, 0.1), -2.0, 500.0)
    assert out.value == pytest.approx(1.602176634)
    assert out.error == pytest.approx(0.1602176634)


def two_plates() -> ConstantPotential:
    """A solver of two small plates after a solve."""
    x = np.array([[0, 0, 0], [2, 2, 0], [0, 2, 8], [2, 0, 8]], dtype=float)
    cpm = ConstantPotential(
        [Electrode([0, 1], potential=0.0), Electrode([2, 3], potential=1.0)],
        Coulomb("slab", "exact"),
        smearing=0.8,
    )
    cpm.solve(x, np.zeros(4), np.diag([4.0, 4.0, 30.0]))
    return cpm


def test_differential_capacitance_is_the_variance_plus_the_response_at_fixed_ions() -> None:
    cpm = two_plates()
    bare = float(np.array([-0.5, 0.5]) @ cpm.capacitance @ np.array([-0.5, 0.5]))
    q = np.random.default_rng(2).normal(0.3, 0.02, size=4000)
    out = differential_capacitance(q, 300.0, cpm, 16.0)
    beta = 1 / (8.617333262e-5 * 300.0)
    unit = 1602.176634 / 16.0
    assert out.value == pytest.approx((beta * q.var() + bare) * unit, rel=1e-6)
    # Var of a Gaussian's variance: 2 sigma^4/n
    assert out.error == pytest.approx(math.sqrt(2 / 4000) * beta * q.var() * unit, rel=0.2)
    frozen = differential_capacitance([0.3] * 5, 300.0, cpm, 16.0)
    assert (frozen.value, frozen.error) == (pytest.approx(bare * unit), 0.0)


def test_differential_capacitance_needs_an_area() -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        differential_capacitance([0.1, 0.2], 300.0, two_plates(), 0.0)
    assert str(caught.value) == "area = 0 Å² must be positive: give |a x b| of the cell"


@pytest.mark.parametrize(
    ("series", "message"),
    [
        ([1.0], "series = shape (1,) must hold at least two values: give one number per sample"),
        ([[1.0, 2.0]], "series = shape (1, 2) must hold at least two values: give one number per sample"),
        ([1.0, math.nan], "series[1] = nan must be finite: remove samples without a value"),
    ],
)
def test_wrong_series_is_named(series: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        series_mean(series)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_interval_must_be_positive() -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        series_mean([1.0, 2.0], interval=0.0)
    assert str(caught.value) == "interval = 0 must be positive: give the time between two values"


@pytest.mark.parametrize(
    ("voltage", "area", "message"),
    [
        (0.0, 400.0, "voltage = 0 V must differ from the reference's 0 V: "
         "an integral capacitance is a charge difference over a voltage difference"),
        (1.0, -1.0, "area = -1 Å² must be positive: give |a x b| of the cell"),
    ],
)  # fmt: skip
def test_capacitance_needs_a_voltage_and_an_area(voltage: float, area: float, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        integral_capacitance(Estimate(1.0, 0.1), voltage, area)
    assert str(caught.value) == message
