"""The kernels for GPUs against the formulas; `test_gpu_kernels` runs this file, interpreted or on a GPU.

Triton decides when it is imported whether it interprets kernels, so the file needs a process of its own.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from grahame.electrostatics import Coulomb
from grahame.kernels import derivatives, dispatch, gpu, gpu_mesh, gpu_pairs, mesh, pairs, reference
from grahame.kernels.gpu_erfc import gauss_and_erfc
from grahame.kernels.neighbors import neighbor_pairs
from tests.kernels import brute

triton = pytest.importorskip("triton", reason="triton is not installed")
tl = pytest.importorskip("triton.language")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
ALPHA, CUTOFF, WRAP = 0.55, 5.0, (True, True, True)
MESH = (10, 9, 12)
# Relative to the largest number of an array. Single precision leaves 2e-6 Å to vectors between atoms at 30 Å.
CLOSE = {torch.float64: 2e-13, torch.float32: 2e-5}
WAYS = ["half list", "grouped"]


@triton.jit
def _erfc_kernel(t: tl.tensor, gauss: tl.tensor, erfc: tl.tensor, block: tl.constexpr) -> None:
    k = tl.program_id(0) * block + tl.arange(0, block)
    a, b = gauss_and_erfc(tl.load(t + k))
    tl.store(gauss + k, a)
    tl.store(erfc + k, b)


def tensors(n: int, dtype: torch.dtype = torch.float64, name: str = "tilted") -> list[Tensor]:
    return [torch.from_numpy(a).to(DEVICE, dtype) for a in brute.system(n, name)]


def half(x: Tensor, h: Tensor, cutoff: float = CUTOFF + 0.5) -> list[Tensor]:
    p = neighbor_pairs(x.double().cpu().numpy(), h.double().cpu().numpy(), WRAP, cutoff)
    return [torch.from_numpy(a).to(DEVICE) for a in (p.i, p.j, p.shifts)]


def sums(
    way: str, inputs: list[Tensor], lists: list[Tensor], alpha: float, cutoff: float, shift: bool
) -> gpu_pairs.PairDerivatives:
    every = (alpha, cutoff, shift, True, True, True)
    if way == "half list":
        return gpu_pairs.half_list(*inputs, *lists, *every)  # type: ignore[misc]
    return gpu_pairs.grouped(*inputs, gpu_pairs.group(len(inputs[0]), *lists), *every)  # type: ignore[misc]


def differentiated(energy: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    return [energy.detach(), *torch.autograd.grad(energy, leaves, materialize_grads=True)]


def leaves_of(inputs: list[Tensor]) -> list[Tensor]:
    """In float64, so that the truth is better than what is compared with it."""
    return [t.double().requires_grad_() for t in inputs]


def assert_close(found: list[Tensor | None], wanted: list[Tensor], tolerance: float) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert a is not None
        assert a.shape == b.shape
        # An energy may be a small difference of its terms, which are of 1 e²/Å.
        scale = max(1.0, abs(float(b))) if b.ndim == 0 else float(b.abs().max())
        assert float((a.detach().double() - b).abs().max()) <= tolerance * scale


@contextmanager
def launched_backwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The interpreter runs the last program first."""
    if not INTERPRETED:
        pytest.skip("a GPU orders its programs itself")
    from triton.runtime.interpreter import interpreter_builder as builder

    forward = type(builder).set_grid_idx
    with monkeypatch.context() as patch:
        patch.setattr(
            builder, "set_grid_idx", lambda x, y, z: forward(builder, builder.grid_dim[0] - 1 - x, y, z)
        )
        yield


# ---------------------------------------------------------------------- pairs


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-14), (torch.float32, 6e-7)])
def test_pairs_erfc_is_within_its_bound(dtype: torch.dtype, bound: float) -> None:
    near = torch.logspace(-9, 0, 512, dtype=torch.float64)
    t = torch.cat([torch.zeros(1), torch.linspace(0, 30, 2048 - 513), near]).to(DEVICE, dtype)
    gauss, erfc = torch.empty_like(t), torch.empty_like(t)
    _erfc_kernel[(2,)](t, gauss, erfc, 1024)
    assert float((erfc.double() - torch.special.erfc(t.double())).abs().max()) < bound
    assert float((gauss.double() - torch.exp(-(t.double() ** 2))).abs().max()) < bound
    # Where it is a small number it stays one to the same digits of t².
    some = t < 3
    exact = torch.special.erfc(t.double())[some]
    assert float((erfc.double()[some] / exact - 1).abs().max()) < 5 * bound


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("dtype", "name"), [(torch.float64, "tilted"), (torch.float32, "left-handed")])
def test_pairs_equal_the_sum_over_images(way: str, dtype: torch.dtype, name: str) -> None:
    inputs = tensors(20, dtype, name)
    x, q, h, s = leaves = leaves_of(inputs)
    i, j, shifts = reference.image_pairs(x, h, WRAP, CUTOFF)
    r = reference.pair_distances(x, h, i, j, shifts)
    energy = 0.5 * (q[i] * q[j] * reference.screened_kernel(r, s[i], s[j], ALPHA)).sum()
    d = sums(way, inputs, half(x.detach(), h.detach()), ALPHA, CUTOFF, False)
    found = [d.energy, d.positions, d.charges, d.cell, d.smearing]
    assert_close(found, differentiated(energy, leaves), CLOSE[dtype])
    assert d.energy.dtype == torch.float64
    assert d.charges.dtype == dtype


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("width", [0.0, 0.45])
def test_pairs_of_points_and_of_gaussians_equal_the_shifted_formula(way: str, width: float) -> None:
    inputs = tensors(12)
    inputs[3] = torch.full_like(inputs[3], width)
    lists = half(inputs[0], inputs[2])
    leaves = leaves_of(inputs)
    a, b, t = (v.long() for v in lists)
    energy = pairs.screened_energy(*leaves, a, b, t, ALPHA, CUTOFF, True)  # type: ignore[misc]
    d = sums(way, inputs, lists, ALPHA, CUTOFF, True)
    wanted = differentiated(energy, leaves)
    assert_close([d.energy, d.positions, d.charges, d.cell, d.smearing], wanted, CLOSE[torch.float64])
    assert (float(wanted[4].abs().max()) > 0) == (width > 0)


@pytest.mark.parametrize("way", WAYS)
def test_pairs_do_not_depend_on_the_cell_that_atoms_are_in(way: str) -> None:
    x, q, h, s = tensors(10)
    moved = x - torch.floor(x @ torch.linalg.inv(h)) @ h
    assert float((moved - x).abs().max()) > 5.0
    one = sums(way, [x, q, h, s], half(x, h), ALPHA, CUTOFF, True)
    two = sums(way, [moved, q, h, s], half(moved, h), ALPHA, CUTOFF, True)
    for a, b in [(one.energy, two.energy), (one.charges, two.charges), (one.positions, two.positions)]:
        assert a is not None
        assert b is not None
        assert torch.allclose(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("n", [0, 1, 3])
def test_pairs_of_an_empty_list_give_zeros(way: str, n: int) -> None:
    inputs = [t[:n] if k != 2 else t for k, t in enumerate(tensors(3))]
    none = [t[:0] for t in half(*[tensors(3)[k] for k in (0, 2)])]
    d = sums(way, inputs, none, ALPHA, CUTOFF, True)
    for value, shape in [(d.energy, ()), (d.charges, (n,)), (d.positions, (n, 3)), (d.cell, (3, 3))]:
        assert value is not None
        assert value.shape == shape
        assert not value.any()


@pytest.mark.parametrize("way", WAYS)
def test_pairs_of_one_atom_are_its_images(way: str) -> None:
    x, q, h, s = tensors(1)
    d = sums(way, [x, q, h, s], half(x, h, 9.0), ALPHA, 8.0, True)
    wanted = brute.pair_energy(*(t.cpu().numpy() for t in (x, q, h, s)), ALPHA, 8.0, True)
    assert float(d.energy) == pytest.approx(wanted, rel=1e-13)
    assert float(d.charges) == pytest.approx(2 * wanted / float(q), rel=1e-13)
    assert d.positions is not None
    assert float(d.positions.abs().max()) < 1e-14


@pytest.mark.parametrize("way", WAYS)
def test_pairs_beyond_the_cutoff_fill_a_list(way: str) -> None:
    inputs = tensors(4)
    lists = half(inputs[0], inputs[2])
    far = [lists[0].new_zeros(70), lists[1].new_zeros(70), lists[2].new_full((70, 3), 1000)]
    one = sums(way, inputs, lists, ALPHA, CUTOFF, True)
    two = sums(way, inputs, [torch.cat(p) for p in zip(lists, far)], ALPHA, CUTOFF, True)
    assert_close([two.energy, two.positions, two.cell], [one.energy, one.positions, one.cell], 1e-13)  # type: ignore[list-item]


def test_pairs_grouped_by_atom_repeat_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = tensors(12)
    lists = half(inputs[0], inputs[2])
    # Other names for the atoms: their programs run in another order.
    order = torch.from_numpy(np.random.default_rng(5).permutation(12)).to(DEVICE)
    names = torch.argsort(order)
    mixed = [t[order] if k != 2 else t for k, t in enumerate(inputs)]
    renamed = [names[lists[0].long()], names[lists[1].long()], lists[2]]
    one = sums("grouped", inputs, lists, ALPHA, CUTOFF, True)
    two = sums("grouped", mixed, renamed, ALPHA, CUTOFF, True)
    assert torch.equal(one.charges[order], two.charges)
    assert one.positions is not None
    assert two.positions is not None
    assert torch.equal(one.positions[order], two.positions)
    added = sums("half list", inputs, lists, ALPHA, CUTOFF, True)
    with launched_backwards(monkeypatch):
        three = sums("grouped", inputs, lists, ALPHA, CUTOFF, True)
        others = sums("half list", inputs, lists, ALPHA, CUTOFF, True)
    for name in ("energy", "charges", "positions", "cell", "smearing"):
        assert torch.equal(getattr(one, name), getattr(three, name))
    assert not torch.equal(added.charges, others.charges)
    assert torch.allclose(added.charges, others.charges, rtol=1e-12, atol=1e-13)


# ---------------------------------------------------------------------- mesh


@pytest.mark.parametrize("order", mesh.ORDERS)
def test_mesh_derivatives_equal_those_of_the_formula_for_all_orders(order: int) -> None:
    inputs = tensors(20)[:3]
    leaves = leaves_of(inputs)
    wanted = differentiated(mesh.wave_energy(*leaves, ALPHA, MESH, order), leaves)  # type: ignore[misc]
    d = gpu_mesh.mesh_sum(*inputs, ALPHA, MESH, order, True, True, True, False)  # type: ignore[misc]
    assert_close([d.energy, d.positions, d.charges, d.cell], wanted, CLOSE[torch.float64])


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("order", [5, 9])
def test_mesh_in_single_precision_equals_the_formula(order: int, deterministic: bool) -> None:
    inputs = tensors(20, torch.float32, "left-handed")[:3]
    leaves = leaves_of(inputs)
    wanted = differentiated(mesh.wave_energy(*leaves, ALPHA, MESH, order), leaves)  # type: ignore[misc]
    d = gpu_mesh.mesh_sum(*inputs, ALPHA, MESH, order, True, True, True, deterministic)  # type: ignore[misc]
    assert_close([d.energy, d.positions, d.charges, d.cell], wanted, CLOSE[torch.float32])
    assert d.energy.dtype == torch.float64


def test_mesh_converges_to_the_sum_over_waves() -> None:
    inputs = tensors(20)[:3]
    leaves = leaves_of(inputs)
    waves = reference.half_reciprocal_indices(leaves[2], 12 * ALPHA)
    wanted = differentiated(reference.reciprocal_energy(*leaves, ALPHA, waves), leaves)  # type: ignore[misc]
    d = gpu_mesh.mesh_sum(*inputs, ALPHA, (20, 20, 24), 8, True, True, True, True)  # type: ignore[misc]
    assert_close([d.energy, d.positions, d.charges, d.cell], wanted, 1e-6)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("size", [(3, 4, 5), (7, 1, 2)])
def test_mesh_smaller_than_the_spline_wraps_around(size: mesh.Mesh, deterministic: bool) -> None:
    x, q, h, _ = tensors(6)
    found = gpu_mesh.spread(x, q, h, size, 6, deterministic)
    assert torch.allclose(found, mesh.spread(x, q, h, size, 6), rtol=0, atol=1e-13)


def test_mesh_charges_as_integers_do_not_depend_on_the_order_of_atoms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, q, h, _ = tensors(24)
    order = torch.from_numpy(np.random.default_rng(5).permutation(24)).to(DEVICE)
    every = (ALPHA, MESH, 5, True, True, True)
    one = gpu_mesh.mesh_sum(x, q, h, *every, True)
    two = gpu_mesh.mesh_sum(x[order], q[order], h, *every, True)
    assert torch.equal(one.energy, two.energy)
    assert one.charges is not None
    assert two.charges is not None
    assert torch.equal(one.charges[order], two.charges)
    assert one.positions is not None
    assert two.positions is not None
    assert torch.equal(one.positions[order], two.positions)
    exact = gpu_mesh.spread(x, q, h, MESH, 5, True)
    added = gpu_mesh.spread(x, q, h, MESH, 5, False)
    with launched_backwards(monkeypatch):
        assert torch.equal(gpu_mesh.spread(x, q, h, MESH, 5, True), exact)
        assert not torch.equal(gpu_mesh.spread(x, q, h, MESH, 5, False), added)


@pytest.mark.parametrize("size", [0.0, 1e-12, 1.0, 3e7])
def test_mesh_charges_as_integers_cannot_overflow(size: float) -> None:
    x, q, h, _ = tensors(24)
    # All in one place: the largest sum that these charges can have.
    x, q = x[:1].expand(24, 3).contiguous(), torch.full_like(q, size)
    found = gpu_mesh.spread(x, q, h, MESH, 4, True)
    one = mesh.spread(x[:1], q[:1], h, MESH, 4)
    assert torch.allclose(found, 24 * one, rtol=0, atol=1e-13 * size)
    assert float(found.sum()) == pytest.approx(24 * size, rel=1e-12)


def test_mesh_of_no_atoms_and_of_one() -> None:
    x, q, h, _ = tensors(1)
    every = (ALPHA, MESH, 4, True, True, True)
    for deterministic in (False, True):
        d = gpu_mesh.mesh_sum(x[:0], q[:0], h, *every, deterministic)
        assert float(d.energy) == 0.0
        assert d.cell is not None
        assert not d.cell.any()
        assert d.positions is not None
        assert d.positions.shape == (0, 3)
        leaves = leaves_of([x, q, h])
        wanted = differentiated(mesh.wave_energy(*leaves, ALPHA, MESH, 4), leaves)  # type: ignore[misc]
        d = gpu_mesh.mesh_sum(x, q, h, *every, deterministic)
        assert_close([d.energy, d.charges, d.cell], [wanted[0], wanted[2], wanted[3]], 1e-12)


def test_mesh_of_too_many_points_is_refused() -> None:
    x, q, h, _ = tensors(1)
    message = (
        r"^mesh = \(2000, 2000, 2000\) points must be fewer than 2147483648 in all: choose a coarser mesh$"
    )
    with pytest.raises(ValueError, match=message):
        gpu_mesh.mesh_sum(x, q, h, ALPHA, (2000, 2000, 2000), 4, True, True, True, False)


# ---------------------------------------------------------------------- in the place of the formulas


SUMS = ["pairs", "exclusions", "waves"]


def bound(name: str, inputs: list[Tensor]) -> tuple[object, object]:
    """The energy of a sum as a function of its inputs, and its derivatives at once."""
    lists = half(inputs[0], inputs[2])
    if name == "pairs":
        some = (*lists, ALPHA, CUTOFF)
        return lambda *t: dispatch.pair_energy(*t, *some), lambda *t: derivatives.pair_derivatives(
            *t, *some, True
        )
    if name == "exclusions":
        few = [t[::7].contiguous() for t in lists]
        return lambda *t: dispatch.exclusion_energy(*t, *few), lambda *t: derivatives.exclusion_derivatives(
            *t, *few, True
        )
    some_mesh = (ALPHA, (8, 7, 9), 5)
    return (
        lambda *t: dispatch.mesh_energy(*t[:3], *some_mesh) + 0 * t[3].sum(),
        lambda *t: derivatives.mesh_derivatives(*t[:3], *some_mesh, True),
    )


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", SUMS)
def test_glue_gives_the_derivatives_of_the_formula(
    name: str, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = tensors(8)
    energy, derivatives = bound(name, inputs)
    leaves = leaves_of(inputs)
    with dispatch.backend("torch"):
        wanted = differentiated(energy(*leaves), leaves)  # type: ignore[operator]
    # `torch.use_deterministic_algorithms` imports torch's compiler, which takes longer than all tests here.
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: exact)
    with dispatch.backend("triton"):
        found = differentiated(energy(*leaves), leaves)  # type: ignore[operator]
        d = derivatives(*inputs)  # type: ignore[operator]
        value = energy(*inputs)  # type: ignore[operator]
    assert_close(found, wanted, 1e-12)  # type: ignore[arg-type]
    assert_close([d.energy, d.gradient, d.potential], wanted[:3], 1e-12)
    assert float(value.detach()) == pytest.approx(float(wanted[0]), rel=1e-12)


@pytest.mark.parametrize("name", ["pairs", "waves"])
def test_glue_has_exact_second_derivatives(name: str) -> None:
    inputs = tensors(3)
    inputs[3] = inputs[3].clamp(min=0.3)
    energy, _ = bound(name, inputs)
    leaves = [t.clone().requires_grad_() for t in inputs]
    with dispatch.backend("triton"):
        assert gradgradcheck(energy, leaves, eps=1e-6, atol=1e-6, fast_mode=True)


def test_glue_keeps_the_type_of_energies_with_a_graph() -> None:
    inputs = [t.requires_grad_() for t in tensors(6, torch.float32)]
    for name in SUMS:
        energy, derivatives = bound(name, [t.detach() for t in inputs])
        with dispatch.backend("triton"):
            value = energy(*inputs)  # type: ignore[operator]
            assert value.dtype == torch.float32
            assert torch.autograd.grad(value, inputs[0])[0].dtype == torch.float32
            # The second derivative is that of the formula, in single precision as well.
            (first,) = torch.autograd.grad(energy(*inputs), inputs[0], create_graph=True)  # type: ignore[operator]
            assert torch.autograd.grad((first**2).sum(), inputs[1])[0].dtype == torch.float32
            assert derivatives(*inputs).energy.dtype == torch.float64  # type: ignore[operator]


def test_glue_makes_the_full_list_of_a_half_list_once() -> None:
    x, _, h, _ = tensors(6)
    i, j, shifts = half(x, h)
    one = gpu._groups(6, i, j, shifts)
    assert gpu._groups(6, i, j, shifts) is one
    assert gpu._groups(6, i, j.clone(), shifts) is not one
    two = gpu._groups(6, i, j, shifts)
    j[0] = (j[0] + 1) % 6
    assert gpu._groups(6, i, j, shifts) is not two


class _Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects the operations for whose result, or the size of it, the host would wait."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount", "equal", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        self.found += [name] if name in self.NAMES or name.startswith("unique") else []
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("exact", [False, True])
def test_glue_never_waits_for_the_device(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = tensors(3)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: exact)
    steps = [bound(name, inputs)[1] for name in SUMS]
    with dispatch.backend("triton"):
        wanted = [step(*inputs) for step in steps]  # type: ignore[operator]
        if INTERPRETED:
            with _Waits() as waits:  # type: ignore[no-untyped-call]
                _ = [step(*inputs) for step in steps]  # type: ignore[operator]
            assert waits.found == []
            with _Waits() as waits:  # type: ignore[no-untyped-call]
                float(inputs[0].sum())
            assert waits.found == ["_local_scalar_dense"]
            return
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = [step(*inputs) for step in steps]  # type: ignore[operator]
        graph.replay()
    for a, b in zip(found, wanted):
        assert_close([a.energy, a.potential, a.gradient], [b.energy, b.potential, b.gradient], 1e-12)


def test_glue_binds_potentials_of_the_mesh() -> None:
    x, q, h, _ = tensors(8)
    with dispatch.backend("triton"):
        found = dispatch.mesh_operator(x, h, ALPHA, MESH, 5)(q)
    with dispatch.backend("torch"):
        wanted = dispatch.mesh_operator(x, h, ALPHA, MESH, 5)(q)
    assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("boundary", "method"), [("slab", "pme"), ("3d", "ewald")])
def test_glue_serves_the_coulomb_operator(boundary: str, method: str) -> None:
    x, q, h, s = tensors(10)
    h[2] = torch.tensor([0.0, 0.0, 9.0])
    fixed = {"mesh": (12, 12, 24), "order": 4} if method == "pme" else {}
    coulomb = Coulomb(boundary, method, 1e-3, cutoff=5.0, splitting=0.7, **fixed)  # type: ignore[arg-type]
    pair = np.array([[0, 1], [4, 9]])
    results = []
    for name in ("torch", "triton"):
        with dispatch.backend(name):
            plain = coulomb(x, q, h, s, pair)
            results.append((plain, coulomb(x, q, h, s, pair, stress=True)))
    (a, b), (c, d) = results
    for wanted, found in [(a, c), (b, d)]:
        for part in ("energy", "potential", "forces"):
            assert_close([getattr(found, part)], [getattr(wanted, part)], 1e-11)
    assert_close([d.stress], [b.stress], 1e-11)


def test_glue_refuses_other_types() -> None:
    x, q, h, _ = tensors(2)
    message = (
        "backend = 'triton' must be given float64 or float32 tensors on one GPU, not "
        f"torch.float32 on {x.device}, torch.float64 on {x.device}: use 'auto', or set TRITON_INTERPRET=1 "
        "before the start to interpret the kernels on the CPU"
    )
    with dispatch.backend("triton"), pytest.raises(ValueError) as caught:  # noqa: PT011
        dispatch.mesh_energy(x, q.float(), h, ALPHA, MESH, 4)
    assert str(caught.value) == message
