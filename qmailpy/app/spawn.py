"""
Starts the children as processes of their own.

Descriptors of a child: 0 nothing, 1 standard output (shared, in the foreground), 2 a pipe whose lines go to the
daemon's log, 3 messages down, 4 messages up, 5 the children's lock, 6 the control socket, 10 and on the listening
sockets. The end of 3 is
how a child learns that the supervisor is gone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from socket import socket
from typing import Any

from twisted.internet.error import ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IProcessTransport, IReactorProcess
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from qmailpy.app.handover import UP_LIMIT, Message, Unpacker, encode, pack
from qmailpy.app.host import ROLES
from qmailpy.app.log import escaped
from qmailpy.app.privileges import Users
from qmailpy.app.supervisor import Keeper, Place
from qmailpy.config.schema import Config
from qmailpy.directory.paths import SERVICE, directory_path, thd_read_secret
from qmailpy.disk.rights import acting_as, owner
from qmailpy.servers.control import bind_control, control_path
from qmailpy.servers.keys import thd_handed, tls_path

DOWN = 3
UP = 4
LOCK = 5
CONTROL = 6
FIRST_SOCKET = 10

LINE_LIMIT = 8192


class ChildProcess(ProcessProtocol):
    """One process: L{qmailpy.app.supervisor.Child} over a process transport."""

    log = Logger()
    transport: IProcessTransport

    def __init__(self, name: str, keeper: Keeper, start: Message, gone: Callable[[], None] = lambda: None) -> None:
        """
        @param start: the first message.
        @param gone: called when the process has ended, before the keeper is told.
        """
        self._name = name
        self._tidy = gone
        self._keeper = keeper
        self._start = start
        self._messages = Unpacker(UP_LIMIT)
        self._errors = bytearray()
        self._gone = False
        self.pid = 0

    def connectionMade(self) -> None:
        pid = self.transport.pid
        self.pid = int(pid) if pid is not None else 0
        self.send(self._start)

    def send(self, message: Message) -> None:
        if not self._gone:
            try:
                self.transport.writeToChild(DOWN, pack(message))
            except KeyError:
                return  # it has closed the pipe: it is ending, and processExited follows

    def terminate(self) -> None:
        self._signal("TERM")

    def kill(self) -> None:
        self._signal("KILL")

    def _signal(self, name: str) -> None:
        try:
            self.transport.signalProcess(name)
        except ProcessExitedAlready:
            return

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if childFD == UP:
            try:
                for message in self._messages.feed(data):
                    self._keeper.said(message)
            except ValueError as error:
                self.log.error("{name} speaks nonsense ({error}): killed", name=self._name, error=str(error))
                self.kill()
        else:
            self._errors += data
            *lines, rest = self._errors.split(b"\n")
            self._errors = rest[:LINE_LIMIT]
            for line in lines:
                self._complain(bytes(line))

    def _complain(self, line: bytes) -> None:
        text = escaped(line[:LINE_LIMIT].decode("utf-8", "backslashreplace"))
        self.log.warn("{name} says: {text}", name=self._name, text=text)

    def processExited(self, reason: Failure) -> None:
        self._gone = True
        self._tidy()
        value = reason.value
        if isinstance(value, ProcessTerminated):
            how = f"signal {value.signal}" if value.signal else f"exit status {value.exitCode}"
        else:
            how = "exit status 0"
        self._keeper.ended(how, not isinstance(value, ProcessTerminated))

    def processEnded(self, reason: Failure) -> None:
        if self._errors:
            self._complain(bytes(self._errors))


KEYED = frozenset({"mta", "access", "directory"})
"""Roles that speak with the world: they get what they show the directory, and the keys for TLS."""


def keys(role: str, config: Config) -> Message:
    """
    The certificates and keys of the home, for a child of that role whose user may not read them; for others nothing.
    Read as their owner, who could have laid a link there.
    """
    if role not in KEYED:
        return {}
    path = tls_path(config.home)
    try:
        with acting_as(owner(path)):
            return {"keys": thd_handed(config.home)}
    except OSError as error:
        return {"keys": {"problems": [f"{path}: cannot be read: {error.strerror or error}"]}}


class Processes:
    """L{qmailpy.app.supervisor.Spawn} with real processes."""

    log = Logger()

    def __init__(
        self,
        reactor: IReactorProcess,
        *,
        sockets: Mapping[str, Mapping[str, Sequence[socket]]],
        lock: int,
        session: str,
        users: Users,
        console: bool,
        roles: str = ROLES,
    ) -> None:
        """
        @param sockets: listening sockets by role and listener.
        @param lock: descriptor of the children's lock.
        @param users: whom the children become.
        @param console: whether children also log to standard output.
        """
        self._reactor = reactor
        self._sockets = sockets
        self._lock = lock
        self._session = session
        self._users = users
        self._console = console
        self._roles = roles
        self._nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    def __call__(self, place: Place, config: Config, keeper: Keeper) -> ChildProcess:
        descriptors: dict[int, Any] = {0: self._nothing, 1: 1, 2: "r", DOWN: "w", UP: "r", LOCK: self._lock}
        if not self._console:
            descriptors[1] = self._nothing
        who = self._users.of(place.role)
        passed: dict[str, list[tuple[int, int]]] = {}
        for name, made in self._sockets.get(place.role, {}).items():
            for listening in made:
                number = FIRST_SOCKET + sum(map(len, passed.values()))
                descriptors[number] = listening.fileno()
                passed.setdefault(name, []).append((number, int(listening.family)))
        start: Message = {
            "do": "start",
            "config": encode(config),
            "shards": place.shards,
            "session": self._session,
            "sockets": passed,
            "console": self._console,
            "roles": self._roles,
            "control": CONTROL,
        }
        if place.role in KEYED:
            start["secret"] = self._secret(config)
        start |= keys(place.role, config)
        path = control_path(config.home, place.name)
        child = ChildProcess(place.name, keeper, start, lambda: self._remove(path))
        # The directory's user has no right to make a socket where commands look for it; and it is the workers' user and
        # root who may connect, whoever answers.
        with acting_as(self._users.workers):
            control = bind_control(config.home, place.name)
        with control:
            descriptors[CONTROL] = control.fileno()
            self._reactor.spawnProcess(
                child,
                sys.executable,
                # -P: the directory the daemon was started in is no place to import from.
                [sys.executable, "-P", "-m", "qmailpy.app.child", place.role, str(place.index)],
                env=dict(os.environ),
                uid=who.uid if who else None,
                gid=who.gid if who else None,
                childFDs=descriptors,
            )
        return child

    def _remove(self, path: str) -> None:
        with suppress(OSError), acting_as(self._users.workers):
            os.unlink(path)

    def _secret(self, config: Config) -> str | None:
        """
        What workers show the directory; its file is closed to them. C{None} when there is none to be had: the worker
        says so.
        """
        try:
            with acting_as(owner(directory_path(config.home))):
                return thd_read_secret(config.home, SERVICE).decode("ascii")
        except (OSError, ValueError) as error:
            self.log.error("the workers' secret cannot be read: {error}", error=str(error))
            return None
