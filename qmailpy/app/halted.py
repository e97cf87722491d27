"""
Which channels are stopped when a worker starts. Where the file that tells cannot be read, all of them are until it can:
mail is taken and kept, for what an operator has stopped must not go out by an accident.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from qmailpy.queue.switches import Switches

AGAIN_S = 5.0


class IStartable(Protocol):
    """A runner, as far as it matters here."""

    name: str

    def start(self) -> None:
        """Go on."""


class Halted:
    """The stopped channels of one worker, from its start until they are known."""

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        switches: Switches,
        in_thread: Callable[..., Deferred[frozenset[str]]],
        runners: Callable[[], Iterable[IStartable]],
    ) -> None:
        """@param runners: those that are to go on, once it is known that they are not stopped."""
        self._clock = clock
        self._switches = switches
        self._in_thread = in_thread
        self._runners = runners
        self._timer: IDelayedCall | None = None
        self._unknown = False

    def thd_stopped(self) -> Callable[[str], bool]:
        """Whether a channel is stopped. Blocks, at the start."""
        try:
            return self._switches.thd_stopped().__contains__
        except OSError as problem:
            if not self._unknown:
                self._log.error(
                    "{path} cannot be read ({why}): which channels an operator has stopped is not known, so nothing is "
                    "delivered. Mail is taken and kept. Make the file readable, or remove it, and all goes on",
                    path=self._switches.path,
                    why=problem.strerror or str(problem),
                )
            self._unknown = True
            return lambda channel: True

    def watch(self) -> None:
        """Look again until the file can be read; called when the runners are there."""
        if self._unknown and self._timer is None:
            self._timer = self._clock.callLater(AGAIN_S, self._look)

    def _look(self) -> None:
        self._timer = None
        self._in_thread(self._switches.thd_stopped).addCallbacks(self._known, lambda failure: self.watch())

    def _known(self, stopped: frozenset[str]) -> None:
        self._unknown = False
        self._log.info("{path} can be read again: delivery goes on", path=self._switches.path)
        for runner in self._runners():
            if runner.name not in stopped:
                runner.start()

    def stop(self) -> None:
        """Look no more."""
        self._unknown = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
