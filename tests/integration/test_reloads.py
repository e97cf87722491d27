"""What a reload brings counts at once, in the real daemon: a channel that was not there, other name servers."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
from typing import ClassVar

from qmailpy.records.record import Action
from tests.integration.node import NodeCase, Settings
from tests.integration.peers.client import message
from tests.integration.peers.dns import NameServer

ALICE = "alice@example.org"


class ReloadCase(NodeCase):
    """A node and its reloads."""

    def reload(self, times: int) -> None:
        assert self.node.process is not None
        os.kill(self.node.process.pid, signal.SIGHUP)
        self.node.wait_for("mta-0 has the new configuration", times)

    def send(self, recipient: str) -> None:
        with self.node.talk() as talk:
            self.assertTrue(talk.mail(ALICE, [recipient], message("new")).startswith("250"))


class NewChannelTests(ReloadCase):
    """The journal is turned over within a second, so that mail of the new channel has to get its files."""

    settings: ClassVar[Settings] = {"queue.roll_s": 1.0}

    def test_it_carries_mail_can_be_stopped_and_goes_on(self) -> None:
        self.node.set(
            {
                "channel.tcp_new.kind": "smtp",
                "channel.tcp_new.relay": f"127.0.0.1:{self.sink.port}",
                "channel.tcp_new.backoff": [1.0],
                "rewrite": [{"pattern": "new.example", "channel": "tcp_new"}],
            }
        )
        self.reload(1)
        self.send("x@new.example")
        self.sink.wait_mails(1)
        self.wait_idle()
        gone = [one for one in self.node.records(Action.DEQUEUED) if one.current_to == "x@new.example"]
        self.assertEqual([one.source for one in gone], ["tcp_new"])
        self.node.qmailpy("qm", "stop", "tcp_new")
        self.send("y@new.example")
        # In its own file: the segment it came in was retired.
        self.until(
            lambda: bool([name for _, _, names in os.walk(self.node.path("queue/0/chan/tcp_new")) for name in names])
        )
        (waiting,) = re.findall(r"(?m)^(\w{15}) ", self.node.qmailpy("qm", "messages", "tcp_new"))
        self.assertIn("tcp_new is stopped: it was stopped by an operator", self.node.qmailpy("qm", "why", waiting))
        self.node.qmailpy("qm", "start", "tcp_new")
        self.sink.wait_mails(2)
        self.wait_idle()
        self.assertNotIn("cannot settle", self.node.printed())


class NewLocalChannelTests(ReloadCase):
    users = ("alice", "bob")
    settings: ClassVar[Settings] = {"queue.roll_s": 1.0}

    def test_mailboxes_are_delivered_to_by_another_channel_from_a_reload_on(self) -> None:
        """Its deliveries are made durable as those of the first are; that one goes on with what it has."""
        listeners = {f"listener.{name}.channel": "home" for name in ("lmtp", "inject")}
        self.node.set({"channel.local": None, "channel.home.kind": "local", **listeners})
        self.reload(1)
        self.send("bob@example.org")
        self.node.wait_mailbox("bob", 1)
        self.wait_idle()
        gone = [one.source for one in self.node.records(Action.DEQUEUED) if one.current_to == "bob@example.org"]
        self.assertEqual(gone, ["home"])
        self.node.kill()
        self.send("bob@example.org")
        self.node.wait_mailbox("bob", 2)
        self.wait_idle()
        self.assertNotIn("cannot settle", self.node.printed())


class NameServerTests(ReloadCase):
    """The name server has gone; the operator names another one."""

    settings: ClassVar[Settings] = {
        "channel.tcp_local.relay": "",
        "channel.tcp_local.allow_loopback": True,
        "dns.servers": ["127.0.0.1:9"],
        "dns.timeout_s": 1.0,
    }

    def test_another_one_is_asked_from_a_reload_on(self) -> None:
        self.send("x@far.example")
        self.until(lambda: "DNS lookup" in self.node.qmailpy("qm", "messages", "tcp_local", "--json"))
        server = NameServer({"far.example": "127.0.0.1"})
        self.addCleanup(server.close)
        self.node.set({"dns.servers": [f"127.0.0.1:{server.port}"], "channel.tcp_local.port": self.sink.port})
        self.reload(1)
        self.sink.wait_mails(1)
        self.wait_idle()


class TlsOfListenersTests(ReloadCase):
    """What of a port can be changed while it is open."""

    settings: ClassVar[Settings] = {"listener.smtp.tls": "none"}

    def offered(self) -> bool:
        """Whether TLS is."""
        with self.node.talk() as talk:
            return "STARTTLS" in talk.say("EHLO client.example")

    def test_tls_comes_and_goes_and_what_cannot_change_stays(self) -> None:
        """The kind of a port is that of the process which has it."""
        self.assertFalse(self.offered())
        self.node.set({"listener.smtp.tls": "starttls", "listener.smtp.kind": "lmtp"})
        self.reload(1)
        self.assertTrue(self.offered())
        self.assertIn("listener smtp has a new kind lmtp: this needs a restart", self.node.printed())
        self.node.set({"listener.smtp.tls": "none"})
        self.reload(2)
        self.assertFalse(self.offered())
        self.node.set({"listener.smtp.tls": "implicit"})
        self.reload(3)
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with (
            socket.create_connection(("127.0.0.1", self.node.port), 10) as plain,
            context.wrap_socket(plain) as secured,
        ):
            self.assertTrue(secured.recv(100).startswith(b"220 "))
