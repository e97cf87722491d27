"""
Tests of what MAIL can ask for: MT-PRIORITY (RFC 6710), FUTURERELEASE (RFC 4865), DELIVERBY (RFC 2852), REQUIRETLS (RFC
8689) and BINARYMIME (RFC 3030).
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.wire.data import BARE, NUL, TOO_LARGE, BinaryReader
from qmailpy.wire.smtp_events import DataChunk, DataEnded, DeliverBy, Hold, MailFrom
from qmailpy.wire.smtp_extensions import BINARYMIME, DELIVERBY, FUTURERELEASE, MT_PRIORITY, REQUIRETLS, date_time
from qmailpy.wire.smtp_service import EXTENSIONS, Extension, Limits, Service
from tests.wire.test_smtp import Session

HELLO = b"EHLO client.example.net\r\n"
NEW_YEAR = 1167609600.0  # 2007-01-01T00:00:00Z


def offering(*rows: Extension, hold_s: int = 0, now: float = 0.0) -> Service:
    return Service(
        hostname="mx.example.org", extensions=(*EXTENSIONS, *rows), limits=Limits(hold_s=hold_s), seconds=lambda: now
    )


class OptionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.service = offering(MT_PRIORITY, FUTURERELEASE, DELIVERBY, REQUIRETLS, hold_s=86400, now=NEW_YEAR)

    def mail(self, parameters: bytes) -> MailFrom | bytes:
        """The event of a MAIL with these parameters, or the first octets of its refusal."""
        session = Session(self.service)
        session.ask(HELLO)
        session.ask(b"MAIL FROM:<eljefe@example.net> " + parameters + b"\r\n")
        last = session.events[-1]
        return last if isinstance(last, MailFrom) else session.sent[:9]

    def test_what_is_not_offered_is_not_announced_and_not_taken(self) -> None:
        session = Session()
        session.ask(HELLO)
        for word in (b"MT-PRIORITY", b"FUTURERELEASE", b"DELIVERBY", b"REQUIRETLS", b"BINARYMIME"):
            self.assertNotIn(word, session.sent)
        for parameter in (b"MT-PRIORITY=3", b"HOLDFOR=1", b"HOLDUNTIL=2007-01-01T00:00:00Z", b"BY=1;R", b"REQUIRETLS"):
            self.assertEqual(session.ask(b"MAIL FROM:<a@b.example> " + parameter + b"\r\n"), [b"555"])
        self.assertEqual(session.ask(b"MAIL FROM:<a@b.example> BODY=BINARYMIME\r\n"), [b"501"])

    def test_priorities_are_read(self) -> None:
        """RFC 6710 s.9: MT-PRIORITY=6; s.3: nineteen values."""
        for text, value in ((b"6", 6), (b"0", 0), (b"-9", -9), (b"9", 9)):
            self.assertEqual(
                self.mail(b"MT-PRIORITY=" + text), MailFrom(address="eljefe@example.net", mt_priority=value)
            )
        for bad in (b"10", b"-0", b"+1", b"", b"high", b"--1", b"1.0", "٣".encode()):
            self.assertEqual(self.mail(b"MT-PRIORITY=" + bad), b"501 5.5.4", bad)
        self.assertEqual(self.mail(b"MT-PRIORITY"), b"501 5.5.4")
        self.assertEqual(self.mail(b"MT-PRIORITY=1 MT-PRIORITY=2"), b"501 5.5.4")

    def test_release_is_announced_with_both_its_limits(self) -> None:
        """RFC 4865 s.3: the longest time, and when that would be from now."""
        session = Session(self.service)
        session.ask(HELLO)
        self.assertIn(b"250-FUTURERELEASE 86400 2007-01-02T00:00:00Z\r\n", session.sent)

    def test_release_times_are_read(self) -> None:
        self.assertEqual(self.mail(b"HOLDFOR=86400"), MailFrom(address="eljefe@example.net", hold=Hold(seconds=86400)))
        until = MailFrom(address="eljefe@example.net", hold=Hold(until=NEW_YEAR))
        for text in (b"2007-01-01T00:00:00Z", b"2007-01-01t00:00:00z", b"2007-01-01T01:00:00+01:00"):
            self.assertEqual(self.mail(b"HOLDUNTIL=" + text), until)
        for bad in (
            b"HOLDFOR=86401",
            b"HOLDFOR=-1",
            b"HOLDFOR=1234567890",
            b"HOLDFOR=",
            b"HOLDFOR",
            b"HOLDUNTIL=tomorrow",
            b"HOLDUNTIL=2007-02-30T00:00:00Z",
            b"HOLDUNTIL=2007-01-01",
            b"HOLDUNTIL=0000-01-01T00:00:00Z",
            b"HOLDUNTIL",
            b"HOLDFOR=1 HOLDUNTIL=2007-01-01T00:00:00Z",  # s.4: one of them
        ):
            self.assertEqual(self.mail(bad), b"501 5.5.4", bad)

    def test_times_to_deliver_by_are_read(self) -> None:
        """RFC 2852 s.4 and its examples in s.5."""
        for text, found in (
            (b"120;R", DeliverBy(120, "R")),
            (b"-40;N", DeliverBy(-40, "N")),
            (b"+98;nt", DeliverBy(98, "NT")),
            (b"0;N", DeliverBy(0, "N")),
            (b"999999999;RT", DeliverBy(999999999, "RT")),
        ):
            self.assertEqual(self.mail(b"BY=" + text), MailFrom(address="eljefe@example.net", by=found))
        for bad in (b"120", b"120;", b"120;X", b"0;R", b"-1;R", b"1e3;N", b"1234567890;N", b";N", b"120;TR", b""):
            self.assertEqual(self.mail(b"BY=" + bad), b"501 5.5.4", bad)

    def test_tls_can_be_asked_for(self) -> None:
        """RFC 8689 s.4.1."""
        self.assertEqual(self.mail(b"REQUIRETLS"), MailFrom(address="eljefe@example.net", require_tls=True))
        self.assertEqual(self.mail(b"REQUIRETLS=yes"), b"501 5.5.4")

    def test_dates_are_in_utc(self) -> None:
        self.assertEqual(date_time(NEW_YEAR + 0.9), "2007-01-01T00:00:00Z")


PICTURE = b"\x89PNG\r\n\x1a\n\0\0\0\r.\r\n\n.\n\xff"
HEAD = b"MIME-Version: 1.0\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: binary\r\n\r\n"


class BinaryTests(SynchronousTestCase):
    """RFC 3030 s.3."""

    def setUp(self) -> None:
        self.session = Session(offering(BINARYMIME))
        self.session.ask(HELLO)
        self.assertIn(b"-CHUNKING\r\n", self.session.sent)
        self.assertEqual(
            self.session.ask(b"MAIL FROM:<ned@ymir.example> BODY=BINARYMIME\r\nRCPT TO:<gvaudre@cnri.example>\r\n"),
            [b"250", b"250"],
        )

    def content(self) -> bytes:
        return b"".join(event.octets for event in self.session.events if isinstance(event, DataChunk))

    def test_octets_come_as_they_are(self) -> None:
        """s.4.2: without an end of the last line, with NUL, bare CR and bare LF."""
        message = HEAD + PICTURE
        cut = len(HEAD) - 1
        chunks = b"BDAT %d\r\n%bBDAT %d LAST\r\n%b" % (cut, message[:cut], len(message) - cut, message[cut:])
        self.assertEqual(self.session.ask(chunks), [b"250", b"250"])
        self.assertEqual(self.content(), message)
        last = self.session.events[-1]
        assert isinstance(last, DataEnded)
        self.assertEqual((last.size, last.head), (len(message), HEAD[:-2]))

    def test_data_is_refused(self) -> None:
        """s.3: DATA and BINARYMIME do not go together, also behind a refused one."""
        self.assertEqual(self.session.ask(b"DATA\r\n"), [b"503"])
        self.assertEqual(
            self.session.ask(b"RSET\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"), [b"250"] * 3
        )
        self.assertEqual(self.session.ask(b"DATA\r\n"), [b"354"])

    def test_the_next_message_is_lines_again(self) -> None:
        self.session.ask(b"RSET\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n")
        self.assertEqual(self.session.ask(b"BDAT 9 LAST\r\na: b\r\n\r\n\n"), [b"550"])

    def test_a_header_is_lines(self) -> None:
        """Else it would be another header to every program behind us."""
        reader = BinaryReader(1000, 10)
        reader.take(b"A: b\nC: d\r\n\r\nx", True)
        self.assertEqual(reader.fault, BARE)
        reader = BinaryReader(1000, 10)
        reader.take(b"A: b\0\r\n\r\nx", True)
        self.assertEqual(reader.fault, NUL)
        reader = BinaryReader(100, 10)
        self.assertEqual(reader.take(b"A: b\r\n\r\n", False) + reader.take(b"\0" * 100, True), b"A: b\r\n\r\n")
        self.assertEqual(reader.fault, TOO_LARGE)

    @given(
        st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"\0", b"a", b"A: b", b"\r\n\r\n"])).map(b"".join),
        st.lists(st.integers(min_value=1, max_value=9)),
    )
    def test_it_does_not_matter_how_the_octets_are_cut(self, text: bytes, cuts: list[int]) -> None:
        text = b"X: y" + text
        whole = BinaryReader(1000, 10)
        taken = whole.take(text, True)
        pieces = BinaryReader(1000, 10)
        at, found = 0, b""
        for cut in cuts:
            found += pieces.take(text[at : at + cut], False)
            at += cut
        found += pieces.take(text[at:], True)
        self.assertEqual((pieces.fault, pieces.size, pieces.head), (whole.fault, whole.size, whole.head))
        if whole.fault is None:
            self.assertEqual((found, taken), (text, text))
