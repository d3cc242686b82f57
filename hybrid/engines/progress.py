"""What a run shows while it goes on, and how it is asked to stop."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Bar:
    """A progress bar on stderr with speed in ns/day and the electrodes' charges; nothing if not wanted."""

    def __init__(self, shown: bool) -> None:
        self._progress: Progress | None = None
        if shown:
            self._progress = Progress(
                TextColumn("[bold]{task.description:<11}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TextColumn("{task.fields[speed]}"),
                TextColumn("{task.fields[charge]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
        self._task: Any = None
        self._timestep: float | None = None
        self._first = 0
        self._began = 0.0

    def stage(self, name: str, done: int, total: int, timestep_fs: float | None) -> None:
        """Begin a stage that has `done` of `total` steps behind it."""
        self._timestep, self._first, self._began = timestep_fs, done, time.perf_counter()
        if self._progress is not None:
            self._task = self._progress.add_task(name, total=total, completed=done, speed="", charge="")

    def update(self, done: int, charges: Any) -> None:
        """After a step."""
        if self._progress is None:
            return
        speed = ""
        elapsed = time.perf_counter() - self._began
        if self._timestep is not None and elapsed > 0:
            speed = f"{1e-6 * self._timestep * (done - self._first) / elapsed * 86400:.3g} ns/day"
        charge = f"Q = {charges[-1]:+.3f} e" if len(charges) else ""
        self._progress.update(self._task, completed=done, speed=speed, charge=charge)

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self._progress is not None:
            self._progress.console.print(text, highlight=False)

    def __enter__(self) -> Bar:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()


class StopFlag:
    """Set by SIGINT or SIGTERM: the run finishes its step and writes a checkpoint. A second one interrupts."""

    def __init__(self) -> None:
        self.requested = False
        self._old: dict[int, Any] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        for signum, handler in self._old.items():
            signal.signal(signum, handler)

    def __enter__(self) -> StopFlag:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
