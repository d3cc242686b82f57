"""The operator in one step of a solve, against the operator on all atoms."""

import numpy as np
import pytest
import torch

from grahame.electrostatics import Coulomb
from grahame.electrostatics.evaluation import Evaluation, SolvedPairs
from grahame.electrostatics.system import System
from grahame.kernels.cpu_neighbors import half_rows

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


@pytest.mark.parametrize("method", ["pme", "exact"])
def test_excluded_pairs_follow_what_is_given_and_where_the_atoms_are(method: str) -> None:
    """An array changed in place, other pairs, none, and an image that changes: never those of before."""
    kept = SolvedPairs()
    coulomb = Coulomb("slab", method, 1e-6)
    x = bound("slab", "pme", False).positions
    s = torch.full((20,), 0.4, dtype=torch.float64)
    pairs = np.array([[3, 9], [1, 2], [17, 19]])
    q = torch.linspace(-1.0, 0.8, 20, dtype=torch.float64)
    moved = x.clone()
    moved[9] += CELL[0]
    seen = []
    for places, given, changed in (
        (x, pairs, None), (x, pairs, (0, 1, 4)), (x, pairs[:2], None), (moved, pairs[:2], (0, 1, 9)),
        (x, pairs[:2], None), (x, None, None), (x, pairs, None),
    ):  # fmt: skip
        if changed is not None:
            pairs[changed[0], changed[1]] = changed[2]
        system = coulomb.bind(places, CELL, s, given)
        fresh = Coulomb("slab", method, 1e-6).bind(places, CELL, s, None if given is None else given.copy())
        step, other = Evaluation(system, SOLVED, kept), Evaluation(fresh, SOLVED, SolvedPairs())
        np.testing.assert_allclose(step.at_solved(q), other.at_solved(q), rtol=0, atol=1e-12)
        np.testing.assert_allclose(step.product(q[:7]), other.product(q[:7]), rtol=0, atol=1e-12)
        found, expected = step.first(q, True), fresh.first(q, True)
        np.testing.assert_allclose(found.potential, expected.potential, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.gradient, expected.gradient, rtol=0, atol=1e-12)
        seen.append(step.at_solved(q))
    assert not torch.allclose(seen[0], seen[1])
    assert not torch.allclose(seen[4], seen[5])


def test_rows_with_marked_atoms_are_those_pairs_of_the_list() -> None:
    rng = np.random.default_rng(0)
    x, cell = rng.uniform(-5.0, 15.0, (60, 3)), np.diag([9.0, 10.0, 11.0])
    rows = half_rows(x, cell, (True, True, True), 4.0)
    marked = rng.random(60) < 0.2
    i, j, shifts = rows.triples()
    expected = marked[i] | marked[j]
    assert 0 < expected.sum() < len(i)
    for found, whole in zip(rows.with_atoms(marked).triples(), (i, j, shifts)):
        np.testing.assert_array_equal(found, whole[expected])
    none = rows.with_atoms(np.zeros(60, dtype=bool))
    assert len(none.joined().rows) == none.pairs == 0
