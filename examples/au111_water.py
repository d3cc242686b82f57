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
# # Gold, salt water, gold: a cell at 0 V and at 2 V
#
# A capacitor of two Au(111) electrodes with about 1,500 atoms and 1 mol/L NaCl between them is built, brought to
# 300 K, and run with the electrodes held at 0 V and at 2 V: their charges are solved for in every step. Then the
# profiles of density, orientation, charge, field and potential, the electrode charge in time, and the capacitance
# with its error bar are computed from what was written.
#
# As a script: `python au111_water.py`, or `--quick` for a small cell and a few steps of the same code. Files go to
# `results/`; what is finished there is not run again, what was interrupted is continued, and a larger
# `--production` prolongs what is there.
#
# Units: Å, e, V, eV, ps, K.

# %%
import argparse
import json
import os
import sys
from pathlib import Path

from grahame.hybrid.analysis import analyse, differential_capacitance
from grahame.hybrid.charge_series import charge_series
from grahame.hybrid.config import parse_config
from grahame.hybrid.engines.run import run
from grahame.hybrid.engines.setup import load_structure, prepare

IN_NOTEBOOK = "ipykernel" in sys.modules
parser = argparse.ArgumentParser(description="Au(111)/NaCl(aq)/Au(111) at 0 V and 2 V, with figures.")
parser.add_argument("--quick", action="store_true", help="a small cell and a few steps of the same code")
parser.add_argument("--equilibration", type=float, default=5.0, help="ps at 0 V before everything else")
parser.add_argument("--settling", type=float, default=5.0, help="ps at each voltage that are not analysed")
parser.add_argument("--production", type=float, default=20.0, help="ps at each voltage that are analysed")
parser.add_argument("--output", type=Path, default=Path("results"), help="folder of all files")
options = parser.parse_args([] if IN_NOTEBOOK else None)
quick = options.quick or os.environ.get("GRAHAME_QUICK", "") not in ("", "0")
if quick:
    options.equilibration, options.settling, options.production = 0.05, 0.03, 0.06
folder = options.output / ("au111_water_quick" if quick else "au111_water")

# %% [markdown]
# ## The cell
#
# Two electrodes of three layers of 8 x 8 gold atoms, 27 Å apart, filled with flexible SPC/Fw water and NaCl. The
# same blocks of settings serve all runs; `grahame run` reads them as YAML.

# %%
COMMON = {
    "short_range": {"water": "spc/fw", "cutoff": 7.0 if quick else 10.0},
    "coulomb": {"boundary": "slab", "accuracy": 1e-4},
}
BUILD = {"surface": "Au(111)", "size": [4, 4, 2] if quick else [8, 8, 3], "gap": 16.0 if quick else 27.0}
BUILD |= {"water_density": 0.997, "concentration": 1.0, "seed": 1}
STAGE = {"temperature_K": 300.0, "timestep_fs": 1.0}


def settings(name, voltage, structure, dynamics):
    """A checked configuration: `voltage` is held between the electrodes, half on either side of zero."""
    return parse_config(
        {
            **COMMON,
            "structure": structure,
            "electrodes": [
                {"group": 0, "potential": -0.5 * voltage},
                {"group": 1, "potential": 0.5 * voltage},
            ],
            "dynamics": {"seed": 1, **dynamics},
            "output": {
                "name": name,
                "folder": str(folder),
                "trajectory_interval": 10 if quick else 50,
                "log_interval": 2 if quick else 10,
            },
        }
    )


def complete(name, configuration):
    """Run, continue or find finished; an interrupted run ends the example here and is continued next time."""
    summary = run(configuration, restart=True)
    charge = f"<Q_top> = {summary.electrode_charges[1]:+.3f} e, " if summary.electrode_charges else ""
    print(f"{name}: {summary.atoms} atoms, {summary.time_ps:.2f} ps, {charge}{summary.trajectory}")
    if not summary.completed:
        raise SystemExit(f"{name} was interrupted: start the example again to continue it")
    return summary


# %% [markdown]
# ## Equilibrate
#
# The packed liquid is relaxed and heated to 300 K with both electrodes at the same potential (a shorted cell).

# %%
start = complete(
    "equilibration",
    settings(
        "equilibration",
        0.0,
        {"build": BUILD},
        {
            "minimise": {"fmax": 0.5, "steps": 20 if quick else 200},
            "equilibrate": {"ensemble": "langevin", "time_ps": options.equilibration, **STAGE},
        },
    ),
)

# %% [markdown]
# ## Run at 0 V and at 2 V
#
# Both runs start from the same equilibrated liquid. The first part, in which the double layers form, is not
# analysed. Ions cross the cell in hundreds of ps: for numbers to publish, take `--production` of some ns.

# %%
voltages = (0.0, 2.0)
summaries, configurations = {}, {}
for voltage in voltages:
    name = f"cell_{voltage:g}V"
    configurations[voltage] = settings(
        name,
        voltage,
        {"file": str(start.trajectory.resolve())},
        {
            "equilibrate": {"ensemble": "langevin", "time_ps": options.settling, **STAGE},
            "produce": {"ensemble": "nose-hoover", "time_ps": options.production, **STAGE},
        },
    )
    summaries[voltage] = complete(name, configurations[voltage])

# %% [markdown]
# ## Charges and capacitance
#
# The mean of the electrode charge has its standard error from blocking (Flyvbjerg and Petersen). The integral
# capacitance is the difference of the two runs,
# $C = (\langle Q\rangle_{2\,\mathrm V}-\langle Q\rangle_{0\,\mathrm V})/(A\,\Delta U)$. It belongs to the whole cell: both
# double layers and the water between them in series.

# %%
zero, two = summaries[0.0].trajectory, summaries[2.0].trajectory
results = [analyse(zero), analyse(two, reference=zero)]
(folder / "analysis.json").write_text(json.dumps(results))
for result in results:
    charge = result["cell"]["charge_e"]
    kelvin = result["temperature_K"]["value"]
    doubt = "" if charge["converged"] else " (at least: the run is too short for its error)"
    print(
        f"{result['cell']['voltage_V']['value']:.1f} V: Q = {charge['value']:+.3f} ± {charge['error']:.3f} e{doubt}, "
        f"{kelvin:.0f} K, {result['frames']} frames"
    )
integral = results[1]["cell"]["capacitance_uF_per_cm2"]
print(
    f"integral capacitance {integral['value']:.2f} ± {integral['error']:.2f} µF/cm², {integral['definition']}"
)

# %% [markdown]
# The fluctuations of the charge at one voltage give the differential capacitance there,
# $C = \mathrm{Var}(Q)/k_BT + C_0$. The second part is the response of the metal at fixed ions; charges that are
# solved for in every step do not sample it.

# %%
simulation = prepare(configurations[0.0], load_structure(configurations[0.0]))
simulation.atoms.get_forces()
solver = simulation.calculator.potential.solver
series = charge_series(zero)
area = results[0]["area_A2"]
half_difference = 0.5 * (series.charges[:, 1] - series.charges[:, 0])
fluctuation = differential_capacitance(half_difference, 300.0, solver, area)
print(f"differential capacitance at 0 V {fluctuation.value:.2f} ± {fluctuation.error:.2f} µF/cm²")
print(
    f"of which the metal alone: {differential_capacitance([0.0, 0.0], 300.0, solver, area).value:.2f} µF/cm²"
)

# %% [markdown]
# ## Profiles
#
# Solid lines belong to 2 V, dashed lines to 0 V; bands are standard errors. (a, b) densities of water and ions from
# the bottom electrode (negative at 2 V) to the top one; (c) mean cosine between the molecules' dipoles and the
# direction to the top electrode; (d) plane-averaged charge density; (e) field; (f) potential, which meets the held
# potentials inside the metal; (g) charge of the electrodes against time.

# %%
try:
    from grahame.hybrid import plots

    figure = plots.overview(results, folder / "overview.png")
except ImportError as error:
    print(error)
else:
    print(f"figure: {folder / 'overview.png'}")
    if IN_NOTEBOOK:
        from IPython.display import Image, display

        display(Image(str(folder / "overview.png")))
