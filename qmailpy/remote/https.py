"""
HTTPS to hosts nobody here has chosen: one request, one answer, everything bounded (RFC 9110, RFC 9112, RFC 2818).

The host is found by our resolver, its certificate must be of a trusted authority and for its name; redirects are not
followed (RFC 8461 s.3.3 forbids it). What fails is a L{HttpsFailed}, with the result type of RFC 8460 for it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import service_identity
from attrs import frozen
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as Late
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IProtocolFactory, IReactorTCP, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from qmailpy.errors import Temporary
from qmailpy.interfaces import IResolver
from qmailpy.wire.tlsa import Mismatch

ADDRESSES = 4
"""Addresses of a host that are tried."""

CONNECT_S = 15

OVERHEAD_OCTETS = 65536
"""Of an answer besides its body: status, header, chunk sizes."""

BODY_LIMIT = 65536
"""Octets of an answer's body that are taken; a policy may have as many (RFC 8461 s.3.3)."""

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


_LATE = Mismatch("sts-policy-fetch-error", "no answer in time")


class HttpsReactor(IReactorTime, IReactorTCP):
    """What requests need of a reactor."""


class HttpsFailed(Exception):
    """There is no answer."""

    def __init__(self, failure: Mismatch) -> None:
        super().__init__(failure.why)
        self.failure = failure


@frozen
class HttpsAnswer:
    """An answer."""

    status: int
    media_type: str  # in lower case, without parameters; "" = not said
    body: bytes


class Https:
    """Requests, each over a connection of its own."""

    def __init__(
        self,
        reactor: HttpsReactor,
        resolver: IResolver,
        ca_file: str,
        in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
        port: int = 443,
    ) -> None:
        """
        @param ca_file: PEM with the authorities to trust; read at the first request, in a thread.
        @param port: for tests; URLs with another port than 443 are not asked for.
        """
        self._reactor = reactor
        self._resolver = resolver
        self._ca_file = ca_file
        self._in_thread = in_thread
        self._port = port
        self._trust: Any = None

    def use(self, ca_file: str) -> None:
        """Trust those of another file from now on; it is read again in any case."""
        self._ca_file = ca_file
        self._trust = None

    async def get(self, url: str, timeout_s: float) -> HttpsAnswer:
        """
        @raise HttpsFailed: there is no answer within that time, or none we may believe.
        """
        return await self._request(b"GET", url, timeout_s, {}, None)

    async def post(self, url: str, media_type: str, body: bytes, timeout_s: float) -> HttpsAnswer:
        """
        @raise HttpsFailed: as L{get}.
        """
        return await self._request(b"POST", url, timeout_s, {"Content-Type": media_type}, body)

    async def _request(
        self, method: bytes, url: str, timeout_s: float, fields: Mapping[str, str], body: bytes | None
    ) -> HttpsAnswer:
        try:
            if self._trust is None:
                self._trust = await self._in_thread(self._thd_trust)
            going = Deferred.fromCoroutine(self._exchange(method, url, fields, body))
            return await going.addTimeout(timeout_s, self._reactor)
        except HttpsFailed:
            raise
        except (Late, CancelledError):
            raise HttpsFailed(_LATE) from None
        except Temporary as error:
            raise HttpsFailed(Mismatch("sts-policy-fetch-error", error.reply.text)) from None
        except Exception as error:  # what a library of this size may raise is not to be listed
            raise HttpsFailed(_failure(error)) from error

    def _thd_trust(self) -> Any:
        """
        @raise OSError: the file cannot be read.
        """
        with open(self._ca_file, "rb") as source:
            found = [Certificate.loadPEM(pem) for pem in _PEM.findall(source.read())]
        return trustRootFromCertificates(found)

    async def _exchange(self, method: bytes, url: str, fields: Mapping[str, str], body: bytes | None) -> HttpsAnswer:
        pool = HTTPConnectionPool(self._reactor, persistent=False)
        agent = Agent.usingEndpointFactory(self._reactor, _Endpoints(self), pool)
        headers = Headers({"User-Agent": ["qmailpy"], **{name: [value] for name, value in fields.items()}})
        producer = None if body is None else _Octets(body)
        response: IResponse = await agent.request(method, url.encode("ascii"), headers, producer)
        said = response.headers.getRawHeaders("content-type", [""])[0]
        reading: Deferred[bytes] = Deferred(lambda _: body_reader.stop())
        body_reader = _Body(reading)
        response.deliverBody(body_reader)
        octets = await reading
        return HttpsAnswer(response.code, said.partition(";")[0].strip().lower(), octets)

    async def connect(self, host: str, factory: IProtocolFactory) -> Any:
        """A connection under TLS to the first address of C{host} that takes one."""
        addresses = list(await self._resolver.addresses(host))[:ADDRESSES]
        trouble: Exception = HttpsFailed(Mismatch("sts-policy-fetch-error", f"{host} has no address"))
        options = optionsForClientTLS(host, trustRoot=self._trust)
        for address in addresses:
            kind = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
            endpoint = wrapClientTLS(options, kind(self._reactor, address, self._port, timeout=CONNECT_S))
            try:
                return cast(ProtocolWrapper, await endpoint.connect(_Bounded(factory))).wrappedProtocol
            except Exception as error:
                trouble = error
        raise trouble


@implementer(IAgentEndpointFactory)
class _Endpoints:
    def __init__(self, https: Https) -> None:
        self._https = https

    def endpointForURI(self, uri: Any) -> IStreamClientEndpoint:
        if uri.scheme != b"https" or uri.port != 443:
            raise HttpsFailed(Mismatch("sts-policy-fetch-error", "only https on its own port is asked"))
        return cast(IStreamClientEndpoint, _Endpoint(self._https, uri.host.decode("ascii")))


@implementer(IStreamClientEndpoint)
class _Endpoint:
    def __init__(self, https: Https, host: str) -> None:
        self._https = https
        self._host = host

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._https.connect(self._host, protocolFactory))


class _Counting(ProtocolWrapper):
    """Ends a connection over which too much comes; the parser of the answer has no limit of its own for its header."""

    received = 0

    def dataReceived(self, data: bytes) -> None:
        self.received += len(data)
        if self.received > OVERHEAD_OCTETS + BODY_LIMIT:
            self.transport.abortConnection()  # type: ignore[union-attr]
            return
        super().dataReceived(data)


class _Bounded(WrappingFactory):
    protocol = _Counting
    noisy = False


class _Body(Protocol):
    """Collects a body."""

    def __init__(self, done: Deferred[bytes]) -> None:
        self._done = done
        self._octets = b""

    def dataReceived(self, data: bytes) -> None:
        self._octets += data
        if len(self._octets) > BODY_LIMIT:
            self._fail("the answer is too large")
            self.stop()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if reason.check(ResponseDone):
            if not self._done.called:
                self._done.callback(self._octets)
        else:
            # Also where only the end of the connection says that it was all: it may have been cut.
            self._fail("the answer was cut off")

    def stop(self) -> None:
        """Read no more."""
        abort = getattr(self.transport, "abortConnection", None) or getattr(self.transport, "loseConnection", None)
        if abort is not None:
            abort()

    def _fail(self, why: str) -> None:
        if not self._done.called:
            self._done.errback(Failure(HttpsFailed(Mismatch("sts-policy-fetch-error", why))))


@implementer(IBodyProducer)
class _Octets:
    """A body that is at hand."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self.length = len(octets)

    def startProducing(self, consumer: Any) -> Deferred[None]:
        consumer.write(self._octets)
        done: Deferred[None] = Deferred()
        done.callback(None)
        return done

    def pauseProducing(self) -> None:
        """All is written at once."""

    def resumeProducing(self) -> None:
        """See L{pauseProducing}."""

    def stopProducing(self) -> None:
        """Nothing is left to stop."""


def _failure(error: BaseException) -> Mismatch:
    """What kept an answer from us, looked for in the failures that the library puts around it."""
    waiting: list[BaseException] = [error]
    for _ in range(10):
        if not waiting:
            break
        one = waiting.pop()
        if isinstance(one, HttpsFailed):
            return one.failure
        if isinstance(one, CancelledError):
            return _LATE
        if isinstance(one, SSL.Error | service_identity.VerificationError | service_identity.CertificateError):
            return Mismatch("sts-webpki-invalid", f"certificate of the policy's host: {_words(one)}")
        reasons = getattr(one, "reasons", None)
        waiting += [each.value for each in reasons or [] if isinstance(each, Failure) and each.value is not None]
    return Mismatch("sts-policy-fetch-error", _words(error))


def _words(error: BaseException) -> str:
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    said = "; ".join(str(each[-1]) for each in entries[:3] if isinstance(each, tuple) and each)
    return said or str(error)[:200] or type(error).__name__


def host_of(url: str) -> str:
    """The host of a URL, for log lines; the path may be a secret of its owner's."""
    return urlsplit(url).hostname or ""
