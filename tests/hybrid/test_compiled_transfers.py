"""Charges that pairs exchange by compiled kernels in molecular dynamics: the same charges, forces, stress and crossing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from grahame.hybrid import compiled_transfers
from grahame.hybrid.model import ChargeSpec, HybridModel
from grahame.hybrid.shortrange.base import Response
from grahame.hybrid.shortrange.learned import LearnedShortRange
from grahame.kernels.dispatch import backend
from tests.hybrid.model_cells import batch_of, frame, make_model, water_box

ALL = (True, True, True)


def of_a_step(model: HybridModel, name: str, solved: list[int]) -> list[Any]:
    """Everything that a step of molecular dynamics takes from the model, by one kind of kernels."""
    atoms = water_box(2)
    rng = np.random.default_rng(0)
    n = len(atoms)
    with backend(name):
        short = LearnedShortRange(model)
        short.set_solved(np.array(solved, dtype=np.int64))
        found = short.compute(atoms.positions, atoms.numbers.astype(np.int64), atoms.cell.array, ALL, True)
        given = None if found.given is None else rng.normal(size=n)
        forces, virial = found.derivatives(
            Response(rng.normal(size=n), np.zeros(n), np.zeros(n), given=given)
        )
    return [found.energy, found.charges, forces, virial, found.crossing, found.given]


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("switch", [None, (1.5, 3.0)])
def test_steps_are_the_same_by_kernels_and_formulas(
    across: bool, switch: tuple[float, float] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = "smeared" if switch is None else "switched"
    charges = ChargeSpec(kind="transfer", boundary_transfer=across)
    model = make_model(charges=charges, switch=switch, double_counting=policy)
    calls: list[object] = []
    real = compiled_transfers.Transfers

    def noted(*arguments: Any) -> Any:
        calls.append(arguments[0])
        return real(*arguments)

    monkeypatch.setattr(compiled_transfers, "Transfers", noted)
    one, two = (of_a_step(model, name, [0, 1, 2, 7]) for name in ("auto", "torch"))
    assert len(calls) == 1
    assert float(np.abs(one[1]).max()) > 0.01
    for a, b in zip(one, two):
        if b is None:
            assert a is None
            continue
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_charges_still_add_up_exactly_in_single_precision() -> None:
    model = make_model(dtype="float32", charges=ChargeSpec(kind="transfer"))
    one, two = (of_a_step(model, name, []) for name in ("auto", "torch"))
    assert abs(one[1].sum()) < 1e-12
    np.testing.assert_allclose(one[1], two[1], rtol=0, atol=3e-6)
    np.testing.assert_allclose(one[2], two[2], rtol=0, atol=1e-4 * np.abs(two[2]).max())


def second(model: HybridModel, name: str) -> list[Tensor]:
    """Forces of charges along a direction, differentiated by positions and cell; weights are held."""
    with backend(name):
        graph = batch_of(model, frame(water_box())).graph
        leaves = [graph.positions.clone().requires_grad_(), graph.cells.clone().requires_grad_()]
        charges = model.local(replace(graph, positions=leaves[0], cells=leaves[1]), torch.tensor([0])).charges
        total = (charges * torch.linspace(-1.0, 1.0, len(charges), dtype=torch.float64)).sum()
        slopes = torch.autograd.grad(total, leaves, create_graph=True)
        along = sum((s * torch.linspace(-1.0, 2.0, s.numel()).reshape_as(s)).sum() for s in slopes)
        return list(torch.autograd.grad(along, leaves))


def test_second_derivatives_are_those_of_the_formula() -> None:
    model = make_model(charges=ChargeSpec(kind="transfer"))
    for weight in model.parameters():
        weight.requires_grad_(False)
    for one, two in zip(second(model, "auto"), second(model, "torch"), strict=True):
        assert float(two.abs().max()) > 1e-3
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-8 * float(two.abs().max()))


def test_weights_that_learn_are_left_to_the_formula() -> None:
    model = make_model(charges=ChargeSpec(kind="transfer"))
    graph = batch_of(model, frame(water_box())).graph
    charges = model.local(graph, torch.tensor([0])).charges
    head = model.charge_head
    assert head is not None
    slopes = torch.autograd.grad(charges.square().sum(), list(head.parameters()))
    assert all(float(s.abs().max()) > 0.0 for s in slopes)
