"""Neighbour pairs against trying every image."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grahame.kernels import cpu_pairs
from grahame.kernels.cpu_neighbors import half_rows
from grahame.kernels.neighbors import NeighborList, Pairs, neighbor_pairs
from tests.kernels import brute

ALL = (True, True, True)
NONE = (False, False, False)


def listed(pairs: Pairs) -> list[brute.Pair]:
    return [(int(i), int(j), *map(int, s)) for i, j, s in zip(pairs.i, pairs.j, pairs.shifts)]  # type: ignore[misc]


def check(x: brute.Floats, cell: brute.Floats, periodic: tuple[bool, bool, bool], cutoff: float) -> None:
    wanted = brute.all_pairs(x, cell, periodic, cutoff)
    full = listed(neighbor_pairs(x, cell, periodic, cutoff, half=False))
    half = listed(neighbor_pairs(x, cell, periodic, cutoff))
    assert full == sorted(wanted)
    # Pairs of one first atom stand together: it begins once.
    begins = [i for k, (i, *_) in enumerate(half) if k == 0 or half[k - 1][0] != i]
    assert len(begins) == len(set(begins))
    both = half + [(j, i, -a, -b, -c) for i, j, a, b, c in half]
    assert sorted(both) == sorted(wanted)


@pytest.mark.parametrize("name", sorted(brute.CELLS))
@pytest.mark.parametrize("periodic", [ALL, (True, True, False), (False, False, True), NONE])
@pytest.mark.parametrize("cutoff", [2.5, 9.0])
def test_pairs_equal_those_of_all_images(name: str, periodic: tuple[bool, bool, bool], cutoff: float) -> None:
    x, _, cell, _ = brute.system(7, name)
    check(x, cell, periodic, cutoff)


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 5),
    cutoff=st.floats(0.5, 4.0),
    periodic=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    spread=st.floats(0.0, 6.0),
)
@settings(max_examples=60, deadline=None)
def test_pairs_are_complete_in_any_cell(
    seed: int, n: int, cutoff: float, periodic: tuple[bool, bool, bool], spread: float
) -> None:
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.choice([-1.0, 1.0], 3) * rng.uniform(1.5, 5.0, 3)) + rng.uniform(-1.0, 1.0, (3, 3))
    if abs(np.linalg.det(cell)) < 2.0:
        cell = cell + 3.0 * np.eye(3)
    check(rng.normal(size=(n, 3)) * spread, cell, periodic, cutoff)


def test_vectors_of_directions_that_do_not_repeat_may_be_zero() -> None:
    x, _, cell, _ = brute.system(6, "hexagonal")
    flat = cell.copy()
    flat[2] = 0.0
    check(x, flat, (True, True, False), 7.0)
    check(x, np.zeros((3, 3)), NONE, 7.0)


def test_a_plane_of_atoms_takes_memory_for_its_atoms_only() -> None:
    x = np.random.default_rng(0).random((2000, 3)) * [50.0, 50.0, 0.0]
    x[1] = x[0] + [0.0, 5e-7, 0.0]
    pairs = neighbor_pairs(x, np.zeros((3, 3)), NONE, 1e-6)
    assert listed(pairs) in ([(0, 1, 0, 0, 0)], [(1, 0, 0, 0, 0)])


def test_one_atom_sees_its_own_images_once() -> None:
    pairs = neighbor_pairs(np.array([[9.0, -3.0, 0.5]]), np.eye(3) * 4.0, ALL, 4.5)
    assert sorted(listed(pairs)) == [(0, 0, 0, 0, 1), (0, 0, 0, 1, 0), (0, 0, 1, 0, 0)]


def test_no_atoms_and_no_images_give_no_pairs() -> None:
    assert len(neighbor_pairs(np.zeros((0, 3)), np.eye(3), ALL, 3.0).i) == 0
    assert neighbor_pairs(np.zeros((1, 3)), np.zeros((3, 3)), NONE, 3.0).shifts.shape == (0, 3)


def gas(n: int, cell: brute.Floats) -> brute.Floats:
    return np.random.default_rng(5).uniform(-1.5, 1.5, (n, 3)) @ cell


@pytest.mark.parametrize("name", sorted(brute.CELLS))
@pytest.mark.parametrize("periodic", [ALL, (True, True, False), NONE])
@pytest.mark.parametrize("cutoff", [1.0, 4.0])
def test_half_lists_of_many_atoms_are_half_of_vesins_full_lists(
    name: str, periodic: tuple[bool, bool, bool], cutoff: float
) -> None:
    cell = 3.0 * brute.CELLS[name]
    x = gas(400, cell)
    half = listed(neighbor_pairs(x, cell, periodic, cutoff))
    full = listed(neighbor_pairs(x, cell, periodic, cutoff, half=False))
    assert sorted(half + [(j, i, -a, -b, -c) for i, j, a, b, c in half]) == full


@pytest.mark.parametrize("half", [True, False])
def test_the_order_of_pairs_does_not_depend_on_threads(half: bool) -> None:
    cell = 5.0 * brute.CELLS["tilted"]
    x = gas(5000, cell)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(neighbor_pairs(x, cell, ALL, 3.0, half=half))
    finally:
        torch.set_num_threads(before)
    for name in ("i", "j", "shifts"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(found[1], name))


@pytest.mark.parametrize("lanes", [1, 2, 3, 7])
@pytest.mark.parametrize("least", [1, 20])
def test_lists_in_pieces_are_shared_equally(lanes: int, least: int) -> None:
    """Every pair once, in the order of the list, and in every lane as many, but for the rows at its ends."""
    cell = np.diag([9.0, 9.0, 60.0])
    x = gas(5000, cell)
    x[:, 2] = 60.0 * (x[:, 2] / 60.0 % 1.0) ** 2  # denser at one side
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        rows = half_rows(x, cell, ALL, 3.0)
    finally:
        torch.set_num_threads(before)
    assert len(rows.pieces) > 2
    shares = cpu_pairs._shared(rows.pieces, lanes, least)
    lengths = [sum(int(piece.start[b] - piece.start[a]) for piece, a, b in share) for share in shares]
    longest = max(int(np.diff(piece.start).max()) for piece in rows.pieces)
    assert sum(lengths) == rows.pairs
    assert max(lengths) - min(lengths) <= 2 * longest
    assert sum(map(len, shares)) >= least
    taken = [piece.j[piece.start[a] : piece.start[b]] for share in shares for piece, a, b in share]
    np.testing.assert_array_equal(np.concatenate(taken), rows.joined().j)


def test_lists_grow_where_atoms_crowd_together() -> None:
    cell = np.eye(3) * 40.0
    x = np.vstack([gas(20, cell), np.random.default_rng(1).normal(size=(150, 3))])
    check(x, cell, ALL, 1.0)


def test_flat_and_long_structures_are_searched_quickly() -> None:
    flat = gas(150, np.eye(3) * 12.0)
    flat[:, 2] = 0.0
    check(flat, np.zeros((3, 3)), NONE, 3.0)
    flat[:, 1] = 0.0
    check(flat, np.diag([0.0, 8.0, 0.0]), (False, True, False), 3.0)


def test_atoms_that_touch_are_found_also_when_they_came_together_while_the_list_was_kept() -> None:
    cell = np.eye(3) * 10.0
    x = np.array([[0.45, 0.0, 0.0], [5.0, 5.0, 5.0], [9.55, 0.0, 0.0]])
    neighbors = NeighborList(3.0, skin=1.0)
    neighbors.update(x, cell, ALL)
    assert neighbors.closest(x, cell) == (-1, -1, np.inf)
    near = x + np.array([[-0.44, 0.0, 0.0], [0.0, 0.0, 0.0], [0.44, 0.0, 0.0]])
    neighbors.update(near, cell, ALL)
    i, j, length = neighbors.closest(near, cell)
    assert neighbors.builds == 1
    assert {i, j} == {0, 2}
    assert length == pytest.approx(0.02, abs=1e-12)


def test_a_list_is_found_again_only_when_an_atom_has_moved_half_the_skin() -> None:
    x, _, cell, _ = brute.system(9, "cube")
    neighbors = NeighborList(2.5, skin=1.0)
    first = neighbors.update(x, cell, ALL)
    near = x.copy()
    near[4, 1] += 0.49
    assert neighbors.update(near, cell, ALL) is first
    assert neighbors.builds == 1
    near[4, 1] += 0.02
    assert neighbors.update(near, cell, ALL) is not first
    assert neighbors.builds == 2
    wanted = brute.all_pairs(near, cell, ALL, 3.5)
    assert len(neighbors.update(near, cell, ALL).i) == len(wanted) // 2


def test_a_list_is_found_again_when_cell_periodicity_or_number_of_atoms_change() -> None:
    x, _, cell, _ = brute.system(9, "cube")
    neighbors = NeighborList(2.5)
    neighbors.update(x, cell, ALL)
    neighbors.update(x, cell * 1.0001, ALL)
    neighbors.update(x, cell * 1.0001, (True, True, False))
    neighbors.update(x[:8], cell * 1.0001, (True, True, False))
    assert neighbors.builds == 4


def test_the_kept_list_never_misses_a_pair_within_the_cutoff() -> None:
    x, _, cell, _ = brute.system(8, "cube")
    rng = np.random.default_rng(0)
    neighbors = NeighborList(3.0, skin=0.8, half=False)
    for _ in range(25):
        x = x + rng.normal(scale=0.05, size=x.shape)
        kept = set(listed(neighbors.update(x, cell, ALL)))
        assert brute.all_pairs(x, cell, ALL, 3.0) <= kept
    assert 1 < neighbors.builds < 25


def test_a_restored_list_continues_exactly() -> None:
    x, _, cell, _ = brute.system(9, "tilted")
    one, two = NeighborList(3.0), NeighborList(3.0)
    one.update(x, cell, ALL)
    moved = x + 0.1
    two.load_state({key: np.array(value) for key, value in one.state().items()})
    assert listed(one.update(moved, cell, ALL)) == listed(two.update(moved, cell, ALL))
    assert two.builds == 1
    fresh = NeighborList(3.0)
    fresh.load_state(NeighborList(3.0).state())
    fresh.update(x, cell, ALL)
    assert fresh.builds == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cutoff": 0.0}, "cutoff = 0.0 Å must be positive and finite: give a length such as 6.0"),
        (
            {"positions": np.array([[0.0, np.nan, 0.0]])},
            "positions[0] = [ 0. nan  0.] Å must be finite: check the structure",
        ),
        (
            {"positions": np.array([[0.0, 1e9, 0.0]])},
            "positions[0] = [0.e+00 1.e+09 0.e+00] Å must lie within 1e+06 cells of the origin: "
            "wrap the atoms into the cell",
        ),
        (
            {"cell": np.diag([4.0, 4.0, 0.0])},
            "cell = [[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 0.0]] Å must have linearly independent "
            "vectors where it repeats: give the missing vectors or switch off their periodicity",
        ),
        (
            {"cell": np.full((3, 3), np.inf)},
            "cell = [[inf, inf, inf], [inf, inf, inf], [inf, inf, inf]] Å must be finite: check the structure",
        ),
    ],
)
def test_bad_input_is_named(change: dict[str, object], message: str) -> None:
    arguments = {"positions": np.zeros((1, 3)), "cell": np.eye(3) * 4, "periodic": ALL, "cutoff": 3.0}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        neighbor_pairs(**(arguments | change))  # type: ignore[arg-type]


def test_a_bad_list_is_named() -> None:
    message = "skin = -1.0 Å must be zero or positive: give a length such as 1.0"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        NeighborList(3.0, skin=-1.0)
    message = "cutoff = nan Å must be positive and finite: give a length such as 6.0"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        NeighborList(float("nan"))
