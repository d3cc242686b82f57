"""A network that threads go through in parts: the same features, and the same slopes."""

import numpy as np
import pytest
import torch
from torch import Tensor

from grahame.hybrid.shortrange import parts
from grahame.hybrid.shortrange.base import Response
from grahame.hybrid.shortrange.equivariant import LocalNetwork
from grahame.hybrid.shortrange.learned import LearnedShortRange
from grahame.kernels.threads import kernels_only, torch_is_alone
from tests.hybrid.model_cells import make_model, water_box


def function(densities: Tensor, species: Tensor) -> tuple[Tensor, Tensor]:
    mixed = (densities * (1.0 + species[None, :, None])).sum(0)
    return mixed.sin(), (mixed * mixed)[:, None, :].expand(-1, 3, -1)


@pytest.mark.parametrize("most", [2, 100])
@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
def test_parts_have_the_values_and_slopes_of_the_whole(
    wanted: tuple[bool, bool], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_CHUNK", 3)
    monkeypatch.setattr(parts, "_MOST", most)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        densities = torch.randn(4, 11, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        species, leaves = torch.arange(11) % 3, [densities.clone().requires_grad_() for _ in range(2)]
        with kernels_only():
            found = parts.in_parts(function, leaves[0], species)
        whole = function(leaves[1], species)
        for one, two in zip(found, whole):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-14)
        totals = [sum((t**2).sum() for t, w in zip(both, wanted) if w) for both in (found, whole)]
        assert isinstance(totals[0], Tensor)
        assert isinstance(totals[1], Tensor)
        slopes = [torch.autograd.grad(t, x, retain_graph=True)[0] for t, x in zip(totals, leaves)]
        torch.testing.assert_close(*slopes, rtol=0, atol=1e-13)
        # Differentiated again, where nobody promised to stop at the first derivative.
        again = [torch.autograd.grad(t, x, create_graph=True)[0] for t, x in zip(totals, leaves)]
        second = [torch.autograd.grad(s.square().sum(), x)[0] for s, x in zip(again, leaves)]
        torch.testing.assert_close(*second, rtol=1e-13, atol=1e-12)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("layers", [1, 2])
def test_models_give_the_same_on_any_number_of_threads(layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_CHUNK", 3)
    divided: list[bool] = []
    real = parts._InParts.apply
    monkeypatch.setattr(
        parts._InParts, "apply", lambda *given: (divided.append(torch_is_alone()), real(*given))[1]
    )
    model, atoms = make_model(layers=layers), water_box()
    n, before, found = len(atoms), torch.get_num_threads(), []
    pull = np.random.default_rng(0).normal(size=n)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            short = LearnedShortRange(model)
            numbers = atoms.numbers.astype(np.int64)
            step = short.compute(atoms.positions, numbers, atoms.cell.array, (True, True, True), True)
            forces, virial = step.derivatives(Response(pull, np.zeros(n), np.zeros(n)))
            assert torch.get_num_threads() == threads
            found.append((step.energy, step.charges, forces, virial))
    finally:
        torch.set_num_threads(before)
    assert divided == ([True] if layers == 1 else [])
    for one, two in zip(*found):
        np.testing.assert_allclose(one, two, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("threads", [1, 2])
def test_translated_networks_of_one_layer_run_where_they_pay(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one thread alone; several divide the network as it is written."""
    monkeypatch.setattr(parts, "_CHUNK", 3)
    model, atoms, before = make_model(), water_box(), torch.get_num_threads()
    translated: list[int] = []

    def compile_features(network: LocalNetwork) -> None:
        def run(*given: Tensor) -> tuple[Tensor, Tensor]:
            translated.append(len(given[1]))
            return network._from_densities(*given)

        network._translated, network._of_densities = True, run

    monkeypatch.setattr(LocalNetwork, "compile_features", compile_features)
    try:
        torch.set_num_threads(threads)
        given = atoms.positions, atoms.numbers.astype(np.int64), atoms.cell.array, (True, True, True), False
        steps = [LearnedShortRange(model, compile=c).compute(*given) for c in (False, True)]
    finally:
        torch.set_num_threads(before)
    assert translated == ([len(atoms)] if threads == 1 else [])
    np.testing.assert_allclose(steps[0].charges, steps[1].charges, rtol=0, atol=1e-12)
