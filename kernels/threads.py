"""Work on the threads that torch uses.

The compiled kernels release the interpreter's lock, so plain threads run them side by side. Every piece of work
writes its own output, and outputs are added in a fixed order: results do not depend on which thread ran first.

A sum is written as `Steps`, a generator that yields one stage after the other and returns the result. `together`
runs several of them at once: a thread that finds nothing to do in one sum takes a piece of another, since waking a
sleeping thread takes as long as a kernel does for a thousand atoms.

Torch's own operations are small beside the kernels, and its threads keep spinning after each of them, on
the cores that the kernels want next: `kernels_only` keeps them on the calling thread, and ends the threads that still
spin after the operations before. Torch starts them again when it needs them, which takes less time.
"""

import ctypes
import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import lru_cache
from pathlib import Path
from threading import Condition, Lock
from typing import Any, TypeAlias, TypeVar

import torch

Result = TypeVar("Result")
Task: TypeAlias = Callable[[], object]
# Tasks of one lane run one after the other, in their order, on any thread; lanes run side by side.
Lane: TypeAlias = Iterable[Task]
# All lanes of a stage are done before the generator is asked for the next.
Steps: TypeAlias = Generator[list[Lane], None, Result]

_SOFTLY = 1  # omp_pause_soft: what the runtime knows stays, its threads end

_pools: dict[int, ThreadPoolExecutor] = {}
_kept: ContextVar[int | None] = ContextVar("kept", default=None)


def available() -> int:
    """Threads that kernels may use: as many as torch had when `kernels_only` began, or has now."""
    return _kept.get() or torch.get_num_threads()


@contextmanager
def kernels_only(active: bool = True) -> Iterator[None]:
    """Torch's own operations on the calling thread alone within the `with` block, kernels on all threads.

    Args:
        active: False changes nothing.
    """
    count = torch.get_num_threads()
    if not active or count == 1:
        yield
        return
    token = _kept.set(count)
    torch.set_num_threads(1)
    if (pause := _pause()) is not None:
        pause(_SOFTLY)
    try:
        yield
    finally:
        torch.set_num_threads(count)
        _kept.reset(token)


def torch_is_alone() -> bool:
    """Whether torch keeps to the calling thread, so that any others are free for whoever divides its work himself."""
    return _kept.get() is not None or torch.get_num_threads() == 1


@lru_cache(maxsize=1)
def _pause() -> Callable[[int], int] | None:
    """OpenMP's `omp_pause_resource_all` of torch's own GNU runtime; None where it has another."""
    for path in sorted(Path(torch.__file__).parent.glob("lib/libgomp*.so*")):
        try:
            found = ctypes.CDLL(str(path)).omp_pause_resource_all
        except (OSError, AttributeError):
            continue
        found.argtypes, found.restype = [ctypes.c_int], ctypes.c_int
        pause: Callable[[int], int] = found
        return pause
    return None


def chunks(n: int, smallest: int) -> list[tuple[int, int]]:
    """At most as many equal ranges of 0..n as there are threads, none shorter than `smallest`."""
    return ranges(n, max(1, min(available(), n // max(smallest, 1))))


def ranges(n: int, count: int) -> list[tuple[int, int]]:
    """`count` equal ranges of 0..n."""
    edges = [n * c // count for c in range(count + 1)]
    return list(itertools.pairwise(edges))


def run(tasks: list[Task]) -> list[object]:
    """Results of all tasks, in their order; the first runs on the calling thread."""
    if len(tasks) == 1:
        return [tasks[0]()]
    others = len(tasks) - 1
    futures = [_pool(others).submit(task) for task in tasks[1:]]
    return [tasks[0](), *(future.result() for future in futures)]


def _pool(others: int) -> ThreadPoolExecutor:
    """Threads beside the calling one, kept."""
    if others not in _pools:
        _pools[others] = ThreadPoolExecutor(max_workers=others, thread_name_prefix="grahame")
    return _pools[others]


def together(*sums: Steps[Any], small: bool = False) -> list[Any]:
    """Results of all sums, in their order; a thread that has nothing to do in its own takes work of another.

    Args:
        small: they are not worth waking a thread for.

    Tasks and sums must not call `run` or `together` themselves: they may be on the thread that these would wait for.
    """
    count = available()
    if count == 1 or small:
        return [_alone(steps) for steps in sums]
    # The first stages are asked for here, and all others where the same number of threads is known.
    context = copy_context()
    context.run(_kept.set, count)
    running = context.run(_Running, sums)
    helpers = [_pool(count - 1).submit(context.copy().run, running.work, k) for k in range(1, count)]
    try:
        context.run(running.work, 0)
    except BaseException as error:  # an interrupt that comes between two tasks
        running.stop(error)
    if running.error is not None:
        # What the others write to is used again.
        wait(helpers)
        raise running.error
    return [one.result for one in running.sums]


def _alone(steps: Steps[Result]) -> Result:
    """The same on the calling thread."""
    while True:
        try:
            stage = next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
        for lane in stage:
            for task in lane:
                task()


class _Lane:
    """Tasks of one lane that wait, and its place in the stage."""

    def __init__(self, place: int, tasks: Lane) -> None:
        self.place, self.tasks = place, deque(tasks)


class _Sum:
    """How far one sum is."""

    def __init__(self, steps: Steps[Any]) -> None:
        self.steps = steps
        self.waiting: list[_Lane] = []  # lanes that no thread works on
        self.open = 0  # lanes of this stage that are not done
        self.result: Any = None

    def stage(self) -> list[_Lane]:
        """The next stage that has tasks, empty at the end."""
        try:
            while True:
                lanes = [lane for lane in map(_Lane, itertools.count(), next(self.steps)) if lane.tasks]
                if lanes:
                    return lanes
        except StopIteration as end:
            self.result = end.value
            return []

    def take(self, thread: int) -> _Lane:
        """The lane with most to do, so that all end at about the same time; of equal ones that which is the thread's own.

        Lanes of one place work on the same part of the memory in every stage: it lies in that processor's cache.
        """
        best = max(self.waiting, key=lambda lane: (len(lane.tasks), lane.place == thread, -lane.place))
        self.waiting.remove(best)
        return best


class _Running:
    """Sums that several threads work on until all are done."""

    def __init__(self, sums: tuple[Steps[Any], ...]) -> None:
        self.error: BaseException | None = None
        self.sums = [_Sum(steps) for steps in sums]
        self._left, self._asleep = len(sums), 0
        self._changed = Condition(Lock())
        for one in self.sums:
            self._open(one, one.stage())

    def work(self, thread: int) -> None:
        """Take tasks until none will come, as one of the threads 0, 1..."""
        while True:
            with self._changed:
                while not (choice := [s for s in self.sums if s.waiting]):
                    if self._left == 0 or self.error is not None:
                        return
                    self._asleep += 1
                    self._changed.wait()
                    self._asleep -= 1
                # Each on a sum of its own while there is work on it: what it wrote is in its cache, and nobody waits.
                own = self.sums[thread % len(self.sums)]
                mine = own if own in choice else choice[0]
                lane = mine.take(thread)
            try:
                lane.tasks.popleft()()
                with self._changed:
                    if self.error is not None:
                        return
                    if lane.tasks:
                        mine.waiting.append(lane)
                        continue
                    mine.open -= 1
                    if mine.open > 0:
                        continue
                # Its last lane has ended: nobody else touches this sum now.
                stage = mine.stage()
                with self._changed:
                    self._open(mine, stage)
            except BaseException as error:
                self.stop(error)

    def _open(self, one: _Sum, stage: list[_Lane]) -> None:
        if self.error is not None:
            return
        one.open = len(stage)
        one.waiting.extend(stage)
        self._left -= not stage
        if self._asleep:
            self._changed.notify_all()

    def stop(self, error: BaseException) -> None:
        """No more tasks; those that have begun come to their end."""
        with self._changed:
            self.error = self.error or error
            for one in self.sums:
                one.waiting.clear()
            self._changed.notify_all()


# Threads do not survive a fork: a child process starts its own.
os.register_at_fork(after_in_child=_pools.clear)
