"""The SMTP channel under TLS, over real sockets, against hosts that end or bend TLS where it hurts."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

from qmailpy.values import Verdict
from tests.integration.test_remote_tls import MX, TlsTestCase

Then = Callable[["Host"], None]


class Host:
    """Takes one connection after the other, in a thread; C{then} says what is done behind the final dot."""

    def __init__(self, context: ssl.SSLContext, then: Then) -> None:
        self._context = context
        self._then = then
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.connections = 0
        self.raw: socket.socket
        self.tls: ssl.SSLSocket
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(5)

    def _run(self) -> None:
        while True:
            try:
                self.raw, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            self.raw.settimeout(5)
            with contextlib.suppress(OSError, EOFError):
                self._serve()
            with contextlib.suppress(OSError):
                self.raw.close()

    def line(self, stream: Any) -> bytes:
        line: bytes = stream.readline()
        if not line:
            raise EOFError
        return line

    def _serve(self) -> None:
        self.raw.sendall(b"220 host ESMTP\r\n")
        stream = self.raw.makefile("rb", buffering=0)
        while not self.line(stream).upper().startswith(b"STARTTLS"):
            self.raw.sendall(b"250-host\r\n250 STARTTLS\r\n")
        self.raw.sendall(b"220 go\r\n")
        self.tls = self._context.wrap_socket(self.raw.dup(), server_side=True, do_handshake_on_connect=False)
        self.tls.settimeout(5)
        with self.tls:
            self.tls.do_handshake()
            lines = self.tls.makefile("rb")
            while True:
                verb = self.line(lines)[:4].upper()
                if verb == b"DATA":
                    self.tls.sendall(b"354 go\r\n")
                    while self.line(lines) != b".\r\n":
                        continue
                    self._then(self)
                elif verb == b"QUIT":
                    self.tls.sendall(b"221 bye\r\n")
                    return
                else:
                    self.tls.sendall(b"250 ok\r\n")


def _gone(host: Host) -> None:
    """TCP ends without a word."""
    host.raw.shutdown(socket.SHUT_RDWR)
    raise EOFError


def _goodbye(host: Host) -> None:
    """TLS ends in place of the reply."""
    with contextlib.suppress(OSError):
        host.tls.settimeout(0.2)
        host.tls.unwrap()
    raise EOFError


def _reply_and_garbage(host: Host) -> None:
    """The reply, and in the same segment what is no TLS."""
    host.raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    host.tls.sendall(b"250 2.0.0 queued\r\n")
    host.raw.sendall(b"GET / HTTP/1.0\r\n\r\n")
    host.raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)


def _reply_and_goodbye(host: Host) -> None:
    """A host that takes one message a connection."""
    host.raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    host.tls.sendall(b"250 2.0.0 queued\r\n")
    with contextlib.suppress(OSError):
        host.tls.settimeout(0.05)
        host.tls.unwrap()
    raise EOFError


def _reply_in_the_clear(host: Host) -> None:
    """Somebody on the way would like us to believe that the message is there."""
    host.raw.sendall(b"250 2.0.0 queued\r\n")
    time.sleep(0.05)


class HostileHosts(TlsTestCase):
    """What becomes of a message."""

    timeout = 30

    def setUp(self) -> None:
        super().setUp()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        path = self.file(MX.certificate + MX.key)
        context.load_cert_chain(path)
        os.unlink(path)
        self.context = context

    def host(self, then: Then) -> Host:
        host = Host(self.context, then)
        self.addCleanup(host.close)
        return host

    async def test_what_ends_without_a_reply_is_sent_again(self) -> None:
        """And what claims to be one in the clear is none."""
        for then in (_gone, _goodbye, _reply_in_the_clear):
            host = self.host(then)
            for tls in ("must", "verify"):
                found = await self.one(self.tls_channel(host.port, tls=tls))
                self.assertEqual(found.verdict, Verdict.DEFERRED, (then.__doc__, found))

    async def test_a_reply_that_came_whole_counts(self) -> None:
        """Whatever is behind it; and the next message goes by a connection of its own."""
        for then in (_reply_and_garbage, _reply_and_goodbye):
            host = self.host(then)
            channel = self.tls_channel(host.port, tls="verify")
            for number in (1, 2):
                found = await self.one(channel)
                self.assertEqual((found.verdict, host.connections), (Verdict.DELIVERED, number), (then.__doc__, found))

    async def test_a_handshake_that_does_not_end_has_its_time(self) -> None:
        """However busy the host looks meanwhile: an octet of a record now and then."""
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        over = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listening.accept()
                with connection:
                    connection.sendall(b"220 host\r\n")
                    connection.recv(1000)
                    connection.sendall(b"250-host\r\n250 STARTTLS\r\n")
                    connection.recv(1000)
                    connection.sendall(b"220 go\r\n\x16\x03\x03\x40\x00")
                    while not over.wait(0.05):
                        connection.sendall(b"x")

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        begin = time.monotonic()
        found = await self.one(self.tls_channel(listening.getsockname()[1], tls="must", connect_timeout_s=0.5))
        self.assertEqual(found.verdict, Verdict.DEFERRED)
        self.assertLess(time.monotonic() - begin, 5)
        over.set()
        thread.join(5)
