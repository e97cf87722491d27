"""
Questions to the DNS and to web servers from a command: the parts of the daemon that ask, over sockets that block.

Coroutines made of these never wait, so that no reactor is needed: L{answered} runs them to their end at once.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred

from qmailpy.config.schema import DnsConfig
from qmailpy.errors import CommandError, MailError
from qmailpy.interfaces import IResolver
from qmailpy.remote.dns_wire import servers
from qmailpy.remote.https import ADDRESSES, BODY_LIMIT, HttpsAnswer, HttpsFailed
from qmailpy.remote.resolver import Resolver
from qmailpy.wire.tlsa import Mismatch

T = TypeVar("T")


def answered(coroutine: Coroutine[Any, Any, T]) -> T:
    """
    What a coroutine that never waits comes to.

    @raise CommandError: the DNS has no answer now, or says that there is nothing.
    """
    found: list[T] = []
    failed: list[BaseException] = []
    Deferred.fromCoroutine(coroutine).addCallbacks(found.append, lambda failure: failed.append(failure.value))
    if failed and isinstance(failed[0], MailError):
        raise CommandError(failed[0].reply.text)
    if failed:
        raise failed[0]
    return found[0]


async def in_thread(work: Callable[[], Any]) -> Any:
    """Where the daemon would use a thread."""
    return work()


def asking(config: DnsConfig) -> Resolver:
    """The resolver of the daemon, for a command."""
    return Resolver(_ask, servers(config), config.timeout_s, time.time, trusted=config.trusted)


async def _ask(query: bytes, server: tuple[str, int], timeout_s: float, *, tcp: bool) -> bytes:
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    deadline = time.monotonic() + timeout_s
    with socket.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as way:
        way.settimeout(timeout_s)
        way.connect(server)
        if tcp:
            way.sendall(len(query).to_bytes(2, "big") + query)
            return _exactly(way, int.from_bytes(_exactly(way, 2), "big"))
        way.send(query)
        while time.monotonic() < deadline:
            answer = way.recv(65535)
            if answer[:2] == query[:2]:
                return answer
    raise TimeoutError("no answer from the name server")


def _exactly(way: socket.socket, octets: int) -> bytes:
    found = b""
    while len(found) < octets:
        piece = way.recv(octets - len(found))
        if not piece:
            raise ConnectionError("name server closed the connection")
        found += piece
    return found


class Web:
    """C{Https.get} for commands, with the same rules."""

    def __init__(self, resolver: IResolver, ca_file: str, port: int = 443) -> None:
        """@param port: for tests."""
        self._resolver = resolver
        self._ca_file = ca_file
        self._port = port

    async def get(self, url: str, timeout_s: float) -> HttpsAnswer:
        """
        @raise HttpsFailed: there is no answer, or none we may believe.
        """
        parts = urlsplit(url)
        host = parts.hostname or ""
        try:
            context = ssl.create_default_context(cafile=self._ca_file)
            trouble = OSError(f"{host} has no address")
            for address in list(await self._resolver.addresses(host))[:ADDRESSES]:
                try:
                    plain = socket.create_connection((address, self._port), timeout_s)
                except OSError as error:
                    trouble = error
                    continue
                with context.wrap_socket(plain, server_hostname=host) as way:
                    return _get(way, host, parts.path, timeout_s)
            raise trouble
        except ssl.SSLError as error:
            why = f"certificate of the policy's host: {getattr(error, 'verify_message', '') or error.reason}"
            raise HttpsFailed(Mismatch("sts-webpki-invalid", why)) from None
        except MailError as error:
            raise HttpsFailed(Mismatch("sts-policy-fetch-error", error.reply.text)) from None
        except (OSError, http.client.HTTPException) as error:
            raise HttpsFailed(Mismatch("sts-policy-fetch-error", str(error) or type(error).__name__)) from None


def _get(way: socket.socket, host: str, path: str, timeout_s: float) -> HttpsAnswer:
    connection = http.client.HTTPConnection(host, timeout=timeout_s)
    connection.sock = way
    connection.request("GET", path, headers={"User-Agent": "qmailpy"})
    response = connection.getresponse()
    body = response.read(BODY_LIMIT + 1)
    if len(body) > BODY_LIMIT:
        raise OSError("the answer is too large")
    media_type = response.headers.get("Content-Type", "")
    return HttpsAnswer(response.status, media_type.partition(";")[0].strip().lower(), body)
