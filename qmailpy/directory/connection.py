"""
A connection to an LDAP server, from our side (RFC 4511): sends requests, matches the answers to them.

ldaptor's own client imports the global reactor, decodes a partial message again with every packet and takes messages
of any size; its messages are used here, its client is not.

What fails and how: a connection that breaks fails everything that waits on it with Twisted's reason; a server that says
no to what must work, or something that is no answer, is L{LdapTrouble}.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

from attrs import frozen
from ldaptor.protocols import pureldap
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IHandshakeListener, IOpenSSLClientConnectionCreator, ITCPTransport
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from qmailpy.directory import ber, decode
from qmailpy.directory.access import Code

_MESSAGE = 1048576  # octets; an entry with thousands of forwarding addresses still fits


class LdapTrouble(Exception):
    """The server said no to what must work, or something that is no answer."""


@frozen
class Answer:
    """What a request came to."""

    result: Any  # ldaptor's final message, with resultCode
    entries: list[Any]  # of a search
    referred: bool  # whether a part of a search's answer is at another server


class Secure(Protocol):
    """How a connection gets its TLS; L{qmailpy.directory.tls}."""

    starttls: bool  # whether it is asked for first (RFC 4511 s.4.14), or there from the first octet

    def creator(self) -> IOpenSSLClientConnectionCreator:
        """What C{startTLS} wants."""

    def mismatch(self, transport: Any) -> str:
        """What is wrong with the name of the server's certificate, "" when nothing is."""


class _Asked:
    """A request that waits for its answer."""

    __slots__ = ("entries", "referred", "waiting")

    def __init__(self, waiting: Deferred[Answer]) -> None:
        self.waiting = waiting
        self.entries: list[Any] = []
        self.referred = False


@implementer(IHandshakeListener)
class LdapConnection(TwistedProtocol):
    """One connection; many requests may be under way."""

    def __init__(self) -> None:
        self._frames = ber.Frames(_MESSAGE)
        self._asked: dict[int, _Asked] = {}
        self._number = 0
        self._handshake: Deferred[None] | None = None
        self.open = False

    @property
    def outstanding(self) -> int:
        """Questions without an answer so far."""
        return len(self._asked)

    def connectionMade(self) -> None:
        self.open = True
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.open = False
        asked, self._asked = self._asked, {}
        for one in asked.values():
            if not one.waiting.called:
                one.waiting.errback(reason)
        handshake, self._handshake = self._handshake, None
        if handshake is not None and not handshake.called:
            handshake.errback(reason)

    def dataReceived(self, data: bytes) -> None:
        try:
            for octets in self._frames.feed(data):
                self._take(decode.message(octets))
        except Exception:  # whatever ldaptor makes of a peer's octets: the connection is of no use any more
            self.drop()

    def _take(self, message: Any) -> None:
        asked = self._asked.get(message.id)
        if asked is None:
            return  # an answer nobody waits for any more, or a notice of disconnection
        if isinstance(message.value, pureldap.LDAPSearchResultEntry):
            asked.entries.append(message.value)
            return
        if isinstance(message.value, pureldap.LDAPSearchResultReference):
            asked.referred = True
            return
        del self._asked[message.id]
        if not asked.waiting.called:
            asked.waiting.callback(Answer(message.value, asked.entries, asked.referred))

    def ask(self, operation: Any, controls: Sequence[tuple[str, bool, bytes]] | None = None) -> Deferred[Answer]:
        """
        Send a request; fires with its L{Answer}, or fails when the connection is lost.

        @param controls: name, whether it is critical, value.
        """
        if not self.open or self.transport is None:
            raise ConnectionDone("the connection is lost")
        self._number = self._number % 0x7FFFFFFF + 1
        number = self._number
        waiting: Deferred[Answer] = Deferred(lambda _: self._forget(number))
        self._asked[number] = _Asked(waiting)
        self.transport.write(pureldap.LDAPMessage(operation, controls=controls, id=number).toWire())
        return waiting

    def _forget(self, number: int) -> None:
        self._asked.pop(number, None)

    async def secure(self, how: Secure) -> None:
        """
        Have all that follows under TLS; before anything else is asked.

        @raise LdapTrouble: the server has none, or its certificate is for somebody else.
        """
        if how.starttls:
            answer = await self.ask(pureldap.LDAPStartTLSRequest())
            if answer.result.resultCode != Code.SUCCESS:
                raise LdapTrouble(f"StartTLS: result code {answer.result.resultCode}")
        # What came in the clear behind the answer is somebody else's.
        self._frames = ber.Frames(_MESSAGE)
        self._handshake = Deferred()
        cast(Any, self.transport).startTLS(how.creator())
        await self._handshake
        wrong = how.mismatch(self.transport)
        if wrong:
            raise LdapTrouble(wrong)

    def handshakeCompleted(self) -> None:
        handshake, self._handshake = self._handshake, None
        if handshake is not None and not handshake.called:
            handshake.callback(None)

    async def bind(self, dn: str, password: bytes) -> bool:
        """
        Bind as C{dn}; whether the password was right.

        @raise LdapTrouble: the server could not say.
        """
        if not password:
            return False  # succeeds as nobody (RFC 4513 s.5.1.2)
        answer = await self.ask(pureldap.LDAPBindRequest(dn=dn, auth=password))
        code = answer.result.resultCode
        if code == Code.SUCCESS:
            return True
        if code in (Code.INVALID_CREDENTIALS, Code.NO_SUCH_OBJECT, Code.UNWILLING):
            return False
        raise LdapTrouble(f"bind: result code {code}")

    def drop(self) -> None:
        """End the connection at once; what waits on it fails."""
        if self.open and self.transport is not None:
            cast(ITCPTransport, self.transport).abortConnection()
            self.connectionLost(Failure(ConnectionAborted()))
