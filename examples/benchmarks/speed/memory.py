"""Part "memory": peak memory of one energy and forces of a water box, in fresh processes, at a measured error."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from examples.benchmarks.speed import engines, meshes, water
from examples.benchmarks.speed.measures import spread
from examples.benchmarks.speed.reference import with_truth
from examples.benchmarks.speed.settings import Settings
from examples.benchmarks.speed.systems import Box
from examples.benchmarks.speed.systems import water as water_box
from examples.benchmarks.speed.turns import Failed, Worker

Row = dict[str, Any]

REPEATS = 3


def measure(
    size: str,
    target: float,
    names: list[str],
    settings: Settings,
    folder: Path,
    quick: bool,
    say: Callable[[str], None],
) -> Row:
    """kB per atom of every engine at one size."""
    box, case, _ = water.prepared(size, folder)
    n = len(box.charges)
    tiny, _ = with_truth(water_box(4), folder)
    tiny_case = folder / "water-tiny.npz"
    tiny.save(tiny_case)
    rows: dict[str, Row] = {}
    for name in names:
        absent = engines.unable(name, n)
        if absent:
            rows[name] = {"status": absent}
            continue
        say(f"memory {size}: {name}")
        try:
            known = water.known(name, size, target, settings, quick)
            if not known:
                with Worker(name) as worker:
                    found = water.find(name, box, case, size, target, settings, quick, worker, 1)
                known = found.settings
            if not known:
                rows[name] = {"status": f"target not reached: smallest error {found.best_error:.1e}"}
                continue
            setting = known[0]
            warm_up = _tiny(setting, tiny, target)
            held = []
            for _ in range(1 if quick else REPEATS):
                with Worker(name) as worker:
                    held.append(
                        worker.ask(
                            "memory",
                            case=str(case),
                            setting=setting,
                            tiny_case=str(tiny_case),
                            warm_up=warm_up,
                        )
                    )
            rows[name] = {
                "status": "measured",
                "label": held[0]["label"],
                "kB_per_atom": spread([h["kB"] / n for h in held]),
                "baseline_MB": held[0]["baseline_kB"] / 1024,
            }
        except Failed as failure:
            rows[name] = {"status": f"failed: {failure}"}
    return {"size": size, "atoms": n, "target": target, "engines": rows}


def _tiny(setting: Row, box: Box, target: float) -> Row:
    """The same method for the tiny box."""
    if "mesh" not in setting:
        return setting
    cutoff = min(setting["cutoff"], 6.0)
    return setting | {"cutoff": cutoff, "mesh": 16, "splitting": meshes.splitting(box, cutoff, target)}
