"""Chunks of work on the threads that torch uses.

The compiled kernels release the interpreter's lock, so plain threads run them side by side. Every chunk
writes its own output, and outputs are added in the order of the chunks: results do not depend on which
thread ran first.
"""

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

_pools: dict[int, ThreadPoolExecutor] = {}


def chunks(n: int, smallest: int) -> list[tuple[int, int]]:
    """At most as many equal ranges of 0..n as torch has threads, none shorter than `smallest`."""
    count = max(1, min(torch.get_num_threads(), n // max(smallest, 1)))
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
