"""TLS between a transport and a session, with peers that make trouble."""

from __future__ import annotations

import contextlib
import datetime
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.cli.certificate import self_signed
from qmailpy.remote.secure import SecureLayer
from qmailpy.servers.tls import OWN, Certificates, Pair
from tests.remote.test_secure import Session

_CERTIFICATE, _KEY = self_signed("mx.example.org", datetime.datetime.now(datetime.UTC))
_CERTIFICATES = Certificates({OWN: Pair(certificate=_CERTIFICATE, key=_KEY)})
_NEW_KEYS = b"\x18\x00\x00\x01\x01\x16"  # KeyUpdate, update_requested; a handshake record's (RFC 8446 s.4.6.3)


class Keys:
    """Seals as one side does from the beginning of its application data on (RFC 8446 s.5.2, s.7): AES-256-GCM."""

    def __init__(self, secret: bytes, number: int = 0) -> None:
        """@param number: of records that it has sent already."""
        self._secret = secret
        self._number = number

    def _expand(self, label: bytes, length: int) -> bytes:
        full = b"tls13 " + label
        info = length.to_bytes(2, "big") + bytes([len(full)]) + full + b"\0"
        return HKDFExpand(hashes.SHA384(), length, info).derive(self._secret)

    def seal(self, inner: bytes) -> bytes:
        """@param inner: content, with the octet of its type behind it."""
        nonce = int.from_bytes(self._expand(b"iv", 12), "big") ^ self._number
        self._number += 1
        head = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
        return head + AESGCM(self._expand(b"key", 32)).encrypt(nonce.to_bytes(12, "big"), inner, head)

    def renew(self) -> bytes:
        """A request for new keys, and have them."""
        octets = self.seal(_NEW_KEYS)
        self._secret = self._expand(b"traffic upd", 48)
        self._number = 0
        return octets


class HostileTests(SynchronousTestCase):
    """L{SecureLayer} at both ends."""

    def begin(self, *, client: bool) -> Keys:
        """
        A layer, and a peer that it has shaken hands with, of OpenSSL's.

        @return: what the peer seals with.
        """
        secrets: dict[bytes, bytes] = {}

        def note(_: SSL.Connection, line: bytes) -> None:
            name, _random, secret = line.split()
            secrets[name] = bytes.fromhex(secret.decode())

        self.session = Session()
        ours = SSL.Context(SSL.TLS_CLIENT_METHOD) if client else None
        theirs = SSL.Context(SSL.TLS_SERVER_METHOD if client else SSL.TLS_CLIENT_METHOD)
        theirs.set_keylog_callback(note)
        if client:
            theirs.use_certificate(x509.load_pem_x509_certificate(_CERTIFICATE))
            theirs.use_privatekey(serialization.load_pem_private_key(_KEY, None))  # type: ignore[arg-type]
        self.peer = SSL.Connection(theirs, None)
        if ours is None:
            self.layer = SecureLayer(self.session, _CERTIFICATES.serverConnectionForTLS(None))
            self.peer.set_connect_state()
        else:
            self.layer = SecureLayer(self.session, SSL.Connection(ours, None), client=True)
            self.peer.set_accept_state()
            self.layer.begin()
        for _ in range(4):
            octets, self.session.wire = self.session.wire, b""
            if octets:
                self.peer.bio_write(octets)
            with contextlib.suppress(SSL.WantReadError):
                self.peer.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                self.layer.dataReceived(self.peer.bio_read(65536))
        self.assertEqual(self.session.told, ["up"])
        if client:
            return Keys(secrets[b"SERVER_TRAFFIC_SECRET_0"], 2)  # it has sent two tickets
        return Keys(secrets[b"CLIENT_TRAFFIC_SECRET_0"])

    def test_new_keys_without_end_fill_no_memory(self) -> None:
        """Each wants an answer, which would wait for the session to say something."""
        for client in (False, True):
            keys = self.begin(client=client)
            sent = 0
            while "over" not in self.session.told and sent < 1 << 20:
                octets = b"".join([keys.renew() for _ in range(100)])
                sent += len(octets)
                self.layer.dataReceived(octets)
            self.assertEqual(self.session.told, ["up", "over"])
            self.assertLess(sent, 1 << 18)
            self.assertLess(len(self.session.wire), 1 << 17)
            self.layer.connectionLost(Failure(ConnectionDone()))
            assert self.session.reason is not None
            self.assertIn("new keys", str(self.session.reason.value))

    def test_new_keys_among_what_is_said_are_no_fault(self) -> None:
        """However many, as long as both sides talk."""
        for client in (False, True):
            keys = self.begin(client=client)
            for _ in range(200):
                self.layer.dataReceived(b"".join([keys.renew() for _ in range(50)]) + keys.seal(b"NOOP\r\n\x17"))
                self.session.send_sealed(self.layer.seal(b"250 2.0.0 OK\r\n"))
            self.assertEqual((self.session.heard, self.session.told), (b"NOOP\r\n" * 200, ["up"]))
            self.peer.bio_write(self.session.wire)
            self.assertEqual(self.peer.recv(65536), b"250 2.0.0 OK\r\n")

    def test_a_reply_is_heard_whatever_comes_behind_it(self) -> None:
        """The message is there: who did not hear that would send it again."""
        for behind in (b"GET / HTTP/1.0\r\n", b"\x17\x03\x03\x00\x20" + b"x" * 32):
            keys = self.begin(client=True)
            self.layer.dataReceived(keys.seal(b"250 2.0.0 queued\r\n\x17") + behind)
            self.assertEqual((self.session.heard, self.session.told), (b"250 2.0.0 queued\r\n", ["up", "over"]))
            self.assertEqual(self.session.heard_by_then, b"250 2.0.0 queued\r\n")
            self.layer.connectionLost(Failure(ConnectionDone()))
            assert self.session.reason is not None
            self.session.reason.trap(SSL.Error)

    def test_small_records_are_no_requests(self) -> None:
        """An octet in each, twenty-two around it."""
        keys = self.begin(client=False)
        text = b"a line of a message that is sent an octet at a time\r\n" * 100
        self.layer.dataReceived(b"".join([keys.seal(bytes([octet, 0x17])) for octet in text]))
        self.assertEqual((self.session.heard, self.session.told), (text, ["up"]))

    def test_openssl_is_never_given_much_at_once(self) -> None:
        """What it has kept room for it keeps, in each of thousands of connections that are idle."""
        keys = self.begin(client=False)
        given: list[int] = []
        connection: Any = self.layer._connection

        class Watched:
            def bio_write(self, octets: bytes) -> int:
                given.append(len(octets))
                return int(connection.bio_write(octets))

            def sendall(self, octets: bytes) -> int:
                given.append(len(octets))
                return int(connection.sendall(octets))

            def __getattr__(self, name: str) -> Any:
                return getattr(connection, name)

        self.layer._connection = cast(Any, Watched())
        text = bytes(range(256)) * 2000
        wire = b"".join([keys.seal(text[at : at + 16384] + b"\x17") for at in range(0, len(text), 16384)])
        self.layer.dataReceived(wire[:300_000])
        self.layer.dataReceived(wire[300_000:] + keys.seal(b"\x01\x00\x15") + keys.seal(b"more\x17") * 9)
        self.assertEqual((self.session.heard, self.session.told), (text, ["up", "over"]))
        self.begin(client=True)
        connection = self.layer._connection
        self.layer._connection = cast(Any, Watched())
        self.peer.bio_write(self.layer.seal(text, last=True))
        found = b""
        with contextlib.suppress(SSL.ZeroReturnError):
            while True:
                found += self.peer.recv(65536)
        self.assertEqual(found, text)
        self.assertLessEqual(max(given), 32768)
        self.assertGreater(len(given), 20)
