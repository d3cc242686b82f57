"""Rigid water under ASE: exact geometry, dynamics like ASE's own constraint, records that others can read."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.lj import LennardJones
from ase.constraints import FixBondLengths, dict2constraint
from ase.io import Trajectory
from ase.md.verlet import VelocityVerlet

from grahame.hybrid.shortrange import ClassicalForceField, RigidWater, rigid_water_constraints
from grahame.hybrid.shortrange.parameters import WATER
from tests.hybrid.classical_systems import water

MODEL = WATER["spc/e-rigid"]


def liquid(n: int = 3, wrap: bool = True) -> Atoms:
    """n³ waters in a periodic box, some of them cut by its faces."""
    rng = np.random.default_rng(0)
    sites = 3.1 * np.stack(np.meshgrid(*[np.arange(n)] * 3, indexing="ij"), -1).reshape(-1, 3)
    atoms = Atoms(
        "OH2" * n**3, positions=np.concatenate([water(x, rng) for x in sites]), cell=[3.1 * n] * 3, pbc=True
    )
    if wrap:
        atoms.wrap()
    return atoms


def distances(atoms: Atoms) -> np.ndarray:
    return np.array(
        [
            [atoms.get_distance(o, o + 1, mic=True), atoms.get_distance(o, o + 2, mic=True),
             atoms.get_distance(o + 1, o + 2, mic=True)]
            for o in range(0, len(atoms), 3)
        ]
    )  # fmt: skip


EXPECTED = [MODEL.bond_length, MODEL.bond_length, MODEL.hydrogen_distance]


def test_molecules_get_their_exact_geometry() -> None:
    atoms = liquid()
    oxygens = atoms.positions[::3].copy()
    (constraint,) = rigid_water_constraints(atoms)
    np.testing.assert_allclose(distances(atoms), np.tile(EXPECTED, (27, 1)), atol=1e-13)
    np.testing.assert_array_equal(atoms.positions[::3], oxygens)
    assert constraint.get_removed_dof(atoms) == 3 * 27
    np.testing.assert_array_equal(constraint.get_indices(), np.arange(81))


def test_a_moved_structure_is_put_back_on_the_constraints() -> None:
    atoms = liquid()
    atoms.set_constraint(rigid_water_constraints(atoms))
    rng = np.random.default_rng(1)
    for _ in range(5):
        atoms.set_positions(atoms.positions + rng.normal(0, 0.05, atoms.positions.shape))
    np.testing.assert_allclose(distances(atoms), np.tile(EXPECTED, (27, 1)), atol=1e-12)


def test_the_correction_moves_no_centre_of_mass() -> None:
    atoms = liquid(wrap=False)
    atoms.set_constraint(rigid_water_constraints(atoms))
    wish = atoms.positions + np.random.default_rng(1).normal(0, 0.05, atoms.positions.shape)
    masses = atoms.get_masses()[:3]
    atoms.set_positions(wish)
    for o in range(0, len(atoms), 3):
        np.testing.assert_allclose(masses @ atoms.positions[o : o + 3], masses @ wish[o : o + 3], atol=1e-11)


def test_momenta_leave_the_distances_alone() -> None:
    atoms = liquid()
    atoms.set_constraint(rigid_water_constraints(atoms))
    p = np.random.default_rng(2).normal(size=atoms.positions.shape)
    atoms.set_momenta(p)
    v = atoms.get_velocities()
    for o in range(0, len(atoms), 3):
        for a, b in ((o, o + 1), (o, o + 2), (o + 1, o + 2)):
            assert abs(atoms.get_distance(a, b, mic=True, vector=True) @ (v[b] - v[a])) < 1e-13
        np.testing.assert_allclose(atoms.get_momenta()[o : o + 3].sum(0), p[o : o + 3].sum(0), atol=1e-12)


def test_a_free_molecule_conserves_energy_and_angular_momentum() -> None:
    atoms = molecule("H2O")
    atoms.set_constraint(rigid_water_constraints(atoms))
    atoms.calc = LennardJones(epsilon=0.0)
    atoms.set_momenta(np.random.default_rng(3).normal(0, 1, (3, 3)))
    energy, spin = atoms.get_kinetic_energy(), atoms.get_angular_momentum()
    VelocityVerlet(atoms, 0.5 * units.fs).run(300)
    assert atoms.get_kinetic_energy() == pytest.approx(energy, rel=2e-3)
    np.testing.assert_allclose(atoms.get_angular_momentum(), spin, atol=1e-9)
    np.testing.assert_allclose(distances(atoms), [EXPECTED], atol=1e-12)


def test_a_run_is_that_of_ases_own_constraint() -> None:
    start = liquid(2)
    (ours,) = rigid_water_constraints(start)
    theirs = FixBondLengths(ours.pairs, bondlengths=ours.bondlengths, tolerance=1e-13)
    start.set_momenta(np.random.default_rng(4).normal(0, 0.3, start.positions.shape))
    ends = []
    for constraint in (ours, theirs):
        atoms = start.copy()
        atoms.set_constraint(constraint)
        atoms.set_momenta(atoms.get_momenta())
        atoms.calc = LennardJones(epsilon=0.005, sigma=1.0, rc=3.0)
        VelocityVerlet(atoms, units.fs).run(5)
        ends.append(atoms.positions)
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-11)


def test_the_temperature_counts_the_removed_degrees_of_freedom() -> None:
    atoms = liquid()
    atoms.set_constraint(rigid_water_constraints(atoms))
    assert atoms.get_number_of_degrees_of_freedom() == 6 * 27


def test_a_trajectory_can_be_read_without_this_package(tmp_path: object) -> None:
    atoms = liquid(2)
    (constraint,) = rigid_water_constraints(atoms)
    atoms.set_constraint(constraint)
    file = f"{tmp_path}/run.traj"
    with Trajectory(file, "w") as out:
        out.write(atoms)
    with Trajectory(file) as trajectory:
        (read,) = trajectory[0].constraints
    assert type(read) is FixBondLengths
    np.testing.assert_array_equal(read.pairs, constraint.pairs)
    np.testing.assert_array_equal(read.bondlengths, constraint.bondlengths)
    assert type(dict2constraint(constraint.todict())) is FixBondLengths


def test_a_slice_keeps_the_molecules_that_are_whole() -> None:
    atoms = liquid()
    atoms.set_constraint(rigid_water_constraints(atoms))
    (kept,) = atoms[4:13].constraints
    np.testing.assert_array_equal(kept.triples, [[2, 3, 4], [5, 6, 7]])
    assert atoms[[0, 1]].constraints == []
    mask = np.zeros(81, dtype=bool)
    mask[3:6] = True
    (kept,) = atoms[mask].constraints
    np.testing.assert_array_equal(kept.triples, [[0, 1, 2]])


def test_the_rigid_model_has_no_bonded_terms() -> None:
    atoms = liquid(2)
    field = ClassicalForceField.from_atoms(atoms, water="spc/e-rigid", cutoff=3.0)
    assert len(field.tables.bonds) == len(field.tables.angles) == 0
    assert len(field.exclusions) == 3 * 8


def test_no_water_gives_no_constraint() -> None:
    assert rigid_water_constraints(Atoms("Au")) == []


def test_impossible_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="end_distance") as error:
        RigidWater([[0, 1, 2]], 1.0, 2.0)
    assert str(error.value) == (
        "end_distance = 2.0 Å must be above 0 and below twice the bond length 1.0 Å: a linear molecule needs "
        "ase.constraints.FixLinearTriatomic"
    )


def test_a_linear_start_is_refused() -> None:
    atoms = Atoms("OH2", positions=[[0, 0, 0], [0, 0, 1], [0, 0, -1]])
    with pytest.raises(ValueError, match="angle") as error:
        rigid_water_constraints(atoms)
    assert str(error.value) == (
        "angle of the water at atom 0 must be between 0 and 180 degrees: move one of its hydrogens off "
        "the line"
    )


def test_a_jump_that_cannot_be_undone_is_refused() -> None:
    atoms = molecule("H2O")
    atoms.set_constraint(rigid_water_constraints(atoms))
    wish = atoms.positions.copy()
    wish[1] += 40.0
    with pytest.raises(RuntimeError) as error:
        atoms.set_positions(wish)
    assert str(error.value) == (
        "displacement of the rigid molecule at atom 0 must be small against its bonds: use a shorter "
        "time step or "
        "minimise first"
    )
