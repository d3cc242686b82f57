"""Part "batches": energy and forces of many cells of 200 atoms at once, each with a new neighbour list, at equal error."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from examples.benchmarks.speed import engines, search_mesh
from examples.benchmarks.speed.reference import with_truth
from examples.benchmarks.speed.settings import Settings, our_sources
from examples.benchmarks.speed.systems import small
from examples.benchmarks.speed.turns import Failed, Turn, Worker, started, take_turns

Row = dict[str, Any]

BATCHED = ("ours", "nvalchemi", "torch-pme", "mlipops")
SEARCHED = 4  # boxes that settings are searched with


def measure(
    counts: list[int],
    target: float,
    names: list[str],
    rounds: int,
    settings: Settings,
    folder: Path,
    quick: bool,
    say: Callable[[str], None],
) -> list[Row]:
    """Milliseconds of every batch size, all engines in turns."""
    cases: list[Path] = []
    for seed in range(max(*counts, SEARCHED)):
        box, _ = with_truth(small(seed), folder)
        cases.append(folder / f"small-{seed}.npz")
        box.save(cases[-1])
    first, _ = with_truth(small(0), folder)
    rows: list[Row] = [
        {"batch": count, "atoms": count * len(first.charges), "target": target, "engines": {}}
        for count in counts
    ]
    turns: list[Turn] = []
    with ExitStack() as stack:
        able = [n for n in names if n in BATCHED][: 2 if quick else None]
        workers = started([n for n in able if not engines.missing(n)], stack)
        for name in able:
            absent = engines.missing(name)
            if absent:
                for row in rows:
                    row["engines"][name] = {"status": absent}
                continue
            say(f"batches: settings of {name}")
            try:
                worker = workers[name]
                setting = _setting(name, worker, cases[:SEARCHED], first, target, settings, quick)
                for row in rows:
                    if setting is None:
                        row["engines"][name] = {"status": "target not reached"}
                        continue
                    slot = f"{name} {row['batch']}"
                    opened = worker.ask(
                        "open_batch",
                        slot=slot,
                        cases=[str(c) for c in cases[: row["batch"]]],
                        setting=setting,
                    )
                    row["engines"][name] = {"status": "measured", "setting": setting} | opened
                    turns.append(Turn(slot, worker, slot, True))
            except Failed as failure:
                for row in rows:
                    row["engines"].setdefault(name, {"status": f"failed: {failure}"})
        say(f"batches: {len(turns)} timings in turns")
        times = take_turns(turns, rounds, 0.05 if quick else 0.4, say=say)
    for row in rows:
        for name, one in row["engines"].items():
            if one["status"] == "measured":
                found = times.get(f"{name} {row['batch']}", {})
                one |= {"step": found} if "wall_ms" in found else {"status": f"failed: {found.get('failed')}"}
    return rows


def _setting(
    name: str, worker: Worker, cases: list[Path], box: Any, target: float, settings: Settings, quick: bool
) -> Row | None:
    """The cheapest setting for a few of the boxes."""

    def open_one(slot: str, setting: Row) -> Row:
        return worker.ask("open_batch", slot=slot, cases=[str(c) for c in cases], setting=setting)

    def close(slot: str) -> Row:
        return worker.ask("close", slot=slot)

    def cost(slot: str) -> float:
        return float(min(worker.ask("steps", slot=slot, count=1, rebuild=True)["cpu_ms"] for _ in range(3)))

    version = our_sources() if name == "ours" else engines.versions()[name]
    key = f"batches/{name}/{version}/{target:.0e}/{'quick' if quick and name != 'ours' else 'full'}"
    held: Row | None = settings.get(key)
    if held is not None:
        return held
    if name == "ours":
        found = _ours(open_one, close, cost, target)
    else:
        found = search_mesh.peer_settings(name, box, target, open_one, close, cost, [], 1, quick).settings
    if not found:
        return None
    settings.put(key, found[0])
    return found[0]


def _ours(
    open_one: search_mesh.Open, close: Callable[[str], Any], cost: Callable[[str], float], target: float
) -> list[Row]:
    """The loosest accuracy of both methods, the cheaper one first."""
    found: list[tuple[float, Row]] = []
    for method in ("ewald", "pme"):
        for factor in search_mesh.FACTORS:
            setting = {"accuracy": factor * target, "method": method}
            error = open_one("try", setting)["error"]
            if error <= target:
                found.append((cost("try"), setting | {"error": error}))
                close("try")
                break
            close("try")
    return [setting for _, setting in sorted(found, key=lambda pair: pair[0])]
