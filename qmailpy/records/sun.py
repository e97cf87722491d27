"""
Lines of the ancestor's logs (LOG_FORMAT 1 to 4), whatever its LOG_* options were.

The seven fields every line has are found by C{rfc822;}; those behind, which depend on options nobody wrote down, by
their look: a queue file (C{/q/tcp_local/001/ZZf0s690kN_y0.00}), envelope and message id in angle brackets (of two the
second is the message's), a login with its asterisk. Format 2 writes C{<>} for an empty address. In format 3 each field
of variable length, from the sender on, has its length before it (C{13:a@example.net}). Format 4 is an XML element a
line, whose attributes have names: C{<en ts="2014-06-02T09:45:50.29" sc="tcp_local" ac="E" .../>}; nothing is left to
guess there.

Lines of connections (O, C, X, Y and U) have a C{+} or a C{-} where others have their destination.

Such a line does not tell how many recipients are left, or whether it belongs to the event before; the same queue file
and action as in the line before is taken for that.
"""

from __future__ import annotations

import html
import re
import time

from qmailpy.records.fields import Unreadable, attempts_of
from qmailpy.records.record import Action, LogRecord, QueueFile
from qmailpy.records.text import MONTH_OF
from qmailpy.values import BLOCK

_TYPE = "(?:rfc822|utf-8|x400|unknown);"
_QUOTED = r'([^ "]*(?:"(?:[^"\\]|\\.){0,256}"[^ "]*){0,4})'  # a local part in quotes may hold blanks
_WORD = "([^ ]*)"
_ANCHOR, _LOOSE = (
    re.compile(rf" ([A-Z])([A-Z]*) (\d{{1,9}}) {word} {_TYPE}{word}(?: {word})?(?: (.*))?$")
    for word in (_QUOTED, _WORD)
)
_COUNTED = re.compile(r" ([A-Z])([A-Z]*) (\d{1,9}) (?=\d{1,6}:)")
_CONNECTION = re.compile(r" +([+-]) +([A-Z])([A-Z]*)(?: (.*))?$")
_LENGTH = re.compile(r"(\d{1,6}):")
_ATTRIBUTE = re.compile(r' ([a-z]{2})="([^"]*)"')
_ISO = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)\.(\d\d)", re.ASCII)
_STAMP = re.compile(r"(\d\d)-([A-Z][a-z][a-z])-(\d{4}) (\d\d):(\d\d):(\d\d)\.(\d\d) ", re.ASCII)
_FILE = re.compile(r"([0-9A-Z]{2})([0-9A-Za-z_-]{6,})\.(?:[0-9A-Za-z]{2}|HELD)")
_SUBDIRECTORY = re.compile(r"[0-9a-f]{2,3}")
_PREFIX = re.compile(f"^{_TYPE}")
_BLANK = "\0"  # what a blank within a counted field is meanwhile
_CODE = re.compile(r"[A-Z]+")
_DIAGNOSTIC = ("dns;", "smtp;", "(")
_HEAD = 400  # characters in which a line has its channel
_SIZE = re.compile(r"\d{1,9}", re.ASCII)
_TIME = re.compile(r"\d{1,9}(?:\.\d{1,3})?")
_TIMED = frozenset({Action.DEQUEUED, Action.FAILED, Action.SILENCED})
_ACTIONS = {action.value: action for action in Action}


class NoMatterOfOurs(Unreadable):
    """A line as it should be, of an event that we do not know: ETRN (I), a header, what PMDF's programs did (S, F)."""


class SunFormat:
    """Reads such lines one after the other, as L{qmailpy.records.text.LineFormat} reads ours."""

    def __init__(self, queue_times: bool = False) -> None:
        """
        @param queue_times: the lines were written with LOG_QUEUE_TIME; without knowing it, the end of a diagnostic
            could be taken for a time.
        """
        self._queue_times = queue_times
        self._before = ("", 0, "", "")
        self._minute = ""
        self._epoch = 0.0

    def record(self, line: bytes) -> LogRecord:
        """
        The record of a line.

        @raise Unreadable: it is none.
        """
        text = line.decode("utf-8", "replace").removesuffix("\r")
        if text.startswith("<"):
            return self._element(text)
        counted = _COUNTED.search(text, 23)
        if counted is not None:
            text = text[: counted.end()] + _uncounted(text, counted.end())
        stamp = _STAMP.match(text)
        found = _ANCHOR.search(text, 23) or _LOOSE.search(text, 23)
        if stamp is None:
            raise Unreadable("no time stamp")
        if found is None:
            return self._connection(text, stamp)
        head = text[24 : found.start()]
        words = head.split()
        # The destination's column is blank for what leaves a queue: then 12 blanks end the head.
        with_destination = len(words) > 1 and not head.endswith(" " * 12)
        if not words:
            raise Unreadable("no channel")
        destination = words[-1] if with_destination else ""
        source = words[-2] if with_destination else words[-1]
        letter, modifiers, size, sender, original, current, rest = found.groups(default="")
        action = _action(letter)
        spent: float | None = None
        if self._queue_times and action in _TIMED:
            before, _, last = rest.rpartition(" ")
            if _TIME.fullmatch(last):
                rest, spent = before, float(last)
        file, envelope_id, message_id, user, diagnostic = self._optional(rest)
        file = self._continued(file, letter, source)
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
            envelope_id=envelope_id.replace(_BLANK, " "),
            message_id=message_id.replace(_BLANK, " "),
            user=user.replace(_BLANK, " "),
            diagnostic=diagnostic.replace(_BLANK, " "),
            queue_time=spent,
        )

    def _connection(self, text: str, stamp: re.Match[str]) -> LogRecord:
        """A line of a connection."""
        # The direction stands behind the channel, and before that at most a node and a process.
        head = text[24:_HEAD].split(maxsplit=4)
        at = next((number for number, word in enumerate(head[1:4], 1) if word in ("+", "-")), 0)
        found = _CONNECTION.match(text, text.index(f" {head[at]} ", 23)) if at else None
        if found is None:
            raise Unreadable("not a record")
        direction, letter, modifiers, rest = found.groups(default="")
        if _LENGTH.match(rest):
            rest = _uncounted(rest, 0)
        words = rest.split(" ", 3)
        transport = words.pop(0) if "|" in words[0] else ""
        application = words.pop(0) if words else ""
        user = words.pop(0) if words and words[0].startswith("*") else ""
        return LogRecord(
            action=_action(letter),
            time=self._time(stamp),
            source=head[at - 1],
            direction=direction,
            modifiers=modifiers,
            transport=transport.replace(_BLANK, " "),
            application=application.replace(_BLANK, " "),
            user=user.replace(_BLANK, " ").removeprefix("*"),
            diagnostic=" ".join(words).replace(_BLANK, " "),
        )

    def _continued(self, file: QueueFile | None, letter: str, source: str) -> QueueFile | None:
        """The file, marked when the line goes on with the event of the one before."""
        # Of several attempts each is an event of its own.
        mark = (file.id if file is not None else "", file.attempts if file is not None else 0, letter, source)
        before, self._before = self._before, mark
        if file is None or mark != before:
            return file
        return QueueFile(channel=file.channel, id=file.id, attempts=file.attempts, continued=True)

    def _element(self, text: str) -> LogRecord:
        """A line of format 4."""
        values = {name: html.unescape(value) for name, value in _ATTRIBUTE.findall(text)}
        stamp = _ISO.fullmatch(values.get("ts", ""))
        code, size = values.get("ac", ""), values.get("sz", "")
        if text.startswith("<he "):
            raise NoMatterOfOurs("a header")
        if text.startswith("<co ") and stamp is not None and _CODE.fullmatch(code):
            return LogRecord(
                action=_action(code[0]),
                time=_moment(*map(int, stamp.groups())),
                source=values.get("sc", ""),
                direction=values.get("dr", ""),
                modifiers=code[1:],
                transport=values.get("tr", ""),
                application=values.get("ap", ""),
                user=values.get("us", "").removeprefix("*"),
                diagnostic=values.get("di", ""),
            )
        if not text.startswith("<en ") or stamp is None or not _CODE.fullmatch(code) or not _SIZE.fullmatch(size):
            raise Unreadable("not a message's record")
        spent = values.get("qt", "")
        return LogRecord(
            action=_action(code[0]),
            time=_moment(*map(int, stamp.groups())),
            source=values.get("sc", ""),
            destination=values.get("dc", ""),
            modifiers=code[1:],
            size_octets=int(size) * BLOCK,
            sender=_address(values.get("so", "")),
            original_to=_address(_PREFIX.sub("", values.get("od", ""))),
            current_to=_address(values.get("de", "")),
            file=self._continued(_file(values.get("fi", "")), code[0], values.get("sc", "")),
            envelope_id=values.get("ei", ""),
            message_id=values.get("mi", ""),
            user=values.get("us", "").removeprefix("*"),
            source_system=values.get("ss", ""),
            reason=values.get("re", ""),
            diagnostic=values.get("di", ""),
            queue_time=float(spent) if _TIME.fullmatch(spent) else None,
        )

    @staticmethod
    def _optional(rest: str) -> tuple[QueueFile | None, str, str, str, str]:
        """@return: file, envelope id, message id, login, and what is left: the diagnostic."""
        file: QueueFile | None = None
        envelope_id = message_id = user = ""
        words = rest.split(" ", 6)
        used = 0
        for at, word in enumerate(words[:6]):
            if word.startswith(_DIAGNOSTIC):  # a peer's words have addresses in brackets, too
                break
            if file is None and (found := _file(word)) is not None:
                file = found
            elif not (message_id and used < at) and word.startswith("<") and word.endswith(">") and len(word) > 2:
                envelope_id, message_id = message_id, word
            elif not user and word.startswith("*"):
                user = word[1:]
            else:
                continue
            used = at + 1
        return file, envelope_id, message_id, user, " ".join(words[used:])

    def _time(self, stamp: re.Match[str]) -> float:
        day, month, year, hour, minute, second, hundredths = stamp.groups()
        if stamp[0][:17] != self._minute:
            if month not in MONTH_OF:
                raise Unreadable("no time stamp")
            self._epoch = _moment(int(year), MONTH_OF[month], int(day), int(hour), int(minute))
            self._minute = stamp[0][:17]
        return self._epoch + int(second) + int(hundredths) / 100


def _action(letter: str) -> Action:
    found = _ACTIONS.get(letter)
    if found is None:
        raise NoMatterOfOurs(letter)
    return found


def _moment(year: int, month: int, day: int, hour: int, minute: int, second: int = 0, hundredths: int = 0) -> float:
    try:
        return time.mktime((year, month, day, hour, minute, second, 0, 0, -1)) + hundredths / 100
    except (OverflowError, ValueError) as error:
        raise Unreadable("no time stamp") from error


def _file(word: str) -> QueueFile | None:
    """A queue file by its path: C{.../CHANNEL/NAME}, or with C{subdirs} C{.../CHANNEL/NNN/NAME}."""
    *path, name = word.rsplit("/", 3)
    found = _FILE.fullmatch(name) if path else None
    if found is None:
        return None
    channel = path[-2] if len(path) > 1 and _SUBDIRECTORY.fullmatch(path[-1]) else path[-1]
    return QueueFile(channel=channel, id=found[2], attempts=attempts_of(found[1]))


def _uncounted(text: str, at: int) -> str:
    """The fields from C{at} on without their lengths; blanks within them are no ends of fields any more."""
    found: list[str] = []
    while at < len(text):
        length = _LENGTH.match(text, at)
        if length is None:  # a field that is not of variable length
            end = text.find(" ", at)
            end = len(text) if end < 0 else end
            found.append(text[at:end])
        else:
            end = length.end() + int(length[1])
            found.append(text[length.end() : end].replace(" ", _BLANK))
        at = end + 1
    return " ".join(found)


def _address(word: str) -> str:
    return "" if word == "<>" else word.replace(_BLANK, " ")
