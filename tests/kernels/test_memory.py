"""Memory that is used again."""

import ctypes
import gc
import os
import subprocess
import sys

import numpy as np
import pytest

from grahame.kernels import cpu_memory

LARGE = 1 << 16  # doubles


@pytest.fixture(autouse=True)
def _none_spare() -> None:
    cpu_memory._spare.clear()


def test_memory_is_used_again_once_no_view_of_it_is_left() -> None:
    first = cpu_memory.empty((LARGE, 2))
    place = first.ctypes.data
    part = first[5:, 1]
    del first
    gc.collect()
    other = cpu_memory.empty((LARGE, 2))
    assert other.ctypes.data != place
    part[:] = 3.0
    del part
    gc.collect()
    assert cpu_memory.empty((LARGE, 2)).ctypes.data == place


def test_arrays_are_writable_contiguous_and_begin_with_a_cache_line() -> None:
    for shape, kind in (((LARGE, 3), np.float64), (3 * LARGE, np.int32), ((0, 3), np.float64)):
        found = cpu_memory.empty(shape, kind)
        assert found.dtype == kind
        assert found.shape == (shape if isinstance(shape, tuple) else (shape,))
        assert found.flags.c_contiguous
        assert found.flags.writeable
        assert found.size == 0 or found.ctypes.data % 64 == 0


def test_no_more_than_a_few_blocks_are_kept_and_none_far_too_long() -> None:
    held = [cpu_memory.empty(LARGE + k) for k in range(20)]
    del held
    gc.collect()
    assert len(cpu_memory._spare) == cpu_memory._KEPT
    cpu_memory._spare.clear()
    long = cpu_memory.empty(10 * LARGE)
    place = long.ctypes.data
    del long
    gc.collect()
    assert cpu_memory.empty(LARGE).ctypes.data != place
    assert len(cpu_memory._spare) >= 1


def told(**environment: str) -> str:
    """What `keep_freed` says, twice, in a process of its own."""
    script = "from grahame.kernels.cpu_memory import keep_freed; print(keep_freed(), keep_freed())"
    clean = {k: v for k, v in os.environ.items() if k not in cpu_memory._CHOSEN}
    done = subprocess.run(
        [sys.executable, "-c", script], env=clean | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.skipif(
    not (sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")),
    reason="the allocator is not GNU's",
)
def test_the_allocator_is_told_to_keep_what_is_freed_unless_the_user_has_told_it() -> None:
    assert told() == "True True"
    assert told(MALLOC_TRIM_THRESHOLD_="131072") == "False False"
