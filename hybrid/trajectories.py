"""Reading what a run wrote: frames, logs, and the settings they were made with."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import iread
from numpy.typing import NDArray

__all__ = [
    "Log",
    "atom_charges",
    "electrode_groups",
    "files_of_run",
    "frame_time",
    "read_frames",
    "read_log",
    "read_settings",
    "stages",
]

Array = NDArray[np.float64]
MINIMISE = "minimise"
"""Stage whose rows and frames belong to no ensemble."""


@dataclass(frozen=True)
class Log:
    """A run's log as columns.

    Attributes:
        columns: (m,) numbers per column, nan where a cell is empty; units stand in the names.
        stage: (m,) name of the stage of each row, "" where the log has none.
    """

    columns: dict[str, Array]
    stage: list[str]

    def during(self, stage: str | None, skip_ps: float = 0.0) -> Log:
        """The rows of one stage, without the first `skip_ps` of them.

        None takes all dynamics: no minimisation, and once the step that ends a stage and begins the next.
        """
        keep = np.array([s != MINIMISE if stage is None else s == stage for s in self.stage], dtype=bool)
        if stage is None and "step" in self.columns and len(keep) > 1:
            steps = self.columns["step"]
            other = [a != b for a, b in pairwise(self.stage)]
            keep[1:] &= ~((steps[1:] == steps[:-1]) & keep[:-1] & other)
        times = self.columns.get("time_ps")
        if times is not None and keep.any():
            keep &= times >= times[keep].min() + skip_ps - 1e-9
        rows = np.flatnonzero(keep)
        return Log({k: v[rows] for k, v in self.columns.items()}, [self.stage[i] for i in rows])


def read_log(path: str | Path) -> Log:
    """Read the CSV log of a run.

    Args:
        path: a file with one header line, columns named with their units (`time_ps`, `electrode_0_charge_e`).
    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is empty, cut off within a row, or holds something that is not a number.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"log = {path} must be a file: give the path of a run's CSV log")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if not rows:
        raise ValueError(f"log = {path} must have a header line: the file is empty")
    names, values = rows[0], rows[1:]
    for number, row in enumerate(values, start=2):
        if len(row) != len(names):
            raise ValueError(
                f"log = {path}, line {number}: {len(row)} cells must be {len(names)}, as in the header: "
                "the file is cut off or damaged; remove that line"
            )
    stage = [row[names.index("stage")] for row in values] if "stage" in names else [""] * len(values)
    columns = {}
    for c, name in enumerate(names):
        if name == "stage":
            continue
        try:
            columns[name] = np.array([float(row[c]) if row[c] else np.nan for row in values])
        except ValueError as error:
            raise ValueError(
                f"log = {path}, column {name} must hold numbers: {error}; correct the file"
            ) from None
    return Log(columns, stage)


def read_frames(
    source: str | Path | Iterable[Atoms], stage: str | None = None, skip_ps: float = 0.0
) -> Iterator[Atoms]:
    """Frames one by one, so that a long trajectory never lies in memory whole.

    Args:
        source: a trajectory in any format that ASE reads, or frames.
        stage: only frames with this `stage` in their info; frames without one are "produce". None takes all dynamics: no
            minimisation, and once the step that ends a stage and begins the next.
        skip_ps: leave out frames before this time after the first one of the stage (by `time_fs` in info).
    Yields:
        Atoms; with `atom_charges`, `electrode_groups` and `frame_time` for what a run stores in them. Where the format
        has no array `electrode` it is that of the run's files beside the trajectory.
    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it cannot be read to its end, or misses electrodes that the run had.
    """
    began: float | None = None
    before: tuple[Any, str] | None = None
    for atoms in _with_electrodes(Path(source)) if isinstance(source, str | Path) else source:
        own = _stage(atoms)
        if own != stage if stage is not None else own == MINIMISE:
            continue
        step, last = atoms.info.get("step"), before
        before = (step, own)
        if stage is None and step is not None and last is not None and last[0] == step and last[1] != own:
            continue
        time = frame_time(atoms)
        if time is not None:
            began = time if began is None else began
            if time < began + skip_ps - 1e-9:
                continue
        elif skip_ps > 0.0:
            raise ValueError(
                f"skip_ps = {skip_ps:g} ps must be 0 for frames without `time_fs` in their info: "
                "select frames yourself"
            )
        yield atoms


def stages(trajectory: str | Path) -> list[str]:
    """Names of the stages that a trajectory holds, sorted."""
    return sorted({_stage(atoms) for atoms in _checked(Path(trajectory))})


def _stage(atoms: Atoms) -> str:
    return str(atoms.info.get("stage", "produce"))


def _with_electrodes(path: Path) -> Iterator[Atoms]:
    """Frames with the array `electrode`, which formats other than extended XYZ drop."""
    found: tuple[NDArray[np.int64], Path] | None = None
    looked = False
    for atoms in _checked(path):
        if "electrode" not in atoms.arrays:
            if not looked:
                found, looked = _electrodes_beside(path, atoms), True
            if found is not None and len(found[0]) == len(atoms):
                atoms.set_array("electrode", found[0])
                atoms.info["electrodes_from"] = str(found[1])
        yield atoms


def _electrodes_beside(path: Path, atoms: Atoms) -> tuple[NDArray[np.int64], Path] | None:
    """The array `electrode` of the run that left these atoms, and the file that has it; None of a run without electrodes.

    Raises:
        ValueError: when the run had electrodes and no file beside the trajectory says which atoms they are.
    """
    text, checkpoint = (path.with_name(path.stem + e) for e in (".extxyz", ".checkpoint.npz"))
    for file, load in ((text, _of_frames), (checkpoint, _of_checkpoint)):
        known = load(file) if file.is_file() and file != path else None
        if known is not None and np.array_equal(known.numbers, atoms.numbers):
            return np.asarray(known.arrays["electrode"], dtype=np.int64), file
    count = len(_record(path).get("electrodes", []))
    if count:
        raise ValueError(
            f"electrode = no array in {path} must name the atoms of the {count} electrodes of this run: analyse "
            f"{text.name}, or put it or {checkpoint.name} beside"
        )
    return None


def _of_frames(path: Path) -> Atoms | None:
    """The first frame of a trajectory, if it can be read and has electrodes."""
    try:
        first = next(iter(iread(path, index="0:1")))
    except Exception:  # ASE's readers raise whatever their parsing meets; another file may say it
        return None
    return first if "electrode" in first.arrays else None


def _of_checkpoint(path: Path) -> Atoms | None:
    """The structure of a run with the electrodes of its configuration, if the checkpoint can be read."""
    from grahame.hybrid.config import ElectrodeConfig
    from grahame.hybrid.engines.checkpoint import load_checkpoint
    from grahame.hybrid.engines.setup import select

    try:
        saved = load_checkpoint(path)
    except ValueError:
        return None
    electrode = np.full(len(saved.start), -1, dtype=np.int64)
    for g, block in enumerate(saved.config["electrodes"]):
        electrode[select(ElectrodeConfig.model_validate(block), saved.start, g)] = g
    saved.start.set_array("electrode", electrode)
    return saved.start


def _checked(path: Path) -> Iterator[Atoms]:
    if not path.is_file():
        raise FileNotFoundError(f"trajectory = {path} must be a file: give the path of a trajectory")
    if path.stat().st_size == 0:
        raise ValueError(f"trajectory = {path} must hold at least one frame: it is empty")
    count = 0
    frames = iread(path, index=":")
    while True:
        try:
            atoms = next(frames)
        except StopIteration:
            break
        except Exception as error:  # ASE's readers raise whatever their parsing meets
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"trajectory = {path} must be complete: after {count} frames ASE cannot read on ({reason}); "
                "continue the run with restart, which repairs its end, or remove the last frame"
            ) from error
        count += 1
        yield atoms


def frame_time(atoms: Atoms) -> float | None:
    """Time of a frame in ps, or None where it has none."""
    time = atoms.info.get("time_fs")
    return None if time is None else 1e-3 * float(time)


def atom_charges(atoms: Atoms) -> Array:
    """Charges of a frame, (n,) e: those the calculator found, or those stored with the atoms.

    Raises:
        ValueError: when the frame has none.
    """
    stored = atoms.calc.results if atoms.calc is not None else {}
    for found in (stored.get("charges"), atoms.arrays.get("charges"), atoms.arrays.get("initial_charges")):
        if found is not None:
            return np.asarray(found, dtype=np.float64)
    raise ValueError(
        "charges = nothing must be in every frame: write them as the array `charges`, as `grahame run` does"
    )


def electrode_groups(atoms: Atoms) -> list[NDArray[np.int64]]:
    """Atom indices of electrode 0, 1, ... from the array `electrode`; an empty list without one.

    Raises:
        ValueError: when the electrodes are not numbered from 0 without gaps.
    """
    groups = atoms.arrays.get("electrode")
    if groups is None:
        return []
    numbers = np.unique(groups[groups >= 0])
    if not np.array_equal(numbers, np.arange(len(numbers))):
        raise ValueError(
            f"electrode = numbers {', '.join(f'{g:g}' for g in numbers)} in the frames must count from 0 without gaps: number "
            "the electrodes anew, -1 for atoms in none"
        )
    return [np.flatnonzero(groups == g) for g in range(len(numbers))]


def files_of_run(trajectory: str | Path) -> list[Path]:
    """The trajectory and what a run keeps under the same name, whether it exists or not."""
    trajectory = Path(trajectory)
    endings = (".extxyz", ".traj", ".csv", ".provenance.json", ".checkpoint.npz")
    return [trajectory, *(trajectory.with_name(trajectory.stem + e) for e in endings)]


def read_settings(trajectory: str | Path) -> dict[str, Any]:
    """The configuration of the run that wrote a trajectory, from <name>.provenance.json; {} without one.

    `widths_A` is the Gaussian width of each element's charges where the short range was a model, `dipoles` the atomic
    dipoles that it had.

    Raises:
        ValueError: when that file is not JSON.
    """
    record = _record(Path(trajectory))
    config = record.get("config", {})
    short_range = record.get("short_range", {})
    widths = short_range.get("widths_A")
    dipoles = short_range.get("spec", {}).get("charges", {}).get("dipoles", {})
    own = ({} if widths is None else {"widths_A": widths}) | ({"dipoles": dipoles} if dipoles else {})
    return (config if isinstance(config, dict) else {}) | own


def _record(trajectory: Path) -> dict[str, Any]:
    """What <name>.provenance.json beside a trajectory holds; {} without one."""
    path = trajectory.with_name(trajectory.stem + ".provenance.json")
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"provenance = {path} must be JSON: {error}; restore or remove the file") from None
    return record if isinstance(record, dict) else {}
