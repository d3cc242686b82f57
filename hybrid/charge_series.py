"""Electrode charges and potentials in time, and what their means say about each electrode and the cell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from grahame.electrostatics.profiles import surface_normal
from grahame.electrostatics.units import microcoulomb_per_cm2
from grahame.hybrid.statistics import Estimate, Mean, integral_capacitance, series_mean
from grahame.hybrid.trajectories import (
    Log,
    atom_charges,
    electrode_groups,
    frame_time,
    read_frames,
    read_log,
)

__all__ = [
    "ChargeSeries",
    "cell_summary",
    "charge_series",
    "electrode_summaries",
    "error_of",
    "frame_potentials",
    "temperature",
]

Array = NDArray[np.float64]
_SAME = 1e-6  # V or e: what is held does not move by more


@dataclass(frozen=True)
class ChargeSeries:
    """Charges and potentials of electrodes at equal intervals.

    Attributes:
        time: (m,) ps; numbers of frames where these have no time.
        charges: (m, groups) e.
        potentials: (m, groups) V; nan where they are not known.
        temperature: mean over the log, K; None without one.
        log: the file that all this comes from, None for the frames.
    """

    time: Array
    charges: Array
    potentials: Array
    temperature: Mean | None
    log: Path | None

    @property
    def interval(self) -> float:
        """Time between two values, ps."""
        return spacing(self.time)


def spacing(time: Array) -> float:
    """Time between two values, ps; 1 where there are no two."""
    steps = np.diff(time)
    return float(np.median(steps)) if len(steps) and np.median(steps) > 0 else 1.0


def charge_series(
    trajectory: str | Path,
    *,
    log: str | Path | None = None,
    stage: str | None = "produce",
    skip_ps: float = 0.0,
) -> ChargeSeries | None:
    """Charges and potentials of all electrodes in a run.

    Args:
        trajectory: of the run; its first frame names the electrodes (array `electrode`).
        log: its CSV log, denser than the frames; default <name>.csv where that exists, else the frames.
        stage, skip_ps: which part, as for `read_frames`.
    Returns:
        None when there are no electrodes, or frames without charges and no log.
    Raises:
        FileNotFoundError, ValueError: for files that cannot be used.
    """
    trajectory = Path(trajectory)
    first = next(read_frames(trajectory, stage, skip_ps), None)
    groups = [] if first is None else electrode_groups(first)
    if not groups:
        return None
    path = Path(log) if log is not None else trajectory.with_suffix(".csv")
    if log is None and not path.is_file():
        return _from_frames(trajectory, stage, skip_ps, groups)
    rows = read_log(path).during(stage, skip_ps)
    names = [[f"electrode_{g}_{kind}" for g in range(len(groups))] for kind in ("charge_e", "potential_V")]
    absent = [c for c in ["time_ps", *names[0], *names[1]] if c not in rows.columns]
    if absent:
        raise ValueError(
            f"log = {path} must have the column {absent[0]}: give the log of this trajectory, or remove it"
        )
    if not rows.stage:
        return _from_frames(trajectory, stage, skip_ps, groups)
    q, v = (np.stack([rows.columns[c] for c in kind], axis=1) for kind in names)
    return ChargeSeries(rows.columns["time_ps"], q, v, _temperature(rows), path)


def temperature(
    trajectory: str | Path,
    *,
    log: str | Path | None = None,
    stage: str | None = "produce",
    skip_ps: float = 0.0,
) -> tuple[Mean | None, Path | None]:
    """Mean temperature (K) of a run that may have no electrodes, and the log that it comes from; None without either.

    Args: as of `charge_series`.
    Raises:
        FileNotFoundError, ValueError: for a log that cannot be used.
    """
    path = Path(log) if log is not None else Path(trajectory).with_suffix(".csv")
    if log is None and not (path.is_file() and _is_log(path)):
        return None, None
    found = _temperature(read_log(path).during(stage, skip_ps))
    return found, None if found is None else path


def _is_log(path: Path) -> bool:
    """Whether a table of the same name is a run's log: its header has the time and the temperature."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return {"stage", "time_ps", "temperature_K"} <= set(file.readline().strip().split(","))


def _temperature(rows: Log) -> Mean | None:
    kelvin, time = (rows.columns.get(c, np.array([])) for c in ("temperature_K", "time_ps"))
    kelvin = kelvin[np.isfinite(kelvin)]
    return series_mean(kelvin, spacing(time)) if len(kelvin) > 1 else None


def _from_frames(
    trajectory: Path, stage: str | None, skip_ps: float, groups: list[NDArray[np.int64]]
) -> ChargeSeries | None:
    times, charges, potentials = [], [], []
    for number, atoms in enumerate(read_frames(trajectory, stage, skip_ps)):
        try:
            q = atom_charges(atoms)
        except ValueError:
            return None
        time = frame_time(atoms)
        times.append(float(number) if time is None else time)
        charges.append([q[g].sum() for g in groups])
        potentials.append(frame_potentials(atoms, len(groups)))
    return ChargeSeries(np.array(times), np.array(charges), np.array(potentials), None, None)


def frame_potentials(atoms: Atoms, count: int) -> Array:
    """Potentials of `count` electrodes from a frame's info, V; nan where they are not stored."""
    stored = np.atleast_1d(np.asarray(atoms.info.get("electrode_potentials", []), dtype=np.float64))
    return stored if len(stored) == count else np.full(count, np.nan)


def mean_of(values: Array, interval: float) -> Mean:
    """`series_mean`, with nan instead of an error where there is nothing to average."""
    if len(values) < 2 or not np.isfinite(values).all():
        value = float(values.mean()) if len(values) else math.nan
        return Mean(value, math.nan, math.nan, len(values), math.nan, math.nan, False)
    return series_mean(values, interval)


def error_of(mean: Mapping[str, Any]) -> float:
    """Error of the mean of a voltage, V, from the fields of `Mean`; 0 where it was held."""
    return float(mean["error"]) if mean["deviation"] > _SAME else 0.0


def electrode_summaries(atoms: Atoms, series: ChargeSeries | None, area: float) -> list[dict[str, Any]]:
    """Where each electrode is in a frame and what it carries on an area in Å²; units in the keys."""
    n, _, _ = surface_normal(np.array(atoms.cell))
    groups = electrode_groups(atoms)
    symbols, z = np.array(atoms.get_chemical_symbols()), atoms.positions @ n
    inside = np.zeros(len(atoms), dtype=bool)
    if groups:
        inside[np.concatenate(groups)] = True
    middle = float(z[~inside].mean()) if (~inside).any() else float(z.mean())
    out = []
    for g, members in enumerate(groups):
        layers = layer_heights(z[members])
        below = float(layers.mean()) < middle
        entry: dict[str, Any] = {
            "index": g,
            "elements": sorted(set(symbols[members].tolist())),
            "atoms": len(members),
            "layers_A": layers,
            "surface_A": layers[-1] if below else layers[0],
            "back_A": layers[0] if below else layers[-1],
        }
        if series is not None:
            charge = mean_of(series.charges[:, g], series.interval)
            entry["charge_e"] = asdict(charge)
            entry["potential_V"] = asdict(mean_of(series.potentials[:, g], series.interval))
            entry["surface_charge_uC_per_cm2"] = {
                "value": microcoulomb_per_cm2(charge.value / area),
                "error": microcoulomb_per_cm2(charge.error / area),
            }
        out.append(entry)
    return out


def layer_heights(z: Array) -> Array:
    """Mean heights of atomic layers, ascending: a new layer begins after a gap of more than 1 Å."""
    z = np.sort(z)
    return np.array([part.mean() for part in np.split(z, np.flatnonzero(np.diff(z) > 1.0) + 1)])


def cell_summary(
    electrodes: list[dict[str, Any]],
    series: ChargeSeries | None,
    area: float,
    reference: tuple[Estimate, Estimate] | None,
    unless: str | None = None,
) -> dict[str, Any] | None:
    """Voltage, charge and integral capacitance of a cell of two electrodes; None for any other number.

    Args:
        electrodes: from `electrode_summaries`.
        series: the charges and potentials; None gives None.
        area: Å².
        reference: charge (e) and voltage (V) of an independent run, to be subtracted; errors add as variances.
        unless: why there is no capacitance, e.g. a field that drives charge beside the voltage; None if there may be.
    """
    if len(electrodes) != 2 or series is None:
        return None
    bottom, top = sorted((0, 1), key=lambda g: float(np.mean(electrodes[g]["layers_A"])))
    charge = mean_of(0.5 * (series.charges[:, top] - series.charges[:, bottom]), series.interval)
    voltage = mean_of(series.potentials[:, top] - series.potentials[:, bottom], series.interval)
    q0, base = (None, Estimate(0.0, 0.0)) if reference is None else reference
    u0 = base.value
    capacitance: dict[str, Any] = {"value": None, "error": None}
    if unless is not None:
        capacitance["definition"] = f"none: {unless}"
    elif not math.isfinite(voltage.value):
        capacitance["definition"] = "none: the potentials of the electrodes are not known"
    elif voltage.deviation > _SAME and charge.deviation > _SAME:
        capacitance["definition"] = "none: neither the voltage nor the charge was constant"
    elif charge.deviation <= _SAME and voltage.deviation > _SAME and abs(charge.value) < _SAME and q0 is None:
        capacitance["definition"] = "none: the electrodes are held at no charge; give a run at another charge"
    elif abs(voltage.value - u0) < 1e-3:
        capacitance["definition"] = "none: there is no voltage difference; give a run at another voltage"
    else:
        measured = integral_capacitance(charge, voltage.value, area, q0, u0)
        # At held charges the voltage is what fluctuates.
        uncertain = math.hypot(error_of(asdict(voltage)), base.error) / (voltage.value - u0)
        error = math.hypot(measured.error, measured.value * uncertain)
        definition = "Q/(A U)" if q0 is None else "(Q - Q_ref)/(A (U - U_ref))"
        capacitance = {"value": measured.value, "error": error, "definition": definition}
    return {
        "bottom": bottom,
        "top": top,
        "voltage_V": asdict(voltage),
        "charge_e": asdict(charge),
        "capacitance_uF_per_cm2": capacitance,
    }
