"""
Tests for L{qmailpy.wire.sts}.
"""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.wire.sts import LONGEST_S, Mode, StsPolicy, parse_policy, policy_id

# RFC 8461 s.3.2 and appendix A
EXAMPLE = (
    b"version: STSv1\nmode: enforce\nmx: mail.example.com\nmx: *.example.net\nmx: backupmx.example.com\n"
    b"max_age: 604800\n"
)


class RecordTests(SynchronousTestCase):
    """The TXT record."""

    def test_the_example_of_the_rfc(self) -> None:
        self.assertEqual(policy_id(["v=STSv1; id=20160831085700Z;"]), "20160831085700Z")

    def test_what_is_written_otherwise_and_good(self) -> None:
        """Without the last semicolon, with other fields, with blanks, beside other records."""
        for texts in (
            ["v=STSv1;id=1"],
            ["v=STSv1; \t id=1 ;  "],
            ["v=STSv1; x.y=z; id=1;"],
            ["v=STSv1; id=1; id=2"],
            ["v=spf1 -all", "v=STSv1; id=1"],
        ):
            self.assertEqual(policy_id(texts), "1", texts)

    def test_what_counts_as_none(self) -> None:
        """Two of them, or a mistake anywhere (RFC 8461 s.3.1)."""
        for texts in (
            [],
            ["v=STSv1; id=1", "v=STSv1; id=1"],
            ["v=STSv2; id=1"],
            [" v=STSv1; id=1"],
            ["V=STSv1; id=1"],
            ["v=STSv1 ; id=1"],
            ["v=STSv1; id="],
            ["v=STSv1; id=a-b"],
            ["v=STSv1; id=" + "1" * 33],
            ["v=STSv1; ID=1"],
            ["v=STSv1; x=1"],
            ["v=STSv1; id=1; nonsense"],
            ["v=STSv1;; id=1"],
            ["v=STSv1;"],
        ):
            self.assertEqual(policy_id(texts), "", texts)


class PolicyTests(SynchronousTestCase):
    """The policy."""

    def test_the_example_of_the_rfc(self) -> None:
        """With LF and with CRLF."""
        for octets in (EXAMPLE, EXAMPLE.replace(b"\n", b"\r\n"), EXAMPLE.rstrip()):
            policy = parse_policy(octets)
            self.assertEqual((policy.mode, policy.max_age_s), (Mode.ENFORCE, 604800))
            self.assertEqual(policy.mx, ("mail.example.com", "*.example.net", "backupmx.example.com"))
            self.assertEqual(policy.lines[0], "version: STSv1")

    def test_what_is_said_twice_counts_as_said_first(self) -> None:
        """Unknown keys do not matter; nobody keeps a policy for longer than a year."""
        policy = parse_policy(
            b"mode:testing\nversion: STSv1\nx-y: z\nmode: enforce\nmax_age: 9999999999\nmx: A.example"
        )
        self.assertEqual((policy.mode, policy.max_age_s, policy.mx), (Mode.TESTING, LONGEST_S, ("a.example",)))

    def test_a_policy_may_be_taken_back_without_naming_hosts(self) -> None:
        """RFC 8461 s.8.3."""
        self.assertEqual(parse_policy(b"version: STSv1\nmode: none\nmax_age: 86400\n").mode, Mode.NONE)

    def test_what_is_none(self) -> None:
        for old, new in (
            (b"STSv1", b"STSv2"),
            (b"version: STSv1\n", b""),
            (b"enforce", b"Enforce"),
            (b"mode: enforce\n", b""),
            (b"max_age: 604800\n", b""),
            (b"604800", b"-1"),
            (b"604800", b"1 week"),
            (b"604800", b"1" * 11),
            (b"mx: ", b"host: "),
            (b"*.example.net", b"*.*.example.net"),
            (b"*.example.net", b"mx*.example.net"),
            (b"*.example.net", b"*."),
            (b"*.example.net", b"[192.0.2.1]"),
            (b"mode:", b"mode"),
            (b"mode:", b"mo de:"),
            (b"enforce", b"enforce\x00"),
            (b"enforce", b"\xff"),
            (b"\n", b"\n\n"),
            (b"max_age", b"x: " + b"y" * 70000 + b"\nmax_age"),
        ):
            self.assertIn(old, EXAMPLE)
            self.assertRaises(ValueError, parse_policy, EXAMPLE.replace(old, new))
        self.assertRaises(ValueError, parse_policy, EXAMPLE + b"mx: a.example\n" * 300)
        self.assertRaises(ValueError, parse_policy, b"<html>not found</html>")

    @given(st.binary(max_size=200))
    def test_anything_is_a_policy_or_none(self, octets: bytes) -> None:
        with contextlib.suppress(ValueError):
            self.assertIsInstance(parse_policy(octets), StsPolicy)

    def test_which_hosts_are_in_it(self) -> None:
        """RFC 8461 s.4.1: a star is one label, neither none nor two."""
        policy = parse_policy(EXAMPLE)
        for host in ("mail.example.com", "MAIL.example.COM", "a.example.net"):
            self.assertTrue(policy.allows(host), host)
        for host in ("example.net", "a.b.example.net", "evil-mail.example.com", "mail.example.com.evil", "", "net"):
            self.assertFalse(policy.allows(host), host)
