"""Densities of the first layer by compiled kernels: the same model, its forces, and what it learns from them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from grahame.hybrid.adapters.export import _Network, _traced, _Transfer
from grahame.hybrid.frames import Batch
from grahame.hybrid.heads import TransferCharges
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
    for a, b in zip(by_kernels, by_formulas, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8 * float(b.abs().max()) + 1e-9)


def test_single_precision_differs_by_its_rounding() -> None:
    model = make_model(dtype="float32")
    one, two = predicted(model, "auto")[0], predicted(model, "torch")[0]
    assert one.forces is not None
    assert two.forces is not None
    assert float((one.forces - two.forces).abs().max()) < 1e-4 * float(two.forces.abs().max())


def second(model: HybridModel, name: str) -> list[Tensor]:
    """Forces along a direction, differentiated by positions, cell and weights."""
    with backend(name):
        graph = batch_of(model, frame(water_box())).graph
        leaves = [graph.positions.clone().requires_grad_(), graph.cells.clone().requires_grad_()]
        graph = replace(graph, positions=leaves[0], cells=leaves[1])
        energy = model.local(graph, torch.tensor([0])).energy.sum()
        slopes = torch.autograd.grad(energy, leaves, create_graph=True)
        along = (slopes[0] * torch.linspace(-1.0, 2.0, slopes[0].numel()).reshape_as(slopes[0])).sum()
        along = along + slopes[1].square().sum()
        # As somebody writes it who does not think of what else has derivatives.
        along.backward()
    grads = [t.grad for t in (*leaves, *model.parameters()) if t.grad is not None]
    found = [g.clone() for g in grads]
    model.zero_grad()
    return found


@pytest.mark.parametrize("layers", [1, 2])
def test_second_derivatives_by_positions_are_those_of_the_formula(layers: int) -> None:
    model = make_model(layers=layers, charges=ChargeSpec(kind="none"))
    for one, two in zip(second(model, "auto"), second(model, "torch"), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-8 * float(two.abs().max()) + 1e-10)


def test_third_derivatives_are_refused() -> None:
    model = make_model(charges=ChargeSpec(kind="none"))
    graph = batch_of(model, frame(water_box())).graph
    x = graph.positions.clone().requires_grad_()
    energy = model.local(replace(graph, positions=x), torch.tensor([0])).energy.sum()
    (slope,) = torch.autograd.grad(energy, x, create_graph=True)
    with pytest.raises(RuntimeError) as caught:
        torch.autograd.grad(slope[0, 0], x, create_graph=True)
    assert str(caught.value) == (
        "third derivatives must be taken from the plain formulas: compute within "
        '`with grahame.kernels.dispatch.backend("torch")`'
    )


def test_a_network_of_its_own_for_charges_is_served_as_well() -> None:
    model = make_model(charges=ChargeSpec(kind="transfer", own_network=True))
    one, two = predicted(model, "auto")[0], predicted(model, "torch")[0]
    torch.testing.assert_close(one.charges, two.charges, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(one.forces, two.forces, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layers", [1, 2])
def test_densities_that_are_known_are_not_made_again(layers: int) -> None:
    model = make_model(layers=layers, charges=ChargeSpec(kind="none"))
    graph = batch_of(model, frame(water_box())).graph
    first = model.network.first(graph)
    assert first is not None
    wanted = model.network.of_vectors(graph.around.table.neighbors, graph.species, graph.vectors())
    torch.testing.assert_close(model.network(graph).scalars, wanted.scalars, rtol=1e-10, atol=1e-12)
    doubled = model.network(graph, 2.0 * first).scalars
    assert not torch.allclose(doubled, wanted.scalars, atol=1e-3)
    with backend("torch"):
        assert model.network.first(graph) is None
        torch.testing.assert_close(model.network(graph).scalars, wanted.scalars, rtol=0, atol=0)


def test_networks_and_transfers_that_are_traced_serve_other_numbers_of_atoms() -> None:
    model = make_model(charges=ChargeSpec(kind="transfer"))
    assert isinstance(model.charge_head, TransferCharges)
    graphs = [batch_of(model, frame(atoms)).graph for atoms in (water_box(), water_box()[:6])]
    network, transfer = _Network(model, 0), _Transfer(model.charge_head)
    inputs = []
    for g in graphs:
        first = g.vectors(), g.species, g.around.table.neighbors
        r = torch.linalg.vector_norm(g.pair_vectors(), dim=1)
        inputs.append((first, (network(*first)[1].detach(), g.species, g.pairs, r, g.solved)))
    for module, k in ((network, 0), (transfer, 1)):
        traced = _traced(module, *inputs[0][k])
        for one in inputs:
            torch.testing.assert_close(traced(*one[k]), module(*one[k]))
