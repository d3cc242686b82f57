"""One file with everything a training needs to continue with the same bits."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from grahame.hybrid.engines.checkpoint import changed_keys
from grahame.hybrid.engines.files import write_atomically
from grahame.hybrid.frames import Frame

__all__ = ["check_unchanged", "data_digest", "load_checkpoint", "save_checkpoint"]

FORMAT = 1

# Keys that change no number already written: they may differ when a training continues.
_FREE = ("output.", "optimiser.patience", "device", "threads", "data.drop_bad")
_FREE_WITHOUT_PACE = ("optimiser.max_minutes",)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values; whatever happens, the file is the old or the new one, never a part."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; no code in it is run.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when the file is damaged or of another format.
    """
    if not path.exists():
        raise FileNotFoundError(f"checkpoint = {path} must exist: train once without --resume")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        known = state["format"] == FORMAT
    except (
        RuntimeError,
        KeyError,
        TypeError,
        EOFError,
        OSError,
        pickle.UnpicklingError,
        ValueError,
    ) as error:
        raise ValueError(
            f"checkpoint = {path} must be a complete file of `grahame train`: it is damaged; start again under "
            "another output.name"
        ) from error
    if not known:
        raise ValueError(
            f"checkpoint = format {state['format']} must be of format {FORMAT}: continue it with the version of "
            "grahame that wrote it"
        )
    return state


def check_unchanged(state: dict[str, Any], config: dict[str, Any], digest: str, world: int) -> None:
    """Refuse to continue with other settings or other frames.

    Raises:
        ValueError: naming the keys that differ.
    """
    old = json.loads(state["config"])
    free = _FREE if config["optimiser"]["schedule"]["pace"] == "time" else _FREE + _FREE_WITHOUT_PACE
    changed = [k for k in changed_keys(old, config) if not k.startswith(free)]
    if changed:
        raise ValueError(
            f"{', '.join(changed)} = changed must be as in the training that is resumed: restore the values, or "
            "train under another output.name"
        )
    if state["world"] != world:
        raise ValueError(
            f"processes = {world} must be {state['world']} as in the training that is resumed: start as many"
        )
    if state["data"] != digest:
        raise ValueError(
            "data = other frames must be those of the training that is resumed: restore the files, or train under "
            "another output.name"
        )


def data_digest(train: Sequence[Frame], valid: Sequence[Frame]) -> str:
    """A hash of all frames, their conditions and labels."""
    digest = hashlib.sha256()
    for frames in (train, valid):
        digest.update(f"{len(frames)}".encode())
        for f in frames:
            digest.update(f.numbers.tobytes() + f.positions.tobytes() + f.cell.tobytes() + f.level.encode())
            digest.update(_conditions(f).encode())
            for name in sorted(f.labels):
                digest.update(name.encode() + f.labels[name].tobytes())
    return digest.hexdigest()


def _conditions(frame: Frame) -> str:
    """What a label was computed under, in words that change with it."""
    c = frame.conditions
    groups = [(g.indices.tolist(), repr(g.potential), repr(g.charge)) for g in c.electrodes]
    arrays = [None if a is None else a.tolist() for a in (c.formal_charges, c.fragments, c.fragment_charges)]
    held = (c.boundary, c.total_charge, c.field, c.displacement, frame.work_function_side)
    return repr((groups, arrays, held))
