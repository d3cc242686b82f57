"""Continuing from a trained model: frozen weights do not change by a bit, and thaw when told."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from grahame.hybrid.model_file import load_model
from grahame.hybrid.training.checkpoint import load_checkpoint
from grahame.hybrid.training.config import parse_training
from grahame.hybrid.training.run import train
from grahame.hybrid.training.transfer import groups_of
from tests.hybrid.training.tiny import settings, write_data


@pytest.fixture(name="data", scope="module")
def _data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    train(parse_training(settings(folder / "first"), folder), progress=False)
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
