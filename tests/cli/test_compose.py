"""From what a program wrote to a message."""

from __future__ import annotations

import time

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.cli.compose import (
    Author,
    ComposeError,
    compose,
    full_addresses,
    normalised,
    sender_address,
    variable_sender,
)

AUTHOR = Author(
    address="joe@example.org",
    name="Joe Doe",
    domain="example.org",
    moment=0.0,
    unique="1",
    id_host="mx.example.org",
)
FULL = b"Date: x\r\nFrom: a@b.c\r\nMessage-ID: <y@z>\r\n"


def header(content: bytes, author: Author = AUTHOR) -> list[str]:
    return compose(content, author).content.partition(b"\r\n\r\n")[0].decode().split("\r\n")


class NormalisedTests(SynchronousTestCase):
    """L{normalised}."""

    def test_every_line_end_becomes_crlf(self) -> None:
        for octets in (b"a\nb", b"a\r\nb\r\n", b"a\rb\n", b"a\nb\r"):
            self.assertEqual(normalised(octets), b"a\r\nb\r\n")
        self.assertEqual(normalised(b""), b"")
        self.assertEqual(normalised(b"\n\r\n"), b"\r\n\r\n")

    def test_a_lone_dot_ends_the_message_only_when_asked_for(self) -> None:
        for octets, wanted in (
            (b"a\n.\nb\n", b"a\r\n"),
            (b"a\r\n.\r\nb", b"a\r\n"),
            (b".\na", b""),
            (b"a\n.", b"a\r\n"),
            (b".", b""),
            (b"a\n..\nb\n", b"a\r\n..\r\nb\r\n"),
            (b"a.\n.b\n", b"a.\r\n.b\r\n"),
        ):
            self.assertEqual(normalised(octets, dot_ends=True), wanted, octets)
        self.assertEqual(normalised(b"a\n.\nb\n"), b"a\r\n.\r\nb\r\n")

    def test_a_nul_is_refused(self) -> None:
        self.assertIn("NUL", str(self.assertRaises(ComposeError, normalised, b"a\0b")))

    @given(st.binary(max_size=80).map(lambda octets: octets.replace(b"\0", b"")), st.booleans())
    def test_the_result_has_no_other_line_end(self, octets: bytes, dots: bool) -> None:
        made = normalised(octets, dot_ends=dots)
        self.assertNotIn(b"\r", made.replace(b"\r\n", b""))
        self.assertNotIn(b"\n", made.replace(b"\r\n", b""))
        self.assertTrue(not made or made.endswith(b"\r\n"))
        self.assertEqual(normalised(made), made)


class ComposeTests(SynchronousTestCase):
    """L{compose}."""

    def test_what_is_missing_is_added_in_front(self) -> None:
        made = compose(b"To: x@y.z\r\n\r\nhello\r\n", AUTHOR).content.decode().split("\r\n")
        self.assertRegex(made[0], r"^Date: (Thu|Wed), (01|31) (Jan 1970|Dec 1969) ")
        self.assertEqual(
            made[1:],
            ["Message-ID: <1@mx.example.org>", "From: Joe Doe <joe@example.org>", "To: x@y.z", "", "hello", ""],
        )

    def test_what_is_whole_stays_octet_for_octet(self) -> None:
        """Folding, order, unknown fields, 8-bit octets and the body."""
        content = FULL + b"To: x@y.z,\r\n\t(c) w@v.u\r\nX-Odd :\xff  \r\n\r\n\r\nbody \xff\r\n From: x\r\n"
        self.assertEqual(compose(content, AUTHOR).content, content)

    def test_hidden_recipients_are_recipients_and_are_hidden(self) -> None:
        made = compose(FULL + b"To: x@y.z\r\nBcc: s@y.z,\r\n t@y.z\r\nCc: x@y.z, root\r\n\r\n", AUTHOR)
        self.assertEqual(made.recipients, ("x@y.z", "s@y.z", "t@y.z", "root@example.org"))
        self.assertEqual(made.content, FULL + b"To: x@y.z\r\nCc: x@y.z, root@example.org\r\n\r\n")

    def test_a_message_without_visible_recipients_gets_an_empty_group(self) -> None:
        self.assertEqual(header(FULL + b"Bcc: s@y.z\r\n\r\n")[0], "Cc: recipient list not shown: ;")

    def test_a_resent_message_is_sent_to_whom_it_is_resent(self) -> None:
        """And it is the Resent- fields that are completed."""
        made = compose(FULL + b"To: x@y.z\r\nResent-To: a@b.c\r\nResent-Bcc: d@e.f\r\n\r\n", AUTHOR)
        self.assertEqual(made.recipients, ("a@b.c", "d@e.f"))
        names = [line.partition(b":")[0] for line in made.content.split(b"\r\n")[:3]]
        self.assertEqual(names, [b"Resent-Date", b"Resent-Message-ID", b"Resent-From"])
        self.assertNotIn(b"Resent-Bcc", made.content)

    def test_envelope_fields_go(self) -> None:
        made = compose(FULL + b"To: x@y.z\r\nReturn-Path: <r@y.z>\r\nContent-Length: 5\r\n\r\n", AUTHOR)
        self.assertEqual((made.return_path, made.content), ("r@y.z", FULL + b"To: x@y.z\r\n\r\n"))
        self.assertEqual(compose(b"Return-Path: <>\r\n\r\n", AUTHOR).return_path, "")
        self.assertEqual(compose(b"Return-Path: x\r\n\r\n", AUTHOR).return_path, "x@example.org")
        self.assertIsNone(compose(b"To: x@y.z\r\n\r\n", AUTHOR).return_path)

    def test_text_without_a_header_is_a_body(self) -> None:
        for content in (
            b"hello world\r\nmore\r\n",
            b"\r\nhello world\r\nmore\r\n",
            b"From joe Thu 1 Jan\r\nhello world\r\nmore\r\n",
        ):
            made = compose(content, AUTHOR).content
            self.assertTrue(made.endswith(b"\r\n\r\nhello world\r\nmore\r\n"), made)
            self.assertTrue(made.startswith(b"Date: "))

    def test_a_header_that_ends_in_text_gets_its_empty_line(self) -> None:
        made = compose(FULL + b"To: x@y.z\r\nhello world\r\n", AUTHOR).content
        self.assertEqual(made, FULL + b"To: x@y.z\r\n\r\nhello world\r\n")
        self.assertEqual(compose(FULL + b"To: x@y.z\r\n", AUTHOR).content, FULL + b"To: x@y.z\r\n\r\n")

    def test_recipients_that_are_none_are_told_with_their_field(self) -> None:
        made = compose(b"To: joe doe, x@y.z\r\nReply-To: a b c\r\n\r\n", AUTHOR)
        self.assertEqual(made.troubles, ("To: not an address, but a text: joe doe",))

    def test_the_author_is_written_so_that_it_can_be_read(self) -> None:
        for name, comment, wanted in (
            ("", False, "From: joe@example.org"),
            ("Joe", True, "From: joe@example.org (Joe)"),
            ("J. (x) \\", True, "From: joe@example.org (J. [x] )"),
            ('J. "x" Doe', False, 'From: "J. \\"x\\" Doe" <joe@example.org>'),
            ("Jörg", False, "From: =?utf-8?b?SsO2cmc=?= <joe@example.org>"),
            ("a\x1b[2Jb", False, 'From: "a [2Jb" <joe@example.org>'),
            ("a\r\nBcc: evil@x.y", False, 'From: "a Bcc: evil@x.y" <joe@example.org>'),
        ):
            author = attrs.evolve(AUTHOR, name=name, comment_from=comment)
            self.assertIn(wanted, header(b"To: x@y.z\r\n\r\n", author))
        long = attrs.evolve(AUTHOR, name="ö" * 60)
        self.assertTrue(all(len(line) < 100 for line in header(b"To: x@y.z\r\n\r\n", long)))

    def test_fields_can_be_replaced(self) -> None:
        """QMAILINJECT f and i."""
        author = attrs.evolve(AUTHOR, drop_from=True, drop_message_id=True)
        lines = header(FULL + b"To: x@y.z\r\n\r\n", author)
        self.assertEqual(
            lines, ["Message-ID: <1@mx.example.org>", "From: Joe Doe <joe@example.org>", "Date: x", "To: x@y.z"]
        )

    def test_mail_to_a_list_gets_a_followup_field(self) -> None:
        author = attrs.evolve(AUTHOR, lists=frozenset({"list@y.z"}))
        lines = header(FULL + b"To: List@y.z\r\nCc: x@y.z\r\n\r\n", author)
        self.assertEqual(lines[:2], ["Mail-Followup-To: List@y.z,", "\tx@y.z"])
        self.assertEqual(header(FULL + b"To: x@y.z\r\n\r\n", author)[0], "Date: x")

    @settings(max_examples=300, deadline=None)
    @given(st.text(alphabet='ToBc:fFrm ab@,;<>"()\\.\r\n\té', max_size=80).map(lambda text: normalised(text.encode())))
    def test_no_message_makes_it_fail_or_loses_its_body(self, content: bytes) -> None:
        made = compose(content, AUTHOR).content
        self.assertIn(b"\r\n\r\n", made)
        self.assertNotIn(b"\n", made.replace(b"\r\n", b""))
        body = content.partition(b"\r\n\r\n")[2]
        self.assertTrue(made.endswith(body))
        again = compose(made, AUTHOR)
        self.assertEqual(again.content, made)

    def test_time_is_linear(self) -> None:
        for unit in (b"To: a@b.c\r\n", b"X: y\r\n", b" y\r\n", b"a@b.c,\r\n "):
            durations = []
            for count in (2000, 16000):
                start = time.process_time()
                compose(b"To: x@y.z,\r\n " + unit * count + b"\r\n\r\nbody\r\n", AUTHOR)
                durations.append(time.process_time() - start)
            self.assertLess(durations[1], durations[0] * 24 + 0.05, unit)


class AddressTests(SynchronousTestCase):
    """Addresses of the command line."""

    def test_recipients_may_be_lists_and_short(self) -> None:
        found = full_addresses(["joe", "A <a@b.c>, joe@example.org"], "example.org")
        self.assertEqual(found, ("joe@example.org", "a@b.c"))
        self.assertRaises(ComposeError, full_addresses, ["a b"], "example.org")

    def test_the_sender_is_one_or_none(self) -> None:
        for text, wanted in (("", ""), ("<>", ""), ("joe", "joe@example.org"), ("<A@B.c>", "A@b.c")):
            self.assertEqual(sender_address(text, "example.org"), wanted)
        self.assertRaises(ComposeError, sender_address, "a@b, c@d", "example.org")

    def test_a_variable_sender_names_the_recipient(self) -> None:
        self.assertEqual(variable_sender("list@our.x", "joe@a.b"), "list-joe=a.b@our.x")
        self.assertEqual(variable_sender("", "joe@a.b"), "")
