"""Workers, and how they take turns: what else the machine does then disturbs all alike."""

import contextlib
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from examples.benchmarks.speed.measures import spread

ROOT = Path(__file__).resolve().parents[3]
LIMIT = 3600.0  # s that one command may take
LONGEST = 5.0  # s; what takes longer for one step is timed once instead of in every round
_THREAD_VARIABLES = ("OMP", "MKL", "OPENBLAS", "NUMBA", "NUMEXPR")


class Failed(Exception):
    """What an engine said instead of an answer."""


def environment(threads: int) -> dict[str, str]:
    """That of a worker: its number of threads for every library, and the MPI library beside the interpreter."""
    found = dict(os.environ)
    found |= {f"{name}_NUM_THREADS": str(threads) for name in _THREAD_VARIABLES}
    libraries = [str(Path(sys.prefix) / "lib"), found.get("LD_LIBRARY_PATH", "")]
    found["LD_LIBRARY_PATH"] = os.pathsep.join(p for p in libraries if p)
    found["PYTHONPATH"] = os.pathsep.join([str(ROOT), found.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return found


def mpiexec() -> str | None:
    """The launcher beside the interpreter, or the one on the path."""
    beside = Path(sys.executable).parent / "mpiexec"
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def started(names: list[str], stack: ExitStack) -> dict[str, "Worker"]:
    """A worker for each name, closed with the stack; while the first is asked, the others load their libraries."""
    return {name: stack.enter_context(Worker(name)) for name in names}


class Worker:
    """One engine in a process of its own (in `threads` processes under mpiexec for LAMMPS)."""

    def __init__(self, engine: str, threads: int = 1) -> None:
        self.engine, self.threads = engine, threads
        self._folder = tempfile.TemporaryDirectory()
        program = [sys.executable, "-m", "examples.benchmarks.speed.worker", engine, str(threads)]
        pipes: list[Path] = []
        launcher: list[str] = []
        if engine == "lammps" and threads > 1:
            found = mpiexec()
            if found is None:
                raise Failed("mpiexec is not installed: pip install mpich")
            launcher = [found, "-n", str(threads)]
            pipes = [Path(self._folder.name) / f"commands-{rank}" for rank in range(threads)]
            for pipe in pipes:
                os.mkfifo(pipe)
        self._errors = (Path(self._folder.name) / "stderr").open("w+")
        self._process = subprocess.Popen(
            [*launcher, *program, *map(str, pipes)],
            cwd=ROOT,
            # Each MPI process is one thread.
            env=environment(1 if launcher else threads),
            stdin=subprocess.DEVNULL if pipes else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._commands: list[Any] = [self._pipe(p) for p in pipes] if pipes else [self._process.stdin]

    def _pipe(self, path: Path) -> Any:
        """The writing end of a pipe, once its reader is there."""
        for _ in range(600):
            try:
                return os.fdopen(os.open(path, os.O_WRONLY | os.O_NONBLOCK), "w")
            except OSError:
                if self._process.poll() is not None:
                    break
                time.sleep(0.1)
        raise Failed(f"{self.engine} did not start under mpiexec: {self._said()}")

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """The answer to a command.

        Raises:
            Failed: if the engine did, or its process ended, or it took longer than an hour.
        """
        line = json.dumps({"do": do} | arguments) + "\n"
        try:
            for pipe in self._commands:
                pipe.write(line)
                pipe.flush()
        except OSError as error:
            raise Failed(f"{self.engine} ended: {self._said()}") from error
        answer: dict[str, Any] = json.loads(self._answer())
        if "failed" in answer:
            raise Failed(answer["failed"])
        return answer

    def _answer(self) -> str:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._process.stdout, selectors.EVENT_READ)
            if not waiting.select(LIMIT):
                self.close()
                raise Failed(f"{self.engine} took longer than {LIMIT:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"{self.engine} ended: {self._said()}")
        return line

    def _said(self) -> str:
        """The last line on standard error."""
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        return lines[-1][:300] if lines else "without a word"

    def close(self) -> None:
        """End the process."""
        for pipe in self._commands:
            with contextlib.suppress(OSError):
                pipe.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Turn:
    """What is timed in one turn: a slot of a worker, with or without new neighbour lists (None where not asked)."""

    name: str
    worker: Worker
    slot: str
    rebuild: bool | None = None


def take_turns(
    turns: list[Turn], rounds: int, seconds: float, most: int = 40, say: Callable[[str], None] | None = None
) -> dict[str, dict[str, Any]]:
    """Milliseconds per step of all, round after round: medians and quartiles of elapsed and processor time.

    A turn takes as many steps as fit into `seconds` (at most `most`, at least one). A turn that fails drops out, and
    one whose step takes longer than `LONGEST` is not repeated.
    """
    taken: dict[str, list[dict[str, float]]] = {}
    counts: dict[str, int] = {}
    failed: dict[str, dict[str, Any]] = {}

    def steps(turn: Turn, count: int) -> dict[str, float] | None:
        extra = {} if turn.rebuild is None else {"rebuild": turn.rebuild}
        try:
            return turn.worker.ask("steps", slot=turn.slot, count=count, **extra)
        except Failed as error:
            failed[turn.name] = {"failed": str(error)}
            if say:
                say(f"{turn.name}: {error}")
            return None

    for turn in turns:
        first = steps(turn, 1)
        second = steps(turn, 1) if first else None
        if second and second["wall_ms"] > 1e3 * LONGEST:
            # Hours would go into rounds of it: one step says how slow it is.
            counts[turn.name], taken[turn.name] = 0, [second]
        elif second:
            count = max(1, min(most, int(1e3 * seconds / max(second["wall_ms"], 1e-3))))
            # New lists come by going there and back: both ways in every turn.
            counts[turn.name] = count if turn.rebuild is None else 2 * ((count + 1) // 2)
            taken[turn.name] = []
    for _ in range(rounds):
        for turn in turns:
            if counts.get(turn.name) and turn.name not in failed:
                found = steps(turn, counts[turn.name])
                if found:
                    taken[turn.name].append(found)
    return failed | {
        name: {
            "wall_ms": spread([v["wall_ms"] for v in values]),
            "cpu_ms": spread([v["cpu_ms"] for v in values]),
            "steps_per_turn": counts[name],
        }
        for name, values in taken.items()
        if values and name not in failed
    }
