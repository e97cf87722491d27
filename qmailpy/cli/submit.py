"""
How commands hand a message over: to the running daemon, or into the drop directory for it to find.

The daemon listens on HOME/run/inject.sock and is spoken to in SMTP, so that a refusal is known at once. When it does
not run, or cannot take the message now, the message is written to HOME/queue/drop (L{qmailpy.wire.drop}) and will be
sent when it can. Users who may not write there are served by the first SMTP listener on a loopback address. It is all
or nothing: a message is taken for all of its recipients, or for none. Blocks; for commands only.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Sequence

from attrs import frozen

from qmailpy.config.endpoint import parse_endpoint
from qmailpy.config.schema import Config
from qmailpy.control.client import connect_unix
from qmailpy.disk.files import RealFiles
from qmailpy.errors import QmailpyError
from qmailpy.values import Reply
from qmailpy.wire.client_events import Wish
from qmailpy.wire.client_path import wished
from qmailpy.wire.drop import make_drop
from qmailpy.wire.orcpt import xtext

SOCKET = "run/inject.sock"
DROP = "queue/drop"
TIMEOUT_S = 300.0
"""For one reply. The reply to the final dot may take as long as the disk does."""

BATCH = 100
"""Commands sent before their replies are read."""

_LINE = 8192
_LINES = 200


class Refused(QmailpyError):
    """The message was refused for good, for every recipient."""

    def __init__(self, reply: Reply, recipient: str = "") -> None:
        super().__init__(f"{recipient}: {reply}" if recipient else str(reply))
        self.reply = reply
        self.recipient = recipient  # the one that was the cause; "" when it was the message or its sender


class NotNow(QmailpyError):
    """The message could not be handed over, and may be tried again."""


@frozen(kw_only=True)
class Submission:
    """A message with its envelope."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes  # header and body with CRLF line ends, not dot-stuffed
    notify: int = 0  # RFC 3461: bits of L{qmailpy.values.Notify}, for all recipients
    ret: str = ""  # "FULL", "HDRS" or ""
    envid: str = ""


def submit(home: str, submission: Submission, config: Config | None, timeout_s: float = TIMEOUT_S) -> str:
    """
    Hand a message over; durable on return.

    @param config: of the home; C{None} when it cannot be read, then there is no loopback listener to fall back on.
    @return: how, in a few words.
    @raise Refused: for good.
    @raise NotNow: not accepted anywhere; the text tells why and what to do.
    """
    name = config.server.hostname if config else "localhost"
    why: list[str] = []
    try:
        with connect_unix(os.path.join(home, SOCKET), timeout_s) as connection:
            return _converse(connection, name, submission)
    except NotNow as error:
        why.append(f"the daemon said: {error}")
    except OSError as error:
        why.append(f"{os.path.join(home, SOCKET)}: {error.strerror or error}")
    try:
        return "dropped as " + drop(home, submission)
    except OSError as error:
        why.append(f"{os.path.join(home, DROP)}: {error.strerror or error}")
    for address in _loopback_listeners(config):
        try:
            with socket.create_connection(address, timeout_s) as connection:
                return _converse(connection, name, submission)
        except NotNow as error:
            why.append(f"{address[0]} port {address[1]} said: {error}")
        except OSError as error:
            why.append(f"{address[0]} port {address[1]}: {error.strerror or error}")
    raise NotNow(f"cannot hand the message over ({'; '.join(why)}); start the daemon: twistd -n qmailpy --home {home}")


def connect(home: str, timeout_s: float | None = TIMEOUT_S) -> socket.socket:
    """
    A connection to the running daemon, which will greet with 220.

    @raise OSError: it does not run, or may not be spoken to.
    """
    return connect_unix(os.path.join(home, SOCKET), timeout_s)


def _loopback_listeners(config: Config | None) -> list[tuple[str, int]]:
    """Where SMTP is listened for on this machine: (address, port)."""
    found = []
    for listener in config.listeners if config else ():
        endpoint = parse_endpoint(listener.endpoint, "")
        if listener.kind == "smtp" and endpoint.kind != "unix" and endpoint.port:
            interface = endpoint.interface or ("::1" if endpoint.kind == "tcp6" else "127.0.0.1")
            if interface in ("127.0.0.1", "::1"):
                found.append((interface, endpoint.port))
    return found


def drop(home: str, submission: Submission) -> str:
    """
    Leave a message in the drop directory; durable on return.

    @return: the name of its file.
    @raise OSError: it cannot be written there; nothing is left behind.
    """
    folder = os.path.join(home, DROP)
    name = f"{time.time_ns():016x}.{os.getpid()}.{secrets.token_hex(4)}"
    temporary = os.path.join(folder, "tmp." + name)
    octets = make_drop(
        submission.sender,
        submission.recipients,
        submission.content,
        notify=submission.notify,
        ret=submission.ret,
        envid=submission.envid,
    )
    files = RealFiles()
    handle = files.open(temporary, create=True, exclusive=True)
    try:
        try:
            if os.geteuid() == 0:  # root's cron: the daemon must be able to read and remove it
                belongs = os.stat(folder)
                os.fchown(handle, belongs.st_uid, belongs.st_gid)
            files.pwrite(handle, octets, 0)
            files.fsync(handle)
        finally:
            files.close(handle)
        files.rename(temporary, os.path.join(folder, name))
    except BaseException:
        files.unlink(temporary)
        raise
    files.sync_directory(folder)
    return name


def _converse(connection: socket.socket, name: str, submission: Submission) -> str:
    """
    One SMTP session with one message (RFC 5321, RFC 2920).

    @raise Refused: 5yz to anything.
    @raise NotNow: 4yz to anything.
    @raise OSError: the connection broke, before or after the message was taken: at worst it is sent twice.
    """
    talk = _Talk(connection)
    _good(talk.reply())
    offered = {line.upper().split(" ")[0] for line in _good(talk.ask(f"EHLO {name}")).text.split("\n")[1:]}
    options = f" SIZE={len(submission.content)}" if "SIZE" in offered else ""
    options += " BODY=8BITMIME" if "8BITMIME" in offered and not submission.content.isascii() else ""
    wish = ""
    if "DSN" in offered:
        options += f" RET={submission.ret}" if submission.ret else ""
        options += f" ENVID={xtext(submission.envid).decode()}" if submission.envid else ""
        wish = wished(Wish(notify=submission.notify)).decode()
    commands = [
        f"MAIL FROM:<{submission.sender}>{options}",
        *(f"RCPT TO:<{one}>{wish}" for one in submission.recipients),
    ]
    replies = talk.ask_all(commands, BATCH if "PIPELINING" in offered else 1)
    named = ["", *submission.recipients]
    for family in (5, 4):  # a final refusal matters more than one for now
        for recipient, reply in zip(named, replies, strict=True):
            if reply.code // 100 == family:
                talk.send(b"RSET\r\nQUIT\r\n")
                _good(reply, recipient)
    talk.send(b"DATA\r\n")
    reply = talk.reply()
    if reply.code != 354:
        _good(reply)
        raise NotNow(f"no 354 to DATA: {reply}")
    stuffed = submission.content.replace(b"\r\n.", b"\r\n..")
    talk.send((b"." if stuffed.startswith(b".") else b"") + stuffed)
    talk.send((b"" if stuffed.endswith(b"\r\n") else b"\r\n") + b".\r\n")
    accepted = _good(talk.reply())
    talk.send(b"QUIT\r\n")
    return accepted.text.split("\n")[0]


def _good(reply: Reply, recipient: str = "") -> Reply:
    """C{reply} when it is 2yz or 3yz. @raise Refused: 5yz. @raise NotNow: 4yz, or what is no reply."""
    if reply.code // 100 in (2, 3):
        return reply
    if reply.permanent:
        raise Refused(reply, recipient)
    raise NotNow(f"{recipient}: {reply}" if recipient else str(reply))


class _Talk:
    """Lines to and from a server that is trusted not to be hostile, and bounded all the same."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._input = b""  # received and not yet read; no makefile(), which would keep the connection open

    def send(self, octets: bytes) -> None:
        self._connection.sendall(octets)

    def ask(self, command: str) -> Reply:
        return self.ask_all([command], 1)[0]

    def ask_all(self, commands: Sequence[str], batch: int) -> list[Reply]:
        """The replies to commands, which are sent C{batch} at a time."""
        replies = []
        for at in range(0, len(commands), batch):
            part = commands[at : at + batch]
            self.send("".join(command + "\r\n" for command in part).encode("utf-8", "surrogateescape"))
            replies += [self.reply() for _ in part]
        return replies

    def reply(self) -> Reply:
        """
        The next reply.

        @raise OSError: the connection ended, or what came is none.
        """
        texts: list[str] = []
        for _ in range(_LINES):
            line = self._line()
            if not line[:3].isdigit() or line[3:4] not in ("", " ", "-"):
                break
            texts.append(line[4:])
            if line[3:4] != "-":
                return Reply(int(line[:3]), "", "\n".join(texts))
        raise ConnectionAbortedError("what answers does not speak SMTP")

    def _line(self) -> str:
        while b"\n" not in self._input and len(self._input) < _LINE:
            octets = self._connection.recv(_LINE)
            if not octets:
                raise ConnectionResetError("the daemon ended the connection")
            self._input += octets
        line, _, self._input = self._input.partition(b"\n")
        return line.decode("utf-8", "replace").rstrip("\r")
