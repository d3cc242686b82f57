"""One file with everything a run needs to continue with the same bits."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import dict2constraint
from ase.io.jsonio import decode, encode
from numpy.typing import NDArray

from grahame.hybrid.engines.files import write_atomically

FORMAT = 1


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        stage: name of the stage; stage_step: steps done in it; step: steps done altogether.
        begun: whether the stage's first row and frame are in the files.
        still: whether the whole stands still in this stage, so that its three degrees of freedom do not count.
        time_fs: simulated time, minimisation not counted.
        drive: work done on the cell by changing potentials, sum of -Q dpsi, eV.
        wall_s: wall-clock seconds spent.
        trajectory_bytes, log_bytes: lengths of the files.
        finished: nothing is left to do.
    """

    stage: str = ""
    stage_step: int = 0
    begun: bool = False
    still: bool = False
    step: int = 0
    time_fs: float = 0.0
    drive: float = 0.0
    wall_s: float = 0.0
    trajectory_bytes: int = 0
    log_bytes: int = 0
    finished: bool = False


@dataclass
class Checkpoint:
    """Content of a checkpoint file.

    Attributes:
        config: the configuration as nested dicts.
        progress: where the run stands.
        rng: state of the random generator.
        start: the structure as it was at the start (molecules are recognised from it).
        positions, momenta: of the atoms now, Å and amu Å per ASE time.
        model: SHA-256 of the model file, None with a classical short range.
        integrator, calculator, potentiostat: their internal numbers.
    """

    config: dict[str, Any]
    progress: Progress
    rng: dict[str, Any]
    start: Atoms
    positions: NDArray[np.float64]
    momenta: NDArray[np.float64]
    model: str | None = None
    integrator: dict[str, NDArray[Any]] = field(default_factory=dict)
    calculator: dict[str, NDArray[Any]] = field(default_factory=dict)
    potentiostat: dict[str, NDArray[Any]] = field(default_factory=dict)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; whatever happens, the file is the old or the new one, never a part."""
    header = {
        "format": FORMAT,
        "config": checkpoint.config,
        "progress": asdict(checkpoint.progress),
        "rng": checkpoint.rng,
        "model": checkpoint.model,
        "pbc": [bool(p) for p in checkpoint.start.pbc],
        "constraints": json.loads(encode([c.todict() for c in checkpoint.start.constraints])),
    }
    arrays: dict[str, NDArray[Any]] = {
        "header": np.array(json.dumps(header)),
        "cell": np.asarray(checkpoint.start.cell),
        "positions": checkpoint.positions,
        "momenta": checkpoint.momenta,
    }
    # Columns of words are arrays of objects where ASE reads them, which no checkpoint may hold.
    columns = {k: v.astype(str) if v.dtype == object else v for k, v in checkpoint.start.arrays.items()}
    arrays |= {f"start.{k}": v for k, v in columns.items()}
    for group in ("integrator", "calculator", "potentiostat"):
        arrays |= {f"{group}.{k}": v for k, v in getattr(checkpoint, group).items()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when the file is damaged or of another format.
    """
    if not path.exists():
        raise FileNotFoundError(f"checkpoint = {path} must exist: run once without restart")
    try:
        # numpy leaves a file that it opened itself open when its content is damaged.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {k: file[k] for k in file.files}
        header = json.loads(str(arrays.pop("header")))
        known = header["format"] == FORMAT
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"checkpoint = {path} must be a complete file of `grahame run`: it is damaged; start again under "
            "another output.name"
        ) from error
    if not known:
        raise ValueError(
            f"checkpoint = format {header['format']} must be of format {FORMAT}: continue it with the version of "
            "grahame that wrote it"
        )
    groups: dict[str, dict[str, NDArray[Any]]] = {
        "start": {},
        "integrator": {},
        "calculator": {},
        "potentiostat": {},
    }
    for key, value in arrays.items():
        group, dot, name = key.partition(".")
        if dot:
            groups[group][name] = value
    start = Atoms(
        numbers=groups["start"].pop("numbers"),
        positions=groups["start"].pop("positions"),
        cell=arrays["cell"],
        pbc=header["pbc"],
    )
    for name, value in groups["start"].items():
        start.set_array(name, value)
    start.set_constraint([dict2constraint(c) for c in decode(json.dumps(header["constraints"]))])
    return Checkpoint(
        config=header["config"],
        progress=Progress(**header["progress"]),
        rng=header["rng"],
        start=start,
        positions=arrays["positions"],
        momenta=arrays["momenta"],
        model=header.get("model"),
        integrator=groups["integrator"],
        calculator=groups["calculator"],
        potentiostat=groups["potentiostat"],
    )


# Keys that change no number already written: they may differ at a restart.
_FREE = ("output.checkpoint_interval", "output.overwrite", "output.ase_trajectory", "output.folder")


def changed_keys(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the keys in which two configurations differ, free ones left out."""
    changed: list[str] = []
    for key in sorted({*old, *new}):
        a, b, name = old.get(key), new.get(key), f"{prefix}{key}"
        if isinstance(a, dict) and isinstance(b, dict):
            changed += changed_keys(a, b, f"{name}.")
        elif a != b and name not in _FREE:
            changed.append(name)
    return changed
