"""
Two nodes and one directory: a user's mail goes to the node that stores it (mission D4), over LMTP.
"""

from __future__ import annotations

import os
import shutil

from qmailpy.directory.accounts import Accounts
from qmailpy.directory.setup import SERVICE, secret_path, store_path
from qmailpy.directory.store import Store
from tests.integration.node import Node, NodeCase, Settings
from tests.integration.peers.client import Talk
from tests.integration.peers.dns import NameServer
from tests.integration.peers.running import free_port

MESSAGE = b"Subject: hi\r\n\r\nhi\r\n"


def reached(smtp: int, port: int, dns: int) -> dict[str, object]:
    """A node that its fellow reaches at C{port} of this machine, and knows by that name."""
    return {
        "listener.smtp.endpoint": f"tcp:{smtp}:interface=127.0.0.1",
        "dns.servers": [f"127.0.0.1:{dns}"],
        "server.names": [f"stores.example.org:{port}"],
        "listener.lmtp.endpoint": f"tcp:{port}:interface=127.0.0.1",
        "listener.lmtp.channel": "tcp_lmtp",
        "channel.tcp_lmtp.backoff": [1.0],
        "channel.tcp_lmtp.jitter": 0.0,
    }


class NodesTests(NodeCase):
    """Node A has the directory; node B asks it over LDAP."""

    users = ("alice", "bob")
    fresh = True

    def make_node(self, settings: Settings) -> Node:
        self.names = NameServer({"stores.example.org": "127.0.0.1"})
        self.addCleanup(self.names.close)
        self.ports = {name: free_port() for name in ("a", "b", "ldap", "smtp a", "smtp b")}
        return Node(
            {
                **settings,
                **reached(self.ports["smtp a"], self.ports["a"], self.names.port),
                "directory.endpoint": f"tcp:{self.ports['ldap']}:interface=127.0.0.1",
            },
            self.users,
        )

    def begin(self, node: Node) -> None:
        store = Store(store_path(node.home))
        try:
            accounts = Accounts(store, "o=qmailpy")
            for user, where in (("alice", "a"), ("bob", "b")):
                accounts.thd_set_user(
                    f"{user}@example.org", values={"mailhost": (f"stores.example.org:{self.ports[where]}",)}
                )
        finally:
            store.thd_close()
        node.start()

    def setUp(self) -> None:
        super().setUp()
        self.other = Node(
            {
                "queue.segment_octets": 1 << 20,
                "server.hostname": "b.example.org",
                **reached(self.ports["smtp b"], self.ports["b"], self.names.port),
                "directory.servers": [f"ldap://127.0.0.1:{self.ports['ldap']}"],
                "directory.starttls": "none",
                "directory.bind_dn": "cn=service,o=qmailpy",
                "directory.bind_password_file": "etc/ldap.secret",
            },
            (),
        )
        self.addCleanup(self.other.clean_up)
        secret = self.other.path("etc", "ldap.secret")
        shutil.copy(secret_path(self.node.home, SERVICE), secret)
        os.chmod(secret, 0o600)

    def write_to(self, node: str, *recipients: str) -> None:
        with Talk(self.ports[f"smtp {node}"]) as talk:
            self.assertEqual(talk.mail("x@remote.example", recipients, MESSAGE)[:3], "250")

    def test_mail_goes_to_the_node_that_stores_it(self) -> None:
        """From A to B, where it waits as long as B is down; from B to A; and each one's own."""
        self.write_to("a", "alice@example.org", "bob@example.org")
        self.until(lambda: bool([one for one in self.node.records() if one.action.value == "Q"]))
        self.other.start()
        self.other.wait_mailbox("bob", 1)
        self.write_to("b", "alice@example.org", "bob@example.org")
        self.node.wait_mailbox("alice", 2)
        self.other.wait_mailbox("bob", 2)
        self.assertEqual((self.node.mailbox("bob"), self.other.mailbox("alice")), ([], []))
        for text in self.other.mailbox("bob"):
            self.assertIn(b"\nDelivered-To: bob@example.org\n", text)
        self.other.verify()

    def test_two_that_do_not_agree_send_nothing_to_and_fro(self) -> None:
        """B takes itself for another node: what A hands on waits at A (4.3.5)."""
        self.other.set({"server.names": ["elsewhere.example.org"]})
        self.other.start()
        self.write_to("a", "bob@example.org")
        self.until(lambda: any("4.3.5" in one.diagnostic for one in self.node.records()))
        self.assertEqual([one for one in self.other.records() if one.action.value == "E"], [])
