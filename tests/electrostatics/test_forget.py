"""A solver that forgets: answers to the last bit from the problem alone."""

from typing import Any

import numpy as np
import pytest

from grahame.electrostatics import ConstantPotential, Coulomb, Electrode

CELL = np.diag([9.0, 8.0, 26.0])


def problem(seed: int) -> tuple[Any, Any, Any]:
    """Two plates of 12 atoms with ions between them; positions, charges, hardness."""
    rng = np.random.default_rng(seed)
    plate = np.stack(np.meshgrid(np.arange(3) * 3.0, np.arange(4) * 2.0), -1).reshape(-1, 2)
    metal = np.concatenate([np.column_stack([plate, np.full(12, z)]) for z in (1.0, 21.0)])
    ions = rng.uniform([0, 0, 5], [9, 8, 17], size=(6, 3))
    return np.concatenate([metal, ions]), np.r_[np.zeros(24), np.tile([1.0, -1.0], 3)], rng.uniform(1, 5, 24)


def solver(mode: str) -> ConstantPotential:
    groups = [Electrode(range(12), potential=0.0), Electrode(range(12, 24), potential=1.5)]
    return ConstantPotential(groups, Coulomb("slab", "pme", 1e-5), smearing=0.5, solver=mode)


@pytest.mark.parametrize("mode", ["auto", "direct", "iterative"])
def test_a_forgetful_solve_has_the_bits_of_a_first_one(mode: str) -> None:
    positions, charges, hardness = problem(0)
    first = solver(mode).solve(positions, charges, CELL, hardness=hardness)
    used = solver(mode)
    for seed in (1, 2, 3, 4):
        # One geometry, as in a training: its lists and parameters stay what they are.
        used.solve(positions, seed * charges, CELL, hardness=problem(seed)[2])
    kept = used.solve(positions, charges, CELL, hardness=hardness * (1 + 1e-12))
    np.testing.assert_allclose(kept.charges, first.charges, rtol=0, atol=1e-8)
    assert not np.array_equal(kept.charges, first.charges)
    used.forget()
    again = used.solve(positions, charges, CELL, hardness=hardness)
    for name in ("charges", "forces", "energy", "potential"):
        assert np.array_equal(getattr(again, name), getattr(first, name)), name


def test_a_changed_hardness_costs_a_factorisation_and_stays_right() -> None:
    positions, charges, hardness = problem(0)
    used = solver("direct")
    used.solve(positions, charges, CELL, hardness=hardness)
    changed = used.solve(positions, charges, CELL, hardness=2 * hardness)
    fresh = solver("direct").solve(positions, charges, CELL, hardness=2 * hardness)
    np.testing.assert_allclose(changed.charges, fresh.charges, rtol=0, atol=1e-8)
    assert used.factorizations == 2
