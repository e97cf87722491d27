"""Tests of what clients may ask for with a message, and what is granted."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from qmailpy.config.schema import ListenerConfig
from qmailpy.servers.mail_options import extensions, level
from qmailpy.values import Envelope, Priority
from tests.servers.test_smtp import CONTENT, FRIEND, NOON, RCPT, STRANGER, SmtpTestCase

SMTP = ListenerConfig(name="smtp", kind="smtp", endpoint="tcp:25")
SUBMISSION = ListenerConfig(name="submission", kind="submission", endpoint="tcp:587", auth="none")


def announced(listener: ListenerConfig, secured: bool) -> set[str]:
    ours = {"BINARYMIME", "MT-PRIORITY", "FUTURERELEASE", "DELIVERBY", "REQUIRETLS"}
    return ours & {row.keyword for row in extensions(listener, secured=secured)}


class OptionTests(SmtpTestCase):
    def accepted(self, parameters: bytes, ip: str = STRANGER, content: bytes = CONTENT, **listener: Any) -> Envelope:
        """The envelope of a message whose MAIL had these parameters."""
        transport = self.ready(ip, **listener)
        mail = b"MAIL FROM:<a@example.net> " + parameters + b"\r\n"
        self.assertEqual(self.ask(transport, mail), ["250"], parameters)
        self.said = transport.value()
        self.assertEqual(self.ask(transport, RCPT + b"BDAT %d LAST\r\n" % len(content) + content), ["250", "250"])
        return self.queue.messages[-1].envelope

    def refused(self, parameters: bytes, **listener: Any) -> bytes:
        transport = self.ready(**listener)
        self.ask(transport, b"MAIL FROM:<a@example.net> " + parameters + b"\r\n")
        said: bytes = transport.value()
        return said[:9]

    def test_a_listener_announces_what_it_takes(self) -> None:
        """Holding is for submission, REQUIRETLS for TLS, and each can be turned off."""
        self.assertEqual(announced(SMTP, False), {"BINARYMIME", "MT-PRIORITY", "DELIVERBY"})
        self.assertEqual(announced(SMTP, True), {"BINARYMIME", "MT-PRIORITY", "DELIVERBY", "REQUIRETLS"})
        self.assertEqual(
            announced(SUBMISSION, True), {"BINARYMIME", "MT-PRIORITY", "FUTURERELEASE", "DELIVERBY", "REQUIRETLS"}
        )
        off = ListenerConfig(
            name="x",
            kind="submission",
            endpoint="tcp:1",
            binary=False,
            mt_priority=False,
            hold_s=0.0,
            deliver_by=False,
            require_tls=False,
        )
        self.assertEqual(announced(off, True), set())

    def test_reports_can_be_left_to_whoever_sends(self) -> None:
        """What is not announced is not known: no reports for senders that a stranger has made up."""
        self.assertIn("DSN", {row.keyword for row in extensions(SMTP, secured=False)})
        transport = self.ready(dsn=False)
        self.assertNotIn(
            b"DSN", b"".join(row.keyword.encode() for row in extensions(evolve(SMTP, dsn=False), secured=True))
        )
        self.assertEqual(self.ask(transport, b"MAIL FROM:<a@example.net> RET=HDRS\r\n"), ["555"])
        self.assertEqual(self.ask(transport, b"MAIL FROM:<a@example.net>\r\n"), ["250"])
        self.assertEqual(self.ask(transport, RCPT.strip() + b" NOTIFY=SUCCESS\r\n"), ["555"])

    def test_nothing_asked_is_nothing_noted(self) -> None:
        envelope = self.accepted(b"SIZE=1")
        self.assertEqual(
            (envelope.hold_until, envelope.deliver_by, envelope.by_mode, envelope.mt_priority, envelope.ret),
            (0.0, 0.0, "", 0, ""),
        )
        self.assertEqual(envelope.priority, Priority.URGENT)  # of its header

    def test_strangers_get_no_precedence(self) -> None:
        """RFC 6710 s.4.1: taken with the priority it gets, and X.3.6; less than normal is nobody's loss."""
        envelope = self.accepted(b"MT-PRIORITY=9")
        self.assertEqual((envelope.mt_priority, envelope.priority), (0, Priority.NORMAL))
        self.assertEqual(self.said, b"250 2.3.6 Sender ok, with priority 0\r\n")
        envelope = self.accepted(b"MT-PRIORITY=-4")
        self.assertEqual((envelope.mt_priority, envelope.priority), (-4, Priority.NONURGENT))
        envelope = self.accepted(b"MT-PRIORITY=4", FRIEND)
        self.assertEqual((envelope.mt_priority, envelope.priority), (4, Priority.URGENT))
        self.assertEqual(self.said, b"250 2.1.0 Sender ok\r\n")

    def test_levels_keep_the_order(self) -> None:
        levels = [level(value) for value in range(9, -10, -1)]
        self.assertEqual(levels, sorted(levels))
        self.assertEqual(set(levels), set(Priority))

    def test_a_message_is_held_until_its_time(self) -> None:
        """RFC 4865 s.4; a time that has passed is now."""
        some: dict[str, Any] = {"kind": "submission", "auth": "none"}
        self.assertEqual(self.accepted(b"HOLDFOR=3600", FRIEND, **some).hold_until, NOON + 3600)
        self.assertEqual(self.accepted(b"HOLDUNTIL=2007-02-27T14:00:00Z", FRIEND, **some).hold_until, NOON + 7200)
        self.assertEqual(self.accepted(b"HOLDUNTIL=2007-02-27T11:00:00Z", FRIEND, **some).hold_until, 0.0)
        self.assertEqual(self.accepted(b"HOLDFOR=0", FRIEND, **some).hold_until, 0.0)
        self.assertEqual(self.refused(b"HOLDUNTIL=2007-03-30T12:00:00Z", **some), b"501 5.5.4")
        self.assertEqual(self.refused(b"HOLDFOR=1"), b"555 5.5.4")

    def test_patience_counts_from_the_release(self) -> None:
        envelope = self.accepted(b"BY=120;RT")
        self.assertEqual((envelope.deliver_by, envelope.by_mode), (NOON + 120, "RT"))
        envelope = self.accepted(b"BY=120;N HOLDFOR=3600", FRIEND, kind="submission", auth="none")
        self.assertEqual((envelope.hold_until, envelope.deliver_by), (NOON + 3600, NOON + 3720))

    def test_a_message_may_do_without_tls(self) -> None:
        """RFC 8689 s.5."""
        for value, optional in ((b"No", True), (b" no ", True), (b"Yes", False), (b"", False)):
            envelope = self.accepted(b"", content=b"TLS-Required:" + value + b"\r\n\r\n")
            self.assertEqual((envelope.tls_optional, envelope.require_tls), (optional, False))

    def test_binary_content_is_kept_and_not_sent_back(self) -> None:
        content = b"A: b\r\n\r\n\0\n\r."
        envelope = self.accepted(b"BODY=BINARYMIME", content=content)
        self.assertEqual((envelope.body, envelope.ret), ("BINARYMIME", "HDRS"))
        self.assertTrue(self.queue.messages[-1].content.endswith(content))
