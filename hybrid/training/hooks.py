"""What happens to files during a training; processes other than the first write nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grahame.hybrid.model import HybridModel
from grahame.hybrid.model_file import save_model
from grahame.hybrid.training.checkpoint import save_checkpoint
from grahame.hybrid.training.report import Curve

__all__ = ["FileHooks", "Hooks"]


class Hooks:
    """Does nothing. `stopped` is set when a signal ended the training early."""

    stopped = False

    def better(self, model: HybridModel) -> None:
        """A new best model."""

    def epoch(self, row: dict[str, Any]) -> None:
        """A row of the learning curve."""

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Save everything."""


class FileHooks(Hooks):
    """Writes the best model, the curve and the checkpoint.

    Args:
        model, checkpoint: paths.
        curve: open file.
        facts: what the checkpoint holds beside the trainer's state.
    """

    def __init__(self, model: Path, checkpoint: Path, curve: Curve, facts: dict[str, Any]) -> None:
        self.model, self.checkpoint_file, self.curve, self.facts = model, checkpoint, curve, facts

    def better(self, model: HybridModel) -> None:
        """Write the model file."""
        save_model(model, self.model)

    def epoch(self, row: dict[str, Any]) -> None:
        """Write the row."""
        self.curve.add(row)

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Write the checkpoint, with the length of the curve at this point."""
        save_checkpoint(self.checkpoint_file, {**state, **self.facts, "curve_bytes": self.curve.length})
