"""ORCPT on the wire and in our hands: RFC 3461 s.4.2, RFC 6533 s.3."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.wire.orcpt import emit_orcpt, parse_orcpt


class OrcptTests(SynchronousTestCase):
    def test_each_form_is_decoded(self) -> None:
        """The last one is what some send: the UTF-8 octets in xtext."""
        for value, utf8, wanted in (
            ("rfc822;Bob@Example.COM", False, "rfc822;Bob@Example.COM"),
            ("rfc822;a+2Bb@x", False, "rfc822;a+b@x"),
            ("x400;/C=us/", False, None),
            ("x400;/C+3Dus/", False, "x400;/C=us/"),
            ("utf-8;\\x{E4}nn@\\x{4F8B}\\x{5B50}", False, "utf-8;änn@例子"),
            ("utf-8;änn@例子", True, "utf-8;änn@例子"),
            ("UTF-8;a\\x{5C}\\x{2B}\\x{20}b", True, "UTF-8;a\\+ b"),
            ("utf-8;+C3+A4nn@x", False, "utf-8;änn@x"),
        ):
            self.assertEqual(parse_orcpt(value, utf8=utf8), wanted, value)

    def test_what_is_none_is_refused(self) -> None:
        for value in (
            "",
            "rfc822",
            ";a@b",
            "rfc822;",
            "a,b;c",
            "rfc822;a b",
            "rfc822;ä@x",
            "rfc822;+C3+A4",
            "rfc822;a+0Db",
            "utf-8;a\\x{0A}b",
            "utf-8;a\\x{110000}",
            "utf-8;a\\x{D800}",
            "utf-8;\\x{2028}",
            "utf-8;+C3",
            "utf-8;a\ufffdb",
            "rfc822;" + "x" * 494,
        ):
            self.assertIsNone(parse_orcpt(value, utf8=True), value)
        self.assertIsNone(parse_orcpt("utf-8;ä@x"))

    def test_it_goes_out_in_the_form_the_peer_takes(self) -> None:
        for orcpt, utf8, wanted in (
            ("rfc822;a+b=c d@x", False, b"rfc822;a+2Bb+3Dc+20d@x"),
            ("utf-8;ä+\\@x", False, b"utf-8;\\x{E4}\\x{2B}\\x{5C}@x"),
            ("utf-8;ä+\\@x", True, "utf-8;ä\\x{2B}\\x{5C}@x".encode()),
            ("rfc822", False, b""),
            ("rf c;a", False, b""),
            ("rfc822;" + "+" * 165, False, b""),
        ):
            self.assertEqual(emit_orcpt(orcpt, utf8=utf8), wanted, orcpt)

    @given(st.sampled_from(["rfc822", "utf-8"]), st.text(max_size=60), st.booleans())
    def test_what_goes_out_comes_back_and_never_breaks_a_line(self, kind: str, address: str, utf8: bool) -> None:
        octets = emit_orcpt(f"{kind};{address}", utf8=utf8)
        self.assertFalse(any(octet <= 32 or octet == 127 for octet in octets))
        found = parse_orcpt(octets.decode(), utf8=utf8)
        if found is not None:
            self.assertEqual(found, f"{kind};{address}")
        elif address.isascii() and address.isprintable() and octets:
            self.fail("lost")
