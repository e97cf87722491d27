"""What counts: the rules of mission s.4, a record at a time."""

from __future__ import annotations

from hypothesis import given, settings
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.records.record import Action, LogRecord, QueueFile
from qmailpy.stats.fold import apply, balanced, restart_lowest
from qmailpy.stats.items import ITEMS, STORED, Table
from tests.stats import strategies


def line(
    action: Action,
    source: str,
    destination: str = "",
    *,
    blocks: int = 3,
    attempts: int = 0,
    remaining: int = 0,
    continued: bool = False,
    queue_time: float | None = None,
    direction: str = "",
) -> LogRecord:
    return LogRecord(
        action=action,
        time=0.0,
        source=source,
        destination=destination,
        size_octets=blocks * 1024 - 10,
        file=QueueFile(channel="x", id="0" * 15, attempts=attempts, remaining=remaining, continued=continued),
        queue_time=queue_time,
        direction=direction,
    )


def folded(*records: LogRecord) -> Table:
    table: Table = {}
    for record in records:
        apply(table, record)
    return table


def named(table: Table, channel: str) -> dict[str, int]:
    """The items of a channel that are not zero."""
    return {name: value for name, value in zip(ITEMS, table.get(channel, []), strict=False) if value}


E, D, Q, Z, R, K, J, OPEN = (
    Action.ENQUEUED,
    Action.DEQUEUED,
    Action.DEFERRED,
    Action.PARTLY,
    Action.FAILED,
    Action.SILENCED,
    Action.REJECTED,
    Action.OPENED,
)


class FoldTests(SynchronousTestCase):
    def test_an_enqueue_counts_for_both_channels(self) -> None:
        """C4: Received, Stored of the destination; Submitted of the source."""
        table = folded(line(E, "tcp_local", "local", remaining=2), line(E, "tcp_local", "local", continued=True))
        self.assertEqual(
            named(table, "tcp_local"), {"submitted_messages": 1, "submitted_recipients": 2, "submitted_blocks": 3}
        )
        expected = {f"{event}_{unit}": n for event in ("received", "stored") for unit, n in UNITS.items()}
        self.assertEqual(named(table, "local"), expected)

    def test_a_message_is_delivered_when_its_last_recipient_is(self) -> None:
        """C4, C5: Delivered (first time), Stored, queue times."""
        table = folded(
            line(E, "tcp_local", "local", remaining=2),
            line(E, "tcp_local", "local", remaining=2, continued=True),
            line(D, "local", remaining=1, queue_time=0.5),
        )
        self.assertEqual(named(table, "local")["delivered_recipients"], 1)
        self.assertNotIn("delivered_messages", named(table, "local"))
        apply(table, line(D, "local", remaining=0, continued=True, queue_time=1.25))
        self.assertEqual(
            named(table, "local"),
            {f"{event}_{unit}": n for event in ("received", "delivered") for unit, n in UNITS.items()}
            | {
                "delivered_first_messages": 1,
                "queue_time_ms": 1250,
                "queue_count": 1,
                "queue_first_time_ms": 1250,
                "queue_first_count": 1,
            },
        )

    def test_a_later_attempt_is_not_the_first(self) -> None:
        found = named(
            folded(line(E, "a", "b"), line(Q, "b", remaining=1), line(D, "b", attempts=1, queue_time=60.0)), "b"
        )
        self.assertEqual((found["queue_time_ms"], found["queue_count"]), (60000, 1))
        self.assertFalse({"delivered_first_messages", "queue_first_count"} & set(found))
        self.assertEqual(
            (found["attempted_messages"], found["attempted_recipients"], found["attempted_blocks"]), (1, 1, 3)
        )

    def test_failures_leave_the_queue_without_queue_time(self) -> None:
        """C4: Failed; Delivered holds what bounced, as the ancestor's."""
        for action in (R, K):
            found = named(folded(line(E, "a", "b"), line(action, "b", queue_time=3.0)), "b")
            self.assertEqual(found["failed_messages"], 1)
            self.assertEqual(found["delivered_messages"], 1)
            self.assertFalse({"queue_count", "stored_messages", "delivered_first_messages"} & set(found))

    def test_refusals_and_deferrals_and_associations(self) -> None:
        """C4, C5: Rejected, Attempted, In and Out Assocs; the others count nothing."""
        self.assertEqual(
            named(folded(line(J, "a", "a", blocks=0), line(J, "a", "a", blocks=0, continued=True)), "a"),
            {"rejected_messages": 1, "rejected_recipients": 2},
        )
        self.assertEqual(named(folded(line(Z, "a"), line(Z, "a", continued=True)), "a")["attempted_recipients"], 2)
        self.assertEqual(
            named(
                folded(line(OPEN, "a", direction="+"), line(OPEN, "a", direction="-"), line(OPEN, "a", direction="-")),
                "a",
            ),
            {"in_associations": 1, "out_associations": 2},
        )
        for action in set(Action) - {E, D, Q, Z, R, K, J, OPEN}:
            self.assertEqual(folded(line(action, "a", "b")), {})

    def test_one_message_to_two_channels_is_two_submitted(self) -> None:
        """C7."""
        found = named(folded(line(E, "tcp_local", "local"), line(E, "tcp_local", "tcp_intranet")), "tcp_local")
        self.assertEqual(found["submitted_messages"], 2)

    def test_a_pass_through_channel_receives_submits_and_delivers(self) -> None:
        """C8: conversion."""
        found = named(
            folded(
                line(E, "tcp_local", "conversion"),
                line(E, "conversion", "local"),
                line(D, "conversion", queue_time=0.0),
            ),
            "conversion",
        )
        self.assertEqual([found[f"{event}_messages"] for event in ("received", "submitted", "delivered")], [1, 1, 1])

    def test_the_smallest_stored_is_kept(self) -> None:
        """C6: also when it lasted no longer than from one line to the next."""
        table = folded(line(D, "b"), *[line(E, "a", "b", blocks=5)] * 2)
        found = named(table, "b")
        self.assertEqual((found["lowest_messages"], found["lowest_recipients"], found["lowest_blocks"]), (-1, -1, -3))
        self.assertEqual(found["stored_messages"] - found["lowest_messages"], 2)
        apply(table, line(D, "b"))  # another leaves, and there are more than there were at the worst
        again = named(table, "b")
        self.assertEqual(
            {name: again[name] for name in again if name.startswith("lowest")},
            {name: found[name] for name in found if name.startswith("lowest")},
        )
        restart_lowest(table)
        self.assertEqual(named(table, "b").get("lowest_messages", 0), table["b"][STORED])

    @given(strategies.histories())
    @settings(max_examples=150, deadline=None)
    def test_received_is_delivered_and_stored(self, history: list[LogRecord]) -> None:
        for row in folded(*history).values():
            self.assertTrue(balanced(row))


UNITS = {"messages": 1, "recipients": 2, "blocks": 3}
