"""The linear algebra of the solve, against dense formulas."""

import numpy as np
import pytest
import torch

from grahame.electrostatics.equilibration import Constraints, Factor, symmetric_product

SETS = {
    "none": [-1] * 9,
    "one": [0] * 9,
    "two": [0, 0, 1, 1, 1, 0, 1, 0, 1],
    "some": [0, -1, 1, 1, -1, 0, 1, 0, -1],
}


def matrix(seed: int = 0) -> torch.Tensor:
    m = np.random.default_rng(seed).normal(size=(9, 9))
    return torch.as_tensor(m @ m.T + np.eye(9))


@pytest.mark.parametrize("columns", [None, 1, 4])
def test_symmetric_products_need_one_triangle(columns: int | None) -> None:
    a, v = (
        matrix(),
        torch.as_tensor(np.random.default_rng(1).normal(size=(9,) if columns is None else (9, columns))),
    )
    np.testing.assert_allclose(symmetric_product(a, v), a @ v, rtol=0, atol=1e-12)
    np.testing.assert_allclose(symmetric_product(torch.triu(a), v), a @ v, rtol=0, atol=1e-12)
    assert symmetric_product(a, v).is_contiguous()


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("columns", [None, 3])
def test_the_factor_solves_with_held_sums(name: str, columns: int | None) -> None:
    """A x + lambda = r on every set, and sums of 0."""
    sets = torch.tensor(SETS[name])
    constraints = Constraints(sets, int(sets.max()) + 1)
    a, r = (
        matrix(),
        torch.as_tensor(np.random.default_rng(2).normal(size=(9,) if columns is None else (9, columns))),
    )
    x = Factor(a, constraints).solve(r)
    c = (sets[None, :] == torch.arange(constraints.count)[:, None]).to(torch.float64)
    zero = torch.zeros((len(c), len(c)), dtype=torch.float64)
    whole = torch.cat([torch.cat([a, c.T], 1), torch.cat([c, zero], 1)])
    right = torch.cat([r, torch.zeros((len(c), *r.shape[1:]), dtype=torch.float64)])
    np.testing.assert_allclose(x, torch.linalg.solve(whole, right)[:9], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SETS)
def test_shifted_charges_have_the_sums_that_are_held(name: str) -> None:
    sets = torch.tensor(SETS[name])
    constraints = Constraints(sets, int(sets.max()) + 1)
    v = torch.linspace(-1.0, 2.0, 9, dtype=torch.float64)
    wanted = torch.arange(1.0, 1.0 + constraints.count, dtype=torch.float64)
    moved = constraints.shifted(v, wanted)
    np.testing.assert_allclose(constraints.sums(moved), wanted, rtol=0, atol=1e-14)
    np.testing.assert_allclose(constraints.project(moved - v), torch.zeros(9), rtol=0, atol=1e-15)
    assert torch.equal((moved - v)[sets < 0], torch.zeros(int((sets < 0).sum()), dtype=torch.float64))
