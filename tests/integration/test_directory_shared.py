"""A second node that has no directory of its own: it asks the one of the first, as docs/directory.md says it."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.directory.paths import secret_path
from tests.integration.node import Node, quick
from tests.integration.peers.running import free_port


class SharedTests(SynchronousTestCase):
    timeout = 120

    def node(self, **settings: object) -> Node:
        node = Node({**quick(1), **settings})
        self.addCleanup(node.clean_up)
        return node

    def rcpt(self, node: Node, name: str) -> str:
        with node.talk() as talk:
            return talk.envelope("a@client.example", [f"{name}@example.org"])[1][:3]

    def test_users_of_the_first_node_are_known_at_the_second(self) -> None:
        port = free_port()
        first = self.node(**{"directory.endpoint": f"tcp:{port}:interface=127.0.0.1"})
        second = self.node(**{"directory.negative_s": 0.1})
        first.qmailpy("user", "add", "only.here@example.org")
        first.start()
        connect = ["directory", "connect", f"ldap://127.0.0.1:{port}"]
        connect += ["--password-file", secret_path(first.home, "service")]
        connect += ["--admin-dn", "cn=admin,o=qmailpy", "--admin-password-file", secret_path(first.home, "admin")]
        said = second.qmailpy(*connect, status=1)
        self.assertIn("does not verify", said)
        self.assertIn('starttls "must"', said)
        self.assertIn("the configuration is changed", second.qmailpy(*connect, "--starttls", "must"))
        second.start()
        self.assertEqual((self.rcpt(second, "only.here"), self.rcpt(second, "nobody")), ("250", "550"))
        second.qmailpy("user", "add", "late@example.org")  # in the one directory there is
        self.assertEqual((self.rcpt(first, "late"), self.rcpt(second, "late")), ("250", "250"))
        self.assertEqual((second.stop(), first.stop()), (0, 0))
