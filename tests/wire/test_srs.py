"""Senders of ours that lead back to somebody else's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.values import Reply
from qmailpy.wire.srs import DAY_S, Srs, is_srs

NOW = 1700000000.0
SECRET = b"tick tack"


def local_of(address: str) -> str:
    return address.rpartition("@")[0]


class SrsTests(SynchronousTestCase):
    """L{Srs}."""

    def setUp(self) -> None:
        self.ours = Srs(SECRET, 21)
        self.first = Srs(b"the first forwarder's", 21)

    def back(self, address: str, now: float = NOW) -> str:
        found = self.ours.reverse(local_of(address), now)
        return found if isinstance(found, str) else f"{found.code} {found.enhanced}"

    def test_the_form_is_that_of_others(self) -> None:
        """What the reference in Python (srslib 0.1.5) and libsrs2 make of the same, with a hash of 4 characters."""
        four = Srs(SECRET, 21, 4)
        for sender, domain, made in (
            ("ann@far.example", "us.example", "SRS0=sFIw=G3=far.example=ann@us.example"),
            ("Ann.Lee@Far.example", "us.example", "SRS0=oh49=G3=Far.example=Ann.Lee@us.example"),
            (
                "SRS0=oh49=G3=Far.example=Ann.Lee@us.example",
                "third.example",
                "SRS1=Hk1z=us.example==oh49=G3=Far.example=Ann.Lee@third.example",
            ),
            (
                "SRS1=Hk1z=us.example==oh49=G3=Far.example=Ann.Lee@third.example",
                "fourth.example",
                "SRS1=Hk1z=us.example==oh49=G3=Far.example=Ann.Lee@fourth.example",
            ),
        ):
            self.assertEqual(four.forward(sender, domain, NOW), made)

    def test_a_bounce_finds_back(self) -> None:
        for sender in ("ann@far.example", "a=b=c@far.example", '"a b"@far.example', "srs@far.example", "ä@far.example"):
            made = self.ours.forward(sender, "us.example", NOW)
            self.assertTrue(is_srs(local_of(made).strip('"')), made)
            self.assertEqual(self.back(made), sender)

    def test_through_two_forwarders_it_comes_back_to_the_first(self) -> None:
        at_first = self.first.forward("ann@far.example", "first.example", NOW)
        at_ours = self.ours.forward(at_first, "us.example", NOW)
        self.assertEqual(self.back(at_ours), at_first)
        self.assertEqual(self.first.reverse(local_of(at_first), NOW), "ann@far.example")
        third = Srs(b"third", 21).forward(at_ours, "third.example", NOW)
        self.assertTrue(third.startswith("SRS1=") and "=first.example==" in third, "no longer with each forwarder")

    def test_another_case_is_the_same(self) -> None:
        """Some servers change the case of local parts."""
        made = self.ours.forward("ann@far.example", "us.example", NOW)
        self.assertEqual(self.back(made.lower()), "ann@far.example")
        self.assertEqual(self.back(made.upper()), "ANN@far.example")

    def test_what_we_did_not_make_leads_nowhere(self) -> None:
        made = local_of(self.ours.forward("ann@far.example", "us.example", NOW))
        chained = local_of(self.ours.forward(self.first.forward("a@b.example", "c.example", NOW), "us.example", NOW))
        for bad in (
            made.replace("ann", "eve"),
            made.replace("far.", "near."),
            made[:5] + "AAAAAA" + made[11:],
            made[:5] + made[6:],
            made[:5] + made[11:],
            "SRS0=",
            "SRS0===",
            "SRS0====",
            "SRS1=",
            "SRS1=a=b",
            "SRS1=a=b=c",
            "SRS1===",
            local_of(self.first.forward("ann@far.example", "us.example", NOW)),
            chained.replace("c.example", "d.example"),
            chained[:5] + "AAAAAA" + chained[11:],
            chained.replace("SRS1", "SRS0"),
            made.replace("SRS0", "SRS1"),
        ):
            self.assertEqual(self.back(bad + "@us.example"), "550 5.1.1", bad)

    def test_it_is_good_for_its_days(self) -> None:
        made = self.ours.forward("ann@far.example", "us.example", NOW)
        self.assertEqual(self.back(made, NOW + 21 * DAY_S), "ann@far.example")
        self.assertEqual(self.back(made, NOW + 22 * DAY_S), "550 5.1.1")
        self.assertEqual(self.back(made, NOW - DAY_S), "550 5.1.1", "of the day before it was made")

    def test_the_days_go_round_after_1024(self) -> None:
        end = 1024 * 700 * DAY_S + 5.0  # day 0 again
        made = self.ours.forward("ann@far.example", "us.example", end - DAY_S)
        self.assertIn("=77=", made)
        self.assertEqual(self.back(made, end + 3 * DAY_S), "ann@far.example")

    def test_what_would_be_too_long_stays_as_it_is(self) -> None:
        """RFC 5321 s.4.5.3.1.1: 64 octets; the receiver's SPF may fail then, which is better than no mail at all."""
        made = self.ours.forward("a" * 37 + "@far.example", "us.example", NOW)
        self.assertEqual(len(local_of(made)), 64)
        longer = "a" * 38 + "@far.example"
        self.assertEqual(self.ours.forward(longer, "us.example", NOW), longer)

    def test_a_sender_of_the_same_domain_stays(self) -> None:
        self.assertEqual(self.ours.forward("ann@us.example", "us.example", NOW), "ann@us.example")

    @given(st.text(max_size=70))
    def test_nothing_that_looks_like_one_is_trouble(self, text: str) -> None:
        for head in ("SRS0=", "SRS1+", '"SRS1-'):
            found = Srs(SECRET, 21).reverse(head + text, NOW)
            self.assertIsInstance(found, Reply)
