"""Part "hybrid": a step with the model in the box at constant potential, and what electrostatics adds to the model alone.

With the accuracy that the model asks for, and with the one that meets the targets of part "electrodes", measured against sums
that are a thousand times as accurate.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from examples.benchmarks.speed.electrodes import CHARGE_TARGET, FORCE_TARGET, OURS
from examples.benchmarks.speed.measures import spread
from examples.benchmarks.speed.turns import ROOT, environment

Row = dict[str, Any]

STEP_FS = 0.5
_TURNS = """
import json, sys, time
import numpy as np, torch
from ase import units
from grahame.electrostatics import Coulomb, Electrode
from grahame.hybrid import HybridCalculator
from grahame.hybrid.build import build_cell
from grahame.hybrid.model_file import open_model
from grahame.hybrid.shortrange.base import Response
from grahame.hybrid.shortrange.learned import LearnedShortRange
from examples.benchmarks.speed.measures import relative_error, rms_error
rounds, steps, compiled, quick, step_fs, ladder, charge_target, force_target = json.loads(sys.argv[1])
size, gap = ((3, 4, 2), 20.0) if quick else ((8, 8, 3), 27.0)
atoms = build_cell("Au(111)", size=size, gap=gap, concentration=1.0, seed=1)
model = open_model("au-water-nacl")
groups = [Electrode(np.flatnonzero(atoms.arrays["electrode"] == g), potential=2.0 * g) for g in (0, 1)]
def calculator(accuracy, compiled=compiled):
    short = LearnedShortRange(model, compile=compiled)
    return HybridCalculator(short, Coulomb("slab", accuracy=accuracy), groups)
def found_with(accuracy):
    atoms.calc = calculator(accuracy, compiled=False)
    forces = atoms.get_forces(apply_constraint=False)
    return forces, atoms.calc.results["charges"][np.concatenate([e.indices for e in groups])]
true_forces, true_charges = found_with(1e-3 * min(ladder))
def errors(accuracy):
    forces, charges = found_with(accuracy)
    return {"accuracy": accuracy, "charge_error": relative_error(charges, true_charges), "force_error": rms_error(forces, true_forces)}
own = errors(model.spec.accuracy)
tried = map(errors, ladder)
equal = next(e for e in tried if e["charge_error"] <= charge_target and e["force_error"] <= force_target)
calculators = {"full": calculator(model.spec.accuracy), "equal": calculator(equal["accuracy"])}
alone = LearnedShortRange(model, compile=compiled)
alone.set_solved(np.concatenate([e.indices for e in groups]))
n, rng = len(atoms), np.random.default_rng(0)
nothing = Response(np.zeros(n), np.zeros(n), np.zeros(n))
mobile = (atoms.arrays["electrode"] < 0)[:, None]
# What atoms go in a step at 300 K.
masses = atoms.get_masses()[:, None]
stride = rng.normal(size=(n, 3)) * np.sqrt(units.kB * 300 / masses) * step_fs * units.fs * mobile
start = atoms.get_positions()
cell, pbc = np.array(atoms.cell), tuple(bool(p) for p in atoms.pbc)
# There and back again, as far as atoms go in a few steps: lists are made anew about as often as in a run.
walk = np.concatenate([np.arange(20), np.arange(20, 0, -1)])
at = {"full": 0, "equal": 0, "local": 0}
def places(which):
    at[which] = (at[which] + 1) % len(walk)
    return start + walk[at[which]] * stride
def hybrid(which):
    # Each with atoms of its own, as in a run.
    images[which].set_positions(places(which))
    images[which].get_forces()
images = {which: atoms.copy() for which in calculators}
for which, image in images.items():
    image.calc = calculators[which]
def local():
    alone.compute(places("local"), atoms.numbers.astype(np.int64), cell, pbc, False).derivatives(nothing)
works = {"full": lambda: hybrid("full"), "equal": lambda: hybrid("equal"), "local": local}
found = {name: [] for name in works}
for work in works.values():
    for _ in range(3):
        work()
for _ in range(rounds):
    for name, work in works.items():
        begin = time.perf_counter()
        for _ in range(steps):
            work()
        found[name].append(1e3 * (time.perf_counter() - begin) / steps)
print(json.dumps({"atoms": n, "threads": torch.get_num_threads(), "own": own, "equal_errors": equal} | found))
"""
_CELL = """
import sys
import numpy as np
from grahame.hybrid.build import build_cell
atoms = build_cell("Au(111)", size=(8, 8, 3), gap=27.0, concentration=1.0, seed=1)
np.savez(sys.argv[1], numbers=atoms.numbers, positions=atoms.positions, cell=np.array(atoms.cell), pbc=atoms.pbc)
"""


def measure(threads: int, compiled: bool, rounds: int, quick: bool, say: Callable[[str], None]) -> Row:
    """Milliseconds of a step: forces at held potentials with both accuracies, and of the local model alone, in turns."""
    say(f"hybrid: {threads} thread{'s' * (threads > 1)}{', compiled' * compiled}")
    settings = json.dumps(
        [rounds, 4 if quick else 20, compiled, quick, STEP_FS, OURS, CHARGE_TARGET, FORCE_TARGET]
    )
    found = _answer([sys.executable, "-c", _TURNS, settings], threads)
    if "status" in found:
        return found
    full, equal, local = (spread(found[name]) for name in ("full", "equal", "local"))
    return {
        "status": "measured",
        "atoms": found["atoms"],
        "threads": found["threads"],
        "compiled": compiled,
        "own": found["own"],
        "step_ms": full,
        "equal": found["equal_errors"],
        "equal_ms": equal,
        "local_ms": local,
        "added_own": full["median"] / local["median"] - 1.0,
        "added": equal["median"] / local["median"] - 1.0,
        "ns_per_day": 86.4 * STEP_FS / full["median"],
    }


def mace(python: str, threads: int, rounds: int, say: Callable[[str], None]) -> Row:
    """Milliseconds of energy and forces of MACE alone for the same atoms, by an interpreter that has it."""
    say(f"MACE: {threads} thread{'s' * (threads > 1)}")
    with tempfile.TemporaryDirectory() as folder:
        cell = str(Path(folder) / "cell.npz")
        made = subprocess.run(
            [sys.executable, "-c", _CELL, cell], cwd=ROOT, env=environment(threads), check=False
        )
        if made.returncode or shutil.which(python) is None:
            return {"status": f"failed: no cell, or no {python}", "threads": threads}
        script = str(Path(__file__).parent / "mace_step.py")
        # Its e3nn reads a pickle of constants when it is imported, which torch refuses by default.
        found = _answer(
            [python, "-W", "ignore", script, cell, "3", str(rounds)],
            threads,
            TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1",
        )
    if "status" in found:
        return found
    layers = {f"layers_{name}_ms": spread(times) for name, times in found["ms"].items()}
    return {"status": "measured", "threads": found["threads"], "torch": found["torch"]} | layers


def _answer(command: list[str], threads: int, **variables: str) -> Row:
    """What a process prints last, or why it did not."""
    done = subprocess.run(
        command, cwd=ROOT, env=environment(threads) | variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"status": f"failed: {lines[-1] if lines else done.returncode}", "threads": threads}
    answer: Row = json.loads(done.stdout.splitlines()[-1])
    return answer
