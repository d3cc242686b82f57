"""From the rows of all parts: fitted exponents, and targets met or missed."""

from dataclasses import replace
from typing import Any

from examples.benchmarks.speed import targets
from examples.benchmarks.speed.measures import fitted_exponent

Row = dict[str, Any]
MODES = {"kept": "list kept", "new": "new list in every step"}
# Below this many atoms a second thread has little to do, and libraries weigh on the memory per atom.
LARGE = 10_000


def exponents(results: Row) -> list[Row]:
    """t ~ n^p of every engine, target and mode over the water boxes that were measured."""
    points: dict[tuple[str, float, str], list[tuple[int, float]]] = {}
    for row in results.get("water", {}).values():
        for engine, one in row["engines"].items():
            if one["status"] == "measured":
                for mode in MODES:
                    points.setdefault((engine, row["target"], mode), []).append(
                        (row["atoms"], one[mode]["wall_ms"]["median"])
                    )
    out = []
    for (engine, target, mode), some in points.items():
        some.sort()
        p = fitted_exponent([n for n, _ in some], [t for _, t in some])
        if p is not None:
            out.append(
                {
                    "engine": engine,
                    "target": target,
                    "mode": mode,
                    "exponent": p,
                    "atoms": [n for n, _ in some],
                }
            )
    return out


def judged(results: Row) -> list[Row]:
    """Every target with what was measured for it."""
    out: list[Row] = []
    seen_water = set()
    for row in results.get("water", {}).values():
        target = targets.water_target(row["size"], row["target"])
        if target is None:
            continue
        seen_water.add((row["size"], row["target"]))
        for threads, ratios in _ratios(row, "lammps"):
            for mode, words in MODES.items():
                named = replace(target, name=f"{target.name}, {words}{threads}")
                out.append(targets.judge(named, ratios.get(f"{mode}_wall_ms")))
    for size in ("12k", "48k"):
        for accuracy in (1e-4, 1e-6):
            target = targets.water_target(size, accuracy)
            if target is not None and (size, accuracy) not in seen_water:
                out.append(targets.judge(target, None))
    out += _electrodes(results)
    setups = {
        row["electrode_atoms"]: row["engines"].get("ours", {}) for row in results.get("setup", {}).values()
    }
    for atoms, target in targets.SETUP.items():
        out.append(targets.judge(target, setups.get(atoms, {}).get("seconds", {}).get("median")))
    out += _hybrid(results) + _exponents(results) + _threads(results) + _memory(results)
    return out


def _ratios(row: Row, peer: str) -> list[tuple[str, Row]]:
    """Our times over a peer's on one thread, and on as many more as both were measured on."""
    found = row["engines"].get(peer, {})
    more = [
        (f", {count} threads", held["ours_over_this"])
        for count, held in found.get("threads", {}).items()
        if held.get("ours_over_this")
    ]
    return [("", found.get("ours_over_this", {})), *more]


def _electrodes(results: Row) -> list[Row]:
    rows = list(results.get("electrodes", {}).values())
    out = []
    for target, boundary, moving, peer in (
        (targets.RIGID_SLAB, "slab", False, "lammps mat_inv"),
        (targets.FINITE_FIELD, "finite-field", False, "openmm Matrix"),
        (targets.MOVING_SLAB, "slab", True, "lammps cg"),
    ):
        some = [row for row in rows if row["boundary"] == boundary and row["moving"] == moving]
        for row in some:
            for threads, ratios in _ratios(row, peer):
                name = f"{target.name}, {row['atoms']:,} atoms{threads}"
                out.append(targets.judge(replace(target, name=name), ratios.get("wall_ms")))
        if not some:
            out.append(targets.judge(target, None))
    return out


def _hybrid(results: Row) -> list[Row]:
    out = []
    for row in results.get("hybrid", {}).values():
        if row["status"] == "measured":
            how = f"{row['threads']} thread{'s' * (row['threads'] > 1)}{', compiled' * row['compiled']}"
            name = f"{targets.ADDED.name}, {row['atoms']:,} atoms, {how}"
            out.append(targets.judge(replace(targets.ADDED, name=name), row["added"]))
    return (out or [targets.judge(targets.ADDED, None)]) + _mace(results)


def _mace(results: Row) -> list[Row]:
    out = []
    for threads, row in results.get("mace", {}).items():
        ours = results.get("hybrid", {}).get(f"{threads} compiled", {})
        if row["status"] == ours.get("status") == "measured":
            name = f"{targets.HYBRID.name}, {threads} thread{'s' * (int(threads) > 1)}"
            ratio = ours["step_ms"]["median"] / row["layers_2_ms"]["median"]
            out.append(targets.judge(replace(targets.HYBRID, name=name), ratio))
    return out


def _exponents(results: Row) -> list[Row]:
    found = [e for e in exponents(results) if e["engine"] == "ours"]
    if not found:
        return [targets.judge(targets.EXPONENT, None)]
    return [
        targets.judge(
            replace(
                targets.EXPONENT,
                name=f"exponent of time against size, {e['atoms'][0]:,} to {e['atoms'][-1]:,} atoms at "
                f"{e['target']:.0e}, {MODES[e['mode']]}",
            ),
            e["exponent"],
        )
        for e in found
    ]


def _threads(results: Row) -> list[Row]:
    out = []
    for row in results.get("water", {}).values():
        more = row["engines"].get("ours", {}).get("threads", {}).get("2", {})
        for mode, words in MODES.items():
            if row["atoms"] >= LARGE and f"speedup_{mode}" in more:
                name = f"{targets.THREADS.name}, water {row['size']} at {row['target']:.0e}, {words}"
                out.append(targets.judge(replace(targets.THREADS, name=name), more[f"speedup_{mode}"]))
    return out or [targets.judge(targets.THREADS, None)]


def _memory(results: Row) -> list[Row]:
    out = []
    for row in results.get("memory", {}).values():
        found = row["engines"].get("ours", {}).get("kB_per_atom", {}).get("median")
        if row["atoms"] >= LARGE:
            name = f"{targets.MEMORY.name}, water {row['size']} at {row['target']:.0e}"
            out.append(targets.judge(replace(targets.MEMORY, name=name), found))
    return out or [targets.judge(targets.MEMORY, None)]
