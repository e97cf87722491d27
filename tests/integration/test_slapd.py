"""
Debian's slapd as the directory: one, two in mirror mode of which one is killed under load, none at all, TLS.
"""

from __future__ import annotations

import atexit
import base64
import datetime
import os
import poplib
import shutil
import tempfile
import threading
import time
from typing import Any, ClassVar

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from qmailpy.cli.certificate import self_signed
from qmailpy.config.schema import Config, DirectoryConfig, ServerConfig
from qmailpy.directory import password
from qmailpy.directory.service import ldap_directory
from qmailpy.errors import Temporary
from qmailpy.values import Domain, Mailbox
from qmailpy.wire.sasl import derive
from tests.integration.daemon_process import until
from tests.integration.node import Node, NodeCase, Settings, quick
from tests.integration.peers import slapd
from tests.integration.peers.client import message
from tests.integration.peers.running import free_port

SECRET = "etc/ldap.secret"
HARSH = (
    *(
        " alice@example.org",
        "alice@example.org ",
        "*)(uid=*",
        "*",
        "joe)(|(mail=*",
        "\0",
        "alice@example.org\0",
        "a\0*@example.org",
        "\\2a@example.org",
        "(",
        ")",
    ),
    *(f"uid=alice,dc=example.org,{slapd.BASE}", "alice,dc=x@example.org", 'a"+<>;=#@example.org', "\udcff@example.org"),
    *("x" * 1_000_000, "x" * 1_000_000 + "@example.org", "a@" + "b." * 500_000 + "org"),
)
"""Addresses and logins that mean nobody, whatever a filter or a name would make of them."""


def external(*servers: slapd.Slapd, **more: object) -> dict[str, object]:
    """Settings of a node whose directory is there."""
    return {
        "directory.servers": [one.url for one in servers],
        "directory.starttls": "none",
        "directory.bind_dn": slapd.SERVICE_DN,
        "directory.bind_password_file": SECRET,
        **{f"directory.{key}": value for key, value in more.items()},
    }


def write_secret(home: str, secret: bytes = slapd.SERVICE_PASSWORD) -> None:
    with open(os.path.join(home, SECRET), "wb") as target:
        target.write(secret + b"\n")


class Places:
    """Short directories for servers, gone after the test."""

    def __init__(self, case: SynchronousTestCase) -> None:
        self._base = tempfile.mkdtemp(prefix="qs", dir="/tmp")
        case.addCleanup(shutil.rmtree, self._base, ignore_errors=True)
        self._case = case

    def server(self, name: str = "a", **options: Any) -> slapd.Slapd:
        made = slapd.Slapd(os.path.join(self._base, name), **options)
        self._case.addCleanup(made.kill)
        return made

    def path(self, name: str) -> str:
        return os.path.join(self._base, name)


class DirectoryCase(TestCase):
    """Our client straight on slapd."""

    timeout = 60

    def setUp(self) -> None:
        self.places = Places(self)
        os.makedirs(self.places.path("home/etc"))
        write_secret(self.places.path("home"))

    def config(self, *servers: str, **options: Any) -> Config:
        options = {"starttls": "none", "bind_dn": slapd.SERVICE_DN, "bind_password_file": SECRET, **options}
        return Config(
            home=self.places.path("home"),
            server=ServerConfig(hostname="mail.example.org"),
            directory=DirectoryConfig(servers=servers, **options),
        )

    def directory(self, *servers: str, **options: Any) -> Any:
        made = ldap_directory(reactor, self.config(*servers, **options))
        self.addCleanup(made.stop)
        return made


class OneServer(DirectoryCase):
    def setUp(self) -> None:
        super().setUp()
        self.slapd = self.places.server().start()
        self.slapd.add(slapd.people())

    async def test_who_is_there_and_who_is_not(self) -> None:
        for url in (self.slapd.url, f"ldapi://{self.slapd.socket}"):
            found = self.directory(url)
            self.assertEqual(await found.domain("example.org"), Domain(name="example.org"))
            self.assertIsNone(await found.domain("other.example"))
            self.assertIsInstance(await found.lookup("Alice@Example.org"), Mailbox)
            self.assertIsNone(await found.lookup("nobody@example.org"))

    async def test_passwords_by_bind_and_by_comparison(self) -> None:
        stored = password.thd_stored(b"sesame")
        self.slapd.add(slapd.entry("argon", *stored))
        self.slapd.add(slapd.entry("off", *stored) + "accountStatus: disabled\n")
        for logins in ("bind", "compare"):
            found = self.directory(self.slapd.url, logins=logins)
            for user in ("alice", "argon"):
                self.assertIsInstance(await found.authenticate(f"{user}@example.org", b"sesame"), Mailbox, logins)
                for wrong in (b"wrong", b"", b"x" * 2000, b"*"):
                    self.assertIsNone(await found.authenticate(f"{user}@example.org", wrong))
            self.assertIsNone(await found.authenticate("off@example.org", b"sesame"))
            self.assertIsNone(await found.authenticate("nobody@example.org", b"sesame"))
            # What is stored is no password.
            for value in stored:
                self.assertIsNone(await found.authenticate("argon@example.org", value.encode()))

    async def test_what_scram_needs_is_read(self) -> None:
        self.slapd.add(slapd.entry("argon", *password.thd_stored(b"sesame")))
        found = self.directory(self.slapd.url)
        secret = await found.scram("argon@example.org")
        self.assertEqual(secret, derive(b"sesame", secret.salt, secret.iterations))
        self.assertIsNone(await found.scram("alice@example.org"))
        self.assertIsNone(await found.scram("nobody@example.org"))

    async def test_a_wrong_password_and_an_unknown_name_take_the_same_time(self) -> None:
        self.slapd.add(slapd.entry("argon", password.thd_hash(b"sesame")))
        found = self.directory(self.slapd.url)
        times = []
        for login in ("argon@example.org", "nobody@example.org"):
            began = time.monotonic()
            self.assertIsNone(await found.authenticate(login, b"wrong"))
            times.append(time.monotonic() - began)
        self.assertLess(abs(times[0] - times[1]), 0.1)
        self.assertGreaterEqual(min(times), 0.2)

    async def test_nothing_is_injected(self) -> None:
        for logins in ("bind", "compare"):
            found = self.directory(self.slapd.url, logins=logins)
            for probe in HARSH:
                self.assertIsNone(await found.lookup(probe), probe[:50])
                self.assertIsNone(await found.domain(probe), probe[:50])
                self.assertIsNone(await found.scram(probe), probe[:50])
            for probe in HARSH[:2] + HARSH[-1:]:
                self.assertIsNone(await found.authenticate(probe, b"sesame"), probe[:50])
            self.assertTrue(found.figures()[0]["up"])
            self.assertIsInstance(await found.lookup("alice@example.org"), Mailbox)

    async def test_two_entries_for_one_address_keep_mail_waiting(self) -> None:
        self.slapd.add(slapd.entry("twin") + "mailAlternateAddress: alice@example.org\n")
        found = self.directory(self.slapd.url)
        with self.assertRaises(Temporary) as caught:
            await found.lookup("alice@example.org")
        self.assertEqual(caught.exception.reply.code, 451)

    async def test_a_referral_is_not_followed_and_nobody_is_called_unknown(self) -> None:
        self.slapd.add(
            f"dn: ou=elsewhere,dc=example.org,{slapd.BASE}\nobjectClass: referral\nobjectClass: extensibleObject\n"
            "ou: elsewhere\nref: ldap://127.0.0.1:1/ou=elsewhere,o=x\n"
        )
        found = self.directory(self.slapd.url)
        self.assertIsInstance(await found.lookup("alice@example.org"), Mailbox)
        with self.assertRaises(Temporary):
            await found.lookup("nobody@example.org")

    async def test_a_service_identity_that_is_not_known_is_no_answer(self) -> None:
        write_secret(self.places.path("home"), b"wrong")
        found = self.directory(self.slapd.url)
        with self.assertRaises(Temporary):
            await found.lookup("alice@example.org")
        os.unlink(self.places.path(f"home/{SECRET}"))
        with self.assertRaises(Temporary):
            await self.directory(self.slapd.url).lookup("alice@example.org")


class FailOver(DirectoryCase):
    async def test_the_next_one_is_asked_and_the_first_again_when_it_is_back(self) -> None:
        first, second = (self.places.server(name).start() for name in "ab")
        first.add(slapd.people(["one"]))
        second.add(slapd.people(["two"]))
        found = self.directory(first.url, second.url, timeout_s=2.0)

        async def used() -> list[bool]:
            return [await found.lookup(f"{name}@example.org") is not None for name in ("one", "two")]

        self.assertEqual(await used(), [True, False])
        first.kill()
        self.assertEqual(await used(), [False, True])
        first.start()
        await self.wait(lambda: bool(found.figures()[0]["up"]))
        self.assertEqual(await used(), [True, False])
        # One that hangs is left after half of the time, and the question is answered all the same.
        first.freeze()
        self.addCleanup(first.thaw)
        began = time.monotonic()
        self.assertEqual(await used(), [False, True])
        self.assertLess(time.monotonic() - began, 1.8)
        first.thaw()
        await self.wait(lambda: bool(found.figures()[0]["up"]))
        second.kill()
        first.kill()
        began = time.monotonic()
        for _ in range(50):
            with self.assertRaises(Temporary):
                await found.lookup("one@example.org")
        self.assertLess(time.monotonic() - began, 1.0)  # nobody waits for servers that are known to be away

    async def wait(self, condition: Any) -> None:
        end = time.monotonic() + 20
        while not condition():
            self.assertLess(time.monotonic(), end)
            await deferLater(reactor, 0.02)


class Tls(DirectoryCase):
    def setUp(self) -> None:
        super().setUp()
        now = datetime.datetime.now(datetime.UTC)
        self.files: list[str] = []
        for name, text in zip(("cert.pem", "key.pem"), self_signed("localhost", now), strict=True):
            self.files.append(self.places.path(name))
            with open(self.files[-1], "wb") as target:
                target.write(text if isinstance(text, bytes) else text.encode())
        self.slapd = self.places.server(certificate=(self.files[0], self.files[1])).start()
        self.slapd.add(slapd.people())
        self.name = f"ldap://localhost:{self.slapd.port}"
        self.secured = f"ldaps://localhost:{self.slapd.tls_port}"

    async def test_starttls_and_ldaps_with_the_right_certificate(self) -> None:
        for url in (self.name, self.secured):
            found = self.directory(url, starttls="verify", ca_file=self.files[0])
            self.assertIsInstance(await found.lookup("alice@example.org"), Mailbox)
            self.assertIsInstance(await found.authenticate("alice@example.org", b"sesame"), Mailbox)

    async def test_no_question_and_no_password_without_the_right_certificate(self) -> None:
        for url, options in (
            (self.slapd.url, {"ca_file": self.files[0]}),  # it is not for 127.0.0.1
            (self.name, {}),  # of an unknown authority
            (self.secured, {"starttls": "none"}),  # ldaps is verified even then
        ):
            with self.assertRaises(Temporary):
                await self.directory(url, **{"starttls": "verify", **options}).lookup("alice@example.org")

    async def test_any_certificate_will_do_where_that_is_wanted(self) -> None:
        for url in (self.slapd.url, self.secured):
            found = self.directory(url, starttls="must")
            self.assertIsInstance(await found.lookup("alice@example.org"), Mailbox)

    async def test_a_server_without_tls_is_not_spoken_to_where_tls_must_be(self) -> None:
        plain = self.places.server("plain").start()
        plain.add(slapd.people())
        with self.assertRaises(Temporary):
            await self.directory(plain.url, starttls="must").lookup("alice@example.org")


class WholeNode(NodeCase):
    """Mail comes, is delivered and fetched with slapd as the directory."""

    server: ClassVar[slapd.Slapd]
    pop3: ClassVar[int] = 0

    def make_node(self, settings: Settings) -> Node:
        base = tempfile.mkdtemp(prefix="qs", dir="/tmp")
        atexit.register(shutil.rmtree, base, ignore_errors=True)  # as the node, it serves all tests of the class
        type(self).server = slapd.Slapd(os.path.join(base, "a")).start()
        type(self).pop3 = free_port()
        self.server.add(slapd.people(self.users))
        self.server.add(slapd.entry("argon", *password.thd_stored(b"sesame")))
        pop3 = {"listener.pop3.endpoint": f"tcp:{self.pop3}:interface=127.0.0.1", "listener.pop3.plain_auth": True}
        node = Node({**settings, **external(self.server), **pop3}, ())
        write_secret(node.home)
        return node

    def begin(self, node: Node) -> None:
        node.start()
        node.wait_for("access-0 is ready")

    def test_mail_is_accepted_delivered_and_fetched(self) -> None:
        with self.node.talk() as talk:
            self.assertEqual(talk.mail("a@client.example", ["alice@example.org"], message("fetched"))[:3], "250")
            self.assertEqual(talk.mail("a@client.example", ["nobody@example.org"], message())[:9], "550 5.1.1")
        self.node.wait_mailbox("alice", 1)
        self.assertNotIn("directory-0", self.log())  # nothing of ours is started
        client = poplib.POP3("127.0.0.1", self.pop3, timeout=20)
        self.addCleanup(client.close)
        client.user("alice@example.org")
        with self.assertRaises(poplib.error_proto):
            client.pass_("wrong")
        client.user("alice@example.org")
        client.pass_("sesame")
        self.assertIn(b"Subject: fetched", client.retr(1)[1])
        client.quit()
        until(lambda: "qmailLastService: pop3" in self.server.search("(uid=alice)", "qmailLastService"))

    def test_logins_with_hostile_names_are_refused_and_nothing_breaks(self) -> None:
        client = poplib.POP3("127.0.0.1", self.pop3, timeout=20)
        self.addCleanup(client.close)
        for probe in ("*)(uid=*", "*", f"uid=alice,dc=example.org,{slapd.BASE}"):
            client.user(probe)
            with self.assertRaises(poplib.error_proto):
                client.pass_("sesame")
        plain = base64.b64encode(b"\0*)(uid=*\0sesame").decode()
        with self.assertRaises(poplib.error_proto):
            client._shortcmd(f"AUTH PLAIN {plain}")  # type: ignore[attr-defined]


class Mirror(SynchronousTestCase):
    """Two servers that hold the same (multi-provider), one of them killed under load; then both."""

    timeout = 120

    def test_nothing_is_lost_and_nothing_bounced(self) -> None:
        places = Places(self)
        ports = free_port(), free_port()
        first = places.server("a", number=1, port=ports[0], mirrors=(ports[1],)).start()
        second = places.server("b", number=2, port=ports[1], mirrors=(ports[0],)).start()
        users = [f"u{number}" for number in range(40)]
        first.add(slapd.people(users))
        # Nothing remembered: each recipient is a question.
        plain = {"positive_s": 0.0, "negative_s": 0.0, "stale_s": 0.0, "timeout_s": 4.0}
        node = Node({**quick(1), **external(first, second, **plain)}, ())
        self.addCleanup(node.clean_up)
        write_secret(node.home)
        until(lambda: "mail: u39" in second.search("(uid=u39)", "mail"), 20)
        node.start()
        sent: list[str] = []
        refused: list[str] = []
        stop = threading.Event()

        def send(offset: int) -> None:
            number = offset
            while not stop.is_set():
                user = users[number % len(users)]
                number += 1
                with node.talk() as talk:
                    reply = talk.mail("a@client.example", [f"{user}@example.org"], message(f"{offset} {number}"))
                (sent if reply.startswith("250") else refused).append(user if reply.startswith("250") else reply)

        senders = [threading.Thread(target=send, args=(offset,)) for offset in range(4)]
        for one in senders:
            one.start()
        self.addCleanup(stop.set)
        until(lambda: len(sent) > 50, 20)
        first.kill()
        at = len(sent)
        until(lambda: len(sent) > at + 50, 20)
        first.start()
        node.wait_for("is back", 1)
        at = len(sent)
        until(lambda: len(sent) > at + 50, 20)
        second.kill()
        at = len(sent)
        until(lambda: len(sent) > at + 50, 20)
        stop.set()
        for one in senders:
            one.join(20)
        self.assertEqual(refused, [])
        self.delivered(node, sent)

        # Both away: mail that was accepted waits, new mail is asked to come again.
        node.qmailpy("qm", "stop", "local")
        with node.talk() as talk:
            talk.mail("a@client.example", ["u0@example.org"], message("waits"))
        sent.append("u0")
        first.kill()
        node.qmailpy("qm", "start", "local")
        with node.talk() as talk:
            self.assertEqual(talk.envelope("a@client.example", ["u1@example.org"])[1][:9], "451 4.3.0")
            self.assertEqual(talk.say("RCPT TO:<nobody@example.org>")[:9], "451 4.3.0")
        node.wait_for("the directory is away")
        first.start()
        self.delivered(node, sent)
        with node.talk() as talk:
            self.assertEqual(talk.mail("a@client.example", ["u1@example.org"], message("goes on"))[:3], "250")
        with open(node.path("log", "events.log")) as source:
            told = source.read()
        self.assertIn('"directory.server"', told)
        self.assertIn('"directory.away"', told)
        self.assertEqual(node.stop(), 0)
        self.assertNotIn("Traceback", node.printed())
        node.verify()

    def delivered(self, node: Node, sent: list[str]) -> None:
        wanted = {user: sent.count(user) for user in sent}

        def found() -> dict[str, int]:
            return {user: len(node.mailbox(user)) for user in wanted}

        try:
            until(lambda: found() == wanted, 30)
        except AssertionError:
            self.assertEqual(found(), wanted)
        self.assertEqual(node.queued(), [])
