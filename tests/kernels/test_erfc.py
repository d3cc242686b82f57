"""The complementary error function of the compiled kernels."""

import numba
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import erfc

from grahame.kernels.cpu_erfc import erfc_and_slope

Array = NDArray[np.float64]


@numba.njit
def several(t: Array, value: Array, slope: Array) -> None:
    for k in range(len(t)):
        value[k], slope[k] = erfc_and_slope(t[k])


def at(t: Array) -> tuple[Array, Array]:
    value, slope = np.empty(len(t)), np.empty(len(t))
    several(t, value, slope)
    return value, slope


def test_value_and_slope_are_those_of_erfc() -> None:
    t = np.concatenate([np.linspace(0.0, 6.4, 20_011), np.geomspace(1e-300, 1e-3, 50)])
    value, slope = at(t)
    np.testing.assert_allclose(value, erfc(t), rtol=2e-14, atol=0)
    np.testing.assert_allclose(value, erfc(t), rtol=0, atol=5e-16)
    np.testing.assert_allclose(slope, -2.0 / np.sqrt(np.pi) * np.exp(-(t**2)), rtol=1e-14, atol=0)


def test_beyond_it_is_nothing() -> None:
    value, slope = at(np.array([6.5, 8.0, 15.0, 25.99, 26.0, 26.1, 40.0, 1e3, 1e200, np.inf]))
    assert (value >= 0.0).all()
    assert (slope <= 0.0).all()
    assert value.max() < 1e-19
    assert slope.min() > -1e-17


def test_excluded_pairs_are_bare_to_the_last_digits() -> None:
    value, slope = at(np.zeros(1))
    assert value[0] == 1.0
    assert slope[0] == pytest.approx(-2.0 / np.sqrt(np.pi), rel=3e-16)
