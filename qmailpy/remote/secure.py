"""
TLS of one connection, between its transport and its session: at a server, or towards one.

    transport --octets of the wire--> dataReceived --what was sealed in them--> the session
    the session --> seal --> octets of the wire, which the session writes itself
    shaking --> up --> over        over: the peer has said goodbye, TLS has failed, or we have said the last word

It takes the place of Twisted's own layer, which costs a session of one message about as much as the session itself:
that one writes in the reactor's next turn and asks epoll for it, makes a transport of interfaces and reads everything
until OpenSSL says that there is no more. Here what is sealed leaves as what is in the clear does, at once.

What fails and how: octets that are no TLS, and what OpenSSL finds wrong with it, end the connection with the alert that
says so; the session's connectionLost is told the C{SSL.Error}. Nothing of the session is sent before the handshake is
done. A connection that ends without goodbye is an end like any other: SMTP and POP3 say themselves what is complete.
"""

from __future__ import annotations

from typing import Any, Protocol

from OpenSSL import SSL
from twisted.internet.interfaces import IProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

_READ = 65536
_PIECE = 32768  # OpenSSL's memory grows to what it is given at once, and stays so while a connection is idle
_HEADER = 5  # RFC 8446 s.5.1: type, version, length of what follows
_LENGTH = slice(3, 5)
_DULL = 65536  # octets of TLS's own, with nothing of ours between, after which what OpenSSL answers to them leaves
_UNASKED = 65536  # octets of such answers a connection may want: 2,400 times a new key (RFC 8446 s.4.6.3)


class Secured(Protocol):
    """The session, as far as the layer needs it."""

    def dataReceived(self, data: bytes) -> None:
        """What the peer has said under TLS."""

    def connectionLost(self, reason: Failure) -> None:
        """The connection is gone."""

    def handshakeCompleted(self) -> None:
        """From now on there is TLS."""

    def send_sealed(self, octets: bytes) -> None:
        """Write octets of the wire."""

    def tls_over(self) -> None:
        """Nothing more can be said or heard: end the connection."""


@implementer(IProtocol)
class SecureLayer:
    """
    Stands before a session as the protocol of its transport.

    @ivar up: whether the handshake is done, and what is written leaves under TLS.
    """

    __slots__ = (
        "_client",
        "_connection",
        "_dull",
        "_ended",
        "_head",
        "_left",
        "_over",
        "_reason",
        "_session",
        "_unasked",
        "up",
    )

    def __init__(self, session: Secured, connection: SSL.Connection, *, client: bool = False) -> None:
        """
        @param connection: new, with memory for its ends.
        @param client: we are the one who begins: L{begin} must follow.
        """
        self._session = session
        self._connection = connection
        self._reason: Failure | None = None
        self._over = False
        self._client = client
        self._ended = False  # the peer has said goodbye, and what it said before is being heard
        self._dull = 0  # octets that came for TLS alone since we said something
        self._unasked = 0  # octets of what OpenSSL answered to them
        self._head = b""  # the beginning of a record's header
        self._left = 0  # octets to come of the record that has begun
        self.up = False
        if client:
            connection.set_connect_state()
        else:
            connection.set_accept_state()

    def begin(self) -> None:
        """Say the first word, as a client does."""
        try:
            self._shake()
        except SSL.Error:
            self._fail()

    def getHandle(self) -> SSL.Connection:
        """For who wants to know of TLS: its names are those of Twisted's layer."""
        return self._connection

    # IProtocol

    def makeConnection(self, transport: Any) -> None:
        """The session has the transport."""

    def connectionMade(self) -> None:
        """The session was told."""

    def dataReceived(self, data: bytes) -> None:
        if self._over:
            return
        connection = self._connection
        try:
            # Of a record that comes alone OpenSSL need not be asked whether there is more.
            single = self._alone(data) and self.up
            if len(data) <= _PIECE:
                connection.bio_write(data)
                if not self.up and not self._shake():
                    return
                text = self._open(single)
            else:
                text = self._open_much(data)
            self._dull += len(data) - len(text)
            if self._dull > _DULL and not self._over:
                self._answer()
        except SSL.Error:
            self._fail()
            return
        if text:
            self._session.dataReceived(text)
        if self._ended:
            self._leave()  # behind the peer's last words: they may be a QUIT, with all it asks for

    def connectionLost(self, reason: Failure) -> None:
        self._over = True
        self._session.connectionLost(self._reason or reason)

    # For the session

    def seal(self, octets: bytes, *, last: bool = False) -> bytes:
        """
        What is to be written for octets of the session; b"" when they cannot be said (any more).

        @param last: nothing follows: with TLS's goodbye (RFC 8446 s.6.1).
        """
        if self._over or not self.up:
            return b""
        if len(octets) > _PIECE:
            cuts = [octets[at : at + _PIECE] for at in range(0, len(octets), _PIECE)]
            final = cuts.pop()
            return b"".join([*map(self.seal, cuts), self.seal(final, last=last)])
        connection = self._connection
        self._dull = 0
        try:
            if octets:
                connection.sendall(octets)  # send() may take a record of it only
            if last:
                self._over = True
                connection.shutdown()
        except SSL.Error:
            self._fail()
        return self._pending()

    def forsake(self) -> None:
        """The connection is being cut: nothing more is said or heard."""
        self._over = True

    # Within

    def _shake(self) -> bool:
        """Go on with the handshake; whether it is done."""
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            self._session.send_sealed(self._pending())
            return False
        self.up = True
        # The last word of a handshake is the server's with TLS 1.2, and the client waits for it. With 1.3 a server has
        # tickets left, which nobody waits for: they leave with what the session says next and wake nobody themselves.
        # The client's last word leaves with what it says next as well; if it says nothing, by itself.
        if not self._client and self._connection.get_protocol_version() != SSL.TLS1_3_VERSION:
            self._session.send_sealed(self._pending())
        self._session.handshakeCompleted()
        if self._client and not self._over and (left := self._pending()):
            self._session.send_sealed(left)
        return True

    def _alone(self, data: bytes) -> bool:
        """Whether C{data} is one record, no more and no less; keeps account of where records begin."""
        left = self._left
        if not left and not self._head and len(data) == _HEADER + int.from_bytes(data[_LENGTH], "big"):
            return True
        octets = self._head + data
        while left + _HEADER <= len(octets):
            left += _HEADER + int.from_bytes(octets[left + 3 : left + _HEADER], "big")
        self._head = octets[left:]
        self._left = max(0, left - len(octets))
        return False

    def _open_much(self, data: bytes) -> bytes:
        """The same for what may be many records, piece by piece."""
        parts = []
        for at in range(0, len(data), _PIECE):
            if self._ended or self._over:
                break
            self._connection.bio_write(data[at : at + _PIECE])
            if self.up or self._shake():
                parts.append(self._open(single=False))
        return b"".join(parts)

    def _open(self, single: bool) -> bytes:
        """All that the peer has said. @param single: OpenSSL has been given one record, whole."""
        connection = self._connection
        parts = []
        try:
            while not self._over:
                parts.append(connection.recv(_READ))
                if single:
                    return parts[0]
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self._ended = True
        except SSL.Error:
            # A reply that came whole is one, whatever its server sends behind it; a client without one tries again.
            if not self._client or not parts:
                raise
            self._reason = Failure()
            self._ended = True
        return b"".join(parts)

    def _answer(self) -> None:
        """
        What OpenSSL answers to requests of the peer's TLS leaves with our next words; a peer that goes on asking while
        we have none would fill our memory.

        @raise SSL.Error: it wants too much.
        """
        self._dull = 0
        answers = self._pending()
        self._unasked += len(answers)
        if self._unasked > _UNASKED:
            raise SSL.Error([("", "", "the peer asks for new keys without end")])
        self._session.send_sealed(answers)

    def _pending(self) -> bytes:
        """What OpenSSL wants written."""
        parts = []
        try:
            while True:
                part = self._connection.bio_read(_READ)
                parts.append(part)
                if len(part) < _READ:
                    break
        except SSL.WantReadError:
            pass
        return b"".join(parts)

    def _fail(self) -> None:
        self._reason = Failure()
        self._leave()

    def _leave(self) -> None:
        """The alert is all that is still said."""
        self._ended = False
        if self._over:
            return
        self._over = True
        self._session.send_sealed(self._pending())
        self._session.tls_over()
