r"""
End of data, and all that other programs have taken for it (SMTP smuggling, 2023).

A sequence that some MTA on the way takes for the end of data and another does not lets a client put a message of its
own behind one that is trusted. So only CR LF . CR LF ends the data here, and a message that holds any of the others is
refused: nobody behind us will ever see one.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.wire.smtp_events import DataChunk, DataEnded, DataRefused, MailFrom
from qmailpy.wire.smtp_service import Service
from tests.wire.test_smtp import ENVELOPE, HELLO, Session, service

VARIANTS = [
    b"\n.\n",
    b"\n.\r",
    b"\n.\r\n",
    b"\r.\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n.\n",
    b"\r\n.\r",
    b"\r\n.\r\r\n",
    b"\r\r\n.\r\r\n",
    b"\r\n\x00.\r\n",
    b"\r\n.\x00\r\n",
    b"\r\n.\r\x00\n",
    b"\r\x00\n.\r\n",
    b"\x00\r\n.\x00\r\n",
    b"\n\n.\r\n",
    b"\n\n.\n\n",
    b"\r\r.\r\r",
    b"\n\r.\n\r",
    b"\n\r.\r\n",
    b"\r\n.\n\r\n",
    b"\r.\r\n\r",
]
HARMLESS = [
    # Right line ends, but no dot alone on a line: content like any other.
    (b"\r\n .\r\n", b"\r\n .\r\n"),
    (b"\r\n. \r\n", b"\r\n \r\n"),  # a leading dot is the transport's
    (b"\r\n.\t\r\n", b"\r\n\t\r\n"),
    (b"\r\n..\r\n", b"\r\n.\r\n"),
    (b"\r\n\x85.\r\n", b"\r\n\x85.\r\n"),
    (b"\r\n\x0b.\r\n", b"\r\n\x0b.\r\n"),
    (b"\r\n\xe2\x80\xa8.\r\n", b"\r\n\xe2\x80\xa8.\r\n"),
    (b"\x0c.\x0c", b"\x0c.\x0c"),
]
SECOND = b"MAIL FROM:<admin@example.org>\r\nRCPT TO:<b@example.org>\r\nDATA\r\nforged\r\n"


def talk(variant: bytes, used: Service, single: bool) -> Session:
    """A session whose message holds the variant and behind it what would be a second one."""
    session = Session(used)
    session.feed(HELLO + ENVELOPE + b"DATA\r\n")
    octets = b"Subject: x\r\n\r\nfirst" + variant + SECOND + b".\r\n"
    if single:
        for at in range(len(octets)):
            session.feed(octets[at : at + 1])
    else:
        session.feed(octets)
    return session


class SmugglingTests(SynchronousTestCase):
    """One message stays one message."""

    def senders(self, session: Session) -> list[str]:
        return [event.address for event in session.events if isinstance(event, MailFrom)]

    def test_what_looks_like_an_end_of_data_refuses_the_message(self) -> None:
        for variant in VARIANTS:
            for single in (False, True):
                session = talk(variant, service(), single)
                self.assertEqual(self.senders(session), ["a@example.net"], variant)
                last = session.events[-1]
                assert isinstance(last, DataRefused), variant
                self.assertEqual((last.reply.code, last.reply.enhanced), (550, "5.6.11"), variant)

    def test_what_does_not_even_look_like_one_is_content(self) -> None:
        for variant, meant in HARMLESS:
            for single in (False, True):
                session = talk(variant, service(), single)
                self.assertEqual(self.senders(session), ["a@example.net"], variant)
                self.assertIsInstance(session.events[-1], DataEnded, variant)
                content = b"".join(event.octets for event in session.events if isinstance(event, DataChunk))
                self.assertEqual(content, b"Subject: x\r\n\r\nfirst" + meant + SECOND, variant)

    def test_a_listener_that_normalises_does_not_end_the_data_either(self) -> None:
        """There the line ends are made right; NUL is refused all the same, and what goes on has no bare CR or LF."""
        for variant in VARIANTS:
            for single in (False, True):
                session = talk(variant, service(normalise=True), single)
                self.assertEqual(self.senders(session), ["a@example.net"], variant)
                if b"\0" in variant:
                    self.assertIsInstance(session.events[-1], DataRefused, variant)
                    continue
                self.assertIsInstance(session.events[-1], DataEnded, variant)
                content = b"".join(event.octets for event in session.events if isinstance(event, DataChunk))
                self.assertIn(b"forged", content)
                self.assertTrue(b"\r" not in content.replace(b"\r\n", b""), variant)
                self.assertTrue(b"\n" not in content.replace(b"\r\n", b""), variant)

    def test_the_true_end_of_data_ends_it(self) -> None:
        """The check of the checks: with it there are two messages."""
        for single in (False, True):
            session = talk(b"\r\n.\r\n", service(), single)
            self.assertEqual(self.senders(session), ["a@example.net", "admin@example.org"])
