"""
Tests for L{qmailpy.wire.client_limits}, and of what the client core makes of it.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.wire.client_events import Tls
from qmailpy.wire.client_limits import NO_LIMITS, Limits, limits
from qmailpy.wire.smtp_client import SmtpClient


class LimitsTests(SynchronousTestCase):
    def test_the_example_of_the_rfc(self) -> None:
        """RFC 9422 s.3: names and values, in any order and case; those we do not know are passed over."""
        self.assertEqual(limits("MAILMAX=10 RCPTMAX=5"), Limits(messages=10, recipients=5))
        self.assertEqual(limits("rcptdomainmax=1 NEWMAX=x FLAG RCPTMAX=100"), Limits(recipients=100, domains=1))

    def test_what_is_no_value_is_no_limit(self) -> None:
        """0 neither: nothing could be sent."""
        for bad in ("", "MAILMAX", "MAILMAX=", "MAILMAX=0", "MAILMAX=-1", "MAILMAX=1000000", "MAILMAX=\u0661", "=5"):
            self.assertEqual(limits(bad), NO_LIMITS, bad)

    def test_only_so_many_recipients(self) -> None:
        """In their order, whatever their positions."""
        self.assertEqual(Limits(recipients=2).fitting(["a", "b", "c", "d"], [3, 1, 0], ()), [3, 1])
        self.assertEqual(NO_LIMITS.fitting(["a@x", "b@y"], [0, 1], ()), [0, 1])

    def test_only_so_many_domains_with_those_of_before(self) -> None:
        people = ["a@x.example", "b@y.example", "c@X.example", "d@z.example"]
        self.assertEqual(Limits(domains=1).fitting(people, range(4), ()), [0, 2])
        self.assertEqual(Limits(domains=2).fitting(people, range(4), {"z.example"}), [0, 2, 3])
        self.assertEqual(Limits(domains=1).fitting(people, [0, 1], {"z.example"}), [])
        self.assertEqual(Limits(domains=1, recipients=1).fitting(people, range(4), ()), [0])

    @given(
        st.lists(st.sampled_from(["a@x", "b@y", "c@z", "d@x"]), max_size=9),
        st.integers(0, 4),
        st.integers(0, 3),
        st.sets(st.sampled_from(["x", "y"])),
    )
    def test_no_limit_is_ever_exceeded(self, people: list[str], recipients: int, domains: int, seen: set[str]) -> None:
        found = Limits(recipients=recipients, domains=domains).fitting(people, range(len(people)), seen)
        self.assertEqual(found, sorted(set(found)))
        if recipients:
            self.assertLessEqual(len(found), recipients)
        if domains and len(seen) <= domains:
            self.assertLessEqual(len(seen | {people[index][2:] for index in found}), domains)
        if people and not seen:
            self.assertTrue(found)

    def test_the_last_ehlo_counts(self) -> None:
        """What was said before TLS is forgotten (RFC 3207 s.4.2)."""
        core = SmtpClient("us.example", Tls.MAY)
        core.receive(b"220 x\r\n250-x\r\n250-LIMITS RCPTMAX=1\r\n250 STARTTLS\r\n220 go\r\n")
        self.assertEqual(core.limits.recipients, 1)
        core.secured()
        core.receive(b"250-x\r\n250 LIMITS MAILMAX=7\r\n")
        self.assertEqual(core.limits, Limits(messages=7))
