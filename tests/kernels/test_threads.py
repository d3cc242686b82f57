"""Threads of kernels and of torch's own operations."""

import threading
import time
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


def _counting(
    name: str, stages: int, lanes: int, tasks: int, done: list[tuple[str, int, int, int]]
) -> threads.Steps[str]:
    """Notes every task in `done`, and checks that a stage waits for the one before."""
    for stage in range(stages):
        yield [
            [lambda stage=stage, lane=lane, k=k: done.append((name, stage, lane, k)) for k in range(tasks)]
            for lane in range(lanes)
        ]  # fmt: skip
        assert sum(d[0] == name for d in done) == (stage + 1) * lanes * tasks
        assert (
            threads.available() == torch.get_num_threads() or threading.current_thread().name != "MainThread"
        )
    return name


@pytest.mark.parametrize("count", [1, 2, 3])
def test_sums_run_together_stage_by_stage_and_lanes_in_order(count: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        for _ in range(20):
            done: list[tuple[str, int, int, int]] = []
            sums = (
                _counting("a", 5, 2, 1, done),
                _counting("b", 1, 3, 8, done),
                _counting("c", 0, 1, 1, done),
            )
            assert threads.together(*sums) == ["a", "b", "c"]
            assert len(done) == 5 * 2 + 3 * 8
            for lane in range(3):
                assert [k for name, _, where, k in done if (name, where) == ("b", lane)] == list(range(8))
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("two")
def test_one_sum_goes_on_while_another_waits() -> None:
    met, passed = threading.Event(), threading.Event()

    def first() -> threads.Steps[bool]:
        # One lane only: without the other sum's task beside it, this would wait in vain.
        yield [[lambda: passed.set() if met.wait(20.0) else None]]
        return passed.is_set()

    def second() -> threads.Steps[None]:
        yield [[met.set]]

    assert threads.together(first(), second()) == [True, None]


@pytest.mark.usefixtures("two")
def test_an_error_in_a_task_or_between_stages_ends_all_sums() -> None:
    def in_a_task() -> threads.Steps[None]:
        yield [[lambda: None, lambda: 1 // 0], [lambda: None]]

    def between() -> threads.Steps[None]:
        yield [[lambda: None]]
        raise ValueError("between")

    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            threads.together(in_a_task(), _counting("b", 3, 2, 2, []))
        with pytest.raises(ValueError, match="between"):
            threads.together(_counting("b", 3, 2, 2, []), between())
        assert threads.together(_counting("b", 3, 2, 2, [])) == ["b"]


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("where", ["a task", "an interrupt"])
def test_an_error_while_another_thread_works_ends_its_sum_too(where: str) -> None:
    """Nobody goes on with the lane or the stages that are left, and nobody is waited for in vain."""
    begun, raised = threading.Event(), threading.Event()
    done: list[str] = []

    def fail() -> None:
        assert begun.wait(10.0)
        raised.set()
        raise KeyboardInterrupt if where == "an interrupt" else ZeroDivisionError

    def work() -> None:
        begun.set()
        assert raised.wait(10.0)
        # Long enough for the error to be noted.
        time.sleep(0.2)

    def steps() -> threads.Steps[None]:
        yield [[fail], [work, lambda: done.append("the lane")]]
        done.append("the stage")
        yield [[lambda: done.append("a task of it")]]

    with pytest.raises(KeyboardInterrupt if where == "an interrupt" else ZeroDivisionError):
        threads.together(steps())
    assert done == []
    assert threads.together(steps_of_nothing()) == [7]


def steps_of_nothing() -> threads.Steps[int]:
    yield [[lambda: None], [lambda: None]]
    return 7


@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_evaluation_gives_the_same_bits_every_time(count: int) -> None:
    rng = np.random.default_rng(1)
    x, q, h = rng.uniform(0.0, 42.0, (7500, 3)), np.tile([1.0, -1.0], 3750), np.eye(3) * 42.0
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        found = [Coulomb("3d", "pme", 1e-3)(x, q, h) for _ in range(4)]
    finally:
        torch.set_num_threads(before)
    for again in found[1:]:
        assert again.energy == found[0].energy
        np.testing.assert_array_equal(again.potential, found[0].potential)
        np.testing.assert_array_equal(again.forces, found[0].forces)


def test_threads_that_torch_ended_come_back_with_the_same_results() -> None:
    x = torch.linspace(0.0, 3.0, 400_000, dtype=torch.float64)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        wanted = torch.exp(x)
        for _ in range(3):
            with threads.kernels_only():
                assert torch.get_num_threads() == 1
                assert torch.equal(torch.exp(x), wanted)
            assert torch.get_num_threads() == 2
            assert torch.equal(torch.exp(x), wanted)
    finally:
        torch.set_num_threads(before)


def test_a_thread_prefers_the_lane_of_its_place_among_equals() -> None:
    """And the longest before that, so that all end together."""
    one = threads._Sum(iter(()))  # type: ignore[arg-type]
    one.waiting = [threads._Lane(k, [steps_of_nothing] * length) for k, length in enumerate((2, 2, 3))]
    assert [one.take(1).place for _ in range(3)] == [2, 1, 0]
