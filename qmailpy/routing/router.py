"""
L{IRouter}: the rewrite rules and the directory behind one question.

The way itself is L{expand.resolve}; here it is given its answers: from the cache without waiting, or from the
directory. A directory that is away makes the answer 451 4.3.0, never "no such user". Whether a mailbox has room is
asked of L{IRoom}; without one there is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

from attrs import evolve, frozen
from zope.interface import implementer

from qmailpy.config.schema import Config
from qmailpy.directory.address import POSTMASTER
from qmailpy.directory.cache import UNKNOWN, IPeek, Unknown
from qmailpy.errors import Temporary
from qmailpy.interfaces import IDirectory, IRoom, IRouter
from qmailpy.routing import expand
from qmailpy.routing.expand import AskDomain, AskRoom, Table
from qmailpy.routing.posting import Answer
from qmailpy.routing.rules import Rules
from qmailpy.values import Posting, Refused, Room, RouteResult
from qmailpy.wire.srs import Srs


@frozen
class Trace:
    """An answer and how it came about."""

    result: RouteResult
    steps: tuple[str, ...]  # sentences, in order


@implementer(IRouter)
class Router:
    """Routes by a configuration and a directory."""

    def __init__(
        self,
        config: Config,
        directory: IDirectory,
        *,
        room: IRoom | None = None,
        srs_secret: bytes = b"",
        seconds: Callable[[], float] = time.time,
    ) -> None:
        """
        @param directory: L{route_now} has answers when it provides L{IPeek}.
        @param room: whom to ask whether mailboxes are full.
        @param srs_secret: of the senders that forwarded mail has; empty = their bounces are unknown users.
        @param seconds: the time of day.
        """
        self._secret = srs_secret
        self._seconds = seconds
        self._table = self._made(config)
        self._directory = directory
        self._room = room
        self._peek: IPeek | None = directory if IPeek.providedBy(directory) else None

    def reconfigure(self, config: Config) -> None:
        """Use the rules and channels of C{config} from the next question on; called when it was reread."""
        self._table = self._made(config)

    def _made(self, config: Config) -> Table:
        made = table(config)
        if not self._secret:
            return made
        srs = Srs(self._secret, config.forward.srs_days)
        return evolve(made, unforward=lambda local: srs.reverse(local, self._seconds()))

    def route_now(self, address: str, source: str, about: Posting | None = None) -> RouteResult | None:
        peek = self._peek
        if peek is None:
            return None
        steps = expand.resolve(self._table, address, source, about=about)
        answer: Any = None
        try:
            while True:
                question = steps.send(answer)
                if isinstance(question, AskDomain):
                    answer = peek.peek_domain(question.name)
                elif isinstance(question, AskRoom):
                    answer = self._room_now(question)
                else:
                    answer = peek.peek_lookup(question.address)
                if answer is UNKNOWN:
                    steps.close()
                    return None
        except StopIteration as end:
            result: RouteResult = end.value
            return result

    def _room_now(self, question: AskRoom) -> Room | Unknown:
        if self._room is None:
            return Room()
        found = self._room.room_now(question.mailbox, question.domain, question.size_octets)
        return UNKNOWN if found is None else found

    async def route(self, address: str, source: str, about: Posting | None = None) -> RouteResult:
        return await self._drive(expand.resolve(self._table, address, source, about=about))

    async def trace(self, address: str, source: str, about: Posting | None = None) -> Trace:
        """As L{route}, with every step told."""
        steps: list[str] = []
        result = await self._drive(expand.resolve(self._table, address, source, steps.append, about), steps.append)
        return Trace(result, tuple(steps))

    async def _drive(
        self,
        steps: Generator[expand.Question, Answer, RouteResult],
        note: Callable[[str], None] | None = None,
    ) -> RouteResult:
        answer: Answer = None
        try:
            while True:
                question = steps.send(answer)
                if isinstance(question, AskDomain):
                    answer = await self._directory.domain(question.name)
                elif not isinstance(question, AskRoom):
                    answer = await self._directory.lookup(question.address)
                elif self._room is not None:
                    answer = await self._room.room(question.mailbox, question.domain, question.size_octets)
                else:
                    answer = Room()
        except StopIteration as end:
            result: RouteResult = end.value
            return result
        except Temporary as problem:
            steps.close()
            if note is not None:
                note(f"the directory cannot tell: {problem}")
            return Refused(problem.reply)


def table(config: Config) -> Table:
    """What a configuration says about routing."""

    def first(kind: str) -> str:
        return next((name for name, channel in config.channels.items() if channel.kind == kind), "")

    return Table(
        rules=Rules(config.rules),
        channels=config.channels,
        local=first("local"),
        postmasters=_postmasters(config),
        configured=bool(config.server.postmaster),
        process=first("process"),
        expanding=first("reprocess") or first("process"),
        store=config.server.store_channel,
        nodes=names_of_node(config),
        suspended=expand.SUSPENDED_FOR_NOW if config.local.disabled == "defer" else expand.SUSPENDED,
        bounce_domain=config.forward.domain.lower(),
    )


def _postmasters(config: Config) -> tuple[str, ...]:
    """
    Who may take postmaster's mail, the likeliest first.

    Without a configured address it is postmaster of our first domain: that of C{[server] domain}, else the nearest one
    above our host name.
    """
    found = [config.server.postmaster, f"{POSTMASTER}@{config.server.domain}" if config.server.domain else ""]
    labels = config.server.hostname.lower().split(".")
    found += [f"{POSTMASTER}@{'.'.join(labels[at:])}" for at in range(max(1, min(len(labels) - 1, 8)))]
    return tuple(dict.fromkeys(address for address in found if address))


def names_of_node(config: Config) -> frozenset[str]:
    """What the directory may call this node."""
    return frozenset(name.lower() for name in (config.server.hostname, *config.server.names))
