"""What a training shows while it goes on."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["TrainingBar"]


class TrainingBar:
    """A bar on stderr over the steps of an epoch, and a line per epoch; nothing if not wanted."""

    def __init__(self, shown: bool, steps: int) -> None:
        self._console = Console(stderr=True, quiet=not shown)
        self._steps = steps
        self._progress = Progress(
            TextColumn("[bold]{task.description:<11}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not shown,
        )
        self._task = self._progress.add_task("", total=steps, text="")

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def epoch(self, number: int, done: int) -> None:
        """Begin an epoch that has `done` steps behind it."""
        self._progress.reset(
            self._task, total=self._steps, completed=done, description=f"epoch {number}", text=""
        )

    def step(self, done: int, loss: float, speed: float) -> None:
        """After a step: mean loss of the epoch, frames per second."""
        self._progress.update(self._task, completed=done, text=f"loss {loss:.4g}  {speed:.3g} frames/s")

    def __enter__(self) -> TrainingBar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
