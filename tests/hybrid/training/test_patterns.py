"""One source may name many files by a shell pattern."""

from pathlib import Path

import pytest

from grahame.hybrid.training.config import parse_training


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
