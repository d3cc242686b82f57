"""Threads of kernels and of torch's own operations."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from grahame.electrostatics import Coulomb
from grahame.kernels import threads


@pytest.fixture(name="two")
def _two() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two")
def test_kernels_keep_the_threads_that_torch_gives_up() -> None:
    with threads.kernels_only():
        assert torch.get_num_threads() == 1
        assert threads.available() == 2
        assert threads.chunks(100, 10) == [(0, 50), (50, 100)]
        with threads.kernels_only():
            assert threads.available() == 2
    assert torch.get_num_threads() == threads.available() == 2


@pytest.mark.usefixtures("two")
def test_threads_come_back_after_an_error_and_stay_where_nothing_is_asked() -> None:
    with threads.kernels_only(active=False):
        assert torch.get_num_threads() == 2
    with pytest.raises(ValueError, match="positions"):
        Coulomb("3d")(np.full((2, 3), np.nan), np.array([1.0, -1.0]), np.eye(3) * 9.0)
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two")
def test_an_evaluation_leaves_the_threads_as_they_were() -> None:
    rng = np.random.default_rng(0)
    x, q = rng.uniform(0.0, 20.0, (600, 3)), np.tile([1.0, -1.0], 300)
    coulomb = Coulomb("3d", "pme", 1e-4)
    both = coulomb(x, q, np.eye(3) * 20.0)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    alone = coulomb(x, q, np.eye(3) * 20.0)
    np.testing.assert_allclose(both.forces, alone.forces, rtol=0, atol=1e-12)
