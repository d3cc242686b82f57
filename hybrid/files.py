"""Reading structures with one clear sentence when it fails; writing files whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from ase import Atoms

_TEXT = (".xyz", ".extxyz")


@contextmanager
def replacing(path: str | Path, overwrite: bool = True) -> Iterator[Path]:
    """A temporary path in the same folder that becomes `path` only when the block ends well.

    Args:
        path: the file to write.
        overwrite: whether an existing file may be replaced.
    Yields:
        the temporary path, with the suffix of `path`.
    Raises:
        FileExistsError: when the file exists and may not be replaced.
        FileNotFoundError: when its folder does not exist.
    """
    path = Path(path)
    check_target(path, overwrite)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; the result gets what the user's umask says.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def check_target(path: str | Path, overwrite: bool) -> None:
    """Refuse a file that cannot be written before any work is done for it.

    Raises:
        FileExistsError: when the file exists and may not be replaced.
        FileNotFoundError: when its folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"output = {path} must be in an existing folder: create {path.parent} first")
    if path.exists() and not overwrite:
        raise FileExistsError(f"output = {path} must not exist yet: choose another name or add --overwrite")


def read_structure(path: str | Path, index: int = -1, name: str = "structure") -> Atoms:
    """One structure from any file that ASE reads.

    Args:
        path: the file; ASE recognises the format by name and content.
        index: which frame of a trajectory, from 0, or from -1 for the last one backwards.
        name: what the user calls the file, for the messages.
    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not complete, not a structure, holds no atoms, or an atom of no element, or has no such frame.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{name} = {path} must be a file: give the path of a structure that ASE reads"
        )
    rule = f"{name} = {path} must be a complete structure file that ASE reads"
    if path.suffix in _TEXT and not _ends_with_a_line(path):
        # A number that was cut in the middle still reads as a number.
        raise ValueError(f"{rule}: its last line is cut off; write or copy it again")
    try:
        atoms, count = _frame(path, index)
    except Exception as error:  # whatever ASE's many readers raise, the user needs the file's name
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(
            f"{rule}: {reason}; check that it is not cut off and that its name ends with its format"
        ) from error
    if count and atoms is None:
        raise ValueError(
            f"frame = {index} must lie between {-count} and {count - 1}: {name} {path} has {count} frame{'s' if count > 1 else ''}, counted from 0"
        )
    if not isinstance(atoms, Atoms) or len(atoms) == 0:
        raise ValueError(f"{name} = {path} must hold at least one atom: it is empty")
    unknown = np.flatnonzero(atoms.numbers < 1)
    if len(unknown):
        raise ValueError(f"{name} = {path}, atom {unknown[0]} must be an element, not X: correct its symbol")
    return atoms


def _frame(path: Path, index: int) -> tuple[object, int]:
    """One frame, None where the file has none of this number, and how many there are if that was counted."""
    import ase.io

    if index == -1:
        return ase.io.read(path, index=index), 0
    # ASE's reading of one frame takes the first where a negative number leaves the file.
    last: deque[object] = deque(maxlen=max(1, -index))
    count = 0
    for atoms in ase.io.iread(path, index=":"):
        if count == index:
            return atoms, 0
        last.append(atoms)
        count += 1
    return last[0] if -count <= index < 0 else None, count


def _ends_with_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        if file.tell() == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
