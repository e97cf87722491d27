"""What channels have last done, as the records tell."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.records.record import Action, LogRecord, QueueFile
from qmailpy.stats import activity
from qmailpy.stats.activity import Activity, as_json, status_code

_PEER = "dns;mx (TCP|1|2|3|4) (mx ESMTP) smtp;550 5.1.1 no such user"


def record(action: Action, time: float = 5.0, source: str = "tcp_local", **more: Any) -> LogRecord:
    return LogRecord(action=action, time=time, source=source, **more)


class ActivityTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.lane = Activity()

    def told(self, channel: str = "tcp_local") -> dict[str, Any]:
        found: dict[str, Any] = as_json([self.lane])[channel]
        return found

    def test_messages_and_connections_are_activity(self) -> None:
        self.lane.count([record(Action.ENQUEUED, 1.0, destination="local"), record(Action.DEQUEUED, 2.0, "local")])
        self.assertEqual((self.told()["in"], self.told()["out"], self.told("local")["out"]), (1.0, 0.0, 2.0))
        self.lane.count([record(Action.OPENED, 3.0, direction="+"), record(Action.OPENED, 4.0, direction="-")])
        found = self.told()
        self.assertEqual((found["in"], found["out"], found["attempt"], found["unreached"]), (3.0, 4.0, 4.0, ""))

    def test_the_reason_is_that_of_the_last_attempt(self) -> None:
        self.lane.count([record(Action.UNREACHED, 1.0, direction="-", diagnostic="no route to host")])
        found = self.told()
        self.assertEqual((found["failed"], found["unreached"], found["attempt"]), (1, "no route to host", 1.0))
        other = Activity()
        other.count([record(Action.OPENED, 2.0, direction="-")])
        self.assertEqual(as_json([self.lane, other])["tcp_local"]["unreached"], "")
        self.assertEqual(as_json([other, self.lane])["tcp_local"]["unreached"], "")
        self.lane.count([record(Action.REFUSED, direction="+", diagnostic="554 5.7.1 no")])
        self.assertEqual((self.told()["refused"], as_json([other])["tcp_local"]["refused"]), ("554 5.7.1 no", "never"))

    def test_errors_are_counted_by_code_and_where_they_were_met(self) -> None:
        """Once for an event, however many recipients; refused recipients each."""
        file = QueueFile(channel="tcp_local", id="0" * 15, attempts=0)
        more = QueueFile(channel="tcp_local", id="0" * 15, attempts=0, continued=True)
        self.lane.count(
            [
                record(Action.REJECTED, diagnostic="550 5.7.1 Relaying denied"),
                record(Action.REJECTED, diagnostic="550 5.7.1 Relaying denied", file=more),
                record(Action.FAILED, diagnostic=_PEER, file=file),
                record(Action.FAILED, diagnostic=_PEER, file=more),
                record(Action.DEFERRED, diagnostic="TCP active open: Failed connect()"),
                record(Action.DEFERRED, source="local", diagnostic="451 4.3.0 The mailbox cannot be written"),
            ]
        )
        self.assertEqual(self.told()["errors"], {"5007001": [2, 0, 0], "5001001": [0, 0, 1], "4000000": [0, 0, 1]})
        self.assertEqual(self.told("local")["errors"], {"4003000": [0, 1, 0]})
        doubled = as_json([self.lane, self.lane])["tcp_local"]["errors"]
        self.assertEqual(doubled["5007001"], [4, 0, 0])

    def test_codes_are_of_the_rfcs_form_whatever_peers_say(self) -> None:
        for diagnostic, code in (
            ("550 5.1.1 x", 5001001),
            ("450 x", 4000000),
            ("550-5.7.26 x", 5007026),
            ("550 5.1.1234 x", 5000000),
            ("421", 4000000),
            ("nonsense", 4000000),
        ):
            self.assertEqual(status_code(Action.DEFERRED, diagnostic), code, diagnostic)
        self.assertEqual(status_code(Action.FAILED, "nonsense"), 5000000)

    def test_peers_cannot_fill_the_memory(self) -> None:
        self.patch(activity, "CODES", 2)
        self.lane.count([record(Action.FAILED, diagnostic=f"dns;x smtp;550 5.1.{detail} x") for detail in range(9)])
        self.assertEqual(self.told()["errors"], {"5001000": [0, 0, 1], "5001001": [0, 0, 1], "5000000": [0, 0, 7]})
