"""Every sum against loops in numpy, the compiled kernels against the formulas, and derivatives."""

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from grahame.kernels import cpu_fft, dispatch
from grahame.kernels.neighbors import neighbor_pairs
from tests.kernels import brute

ALPHA, CUTOFF, KCUT, MESH, ORDER = 0.55, 5.0, 4.5, (10, 9, 12), 6
BACKENDS = ["torch", "numba"]
SUMS = ["pairs", "exclusions", "waves", "mesh"]
Sum = Callable[..., Tensor]


def tensors(n: int, name: str = "tilted") -> list[Tensor]:
    return [torch.from_numpy(a) for a in brute.system(n, name)]


def bind(name: str, x: Tensor, cell: Tensor) -> Sum:
    """energy(positions, charges, cell, smearing) with lists that stay fixed; the waves ignore the widths."""
    pairs = neighbor_pairs(x.numpy(), cell.numpy(), (True, True, True), CUTOFF + 0.5)
    if name == "pairs":
        return lambda x, q, h, s: dispatch.pair_energy(
            x, q, h, s, pairs.i, pairs.j, pairs.shifts, ALPHA, CUTOFF
        )
    if name == "exclusions":
        return lambda x, q, h, s: dispatch.exclusion_energy(
            x, q, h, s, pairs.i[::7], pairs.j[::7], pairs.shifts[::7]
        )
    if name == "waves":
        waves = dispatch.half_space_kvectors(cell, KCUT)
        return lambda x, q, h, s: dispatch.ewald_energy(x, q, h, ALPHA, waves) + 0 * s.sum()
    return lambda x, q, h, s: dispatch.mesh_energy(x, q, h, ALPHA, MESH, ORDER) + 0 * s.sum()


def operator(name: str, x: Tensor, cell: Tensor, s: Tensor) -> Callable[[Tensor], Tensor]:
    pairs = neighbor_pairs(x.numpy(), cell.numpy(), (True, True, True), CUTOFF + 0.5)
    if name == "pairs":
        return dispatch.pair_operator(x, cell, s, pairs.i, pairs.j, pairs.shifts, ALPHA, CUTOFF)
    if name == "exclusions":
        return dispatch.exclusion_operator(x, cell, s, pairs.i[::7], pairs.j[::7], pairs.shifts[::7])
    if name == "waves":
        return dispatch.ewald_operator(x, cell, ALPHA, dispatch.half_space_kvectors(cell, KCUT))
    return dispatch.mesh_operator(x, cell, ALPHA, MESH, ORDER)


def first_derivatives(energy: Sum, inputs: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    leaves = [t.clone().requires_grad_() for t in inputs]
    value = energy(*leaves)
    return value.detach(), list(torch.autograd.grad(value, leaves))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", sorted(brute.CELLS))
@pytest.mark.parametrize("shift", [True, False])
def test_pair_energy_equals_the_loop_over_images(backend: str, name: str, shift: bool) -> None:
    x, q, h, s = tensors(6, name)
    pairs = neighbor_pairs(x.numpy(), h.numpy(), (True, True, True), CUTOFF + 1.0)
    wanted = brute.pair_energy(x.numpy(), q.numpy(), h.numpy(), s.numpy(), ALPHA, CUTOFF, shift)
    with dispatch.backend(backend):
        found = dispatch.pair_energy(x, q, h, s, pairs.i, pairs.j, pairs.shifts, ALPHA, CUTOFF, shift)
    assert float(found) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_exclusion_energy_of_points_and_gaussians_equals_the_formula(backend: str) -> None:
    x, q, h, s = tensors(5)
    i, j, shifts = np.array([0, 0, 1]), np.array([3, 1, 2]), np.array([[0, 0, 0], [1, 0, -1], [0, 2, 0]])
    wanted = 0.0
    for a, b, image in zip(i, j, shifts):
        r = float(np.linalg.norm((x[b] - x[a]).numpy() + image @ h.numpy()))
        # erf(g r)/r is what remains of [erfc(0) - erfc(g r)]/r.
        wanted -= float(q[a] * q[b]) * brute.kernel(r, float(s[a]), float(s[b]), 0.0)
    with dispatch.backend(backend):
        found = dispatch.exclusion_energy(x, q, h, s, i, j, shifts)
    assert float(found) == pytest.approx(wanted, abs=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", sorted(brute.CELLS))
def test_ewald_energy_equals_the_loop_over_waves(backend: str, name: str) -> None:
    x, q, h, _ = tensors(6, name)
    waves = dispatch.half_space_kvectors(h, KCUT)
    with dispatch.backend(backend):
        found = dispatch.ewald_energy(x, q, h, ALPHA, waves)
    assert float(found) == pytest.approx(
        brute.wave_energy(x.numpy(), q.numpy(), h.numpy(), ALPHA, KCUT), rel=1e-12
    )


def test_waves_come_once_per_pair_of_signs() -> None:
    cell = torch.from_numpy(brute.CELLS["left-handed"])
    m = dispatch.half_space_kvectors(cell, KCUT)
    both = {tuple(row) for row in torch.cat([m, -m]).tolist()}
    assert len(both) == 2 * len(m)
    assert (0, 0, 0) not in both
    g = 2 * np.pi * m.to(cell) @ torch.linalg.inv(cell).T
    assert float(torch.linalg.vector_norm(g, dim=1).max()) <= KCUT
    assert len(dispatch.half_space_kvectors(cell, 0.1)) == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", range(4, 11))
@pytest.mark.parametrize("name", ["tilted", "left-handed"])
def test_mesh_energy_converges_to_the_waves_with_the_order(backend: str, order: int, name: str) -> None:
    x, q, h, _ = tensors(6, name)
    wanted = float(dispatch.ewald_energy(x, q, h, ALPHA, dispatch.half_space_kvectors(h, 12 * ALPHA)))
    with dispatch.backend(backend):
        coarse, fine = (
            abs(float(dispatch.mesh_energy(x, q, h, ALPHA, (n, n + 1, n + 2), order)) / wanted - 1)
            for n in (16, 32)
        )
    assert fine < 2e-5 * 8.0 ** (4 - order)
    # The error falls at least with the power of the spacing that the order promises.
    assert fine < coarse * 0.5 ** (order - 1) or fine < 1e-13


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_mesh_smaller_than_the_spline_wraps_around(backend: str) -> None:
    x, q, h, _ = tensors(4)
    with dispatch.backend("torch"):
        wanted = dispatch.mesh_energy(x, q, h, ALPHA, (3, 4, 5), 8)
    with dispatch.backend(backend):
        found = dispatch.mesh_energy(x, q, h, ALPHA, (3, 4, 5), 8)
    assert float(found) == pytest.approx(float(wanted), rel=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_mesh_does_not_see_lattice_translations(backend: str) -> None:
    x, q, h, _ = tensors(6)
    with dispatch.backend(backend):
        one = dispatch.mesh_energy(x, q, h, ALPHA, MESH, 5)
        two = dispatch.mesh_energy(x + torch.tensor([2.0, -3.0, 1.0]).to(x) @ h, q, h, ALPHA, MESH, 5)
    assert float(one) == pytest.approx(float(two), rel=1e-11)


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("cell", ["tilted", "left-handed"])
def test_compiled_derivatives_equal_those_of_the_formula(name: str, cell: str) -> None:
    inputs = tensors(40 if name == "mesh" else 12, cell)
    energy = bind(name, inputs[0], inputs[2])
    with dispatch.backend("torch"):
        value, wanted = first_derivatives(energy, inputs)
    with dispatch.backend("numba"):
        compiled, found = first_derivatives(energy, inputs)
    assert float(compiled) == pytest.approx(float(value), abs=1e-11)
    for a, b in zip(wanted, found):
        assert torch.allclose(a, b, rtol=0, atol=1e-11 * float(1 + a.abs().max()))


@pytest.mark.parametrize("order", range(4, 11))
def test_compiled_mesh_forces_equal_those_of_the_formula_for_all_orders(order: int) -> None:
    x, q, h, _ = tensors(8)

    def energy(x: Tensor, q: Tensor, h: Tensor) -> Tensor:
        return dispatch.mesh_energy(x, q, h, ALPHA, (7, 12, 10), order)

    with dispatch.backend("torch"):
        value, wanted = first_derivatives(energy, [x, q, h])
    with dispatch.backend("numba"):
        compiled, found = first_derivatives(energy, [x, q, h])
    assert float(compiled) == pytest.approx(float(value), rel=1e-12)
    for a, b in zip(wanted, found):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("order", [5, 6])
def test_atoms_on_mesh_points_are_spread_where_they_are(order: int) -> None:
    # Rounding decides on which side of a mesh point such an atom lies, and may decide twice.
    mesh = (24, 24, 24)
    rng = np.random.default_rng(2)
    for _ in range(10):
        h = np.diag(rng.uniform(8.0, 12.0, 3)) + np.tril(rng.uniform(-2.0, 2.0, (3, 3)), -1)
        x = torch.from_numpy(rng.integers(-30, 60, (100, 3)) / 24.0 @ h)
        q, cell = torch.from_numpy(rng.normal(size=100)), torch.from_numpy(h)
        with dispatch.backend("torch"):
            wanted = float(dispatch.mesh_energy(x, q, cell, 0.5, mesh, order))
        with dispatch.backend("numba"):
            assert float(dispatch.mesh_energy(x, q, cell, 0.5, mesh, order)) == pytest.approx(
                wanted, rel=1e-13
            )


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (0, 1), (1, 3), (0, 2)])
def test_only_wanted_derivatives_are_returned_and_they_do_not_depend_on_the_others(
    wanted: tuple[int, ...],
) -> None:
    inputs = tensors(8)
    for name in ("pairs", "exclusions", "waves", "mesh"):
        energy = bind(name, inputs[0], inputs[2])
        _, every = first_derivatives(energy, inputs)
        some = [t.clone().requires_grad_(k in wanted) for k, t in enumerate(inputs)]
        found = torch.autograd.grad(energy(*some), [some[k] for k in wanted])
        for k, value in zip(wanted, found):
            assert torch.allclose(value, every[k], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", SUMS)
def test_first_and_second_derivatives_are_exact(backend: str, name: str) -> None:
    inputs = tensors(4)
    # Widths at zero are an edge of their domain: differences there would be one-sided.
    inputs[3] = inputs[3].clamp(min=0.3)
    energy = bind(name, inputs[0], inputs[2])
    leaves = [t.clone().requires_grad_() for t in inputs]
    with dispatch.backend(backend):
        assert gradcheck(energy, leaves, eps=1e-6, atol=1e-7)
        # Random projections of the second derivatives: all of them would take minutes.
        assert gradgradcheck(energy, leaves, eps=1e-6, atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("name", SUMS)
def test_second_derivatives_are_exact_when_positions_follow_the_cell(name: str) -> None:
    x, q, h, s = tensors(4)
    energy = bind(name, x, h)
    fractional = (x @ torch.linalg.inv(h)).requires_grad_()

    def strained(u: Tensor, cell: Tensor) -> Tensor:
        return energy(u @ cell, q, cell, s)

    with dispatch.backend("numba"):
        leaves = [fractional, h.clone().requires_grad_()]
        assert gradgradcheck(strained, leaves, eps=1e-6, atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", SUMS)
def test_bound_potentials_equal_the_derivative_of_the_energy(backend: str, name: str) -> None:
    inputs = tensors(9)
    x, q, h, s = inputs
    _, (_, wanted, _, _) = first_derivatives(bind(name, x, h), inputs)
    with dispatch.backend(backend):
        potential = operator(name, x, h, s)
        found, array = potential(q), potential(q.numpy())  # type: ignore[arg-type]
    assert isinstance(array, np.ndarray)
    assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-13)
    assert np.allclose(array, found.numpy(), rtol=1e-12, atol=1e-13)


def test_potentials_at_once_equal_bound_ones() -> None:
    x, q, h, s = tensors(6)
    pairs = neighbor_pairs(x.numpy(), h.numpy(), (True, True, True), CUTOFF)
    lists = (pairs.i, pairs.j, pairs.shifts)
    waves = dispatch.half_space_kvectors(h, KCUT)
    for found, bound in [
        (
            dispatch.pair_potential(x, q, h, s, *lists, ALPHA, CUTOFF),
            dispatch.pair_operator(x, h, s, *lists, ALPHA, CUTOFF),
        ),
        (dispatch.exclusion_potential(x, q, h, s, *lists), dispatch.exclusion_operator(x, h, s, *lists)),
        (dispatch.ewald_potential(x, q, h, ALPHA, waves), dispatch.ewald_operator(x, h, ALPHA, waves)),
        (dispatch.mesh_potential(x, q, h, ALPHA, MESH, 5), dispatch.mesh_operator(x, h, ALPHA, MESH, 5)),
    ]:
        assert torch.equal(found, bound(q))


@pytest.mark.parametrize("backend", BACKENDS)
def test_half_of_charges_times_potential_is_the_energy(backend: str) -> None:
    x, q, h, s = tensors(7)
    with dispatch.backend(backend):
        for name in SUMS:
            energy = bind(name, x, h)(x, q, h, s)
            assert float(0.5 * q @ operator(name, x, h, s)(q)) == pytest.approx(float(energy), rel=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_mesh_force_has_no_jump_where_atoms_cross_mesh_points(backend: str) -> None:
    x, q, h, _ = tensors(4)
    n, order = 10, 5
    # Put the first atom on a mesh point of every direction, then step across it.
    x[0] = torch.tensor([3.0, -2.0, 7.0]).to(x) / n @ h

    def force(step: float) -> Tensor:
        y = x.clone()
        y[0] += step
        y.requires_grad_()
        (g,) = torch.autograd.grad(dispatch.mesh_energy(y, q, h, ALPHA, (n, n, n), order), y)
        return g

    with dispatch.backend(backend):
        left, right, far = force(-1e-9), force(1e-9), force(1e-3)
    assert float((left - right).abs().max()) < 1e-8
    assert float((far - right).abs().max()) > 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_pair_force_goes_to_zero_at_the_cutoff(backend: str) -> None:
    h = torch.eye(3, dtype=torch.float64) * 40
    q = torch.ones(2, dtype=torch.float64)
    index = np.array([0]), np.array([1]), np.zeros((1, 3), dtype=np.int64)

    def value(r: float) -> tuple[float, float]:
        x = torch.tensor([[0.0, 0, 0], [r, 0, 0]], dtype=torch.float64, requires_grad=True)
        with dispatch.backend(backend):
            energy = dispatch.pair_energy(x, q, h, torch.zeros_like(q), *index, 0.3, CUTOFF)
        (g,) = torch.autograd.grad(energy, x)
        return float(energy.detach()), float(g[1, 0])

    inside, outside = value(CUTOFF - 1e-6), value(CUTOFF + 1e-6)
    assert outside == (0.0, 0.0)
    assert abs(inside[0]) < 1e-13
    assert 0 < abs(inside[1]) < 1e-6


def test_compiled_sums_repeat_to_the_last_bit() -> None:
    threads = torch.get_num_threads()
    rng = np.random.default_rng(1)
    h = torch.eye(3, dtype=torch.float64) * 22
    x, q = torch.from_numpy(rng.uniform(0, 22, (1200, 3))), torch.from_numpy(rng.normal(size=1200))
    s = torch.full_like(q, 0.3)
    inputs = [x, q, h, s]
    try:
        torch.set_num_threads(2)
        for name in SUMS:
            energy = bind(name, x, h)
            one, two = first_derivatives(energy, inputs), first_derivatives(energy, inputs)
            assert torch.equal(one[0], two[0])
            assert all(torch.equal(a, b) for a, b in zip(one[1], two[1]))
            torch.set_num_threads(1)
            alone = first_derivatives(energy, inputs)
            torch.set_num_threads(2)
            for a, b in zip(one[1], alone[1]):
                assert torch.allclose(a, b, rtol=1e-10, atol=1e-11)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("mesh", [(8, 9, 10), (7, 8, 15), (21, 4, 2)])
@pytest.mark.parametrize("library", ["ducc0", "scipy"])
def test_transforms_are_the_sums_they_stand_for(
    mesh: tuple[int, int, int], library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if library == "scipy":
        monkeypatch.setattr(cpu_fft, "ducc0", None)
    else:
        pytest.importorskip("ducc0", reason="ducc0 is not installed")
    values = np.random.default_rng(3).normal(size=mesh)
    phases = [np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n) for n in mesh]
    wanted = np.einsum("ai,bj,ck,ijk->abc", *phases, values)[..., : mesh[2] // 2 + 1]
    rows = np.full((*mesh[:2], mesh[2] // 2 * 2 + 4), np.nan)
    rows[..., : mesh[2]] = values
    # In two parts, as two threads would do it.
    planes, lines = ([(0, n // 2), (n // 2, n)] for n in mesh[:2])
    for part in planes:
        cpu_fft.along(*part, rows, mesh[2])
    for part in lines:
        cpu_fft.across(*part, rows, mesh[2], True)
    np.testing.assert_allclose(rows.view(np.complex128)[..., : mesh[2] // 2 + 1], wanted, atol=1e-12)
    for part in lines:
        cpu_fft.across(*part, rows, mesh[2], False)
    for part in planes:
        cpu_fft.back_along(*part, rows, mesh[2])
    np.testing.assert_allclose(rows[..., : mesh[2]] / values.size, values, atol=1e-13)


@pytest.mark.parametrize("mesh", [(8, 9, 10), (7, 8, 15), (3, 4, 5)])
@pytest.mark.parametrize("order", [5, 8])
def test_the_weights_of_waves_are_those_of_the_formula(mesh: tuple[int, int, int], order: int) -> None:
    from grahame.kernels import cpu_mesh
    from grahame.kernels import mesh as formulas

    cell = brute.CELLS["tilted"]
    wanted = formulas.influence(torch.from_numpy(cell), ALPHA, mesh, order).numpy()
    wanted[..., 1:] *= 0.5  # a wave off the plane m3 = 0 stands for ±G
    found = cpu_mesh._weights(cell.tobytes(), ALPHA, mesh, order)
    np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-15 * wanted.max())


@pytest.mark.parametrize("order", range(4, 11))
def test_splines_by_their_polynomials_equal_those_by_their_recursion(order: int) -> None:
    from grahame.kernels import mesh as formulas
    from grahame.kernels.cpu_splines import spline_kernels

    w = torch.linspace(0.0, 1.0, 7, dtype=torch.float64)[:-1]
    wanted = formulas.spline_values(w, order).numpy()[:, ::-1]
    below = formulas.spline_values(w, order - 1) if order > 4 else None
    values, slopes = spline_kernels(order).polynomials
    powers = (w.numpy()[:, None] - 0.5) ** np.arange(order)
    np.testing.assert_allclose(powers @ values, wanted, atol=1e-15)
    if below is not None:
        # M_p'(x) = M_{p-1}(x) - M_{p-1}(x - 1)
        padded = np.pad(below.numpy(), ((0, 0), (1, 1)))
        np.testing.assert_allclose(powers @ slopes, (padded[:, 1:] - padded[:, :-1])[:, ::-1], atol=1e-15)


def test_the_mesh_tables_of_a_fixed_cell_are_kept() -> None:
    from grahame.kernels import cpu_mesh

    x, q, h, _ = tensors(4)
    cpu_mesh._weights.cache_clear()
    for _ in range(3):
        dispatch.mesh_energy(x, q, h, ALPHA, MESH, 5)
    assert cpu_mesh._weights.cache_info().misses == 1
    dispatch.mesh_energy(x, q, h * 1.01, ALPHA, MESH, 5)
    assert cpu_mesh._weights.cache_info().misses == 2


def test_no_pairs_and_no_waves_give_zero_energy_and_zero_forces() -> None:
    x, q, h, s = tensors(3)
    none = np.zeros(0, dtype=np.int64)
    leaf = x.clone().requires_grad_()
    energy = dispatch.pair_energy(leaf, q, h, s, none, none, none.reshape(0, 3), ALPHA, CUTOFF)
    energy = energy + dispatch.ewald_energy(leaf, q, h, ALPHA, none.reshape(0, 3))
    assert float(energy.detach()) == 0.0
    assert torch.equal(torch.autograd.grad(energy, leaf)[0], torch.zeros_like(x))


def test_bad_choices_are_named() -> None:
    x, q, h, s = tensors(3)
    none = np.zeros(0, dtype=np.int64)
    message = "order = 3 must be between 4 and 10: choose 5 or 6 for forces"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        dispatch.mesh_energy(x, q, h, ALPHA, MESH, 3)
    message = "mesh = (4, 0, 4) points must be positive: give three numbers such as (32, 32, 32)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        dispatch.mesh_energy(x, q, h, ALPHA, (4, 0, 4), 5)
    message = "backend = 'fast' must be one of auto, torch, numba, triton: choose one of them"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"), dispatch.backend("fast"):
        pass
    message = (
        "backend = 'numba' must be given float64 tensors on the CPU, not torch.float32 on cpu: use 'auto'"
    )
    with dispatch.backend("numba"), pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        dispatch.pair_energy(
            x.float(), q.float(), h.float(), s.float(), none, none, none.reshape(0, 3), ALPHA, CUTOFF
        )
