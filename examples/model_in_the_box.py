# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The model in the box beside the engine it was trained on
#
# The package comes with a small learned model of gold, water and NaCl. It was trained on a classical
# constant-potential reference whose water has fluctuating charges (SPC-FQ), so it is a distillation of that
# reference and no more. Here both run the same cell, Au(111) | NaCl(aq) | Au(111) with 190 atoms, at 0 V and at 2 V:
# the reference solves the charges of all water molecules in every step, the model predicts them from their
# surroundings; both solve the charges of the electrodes.
#
# As a script: `python model_in_the_box.py`, or `--quick` for a few steps of the same code. Units: Å, e, V, eV, ps, K.

# %%
import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from ase import units
from ase.constraints import FixAtoms
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.optimize import FIRE

from grahame.electrostatics import Coulomb
from grahame.electrostatics.units import microfarad_per_cm2
from grahame.hybrid import HybridCalculator
from grahame.hybrid.build import build_cell
from grahame.hybrid.engines.integrators import langevin
from grahame.hybrid.model_file import boxed_model, load_model
from grahame.hybrid.plots import new_figure, save
from grahame.hybrid.profiles import density_profile
from grahame.hybrid.statistics import series_mean
from grahame.hybrid.teacher import teacher_calculator
from grahame.hybrid.water import orientation_profile

IN_NOTEBOOK = "ipykernel" in sys.modules
parser = argparse.ArgumentParser(description="The model in the box beside its reference.")
parser.add_argument("--quick", action="store_true", help="a few steps of the same code")
parser.add_argument("--model", type=Path, help="another model file instead of the one in the box")
parser.add_argument("--settling", type=float, default=3.0, help="ps of each run that are not analysed")
parser.add_argument("--production", type=float, default=12.0, help="ps of each run that are analysed")
parser.add_argument("--output", type=Path, default=Path("results"), help="folder of all files")
options = parser.parse_args([] if IN_NOTEBOOK else None)
quick = options.quick or os.environ.get("GRAHAME_QUICK", "") not in ("", "0")
if quick:
    options.settling, options.production = 0.01, 0.04
folder = options.output / ("model_in_the_box_quick" if quick else "model_in_the_box")
folder.mkdir(parents=True, exist_ok=True)
TIMESTEP, EVERY = 1.0, 2 if quick else 20  # fs, steps between frames
VOLTAGES = (0.0, 2.0)

# %% [markdown]
# ## The cell and the two engines
#
# Hydrogen has three times its mass, which lets the step be 1 fs and changes no average of positions or charges.

# %%
model = load_model(options.model or boxed_model())
start = build_cell("Au(111)", size=(3, 4, 2), gap=20.0, waters=46, ion_pairs=2, seed=3)
metals = [np.flatnonzero(start.arrays["electrode"] == g) for g in (0, 1)]
water = np.flatnonzero(np.isin(start.numbers, (1, 8)))
start.set_constraint(FixAtoms(np.concatenate(metals)))
start.set_masses(np.where(start.numbers == 1, 3.024, start.get_masses()))


def engine(name, voltage):
    """The calculator of a name, with half the voltage on either side of zero."""
    potentials = [-0.5 * voltage, 0.5 * voltage]
    if name == "reference":
        return teacher_calculator(start, potentials, coulomb=Coulomb("slab", accuracy=1e-4))
    return HybridCalculator(model=model, potentials=potentials)


start.calc = engine("reference", 0.0)
FIRE(start, logfile=None).run(fmax=0.5, steps=30 if quick else 150)
rng = np.random.default_rng(1)
MaxwellBoltzmannDistribution(start, temperature_K=300, rng=rng)
langevin(start, units.fs, 300, 0.02 / units.fs, rng).run(10 if quick else 2000)
print(f"{len(start)} atoms, {model.spec.architecture.receptive_field:g} Å receptive field")

# %% [markdown]
# ## Dynamics
#
# Both engines start from the same configuration, Langevin dynamics at 300 K.

# %%
runs = {}
for name in ("reference", "model"):
    for voltage in VOLTAGES:
        atoms = start.copy()
        atoms.calc = engine(name, voltage)
        motion = langevin(atoms, TIMESTEP * units.fs, 300, 0.005 / units.fs, np.random.default_rng(2))
        motion.run(round(1000 * options.settling / TIMESTEP))
        frames, charges, began = [], [], time.perf_counter()
        steps = round(1000 * options.production / TIMESTEP)
        for _ in range(steps // EVERY):
            motion.run(EVERY)
            frame = atoms.copy()
            frame.set_array("charges", atoms.calc.results["charges"].copy())
            frames.append(frame)
            bottom, top = atoms.calc.results["electrode_charges"][:2]
            charges.append(0.5 * (top - bottom))
        spent = 1e3 * (time.perf_counter() - began) / steps
        runs[name, voltage] = frames, np.array(charges)
        mean = series_mean(charges)
        print(f"{name:9s} {voltage:g} V: Q = {mean.value:+.3f} ± {mean.error:.3f} e, {spent:.0f} ms per step")

# %% [markdown]
# ## How good single frames are
#
# On configurations of the reference's runs: errors of forces and charges. The spread of the charges is what a
# model with fixed charges would miss. The last column shows what the changing charges do to the forces: the
# electrostatic forces of the model, less those with every element's charge at its mean.

# %%
summary = {"frames": {}, "charges": {}}
for voltage in VOLTAGES:
    frames, _ = runs["reference", voltage]
    chosen = frames[:: max(1, len(frames) // (2 if quick else 20))]
    reference, learned = engine("reference", voltage), engine("model", voltage)
    force_errors, force_sizes, charge_errors, spread, moved = [], [], [], [], []
    for frame in chosen:
        frame = frame.copy()
        frame.calc = reference
        forces, q = frame.get_forces(apply_constraint=False)[water], frame.calc.results["charges"]
        frame.calc = learned
        found = frame.get_forces(apply_constraint=False)[water]
        q_learned = frame.calc.results["charges"]
        force_errors.append(found - forces)
        force_sizes.append(forces)
        charge_errors.append((q_learned - q)[water])
        mean = q_learned.copy()
        for z in (1, 8):
            mean[frame.numbers == z] = q_learned[frame.numbers == z].mean()
        spread.append((q - mean)[water])
        coulomb, widths = Coulomb("slab", accuracy=1e-4), learned.potential.short_range.widths(frame.numbers)
        both = [
            coulomb(frame.positions, v, frame.cell.array, smearing=widths).forces for v in (q_learned, mean)
        ]
        moved.append((both[0] - both[1])[water])
    rms = {
        "force error (meV/Å)": 1e3 * np.std(force_errors),
        "force (meV/Å)": 1e3 * np.std(force_sizes),
        "charge error (me)": 1e3 * np.std(charge_errors),
        "charge spread (me)": 1e3 * np.std(spread),
        "force of changing charges (meV/Å)": 1e3 * np.std(moved),
    }
    summary["frames"][voltage] = {k: float(v) for k, v in rms.items()}
    print(f"{voltage:g} V, water, rms: " + ", ".join(f"{k} {v:.1f}" for k, v in rms.items()))

# %% [markdown]
# ## Side by side
#
# Densities and orientation at 2 V, charges of the water oxygens, and the electrode charge in time. The charge
# at 2 V less that at 0 V gives the capacitance.

# %%
area = float(np.linalg.norm(np.cross(*np.array(start.cell)[:2])))
figure = new_figure(7.2, 5.4)
axes = figure.subplots(2, 2)
colours = {"reference": "#777777", "model": "#0072B2"}
for name, colour in colours.items():
    frames, charge = runs[name, 2.0]
    limits = (start.positions[:, 2].min() - 2.0, start.positions[:, 2].max() + 2.0)
    for species, style in (("O", "-"), ("H", "--")):
        profile = density_profile(frames, [species], spacing=0.2, limits=limits)
        axes[0, 0].plot(profile.z, profile.number[species], style, color=colour, label=f"{species}, {name}")
    turned = orientation_profile(frames, spacing=0.5, limits=limits)
    axes[0, 1].errorbar(turned.z, turned.cos_theta, turned.error, color=colour, lw=1, label=name)
    oxygen = np.concatenate([f.arrays["charges"][f.numbers == 8] for f in frames])
    axes[1, 0].hist(oxygen, bins=60, density=True, histtype="step", color=colour, label=name)
    means = [series_mean(runs[name, v][1]) for v in VOLTAGES]
    capacitance = (means[1].value - means[0].value) / (VOLTAGES[1] - VOLTAGES[0]) / area
    error = float(np.hypot(means[0].error, means[1].error)) / (VOLTAGES[1] - VOLTAGES[0]) / area
    summary[name] = {
        "charge_e": {v: [m.value, m.error] for v, m in zip(VOLTAGES, means)},
        "capacitance_uF_per_cm2": [microfarad_per_cm2(capacitance), microfarad_per_cm2(error)],
        "oxygen_charge_e": [float(oxygen.mean()), float(oxygen.std())],
    }
    print(
        f"{name:9s} integral capacitance {microfarad_per_cm2(capacitance):.2f} ± {microfarad_per_cm2(error):.2f} µF/cm², "
        f"oxygen {oxygen.mean():.3f} ± {oxygen.std():.3f} e (spread)"
    )
    for voltage in VOLTAGES:
        series = runs[name, voltage][1]
        times = 1e-3 * TIMESTEP * EVERY * np.arange(1, len(series) + 1)
        axes[1, 1].plot(times, series, color=colour, lw=0.7, label=name if voltage else None)
for axis, title, across, up in zip(
    axes.ravel(),
    "abcd",
    ("z (Å)", "z (Å)", "charge of oxygen (e)", "time (ps)"),
    (
        "number density at 2 V (Å⁻³)",
        "⟨cos θ⟩ of water at 2 V",
        "probability (1/e)",
        "(Q_top − Q_bottom)/2 (e)",
    ),
):
    axis.set_title(title, loc="left", fontweight="bold")
    axis.set_xlabel(across)
    axis.set_ylabel(up)
    axis.legend(fontsize=7, frameon=False)
picture = save(figure, folder / "model_in_the_box.png")
(folder / "model_in_the_box.json").write_text(json.dumps(summary, indent=1))
print(f"figure: {picture}")
if IN_NOTEBOOK:
    from IPython.display import Image, display

    display(Image(str(picture)))
