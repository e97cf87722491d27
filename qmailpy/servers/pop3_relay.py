"""
A POP3 conversation that another node goes on with: octets pass through, in both directions, as fast as either takes
them. What they mean is no matter of ours any more.

    before    L{Conversation<qmailpy.servers.pop3_conversation.Conversation>}
    begun     a L{Far<qmailpy.remote.pop3_node.Far>} is let in, and is the client's peer
    over      when either end is lost: then the other is closed behind its last words

What fails and how: the connection to the node is lost, so the client's ends without the update, which is the node's to
do. An orderly stop waits until the node has been silent for a moment.
"""

from __future__ import annotations

from twisted.python.failure import Failure
from zope.interface import implementer

from qmailpy.remote.pop3_node import Far, IGuest
from qmailpy.servers.connection import ANSWER, FLOW
from qmailpy.servers.pop3_conversation import Conversation
from qmailpy.servers.pop3_site import Pop3Site

QUIET_S = 0.5
"""So long without a word from either side: nothing is under way."""


@implementer(IGuest)
class Relay(Conversation):
    """A conversation, and perhaps the connection it is continued on."""

    __slots__ = ("_far",)

    def __init__(self, site: Pop3Site) -> None:
        super().__init__(site)
        self._far: Far | None = None

    def _pass_to(self, far: Far) -> None:
        """The login was answered; from here on it is the node's client."""
        ahead = self._core.handed_on(far.said)
        self._far = far
        self._flush()
        self._resume(ANSWER)
        far.begin(self)
        if ahead:
            far.say(ahead)

    def _let_far_go(self) -> None:
        far, self._far = self._far, None
        if far is not None:
            far.close()

    # IProtocol

    def dataReceived(self, data: bytes) -> None:
        far = self._far
        if far is None:
            super().dataReceived(data)
        else:
            self._heard = self._site.reactor.seconds()
            if self._trace is not None:
                self._trace.commands(data)
            far.say(data)

    def connectionLost(self, reason: Failure) -> None:
        self._let_far_go()
        super().connectionLost(reason)

    # IPushProducer

    def pauseProducing(self) -> None:
        super().pauseProducing()
        if self._far is not None:
            self._far.pause()

    def resumeProducing(self) -> None:
        super().resumeProducing()
        if self._far is not None:
            self._far.resume()

    # IGuest

    def far_said(self, octets: bytes) -> None:
        if not self._lost and not self._core.closed:
            self._heard = self._site.reactor.seconds()
            self._write(octets)

    def far_paused(self) -> None:
        self._pause(FLOW)

    def far_resumed(self) -> None:
        self._resume(FLOW)

    def far_lost(self) -> None:
        self._far = None
        if not self._lost:
            self._shut("", "the other node has closed")

    # For the factory

    def stop(self) -> None:
        if self._far is None:
            super().stop()
        else:
            self._pause(FLOW)
            self._end_when_quiet()

    def _end_when_quiet(self) -> None:
        if self._lost or self._core.closed:
            return
        if self._site.reactor.seconds() - self._heard >= QUIET_S:
            self._shut("", "stopping")
        else:
            self._site.reactor.callLater(QUIET_S, self._end_when_quiet)
