"""From the embedded directory to OpenLDAP in two commands, as docs/directory.md says it; and life after that."""

from __future__ import annotations

import json
import os
import poplib
import signal
import stat
import subprocess

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.daemon_process import ROOT
from tests.integration.node import QMAILPY, Node, quick
from tests.integration.peers import slapd
from tests.integration.peers.client import message
from tests.integration.peers.running import free_port
from tests.integration.test_slapd import Places


class Moving(SynchronousTestCase):
    timeout = 120

    def setUp(self) -> None:
        self.places = Places(self)
        self.server = self.places.server(schema=False).start()
        self.pop3 = free_port()
        pop3 = {"listener.pop3.endpoint": f"tcp:{self.pop3}:interface=127.0.0.1", "listener.pop3.plain_auth": True}
        self.node = Node({**quick(1), **pop3, "directory.positive_s": 3600.0, "directory.negative_s": 3600.0})
        self.addCleanup(self.node.clean_up)
        self.passwd("alice", b"sesame")
        self.node.qmailpy("alias", "add", "info@example.org", "alice@example.org", "x@remote.example")
        with open(self.node.path("root.secret"), "wb") as target:
            target.write(slapd.ROOT_PASSWORD + b"\n")

    def passwd(self, user: str, password: bytes) -> None:
        self.node.qmailpy("user", "passwd", f"{user}@example.org", "--password-stdin", octets=password + b"\n")

    def connect(self, *more: str, status: int = 0) -> str:
        return self.node.qmailpy("directory", "connect", self.server.url, "--starttls", "none", *more, status=status)

    def load_schema(self) -> None:
        text = self.node.qmailpy("directory", "schema")
        command = ["ldapadd", "-Y", "EXTERNAL", "-Q", "-H", f"ldapi://{self.server.socket.replace('/', '%2F')}"]
        done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=20, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)

    def rcpt(self, name: str) -> str:
        with self.node.talk() as talk:
            return talk.envelope("a@client.example", [f"{name}@example.org"])[1][:3]

    def login(self, user: str, password: str) -> bool:
        client = poplib.POP3("127.0.0.1", self.pop3, timeout=20)
        try:
            client.user(f"{user}@example.org")
            client.pass_(password)
        except poplib.error_proto:
            return False
        finally:
            client.close()
        return True

    def test_two_commands_and_a_reload(self) -> None:
        node = self.node.start()
        node.wait_for("access-0 is ready")
        configuration = node.path("etc", "qmailpy.toml")
        with open(configuration) as source:
            before = source.read()
        admin = ("--admin-dn", slapd.ROOT_DN, "--admin-password-file", node.path("root.secret"))

        # What is not ready is told with what to do, and nothing is changed.
        self.assertIn("qmailpy directory schema", self.connect(*admin, status=1))
        self.load_schema()
        self.assertIn("wrong name or password", self.connect(status=1))
        with open(configuration) as source:
            self.assertEqual(source.read(), before)
        self.assertFalse(os.path.exists(node.path("etc", "directory.secret")))

        # The two commands.
        ldif = node.path("users.ldif")
        node.qmailpy("directory", "export", "--ldif", ldif)
        said = self.connect(*admin, "--load", ldif)

        self.assertIn("1 domains and 4 users of this home are there", said)
        for name in (ldif, node.path("etc", "directory.secret"), node.path("etc", "directory-admin.secret")):
            self.assertEqual(stat.S_IMODE(os.stat(name).st_mode) & 0o137, 0, name)
        with open(ldif) as source:
            self.assertIn("{SCRAM-SHA-256}", source.read().replace("\n ", ""))
        assert node.process is not None
        node.process.send_signal(signal.SIGHUP)
        node.wait_for("has the new configuration", 3)
        self.assertEqual((self.rcpt("alice"), self.rcpt("info"), self.rcpt("nobody")), ("250", "250", "550"))
        self.assertTrue(self.login("alice", "sesame"))
        self.assertFalse(self.login("alice", "wrong"))

        # Commands work there, and are seen at once although answers are remembered for an hour.
        node.qmailpy("user", "add", "late@example.org", "--password-stdin", octets=b"first\n")
        self.assertEqual(self.rcpt("late"), "250")
        self.assertTrue(self.login("late", "first"))
        self.passwd("late", b"second")
        self.assertTrue(self.login("late", "second"))
        self.assertFalse(self.login("late", "first"))
        node.qmailpy("user", "suspend", "late@example.org")
        self.assertEqual(self.rcpt("late"), "550")
        self.assertIn("late@example.org", node.qmailpy("user", "list"))
        twice = node.qmailpy("alias", "add", "bob@example.org", "alice@example.org", status=1)
        self.assertIn("bob@example.org", twice)
        node.qmailpy("user", "delete", "late@example.org", "--yes")
        self.assertNotIn("late@example.org", node.qmailpy("user", "list"))
        self.assertIn("refused", node.qmailpy("test", "rewrite", "late@example.org"))
        self.assertIn("channel local", node.qmailpy("test", "rewrite", "alice@example.org"))

        found = json.loads(node.qmailpy("directory", "status", "--json"))
        self.assertEqual([one["server"] for one in found["servers"]], [self.server.url])
        self.assertEqual(found["servers"][0]["asked_by"], ["access-0", "mta-0"])
        self.assertGreater(found["processes"]["mta-0"]["misses"], 0)

        # And after a restart without anything of ours.
        self.assertEqual(node.stop(), 0)
        node.start()
        self.assertNotIn("directory-0", node.printed())
        with node.talk() as talk:
            self.assertEqual(talk.mail("a@client.example", ["alice@example.org"], message("moved"))[:3], "250")
        node.wait_mailbox("alice", 1)
        self.server.kill()
        self.assertIn("cannot be reached", node.qmailpy("user", "list", status=1))
        self.assertIn("down", self.status_down())
        self.assertEqual(node.stop(), 0)
        self.assertNotIn("Traceback", node.printed())

    def status_down(self) -> str:
        found = subprocess.run(
            [QMAILPY, "--home", self.node.home, "directory", "status"],
            env={**os.environ, "PYTHONPATH": ROOT},
            capture_output=True,
            timeout=20,
            check=False,
        )
        self.assertEqual(found.returncode, 1)
        return found.stdout.decode()

    def test_users_that_are_missing_there_are_told(self) -> None:
        self.load_schema()
        self.server.add(slapd.people(["alice"]))
        secret = self.node.path("service.secret")
        with open(secret, "wb") as target:
            target.write(slapd.SERVICE_PASSWORD)
        said = self.connect("--password-file", secret, status=1)
        self.assertIn("does not find", said)
        self.assertIn("--load", said)
