"""What is kept from call to call belongs to the call: other atoms, other problems, the caller's arrays, copies."""

import pickle
import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from grahame.electrostatics import ConstantPotential, Coulomb, Electrode

Floats = NDArray[np.float64]

CELL = np.array([[14.0, 0.0, 0.0], [1.0, 13.0, 0.0], [0.0, 0.0, 30.0]])
SOLVED = 32


def capacitor(ions: int = 60) -> tuple[Floats, Floats]:
    """Two plates of 16 atoms with neutral salt between them."""
    rng = np.random.default_rng(4)
    plate = np.stack(np.meshgrid(np.arange(4), np.arange(4), [0.0]), -1).reshape(-1, 3) / [4, 4, 1]
    grid = np.stack(np.meshgrid(np.arange(4), np.arange(4), np.arange(5)), -1).reshape(-1, 3)
    u = (rng.permutation(grid)[:ions] + rng.uniform(0.2, 0.8, (ions, 3))) / [4, 4, 5]
    u[:, 2] = 0.15 + 0.45 * u[:, 2]
    places = np.concatenate([plate, plate + np.array([0.0, 0.0, 0.75]), u]) @ CELL
    charges = np.zeros(SOLVED + ions)
    charges[SOLVED:] = np.where(np.arange(ions) % 2, 0.8, -0.8)
    return places, charges


def solver(**options: Any) -> ConstantPotential:
    electrodes = [Electrode(range(16), potential=0.0), Electrode(range(16, 32), potential=1.0)]
    return ConstantPotential(electrodes, Coulomb("slab", "pme", 1e-4), **({"smearing": 0.5} | options))


@pytest.mark.parametrize("method", ["exact", "ewald", "pme"])
@pytest.mark.parametrize("counts", [(60, 40), (40, 60)])
def test_the_same_excluded_pairs_among_another_number_of_atoms(method: str, counts: tuple[int, int]) -> None:
    pairs = np.array([[32, 33], [34, 35], [0, 40]])
    kept = Coulomb("3d", method)
    for ions in counts:
        x, q = capacitor(ions)
        found, fresh = (c(x, q, CELL, 0.3, pairs) for c in (kept, Coulomb("3d", method)))
        assert found.energy == pytest.approx(fresh.energy, rel=1e-12)
        np.testing.assert_allclose(found.forces, fresh.forces, rtol=0, atol=1e-11)
    one = solver()
    for ions in counts:
        x, q = capacitor(ions)
        found, fresh = (s.solve(x, q, CELL, exclusions=pairs) for s in (one, solver()))
        np.testing.assert_allclose(found.charges, fresh.charges, rtol=0, atol=1e-7)


@pytest.mark.parametrize("mode", ["auto", "iterative"])
@pytest.mark.parametrize("moving", [False, True])
def test_a_problem_much_smaller_than_those_before(mode: str, moving: bool) -> None:
    """Charges reach the tolerance beside this problem's own potentials, not beside those of the problems before."""
    rng = np.random.default_rng(1)
    x, q = capacitor()
    kept = solver(solver=mode)

    def move() -> None:
        if moving:
            x[:SOLVED] += rng.normal(0.0, 0.01, (SOLVED, 3))

    for _ in range(4):
        kept.solve(x, q, CELL, potentials=[0.0, 50.0])
        move()
    for _ in range(12):
        found, fresh = (s.solve(x, 0.0 * q, CELL, potentials=[0.0, 1e-3]) for s in (kept, solver()))
        largest = np.abs(fresh.charges).max()
        np.testing.assert_allclose(found.charges, fresh.charges, rtol=0, atol=1e-6 * largest)
        assert found.residual < 1e-8
        move()


def test_held_charges_much_smaller_than_those_before() -> None:
    """Also where the field follows the charges."""
    x, q = capacitor()
    electrodes = [Electrode(range(16), charge=1.0), Electrode(range(16, 32), charge=-1.0)]
    kept, fresh = (
        ConstantPotential(electrodes, Coulomb("finite-field", "pme", 1e-4), smearing=0.5, solver="iterative")
        for _ in range(2)
    )
    rng = np.random.default_rng(2)
    for size in [40.0] * 4 + [1e-3] * 6:
        x[:SOLVED] += rng.normal(0.0, 0.01, (SOLVED, 3))
        fresh.forget()
        held = [size, -size]
        found, wanted = (
            s.solve(x, q if size > 1.0 else 0.0 * q, CELL, electrode_charges=held) for s in (kept, fresh)
        )
        largest = np.abs(wanted.charges).max()
        np.testing.assert_allclose(found.charges, wanted.charges, rtol=0, atol=1e-6 * largest)


def test_a_given_vacuum_is_that_of_the_cell_as_it_is_now() -> None:
    x, q = capacitor()
    extent = float(np.ptp(x[:, 2]))
    h = CELL * [1.0, 1.0, 1.01 * extent / CELL[2, 2]]
    kept = Coulomb("slab", "pme", 1e-4, vacuum=0.0)
    kept(x, q, h, 0.3)
    h[2, 2] *= 0.985
    with pytest.raises(ValueError, match="must be smaller than the height of the k-space cell"):
        kept(x, q, h, 0.3)


@pytest.mark.parametrize("boundary", ["slab", "slab-exact"])
@pytest.mark.parametrize("far", [1e6, 1e13])
def test_an_atom_that_has_flown_away(boundary: str, far: float) -> None:
    x, q = capacitor(4)
    x[-1, 2] = far
    message = (
        f"extent of the charges along the normal = {far:.6g} Å must be at most 100000 Å: an atom has left the slab; "
        "check the structure or the previous step"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Coulomb(boundary)(x, q, CELL, 0.3)


def test_what_a_solver_was_made_with_is_its_own() -> None:
    x, q = capacitor()
    given = {"smearing": np.full(32, 0.5), "hardness": np.full(32, 0.1), "electronegativity": np.zeros(32)}
    mine = solver(**given)
    before = mine.solve(x, q, CELL)
    for values in given.values():
        values += 0.2
    after = mine.solve(x, q, CELL)
    np.testing.assert_allclose(after.charges, before.charges, rtol=0, atol=1e-7)
    assert after.energy == pytest.approx(before.energy, rel=1e-9)


def test_the_field_of_a_result_is_not_the_callers_array() -> None:
    x, q = capacitor()
    field = np.array([0.0, 0.0, 0.05])
    found = solver().solve(x, q, CELL, field=field)
    field *= 2.0
    np.testing.assert_array_equal(found.field, [0.0, 0.0, 0.05])


def test_a_state_is_neither_the_operators_nor_the_callers() -> None:
    x, q = capacitor()
    coulomb, other = Coulomb("3d", "ewald"), Coulomb("3d", "ewald")
    wanted = coulomb(x, q, CELL, 0.3).energy
    state = coulomb.state()
    other.load_state(state)
    for values in state.values():
        if values.dtype.kind == "f":
            values *= 0.5
    assert other(x, q, CELL, 0.3).energy == wanted
    assert coulomb(x, q, CELL, 0.3).energy == wanted


def test_a_solver_that_has_iterated_is_copied_by_pickle() -> None:
    x, q = capacitor()
    mine = solver()
    mine.solve(x, q, CELL)
    x[:SOLVED] += np.random.default_rng(0).normal(0.0, 0.01, (SOLVED, 3))
    mine.solve(x, q, CELL)
    copied: ConstantPotential = pickle.loads(pickle.dumps(mine))
    x[:SOLVED] += 0.01
    np.testing.assert_allclose(
        copied.solve(x, q, CELL).charges, mine.solve(x, q, CELL).charges, rtol=0, atol=1e-12
    )
