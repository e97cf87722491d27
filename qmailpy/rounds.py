"""
What is done every so often, for as long as the process lives: a round that fails is told of, once if others fail in the
same way behind it, and the next one comes.

Twisted's L{LoopingCall} ends for good with the first failure.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger


class Rounds:
    """One thing that is done again and again, never twice at once."""

    _log = Logger()

    def __init__(self, clock: IReactorTime, what: str, do: Callable[[], Awaitable[object]]) -> None:
        """
        @param what: it is, for the log.
        """
        self._what = what
        self._do = do
        self._said = ""  # what the last one failed of
        self._loop = LoopingCall(self._round)
        self._loop.clock = clock

    def start(self, every_s: float, *, now: bool = True) -> None:
        """Begin, at once or after the first C{every_s} seconds."""
        self._loop.start(every_s, now=now)

    def stop(self) -> None:
        """No more of them; one that is under way goes on."""
        if self._loop.running:
            self._loop.stop()

    def _round(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._guarded())

    async def _guarded(self) -> None:
        try:
            await self._do()
        except CancelledError:
            return
        except Exception as error:
            said, self._said = self._said, repr(error)
            if said == self._said:
                return  # rounds may be a second apart
            if isinstance(error, OSError):  # the disk, the network: not a bug
                self._log.error("{what}: {why}; it is tried again", what=self._what, why=str(error))
            else:
                self._log.failure("bug in {what}, which is tried again", what=self._what)
        else:
            self._said = ""
