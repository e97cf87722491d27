"""
Connections to other nodes for users whose mailboxes are there: found, dialled, put under TLS, logged in
(L{qmailpy.wire.pop3_client}); then they are the user's, octet by octet.

What fails and how: L{NodeAway} when the node cannot be reached or talked to, L{NodeRefused} when it has refused the
login. Each connection is for one user and ends with the session.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IHandshakeListener, IProtocol, IPushProducer, IReactorTime
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from qmailpy.config.schema import Config, Pop3Config
from qmailpy.directory.service import thd_read_password
from qmailpy.errors import QmailpyError, Temporary
from qmailpy.interfaces import IResolver
from qmailpy.remote import tls
from qmailpy.remote.mx import is_address
from qmailpy.remote.peers import Peer
from qmailpy.wire.client_events import Tls
from qmailpy.wire.pop3_client import Broken, Guest, LetIn, NodeLogin, Outcome, TlsWanted, Turned

LINGER_S = 30.0
"""For a node to take the last words of a user."""

ADDRESSES_MOST = 4
"""Addresses of a node that are tried."""


class NodeAway(QmailpyError):
    """Another node cannot be used now. The text is for the log."""


class NodeRefused(QmailpyError):
    """Another node has refused a login. The text is for the client, with its response code."""


class IGuest(Interface):
    """Who is on our side of a connection to another node, from L{LetIn} on."""

    def far_said(octets: bytes) -> None:
        """The node has something for the user."""

    def far_paused() -> None:
        """The node does not take what the user sends: stop reading that."""

    def far_resumed() -> None:
        """It takes it again."""

    def far_lost() -> None:
        """The connection is gone; nothing follows."""


@implementer(IProtocol, IHandshakeListener, IPushProducer)
class Far:
    """
    A connection to another node.

    @ivar said: the node's answer to the login.
    """

    def __init__(self, reactor: IReactorTime, guest: Guest, peer: Peer, contexts: tls.Contexts) -> None:
        self._reactor = reactor
        self._login: NodeLogin | None = NodeLogin(guest, tls=peer.tls is not Tls.NONE)
        self._peer = peer
        self._contexts = contexts
        self._early: list[bytes] = []
        self._guest: Any = None
        self._lost = False
        self._shaking = False  # TLS has begun and is not there yet
        self.transport: Any = None
        self.said = b""
        self.outcome: Deferred[Outcome] = Deferred()

    # --- IProtocol, IHandshakeListener, IPushProducer ---------------------------------------------------------

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        self.connectionMade()

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.transport.setTcpKeepAlive(True)

    def dataReceived(self, data: bytes) -> None:
        login = self._login
        if login is not None:
            outcome = login.receive(data)
            self._send(login)
            if isinstance(outcome, TlsWanted):
                self._shaking = True
                self.transport.startTLS(self._contexts.creator(self._peer))
            elif outcome is not None:
                self._decided(outcome)
        elif self._guest is not None:
            self._guest.far_said(data)
        else:
            self._early.append(data)

    def handshakeCompleted(self) -> None:
        self._shaking = False
        wrong = tls.mismatch(self.transport, self._peer)
        if wrong is not None:
            self._decided(Broken(wrong.why))
        elif self._login is not None:
            self._login.secured()
            self._send(self._login)

    def connectionLost(self, reason: Failure) -> None:
        self._lost = True
        handshake = tls.why(self.transport, reason).why if self._shaking else ""
        self._decided(Broken(handshake or f"the connection was lost: {reason.getErrorMessage()}"))
        guest, self._guest = self._guest, None
        if guest is not None:
            guest.far_lost()

    def pauseProducing(self) -> None:
        if self._guest is not None:
            self._guest.far_paused()

    def resumeProducing(self) -> None:
        if self._guest is not None:
            self._guest.far_resumed()

    def stopProducing(self) -> None:
        """The connection is lost; connectionLost follows."""

    # --- the inside ------------------------------------------------------------------------------------------

    def _send(self, login: NodeLogin) -> None:
        octets = login.take()
        if octets:
            self.transport.write(octets)

    def _decided(self, outcome: Outcome) -> None:
        if self._login is None:
            return
        self._login = None
        if isinstance(outcome, LetIn):
            self.said = outcome.said
            if outcome.rest:
                self._early.append(outcome.rest)
        else:
            self.drop()
        self.outcome.callback(outcome)

    # --- for the guest ---------------------------------------------------------------------------------------

    def begin(self, guest: Any) -> None:
        """
        From here on the connection is the user's.

        @param guest: L{IGuest}; told of everything, at once perhaps.
        """
        self._guest = guest
        self.transport.registerProducer(self, True)
        early, self._early = self._early, []
        for octets in early:
            guest.far_said(octets)
        if self._lost:
            self._guest = None
            guest.far_lost()

    def say(self, octets: bytes) -> None:
        """For the node."""
        if not self._lost:
            self.transport.write(octets)

    def pause(self) -> None:
        """The user does not take what the node sends."""
        if not self._lost:
            self.transport.pauseProducing()

    def resume(self) -> None:
        """He takes it again."""
        if not self._lost:
            self.transport.resumeProducing()

    def close(self) -> None:
        """The user is gone: his last words still reach the node, a QUIT perhaps. The guest is told nothing more."""
        if self._lost:
            return
        self._guest = None
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        self._reactor.callLater(LINGER_S, self.drop)

    def drop(self) -> None:
        """End it at once; the guest is told nothing more."""
        self._guest = None
        if self.transport is not None and not self._lost:
            self.transport.abortConnection()

    def give_up(self) -> None:
        """The login takes too long."""
        self._decided(Broken("no answer in time"))


@frozen(kw_only=True)
class NodeSecrets:
    """
    What is read from files, when the process starts and when its configuration changes.

    @ivar password: of C{node_user}; b"" = there is none.
    """

    contexts: tls.Contexts
    password: bytes


def thd_read_secrets(config: Config) -> NodeSecrets:
    """
    Read them. May block.

    @raise OSError: one cannot be read.
    """
    settings = config.pop3
    password = thd_read_password(config, settings.node_password_file) if settings.node_password_file else b""
    return NodeSecrets(contexts=tls.Contexts(settings.ca_file, needed=False), password=password)


class Nodes:
    """Where users are let in at other nodes."""

    def __init__(self, dialler: Any, resolver: IResolver) -> None:
        """@param dialler: the reactor."""
        self._dialler = dialler
        self._resolver = resolver

    async def enter(self, node: str, guest: Guest, settings: Pop3Config, secrets: NodeSecrets) -> Far:
        """
        Log a user in at another node. Cancelling gives up.

        @param node: C{HOST} or C{HOST:PORT}.
        @raise NodeAway: it cannot be reached, or is not who it should be.
        @raise NodeRefused: it does not let the user in.
        """
        host, port = split(node, settings.port)
        want = Tls(settings.tls)
        if want is Tls.VERIFY and secrets.contexts.missing:
            raise NodeAway(f"{node}: nobody can be verified: {secrets.contexts.missing}")
        why = "it has no address"
        for address in (await self._addresses(host))[:ADDRESSES_MOST]:
            names = (host,) if want is Tls.VERIFY else ()
            far = Far(self._dialler, guest, Peer(host, address, port, want, names=names), secrets.contexts)
            try:
                await self._dial(far, address, port, settings.timeout_s)
            except CancelledError:
                raise
            except Exception as error:  # ConnectError and its kin, OSError for want of sockets
                why = f"{address}:{port}: {error}"
                continue
            outcome = await self._outcome(far, settings.timeout_s)
            if isinstance(outcome, LetIn):
                return far
            if isinstance(outcome, Turned):
                raise NodeRefused(outcome.text)
            why = f"{address}:{port}: {outcome.why if isinstance(outcome, Broken) else outcome}"
        raise NodeAway(f"{node}: {why}")

    async def _addresses(self, host: str) -> Sequence[str]:
        if is_address(host):
            return (host,)
        try:
            return await self._resolver.addresses(host)
        except Temporary as error:
            raise NodeAway(f"{host}: {error}") from error

    async def _dial(self, far: Far, address: str, port: int, timeout_s: float) -> None:
        kind = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
        factory = Factory.forProtocol(cast(Any, lambda: far))
        factory.noisy = False
        try:
            await kind(self._dialler, address, port, timeout=timeout_s).connect(factory)
        except ConnectingCancelledError:
            raise CancelledError from None

    async def _outcome(self, far: Far, timeout_s: float) -> Outcome:
        late = self._dialler.callLater(timeout_s, far.give_up)
        try:
            return await far.outcome
        except BaseException:
            far.drop()
            raise
        finally:
            if late.active():
                late.cancel()


def split(node: str, port: int) -> tuple[str, int]:
    """A node's name in the directory as host and port; without one it is C{port}. An IPv6 address is in brackets."""
    host, sign, digits = node.rpartition(":")
    if sign and digits.isdecimal() and (":" not in host or host.startswith("[")):
        node, port = host, int(digits)
    return node.strip("[]"), port
