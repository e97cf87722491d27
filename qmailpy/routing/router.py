"""
L{IRouter}: the rewrite rules and the directory behind one question.

The way itself is L{expand.resolve}; here it is given its answers: from the cache without waiting, or from the
directory. A directory that is away makes the answer 451 4.3.0, never "no such user".
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from attrs import frozen
from zope.interface import implementer

from qmailpy.config.schema import Config
from qmailpy.directory.address import POSTMASTER
from qmailpy.directory.cache import UNKNOWN, IPeek
from qmailpy.errors import Temporary
from qmailpy.interfaces import IDirectory, IRouter
from qmailpy.routing import expand
from qmailpy.routing.expand import AskDomain, Table
from qmailpy.routing.rules import Rules
from qmailpy.values import Refused, RouteResult


@frozen
class Trace:
    """An answer and how it came about."""

    result: RouteResult
    steps: tuple[str, ...]  # sentences, in order


@implementer(IRouter)
class Router:
    """Routes by a configuration and a directory."""

    def __init__(self, config: Config, directory: IDirectory) -> None:
        """@param directory: L{route_now} has answers when it provides L{IPeek}."""
        self._table = table(config)
        self._directory = directory
        self._peek: IPeek | None = directory if IPeek.providedBy(directory) else None

    def reconfigure(self, config: Config) -> None:
        """Use the rules and channels of C{config} from the next question on; called when it was reread."""
        self._table = table(config)

    def route_now(self, address: str, source: str) -> RouteResult | None:
        peek = self._peek
        if peek is None:
            return None
        steps = expand.resolve(self._table, address, source)
        answer: Any = None
        try:
            while True:
                question = steps.send(answer)
                if isinstance(question, AskDomain):
                    answer = peek.peek_domain(question.name)
                else:
                    answer = peek.peek_lookup(question.address)
                if answer is UNKNOWN:
                    steps.close()
                    return None
        except StopIteration as end:
            result: RouteResult = end.value
            return result

    async def route(self, address: str, source: str) -> RouteResult:
        return await self._drive(expand.resolve(self._table, address, source))

    async def trace(self, address: str, source: str) -> Trace:
        """As L{route}, with every step told."""
        steps: list[str] = []
        result = await self._drive(expand.resolve(self._table, address, source, steps.append), steps.append)
        return Trace(result, tuple(steps))

    async def _drive(
        self,
        steps: Generator[expand.Question, expand.Answer, RouteResult],
        note: Callable[[str], None] | None = None,
    ) -> RouteResult:
        answer: expand.Answer = None
        try:
            while True:
                question = steps.send(answer)
                if isinstance(question, AskDomain):
                    answer = await self._directory.domain(question.name)
                else:
                    answer = await self._directory.lookup(question.address)
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
    local = next((name for name, channel in config.channels.items() if channel.kind == "local"), "")
    return Table(
        rules=Rules(config.rules),
        channels=config.channels,
        local=local,
        postmasters=_postmasters(config),
        configured=bool(config.server.postmaster),
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
