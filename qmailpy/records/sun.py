"""
Lines of the ancestor's logs (LOG_FORMAT 1 and 2), whatever its LOG_* options were.

The seven fields every line has are found by C{rfc822;}; those behind, which depend on options nobody wrote down, by
their look: a queue file (C{/q/tcp_local/001/ZZf0s690kN_y0.00}), a message id in angle brackets, a login with its
asterisk. Format 2 writes C{<>} for an empty address. Formats 3 (counted fields) and later are refused.

Such a line does not tell how many recipients are left, or whether it belongs to the event before; the same queue file
and action as in the line before is taken for that.
"""

from __future__ import annotations

import re
import time

from qmailpy.records.record import Action, LogRecord, QueueFile
from qmailpy.records.text import MONTH_OF, Unreadable
from qmailpy.values import BLOCK

_ANCHOR = re.compile(r" ([EDJQRWKZBV])([A-Z]*) (\d{1,9}) ([^ ]*) (?:rfc822;)([^ ]*)(?: ([^ ]*))?(?: (.*))?$")
_STAMP = re.compile(r"(\d\d)-([A-Z][a-z][a-z])-(\d{4}) (\d\d):(\d\d):(\d\d)\.(\d\d) ", re.ASCII)
_FILE = re.compile(r"(?:.*/)?([^/]+)/[0-9a-f]{2,3}/([A-Z]{2})([^/.]+)\.(\d+)")
_TIME = re.compile(r"\d{1,9}(?:\.\d{1,3})?")
_TIMED = frozenset({Action.DEQUEUED, Action.FAILED, Action.SILENCED})


class SunFormat:
    """Reads such lines one after the other, as L{qmailpy.records.text.LineFormat} reads ours."""

    def __init__(self, queue_times: bool = False) -> None:
        """
        @param queue_times: the lines were written with LOG_QUEUE_TIME; without knowing it, the end of a diagnostic
            could be taken for a time.
        """
        self._queue_times = queue_times
        self._before = ("", "", "")
        self._minute = ""
        self._epoch = 0.0

    def record(self, line: bytes) -> LogRecord:
        """
        The record of a message's line.

        @raise Unreadable: it is none, or of a connection.
        """
        text = line.decode("utf-8", "replace")
        stamp = _STAMP.match(text)
        found = _ANCHOR.search(text, 23)
        if stamp is None or found is None:
            raise Unreadable("not a message's record")
        head = text[24 : found.start()]
        words = head.split()
        # The destination's column is blank for what leaves a queue: then 12 blanks end the head.
        with_destination = len(words) > 1 and not head.endswith(" " * 12)
        if not words:
            raise Unreadable("no channel")
        destination = words[-1] if with_destination else ""
        source = words[-2] if with_destination else words[-1]
        letter, modifiers, size, sender, original, current, rest = found.groups(default="")
        action = Action(letter)
        spent: float | None = None
        if self._queue_times and action in _TIMED:
            before, _, last = rest.rpartition(" ")
            if _TIME.fullmatch(last):
                rest, spent = before, float(last)
        file, message_id, user, diagnostic = self._optional(rest)
        mark = (file.id if file is not None else "", letter, source)
        continued = file is not None and mark == self._before
        self._before = mark
        if file is not None and continued:
            file = QueueFile(channel=file.channel, id=file.id, attempts=file.attempts, continued=True)
        return LogRecord(
            action=action,
            time=self._time(stamp),
            source=source,
            destination=destination,
            modifiers=modifiers,
            size_octets=int(size) * BLOCK,
            sender=_address(sender),
            original_to=_address(original),
            current_to=_address(current),
            file=file,
            message_id=message_id,
            user=user,
            diagnostic=diagnostic,
            queue_time=spent,
        )

    @staticmethod
    def _optional(rest: str) -> tuple[QueueFile | None, str, str, str]:
        file: QueueFile | None = None
        message_id = user = ""
        words = rest.split(" ", 6)
        used = 0
        for at, word in enumerate(words[:6]):
            if file is None and (found := _FILE.fullmatch(word)):
                code = found[2]
                attempts = (ord("Z") - ord(code[0])) * 26 + ord("Z") - ord(code[1])
                file = QueueFile(channel=found[1], id=found[3], attempts=attempts)
            elif not message_id and word.startswith("<") and word.endswith(">") and len(word) > 2:
                message_id = word
            elif not user and word.startswith("*"):
                user = word[1:]
            else:
                continue
            used = at + 1
        return file, message_id, user, " ".join(words[used:])

    def _time(self, stamp: re.Match[str]) -> float:
        day, month, year, hour, minute, second, hundredths = stamp.groups()
        if stamp[0][:17] != self._minute:
            if month not in MONTH_OF:
                raise Unreadable("no time stamp")
            fields = (int(year), MONTH_OF[month], int(day), int(hour), int(minute), 0, 0, 0, -1)
            try:
                self._epoch = time.mktime(fields)
            except (OverflowError, ValueError) as error:
                raise Unreadable("no time stamp") from error
            self._minute = stamp[0][:17]
        return self._epoch + int(second) + int(hundredths) / 100


def _address(word: str) -> str:
    return "" if word == "<>" else word
