"""
Tests for L{qmailpy.wire.mime7}: read back with the standard library's C{email}, which is not ours.
"""

from __future__ import annotations

import email
import email.message
import email.policy
import time

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.wire import mime7
from qmailpy.wire.mime7 import Unconvertible, convert, longer, shorten

UMLAUTS = "Grüße aus Köln\r\n".encode()


def leaves(content: bytes) -> list[tuple[str, bytes]]:
    """Type and decoded data of each part that is no container."""
    message = email.message_from_bytes(content, policy=email.policy.compat32)
    return [
        (part.get_content_type(), bytes(part.get_payload(decode=True) or b""))
        for part in message.walk()
        if not part.is_multipart()
    ]


class ConvertTests(SynchronousTestCase):
    """L{convert}."""

    def same(self, content: bytes) -> bytes:
        """Convert it; the data of its parts must be what it was."""
        found = convert(content)
        self.assertTrue(found.isascii(), found)
        self.assertEqual(leaves(found), leaves(content))
        self.assertLessEqual(max(map(len, found.split(b"\r\n"))), 998)
        self.assertEqual(found.count(b"\n"), found.count(b"\r\n"))
        return found

    def test_what_is_7_bit_stays(self) -> None:
        """The very same octets."""
        content = b"Subject: x\r\n\r\nhello\r\n"
        self.assertIs(convert(content), content)

    def test_text_becomes_quoted_printable(self) -> None:
        """The field that says so is changed or added, nothing else is."""
        for field in (b"", b"Content-Transfer-Encoding: 8bit\r\n", b"content-transfer-encoding:\r\n  8BIT\r\n"):
            content = (
                b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n" + field + b"X: y\r\n\r\n" + UMLAUTS
            )
            found = self.same(content)
            self.assertEqual(found.lower().count(b"content-transfer-encoding"), 1)
            self.assertIn(b"Gr=C3=BC=C3=9Fe aus K=C3=B6ln\r\n", found)
            self.assertTrue(found.startswith(b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"))

    def test_mail_that_is_no_mime_becomes_it(self) -> None:
        """RFC 1428; also without any header."""
        for header in (b"Subject: x\r\n\r\n", b"\r\n"):
            found = convert(header + UMLAUTS)
            message = email.message_from_bytes(found)
            self.assertEqual(message["Content-Type"], "text/plain; charset=unknown-8bit")
            self.assertEqual(message["MIME-Version"], "1.0")
            self.assertEqual(message.get_payload(decode=True), UMLAUTS)

    def test_data_becomes_base64(self) -> None:
        data = bytes(range(14, 256)) * 20 + b"\r\n"
        found = self.same(b"MIME-Version: 1.0\r\nContent-Type: image/png\r\n\r\n" + data)
        self.assertIn(b"Content-Transfer-Encoding: base64", found)

    def test_only_the_parts_that_need_it_are_changed(self) -> None:
        """Nested multiparts, an enclosed message, text around the parts, boundaries that look alike."""
        content = (
            b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="a b"\r\n'
            b"Content-Transfer-Encoding: 8bit\r\n\r\npreamble \xfc\r\n"
            b"--a b\r\n\r\nplain\r\n"
            b"--a b\r\nContent-Type: multipart/alternative; boundary=ab\r\n\r\n"
            b"--ab\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + UMLAUTS + b"--abc\r\n-- \r\n--\r\n"
            b"--ab\r\nContent-Type: application/x-y\r\nContent-Transfer-Encoding: binary\r\n\r\n\xff\xfe\r\n"
            b"--ab--\r\nepilogue \xfc\r\n"
            b"--a b  \r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
            b"Subject: inside\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
            + UMLAUTS
            + b"\r\n"
            b"--a b\r\nContent-Type: text/plain\r\n\r\nuntouched  \r\n"
            b"--a b--\r\n\xfc end\r\n"
        )
        found = self.same(content)
        self.assertIn(b"\r\n\r\npreamble ?\r\n--a b\r\n\r\nplain\r\n--a b\r\n", found)
        self.assertIn(b"\r\n\r\nuntouched  \r\n--a b--\r\n? end\r\n", found)
        self.assertEqual(found.count(b"Content-Transfer-Encoding: 7bit\r\n"), 2)
        self.assertEqual(found.count(b"Content-Transfer-Encoding: quoted-printable\r\n"), 2)
        self.assertEqual(found.count(b"Content-Transfer-Encoding: base64\r\n"), 1)

    def test_a_digest_has_messages_for_parts(self) -> None:
        """RFC 2046 s.5.1.5."""
        head = b"MIME-Version: 1.0\r\nContent-Type: multipart/digest; boundary=d\r\n\r\n--d\r\n"
        found = convert(head + b"\r\nSubject: y\r\n\r\n\xfc\r\n--d\r\n--d\r\n\r\n--d--\r\n")
        self.assertTrue(
            found.startswith(head + b"\r\nSubject: y\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=FC")
        )
        inner = b"Subject: y\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n" + UMLAUTS
        found = self.same(
            b"MIME-Version: 1.0\r\nContent-Type: multipart/digest; boundary=d\r\n\r\n--d\r\n\r\n" + inner + b"--d--\r\n"
        )
        self.assertIn(b"Content-Transfer-Encoding: quoted-printable\r\n\r\nGr=C3", found)

    def test_a_message_cut_off_in_a_part_is_converted(self) -> None:
        """No closing boundary, no empty line, no end of line."""
        head = b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=d\r\n\r\n"
        for rest in (
            b"--d\r\n\r\n\xfc",
            b"--d\r\nContent-Type: text/plain\r\n--d\r\n\r\n\xfc\r\n",
            b"\xfc",
            b"--d--\r\n\xfc",
            b"--d\r\n\r\n\xfc\r\n--d",
        ):
            self.assertTrue(convert(head + rest).isascii(), rest)

    def test_what_would_be_worthless_afterwards_is_left(self) -> None:
        """Signed, encrypted, other messages, encodings that are not what they say."""
        signed = b"Content-Type: multipart/signed; boundary=s\r\n\r\n--s\r\n\r\n\xfc\r\n--s\r\n\r\nsig\r\n--s--\r\n"
        for content in (
            signed,
            b"Content-Type: multipart/mixed; boundary=m\r\n\r\n--m\r\n" + signed + b"--m--\r\n",
            signed.replace(b"signed", b"encrypted"),
            signed.replace(
                b"--s\r\n\r\n\xfc", b"--s\r\nContent-Type: multipart/mixed; boundary=n\r\n\r\n--n\r\n\r\n\xfc"
            ),
            b"Content-Type: message/global\r\n\r\nSubject: \xfc\r\n",
            b"Content-Type: message/partial\r\n\r\n\xfc\r\n",
            b"Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\n\xfc\r\n",
            b"Content-Type: multipart/mixed; boundary=m\r\n\r\n--m\r\n"
            b"Content-Type: multipart/mixed; boundary=m\r\n\r\n--m\r\n\r\n\xfc\r\n",
        ):
            self.assertRaises(Unconvertible, convert, b"MIME-Version: 1.0\r\n" + content)

    def test_a_signed_part_without_8_bit_octets_does_not_mind(self) -> None:
        """It is not touched while its neighbour is."""
        signed = b"Content-Type: multipart/signed; boundary=s\r\n\r\n--s\r\n\r\nx \r\n--s\r\n\r\nsig\r\n--s--\r\n"
        content = (
            b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=m\r\n\r\n--m\r\n" + signed + b"--m\r\n"
            b"Content-Type: text/plain; charset=utf-8\r\n\r\n" + UMLAUTS + b"--m--\r\n"
        )
        self.assertIn(signed, self.same(content))

    def test_nesting_and_size_have_limits(self) -> None:
        """Told as what cannot be converted."""
        deep = b"".join(
            b"--%d\r\nContent-Type: multipart/mixed; boundary=%d\r\n\r\n" % (level, level + 1) for level in range(99)
        )
        head = b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=0\r\n\r\n"
        self.assertRaises(Unconvertible, convert, head + deep + b"\xfc")
        self.patch(mime7, "LIMIT", 100)
        self.assertRaises(Unconvertible, convert, b"\r\n" + b"\xfc" * 100)

    def test_time_is_linear_in_the_length(self) -> None:
        """Boundaries without end, headers without end, lines that nearly are boundaries."""
        head = b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=d\r\n\r\n"
        for unit in (
            b"--d\r\n",
            b"--d\r\n\r\n\xfc\r\n",
            b"--e\r\n",
            b"x: y\r\n",
            b"\r\n--",
            b"--d--\r\n",
            b"\r\n \xfc",
        ):
            durations = []
            for count in (2000, 32000):
                content = head + unit * count + b"\xfc"
                begun = time.process_time()
                convert(content)
                durations.append(time.process_time() - begun)
            self.assertLess(durations[1], durations[0] * 64 + 0.3, unit)

    @given(
        st.lists(
            st.sampled_from(
                [
                    b"\r\n",
                    b"--a",
                    b"--a--",
                    b"--b",
                    b"\xfc",
                    b"Content-Type: multipart/mixed; boundary=a\r\n",
                    b"Content-Type: multipart/x; boundary=b\r\n\r\n",
                    b"Content-Type: message/rfc822\r\n",
                    b"Content-Type: multipart/digest; boundary=b\r\n\r\n",
                    b"Content-Transfer-Encoding: 8bit\r\n",
                    b"text",
                ]
            ),
            max_size=30,
        )
    )
    def test_whatever_comes_in_is_converted_or_refused(self, pieces: list[bytes]) -> None:
        """Nothing else is raised, and there is an end; no line is lost."""
        content = b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\n" + b"".join(pieces)
        try:
            found = convert(content)
        except Unconvertible:
            return
        self.assertGreaterEqual(found.count(b"\r\n"), content.count(b"\r\n"))
        for line in content.split(b"\r\n"):
            if line in (b"--a", b"--a--", b"--b", b"--b--"):
                self.assertIn(line, found)


class ShortenTests(SynchronousTestCase):
    """L{shorten}: lines of channels with linelimit."""

    LONG = b"x" * 1200 + b"\r\n"

    def same(self, content: bytes, most: int = 998) -> bytes:
        found = shorten(content, most)
        self.assertEqual(leaves(found), leaves(content))
        self.assertLessEqual(max(map(len, found.split(b"\r\n"))), most)
        return found

    def test_short_lines_stay_as_they_are(self) -> None:
        for content in (b"Subject: x\r\n\r\n" + UMLAUTS, b"a: b\r\n\r\n" + b"y" * 998 + b"\r\n", b""):
            self.assertIs(shorten(content, 998), content)

    def test_text_becomes_quoted_printable(self) -> None:
        found = self.same(b"Subject: x\r\n\r\nfirst\r\n" + self.LONG)
        self.assertIn(b"MIME-Version: 1.0\r\n", found)
        self.assertIn(b"Content-Transfer-Encoding: quoted-printable\r\n", found)
        self.assertNotIn(b"charset", found)

    def test_other_parts_stay_8_bit_ones_too(self) -> None:
        head = b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n"
        head += b"Content-Transfer-Encoding: 8bit\r\n\r\n"
        kept = b"--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n" + UMLAUTS
        found = self.same(head + kept + b"--b\r\nContent-Type: image/x\r\n\r\n" + self.LONG + b"--b--\r\n")
        self.assertTrue(found.startswith(head + kept))
        self.assertIn(b"Content-Transfer-Encoding: base64", found)

    def test_what_cannot_be_encoded_is_told(self) -> None:
        multipart = b"MIME-Version: 1.0\r\nContent-Type: multipart/%s; boundary=b\r\n\r\n"
        for content in (
            b"Subject: " + self.LONG + b"\r\nhello\r\n",
            multipart % b"mixed" + self.LONG + b"--b\r\n\r\nhello\r\n--b--\r\n",
            multipart % b"signed" + b"--b\r\n\r\n" + self.LONG + b"--b--\r\n",
            b"Content-Transfer-Encoding: base64\r\n\r\n" + self.LONG,
        ):
            self.assertRaises(Unconvertible, shorten, content, 998)

    @given(st.lists(st.integers(0, 130), max_size=12), st.booleans(), st.integers(78, 100))
    def test_a_line_is_longer_when_it_is(self, lengths: list[int], ended: bool, most: int) -> None:
        body = b"\r\n".join(b"z" * length for length in lengths) + (b"\r\n" if ended else b"")
        self.assertEqual(longer(body, most), max(map(len, body.split(b"\r\n"))) > most)
