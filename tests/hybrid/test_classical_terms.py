"""Single bonds, angles and pairs against their closed forms; the truncation; mixing rules."""

import numpy as np
import pytest
from ase import Atoms

from grahame.hybrid.shortrange import ClassicalForceField, ForceFieldTables
from grahame.hybrid.shortrange.lennard_jones import make_switch
from grahame.hybrid.shortrange.tables import mixed_coefficients
from tests.hybrid.classical_systems import compute, slope

EPSILON, SIGMA = 0.0103, 3.4


def argon(positions: object, cell: object = None, **options: object) -> tuple[ClassicalForceField, Atoms]:
    """One Lennard-Jones type without charges."""
    x = np.asarray(positions, dtype=float)
    atoms = Atoms(f"Ar{len(x)}", positions=x, cell=cell, pbc=cell is not None)
    tables = ForceFieldTables(
        numbers=atoms.numbers,
        types=np.zeros(len(x), dtype=int),
        epsilon=np.array([EPSILON]),
        sigma=np.array([SIGMA]),
        charges=np.zeros(len(x)),
    )
    return ClassicalForceField(tables, **options), atoms  # type: ignore[arg-type]


def pair_energy(r: float, **options: object) -> float:
    field, atoms = argon([[0, 0, 0], [0, 0, r]], **options)
    return compute(field, atoms).energy


def pair_force(r: float, **options: object) -> float:
    """Radial force on the second atom."""
    field, atoms = argon([[0, 0, 0], [0, 0, r]], **options)
    return float(compute(field, atoms).forces[1, 2])


def test_a_bond_has_the_closed_form() -> None:
    tables = ForceFieldTables(
        numbers=np.array([8, 1]),
        types=np.zeros(2, dtype=int),
        epsilon=np.zeros(1),
        sigma=np.zeros(1),
        charges=np.zeros(2),
        bonds=np.array([[0, 1]]),
        bond_constants=np.array([45.0]),
        bond_lengths=np.array([1.0]),
    )
    atoms = Atoms("OH", positions=[[0.3, 0.2, 0.1], [0.3, 0.2, 1.3]])
    result = compute(ClassicalForceField(tables), atoms)
    assert result.energy == pytest.approx(0.5 * 45.0 * 0.2**2, rel=1e-13)
    np.testing.assert_allclose(result.forces, [[0, 0, 9.0], [0, 0, -9.0]], atol=1e-12)
    assert result.virial is not None
    np.testing.assert_allclose(result.virial, np.diag([0, 0, 45.0 * 0.2 * 1.2]), atol=1e-12)


def angle_alone(numbers: list[int], constant: float, value: float) -> ForceFieldTables:
    """Three atoms with an angle at the second and nothing else."""
    return ForceFieldTables(
        numbers=np.array(numbers),
        types=np.zeros(3, dtype=int),
        epsilon=np.zeros(1),
        sigma=np.zeros(1),
        charges=np.zeros(3),
        angles=np.array([[0, 1, 2]]),
        angle_constants=np.array([constant]),
        angle_values=np.array([value]),
    )


@pytest.mark.parametrize("equilibrium", [180.0, 109.47])
def test_a_molecule_on_a_line_has_an_energy_and_no_force(equilibrium: float) -> None:
    k, theta0 = 3.3, np.radians(equilibrium)
    tables = angle_alone([8, 6, 8], k, theta0)
    atoms = Atoms("OCO", positions=[[-1.16, 0, 0], [0, 0, 0], [1.16, 0, 0]])
    result = compute(ClassicalForceField(tables), atoms)
    assert result.energy == pytest.approx(0.5 * k * (np.pi - theta0) ** 2, abs=1e-14)
    np.testing.assert_array_equal(result.forces, 0.0)
    np.testing.assert_array_equal(result.virial, 0.0)


@pytest.mark.parametrize("degrees", [20.0, 90.0, 113.0, 179.999])
def test_an_angle_has_the_closed_form(degrees: float) -> None:
    k, theta0, theta = 3.3, np.radians(109.47), np.radians(degrees)
    tables = angle_alone([1, 8, 1], k, theta0)
    end = 1.5 * np.array([np.cos(theta), np.sin(theta), 0.0])
    atoms = Atoms("HOH", positions=[[0.9, 0, 0], [0, 0, 0], end])
    result = compute(ClassicalForceField(tables), atoms)
    assert result.energy == pytest.approx(0.5 * k * (theta - theta0) ** 2, rel=1e-10)
    # Opening the angle moves the first atom along -y: dtheta/dy = -1/0.9.
    np.testing.assert_allclose(result.forces[0], [0, k * (theta - theta0) / 0.9, 0], atol=1e-9)
    np.testing.assert_allclose(result.forces.sum(0), 0, atol=1e-9)
    np.testing.assert_allclose(np.cross(atoms.positions, result.forces).sum(0), 0, atol=1e-9)


@pytest.mark.parametrize("r", [3.0, 3.4, 4.5, 9.9])
def test_a_plain_pair_has_the_closed_form(r: float) -> None:
    s6 = (SIGMA / r) ** 6
    assert pair_energy(r, truncation="plain") == pytest.approx(4 * EPSILON * (s6 * s6 - s6), rel=1e-13)
    expected = 24 * EPSILON * (2 * s6 * s6 - s6) / r
    assert pair_force(r, truncation="plain") == pytest.approx(expected, rel=1e-13)


def test_nothing_acts_beyond_the_cutoff() -> None:
    for truncation in ("plain", "force-switch"):
        assert pair_energy(10.0, truncation=truncation) == 0.0
        assert pair_force(10.5, truncation=truncation) == 0.0


def test_the_force_switch_leaves_the_force_inside_the_switch_distance_alone() -> None:
    for r in (3.0, 4.0, 7.9):
        assert pair_force(r) == pytest.approx(pair_force(r, truncation="plain"), rel=1e-12)


def test_the_force_switch_only_shifts_the_energy_inside_the_switch_distance() -> None:
    shifts = [pair_energy(r) - pair_energy(r, truncation="plain") for r in (3.5, 5.0, 7.9)]
    assert np.ptp(shifts) < 1e-15


@pytest.mark.parametrize("options", [{}, {"cutoff": 6.0}, {"cutoff": 12.0, "switch_distance": 9.0}])
def test_energy_force_and_slope_of_the_force_have_no_jump(options: dict[str, float]) -> None:
    switch = make_switch(options.get("cutoff", 10.0), options.get("switch_distance"), "force-switch")
    h = 1e-8
    for edge in (switch.start, switch.cutoff):
        assert abs(pair_energy(edge + h, **options) - pair_energy(edge - h, **options)) < 1e-9
        assert abs(pair_force(edge + h, **options) - pair_force(edge - h, **options)) < 1e-9
        left, right = (
            slope(lambda d, at=edge + side * 3e-4: pair_force(at + d, **options), 1e-4) for side in (-1, 1)
        )
        assert abs(left - right) < 2e-5
    assert abs(pair_energy(switch.cutoff - h, **options)) < 1e-15
    assert abs(pair_force(switch.cutoff - h, **options)) < 1e-12


@pytest.mark.parametrize("r", [7.0, 8.0, 8.5, 9.7, 9.99])
def test_the_switched_force_is_minus_the_slope_of_the_energy(r: float) -> None:
    assert pair_force(r) == pytest.approx(-slope(lambda d: pair_energy(r + d), 5e-4), abs=1e-12)


def test_one_atom_sees_its_own_images() -> None:
    """Face-centred cubic from one atom: the lattice sums C12, C6 of Lennard-Jones and Ingham."""
    a = 5.3
    primitive = 0.5 * a * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    field, atoms = argon([[0.1, 0.2, 0.3]], primitive, truncation="plain", cutoff=60.0, skin=0.0)
    result = compute(field, atoms)
    s6 = (SIGMA / (a / np.sqrt(2))) ** 6
    # The tail beyond 60 Å as an integral over the density 4/a³.
    tail = -8 * np.pi * EPSILON * SIGMA**6 * (4 / a**3) / (3 * 60.0**3)
    expected = 2 * EPSILON * (12.13188 * s6 * s6 - 14.45392 * s6)
    assert result.energy + tail == pytest.approx(expected, rel=2e-6)
    np.testing.assert_allclose(result.forces, 0, atol=1e-14)


def test_mixing_rules_follow_their_definitions() -> None:
    epsilon, sigma = np.array([0.04, 0.01, 0.0]), np.array([3.0, 2.0, 0.0])
    depth, size = mixed_coefficients(epsilon, sigma, "lorentz-berthelot")
    np.testing.assert_allclose(depth, [[0.04, 0.02, 0], [0.02, 0.01, 0], [0, 0, 0]], rtol=1e-15)
    np.testing.assert_allclose(size, [[3, 2.5, 1.5], [2.5, 2, 1], [1.5, 1, 0]], rtol=1e-15)
    depth, size = mixed_coefficients(epsilon, sigma, "geometric")
    np.testing.assert_allclose(depth, [[0.04, 0.02, 0], [0.02, 0.01, 0], [0, 0, 0]], rtol=1e-15)
    np.testing.assert_allclose(size, [[3, np.sqrt(6), 0], [np.sqrt(6), 2, 0], [0, 0, 0]], rtol=1e-15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"mixing": "arithmetic"},
            "mixing = 'arithmetic' must be 'lorentz-berthelot' or 'geometric': LAMMPS calls the first "
            "'arithmetic'",
        ),
        ({"cutoff": 0.0}, "cutoff = 0.0 Å must be positive: 10 Å is usual for water"),
        ({"cutoff": float("nan")}, "cutoff = nan Å must be positive: 10 Å is usual for water"),
        (
            {"truncation": "shift"},
            "truncation = 'shift' must be 'force-switch' or 'plain': choose one of them",
        ),
        (
            {"switch_distance": 10.0},
            "switch_distance = 10.0 Å must be above 0 and below the cut-off 10.0 Å: 2 Å below it is usual",
        ),
        (
            {"truncation": "plain", "switch_distance": 8.0},
            "switch_distance = 8.0 Å must be left out with truncation='plain': use truncation='force-switch'",
        ),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        argon([[0, 0, 0]], **options)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"charges": np.zeros(3)},
            "shape of charges = (3,) must be (2,): give one entry per atom or term",
        ),
        (
            {"types": np.array([0, 1])},
            "types = 1 must be the index of a Lennard-Jones type from 0 to 0: count from 0",
        ),
        (
            {"exclusions": np.array([[0, 2]])},
            "exclusions = 2 must be the index of an atom from 0 to 1: count from 0",
        ),
        ({"epsilon": np.array([-1.0])}, "epsilon[0] = -1.0 must be finite and not negative: check the table"),
    ],
)
def test_inconsistent_tables_are_refused(change: dict[str, object], message: str) -> None:
    tables: dict[str, object] = {
        "numbers": np.array([18, 18]),
        "types": np.zeros(2, dtype=int),
        "epsilon": np.ones(1),
        "sigma": np.ones(1),
        "charges": np.zeros(2),
    }
    with pytest.raises(ValueError) as error:  # noqa: PT011
        ForceFieldTables(**{**tables, **change})  # type: ignore[arg-type]
    assert str(error.value) == message
