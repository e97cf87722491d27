"""A whole node that follows what is published: DANE by a validating resolver; results that reports are made of."""

from __future__ import annotations

import json
import os
import socketserver
import ssl
import threading
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.records.record import Action
from tests.integration.daemon_process import until
from tests.integration.node import Node, quick
from tests.integration.peers.client import message
from tests.integration.peers.dnssec import Dnssec
from tests.integration.test_remote_policies import describes
from tests.integration.test_remote_tls import MX


class Host(socketserver.StreamRequestHandler):
    """A mail host with STARTTLS that takes everything."""

    def handle(self) -> None:
        self.say("220 mx.example ESMTP")
        secure = False
        for line in iter(self.rfile.readline, b""):
            word = line.split()[0].upper()
            if word == b"EHLO":
                self.say("250 mx.example" if secure else "250-mx.example\r\n250 STARTTLS")
            elif word == b"STARTTLS":
                self.say("220 go")
                context: ssl.SSLContext = self.server.context  # type: ignore[attr-defined]
                self.request = context.wrap_socket(self.request, server_side=True)
                self.setup()
                secure = True
                return self.go_on()
        return None

    def go_on(self) -> None:
        """Under TLS."""
        for line in iter(self.rfile.readline, b""):
            word = line.split()[0].upper()
            if word == b"DATA":
                self.say("354 go")
                while self.rfile.readline() not in (b".\r\n", b""):
                    pass
            self.say("221 bye" if word == b"QUIT" else "250 mx.example ok")

    def say(self, reply: str) -> None:
        self.wfile.write(reply.encode() + b"\r\n")


class Hosts(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up in a handshake."""


class TlsNodeTests(SynchronousTestCase):
    """One node, one host, two domains: one with the right record, one with a wrong one."""

    def setUp(self) -> None:
        server = Hosts(("127.0.0.1", 0), Host)
        place = self.mktemp()
        with open(place, "wb") as target:
            target.write(MX.certificate + MX.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(place)
        server.context = context  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        for end in (thread.join, server.server_close, server.shutdown):
            self.addCleanup(end)
        at = f"_{server.server_address[1]}._tcp"
        wrong = "3 1 1 " + "ab" * 32
        lines = f"mx A 127.0.0.1\n{at}.mx TLSA {describes(MX)}\ngood MX 10 mx\n"
        lines += f"wrong A 127.0.0.1\n{at}.wrong TLSA {wrong}\nbad MX 10 wrong\n"
        dns = Dnssec(lines, "", "")
        self.addCleanup(dns.close)
        self.node = Node(
            {
                **quick(1),
                "channel.tcp_local.relay": "",
                "channel.tcp_local.port": server.server_address[1],
                "channel.tcp_local.allow_loopback": True,
                "dns.servers": [f"127.0.0.1:{dns.port}"],
                "dns.trusted": True,
                "tlsrpt.send": True,
            }
        )
        self.addCleanup(self.node.clean_up)

    def test_mail_goes_by_what_is_published(self) -> None:
        """D says by which policy; mail that may not go waits, its connections are counted for the report."""
        node = self.node.start()
        with node.talk() as talk:
            to = ["a@good.signed.test", "b@bad.signed.test"]
            self.assertTrue(talk.mail("alice@example.org", to, message("tls")).startswith("250"))

        def outcomes() -> dict[str, str]:
            found = node.records(Action.DEQUEUED, Action.DEFERRED)
            return {one.action.value: one.diagnostic for one in found if one.source == "tcp_local"}

        until(lambda: set(outcomes()) >= {"D", "Q"}, 20)
        self.assertIn("_SHA384 dane) smtp;250 ", outcomes()["D"])
        self.assertIn("certificate matches no TLSA record", outcomes()["Q"])
        node.stop()
        self.assertNotIn("Traceback", node.printed())
        [name] = os.listdir(node.path("queue", "tls-results"))
        with open(node.path("queue", "tls-results", name)) as source:
            domains = json.load(source)["domains"]
        self.assertEqual(
            [(one["kind"], one["good"], one["bad"]) for one in domains["good.signed.test"]], [("tlsa", 1, 0)]
        )
        [bad] = domains["bad.signed.test"]
        self.assertEqual(
            (bad["kind"], bad["good"], bad["failures"][0][0]["kind"]), ("tlsa", 0, "certificate-not-trusted")
        )
