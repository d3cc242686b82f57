"""Transfers between elements from charge labels: exact where the labels are such transfers."""

from typing import Any

import numpy as np
import pytest
import torch

from grahame.electrostatics import Electrode
from grahame.hybrid.frames import Conditions, Frame, make_batch
from grahame.hybrid.heads import ProjectedCharges, TransferCharges
from grahame.hybrid.model import ChargeSpec, HybridModel, ModelSpec
from grahame.hybrid.shortrange.equivariant import Architecture
from grahame.hybrid.training.charge_references import leave_zero, start_charges

SPEC = ModelSpec(
    elements=("H", "O", "Na", "Au"),
    architecture=Architecture(cutoff=3.5, channels=2, l_max=1, radial=4, hidden=3),
    dtype="float64",
    charges=ChargeSpec(kind="transfer", formal={"H": 0.2, "O": -0.4, "Na": 1.0}),
)


def model() -> HybridModel:
    torch.manual_seed(5)
    return HybridModel(SPEC)


def frames(count: int, rng: np.random.Generator) -> list[Frame]:
    """Random atoms beside two of gold, which are an electrode."""
    out = []
    for _ in range(count):
        numbers = np.array([79, 79, *rng.choice([1, 8, 11], size=9)])
        positions = rng.uniform(0.0, 5.0, size=(11, 3))
        held = Conditions(total_charge=None, electrodes=(Electrode([0, 1], charge=0.3),), boundary="open")
        out.append(Frame(numbers, positions, np.zeros((3, 3)), (False,) * 3, conditions=held))
    return out


def charges(of: HybridModel, frame: Frame) -> np.ndarray:
    batch = make_batch([frame], SPEC.elements, SPEC.architecture.cutoff)
    with torch.no_grad():
        return of.local(batch.graph, torch.tensor([0]), batch.conditions).charges.numpy()


def test_labels_made_of_transfers_are_found_again() -> None:
    rng = np.random.default_rng(0)
    teacher, student = model(), model()
    assert isinstance(teacher.charge_head, TransferCharges)
    with torch.no_grad():
        teacher.charge_head.pairs.normal_(std=0.3)
    known = frames(40, rng)
    for frame in known:
        label = charges(teacher, frame)
        label[:2] = 7.0  # of the electrode, whose charges a solver sets
        frame.labels["charges"] = label
    said = start_charges(student, known)
    assert said is not None
    assert said.startswith("transfers between elements start from charge labels:")
    for frame in frames(5, rng):
        np.testing.assert_allclose(charges(student, frame), charges(teacher, frame), rtol=0, atol=2e-4)


def test_missing_labels_count_nowhere() -> None:
    rng = np.random.default_rng(1)
    known = frames(6, rng)
    for frame in known:
        frame.labels["charges"] = rng.normal(size=11)
    full, holes = model(), model()
    start_charges(full, known)
    for frame in frames(3, rng):
        frame.labels["charges"] = np.full(11, np.nan)
        known.append(frame)
    start_charges(holes, known)
    torch.testing.assert_close(full.charge_head.pairs, holes.charge_head.pairs)
    assert float(full.charge_head.pairs.detach().abs().max()) > 0


def test_projected_charges_start_from_the_mean_label_of_each_element() -> None:
    given = ChargeSpec(kind="projected", formal={"H": 0.1, "Na": 0.6})
    bare = HybridModel(SPEC.model_copy(update={"charges": given}))
    assert isinstance(bare.charge_head, ProjectedCharges)
    starts = bare.charge_head.element.weight[:, 0]
    assert starts.tolist() == pytest.approx([0.1, 0.0, 0.6, 0.0])
    frame = Frame(
        np.array([1, 8, 8, 79]),
        np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]]),
        np.zeros((3, 3)),
        (False,) * 3,
        conditions=Conditions(electrodes=(Electrode([3], charge=0.0),), boundary="open"),
        labels={"charges": np.array([0.4, -0.5, -0.3, 9.0])},
    )
    said = start_charges(bare, [frame])
    assert said == "charges start from the mean label of each element: H 0.4, O -0.4 e"
    # What no label names stays where it was.
    assert starts.tolist() == pytest.approx([0.4, -0.4, 0.6, 0.0])


@pytest.mark.parametrize("grouped", [False, True])
def test_solved_charges_start_from_electronegativities_of_the_elements(grouped: bool) -> None:
    rng = np.random.default_rng(3)
    charges_of = ChargeSpec(kind="solved", hardness={"H": 12.0, "O": 9.0, "Na": 15.0, "Au": 20.0})
    spec = SPEC.model_copy(update={"charges": charges_of, "accuracy": 1e-10})
    torch.manual_seed(1)
    teacher, student = HybridModel(spec), HybridModel(spec)
    with torch.no_grad():
        teacher.sites.element.weight[:, 0] = torch.tensor([-1.0, 2.5, -2.0, 0.5])
    known = []
    for _ in range(4):
        numbers = np.array([1, 1, 8, 11, 79, 8])
        # Apart, so that soft charges stay stable.
        places = 3.0 * rng.permutation(np.stack(np.meshgrid(*[np.arange(3.0)] * 3), -1).reshape(-1, 3))[:6]
        groups = (Electrode([0, 1, 2], charge=0.2), Electrode([3, 4, 5], charge=-0.2)) if grouped else ()
        held = Conditions(electrodes=groups, boundary="open")
        frame = Frame(
            numbers, places + 0.2 * rng.random((6, 3)), np.zeros((3, 3)), (False,) * 3, conditions=held
        )
        batch = make_batch([frame], spec.elements, spec.architecture.cutoff)
        frame.labels["charges"] = teacher.predict(batch, forces=False).charges.numpy()
        known.append(frame)
    said = start_charges(student, known)
    assert said is not None
    assert said.startswith("electronegativities of elements start from charge labels: ")
    for frame in known:
        batch = make_batch([frame], spec.elements, spec.architecture.cutoff)
        found = student.predict(batch, forces=False).charges.numpy()
        np.testing.assert_allclose(found, frame.labels["charges"], atol=1e-6)
    # Frames without all their labels say nothing.
    for frame in known:
        frame.labels["charges"][0] = np.nan
    assert start_charges(student, known) is None


@pytest.mark.parametrize("kind", ["none", "transfer"])
def test_nothing_to_do(kind: str) -> None:
    spec = SPEC.model_copy(update={"charges": ChargeSpec(kind=kind)})
    bare = HybridModel(spec)
    known = frames(2, np.random.default_rng(2))
    if kind != "transfer":
        for frame in known:
            frame.labels["charges"] = np.zeros(11)
    before = {k: v.clone() for k, v in bare.state_dict().items()}
    assert start_charges(bare, known) is None
    assert all(torch.equal(v, before[k]) for k, v in bare.state_dict().items())


def test_atoms_that_never_meet_leave_the_start_as_it_is() -> None:
    bare = model()
    alone = Frame(
        np.array([1, 8]),
        np.array([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]]),
        np.zeros((3, 3)),
        (False,) * 3,
        conditions=Conditions(total_charge=-0.2, boundary="open"),
        labels={"charges": np.array([0.3, -0.5])},
    )
    before = bare.charge_head.pairs.detach().clone()
    assert start_charges(bare, [alone]) is None
    assert torch.equal(bare.charge_head.pairs, before)


SOLVED = {"kind": "solved", "hardness": {"H": 4.0, "O": 2.0}, "formal": {"Na": 0.0}}


def pairs(count: int, **held: Any) -> list[Frame]:
    """Hydrogen and oxygen a little more or less than 1 Å apart, labelled with the energy of charges 0.3 and -0.3 e."""
    out = []
    for r in np.linspace(0.9, 1.3, count):
        places = np.array([[0.0, 0.0, 0.0], [r, 0.0, 0.0]])
        pull = 1.3 / r**2
        labels = {"energy": np.array(-1.3 / r), "forces": np.array([[pull, 0.0, 0.0], [-pull, 0.0, 0.0]])}
        conditions = Conditions(boundary="open", **held)
        out.append(
            Frame(
                np.array([1, 8]), places, np.zeros((3, 3)), (False,) * 3, conditions=conditions, labels=labels
            )
        )
    return out


def solved_model(**charges: Any) -> HybridModel:
    torch.manual_seed(5)
    return HybridModel(SPEC.model_copy(update={"charges": ChargeSpec(**(SOLVED | charges))}))


def slope(of: HybridModel, known: list[Frame]) -> float:
    """Largest derivative of a sum of squared energies and forces with what decides over chi."""
    batch = make_batch(known, SPEC.elements, SPEC.architecture.cutoff)
    found = of.predict(batch, train=True)
    assert found.forces is not None
    (found.energy.square().sum() + found.forces.square().sum()).backward()
    assert of.sites is not None
    assert of.sites.environment is not None
    return float(of.sites.environment.weight.grad[0].abs().max())


def test_solved_charges_can_learn_from_energies_and_forces_alone() -> None:
    bare, known = solved_model(), pairs(2)
    assert slope(bare, known) == 0.0
    bare.zero_grad()
    said = leave_zero(bare, known)
    assert said == "solved charges start from formal charges: energies and forces alone would leave them at 0"
    assert slope(bare, known) > 1e-6
    batch = make_batch(known, SPEC.elements, SPEC.architecture.cutoff)
    found = bare.predict(batch, forces=False).charges.numpy()
    assert found[0] == pytest.approx(-found[1])
    assert found[0] > 0.01
    # A second time there is nothing to do.
    assert leave_zero(bare, known) is None


def test_an_atom_alone_starts_at_a_twentieth_of_its_formal_charge() -> None:
    bare = solved_model()
    leave_zero(bare, pairs(1))
    assert bare.sites is not None
    alone = np.array([4.0, 2.0]) + 14.3996454 / (np.sqrt(np.pi) * 0.5)
    np.testing.assert_allclose(
        -bare.sites.element.weight[:2, 0].detach().numpy() / alone, [0.05, -0.1], rtol=1e-6
    )


def test_without_different_formal_charges_solved_charges_start_at_random() -> None:
    bare, known = solved_model(formal=dict.fromkeys(("H", "O", "Na", "Au"), 0.0)), pairs(2)
    said = leave_zero(bare, known)
    assert said == "solved charges start at random: energies and forces alone would leave them at 0"
    assert slope(bare, known) > 1e-8


def test_solved_charges_that_something_drives_start_where_they_are() -> None:
    for held in (
        {"total_charge": 1.0},
        {"electrodes": (Electrode([0], charge=0.5), Electrode([1], charge=-0.5))},
        {"field": (0.1, 0.0, 0.0)},
    ):
        assert leave_zero(solved_model(), [*pairs(1), *pairs(1, **held)]) is None
    assert leave_zero(model(), pairs(1)) is None
