"""Chunks of work on the threads that torch uses.

The compiled kernels release the interpreter's lock, so plain threads run them side by side. Every chunk
writes its own output, and outputs are added in the order of the chunks: results do not depend on which
thread ran first.

Torch's own operations are small beside the kernels, and its threads keep spinning after each of them, on
the cores that the kernels want next: `kernels_only` keeps them on the calling thread.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar

import torch

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
    try:
        yield
    finally:
        torch.set_num_threads(count)
        _kept.reset(token)


def chunks(n: int, smallest: int) -> list[tuple[int, int]]:
    """At most as many equal ranges of 0..n as there are threads, none shorter than `smallest`."""
    count = max(1, min(available(), n // max(smallest, 1)))
    edges = [n * c // count for c in range(count + 1)]
    return list(itertools.pairwise(edges))


def run(tasks: list[Callable[[], object]]) -> list[object]:
    """Results of all tasks, in their order; the first runs on the calling thread."""
    if len(tasks) == 1:
        return [tasks[0]()]
    others = len(tasks) - 1
    if others not in _pools:
        _pools[others] = ThreadPoolExecutor(max_workers=others, thread_name_prefix="grahame")
    futures = [_pools[others].submit(task) for task in tasks[1:]]
    return [tasks[0](), *(future.result() for future in futures)]


# Threads do not survive a fork: a child process starts its own.
os.register_at_fork(after_in_child=_pools.clear)
