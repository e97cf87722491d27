"""Tests of STARTTLS, AUTH and LMTP in the SMTP server core, with the examples of RFC 3207, RFC 4954 and RFC 2033."""

from __future__ import annotations

import base64
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.values import Reply
from qmailpy.wire import sasl
from qmailpy.wire.sasl import CheckPassword, Failed, Proven, SecretWanted
from qmailpy.wire.smtp import SmtpCore
from qmailpy.wire.smtp_events import (
    AuthStep,
    BadCommand,
    DataBegun,
    DataEnded,
    Ended,
    Event,
    MailFrom,
    RcptTo,
    StartTls,
)
from qmailpy.wire.smtp_service import Limits, Service, xtext

MECHANISMS = ("SCRAM-SHA-256", "PLAIN", "LOGIN")
CLEAR = Service(hostname="mx.example.org", starttls=True, auth_secured=True)
INSIDE = Service(hostname="mx.example.org", secured=True, mechanisms=MECHANISMS)
LMTP = Service(hostname="mx.example.org", lmtp=True)
EHLO = b"EHLO client.example.net\r\n"
DENIED = Reply(535, "5.7.8", "Authentication credentials invalid")
PENCIL = sasl.derive(b"pencil", b"salt", 4096)


class Session:
    """A core with an adapter: TLS begins when asked for, C{joe} has the password C{sesame} (or C{pencil} for SCRAM)."""

    def __init__(self, service: Service, inside: Service = INSIDE) -> None:
        self.core = SmtpCore(service)
        self.inside = inside
        self.events: list[Event] = []
        self.sent = b""

    def feed(self, octets: bytes) -> list[Event]:
        before = len(self.events)
        events = self.core.receive(octets)
        while events:
            self.events += events
            for event in events:
                self.answer(event)
            events = self.core.proceed()
        self.sent += self.core.take()
        return self.events[before:]

    def answer(self, event: Event) -> None:
        core = self.core
        if isinstance(event, StartTls):
            core.accept()
            if not core.closed:
                core.secure(self.inside)
        elif isinstance(event, AuthStep):
            step = event.step
            if isinstance(step, SecretWanted):
                assert PENCIL is not None
                core.secret(PENCIL)
            elif isinstance(step, Proven) or (isinstance(step, CheckPassword) and step.password == b"sesame"):
                core.accept()
            else:
                core.answer(DENIED)
        elif isinstance(event, RcptTo) and event.address.startswith("bad"):
            core.answer(Reply(550, "5.1.1", "No such user here"))
        elif isinstance(event, MailFrom | RcptTo | DataBegun | DataEnded):
            core.accept()

    def ask(self, octets: bytes) -> list[bytes]:
        """The replies to C{octets}: the last line of each."""
        self.sent = b""
        self.feed(octets)
        return [line for line in self.sent.splitlines() if line[3:4] == b" "]

    def codes(self, octets: bytes) -> list[bytes]:
        return [line[:3] for line in self.ask(octets)]


def ready(service: Service = INSIDE, **limits: Any) -> Session:
    session = Session(Service(hostname="mx.example.org", limits=Limits(**limits)) if limits else service)
    session.ask(EHLO)
    return session


def plain(password: bytes = b"sesame") -> bytes:
    return base64.b64encode(b"\0joe\0" + password)


class StartTlsTests(SynchronousTestCase):
    """RFC 3207."""

    def test_it_is_announced_in_the_clear_only(self) -> None:
        session = Session(CLEAR)
        self.assertEqual(session.codes(EHLO), [b"250"])
        self.assertIn(b"250 STARTTLS\r\n", session.sent)
        self.assertNotIn(b"AUTH", session.sent)
        self.assertEqual(session.ask(b"starttls\r\n"), [b"220 2.0.0 Ready to start TLS"])
        session.ask(EHLO)
        self.assertNotIn(b"STARTTLS", session.sent)
        self.assertIn(b"250 AUTH SCRAM-SHA-256 PLAIN LOGIN\r\n", session.sent)

    def test_what_was_said_before_is_forgotten(self) -> None:
        """s.4.2: the client's name and an open transaction too."""
        session = ready(CLEAR)
        session.ask(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<b@c.example>\r\n")
        self.assertEqual(session.codes(b"STARTTLS\r\n"), [b"220"])
        self.assertEqual((session.core.helo, session.core.extended, session.core.recipients), ("", False, 0))
        self.assertEqual(session.codes(b"DATA\r\n"), [b"503"])
        self.assertEqual(session.codes(b"MAIL FROM:<a@b.example>\r\n"), [b"503"])
        self.assertEqual(session.codes(EHLO + b"MAIL FROM:<a@b.example>\r\n"), [b"250", b"250"])

    def test_a_client_that_pipelines_behind_it_is_cut_off(self) -> None:
        """Whoever sits in between cannot put commands into the session: CVE-2011-0411."""
        for injected in (b"MAIL FROM:<evil@b.example>\r\n", b"x", b"\r\n"):
            session = ready(CLEAR)
            self.assertEqual(session.codes(b"STARTTLS\r\n" + injected), [b"421"])
            self.assertTrue(session.core.closed)
            self.assertEqual([type(event) for event in session.events[-2:]], [BadCommand, Ended])
            self.assertNotIn(b"220", session.sent)

    def test_what_comes_while_it_is_being_answered_ends_the_session(self) -> None:
        core = SmtpCore(CLEAR)
        core.receive(EHLO)
        core.receive(b"STARTTLS\r\n")
        core.receive(b"RSET\r\n")
        core.accept()
        self.assertTrue(core.closed)
        self.assertEqual([type(event) for event in core.proceed()], [Ended])

    def test_it_can_be_refused_for_now(self) -> None:
        core = SmtpCore(CLEAR)
        core.receive(EHLO)
        core.receive(b"STARTTLS\r\n")
        core.take()
        core.answer(Reply(454, "4.7.0", "TLS not available due to temporary reason"))
        self.assertEqual(core.proceed(), [])
        core.receive(b"NOOP\r\n")
        self.assertEqual(core.take()[:3], b"454")
        self.assertFalse(core.closed)

    def test_it_takes_no_argument_and_comes_once(self) -> None:
        """Without EHLO too: GNU SASL's client begins with it."""
        self.assertEqual(Session(CLEAR).codes(b"STARTTLS\r\n"), [b"220"])
        session = Session(CLEAR)
        self.assertEqual(session.codes(EHLO + b"STARTTLS now\r\n"), [b"250", b"501"])
        session.ask(b"STARTTLS\r\n")
        self.assertEqual(session.codes(EHLO + b"STARTTLS\r\n"), [b"250", b"503"])
        self.assertEqual(Session(Service(hostname="x.example")).codes(EHLO + b"STARTTLS\r\n"), [b"250", b"502"])

    def test_implicit_tls_greets_inside(self) -> None:
        core = SmtpCore(CLEAR)
        core.secure(INSIDE)
        core.greet()
        self.assertEqual(core.take(), b"220 mx.example.org ESMTP qmailpy\r\n")


class AuthTests(SynchronousTestCase):
    """RFC 4954."""

    def test_the_example_with_an_initial_response(self) -> None:
        session = ready()
        self.assertEqual(session.ask(b"AUTH PLAIN " + plain() + b"\r\n"), [b"235 2.7.0 Authentication successful"])
        self.assertTrue(session.core.authenticated)
        self.assertEqual(session.codes(b"AUTH PLAIN " + plain() + b"\r\n"), [b"503"])
        self.assertEqual(session.codes(b"MAIL FROM:<e@x.example> AUTH=e+3Dmc2@example.com\r\n"), [b"250"])
        self.assertEqual(session.codes(b"RSET\r\nMAIL FROM:<e@x.example> AUTH=<>\r\n"), [b"250", b"250"])

    def test_without_initial_response_the_client_is_asked(self) -> None:
        session = ready()
        self.assertEqual(session.ask(b"auth plain\r\n"), [b"334 "])
        self.assertEqual(session.codes(plain() + b"\r\n"), [b"235"])

    def test_login(self) -> None:
        session = ready()
        self.assertEqual(session.ask(b"AUTH LOGIN\r\n"), [b"334 VXNlcm5hbWU6"])
        self.assertEqual(session.ask(b"am9l\r\n"), [b"334 UGFzc3dvcmQ6"])
        self.assertEqual(session.codes(b"c2VzYW1l\r\n"), [b"235"])

    def test_scram_asks_for_the_secret(self) -> None:
        """The whole exchange is in the tests of sasl; here: it goes through, base64 around each message."""
        session = ready()
        first = base64.b64encode(b"n,,n=joe,r=abc")
        (challenge,) = session.ask(b"AUTH SCRAM-SHA-256 " + first + b"\r\n")
        self.assertEqual(challenge[:4], b"334 ")
        self.assertIn(b",i=4096", base64.b64decode(challenge[4:]))
        self.assertEqual(session.codes(base64.b64encode(b"c=biws,r=x,p=" + b"A" * 43 + b"=") + b"\r\n"), [b"535"])
        last = session.events[-1]
        assert isinstance(last, AuthStep)
        self.assertIsInstance(last.step, Failed)

    def test_a_wrong_password_can_be_tried_again(self) -> None:
        session = ready()
        self.assertEqual(session.codes(b"AUTH PLAIN " + plain(b"x") + b"\r\n"), [b"535"])
        self.assertFalse(session.core.authenticated)
        self.assertEqual(session.codes(b"AUTH PLAIN " + plain() + b"\r\n"), [b"235"])

    def test_too_many_wrong_passwords_end_the_session(self) -> None:
        core = Session(Service(hostname="x.example", secured=True, mechanisms=MECHANISMS, limits=Limits(errors=2)))
        core.ask(EHLO)
        wrong = b"AUTH PLAIN " + plain(b"x") + b"\r\n"
        self.assertEqual(core.codes(wrong * 4), [b"535"] * 3 + [b"421"])

    def test_in_the_clear_it_is_538_and_elsewhere_502(self) -> None:
        """No password in the clear: RFC 4954 s.4 and s.6."""
        self.assertEqual(ready(CLEAR).codes(b"AUTH PLAIN " + plain() + b"\r\n"), [b"538"])
        self.assertEqual(ready(Service(hostname="x.example")).codes(b"AUTH PLAIN\r\n"), [b"502"])

    def test_garbage(self) -> None:
        for garbage, code in (
            (b"AUTH\r\n", b"501"),
            (b"AUTH PLAIN !\r\n", b"501"),
            (b"AUTH PLAIN AAA\r\n", b"501"),
            (b"AUTH PLAIN =\r\n", b"535"),
            (b"AUTH CRAM-MD5\r\n", b"504"),
            (b"AUTH \xff\r\n", b"504"),
            (b"AUTH PLAIN " + b"A" * 3000 + b"\r\n", b"500"),
            (b"AUTH SCRAM-SHA-256-PLUS\r\n", b"504"),
        ):
            session = ready()
            self.assertEqual(session.codes(garbage), [code], garbage)
            self.assertEqual(session.codes(b"NOOP\r\n"), [b"250"], garbage)
        for answer, code in (
            (b"*\r\n", b"501"),
            (b"\0\r\n", b"501"),
            (b"NOOP\r\n", b"535"),  # it is base64
            (b"RSET \r\n", b"501"),
            (b"A" * 20000 + b"\r\n", b"500"),
            (base64.b64encode(b"\0joe\0" + b"x" * 8200) + b"\r\n", b"535"),
            (b"QQ==\n", b"500"),
            (b"\r\n", b"535"),
        ):
            session = ready()
            self.assertEqual(session.codes(b"AUTH PLAIN\r\n" + answer), [b"334", code], answer[:20])
            self.assertEqual(session.codes(b"NOOP\r\n"), [b"250"], answer[:20])

    def test_a_megabyte_in_an_exchange_keeps_nothing(self) -> None:
        session = ready()
        session.ask(b"AUTH PLAIN\r\n")
        for _ in range(100):
            session.ask(b"A" * 10000)
        self.assertLess(len(session.core.buffer), 16384)
        self.assertEqual(session.codes(b"\r\nNOOP\r\n"), [b"500", b"250"])

    def test_it_needs_ehlo_and_no_transaction(self) -> None:
        self.assertEqual(Session(INSIDE).codes(b"HELO x\r\nAUTH PLAIN\r\n"), [b"250", b"503"])
        self.assertEqual(ready().codes(b"MAIL FROM:<a@b.example>\r\nAUTH PLAIN\r\n"), [b"250", b"503"])

    def test_passwords_never_come_out_in_bad_commands(self) -> None:
        """House rule: what a client sends too early, too late or wrong is not logged either."""
        secret = base64.b64encode(b"\0joe\0hush")
        for octets in (
            b"AUTH PLAIN " + secret[:-2] + b"!\r\n",
            b"AUTH CRAM-MD5 " + secret + b"\r\n" + secret + b"\r\n",
            b"AUTH PLAIN\r\n*\r\n" + secret + b"\r\n",
            b"AUTH PLAIN\r\n" + secret + b"\n",
            b"AUTH PLAIN\r\n" + secret * 2000 + b"\r\n",
            b"AUTH PLAIN " + secret + b"\r\n" + secret + b"\r\n",
        ):
            for service in (INSIDE, CLEAR):
                session = ready(service)
                session.feed(octets)
                told = b"".join(event.line for event in session.events if isinstance(event, BadCommand))
                self.assertNotIn(secret[:10], told, octets[:30])

    def test_a_secret_nobody_wants_is_a_bug(self) -> None:
        assert PENCIL is not None
        self.assertRaises(RuntimeError, SmtpCore(INSIDE).secret, PENCIL)

    @given(st.lists(st.sampled_from([EHLO, b"AUTH PLAIN\r\n", plain() + b"\r\n", b"AUTH LOGIN am9l\r\n", b"*\r\n",
                                     b"MAIL FROM:<a@b.example>\r\n", b"RSET\r\n", b"bad", b"AUTH LOGIN\r\n",
                                     b"c2VzYW1l\r\n", b"\n", b"A" * 13000]), max_size=12))  # fmt: skip
    def test_octets_mean_the_same_whole_and_one_by_one(self, words: list[bytes]) -> None:
        octets = b"".join(words)
        whole, single = Session(INSIDE), Session(INSIDE)
        whole.feed(octets)
        for at in range(len(octets)):
            single.feed(octets[at : at + 1])
        self.assertEqual((whole.events, whole.sent), (single.events, single.sent))


class LmtpTests(SynchronousTestCase):
    """RFC 2033."""

    def test_the_example_of_the_rfc(self) -> None:
        """s.4.2: two of three recipients accepted, so two replies behind the data."""
        session = Session(LMTP)
        session.core.greet()
        session.feed(b"")
        self.assertEqual(session.sent, b"220 mx.example.org LMTP qmailpy\r\n")
        self.assertEqual(session.codes(b"LHLO foo.edu\r\n"), [b"250"])
        self.assertIn(b"250-PIPELINING\r\n", session.sent)
        octets = (
            b"MAIL FROM:<chris@bar.com>\r\n"
            b"RCPT TO:<pat@foo.edu>\r\n"
            b"RCPT TO:<bad@foo.edu>\r\n"
            b"RCPT TO:<green@foo.edu>\r\n"
            b"DATA\r\n"
        )
        self.assertEqual(session.codes(octets), [b"250", b"250", b"550", b"250", b"354"])
        self.assertEqual(session.codes(b"Blah\r\n.\r\n"), [b"250", b"250"])
        self.assertEqual(session.codes(b"QUIT\r\n"), [b"221"])

    def test_a_fault_of_the_message_is_told_for_each(self) -> None:
        session = Session(LMTP)
        session.ask(b"LHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<a@b.example>\r\nRCPT TO:<b@b.example>\r\nDATA\r\n")
        self.assertEqual(session.codes(b"a\nb\r\n.\r\n"), [b"550", b"550"])
        self.assertEqual(session.codes(b"MAIL FROM:<a@b.example>\r\n"), [b"250"])

    def test_no_recipient_is_503(self) -> None:
        session = Session(LMTP)
        octets = b"LHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<bad@b.example>\r\nDATA\r\n"
        self.assertEqual(session.codes(octets), [b"250", b"250", b"550", b"503"])

    def test_each_protocol_has_its_own_greeting_only(self) -> None:
        """s.4.1: the HELO and EHLO commands of SMTP are replaced."""
        self.assertEqual(Session(LMTP).codes(b"EHLO x\r\nHELO x\r\nMAIL FROM:<>\r\n"), [b"500", b"500", b"503"])
        self.assertEqual(Session(CLEAR).codes(b"LHLO x\r\n"), [b"500"])


class XtextTests(SynchronousTestCase):
    """RFC 3461 s.4."""

    def test_the_form(self) -> None:
        self.assertEqual(xtext("e+3Dmc2@example.com", 100), "e=mc2@example.com")
        self.assertEqual(xtext("", 100), "")
        for text in ("a b", "a=b", "a+3d", "a+3", "a+", "\x7f", "é", "a+0A", "a+00", "a+FF", "x" * 101):
            self.assertIsNone(xtext(text, 100), text)
