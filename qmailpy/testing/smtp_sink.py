"""
An SMTP server that takes mail and does what a test tells it to: refuse, answer oddly, be slow, hang up.

Written apart from the real server and client, so that a mistake of theirs cannot hide in it. It keeps every message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from attrs import Factory as DefaultOf
from attrs import define, frozen
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IReactorTime, ITCPTransport, ITLSTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from qmailpy.wire import sasl

DEFAULT_EHLO = "250-sink.example\n250-PIPELINING\n250-SIZE 52428800\n250-8BITMIME\n250 ENHANCEDSTATUSCODES"


@frozen
class Drop:
    """Hang up instead of answering."""


@frozen
class Silence:
    """Never answer."""


@frozen
class Later:
    """Answer after a while."""

    seconds: float
    reply: str


Action = str | Drop | Silence | Later

Script = Mapping[str, Action | Sequence[Action]]
"""
What to answer: by C{CONNECT}, C{EHLO}, C{HELO}, C{MAIL}, C{RCPT}, C{RCPT:address}, C{DATA}, C{.} (the end of the
message), C{.:address} (in LMTP), C{STARTTLS}, C{BDAT} (all but the last), C{CONTENT} (the first octets of it;
nothing more is read), C{RSET}, C{QUIT}; by C{AUTH}, which mechanisms to offer under TLS. A reply is written with LF
between its lines; a sequence is used up one by one, its last item staying.
"""


@define
class Received:
    """A message as it arrived, dots removed, CRLF line ends."""

    sender: str
    recipients: list[str]
    mail_parameters: str = ""
    content: bytes = b""
    connection: int = 0  # number of the connection it came over, from 1
    secure: bool = False  # under TLS
    user: str = ""  # who logged in


@define
class SinkLog:
    """What happened, over all connections."""

    messages: list[Received] = DefaultOf(list)
    commands: list[str] = DefaultOf(list)
    connections: int = 0
    open: int = 0
    most_open: int = 0
    writes: list[bytes] = DefaultOf(list)  # as they arrived


class SmtpSink(Protocol):
    """One connection of the sink."""

    def __init__(
        self,
        clock: IReactorTime,
        script: dict[str, list[Action]],
        log: SinkLog,
        *,
        keep: bool,
        tls: IOpenSSLServerConnectionCreator | None = None,
    ) -> None:
        self._clock = clock
        self._script = script
        self._log = log
        self._keep = keep
        self._tls = tls
        self._secure = False
        self._lmtp = False
        self._chunk: tuple[int, bool] | None = None  # octets of it, and whether it is the last
        self._sasl: sasl.Machine | None = None  # while somebody logs in
        self._user = ""
        self._pending = b""
        self._in_data = False
        self._started = False
        self._mute = 0  # answers that are being waited for: nothing further is read
        self._message: Received | None = None
        self._size = 0

    def connectionMade(self) -> None:
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self._log.connections += 1
        self._number = self._log.connections
        self._log.open += 1
        self._log.most_open = max(self._log.most_open, self._log.open)
        self._answer("CONNECT", "220 sink.example ESMTP")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._log.open -= 1

    def dataReceived(self, data: bytes) -> None:
        self._log.writes.append(data)
        self._pending += data
        self._go_on()

    def _go_on(self) -> None:
        while not self._mute:
            if self._chunk is not None:
                if not self._take_chunk():
                    return
            elif self._in_data:
                if not self._data():
                    return
            else:
                line, end, rest = self._pending.partition(b"\r\n")
                if not end:
                    return
                self._pending = rest
                self._command(line.decode("utf-8", "backslashreplace"))

    def _command(self, line: str) -> None:
        self._log.commands.append(line)
        if self._sasl is not None:
            self._login_step(self._sasl.respond(sasl.decode(line.encode()) or b""))
            return
        word = line.split(" ", 1)[0].upper()
        if word == "MAIL":
            path, _, parameters = line[len("MAIL FROM:<") :].partition("> ")
            self._next = Received(
                path.rstrip(">"), [], parameters, connection=self._number, secure=self._secure, user=self._user
            )
            if self._answer(word, "250 2.1.0 ok"):
                self._message = self._next
        elif word == "RCPT":
            address = line[len("RCPT TO:<") :].rpartition(">")[0]
            if self._message is None:
                self._send("503 5.5.1 MAIL first")
            elif self._answer(f"RCPT:{address}" if f"RCPT:{address}" in self._script else word, "250 2.1.5 ok"):
                self._message.recipients.append(address)
        elif word == "DATA":
            known = self._message is not None and (self._message.recipients or "DATA" in self._script)
            if self._answer(word, "354 go ahead" if known else "554 5.5.1 no valid recipients"):
                self._in_data = True
                self._started = False
                self._size = 0
        elif word == "RSET":
            self._message = None
            self._answer(word, "250 2.0.0 ok")
        elif word == "QUIT":
            if self._answer(word, "221 2.0.0 bye") and self.transport is not None:
                self.transport.loseConnection()
        elif word in ("EHLO", "HELO", "LHLO"):
            self._lmtp = word == "LHLO"
            offered = DEFAULT_EHLO
            if self._tls is not None and not self._secure:
                offered = offered.replace("-PIPELINING", "-STARTTLS\n250-PIPELINING")
            if self._secure and "AUTH" in self._script:
                offered = offered.replace("-PIPELINING", "-AUTH " + str(self._script["AUTH"][0]) + "\n250-PIPELINING")
            self._answer(word, offered if word != "HELO" else "250 sink.example")
        elif word == "STARTTLS" and self._tls is not None:
            if self._answer(word, "220 2.0.0 begin"):
                self._secure = True
                self._pending = b""
                cast(ITLSTransport, self.transport).startTLS(self._tls)
        elif word == "AUTH" and word in self._script:
            name, _, initial = line[5:].partition(" ")
            self._sasl = sasl.server(name)
            if self._sasl is not None:
                self._login_step(self._sasl.start(sasl.decode_initial(initial.encode()) if initial else None))
        elif word == "BDAT":
            octets, _, last = line[5:].partition(" ")
            self._chunk = (int(octets), last == "LAST")
        else:
            self._answer(word, "500 5.5.2 what?")

    def _take_chunk(self) -> bool:
        """Take a chunk (RFC 3030); false when more of it must arrive first."""
        assert self._chunk is not None
        size, last = self._chunk
        if len(self._pending) < size:
            return False
        octets, self._pending = self._pending[:size], self._pending[size:]
        self._chunk = None
        message = self._message
        if message is None or not message.recipients:
            self._send("503 5.5.1 no valid recipients")
            return True
        if self._keep:
            message.content += octets
        if not last:
            self._answer("BDAT", f"250 2.0.0 {size} octets")
        elif self._answer(".", "250 2.0.0 ok queued as 1"):
            self._message = None
            self._log.messages.append(message)
        return True

    def _login_step(self, step: sasl.Step) -> None:
        """Everybody whose password is C{pencil} gets in."""
        while isinstance(step, sasl.SecretWanted) and self._sasl is not None:
            self._user = step.login
            secret = sasl.derive(b"pencil", b"salt", 4096)
            assert secret is not None
            step = self._sasl.secret(secret)
        if isinstance(step, sasl.Challenge):
            self._send("334 " + sasl.encode(step.octets).decode())
            return
        self._sasl = None
        good = isinstance(step, sasl.Proven) or (isinstance(step, sasl.CheckPassword) and step.password == b"pencil")
        self._user = getattr(step, "login", "") if good else ""
        self._send("235 2.7.0 welcome" if good else "535 5.7.8 no")

    def _data(self) -> bool:
        """Take content; false when more of it must arrive first."""
        if not self._started and self._pending:
            self._started = True
            if "CONTENT" in self._script:
                self._answer("CONTENT", "")
                self._mute += 1
                return False
        if self._pending.startswith(b".\r\n") and not self._size:
            content, end, rest = b"", b".", self._pending[3:]
        else:
            content, end, rest = self._pending.partition(b"\r\n.\r\n")
            content += b"\r\n" if end else b""
        if not end:
            if not self._keep and len(self._pending) > 5:
                self._size += len(self._pending) - 5
                self._pending = self._pending[-5:]
            return False
        self._pending = rest
        self._in_data = False
        message, self._message = self._message, None
        if self._lmtp and message is not None:
            good = [
                self._answer(f".:{one}" if f".:{one}" in self._script else ".", "250 2.0.0 stored")
                for one in list(message.recipients)
            ]
            message.recipients = [one for one, taken in zip(message.recipients, good, strict=True) if taken]
            taken = bool(message.recipients)
        else:
            taken = self._answer(".", "250 2.0.0 ok queued as 1")
        if taken and message is not None:
            message.content = (b"\r\n" + content).replace(b"\r\n..", b"\r\n.")[2:] if self._keep else b""
            self._log.messages.append(message)
        return True

    def _answer(self, key: str, usual: str) -> bool:
        """Do what the script says; whether that was a 2yz or 354 reply."""
        actions = self._script.get(key)
        action: Action = usual
        if actions:
            action = actions.pop(0) if len(actions) > 1 else actions[0]
        if isinstance(action, Drop):
            self._mute += 1
            if self.transport is not None:
                self.transport.loseConnection()
            return False
        if isinstance(action, Silence):
            self._mute += 1
            return False
        if isinstance(action, Later):
            self._mute += 1
            self._clock.callLater(action.seconds, self._late, action.reply)
            return action.reply[:1] in ("2", "3")
        self._send(action)
        return action[:1] in ("2", "3")

    def _late(self, reply: str) -> None:
        self._mute -= 1
        self._send(reply)
        self._go_on()

    def _send(self, reply: str) -> None:
        if self.transport is not None and reply:
            self.transport.write(reply.encode("utf-8").replace(b"\n", b"\r\n") + b"\r\n")
            if reply.startswith("421"):
                self.transport.loseConnection()


class SinkFactory(Factory[SmtpSink]):
    """
    Sinks that share a script and a log.
    """

    noisy = False

    def __init__(
        self,
        clock: IReactorTime,
        script: Script | None = None,
        *,
        keep: bool = True,
        tls: IOpenSSLServerConnectionCreator | None = None,
    ) -> None:
        """
        @param tls: what C{startTLS} wants; with it STARTTLS is offered.
        @param keep: whether contents are kept; without, a message of any size takes no memory.
        """
        self.log = SinkLog()
        self._clock = clock
        self._keep = keep
        self.tls = tls
        self.script: dict[str, list[Action]] = {}
        for key, action in (script or {}).items():
            self.say(key, action)

    def say(self, key: str, action: Action | Sequence[Action]) -> None:
        """Change the script."""
        single = isinstance(action, str | Drop | Silence | Later)
        self.script[key] = [action] if single else list(action)  # type: ignore[arg-type,list-item]

    def buildProtocol(self, addr: object) -> SmtpSink:
        return SmtpSink(self._clock, self.script, self.log, keep=self._keep, tls=self.tls)
