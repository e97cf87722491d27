"""The name in EHLO."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.policy.hello import LITERAL, OURS, SYNTAX, fault


class HelloTests(SynchronousTestCase):
    """L{fault}."""

    def test_names_of_every_kind(self) -> None:
        for helo, found in (
            ("mail.example.net", ""),
            ("mail.example.net.", ""),
            ("xn--bcher-kva.example", ""),
            ("mail", SYNTAX),
            ("-a.example", SYNTAX),
            ("a..example", SYNTAX),
            ("a_b!.example", SYNTAX),
            ("198.51.100.9", SYNTAX),
            ("MX.example.org", OURS),
            ("localhost", OURS),
            ("[203.0.113.1]", OURS),
            ("[198.51.100.9]", ""),
            ("[198.51.100.8]", LITERAL),
            ("[IPv6:2001:db8::1]", LITERAL),
            ("[198.51.100.9", SYNTAX),
            ("[x]", SYNTAX),
        ):
            self.assertEqual(fault(helo, "mx.example.org", "198.51.100.9", "203.0.113.1"), found, helo)
        self.assertEqual(fault("[IPv6:2001:DB8::1]", "mx.example.org", "2001:db8::1", ""), "")
