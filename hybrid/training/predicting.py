"""Predictions of a model under the names of the labels."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grahame.electrostatics.cells import SLABS, nearest_image_shifts
from grahame.hybrid.frames import LABELS, Batch
from grahame.hybrid.model import HybridModel
from grahame.hybrid.work_functions import SIDES, why_none

__all__ = ["OF_CHARGES", "labelled", "predict"]

OF_CHARGES = ("charges", "dipole", "born", "field_response")
"""Labels that follow from the charges of a model."""

_ALONG = 1e-6  # Å; cell vectors have less along a direction only by rounding


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
        wanted: names of labels; what follows from charges is left out of a model that has none.
        train: keep the graph, for a loss.
    """
    if not model.spec.long_range:
        wanted = set(wanted) - set(OF_CHARGES)
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
        "dipole": _on_branch(out.dipole, batch) if "dipole" in wanted else None,
        "born": out.born,
        "field_response": out.field_response,
        "work_function": _on_sides(out.work_functions, batch) if "work_function" in wanted else None,
    }
    return {name: value for name, value in found.items() if name in wanted and value is not None}


def _on_branch(moments: Tensor, batch: Batch) -> Tensor:
    """(B,3) e Å, moved by whole e times vectors of the periodic cell to the branch nearest to each label.

    Along directions that repeat, the dipole of a cell is defined up to e times a cell vector: which atoms the cell's
    faces cut is a choice. Of a label with components that are NaN the others count, with what the vectors have along them.
    """
    moved = []
    for moment, label, frame in zip(moments, batch.labels["dipole"], batch.frames):
        repeats = [p and (d < 2 or frame.conditions.boundary not in SLABS) for d, p in enumerate(frame.pbc)]
        known = ~label.isnan().cpu().numpy()
        seen = frame.cell * known
        turns = [r and bool(np.abs(v).max() > _ALONG) for r, v in zip(repeats, seen)]
        # Vectors that depend on each other as far as they are seen reach any branch: there is no nearest one.
        if frame.conditions.boundary == "open" or not _independent(seen[turns]):
            moved.append(moment)
            continue
        away = np.where(known, (moment.detach() - label).cpu().numpy(), 0.0)[None]
        steps = nearest_image_shifts(away, seen, (turns[0], turns[1], turns[2]))[0] @ frame.cell
        moved.append(moment + torch.as_tensor(steps, dtype=moment.dtype, device=moment.device))
    return torch.stack(moved)


def _independent(vectors: NDArray[np.float64]) -> bool:
    """Whether there are vectors (m,3), and none of them follows from the others."""
    return 0 < len(vectors) == int(np.linalg.matrix_rank(vectors))


def _on_sides(both: Tensor, batch: Batch) -> Tensor:
    """(B,) eV of the side each frame names, NaN where it names none.

    Raises:
        ValueError: for a frame with a label that has no work function.
    """
    chosen = []
    for row, frame in zip(both, batch.frames):
        side = frame.work_function_side
        if side is None and "work_function" not in frame.labels:
            chosen.append(row.new_full((), torch.nan))
            continue
        reason = why_none(frame.conditions)
        if side not in SIDES:
            reason = "must come with a side, + or -: set work_function_side"
        elif reason is None and bool(row.isnan().any()):
            reason = "must not be given to a model without predicted charges: leave the label out"
        if reason is not None:
            raise ValueError(f"work_function of {frame.name} {reason}")
        chosen.append(row[SIDES.index(str(side))])
    return torch.stack(chosen)
