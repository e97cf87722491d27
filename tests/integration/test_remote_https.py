"""
Policies over HTTPS, over real sockets: a web server of ours with certificates made here.
"""

from __future__ import annotations

import datetime
import os
from typing import Any, cast

from twisted.internet import reactor as global_reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from qmailpy.remote.https import Https, HttpsFailed, HttpsReactor
from qmailpy.remote.sts import StsPolicies
from qmailpy.servers.tls import OWN, Certificates, Pair
from qmailpy.testing.tables_resolver import TablesResolver
from qmailpy.wire.sts import Mode
from tests.integration.test_remote_tls import NOW, NoCertificate, pair

reactor = cast(HttpsReactor, global_reactor)
HOST = "mta-sts.d.example"
URL = f"https://{HOST}/.well-known/mta-sts.txt"
GOOD = pair(HOST)
POLICY = b"version: STSv1\nmode: enforce\nmx: mx.d.example\nmax_age: 86400\n"


def page(body: bytes, status: str = "200 OK", media_type: str = "text/plain; charset=utf-8", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


OPEN: list[Protocol] = []
LAST: list[Answering] = []


class Answering(Protocol):
    """Says the same to every request, and keeps what it was asked."""

    def __init__(self, answer: bytes, asked: list[bytes], *, close: bool, endless: bool) -> None:
        self._answer = answer
        self._asked = asked
        self._close = close
        self._endless = endless
        self._request = b""
        self.pieces = 0

    def connectionMade(self) -> None:
        OPEN.append(self)
        LAST[:] = [self]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        OPEN.remove(self)

    def dataReceived(self, data: bytes) -> None:
        self._request += data
        if not self._request.endswith(b"!" if self._request.startswith(b"POST") else b"\r\n\r\n"):
            return
        self._asked.append(self._request)
        self._request = b""
        assert self.transport is not None
        self.transport.write(self._answer)
        if self._close:
            self.transport.loseConnection()
        if self._endless:
            self._more()

    def _more(self) -> None:
        transport: Any = self.transport
        if transport.connected:
            transport.write(b"X-Y: " + b"z" * 4000 + b"\r\n")
            self.pieces += 1
            reactor.callLater(0, self._more)


class HttpsTests(TestCase):
    """One host mta-sts.d.example."""

    def server(self, answer: bytes, made: Any = GOOD, *, close: bool = False, endless: bool = False) -> int:
        self.asked: list[bytes] = []
        inner: Any = Factory.forProtocol(lambda: Answering(answer, self.asked, close=close, endless=endless))
        inner.noisy = False
        tls = Certificates({OWN: made}) if isinstance(made, Pair) else made
        wrapped: Any = TLSMemoryBIOFactory(tls, False, inner)
        listening = reactor.listenTCP(0, wrapped, interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.closed()))
        return cast(IPv4Address, listening.getHost()).port

    async def closed(self) -> None:
        """All connections are closed: who makes them lets go of them."""
        while OPEN:
            await deferLater(reactor, 0.005)

    def https(self, port: int, trust: bytes = GOOD.certificate, address: str = "127.0.0.1") -> Https:
        path = os.path.abspath(self.mktemp())
        with open(path, "wb") as target:
            target.write(trust)
        self.resolver = TablesResolver(addresses={HOST: [address]}, texts={"_mta-sts.d.example": ["v=STSv1; id=1"]})
        return Https(reactor, self.resolver, path, deferToThread, port)

    async def fails(self, port: int, kind: str, words: str = "", timeout_s: float = 10.0, **options: Any) -> None:
        try:
            found = await self.https(port, **options).get(URL, timeout_s)
        except HttpsFailed as error:
            self.assertEqual(error.failure.kind, kind, error)
            self.assertIn(words, error.failure.why)
        else:
            self.fail(f"{found}")

    async def test_a_policy(self) -> None:
        """All the way, with SNI and Host."""
        https = self.https(self.server(page(POLICY)))
        policies = StsPolicies(self.resolver, https.get, reactor.seconds, deferToThread)
        found = await policies.find("d.example")
        self.assertEqual(found.policy and found.policy.mode, Mode.ENFORCE, found)
        self.assertTrue(self.asked[0].startswith(b"GET /.well-known/mta-sts.txt HTTP/1.1\r\n"))
        self.assertIn(b"host: mta-sts.d.example\r\n", self.asked[0].lower())

    async def test_what_is_said_of_an_answer(self) -> None:
        """Redirects are not followed."""
        found = await self.https(self.server(page(b"", "302 Found", more=f"Location: {URL}\r\n"))).get(URL, 10.0)
        self.assertEqual((found.status, found.media_type, len(self.asked)), (302, "text/plain", 1))

    async def test_a_report_is_handed_in(self) -> None:
        found = await self.https(self.server(page(b"", "201 Created"))).post(
            URL, "application/tlsrpt+gzip", b"zip!", 9.0
        )
        self.assertEqual(found.status, 201)
        self.assertIn(b"content-type: application/tlsrpt+gzip\r\n", self.asked[0].lower())
        self.assertTrue(self.asked[0].endswith(b"\r\n\r\nzip!"))

    async def test_certificates_must_be_right(self) -> None:
        """Of a known authority, in their time, for this name; nothing is asked before."""
        old = pair(HOST, NOW - datetime.timedelta(days=365 * 20))
        other = pair("mx.d.example")
        for made, trust in ((GOOD, other.certificate), (old, old.certificate), (other, other.certificate)):
            await self.fails(self.server(page(POLICY), made), "sts-webpki-invalid", trust=trust)
            self.assertEqual(self.asked, [])

    async def test_hosts_that_cannot_be_asked(self) -> None:
        await self.fails(1, "sts-policy-fetch-error", address="127.0.0.1")
        port = self.server(page(POLICY), NoCertificate())
        await self.fails(port, "sts-webpki-invalid")
        try:
            await self.https(1).get("https://elsewhere.example/", 5.0)
        except HttpsFailed as error:
            self.assertIn("has no address", error.failure.why)
        for url in ("http://mta-sts.d.example/", "https://mta-sts.d.example:444/"):
            try:
                await self.https(1).get(url, 5.0)
            except HttpsFailed as error:
                self.assertIn("only https", error.failure.why)

    async def test_answers_that_are_too_much_or_too_little(self) -> None:
        """Too large a body, a header without end, one that is cut off, one whose end nobody tells, and silence."""
        await self.fails(self.server(page(b"x" * 70000)), "sts-policy-fetch-error", "too large")
        await self.fails(self.server(b"HTTP/1.1 200 OK\r\n", endless=True), "sts-policy-fetch-error")
        self.assertLess(LAST[0].pieces, 200)  # 4 KB each
        cut = page(POLICY)[:-5]
        await self.fails(self.server(cut, close=True), "sts-policy-fetch-error", "cut off")
        untold = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n" + POLICY
        await self.fails(self.server(untold, close=True), "sts-policy-fetch-error", "cut off")
        await self.fails(self.server(b""), "sts-policy-fetch-error", "no answer in time", timeout_s=0.2)
        await self.fails(self.server(page(POLICY)[:-5]), "sts-policy-fetch-error", "no answer in time", timeout_s=0.2)

    async def test_a_trust_store_that_is_missing(self) -> None:
        https = Https(reactor, TablesResolver(), "/nowhere/ca.pem", deferToThread)
        try:
            await https.get(URL, 5.0)
        except HttpsFailed as error:
            self.assertIn("/nowhere/ca.pem", error.failure.why)
