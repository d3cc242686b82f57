"""Densities of the first layer by compiled kernels: the same model, its forces, and what it learns from them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from grahame.hybrid.frames import Batch
from grahame.hybrid.model import ChargeSpec, HybridModel, Prediction
from grahame.hybrid.shortrange import first_layer
from grahame.kernels.dispatch import backend
from tests.hybrid.model_cells import batch_of, frame, make_model, water_box


def systems(model: HybridModel) -> Batch:
    """A cell smaller than two cut-offs, another one, and a molecule without a cell."""
    box, other = water_box(), water_box(2)
    other.set_cell(1.2 * np.array(other.cell), scale_atoms=False)
    lone = water_box()[:3]
    lone.pbc, lone.cell = False, None
    return batch_of(model, frame(box), frame(other), frame(lone, boundary="open"))


def predicted(model: HybridModel, name: str, *, train: bool = False) -> tuple[Prediction, list[Tensor]]:
    """Energies, forces and stress by one kind of kernels, and the gradient of a loss of them by all weights."""
    with backend(name):
        batch = systems(model)
        assert first_layer.serves(batch.graph) == (name != "torch")
        found = model.predict(batch, forces=True, stress=True, train=train)
        assert found.forces is not None
        assert found.stress is not None
        if not train:
            return found, []
        pull = torch.linspace(-1.0, 1.0, found.forces.numel(), dtype=torch.float64).reshape_as(found.forces)
        loss = (found.forces - pull).square().sum() + found.stress[:2].square().sum() * 1e4
        weights = [p for p in model.parameters() if p.requires_grad]
        slopes = torch.autograd.grad(loss + found.energy.sum(), weights, materialize_grads=True)
        return found, list(slopes)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("charges", ["none", "transfer"])
def test_kernels_and_plain_formulas_make_the_same_model(layers: int, charges: str) -> None:
    model = make_model(layers=layers, charges=ChargeSpec(kind=charges))
    one, by_kernels = predicted(model, "auto", train=True)
    two, by_formulas = predicted(model, "torch", train=True)
    for name in ("energy", "forces", "charges"):
        torch.testing.assert_close(getattr(one, name), getattr(two, name), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(one.stress, two.stress, rtol=1e-9, atol=1e-12, equal_nan=True)
    for a, b in zip(by_kernels, by_formulas):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8 * float(b.abs().max()) + 1e-9)


def test_single_precision_differs_by_its_rounding() -> None:
    model = make_model(dtype="float32")
    one, two = predicted(model, "auto")[0], predicted(model, "torch")[0]
    assert one.forces is not None
    assert two.forces is not None
    assert float((one.forces - two.forces).abs().max()) < 1e-4 * float(two.forces.abs().max())


def test_second_derivatives_by_positions_are_refused() -> None:
    model = make_model(charges=ChargeSpec(kind="none"))
    batch = batch_of(model, frame(water_box()))
    for name in ("auto", "torch"):
        x = batch.graph.positions.clone().requires_grad_()
        with backend(name):
            graph = replace(batch.graph, positions=x)
            energy = model.local(graph, torch.tensor([0])).energy.sum()
            (slope,) = torch.autograd.grad(energy, x, create_graph=True)
            if name == "torch":
                torch.autograd.grad(slope[0, 0], x)
                continue
            with pytest.raises(RuntimeError) as caught:
                torch.autograd.grad(slope[0, 0], x)
    assert str(caught.value) == (
        "second derivatives by positions = of compiled densities must be left to the plain formulas: compute within "
        '`with grahame.kernels.dispatch.backend("torch")`'
    )
