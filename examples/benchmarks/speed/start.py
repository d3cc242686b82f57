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

_FIRST = """
import json, time
start = time.perf_counter()
import numpy as np
from grahame.electrostatics import Coulomb
imported = time.perf_counter() - start
from examples.benchmarks.speed.systems import WATER_SIDES, water
box = water(WATER_SIDES["3k"])
start = time.perf_counter()
found = Coulomb("3d", "pme", 1e-4)(box.positions, box.charges, box.cell)
print(json.dumps({"import_s": imported, "first_s": time.perf_counter() - start, "energy": float(found.energy)}))
"""


def measure(rounds: int, say: Callable[[str], None]) -> Row:
    """Seconds on one thread for 3,000 atoms of water."""
    with tempfile.TemporaryDirectory() as cache:
        say("start: first energy without compiled code")
        cold = _first(cache)
        say("start: first energy with compiled code")
        warm = [_first(cache) for _ in range(rounds)]
    say("start: grahame --help")
    beside = Path(sys.executable).parent / "grahame"
    program = [str(beside)] if beside.exists() else [sys.executable, "-c", _HELP]
    _seconds([*program, "--help"])
    return {
        "cold_s": cold,
        "warm_s": {key: spread([w[key] for w in warm]) for key in ("import_s", "first_s", "process_s")},
        "help_s": spread([_seconds([*program, "--help"]) for _ in range(rounds)]),
        "help_by": "console script" if beside.exists() else "interpreter",
    }


_HELP = "import sys; from grahame.hybrid.cli import main; main(sys.argv[1:])"


def _first(cache: str) -> dict[str, float]:
    """Import, first energy and whole process, with compiled code kept in `cache`."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _FIRST],
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
