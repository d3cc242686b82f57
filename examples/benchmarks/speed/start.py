"""Part "start": first energy of a fresh process, with and without compiled code, and `grahame --help`."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from examples.benchmarks.speed.measures import spread
from examples.benchmarks.speed.turns import ROOT, environment

Row = dict[str, Any]

_FIRST = {
    "water": """
import json, time
start = time.perf_counter()
import numpy as np
from grahame.electrostatics import Coulomb
imported = time.perf_counter() - start
from examples.benchmarks.speed.systems import WATER_SIDES, water
box = water(WATER_SIDES["3k"])
start = time.perf_counter()
energy = Coulomb("3d", "pme", 1e-4)(box.positions, box.charges, box.cell).energy
print(json.dumps({"import_s": imported, "first_s": time.perf_counter() - start, "energy": float(energy)}))
""",
    "slab": """
import json, time
start = time.perf_counter()
from grahame.hybrid import HybridCalculator
from grahame.hybrid.build import build_cell
imported = time.perf_counter() - start
atoms = build_cell("Au(111)", size=(8, 8, 3), gap=27.0, concentration=1.0, seed=1)
start = time.perf_counter()
atoms.calc = HybridCalculator()
energy = atoms.get_potential_energy()
print(json.dumps({"import_s": imported, "first_s": time.perf_counter() - start, "energy": float(energy)}))
""",
}


def measure(rounds: int, say: Callable[[str], None]) -> Row:
    """Seconds on one thread for 3,000 atoms of water, and for 1,508 atoms with the model in the box at held potentials."""
    found: dict[str, tuple[dict[str, float], list[dict[str, float]]]] = {}
    for kind in _FIRST:
        with tempfile.TemporaryDirectory() as cache:
            say(f"start: first energy without compiled code, {kind}")
            cold = _first(kind, cache)
            say(f"start: first energy with compiled code, {kind}")
            found[kind] = cold, [_first(kind, cache) for _ in range(rounds)]
    say("start: grahame --help")
    beside = Path(sys.executable).parent / "grahame"
    program = [str(beside)] if beside.exists() else [sys.executable, "-c", _HELP]
    _seconds([*program, "--help"])
    return {
        kind: {
            "cold_s": cold,
            "warm_s": {key: spread([w[key] for w in warm]) for key in ("import_s", "first_s", "process_s")},
        }
        for kind, (cold, warm) in found.items()
    } | {
        "help_s": spread([_seconds([*program, "--help"]) for _ in range(rounds)]),
        "help_by": "console script" if beside.exists() else "interpreter",
    }


_HELP = "import sys; from grahame.hybrid.cli import main; main(sys.argv[1:])"


def _first(kind: str, cache: str) -> dict[str, float]:
    """Import, first energy and whole process, with compiled code kept in `cache`."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _FIRST[kind]],
        cwd=ROOT,
        env=environment(1) | {"NUMBA_CACHE_DIR": cache},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found | {"process_s": time.perf_counter() - begin}


def _seconds(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=environment(1), capture_output=True, check=True)
    return time.perf_counter() - begin
