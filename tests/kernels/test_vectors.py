"""Vector registers against the same arithmetic in numpy."""

import numba
import numpy as np
import pytest

from grahame.kernels import vectors


@pytest.mark.parametrize("n", [4, 7, 8, 10])
def test_arithmetic_of_lanes_is_that_of_numbers(n: int) -> None:
    @numba.njit
    def combine(u: np.ndarray, v: np.ndarray, out: np.ndarray) -> float:
        a, b = vectors.load(u, 1, n), vectors.load(v, 2, n)
        vectors.store(out, 0, vectors.minus(a, b))
        vectors.store(out, n, vectors.axpy(2.5, a, b))
        vectors.store(out, 2 * n, vectors.fma(a, b, vectors.fill(-1.0, n)))
        vectors.store(out, 3 * n, vectors.with_last(a, 9.0))
        return vectors.dot(a, b)  # type: ignore[no-any-return]

    rng = np.random.default_rng(n)
    u, v, out = rng.normal(size=n + 1), rng.normal(size=n + 2), np.zeros((4, n))
    found = combine(u, v, out)
    a, b = u[1:], v[2:]
    np.testing.assert_allclose(out[:3], [a - b, 2.5 * a + b, a * b - 1.0], rtol=1e-14, atol=1e-15)
    assert out[3].tolist() == [*a[:-1], 9.0]
    assert found == pytest.approx(float(a @ b), rel=1e-13)


def test_chosen_lanes_are_kept_side_by_side_and_nothing_else_is_written() -> None:
    @numba.njit
    def choose(
        v: np.ndarray,
        limit: float,
        out: np.ndarray,
        index: np.ndarray,
        places: np.ndarray,
        all_of: np.ndarray,
    ) -> tuple[int, int]:
        mask = vectors.below(vectors.load(v, 0, 8), limit)
        vectors.keep(out, 1, vectors.load(v, 0, 8), mask)
        vectors.keep_index(index, 1, places, 2, mask)
        vectors.copy_index(all_of, 1, places, 2, 8)
        return vectors.count(mask), vectors.bits(mask)

    v = np.array([0.3, np.inf, 0.5, np.nan, 0.1, 0.7, 0.2, 0.49])
    out, index, whole = np.full(10, -1.0), np.full(10, -1, np.int32), np.full(10, -1, np.int32)
    places = np.arange(10, 20).astype(np.int32)
    found, number = choose(v, 0.5, out, index, places, whole)
    chosen = np.flatnonzero(v < 0.5)
    assert found == len(chosen)
    assert number == sum(1 << int(c) for c in chosen)
    assert out.tolist() == [-1.0, *v[chosen], *[-1.0] * (9 - found)]
    assert index.tolist() == [-1, *(12 + chosen), *[-1] * (9 - found)]
    assert whole.tolist() == [-1, *range(12, 20), -1]
