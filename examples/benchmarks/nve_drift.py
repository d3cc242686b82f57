"""Energy conservation at constant potential: 20 ps of NVE on about 1,500 atoms, for each solver.

    python examples/benchmarks/nve_drift.py [--solver direct iterative] [--time-ps 20] [--model FILE] [--quick]

Au(111)|NaCl(aq)|Au(111) at 2 V with frozen electrodes, flexible water, velocity Verlet at 0.5 fs, default solver
tolerance. Omega plus the kinetic energy is fitted by a straight line; its slope per atom is the drift. Prints a
table, writes JSON and a figure, and exits with 1 when the drift exceeds 1e-3 meV/atom/ps. With --model FILE (or
au-water-nacl, the model in the box) a trained model takes the place of the classical force field, and 1e-2 is allowed;
--size and --gap choose another cell.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.constraints import FixAtoms
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from ase.optimize import FIRE

from grahame.electrostatics import Coulomb, Electrode
from grahame.hybrid import HybridCalculator
from grahame.hybrid.build import build_cell
from grahame.hybrid.engines.integrators import langevin
from grahame.hybrid.model_file import open_model
from grahame.hybrid.shortrange.base import ShortRange
from grahame.hybrid.shortrange.classical import ClassicalForceField
from grahame.hybrid.shortrange.learned import LearnedShortRange

TARGET, TARGET_OF_MODELS = 1e-3, 1e-2  # meV/atom/ps
TIMESTEP = 0.5  # fs


def calculator(atoms: Atoms, solver: str, accuracy: float, model: str | None) -> HybridCalculator:
    """The cell's calculator at 0 and 2 V."""
    short_range: ShortRange = ClassicalForceField.from_atoms(atoms, electrode_lj=False)
    if model is not None:
        short_range = LearnedShortRange(open_model(model))
    groups = [np.flatnonzero(atoms.arrays["electrode"] == g) for g in (0, 1)]
    return HybridCalculator(
        short_range=short_range,
        coulomb=Coulomb("slab", "pme", accuracy),
        electrodes=[Electrode(groups[0], potential=0.0), Electrode(groups[1], potential=2.0)],
        solver=solver,
    )


def equilibrated(
    size: tuple[int, int, int], gap: float, time_ps: float, accuracy: float, model: str | None
) -> Atoms:
    """The start of every run: built, relaxed, thermalised at 300 K."""
    atoms = build_cell("Au(111)", size=size, gap=gap, concentration=1.0, seed=1)
    atoms.set_constraint(FixAtoms(np.flatnonzero(atoms.arrays["electrode"] >= 0)))
    atoms.calc = calculator(atoms, "auto", accuracy, model)
    FIRE(atoms, logfile=None).run(fmax=0.5, steps=100)
    rng = np.random.default_rng(1)
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=rng)
    steps = max(1, round(1000 * time_ps))
    langevin(atoms, 1.0 * units.fs, 300.0, 0.01 / units.fs, rng).run(steps)
    return atoms


def conserved(
    start: Atoms, solver: str, time_ps: float, accuracy: float, model: str | None
) -> dict[str, Any]:
    """One NVE run: times, conserved energy, temperature, electrode charge."""
    atoms = start.copy()
    atoms.calc = calculator(atoms, solver, accuracy, model)
    dynamics = VelocityVerlet(atoms, TIMESTEP * units.fs)
    steps, every = round(1000 * time_ps / TIMESTEP), 10
    rows, iterations, began = [], 0, time.perf_counter()
    for step in range(steps + 1):
        if step:
            dynamics.run(1)
        iterations += int(atoms.calc.results.get("iterations", 0))
        if step % every == 0:
            energy = atoms.get_potential_energy() + atoms.get_kinetic_energy()
            charge = float(atoms.calc.results["electrode_charges"][1])
            rows.append((1e-3 * step * TIMESTEP, energy, atoms.get_temperature(), charge))
        if step % 2000 == 0:
            print(f"  {solver}: {step}/{steps} steps, {time.perf_counter() - began:.0f} s", flush=True)
    times, energies, temperatures, charges = np.array(rows).T
    per_atom = 1e3 * (energies - energies[0]) / len(atoms)
    slope = float(np.polyfit(times, per_atom, 1)[0])
    return {
        "solver": solver,
        "atoms": len(atoms),
        "time_ps": time_ps,
        "timestep_fs": TIMESTEP,
        "drift_meV_per_atom_per_ps": slope,
        "fluctuation_meV_per_atom": float(
            (per_atom - np.polyval(np.polyfit(times, per_atom, 1), times)).std()
        ),
        "mean_temperature_K": float(temperatures.mean()),
        "iterations_per_step": iterations / (steps + 1),
        "ms_per_step": 1e3 * (time.perf_counter() - began) / steps,
        "times_ps": times.round(4).tolist(),
        "conserved_meV_per_atom": per_atom.round(6).tolist(),
        "charge_e": charges.round(6).tolist(),
    }


def plot(runs: list[dict[str, Any]], path: Path) -> None:
    """Conserved energy against time."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(runs),
        figsize=(6.0, 0.6 + 1.9 * len(runs)),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for run, axis, colour in zip(runs, axes[:, 0], ("#0072B2", "#D55E00")):
        drift = 1e3 * run["drift_meV_per_atom_per_ps"]
        axis.plot(run["times_ps"], run["conserved_meV_per_atom"], color=colour, lw=0.6)
        axis.set_title(f"{run['solver']} solver: drift {drift:+.2f} µeV/atom/ps", fontsize=10, loc="left")
        axis.set_ylabel("Ω + kinetic\n(meV/atom)")
    axes[-1, 0].set_xlabel("time (ps)")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--solver", nargs="+", default=["direct", "iterative"], choices=["direct", "iterative"]
    )
    parser.add_argument("--time-ps", type=float, default=20.0)
    parser.add_argument("--equilibrate-ps", type=float, default=2.0)
    parser.add_argument("--accuracy", type=float, default=1e-4)
    parser.add_argument("--model", help="file of a trained model, or au-water-nacl")
    parser.add_argument("--size", type=int, nargs=3, default=(6, 6, 3), help="of the electrodes")
    parser.add_argument("--gap", type=float, default=52.0, help="Å between them")
    parser.add_argument("--out", type=Path, default=Path("results/nve_drift"))
    parser.add_argument("--quick", action="store_true", help="a small cell and 50 fs")
    options = parser.parse_args()
    size, gap = tuple(options.size), options.gap
    target = TARGET if options.model is None else TARGET_OF_MODELS
    if options.quick:
        size, gap, options.time_ps, options.equilibrate_ps = (3, 4, 2), 14.0, 0.05, 0.05
    options.out.parent.mkdir(parents=True, exist_ok=True)
    start = equilibrated(size, gap, options.equilibrate_ps, options.accuracy, options.model)
    runs = []
    for solver in options.solver:
        runs.append(conserved(start, solver, options.time_ps, options.accuracy, options.model))
        options.out.with_suffix(".json").write_text(
            json.dumps({"torch": torch.__version__, "accuracy": options.accuracy, "runs": runs})
        )
        plot(runs, options.out.with_suffix(".png"))
    print(
        f"{'solver':10s} {'atoms':>6s} {'ps':>5s} {'drift meV/atom/ps':>18s} {'K':>6s} {'iter/step':>9s} {'ms/step':>8s}"
    )
    for run in runs:
        print(
            f"{run['solver']:10s} {run['atoms']:6d} {run['time_ps']:5.1f} {run['drift_meV_per_atom_per_ps']:18.2e} "
            f"{run['mean_temperature_K']:6.1f} {run['iterations_per_step']:9.2f} {run['ms_per_step']:8.1f}"
        )
    # Fifty femtoseconds show that the code runs; a slope means something over picoseconds.
    failed = not options.quick and any(abs(r["drift_meV_per_atom_per_ps"]) > target for r in runs)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
