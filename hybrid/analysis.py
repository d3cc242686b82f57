"""What a constant-potential run says: charges, capacitance and profiles, as one JSON-able dictionary.

The parts can be used alone: `read_frames`, `density_profile`, `orientation_profile`, `electrostatic_profile`,
`series_mean`, `integral_capacitance`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from grahame.electrostatics.profiles import surface_normal
from grahame.electrostatics.units import COULOMB_CONSTANT
from grahame.hybrid.charge_series import (
    ChargeSeries,
    cell_summary,
    charge_series,
    electrode_summaries,
    error_of,
    frame_potentials,
    temperature,
)
from grahame.hybrid.profiles import (
    DensityCounter,
    DensityProfile,
    ElectrostaticCounter,
    ElectrostaticProfile,
    Grid,
    density_profile,
    electrolyte_species,
    electrostatic_profile,
)
from grahame.hybrid.statistics import (
    Estimate,
    Mean,
    block_errors,
    differential_capacitance,
    integral_capacitance,
    running_mean,
    series_mean,
)
from grahame.hybrid.trajectories import (
    Log,
    atom_charges,
    electrode_groups,
    frame_time,
    read_frames,
    read_log,
    read_settings,
    stages,
)
from grahame.hybrid.water import OrientationCounter, OrientationProfile, find_waters, orientation_profile

__all__ = [
    "DensityProfile",
    "ElectrostaticProfile",
    "Estimate",
    "Log",
    "Mean",
    "OrientationProfile",
    "analyse",
    "atom_charges",
    "block_errors",
    "density_profile",
    "differential_capacitance",
    "electrode_groups",
    "electrostatic_profile",
    "find_waters",
    "integral_capacitance",
    "orientation_profile",
    "read_frames",
    "read_log",
    "running_mean",
    "series_mean",
]

Array = NDArray[np.float64]
_SMEARING = 0.392  # Å, of electrodes where nothing says otherwise
_POINTS = 2000  # of a time series in the result


def analyse(
    trajectory: str | Path,
    *,
    log: str | Path | None = None,
    reference: str | Path | None = None,
    stage: str | None = "produce",
    skip_ps: float = 0.0,
    spacing: float = 0.1,
    limits: tuple[float, float] | None = None,
    boundary: str | None = None,
    smearing: float | Sequence[float] | None = None,
    field: float | None = None,
    displacement: float | None = None,
) -> dict[str, Any]:
    """Everything that a trajectory of electrodes and an electrolyte shows, ready for `json.dumps`.

    Args:
        trajectory: any format that ASE reads; of `grahame run`, <name>.extxyz with <name>.csv and
            <name>.provenance.json beside it.
        log: CSV log with the electrode charges; default <name>.csv where it exists. Without one the charges
            come from the frames.
        reference: trajectory of an independent run at another voltage (usually 0 V) whose charge is
            subtracted for the integral capacitance.
        stage: which stage of the run; None for all dynamics, without minimisation.
        skip_ps: time left out at its beginning.
        spacing: bin width of densities and electrostatics in Å (orientation: twice that).
        limits: lowest and highest z, Å; default the whole cell.
        boundary: as in `Coulomb`; default that of the run, else from the frames (periodic along c with two
            unequal potentials: "finite-field", without: "3d", not periodic along c: "slab").
        smearing: Gaussian width of electrode atoms in Å, one for all or one per electrode; default that of
            the run, else 0.392. The electrolyte's charges are points.
        field, displacement: along n in V/Å; default those of the run.
    Returns:
        A dictionary; numbers without a value are None. Keys, with units in their names:

        - trajectory, log, stage, frames, atoms, formula, time_ps (length of what was used), area_A2 and
          height_A (means over the frames), boundary, temperature_K (mean and error; None without log)
        - electrodes_from: file that names the electrodes' atoms, None for the trajectory itself
        - electrodes: per electrode index, elements, atoms, layers_A (heights of its layers), surface_A (the
          layer that faces the electrolyte), charge_e and potential_V (fields of `Mean`), and
          surface_charge_uC_per_cm2
        - cell: of two electrodes bottom, top, voltage_V, charge_e of (Q_top - Q_bottom)/2,
          capacitance_uF_per_cm2 with value, error and definition (or why there is none)
        - series: time_ps, electrode_charge_e and electrode_potential_V (one list per electrode each); thinned
          to 2,000 points
        - profiles: density {z_A, number_per_A3 and number_error_per_A3 by species, mass_g_per_cm3};
          orientation {z_A, cos_theta, cos_theta_error, waters_per_A3} or None; electrostatic {z_A,
          charge_density_e_per_A3, electrolyte_charge_density_e_per_A3, field_V_per_A, potential_V,
          potential_error_V, potential_reference} or None, with its reason in `missing`
    Raises:
        FileNotFoundError: when a file does not exist.
        ValueError: for files or values that cannot be used.
    """
    trajectory = Path(trajectory)
    if not (math.isfinite(skip_ps) and skip_ps >= 0.0):
        raise ValueError(
            f"skip_ps = {skip_ps:g} ps must be finite and not negative: give a time to leave out"
        )
    settings = read_settings(trajectory)
    frames = read_frames(trajectory, stage, skip_ps)
    first = next(frames, None)
    if first is None:
        found = stages(trajectory)
        raise ValueError(
            f"stage = {stage or 'all'} with skip_ps = {skip_ps:g} ps must leave at least one frame: "
            f"the trajectory has the stages {', '.join(found)}; choose another or skip less"
        )
    _refuse_axes(first)
    coulomb = settings.get("coulomb", {})
    groups = electrode_groups(first)
    boundary = boundary or coulomb.get("boundary") or _guess_boundary(first)
    widths = smearing if smearing is not None else settings.get("solver", {}).get("smearing")
    grid = Grid(first, spacing, limits)
    density = DensityCounter(grid, electrolyte_species(first), electrolyte=True)
    orientation = OrientationCounter(Grid(first, 2 * spacing, limits))
    missing = _why_no_electrostatics(first, boundary, bool(settings.get("dipoles")))
    electrostatic = None
    if missing is None:
        electrostatic = ElectrostaticCounter(
            grid,
            boundary,
            _per_atom(widths, groups, first, settings.get("widths_A")),
            field if field is not None else settings.get("field"),
            displacement if displacement is not None else settings.get("displacement"),
            coulomb.get("coulomb_constant") or COULOMB_CONSTANT,
        )
    times: list[float | None] = []
    rooms: list[tuple[float, float]] = []
    for atoms in chain([first], frames):
        times.append(frame_time(atoms))
        rooms.append(surface_normal(np.array(atoms.cell))[1:])
        density.add(atoms)
        orientation.add(atoms)
        if electrostatic is not None:
            electrostatic.add(atoms)
    series = charge_series(trajectory, log=log, stage=stage, skip_ps=skip_ps)
    warmth, source = (
        temperature(trajectory, log=log, stage=stage, skip_ps=skip_ps)
        if series is None
        else (series.temperature, series.log)
    )
    area, height = (float(v) for v in np.mean(rooms, axis=0))
    known = [t for t in times if t is not None]
    electrodes = electrode_summaries(first, series, area)
    base = None if reference is None else _base(Path(reference), stage, skip_ps, first)
    result = {
        "trajectory": str(trajectory),
        "log": None if source is None else str(source),
        "stage": stage,
        "frames": len(times),
        "atoms": len(first),
        "formula": first.get_chemical_formula(),
        "time_ps": known[-1] - known[0] if known else None,
        "area_A2": area,
        "height_A": height,
        "boundary": boundary,
        "temperature_K": None if warmth is None else asdict(warmth),
        "electrodes_from": first.info.get("electrodes_from"),
        "electrodes": electrodes,
        "cell": cell_summary(electrodes, series, area, base, _driven(boundary, settings, field)),
        "series": _thinned(series),
        "profiles": {
            "density": _density(density.result()),
            "orientation": _orientation(orientation.result()),
            "electrostatic": None
            if electrostatic is None
            else _referenced(electrostatic.result(), electrodes),
            "missing": missing,
        },
    }
    plain: dict[str, Any] = _plain(result)
    return plain


def _why_no_electrostatics(atoms: Atoms, boundary: str, dipoles: bool) -> str | None:
    if boundary == "open":
        return "an open system has no surface normal along which to average"
    if dipoles:
        return "frames hold the charges of a model with atomic dipoles, but not these dipoles"
    try:
        atom_charges(atoms)
    except ValueError as error:
        return str(error)
    return None


def _refuse_axes(atoms: Atoms) -> None:
    """Heights are taken along a x b, which is no surface normal where c repeats and a or b does not."""
    if atoms.pbc[2] and not atoms.pbc[:2].all():
        flags = ", ".join(str(bool(p)) for p in atoms.pbc)
        raise ValueError(
            f"pbc = ({flags}) must be (True, True, False) for a slab, (True, True, True) or (False, False, False): reorder the "
            "cell so that its third vector leaves the surface"
        )


def _guess_boundary(atoms: Atoms) -> str:
    if not atoms.pbc[2]:
        return "slab" if atoms.pbc[:2].all() else "open"
    held = np.unique(np.round(frame_potentials(atoms, 2), 9))
    return "finite-field" if np.isfinite(held).all() and len(held) == 2 else "3d"


def _per_atom(
    widths: Any, groups: list[NDArray[np.int64]], atoms: Atoms, model: dict[str, float] | None
) -> Array:
    """(n,) Å: of electrodes what is given, else of the model's elements, else 0.392 Å; of the rest points without one."""
    out = np.array([0.0 if model is None else model[s] for s in atoms.get_chemical_symbols()])
    if widths is None and model is not None:
        return out
    values = np.asarray(_SMEARING if widths is None else widths, dtype=np.float64)
    if values.ndim == 1 and len(values) != len(groups):
        raise ValueError(
            f"smearing = {len(values)} values must be one or one per electrode ({len(groups)}): "
            "give widths in Å"
        )
    for g, members in enumerate(groups):
        out[members] = values if values.ndim == 0 else values[g]
    return out


def _driven(boundary: str, settings: Mapping[str, Any], field: Any) -> str | None:
    """What charges the electrodes beside their voltage, if anything does."""
    if boundary == "displacement":
        return "at constant displacement the field drives the charge, not the voltage"
    given = field if field is not None else settings.get("field")
    if given is not None and np.any(np.asarray(given, dtype=float) != 0.0):
        return "an applied field charges the electrodes as well"
    return None


def _base(reference: Path, stage: str | None, skip_ps: float, of: Atoms) -> tuple[Estimate, Estimate]:
    """Charge (e) and voltage (V) of the run to subtract, which must be of the same cell."""
    first = next(read_frames(reference, stage, skip_ps), None)
    cell = None
    if first is not None:
        mine, other = (surface_normal(np.array(a.cell))[1] for a in (of, first))
        formulas = [a.get_chemical_formula() for a in (of, first)]
        if formulas[0] != formulas[1] or abs(mine - other) > 1e-6 * mine:
            raise ValueError(
                f"reference = {reference}, {formulas[1]} on {other:.6g} Å², must be a run of the same cell, {formulas[0]} on "
                f"{mine:.6g} Å²: only then is the difference of charges that of the voltages"
            )
        settings = read_settings(reference)
        if why := _driven(settings.get("coulomb", {}).get("boundary", ""), settings, None):
            raise ValueError(
                f"reference = {reference} must be a run whose charge its voltage makes alone: {why}; give another one"
            )
        series = charge_series(reference, stage=stage, skip_ps=skip_ps)
        cell = cell_summary(electrode_summaries(first, series, 1.0), series, 1.0, None)
    if cell is None:
        raise ValueError(
            f"reference = {reference} must be a run with two electrodes: give one of the same cell"
        )
    charge, voltage = cell["charge_e"], cell["voltage_V"]
    return Estimate(charge["value"], charge["error"]), Estimate(voltage["value"], error_of(voltage))


def _thinned(series: ChargeSeries | None) -> dict[str, Any] | None:
    if series is None:
        return None
    count = len(series.time)
    rows = np.unique(np.linspace(0, count - 1, min(_POINTS, count)).astype(int))
    return {
        "time_ps": series.time[rows],
        "electrode_charge_e": series.charges[rows].T,
        "electrode_potential_V": series.potentials[rows].T,
    }


def _density(p: DensityProfile) -> dict[str, Any]:
    return {"z_A": p.z, "number_per_A3": p.number, "number_error_per_A3": p.error, "mass_g_per_cm3": p.mass}


def _orientation(p: OrientationProfile) -> dict[str, Any] | None:
    if not p.density.any():
        return None
    return {"z_A": p.z, "cos_theta": p.cos_theta, "cos_theta_error": p.error, "waters_per_A3": p.density}


def _referenced(p: ElectrostaticProfile, electrodes: list[dict[str, Any]]) -> dict[str, Any]:
    """The potential on the scale of the held potentials where there is one."""
    shift, reference = 0.0, "gauge of the boundary"
    if electrodes:
        held, back = electrodes[0].get("potential_V", {}).get("value", math.nan), electrodes[0]["back_A"]
        # Nothing is known of the potential outside of given limits.
        if math.isfinite(held) and p.z[0] <= back <= p.z[-1]:
            shift = held - float(np.interp(back, p.z, p.potential))
            reference = "the outermost layer of electrode 0 is at its electrode potential"
    return {
        "z_A": p.z,
        "charge_density_e_per_A3": p.charge_density,
        "electrolyte_charge_density_e_per_A3": p.electrolyte,
        "field_V_per_A": p.field,
        "potential_V": p.potential + shift,
        "potential_error_V": p.error,
        "potential_reference": reference,
    }


def _plain(value: Any) -> Any:
    """Only what JSON knows; nan and infinity become None."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
