"""C{qmailpy test tls} against a DNS that is signed, and the web as commands ask it."""

from __future__ import annotations

import datetime
import json
import os
import ssl
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.cli.asking import Web, answered, asking, in_thread
from qmailpy.config.edit import changed
from qmailpy.config.schema import DnsConfig
from qmailpy.remote.https import HttpsFailed
from qmailpy.remote.sts import StsPolicies
from qmailpy.servers.tls import Pair
from qmailpy.testing.tables_resolver import TablesResolver
from qmailpy.wire.sts import Mode
from tests.cli.test_check_config import HomeCase
from tests.integration.peers.dnssec import Dnssec
from tests.integration.test_remote_tls import NOW, pair

DIGEST = "ab" * 32
SIGNED = f"""
mx A 127.0.0.1
_25._tcp.mx TLSA 3 1 1 {DIGEST}
good MX 10 mx
none A 127.0.0.1
missing MX 10 none
big A 127.0.0.1
_25._tcp.big TLSA 3 0 0 {"cd" * 900}
large MX 10 big
_smtp._tls.good TXT "v=TLSRPTv1; rua=mailto:a@good.signed.test"
"""


class ProbeTests(HomeCase):
    """What it says, for people and for programs."""

    def setUp(self) -> None:
        super().setUp()
        self.dns = Dnssec(SIGNED, "@ MX 10 mx\nmx A 127.0.0.1\n", "")
        self.addCleanup(self.dns.close)
        self.before = self.text()
        self.say(trusted=True)

    def say(self, *, trusted: bool, more: str = "") -> None:
        values: dict[str, object] = {
            "dns.servers": [f"127.0.0.1:{self.dns.port}"],
            "dns.trusted": trusted,
            "channel.tcp_local.allow_loopback": True,
        }
        with open(self.file, "w") as target:
            target.write(changed(self.before, values) + more)

    def lines(self, *words: str) -> list[str]:
        outcome = self.run_command("test", "tls", *words)
        self.assertEqual((outcome.status, outcome.err), (0, ""))
        return outcome.out.splitlines()

    def test_a_domain_with_dane(self) -> None:
        lines = self.lines("Good.signed.test")
        self.assertEqual(lines[0], "mail for Good.signed.test by channel tcp_local to good.signed.test")
        self.assertIn('tls = "may" of the channel', lines[1])
        self.assertEqual(lines[2], "  MTA-STS        there is none")
        self.assertEqual(lines[3], "  DANE           TLSA records of mx.signed.test")
        self.assertEqual(lines[4], "  mx.signed.test [127.0.0.1]:25")
        self.assertIn("certificate that its TLSA records describe", lines[5])
        found = json.loads("\n".join(self.lines("good.signed.test", "--json")))
        [host] = found["hosts"]
        self.assertEqual((host["policy"], host["tls"], host["tlsa"]), ("tlsa", "dane", [f"3 1 1 {DIGEST}"]))
        self.assertEqual((found["dane"], found["mta_sts"]["mode"]), ({"looked_at": True}, ""))

    def test_domains_without(self) -> None:
        """Missing records, no signatures, records that say nothing, no trust in the resolver."""
        self.assertIn("no validated TLSA records", self.lines("missing.signed.test")[3])
        self.assertIn("no validated TLSA records", self.lines("plain.test")[3])
        self.assertIn("TLS when it offers it", self.lines("plain.test")[5])
        self.assertIn("none that mail can use", self.lines("large.signed.test")[5])
        self.say(trusted=False)
        self.assertIn("[dns] trusted = true", self.lines("good.signed.test")[3])

    def test_what_the_configuration_says_of_one(self) -> None:
        more = '\n[[destination]]\npattern = "good.signed.test"\ntls = "verify"\n'
        self.say(trusted=True, more=more)
        lines = self.lines("good.signed.test")
        self.assertIn('tls = "verify" in a [[destination]] table', lines[1])
        self.assertEqual(lines[2], "  MTA-STS        not looked at: the configuration says so")
        self.assertIn("known authority for mx.signed.test or good.signed.test", lines[5])

    def test_what_cannot_be_told(self) -> None:
        """A line for each, and no traceback."""
        for words, said in (
            (("bogus.test",), "SERVFAIL"),
            (("nothing.signed.test",), "does not exist"),
            (("a b",), "is no domain"),
            (("x.example", "--channel", "local"), "is no channel to other hosts"),
        ):
            outcome = self.run_command("test", "tls", *words)
            self.assertEqual((outcome.status, outcome.out, outcome.err.count("\n")), (1, "", 1), outcome)
            self.assertIn(said, outcome.err)


class Page(BaseHTTPRequestHandler):
    """Serves a policy, or what a test wants instead."""

    body = b"version: STSv1\nmode: enforce\nmx: mx.d.example\nmax_age: 86400\n"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *words: Any) -> None:
        """Nothing."""


class WebTests(SynchronousTestCase):
    """Web and DNS over sockets that block."""

    HOST = "mta-sts.d.example"

    def server(self, made: Pair) -> int:
        path = self.file(made.certificate + made.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)

        class Quiet(HTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that does not like our certificate."""

        server = Quiet(("127.0.0.1", 0), Page)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        port: int = server.server_port
        return port

    def file(self, octets: bytes) -> str:
        path: str = os.path.abspath(self.mktemp())
        with open(path, "wb") as target:
            target.write(octets)
        return path

    def find(self, made: Pair, trust: Pair) -> Any:
        dns = TablesResolver(addresses={self.HOST: ["127.0.0.1"]}, texts={"_mta-sts.d.example": ["v=STSv1; id=1"]})
        web = Web(dns, self.file(trust.certificate), self.server(made))
        return answered(StsPolicies(dns, web.get, lambda: 1.7e9, in_thread).find("d.example"))

    def test_a_policy(self) -> None:
        good = pair(self.HOST)
        self.assertEqual(self.find(good, good).policy.mode, Mode.ENFORCE)

    def test_certificates_that_are_wrong(self) -> None:
        old = pair(self.HOST, NOW - datetime.timedelta(days=365 * 20))
        other = pair("other.example")
        for made, trust in ((pair(self.HOST), other), (old, old), (other, other)):
            found = self.find(made, trust)
            self.assertEqual((found.policy, found.failure.kind), (None, "sts-webpki-invalid"))

    def test_what_cannot_be_had(self) -> None:
        """Too large, no address, nobody there, no trust store."""
        self.patch(Page, "body", b"x" * 70000)
        good = pair(self.HOST)
        self.assertEqual(self.find(good, good).failure.kind, "sts-policy-fetch-error")
        dns = TablesResolver(addresses={"here.example": ["127.0.0.1"]})
        for host, path in (("no.example", self.file(b"")), ("here.example", "/nowhere")):
            error = self.assertRaises(HttpsFailed, answered, Web(dns, path, 1).get(f"https://{host}/x", 5.0))
            self.assertTrue(error.failure.why)

    def test_answers_that_need_tcp(self) -> None:
        """More than UDP carries."""
        dns = Dnssec("\n".join(f"many A 127.0.1.{number}" for number in range(120)) + "\n", "", "")
        self.addCleanup(dns.close)
        resolver = asking(DnsConfig(servers=(f"127.0.0.1:{dns.port}",)))
        self.assertEqual(len(answered(resolver.addresses("many.signed.test"))), 32)
