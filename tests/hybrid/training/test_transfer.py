"""Continuing from a trained model: frozen weights do not change by a bit, and thaw when told."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from safetensors.torch import load_file

from grahame.hybrid.evaluate import evaluate
from grahame.hybrid.model import HybridModel
from grahame.hybrid.model_file import find_model, load_model
from grahame.hybrid.reading import Reading, make_frame
from grahame.hybrid.training.building import build_model, charges_of, check_known
from grahame.hybrid.training.checkpoint import load_checkpoint
from grahame.hybrid.training.config import parse_training
from grahame.hybrid.training.run import train
from grahame.hybrid.training.transfer import groups_of
from tests.hybrid.model_cells import frame, make_model, water_box
from tests.hybrid.training.tiny import frames, settings, write_data


@pytest.fixture(name="data", scope="module")
def _data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    learnt = settings(folder / "first", optimiser={"epochs": 30, "learning_rate": 0.02})
    train(parse_training(learnt, folder), progress=False)
    return folder


def continued(data: Path, folder: Path, epochs: int = 2, **transfer: Any) -> dict[str, torch.Tensor]:
    """Weights after the last step of training on from the first model."""
    config = settings(
        folder, transfer={"initial": "first/model.safetensors", **transfer},
        optimiser={"kind": "adamw", "weight_decay": 0.1, "epochs": epochs}, seed=5,
    )  # fmt: skip
    del config["model"]
    train(parse_training(config, data), progress=False)
    weights: dict[str, torch.Tensor] = load_checkpoint(folder / "model.checkpoint.pt")["model"]
    return weights


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Groups of weights of which some bit differs."""
    return set().union(*(groups_of(k) for k in before if not torch.equal(before[k], after[k])))


@pytest.mark.parametrize(
    ("frozen", "moved"),
    [
        (["embedding", "interactions"], {"readout", "features", "charges"}),
        (["readout"], {"embedding", "interactions"}),
        (["features", "charges"], {"embedding", "interactions", "readout"}),
        (["charges"], {"embedding", "interactions", "readout", "features"}),
        ([], {"embedding", "interactions", "readout", "features", "charges"}),
    ],
)
def test_frozen_weights_keep_every_bit(
    data: Path, tmp_path: Path, frozen: list[str], moved: set[str]
) -> None:
    before = load_file(data / "first" / "model.safetensors")
    assert changed(before, continued(data, tmp_path, freeze=frozen)) == moved
    # The averaged weights of the model file as well.
    assert changed(before, load_file(tmp_path / "model.safetensors")) == moved


def test_a_group_thaws_in_its_epoch(data: Path, tmp_path: Path) -> None:
    before = load_file(data / "first" / "model.safetensors")
    frozen = ["embedding", "interactions"]
    early = continued(data, tmp_path / "a", epochs=1, freeze=frozen, unfreeze={"interactions": 1})
    late = continued(data, tmp_path / "b", epochs=2, freeze=frozen, unfreeze={"interactions": 1})
    assert changed(before, early) == {"readout", "features", "charges"}
    assert changed(before, late) == {"readout", "features", "charges", "interactions"}


def test_the_model_keeps_its_history(data: Path, tmp_path: Path) -> None:
    continued(data, tmp_path, freeze=["embedding"])
    first = load_model(data / "first" / "model.safetensors").spec
    spec = load_model(tmp_path / "model.safetensors").spec
    assert spec.reference_energies == first.reference_energies
    assert spec.provenance["initial"] == first.provenance
    assert spec.provenance["training_files"]["train.xyz"]["frames"] == 10
    assert str(data) not in str(spec.provenance)


def test_nothing_left_to_train_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="freeze") as error:
        continued(data, tmp_path, freeze=["embedding", "interactions", "readout"])
    assert str(error.value) == (
        "transfer.freeze = ['embedding', 'interactions', 'readout'] must leave something to train: remove a group or "
        "unfreeze it later"
    )


def restarted(data: Path, some: list[Atoms]) -> tuple[HybridModel, list[str], float]:
    """The model that training on from the first one starts with, what is said of it, and its error in meV/atom."""
    config = settings(data, transfer={"initial": "first/model.safetensors"})
    del config["model"]
    read = [make_frame(a, Reading({"energy": "REF_energy", "forces": "REF_forces"})) for a in some]
    model, notes = build_model(parse_training(config, data), read)
    return model, notes, 1e3 * evaluate(model, read).errors.value("energy")


def test_energies_from_another_zero_move_the_reference_energies(data: Path) -> None:
    first = load_model(data / "first" / "model.safetensors").spec.reference_energies["default"]
    some = frames(9, 3)
    before = restarted(data, some)[2]
    for atoms in some:
        atoms.info["REF_energy"] -= 100.0 * len(atoms)
    model, notes, error = restarted(data, some)
    assert error < before + 1.0
    moved = model.spec.reference_energies["default"]
    for element in ("H", "O"):
        assert moved[element] - first[element] == pytest.approx(-100.0, abs=0.5)
    assert notes[0] == "starting from first/model.safetensors, with its elements and levels"
    assert notes[1].startswith(
        "level default: energies lie 100 eV/atom from the initial model's: its reference energies move, by H -"
    )
    assert "stay" not in notes[1]


def test_energies_from_the_same_zero_leave_every_bit(data: Path) -> None:
    first = load_model(data / "first" / "model.safetensors").spec.reference_energies
    some = frames(9, 3)
    model, notes, _ = restarted(data, some)
    assert model.spec.reference_energies == first
    assert notes == [
        "starting from first/model.safetensors, with its elements, levels and reference energies"
    ]
    # What compositions do not explain is no other zero, but an error that training has to mend.
    for atoms, error in zip(some, np.random.default_rng(0).normal(size=9)):
        atoms.info["REF_energy"] += error * len(atoms)
    assert restarted(data, some)[0].spec.reference_energies == first


def test_elements_that_no_new_frame_has_keep_their_reference_energies(data: Path) -> None:
    first = load_model(data / "first" / "model.safetensors").spec.reference_energies["default"]
    some = []
    for r in (0.7, 0.75, 0.8):
        atoms = Atoms("H2", positions=[[0.0, 0.0, 0.0], [r, 0.0, 0.0]])
        atoms.info |= {"REF_energy": -250.0, "total_charge": 2.0}  # two H+ of the formal charges
        atoms.arrays["REF_forces"] = np.zeros((2, 3))
        some.append(atoms)
    model, notes, error = restarted(data, some)
    assert model.spec.reference_energies["default"]["O"] == first["O"]
    assert notes[1].endswith("; those of O stay, no frame has them: energies across both have no meaning")
    assert error < 300.0


def test_energies_of_an_element_that_their_level_has_no_zero_for_are_refused() -> None:
    known = {"A": {"H": -13.0, "O": -430.0}, "B": dict.fromkeys(("H", "O", "Na", "Cl"), 0.0)}
    spec = make_model(levels=("A", "B", "C"), reference_energies=known).spec
    atoms = water_box()
    read = replace(frame(atoms), level="A", labels={"energy": np.array(0.0)}, source="a.xyz", index=3)
    with pytest.raises(ValueError, match="reference") as error:
        check_known(spec, [read])
    assert str(error.value) == (
        "elements = Na, Cl of a.xyz, frame 3 must have reference energies at level A, which has those of H, O: train on "
        "energies of that level with them, or leave these frames out"
    )
    check_known(spec, [replace(read, labels={}), replace(read, level="B"), replace(read, level="C")])


def test_the_model_in_the_box_can_be_trained_on(tmp_path: Path) -> None:
    config = settings(tmp_path, transfer={"initial": "au-water-nacl"})
    del config["model"]
    boxed = load_model(find_model("au-water-nacl"))
    assert charges_of(parse_training(config, tmp_path)) == boxed.spec.charges
