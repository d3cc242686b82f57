"""Losses of labels that may be missing, stages, learning rates, averages."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor, nn

from grahame.hybrid.frames import Batch, Frame, make_batch
from grahame.hybrid.model import ChargeSpec, HybridModel, ModelSpec
from grahame.hybrid.reading import Reading, make_frame
from grahame.hybrid.shortrange.equivariant import Architecture
from grahame.hybrid.training.config import LossConfig, OptimiserConfig, StageTwoConfig
from grahame.hybrid.training.ema import Average
from grahame.hybrid.training.loss import error_sums, label_counts, loss
from grahame.hybrid.training.metrics import ErrorTable
from grahame.hybrid.training.predicting import predict
from grahame.hybrid.training.schedule import Plateau, in_stage_two, learning_rate, loss_weights
from tests.hybrid.model_cells import batch_of, frame, make_model, water_box
from tests.hybrid.training.tiny import frames

NAMES = ["energy", "forces", "charges"]
KEYS = {"energy": "REF_energy", "forces": "REF_forces", "charges": "REF_charges"}


def read(count: int, keys: dict[str, str] = KEYS, level: str = "default") -> list[Frame]:
    return [make_frame(a, Reading(keys=keys, level=level)) for a in frames(count)]


def tiny_model(levels: tuple[str, ...] = ("default",)) -> HybridModel:
    torch.manual_seed(0)
    sizes = Architecture(cutoff=3.0, channels=3, l_max=1, radial=3, hidden=4)
    return HybridModel(
        ModelSpec(
            elements=("H", "O"), architecture=sizes, dtype="float64", levels=levels, charges=ChargeSpec()
        )
    )


def total(model: HybridModel, batch: Batch, weights: list[float]) -> Tensor:
    found = predict(model, batch, NAMES, train=True)
    return loss(error_sums(found, batch, NAMES), label_counts(batch, NAMES), weights)


def gradient(model: HybridModel, value: Tensor) -> list[Tensor]:
    weights = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, weights)]


def test_a_missing_label_counts_nowhere() -> None:
    model = tiny_model()
    both = make_batch([*read(2), *read(2, {"forces": "REF_forces"})], ["H", "O"], 3.0)
    assert label_counts(both, NAMES) == [2.0, 54.0, 9.0]
    found = predict(model, both, NAMES, train=True)
    alone = make_batch(read(2), ["H", "O"], 3.0)
    first = predict(model, alone, NAMES, train=True)
    for k in (0, 2):
        torch.testing.assert_close(error_sums(found, both, NAMES)[k], error_sums(first, alone, NAMES)[k])
    assert all(torch.isfinite(g).all() for g in gradient(model, total(model, both, [1.0, 1.0, 1.0])))


def test_energies_count_per_atom() -> None:
    batch = make_batch(read(3), ["H", "O"], 3.0)
    predictions = {"energy": batch.labels["energy"] + batch.atoms * 0.5}
    assert error_sums(predictions, batch, ["energy"])[0].item() == pytest.approx(3 * 0.25, abs=1e-9)


def test_large_errors_count_linearly_with_huber() -> None:
    batch = make_batch(read(1), ["H", "O"], 3.0)
    small, large = ({"forces": batch.labels["forces"] + e} for e in (0.01, 3.0))
    assert error_sums(small, batch, ["forces"], 0.1)[0].item() == pytest.approx(9 * 1e-4)
    assert error_sums(large, batch, ["forces"], 0.1)[0].item() == pytest.approx(9 * (2 * 0.1 * 3.0 - 0.01))


def test_the_gradient_of_the_loss_is_the_weighted_sum_over_levels() -> None:
    model = tiny_model(("a", "b"))
    a, b = (make_batch(read(2, level=v), ["H", "O"], 3.0) for v in "ab")
    weights = [2.0, 3.0, 0.5]
    joint = make_batch([*a.frames, *b.frames], ["H", "O"], 3.0)
    both = gradient(model, total(model, joint, weights))
    parts = zip(gradient(model, total(model, a, weights)), gradient(model, total(model, b, weights)))
    for whole, (x, y) in zip(both, parts):
        torch.testing.assert_close(whole, 0.5 * (x + y), rtol=1e-10, atol=1e-10)


def test_each_level_has_its_own_readout() -> None:
    model = tiny_model(("a", "b"))
    grads = gradient(model, total(model, make_batch(read(2, level="b"), ["H", "O"], 3.0), [1.0, 1.0, 0.0]))
    weight = dict(zip([n for n, p in model.named_parameters() if p.requires_grad], grads))["readout.weight"]
    assert float(weight[0].abs().max()) == 0.0
    assert float(weight[1].abs().max()) > 0.0


def test_one_cycle_rises_and_falls() -> None:
    o = OptimiserConfig.model_validate({"learning_rate": 0.1, "schedule": {"warm_up": 0.2, "final": 0.01}})
    rates = [learning_rate(o, p, Plateau()) for p in (0.0, 0.2, 0.6, 1.0)]
    assert rates == pytest.approx([0.004, 0.1, 0.0505, 0.001])


@pytest.mark.parametrize(("kind", "rate"), [("constant", 0.1), ("exponential", 0.01), ("plateau", 0.025)])
def test_other_schedules(kind: str, rate: float) -> None:
    o = OptimiserConfig.model_validate({"learning_rate": 0.1, "schedule": {"kind": kind}})
    assert learning_rate(o, 0.5, Plateau(drops=2)) == pytest.approx(rate)


def test_a_plateau_lowers_the_rate_after_its_patience() -> None:
    plateau = Plateau()
    assert [plateau.update(v, 2) for v in (3.0, 2.0, 2.5, 2.1, 1.9)] == [True, True, False, False, True]
    assert (plateau.drops, plateau.waited, plateau.best) == (1, 0, 1.9)


def test_stage_two_changes_the_weights() -> None:
    stage = StageTwoConfig(start=0.75, energy=100.0)
    assert [in_stage_two(stage, p) for p in (0.7, 0.75)] == [False, True]
    assert loss_weights(LossConfig(), stage, False)["energy"] == 1.0
    assert loss_weights(LossConfig(), stage, True) == LossConfig().weights() | {"energy": 100.0}


def test_averages_follow_the_weights_and_keep_frozen_ones_exactly() -> None:
    layer = nn.Linear(2, 2)
    average = Average(layer, 0.9)
    bias = layer.bias.detach().clone()
    start = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += 1.0
    average.update(layer, 1000)
    torch.testing.assert_close(average.weights["weight"], start + 0.1)
    assert torch.equal(average.weights["bias"], bias)
    with average.applied(layer):
        torch.testing.assert_close(layer.weight, start + 0.1)
    torch.testing.assert_close(layer.weight, start + 1.0)
    assert math.isclose(average.decay, 0.9)


def test_a_prediction_that_is_not_finite_shows_in_the_errors() -> None:
    model = tiny_model()
    batch = make_batch(read(2), ["H", "O"], 3.0)
    found = predict(model, batch, NAMES)
    for spoilt in (False, True):
        table = ErrorTable(model.spec)
        forces = found["forces"].clone()
        if spoilt:
            forces[0, 1] = math.nan
        table.add(found | {"forces": forces}, batch)
        assert math.isnan(table.value("forces")) == spoilt
        assert math.isfinite(table.value("energy"))


@pytest.mark.parametrize("repeats", [(True, True, True), (True, True, False)])
def test_a_dipole_may_be_given_on_any_branch(repeats: tuple[bool, bool, bool]) -> None:
    model, atoms = make_model(charges={"kind": "transfer"}), water_box()
    boundary = "3d" if all(repeats) else "slab"
    atoms.pbc = repeats
    there = model.predict(batch_of(model, frame(atoms, boundary=boundary))).dipole[0].numpy()

    def off(label: NDArray[np.float64], moved: Atoms) -> float:
        labelled = replace(frame(moved, boundary=boundary), labels={"dipole": label})
        batch = batch_of(model, labelled)
        return float(error_sums(predict(model, batch, ["dipole"]), batch, ["dipole"])[0])

    label = there + np.array([0.3, -0.2, 0.4])
    expected = 0.3**2 + 0.2**2 + 0.4**2
    assert off(label, atoms) == pytest.approx(expected, abs=1e-12)
    assert off(label - 2.0 * atoms.cell[0] + atoms.cell[1], atoms) == pytest.approx(expected, abs=1e-12)
    # Where an atom enters the cell again is no physics either; formal charges are whole numbers.
    wrapped = atoms.copy()
    wrapped.positions[3] += atoms.cell[1] - atoms.cell[0]
    assert off(label, wrapped) == pytest.approx(expected, abs=1e-10)
    # In a skewed cell too the nearest branch is meant, not the one of rounded coordinates.
    skewed = atoms.copy()
    skewed.set_cell([[5.0, 0, 0], [2.5, 4.33, 0], [0, 0, 9.0]], scale_atoms=False)
    here = model.predict(batch_of(model, frame(skewed, boundary=boundary))).dipole[0].numpy()
    a, b = np.array(skewed.cell)[:2]
    nearest = min(float(np.sum((0.45 * (a + b) - i * a - j * b) ** 2)) for i in (0, 1) for j in (0, 1))
    assert nearest < float(np.sum((0.45 * (a + b)) ** 2))
    assert off(here - 0.45 * (a + b), skewed) == pytest.approx(nearest, abs=1e-10)
    # Along a direction that does not repeat there is one dipole only.
    tall = off(label + atoms.cell[2], atoms)
    assert (tall == pytest.approx(expected, abs=1e-12)) is repeats[2]


@pytest.mark.parametrize("left_out", [[0], [1], [0, 2], [1, 2]])
def test_what_is_known_of_a_dipole_is_compared_on_its_branch(left_out: list[int]) -> None:
    model, atoms = make_model(charges={"kind": "transfer"}), water_box()
    atoms.set_cell(np.diag([6.6, 6.1, 6.9]), scale_atoms=False)
    there = model.predict(batch_of(model, frame(atoms, boundary="3d"))).dipole[0].numpy()
    label = there + np.array([0.3, -0.2, 0.4]) + np.array([2.0, -1.0, 1.0]) * atoms.cell.lengths()
    label[left_out] = np.nan
    batch = batch_of(model, replace(frame(atoms, boundary="3d"), labels={"dipole": label}))
    off = float(error_sums(predict(model, batch, ["dipole"]), batch, ["dipole"])[0])
    known = np.delete(np.array([0.3, -0.2, 0.4]), left_out)
    assert off == pytest.approx(float(known @ known), abs=1e-12)


def test_a_branch_that_what_is_known_does_not_tell_is_left_as_it_is() -> None:
    model, atoms = make_model(charges={"kind": "transfer"}), water_box()
    there = model.predict(batch_of(model, frame(atoms, boundary="3d"))).dipole[0].numpy()
    label = there + np.array([8.0, np.nan, np.nan])  # along x all three vectors have something
    batch = batch_of(model, replace(frame(atoms, boundary="3d"), labels={"dipole": label}))
    np.testing.assert_array_equal(predict(model, batch, ["dipole"])["dipole"][0].numpy(), there)
