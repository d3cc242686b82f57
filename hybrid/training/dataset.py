"""The frames of a training: read, split, and cut into batches."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from grahame.hybrid.frames import Frame
from grahame.hybrid.model import ChargeSpec
from grahame.hybrid.reading import Problem, absent, read_frames
from grahame.hybrid.training.config import TrainConfig
from grahame.hybrid.training.sources import SourceConfig, SplitConfig, words

__all__ = ["Splits", "epoch_order", "read_sources", "shards", "source_names"]


@dataclass
class Splits:
    """Frames for training and validation, and what was wrong with others.

    Attributes:
        train, valid: the frames.
        problems: frames that cannot be used, and why.
        left_out: frames that the splits of their files name for neither, by file.
        absent: sentences about electrode elements that no frame of their source has.
    """

    train: list[Frame] = field(default_factory=list)
    valid: list[Frame] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)

    @property
    def frames(self) -> list[Frame]:
        """All of them, training first."""
        return self.train + self.valid

    def without(self, bad: set[tuple[str, int]]) -> Splits:
        """The splits without some frames, given as (file, index)."""

        def kept(frames: list[Frame]) -> list[Frame]:
            return [f for f in frames if (f.source, f.index) not in bad]

        return Splits(kept(self.train), kept(self.valid), self.problems, self.left_out, self.absent)


def source_names(config: TrainConfig) -> list[list[tuple[Path, str]]]:
    """The files of each source, and what they are called: their names, with as many folders as tell them apart."""
    files = [config.paths(s.file) for s in config.data.sources]
    known = sorted({_place(p) for paths in files for p in paths})
    names: dict[Path, str] = {}
    for path in known:
        alike = [p for p in known if p.name == path.name]
        length = next(
            n
            for n in range(1, len(path.parts) + 1)
            if sum(p.parts[-n:] == path.parts[-n:] for p in alike) == 1
        )
        names[path] = "/".join(path.parts[-length:])
    count = Counter(_place(p) for paths in files for p in paths)

    def name(path: Path, number: int) -> str:
        again = f" (sources[{number}])" if count[_place(path)] > 1 else ""
        return names[_place(path)] + again

    return [[(p, name(p, number)) for p in paths] for number, paths in enumerate(files)]


def _place(path: Path) -> Path:
    """The whole path; links keep the names the user gave them."""
    return Path(os.path.abspath(path))


def read_sources(config: TrainConfig, charges: ChargeSpec) -> Splits:
    """Read all files of a configuration and split them.

    Args:
        config: of the training.
        charges: of the model.
    Raises:
        FileNotFoundError: when a file is not there.
    """
    splits = Splits()
    read: list[tuple[SourceConfig, list[_File]]] = []
    for number, (source, files) in enumerate(zip(config.data.sources, source_names(config))):
        reading = source.reading(charges)
        own = [_File(_place(p), name, read_frames(p, reading, splits.problems, name)) for p, name in files]
        read.append((source, own))
        frames = [frame for file in own for frame in file.frames]
        missing = absent(source.electrode_elements, frames)
        if missing is not None:
            splits.absent.append(f"data.sources[{number}].electrode_elements = {missing}")
    drawn = _drawn([(s.split, own) for s, own in read if s.split is not None], config.seed)
    for source, file in [(source, file) for source, own in read for file in own]:
        places: Iterable[str | None] = repeat(source.use)
        if source.split is not None:
            places = _where(file, source.split, drawn, splits)
        for frame, where in zip(file.frames, places):
            if where is None:
                splits.left_out[file.name] = splits.left_out.get(file.name, 0) + 1
            else:
                (splits.train if where == "train" else splits.valid).append(frame)
    return splits


@dataclass(frozen=True)
class _File:
    path: Path
    name: str
    frames: list[Frame]

    def groups(self, split: SplitConfig) -> tuple[str, dict[int, str]]:
        """What groups are told apart by, the same for all files that name it, and the group of each frame that has one."""
        if split.group is None:
            return f"frame of {self.path}", {f.index: str(f.index) for f in self.frames}
        return split.group, {f.index: str(f.info[split.group]) for f in self.frames if split.group in f.info}


def _drawn(splits: Sequence[tuple[SplitConfig, list[_File]]], seed: int) -> dict[tuple[str, str], bool]:
    """Whether a group is for validation, by what it is told apart by and its name; all files that hold it agree.

    The part that is drawn is one of all files of a source together. Sources with few groups come first: those that share
    them with larger ones get their part too.
    """
    drawn: dict[tuple[str, str], bool] = {}
    parts = []
    for split, files in splits:
        if split.fraction is not None:
            named = [file.groups(split) for file in files]
            groups = sorted({(kind, name) for kind, names in named for name in names.values()})
            parts.append((split.fraction, groups))
    for fraction, groups in sorted(parts, key=lambda p: len(p[1])):
        open_ = max(1, round(fraction * len(groups))) - sum(drawn.get(g, False) for g in groups)
        for k in np.random.default_rng([seed, len(groups)]).permutation(len(groups)):
            if groups[k] not in drawn:
                drawn[groups[k]] = open_ > 0
                open_ -= 1
    return drawn


def _where(
    file: _File, split: SplitConfig, drawn: dict[tuple[str, str], bool], splits: Splits
) -> Iterator[str | None]:
    """ "train", "valid" or None for each frame."""
    key = split.key if split.key is not None else split.group
    train, valid = words(split.train), words(split.valid)
    kind, groups = file.groups(split)
    for f in file.frames:
        if key is not None and key not in f.info:
            text = f"{key} = nothing must be given: the split goes by it"
            splits.problems.append(Problem(file.name, f.index, text))
            yield None
        elif split.key is not None:
            value = str(f.info[split.key])
            yield "train" if value in train else "valid" if value in valid else None
        else:
            yield "valid" if drawn[kind, groups[f.index]] else "train"


def epoch_order(seed: int, epoch: int, frames: int) -> NDArray[np.int64]:
    """The order of the training frames in one epoch; it depends on nothing else, so it needs no state."""
    return np.random.default_rng([seed, epoch]).permutation(frames)


def shards(order: NDArray[np.int64], size: int, rank: int = 0, world: int = 1) -> Iterator[NDArray[np.int64]]:
    """Each step's frames for one of several processes, which together take `size * world` per step.

    The last step takes what is left; a process may then have no frame.
    """
    for start in range(0, len(order), size * world):
        yield order[start : start + size * world][rank::world]
