"""
A next hop on a plain socket, in threads: it keeps what it gets octet for octet and answers what a test tells it.

Written apart from the product, so that a mistake of its parser cannot hide here.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable

from attrs import Factory, define

TIMEOUT_S = 20.0
EHLO = "250-sink.example\r\n250-PIPELINING\r\n250-SIZE 100000000\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES"


@define
class Mail:
    """A message that was accepted."""

    sender: str = ""
    recipients: list[str] = Factory(list)
    raw: bytes = b""  # from behind the 354 up to and with CRLF.CRLF, dots as they came
    connection: int = 0  # its number, from 1

    @property
    def content(self) -> bytes:
        """Without the dots and the end."""
        text = self.raw.removesuffix(b".\r\n")
        return text.removeprefix(b".").replace(b"\r\n.", b"\r\n")


Answer = Callable[[str], str | None]
"""From a command's line ("RCPT TO:<a@b>"; "." is the end of a message) to a reply, or C{None} for the usual one."""


class Sink:
    """Listens on a free port of 127.0.0.1 from its making to C{close}."""

    def __init__(self) -> None:
        self.mails: list[Mail] = []
        self.commands: list[str] = []
        self.connections = 0
        self.answer: Answer = lambda _: None
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def forget(self) -> None:
        """As new, for the next test."""
        with self._changed:
            self.mails.clear()
            self.commands.clear()
            self.answer = lambda _: None

    def wait(self, condition: Callable[[], bool], limit_s: float = TIMEOUT_S) -> None:
        """Until something holds of what arrived."""
        with self._changed:
            if not self._changed.wait_for(condition, limit_s):
                raise AssertionError(f"not within {limit_s} s; {len(self.mails)} mails, {self.commands[-20:]}")

    def wait_mails(self, count: int, limit_s: float = TIMEOUT_S) -> list[Mail]:
        self.wait(lambda: len(self.mails) >= count, limit_s)
        return self.mails

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        with self._changed:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with self._changed:
                self.connections += 1
                self._open.add(connection)
                self._changed.notify_all()
            threading.Thread(target=self._serve, args=(connection, self.connections), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(60.0)
            self._converse(connection, number)
        with self._changed:
            self._open.discard(connection)

    def _converse(self, connection: socket.socket, number: int) -> None:
        waiting = b""
        mail = Mail(connection=number)

        def say(text: str) -> None:
            connection.sendall(text.encode() + b"\r\n")

        def until(end: bytes) -> bytes:
            nonlocal waiting
            seen = 0
            while (at := waiting.find(end, max(0, seen - len(end)))) < 0:
                seen = len(waiting)
                octets = connection.recv(262144)
                if not octets:
                    raise ConnectionError
                waiting += octets
            found, waiting = waiting[: at + len(end)], waiting[at + len(end) :]
            return found

        greeting = self._reply("CONNECT", "220 sink.example ESMTP")
        say(greeting)
        while True:
            line = until(b"\r\n").decode().removesuffix("\r\n")
            word = line.split(" ")[0].upper()
            usual = {"EHLO": EHLO, "DATA": "354 go on", "QUIT": "221 2.0.0 bye"}.get(word, "250 2.0.0 fine")
            if word == "DATA" and not mail.recipients:
                usual = "554 5.5.1 no recipients"
            reply = self._reply(line, usual)
            if word == "MAIL":
                mail = Mail(sender=line.partition("<")[2].partition(">")[0], connection=number)
            elif word == "RCPT" and reply.startswith("2"):
                mail.recipients.append(line.partition("<")[2].partition(">")[0])
            say(reply)
            if word == "DATA" and reply.startswith("354"):
                waiting = b"\r\n" + waiting  # so that a message of nothing has its end too
                mail.raw = until(b"\r\n.\r\n")[2:]
                reply = self._reply(".", "250 2.0.0 taken")
                if reply.startswith("2"):
                    with self._changed:
                        self.mails.append(mail)
                        self._changed.notify_all()
                say(reply)
            if word == "QUIT":
                return

    def _reply(self, line: str, usual: str) -> str:
        with self._changed:
            self.commands.append(line)
            self._changed.notify_all()
            reply = self.answer(line)
        if reply == "HANG UP":
            raise ConnectionError
        return usual if reply is None else reply


def first(times: int, prefix: str, reply: str) -> Answer:
    """Answer C{reply} to the first so many commands that begin with C{prefix}."""
    left = [times]

    def answer(line: str) -> str | None:
        if line.startswith(prefix) and left[0] > 0:
            left[0] -= 1
            return reply
        return None

    return answer


def always(prefix: str, reply: str) -> Answer:
    return lambda line: reply if line.startswith(prefix) else None


def slowly(prefix: str, seconds: float) -> Answer:
    """Let the other side wait for this reply; others on this sink wait too."""

    def answer(line: str) -> str | None:
        if line.startswith(prefix):
            time.sleep(seconds)
        return None

    return answer
