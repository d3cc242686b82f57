"""Learning rates and loss weights as functions of how much of the training is over.

one-cycle    linear from lr/25 to lr during warm-up, then half a cosine down to lr * final
exponential  lr * final^p at part p of the training
plateau      lr * factor^k after k times `patience` epochs without a better validation
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from grahame.hybrid.training.config import LossConfig, OptimiserConfig, StageTwoConfig

__all__ = ["Plateau", "in_stage_two", "learning_rate", "loss_weights"]

_START = 1.0 / 25.0


@dataclass
class Plateau:
    """Epochs without improvement, counted for the learning rate and for the end of training.

    Attributes:
        best: smallest validation loss so far.
        waited: epochs since then; drops: how often the rate was lowered; since_drop: epochs since then.
    """

    best: float = math.inf
    waited: int = 0
    drops: int = 0
    since_drop: int = 0

    def update(self, value: float, patience: int) -> bool:
        """Take in an epoch; True if it is the best one so far."""
        if value < self.best:
            self.best, self.waited, self.since_drop = value, 0, 0
            return True
        self.waited += 1
        self.since_drop += 1
        if self.since_drop >= patience:
            self.drops, self.since_drop = self.drops + 1, 0
        return False


def learning_rate(optimiser: OptimiserConfig, part: float, plateau: Plateau) -> float:
    """The learning rate at a part (0 ... 1) of the training."""
    schedule, top = optimiser.schedule, optimiser.learning_rate
    if schedule.kind == "exponential":
        return float(top * schedule.final**part)
    if schedule.kind == "plateau":
        return float(top * schedule.factor**plateau.drops)
    if schedule.kind == "constant":
        return top
    if part < schedule.warm_up:
        return top * (_START + (1.0 - _START) * part / schedule.warm_up)
    rest = (part - schedule.warm_up) / (1.0 - schedule.warm_up)
    low = top * schedule.final
    return low + 0.5 * (top - low) * (1.0 + math.cos(math.pi * min(1.0, rest)))


def in_stage_two(stage: StageTwoConfig | None, part: float) -> bool:
    """Whether the last part of the training has begun."""
    return stage is not None and part >= stage.start


def loss_weights(loss: LossConfig, stage: StageTwoConfig | None, second: bool) -> dict[str, float]:
    """Weight of each label in the first or second stage."""
    weights = loss.weights()
    if stage is not None and second:
        own = {"energy": stage.energy, "forces": stage.forces, "charges": stage.charges}
        weights |= {k: v for k, v in own.items() if v is not None}
    return weights
