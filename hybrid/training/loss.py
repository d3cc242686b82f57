"""What training makes small: weighted mean squares of the errors of all labels that are there.

    L = sum over labels l of w_l * (1 / N_l) sum rho(predicted - label)

Energies count per atom of their frame. N_l is the number of values over all frames of a step, on all processes;
a label that a frame lacks (NaN) counts nowhere. rho is the square, or Huber's function where one is set.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grahame.hybrid.frames import Batch

__all__ = ["error_sums", "label_counts", "loss"]


def label_counts(batch: Batch | None, names: list[str]) -> list[float]:
    """Number of values of each label that a batch has."""
    if batch is None:
        return [0.0] * len(names)
    return [float((~batch.labels[name].isnan()).sum()) for name in names]


def error_sums(
    predictions: dict[str, Tensor], batch: Batch, names: list[str], huber: float | None = None
) -> list[Tensor]:
    """Summed rho of the errors of each label, differentiable."""
    sums = []
    for name in names:
        label = batch.labels[name]
        known = ~label.isnan()
        if name not in predictions or not bool(known.any()):
            sums.append(torch.zeros((), dtype=torch.float64, device=label.device))
            continue
        error = predictions[name].to(label.dtype) - torch.where(known, label, torch.zeros_like(label))
        if name == "energy":
            error = error / batch.atoms
        # Where there is no label the error is replaced, not multiplied: NaN times zero is NaN.
        error = torch.where(known, error, torch.zeros_like(error))
        if huber is None:
            sums.append((error * error).sum())
        else:
            # Twice Huber's function, so that small errors count as their squares.
            sums.append(
                2.0
                * torch.nn.functional.huber_loss(error, torch.zeros_like(error), reduction="sum", delta=huber)
            )
    return sums


def loss(sums: list[Tensor], counts: list[float], weights: list[float]) -> Tensor:
    """The weighted mean; counts are those of all processes."""
    terms = [w * s / n for s, n, w in zip(sums, counts, weights) if n > 0 and w > 0]
    return torch.stack(terms).sum() if terms else torch.zeros((), dtype=torch.float64)
