"""Profiles of synthetic trajectories whose densities, orientations and fields are known."""

import math

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from numpy.typing import NDArray

from grahame.electrostatics import Coulomb
from grahame.electrostatics.units import COULOMB_CONSTANT
from grahame.hybrid.profiles import density_profile, electrostatic_profile, jackknife
from grahame.hybrid.water import find_waters, orientation_profile, water_bonds

Array = NDArray[np.float64]
CELL = np.array([[9.0, 0.0, 0.0], [2.0, 8.0, 0.0], [1.0, -1.5, 25.0]])
ROTATION = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def gas(count: int, seed: int, low: float = 5.0, high: float = 20.0) -> Atoms:
    """Na and Cl, uniform in height between `low` and `high`, in a tilted slab cell."""
    rng = np.random.default_rng(seed)
    x = rng.random((2 * count, 2)) @ CELL[:2]
    x[:, 2] = rng.uniform(low, high, 2 * count)
    atoms = Atoms(["Na"] * count + ["Cl"] * count, positions=x, cell=CELL, pbc=(True, True, False))
    atoms.set_array("charges", np.array([1.0] * count + [-1.0] * count))
    return atoms


def water_at(position: Array, direction: Array) -> Atoms:
    """One molecule whose dipole (O towards the hydrogens) points along `direction`."""
    water = molecule("H2O")[[0, 1, 2]]
    bonds = water.positions[1:] - water.positions[0]
    water.rotate(bonds.mean(0), direction, center=water.positions[0])
    water.positions += position - water.positions[0]
    return water


def test_uniform_gas_has_its_density_everywhere() -> None:
    out = density_profile([gas(400, seed) for seed in range(20)], spacing=1.0, limits=(0.0, 25.0))
    inside = (out.z > 5.5) & (out.z < 19.5)
    expected = 400 / (72.0 * 15.0)
    assert out.frames == 20
    # Poisson: standard error of a bin's mean over 20 frames.
    poisson = math.sqrt(expected / (72.0 * 1.0 * 20))
    np.testing.assert_allclose(out.number["Na"][inside], expected, atol=4 * poisson)
    np.testing.assert_allclose(out.number["Na"][(out.z < 5) | (out.z > 20)], 0.0)
    assert np.median(out.error["Na"][inside]) == pytest.approx(poisson, rel=0.4)
    grams = (22.98976928 + 35.45) * 1.66053906892 * expected
    np.testing.assert_allclose(out.mass[inside], grams, rtol=4 * poisson / expected)


def test_mass_densities_are_those_of_the_frames_masses() -> None:
    light, heavy = gas(50, 3), gas(50, 3)
    heavy.set_masses(2.0 * light.get_masses())
    usual, doubled = (density_profile([atoms], spacing=1.0) for atoms in (light, heavy))
    np.testing.assert_allclose(doubled.mass, 2.0 * usual.mass)
    np.testing.assert_allclose(doubled.number["Na"], usual.number["Na"])


def test_profile_counts_every_atom_once_in_any_orientation_of_the_cell() -> None:
    atoms = gas(50, 3)
    turned = atoms.copy()
    turned.set_cell(CELL @ ROTATION)
    turned.positions = atoms.positions @ ROTATION
    mirrored = atoms.copy()
    mirrored.set_cell(CELL * [[1], [1], [-1]])
    mirrored.pbc = True
    for given in (atoms, turned, mirrored):
        out = density_profile([given], spacing=0.7)
        width = out.z[1] - out.z[0]
        assert out.number["Cl"].sum() * width * 72.0 == pytest.approx(50.0)
    np.testing.assert_allclose(
        density_profile([turned], spacing=0.7).number["Na"],
        density_profile([atoms], spacing=0.7).number["Na"],
    )


def test_periodic_heights_fold_into_one_period() -> None:
    atoms = Atoms("Na2", positions=[[0, 0, 1.0], [0, 0, 9.0]], cell=[5.0, 5.0, 10.0], pbc=True)
    moved = atoms.copy()
    moved.positions[:, 2] += [30.0, -20.0]
    a, b = (density_profile([x], spacing=0.5).number["Na"] for x in (atoms, moved))
    np.testing.assert_allclose(a, b)


@pytest.mark.parametrize("shift", [0.0, -12.5, 40.0])
def test_a_period_holds_the_electrodes_as_they_stand(shift: float) -> None:
    """Also of a cell that is centred on 0: the liquid lies between them, whatever the liquid did."""
    z = np.array([3.0, 22.0, 10.0, 11.0]) + shift
    atoms = Atoms("Au2NaCl", positions=np.column_stack([z * 0, z * 0, z]), cell=[5.0, 5.0, 25.0], pbc=True)
    atoms.set_array("electrode", np.array([0, 1, -1, -1]))
    atoms.positions[2, 2] += 25.0  # went around
    out = density_profile([atoms], ["Au", "Na", "Cl"], spacing=0.5)
    heights = {s: out.z[out.number[s] > 0.0] for s in ("Au", "Na", "Cl")}
    np.testing.assert_allclose(heights["Au"], [3.0 + shift, 22.0 + shift], atol=0.26)
    np.testing.assert_allclose([*heights["Na"], *heights["Cl"]], [10.0 + shift, 11.0 + shift], atol=0.26)
    assert out.z[-1] - out.z[0] == pytest.approx(24.5)


def test_atoms_that_leave_the_room_of_the_first_frame_are_not_dropped_silently() -> None:
    far = gas(1, 0)
    far.positions[0, 2] = 99.0
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        density_profile([gas(1, 0), far])
    assert str(caught.value) == (
        f"z = {far.positions[1, 2]:g} to 99 Å must stay within -5 and 30 Å, the room of the first frame: "
        "give `limits` that suit the whole trajectory"
    )
    assert density_profile([gas(1, 0), far], limits=(0.0, 25.0)).frames == 2


def test_no_frames_is_an_error() -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        density_profile([])
    assert str(caught.value) == "frames = 0 must be at least one: give a trajectory with frames"


def test_jackknife_of_a_mean_is_the_standard_error_of_its_blocks() -> None:
    x = np.random.default_rng(0).normal(size=(200, 3))
    value, error = jackknife(x)
    blocks = x.reshape(10, 20, 3).mean(1)
    np.testing.assert_allclose(value, x.mean(0))
    np.testing.assert_allclose(error, blocks.std(0, ddof=1) / math.sqrt(10))


@pytest.mark.parametrize("cosine", [1.0, 0.5, 0.0, -0.7, -1.0])
def test_orientation_is_the_cosine_with_the_surface_normal(cosine: float) -> None:
    """Also for a molecule across the boundary with its hydrogens wrapped to the other side."""
    sine = math.sqrt(1 - cosine**2)
    water = water_at(np.array([0.1, 0.1, 10.0]), np.array([-0.6 * sine, -0.8 * sine, cosine]))
    water.set_cell(CELL)
    water.pbc = (True, True, False)
    wrapped = water.copy()
    wrapped.wrap()
    for given in (water, wrapped):
        out = orientation_profile([given], spacing=0.5)
        seen = np.isfinite(out.cos_theta)
        assert seen.sum() == 1
        assert abs(out.z[seen][0] - 10.0) < 0.5
        assert out.cos_theta[seen][0] == pytest.approx(cosine, abs=1e-12)
        assert out.density.sum() * (out.z[1] - out.z[0]) * 72.0 == pytest.approx(1.0)


def test_orientation_changes_sign_with_the_normal() -> None:
    water = water_at(np.array([1.0, 1.0, 10.0]), np.array([0.0, 0.0, 1.0]))
    water.set_cell(CELL[[1, 0, 2]])  # a x b points to -z
    water.pbc = (True, True, False)
    out = orientation_profile([water])
    assert np.nanmean(out.cos_theta) == pytest.approx(-1.0)


def test_isotropic_water_has_no_orientation_within_its_error() -> None:
    rng = np.random.default_rng(5)
    frames = []
    for _ in range(40):
        parts = [water_at(rng.random(3) * [9, 8, 25], rng.normal(size=3)) for _ in range(12)]
        frame = sum(parts[1:], parts[0])
        frame.set_cell([9.0, 8.0, 25.0])
        frame.pbc = True
        frames.append(frame)
    out = orientation_profile(frames, spacing=5.0)
    assert (np.abs(out.cos_theta) < 4 * out.error).all()
    # 96 molecules per bin, cos uniform in [-1, 1]
    assert np.mean(out.error) == pytest.approx(math.sqrt(1 / 3 / 96), rel=0.4)


def test_waters_are_found_by_bonds_and_other_oxygens_are_left_out() -> None:
    water = water_at(np.array([0.05, 4.0, 3.0]), np.array([-1.0, 0.0, 0.0]))
    hydroxide = Atoms("OH", positions=[[5.0, 5.0, 5.0], [5.97, 5.0, 5.0]])
    hydronium = Atoms("OH3", positions=[[5, 2, 12], [6, 2, 12], [4.5, 2.87, 12], [4.5, 1.13, 12]])
    atoms = hydroxide + hydronium + water + Atoms("Na", positions=[[2, 2, 2]])
    atoms.set_cell(CELL)
    atoms.pbc = (True, True, False)
    atoms.wrap()
    assert find_waters(atoms).tolist() == [[6, 7, 8]]
    assert np.linalg.norm(water_bonds(atoms, find_waters(atoms)), axis=-1).max() < 1.0


def test_waters_in_a_cell_smaller_than_their_bonds_reach_are_found() -> None:
    water = water_at(np.array([0.5, 0.5, 1.0]), np.array([0.3, 0.2, 1.0]))
    water.set_cell([2.2, 2.4, 6.0])
    water.pbc = True
    water.wrap()
    assert find_waters(water).tolist() == [[0, 1, 2]]


def plates(boundary: str, voltage: float) -> Atoms:
    """Two one-atom plates ±q whose vacuum capacitor carries `voltage`, top plate positive."""
    area, d = 20.0, 12.0
    q = voltage * area / (4 * math.pi * COULOMB_CONSTANT * d)
    atoms = Atoms("Au2", positions=[[1, 1, 4.0], [2, 2, 4.0 + d]], cell=[4.0, 5.0, 22.0], pbc=(1, 1, 0))
    atoms.pbc[2] = boundary == "finite-field"
    atoms.set_array("electrode", np.array([0, 1]))
    atoms.set_array("charges", np.array([-q, q]))
    atoms.info["electrode_potentials"] = np.array([-0.5 * voltage, 0.5 * voltage])
    return atoms


@pytest.mark.parametrize("boundary", ["slab", "finite-field"])
def test_potential_rises_by_the_voltage_from_bottom_to_top(boundary: str) -> None:
    out = electrostatic_profile([plates(boundary, 1.5)] * 4, boundary, smearing=0.3)
    low, high = np.interp([1.0, 19.0], out.z, out.potential)
    assert high - low == pytest.approx(1.5, abs=1e-10)
    np.testing.assert_allclose(out.field[np.abs(out.z - 10) < 3], -1.5 / 12.0, atol=1e-10)
    np.testing.assert_allclose(out.field[out.z < 1.0], 0.0, atol=1e-12)
    np.testing.assert_allclose(out.error, 0.0, atol=1e-12)
    np.testing.assert_allclose(out.electrolyte, 0.0)


def test_mean_potential_of_a_trajectory_is_the_mean_of_the_operators_plane_averages() -> None:
    frames = [gas(4, seed, 8.0, 15.0) for seed in range(3)]
    out = electrostatic_profile(frames, "slab", limits=(0.0, 25.0), spacing=0.5)
    height = out.z[-1]
    f = (np.arange(10) + 0.5) / 10
    points = np.stack(np.meshgrid(f, f), -1).reshape(-1, 2) @ CELL[:2]
    points[:, 2] = height
    values = [
        Coulomb("slab", "ewald", 1e-8).potential_at(points, a.positions, a.arrays["charges"], CELL).mean()
        for a in frames
    ]
    assert out.potential[-1] == pytest.approx(np.mean(values), abs=1e-5)


def test_finite_field_needs_the_potentials_of_two_electrodes() -> None:
    atoms = plates("finite-field", 1.0)
    del atoms.info["electrode_potentials"]
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        electrostatic_profile([atoms], "finite-field")
    assert str(caught.value) == (
        "electrode_potentials = 0 values for 2 electrodes must be two for two with boundary 'finite-field': "
        "write them into the frames' info, or choose another boundary"
    )


def test_frames_without_charges_are_refused() -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        electrostatic_profile([molecule("H2O", cell=[5, 5, 5], pbc=True)], "3d")
    assert str(caught.value) == (
        "charges = nothing must be in every frame: write them as the array `charges`, as `grahame run` does"
    )
