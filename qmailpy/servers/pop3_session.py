"""
One POP3 session: what the events of L{Pop3Core<qmailpy.wire.pop3.Pop3Core>} mean for a mailbox.

It asks L{Logins} and the L{IMailStore}, and answers. A message is sent as fast as the client takes it: never more than
a piece of it waits here.

    L{Connection<qmailpy.servers.connection.Connection>}               the transport: in, out, time
    L{Conversation<qmailpy.servers.pop3_conversation.Conversation>}    events and answers in order, TLS
    here                                                               logins, messages, the update

What fails and how: a refusal is a response. A connection that ends without QUIT, or is ended by us, ends without the
update (RFC 1939 s.3).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from twisted.logger import Logger
from zope.interface import implementer

from qmailpy.auth.logins import Refusal, Why
from qmailpy.errors import MailboxInUse
from qmailpy.interfaces import IHolder, IMaildrop, IMessagePieces
from qmailpy.remote.pop3_node import NodeAway, NodeRefused
from qmailpy.servers.pop3_conversation import Conversation
from qmailpy.servers.pop3_nodes import HOPS
from qmailpy.servers.pop3_relay import Relay
from qmailpy.servers.pop3_site import Pop3Site
from qmailpy.values import Mailbox
from qmailpy.wire import sasl
from qmailpy.wire.pop3_events import (
    BadCommand,
    Ended,
    FetchAsked,
    Fronted,
    LeaveAsked,
    LoginAsked,
    LoginFailed,
    LoginProven,
    SecretAsked,
    TlsAsked,
)

_WORDS = {
    Why.WRONG: "[AUTH] Wrong name or password",
    Why.MALFORMED: "Malformed response",
    Why.BANNED: "[SYS/TEMP] Too many failed logins, try again later",
    Why.NOT_ALLOWED: "[SYS/PERM] POP3 is not allowed for this account",
    Why.AWAY: "[SYS/TEMP] Logins cannot be checked now, try again later",
}
_IN_USE = "[IN-USE] The mailbox is open in another session"
_CANNOT_OPEN = "[SYS/TEMP] The mailbox cannot be opened now"
_TOO_SOON = "[LOGIN-DELAY] Too soon after the last login"
_GONE = "The message was removed by another program"
_CANNOT_READ = "[SYS/TEMP] The message cannot be read now"
_NODE_AWAY = "[SYS/TEMP] The mailbox cannot be reached now, try again later"
_PASSWORD_WANTED = "[SYS/PERM] The mailbox is on another server: log in with a password"  # noqa: S105 - words
_NOT_REMOVED = "[SYS/TEMP] Some deleted messages were not removed"


@implementer(IHolder)
class Pop3Session(Relay):
    """A connection, and who holds its mailbox."""

    _log = Logger()

    __slots__ = ("_drop", "_hops", "_user")

    def __init__(self, site: Pop3Site) -> None:
        super().__init__(site)
        self._drop: IMaildrop | None = None
        self._user = ""
        self._hops = HOPS

    # IHolder

    def silent_s(self) -> float:
        return 0.0 if self._waited_for else self._site.reactor.seconds() - self._heard

    def evict(self) -> None:
        self._log.info("POP3 {user} from {ip}: a new login takes the mailbox over", user=self._user, ip=self._ip)
        self.abort()

    # For the conversation

    def _let_go(self) -> None:
        """The session ends without the update."""
        self._let_far_go()
        drop, self._drop = self._drop, None
        if drop is not None:
            fetched, octets = self._core.box.retrieved
            self._log.info(
                "POP3 {user} from {ip}: ended without QUIT, {fetched} retrieved ({octets} octets)",
                user=self._user,
                ip=self._ip,
                fetched=fetched,
                octets=octets,
            )
            drop.release()

    # Logins

    def _secret_asked(self, event: SecretAsked) -> None:
        self._later(self._give_secret(event.login))

    async def _give_secret(self, login: str) -> None:
        found = await self._decide(self._site.logins.secret(login, self._client))
        if self._open():
            if isinstance(found, Refusal):
                self._refuse_login(found)
            else:
                self._core.secret(found)

    def _login_asked(self, event: LoginAsked) -> None:
        step = sasl.CheckPassword(login=event.login, password=event.password, authzid=event.authzid)
        self._later(self._log_in(step, event.mechanism or "PASS"))

    def _login_proven(self, event: LoginProven) -> None:
        self._later(self._log_in(sasl.Proven(login=event.login, authzid=event.authzid), event.mechanism))

    def _login_failed(self, event: LoginFailed) -> None:
        step = sasl.Failed(reason=event.reason, malformed=event.malformed, login=event.login)
        self._later(self._log_in(step, event.mechanism))

    @property
    def _client(self) -> str:
        """Whose failures are counted; whoever is trusted speaks for many."""
        return "" if self._trusted else self._ip

    async def _log_in(self, step: sasl.CheckPassword | sasl.Proven | sasl.Failed, how: str) -> None:
        elsewhere = self._site.elsewhere
        if elsewhere is not None and self._core.front and isinstance(step, sasl.CheckPassword):
            step = elsewhere.on_behalf(step)
        found = await self._decide(self._site.logins.decide(step, self._client, "pop3", self._ip))
        if not self._open():
            return
        node = elsewhere.node_of(found) if elsewhere is not None and not isinstance(found, Refusal) else ""
        if isinstance(found, Refusal):
            self._refuse_login(found)
        elif node:
            await self._hand_on(found, node, step)
        elif self._site.delays.too_soon(found.address):
            self._core.refuse(_TOO_SOON)
        else:
            await self._enter(found, how)

    def _refuse_login(self, refusal: Refusal) -> None:
        self._log.warn(
            "POP3 login of {login} from {ip} refused: {why} {detail}",
            login=refusal.login,
            ip=self._ip,
            why=refusal.why.value,
            detail=refusal.detail,
        )
        self._core.refuse(_WORDS[refusal.why], failed=refusal.why is not Why.AWAY)

    async def _enter(self, mailbox: Mailbox, how: str) -> None:
        try:
            # Not given up when the connection is lost: a thread may be at work on it.
            drop = await self._site.store.open(mailbox, self)
        except MailboxInUse:
            self._log.info("POP3 {user} from {ip}: the mailbox is in use", user=mailbox.address, ip=self._ip)
            if self._open():
                self._core.refuse(_IN_USE)
            return
        except OSError as error:
            self._log.error("POP3 {user}: cannot open the mailbox: {error}", user=mailbox.address, error=str(error))
            if self._open():
                self._core.refuse(_CANNOT_OPEN)
            return
        if not self._open():
            await drop.release()
            return
        self._drop, self._user = drop, mailbox.address
        self._site.delays.note(mailbox.address)
        self._log.info(
            "POP3 {user} from {ip}: logged in by {how}{tls}, {messages} messages",
            user=self._user,
            ip=self._ip,
            how=how,
            tls=" under TLS" if self._core.secure else "",
            messages=len(drop.sizes),
        )
        self._core.enter(drop)

    async def _hand_on(self, mailbox: Mailbox, node: str, step: sasl.CheckPassword | sasl.Proven | sasl.Failed) -> None:
        """Let somebody into a mailbox of another node."""
        elsewhere = self._site.elsewhere
        assert elsewhere is not None
        told = {"user": mailbox.address, "ip": self._ip, "node": node}
        if not self._hops:
            # Two nodes that do not agree, or each of which goes by a name that it does not know as its own.
            text = "POP3 {user} from {ip}: handed on to us, and {node} has the mailbox: check server.names of the nodes"
            self._log.error(text, **told)
            self._core.refuse(_NODE_AWAY)
            return
        guest = elsewhere.guest(mailbox, step, self._ip, self._hops)
        if guest is None:
            text = "POP3 {user} from {ip}: no password to log in with at {node}: [pop3] node_user is not set"
            self._log.warn(text, **told)
            self._core.refuse(_PASSWORD_WANTED)
            return
        try:
            far = await self._decide(elsewhere.enter(node, guest))
        except NodeAway as error:
            self._log.error("POP3 {user} from {ip}: {error}", error=str(error), **told)
            if self._open():
                self._core.refuse(_NODE_AWAY)
            return
        except NodeRefused as error:
            self._log.warn("POP3 {user} from {ip}: refused by {node}: {error}", error=str(error), **told)
            wrong = str(error).startswith("[AUTH]")
            if self._open():
                # The nodes' own account is no matter of the user's.
                self._core.refuse(_NODE_AWAY if wrong and guest.user else str(error), failed=wrong and not guest.user)
            return
        if not self._open():
            far.close()
            return
        self._user = mailbox.address
        self._log.info("POP3 {user} from {ip}: handed on to {node}", **told)
        self._pass_to(far)

    def _fronted(self, event: Fronted) -> None:
        """Who is behind a proxy is counted, not the proxy."""
        self._hops = min(self._hops, event.hops)
        if event.ip:
            self._be(event.ip)

    # Messages

    def _fetch_asked(self, event: FetchAsked) -> None:
        self._later(self._send(self._mailbox(), event.index, event.lines))

    async def _send(self, drop: IMaildrop, index: int, lines: int | None) -> None:
        core = self._core
        try:
            pieces = await drop.fetch(index, lines)
        except OSError as error:
            if not self._open():
                return
            if error.errno != errno.ENOENT:
                self._log.error("POP3 {user}: cannot read a message: {error}", user=self._user, error=str(error))
            core.refuse(_GONE if error.errno == errno.ENOENT else _CANNOT_READ)
            return
        try:
            if self._open():
                core.begin(drop.sizes[index])
                await self._send_pieces(pieces)
        except OSError as error:
            # Behind a +OK there is no way to say so: the client must not take what it has for all of the message.
            self._log.error("POP3 {user}: cannot read a message on: {error}", user=self._user, error=str(error))
            self.abort()
        finally:
            pieces.close()
        if self._open():
            core.end(index, whole=lines is None)

    async def _send_pieces(self, pieces: IMessagePieces) -> None:
        while self._open():
            octets = await pieces.next()
            if not self._open():
                return
            self._core.body(octets)
            if not pieces.more:
                return  # leaves with whatever follows
            self._flush()
            await self._room()

    def _leave_asked(self, event: LeaveAsked) -> None:
        self._later(self._update(event))

    async def _update(self, event: LeaveAsked) -> None:
        drop = self._mailbox()
        failed = await drop.update(event.deleted, event.seen)
        fetched, octets = self._core.box.retrieved
        self._log.info(
            "POP3 {user} from {ip}: {fetched} retrieved ({octets} octets), {deleted} of {messages} deleted",
            user=self._user,
            ip=self._ip,
            fetched=fetched,
            octets=octets,
            deleted=len(event.deleted) - failed,
            messages=len(drop.sizes),
        )
        self._drop = None
        # Before the +OK: whoever logs in again at once finds the mailbox free.
        await drop.release()
        if self._open():
            self._core.left(_NOT_REMOVED if failed else "")

    def _mailbox(self) -> IMaildrop:
        if self._drop is None:
            raise RuntimeError("no mailbox")
        return self._drop

    handlers: ClassVar[Mapping[type, Callable[[Any, Any], None]]] = {
        LoginAsked: _login_asked,
        SecretAsked: _secret_asked,
        LoginProven: _login_proven,
        LoginFailed: _login_failed,
        TlsAsked: Conversation._tls_asked,
        Fronted: _fronted,
        FetchAsked: _fetch_asked,
        LeaveAsked: _leave_asked,
        BadCommand: Conversation._bad_command,
        Ended: Conversation._ended,
    }
