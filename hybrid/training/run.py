"""`grahame train`: checked frames in, a model file with its errors and figures out."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from grahame.hybrid.evaluate import evaluate
from grahame.hybrid.model import HybridModel
from grahame.hybrid.reading import BadFrames, Problem
from grahame.hybrid.training.building import build_model, charges_of, check_known
from grahame.hybrid.training.checkpoint import check_unchanged, data_digest, load_checkpoint
from grahame.hybrid.training.checks import check_frames
from grahame.hybrid.training.config import TrainConfig
from grahame.hybrid.training.dataset import Splits, read_sources
from grahame.hybrid.training.distributed import Processes, processes
from grahame.hybrid.training.hooks import FileHooks, Hooks
from grahame.hybrid.training.loop import Trainer
from grahame.hybrid.training.metrics import ErrorRow
from grahame.hybrid.training.progress import TrainingBar
from grahame.hybrid.training.report import Curve, write_errors, write_figures

__all__ = ["TrainSummary", "check", "checked_frames", "train"]


@dataclass
class TrainSummary:
    """What a training came to.

    Attributes:
        model, checkpoint, curve, errors: files; figures: those drawn.
        completed: False when a signal stopped it.
        main: whether this process is the one that speaks.
        epochs, steps: done in all; seconds: of training.
        train_frames, valid_frames: how many; dropped: bad frames that were left out.
        parameters: number of weights; best: smallest validation loss.
        table: errors of the best model on the validation frames.
    """

    model: Path
    checkpoint: Path
    curve: Path
    errors: Path
    figures: list[Path] = field(default_factory=list)
    completed: bool = True
    main: bool = True
    epochs: int = 0
    steps: int = 0
    seconds: float = 0.0
    train_frames: int = 0
    valid_frames: int = 0
    dropped: list[Problem] = field(default_factory=list)
    parameters: int = 0
    best: float = float("nan")
    table: list[ErrorRow] = field(default_factory=list)


def checked_frames(config: TrainConfig) -> Splits:
    """All frames of a configuration that can be used.

    Raises:
        FileNotFoundError: when a file is not there.
        BadFrames: unless they are to be dropped.
        ValueError: for an electrode element that no frame of its source has, and for an empty split.
    """
    charges = charges_of(config)
    cutoff = config.model.architecture.cutoff
    splits = read_sources(config, charges)
    problems = splits.problems + check_frames(splits, config.data.checks, charges, cutoff)
    if problems and not config.data.drop_bad:
        raise BadFrames(problems, "\nset data.drop_bad: true to leave them out")
    if splits.absent:
        raise ValueError("\n".join(splits.absent))
    splits = splits.without({(p.source, p.index) for p in problems})
    splits.problems = problems
    for name, frames in (("train", splits.train), ("valid", splits.valid)):
        if not frames:
            left = ", ".join(f"{n} of {f}" for f, n in splits.left_out.items())
            raise ValueError(
                f"{name} = 0 frames must be at least one: add a source or a split"
                + (f"; the values of `split.key` leave out {left}" if left else "")
            )
    return splits


def check(config: TrainConfig, resume: bool = False) -> Splits:
    """Everything that `train` does before the first epoch; nothing is written, so files of an earlier one may be there.

    Returns:
        The frames.
    Raises:
        What `train` raises before the first epoch.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with processes(config.device) as group:
        return _prepared(config, resume, group).splits


def train(config: TrainConfig, resume: bool = False, progress: bool = True) -> TrainSummary:
    """Train a model; under `torchrun` together with the other processes.

    Args:
        config: checked configuration.
        resume: continue from the checkpoint.
        progress: show a bar and a line per epoch on standard error.
    Returns:
        What came out, and the files.
    Raises:
        FileExistsError: when files of an earlier training are there.
        ValueError: for bad frames, and for a checkpoint that does not belong to this configuration.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with processes(config.device) as group:
        return _train(config, resume, progress, group)


@dataclass
class _Prepared:
    """What there is before the first epoch."""

    splits: Splits
    model: HybridModel
    notes: list[str]
    trainer: Trainer
    saved: dict[str, Any] | None
    settings: dict[str, Any]
    digest: str


def _paths(config: TrainConfig) -> tuple[Path, Path, Path, Path]:
    """Model, checkpoint, learning curve and errors."""
    stem = config.output.place / config.output.name
    model, checkpoint, curve, errors = (
        stem.with_name(stem.name + n) for n in (".safetensors", ".checkpoint.pt", ".csv", ".errors.csv")
    )
    return model, checkpoint, curve, errors


def _prepared(config: TrainConfig, resume: bool, group: Processes) -> _Prepared:
    _check_folder(config.output.place)
    saved = load_checkpoint(_paths(config)[1]) if resume else None
    splits = checked_frames(config)
    settings = json.loads(config.model_dump_json())
    digest = data_digest(splits.train, splits.valid)
    if saved is not None:
        check_unchanged(saved, settings, digest, group.world)
    model, notes = build_model(config, splits.train)
    check_known(model.spec, splits.valid)
    model.to(group.device)
    group.same(model)
    trainer = Trainer(config, model, splits.train, splits.valid, group)
    if saved is not None:
        trainer.load_state(saved)
    return _Prepared(splits, model, notes, trainer, saved, settings, digest)


def _check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to before any work is done for it."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise ValueError(
            f"output.folder = {folder} must be a folder that can be written to: {there} is none; choose another one"
        )


def _train(config: TrainConfig, resume: bool, progress: bool, group: Processes) -> TrainSummary:
    model_path, checkpoint, curve_path, errors_path = _paths(config)
    if not resume and not config.output.overwrite:
        for path in (model_path, checkpoint):
            if path.exists():
                raise FileExistsError(
                    f"output = {path} must not exist yet: add --resume to continue, --overwrite to start again, or "
                    "choose another output.name"
                )
    group.wait()
    ready = _prepared(config, resume, group)
    splits, trainer, saved = ready.splits, ready.trainer, ready.saved
    if group.main:
        config.output.place.mkdir(parents=True, exist_ok=True)
    summary = TrainSummary(
        model_path, checkpoint, curve_path, errors_path, main=group.main,
        train_frames=len(splits.train), valid_frames=len(splits.valid), dropped=splits.problems,
        parameters=sum(p.numel() for p in ready.model.parameters()),
    )  # fmt: skip
    curve = Curve(curve_path, 0 if saved is None else saved["curve_bytes"]) if group.main else None
    facts = {"config": json.dumps(ready.settings), "data": ready.digest, "world": group.world}
    hooks = Hooks() if curve is None else FileHooks(model_path, checkpoint, curve, facts)
    try:
        with TrainingBar(progress and group.main, trainer.steps_per_epoch) as bar:
            for line in _opening(splits, summary, ready.notes, trainer, resume):
                bar.say(line)
            trainer.run(hooks, bar)
    finally:
        if curve is not None:
            curve.close()
    summary.completed = not hooks.stopped
    summary.epochs, summary.steps, summary.seconds = trainer.at.epoch, trainer.at.steps, trainer.at.elapsed
    summary.best = trainer.plateau.best
    if summary.completed and group.main:
        _finish(config, trainer, summary, model_path.with_suffix(""))
    group.wait()
    return summary


def _opening(
    splits: Splits, summary: TrainSummary, notes: Sequence[str], trainer: Trainer, resume: bool
) -> list[str]:
    """What is said before the first epoch."""
    lines = [
        f"{summary.train_frames} frames to train, {summary.valid_frames} to validate; "
        f"{summary.parameters} weights; {trainer.steps_per_epoch} steps per epoch on {trainer.processes.world} "
        f"process{'es' if trainer.processes.world > 1 else ''}, {trainer.processes.device}"
    ]
    lines += [f"{n} frames of {f} are in neither split" for f, n in splits.left_out.items()]
    lines += [f"left out: {p.source}, frame {p.index}: {p.text}" for p in splits.problems]
    if resume:
        return [*lines, f"continuing in epoch {trainer.at.epoch + 1} after {trainer.at.steps} steps"]
    return lines + list(notes)


def _finish(config: TrainConfig, trainer: Trainer, summary: TrainSummary, stem: Path) -> None:
    """Errors and figures of the best model."""
    trainer.model.load_state_dict(trainer.best)
    found = evaluate(trainer.model, trainer.valid, config.optimiser.batch_size)
    summary.table = found.errors.rows()
    write_errors(summary.table, summary.errors)
    if config.output.plots and find_spec("matplotlib") is not None:
        summary.figures = write_figures(summary.curve, found, stem)
