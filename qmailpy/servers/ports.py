"""Ports on listening sockets that somebody else made: how a process takes up what the supervisor bound for it."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import unix
from twisted.internet.interfaces import IListeningPort, IProtocolFactory

BACKLOG = 1024
"""Connections the kernel keeps for us until they are accepted; what it allows at most is net.core.somaxconn."""


class _KeptUnixPort(unix.Port):
    """
    A UNIX port whose path belongs to somebody else.

    Twisted's own sets the path's mode to 0666 when it takes a socket up and removes the path when it stops; both would
    be wrong for a socket that several processes share in turn. It spares paths that look abstract.
    """

    @classmethod
    def adopted(cls, reactor: object, handle: int, factory: IProtocolFactory) -> _KeptUnixPort:
        port: _KeptUnixPort = cls._fromListeningDescriptor(reactor, handle, factory)
        port._bindPath = b"\0" + (port._bindPath or b"")
        port.backlog = BACKLOG
        port.startListening()
        return port


def adopt(reactor: Any, handle: int, family: int, factory: IProtocolFactory) -> IListeningPort:
    """
    Accept connections on a listening socket.

    The handle is duplicated and stays the caller's; stopping the port ends this process's part only, the path of a UNIX
    socket stays.

    @param handle: descriptor of a non-blocking, listening stream socket.
    @param family: C{socket.AF_INET}, C{AF_INET6} or C{AF_UNIX}.
    """
    if family == socket.AF_UNIX:
        return _KeptUnixPort.adopted(reactor, handle, factory)
    port: IListeningPort = reactor.adoptStreamPort(handle, family, factory)
    return port
