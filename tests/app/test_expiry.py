"""Certificates that run out are told of in time."""

from __future__ import annotations

import datetime
from collections.abc import Callable

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.app.expiry import CertificateWatch, expiring
from qmailpy.cli.certificate import YEARS, self_signed
from qmailpy.errors import ConfigError
from qmailpy.servers.keys import Pair
from qmailpy.testing.memory_events import MemoryEvents

MADE = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
END = (MADE + datetime.timedelta(days=365 * YEARS + YEARS // 4)).timestamp()
DAY = 86400.0


def pair() -> Pair:
    certificate, key = self_signed("mx.example.org", MADE)
    return Pair(certificate=certificate, key=key)


class ExpiryTests(SynchronousTestCase):
    def test_two_weeks_before_it_is_told(self) -> None:
        pairs = {"": pair(), "www.example.org": Pair(certificate=b"nonsense", key=b"")}
        self.assertEqual(expiring(pairs, END - 14 * DAY), [])
        self.assertEqual(expiring(pairs, END - 14 * DAY + 1), [("tls/cert.pem", 13, "2036-01-01")])
        self.assertEqual(expiring(pairs, END + 1)[0][1], -1)
        self.assertEqual(expiring({"a.example": pair()}, END)[0][0], "tls/a.example/cert.pem")

    def test_it_is_looked_at_every_day(self) -> None:
        """Also when there were no certificates at first; the loop goes on."""
        clock, events = Clock(), MemoryEvents()
        clock.advance(END - 15.5 * DAY)
        results = iter([fail(ConfigError(("none",))), *[succeed({"": pair()}) for _ in range(5)]])

        def in_thread(_: object) -> Deferred[dict[str, Pair]]:
            found: Deferred[dict[str, Pair]] = next(results)
            return found

        watch = CertificateWatch(clock, events, lambda: {}, lambda: {}, in_thread)
        watch.startService()
        self.assertEqual(events.happenings, [])
        clock.advance(DAY)
        self.assertEqual(events.happenings, [])
        clock.advance(DAY)
        self.assertEqual(
            events.happenings,
            [("tls.certificate-expires", {"file": "tls/cert.pem", "days": 13, "date": "2036-01-01"})],
        )
        watch.stopService()
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_what_another_process_has_told_of_is_over_for_this_one_as_well(self) -> None:
        clock, events = Clock(), MemoryEvents()
        clock.advance(END - 100 * DAY)
        told = {"tls/cert.pem": END - 101 * DAY, "tls/gone.example/cert.pem": END - 102 * DAY}

        def in_thread(look: Callable[[], dict[str, Pair]]) -> Deferred[dict[str, Pair]]:
            return succeed(look())

        watch = CertificateWatch(clock, events, lambda: {"": pair()}, lambda: told, in_thread)
        watch.startService()
        self.assertEqual(events.names, ["trouble.over"] * 2)
        self.assertEqual(
            {(fields["about"], fields["lasted"]) for _, fields in events.happenings},
            {("tls/cert.pem", "24 h"), ("tls/gone.example/cert.pem", "2 days")},
        )
        watch.stopService()

    def test_it_is_over_with_another_certificate(self) -> None:
        """Looked at with a reload, not a day later; and told once."""
        clock, events = Clock(), MemoryEvents()
        clock.advance(END - 13 * DAY)
        pairs = {"": pair()}

        def in_thread(_: object) -> Deferred[dict[str, Pair]]:
            return succeed(pairs)

        watch = CertificateWatch(clock, events, lambda: {}, lambda: {}, in_thread)
        watch.look()
        self.assertEqual(events.names, [])
        watch.startService()
        clock.advance(3600)
        certificate, key = self_signed("mx.example.org", MADE + datetime.timedelta(days=300))
        pairs[""] = Pair(certificate=certificate, key=key)
        watch.look()
        watch.look()
        self.assertEqual(events.names, ["tls.certificate-expires", "trouble.over"])
        self.assertEqual(
            events.happenings[-1][1],
            {"event": "tls.certificate-expires", "about": "tls/cert.pem", "lasted": "60 min"},
        )
        watch.stopService()
