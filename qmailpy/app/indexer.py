"""
Has the index of the transaction log kept by a process of its own (L{qmailpy.app.index_child}).

The first mail worker has it, with one process as well as with several. The child is a stranger to mail: it reads the
log's files and writes HOME/log/index.sqlite. One that dies is started again a minute later; one whose worker dies
ends by itself, since its standard input does.
"""

from __future__ import annotations

import os
import sys

from attrs import evolve
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IDelayedCall, IProcessTransport, IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from qmailpy.app.index_orders import Orders
from qmailpy.config.schema import Config, LogConfig
from qmailpy.values import first_line

FIRST_S = 2.0
"""After the start: mail comes first."""

AGAIN_S = 60.0
KILL_S = 5.0
_LINE = 8192


class IReactor(IReactorProcess, IReactorTime):
    """What L{Indexer} needs of one."""


class _Child(ProcessProtocol):
    log = Logger()
    transport: IProcessTransport

    def __init__(self, owner: Indexer) -> None:
        self._owner = owner
        self._said = b""
        self.ended: Deferred[None] = Deferred()

    def errReceived(self, data: bytes) -> None:
        *lines, rest = (self._said + data).split(b"\n")
        self._said = rest[:_LINE]
        for line in lines:
            text = first_line(line[:_LINE].decode("utf-8", "backslashreplace"))
            self.log.warn("{text}", text=text)

    def processEnded(self, reason: Failure) -> None:
        how = reason.value
        words = ""
        if isinstance(how, ProcessTerminated):
            words = f"signal {how.signal}" if how.signal else f"exit status {how.exitCode}"
        self._owner.child_ended(words)
        self.ended.callback(None)


class Indexer(Service):
    """Keeps the child; nothing happens with C{[log] index_s = 0}."""

    log = Logger()

    def __init__(self, reactor: IReactor, config: Config) -> None:
        self._reactor = reactor
        self._config = config
        self._written: LogConfig = config.log  # how this process writes the log, whatever is configured later
        self._child: _Child | None = None
        self._call: IDelayedCall | None = None

    @property
    def pid(self) -> int:
        """The child's process id; 0 = there is none."""
        return int(self._child.transport.pid or 0) if self._child is not None else 0

    def startService(self) -> None:
        super().startService()
        self._later(FIRST_S)

    def _later(self, seconds: float) -> None:
        if self._call is None and self._child is None and self._config.log.index_s and self.running:
            self._call = self._reactor.callLater(seconds, self._start)

    def _start(self) -> None:
        self._call = None
        if not self._config.log.index_s:
            return
        child = _Child(self)
        try:
            self._reactor.spawnProcess(
                child,
                sys.executable,
                [sys.executable, "-P", "-m", "qmailpy.app.index_child"],
                env=dict(os.environ),
                childFDs={0: "w", 1: "r", 2: "r"},
            )
        except OSError as error:
            self.log.warn("the indexer cannot be started: {why}", why=error.strerror or str(error))
            self._later(AGAIN_S)
            return
        self._child = child
        self._tell(child)

    def _tell(self, child: _Child) -> None:
        wanted = self._config.log
        orders = Orders(
            log=evolve(
                self._written,
                index_days=wanted.index_days,
                index_s=wanted.index_s,
                compress=wanted.compress,
                keep_days=wanted.keep_days,
            ),
            directory=self._config.path("log"),
            reserve_octets=self._config.queue.reserve_octets,
        )
        child.transport.writeToChild(0, orders.encode())

    def reconfigure(self, config: Config) -> None:
        """Take another configuration."""
        self._config = config
        if self._child is None:
            self._later(FIRST_S)
        elif config.log.index_s:
            self._tell(self._child)
        else:
            self._child.transport.closeChildFD(0)

    def child_ended(self, how: str) -> None:
        """@param how: "" = in an orderly way."""
        self._child = None
        if how and self.running:
            self.log.warn("the indexer died: {how}; again in {wait} s", how=how, wait=AGAIN_S)
        self._later(AGAIN_S)

    def stopService(self) -> Deferred[None] | None:
        """Fires when the child is gone."""
        super().stopService()
        if self._call is not None:
            self._call.cancel()
            self._call = None
        child = self._child
        if child is None:
            return None
        # Whatever it is at: an index that is cut goes on, or is made again.
        self._signal(child, "TERM")
        limit = self._reactor.callLater(KILL_S, self._signal, child, "KILL")

        def gone(result: None) -> None:
            if limit.active():
                limit.cancel()

        return child.ended.addCallback(gone)

    @staticmethod
    def _signal(child: _Child, name: str) -> None:
        try:
            child.transport.signalProcess(name)
        except ProcessExitedAlready:
            return
