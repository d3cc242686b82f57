"""One source may name many files by a shell pattern."""

from pathlib import Path

import numpy as np
import pytest
from ase.io import write

from grahame.hybrid.model import ChargeSpec
from grahame.hybrid.training.config import parse_training
from grahame.hybrid.training.dataset import Splits, read_sources
from tests.hybrid.training.tiny import frames

KEYS = {"energy": "REF_energy"}


def test_a_pattern_names_files_in_order(tmp_path: Path) -> None:
    for name in ("b-2.extxyz", "b-1.extxyz", "c.extxyz"):
        (tmp_path / name).touch()
    config = parse_training({"data": {"train": "b-*.extxyz", "valid": "c.extxyz"}}, tmp_path)
    assert [p.name for p in config.paths("b-*.extxyz")] == ["b-1.extxyz", "b-2.extxyz"]
    assert config.paths("c.extxyz") == [tmp_path / "c.extxyz"]


def test_a_pattern_that_fits_nothing_is_refused(tmp_path: Path) -> None:
    config = parse_training({"data": {"train": "b-*.extxyz", "valid": "c.extxyz"}}, tmp_path)
    with pytest.raises(FileNotFoundError, match="pattern") as caught:
        config.paths("b-*.extxyz")
    assert str(caught.value) == (
        f"file = b-*.extxyz must fit at least one file in {tmp_path}: check the pattern"
    )


def drawn(folder: Path, *sources: dict[str, object]) -> Splits:
    data = {"data": {"sources": [{"keys": KEYS} | s for s in sources]}}
    return read_sources(parse_training(data, folder), ChargeSpec())


def valid(splits: Splits, level: str = "default") -> set[tuple[str, int]]:
    """File and index of the frames for validation."""
    return {(f.source.split()[0], f.index) for f in splits.valid if f.level == level}


def test_the_part_for_validation_is_one_of_all_files_of_a_source(tmp_path: Path) -> None:
    for k, atoms in enumerate(frames(10)):
        atoms.info["snapshot"] = f"s{k // 2}"
        write(tmp_path / f"f{k}.xyz", atoms)
    splits = drawn(tmp_path, {"file": "f*.xyz", "split": {"fraction": 0.2}})
    assert (len(splits.train), len(splits.valid)) == (8, 2)
    splits = drawn(tmp_path, {"file": "f*.xyz", "split": {"fraction": 0.2, "group": "snapshot"}})
    assert (len(splits.train), len(splits.valid)) == (8, 2)
    assert len({f.info["snapshot"] for f in splits.valid}) == 1


def test_a_file_of_a_pattern_that_is_read_once_more_is_split_alike(tmp_path: Path) -> None:
    for k in range(3):
        write(tmp_path / f"f{k}.xyz", frames(10, k))
    split = {"fraction": 0.2}
    one, all_ = {"file": "f1.xyz", "split": split}, {"file": "f*.xyz", "split": split, "level": "all"}
    alone = valid(drawn(tmp_path, one))
    both = drawn(tmp_path, all_, one)
    assert valid(both) == alone
    assert {f for f in valid(both, "all") if f[0] == "f1.xyz"} == alone
    assert len(valid(both, "all")) == 6


def test_one_file_is_split_as_ever(tmp_path: Path) -> None:
    write(tmp_path / "f.xyz", frames(20))
    order = np.random.default_rng([0, 20]).permutation(20)
    names = sorted(str(k) for k in range(20))
    chosen = {("f.xyz", int(names[k])) for k in order[:4]}
    assert valid(drawn(tmp_path, {"file": "f.xyz", "split": {"fraction": 0.2}})) == chosen
