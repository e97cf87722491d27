"""Tests of TLS, logins, submission and LMTP in the SMTP sessions, without sockets."""

from __future__ import annotations

import base64
import gc
from typing import Any, cast

from attrs import evolve
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.auth.logins import Logins
from qmailpy.config.schema import ListenerConfig, QueueConfig, TrustConfig
from qmailpy.errors import Temporary
from qmailpy.records.record import Action
from qmailpy.servers.lastcheck import MailboxLimits
from qmailpy.servers.session import SmtpSession
from qmailpy.servers.smtp import SmtpFactory
from qmailpy.servers.submission import Head, may_send_as
from qmailpy.servers.tls import OWN, Certificates
from qmailpy.testing.memory_directory import MemoryDirectory
from qmailpy.testing.scripted_router import local
from qmailpy.values import Alias, Mailbox, Notify, Recipient, Reply, Routed
from qmailpy.wire.data import HEAD_OCTETS
from tests.servers.test_smtp import HELLO, MAIL, RCPT, STRANGER, LosableTransport, SmtpTestCase
from tests.servers.test_tls import pair, shake

JOE = Mailbox(address="joe@example.org", path="example.org/joe/Maildir")
PAIR = pair("mx.example.org")
OWN_MAIL = b"MAIL FROM:<joe@example.org>\r\n"


def plain(login: str = "joe@example.org", password: str = "sesame") -> bytes:
    return b"AUTH PLAIN " + base64.b64encode(f"\0{login}\0{password}".encode()) + b"\r\n"


class TlsTransport(LosableTransport):
    """A transport that TLS is begun on in word only: octets go on in the clear, what OpenSSL knows is real."""

    started = 0
    protocol: Any = None

    def startTLS(self, certificates: Certificates) -> None:
        self.started += 1
        self.connection = certificates.serverConnectionForTLS(None)

    def getHandle(self) -> Any:
        return getattr(self, "connection", None)

    def shake(self) -> None:
        """The handshake comes to its end."""
        shake(self.connection)
        self.session.handshakeCompleted()


class SubmissionTestCase(SmtpTestCase):
    """Listeners with certificates and users."""

    listener = ListenerConfig(name="submission", kind="submission", endpoint="tcp:587")

    def setUp(self) -> None:
        self.directory = MemoryDirectory(
            ("example.org",),
            (
                JOE,
                "ann@example.org",
                Alias(address="sales@example.org", targets=("Joe@example.org", "ann@example.org")),
                Alias(address="team@example.org", targets=("j.doe@example.org",)),
            ),
            alternates={"j.doe@example.org": "joe@example.org"},
            passwords={"joe@example.org": b"sesame"},
        )
        self.certificates: Certificates | None = Certificates({OWN: PAIR})
        super().setUp()

    def make(self, **listener: Any) -> SmtpFactory:
        self.logins = Logins(self.clock, self.directory, key=b"key")
        return self.factory_with(listener, certificates=self.certificates, logins=self.logins, directory=self.directory)

    def connect(self, ip: str = STRANGER, factory: SmtpFactory | None = None) -> TlsTransport:
        session = (factory or self.factory).buildProtocol(None)
        assert isinstance(session, SmtpSession)
        transport = TlsTransport(
            hostAddress=IPv4Address("TCP", "203.0.113.1", 587), peerAddress=IPv4Address("TCP", ip, 4321)
        )
        transport.session = session
        session.makeConnection(transport)
        return transport

    def inside(self, ip: str = STRANGER, **listener: Any) -> TlsTransport:
        """A session under TLS that has greeted."""
        transport = self.connect(ip, self.make(**listener) if listener else None)
        self.assertEqual(self.ask(transport, HELLO), ["250"])
        self.assertEqual(self.ask(transport, b"STARTTLS\r\n"), ["220"])
        transport.shake()
        self.assertEqual(self.ask(transport, HELLO), ["250"])
        return transport

    def logged_in(self, **listener: Any) -> TlsTransport:
        transport = self.inside(**listener)
        self.assertEqual(self.ask(transport, plain()), ["235"])
        return transport


class TlsTests(SubmissionTestCase):
    """RFC 3207 and RFC 8314 in the adapter."""

    def test_starttls_shows_in_trace_and_records(self) -> None:
        """RFC 8314 s.4.3, RFC 3848; modifiers of the log (C3)."""
        transport = self.inside(kind="smtp")
        self.assertEqual(transport.started, 1)
        self.ask(transport, MAIL + b"RCPT TO:<bad@example.org>\r\n" + RCPT + b"DATA\r\n\r\n.\r\n")
        (message,) = self.queue.messages
        self.assertEqual((message.envelope.protocol, message.envelope.user), ("ESMTPS", ""))
        self.assertIn(b" with ESMTPS id ", message.content)
        self.assertRegex(message.content, rb"\r\n\tfor <b@example.org>\r\n\ttls TLS_\w+ \(TLSv1\.3\); ")
        self.assertEqual(self.records(Action.REJECTED)[0].modifiers, "ES")

    def test_the_220_is_out_before_tls_begins(self) -> None:
        transport = self.connect()
        self.ask(transport, HELLO)
        seen: list[bytes] = []
        self.patch(TlsTransport, "startTLS", lambda self, certificates: seen.append(self.value()))
        self.ask(transport, b"STARTTLS\r\n")
        self.assertEqual(seen, [b"220 2.0.0 Ready to start TLS\r\n"])

    def test_an_open_transaction_ends(self) -> None:
        transport = self.connect(factory=self.make(kind="smtp"))
        self.assertEqual(self.ask(transport, HELLO + MAIL + RCPT + b"STARTTLS\r\n"), ["250"] * 3 + ["220"])
        transport.shake()
        self.assertEqual(self.ask(transport, HELLO + b"DATA\r\n"), ["250", "503"])

    def test_injected_commands_end_the_session_before_tls(self) -> None:
        transport = self.connect()
        self.assertEqual(self.ask(transport, HELLO + b"STARTTLS\r\n" + MAIL), ["250", "421"])
        self.assertEqual((transport.started, transport.disconnecting), (0, True))

    def test_implicit_tls_greets_when_the_handshake_is_done(self) -> None:
        transport = self.connect(factory=self.make(tls="implicit"))
        self.assertEqual((transport.started, transport.value()), (1, b""))
        transport.shake()
        self.assertEqual(self.codes(transport), ["220"])
        self.assertEqual(self.ask(transport, HELLO + b"STARTTLS\r\n"), ["250", "503"])

    def test_a_handshake_that_does_not_end_is_given_up(self) -> None:
        for listener in ({"tls": "implicit"}, {"tls": "starttls"}):
            transport = self.connect(factory=self.make(**listener))
            if listener["tls"] == "starttls":
                self.ask(transport, HELLO + b"STARTTLS\r\n")
            transport.clear()
            self.clock.advance(59)
            self.assertFalse(transport.aborted)
            self.clock.advance(61)
            self.assertTrue(transport.aborted)
            self.assertEqual(transport.value(), b"")
        self.assertEqual(
            [record.diagnostic for record in self.records(Action.CLOSED)], ["TLS handshake failed: ConnectionDone"] * 2
        )

    def test_a_session_that_is_over_needs_no_collector(self) -> None:
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        transport = self.inside(kind="smtp")
        session = transport.session
        vars(transport).clear()  # Twisted's forgets the session by itself
        session.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(sum(isinstance(one, SmtpSession) for one in gc.get_objects()), 1)
        del session, transport
        self.assertEqual(sum(isinstance(one, SmtpSession) for one in gc.get_objects()), 0)

    def test_a_stop_does_not_wait_for_handshakes(self) -> None:
        transport = self.connect(factory=self.make(tls="implicit"))
        transport.session.stop()
        self.assertTrue(transport.aborted)

    def test_without_certificates_there_is_no_tls_and_no_login(self) -> None:
        self.certificates = None
        factory = self.make()
        transport = self.connect(factory=factory)
        self.assertEqual(self.ask(transport, HELLO + b"STARTTLS\r\n" + plain() + MAIL), ["250", "502", "502", "530"])
        transport = self.connect(factory=self.make(tls="implicit"))
        self.assertTrue(transport.aborted)
        self.assertEqual(transport.value(), b"")
        self.flushLoggedErrors()

    def test_a_refused_connection_to_an_implicit_port_gets_no_clear_text(self) -> None:
        factory = self.make(tls="implicit", connections=1)
        self.connect(factory=factory)
        transport = self.connect(factory=factory)
        self.assertEqual((transport.value(), transport.disconnecting), (b"", True))

    def test_settings_change_while_it_runs(self) -> None:
        self.factory.reconfigure(
            evolve(self.listener, kind="smtp", tls="none"),
            QueueConfig(message_octets=70000, recipients=200),
            self.log,
            TrustConfig(),
        )
        transport = self.connect()
        self.ask(transport, HELLO)
        self.assertIn(b"SIZE 70000", transport.value())
        self.assertIn(b"RCPTMAX=200", transport.value())
        self.assertNotIn(b"STARTTLS", transport.value())


class LoginTests(SubmissionTestCase):
    """RFC 4954 in the adapter."""

    def test_mail_needs_tls_and_a_login(self) -> None:
        transport = self.connect()
        self.assertEqual(self.ask(transport, HELLO + OWN_MAIL), ["250", "530"])
        self.assertIn(b"STARTTLS command first", transport.value())
        self.assertEqual(self.ask(transport, plain()), ["538"])
        transport = self.inside()
        self.assertEqual(self.ask(transport, OWN_MAIL), ["530"])
        self.assertIn(b"Authentication required", transport.value())

    def test_a_user_may_send_anywhere_in_its_own_name(self) -> None:
        transport = self.logged_in()
        octets = OWN_MAIL + b"RCPT TO:<out@example.com>\r\nDATA\r\nSubject: x\r\n\r\nbody\r\n.\r\n"
        self.assertEqual(self.ask(transport, octets), ["250", "250", "354", "250"])
        (message,) = self.queue.messages
        envelope = message.envelope
        self.assertEqual((envelope.protocol, envelope.user), ("ESMTPSA", "joe@example.org"))
        self.assertEqual((envelope.message_id, envelope.subject), ("<000000000000001@mx.example.org>", "x"))
        header = message.content.partition(b"\r\n\r\n")[0]
        self.assertIn(b"\r\nFrom: joe@example.org\r\nMessage-ID: <000000000000001@mx.example.org>\r\nSubject", header)
        self.assertIn(b"\r\nDate: ", header)
        (record,) = self.records(Action.AUTHENTICATED)
        self.assertEqual((record.user, record.diagnostic[:3], record.direction), ("joe@example.org", "235", "+"))

    def test_senders(self) -> None:
        """Issue 3: sender must belong to the login (553 5.7.1)."""
        transport = self.logged_in(errors=100)
        for sender, code in (
            ("joe@example.org", "250"),
            ("JOE@example.org", "250"),
            ("j.doe@example.org", "250"),
            ("joe+lists@example.org", "250"),
            ("j.doe+x@example.org", "250"),
            ("sales@example.org", "250"),
            ("team@example.org", "250"),
            ("", "250"),
            ("ann@example.org", "553"),
            ("ann+joe@example.org", "553"),
            ("nobody@example.org", "553"),
            ("joe@other.example", "553"),
            ("+joe@example.org", "553"),
        ):
            self.assertEqual(self.ask(transport, f"RSET\r\nMAIL FROM:<{sender}>\r\n".encode()), ["250", code], sender)
        self.assertEqual(len(self.records(Action.BAD_COMMAND)), 5)

    def test_a_login_that_the_listener_names_sends_for_others(self) -> None:
        """A relay, or a program that passes on what others write; nobody else does."""
        transport = self.logged_in(any_sender=("Joe@example.org",))
        self.assertEqual(self.ask(transport, b"MAIL FROM:<x@branch.example>\r\n"), ["250"])
        self.assertEqual(self.ask(self.logged_in(any_sender=("ann@example.org",)), MAIL), ["553"])

    def test_a_directory_that_is_away_makes_mail_wait(self) -> None:
        transport = self.logged_in()
        self.directory.away = True
        self.assertEqual(self.ask(transport, b"MAIL FROM:<ann@example.org>\r\n"), ["451"])
        self.assertEqual(self.ask(self.inside(), plain()), ["454"])

    def test_wrong_logins_are_told_alike_and_recorded(self) -> None:
        transport = self.inside()
        replies = set()
        for login, password in (("joe@example.org", "x"), ("nobody@example.org", "sesame")):
            self.assertEqual(self.ask(transport, plain(login, password)), ["535"])
            replies.add(transport.value())
        self.assertEqual(len(replies), 1)
        records = self.records(Action.AUTHENTICATED)
        self.assertEqual([record.user for record in records], ["joe@example.org", "nobody@example.org"])
        self.assertEqual(records[0].diagnostic, "535 5.7.8 Authentication credentials invalid")

    def test_guessing_is_slowed_down_and_then_ignored(self) -> None:
        transport = self.inside(errors=1000)
        for _ in range(2):
            self.assertEqual(self.ask(transport, plain(password="x")), ["535"])
        self.assertEqual(self.ask(transport, plain(password="x")), [])
        self.clock.advance(1)
        self.assertEqual(self.codes(transport), ["535"])
        for _ in range(20):
            self.ask(transport, plain(password="x"))
            self.clock.advance(10)
        self.assertEqual(self.ask(transport, plain()), ["454"])
        self.assertEqual(self.ask(self.inside("198.51.100.77"), plain()), ["235"])

    def test_a_client_that_leaves_while_it_waits(self) -> None:
        transport = self.inside()
        for _ in range(2):
            self.ask(transport, plain(password="x"))
        self.ask(transport, plain(password="x"))
        transport.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_trusted_client_is_not_counted(self) -> None:
        transport = self.inside("192.0.2.4", errors=1000)
        for number in range(40):
            self.assertEqual(self.ask(transport, plain(f"u{number}@example.org", "x"))[:1], ["535"])

    def test_a_login_does_not_outlive_its_session_state(self) -> None:
        transport = self.logged_in()
        self.assertEqual(self.ask(transport, b"RSET\r\n" + OWN_MAIL), ["250", "250"])
        self.assertEqual(self.ask(self.inside(), OWN_MAIL), ["530"])

    def test_tls_forgets_a_login_in_the_clear(self) -> None:
        """RFC 3207 s.4.2: knowledge obtained before the handshake is discarded."""
        transport = self.connect("127.0.0.1", self.make(plain_auth=True))
        self.assertEqual(self.ask(transport, HELLO + plain() + b"STARTTLS\r\n"), ["250", "235", "220"])
        transport.shake()
        self.assertEqual(self.ask(transport, HELLO + OWN_MAIL), ["250", "530"])

    def test_malformed_messages_are_501(self) -> None:
        self.assertEqual(self.ask(self.inside(), b"AUTH PLAIN AAAA\r\n"), ["501"])

    def test_loopback_may_log_in_without_tls_where_that_is_allowed(self) -> None:
        for ip, allowed, codes in (
            ("127.0.0.1", True, ["235", "250"]),
            ("127.0.0.1", False, ["538", "530"]),
            (STRANGER, True, ["538", "530"]),
        ):
            transport = self.connect(ip, self.make(plain_auth=allowed))
            self.ask(transport, HELLO)
            self.assertEqual(self.ask(transport, plain() + OWN_MAIL), codes, (ip, allowed))

    def test_a_listener_of_strangers_has_no_logins_unless_they_are_offered(self) -> None:
        self.assertEqual(self.ask(self.inside(kind="smtp"), plain() + MAIL), ["502", "250"])
        transport = self.inside(kind="smtp", auth="offered")
        self.assertEqual(self.ask(transport, MAIL + RCPT + b"RCPT TO:<out@example.com>\r\n"), ["250", "250", "550"])
        self.assertEqual(self.ask(transport, b"RSET\r\n" + plain() + OWN_MAIL), ["250", "235", "250"])
        self.assertEqual(self.ask(transport, b"RCPT TO:<out@example.com>\r\n"), ["250"])


class LmtpTests(SubmissionTestCase):
    """RFC 2033 in the adapter."""

    listener = ListenerConfig(name="lmtp", kind="lmtp", endpoint="tcp:24", tls="none")

    def test_one_reply_a_recipient(self) -> None:
        transport = self.connect()
        self.assertIn(b" LMTP ", transport.value())
        octets = (
            b"LHLO x.example\r\n" + MAIL + RCPT + b"RCPT TO:<bad@example.org>\r\nRCPT TO:<c@example.org>\r\nDATA\r\n"
        )
        self.assertEqual(self.ask(transport, octets), ["250", "250", "250", "550", "250", "354"])
        self.assertEqual(self.ask(transport, b"x: y\r\n.\r\n"), ["250", "250"])
        (message,) = self.queue.messages
        self.assertEqual(message.envelope.protocol, "LMTP")
        self.assertIn(b" with LMTP id ", message.content)
        self.assertNotIn(b"Message-ID", message.content)
        self.assertEqual(self.records(Action.REJECTED)[0].modifiers, "L")
        self.assertEqual(self.records(Action.OPENED)[0].application, "LMTP")

    def checked(self) -> TlsTransport:
        """A session with three mailboxes of which C{c@} takes 500 octets, and C{d@} nothing any more."""
        entries = self.directory.entries
        entries["b@example.org"] = Mailbox(address="b@example.org", path="b")
        entries["c@example.org"] = Mailbox(address="c@example.org", path="c", size_octets=500)
        entries["d@example.org"] = Mailbox(address="d@example.org", path="d", active=False)
        self.router.now["d@example.org"] = local("d@example.org")
        self.factory.site.last_checks = (MailboxLimits(self.directory),)
        transport = self.connect()
        self.assertEqual(self.ask(transport, b"LHLO x\r\n"), ["250"])
        return transport

    def test_each_recipient_is_answered_for_itself_behind_the_data(self) -> None:
        """RFC 2033 s.4.2, by DATA and by BDAT: in the order of RCPT, what was refused there left out."""
        names = ("c@example.org", "bad@example.org", "b@example.org", "d@example.org", "b@example.org")
        for octets in (
            b"DATA\r\n\r\n" + b"x" * 600 + b"\r\n.\r\n",
            b"BDAT 602 LAST\r\n\r\n" + b"x" * 600,
        ):
            transport = self.checked()
            self.queue.messages.clear()
            self.recorder.records.clear()
            lines = "".join(f"RCPT TO:<{name}>\r\n" for name in names).encode()
            found = self.ask(transport, MAIL + lines + octets)
            self.assertEqual([code for code in found[6:] if code != "354"], ["552", "250", "550", "250"])
            (message,) = self.queue.messages
            self.assertEqual([one.address for one in message.envelope.recipients], ["b@example.org"])
            rejected = [(record.original_to, record.diagnostic[:9]) for record in self.records(Action.REJECTED)]
            self.assertEqual(rejected[1:], [("c@example.org", "552 5.2.3"), ("d@example.org", "550 5.2.1")])
            self.assertEqual({record.destination for record in self.records(Action.REJECTED)[1:]}, {"local"})
            transport.clear()
            self.assertEqual(self.ask(transport, MAIL + b"RCPT TO:<c@example.org>\r\nDATA\r\n\r\n.\r\n")[3:], ["250"])

    def test_a_message_that_nobody_can_have_is_not_queued(self) -> None:
        transport = self.checked()
        octets = b"RCPT TO:<c@example.org>\r\nRCPT TO:<d@example.org>\r\nDATA\r\n\r\n" + b"x" * 600 + b"\r\n.\r\n"
        self.assertEqual(self.ask(transport, MAIL + octets)[4:], ["552", "550"])
        self.assertEqual(self.queue.messages, [])
        self.assertEqual(self.queue.intakes[-1].ended, "abort")

    def test_trouble_is_told_to_those_it_strikes(self) -> None:
        """The directory is away: 4yz. The queue is: all but those that were refused already have its word."""
        transport = self.checked()
        octets = b"RCPT TO:<c@example.org>\r\n" + RCPT + b"DATA\r\n\r\n" + b"x" * 600 + b"\r\n.\r\n"
        self.queue.refuse_commit = Temporary(Reply(452, "4.3.1", "no room"))
        self.assertEqual(self.ask(transport, MAIL + octets)[4:], ["552", "452"])
        self.directory.away = True
        self.assertEqual(self.ask(transport, MAIL + octets)[4:], ["451", "451"])

    def test_a_bug_in_a_check_refuses_nobody(self) -> None:
        transport = self.checked()
        self.factory.site.last_checks = (cast(Any, object()),)
        self.assertEqual(self.ask(transport, MAIL + RCPT + b"DATA\r\n\r\n.\r\n")[3:], ["250"])
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)

    def test_a_client_that_leaves_during_the_checks_leaves_nothing(self) -> None:
        transport = self.checked()
        asked: Deferred[None] = Deferred()

        class Slow:
            async def refusal(self, recipient: Recipient, size_octets: int) -> Reply | None:
                await asked
                return None

        self.factory.site.last_checks = (cast(Any, Slow()),)
        self.ask(transport, MAIL + RCPT + b"DATA\r\n\r\n.\r\n")
        transport.lose()
        self.assertEqual((self.queue.messages, self.queue.intakes[-1].ended), ([], "abort"))

    def test_strangers_do_not_relay(self) -> None:
        transport = self.connect()
        self.assertEqual(self.ask(transport, b"LHLO x\r\n" + MAIL + b"RCPT TO:<out@example.com>\r\n")[2], "550")

    def test_who_opens_the_socket_is_trusted(self) -> None:
        session = self.factory.buildProtocol(None)
        assert isinstance(session, SmtpSession)
        transport = TlsTransport(hostAddress=UNIXAddress("/run/lmtp.sock"), peerAddress=UNIXAddress(None))
        transport.session = session
        session.makeConnection(transport)
        self.assertEqual(self.ask(transport, b"LHLO x\r\n" + MAIL + b"RCPT TO:<out@example.com>\r\n"), ["250"] * 3)


class ExtensionTests(SubmissionTestCase):
    """BDAT, SMTPUTF8 and DSN in the adapter."""

    listener = ListenerConfig(name="smtp", kind="smtp", endpoint="tcp:25")

    def test_chunks_become_a_message(self) -> None:
        """RFC 3030."""
        transport = self.connect()
        octets = HELLO + MAIL + RCPT + b"BDAT 12\r\nSubject: x\r\nBDAT 5 LAST\r\n\r\n.b."
        self.assertEqual(self.ask(transport, octets), ["250"] * 5)
        (message,) = self.queue.messages
        self.assertEqual(message.content.partition(b"Subject")[2], b": x\r\n\r\n.b.\r\n")

    def test_an_empty_chunk_is_a_message_too(self) -> None:
        transport = self.connect()
        self.assertEqual(self.ask(transport, HELLO + MAIL + RCPT + b"BDAT 0 LAST\r\n"), ["250"] * 4)
        self.assertEqual(self.ask(transport, MAIL + RCPT + b"BDAT 0\r\n" + b"BDAT 0 LAST\r\n"), ["250"] * 4)
        self.assertEqual(len(self.queue.messages), 2)

    def test_a_message_given_up_between_chunks_is_forgotten(self) -> None:
        for end in (b"RSET\r\n", HELLO, b"STARTTLS\r\n", b"QUIT\r\n", None):
            transport = self.connect()
            self.ask(transport, HELLO + MAIL + RCPT + b"BDAT 3\r\nabc")
            intake = self.queue.intakes[-1]
            if end is None:
                transport.lose()
            else:
                self.ask(transport, end)
            self.assertEqual(intake.ended, "abort", end)
        self.assertEqual(self.queue.messages, [])

    def test_a_chunk_too_large_ends_the_transaction(self) -> None:
        self.queue_config = QueueConfig(message_octets=65536)
        transport = self.connect(factory=self.make())
        octets = HELLO + MAIL + RCPT + b"BDAT 3\r\nabcBDAT 60000\r\n" + b"QUIT\r\n" * 10000 + b"BDAT 60000 LAST\r\n"
        self.assertEqual(self.ask(transport, octets + b"QUIT\r\n" * 10000), ["250"] * 5 + ["552"])
        self.assertEqual(self.queue.intakes[-1].ended, "abort")
        self.assertEqual(len(self.records(Action.REJECTED)), 1)
        self.assertEqual(self.ask(transport, MAIL), ["250"])

    def test_no_room_for_a_chunk(self) -> None:
        transport = self.connect()
        self.queue.refuse_begin = Temporary(Reply(452, "4.3.1", "No space"))
        codes = self.ask(transport, HELLO + MAIL + RCPT + b"BDAT 3\r\nabcBDAT 3 LAST\r\nabc")
        self.assertEqual(codes[3:], ["452", "503"])
        self.queue.refuse_begin = None
        self.assertEqual(self.ask(transport, MAIL + RCPT + b"BDAT 3 LAST\r\nabc"), ["250"] * 3)

    def test_international_mail_is_told_in_envelope_and_trace(self) -> None:
        """RFC 6531 s.3.7.3."""
        self.router.now["ö@xn--bcher-kva.example"] = local("ö@xn--bcher-kva.example")
        transport = self.connect()
        lines = "MAIL FROM:<ü@bücher.example> SMTPUTF8\r\nRCPT TO:<ö@bücher.example>\r\nDATA\r\n\r\n.\r\n"
        self.assertEqual(self.ask(transport, HELLO + lines.encode())[1:], ["250", "250", "354", "250"])
        (message,) = self.queue.messages
        envelope = message.envelope
        self.assertEqual((envelope.sender, envelope.smtputf8), ("ü@xn--bcher-kva.example", True))
        self.assertEqual(envelope.protocol, "ESMTP")
        self.assertIn(b" with UTF8SMTP id ", message.content)

    def test_a_domain_of_ours_is_the_same_in_both_its_forms(self) -> None:
        """RFC 5890 s.2.3.2.1, RFC 6531 s.3.2: recipients, and senders of mail that is submitted."""
        self.router.now["b@xn--bcher-kva.example"] = local("b@xn--bcher-kva.example")
        for domain, more in (
            ("bücher.example", " SMTPUTF8"),
            ("BÜCHER.Example", " SMTPUTF8"),
            ("xn--bcher-kva.example", " SMTPUTF8"),
            ("XN--BCHER-KVA.example", ""),
        ):
            transport = self.connect()
            lines = f"MAIL FROM:<a@example.net>{more}\r\nRCPT TO:<b@{domain}>\r\nDATA\r\n\r\n.\r\n"
            self.assertEqual(self.ask(transport, HELLO + lines.encode())[1:], ["250", "250", "354", "250"], domain)
            [recipient] = self.queue.messages[-1].envelope.recipients
            self.assertEqual(recipient.address, "b@xn--bcher-kva.example")
        directory = MemoryDirectory(("xn--bcher-kva.example",), ("b@xn--bcher-kva.example",))
        for sender in ("b@bücher.example", "B@xn--bcher-kva.example", "b+x@bücher.example"):
            own = Deferred.fromCoroutine(may_send_as(directory, "b@xn--bcher-kva.example", sender))
            self.assertTrue(self.successResultOf(own), sender)

    def test_wishes_for_notices_reach_the_envelope(self) -> None:
        """RFC 3461."""
        transport = self.connect()
        octets = (
            b"MAIL FROM:<a@example.net> RET=HDRS ENVID=e+2B1\r\n"
            b"RCPT TO:<b@example.org> NOTIFY=DELAY,FAILURE ORCPT=rfc822;o@example.net\r\n"
            b"RCPT TO:<c@example.org>\r\nDATA\r\n\r\n.\r\n"
        )
        self.assertEqual(self.ask(transport, HELLO + octets)[1:], ["250", "250", "250", "354", "250"])
        envelope = self.queue.messages[0].envelope
        self.assertEqual((envelope.ret, envelope.envid), ("HDRS", "e+1"))
        one, two = envelope.recipients
        self.assertEqual((one.notify, one.orcpt), (Notify.DELAY | Notify.FAILURE, "rfc822;o@example.net"))
        self.assertEqual((two.notify, two.orcpt), (0, ""))

    def test_an_alias_of_several_is_expanded_behind_the_door_where_success_is_to_be_told(self) -> None:
        """RFC 3461 s.5.2.7.3 (c): the channel "process" expands it, in one transaction with the report of it."""
        several = Routed(recipients=tuple([local(f"{one}@example.org").recipients[0] for one in "bc"]), local=True)
        self.router.now["all@example.org"] = several
        for sender, notify, wanted in (
            ("a@example.net", "SUCCESS,FAILURE", [("all@example.org", "process", Notify.SUCCESS | Notify.FAILURE)]),
            ("a@example.net", "FAILURE", [(f"{one}@example.org", "local", Notify.FAILURE) for one in "bc"]),
            ("", "SUCCESS", [(f"{one}@example.org", "local", Notify.SUCCESS) for one in "bc"]),
        ):
            transport = self.connect()
            octets = f"MAIL FROM:<{sender}>\r\nRCPT TO:<all@example.org> NOTIFY={notify}\r\nDATA\r\n\r\n.\r\n"
            self.assertEqual(self.ask(transport, HELLO + octets.encode())[1:], ["250", "250", "354", "250"])
            found = self.queue.messages[-1].envelope.recipients
            self.assertEqual([(one.address, one.channel, one.notify) for one in found], wanted)


class ProxyTests(SubmissionTestCase):
    """Load balancers: the PROXY protocol, from named addresses only."""

    listener = ListenerConfig(name="smtp", kind="smtp", endpoint="tcp:25", proxy=("198.51.100.0/24",))

    def come(self, ip: str, octets: bytes, **listener: Any) -> TlsTransport:
        factory = self.make(**listener)
        transport = TlsTransport(
            hostAddress=IPv4Address("TCP", "203.0.113.1", 25), peerAddress=IPv4Address("TCP", ip, 4321)
        )
        transport.protocol = factory.buildProtocol(transport.getPeer())
        transport.session = transport.protocol
        transport.protocol.makeConnection(transport)
        if octets:
            transport.protocol.dataReceived(octets)
        transport.session = transport.protocol
        return transport

    def test_the_client_is_whom_the_header_names(self) -> None:
        transport = self.come(STRANGER, b"PROXY TCP4 192.0.2.4 203.0.113.9 999 25\r\n")
        self.assertEqual(self.codes(transport), ["220"])
        lines = HELLO + MAIL + b"RCPT TO:<out@example.com>\r\nDATA\r\n\r\n.\r\n"
        self.assertEqual(self.ask(transport, lines), ["250"] * 3 + ["354", "250"])  # 192.0.2.0/24 is trusted
        self.assertIn(b"([192.0.2.4])", self.queue.messages[0].content)
        self.assertEqual(self.records(Action.OPENED)[0].transport, "TCP|203.0.113.9|25|192.0.2.4|999")

    def test_a_proxy_that_does_not_know_is_nobody(self) -> None:
        """Not the proxy itself, which may be trusted."""
        transport = self.come("198.51.100.9", b"PROXY UNKNOWN\r\n" + HELLO)
        self.assertEqual(self.codes(transport), ["220", "250"])
        self.assertEqual(self.ask(transport, MAIL + b"RCPT TO:<out@example.com>\r\n"), ["250", "550"])

    def test_without_a_header_there_is_no_session(self) -> None:
        transport = self.come(STRANGER, HELLO)
        self.assertEqual((transport.value(), transport.aborted), (b"", True))
        transport = self.come(STRANGER, b"PROXY TC")
        self.clock.advance(10)
        self.assertEqual((transport.value(), transport.aborted), (b"", True))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_from_elsewhere_it_is_a_bad_command(self) -> None:
        transport = self.come("203.0.113.77", b"PROXY TCP4 192.0.2.4 203.0.113.9 999 25\r\n")
        self.assertEqual(self.codes(transport), ["220", "500"])

    def test_tls_comes_behind_the_header(self) -> None:
        transport = self.come(STRANGER, b"PROXY TCP4 192.0.2.4 203.0.113.9 999 25\r\n", tls="implicit")
        self.assertEqual((transport.started, transport.value()), (1, b""))


class SenderTests(SynchronousTestCase):
    """L{may_send_as}."""

    def test_an_alias_is_followed_one_level(self) -> None:
        directory = MemoryDirectory(
            ("example.org",),
            (
                JOE,
                Alias(address="a@example.org", targets=("b@example.org",)),
                Alias(address="b@example.org", targets=("joe@example.org",)),
            ),
        )
        for sender, own in (("b@example.org", True), ("a@example.org", False)):
            found = Deferred.fromCoroutine(may_send_as(directory, "joe@example.org", sender))
            self.assertEqual(self.successResultOf(found), own)


class HeadTests(SynchronousTestCase):
    """L{Head}."""

    def through(self, octets: bytes, size: int) -> bytes:
        head = Head(sender="joe@example.org", host="mx.example.org", unique="id", moment=0.0)
        cut = [octets[at : at + size] for at in range(0, len(octets), size)]
        return b"".join(head.feed(part) for part in cut) + head.end()

    def test_what_is_missing_is_put_on_top_however_it_is_cut(self) -> None:
        """RFC 6409 s.8; contract: a submission lacking Date, From or Message-ID gets it."""
        for octets in (
            b"Subject: x\r\n\r\nbody\r\n\r\nmore\r\n",
            b"\r\nbody only\r\n",
            b"no header at all\r\n",
            b"Subject: header only\r\n",
            b"Subject: x\r\n\r\n" + b"y" * 70000,
        ):
            results = {self.through(octets, size) for size in (1, 2, 3, 7, 100000)}
            self.assertEqual(len(results), 1, octets[:20])
            (result,) = results
            for name in (b"Date: ", b"From: joe@example.org\r\n", b"Message-ID: <id@mx.example.org>\r\n"):
                self.assertIn(name, result.partition(b"\r\n\r\n")[0] + b"\r\n")
            self.assertIn(octets.strip(), result)

    def test_what_is_there_stays(self) -> None:
        octets = b"date: x\r\nFROM: a@b.example\r\nMessage-Id: <1@b.example>\r\n\r\nbody\r\n"
        self.assertEqual(self.through(octets, 5), octets)

    def test_a_header_without_end_goes_on_as_it_is(self) -> None:
        octets = b"Subject: x\r\n" * (HEAD_OCTETS // 6)
        self.assertEqual(self.through(octets, 4096), octets)
