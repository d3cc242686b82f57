"""Files and columns of a run, and what is worth saying when it is over."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from grahame.hybrid.config import RunConfig
from grahame.hybrid.engines.checkpoint import Progress


@dataclass(frozen=True)
class Paths:
    """Files of a run."""

    trajectory: Path
    log: Path
    checkpoint: Path
    provenance: Path

    @classmethod
    def of(cls, config: RunConfig) -> Paths:
        """`folder/name` with the four endings; `~` is the user's home."""
        stem = Path(config.output.folder).expanduser() / config.output.name
        return cls(
            *(
                stem.with_name(stem.name + e)
                for e in (".extxyz", ".csv", ".checkpoint.npz", ".provenance.json")
            )
        )

    @property
    def ase_trajectory(self) -> Path:
        """The same frames in ASE's format, where they are wanted."""
        return self.trajectory.with_suffix(".traj")

    @property
    def later(self) -> list[Path]:
        """What an analysis of the trajectory leaves beside it."""
        stem = self.trajectory.name.removesuffix(".extxyz")
        return [self.trajectory.with_name(stem + e) for e in (".analysis.json", ".png")]


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    Attributes:
        completed: False when it was stopped by a signal; `restart` continues it.
        atoms: number of atoms; steps: done altogether; time_ps: simulated, minimisation not counted.
        wall_s: wall-clock seconds, restarts included; ns_per_day: of the dynamics of this call.
        temperature_K: mean over production (None without one).
        electrode_charges: mean over production, e; electrode_potentials: mean over production, V.
        drift: slope of the conserved energy over production, meV/atom/ps, where one is conserved.
        trajectory, log, checkpoint, provenance: the files.
    """

    completed: bool
    atoms: int
    steps: int
    time_ps: float
    wall_s: float
    ns_per_day: float
    temperature_K: float | None
    electrode_charges: list[float]
    electrode_potentials: list[float]
    drift: float | None
    trajectory: Path
    log: Path
    checkpoint: Path
    provenance: Path


def log_columns(electrodes: int) -> list[str]:
    """Columns of the log, units in the names."""
    per = [f"electrode_{g}_{kind}" for kind in ("charge_e", "potential_V") for g in range(electrodes)]
    return [
        "step",
        "stage",
        "time_ps",
        "temperature_K",
        "kinetic_eV",
        "omega_eV",
        "internal_eV",
        "work_eV",
        "conserved_eV",
        *per,
        "fmax_eV_per_A",
        "solver_iterations",
    ]


def summarise(config: RunConfig, progress: Progress, paths: Paths, atoms: int, speed: float) -> RunSummary:
    """Means over production, read back from the log, so that restarts are included; speed in ns/day."""
    groups = len(config.electrodes)
    with open(paths.log, newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["stage"] == "produce"]

    def column(name: str) -> NDArray[np.float64]:
        return np.array([float(r[name]) if r[name] else np.nan for r in rows])

    def means(kind: str) -> list[float]:
        return [float(column(f"electrode_{g}_{kind}").mean()) for g in range(groups)] if rows else []

    drift = None
    if len(rows) > 2 and np.isfinite(column("conserved_eV")).all():
        slope = np.polyfit(column("time_ps"), column("conserved_eV"), 1)[0]
        drift = float(1000.0 * slope / atoms)
    return RunSummary(
        completed=progress.finished,
        atoms=atoms,
        steps=progress.step,
        time_ps=1e-3 * progress.time_fs,
        wall_s=progress.wall_s,
        ns_per_day=speed,
        temperature_K=float(column("temperature_K").mean()) if rows else None,
        electrode_charges=means("charge_e"),
        electrode_potentials=means("potential_V"),
        drift=drift,
        trajectory=paths.trajectory,
        log=paths.log,
        checkpoint=paths.checkpoint,
        provenance=paths.provenance,
    )
