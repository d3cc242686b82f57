"""Every compiled kernel against its counterpart in `reference`."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from examples.benchmarks.speed import calls
from grahame.kernels import (
    cpu_assembly,
    cpu_density,
    cpu_fft,
    cpu_lennard_jones,
    cpu_mesh,
    cpu_molecules,
    cpu_pairs,
    cpu_splines,
    cpu_symmetric,
    cpu_transfers,
    dispatch,
    neighbors,
    reference,
)
from grahame.kernels.cpu_neighbors import half_rows
from grahame.kernels.cpu_pair_matrix import PairMatrix
from grahame.kernels.pair_rows import full_rows
from grahame.kernels.threads import together
from tests.kernels import brute

ALPHA, CUTOFF, ORDER = 0.55, 5.0, 6
MESHES = [(10, 9, 12), (7, 8, 4)]
ALL = (True, True, True)
# What is compared in the tests below; parts of a sum are compared with the sum.
COUNTERPARTS = {
    "cpu_assembly.moments": "charge_moments",
    "cpu_assembly.assemble": "together_energy",
    "neighbors.all_below": "pair_distances",
    "cpu_pairs._move": "pair_energy",
    "cpu_pairs._chunk": "pair_energy",
    "cpu_pairs._collect": "pair_energy",
    "cpu_pairs._first_pairs": "first_pairs",
    "pair_rows._rows_with": "pairs_with",
    "cpu_neighbors._count_bins": "image_pairs",
    "cpu_neighbors.first_places": "image_pairs",
    "pair_rows._near_triples": "image_pairs",
    "cpu_neighbors._place": "image_pairs",
    "cpu_neighbors._search": "image_pairs",
    "cpu_neighbors._longer": "image_pairs",
    "neighbors._sorted": "sorted_pairs",
    "pair_rows.stable_order": "row_order",
    "neighbors._farthest_move": "farthest_move",
    "neighbors._shortest": "pair_distances",
    "cpu_pair_matrix._values": "screened_kernel",
    "cpu_pair_matrix._product": "pair_matrix",
    "cpu_splines._count_rows": "first_rows",
    "cpu_splines._place": "first_rows",
    "cpu_splines.spread": "spread_charges",
    "cpu_splines.potential": "gathered_potential",
    "cpu_splines.gradient": "gathered_potential",
    "cpu_fft.across": "transform",
    "cpu_fft.along": "transform",
    "cpu_fft.back_along": "transform",
    "cpu_mesh._weigh_lines": "mesh_energy",
    "cpu_mesh._fill_weights": "mesh_weights",
    "cpu_mesh._repeat_rows": "mesh_energy",
    "cpu_structure_factor._powers": "reciprocal_energy",
    "cpu_structure_factor._sum_waves": "reciprocal_energy",
    "cpu_structure_factor._sum_atoms": "reciprocal_energy",
    "cpu_symmetric._add_rows": "symmetric_product",
    "cpu_lennard_jones._pairs": "lennard_jones",
    "cpu_molecules.bond_sum": "bond_energy",
    "cpu_molecules.angle_sum": "angle_energy",
    "cpu_molecules.shake": "held_distances",
    "cpu_molecules.rattle": "held_momenta",
    "pair_rows._place_both": "rows_of_both",
    "cpu_density.density": "densities",
    "cpu_density.pull": "densities",
    "cpu_density.push": "densities",
    "cpu_transfers.gained": "transfers",
    "cpu_transfers.pull": "transfers",
    "neighbors.close_pairs": "pair_distances",
}
OTHERS = {f"cpu_splines.{part}" for part in ("spread", "potential", "gradient")} | {
    "cpu_fft.across",
    "cpu_fft.along",
    "cpu_fft.back_along",
    "cpu_density.density",
    "cpu_density.pull",
    "cpu_density.push",
    "cpu_transfers.gained",
    "cpu_transfers.pull",
}


def test_every_compiled_kernel_has_a_counterpart() -> None:
    assert set(COUNTERPARTS) == set(calls.kernels()) | OTHERS
    for name in COUNTERPARTS.values():
        assert callable(getattr(reference, name))


def tensors(n: int, name: str = "tilted") -> list[Tensor]:
    return [torch.from_numpy(a) for a in brute.system(n, name)]


def equal_with_derivatives(
    found: Callable[..., Tensor], wanted: Callable[..., Tensor], inputs: list[Tensor]
) -> None:
    """Values and first derivatives by everything; found by the compiled kernels."""
    leaves, others = ([t.clone().requires_grad_() for t in inputs] for _ in range(2))
    with dispatch.backend("numba"):
        one = found(*leaves)
    two = wanted(*others)
    torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-12)
    for a, b in zip(torch.autograd.grad(one, leaves), torch.autograd.grad(two, others)):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["tilted", "left-handed"])
def test_pairs(name: str) -> None:
    x, q, h, s = tensors(30, name)
    lists = neighbors.neighbor_pairs(x.numpy(), h.numpy(), ALL, CUTOFF + 1.0)
    i, j, shifts = (torch.from_numpy(v).long() for v in (lists.i, lists.j, lists.shifts))
    equal_with_derivatives(
        lambda x, q, h, s: dispatch.pair_energy(x, q, h, s, i, j, shifts, ALPHA, CUTOFF),
        lambda x, q, h, s: reference.pair_energy(x, q, h, s, i, j, shifts, ALPHA, CUTOFF),
        [x, q, h, s],
    )


def test_pairs_that_are_taken_away() -> None:
    x, q, h, s = tensors(12)
    i, j, shifts = (v[::5] for v in reference.image_pairs(x, h, ALL, 4.0))

    def bare(x: Tensor, q: Tensor, h: Tensor, s: Tensor) -> Tensor:
        r = reference.pair_distances(x, h, i, j, shifts)
        return -(q[i] * q[j] * reference.bare_kernel(r, s[i], s[j])).sum()

    equal_with_derivatives(
        lambda x, q, h, s: dispatch.exclusion_energy(x, q, h, s, i, j, shifts), bare, [x, q, h, s]
    )


def test_pairs_as_a_matrix() -> None:
    x, q, h, s = tensors(20)
    i, j, shifts = reference.image_pairs(x, h, ALL, CUTOFF)
    r = reference.pair_distances(x, h, i, j, shifts)
    kernel = reference.screened_kernel(r, s[i], s[j], ALPHA)
    wanted = reference.pair_matrix(len(q), i, j, kernel) @ q
    half = neighbors.neighbor_pairs(x.numpy(), h.numpy(), ALL, CUTOFF)
    some = (a.numpy() for a in (x, h, s))
    matrix = PairMatrix(*some, half.i, half.j, half.shifts, ALPHA, CUTOFF, False)
    np.testing.assert_allclose(matrix(q.numpy()), wanted.numpy(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("order", [5, 6])
def test_the_sum_on_a_mesh(mesh: tuple[int, int, int], order: int) -> None:
    equal_with_derivatives(
        lambda x, q, h: dispatch.mesh_energy(x, q, h, ALPHA, mesh, order),
        lambda x, q, h: reference.mesh_energy(x, q, h, ALPHA, mesh, order),
        tensors(9)[:3],
    )


@pytest.mark.parametrize("mesh", MESHES)
def test_charges_to_the_mesh_and_potentials_from_it(mesh: tuple[int, int, int]) -> None:
    x, q, h, _ = tensors(25)
    wanted = reference.spread_charges(x, q, h, mesh, ORDER).numpy()
    held = calls.recorded(
        lambda: cpu_mesh.MeshSum(x.numpy(), h.numpy(), ALPHA, mesh, ORDER)(q.numpy(), True, True, False)
    )
    # What goes into the transform are the charges, and what the gathering is given is the potential.
    rows = held["cpu_fft.along"].arguments[2]
    np.testing.assert_allclose(rows[..., : mesh[2]], wanted, rtol=1e-12, atol=1e-14)
    call = held["cpu_splines.gradient"]
    phi, potential, _, slopes = call.arguments[7:]
    leaf = x.clone().requires_grad_()
    on_mesh = torch.from_numpy(phi[..., : mesh[2]].copy())
    at_atoms = reference.gathered_potential(leaf, h, on_mesh, ORDER)
    (gradient,) = torch.autograd.grad((q * at_atoms).sum(), leaf)
    call.kernel(*call.arguments)
    np.testing.assert_allclose(potential, at_atoms.detach().numpy(), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(slopes, gradient.numpy(), rtol=1e-10, atol=1e-12)
    alone = cpu_mesh.MeshSum(x.numpy(), h.numpy(), ALPHA, mesh, ORDER)
    found = alone(q.numpy(), False, True, False).charges
    np.testing.assert_allclose(found, at_atoms.detach().numpy(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("mesh", MESHES)
def test_transforms(mesh: tuple[int, int, int]) -> None:
    values = np.random.default_rng(2).normal(size=mesh)
    rows = np.zeros((*mesh[:2], mesh[2] // 2 * 2 + 2))
    rows[..., : mesh[2]] = values
    wanted = reference.transform(torch.from_numpy(values))
    cpu_fft.along(0, mesh[0], rows, mesh[2])
    cpu_fft.across(0, mesh[1], rows, mesh[2], True)
    waves = rows.view(np.complex128)
    np.testing.assert_allclose(
        waves[..., : mesh[2] // 2 + 1], wanted.numpy()[..., : mesh[2] // 2 + 1], atol=1e-12
    )
    back = reference.transform(wanted, sign=1).real.numpy()
    cpu_fft.across(0, mesh[1], rows, mesh[2], False)
    cpu_fft.back_along(0, mesh[0], rows, mesh[2])
    np.testing.assert_allclose(rows[..., : mesh[2]], back, atol=1e-10)


@pytest.mark.parametrize("mesh", MESHES)
def test_weights_of_waves(mesh: tuple[int, int, int]) -> None:
    cell = brute.CELLS["tilted"]
    wanted = reference.mesh_weights(torch.from_numpy(cell), ALPHA, mesh, ORDER).numpy()
    found = cpu_mesh._weights(cell.tobytes(), ALPHA, mesh, ORDER)
    np.testing.assert_allclose(found, wanted[..., : mesh[2] // 2 + 1], rtol=1e-12, atol=1e-15 * wanted.max())


def test_waves() -> None:
    x, q, h, _ = tensors(12)
    m = reference.half_reciprocal_indices(h, 4.5)
    equal_with_derivatives(
        lambda x, q, h: dispatch.ewald_energy(x, q, h, ALPHA, m),
        lambda x, q, h: reference.reciprocal_energy(x, q, h, ALPHA, m),
        [x, q, h],
    )


def test_lists_of_pairs() -> None:
    x, _, h, _ = tensors(40)
    wanted = reference.sorted_pairs(*(v.numpy() for v in reference.image_pairs(x, h, ALL, CUTOFF)))
    full = neighbors.neighbor_pairs(x.numpy(), h.numpy(), ALL, CUTOFF, half=False)
    for found, right in zip((full.i, full.j, full.shifts), wanted):
        np.testing.assert_array_equal(found, right)
    rows = half_rows(x.numpy(), h.numpy(), ALL, CUTOFF)
    i, j, shifts = rows.triples()
    both = np.append(i, j), np.append(j, i), np.vstack([shifts, -shifts])
    for found, right in zip(reference.sorted_pairs(*both), wanted):
        np.testing.assert_array_equal(found, right)


def test_pairs_of_marked_atoms_and_rows_of_pairs() -> None:
    x, _, h, _ = tensors(40)
    rows = half_rows(x.numpy(), h.numpy(), ALL, CUTOFF)
    marked = np.arange(40) % 7 == 0
    for found, right in zip(rows.with_atoms(marked).triples(), reference.pairs_with(marked, *rows.triples())):
        np.testing.assert_array_equal(found, right)
    i, j, shifts = rows.triples()
    again = cpu_pairs.as_rows(40, i, j, shifts)
    np.testing.assert_array_equal(again.joined().start, reference.first_pairs(i, shifts))
    for found, right in zip(again.triples(), (i, j, shifts)):
        np.testing.assert_array_equal(found, right)
    none = cpu_pairs.as_rows(3, i[:0], j[:0], shifts[:0])
    np.testing.assert_array_equal(none.joined().start, reference.first_pairs(i[:0], shifts[:0]))


def test_atoms_by_the_rows_that_they_touch_first() -> None:
    x, _, h, _ = tensors(60)
    mesh = MESHES[0]
    row, order = reference.first_rows(x, h, mesh, ORDER)
    inverse = np.ascontiguousarray(np.linalg.inv(h.numpy()))
    found = cpu_splines.SortedAtoms(ORDER, x.numpy(), inverse, np.asarray(mesh))
    for sort in (found.sort, lambda: together(found.steps())):
        found.atoms[:] = -1
        sort()
        np.testing.assert_array_equal(found.atoms, order)
        planes = np.searchsorted(row[order] // mesh[1], np.arange(mesh[0] + 1))
        np.testing.assert_array_equal(found.start, planes)


def test_some_atoms_by_the_rows_that_they_touch_first() -> None:
    x, _, h, _ = tensors(60)
    mesh, some = MESHES[0], np.array([3, 7, 11, 8, 50, 2, 33], dtype=np.int32)
    row, order = reference.first_rows(x[some], h, mesh, ORDER)
    inverse = np.ascontiguousarray(np.linalg.inv(h.numpy()))
    found = cpu_splines.SortedAtoms(ORDER, x.numpy(), inverse, np.asarray(mesh), some)
    found.sort()
    np.testing.assert_array_equal(found.atoms, some[order])
    planes = np.searchsorted(row[order] // mesh[1], np.arange(mesh[0] + 1))
    np.testing.assert_array_equal(found.start, planes)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("n", [25, 12_000])
def test_charges_that_stay_are_kept_on_the_mesh(n: int, threads: int) -> None:
    """Of some atoms the charges change: every sum is that of all atoms, also after a move and other fixed charges."""
    rng, h = np.random.default_rng(n), brute.CELLS["tilted"]
    x, q = rng.uniform(-1.0, 2.0, (n, 3)) @ h, rng.normal(size=n)
    some = np.arange(3, n, 4).astype(np.int32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        given = q.copy()
        kept = cpu_mesh.MeshSum(x, h, ALPHA, MESHES[0], ORDER, given, some)
        for change in ("none", "some", "others", "places", "none"):
            if change == "some":
                given[some] *= -0.3
            if change == "others":
                given[4] += 0.2
            if change == "places":
                x += 0.3
                kept.moved()
            fresh = cpu_mesh.MeshSum(x, h, ALPHA, MESHES[0], ORDER)(given.copy(), True, True, True)
            for few in (True, False):
                (found,) = together(kept.steps(not few, True, not few, few))
                at = some if few else slice(None)
                assert found.energy == pytest.approx(fresh.energy, rel=1e-12)
                largest = np.abs(fresh.charges).max()
                np.testing.assert_allclose(found.charges[at], fresh.charges[at], rtol=0, atol=1e-12 * largest)
            for one, other in ((found.positions, fresh.positions), (found.cell, fresh.cell)):
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-11 * np.abs(other).max())
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2])
def test_planes_that_no_atom_touches(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two films in a tall cell, one through its boundary; then elsewhere: nothing is left where they were."""
    monkeypatch.setattr(cpu_mesh, "_POINTS", 0)
    rng, mesh = np.random.default_rng(3), (60, 9, 12)
    h = brute.CELLS["tilted"] * [[5.0], [1.0], [1.0]]
    low = np.arange(40) < 25
    u = rng.uniform(-1.0, 2.0, (40, 3))
    u[:, 0] = np.where(low, rng.uniform(-0.05, 0.05, 40), rng.uniform(0.5, 0.6, 40))
    x, q, some = u @ h, rng.normal(size=40), np.flatnonzero(low).astype(np.int32)
    kept = cpu_mesh.MeshSum(x, h, ALPHA, mesh, ORDER, q, some)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for move in (0.0, 0.3, -0.45):
            x += move * h[0]
            kept.moved()
            leaves = [torch.tensor(a, requires_grad=True) for a in (x, q)]
            wanted = reference.mesh_energy(*leaves, torch.from_numpy(h), ALPHA, mesh, ORDER)
            by_x, by_q = (g.numpy() for g in torch.autograd.grad(wanted, leaves))
            (few,) = together(kept.steps(False, True, few=True))
            np.testing.assert_allclose(few.charges[some], by_q[some], rtol=0, atol=1e-12 * np.abs(by_q).max())
            (found,) = together(kept.steps(True, True))
            assert 0 < len(kept._few.touched) < len(kept._all.touched) < mesh[0]
            assert found.energy == pytest.approx(float(wanted.detach()), rel=1e-12)
            np.testing.assert_allclose(found.charges, by_q, rtol=0, atol=1e-12 * np.abs(by_q).max())
            np.testing.assert_allclose(found.positions, by_x, rtol=0, atol=1e-11 * np.abs(by_x).max())
    finally:
        torch.set_num_threads(before)


def test_whether_all_pairs_are_below_a_length() -> None:
    x, _, h, _ = tensors(40)
    half = neighbors.neighbor_pairs(x.numpy(), h.numpy(), ALL, CUTOFF)
    i, j, shifts = (a.astype(np.int64) for a in (half.i, half.j, half.shifts))
    longest = float(reference.pair_distances(x, h, *(torch.from_numpy(a) for a in (i, j, shifts))).max())
    for factor, wanted in ((1 + 1e-12, True), (1 - 1e-12, False)):
        given = (np.stack([i, j], axis=1), shifts, x.numpy(), h.numpy(), np.eye(3))
        assert neighbors.all_below(factor * longest, *given) is wanted
    x[int(i[0])] = np.nan
    assert not neighbors.all_below(2 * longest, *given)


@pytest.mark.parametrize("kind", [cpu_assembly.UNIFORM, cpu_assembly.SLAB, cpu_assembly.POLAR])
def test_parts_and_what_atoms_feel_of_all_charges_together(kind: int) -> None:
    rng = np.random.default_rng(kind)
    n, k, own = 30, 14.4, 0.6
    x, q = rng.normal(size=(n, 3)), rng.normal(size=n)
    s = np.where(rng.random(n) < 0.5, rng.uniform(0.3, 0.6, n), 0.0)
    normal = np.array([0.6, 0.0, 0.8])
    origin = float((x @ normal).mean()) if kind == cpu_assembly.SLAB else 0.0
    half = rng.normal(size=(3, 3))
    form = half + half.T
    places = [torch.from_numpy(a).requires_grad_() for a in (x, q)]
    numbers = reference.charge_moments(
        kind, places[0], torch.from_numpy(s), places[1], torch.from_numpy(normal), origin
    )
    together_energy = reference.together_energy(
        numbers, torch.from_numpy(form), places[1], torch.from_numpy(s), own
    )
    pull, felt = (g.numpy() for g in torch.autograd.grad(together_energy, places, materialize_grads=True))
    m = cpu_assembly.moments(kind, x, s, q, normal, origin)
    np.testing.assert_allclose(m, numbers.detach().numpy(), rtol=1e-12, atol=1e-13)
    parts = rng.normal(size=(2, n)), rng.normal(size=(2, n, 3))
    atoms = np.array([4, 0, 29, 17], dtype=np.int32)
    for chosen in (np.arange(n, dtype=np.int32), atoms):
        potential, gradient = np.empty(len(chosen)), np.empty((len(chosen), 3))
        energy = cpu_assembly.assemble(
            chosen, kind, x, s, q, normal, origin, own, form @ m, k, parts[0][0], parts[0][1],
            parts[1][0], parts[1][1], potential, gradient,
        )  # fmt: skip
        np.testing.assert_allclose(
            potential, k * (parts[0][0] + parts[0][1] + felt)[chosen], rtol=1e-12, atol=1e-12
        )
        np.testing.assert_allclose(
            gradient, k * (parts[1][0] + parts[1][1] + pull)[chosen], rtol=1e-12, atol=1e-12
        )
        if len(chosen) == n:
            assert 0.5 * energy == pytest.approx(float(together_energy.detach()), rel=1e-12)


def test_the_shortest_pair() -> None:
    x, _, h, _ = tensors(40)
    half = neighbors.neighbor_pairs(x.numpy(), h.numpy(), ALL, CUTOFF)
    i, j, shifts = (torch.from_numpy(a).long() for a in (half.i, half.j, half.shifts))
    r = reference.pair_distances(x, h, i, j, shifts).numpy()
    place, length = neighbors._shortest(half.i, half.j, half.shifts, x.numpy(), h.numpy())
    assert place == r.argmin()
    assert length == pytest.approx(r.min(), rel=1e-14)
    assert neighbors._shortest(half.i[:0], half.j[:0], half.shifts[:0], x.numpy(), h.numpy()) == (-1, np.inf)


@pytest.mark.parametrize("n", [1, 2, 9, 16, 37, 2100])
@pytest.mark.parametrize("threads", [1, 2])
def test_products_with_symmetric_matrices(n: int, threads: int) -> None:
    rng = np.random.default_rng(n)
    upper, x = rng.normal(size=(n, n)), rng.normal(size=n)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = cpu_symmetric.product(upper, x)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(found, reference.symmetric_product(upper, x), rtol=0, atol=1e-12 * n)


def test_the_farthest_move() -> None:
    x = brute.system(20)[0]
    moved = x + np.random.default_rng(0).normal(size=x.shape)
    assert neighbors._farthest_move(moved, x) == pytest.approx(reference.farthest_move(moved, x), rel=1e-14)
    moved[3, 1] = np.nan
    assert np.isnan(neighbors._farthest_move(moved, x))
    assert np.isnan(reference.farthest_move(moved, x))


@pytest.mark.parametrize("name", ["tilted", "left-handed"])
def test_rows_of_both_atoms(name: str) -> None:
    x, _, h, _ = brute.system(9, name)
    # Larger than the cell: atoms have their own images as neighbours.
    half = neighbors.neighbor_pairs(x, h, ALL, 9.0)
    assert (half.i == half.j).any()
    rows = full_rows(9, half.i, half.j, half.shifts)
    wanted = reference.rows_of_both(9, half.i, half.j, half.shifts)
    for found, right in zip((rows.start, rows.j, rows.shifts), wanted):
        np.testing.assert_array_equal(found, right)
    none = full_rows(3, half.i[:0], half.j[:0], half.shifts[:0])
    np.testing.assert_array_equal(none.start, np.zeros(4))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("radial", "l_max"), [(8, 2), (3, 3), (1, 1), (2, 0)])
def test_densities_on_the_sphere(radial: int, l_max: int, dtype: str) -> None:
    n, kinds, rng = 14, 3, np.random.default_rng(5)
    x, _, h, _ = tensors(n)
    species = rng.integers(0, kinds, n)
    half = neighbors.neighbor_pairs(x.numpy(), h.numpy(), ALL, CUTOFF + 0.5)
    rows = full_rows(n, half.i, half.j, half.shifts)
    sums = cpu_density.Densities(rows, np.zeros(n, np.int64), species, kinds, CUTOFF, radial, l_max)
    cells = h.numpy()[None]

    def formula(x: Tensor, h: Tensor) -> Tensor:
        return reference.densities(x, h, torch.from_numpy(species), kinds, CUTOFF, radial, l_max)

    leaves = x.clone().requires_grad_(), h.clone().requires_grad_()
    wanted = formula(*leaves)
    found = np.empty(sums.shape, dtype)
    sums.density(x.numpy(), cells, found)
    close = {"rtol": 1e-11, "atol": 1e-12} if dtype == "float64" else {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(found, wanted.detach().numpy(), **close)
    slopes = rng.normal(size=sums.shape).astype(dtype)
    pulled = sums.pull(x.numpy(), cells, slopes)
    gradient = torch.autograd.grad((wanted * torch.from_numpy(slopes)).sum(), leaves)
    for one, two in zip((pulled[0], pulled[1][0]), gradient):
        np.testing.assert_allclose(one, two.numpy(), rtol=1e-10, atol=1e-11)
    moves, strains = rng.normal(size=(n, 3)), rng.normal(size=(1, 3, 3))
    change = torch.autograd.functional.jvp(
        formula, (x, h), (torch.from_numpy(moves), torch.from_numpy(strains[0]))
    )[1]
    sums.push(x.numpy(), cells, moves, strains, found)
    np.testing.assert_allclose(found, change.numpy(), **close)


def test_densities_do_not_depend_on_the_threads_and_know_their_frames(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu_density, "_CHUNK", 10)
    n, kinds, rng = 40, 2, np.random.default_rng(6)
    x, _, h, _ = brute.system(n // 2)
    both, cells = np.concatenate([x, 1.1 * x]), np.stack([h, 1.1 * h])
    species = np.tile(rng.integers(0, kinds, n // 2), 2)
    half = neighbors.neighbor_pairs(x, h, ALL, CUTOFF)
    i, j = (np.concatenate([v, v + n // 2]).astype(np.int32) for v in (half.i, half.j))
    rows = full_rows(n, i, j, np.concatenate([half.shifts, half.shifts]))
    frame = np.repeat([0, 1], n // 2)
    sums = cpu_density.Densities(rows, frame, species, kinds, CUTOFF, 4, 2)
    alone = replace(
        sums,
        rows=full_rows(n // 2, half.i, half.j, half.shifts),
        frame=frame[: n // 2],
        species=species[: n // 2],
    )
    slopes = rng.normal(size=sums.shape)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            out, pushed = np.empty(sums.shape), np.empty(sums.shape)
            sums.density(both, cells, out)
            sums.push(both, cells, both, cells, pushed)
            found.append((out, *sums.pull(both, cells, slopes), pushed))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0][0], found[1][0])
    for one, two in zip(found[0], found[1]):
        np.testing.assert_allclose(one, two, rtol=1e-12, atol=1e-11)
    for f, positions in enumerate((x, 1.1 * x)):
        mine = slice(f * n // 2, (f + 1) * n // 2)
        out = np.empty(alone.shape)
        alone.density(positions, cells[f : f + 1], out)
        np.testing.assert_array_equal(found[0][0][:, mine], out)
        gradient, strain = alone.pull(positions, cells[f : f + 1], np.ascontiguousarray(slopes[:, mine]))
        np.testing.assert_allclose(found[0][1][mine], gradient, rtol=1e-12, atol=1e-11)
        np.testing.assert_allclose(found[0][2][f], strain[0], rtol=1e-12, atol=1e-11)


def test_densities_of_atoms_without_neighbors_are_zero() -> None:
    x, cells = np.array([[0.0, 0.0, 0.0], [5.2, 0.0, 0.0], [50.0, 0.0, 0.0]]), np.zeros((1, 3, 3))
    # Listed, but beyond the cut-off; and not listed at all.
    pair = np.array([0], np.int32), np.array([1], np.int32), np.zeros((1, 3), np.int32)
    for n, rows in (
        (3, full_rows(3, *pair)),
        (0, full_rows(0, *(p[:0] for p in pair))),
    ):
        numbers = np.zeros(n, np.int64)
        sums = cpu_density.Densities(rows, numbers, numbers, 1, CUTOFF, 4, 2)
        out, pushed = np.ones(sums.shape), np.ones(sums.shape)
        sums.density(x[:n], cells, out)
        sums.push(x[:n], cells, x[:n], cells, pushed)
        gradient, by_cells = sums.pull(x[:n], cells, np.ones(sums.shape))
        for found in (out, pushed, gradient, by_cells):
            np.testing.assert_array_equal(found, np.zeros_like(found))


def test_densities_refuse_what_would_be_written_elsewhere() -> None:
    rows = full_rows(2, *(np.zeros(s, np.int32) for s in (0, 0, (0, 3))))
    frame = np.zeros(2, np.int64)
    with pytest.raises(ValueError, match="must") as caught:
        cpu_density.Densities(rows, frame, np.array([0, 2]), 2, CUTOFF, 4, 2)
    assert str(caught.value) == "species = 0 to 2 must lie in 0 to 1: number them so"
    with pytest.raises(ValueError, match="must") as caught:
        cpu_density.Densities(rows, frame, frame, 1, CUTOFF, 4, 4)
    assert str(caught.value) == "l_max, radial = 4, 4 must be 0 to 3 and at least 1: choose others"


@pytest.mark.parametrize(("radial", "terms"), [(8, 16), (3, 5), (1, 1)])
def test_transfers_of_pairs(radial: int, terms: int) -> None:
    """Values and derivatives; some atoms are solved, some pairs beyond the cut-off, and some of an atom and its image."""
    n, kinds, rng = 30, 3, np.random.default_rng(7)
    x, _, h, _ = tensors(n)
    x, h = 0.6 * x, 0.6 * h
    half = neighbors.neighbor_pairs(x.numpy(), h.numpy(), ALL, CUTOFF + 0.7)
    assert (half.i == half.j).any()
    i, j, shifts = (torch.from_numpy(a).long() for a in (half.i, half.j, half.shifts))
    species, solved = torch.from_numpy(rng.integers(0, kinds, n)), torch.arange(n) % 5 == 0
    table, weights = (
        rng.normal(size=(kinds, kinds, radial)),
        torch.from_numpy(rng.normal(size=(radial, terms))),
    )
    plain = torch.from_numpy((table - table.transpose(1, 0, 2)).reshape(-1, radial).copy())
    both = torch.from_numpy(rng.normal(size=(n, 2 * terms)))
    sums = cpu_transfers.Transfers(
        np.zeros(n, np.int64), species.numpy(), solved.numpy(), torch.stack([i, j], dim=1).numpy(),
        shifts.double().numpy(), CUTOFF, plain.numpy(), weights.numpy(),
    )  # fmt: skip
    leaves = [t.clone().requires_grad_() for t in (x, h, both)]
    wanted = reference.transfers(*leaves, i, j, shifts, species, solved, CUTOFF, plain, weights)
    arrays = x.numpy(), h.numpy()[None], both.numpy()
    np.testing.assert_allclose(sums.gained(*arrays), wanted.detach().numpy(), rtol=1e-11, atol=1e-12)
    slopes = torch.from_numpy(rng.normal(size=len(i)))
    expected = torch.autograd.grad(wanted @ slopes, leaves)
    pulled = sums.pull(*arrays, slopes.numpy())
    for found, right in zip((pulled[0], pulled[1][0], pulled[2]), expected):
        np.testing.assert_allclose(found, right.numpy(), rtol=1e-10, atol=1e-11)


def test_transfers_do_not_depend_on_the_threads_and_know_their_frames(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu_transfers, "_CHUNK", 50)
    n, rng = 40, np.random.default_rng(8)
    x, _, h, _ = brute.system(n // 2)
    twice, cells = np.concatenate([x, 1.1 * x]), np.stack([h, 1.1 * h])
    half = neighbors.neighbor_pairs(x, h, ALL, CUTOFF)
    pairs, images = np.stack([half.i, half.j], axis=1).astype(np.int64), half.shifts.astype(float)
    table, both = rng.normal(size=(2, 2, 4)), rng.normal(size=(n, 6))
    alone = cpu_transfers.Transfers(
        np.zeros(n // 2, np.int64), np.arange(n // 2) % 2, np.zeros(n // 2, bool), pairs, images, CUTOFF,
        (table - table.transpose(1, 0, 2)).reshape(-1, 4).copy(), rng.normal(size=(4, 3)),
    )  # fmt: skip
    sums = replace(
        alone, frame=np.repeat([0, 1], n // 2), species=np.tile(alone.species, 2), solved=np.zeros(n, bool),
        pairs=np.concatenate([pairs, pairs + n // 2]), images=np.concatenate([images, images]),
    )  # fmt: skip
    slopes = rng.normal(size=2 * len(pairs))
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append((sums.gained(twice, cells, both), *sums.pull(twice, cells, both, slopes)))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0][0], found[1][0])
    for one, two in zip(found[0], found[1]):
        np.testing.assert_allclose(one, two, rtol=1e-12, atol=1e-11)
    for f, positions in enumerate((x, 1.1 * x)):
        atoms, mine = slice(f * n // 2, (f + 1) * n // 2), slice(f * len(pairs), (f + 1) * len(pairs))
        given = positions, cells[f : f + 1], np.ascontiguousarray(both[atoms])
        np.testing.assert_allclose(found[0][0][mine], alone.gained(*given), rtol=1e-12, atol=1e-13)
        gradient, strain, by_both = alone.pull(*given, slopes[mine])
        np.testing.assert_allclose(found[0][1][atoms], gradient, rtol=1e-12, atol=1e-11)
        np.testing.assert_allclose(found[0][2][f], strain[0], rtol=1e-12, atol=1e-11)
        np.testing.assert_allclose(found[0][3][atoms], by_both, rtol=1e-12, atol=1e-11)


def test_pairs_closer_than_a_length() -> None:
    x, _, h, _ = tensors(40)
    half = neighbors.neighbor_pairs(x.numpy(), h.numpy(), ALL, CUTOFF)
    i, j, shifts = (torch.from_numpy(a).long() for a in (half.i, half.j, half.shifts))
    r = reference.pair_distances(x, h, i, j, shifts).numpy()
    lists = np.zeros(40, np.int64), torch.stack([i, j], dim=1).numpy(), shifts.double().numpy()
    for reach in (0.0, 2.5, 0.7 * CUTOFF, 2 * CUTOFF):
        found = neighbors.close_pairs(x.numpy(), h.numpy()[None], *lists, reach)
        np.testing.assert_array_equal(found, np.flatnonzero(r < reach))


@pytest.mark.parametrize("name", ["tilted", "left-handed"])
def test_lennard_jones(name: str) -> None:
    n, rng = 30, np.random.default_rng(4)
    x, _, h, _ = brute.system(n, name)
    types, begin = rng.integers(0, 2, n), 0.7 * CUTOFF
    c12, c6 = (a + a.T for a in rng.uniform(1.0, 2.0, size=(2, 2, 2)))
    polynomials = rng.normal(size=(3, 2))
    half = neighbors.neighbor_pairs(x, h, ALL, CUTOFF + 1.0)
    i, j, shifts = (a.astype(np.int64) for a in (half.i, half.j, half.shifts))
    rows = cpu_lennard_jones.sorted_rows(n, i, j, shifts)
    energy, forces, strain = cpu_lennard_jones.pair_sums(
        x, h, rows, types, c12, c6, CUTOFF, begin, polynomials, True
    )
    leaves = [torch.from_numpy(a).requires_grad_() for a in (x, h)]
    lists = [torch.from_numpy(a) for a in (i, j, shifts, types)]
    wanted = reference.lennard_jones(
        *leaves, *lists, *map(torch.from_numpy, (c12, c6)), CUTOFF, begin, torch.from_numpy(polynomials)
    )
    by_x, by_h = (g.numpy() for g in torch.autograd.grad(wanted, leaves))
    np.testing.assert_allclose(energy, wanted.item(), rtol=1e-12)
    np.testing.assert_allclose(forces, -by_x, rtol=1e-11, atol=1e-9)
    np.testing.assert_allclose(strain, x.T @ by_x + h.T @ by_h, rtol=1e-11, atol=1e-9)


def test_rows_of_lennard_jones_are_sorted() -> None:
    x, _, h, _ = brute.system(30)
    half = neighbors.neighbor_pairs(x, h, ALL, CUTOFF)
    i, j, shifts = (a.astype(np.int64) for a in (half.i, half.j, half.shifts))
    rows = cpu_lennard_jones.sorted_rows(30, i, j, shifts)
    first = np.repeat(np.arange(30), np.diff(rows.start))
    start, order = reference.row_order(30, first, rows.second, rows.image)
    np.testing.assert_array_equal(rows.start, start)
    np.testing.assert_array_equal(order, np.arange(len(i)))
    # The same pairs, some from the other end.
    both = [np.concatenate([a, b]) for a, b in ((i, j), (j, i), (shifts, -shifts))]
    wanted = {(a, b, *s) for a, b, s in zip(both[0], both[1], map(tuple, both[2]))}
    found = {(a, b, *rows.shifts[s].astype(int)) for a, b, s in zip(first, rows.second, rows.image)}
    assert found <= wanted
    assert len(found) == len(i)
    assert np.ptp(np.diff(start)) < 0.7 * np.diff(start).mean()


def molecules() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Places of eight triples of atoms, and the triples, whose atoms do not stand together."""
    rng = np.random.default_rng(5)
    triples = np.arange(24).reshape(3, 8).T.copy()
    return rng.normal(size=(24, 3)), triples


def test_bonds_and_angles() -> None:
    x, triples = molecules()
    k, rest = np.random.default_rng(6).uniform(1.0, 2.0, size=(2, 8))
    leaf = torch.from_numpy(x).requires_grad_()
    strain = torch.zeros((3, 3), dtype=torch.float64, requires_grad=True)
    u, v = ((leaf[triples[:, e]] - leaf[triples[:, 0]]) @ (torch.eye(3) + strain) for e in (1, 2))
    strengths = torch.from_numpy(k), torch.from_numpy(rest)
    for wanted, sum_of in (
        (reference.bond_energy(u, *strengths), "bonds"),
        (reference.angle_energy(u, v, *strengths), "angles"),
    ):
        forces, by_strain = np.zeros_like(x), np.zeros((3, 3))
        d, e = u.detach().numpy(), v.detach().numpy()
        if sum_of == "bonds":
            energy = cpu_molecules.bond_sum(d, triples[:, :2].copy(), k, rest, forces, by_strain)
        else:
            corners = triples[:, [1, 0, 2]].copy()
            energy = cpu_molecules.angle_sum(d, e, corners, k, rest, forces, by_strain)
        by_x, strained = torch.autograd.grad(wanted, (leaf, strain), retain_graph=True)
        np.testing.assert_allclose(energy, wanted.item(), rtol=1e-12)
        np.testing.assert_allclose(forces, -by_x.numpy(), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(by_strain, strained.numpy(), rtol=1e-10, atol=1e-12)


def vectors_of(x: NDArray[np.float64], triples: NDArray[np.int64]) -> NDArray[np.float64]:
    first, second, third = (x[triples[:, k]] for k in range(3))
    return np.stack([second - first, third - first, third - second], axis=1)


def test_rigid_triples() -> None:
    x, triples = molecules()
    rng = np.random.default_rng(7)
    masses, momenta = rng.uniform(1.0, 16.0, 24), rng.normal(size=(24, 3))
    old = vectors_of(x, triples)
    lengths, new = np.linalg.norm(old, axis=2), x + 0.03 * rng.normal(size=x.shape)
    found, slowed = new.copy(), momenta.copy()
    assert (
        cpu_molecules.shake(found, triples, old, vectors_of(new, triples), lengths, masses, 1e-14, 50) == -1
    )
    cpu_molecules.rattle(slowed, triples, old, masses)
    for t, kept in zip(triples, lengths):
        wanted = reference.held_distances(new[t], x[t], kept, masses[t])
        np.testing.assert_allclose(found[t], wanted, rtol=0, atol=1e-12)
        np.testing.assert_allclose(
            slowed[t], reference.held_momenta(momenta[t], x[t], masses[t]), rtol=0, atol=1e-11
        )
    np.testing.assert_allclose(np.linalg.norm(vectors_of(found, triples), axis=2), lengths, rtol=1e-12)
