"""Mail is fetched: the real daemon, and the programs people fetch mail with."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import poplib
import pty
import smtplib
import socket
import ssl
import subprocess
import time
from functools import partial
from typing import ClassVar
from unittest import SkipTest

from OpenSSL import SSL

from tests.integration.daemon_process import until
from tests.integration.node import Node, NodeCase, Settings
from tests.integration.peers import dovecot
from tests.integration.peers.running import free_port
from tests.integration.peers.scram import scram

PASSWORD = "sesame open"
DOVECOT_PASSWORD = "sesame"  # a blank would end the argument in its configuration
LIMIT_S = 20.0
END = b"\r\n.\r\n"
MESSAGES = (
    b"From: x@example.net\r\nSubject: one\r\n\r\nhello\r\n",
    b"From: x@example.net\r\nSubject: dots\r\n\r\n.\r\n..\r\n.x\r\n\r\n.\r\n",
    b"From: x@example.net\r\nSubject: long\r\n\r\n" + b"0123456789 " * 50 + b"\r\n" + b"line\r\n" * 20000,
)

_FOREIGN = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
"""For programs of other people's in Python: trial hands its own path on to its workers."""


class Pop3Case(NodeCase):
    users: ClassVar = ("alice", "bob")
    timeout = 60
    ports: ClassVar[dict[str, int]] = {}

    def make_node(self, settings: Settings) -> Node:
        self.ports.update(pop3=free_port(), pop3s=free_port())
        listeners = {
            f"listener.{name}.endpoint": f"tcp:{port}:interface=127.0.0.1" for name, port in self.ports.items()
        }
        node = Node({**settings, **listeners, "listener.pop3.plain_auth": True}, self.users)
        for user in self.users:
            node.qmailpy("user", "passwd", f"{user}@example.org", "--password-stdin", octets=PASSWORD.encode() + b"\n")
        return node

    def begin(self, node: Node) -> None:
        node.start()
        node.wait_for("access-0 is ready")

    def setUp(self) -> None:
        super().setUp()
        for folder in ("cur", "new"):
            with contextlib.suppress(FileNotFoundError):
                for name in os.listdir(self.box(folder)):
                    os.unlink(self.box(folder, name))

    def box(self, *parts: str, user: str = "alice") -> str:
        return self.node.path("mail", "example.org", user, "Maildir", *parts)

    def send(self, *messages: bytes) -> None:
        """By SMTP, as everybody's mail comes."""
        with smtplib.SMTP("127.0.0.1", self.node.port, timeout=LIMIT_S) as client:
            for message in messages:
                client.sendmail("x@example.net", ["alice@example.org"], message)
        self.node.wait_mailbox("alice", len(messages))

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.node.path("tls", "cert.pem"))
        context.check_hostname = False
        return context

    def client(self, port: int = 0, user: str = "alice@example.org") -> poplib.POP3:
        if port:
            client = poplib.POP3("127.0.0.1", port, timeout=LIMIT_S)
        else:
            client = poplib.POP3_SSL("127.0.0.1", self.ports["pop3s"], timeout=LIMIT_S, context=self.context())
        self.addCleanup(client.close)
        client.user(user)
        client.pass_(PASSWORD)
        return client

    def talk(self, tls: bool = False) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.ports["pop3s" if tls else "pop3"]), LIMIT_S)
        self.addCleanup(connection.close)
        if tls:
            connection = self.context().wrap_socket(connection)
            self.addCleanup(connection.close)
        self.assertTrue(connection.recv(4096).startswith(b"+OK"))
        return connection

    def told(self, connection: socket.socket, octets: bytes, ends: bytes = b"\r\n") -> bytes:
        """What the server says until C{ends}, or until it closes."""
        connection.sendall(octets)
        said = b""
        while not said.endswith(ends):
            try:
                octets = connection.recv(65536)
            except ConnectionResetError:
                break
            if not octets:
                break
            said += octets
        return said

    def uids(self, client: poplib.POP3) -> list[bytes]:
        return client.uidl()[1]

    def stored(self) -> list[bytes]:
        """What is in the mailbox, with CRLF, in order."""
        found = {}
        for folder in ("new", "cur"):
            for name in os.listdir(self.box(folder)):
                with open(self.box(folder, name), "rb") as source:
                    found[name.partition(":")[0]] = source.read().replace(b"\n", b"\r\n")
        return [found[name] for name in sorted(found)]


class ClientTests(Pop3Case):
    """Each program fetches everything, whole."""

    def test_poplib_fetches_what_was_sent(self) -> None:
        self.send(*MESSAGES)
        client = self.client()
        count, octets = client.stat()
        self.assertEqual(count, 3)
        found = [b"".join(line + b"\r\n" for line in client.retr(number)[1]) for number in (1, 2, 3)]
        self.assertEqual(found, self.stored())
        self.assertEqual([one[-len(MESSAGES[at]) :] for at, one in enumerate(found)], list(MESSAGES))
        self.assertEqual(octets, sum(map(len, found)))
        sizes = [int(line.split()[1]) for line in client.list()[1]]
        self.assertEqual(sizes, list(map(len, found)))
        self.assertEqual(client.top(3, 1)[1][-1], b"0123456789 " * 50)
        client.quit()

    def test_unique_ids_stay(self) -> None:
        """Over sessions, flags, moves, a kill -9 of the process and a restart of everything."""
        self.send(*MESSAGES)
        client = self.client(self.ports["pop3"])
        uids = self.uids(client)
        self.assertEqual(len({line.split()[1] for line in uids}), 3)
        client.retr(2)
        client.quit()
        self.assertEqual(len(os.listdir(self.box("cur"))), 1)
        client = self.client()
        self.assertEqual(self.uids(client), uids)
        old = self.node.kill("access-0")
        until(lambda: self._pid() not in (0, old))
        client = self.client()
        self.assertEqual(self.uids(client), uids)
        client.quit()

    def _pid(self) -> int:
        try:
            return self.node.pid("access-0")
        except Exception:
            return 0

    def test_what_is_deleted_is_gone_behind_quit_and_not_before(self) -> None:
        self.send(*MESSAGES)
        client = self.client()
        client.dele(1)
        client.close()
        client = self._again()
        self.assertEqual(client.stat()[0], 3)
        client.dele(1)
        client.dele(3)
        client.quit()
        client = self.client()
        self.assertEqual(client.stat()[0], 1)
        self.assertIn(b"Subject: dots", client.retr(1)[1])
        client.quit()

    def _again(self) -> poplib.POP3:
        """Log in behind a session that was cut: the server needs a moment to see that."""
        end = time.monotonic() + LIMIT_S
        while True:
            try:
                return self.client()
            except poplib.error_proto as error:
                if b"[IN-USE]" not in error.args[0] or time.monotonic() > end:
                    raise
                time.sleep(0.01)

    def test_a_mailbox_is_for_one_session(self) -> None:
        self.send(MESSAGES[0])
        first = self.client()
        with self.assertRaises(poplib.error_proto) as caught:
            self.client()
        self.assertIn(b"[IN-USE]", caught.exception.args[0])
        self.client(user="bob@example.org").quit()
        first.quit()
        self.client().quit()

    def test_stls(self) -> None:
        client = poplib.POP3("127.0.0.1", self.ports["pop3"], timeout=LIMIT_S)
        self.addCleanup(client.close)
        self.assertIn("STLS", client.capa())
        client.stls(self.context())
        self.assertNotIn("STLS", client.capa())
        client.user("alice")
        client.pass_(PASSWORD)
        client.quit()

    def test_curl(self) -> None:
        self.send(*MESSAGES)
        common = ("curl", "-sS", "-m", "15", "--user", f"alice@example.org:{PASSWORD}")
        tls = ("--cacert", self.node.path("tls", "cert.pem"), "--connect-to", f"::127.0.0.1:{self.ports['pop3s']}")
        listing = self.run_program(*common, *tls, f"pop3s://mail.example.org:{self.ports['pop3s']}/")
        self.assertEqual(len(listing.splitlines()), 3)
        for number, whole in enumerate(self.stored(), 1):
            for url in (
                f"pop3s://127.0.0.1:{self.ports['pop3s']}/{number}",
                f"pop3://127.0.0.1:{self.ports['pop3']}/{number}",
            ):
                self.assertEqual(self.run_program(*common, "-k", url), whole)

    def test_fetchmail(self) -> None:
        self.send(*MESSAGES)
        rc = os.path.join(self.node.base, "fetchmailrc")
        out = os.path.join(self.node.base, "fetched")
        with open(rc, "w") as target:
            target.write(
                f"poll 127.0.0.1 service {self.ports['pop3s']} protocol pop3 uidl\n"
                f' user "alice@example.org" password "{PASSWORD}" ssl no sslcertck keep\n'
                f" mda \"/bin/sh -c 'cat >> {out}'\"\n"
            )
        os.chmod(rc, 0o600)
        environment = {"HOME": self.node.base, "FETCHMAILHOME": self.node.base}
        self.run_program("fetchmail", "-f", rc, "--nosyslog", "--norewrite", environment=environment)
        with open(out, "rb") as source:
            fetched = source.read()
        self.assertEqual(fetched.count(b"Subject: "), 3)
        self.assertIn(b"\n.\n..\n.x\n\n.\n", fetched)
        # A second time there is nothing new: it knows the unique-ids. Its exit status 1 says so.
        self.run_program("fetchmail", "-f", rc, "--nosyslog", "--norewrite", environment=environment, status=1)

    def test_getmail(self) -> None:
        self.send(*MESSAGES)
        top = os.path.join(self.node.base, "getmail")
        os.makedirs(os.path.join(top, "box"), exist_ok=True)
        with open(os.path.join(top, "getmailrc"), "w") as target:
            target.write(
                f"[retriever]\ntype = SimplePOP3SSLRetriever\nserver = 127.0.0.1\nport = {self.ports['pop3s']}\n"
                f"username = alice@example.org\npassword = {PASSWORD}\n"
                # Its own Maildir delivery refuses to run as root.
                f"[destination]\ntype = MDA_external\npath = /bin/sh\nallow_root_commands = true\n"
                f'arguments = ("-c", "cat > {top}/box/$$")\n'
                "[options]\nread_all = false\ndelete = true\ndelivered_to = false\nreceived = false\n"
            )
        self.run_program("getmail", "--getmaildir", top, "--rcfile", "getmailrc", "--quiet")
        found = []
        for name in os.listdir(os.path.join(top, "box")):
            with open(os.path.join(top, "box", name), "rb") as source:
                found.append(source.read())
        self.assertEqual(
            sorted(one[one.index(b"From: x@") :] for one in found),
            sorted(one.replace(b"\r\n", b"\n") for one in MESSAGES),
        )
        self.assertEqual(self.stored(), [])

    def run_program(self, *command: str, environment: dict[str, str] | None = None, status: int = 0) -> bytes:
        done = subprocess.run(
            command, capture_output=True, timeout=LIMIT_S, check=False, env={**_FOREIGN, **(environment or {})}
        )
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done.stdout

    def test_dovecot_sees_the_same(self) -> None:
        """Over the same Maildir, and we see the same after it has moved and indexed everything."""
        why = dovecot.missing()
        if why:
            raise SkipTest(why)
        self.send(*MESSAGES)
        for name, content in (
            ("1600000000.other.example", b"Subject: foreign\n\nno sizes in the name\n.\n"),
            ("1600000001.other.example,S=31", b"Subject: crlf\r\n\r\nstored so\r\n.\r\n"),
        ):
            with open(self.box("new", name), "wb") as target:
                target.write(content)
        ours = self.everything(self.client())
        other = dovecot.Dovecot(self.node.path("mail"), DOVECOT_PASSWORD)
        self.addCleanup(other.stop)
        client = poplib.POP3("127.0.0.1", other.port, timeout=LIMIT_S)
        self.addCleanup(client.close)
        client.user("alice@example.org")
        client.pass_(DOVECOT_PASSWORD)
        theirs = self.everything(client)
        self.assertEqual(len(ours), 5)
        self.assertEqual([one[:2] for one in ours], [one[:2] for one in theirs])
        self.assertEqual(os.listdir(self.box("new")), [])
        self.assertEqual(self.everything(self.client()), ours)

    def everything(self, client: poplib.POP3) -> list[tuple[int, list[bytes], bytes]]:
        """Size, lines and unique-id of each message."""
        sizes = [int(line.split()[1]) for line in client.list()[1]]
        uids = [line.split()[1] for line in client.uidl()[1]]
        found = [(size, client.retr(at)[1], uid) for at, (size, uid) in enumerate(zip(sizes, uids, strict=True), 1)]
        client.quit()
        return found

    def test_scram_with_channel_binding(self) -> None:
        """GNU SASL's client, bound to TLS as RFC 9266 has it; and not at all when somebody is between the two."""
        for spoil, response in ((0, b"+OK "), (1, b"-ERR [AUTH] ")):
            with socket.create_connection(("127.0.0.1", self.ports["pop3s"]), LIMIT_S) as connection:
                secured = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), connection)
                connection.setblocking(True)
                secured.set_connect_state()
                secured.do_handshake()
                readline = partial(_line, secured)
                self.assertTrue(readline().startswith(b"+OK"))
                secured.sendall(b"CAPA\r\n")
                found = list(iter(readline, b".\r\n"))
                self.assertIn(b"SASL SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN\r\n", found)
                exported = bytearray(secured.export_keying_material(b"EXPORTER-Channel-Binding", 32, b""))
                exported[0] ^= spoil
                binding = base64.b64encode(exported)
                said = scram(secured.sendall, readline, "alice@example.org", PASSWORD, binding)
                self.assertTrue(said.startswith(response), said)

    def test_mutt(self) -> None:
        """On a terminal, as people have it; all messages are copied to a file."""
        self.send(*MESSAGES)
        out = os.path.join(self.node.base, "mutt.mbox")
        rc = os.path.join(self.node.base, "muttrc")
        keys = [
            (b"Msgs:3", b"T"),
            (b"Tag messages matching: ", b".\n"),
            (b"", b";C"),
            (b"Copy tagged to mailbox", b"\x15" + out.encode() + b"\n"),
            (b"", b"x"),
        ]
        with open(rc, "w") as target:
            target.write(
                f'set pop_user = "alice@example.org"\nset pop_pass = "{PASSWORD}"\nset pop_authenticators = "plain"\n'
                f'set certificate_file = "{self.node.path("tls", "cert.pem")}"\nset ssl_verify_host = no\n'
                "set confirmappend = no\nset confirmcreate = no\nset delete = no\nset move = no\n"
                f'set folder = "{self.node.base}"\nset header_cache = ""\nset wait_key = no\nset mbox_type = mbox\n'
            )
        command = ["mutt", "-n", "-F", rc, "-f", f"pop://127.0.0.1:{self.ports['pop3']}"]
        terminal, side = pty.openpty()
        self.addCleanup(os.close, terminal)
        environment = {**_FOREIGN, "TERM": "vt100", "HOME": self.node.base}
        with subprocess.Popen(command, stdin=side, stdout=side, stderr=side, env=environment) as mutt:
            os.close(side)
            try:
                os.set_blocking(terminal, False)
                painted = bytearray()
                try:
                    until(lambda: _ended(mutt, terminal, painted, keys), LIMIT_S)
                except AssertionError as error:
                    raise AssertionError(f"{error}: {bytes(painted[-2000:])!r}") from None
            finally:
                mutt.kill()
        with open(out, "rb") as source:
            found = source.read()
        self.assertEqual(found.count(b"\nSubject: "), 3)
        self.assertIn(b"\n\n.\n..\n.x\n\n.\n", found)
        self.assertIn(MESSAGES[2][-70000:].replace(b"\r\n", b"\n"), found)

    def test_what_thunderbird_says(self) -> None:
        """Its commands, one after the other, twice: AUTH to ask, CAPA, STLS, AUTH PLAIN, STAT, LIST, UIDL, RETR."""
        self.send(*MESSAGES)
        seen: set[bytes] = set()
        for new in (3, 0):
            connection = self.talk()
            self.assertTrue(self.told(connection, b"AUTH\r\n", END).startswith(b"+OK"))
            self.assertIn(b"\r\nSTLS\r\n", self.told(connection, b"CAPA\r\n", END))
            self.assertTrue(self.told(connection, b"STLS\r\n").startswith(b"+OK"))
            connection = self.context().wrap_socket(connection)
            self.addCleanup(connection.close)
            self.assertIn(b"PLAIN", self.told(connection, b"CAPA\r\n", END))
            self.assertEqual(self.told(connection, b"AUTH PLAIN\r\n"), b"+ \r\n")
            token = base64.b64encode(b"\0alice@example.org\0" + PASSWORD.encode())
            self.assertTrue(self.told(connection, token + b"\r\n").startswith(b"+OK"))
            count = int(self.told(connection, b"STAT\r\n").split()[1])
            listing = self.told(connection, b"LIST\r\n", END).split(b"\r\n")[1:-2]
            uids = [row.split()[1] for row in self.told(connection, b"UIDL\r\n", END).split(b"\r\n")[1:-2]]
            self.assertEqual((count, len(listing), len(uids)), (3, 3, 3))
            wanted = [at for at, uid in enumerate(uids) if uid not in seen]
            self.assertEqual(len(wanted), new)
            for at in wanted:
                said = self.told(connection, b"RETR %d\r\n" % (at + 1), END)
                self.assertEqual(said.split(b"\r\n")[0].split()[1], listing[at].split()[1])
                lines = said.split(b"\r\n")[1:-2]
                whole = b"".join(line[line.startswith(b".") :] + b"\r\n" for line in lines)
                self.assertEqual(whole, self.stored()[at])
            seen.update(uids)
            self.assertEqual(self.told(connection, b"QUIT\r\n", b"\r\n"), b"+OK Bye\r\n")
            connection.close()


def _line(secured: SSL.Connection) -> bytes:
    """A line of the server's, an octet at a time."""
    line = b""
    while not line.endswith(b"\n"):
        line += secured.recv(1)
    return line


def _ended(
    program: subprocess.Popen[bytes], terminal: int, painted: bytearray, keys: list[tuple[bytes, bytes]]
) -> bool:
    """
    Whether a program on a terminal has ended. What it paints is taken.

    @param keys: what is typed, once something was painted; what was typed is removed.
    """
    with contextlib.suppress(OSError):
        while octets := os.read(terminal, 65536):
            painted += octets
    if keys and keys[0][0] in painted:
        os.write(terminal, keys.pop(0)[1])
    return program.poll() is not None


class ProbeTests(Pop3Case):
    """What strangers try: safe, bounded, logged."""

    def test_what_is_injected_behind_stls_is_not_carried_out(self) -> None:
        """CVE-2011-0411. The session ends before there is TLS."""
        connection = self.talk()
        said = self.told(connection, b"STLS\r\nUSER alice@example.org\r\nPASS sesame open\r\nSTAT\r\n", b"never")
        self.assertEqual(said, b"-ERR Octets in clear behind STLS\r\n")

    def test_numbers_that_are_none(self) -> None:
        self.send(MESSAGES[0])
        connection = self.talk()
        self.told(connection, b"USER alice\r\n")
        self.assertTrue(self.told(connection, b"PASS sesame open\r\n").startswith(b"+OK 1 "))
        for number in (b"0", b"-1", b"9223372036854775808", b"2"):
            for verb in (b"RETR %b\r\n", b"DELE %b\r\n", b"TOP %b 0\r\n"):
                self.assertEqual(self.told(connection, verb % number), b"-ERR No such message\r\n")
        self.assertTrue(self.told(connection, b"STAT\r\n").startswith(b"+OK 1 "))

    def test_a_login_name_of_a_megabyte(self) -> None:
        before = self.node.rss("access-0")
        connection = self.talk()
        said = self.told(connection, b"USER " + b"a" * 1_000_000 + b"\r\n")
        self.assertEqual(said, b"-ERR Line too long\r\n")
        self.assertLess(self.node.rss("access-0") - before, 8 << 20)

    def test_names_that_would_be_more_than_names(self) -> None:
        connection = self.talk()
        self.assertTrue(self.told(connection, b"USER a\0b\r\n").startswith(b"-ERR Control"))
        for name in (b"*)(uid=*", b"alice,dc=example.org", b"../alice", b"\\2a"):
            self.told(connection, b"USER " + name + b"\r\n")
            self.assertTrue(self.told(connection, b"PASS sesame open\r\n").startswith(b"-ERR [AUTH]"))
        self.assertIn("wrong name or password", self.log())
        self.assertNotIn("sesame", self.log())

    def test_http_is_no_pop3(self) -> None:
        connection = self.talk()
        said = self.told(connection, b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 40, b"never")
        self.assertTrue(said.endswith(b"-ERR Too many bad commands\r\n"))

    def test_a_message_of_50_mb_streams(self) -> None:
        self.send(MESSAGES[0])
        content = b"Subject: large\n\n" + (b"." + b"x" * 70 + b"\n") * 700_000
        with open(self.box("new", "1600000000.large.example"), "wb") as target:
            target.write(content)
        client = self.client(self.ports["pop3"])
        before = self.node.rss("access-0")
        connection = client.sock
        connection.sendall(b"RETR 1\r\n")
        digest, largest, received = hashlib.sha256(), 0, b""
        total = 0
        while not received.endswith(b"\r\n.\r\n"):
            octets = connection.recv(1 << 20)
            self.assertTrue(octets)
            if not total:
                octets = octets[octets.index(b"\r\n") + 2 :]
            total += len(octets)
            digest.update(octets)
            received = (received + octets)[-5:]
            if total % (8 << 20) < len(octets):
                largest = max(largest, self.node.rss("access-0"))
        expected = content.replace(b"\n", b"\r\n").replace(b"\r\n.", b"\r\n..") + b".\r\n"
        self.assertEqual(digest.digest(), hashlib.sha256(expected).digest())
        self.assertLess(largest - before, 12 << 20)
