"""What access rules compare with."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.policy.patterns import Names, Networks, glob


class PatternTests(SynchronousTestCase):
    """L{Names}, L{Networks}, L{glob}."""

    def test_names_of_every_form(self) -> None:
        names = Names(("joe@Example.org", "spam.example", ".evil.example", "list-*@lists.example", "<>", "tcp_local"))
        for text, entry in (
            ("JOE@example.ORG", "joe@example.org"),
            ("jim@example.org", ""),
            ("any@spam.example", "spam.example"),
            ("any@sub.spam.example", ""),
            ("spam.example", "spam.example"),
            ("x@a.b.evil.example", ".evil.example"),
            ("x@evil.example", ""),
            ("host.evil.example", ".evil.example"),
            ("list-a@lists.example", "list-*@lists.example"),
            ("", "<>"),
            ("tcp_local", "tcp_local"),
            ('"a@spam.example"@good.example', ""),
        ):
            self.assertEqual(names.match(text), entry, text)

    def test_networks_of_both_families(self) -> None:
        networks = Networks(("10.0.0.0/8", "192.0.2.7", "2001:db8::/32"))
        for ip, entry in (
            ("10.255.0.1", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("192.0.2.8", ""),
            ("2001:db8:ffff::1", "2001:db8::/32"),
            ("2001:db9::1", ""),
            ("", ""),
        ):
            self.assertEqual(networks.match(ip), entry, ip)
        self.assertEqual([Networks(("*",)).match(ip) for ip in ("", "10.0.0.1")], ["*", "*"])
        self.assertRaises(ValueError, Networks, ("10.0.0.1.2",))

    @given(st.lists(st.text("ab", max_size=3), min_size=1, max_size=5), st.text("ab", max_size=8))
    def test_stars_stand_for_anything(self, pieces: list[str], text: str) -> None:
        import re

        wanted = re.fullmatch(".*".join(map(re.escape, pieces)), text) is not None
        self.assertEqual(glob("*".join(pieces), text), wanted)

    def test_hostile_texts_cost_one_pass(self) -> None:
        begun = time.monotonic()
        self.assertFalse(glob("*".join("a" * 50) + "*b", "a" * 20000))
        self.assertLess(time.monotonic() - begun, 1)

    def test_a_hundred_thousand_entries_are_looked_up_and_not_scanned(self) -> None:
        names = Names(f"user{n}@host{n}.example" for n in range(100000))
        networks = Networks(f"10.{n >> 8 & 255}.{n & 255}.0/24" for n in range(65536))
        begun = time.monotonic()
        for n in range(2000):
            names.match(f"nobody@a.b.c.host{n}.example")
            networks.match(f"11.0.{n & 255}.1")
        self.assertLess(time.monotonic() - begun, 1)  # a scan of one takes milliseconds
        self.assertTrue(names.match("USER99999@host99999.example"))
        self.assertTrue(networks.match("10.200.7.7"))
