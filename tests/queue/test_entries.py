"""Entries, filters and patterns, and their way through JSON."""

from __future__ import annotations

import json
import re
from time import process_time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.queue.entries import (
    ChannelSummary,
    MessageEnvelope,
    MessageRecipient,
    QueueEntry,
    QueueFilter,
    from_json,
    pattern,
    to_json,
)


class PatternTests(SynchronousTestCase):
    """What -from and -to take."""

    def test_text_may_be_anywhere_and_stars_must_cover_all(self) -> None:
        """Blind to case; brackets ask for the whole address."""
        rows = [
            ("example.org", "Joe@EXAMPLE.org", True),
            ("joe@*", "joe@example.org", True),
            ("oe@*", "joe@example.org", False),
            ("j?e@*.org", "joe@example.org", True),
            ("<>", "", True),
            ("<>", "joe@example.org", False),
            ("<joe@example.org>", "joe@example.org", True),
            ("<joe@example>", "joe@example.org", False),
            ("<j*>", "joe@example.org", True),
            ("[10.0.0.1]", "joe@[10.0.0.1]", True),
            ("*", "", True),
        ]
        for text, value, expected in rows:
            self.assertEqual(pattern(text)(value), expected, (text, value))

    @given(st.text("ab*?", max_size=8), st.text("ab", max_size=10))
    def test_stars_mean_what_a_regular_expression_means(self, text: str, value: str) -> None:
        """Against re."""
        expression = "".join({"*": ".*", "?": "."}.get(char, char) for char in text)
        if "*" in text or "?" in text:
            self.assertEqual(pattern(text)(value), re.fullmatch(expression, value) is not None)

    def test_many_stars_take_no_longer_than_their_length(self) -> None:
        """Where a regular expression would not come back."""
        before = process_time()
        self.assertFalse(pattern("a*" * 50 + "b")("a" * 300))
        self.assertLess(process_time() - before, 1.0)


def admits(wanted: QueueFilter, **changes: Any) -> bool:
    """Whether a copy is meant that has a sender, two recipients and one failed attempt."""
    values: dict[str, Any] = {
        "channel": "tcp_local",
        "held": False,
        "attempts": 1,
        "sender": "s@example.org",
        "recipients": ("a@example.net", "b@example.net"),
    }
    return wanted.admits(**{**values, **changes})


class FilterTests(SynchronousTestCase):
    """QueueFilter."""

    def test_empty_filter_admits_everything(self) -> None:
        """The default."""
        self.assertTrue(admits(QueueFilter()))

    def test_each_condition_excludes(self) -> None:
        """Channel, state, attempts."""
        self.assertTrue(admits(QueueFilter(channel="tcp_*")))
        self.assertFalse(admits(QueueFilter(channel="tcp")))
        self.assertFalse(admits(QueueFilter(held=True)))
        self.assertFalse(admits(QueueFilter(held=False), held=True))
        self.assertFalse(admits(QueueFilter(failed=True), attempts=0))
        self.assertFalse(admits(QueueFilter(owner="joe")))
        self.assertTrue(admits(QueueFilter(owner="joe*"), user="joe@example.org"))

    def test_sender_or_recipient_suffices_unless_both_are_asked_for(self) -> None:
        """imta.md 3.1: OR unless -match=and."""
        for match_all in (False, True):
            both = [
                admits(QueueFilter(sender=sender, recipient=recipient, match_all=match_all))
                for sender in ("s@*", "x@*")
                for recipient in ("b@*", "x@*")
            ]
            self.assertEqual(both, [True, False, False, False] if match_all else [True, True, True, False])
            self.assertFalse(admits(QueueFilter(recipient="x@*", match_all=match_all)))
            self.assertTrue(admits(QueueFilter(sender="s@*", match_all=match_all)))

    def test_recipients_are_not_read_when_they_do_not_matter(self) -> None:
        """They may be in a file."""

        read: list[str] = []
        recipients = map(read.append, ("a@b", "c@d"))
        self.assertTrue(admits(QueueFilter(sender="s@*"), recipients=recipients))
        self.assertFalse(admits(QueueFilter(sender="x@*", recipient="a@*", match_all=True), recipients=recipients))
        self.assertEqual(read, [])


class JsonTests(SynchronousTestCase):
    """to_json and from_json."""

    def test_values_survive_json(self) -> None:
        """Nested ones too; a whole number serves as a time."""
        recipient = MessageRecipient(address="a@b", original="c@d", channel="local", last_error="450 x")
        values = [
            QueueEntry(id="x", channel="c", size_octets=5, arrival=1.5, sender="", remaining=2, recipients=("a", "b")),
            ChannelSummary(channel="c", messages=1, recipients=1, size_octets=2),
            MessageEnvelope(id="x", sender="", arrival=2, source="s", size_octets=1, recipients=(recipient,)),
            QueueFilter(held=True),
        ]
        for value in values:
            self.assertEqual(from_json(type(value), json.loads(json.dumps(to_json(value)))), value)

    def test_unknown_fields_are_passed_over(self) -> None:
        """From a newer process."""
        self.assertEqual(from_json(QueueFilter, {"channel": "a", "colour": "red"}), QueueFilter(channel="a"))

    def test_wrong_types_are_refused(self) -> None:
        """Each with the field's name; a truth value is no number."""
        good = to_json(QueueEntry(id="x", channel="c", size_octets=5, arrival=1.5, sender="", remaining=2))
        for name, value in (
            ("id", 5),
            ("size_octets", 1.5),
            ("size_octets", True),
            ("arrival", "1"),
            ("held", 1),
            ("recipients", "abc"),
            ("recipients", [1]),
        ):
            self.assertIn(name, str(self.assertRaises(ValueError, from_json, QueueEntry, {**good, name: value})))
        self.assertRaises(ValueError, from_json, QueueEntry, {})
        self.assertRaises(ValueError, from_json, QueueEntry, [])
