"""Planar averages against capacitors, dipole layers, derivatives and the Coulomb operator itself."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from grahame.electrostatics import Coulomb
from grahame.electrostatics.profiles import planar_charges, planar_profiles, surface_normal
from grahame.electrostatics.units import COULOMB_CONSTANT

Array = NDArray[np.float64]
K = COULOMB_CONSTANT

CELLS = {
    "orthorhombic": [[6.0, 0, 0], [0, 5.0, 0], [0, 0, 20.0]],
    "hexagonal": [[5.5, 0, 0], [-2.75, 2.75 * math.sqrt(3), 0], [0, 0, 20.0]],
    "tilted c": [[6.0, 0.5, 0], [-1.0, 5.0, 0], [2.0, -1.5, 20.0]],
    "left-handed": [[6.0, 0, 0], [0, 5.0, 0], [0, 0, -20.0]],
    "rotated": [[0, 6.0, 0], [0, 1.0, 5.0], [20.0, 0, 0.5]],
}


def ions(cell: object, smeared: bool, neutral: bool) -> tuple[Array, Array, Array]:
    """Seven ions within 8 Å along the normal, the first two Gaussians if `smeared`."""
    rng = np.random.default_rng(3)
    n, _, _ = surface_normal(cell)
    h = np.asarray(cell, dtype=float)
    heights = np.array([0.0, 0.4, 2.0, 3.1, 4.5, 6.0, 8.0])
    x = rng.random((7, 2)) @ h[:2]
    x += (heights - x @ n)[:, None] * n + 1.3 * n
    q = np.array([0.3, -0.2, 0.5, -0.7, 0.9, -1.1, 0.3])
    q[-1] += 0.0 if neutral else 0.6
    s = np.array([0.6, 0.3, 0, 0, 0, 0, 0.5]) if smeared else np.zeros(7)
    return x, q, s


def plane_average(coulomb: Coulomb, z: float, cell: object, *args: object, **fields: object) -> float:
    """Mean of the operator's potential over a plane at height z, by an equidistant grid.

    What the grid misses decays as exp(-2 pi points distance/width): few points do 4 Å away from all charges.
    """
    points_per_side = 16 if 0.0 < z < 10.0 else 6
    h = np.asarray(cell, dtype=float)
    n, _, _ = surface_normal(cell)
    f = (np.arange(points_per_side) + 0.37) / points_per_side
    grid = np.stack(np.meshgrid(f, f), -1).reshape(-1, 2) @ h[:2]
    points = grid + (z - grid @ n)[:, None] * n
    return float(np.mean(coulomb.potential_at(points, *args, h, **fields)))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("neutral", [True, False])
def test_slab_potential_is_the_plane_average_of_the_exact_two_dimensional_sum(
    name: str, neutral: bool
) -> None:
    x, q, s = ions(CELLS[name], True, neutral)
    profile = planar_charges(x, q, CELLS[name], smearing=s)
    for z in (-3.0, 14.0):
        expected = plane_average(Coulomb("slab-exact"), z, CELLS[name], x, q, smearing=s)
        assert profile.potential_at(z) == pytest.approx(expected, abs=1e-7)


def test_between_the_charges_the_potential_is_still_the_plane_average() -> None:
    cell = CELLS["tilted c"]
    x, q, s = ions(cell, True, False)
    for boundary, operator in (
        ("slab", Coulomb("slab", "ewald", 1e-9)),
        ("3d", Coulomb("3d", "ewald", 1e-9)),
    ):
        profile = planar_charges(x, q, cell, smearing=s, boundary=boundary)
        expected = plane_average(operator, 8.3, cell, x, q, smearing=s)
        assert profile.potential_at(8.3) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("name", CELLS)
def test_periodic_potential_is_the_plane_average_of_the_ewald_sum(name: str) -> None:
    for neutral in (True, False):
        x, q, s = ions(CELLS[name], True, neutral)
        profile = planar_charges(x, q, CELLS[name], smearing=s, boundary="3d")
        for z in (-3.0, 14.0):
            expected = plane_average(Coulomb("3d", "ewald", 1e-9), z, CELLS[name], x, q, smearing=s)
            assert profile.potential_at(z) == pytest.approx(expected, abs=1e-7)


def test_slab_in_an_applied_field_agrees_with_the_operator() -> None:
    cell = CELLS["tilted c"]
    n, _, _ = surface_normal(cell)
    x, q, s = ions(cell, True, True)
    profile = planar_charges(x, q, cell, smearing=s, field=0.08)
    for z in (-4.0, 14.0):
        expected = plane_average(Coulomb("slab", "ewald", 1e-9), z, cell, x, q, smearing=s, field=0.08 * n)
        assert profile.potential_at(z) == pytest.approx(expected, abs=1e-7)


def test_constant_displacement_agrees_with_the_operator() -> None:
    cell = CELLS["tilted c"]
    x, q, s = ions(cell, True, True)
    profile = planar_charges(x, q, cell, smearing=s, boundary="displacement", displacement=0.3)
    for z in (-4.0, 8.3, 14.0):
        expected = plane_average(
            Coulomb("displacement", "ewald", 1e-9), z, cell, x, q, smearing=s, displacement=0.3
        )
        assert profile.potential_at(z) == pytest.approx(expected, abs=1e-7)


def test_displacement_without_a_field_is_the_neutral_slab() -> None:
    """D = 0 makes the potential of a periodic cell that of one slab, up to a constant."""
    cell = CELLS["hexagonal"]
    x, q, s = ions(cell, True, True)
    z = np.linspace(-3, 13, 40)
    slab = planar_charges(x, q, cell, smearing=s).potential_at(z)
    held = planar_charges(x, q, cell, smearing=s, boundary="displacement", displacement=0.0).potential_at(z)
    assert np.ptp(slab - held) < 1e-12


@pytest.mark.parametrize("boundary", ["slab", "3d"])
@pytest.mark.parametrize("smeared", [True, False])
def test_field_is_minus_the_slope_of_the_potential(boundary: str, smeared: bool) -> None:
    x, q, s = ions(CELLS["tilted c"], smeared, True)
    source = planar_charges(x, q, CELLS["tilted c"], smearing=s, boundary=boundary, field=0.05)
    z, h = np.linspace(-5.03, 14.02, 77), 1e-3
    f = {m: source.potential_at(z + m * h) for m in (-2, -1, 1, 2)}
    slope = (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / (12 * h)
    np.testing.assert_allclose(source.field_at(z), -slope, atol=1e-9)


@pytest.mark.parametrize("boundary", ["slab", "3d"])
def test_field_rises_by_the_charge_between_two_heights(boundary: str) -> None:
    """Gauss: E(b) - E(a) = 4 pi k times the density in between, less the background of a charged cell."""
    x, q, s = ions(CELLS["hexagonal"], True, False)
    source = planar_charges(x, q, CELLS["hexagonal"], smearing=s, boundary=boundary)
    edges = np.linspace(-6.1, 13.9, 83)
    background = 0.0 if source.period is None else q.sum() / (source.area * source.period)
    rise = 4 * math.pi * K * (source.charge_density(edges) - background) * np.diff(edges)
    np.testing.assert_allclose(np.diff(source.field_at(edges)), rise, atol=1e-12)


@given(shift=st.floats(-50, 50), spacing=st.floats(0.05, 3.0), boundary=st.sampled_from(["slab", "3d"]))
@settings(max_examples=40, deadline=None)
def test_density_holds_every_charge_whatever_the_bins(shift: float, spacing: float, boundary: str) -> None:
    cell = CELLS["left-handed"]
    x, q, s = ions(cell, True, False)
    n, area, _ = surface_normal(cell)
    out = planar_profiles(x + shift * n, q, cell, smearing=s, boundary=boundary, spacing=spacing)
    width = out.z[1] - out.z[0]
    assert out.charge_density.sum() * width * area == pytest.approx(q.sum(), abs=1e-11)


def test_plates_make_the_field_of_a_capacitor() -> None:
    """Two planes ±sigma at distance d: E = 4 pi k sigma between, 0 outside, and U = E d."""
    cell = np.diag([4.0, 5.0, 40.0])
    sigma = 0.02
    x = [[1.0, 1.0, 10.0], [3.0, 2.0, 25.0]]
    out = planar_profiles(x, [sigma * 20.0, -sigma * 20.0], cell, spacing=0.5)
    inside = (out.z > 10.5) & (out.z < 24.5)
    outside = (out.z < 9.5) | (out.z > 25.5)
    np.testing.assert_allclose(out.field[inside], 4 * math.pi * K * sigma, rtol=1e-12)
    np.testing.assert_allclose(out.field[outside], 0.0, atol=1e-13)
    assert out.potential[0] - out.potential[-1] == pytest.approx(4 * math.pi * K * sigma * 15.0, rel=1e-12)
    # In vacuum permittivity: sigma/eps0 of 0.02 e/Å² is 3.6190 V/Å.
    assert out.field[inside][0] == pytest.approx(
        0.02 * 1.602176634e-19 * 1e20 / 8.8541878128e-12 * 1e-10, rel=1e-8
    )


def test_finite_field_of_two_plates_is_the_slab_capacitor() -> None:
    """E = -U/L on top of the periodic field leaves no field outside the plates: nothing leaks."""
    cell = np.diag([4.0, 5.0, 40.0])
    q, d = 0.4, 15.0
    voltage = 4 * math.pi * K * q / 20.0 * d  # psi_bottom - psi_top of these charges
    x = [[1.0, 1.0, 10.0], [3.0, 2.0, 10.0 + d]]
    out = planar_profiles(x, [q, -q], cell, boundary="finite-field", field=voltage / 40.0)
    outside = (out.z < 9.9) | (out.z > 25.1)
    np.testing.assert_allclose(out.field[outside], 0.0, atol=1e-13)


def test_default_limits_hold_one_period_around_the_atoms() -> None:
    out = planar_profiles([[0, 0, 3.0], [0, 0, 9.0]], [1.0, -1.0], np.diag([4.0, 5.0, 40.0]), boundary="3d")
    assert out.z[0] == pytest.approx(6.0 - 20.0 + 0.05)
    assert out.z[-1] == pytest.approx(6.0 + 20.0 - 0.05)
    out = planar_profiles(
        [[0, 0, 3.0], [0, 0, 9.0]], [1.0, -1.0], np.diag([4.0, 5.0, 40.0]), limits=(1.0, 2.0)
    )
    assert (out.z[0], out.z[-1], len(out.z)) == (pytest.approx(1.05), pytest.approx(1.95), 10)


BOX = np.diag([4.0, 5.0, 40.0])
PAIR = [[0, 0, 3.0], [0, 0, 9.0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"positions": [0.0, 1.0]},
            "positions = shape (2,) must be (n, 3): give one row of coordinates per atom",
        ),
        ({"charges": [1.0]}, "charges = shape (1,) must be (2,): give one charge in e per atom"),
        ({"charges": [1.0, math.nan]}, "charges = nan e must be finite: remove nan and inf"),
        ({"smearing": [1.0]}, "smearing = shape (1,) must be (2,) or one value: give widths in Å"),
        ({"smearing": -0.5}, "smearing = -0.5 Å must not be negative: give widths >= 0, 0 for points"),
        (
            {"boundary": "open"},
            "boundary = 'open' must be one of slab, slab-exact, 3d, finite-field, displacement: "
            "choose one with a slab normal",
        ),
        (
            {"boundary": "displacement"},
            "displacement = nothing must be given with boundary 'displacement' and only there: "
            "the boundary is 'displacement'",
        ),
        (
            {"displacement": 0.1},
            "displacement = 0.1 V/Å must be given with boundary 'displacement' and only there: "
            "the boundary is 'slab'",
        ),
        (
            {"boundary": "displacement", "displacement": 0.1, "field": 0.2},
            "field = 0.2 V/Å must be 0 at constant displacement, which sets the field: remove it",
        ),
        (
            {"boundary": "displacement", "displacement": 0.1, "charges": [1.0, 0.0]},
            "charges = 1 e in all must be 0 e at constant displacement: add the counter-charge",
        ),
        ({"cell": np.eye(2)}, "cell = shape (2, 2) must be (3, 3): give the cell vectors as rows in Å"),
        (
            {"cell": np.diag([1.0, 0, 1])},
            "cell = area 0 Å² must be positive: give two in-plane cell vectors a and b",
        ),
        (
            {"cell": np.diag([1.0, 1, 0]), "boundary": "3d"},
            "cell = height 0 Å must be positive: give a third vector that leaves the plane",
        ),
        ({"spacing": 0.0}, "spacing = 0 Å must be positive: give the width of the bins"),
        ({"limits": (2.0, 1.0)}, "limits = (2, 1) Å must ascend: give the lower height first"),
    ],
)
def test_wrong_input_is_named(arguments: dict[str, object], message: str) -> None:
    given_: dict[str, object] = {"positions": PAIR, "charges": [1.0, -1.0], "cell": BOX} | arguments
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        planar_profiles(**given_)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_edges_must_ascend() -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        planar_charges(PAIR, [1.0, -1.0], BOX).charge_density([0.0])
    assert (
        str(caught.value) == "edges = shape (1,) must be two or more ascending heights: give bin edges in Å"
    )
