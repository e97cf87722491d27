"""
The programs the demonstration runs: qmailpy's own commands, and the daemon.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure

from qmailpy.cli.output import printable
from qmailpy.errors import CommandError

READY = b"qmailpy is ready"
HOPELESS = b"restarts are held back"
_KEPT_OCTETS = 16384  # of the daemon's words, for a failure


def program(name: str) -> str:
    """
    Path of a program of this environment.

    @raise CommandError: it is not installed.
    """
    path = os.path.join(os.path.dirname(os.path.abspath(sys.executable)), name)
    if not os.access(path, os.X_OK):
        raise CommandError(f"{path} is missing; install qmailpy with: pip install -e .")
    return path


@frozen(kw_only=True)
class Outcome:
    """What a command said."""

    words: tuple[str, ...]  # of the command line, without the program
    output: str
    error: str
    status: int


async def command(reactor: Any, home: str, *words: str, given: str = "", check: bool = True) -> Outcome:
    """
    Run C{qmailpy --home HOME WORDS}.

    @param given: its standard input.
    @raise CommandError: it failed (unless C{check} is false); the text is what it said.
    """
    out, error, status = await getProcessOutputAndValue(
        program("qmailpy"), ["--home", home, *words], env=os.environ, reactor=reactor, stdinBytes=given.encode()
    )
    outcome = Outcome(
        words=words, output=out.decode("utf-8", "replace"), error=error.decode("utf-8", "replace"), status=status
    )
    if check and status:
        said = outcome.error.strip().splitlines() or outcome.output.strip().splitlines() or [f"exit status {status}"]
        raise CommandError(f"qmailpy {words[0]}: {said[-1].removeprefix('qmailpy: ')}")
    return outcome


class Daemon(ProcessProtocol):
    """
    C{twistd -n qmailpy --home HOME} as a child.

    @ivar ready: fires when mail is taken, fails with L{CommandError} when the daemon ends instead.
    """

    def __init__(self) -> None:
        self.ready: Deferred[None] = Deferred()
        self._said = b""
        self._status: int | None = None  # a signal's number is negative
        self._waiting: list[Deferred[int]] = []

    def start(self, reactor: Any, home: str) -> None:
        """@raise CommandError: twistd is not installed."""
        words = [program("twistd"), "-n", "qmailpy", "--home", home]
        reactor.spawnProcess(
            self,
            sys.executable,
            [sys.executable, "-m", "qmailpy.app.demo_child", str(os.getpid()), *words],
            env=os.environ,
        )

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self._said = (self._said + data)[-_KEPT_OCTETS:]
        if not self.ready.called and READY in self._said:
            self.ready.callback(None)
        elif not self.ready.called and HOPELESS in self._said:
            self.ready.errback(Failure(CommandError(self._why())))

    def processEnded(self, reason: Failure) -> None:
        ended: Any = reason.value
        status: int = -ended.signal if ended.signal else ended.exitCode
        self._status = status
        if not self.ready.called:
            self.ready.errback(Failure(CommandError(self._why())))
        for waiting in self._waiting:
            if not waiting.called:
                waiting.callback(status)

    def _why(self) -> str:
        """The last words of a daemon that did not start."""
        lines = [printable(line) for line in self._said.decode("utf-8", "replace").splitlines() if line.strip()]
        worst = [line for line in lines if " critical " in line][-1:] or lines[-3:]
        return "the daemon did not start: " + ("; ".join(worst) or "it said nothing")

    def _signal(self, number: int) -> None:
        if self.transport is not None:
            with contextlib.suppress(ProcessExitedAlready):  # its output is still open: processEnded will follow
                self.transport.signalProcess(number)

    def end(self) -> Deferred[int]:
        """Fires with its exit status when it has ended; a signal's number is negative."""
        if self._status is not None:
            return succeed(self._status)
        waiting: Deferred[int] = Deferred()
        self._waiting.append(waiting)
        return waiting

    async def stop(self, reactor: Any, limit_s: float) -> int:
        """
        Ask it to stop, and kill it if it has not after so many seconds.

        @return: its exit status, as L{end}.
        """
        self.ready.addErrback(lambda _: None)
        if self._status is None:
            self._signal(signal.SIGTERM)
            late = reactor.callLater(limit_s, self._signal, signal.SIGKILL)
            await self.end()
            if late.active():
                late.cancel()
        return await self.end()
