"""Mail that a channel hands on is one message to whoever sent it and to whom it was for."""

from __future__ import annotations

import time
from itertools import product

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.schema import LogConfig
from qmailpy.records.record import JOURNAL, Action, LogRecord, QueueFile, parent_of
from qmailpy.records.removed import DELETED, DISCARDED, REMOVED
from qmailpy.records.sun import SunFormat
from qmailpy.records.text import LineFormat
from qmailpy.stats.account import Account, By, Line

_NOON = time.mktime((2026, 3, 1, 12, 0, 0, 0, 0, -1))
_IDS = [f"06kq9q5g5k3l{number}0" for number in range(10, 20)]
_PEER = "relay (relay.example.com [192.0.2.66])"
_KINDS = {"in": "smtp", "box": "local", "clean": "conversion", "own": "process", "away": "autoreply", "late": "hold"}
_BOUNCE, _REPLY = "<bounce.0123abc@mail.example.org>", "<reply.0123abc@mail.example.org>"


def _enqueued(source: str, destination: str, at: int, comes: str = "", *, sender: str = "ann@example.net") -> LogRecord:
    """@param at: which message it is. @param comes: the id of the message it comes from, or the peer."""
    return LogRecord(
        action=Action.ENQUEUED,
        time=_NOON,
        source=source,
        destination=destination,
        size_octets=2000,
        sender=sender,
        original_to="bob@example.org",
        current_to="bob@example.org",
        file=QueueFile(channel=destination, id=_IDS[at], attempts=0, remaining=1),
        message_id="<m@example.net>",
        source_system=comes,
        lane="0",
        sequence=1,
    )


def _dequeued(source: str, at: int) -> LogRecord:
    return evolve(
        _enqueued("", source, at), action=Action.DEQUEUED, source=source, destination="", queue_time=0.5,
        file=QueueFile(channel=source, id=_IDS[at], attempts=0),
    )  # fmt: skip


def _account(*records: LogRecord, by: By = By.USER, options: LogConfig | None = None) -> dict[str, Line]:
    """By both ways of reading lines, which must agree."""
    options = LogConfig() if options is None else options
    form = LineFormat(options)
    found = []
    for foreign in (None, LineFormat(options)):
        account = Account(by, options, kinds=_KINDS, foreign=foreign)
        account.feed(form.line(record).removesuffix(b"\n") for record in records)
        found.append((account.lines(), account.records, account.unreadable))
    assert found[0] == found[1], found
    assert found[0][1:] == (len(records), 0)
    return {line.keys[0]: line for line in found[0][0]}


def _sent(found: dict[str, Line]) -> dict[str, int]:
    return {key: line.sent.messages for key, line in found.items() if line.sent.messages}


def _got(found: dict[str, Line]) -> dict[str, int]:
    return {key: line.delivered.messages for key, line in found.items() if line.delivered.messages}


class HandedTests(SynchronousTestCase):
    def test_a_converted_message_was_sent_and_delivered_once(self) -> None:
        """T7, C8: the four records of a pass-through."""
        four = [
            evolve(_enqueued("in", "clean", 0, _PEER), modifiers="E"),
            _enqueued("clean", "box", 1, _IDS[0]),
            _dequeued("clean", 0),
            _dequeued("box", 1),
        ]
        found = _account(*four)
        self.assertEqual((_sent(found), _got(found)), ({"ann@example.net": 1}, {"bob@example.org": 1}))
        self.assertEqual(found["ann@example.net"].sent.octets, 2048)
        for by in (By.DOMAIN, By.DAY, By.HOUR):
            (sent,) = _sent(_account(*four, by=by)).values()
            (got,) = _got(_account(*four, by=by)).values()
            self.assertEqual((by, sent, got), (by, 1, 1))
        found = _account(*four, by=By.CHANNEL)
        self.assertEqual((_sent(found), _got(found)), ({"in": 1, "clean": 1}, {"clean": 1, "box": 1}))
        found = _account(*four, by=By.DESTINATION)
        self.assertEqual(_got(found), {"clean/example.org": 1, "box/example.org": 1})

    def test_what_was_forwarded_is_no_mail_of_whom_it_was_forwarded_for(self) -> None:
        """Nor of the address that stands for its sender since (SRS)."""
        first = evolve(_enqueued("in", "own", 0, _PEER), modifiers="E")
        on = _enqueued("own", "in", 1, _IDS[0], sender="SRS0=abc=xy=example.net=ann@example.org")
        self.assertEqual(_sent(_account(first, on, _dequeued("own", 0))), {"ann@example.net": 1})
        by_user = evolve(_enqueued("box", "own", 1, _IDS[0]), original_to="x@example.com")  # a .qmail file does so
        self.assertEqual(_sent(_account(first, by_user)), {"ann@example.net": 1})

    def test_one_who_is_away_got_a_message_once_and_answers_it(self) -> None:
        lines = [
            evolve(_enqueued("in", "box", 0, _PEER), modifiers="E"),
            _enqueued("box", "away", 1, _IDS[0]),
            _dequeued("box", 0),
            evolve(_enqueued("away", "in", 2, _IDS[1], sender=""), message_id=_REPLY),
            _dequeued("away", 1),
        ]
        found = _account(*lines)
        self.assertEqual(_sent(found), {"ann@example.net": 1, "<>": 1})
        self.assertEqual(_got(found), {"bob@example.org": 1})
        self.assertEqual(_sent(_account(_enqueued("box", "away", 1))), {})  # without the parent: it tells nothing else

    def test_a_notice_is_sent_where_it_begins(self) -> None:
        """And handed on by who looks up where it goes; one about mail that looks up failed for counts, too."""
        begins, on = _enqueued("in", "own", 1, _IDS[0], sender=""), _enqueued("own", "box", 2, _IDS[1], sender="")
        lines = [evolve(line, message_id=_BOUNCE) for line in (begins, on)]
        self.assertEqual(_sent(_account(*lines, _dequeued("own", 1))), {"<>": 1})
        self.assertEqual(_sent(_account(evolve(lines[0], source="own"))), {"<>": 1})

    def test_a_journal_copy_is_mail_of_its_own_from_nobody(self) -> None:
        """It is delivered, so it was sent; the message it is of goes on as the same."""
        four = [
            evolve(_enqueued("in", "clean", 0, _PEER), modifiers="E"),
            _enqueued("clean", "box", 1, _IDS[0]),
            evolve(_enqueued("clean", "box", 2, _IDS[0] + JOURNAL, sender=""), original_to="kept@example.org"),
            _dequeued("clean", 0),
            _dequeued("box", 1),
            evolve(_dequeued("box", 2), original_to="kept@example.org"),
        ]
        found = _account(*four)
        self.assertEqual(_sent(found), {"ann@example.net": 1, "<>": 1})
        self.assertEqual(_got(found), {"bob@example.org": 1, "kept@example.org": 1})
        self.assertEqual(parent_of(four[2]), _IDS[0])
        foreign = evolve(four[2], source="in", source_system=f"{_IDS[0]} (x [192.0.2.1])")
        self.assertEqual(parent_of(foreign), "")

    def test_mail_that_comes_by_no_protocol_is_sent(self) -> None:
        """From the drop directory; by HELO; from a host whose name is like an id."""
        for source, comes in (("box", ""), ("in", _PEER), ("in", f"{_IDS[3]} ([192.0.2.1])")):
            self.assertEqual(_sent(_account(_enqueued(source, "box", 0, comes))), {"ann@example.net": 1}, comes)

    def test_failures_count_wherever_they_happen(self) -> None:
        for source, action in product(("clean", "own", "late", "box"), (Action.FAILED, Action.SILENCED)):
            found = _account(evolve(_dequeued(source, 0), action=action, queue_time=None))
            self.assertEqual(found["bob@example.org"].failed, 1)

    def test_what_nobody_got_is_removed(self) -> None:
        """By every key alike: neither delivered nor failed, wherever it was; a server's words make no difference."""
        for text, source, by in product(sorted(REMOVED), ("box", "clean", "late", "in"), By):
            gone = evolve(_dequeued(source, 0), diagnostic=text)
            (line,) = _account(gone, by=by).values()
            self.assertEqual((line.removed, line.failed, line.delivered.recipients), (1, 0, 0), (text, source, by))
            self.assertIsNone(line.percentiles_s)
        for text in (f"smtp;250 2.0.0 was {DELETED}", "", f"250 2.0.0 {DISCARDED}"):
            (line,) = _account(evolve(_dequeued("in", 0), diagnostic=text)).values()
            self.assertEqual((line.removed, line.delivered.recipients), (0, 1), text)
        for options in (LogConfig(queue_time=False), LogConfig(username=False), LogConfig(filename=False)):
            (line,) = _account(evolve(_dequeued("box", 0), diagnostic=DELETED), options=options).values()
            self.assertEqual((line.removed, line.delivered.recipients), (1, 0))

    def test_lines_of_our_own_making_take_the_short_way(self) -> None:
        """But for notices, which are few."""
        account = Account(By.USER, LogConfig(), kinds=_KINDS)
        self.patch(account, "_slow", lambda line: self.fail(line.decode()))
        for record in (
            evolve(_enqueued("clean", "box", 1, _IDS[0]), subject="hello there"),
            _enqueued("box", "away", 1, _IDS[0]),
            _enqueued("box", "own", 1, _IDS[0]),
            _enqueued("in", "box", 1, _PEER),
            _enqueued("in", "box", 1, f"{_IDS[3]} ([192.0.2.1])"),
            _enqueued("box", "clean", 1),
        ):
            account.feed([LineFormat(LogConfig()).line(record).removesuffix(b"\n")])
        self.assertEqual(account.records, 6)
        self.assertEqual(account.lines()[0].sent.recipients, 3)

    def test_without_the_source_systems_the_channels_tell(self) -> None:
        options = LogConfig(connection=False)
        first, on = evolve(_enqueued("in", "clean", 0), modifiers="E"), _enqueued("clean", "box", 1)
        self.assertEqual(_sent(_account(first, on, _dequeued("clean", 0), options=options)), {"ann@example.net": 1})

    def test_an_ancestors_conversion_counts_once(self) -> None:
        """iMTA: the names its channels have."""
        account = Account(By.USER, LogConfig(), foreign=SunFormat())
        account.feed(
            b"16-Feb-2007 14:55:02.10 " + text
            for text in (
                b"tcp_local    conversion   EE 1 a@b.example rfc822;c@d.example c@d.example",
                b"conversion   ims-ms       E 1 a@b.example rfc822;c@d.example c@ims-ms-daemon",
                b"conversion                D 1 a@b.example rfc822;c@d.example c@d.example",
                b"ims-ms                    D 1 a@b.example rfc822;c@d.example c@ims-ms-daemon",
            )
        )
        found = {line.keys[0]: line for line in account.lines()}
        self.assertEqual((_sent(found), _got(found)), ({"a@b.example": 1}, {"c@d.example": 1}))
