"""A router that answers from a table: the fake of L{IRouter}."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from qmailpy.interfaces import IRouter
from qmailpy.values import Posting, Recipient, Refused, Reply, Routed, RouteResult


def local(address: str, channel: str = "local") -> Routed:
    """The usual answer for one of our users."""
    return Routed(recipients=(Recipient(address=address, original=address, channel=channel),), local=True)


def remote(address: str, channel: str = "tcp_local") -> Routed:
    """The usual answer for an address elsewhere."""
    host = address.rpartition("@")[2]
    return Routed(recipients=(Recipient(address=address, original=address, channel=channel, host=host),), local=False)


@implementer(IRouter)
@define(eq=False)
class ScriptedRouter:
    """
    @ivar now: what is known without waiting. A value that is an exception is raised.
    @ivar later: what L{route} answers at once but L{route_now} does not know.
    @ivar asked: every (address, source) that was asked for, in order.
    @ivar abouts: what was known of the message with each question of L{route_now}.
    @ivar waiting: addresses L{route} was asked for and that are in no table; a test answers with L{tell}.
    """

    now: dict[str, RouteResult | Exception] = field(factory=dict)
    later: dict[str, RouteResult | Exception] = field(factory=dict)
    asked: list[tuple[str, str]] = field(factory=list)
    abouts: list[Posting | None] = field(factory=list)
    waiting: dict[str, list[Deferred[RouteResult]]] = field(factory=dict)

    def route_now(self, address: str, source: str, about: Posting | None = None) -> RouteResult | None:
        self.asked.append((address, source))
        self.abouts.append(about)
        return _given(self.now.get(address))

    async def route(self, address: str, source: str, about: Posting | None = None) -> RouteResult:
        found = _given(self.later.get(address, self.now.get(address)))
        if found is not None:
            return found
        answer: Deferred[RouteResult] = Deferred()
        self.waiting.setdefault(address, []).append(answer)
        return await answer

    def tell(self, address: str, result: RouteResult | Exception) -> None:
        """Answer the oldest question for C{address}."""
        answer = self.waiting[address].pop(0)
        if isinstance(result, Exception):
            answer.errback(Failure(result))
        else:
            answer.callback(result)


def unknown_user() -> Refused:
    """The usual refusal."""
    return Refused(Reply(550, "5.1.1", "No such user here"))


def _given(result: RouteResult | Exception | None) -> RouteResult | None:
    if isinstance(result, Exception):
        raise result
    return result
