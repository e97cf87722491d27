"""A client on a plain socket that sends what it is told, right or wrong, and reads replies (RFC 5321 s.4.2)."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from types import TracebackType

TIMEOUT_S = 20.0


class Talk:
    """One connection."""

    def __init__(self, port: int, *, source: str = "127.0.0.1", greet: bool = True, timeout_s: float = TIMEOUT_S):
        """
        @param source: the address to come from; all of 127.0.0.0/8 is ours.
        @param greet: read the greeting and say EHLO.
        """
        self.socket = socket.create_connection(("127.0.0.1", port), timeout_s, (source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._input = b""
        if greet:
            self.reply()
            self.say("EHLO client.example")

    def __enter__(self) -> Talk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, octets: bytes) -> None:
        self.socket.sendall(octets)

    def reply(self) -> str:
        """The next reply, its lines joined by LF; "" when the other side hung up."""
        lines = []
        while True:
            while b"\r\n" not in self._input:
                try:
                    octets = self.socket.recv(65536)
                except ConnectionError:
                    octets = b""
                if not octets:
                    return ""
                self._input += octets
            line, _, self._input = self._input.partition(b"\r\n")
            lines.append(line.decode())
            if line[3:4] != b"-":
                return "\n".join(lines)

    def say(self, command: str) -> str:
        self.send(command.encode() + b"\r\n")
        return self.reply()

    def envelope(self, sender: str, recipients: Sequence[str]) -> list[str]:
        """MAIL and RCPTs, one after the other; the replies."""
        return [self.say(f"MAIL FROM:<{sender}>"), *(self.say(f"RCPT TO:<{one}>") for one in recipients)]

    def mail(self, sender: str, recipients: Sequence[str], content: bytes) -> str:
        """A whole transaction; the last reply."""
        for reply in self.envelope(sender, recipients):
            if not reply.startswith("250"):
                return reply
        return self.content(content)

    def content(self, content: bytes) -> str:
        """A message behind its envelope; the last reply. It gets its dots; it must end in CRLF."""
        reply = self.say("DATA")
        if not reply.startswith("354"):
            return reply
        self.send(stuffed(content) + b".\r\n")
        return self.reply()


def stuffed(content: bytes) -> bytes:
    """Dots at line starts doubled (RFC 5321 s.4.5.2)."""
    return (b"." if content.startswith(b".") else b"") + content.replace(b"\r\n.", b"\r\n..")


def message(
    subject: str = "a test", body: bytes = b"All work and no play.\r\n", sender: str = "a@client.example"
) -> bytes:
    """A small message with CRLF line ends."""
    head = (
        f"From: <{sender}>\r\nTo: <somebody@example.org>\r\nSubject: {subject}\r\n"
        f"Message-ID: <{subject.replace(' ', '.')}@client.example>\r\n"
    )
    return head.encode() + b"\r\n" + body
