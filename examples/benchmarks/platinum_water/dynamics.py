"""Dynamics with a model: a neutral slab at constant displacement, and two electrodes at constant potential."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms

from grahame.electrostatics.units import microcoulomb_per_cm2, microfarad_per_cm2
from grahame.hybrid.analysis import analyse
from grahame.hybrid.charge_series import charge_series
from grahame.hybrid.config import parse_config
from grahame.hybrid.engines.run import run
from grahame.hybrid.statistics import series_mean
from grahame.hybrid.trajectories import atom_charges, read_frames
from grahame.hybrid.water import find_waters, orientation_profile, water_bonds
from platinum_water.common import (
    BLUE,
    FOUR_PI_K,
    GREY,
    LAYERS,
    ORANGE,
    Array,
    area_of,
    layers_of,
    new_figure,
    save_figure,
)  # fmt: skip

HEAVY_HYDROGEN = 3.024  # amu
FIRST_LAYER = 4.5  # Å from the outermost nuclei


def dynamics(options: argparse.Namespace, name: str, start: Path, conditions: dict[str, Any]) -> Path:
    """Run, continue or find finished; the trajectory. An interrupted run ends the program here."""
    quick = options.quick
    stage = {"ensemble": "langevin", "temperature_K": 300.0, "timestep_fs": 1.0}
    short = {"model": str(options.model.resolve()), "compile": options.compile}
    config = parse_config(
        {
            "structure": {"file": str(start.resolve())},
            "short_range": short,
            **conditions,
            "dynamics": {
                "seed": 1,
                # The start is of another model of the same reference: only what is badly wrong is relaxed.
                "minimise": {"fmax": 2.0, "steps": 3 if quick else 100},
                "equilibrate": stage | {"time_ps": options.settling, "friction_per_ps": 5.0},
                "produce": stage | {"time_ps": options.production, "friction_per_ps": 1.0},
            },
            "output": {
                "name": name,
                "folder": str(options.out),
                "trajectory_interval": 4 if quick else 20,
                "log_interval": 2 if quick else 10,
                "overwrite": quick,
            },
        }
    )
    summary = run(config, restart=not quick, progress=sys.stderr.isatty())
    if not summary.completed:
        raise SystemExit(f"{name} was interrupted: start the program again to continue it")
    per_step = 1e3 * summary.wall_s / max(1, summary.steps)
    print(
        f"{name}: {summary.atoms} atoms, {summary.time_ps:.2f} ps, {per_step:.0f} ms per step, {summary.temperature_K:.0f} K"
    )
    return summary.trajectory


def start_structure(folder: Path, number: int) -> Atoms:
    """One of the equilibrated cells, metal below water, without velocities."""
    atoms = ase.io.read(folder / "poscar_start" / f"POSCAR_{number}")
    atoms = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    atoms.set_masses(np.where(atoms.numbers == 1, HEAVY_HYDROGEN, atoms.get_masses()))
    return atoms


def between_surfaces(atoms: Atoms, vacuum: float) -> None:
    """Put the metal into the middle of the cell, and vacuum (Å; 0 for none) where the cell ends; molecules stay whole."""
    height = float(atoms.cell[2, 2])
    atoms.positions[:, 2] += 0.5 * height - atoms.positions[atoms.numbers == 78, 2].mean()
    atoms.wrap()
    waters = find_waters(atoms)
    atoms.positions[waters[:, 1:]] = atoms.positions[waters[:, :1]] + water_bonds(atoms, waters)
    atoms.cell[2, 2] = height + vacuum
    atoms.positions[:, 2] += 0.5 * vacuum


def displacement(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Water at the two faces of a neutral metal slab at D = 0, +D0, -D0."""
    atoms = start_structure(folder, options.start)
    between_surfaces(atoms, options.vacuum)
    atoms.set_array("electrode", np.where(atoms.numbers == 78, 0, -1))
    start = options.out / "displacement_start.extxyz"
    ase.io.write(start, atoms)
    layers = [atoms.positions[i, 2] for i in layers_of(atoms)]
    low, high = float(layers[0].mean()), float(layers[-1].mean())
    reach = 0.5 * (float(atoms.cell[2, 2]) - options.vacuum - (high - low)) + 2.0
    sides: dict[str, list[tuple[Array, Array, Array]]] = {"positive": [], "negative": [], "neutral": []}
    result: dict[str, Any] = {"D0_V_per_A": options.displacement, "runs": {}}
    for sign in (0, 1, -1):
        d = sign * options.displacement
        name = f"displacement_{sign:+d}" if sign else "displacement_0"
        conditions = {
            "coulomb": {"boundary": "displacement", "accuracy": options.accuracy},
            "displacement": d,
            "electrodes": [{"group": 0, "charge": 0.0}],
        }
        trajectory = dynamics(options, name, start, conditions)
        frames = list(read_frames(trajectory, "produce"))
        upper = np.concatenate(layers_of(frames[0])[LAYERS // 2 :])
        charge = series_mean([float(atom_charges(f)[upper].sum()) for f in frames])
        result["runs"][name] = {
            "D_V_per_A": d,
            "D_uC_per_cm2": microcoulomb_per_cm2(d / FOUR_PI_K),
            "upper_half_e": [charge.value, charge.error],
            "expected_e": d * area_of(np.array(atoms.cell)) / FOUR_PI_K,
        }
        print(
            f"    upper half of the metal {charge.value:+.4f} ± {charge.error:.4f} e, eps0 A D = {result['runs'][name]['expected_e']:+.4f} e"
        )
        for above in (True, False):
            side = "neutral" if sign == 0 else "positive" if (sign > 0) == above else "negative"
            sides[side].append(_outwards(frames, high if above else low, above, reach))
    for side, profiles_ in sides.items():
        result[side] = _at_face(profiles_)
        first = result[side]["first_layer_cos"]
        print(
            f"{side} face: <cos theta> of water within {FIRST_LAYER:g} Å "
            + " and ".join(f"{v:+.3f}" for v in first)
        )
    # Each face in both runs: what the two faces have of their own drops out.
    turn = 0.5 * np.subtract(
        result["positive"]["first_layer_cos"], result["negative"]["first_layer_cos"][::-1]
    )
    result["first_layer_turn"] = [float(turn.mean()), float(0.5 * abs(turn[0] - turn[1]))]
    print(f"half the difference of opposite charges: {turn.mean():+.3f} ± {0.5 * abs(turn[0] - turn[1]):.3f}")
    _orientation_figure(result, options.out / "displacement.png")
    return result


def _outwards(frames: list[Atoms], face: float, above: bool, reach: float) -> tuple[Array, Array, Array]:
    """Distance from a face, molecules per Å³, and cosine with the normal that leaves the metal, per bin."""
    limits = (face, face + reach) if above else (face - reach, face)
    found = orientation_profile(frames, spacing=0.25, limits=limits)
    cosine = found.cos_theta if above else -found.cos_theta[::-1]
    density = found.density if above else found.density[::-1]
    return np.abs(found.z - face)[:: 1 if above else -1], density, cosine


def _at_face(runs: list[tuple[Array, Array, Array]]) -> dict[str, Any]:
    """Profiles of the two equivalent faces, and the mean cosine in the first layer of each."""
    z = runs[0][0]
    weights = np.array([density for _, density, _ in runs])
    cosines = np.nan_to_num(np.array([c for _, _, c in runs]))
    # Of a quarter of an Å little is known: what is shown is a mean over 1 Å.
    window = np.ones(5) / 5.0
    smooth = [np.array([np.convolve(row, window, "same") for row in v]) for v in (weights * cosines, weights)]
    with np.errstate(invalid="ignore", divide="ignore"):
        turned = np.where(smooth[1] > 1e-6, smooth[0] / smooth[1], np.nan)
    near = z < FIRST_LAYER
    first = [float((w * c)[near].sum() / max(w[near].sum(), 1e-12)) for w, c in zip(weights, cosines)]
    return {
        "z_A": z.tolist(),
        "waters_per_A3": weights.mean(axis=0).tolist(),
        "cos_theta": [[None if np.isnan(v) else float(v) for v in row] for row in turned],
        "first_layer_cos": first,
    }


def _orientation_figure(result: dict[str, Any], path: Path) -> None:
    figure = new_figure(6.4, 3.0)
    if figure is None:
        return
    left, right = figure.subplots(1, 2)
    for side, colour in (("positive", ORANGE), ("neutral", GREY), ("negative", BLUE)):
        entry = result[side]
        left.plot(entry["z_A"], entry["waters_per_A3"], color=colour, lw=1, label=side)
        for number, row in enumerate(entry["cos_theta"]):
            right.plot(
                entry["z_A"],
                np.array(row, dtype=float),
                color=colour,
                lw=1,
                ls=("-", "--")[number],
                label=None if number else side,
            )
    left.set(xlabel="distance from the face (Å)", ylabel="molecules (Å⁻³)")
    right.set(
        xlabel="distance from the face (Å)",
        ylabel="⟨cos θ⟩, H outwards: +1",
        title=f"D0 = {result['D0_V_per_A']:g} V/Å, two faces",
    )
    right.axhline(0.0, color="0.6", lw=0.6)
    left.legend(fontsize=7, frameon=False)
    save_figure(figure, path)


def voltage(options: argparse.Namespace, folder: Path, image_shift: float | None) -> dict[str, Any]:
    """Pt | water | Pt from one of the periodic cells: the metal cut in two, its lower half put on top.

    Args:
        options: of the program; folder: of the data.
        image_shift: from the model's image plane to the reference's, outwards, Å; None where it is not known.
    """
    atoms = start_structure(folder, options.start)
    layers = layers_of(atoms)
    height = float(atoms.cell[2, 2])
    electrode = np.full(len(atoms), -1)
    bottom, top = np.concatenate(layers[LAYERS // 2 :]), np.concatenate(layers[: LAYERS // 2])
    electrode[bottom], electrode[top] = 0, 1
    atoms.positions[top, 2] += height
    atoms.set_array("electrode", electrode)
    atoms.positions[:, 2] += 5.0 - atoms.positions[:, 2].min()
    atoms.cell[2, 2] = atoms.positions[:, 2].max() + 5.0
    atoms.pbc = (True, True, False)
    start = options.out / "voltage_start.extxyz"
    ase.io.write(start, atoms)
    area = area_of(np.array(atoms.cell))
    analyses: list[dict[str, Any]] = []
    charges: dict[float, Any] = {}
    for volts in options.voltages:
        conditions = {
            "coulomb": {"boundary": "slab", "accuracy": options.accuracy},
            "electrodes": [{"group": g, "potential": (g - 0.5) * volts} for g in (0, 1)],
        }
        trajectory = dynamics(options, f"voltage_{volts:g}V", start, conditions)
        analyses.append(analyse(trajectory, spacing=0.25))
        series = charge_series(trajectory)
        assert series is not None
        charges[volts] = series_mean(0.5 * (series.charges[:, 1] - series.charges[:, 0]), series.interval)
        mean = charges[volts]
        print(
            f"    Q = {mean.value:+.4f} ± {mean.error:.4f} e, {microcoulomb_per_cm2(mean.value / area):+.3f} µC/cm²"
            + ("" if mean.converged else " (its error is a lower bound)")
        )
    result: dict[str, Any] = {
        "area_A2": area,
        "charge_e": {v: asdict(m) for v, m in charges.items()},
        "capacitance_uF_per_cm2": {},
    }
    base = options.voltages[0]
    for volts in options.voltages[1:]:
        density = (charges[volts].value - charges[base].value) / area
        error = float(np.hypot(charges[volts].error, charges[base].error)) / area
        entry = {}
        for name, shift in (("as run", 0.0), ("image planes moved", image_shift)):
            if shift is None:
                continue
            # A wider vacuum gap adds a voltage drop of its own and nothing else: the charge stays what it was.
            difference = volts - base - 2.0 * FOUR_PI_K * density * shift
            relative = error / abs(density) * (volts - base) / abs(difference)
            value = microfarad_per_cm2(density / difference)
            entry[name] = {"at_V": base + difference, "value": value, "error": abs(value) * relative}
            print(
                f"{base:g} to {volts:g} V, {name}: {value:.2f} ± {abs(value) * relative:.2f} µF/cm² "
                f"(voltage {difference:.2f} V)"
            )
        result["capacitance_uF_per_cm2"][volts] = entry
    (options.out / "voltage_analysis.json").write_text(json.dumps(analyses) + "\n")
    _voltage_figure(options.voltages, analyses, options.out / "voltage.png")
    return result


def _voltage_figure(voltages: list[float], analyses: list[dict[str, Any]], path: Path) -> None:
    figure = new_figure(7.2, 5.4)
    if figure is None:
        return
    (a, b), (c, d) = figure.subplots(2, 2)
    colours = (GREY, ORANGE, BLUE)
    for number, (volts, found) in enumerate(zip(voltages, analyses)):
        style: Any = {"color": colours[number % len(colours)], "lw": 1.0, "label": f"{volts:g} V"}
        bottom = min(e["surface_A"] for e in found["electrodes"])
        density, turned, electrostatic = (
            found["profiles"][k] for k in ("density", "orientation", "electrostatic")
        )
        a.plot(np.array(density["z_A"]) - bottom, density["number_per_A3"]["O"], **style)
        cosine = np.array(turned["cos_theta"], dtype=float)
        b.plot(np.array(turned["z_A"]) - bottom, cosine, **style)
        c.plot(np.array(electrostatic["z_A"]) - bottom, electrostatic["potential_V"], **style)
        time, charges = (np.array(found["series"][k]) for k in ("time_ps", "electrode_charge_e"))
        d.plot(time - time[0], 0.5 * (charges[1] - charges[0]), **style)
    a.set(ylabel="oxygen (Å⁻³)")
    b.set(ylabel="⟨cos θ⟩, H upwards: +1")
    c.set(ylabel="potential (V)")
    d.set(xlabel="time (ps)", ylabel="(Q_top − Q_bottom)/2 (e)")
    for axis in (a, b, c):
        axis.set_xlabel("distance from the bottom electrode (Å)")
    a.legend(fontsize=7, frameon=False)
    save_figure(figure, path)
