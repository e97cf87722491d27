"""
smtp-source under TLS, which the original does not have: C{python -m benchmarks.secure_load PORT RECIPIENT ...}.

A process for each connection, all of them waiting for the same start; a command, its reply, the next command, as
smtp-source does it. Every handshake is a full one: sessions are not resumed. Prints the seconds from the first
connection to the last 250. Imports nothing but the standard library, so that it starts at once.
"""

from __future__ import annotations

import argparse
import base64
import os
import signal
import socket
import ssl
import sys
import time

ANSWER_S = 60.0
STARTS_S = 0.3  # for all processes to be there


class Client:
    """One of the connections."""

    def __init__(self, arguments: argparse.Namespace, context: ssl.SSLContext) -> None:
        self._arguments = arguments
        self._context = context
        self._socket: socket.socket | None = None
        line = b"x" * 78 + b"\r\n"
        head = f"From: <{arguments.sender}>\r\nTo: <{arguments.recipient}>\r\nSubject: load\r\n\r\n".encode()
        self._content = head + line * max(1, (arguments.octets - len(head)) // len(line)) + b".\r\n"

    def send(self) -> None:
        """One message. @raise OSError: it is refused, or the connection ended."""
        if self._socket is None:
            self._socket = self._connect()
        self._say(f"MAIL FROM:<{self._arguments.sender}>", "250")
        self._say(f"RCPT TO:<{self._arguments.recipient}>", "250")
        self._say("DATA", "354")
        self._socket.sendall(self._content)
        self._expect("250")
        if not self._arguments.reuse:
            self.close()

    def close(self) -> None:
        """QUIT."""
        if self._socket is not None:
            self._say("QUIT", "221")
            self._socket.close()
            self._socket = None

    def _connect(self) -> socket.socket:
        self._socket = socket.create_connection(("127.0.0.1", self._arguments.port), ANSWER_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._expect("220")
        self._say("EHLO load.example.net", "250")
        self._say("STARTTLS", "220")
        self._socket = self._context.wrap_socket(self._socket)
        self._say("EHLO load.example.net", "250")
        if self._arguments.user:
            login = f"\0{self._arguments.user}\0{self._arguments.password}".encode()
            self._say("AUTH PLAIN " + base64.b64encode(login).decode(), "235")
        return self._socket

    def _say(self, command: str, code: str) -> None:
        assert self._socket is not None
        self._socket.sendall(command.encode() + b"\r\n")
        self._expect(code)

    def _expect(self, code: str) -> None:
        assert self._socket is not None
        octets = b""
        while not octets.endswith(b"\n") or octets[octets.rfind(b"\n", 0, -1) + 4 :][:1] == b"-":
            more = self._socket.recv(16384)
            if not more:
                raise ConnectionAbortedError(f"the connection ended; {octets!r}")
            octets += more
        if octets[:3] != code.encode():
            raise ConnectionAbortedError(octets.decode("latin-1").strip())


def _client(arguments: argparse.Namespace, start: float, messages: int) -> int:
    """A process: its exit status."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    client = Client(arguments, context)
    time.sleep(max(0.0, start - time.monotonic()))
    try:
        for _ in range(messages):
            client.send()
        client.close()
    except OSError as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    return 0


def main() -> int:
    """The exit status: 0 when all was accepted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("recipient")
    parser.add_argument("--sender", default="load@load.example.net")
    parser.add_argument("--connections", type=int, default=20)
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--octets", type=int, default=1024)
    parser.add_argument("--reuse", action="store_true")
    parser.add_argument("--user", default="")
    parser.add_argument("--password", default="")
    arguments = parser.parse_args()
    start = time.monotonic() + STARTS_S
    children = []
    for number in range(arguments.connections):
        share = (arguments.messages + number) // arguments.connections
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os._exit(_client(arguments, start, share))
        children.append(pid)
    failed = sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0 for pid in children)
    sys.stdout.write(f"{time.monotonic() - start:.4f}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
