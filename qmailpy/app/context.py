"""What a role gets to work with, the same in a process of its own and in one process with all others."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from attrs import Factory, field, frozen
from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IProtocolFactory

from qmailpy.config.schema import Config
from qmailpy.servers.control import Registry
from qmailpy.servers.keys import Pair, thd_read_pairs
from qmailpy.servers.ports import adopt
from qmailpy.threads import in_pool

T = TypeVar("T")


@frozen
class BoundSocket:
    """A listening socket the supervisor made; the descriptor is the role's own."""

    handle: int
    family: int  # socket.AF_INET, AF_INET6 or AF_UNIX


@frozen
class Hooks:
    """
    What a role wants to be told; it appends to the lists while it is built.

    C{reload}: called with a new, checked configuration. An exception is logged and reported, the others are called.
    C{reopen}: called when log files were moved away and are to be opened again.
    """

    reload: list[Callable[[Config], Awaitable[None]]] = field(default=Factory(list))
    reopen: list[Callable[[], None]] = field(default=Factory(list))


@frozen(kw_only=True)
class ChildContext:
    """One process's (or one part's) place in the whole."""

    reactor: Any  # the reactor; parts take it as the interface they need
    config: Config
    home: str  # absolute path
    role: str  # "mta", "access" or "directory"
    index: int  # from 0 within the role
    shards: tuple[str, ...]  # queue shards this worker holds; the first one takes new mail, the others are adopted
    sockets: Mapping[str, tuple[BoundSocket, ...]]  # by listener name; the directory's endpoint is "ldap"
    session: str  # made at the supervisor's start: equal after a restart of this process alone, new after a boot
    ready: Callable[[], None]  # the role calls it once, when it is open for business
    control: Registry  # methods of this process's control socket
    hooks: Hooks = field(default=Factory(Hooks))
    secret: bytes | None = field(default=None, repr=False)  # the workers' for the directory; None = read it yourself
    keys: Callable[[], dict[str, Pair]] | None = None  # certificates and keys for TLS; None = read them yourself
    changed: Callable[[list[str]], None] = lambda what: None  # tells the workers' caches; see Changes

    @property
    def name(self) -> str:
        """C{ROLE-INDEX}, as in logs and under HOME/run/control."""
        return f"{self.role}-{self.index}"

    def thd_pairs(self) -> dict[str, Pair]:
        """
        The certificates and keys for TLS as they are now. May block.

        @raise ConfigError: they cannot be read.
        """
        return thd_read_pairs(self.home) if self.keys is None else self.keys()

    def in_thread(self, function: Callable[..., T], *args: object) -> Deferred[T]:
        """Run it in a thread that has nothing to do with the queue, whose own may all wait for its disk."""
        done: Deferred[T] = in_pool(self.reactor)(function, *args)
        return done

    def listen(self, listener: str, factory: IProtocolFactory) -> list[IListeningPort]:
        """
        Accept connections on all sockets of a listener; for each at most once.

        The caller stops the ports; then nothing of the socket is left in this process, while the supervisor may still
        hold it for a successor.

        @param listener: the name in the configuration; one that has no socket gives an empty list.
        """
        ports = []
        for bound in self.sockets.get(listener, ()):
            ports.append(adopt(self.reactor, bound.handle, bound.family, factory))
            os.close(bound.handle)
        return ports


Role = Callable[[ChildContext], IService]
"""Builds the service of a role: registers control methods and hooks; C{ready} is called some time after its start."""
