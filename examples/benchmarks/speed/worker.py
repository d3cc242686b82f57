"""A process that holds one engine's settings and times them on command, so that engines can take turns.

Each line on its command pipe is a JSON object with `do`, each answer one JSON line on standard output. Under mpiexec
every process gets the same commands and the first one answers. Run by `turns.Worker`, not by hand.
"""

import contextlib
import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from examples.benchmarks.speed import engines
from examples.benchmarks.speed.measures import relative_error, rms_error
from examples.benchmarks.speed.systems import CHECKED, Box, Cell

SETTLING = 0.25  # of the steps that are timed


def _both_ways(count: float) -> int:
    """An even number of steps, at most so many: lists that come by going there and back see both ways."""
    return 2 * int(count / 2)


class Held:
    """The engines that are open, by the names the caller gave them."""

    def __init__(self, engine: str, threads: int) -> None:
        self.engine, self.threads = engine, threads
        self.open: dict[str, Any] = {}

    def do_open_water(self, slot: str, case: str, setting: dict[str, Any]) -> dict[str, Any]:
        """Set a box up and measure its error."""
        box = Box.load(Path(case))
        start = time.perf_counter()
        engine = engines.water_engine(self.engine, box, setting, self.threads)
        self.open[slot] = engine
        forces = engine.forces()
        taken = time.perf_counter() - start
        return {
            "error": relative_error(forces, box.truth),
            "first_s": taken,
            "label": engine.label,
            "parameters": getattr(engine, "parameters", setting),
        }

    def do_open_cell(self, slot: str, case: str, setting: dict[str, Any]) -> dict[str, Any]:
        """Set a cell up until its first charges, and measure the errors some steps later."""
        cell = Cell.load(Path(case))
        start = time.perf_counter()
        engine = engines.cell_engine(self.engine, cell, setting, self.threads)
        self.open[slot] = engine
        engine.first()
        taken = time.perf_counter() - start
        errors: dict[str, Any] = {}
        if len(cell.true_charges):
            engine.steps(CHECKED)
            charges, forces = engine.observe()
            errors = {
                "charge_error": relative_error(charges, cell.true_charges),
                "force_error": rms_error(forces, cell.true_forces),
            }
        return errors | {"set_up_s": taken, "label": engine.label}

    def do_open_batch(self, slot: str, cases: list[str], setting: dict[str, Any]) -> dict[str, Any]:
        """Set several boxes up and measure the error of all of them."""
        boxes = [Box.load(Path(c)) for c in cases]
        engine = engines.batch_engine(self.engine, boxes, setting)
        self.open[slot] = engine
        truth = np.concatenate([b.truth for b in boxes])
        return {"error": relative_error(engine.forces(), truth), "label": engine.label}

    def do_steps(self, slot: str, count: int, rebuild: bool | None = None) -> dict[str, Any]:
        """Time some steps; milliseconds per step, elapsed and of the processor.

        Before them some more settle what a pause unsettles in every program: caches, and threads on one processor.
        """
        engine = self.open[slot]
        extra = () if rebuild is None else (rebuild,)
        if (before := _both_ways(count * SETTLING)) > 0:
            engine.steps(before, *extra)
        cpu, wall = time.process_time(), time.perf_counter()
        engine.steps(count, *extra)
        wall = time.perf_counter() - wall
        return {"wall_ms": 1e3 * wall / count, "cpu_ms": 1e3 * (time.process_time() - cpu) / count}

    def do_close(self, slot: str) -> dict[str, Any]:
        """Give one engine back."""
        self.open.pop(slot).close()
        return {}

    def do_memory(
        self, case: str, setting: dict[str, Any], tiny_case: str, warm_up: dict[str, Any]
    ) -> dict[str, Any]:
        """Highest memory of the first energy and forces of a box above what is held before them, kB.

        A tiny box is evaluated first, so that libraries and compiled code are there; arrays of the box too.
        """
        box = Box.load(Path(case))
        tiny = engines.water_engine(self.engine, Box.load(Path(tiny_case)), warm_up, self.threads)
        tiny.forces()
        tiny.close()
        del tiny
        before = memory_baseline()
        engine = engines.water_engine(self.engine, box, setting, self.threads)
        engine.forces()
        return {"kB": memory_peak() - before, "baseline_kB": before, "label": engine.label}


def memory_baseline() -> int:
    """Memory held now in kB, after which `memory_peak` counts from here where the system can be asked to (Linux)."""
    if not Path("/proc/self/clear_refs").exists():
        return memory_peak()
    Path("/proc/self/clear_refs").write_text("5")
    return _of_status("VmRSS")


def memory_peak() -> int:
    """Highest memory held so far, kB.

    On Linux not from `ru_maxrss`, which begins with what the process that started this one held.
    """
    if Path("/proc/self/status").exists():
        return _of_status("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak


def _of_status(name: str) -> int:
    """A number of kB from the process's own status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


def serve(commands: TextIO, answers: TextIO, held: Held) -> None:
    """Answer until the pipe is closed."""
    speaks = os.environ.get("PMI_RANK", "0") == "0"
    for line in commands:
        asked = json.loads(line)
        try:
            answer = getattr(held, f"do_{asked.pop('do')}")(**asked)
        except Exception as error:
            print(traceback.format_exc(), file=sys.stderr, flush=True)
            answer = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
        if speaks:
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def main() -> None:
    """Arguments: engine, threads, and one command pipe for each process (standard input without)."""
    engine, threads, *pipes = sys.argv[1:]
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    rank = int(os.environ.get("PMI_RANK", "0"))
    with open(pipes[rank]) if pipes else contextlib.nullcontext(sys.stdin) as commands:
        serve(commands, answers, Held(engine, int(threads)))


if __name__ == "__main__":
    main()
