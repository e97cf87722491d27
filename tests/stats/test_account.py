"""Accounting."""

from __future__ import annotations

import time
from math import ceil
from random import Random
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.schema import LogConfig
from qmailpy.records.record import Action, LogRecord, QueueFile
from qmailpy.records.text import LineFormat
from qmailpy.stats.account import OTHERS, Account, By, Line, Volume
from qmailpy.stats.fold import apply
from qmailpy.stats.items import DELIVERED, FAILED, SUBMITTED, Table
from tests.records.strategies import options, records
from tests.stats.strategies import copies

_NOON = time.mktime((2026, 3, 1, 12, 0, 0, 0, 0, -1))
_ID = "06kq9q5g5k3l0a0"


def _line(
    action: Action, to: str, remaining: int = 0, continued: bool = False, at: float = _NOON, **more: Any
) -> bytes:
    record = LogRecord(
        action=action,
        time=at,
        source="tcp_local" if action is Action.ENQUEUED else "local",
        destination="local" if action is Action.ENQUEUED else "",
        size_octets=3000,
        sender="Ann@Example.NET",
        original_to=to,
        current_to=to,
        file=QueueFile(channel="local", id=_ID, attempts=0, remaining=remaining, continued=continued),
        queue_time=0.5 if action is Action.DEQUEUED else None,
        lane="0",
        sequence=1,
    )
    return LineFormat(LogConfig()).line(evolve(record, **more)).removesuffix(b"\n")


def _accounts(by: By, lines: list[bytes], **more: float) -> dict[str, Line]:
    account = Account(by, LogConfig(), **more)  # type: ignore[arg-type]
    account.feed(lines)
    return {line.keys[0]: line for line in account.lines()}


class AccountTests(SynchronousTestCase):
    def test_a_message_to_two_domains_counts_for_each(self) -> None:
        """S1: one message, three recipients of two domains."""
        people = ["b@one.example", "c@one.example", "d@two.example"]
        lines = [_line(Action.ENQUEUED, to, at + 1, at > 0) for at, to in enumerate(people)]
        lines += [_line(Action.DEQUEUED, to, 2 - at, at > 0) for at, to in enumerate(people)]
        found = _accounts(By.DOMAIN, lines)
        self.assertEqual(set(found), {"example.net", "one.example", "two.example"})
        self.assertEqual(found["example.net"].sent, Volume(messages=1, recipients=3, octets=3072))
        self.assertEqual(found["one.example"].delivered, Volume(messages=1, recipients=2, octets=3072))
        self.assertEqual(found["two.example"].delivered, Volume(messages=1, recipients=1, octets=3072))
        self.assertEqual(found["one.example"].queue_time_s, 0.5)
        for share in found["one.example"].percentiles_s or ():
            self.assertLess(abs(share - 0.5), 0.5 * 0.021)

    def test_a_message_for_two_channels_was_sent_once(self) -> None:
        lines = [_line(Action.ENQUEUED, "b@one.example", 1), _line(Action.ENQUEUED, "c@far.example", 1)]
        self.assertEqual(_accounts(By.USER, lines)["ann@example.net"].sent.messages, 1)
        self.assertEqual(_accounts(By.CHANNEL, lines)["tcp_local"].sent.messages, 2)

    def test_a_login_is_the_user(self) -> None:
        found = _accounts(By.USER, [_line(Action.ENQUEUED, "b@one.example", 1, user="joe@example.net")])
        self.assertEqual(list(found), ["joe@example.net"])

    def test_failures_deferrals_and_refusals_count_recipients(self) -> None:
        actions = [Action.FAILED, Action.SILENCED, Action.DEFERRED, Action.PARTLY, Action.REJECTED, Action.WARNED]
        found = _accounts(By.DOMAIN, [_line(action, "b@one.example") for action in actions])["one.example"]
        self.assertEqual((found.failed, found.deferred, found.rejected), (2, 2, 1))
        self.assertEqual((found.sent.recipients, found.delivered.recipients), (0, 0))

    def test_days_and_hours(self) -> None:
        lines = [_line(Action.DEQUEUED, "b@one.example", at=_NOON + hours * 3600) for hours in (20, 0, 1)]
        self.assertEqual(list(_accounts(By.DAY, lines)), ["2026-03-01", "2026-03-02"])
        self.assertEqual(list(_accounts(By.HOUR, lines)), ["2026-03-01 12:00", "2026-03-01 13:00", "2026-03-02 08:00"])

    def test_destinations_are_channel_and_domain(self) -> None:
        lines = [_line(Action.ENQUEUED, "b@One.example", 1), _line(Action.DEQUEUED, "b@One.example")]
        self.assertEqual(list(_accounts(By.DESTINATION, lines)), ["local/one.example"])

    def test_what_was_refused_counts_where_it_would_have_gone(self) -> None:
        """And by channel where it came from; with both, by both."""
        line = _line(Action.REJECTED, "b@One.example", destination="tcp_out", source="tcp_local")
        self.assertEqual(
            {key: one.rejected for key, one in _accounts(By.DESTINATION, [line]).items()}, {"tcp_out/one.example": 1}
        )
        self.assertEqual({key: one.rejected for key, one in _accounts(By.CHANNEL, [line]).items()}, {"tcp_local": 1})
        both = Account([By.CHANNEL, By.DESTINATION], LogConfig())
        both.feed([line])
        self.assertEqual([one.keys for one in both.lines()], [("tcp_local", "tcp_out/one.example")])

    def test_an_address_without_a_domain_is_whose_it_came_to_be(self) -> None:
        """RCPT TO:<postmaster>; the ancestor's users, who go by their names and to the tag of a channel."""
        lines = [_line(Action.DEQUEUED, "Postmaster", current_to="postmaster@Example.org")]
        self.assertEqual(list(_accounts(By.USER, lines)), ["postmaster@example.org"])
        self.assertEqual(list(_accounts(By.DOMAIN, lines)), ["example.org"])
        lines = [_line(Action.DEQUEUED, "Joe", current_to="joe@ims-ms-daemon")]
        lines += [_line(Action.ENQUEUED, "ann@one.example", 1, sender="Root")]
        self.assertEqual(list(_accounts(By.USER, lines)), ["joe", "root"])
        self.assertEqual(list(_accounts(By.DOMAIN, lines)), ["(local)"])
        self.assertEqual(list(_accounts(By.DOMAIN, [_line(Action.DEQUEUED, "", current_to="")])), ["<>"])

    def test_a_mailbox_has_what_came_by_any_of_its_addresses(self) -> None:
        """T7: what users received, and who sent it: the login, as by user."""
        lines = [
            _line(Action.DEQUEUED, to, current_to="Joe@example.org")
            for to in ("joe+news@example.org", "info@example.org", "joe@example.org")
        ]
        lines += [_line(Action.FAILED, "info@example.org", current_to="ann@example.org")]
        lines += [_line(Action.ENQUEUED, "x@one.example", 1, user="joe@example.org")]
        found = _accounts(By.MAILBOX, lines)
        self.assertEqual(set(found), {"joe@example.org", "ann@example.org"})
        joe = found["joe@example.org"]
        self.assertEqual((joe.delivered.messages, joe.sent.messages, found["ann@example.org"].failed), (3, 1, 1))
        self.assertEqual(len(_accounts(By.USER, lines)), 3)

    def test_since_and_until_bound_it(self) -> None:
        """Since is in, until is not."""
        lines = [_line(Action.DEQUEUED, "b@one.example", at=_NOON + seconds) for seconds in range(10)]
        found = _accounts(By.DOMAIN, lines, since=_NOON + 2, until=_NOON + 5)
        self.assertEqual(found["one.example"].delivered.recipients, 3)

    def test_the_null_sender_has_an_account(self) -> None:
        self.assertEqual(list(_accounts(By.DOMAIN, [_line(Action.ENQUEUED, "b@one.example", 1, sender="")])), ["<>"])

    def test_several_keys_make_a_row_for_what_occurs_together(self) -> None:
        """T7: volumes of each domain on each day; the same in another order is the same, turned round."""
        lines = [
            _line(Action.DEQUEUED, "b@one.example"),
            _line(Action.DEQUEUED, "b@two.example"),
            _line(Action.DEQUEUED, "b@two.example"),
            _line(Action.DEQUEUED, "b@two.example", at=_NOON + 86400),
            _line(Action.ENQUEUED, "b@two.example", 1, sender="x@one.example"),
        ]
        account = Account([By.DAY, By.DOMAIN], LogConfig())
        account.feed(lines)
        found = {line.keys: (line.sent.recipients, line.delivered.recipients) for line in account.lines()}
        first, second = sorted({day for day, _ in found})
        expected = {(first, "one.example"): (1, 1), (first, "two.example"): (0, 2), (second, "two.example"): (0, 1)}
        self.assertEqual(found, expected)
        self.assertEqual([day for day, _ in found], [first, first, second])
        turned = Account([By.DOMAIN, By.DAY], LogConfig())
        turned.feed(lines)
        self.assertEqual({line.keys[::-1] for line in turned.lines()}, set(found))
        both = Account([By.DESTINATION, By.DAY], LogConfig())
        both.feed(lines)
        self.assertEqual(sum(line.sent.recipients for line in both.lines()), 0)

    def test_too_many_keys_are_counted_together(self) -> None:
        account = Account(By.USER, LogConfig(), keys=3)
        account.feed(_line(Action.DEQUEUED, f"u{number}@one.example") for number in range(10))
        found = {line.keys[0]: line.delivered.recipients for line in account.lines()}
        self.assertEqual(len(found), 4)
        self.assertEqual((found[OTHERS.decode()], sum(found.values())), (7, 10))

    def test_averages_are_exact_and_percentiles_within_their_error(self) -> None:
        """Against the sorted times themselves, of short and long waits, and none at all."""
        random = Random(3)
        times = [0] * 50 + [int(random.lognormvariate(5, 3)) for _ in range(3000)] + [random.randrange(10**9)]
        account = Account(By.DOMAIN, LogConfig())
        account.feed(_line(Action.DEQUEUED, "b@one.example", queue_time=spent / 1000) for spent in times)
        (line,) = account.lines()
        self.assertAlmostEqual(line.queue_time_s, sum(times) / len(times) / 1000, places=6)
        times.sort()
        for share, found in zip((0.5, 0.95, 0.99), line.percentiles_s or (), strict=True):
            exact = times[ceil(share * len(times)) - 1] / 1000
            self.assertLessEqual(abs(found - exact), 0.02001 * exact, share)

    def test_pieces_are_no_records(self) -> None:
        whole = _line(Action.DEQUEUED, "b@one.example")
        account = Account(By.DOMAIN, LogConfig())
        account.feed([b"", whole[:90] + b" \\", whole[:60] + whole, whole[:150] + whole, whole[:90], whole])
        self.assertEqual(account.lines()[0].delivered.recipients, 3)
        self.assertEqual(account.unreadable, 2)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(copies(), max_size=8))
    def test_a_channels_account_is_its_counters(self, histories: list[list[LogRecord]]) -> None:
        """The same log added up in two ways: what a channel submitted, delivered and failed."""
        form = LineFormat(LogConfig())
        table: Table = {}
        flat = [evolve(record, lane="0", sequence=1) for history in histories for record in history]
        for record in flat:
            apply(table, record)
        account = Account(By.CHANNEL, LogConfig())
        account.feed(form.line(record).removesuffix(b"\n") for record in flat)
        found = {line.keys[0]: line for line in account.lines()}
        for channel, row in table.items():
            line = found.get(channel)
            sent = (line.sent.messages, line.sent.recipients, line.sent.octets // 1024) if line else (0, 0, 0)
            self.assertEqual(sent, tuple(row[SUBMITTED : SUBMITTED + 3]))
            delivered, failed = (line.delivered.recipients, line.failed) if line else (0, 0)
            self.assertEqual((delivered + failed, failed), (row[DELIVERED + 1], row[FAILED + 1]))

    @settings(max_examples=150, deadline=None)
    @given(st.data(), options, st.lists(st.sampled_from(By), min_size=1, max_size=3, unique=True))
    def test_the_short_way_finds_what_the_parser_finds(
        self, data: st.DataObject, chosen: LogConfig, by: list[By]
    ) -> None:
        """With any options and any values."""
        form = LineFormat(chosen, "mail.example.org")
        written = data.draw(st.lists(records(chosen), max_size=6))
        lines = [form.line(record).removesuffix(b"\n") for record in written]
        short, whole = Account(by, chosen), Account(by, chosen, foreign=LineFormat(chosen, "mail.example.org"))
        short.feed(lines)
        whole.feed(lines)
        self.assertEqual(short.lines(), whole.lines())


class SpeedTests(SynchronousTestCase):
    def test_memory_does_not_grow_with_the_log(self) -> None:
        """The same keys again: the same rows; times of all lengths: a bounded number of classes."""
        account = Account(By.DOMAIN, LogConfig())
        for number in range(3000):
            account.feed([_line(Action.DEQUEUED, "b@one.example", queue_time=number * 7.3)])
        (classes,) = account._sketches.values()
        self.assertLess(len(classes), 400)
