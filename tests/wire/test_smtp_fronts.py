"""Tests of ETRN (RFC 1985) and XCLIENT in the SMTP server core."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.values import Reply
from qmailpy.wire.smtp import SmtpCore
from qmailpy.wire.smtp_events import Event, Greeted, QueueRun, XClient
from qmailpy.wire.smtp_fronts import ETRN, XCLIENT
from qmailpy.wire.smtp_service import EXTENSIONS, Service

SERVICE = Service(hostname="mx.example.org", extensions=(*EXTENSIONS, ETRN, XCLIENT))
HELLO = b"EHLO client.example.net\r\n"
NOT_ALLOWED = Reply(459, "4.7.1", "Node is not allowed")


class FrontTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.core = SmtpCore(SERVICE)
        self.core.receive(HELLO)
        self.assertIn(b"-ETRN\r\n", self.core.take())

    def said(self, octets: bytes, answer: Reply | None = None) -> tuple[list[Event], bytes]:
        """What a line means, and the code of the reply."""
        events = self.core.receive(octets + b"\r\n")
        if self.core.waiting:
            if answer is None:
                self.core.accept()
            else:
                self.core.answer(answer)
        self.core.proceed()
        return events, self.core.take()[:3]


class EtrnTests(FrontTestCase):
    def test_domains_are_asked_for(self) -> None:
        """RFC 1985 s.5.2 and its example in s.6."""
        self.assertEqual(
            self.said(b"ETRN sigurd.innosoft.com"), ([QueueRun("sigurd.innosoft.com", below=False)], b"250")
        )
        self.assertEqual(self.said(b"etrn @Innosoft.com"), ([QueueRun("innosoft.com", below=True)], b"250"))
        self.assertEqual(self.said(b"ETRN foo.bar", NOT_ALLOWED)[1], b"459")
        self.assertEqual(self.said("ETRN bücher.example".encode())[0], [QueueRun("xn--bcher-kva.example", below=False)])

    def test_what_is_no_domain_is_refused(self) -> None:
        self.assertEqual(self.said(b"ETRN")[1], b"500")
        for bad in (b"a..b", b"-a.example", b"[192.0.2.1]", b"@", b"a b", b"\xff", b"*"):
            self.assertEqual(self.said(b"ETRN " + bad)[1], b"501", bad)
        self.assertEqual(self.said(b"ETRN #uucp")[1], b"458")

    def test_not_before_ehlo_and_not_during_a_transaction(self) -> None:
        self.said(b"MAIL FROM:<a@b.example>")
        self.assertEqual(self.said(b"ETRN b.example")[1], b"503")
        core = SmtpCore(SERVICE)
        core.receive(b"HELO x\r\nETRN b.example\r\n")
        self.assertIn(b"503", core.take())

    def test_where_it_is_not_offered_it_is_not_there(self) -> None:
        core = SmtpCore(Service(hostname="mx.example.org"))
        core.receive(HELLO + b"ETRN b.example\r\nXCLIENT ADDR=192.0.2.1\r\n")
        sent = core.take()
        self.assertIn(b"\r\n502 5.5.1 Command not implemented\r\n550 5.7.0 Insufficient authorization\r\n", sent)
        self.assertNotIn(b"ETRN", sent)
        self.assertNotIn(b"XCLIENT", sent)


class XclientTests(FrontTestCase):
    def test_the_examples_of_the_readme(self) -> None:
        found, code = self.said(b"XCLIENT NAME=spike.porcupine.org ADDR=168.100.189.2")
        self.assertEqual(found, [XClient({"NAME": "spike.porcupine.org", "ADDR": "168.100.189.2"})])
        self.assertEqual(code, b"220")
        found, _ = self.said(b"XCLIENT proto=smtp HELO=x+3Dy LOGIN=[UNAVAILABLE] PORT=4711 ADDR=IPV6:2001:DB8::1")
        self.assertEqual(
            found,
            [XClient({"PROTO": "SMTP", "HELO": "x=y", "LOGIN": "", "PORT": "4711", "ADDR": "2001:db8::1"})],
        )

    def test_the_client_begins_anew(self) -> None:
        """Behind the 220 nothing was said: EHLO, then the rest."""
        self.said(b"XCLIENT ADDR=192.0.2.1")
        self.assertEqual((self.core.helo, self.core.extended), ("", False))
        self.assertEqual(self.said(b"MAIL FROM:<a@b.example>")[1], b"503")
        self.assertEqual(self.said(HELLO.strip())[0], [Greeted("client.example.net", True)])
        self.assertEqual(self.said(b"MAIL FROM:<a@b.example>")[1], b"250")
        self.assertEqual(self.said(b"XCLIENT ADDR=192.0.2.1")[1], b"503")

    def test_what_comes_behind_it_is_read_as_the_new_clients(self) -> None:
        """Nothing is parsed before the answer."""
        self.assertEqual(self.core.receive(b"XCLIENT ADDR=192.0.2.1\r\nMAIL FROM:<a@b.example>\r\n").__len__(), 1)
        self.core.accept()
        self.core.proceed()
        self.assertEqual([line[:3] for line in self.core.take().splitlines()], [b"220", b"503"])

    def test_a_refusal_changes_nothing(self) -> None:
        self.said(b"XCLIENT ADDR=192.0.2.1", Reply(421, "4.7.0", "Too many connections"))
        self.assertTrue(self.core.closed)

    def test_nonsense_is_refused(self) -> None:
        for bad in (
            b"",
            b" ",
            b"ADDR",
            b"ADDR=",
            b"ADDR=localhost",
            b"ADDR=192.0.2.256",
            b"ADDR=IPV6:192.0.2.1",
            b"ADDR=192.0.2.1 ADDR=192.0.2.2",
            b"COLOUR=red",
            b"PORT=65536",
            b"PORT=-1",
            b"PROTO=UUCP",
            b"HELO=a+0Ab",
            b"HELO=a+0",
            b"HELO=" + b"x" * 256,
            b"NAME=\xff",
        ):
            self.assertEqual(self.said(b"XCLIENT " + bad)[1], b"501", bad)
            self.core = SmtpCore(SERVICE)
            self.core.receive(HELLO)
            self.core.take()
