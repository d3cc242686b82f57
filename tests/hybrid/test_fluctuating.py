"""SPC-FQ with flexible molecules: its numbers, the isolated molecule, stability, what it hands to the solver."""

import math

import numpy as np
import pytest
from ase import Atoms
from ase.optimize import BFGS

from grahame.electrostatics.units import COULOMB_CONSTANT
from grahame.hybrid.shortrange import ShortRange
from grahame.hybrid.shortrange.fluctuating import SPC_FQ, FluctuatingWater, screened, screened_slope
from grahame.hybrid.shortrange.parameters import KCAL_PER_MOL
from grahame.hybrid.teacher import teacher_calculator

DEBYE = 4.803204712570263  # per e Å


def molecule() -> Atoms:
    half = SPC_FQ.angle / 2
    x, y = SPC_FQ.bond_length * math.sin(half), SPC_FQ.bond_length * math.cos(half)
    return Atoms("OH2", [[0, 0, 0], [x, y, 0], [-x, y, 0]])


def dimer(distance: float) -> Atoms:
    """Two molecules, a hydrogen of the first on the line between the oxygens."""
    angle, half, r = SPC_FQ.angle, SPC_FQ.angle / 2, SPC_FQ.bond_length
    donor = [[0, 0, 0], [r, 0, 0], [r * math.cos(angle), r * math.sin(angle), 0]]
    x, z = distance + r * math.cos(half), r * math.sin(half)
    return Atoms("OH2OH2", [*donor, [distance, 0, 0], [x, 0, z], [x, 0, -z]])


def test_widths_give_the_published_integrals() -> None:
    m = SPC_FQ
    assert m.width_h == pytest.approx(0.5511, abs=1e-4)
    assert m.width_o == pytest.approx(0.4738, abs=1e-4)
    oh = screened(1.0, m.width_o**2 + m.width_h**2) / KCAL_PER_MOL
    hh = screened(m.hydrogen_distance, 2 * m.width_h**2) / KCAL_PER_MOL
    assert oh == pytest.approx(276.0, abs=1e-9)
    assert hh == pytest.approx(196.0, abs=1e-9)


def test_slope_of_the_screened_interaction_is_its_derivative() -> None:
    numerical = (screened(1.2 + 1e-5, 0.5) - screened(1.2 - 1e-5, 0.5)) / 2e-5
    assert screened_slope(1.2, 0.5) == pytest.approx(numerical, abs=1e-8)


def test_isolated_molecule_has_the_published_dipole_within_one_percent() -> None:
    atoms = molecule()
    atoms.calc = teacher_calculator(atoms)
    dipole = float(np.linalg.norm(atoms.get_dipole_moment())) * DEBYE
    assert dipole == pytest.approx(SPC_FQ.gas_dipole * DEBYE, abs=1e-10)
    assert dipole == pytest.approx(1.85, rel=0.01)
    assert dipole == pytest.approx(1.864, abs=5e-4)
    # The published charges of the isolated molecule are -0.672 and 0.336 e.
    assert atoms.get_charges() == pytest.approx([-0.6721, 0.3361, 0.3361], abs=1e-4)


def test_isolated_molecule_keeps_its_published_geometry() -> None:
    atoms = molecule()
    atoms.calc = teacher_calculator(atoms)
    assert np.abs(atoms.get_forces()).max() < 1e-12
    best = atoms.get_potential_energy()
    rng = np.random.default_rng(0)
    for _ in range(10):
        moved = molecule()
        moved.positions += rng.normal(scale=0.05, size=(3, 3))
        moved.calc = atoms.calc
        assert moved.get_potential_energy() > best


def test_molecules_are_stable_although_the_hardness_left_for_oxygen_is_negative() -> None:
    assert SPC_FQ.extra_hardness_o < 0.0
    for distance in (2.4, 2.8, 6.0):
        atoms = dimer(distance)
        atoms.calc = teacher_calculator(atoms)
        atoms.get_potential_energy()
        solver = atoms.calc.potential.solver
        assert solver is not None
        # The softest direction of an isolated molecule has 72 kcal/mol/e².
        assert solver.smallest_eigenvalue > 50 * KCAL_PER_MOL


def test_charges_grow_in_company() -> None:
    far, near = dimer(50.0), dimer(2.8)
    for atoms in (far, near):
        atoms.calc = teacher_calculator(atoms)
    assert far.get_charges()[:3] == pytest.approx([-0.6721, 0.3361, 0.3361], abs=1e-3)
    assert near.get_charges()[0] < -0.70


def test_cluster_agrees_with_a_dense_solution_from_the_published_integrals() -> None:
    atoms = dimer(2.9) + Atoms("Na", [[0.5, -2.4, 0.3]])
    # Rounding of the published integrals aside, the on-site terms are J_OO and J_HH themselves.
    n, m = 7, SPC_FQ
    s = np.array([m.width_o, m.width_h, m.width_h] * 2 + [0.5])
    k = COULOMB_CONSTANT
    matrix = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if i != j:
                r = float(np.linalg.norm(atoms.positions[i] - atoms.positions[j]))
                matrix[i, j] = k * math.erf(r / math.sqrt(2 * (s[i] ** 2 + s[j] ** 2))) / r
    matrix[range(n), range(n)] = [m.hardness_oo, m.hardness_hh, m.hardness_hh] * 2 + [
        k / math.sqrt(math.pi) / 0.5
    ]
    chi = np.array([m.electronegativity, 0, 0] * 2 + [0])
    system = np.zeros((8, 8))
    system[:6, :6] = matrix[:6, :6]
    system[6, :3] = system[:3, 6] = system[7, 3:6] = system[3:6, 7] = 1
    solved = np.linalg.solve(system, [*(-chi[:6] - matrix[:6, 6]), 0, 0])
    q = np.array([*solved[:6], 1.0])
    atoms.calc = teacher_calculator(atoms, total_charge=1.0)
    assert atoms.get_charges() == pytest.approx(q, abs=1e-10)
    coulomb = atoms.get_potential_energy() - atoms.calc.results["short_range_energy"]
    assert coulomb == pytest.approx(float(0.5 * q @ matrix @ q + chi @ q), abs=1e-9)


def test_pair_of_molecules_is_bound_as_documented() -> None:
    atoms, single = dimer(3.0), molecule()
    atoms.calc, single.calc = teacher_calculator(atoms), teacher_calculator(single)
    atoms.positions[3:] += [0.0, 0.02, 0.0]
    BFGS(atoms, logfile=None).run(fmax=2e-3, steps=200)
    binding = atoms.get_potential_energy() - 2 * single.get_potential_energy()
    assert binding / KCAL_PER_MOL == pytest.approx(-4.06, abs=0.01)
    assert atoms.get_distance(0, 3) == pytest.approx(3.01, abs=0.01)


def test_ions_of_the_given_width_are_points_at_contact() -> None:
    widths = 0.5**2 + SPC_FQ.width_o**2
    assert screened(2.3, widths) == pytest.approx(screened(2.3, 1e-8), rel=1e-3)


def test_short_range_leaves_charges_to_the_solve_and_excludes_nothing() -> None:
    atoms = molecule() + Atoms("NaClAu", [[4, 0, 0], [0, 5, 0], [0, 0, 6]])
    atoms.set_array("electrode", np.array([-1] * 5 + [0]))
    water = FluctuatingWater.from_atoms(atoms)
    assert isinstance(water, ShortRange)
    result = water.compute(atoms.positions, atoms.numbers, np.zeros((3, 3)), (False, False, False))
    assert result.charges.tolist() == [0, 0, 0, 1, -1, 0]
    assert result.smearing.tolist() == [0, 0, 0, 0.5, 0.5, 0]
    assert len(result.exclusions) == 0
    assert [g.indices.tolist() for g in water.groups] == [[0, 1, 2]]
    assert [g.charge for g in water.groups] == [0.0]
    described = water.describe()
    assert described["name"] == "fluctuating-charge water"
    assert "Rick, Stuart, Berne" in described["sources"]["water"]


def test_short_range_forces_and_virial_are_derivatives() -> None:
    atoms = dimer(2.7) + Atoms("Na", [[1.0, 3.0, 0.5]])
    atoms.set_cell([7.0, 8.0, 9.0])
    atoms.pbc = True
    water = FluctuatingWater.from_atoms(atoms)
    atoms.positions += np.random.default_rng(2).normal(scale=0.05, size=(7, 3))

    def energy(x: np.ndarray, h: np.ndarray) -> float:
        return water.compute(x, atoms.numbers, h, (True, True, True)).energy

    cell = np.array(atoms.cell)
    result = water.compute(atoms.positions, atoms.numbers, cell, (True, True, True), True)
    virial, forces = result.virial, result.forces
    assert virial is not None
    assert forces is not None
    for i, a in ((0, 0), (4, 1), (6, 2)):
        x = np.zeros((7, 3))
        x[i, a] = 1e-5
        slope = (energy(atoms.positions + x, cell) - energy(atoms.positions - x, cell)) / 2e-5
        assert forces[i, a] == pytest.approx(-slope, abs=1e-6)
    for a in range(3):
        e = np.eye(3)
        f = np.eye(3)
        e[a, a], f[a, a] = 1 + 1e-6, 1 - 1e-6
        slope = (energy(atoms.positions @ e, cell @ e) - energy(atoms.positions @ f, cell @ f)) / 2e-6
        assert virial[a, a] == pytest.approx(slope, abs=1e-5)


def test_negative_ion_width_is_refused() -> None:
    with pytest.raises(ValueError, match="ion_width") as error:
        FluctuatingWater.from_atoms(molecule(), ion_width=-0.1)
    assert str(error.value) == "ion_width = -0.1 Å must not be negative: use 0 for point charges"
