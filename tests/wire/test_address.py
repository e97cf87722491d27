"""Tests of the address grammar."""

from __future__ import annotations

import time

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.values import Reply
from qmailpy.wire.address import join, parse_mailbox, parse_path, split, unquote, valid_domain

GOOD = {
    b"<user@example.org>": "user@example.org",
    b"<User.Name+tag@Example.ORG>": "User.Name+tag@example.org",
    b"<a@b>": "a@b",
    b"<_x@under_score.example>": "_x@under_score.example",
    b"<user@[192.0.2.1]>": "user@[192.0.2.1]",
    b"<user@[IPv6:2001:DB8:0::1]>": "user@[ipv6:2001:db8::1]",
    b'<"user"@example.org>': "user@example.org",
    b'<"two words"@example.org>': '"two words"@example.org',
    b'<"a@b>c"@example.org>': '"a@b>c"@example.org',
    rb'<"q\"uote\\"@example.org>': r'"q\"uote\\"@example.org',
    rb'<"\a\b"@example.org>': "ab@example.org",
    b'<""@example.org>': '""@example.org',
    b"<@a.example,@[192.0.2.1]:user@example.org>": "user@example.org",
    b"<!#$%&'*+-/=?^_`{|}~@example.org>": "!#$%&'*+-/=?^_`{|}~@example.org",
}

BAD = [
    b"",
    b"<",
    b">",
    b"user@example.org",
    b"<user@example.org",
    b"<user>",
    b"<@example.org>",
    b"<user@>",
    b"<user@@example.org>",
    b"<us er@example.org>",
    b"<.user@example.org>",
    b"<user.@example.org>",
    b"<us..er@example.org>",
    b"<user@.example.org>",
    b"<user@example.org.>",
    b"<user@example..org>",
    b"<user@-example.org>",
    b"<user@example-.org>",
    b"<user@example.org->",
    b"<user@exam ple.org>",
    b"<user@[300.0.0.1]>",
    b"<user@[192.0.2.1>",
    b"<user@[]>",
    b"<user@[IPv6:zz::1]>",
    b"<user@[IPv6:fe80::1%eth0]>",
    b"<user@[tag:content]>",
    b"<user@" + b"a" * 64 + b".org>",
    b"<user@exa\x00mple.org>",
    b"<us\x00er@example.org>",
    b'<"us\x01er"@example.org>',
    b'<"us\rer"@example.org>',
    b'<"user@example.org>',
    b'<"us"er@example.org>',
    b"<@a.example:>",
    b"<@a.example user@example.org>",
    b"<@a b:user@example.org>",
    b"<@:user@example.org>",
    b"<a.example:user@example.org>",
]


class AddressTests(SynchronousTestCase):
    """Paths as MAIL and RCPT carry them."""

    def test_good_paths_have_one_canonical_form(self) -> None:
        for line, address in GOOD.items():
            for sender in (True, False):
                self.assertEqual(parse_path(line, 0, sender=sender), (address, len(line)), line)

    def test_the_canonical_form_is_itself_a_valid_path(self) -> None:
        for address in GOOD.values():
            line = f"<{address}>".encode()
            self.assertEqual(parse_path(line, 0, sender=False), (address, len(line)))

    def test_bad_paths_are_refused_with_the_code_of_their_side(self) -> None:
        for line in BAD:
            for sender, enhanced in ((True, "5.1.7"), (False, "5.1.3")):
                reply = parse_path(line, 0, sender=sender)
                assert isinstance(reply, Reply), line
                self.assertEqual((reply.code, reply.enhanced), (501, enhanced), line)

    def test_only_a_sender_may_be_null(self) -> None:
        self.assertEqual(parse_path(b"<> SIZE=1", 0, sender=True), ("", 2))
        self.assertIsInstance(parse_path(b"<>", 0, sender=False), Reply)

    def test_only_a_recipient_may_be_postmaster_alone(self) -> None:
        """RFC 5321 s.4.1.1.3."""
        self.assertEqual(parse_path(b"<PostMaster>", 0, sender=False), ("postmaster", 12))
        self.assertIsInstance(parse_path(b"<postmaster>", 0, sender=True), Reply)
        self.assertIsInstance(parse_path(b"<@a.example:postmaster>", 0, sender=False), Reply)

    def test_parsing_starts_where_told_and_says_where_it_ended(self) -> None:
        line = b"FROM:<a@example.org> SIZE=5"
        self.assertEqual(parse_path(line, 5, sender=True), ("a@example.org", 20))
        rare = b'FROM:<"a b"@example.org> SIZE=5'
        self.assertEqual(parse_path(rare, 5, sender=True), ('"a b"@example.org', 24))

    def test_lengths_are_limited(self) -> None:
        """RFC 5321 s.4.5.3.1."""
        label = b"d" * 63
        domain = b".".join([label] * 3)  # 191 octets
        fits = b"<" + b"l" * 62 + b"@" + domain + b">"
        self.assertEqual(len(fits), 256)
        self.assertNotIsInstance(parse_path(fits, 0, sender=False), Reply)
        for line in (
            b"<" + b"l" * 63 + b"@" + domain + b">",  # path of 257
            b"<" + b"l" * 65 + b"@example.org>",
            b'<"' + b" " * 63 + b'"@example.org>',
            b"<a@" + b".".join([label] * 4) + b".x>",
        ):
            self.assertIsInstance(parse_path(line, 0, sender=False), Reply, line)
        self.assertNotIsInstance(parse_path(b"<" + b"l" * 64 + b"@example.org>", 0, sender=False), Reply)

    def test_an_address_that_is_not_ascii_needs_smtputf8(self) -> None:
        """RFC 6531 s.3.5."""
        line = "<bücher@Bücher.example>".encode()
        reply = parse_path(line, 0, sender=False)
        assert isinstance(reply, Reply)
        self.assertEqual((reply.code, reply.enhanced), (553, "5.6.7"))
        self.assertEqual(parse_path(line, 0, sender=False, utf8=True), ("bücher@xn--bcher-kva.example", len(line)))
        for bad in (b"<b\xff@example.org>", "<b\u00a0c@example.org>".encode(), "<b\u0085c@example.org>".encode()):
            self.assertIsInstance(parse_path(bad, 0, sender=False, utf8=True), Reply, bad)

    def test_an_address_alone(self) -> None:
        self.assertEqual(parse_mailbox("User@EXAMPLE.org"), "User@example.org")
        self.assertEqual(parse_mailbox('"a b"@example.org'), '"a b"@example.org')
        for text in ("", "user", "<user@example.org>", "a@b> x", "a@b>", "@a:b@c", "a@b\n", "bü@example.org"):
            self.assertIsInstance(parse_mailbox(text), Reply, text)

    def test_split_and_join(self) -> None:
        self.assertEqual(split("a@example.org"), ("a", "example.org"))
        self.assertEqual(split('"a@b"@example.org'), ('"a@b"', "example.org"))
        self.assertEqual(split("a@[ipv6:2001:db8::1]"), ("a", "[ipv6:2001:db8::1]"))
        self.assertEqual(split(""), ("", ""))
        self.assertEqual(split("postmaster"), ("postmaster", ""))
        self.assertEqual(unquote(r'"q\"u\\ote"'), r'q"u\ote')
        self.assertEqual(join(r'q"u\ote', "Example.org"), r'"q\"u\\ote"@example.org')
        self.assertRaises(ValueError, join, "a\nb", "example.org")

    def test_domains(self) -> None:
        for good in ("example.org", "x", "[192.0.2.1]", "[IPv6:::1]", "xn--bcher-kva.example"):
            self.assertTrue(valid_domain(good), good)
        for bad in ("", ".", "a..b", "-a", "[::1]", "a b", "bücher.example"):
            self.assertFalse(valid_domain(bad), bad)
        self.assertTrue(valid_domain("bücher.example", utf8=True))

    @settings(deadline=None)
    @given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30))
    def test_any_printable_local_part_survives_the_wire(self, local: str) -> None:
        address = join(local, "example.org")
        line = f"<{address}>".encode()
        self.assertEqual(parse_path(line, 0, sender=False), (address, len(line)))
        self.assertEqual(unquote(split(address)[0]), local)

    @settings(deadline=None)
    @given(st.binary(max_size=60), st.booleans(), st.booleans())
    def test_garbage_is_refused_or_made_canonical(self, line: bytes, sender: bool, utf8: bool) -> None:
        for text in (line, b"<" + line + b">", b"<" + line + b"@example.org>", b'<"' + line + b'"@example.org>'):
            found = parse_path(text, 0, sender=sender, utf8=utf8)
            if not isinstance(found, Reply):
                address, end = found
                self.assertLessEqual(end, len(text))
                self.assertNotIn("\n", address)
                self.assertNotIn("\r", address)
                again = parse_path(f"<{address}>".encode(), 0, sender=sender, utf8=utf8)
                self.assertEqual(again, (address, len(address.encode()) + 2))

    def test_time_is_linear(self) -> None:
        """The core never gives it more than a command line; a hundred times that must still be quick."""
        started = time.process_time()
        for line in (
            b'<"' + b"\\a" * 100000,
            b"<" + b"@a," * 100000 + b":",
            b"<" + b"a." * 100000,
            b"<@" + b":" * 200000,
        ):
            parse_path(line, 0, sender=True)
        self.assertLess(time.process_time() - started, 2.0)
