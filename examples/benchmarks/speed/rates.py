"""What this processor does at best on one thread: arithmetic, reading, copying, reading at random, exponentials.

Plain loops that do one thing each, timed in the process whose kernels are held against them.
"""

import math
import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import numba
import numpy as np
from numpy.typing import NDArray

from grahame.kernels import vectors

Floats = NDArray[np.float64]
CACHE = 2**14  # bytes of an array that stays in the first cache
_WIDTH = 8
_READS = 2**19  # random places
_SECONDS = 2e-3  # of one timing, at least
_STEPS = 4  # sizes of arrays are rounded to so many in every factor of two


def fastest(call: Callable[[], object], repeats: int = 7) -> float:
    """Seconds of the fastest of some calls."""
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
    return min(taken)


def _multiply_adds(width: int) -> Callable[[int, float], float]:
    """Twelve products with sums in every turn, none of which waits for another: 24 width flops."""

    @numba.njit(nogil=True, fastmath={"contract"})
    def chains(turns: int, number: float) -> float:
        x, y = vectors.fill(number, width), vectors.fill(1.0, width)
        # Each begins elsewhere: equal ones would be computed once.
        a, b, c = vectors.fill(0.1, width), vectors.fill(0.2, width), vectors.fill(0.3, width)
        d, e, f = vectors.fill(0.4, width), vectors.fill(0.5, width), vectors.fill(0.6, width)
        g, h, i = vectors.fill(0.7, width), vectors.fill(0.8, width), vectors.fill(0.9, width)
        j, k, l = vectors.fill(1.1, width), vectors.fill(1.2, width), vectors.fill(1.3, width)
        for _ in range(turns):
            a, b, c = vectors.fma(a, x, y), vectors.fma(b, x, y), vectors.fma(c, x, y)
            d, e, f = vectors.fma(d, x, y), vectors.fma(e, x, y), vectors.fma(f, x, y)
            g, h, i = vectors.fma(g, x, y), vectors.fma(h, x, y), vectors.fma(i, x, y)
            j, k, l = vectors.fma(j, x, y), vectors.fma(k, x, y), vectors.fma(l, x, y)
        first = vectors.fma(a, b, vectors.fma(c, d, vectors.fma(e, f, y)))
        second = vectors.fma(g, h, vectors.fma(i, j, vectors.fma(k, l, y)))
        return vectors.dot(first, second)  # type: ignore[no-any-return]

    compiled: Callable[[int, float], float] = chains
    return compiled


@numba.njit(nogil=True, fastmath={"contract"})
def _sum(array: Floats, turns: int) -> float:
    """Reads the array `turns` times; its length is a multiple of 64."""
    a = b = c = d = e = f = g = h = vectors.fill(0.0, _WIDTH)
    for _ in range(turns):
        for k in range(0, len(array), 8 * _WIDTH):
            a = vectors.axpy(1.0, vectors.load(array, k, _WIDTH), a)
            b = vectors.axpy(1.0, vectors.load(array, k + 8, _WIDTH), b)
            c = vectors.axpy(1.0, vectors.load(array, k + 16, _WIDTH), c)
            d = vectors.axpy(1.0, vectors.load(array, k + 24, _WIDTH), d)
            e = vectors.axpy(1.0, vectors.load(array, k + 32, _WIDTH), e)
            f = vectors.axpy(1.0, vectors.load(array, k + 40, _WIDTH), f)
            g = vectors.axpy(1.0, vectors.load(array, k + 48, _WIDTH), g)
            h = vectors.axpy(1.0, vectors.load(array, k + 56, _WIDTH), h)
    first, second = vectors.fma(a, b, vectors.fma(c, d, e)), vectors.fma(f, g, h)
    return vectors.dot(first, second)  # type: ignore[no-any-return]


@numba.njit(nogil=True, fastmath={"contract"})
def _copy(array: Floats, out: Floats, turns: int) -> None:
    """Copies the array `turns` times; its length is a multiple of 64."""
    for _ in range(turns):
        for k in range(0, len(array), _WIDTH):
            vectors.store(out, k, vectors.load(array, k, _WIDTH))


@numba.njit(nogil=True, fastmath={"contract"})
def _update(array: Floats, turns: int) -> None:
    """Reads and writes the array `turns` times; its length is a multiple of 64."""
    for _ in range(turns):
        for k in range(0, len(array), _WIDTH):
            old = vectors.load(array, k, _WIDTH)
            vectors.store(array, k, vectors.axpy(0.5, old, old))


@numba.njit(nogil=True, fastmath={"contract", "reassoc", "nsz"})
def _gather(array: Floats, places: NDArray[np.int32], turns: int) -> float:
    """Reads numbers at places that nothing tells in advance."""
    total = 0.0
    for _ in range(turns):
        for k in range(len(places)):
            total += array[places[k]]
    return total


@numba.njit(nogil=True, fastmath={"contract"})
def _exponentials(array: Floats, turns: int) -> float:
    total = 0.0
    for _ in range(turns):
        for k in range(len(array)):
            total += math.exp(array[k])
    return total


def _per_turn(call: Callable[[int], object]) -> float:
    """Seconds of one of the turns of a loop."""
    call(1)
    for turns in (2**k for k in range(24)):
        timed = partial(call, turns)
        if fastest(timed, 1) > _SECONDS:
            break
    return fastest(timed) / turns


def _rounded(size: int) -> int:
    """Few sizes, so that few are measured."""
    return round(2 ** (round(_STEPS * math.log2(max(size, CACHE))) / _STEPS))


def _numbers(size: int) -> Floats:
    """Ones, from a place in memory on that a load of eight of them does not have to be split."""
    count = max(64, size // 8 // 64 * 64)
    room = np.ones(count + 8)
    begin = -room.ctypes.data % 64 // 8
    return room[begin : begin + count]


@lru_cache
def flops() -> float:
    """Products and sums per second, with vectors of the better of two lengths."""
    best = 0.0
    for width in (4, 8):
        chains = _multiply_adds(width)
        best = max(best, 24 * width / _per_turn(lambda turns: chains(turns, 0.5)))  # noqa: B023
    return best


def reading(size: int) -> float:
    """Bytes per second of the sum over an array of `size` bytes, again and again."""
    return _reading(_rounded(size))


@lru_cache
def _reading(size: int) -> float:
    array = _numbers(size)
    return array.nbytes / _per_turn(lambda turns: _sum(array, turns))


def writing(size: int) -> float:
    """Bytes per second that are changed in an array of `size` bytes; a store to memory reads there first, too."""
    return _writing(_rounded(size))


@lru_cache
def _writing(size: int) -> float:
    array = _numbers(size)
    array[:] = 0.0
    return array.nbytes / _per_turn(lambda turns: _update(array, turns))


@lru_cache
def copying(size: int) -> float:
    """Bytes per second that a copy reads and writes, of arrays of `size` bytes together."""
    array = _numbers(size // 2)
    out = _numbers(size // 2)
    return 2 * array.nbytes / _per_turn(lambda turns: _copy(array, out, turns))


def gathering(size: int) -> float:
    """Numbers per second that are read in random order from an array of `size` bytes."""
    return _gathering(_rounded(size))


@lru_cache
def _gathering(size: int) -> float:
    array = _numbers(size)
    places = np.random.default_rng(0).integers(len(array), size=_READS).astype(np.int32)
    return len(places) / _per_turn(lambda turns: _gather(array, places, turns))


@lru_cache
def exponentials() -> float:
    """exp per second, of numbers that stay in the first cache."""
    array = np.linspace(-20.0, 0.0, 1000)
    return len(array) / _per_turn(lambda turns: _exponentials(array, turns))


def beyond_caches() -> int:
    """Bytes that no cache holds: twice the largest one, a quarter of a GB where that is not known."""
    found = [2**27]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        size = path.read_text().strip()
        if size.endswith("K"):
            found.append(1024 * int(size[:-1]))
    return 2 * max(found)


def all_rates(whole: int) -> dict[str, float]:
    """What is shown: GFlop/s, GB/s in both directions together, and ns; `whole` is how many bytes stand for memory."""
    return {
        "multiply_add_GFlops": flops() / 1e9,
        "copy_first_cache_GBs": copying(CACHE) / 1e9,
        "copy_1MB_GBs": copying(2**20) / 1e9,
        "copy_memory_GBs": copying(whole) / 1e9,
        "memory_MB": whole / 2**20,
        "read_first_cache_GBs": reading(CACHE) / 1e9,
        "read_memory_GBs": reading(whole) / 1e9,
        "random_read_1MB_ns": 1e9 / gathering(2**20),
        "random_read_memory_ns": 1e9 / gathering(whole),
        "exponential_ns": 1e9 / exponentials(),
    }
