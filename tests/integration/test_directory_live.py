"""Changes made with LDAP tools reach the running mail workers; a home of any length serves them."""

from __future__ import annotations

import os
import poplib
import re
import shutil
import subprocess
import tempfile

from twisted.internet import reactor
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase

from qmailpy.app.context import BoundSocket, ChildContext
from qmailpy.app.directory import DirectoryServer
from qmailpy.app.sockets import Listening
from qmailpy.config.schema import Config, DirectoryConfig, ServerConfig
from qmailpy.control import call
from qmailpy.directory.paths import directory_path, secret_path, socket_path
from qmailpy.directory.service import ldap_directory
from qmailpy.directory.setup import create
from qmailpy.servers.control import Registry
from tests.integration.daemon_process import until
from tests.integration.node import Node, quick
from tests.integration.peers.running import free_port

ENTRY = """dn: uid={0},dc=example.org,o=qmailpy
objectClass: inetOrgPerson
objectClass: qmailUser
uid: {0}
cn: {0}
sn: {0}
mail: {0}@example.org

"""
REMEMBERED = {"directory.negative_s": 3600.0}


class LiveCase(SynchronousTestCase):
    timeout = 60

    def node(self, workers: int = 1, home: str | None = None) -> Node:
        node = Node({**quick(1), **REMEMBERED, "server.workers": workers}, ("alice",), home=home)
        self.addCleanup(node.clean_up)
        return node.start()

    def rcpt(self, node: Node, name: str) -> str:
        with node.talk() as talk:
            talk.say("MAIL FROM:<a@client.example>")
            return talk.say(f"RCPT TO:<{name}@example.org>")[:3]

    def tool(self, node: Node, name: str, text: str) -> None:
        """Run an LDAP tool as the administrator."""
        if not shutil.which(name):
            raise SkipTest(f"no {name}; apt-get install ldap-utils")
        port = re.findall(r"LdapServerFactory starting on (\d+)$", node.printed(), re.MULTILINE)[-1]
        login = ["-x", "-H", f"ldap://127.0.0.1:{port}", "-D", "cn=admin,o=qmailpy", "-y"]
        subprocess.run(
            [name, *login, secret_path(node.home, "admin")], input=text.encode(), check=True, capture_output=True
        )


class ChangedElsewhere(LiveCase):
    def check(self, node: Node) -> None:
        self.assertEqual((self.rcpt(node, "alice"), self.rcpt(node, "late")), ("250", "550"))
        self.tool(node, "ldapadd", ENTRY.format("late"))
        self.assertLess(until(lambda: self.rcpt(node, "late") == "250"), 1.0)
        status = "dn: uid=late,dc=example.org,o=qmailpy\nreplace: accountStatus\naccountStatus: disabled\n"
        self.tool(node, "ldapmodify", status)
        self.assertLess(until(lambda: self.rcpt(node, "late") == "550"), 1.0)
        self.assertEqual(self.rcpt(node, "alice"), "250")

    def test_the_next_recipient_sees_it_although_the_answer_was_remembered(self) -> None:
        """Both workers: answers, and the answer that there is nobody, are kept for an hour here."""
        node = self.node(2)
        self.check(node)
        # Many at once: the cache forgets them all, the workers stay as quick as they were.
        self.assertEqual({self.rcpt(node, "u299") for _ in range(8)}, {"550"})
        self.tool(node, "ldapadd", "".join(ENTRY.format(f"u{number}") for number in range(300)))
        until(lambda: {self.rcpt(node, "u299") for _ in range(8)} == {"250"}, 1.0)
        self.assertEqual(node.stop(), 0)
        self.assertNotIn("Traceback", node.printed())

    def test_it_is_the_same_in_one_process(self) -> None:
        node = self.node(0)
        self.check(node)
        self.assertEqual(node.stop(), 0)


class Operating(LiveCase):
    """What an operator and a user see of a running home."""

    def test_the_daemon_speaks_tls_and_commands_are_seen_at_once(self) -> None:
        ports = {name: free_port() for name in ("plain", "ldaps", "pop3")}
        where = {name: f"tcp:{port}:interface=127.0.0.1" for name, port in ports.items()}
        settings = {
            "directory.endpoint": where["plain"],
            "directory.tls_endpoint": where["ldaps"],
            "listener.pop3.endpoint": where["pop3"],
            "listener.pop3.plain_auth": True,
        }
        node = Node({**quick(1), **REMEMBERED, **settings}, ("alice",))
        self.addCleanup(node.clean_up)
        node.start()

        # Its own certificate, handed to the directory process, by StartTLS and from the beginning.
        trusted = {**os.environ, "LDAPTLS_CACERT": node.path("tls", "cert.pem"), "LDAPTLS_REQSAN": "never"}
        trusted["LDAPTLS_REQCERT"] = "allow"
        login = ["-x", "-D", "cn=admin,o=qmailpy", "-y", secret_path(node.home, "admin")]
        for way in (["-ZZ", "-H", f"ldap://127.0.0.1:{ports['plain']}"], ["-H", f"ldaps://127.0.0.1:{ports['ldaps']}"]):
            done = subprocess.run(["ldapwhoami", *login, *way], env=trusted, capture_output=True, check=False)
            self.assertEqual((done.returncode, done.stdout), (0, b"dn:cn=admin,o=qmailpy\n"), done.stderr)

        # Answers from before, and that there is nobody, were remembered for an hour.
        self.assertEqual((self.rcpt(node, "u7"), self.rcpt(node, "alice")), ("550", "250"))
        rows = "address,password\n" + "".join(f"u{number}@example.org,sesame\n" for number in range(20))
        with open(node.path("rows.csv"), "w") as file:
            file.write(rows)
        printed = node.qmailpy("user", "import", node.path("rows.csv"), "--password-scheme", "ssha")
        self.assertIn("20 added", printed)
        self.assertEqual(self.rcpt(node, "u7"), "250")
        self.assertIn("0 problems", node.qmailpy("directory", "check"))

        # A login is noted; a plan without POP3 ends it.
        self.pop3(ports["pop3"])
        until(lambda: "pop3 127.0.0.1" in node.qmailpy("user", "show", "u7@example.org"))
        node.qmailpy("plan", "add", "mute", "features=submission")
        node.qmailpy("user", "set", "u7@example.org", "plan=mute")
        with self.assertRaisesRegex(poplib.error_proto, "SYS/PERM"):
            self.pop3(ports["pop3"])
        node.qmailpy("plan", "set", "mute", "features=pop3")
        self.pop3(ports["pop3"])
        self.assertEqual(node.stop(), 0)
        self.assertNotIn("Traceback", node.printed())

    def pop3(self, port: int) -> None:
        client = poplib.POP3("127.0.0.1", port, timeout=20)
        try:
            client.user("u7@example.org")
            client.pass_("sesame")
            client.quit()
        finally:
            client.close()


class Ending(TestCase):
    def setUp(self) -> None:
        self.home = os.path.abspath(self.mktemp())
        os.makedirs(os.path.join(self.home, "run"))
        create(self.home, "o=qmailpy", "example.org")

    async def test_the_store_is_closed_when_the_service_has_stopped(self) -> None:
        """Not left to the end of the process: what SQLite keeps beside its file is folded in and gone."""
        home = self.home
        config = Config(home=home, server=ServerConfig(hostname="m"), directory=DirectoryConfig(endpoint=""))
        listening = Listening()
        listening.open(config)
        context = ChildContext(
            reactor=reactor,
            config=config,
            home=home,
            role="directory",
            index=0,
            shards=(),
            sockets={
                name: tuple(BoundSocket(os.dup(one.fileno()), int(one.family)) for one in made)
                for name, made in listening.of("directory").items()
            },
            session="",
            ready=lambda: None,
            control=Registry(),
        )
        server = DirectoryServer(context)
        server.startService()
        worker = ldap_directory(reactor, config)
        try:
            self.assertIsNotNone(await worker.lookup("postmaster@example.org"))
            self.assertIn("directory.sqlite-wal", os.listdir(directory_path(home)))
        finally:
            await worker.stop()
            await server.stopService()
            listening.close()
        left = sorted(os.listdir(directory_path(home)))
        self.assertEqual(left, ["admin.secret", "directory.sqlite", "service.secret"])


class LongPaths(LiveCase):
    def test_a_home_longer_than_a_socket_address_takes_mail_for_its_users(self) -> None:
        """The workers' way to the directory and that of C{qmailpy inject} are UNIX sockets: 107 octets each."""
        base = tempfile.mkdtemp(prefix="qmailpy-test-")
        self.addCleanup(shutil.rmtree, base)
        node = self.node(home=os.path.join(base, "long" * 30, "home"))
        self.assertGreater(len(socket_path(node.home)), 120)
        self.assertEqual((self.rcpt(node, "alice"), self.rcpt(node, "nobody")), ("250", "550"))
        node.qmailpy("inject", "alice@example.org", octets=b"From: a@example.org\n\nhello\n")
        self.assertEqual(len(node.wait_mailbox("alice", 1)), 1)
        old = node.kill("directory-0")
        call(node.home, "mta-0", "directory.flush", address="")
        self.assertEqual(self.rcpt(node, "alice"), "250", "who asks while it is restarted waits")
        self.assertNotEqual(node.pid("directory-0"), old)
        self.assertEqual(node.stop(), 0)
