"""The command line, and which parts run with what."""

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PARTS = ("water", "electrodes", "setup", "hybrid", "batches", "memory", "start", "limits")
WATER_SIZES = ("3k", "12k", "48k", "192k")
CELL_SIZES = ("2k", "8k", "30k")
PEERS = ("lammps", "openmm", "nvalchemi", "torch-pme", "mlipops")
# Targets of the figure of time against error, at the smallest size that is asked for.
CURVE = (1e-3, 1e-4, 1e-5, 1e-6)
DESCRIPTION = """Our speed beside other programs', in turns in one run, at equal measured error.

    water        energy and forces of water boxes of 3,000 to 192,000 atoms
    electrodes   charges and forces of a step of gold/water/salt cells of 2,208, 7,624 and 30,092 atoms
    setup        the electrode matrix until the first charges
    hybrid       a step of 1,500 atoms with the model in the box, and of its local part alone
    batches      many cells of 200 atoms at once
    memory       peak of one energy and forces per atom, in fresh processes
    start        first energy of a fresh process, and grahame --help
    limits       every compiled kernel alone beside what the processor does at best, 12,288 atoms, one thread

Without names of parts all run. Settings and converged forces stay in the results folder, as do the results: what runs
again replaces its own rows only. A program that is not installed is named and left out."""

Say = Callable[[str], None]
Row = dict[str, Any]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, with the smaller numbers of --quick filled in.

    Raises:
        SystemExit: for what cannot be.
    """
    parser = argparse.ArgumentParser(
        prog="python -m examples.benchmarks",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument(
        "--sizes", nargs="+", choices=WATER_SIZES + CELL_SIZES, help="of water and of electrode cells"
    )
    parser.add_argument(
        "--targets", nargs="+", type=float, default=[1e-4, 1e-6], help="relative rms force errors"
    )
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="1 is always measured")
    parser.add_argument(
        "--peers", nargs="*", choices=PEERS, default=list(PEERS), help="none: --peers without names"
    )
    parser.add_argument(
        "--mace",
        metavar="PYTHON",
        help="interpreter that has MACE, for part hybrid: `examples/adapters/exercise.py mace --folder DIR --keep` makes "
        "DIR/env/bin/python",
    )
    parser.add_argument("--rounds", type=int, default=9, help="how often all take turns")
    parser.add_argument(
        "--slow", action="store_true", help="peers' electrode matrices of the largest cell too"
    )
    parser.add_argument(
        "--no-curve", action="store_true", help="only the --targets at the smallest water box too"
    )
    parser.add_argument("--quick", action="store_true", help="every part with tiny systems, under a minute")
    parser.add_argument(
        "--fresh", action="store_true", help="forget settings, references and results in the folder"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("results/speed"), help="results folder (%(default)s)"
    )
    parser.add_argument(
        "--publish", action="store_true", help="results_speed.json and both figures beside this program"
    )
    options = parser.parse_args(arguments)
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"part = {part} must be one of {', '.join(PARTS)}: choose some of these")
    if options.quick and options.publish:
        parser.error("--publish must go without --quick: tiny systems show nothing")
    if min(options.threads) < 1 or options.rounds < 1 or not all(0 < t < 1 for t in options.targets):
        parser.error("--threads and --rounds must be at least 1 and --targets between 0 and 1: correct them")
    options.parts = options.parts or list(PARTS)
    sizes = options.sizes or [*WATER_SIZES, *CELL_SIZES]
    options.water_sizes = [s for s in WATER_SIZES if s in sizes]
    options.cell_sizes = [s for s in CELL_SIZES if s in sizes]
    options.batches = [1, 32, 256]
    if options.quick:
        options.water_sizes, options.cell_sizes, options.batches = ["1k"], ["0.4k"], [1, 4]
        options.targets, options.rounds, options.threads = options.targets[:1], 2, options.threads[:2]
        options.out, options.no_curve = options.out / "quick", True
    return options


def run(options: argparse.Namespace, say: Say) -> Row:
    """Run the parts; results are written after every row."""
    # Only now: `--help` and mistakes answer at once, and threads are set before libraries start.
    for name in ("OMP", "MKL", "OPENBLAS", "NUMBA"):
        os.environ.setdefault(f"{name}_NUM_THREADS", "1")
    from examples.benchmarks.speed import (
        batches,
        electrodes,
        engines,
        hybrid_step,
        limits,
        memory,
        setup,
        start,
        summary,
        water,
    )
    from examples.benchmarks.speed.machine import commit, machine, moment
    from examples.benchmarks.speed.published import PUBLISHED
    from examples.benchmarks.speed.settings import Settings

    if options.fresh and options.out.exists():
        shutil.rmtree(options.out)
    folder = options.out
    folder.mkdir(parents=True, exist_ok=True)
    held = folder / "results.json"
    results: Row = json.loads(held.read_text()) if held.exists() else {}
    settings = Settings(folder / "settings.json")
    names = ["ours", *options.peers]
    results |= {
        "machine": machine(),
        "versions": engines.versions(),
        "commit": commit(),
        "published": PUBLISHED,
    }
    for name in options.peers:
        absent = engines.missing(name)
        if absent:
            say(f"{name} {absent}")

    def keep(part: str, key: str | None, row: Row) -> None:
        row["measured"] = moment() | {"commit": results["commit"]} | {"rounds": options.rounds}
        if key is None:
            results[part] = row
        else:
            results.setdefault(part, {})[key] = row
        results["exponents"], results["targets"] = summary.exponents(results), summary.judged(results)
        held.write_text(json.dumps(results, indent=1) + "\n")

    begin = time.perf_counter()
    for part in PARTS:
        if part not in options.parts:
            continue
        start_of_part = time.perf_counter()
        if part == "water":
            for k, size in enumerate(options.water_sizes):
                more = CURVE if k == 0 and not options.no_curve else ()
                for target in sorted({*options.targets, *more}, reverse=True):
                    row = water.measure(
                        size,
                        target,
                        names,
                        options.threads,
                        options.rounds,
                        settings,
                        folder,
                        options.quick,
                        say,
                    )
                    keep(part, f"{size} {target:.0e}", row)
        elif part == "electrodes":
            for size in options.cell_sizes:
                for periodic, moving in electrodes.CASES:
                    case = electrodes.Case(size, periodic, moving)
                    found = electrodes.measure(
                        case,
                        names,
                        options.threads,
                        options.rounds,
                        settings,
                        folder,
                        options.slow,
                        options.quick,
                        say,
                    )
                    keep(part, case.name, found)
        elif part == "setup":
            for size in options.cell_sizes:
                keep(
                    part,
                    size,
                    setup.measure(size, names, min(3, options.rounds), settings, folder, options.slow, say),
                )
        elif part == "hybrid":
            for threads in options.threads:
                for compiled in (False,) if options.quick else (False, True):
                    row = hybrid_step.measure(threads, compiled, options.rounds, options.quick, say)
                    keep(part, f"{threads} {'compiled' if compiled else 'plain'}", row)
                if options.mace is not None:
                    row = hybrid_step.mace(options.mace, threads, min(3, options.rounds), say)
                    keep("mace", str(threads), row)
        elif part == "batches":
            target = max(options.targets)
            for row in batches.measure(
                options.batches, target, names, options.rounds, settings, folder, options.quick, say
            ):
                keep(part, str(row["batch"]), row)
        elif part == "memory":
            # Beyond these two the answer no longer changes, and one takes as long as all others.
            for size in options.water_sizes if options.quick or options.sizes else ("12k", "48k"):
                target = max(options.targets)
                some = names[:2] if options.quick else names
                row = memory.measure(size, target, some, settings, folder, options.quick, say)
                keep(part, f"{size} {target:.0e}", row)
        elif part == "limits":
            for size in options.water_sizes if options.quick or options.sizes else ("12k",):
                keep(part, size, limits.measure(size, max(5, options.rounds), say))
        else:
            keep(part, None, start.measure(1 if options.quick else min(5, options.rounds), say))
        say(f"{part}: {time.perf_counter() - start_of_part:.0f} s")
    say(f"all: {time.perf_counter() - begin:.0f} s")
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, show, draw, and publish where asked."""
    options = parse(arguments)
    from rich.console import Console

    console = Console(width=None if os.isatty(1) else 190)
    begin = time.perf_counter()

    def say(text: str) -> None:
        console.print(f"{time.perf_counter() - begin:6.0f} s  {text}", style="dim", highlight=False)

    results = run(options, say)
    from examples.benchmarks.speed import limits, plots, report

    report.show(results, console)
    for figure in plots.draw(results, options.out):
        console.print(f"figure: {figure}")
    console.print(f"numbers: {options.out / 'results.json'}")
    slow = [sentence for row in results.get("limits", {}).values() for sentence in limits.too_slow(row)]
    if slow and "limits" in options.parts:
        raise SystemExit("\n".join(slow))
    if options.publish:
        home = Path(__file__).resolve().parents[1]
        shutil.copy(options.out / "results.json", home / "results_speed.json")
        for figure in options.out.glob("results_speed_*.png"):
            shutil.copy(figure, home / figure.name)
        console.print("published: results_speed.json and the figures beside the program")
