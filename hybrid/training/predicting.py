"""Predictions of a model under the names of the labels."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from grahame.hybrid.frames import LABELS, Batch
from grahame.hybrid.model import HybridModel

__all__ = ["labelled", "predict"]


def labelled(batch: Batch, wanted: Collection[str] = tuple(LABELS)) -> set[str]:
    """Labels, of those wanted, that some frame of a batch has."""
    return {name for name in wanted if any(name in f.labels for f in batch.frames)}


def predict(
    model: HybridModel, batch: Batch, wanted: Collection[str], train: bool = False
) -> dict[str, Tensor]:
    """What the model says for each label that is wanted.

    Args:
        model: on the device of the batch.
        batch: frames.
        wanted: names of labels.
        train: keep the graph, for a loss.
    """
    out = model.predict(
        batch,
        forces="forces" in wanted,
        stress="stress" in wanted,
        born="born" in wanted,
        field_response="field_response" in wanted,
        train=train,
    )
    found = {
        "energy": out.energy,
        "forces": out.forces,
        "stress": out.stress,
        "charges": out.charges,
        "dipole": out.dipole,
        "born": out.born,
        "field_response": out.field_response,
    }
    return {name: value for name, value in found.items() if name in wanted and value is not None}
