"""
Progress of long runs: a bar in a terminal, plain lines elsewhere.
"""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Showing:
    """Use it as a context manager."""

    def __init__(self, title: str, total: int, console: Console | None = None) -> None:
        """@param total: steps."""
        self._console = console or Console(width=None)
        self._live = self._console.is_terminal
        self._total = total
        self._done = 0
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[last]}"),
            console=self._console,
            disable=not self._live,
        )
        self._task = self._progress.add_task(title, total=total, last="")

    def __enter__(self) -> Showing:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, text: str) -> None:
        """A step is done."""
        self._done += 1
        self._progress.update(self._task, advance=1, last=text)
        if not self._live:
            self.say(f"{self._done}/{self._total} {text}")

    def say(self, text: str) -> None:
        """Something else."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
