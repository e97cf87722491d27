"""
A child process: C{python -m qmailpy.app.child ROLE INDEX}, started by the supervisor only (L{qmailpy.app.spawn}).

Everything else comes over descriptor 3 as the first message. SIGTERM ends it in an orderly way. When the supervisor is
gone (the descriptor ends) it stops at once: it has C{ORPHAN_S} seconds for what is in flight, then the kernel ends it,
which the queue is made for; a successor is waiting for its shards.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.internet.stdio import StandardIO
from twisted.logger import Logger
from twisted.python.failure import Failure

from qmailpy.app import log
from qmailpy.app.context import BoundSocket
from qmailpy.app.handover import DOWN_LIMIT, Message, Unpacker, decode, pack
from qmailpy.app.host import RoleHost
from qmailpy.app.reactor import install
from qmailpy.app.spawn import DOWN, UP
from qmailpy.app.steady import make_steady
from qmailpy.config.schema import Config
from qmailpy.errors import CommandError
from qmailpy.servers.keys import Pair, pairs_of

ORPHAN_S = 1.0

_COLLECTED = 5000  # containers more than there were, when the collector runs; looking at so many takes it a millisecond


class Line(Protocol):
    """The line to the supervisor, and what it makes this process do."""

    log = Logger()

    def __init__(self, reactor: Any, role: str, index: int) -> None:
        self._reactor = reactor
        self._role = role
        self._index = index
        self._messages = Unpacker(DOWN_LIMIT)
        self._host: RoleHost | None = None
        self._file: log.LogFile | None = None
        self._keys: Message | None = None  # certificates and keys for TLS, as the supervisor last gave them
        self._ending = False
        self.status = 0
        reactor.addSystemEventTrigger("before", "shutdown", self._end)

    def _end(self) -> None:
        self._ending = True

    def say(self, message: Message) -> None:
        """Send a message up."""
        if self.transport is not None:
            self.transport.write(pack(message))

    def dataReceived(self, data: bytes) -> None:
        for message in self._messages.feed(data):
            do = message.get("do")
            if do == "start":
                self._start(message)
            elif do == "reload" and self._host is not None:
                self._keys = message.get("keys", self._keys)
                Deferred.fromCoroutine(self._reload(self._host, decode(message["config"])))
            elif do == "reopen" and self._host is not None:
                self._host.reopen()
            elif do == "flush" and self._host is not None:
                Deferred.fromCoroutine(self._host.flush(message["what"]))
            elif do == "ping":
                self.say({"say": "pong"})

    def connectionLost(self, reason: Failure | None = None) -> None:
        if self._ending and not (reason is not None and reason.check(ConnectionDone)):
            return  # our own end: the reactor closes what is open
        # Also when a message broke us (the exception is the reason then): without a line we are nobody's child.
        # Even if the reactor's thread should hang from here on, the timer ends the process.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, ORPHAN_S)
        self.status = 1
        why = reason.getErrorMessage() if reason is not None else "no reason"
        self.log.error("the line to the supervisor is cut ({why}): stopping", why=why)
        self.stop()

    def stop(self) -> None:
        """End this process in an orderly way."""
        if not self._ending:
            self._ending = True
            self._reactor.stop()

    def _start(self, message: Message) -> None:
        config = decode(message["config"])
        try:
            self._file = log.LogFile(
                config.path("log", "qmailpy.log"), f"{self._role}-{self._index}", console=message["console"]
            )
            log.begin(self._file)
        except OSError as error:
            with suppress(OSError):  # the supervisor reads it, if it is still there
                print(f"no log: {error}", file=sys.stderr)  # noqa: T201
        sockets = {
            name: tuple(BoundSocket(handle, family) for handle, family in made)
            for name, made in message["sockets"].items()
        }
        secret = message.get("secret")
        self._keys = message.get("keys")
        self._host = RoleHost(
            self._reactor,
            config,
            role=self._role,
            index=self._index,
            shards=tuple(message["shards"]),
            sockets=sockets,
            session=message["session"],
            ready=lambda: self.say({"say": "ready"}),
            stop=lambda: self.say({"say": "stop"}),
            reload=lambda: self.say({"say": "reload"}),
            reopen_log=self._file.reopen if self._file else lambda: None,
            roles=message["roles"],
            secret=secret.encode() if secret else None,
            changed=lambda what: self.say({"say": "changed", "what": what}),
            control=message.get("control"),
            keys=self._pairs if self._keys is not None else None,
        )
        self._reactor.addSystemEventTrigger("before", "shutdown", self._host.stopService)
        try:
            self._host.startService()
        except Exception as error:
            self.log.failure("{role} cannot start: {error}", role=self._role, error=str(error))
            self.status = 1
            self.stop()
        # What is there now stays: no collection need ever look at it again. And what comes and goes on a message's way
        # has no cycles: under load some thousand records that wait to be written are no reason to look for any.
        gc.freeze()
        gc.set_threshold(_COLLECTED, 10, 10)
        gc.enable()

    def _pairs(self) -> dict[str, Pair]:
        return pairs_of(self._keys or {})

    async def _reload(self, host: RoleHost, config: Config) -> None:
        try:
            await host.reload(config)
        except CommandError as error:
            self.say({"say": "refused", "why": str(error)})
        else:
            self.say({"say": "reloaded"})


def main() -> int:
    """Run until told to stop; the exit status."""
    gc.disable()  # until everything is loaded, a tenth sooner; see Line._start
    install()
    from twisted.internet import reactor

    make_steady(reactor)
    os.setsid()  # Ctrl-C on the supervisor's terminal is for the supervisor, which then tells us
    for handle in (DOWN, UP):
        os.set_inheritable(handle, False)
    os.umask(0o077)
    line = Line(reactor, sys.argv[1], int(sys.argv[2]))
    stdio: Any = StandardIO  # mypy takes it for the one of Windows
    stdio(line, DOWN, UP, reactor)
    reactor.run()
    return line.status


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # everything is recorded: a thread that was not joined must not keep the process
