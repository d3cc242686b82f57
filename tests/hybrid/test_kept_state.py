"""What a calculator keeps belongs to the structure of the call, and a state to whoever asked for it."""

import numpy as np
import pytest
from ase import Atoms

from grahame.electrostatics import Coulomb, Electrode
from grahame.hybrid import HybridCalculator
from grahame.hybrid.build import build_cell
from grahame.hybrid.model_file import open_model
from grahame.hybrid.shortrange.learned import LearnedShortRange


def learned(atoms: Atoms) -> HybridCalculator:
    groups = [Electrode(np.flatnonzero(atoms.arrays["electrode"] == g), potential=2.0 * g) for g in (0, 1)]
    return HybridCalculator(LearnedShortRange(open_model(None)), Coulomb("slab", accuracy=1e-4), groups)


def test_elements_change_where_positions_do_not() -> None:
    atoms = build_cell("Au(111)", size=(3, 4, 2), gap=15.0, concentration=1.5, seed=2)
    atoms.calc = learned(atoms)
    atoms.get_potential_energy()
    sodium, chlorine = (int(np.flatnonzero(atoms.numbers == z)[0]) for z in (11, 17))
    atoms.numbers[[sodium, chlorine]] = [17, 11]
    fresh = atoms.copy()
    fresh.calc = learned(atoms)
    assert atoms.get_potential_energy() == pytest.approx(fresh.get_potential_energy(), abs=1e-7)
    np.testing.assert_allclose(atoms.get_forces(), fresh.get_forces(), rtol=0, atol=1e-6)


def test_widths_follow_the_elements_of_the_electrodes() -> None:
    """A structure of the same places whose electrodes are of another element that the model knows."""
    atoms = build_cell("Au(111)", size=(3, 4, 2), gap=15.0, concentration=0.0, seed=2)
    calculator = learned(atoms)
    potential = calculator.potential
    potential.prepare(atoms.numbers)
    assert potential.solver is not None
    gold = potential.solver.smearing.clone()
    potential.prepare(np.where(atoms.numbers == 79, 17, atoms.numbers))
    chlorine = potential.solver.smearing
    assert (gold == gold[0]).all()
    assert (chlorine == chlorine[0]).all()
    assert chlorine[0] != gold[0]
    solver = potential.solver
    potential.prepare(np.where(atoms.numbers == 79, 17, atoms.numbers))
    assert potential.solver is solver


def test_a_state_that_waits_for_the_solver_is_passed_on() -> None:
    atoms = build_cell("Au(111)", size=(3, 4, 2), gap=13.0, concentration=0.0, seed=2)
    atoms.calc = HybridCalculator()
    wanted = atoms.get_potential_energy()
    between, last = HybridCalculator(), HybridCalculator()
    between.load_state(atoms.calc.state(), atoms)
    last.load_state(between.state(), atoms)
    last.reset()
    atoms.calc = last
    assert atoms.get_potential_energy() == pytest.approx(wanted, abs=1e-7)


def test_a_state_does_not_follow_what_is_held_later() -> None:
    atoms = build_cell("Au(111)", size=(3, 4, 2), gap=13.0, concentration=0.0, seed=2)
    atoms.calc = HybridCalculator(potentials=[0.0, 2.0])
    atoms.get_potential_energy()
    state = atoms.calc.state()
    atoms.calc.set_potentials([0.0, 1.0])
    atoms.calc.set_electrode_charges([None, 0.5])
    np.testing.assert_array_equal(state["held.potentials"], [0.0, 2.0])
    assert np.isnan(state["held.charges"]).all()


def test_a_state_of_before_the_first_calculation_is_a_state() -> None:
    """The solver of a model is made when the elements are known; until then there is nothing of it to keep."""
    atoms = build_cell("Au(111)", size=(3, 4, 2), gap=15.0, concentration=0.0, seed=2)
    other = learned(atoms)
    other.load_state(learned(atoms).state(), atoms)
    atoms.calc = other
    fresh = atoms.copy()
    fresh.calc = learned(atoms)
    assert atoms.get_potential_energy() == fresh.get_potential_energy()
