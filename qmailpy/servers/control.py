"""
The server of a process's control socket: AMP in, methods called, JSON out.

Parts register methods by name (L{Registry.add}); the socket is C{HOME/run/control/ROLE-INDEX.sock}. Whoever can connect
is the server's own user or root, yet nothing sent here is trusted: boxes, requests, results and connections are all
bounded, garbage ends the connection, an unknown method is answered with an error.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Awaitable, Callable
from inspect import signature
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IListeningPort, IReactorTime, ITransport
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols.amp import AMP, AmpBox, BinaryBoxProtocol
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure

from qmailpy.control.client import DIRECTORY, Json, short_path
from qmailpy.control.commands import PIECE, REQUEST_LIMIT, RESPONSE_LIMIT, Call, Next, Part, RemoteError
from qmailpy.errors import QmailpyError
from qmailpy.servers.ports import adopt
from qmailpy.values import first_line

Method = Callable[..., Awaitable[Json]]
"""Called with the arguments of the call by name; its result must be JSON."""

CONNECTIONS = 32
BOX_LIMIT = 128 * 1024
IDLE_S = 60.0


class Registry:
    """The methods one process answers."""

    log = Logger()

    def __init__(self, *, whole: bool = True) -> None:
        """
        @param whole: the methods that are added at once are all there will be; else more come until L{complete}.
        """
        self._methods: dict[str, Method] = {}
        self._whole = whole
        self.add("methods", self._names)

    def complete(self) -> None:
        """All methods have been added: the process is open for business."""
        self._whole = True

    @property
    def whole(self) -> bool:
        """Whether it is."""
        return self._whole

    def add(self, name: str, method: Method) -> None:
        """
        Answer C{name} with C{method} from now on.

        @param name: C{"area.verb"}.
        @raise ValueError: the name is taken.
        """
        if name in self._methods:
            raise ValueError(f"control method {name} is registered twice")
        self._methods[name] = method

    async def _names(self) -> Json:
        return [*sorted(self._methods)]

    async def call(self, name: str, arguments: dict[str, Json]) -> Json:
        """
        Run a method.

        @raise RemoteError: it does not exist, does not take these arguments, refused, or has a bug (which is logged).
        """
        method = self._methods.get(name)
        if method is None and not self._whole:
            raise RemoteError("the process is starting; try again in a moment")
        if method is None:
            raise RemoteError(f"no such method: {first_line(ascii(name), 80)}")
        try:
            signature(method).bind(**arguments)
        except TypeError as error:
            raise RemoteError(f"{name}: {error}") from error
        try:
            return await method(**arguments)
        except RemoteError:
            raise
        except QmailpyError as error:
            raise RemoteError(first_line(str(error), 1000) or name) from error
        except Exception as error:
            self.log.failure("control method {name} failed", name=name)
            raise RemoteError(f"{name}: internal error; the daemon's log has it") from error


class ControlProtocol(AMP, TimeoutMixin):
    """One connection: a call at a time."""

    log = Logger()

    def __init__(self, registry: Registry, clock: IReactorTime) -> None:
        super().__init__()
        self._registry = registry
        self._clock = clock
        self._request = bytearray()
        self._result = b""
        self._sent = 0
        self._box_octets = 0
        self._running: Deferred[Json] | None = None
        self.on_lost: Callable[[], None] = lambda: None

    def callLater(self, delay: float, call: Callable[[], object]) -> Any:
        """For TimeoutMixin."""
        return self._clock.callLater(delay, call)

    def makeConnection(self, transport: ITransport) -> None:
        # AMP's own would add a line to the log for each connection; so would its connectionLost.
        BinaryBoxProtocol.makeConnection(self, transport)

    def connectionMade(self) -> None:
        super().connectionMade()
        self.setTimeout(IDLE_S)

    def timeoutConnection(self) -> None:
        if self._running is None:
            self._cut()
        else:
            self.setTimeout(IDLE_S)  # a method takes as long as it takes

    def dataReceived(self, data: bytes) -> None:
        self.resetTimeout()
        self._box_octets += len(data)
        if self._box_octets > BOX_LIMIT + PIECE:
            self.log.warn("control connection closed: a box is longer than {limit} octets", limit=BOX_LIMIT)
            self._cut()
            return
        super().dataReceived(data)

    def ampBoxReceived(self, box: AmpBox) -> None:
        self._box_octets = 0
        if not box:  # Twisted would raise
            self.log.warn("control connection closed: an empty box")
            self._cut()
            return
        super().ampBoxReceived(box)

    def unhandledError(self, failure: Failure) -> None:
        self.log.warn("control connection closed: {reason}", reason=first_line(failure.getErrorMessage()))
        self._cut()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.setTimeout(None)
        self._request.clear()
        BinaryBoxProtocol.connectionLost(self, reason)
        self.transport = None
        self.on_lost()

    def _cut(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    def _take(self, octets: bytes) -> None:
        if self._running is not None:
            raise RemoteError("a call is still under way on this connection")
        if len(self._request) + len(octets) > REQUEST_LIMIT:
            self._request.clear()
            raise RemoteError(f"the arguments are longer than {REQUEST_LIMIT} octets")
        self._request += octets

    @Part.responder
    def _part(self, octets: bytes) -> dict[str, object]:
        self._take(octets)
        return {}

    @Call.responder
    def _call(self, method: str, octets: bytes) -> Deferred[dict[str, object]]:
        self._take(octets)
        request, self._request = bytes(self._request), bytearray()
        self._result, self._sent = b"", 0
        try:
            arguments = json.loads(request)
        except (ValueError, RecursionError) as error:
            raise RemoteError("the arguments are not JSON") from error
        if not isinstance(arguments, dict):
            raise RemoteError("the arguments are not a JSON object")
        running = self._running = Deferred.fromCoroutine(self._registry.call(method, arguments))
        return running.addBoth(self._ran).addCallback(self._encode, method)

    def _ran(self, result: Json | Failure) -> Json | Failure:
        self._running = None
        return result

    def _encode(self, value: Json, method: str) -> dict[str, object]:
        try:
            octets = json.dumps(value).encode()
        except (TypeError, ValueError) as error:
            self.log.failure("the result of control method {name} is not JSON", name=method)
            raise RemoteError(f"{method}: internal error; the daemon's log has it") from error
        if len(octets) > RESPONSE_LIMIT:
            raise RemoteError(f"the result is longer than {RESPONSE_LIMIT} octets; ask for less of it")
        self._result = octets
        return self._next()

    @Next.responder
    def _next(self) -> dict[str, object]:
        octets = self._result[self._sent : self._sent + PIECE]
        self._sent += len(octets)
        remaining = len(self._result) - self._sent
        if not remaining:
            self._result, self._sent = b"", 0
        return {"octets": octets, "remaining": remaining}


class ControlFactory(Factory):
    """Connections of one socket, at most L{CONNECTIONS} at once."""

    noisy = False

    def __init__(self, registry: Registry, clock: IReactorTime) -> None:
        self._registry = registry
        self._clock = clock
        self.open: set[ControlProtocol] = set()

    def buildProtocol(self, addr: IAddress | None) -> ControlProtocol | None:
        if len(self.open) >= CONNECTIONS:
            return None
        protocol = ControlProtocol(self._registry, self._clock)
        protocol.factory = self
        self.open.add(protocol)
        protocol.on_lost = lambda: self.open.discard(protocol)
        return protocol


def control_path(home: str, name: str) -> str:
    """Where the control socket of C{ROLE-INDEX} is."""
    return os.path.join(home, DIRECTORY, f"{name}.sock")


def bind_control(home: str, name: str) -> socket.socket:
    """
    A listening control socket in place of whatever had its name; the caller's user alone may connect.

    @raise OSError: it cannot be made.
    """
    path = control_path(home, name)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    if os.path.lexists(path):
        os.unlink(path)  # of a process that was killed: the place is ours, by the daemon's lock
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_path(path) as short:
            listening.bind(short)
        # Until listen() nobody can connect, so that the mode is in force before the first connection.
        os.chmod(path, 0o600)
        listening.setblocking(False)
        listening.listen(CONNECTIONS)
    except BaseException:
        listening.close()
        raise
    return listening


class ControlServer(Service):
    """Listens while it runs."""

    def __init__(self, reactor: Any, home: str, name: str, registry: Registry, handle: int | None = None) -> None:
        """
        @param name: C{ROLE-INDEX}.
        @param handle: descriptor of the socket, where somebody else made it and will remove its name; this object
            closes it. C{None}: it makes and removes the socket itself.
        """
        self._reactor = reactor
        self._home = home
        self._name = name
        self._handle = handle
        self._factory = ControlFactory(registry, reactor)
        self._port: IListeningPort | None = None

    def startService(self) -> None:
        """@raise OSError: the socket cannot be made."""
        super().startService()
        if self._handle is None:
            with bind_control(self._home, self._name) as listening:
                self._port = adopt(self._reactor, listening.fileno(), socket.AF_UNIX, self._factory)
        else:
            self._port = adopt(self._reactor, self._handle, socket.AF_UNIX, self._factory)
            os.close(self._handle)

    async def _stop(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            done = port.stopListening()
            if done is not None:
                await done
        for protocol in list(self._factory.open):
            if protocol.transport is not None:
                protocol.transport.loseConnection()

    def stopService(self) -> Deferred[None]:
        """Fires when nobody can connect any more; answers under way are written out."""
        super().stopService()
        path = control_path(self._home, self._name)
        if self._port is not None and self._handle is None and os.path.lexists(path):
            os.unlink(path)
        return Deferred.fromCoroutine(self._stop())
