"""Vacuum levels and work functions: signs against dipole layers and the operator far outside."""

import math

import numpy as np
import pytest

from grahame.electrostatics import Coulomb
from grahame.electrostatics.profiles import planar_charges, surface_normal
from grahame.electrostatics.units import COULOMB_CONSTANT as K
from grahame.electrostatics.work_function import slab_potential_step, vacuum_potential, work_function

CELL = np.array([[5.0, 0.3, 0], [-1.0, 4.0, 0], [1.5, 1.0, 30.0]])
METAL = np.array([[0.5, 0.5, 4.0], [2.0, 3.0, 6.0]])
LAYER = np.array([[1.0, 1.0, 9.0], [1.5, 2.0, 9.7]])  # adsorbed on the +n side


def test_potential_far_outside_is_plus_or_minus_two_pi_k_moment_over_area() -> None:
    n, area, _ = surface_normal(CELL)
    x, q = np.concatenate([METAL, LAYER]), np.array([0.05, -0.15, -0.3, 0.4])
    moment = float(q @ (x @ n))
    points = np.array([[0.2, 0.4, -20.0], [1.0, 2.0, 33.0]])
    below, above = Coulomb("slab-exact").potential_at(points, x, q, CELL, smearing=0.5)
    assert vacuum_potential(moment, area, "-") == pytest.approx(below, abs=1e-9)
    assert vacuum_potential(moment, area, "+") == pytest.approx(above, abs=1e-9)
    assert slab_potential_step(x, q, CELL) == pytest.approx(above - below, abs=1e-9)


def test_applied_field_needs_a_named_plane_and_tilts_the_vacuum() -> None:
    n, area, _ = surface_normal(CELL)
    x, q = np.concatenate([METAL, LAYER]), np.array([0.05, -0.15, -0.3, 0.4])
    moment = float(q @ (x @ n))
    above = Coulomb("slab", "exact", 1e-9).potential_at(
        np.array([[1.0, 2.0, 25.0]]), x, q, CELL, smearing=0.5, field=0.07 * n
    )
    expected = vacuum_potential(moment, area, "+", field=0.07, plane=25.0)
    assert expected == pytest.approx(above[0], abs=1e-7)


def test_outward_dipole_lowers_the_work_function_of_its_side_only() -> None:
    """Positive end outside: an electron leaves more easily there; the other side keeps its work function.

    Metal held at charge 0 with electronegativity chi: Phi = chi + the potential at the metal.
    """
    n, area, _ = surface_normal(CELL)
    chi = 5.1
    results = {}
    for name, q in (("bare", [0.0, 0.0]), ("outward", [-0.3, 0.3]), ("inward", [0.3, -0.3])):
        at_metal = float(np.mean(Coulomb("slab-exact").potential_at(METAL[:1], LAYER, q, CELL)))
        moment = float(np.array(q) @ (LAYER @ n))
        results[name] = [work_function(chi + at_metal, moment, area, side) for side in ("+", "-")]
    np.testing.assert_allclose(results["bare"], [chi, chi])
    step = 4 * math.pi * K * 0.3 * 0.7 / area  # Helmholtz
    # The lateral structure of two point charges decays over 3 Å: a few per cent of the step remain.
    np.testing.assert_allclose(results["outward"], [chi - step, chi], atol=0.1 * step)
    np.testing.assert_allclose(results["inward"], [chi + step, chi], atol=0.1 * step)
    assert step > 1.0


def test_dipole_layer_in_closed_form_shifts_one_side_by_the_helmholtz_step() -> None:
    """Uniform layers: the metal's potential is the plane average below the dipole layer."""
    n, area, _ = surface_normal(CELL)
    q = np.array([-0.3, 0.3])
    inside = float(planar_charges(LAYER, q, CELL).potential_at(5.0))
    moment = float(q @ (LAYER @ n))
    step = 4 * math.pi * K * 0.3 * 0.7 / area
    assert work_function(5.1 + inside, moment, area, "-") == pytest.approx(5.1, abs=1e-12)
    assert work_function(5.1 + inside, moment, area, "+") == pytest.approx(5.1 - step, abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.1, 10.0, "top"), "side = 'top' must be '+' or '-': '+' is the side that n = a x b points to"),
        ((0.1, 0.0, "+"), "area = 0 Å² must be positive: give |a x b|"),
    ],
)
def test_wrong_side_or_area_is_named(arguments: tuple[float, float, str], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        vacuum_potential(*arguments)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_field_without_a_plane_is_refused() -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        work_function(5.0, 0.1, 10.0, "+", field=0.02)
    assert str(caught.value) == (
        "plane = None must be a height in Å when a field of 0.02 V/Å acts: "
        "the potential of the vacuum is not constant there"
    )


def test_charged_slab_has_no_vacuum_level() -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        slab_potential_step(LAYER, [0.5, 0.1], CELL)
    assert str(caught.value) == (
        "charges = 0.6 e in all must be 0 e: a charged slab has a field, not a level, outside"
    )
