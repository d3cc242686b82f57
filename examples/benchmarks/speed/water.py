"""Part "water": energy and forces of water boxes, all engines in turns at equal measured error."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from examples.benchmarks.speed import engines, search_mesh
from examples.benchmarks.speed.reference import with_truth
from examples.benchmarks.speed.settings import Settings, our_sources
from examples.benchmarks.speed.systems import WATER_SIDES, Box, water
from examples.benchmarks.speed.turns import LONGEST, Failed, Turn, Worker, started, take_turns

Say = Callable[[str], None]
Row = dict[str, Any]

SECONDS = 0.4  # of one turn
MISSED = 1.01  # times the target; single precision does not always round alike
# Beyond this many atoms a peer takes part with its best setting only.
MANY = 20_000


def prepared(size: str, folder: Path) -> tuple[Box, Path, Row]:
    """A box with its converged forces, the file that workers read, and what the forces are."""
    box, description = with_truth(water(WATER_SIDES[size]), folder)
    case = folder / f"water-{size}.npz"
    box.save(case)
    return box, case, description


def key_of(engine: str, target: float, quick: bool) -> str:
    """Where an engine's settings at a target are kept."""
    version = our_sources() if engine == "ours" else engines.versions()[engine]
    return f"water/{engine}/{version}/{target:.0e}/{'quick' if quick and engine != 'ours' else 'full'}"


def known(engine: str, size: str, target: float, settings: Settings, quick: bool) -> list[Row]:
    """Settings that were found before."""
    return settings.get(f"{key_of(engine, target, quick)}/{size}") or []


def find(
    engine: str,
    box: Box,
    case: Path,
    size: str,
    target: float,
    settings: Settings,
    quick: bool,
    worker: Worker,
    keep: int,
) -> search_mesh.Found:
    """Settings of an engine at a target, kept ones first."""

    def open_one(slot: str, setting: Row) -> Row:
        return worker.ask("open_water", slot=slot, case=str(case), setting=setting)

    def close(slot: str) -> Row:
        return worker.ask("close", slot=slot)

    def cost(slot: str) -> float:
        # The processor's time is what other processes on the machine change least.
        first = float(worker.ask("steps", slot=slot, count=1, rebuild=True)["cpu_ms"])
        if first > 1e3 * LONGEST:
            return first
        return float(min(worker.ask("steps", slot=slot, count=2, rebuild=True)["cpu_ms"] for _ in range(2)))

    key = key_of(engine, target, quick)
    kept = known(engine, size, target, settings, quick)
    if kept:
        return search_mesh.Found(kept[:keep], min(s["error"] for s in kept))
    if engine == "ours":
        found = search_mesh.our_setting(open_one, close, target)
    else:
        smaller = [s for s in WATER_SIDES if WATER_SIDES[s] < WATER_SIDES[size]]
        before: list[Row] = next((k for s in reversed(smaller) if (k := settings.get(f"{key}/{s}"))), [])
        found = search_mesh.peer_settings(
            engine, box, target, open_one, close, cost, before, max(keep, 3), quick
        )
    if found.settings:
        settings.put(f"{key}/{size}", found.settings)
    return search_mesh.Found(found.settings[:keep], found.best_error)


def measure(
    size: str,
    target: float,
    names: list[str],
    threads: list[int],
    rounds: int,
    settings: Settings,
    folder: Path,
    quick: bool,
    say: Say,
) -> Row:
    """One size at one target: every engine's error and times, and ratios to ours."""
    box, case, reference = prepared(size, folder)
    n = len(box.charges)
    rows: dict[str, Row] = {}
    turns: list[Turn] = []
    with ExitStack() as stack:
        workers = started([m for m in names if not engines.unable(m, n)], stack)
        for name in names:
            absent = engines.unable(name, n)
            if absent:
                rows[name] = {"status": absent}
                continue
            try:
                worker = workers[name]
                keep = 2 if name == "lammps" and n < MANY else 1
                say(f"water {size} {target:.0e}: settings of {name}")
                found = find(name, box, case, size, target, settings, quick, worker, keep)
                if not found.settings:
                    rows[name] = {
                        "status": f"target not reached: smallest error {found.best_error:.1e}",
                        "note": engines.ENGINES[name].note,
                    }
                    continue
                many = [t for t in threads if t > 1 and name in ("ours", "lammps", "openmm")]
                for k, setting in enumerate(found.settings):
                    slot = f"{name}#{k}"
                    opened = worker.ask("open_water", slot=slot, case=str(case), setting=setting)
                    if opened["error"] > MISSED * target:
                        rows[slot] = {
                            "status": f"kept setting misses by now, error {opened['error']:.1e}: --fresh"
                        }
                        continue
                    rows[slot] = {"status": "measured", "setting": setting} | opened
                    turns += _both(slot, worker, slot)
                    for t in many if k == 0 else []:
                        rows[slot].setdefault("threads", {})[str(t)] = _more(
                            stack, name, t, case, setting, turns
                        )
            except Failed as failure:
                rows[name] = {"status": f"failed: {failure}", "note": engines.ENGINES[name].note}
        if torch.cuda.is_available() and "ours#0" in rows:
            setting = rows["ours#0"]["setting"] | {"device": "cuda"}
            worker = stack.enter_context(Worker("ours"))
            opened = worker.ask("open_water", slot="gpu", case=str(case), setting=setting)
            rows["ours-gpu#0"] = {"status": "measured", "setting": setting} | opened
            turns += _both("ours-gpu#0", worker, "gpu")
        say(f"water {size} {target:.0e}: {len(turns)} timings in turns")
        times = take_turns(turns, rounds, 0.05 if quick else SECONDS, say=say)
    return {
        "size": size,
        "atoms": n,
        "target": target,
        "reference": reference,
        "engines": _chosen(rows, times),
        "ours_on_gpu": "measured" if "ours-gpu#0" in rows else "not measured: no CUDA device",
    }


def _both(name: str, worker: Worker, slot: str) -> list[Turn]:
    """Steps with a kept neighbour list, and with a new one each time."""
    return [Turn(f"{name} kept", worker, slot, False), Turn(f"{name} new", worker, slot, True)]


def _more(stack: ExitStack, name: str, count: int, case: Path, setting: Row, turns: list[Turn]) -> Row:
    """The same engine and setting on more threads."""
    try:
        worker = stack.enter_context(Worker(name, count))
        worker.ask("open_water", slot="many", case=str(case), setting=setting)
    except Failed as failure:
        return {"status": f"failed: {failure}"}
    turns += _both(f"{name} on {count}", worker, "many")
    return {"status": "measured"}


def _chosen(rows: dict[str, Row], times: dict[str, Row]) -> dict[str, Row]:
    """The fastest setting of every engine with its times, and times on more threads."""
    out: dict[str, Row] = {}
    for slot, row in rows.items():
        name = slot.split("#")[0]
        if row["status"] != "measured":
            out.setdefault(name, row)
            continue
        row |= {"kept": times.get(f"{slot} kept", {}), "new": times.get(f"{slot} new", {})}
        if any("wall_ms" not in row[mode] for mode in ("kept", "new")):
            said = row["new"].get("failed") or row["kept"].get("failed")
            row = {"status": f"failed: {said}"}
        for count, more in row.get("threads", {}).items():
            more |= {mode: times.get(f"{name} on {count} {mode}", {}) for mode in ("kept", "new")}
            for mode in ("kept", "new"):
                if "wall_ms" in more[mode]:
                    more[f"speedup_{mode}"] = row[mode]["wall_ms"]["median"] / more[mode]["wall_ms"]["median"]
        before = out.get(name)
        if before is None or before["status"] != "measured":
            out[name] = row
        elif row["status"] == "measured" and _new(row) < _new(before):
            out[name] = row | ({"threads": before["threads"]} if "threads" in before else {})
    ours = out.get("ours", {})
    for row in out.values():
        if row["status"] == "measured" and ours.get("status") == "measured":
            row["ours_over_this"] = {
                f"{mode}_{clock}": ours[mode][clock]["median"] / row[mode][clock]["median"]
                for mode in ("kept", "new")
                for clock in ("wall_ms", "cpu_ms")
            }
        for count, more in row.get("threads", {}).items():
            mine = ours.get("threads", {}).get(count, {})
            more["ours_over_this"] = {
                f"{mode}_wall_ms": mine[mode]["wall_ms"]["median"] / more[mode]["wall_ms"]["median"]
                for mode in ("kept", "new")
                if "wall_ms" in mine.get(mode, {}) and "wall_ms" in more[mode]
            }
    return out


def _new(row: Row) -> float:
    return float(row["new"]["wall_ms"]["median"])
