"""The operator in one step of a solve, against the operator on all atoms."""

import numpy as np
import pytest
import torch

from grahame.electrostatics import Coulomb
from grahame.electrostatics.evaluation import Evaluation, SolvedPairs
from grahame.electrostatics.system import System
from grahame.kernels.cpu_pair_matrix import pairs_with

SOLVED = torch.tensor([3, 4, 9, 0, 17, 11, 12])
CELL = torch.tensor([[9.0, 0.0, 0.0], [2.0, 8.0, 0.0], [1.0, 0.5, 14.0]], dtype=torch.float64)
OPERATORS = [
    ("slab", "pme"), ("slab", "ewald"), ("slab", "exact"), ("slab-exact", "exact"), ("3d", "pme"),
    ("displacement", "pme"), ("finite-field", "ewald"), ("open", "exact"),
]  # fmt: skip


def bound(boundary: str, method: str, excluded: bool) -> System:
    """Twenty Gaussians, some outside the cell; pairs are excluded between solved atoms, others, and one of each."""
    rng = np.random.default_rng(3)
    x = torch.as_tensor(rng.uniform(0, 1, (20, 3)) * [9, 8, 11] + [20, -8, 0])
    s = torch.as_tensor(rng.uniform(0.3, 0.6, 20))
    pairs = np.array([[3, 9], [1, 2], [17, 19]]) if excluded else None
    coulomb = Coulomb(boundary, method, 1e-8)
    return coulomb.bind(x, None if boundary == "open" else CELL, s, pairs)


@pytest.mark.parametrize("excluded", [False, True])
@pytest.mark.parametrize(("boundary", "method"), OPERATORS)
def test_products_on_solved_atoms_are_the_operators(boundary: str, method: str, excluded: bool) -> None:
    system = bound(boundary, method, excluded)
    step = Evaluation(system, SOLVED, SolvedPairs())
    q = torch.zeros(20, dtype=torch.float64)
    q[SOLVED] = torch.linspace(-1.0, 1.3, 7, dtype=torch.float64)
    expected = system.potential(q)[SOLVED]
    np.testing.assert_allclose(step.product(q[SOLVED]), expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(step.product(2 * q[SOLVED]), 2 * expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("boundary", "method"), OPERATORS)
def test_potentials_at_solved_atoms_are_the_operators(boundary: str, method: str) -> None:
    system = bound(boundary, method, True)
    step = Evaluation(system, SOLVED, SolvedPairs())
    q = torch.linspace(-1.0, 0.8, 20, dtype=torch.float64)
    np.testing.assert_allclose(step.at_solved(q), system.potential(q)[SOLVED], rtol=0, atol=1e-10)


def test_lists_follow_the_solved_atoms_and_the_list_of_pairs() -> None:
    kept = SolvedPairs()
    coulomb = Coulomb("slab", "pme", 1e-6)
    x = bound("slab", "pme", False).positions
    s = torch.full((20,), 0.4, dtype=torch.float64)
    for shift, solved in ((0.0, SOLVED), (0.1, SOLVED), (2.0, SOLVED), (2.0, SOLVED[:4])):
        moved = x.clone()
        moved[5, 2] += shift
        system = coulomb.bind(moved, CELL, s, None)
        step, fresh = Evaluation(system, solved, kept), Evaluation(system, solved, SolvedPairs())
        q = torch.linspace(-1.0, 0.8, 20, dtype=torch.float64)
        assert torch.equal(step.at_solved(q), fresh.at_solved(q))
        assert torch.equal(step.product(q[: len(solved)]), fresh.product(q[: len(solved)]))


def test_the_pairs_with_a_marked_atom_are_found_in_order() -> None:
    rng = np.random.default_rng(0)
    i, j = rng.integers(0, 50, (2, 400)).astype(np.int32)
    marked = rng.random(50) < 0.2
    expected = np.flatnonzero(marked[i] | marked[j])
    assert 0 < len(expected) < 400
    assert np.array_equal(pairs_with(marked, i, j), expected)
    assert len(pairs_with(np.zeros(50, dtype=bool), i, j)) == 0
