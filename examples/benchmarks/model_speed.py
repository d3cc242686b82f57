"""Time of energy and forces of the local model for water boxes, eager and compiled, with 1 and 2 threads.

    python examples/benchmarks/model_speed.py [--threads 1 2] [--quick] [--out FILE.json]

Boxes of 64 and 343 waters (192 and 1,029 atoms) at 0.997 g/cm³, cut-off 4.5 Å (some 40 neighbours), float32,
random weights: speed only. Neighbour tables are kept, as between steps of dynamics. Each thread count runs in a
process of its own; medians of repeated calls, with the spread of the middle half, and the largest difference of
compiled from eager forces relative to the largest force.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from grahame.hybrid.model import ChargeSpec, HybridModel, ModelSpec
from grahame.hybrid.shortrange.base import Response
from grahame.hybrid.shortrange.equivariant import Architecture
from grahame.hybrid.shortrange.learned import LearnedShortRange


def water_box(side: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Waters near the points of a cubic lattice, turned at random: positions, cell, atomic numbers."""
    rng = np.random.default_rng(seed)
    spacing = (18.015 / (0.997 * 0.60221)) ** (1 / 3)
    points = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3) + 0.5
    oxygen = points * spacing + rng.uniform(-0.2, 0.2, points.shape)
    angle = math.radians(109.47)
    water = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [math.cos(angle), math.sin(angle), 0.0]])
    turns = np.linalg.qr(rng.normal(size=(len(points), 3, 3)))[0]
    positions = (oxygen[:, None] + water @ turns).reshape(-1, 3)
    return positions, np.eye(3) * spacing * side, np.tile([8, 1, 1], len(points))


def measure(side: int, layers: int, repeats: int) -> dict[str, Any]:
    """Eager and compiled times of one box."""
    positions, cell, numbers = water_box(side)
    zeros = np.zeros(len(positions))
    spec = ModelSpec(
        elements=("H", "O"),
        architecture=Architecture(cutoff=4.5, layers=layers),
        charges=ChargeSpec(kind="none"),
    )
    torch.manual_seed(0)
    model = HybridModel(spec)
    out: dict[str, Any] = {"atoms": len(positions), "layers": layers, "threads": torch.get_num_threads()}
    found = {}
    for name in ("eager", "compiled"):
        short_range = LearnedShortRange(model, compile=name == "compiled")

        def once(s: LearnedShortRange = short_range) -> np.ndarray:
            result = s.compute(positions, numbers, cell, (True, True, True), False)
            return result.derivatives(Response(zeros, zeros, zeros))[0]

        began = time.perf_counter()
        found[name] = once()
        out[f"{name}_first_s"] = round(time.perf_counter() - began, 2)
        once()
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            once()
            times.append(1e3 * (time.perf_counter() - began))
        low, middle, high = np.percentile(times, [25, 50, 75])
        out[f"{name}_ms"] = round(float(middle), 2)
        out[f"{name}_spread_ms"] = round(float(high - low), 2)
    difference = np.abs(found["compiled"] - found["eager"]).max() / np.abs(found["eager"]).max()
    out["difference"] = float(difference)
    return out


def main() -> int:
    """Run every thread count, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--quick", action="store_true", help="the small box, one layer, one thread, few repeats"
    )
    parser.add_argument("--out", type=Path, default=Path("results/model_speed.json"))
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    cases = [(4, 1)] if options.quick else [(4, 1), (7, 1), (4, 2), (7, 2)]
    repeats = 3 if options.quick else 30
    if options.child:
        torch.set_num_threads(options.threads[0])
        print(json.dumps([measure(side, layers, repeats) for side, layers in cases]))
        return 0
    rows: list[dict[str, Any]] = []
    for threads in options.threads[:1] if options.quick else options.threads:
        command = [sys.executable, __file__, "--child", "--threads", str(threads)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        run = subprocess.run(
            command + ["--quick"] * options.quick,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            sys.exit(run.stderr)
        rows += json.loads(run.stdout.splitlines()[-1])
    print(
        f"{'atoms':>6s} {'layers':>6s} {'threads':>7s} {'eager ms':>16s} {'compiled ms':>16s} {'first s':>8s} {'difference':>10s}"
    )
    for r in rows:
        print(
            f"{r['atoms']:6d} {r['layers']:6d} {r['threads']:7d} {r['eager_ms']:9.1f} ± {r['eager_spread_ms']:4.1f} "
            f"{r['compiled_ms']:9.1f} ± {r['compiled_spread_ms']:4.1f} {r['compiled_first_s']:8.1f} {r['difference']:10.1e}"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    facts = {"torch": torch.__version__, "machine": platform.machine(), "cores": os.cpu_count()}
    options.out.write_text(json.dumps(facts | {"rows": rows}, indent=1) + "\n")
    return 1 if any(r["difference"] > 1e-6 for r in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
