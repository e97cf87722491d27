"""
Two nodes and one directory: whoever fetches mail may do so at either, for the other one is asked for what it has
(popServer). With Dovecot in either place, too.
"""

from __future__ import annotations

import base64
import os
import poplib
import shutil
import signal
import socket
import ssl
import time
from typing import ClassVar

from qmailpy.directory.accounts import Accounts
from qmailpy.directory.setup import SERVICE, secret_path, store_path
from qmailpy.directory.store import Store
from tests.integration.node import Node, NodeCase, Settings
from tests.integration.peers import dovecot
from tests.integration.peers.dns import NameServer
from tests.integration.peers.running import free_port
from tests.integration.peers.scram import scram

PASSWORD = "sesame"
NODES_PASSWORD = b"only for nodes\n"
LIMIT_S = 20.0
CLIENT = "127.0.0.5"
MESSAGE = b"Subject: large\n\n" + b".dot\nline\n" * 30000


def serves(port: int, own: int, dns: int) -> dict[str, object]:
    """A node that is called mail.example.org:PORT."""
    return {
        "listener.pop3.endpoint": f"tcp:{own}:interface=127.0.0.1",
        "listener.pop3.xclient": ["127.0.0.1/32"],
        "dns.servers": [f"127.0.0.1:{dns}"],
        "server.names": [f"mail.example.org:{port}"],
        "trust.networks": [],
    }


class PopNodesCase(NodeCase):
    """Node A has the directory; node B asks it over LDAP, and has bob's mail."""

    users = ("alice", "bob", "carol")
    fresh = True
    timeout = 90
    settings_of_a: ClassVar[Settings] = {}
    settings_of_b: ClassVar[Settings] = {}

    def make_node(self, settings: Settings) -> Node:
        self.names = NameServer({"mail.example.org": "127.0.0.1"})
        self.addCleanup(self.names.close)
        self.ports = {name: free_port() for name in ("a", "b", "ldap", "third")}
        self.other = Node(
            {
                "queue.segment_octets": 1 << 20,
                "server.hostname": "b.example.org",
                "listener.smtp.endpoint": "tcp:0:interface=127.0.0.1",
                **serves(self.ports["b"], self.ports["b"], self.names.port),
                "directory.servers": [f"ldap://127.0.0.1:{self.ports['ldap']}"],
                "directory.starttls": "none",
                "directory.bind_dn": "cn=service,o=qmailpy",
                "directory.bind_password_file": "etc/ldap.secret",
                **self.settings_of_b,
            },
            (),
        )
        self.addCleanup(self.other.clean_up)
        node = Node(
            {
                **settings,
                **serves(self.ports["a"], self.ports["a"], self.names.port),
                "directory.endpoint": f"tcp:{self.ports['ldap']}:interface=127.0.0.1",
                "pop3.ca_file": self.other.path("tls", "cert.pem"),
                "pop3.timeout_s": 5.0,
                **self.settings_of_a,
            },
            self.users,
        )
        for one in (node, self.other):
            with open(one.path("etc", "nodes.secret"), "wb") as target:
                target.write(NODES_PASSWORD)
            os.chmod(one.path("etc", "nodes.secret"), 0o600)
        shutil.copy(secret_path(node.home, SERVICE), self.other.path("etc", "ldap.secret"))
        os.chmod(self.other.path("etc", "ldap.secret"), 0o600)
        return node

    def begin(self, node: Node) -> None:
        store = Store(store_path(node.home))
        try:
            accounts = Accounts(store, "o=qmailpy")
            for user, port in (("alice", "a"), ("bob", "b"), ("carol", "third")):
                values = {"popserver": (f"mail.example.org:{self.ports[port]}",)}
                accounts.thd_set_user(f"{user}@example.org", values=values)
        finally:
            store.thd_close()
        for user in self.users:
            node.qmailpy("user", "passwd", f"{user}@example.org", "--password-stdin", octets=PASSWORD.encode() + b"\n")
        node.start()
        node.wait_for("access-0 is ready")

    def start_other(self) -> None:
        self.other.start()
        self.other.wait_for("access-0 is ready")

    def put(self, node: Node, user: str, *contents: bytes, first: int = 0) -> None:
        """Messages in a mailbox, numbered from C{first}, which is their order."""
        box = node.path("mail", "example.org", user, "Maildir")
        for folder in ("new", "cur", "tmp"):
            os.makedirs(os.path.join(box, folder), exist_ok=True)
        for number, content in enumerate(contents, first):
            with open(os.path.join(box, "new", f"16000000{number:02}.n{number}.example"), "wb") as target:
                target.write(content)

    def there(self, node: Node, user: str) -> int:
        box = node.path("mail", "example.org", user, "Maildir")
        return sum(len(os.listdir(os.path.join(box, folder))) for folder in ("new", "cur"))

    def connected(self, port: int) -> poplib.POP3:
        """A client from another address than the nodes', under TLS."""
        client = _From(port)
        self.addCleanup(client.close)
        client.stls(_unverified())
        return client

    def client(self, user: str, port: str = "a") -> poplib.POP3:
        client = self.connected(self.ports[port])
        client.user(f"{user}@example.org")
        client.pass_(PASSWORD)
        return client

    def refused(self, user: str) -> bytes:
        with self.assertRaises(poplib.error_proto) as caught:
            self.client(user)
        said: bytes = caught.exception.args[0]
        return said

    def reload(self, node: Node) -> None:
        """Have it read its configuration again."""
        assert node.process is not None
        path = node.path("log", "qmailpy.log")

        def times() -> int:
            with open(path, errors="replace") as source:
                return source.read().count("access-0 has the new configuration")

        before = times()
        node.process.send_signal(signal.SIGHUP)
        self.until(lambda: times() > before)

    def log_of_b(self) -> str:
        with open(self.other.path("log", "qmailpy.log"), errors="replace") as source:
            return source.read()


class _From(poplib.POP3):
    """From L{CLIENT}."""

    def __init__(self, port: int) -> None:
        self._port = port
        super().__init__("127.0.0.1", port, timeout=LIMIT_S)

    def _create_socket(self, timeout: float) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._port), timeout, source_address=(CLIENT, 0))


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class HandedOnTests(PopNodesCase):
    """With the user's own password, over TLS that is verified."""

    def test_a_session_is_the_other_nodes(self) -> None:
        self.node_that_is_away()
        self.start_other()
        self.without_an_account_of_the_nodes_scram_ends_here()
        self.what_is_there_comes_whole()
        self.what_the_other_node_says_is_what_the_client_gets()
        self.last_words_of_a_client_that_is_gone_at_once_arrive()
        self.a_client_that_takes_nothing_holds_the_other_node_back()
        self.an_orderly_stop_ends_it()
        self.assertNotIn(PASSWORD, self.log() + self.log_of_b())

    def node_that_is_away(self) -> None:
        self.assertIn(b"[SYS/TEMP]", self.refused("bob"))
        self.assertIn(f"mail.example.org:{self.ports['b']}: 127.0.0.1:{self.ports['b']}: ", self.log())

    def without_an_account_of_the_nodes_scram_ends_here(self) -> None:
        client = self.connected(self.ports["a"])
        said = scram(client.sock.sendall, client.file.readline, "bob@example.org", PASSWORD)
        self.assertTrue(said.startswith(b"-ERR [SYS/PERM]"), said)
        client.close()

    def what_is_there_comes_whole(self) -> None:
        """Deletions and unique-ids are the other node's; the log there names the client. And each has its own."""
        self.put(self.node, "alice", MESSAGE)
        self.put(self.other, "bob", MESSAGE, b"Subject: two\n\n2\n", b"Subject: three\n\n3\n")
        client = self.client("bob")
        uids = client.uidl()[1]
        self.assertEqual(client.stat()[0], 3)
        self.assertEqual(b"".join(line + b"\n" for line in client.retr(1)[1]), MESSAGE)
        client.dele(2)
        client.quit()
        self.assertEqual(self.there(self.other, "bob"), 2)
        self.assertIn(f"POP3 bob@example.org from {CLIENT}: logged in", self.log_of_b())
        here = self.client("bob", "b")
        self.assertEqual([line.split()[1] for line in here.uidl()[1]], [uids[at].split()[1] for at in (0, 2)])
        here.quit()
        own = self.client("alice")
        self.assertEqual(own.stat()[0], 1)
        own.quit()

    def what_the_other_node_says_is_what_the_client_gets(self) -> None:
        """[IN-USE]; and the mailbox is free when the client is gone, with nothing deleted."""
        first = self.client("bob")
        self.assertIn(b"[IN-USE]", self.refused("bob"))
        first.dele(1)
        first.close()
        self.until(lambda: self.log_of_b().count("ended without QUIT") == 1)
        client = self.client("bob")
        self.assertEqual(client.stat()[0], 2)
        client.quit()

    def last_words_of_a_client_that_is_gone_at_once_arrive(self) -> None:
        client = self.client("bob")
        client.sock.sendall(b"DELE 2\r\nQUIT\r\n")
        client.close()
        self.until(lambda: self.there(self.other, "bob") == 1)

    def a_client_that_takes_nothing_holds_the_other_node_back(self) -> None:
        """No node keeps a message of many megabytes for it."""
        content = b"Subject: x\n\n" + (b"x" * 70 + b"\n") * 300_000
        self.put(self.other, "bob", content, first=50)
        client = self.client("bob")
        before = [node.rss("access-0") for node in (self.node, self.other)]
        client.sock.sendall(b"RETR 2\r\n")
        self.assertTrue(client.file.readline().startswith(b"+OK "))
        total, largest = 0, [0, 0]
        expected = len(content) + content.count(b"\n") + 3
        while total < expected:
            octets = client.file.read(min(1 << 16, expected - total))
            self.assertTrue(octets)
            if total // (8 << 20) != (total + len(octets)) // (8 << 20):
                largest = [
                    max(at, node.rss("access-0")) for at, node in zip(largest, (self.node, self.other), strict=True)
                ]
            total += len(octets)
        for now, then in zip(largest, before, strict=True):
            self.assertLess(now - then, 12 << 20)
        client.quit()

    def an_orderly_stop_ends_it(self) -> None:
        client = self.client("bob")
        count = self.log_of_b().count("ended without QUIT")
        begun = time.monotonic()
        self.assertEqual(self.node.stop(), 0)
        self.assertLess(time.monotonic() - begun, 10.0)
        self.assertEqual(client.sock.recv(100), b"")
        self.until(lambda: self.log_of_b().count("ended without QUIT") == count + 1)

    def test_nodes_that_do_not_know_each_other(self) -> None:
        """
        B takes itself for another node, and A for the one that has bob's mail: nobody is handed to and fro. Nor to one
        that would not know that he was handed on. And one with a stranger's certificate hears no password.
        """
        self.other.set({"server.names": [], "pop3.ca_file": self.node.path("tls", "cert.pem")})
        self.start_other()
        self.assertIn(b"[SYS/TEMP]", self.refused("bob"))
        self.assertIn("check server.names", self.log_of_b())
        self.assertNotIn("check server.names", self.log())
        told = self.log_of_b().count("POP3 bob")
        self.node.set({"pop3.ca_file": self.node.path("tls", "cert.pem")})
        self.reload(self.node)
        self.assertIn(b"[SYS/TEMP]", self.refused("bob"))
        self.assertIn("self-signed", self.log())
        self.assertEqual(self.log_of_b().count("POP3 bob"), told)
        self.other.set({"listener.pop3.xclient": []})
        self.reload(self.other)
        self.assertIn(b"[SYS/TEMP]", self.refused("bob"))
        self.assertIn("xclient of its listener must name our address", self.log())


ACCOUNT: Settings = {"pop3.node_user": "nodes", "pop3.node_password_file": "etc/nodes.secret"}


class AccountTests(PopNodesCase):
    """With an account of the nodes'."""

    settings_of_a = ACCOUNT
    settings_of_b = ACCOUNT

    def test_an_account_of_the_nodes_serves_all_logins(self) -> None:
        self.start_other()
        self.scram_and_passwords()
        self.the_account_is_for_nodes_alone()
        self.two_passwords_of_it()
        self.assertNotIn("only for nodes", self.log() + self.log_of_b())

    def scram_and_passwords(self) -> None:
        self.put(self.other, "bob", b"Subject: one\n\n1\n")
        client = self.connected(self.ports["a"])
        said = scram(client.sock.sendall, client.file.readline, "bob@example.org", PASSWORD)
        self.assertEqual(said, b"+OK 1 messages\r\n")
        client.quit()
        self.client("bob").quit()
        login = f"POP3 bob@example.org from {CLIENT}: logged in by PLAIN under TLS"
        self.assertEqual(self.log_of_b().count(login), 2)

    def the_account_is_for_nodes_alone(self) -> None:
        """From elsewhere its password opens nothing; nor does it open what is closed."""
        for port in (self.ports["b"], self.ports["a"]):
            client = self.connected(port)
            for command, response in (
                (b"XCLIENT ADDR=192.0.2.1 TTL=0", b"-ERR XCLIENT is not for you\r\n"),
                (
                    b"AUTH PLAIN " + base64.b64encode(b"bob@example.org\0nodes\0" + NODES_PASSWORD.strip()),
                    b"-ERR [AUTH] Wrong name or password\r\n",
                ),
            ):
                client.sock.sendall(command + b"\r\n")
                self.assertEqual(client.file.readline(), response)
            client.close()
        self.node.qmailpy("user", "set", "bob@example.org", "status=nopop")
        self.assertIn(b"-ERR [SYS/PERM]", self.refused("bob"))
        self.node.qmailpy("user", "set", "bob@example.org", "status=active")

    def two_passwords_of_it(self) -> None:
        """The user has no part in that."""
        with open(self.other.path("etc", "nodes.secret"), "wb") as target:
            target.write(b"another\n")
        self.reload(self.other)
        self.assertIn(b"[SYS/TEMP]", self.refused("bob"))
        self.assertIn("refused by mail.example.org", self.log())


class DovecotTests(PopNodesCase):
    """The other program behind us, and before us."""

    settings_of_a: ClassVar[Settings] = {"pop3.tls": "none"}

    def test_dovecot_as_the_other_node(self) -> None:
        self.assertEqual(dovecot.missing(), "")
        self.behind_us()
        self.before_us()

    def behind_us(self) -> None:
        """It greets with [XCLIENT], and learns who is there."""
        self.put(self.other, "carol", MESSAGE, b"Subject: two\n\n2\n")
        found = dovecot.Dovecot(self.other.path("mail"), PASSWORD, extra="login_trusted_networks = 127.0.0.1/32\n")
        self.addCleanup(found.stop)
        self.node.qmailpy("user", "set", "carol@example.org", f"pop-host=mail.example.org:{found.port}")
        client = self.client("carol")
        self.assertEqual(b"".join(line + b"\n" for line in client.retr(1)[1]), MESSAGE)
        client.quit()
        self.assertIn(f"rip={CLIENT}", found.log())

    def before_us(self) -> None:
        """As a proxy; what it says of its client is believed."""
        self.put(self.node, "alice", MESSAGE)
        args = f"args = proxy=y host=127.0.0.1 port={self.ports['a']} nopassword=y"
        passdb = "passdb {\n driver = static\n " + args + "\n}\n"
        found = dovecot.Dovecot(self.other.path("mail"), PASSWORD, passdb=passdb)
        self.addCleanup(found.stop)
        client = _From(found.port)
        self.addCleanup(client.close)
        client.user("alice@example.org")
        client.pass_(PASSWORD)
        self.assertEqual(b"".join(line + b"\n" for line in client.retr(1)[1]), MESSAGE)
        client.quit()
        self.until(lambda: f"POP3 alice@example.org from {CLIENT}: logged in" in self.log())
