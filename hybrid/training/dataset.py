"""The frames of a training: read, split, and cut into batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from grahame.hybrid.frames import Frame
from grahame.hybrid.model import ChargeSpec
from grahame.hybrid.reading import Problem, read_frames
from grahame.hybrid.training.config import TrainConfig
from grahame.hybrid.training.sources import SplitConfig, words

__all__ = ["Splits", "epoch_order", "read_sources", "shards"]


@dataclass
class Splits:
    """Frames for training and validation, and what was wrong with others.

    Attributes:
        train, valid: the frames.
        problems: frames that cannot be used, and why.
        left_out: frames that the splits of their files name for neither, by file.
    """

    train: list[Frame] = field(default_factory=list)
    valid: list[Frame] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def frames(self) -> list[Frame]:
        """All of them, training first."""
        return self.train + self.valid

    def without(self, bad: set[tuple[str, int]]) -> Splits:
        """The splits without some frames, given as (file, index)."""

        def kept(frames: list[Frame]) -> list[Frame]:
            return [f for f in frames if (f.source, f.index) not in bad]

        return Splits(kept(self.train), kept(self.valid), self.problems, self.left_out)


def read_sources(config: TrainConfig, charges: ChargeSpec) -> Splits:
    """Read all files of a configuration and split them.

    Args:
        config: of the training.
        charges: of the model.
    Raises:
        FileNotFoundError: when a file is not there.
    """
    splits = Splits()
    for source in config.data.sources:
        for path in config.paths(source.file):
            frames = read_frames(path, source.reading(charges), splits.problems)
            if source.split is None:
                (splits.train if source.use == "train" else splits.valid).extend(frames)
                continue
            for frame, where in zip(frames, _where(frames, source.split, path, config.seed, splits.problems)):
                if where is None:
                    splits.left_out[path.name] = splits.left_out.get(path.name, 0) + 1
                else:
                    (splits.train if where == "train" else splits.valid).append(frame)
    return splits


def _where(
    frames: Sequence[Frame], split: SplitConfig, path: Path, seed: int, problems: list[Problem]
) -> list[str | None]:
    """ "train", "valid" or None for each frame."""
    key = split.key if split.key is not None else split.group
    for f in frames:
        if key is not None and key not in f.info:
            problems.append(
                Problem(path.name, f.index, f"{key} = nothing must be given: the split goes by it")
            )
    frames_with = [f for f in frames if key is None or key in f.info]
    if split.key is not None:
        train, valid = words(split.train), words(split.valid)
        named = {f.index: str(f.info[split.key]) for f in frames_with}
        place = {k: "train" if v in train else "valid" if v in valid else None for k, v in named.items()}
        return [place.get(f.index) for f in frames]
    assert split.fraction is not None
    groups = {f.index: str(f.info[key]) if key is not None else str(f.index) for f in frames_with}
    names = sorted(set(groups.values()))
    count = max(1, round(split.fraction * len(names)))
    order = np.random.default_rng([seed, len(names)]).permutation(len(names))
    chosen = {names[k] for k in order[:count]}
    return [
        None if f.index not in groups else "valid" if groups[f.index] in chosen else "train" for f in frames
    ]


def epoch_order(seed: int, epoch: int, frames: int) -> NDArray[np.int64]:
    """The order of the training frames in one epoch; it depends on nothing else, so it needs no state."""
    return np.random.default_rng([seed, epoch]).permutation(frames)


def shards(order: NDArray[np.int64], size: int, rank: int = 0, world: int = 1) -> Iterator[NDArray[np.int64]]:
    """Each step's frames for one of several processes, which together take `size * world` per step.

    The last step takes what is left; a process may then have no frame.
    """
    for start in range(0, len(order), size * world):
        yield order[start : start + size * world][rank::world]
