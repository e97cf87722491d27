"""Tests of the parameters of MAIL and RCPT: SMTPUTF8 (RFC 6531) and DSN (RFC 3461)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.values import Notify
from qmailpy.wire.smtp_events import MailFrom, RcptTo
from qmailpy.wire.smtp_service import DSN, EXTENSIONS, Extension, Limits, Service
from tests.wire.test_smtp import Session

HELLO = b"EHLO client.example.net\r\n"
MAIL = b"MAIL FROM:<a@b.example>"
RCPT = b"RCPT TO:<c@d.example>"


class Utf8Tests(SynchronousTestCase):
    """RFC 6531."""

    def test_international_addresses_go_where_mail_says_so(self) -> None:
        session = Session()
        sender, recipient = "Dörte@Sörensen.example.com", "用户@例子.广告"
        octets = HELLO + f"MAIL FROM:<{sender}> SMTPUTF8 BODY=8BITMIME\r\nRCPT TO:<{recipient}>\r\n".encode()
        self.assertEqual(session.ask(octets), [b"250"] * 3)
        self.assertIn(b"SMTPUTF8", session.sent)
        self.assertEqual(
            session.events[1:],
            [
                MailFrom(address="Dörte@xn--srensen-90a.example.com", body="8BITMIME", smtputf8=True),
                RcptTo(address="用户@xn--fsqu00a.xn--4rr70v"),
            ],
        )

    def test_u_labels_and_a_labels_are_the_same_domain(self) -> None:
        """RFC 5890 s.2.3.2.1; issue 3: U-label/A-label equality."""
        session = Session()
        session.ask(HELLO + MAIL + b" SMTPUTF8\r\n")
        for domain in (
            "bücher.example",
            "BÜCHER.example",
            "xn--bcher-kva.example",
            "bücher。example",
            "bu\u0308cher.example",
        ):
            session.ask(f"RCPT TO:<x@{domain}>\r\n".encode())
        found = {event.address for event in session.events if isinstance(event, RcptTo)}
        self.assertEqual(found, {"x@xn--bcher-kva.example"})

    def test_without_the_parameter_they_are_refused(self) -> None:
        session = Session()
        for line in ("MAIL FROM:<ö@b.example>", "MAIL FROM:<o@ö.example>"):
            self.assertEqual(session.ask(HELLO + line.encode() + b"\r\n"), [b"250", b"553"])
        self.assertEqual(session.ask(MAIL + b"\r\n" + "RCPT TO:<ö@d.example>\r\n".encode()), [b"250", b"553"])
        session.ask(b"RSET\r\n" + MAIL + b" SMTPUTF8\r\nRSET\r\n" + MAIL + b"\r\n")
        self.assertEqual(session.ask("RCPT TO:<ö@d.example>\r\n".encode()), [b"553"])

    def test_what_is_no_name_is_refused(self) -> None:
        session = Session()
        session.ask(HELLO + MAIL + b" SMTPUTF8\r\n")
        for address in ("x@\u2028.example", "x\u2028y@d.example", "x@-ö.example", "x@ö..example", "x@" + "ö" * 300):
            self.assertEqual(session.ask(f"RCPT TO:<{address}>\r\n".encode()), [b"501"], address)
        self.assertEqual(session.ask(b"RCPT TO:<\xff@d.example>\r\n"), [b"501"])

    def test_it_takes_no_value_and_comes_once(self) -> None:
        self.assertEqual(Session().ask(HELLO + MAIL + b" SMTPUTF8=1\r\n"), [b"250", b"501"])
        self.assertEqual(Session().ask(HELLO + MAIL + b" SMTPUTF8 SMTPUTF8\r\n"), [b"250", b"501"])
        small = Session(Service(hostname="x.example", extensions=(Extension(keyword="PIPELINING"),)))
        self.assertEqual(small.ask(HELLO + MAIL + b" SMTPUTF8\r\n"), [b"250", b"555"])


class LimitsTests(SynchronousTestCase):
    """RFC 9422."""

    def test_what_is_announced_is_what_holds(self) -> None:
        session = Session(Service(hostname="x.example", limits=Limits(messages=2, recipients=150)))
        session.ask(HELLO)
        self.assertIn(b"250-LIMITS MAILMAX=2 RCPTMAX=150\r\n", session.sent)
        self.assertEqual(session.ask((MAIL + b"\r\nRSET\r\n") * 2 + MAIL + b"\r\n")[-1], b"421")


class DsnTests(SynchronousTestCase):
    """RFC 3461 s.4; the examples are those of s.10.1."""

    def test_the_example_of_the_rfc(self) -> None:
        session = Session()
        octets = (
            b"EHLO Example.ORG\r\n"
            b"MAIL FROM:<Alice@Example.ORG> RET=HDRS ENVID=QQ314159\r\n"
            b"RCPT TO:<Bob@Example.COM> NOTIFY=SUCCESS ORCPT=rfc822;Bob@Example.COM\r\n"
            b"RCPT TO:<Carol@Ivory.EDU> NOTIFY=FAILURE ORCPT=rfc822;Carol@Ivory.EDU\r\n"
            b"RCPT TO:<Dana@Ivory.EDU> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Dana@Ivory.EDU\r\n"
            b"RCPT TO:<Eric@Bombs.AF.MIL> NOTIFY=FAILURE ORCPT=rfc822;Eric@Bombs.AF.MIL\r\n"
            b"RCPT TO:<Fred@Bombs.AF.MIL> NOTIFY=NEVER\r\n"
            b"RCPT TO:<George@Tax-ME.GOV> NOTIFY=FAILURE ORCPT=rfc822;George@Tax-ME.GOV\r\n"
        )
        self.assertEqual(session.ask(octets), [b"250"] * 8)
        self.assertIn(b"DSN", session.sent)
        self.assertEqual(session.events[1], MailFrom(address="Alice@example.org", ret="HDRS", envid="QQ314159"))
        found = [(event.notify, event.orcpt) for event in session.events if isinstance(event, RcptTo)]
        self.assertEqual(found[0], (Notify.SUCCESS, "rfc822;Bob@Example.COM"))
        self.assertEqual(found[2], (Notify.SUCCESS | Notify.FAILURE, "rfc822;Dana@Ivory.EDU"))
        self.assertEqual(found[4], (Notify.NEVER, ""))

    def test_xtext_is_decoded(self) -> None:
        session = Session()
        session.ask(HELLO + MAIL + b" ENVID=a+2Bb\r\n" + RCPT + b" ORCPT=x400;/C=us+3B/\r\n")
        session.ask(RCPT + b" ORCPT=x400;/C+3Dus+3B/\r\n")
        self.assertEqual([event.envid for event in session.events if isinstance(event, MailFrom)], ["a+b"])
        self.assertEqual([event.orcpt for event in session.events if isinstance(event, RcptTo)], ["x400;/C=us;/"])

    def test_bad_values_are_501(self) -> None:
        for value in (
            "RET",
            "RET=",
            "RET=ALL",
            "ENVID",
            "ENVID=",
            "ENVID=a+0A",
            "ENVID=" + "x" * 101,
            "ENVID=a+",
            "ENVID=\x7f",
        ):
            self.assertEqual(Session().ask(HELLO + MAIL + b" " + value.encode() + b"\r\n"), [b"250", b"501"], value)
        for value in (
            *(
                "NOTIFY",
                "NOTIFY=",
                "NOTIFY=NEVER,SUCCESS",
                "NOTIFY=SUCCESS,SUCCESS",
                "NOTIFY=ALWAYS",
                "NOTIFY=SUCCESS,",
            ),
            *("ORCPT", "ORCPT=", "ORCPT=rfc822", "ORCPT=;a@b", "ORCPT=rfc822;", "ORCPT=rfc822;a+0Db", "ORCPT=a,b;c"),
            "ORCPT=rfc822;" + "x" * 500,
        ):
            session = Session()
            session.ask(HELLO + MAIL + b"\r\n")
            self.assertEqual(session.ask(RCPT + b" " + value.encode() + b"\r\n"), [b"501"], value)

    def test_it_is_not_there_unless_it_is_announced(self) -> None:
        service = Service(hostname="mx.example.org", extensions=tuple(row for row in EXTENSIONS if row is not DSN))
        self.assertEqual(Session(service).ask(HELLO + MAIL + b" RET=FULL\r\n"), [b"250", b"555"])
