"""Arrays and tasks that are kept from geometry to geometry never show: results are those of a fresh operator."""

import copy
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from grahame.electrostatics import ConstantPotential, Coulomb, Electrode
from grahame.kernels import dispatch, neighbors

Floats = NDArray[np.float64]

N = 640
CELL = np.array([[14.0, 0.0, 0.0], [3.0, 13.0, 0.0], [1.0, 0.5, 30.0]])
PAIRS = np.stack([np.arange(0, 300, 3), np.arange(1, 301, 3)], axis=1)
SETTINGS = [
    ("slab", "gaussian"), ("3d", "gaussian"), ("3d", "point"), ("displacement", "gaussian"), ("finite-field", "gaussian"),
]  # fmt: skip


def system(seed: int, widths: bool = True) -> tuple[Floats, Floats, Floats | None]:
    """Neutral charges on a disturbed grid, many outside the cell, a third of them points."""
    rng = np.random.default_rng(seed)
    grid = (np.indices((8, 8, 10)).reshape(3, -1).T + rng.uniform(0.25, 0.75, (N, 3))) / [8, 8, 12]
    x = grid @ CELL + rng.integers(-1, 2, (N, 1)) * CELL[0]
    q = rng.normal(size=N)
    s = np.where(np.arange(N) % 3 == 0, 0.0, rng.uniform(0.3, 0.6, N)) if widths else None
    return x, q - q.mean(), s


def same(one: object, other: object, tolerance: float = 1e-11) -> None:
    for name in ("energy", "potential", "forces"):
        a, b = (np.asarray(getattr(r, name)) for r in (one, other))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, np.abs(b).max()), err_msg=name)


@pytest.mark.parametrize("excluded", [None, PAIRS])
@pytest.mark.parametrize(("boundary", "background"), SETTINGS)
def test_results_are_those_of_the_formulas(
    boundary: str, background: str, excluded: NDArray[np.int64] | None
) -> None:
    x, q, s = system(0)
    coulomb = Coulomb(boundary, "pme", 1e-4, background=background)
    found = coulomb(x, q, CELL, s, excluded)
    with dispatch.backend("torch"):
        same(found, coulomb(x, q, CELL, s, excluded), 1e-10)


def test_a_wide_slab_leaves_out_the_planes_of_its_vacuum() -> None:
    x, q, s = system(0)
    coulomb = Coulomb("slab", "pme", 1e-4, mesh=(24, 40, 72))
    with dispatch.backend("numba"):
        found = coulomb(x, q, CELL, s, PAIRS)
    assert 20 < len(coulomb._binder._step._mesh._all.untouched) < 72
    with dispatch.backend("torch"):
        same(found, coulomb(x, q, CELL, s, PAIRS), 1e-10)


@pytest.mark.parametrize("boundary", ["slab", "3d"])
def test_nothing_of_one_call_is_left_in_the_next(boundary: str) -> None:
    kept = Coulomb(boundary, "pme", 1e-4)
    stretched = CELL * [1.0, 1.0, 1.001]
    (x, q, s), (y, p, _) = system(0), system(1)
    calls = [
        (x, q, CELL, s, PAIRS), (x, q, CELL, s, PAIRS[:20]), (x, q, CELL, s, None), (y, q, CELL, s, None),
        (y, p, CELL, None, None), (x, p, stretched, None, PAIRS), (x[:600], p[:600] - p[:600].mean(), CELL, None, None),
        (x, q, CELL, s, PAIRS),
    ]  # fmt: skip
    before = torch.get_num_threads()
    try:
        for k, call in enumerate(calls):
            torch.set_num_threads(1 + k % 2)
            # Parameters of the first geometry serve the slightly stretched cell as well.
            fresh = Coulomb(boundary, "pme", 1e-4)
            fresh.load_state(kept.state())
            found = kept(*call)
            same(found, fresh(*call))
            torch.set_num_threads(2 - k % 2)
            same(found, kept(*call))
    finally:
        torch.set_num_threads(before)


def test_results_of_earlier_calls_stay() -> None:
    coulomb = Coulomb("slab", "pme", 1e-4)
    (x, q, s), (y, p, _) = system(0), system(1)
    first = coulomb(x, q, CELL, s)
    held = [np.array(v) for v in (first.potential, first.forces)]
    coulomb(y, p, CELL, s)
    np.testing.assert_array_equal(first.potential, held[0])
    np.testing.assert_array_equal(first.forces, held[1])


def test_a_solver_and_its_operator_are_used_in_turns() -> None:
    x, q, s = system(0)
    low, high = (np.argsort(x[:, 2])[part] for part in (slice(0, 40), slice(-40, None)))
    coulomb = Coulomb("slab", "pme", 1e-4)
    electrodes = [Electrode(low, potential=0.0), Electrode(high, potential=1.0)]
    solver = ConstantPotential(electrodes, coulomb, smearing=0.5)
    fresh = ConstantPotential(electrodes, Coulomb("slab", "pme", 1e-4), smearing=0.5)
    for shift in (0.0, 0.01, 0.02):
        moved = x + np.where(np.isin(np.arange(N), [*low, *high]), 0.0, shift)[:, None]
        found, wanted = (each.solve(moved, q, CELL, smearing=s) for each in (solver, fresh))
        # Both are iterated to the same residual, from the same charges.
        np.testing.assert_allclose(found.charges, wanted.charges, rtol=0, atol=1e-11)
        np.testing.assert_allclose(found.forces, wanted.forces, rtol=0, atol=1e-10)
        same(coulomb(moved, q, CELL, s), Coulomb("slab", "pme", 1e-4)(moved, q, CELL, s))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_copies_have_arrays_of_their_own(copied: object) -> None:
    assert callable(copied)
    coulomb = Coulomb("3d", "pme", 1e-4)
    (x, q, s), (y, p, _) = system(0), system(1)
    first = coulomb(x, q, CELL, s)
    other: Coulomb = copied(coulomb)
    same(other(x, q, CELL, s), first)
    same(other(y, p, CELL, s), coulomb(y, p, CELL, s))


def test_two_callers_at_once() -> None:
    coulomb = Coulomb("3d", "pme", 1e-4)
    systems = [system(seed, widths=False) for seed in (0, 1)]
    geometries = [coulomb.bind(torch.from_numpy(x), torch.from_numpy(CELL), torch.zeros(N, dtype=torch.float64), None)
                  for x, _, _ in systems]  # fmt: skip
    wanted = [g.first(torch.from_numpy(q), True) for g, (_, q, _) in zip(geometries, systems)]
    with ThreadPoolExecutor(2) as pool:
        turns = [k % 2 for k in range(40)]
        found = list(pool.map(lambda k: geometries[k].first(torch.from_numpy(systems[k][1]), True), turns))
    for k, one in zip(turns, found):
        np.testing.assert_allclose(one.potential, wanted[k].potential, rtol=0, atol=1e-11)
        np.testing.assert_allclose(one.gradient, wanted[k].gradient, rtol=0, atol=1e-11)


def test_old_lists_are_gone_when_new_ones_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both at once would take twice the memory."""
    coulomb = Coulomb("3d", "pme", 1e-4)
    x, q, s = system(0)
    find, seen = neighbors.half_rows, []
    with dispatch.backend("numba"):
        coulomb(x, q, CELL, s)
        old = weakref.ref(coulomb._binder._step._sums["all"])

        def found(*arguments: Any) -> Any:
            seen.append(old())
            return find(*arguments)

        monkeypatch.setattr(neighbors, "half_rows", found)
        assert old() is not None
        coulomb(x + 2.0, q, CELL, s)
    assert seen == [None]


def test_what_is_held_is_not_what_the_caller_gets() -> None:
    """A result that is written to changes no later solve."""
    x, q, s = system(0)
    low, high = (np.argsort(x[:, 2])[part] for part in (slice(0, 40), slice(-40, None)))
    electrodes = [Electrode(low, potential=0.0), Electrode(high, potential=1.0)]
    solver = ConstantPotential(electrodes, Coulomb("slab", "pme", 1e-4), smearing=0.5)
    found = solver.solve(x, q, CELL, smearing=s)
    found.potentials[:] = 7.0
    again = solver.solve(x, q, CELL, smearing=s)
    np.testing.assert_array_equal(again.potentials, [0.0, 1.0])
    np.testing.assert_allclose(again.charges, found.charges, rtol=0, atol=1e-8)
