r"""
The text form of a record: one line of the transaction log, as the iMTA writes it (docs/counters-and-log.md).

    DD-Mon-YYYY HH:MM:SS.cc [node] [process] source(12) destination(12) code size sender rfc822;original current
        [notary] [file] [envelope-id] [message-id] [user] [source-system] ["subject"] ["reason"] [diagnostic]
        [queue-time]
    DD-Mon-YYYY HH:MM:SS.cc [node] [process] channel(12) +|-(12) code transport application [user] [diagnostic]

The second form is that of O, C, X, Y and U. A field in brackets needs its option; which fields a kind of record has at
all depends on its action only, so a line can be read back by position:

  - file, notary, envelope id and message id: all but B and V; source system: E, J, B, V; subject: E; reason: R, K;
    diagnostic: all but E; queue time: D, R, K; user: message records, and U.
  - the subject stands where other records have their diagnostic, so that whoever reads lines of the ancestor passes it
    over. It is read back whether or not the option is set.
  - an empty field that the record could have is empty in the line too (two blanks, as for an empty sender); blanks at
    the end of a line are left off. A queue time that is not known is "-".

What a line can never hold, whatever the values were: a control character, a LF, or a second time stamp. In values
a backslash and everything not printable (C{str.isprintable}: controls, C1, format characters, surrogates, line
separators, exotic blanks) is written as C{\\ \n \r \t \xHH \uHHHH \UHHHHHHHH}; so is a blank in fields that are
one word. Three fields hold blanks in their middle: the source system C{helo (name [ip])}, whose parentheses end it, and
subject and reason, which are in quotes. The diagnostic takes the rest, less the queue time. A value is cut at L{LIMIT}
characters.

Time is local time, as the ancestor's; in the hour that a change from summer time repeats, a reader cannot tell which
of the two was meant.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import lru_cache

from qmailpy.config.schema import LogConfig
from qmailpy.records.fields import (
    LIMIT,
    Unreadable,
    file_field,
    file_of,
    phrase,
    plain,
    system_field,
    take_quoted,
    take_system,
    user_of,
    word,
)
from qmailpy.records.record import Action, LogRecord
from qmailpy.values import BLOCK, blocks

LINE_OCTETS = 256 * 1024
"""No line is longer: ten fields of LIMIT characters, each escaped to at most ten octets, and a margin."""

TORN = b" \\\n"
"""Ends a line that broke off: a blank and a lone backslash, which no whole line ends with."""

CONNECTION = frozenset({Action.OPENED, Action.CLOSED, Action.REFUSED, Action.UNREACHED, Action.AUTHENTICATED})
"""Actions whose line has the second form."""

_E, _U = Action.ENQUEUED, Action.AUTHENTICATED
WITHOUT_FILE = frozenset({Action.BAD_COMMAND, Action.ABORTED})
WITH_SYSTEM = frozenset({Action.ENQUEUED, Action.REJECTED, Action.BAD_COMMAND, Action.ABORTED})
WITH_REASON = frozenset({Action.FAILED, Action.SILENCED})
WITH_QUEUE_TIME = frozenset({Action.DEQUEUED, Action.FAILED, Action.SILENCED})

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
MONTH_OF = {name: number for number, name in enumerate(_MONTHS, 1)}
"""Number of a month by its name in a time stamp."""

_LAST_SECOND = 253402214399  # a day before the year 10000: four digits in every time zone
_STAMP = 24  # width of the time stamp with its blank
_ACTIONS = {action.value: action for action in Action}

# Inside a time stamp and nowhere else in a line, so that a line glued to a torn one can be told apart.
DATE = re.compile(r"-(?=[A-Z][a-z][a-z]-\d{4} )")
_INNER = re.compile(rb"-[A-Z][a-z][a-z]-\d{4} \d\d:\d\d:\d\d\.\d\d ")

_PREFIX = re.compile(r"(\d\d)-([A-Z][a-z][a-z])-(\d{4}) (\d\d):(\d\d):(\d\d)\.", re.ASCII)


def milliseconds(queue_time: float | None) -> int | None:
    """
    A queue time as the books count it.

    @return: whole milliseconds, not negative (a clock may have been set back); C{None} when it is not known.
    """
    if queue_time is None or not -1e12 < queue_time < 1e12:
        return None
    spent = round(queue_time * 1000)
    return spent if spent > 0 else 0  # max() is dear, and this is asked for twice a message


def fragment(line: bytes) -> bytes:
    """
    The last time stamp of C{line} and what follows: the whole of it, unless the line was glued to the torn piece of one
    that another process could not finish.
    """
    begins = 0
    at = 3
    while (found := _INNER.search(line, at)) is not None:  # once over the line, whatever is in front of a month
        at = found.end()
        if line[found.start() - 2 : found.start()].isdigit():
            begins = found.start() - 2
    return line[begins:] if begins else line


@lru_cache(maxsize=1024)
def head(source: str, destination: str, letter: str, modifiers: str) -> str:
    """The columns of a line, and its code, each with its blank. The same few again and again."""
    return f"{word(source):<12} {word(destination):<12} {letter}{word(modifiers)} "


class LineFormat:
    """
    Writes records as lines and reads them back, with one set of options.

    A line must be read with the options it was written with; with others it is unreadable or has values in the wrong
    fields. Not for several threads at once.
    """

    def __init__(self, options: LogConfig, node: str = "") -> None:
        """
        @param node: our host name, for option C{node}.
        """
        self.options = options
        self._node = DATE.sub("\\\\x2d", word(node)) + " " if options.node else ""
        self._second = -1
        self._prefix = ""
        self._read_prefix = ""
        self._read_hundredths = 0

    def line(self, record: LogRecord) -> bytes:
        """The line of a record, with its LF; lane, sequence and process are those of the record."""
        process = ""
        if self.options.process:
            process = f"{process_field(record.process, record.lane)}{record.sequence} "
        return f"{self.stamp(record.time)}{self.rest(record, process)}\n".encode()

    def rest(self, record: LogRecord, process: str) -> str:
        """
        What follows in a line behind L{stamp}.

        @param process: the process field and a blank, or nothing without option C{process}.
        """
        connection = record.action in CONNECTION
        destination = record.direction if connection else record.destination
        tail = self._connection_tail(record) if connection else self._message_tail(record)
        rest = f"{process}{head(record.source, destination, record.action.value, record.modifiers)}{tail}"
        if DATE.search(rest):
            rest = DATE.sub("\\\\x2d", rest)
        return rest.rstrip(" ")

    def stamp(self, at: float) -> str:
        """The beginning of a line that tells of this moment: time and node, each with its blank."""
        if not -62e9 < at < 1e12:  # also NaN
            at = 0.0
        second, hundredths = divmod(round(at * 100), 100)
        if second != self._second:
            self._second = second
            now = time.localtime(min(max(second, 0), _LAST_SECOND))
            self._prefix = (
                f"{now.tm_mday:02d}-{_MONTHS[now.tm_mon - 1]}-{now.tm_year:04d}"
                f" {now.tm_hour:02d}:{now.tm_min:02d}:{now.tm_sec:02d}."
            )
        return f"{self._prefix}{hundredths:02d} {self._node}"

    def _message_tail(self, record: LogRecord) -> str:
        options = self.options
        action = record.action
        sender, original, current = record.sender, record.original_to, record.current_to
        envelope_id, message_id, user = record.envelope_id, record.message_id, record.user
        probe = f"{sender}{original}{current}{envelope_id}{message_id}{user}"
        if len(probe) > LIMIT or not probe.isprintable() or " " in probe or "\\" in probe:
            sender, original, current = word(sender), word(original), word(current)
            envelope_id, message_id, user = word(envelope_id), word(message_id), word(user)
        tail = f"{blocks(record.size_octets)} {sender} rfc822;{original} {current}"
        if action not in WITHOUT_FILE:
            if options.notary:
                tail += f" {record.notary}"
            if options.filename:
                tail += " " + file_field(record.file) if record.file is not None else " "
            if options.envelope_id:
                tail += " " + envelope_id
            if options.message_id:
                tail += " " + message_id
        if options.username:
            tail += " *" + user if user else " "
        if options.connection and action in WITH_SYSTEM:
            tail += " " + system_field(record.source_system)
        if record.subject and options.subject and action is _E:
            tail += ' "' + phrase(record.subject).replace('"', "\\x22") + '"'
        if options.reason and action in WITH_REASON:
            tail += ' "' + phrase(record.reason).replace('"', "\\x22") + '"'
        if options.diagnostics and action is not _E:
            tail += " " + phrase(record.diagnostic)
        if options.queue_time and action in WITH_QUEUE_TIME:
            spent = milliseconds(record.queue_time)
            tail += " -" if spent is None else f" {spent // 1000}.{spent % 1000:03d}"
        return tail

    def _connection_tail(self, record: LogRecord) -> str:
        tail = f"{word(record.transport)} {word(record.application)}"
        if self.options.username and record.action is _U:
            tail += " *" + word(record.user) if record.user else " "
        if self.options.diagnostics:
            tail += " " + phrase(record.diagnostic)
        return tail

    def record(self, line: bytes) -> LogRecord:
        """
        The record of a line, with or without its LF.

        @raise Unreadable: it is no record. A line that broke off in its text can still be one: callers pass only lines
            that end in a LF, each through L{fragment} first.
        """
        try:
            text = line.removesuffix(b"\n").decode()
            if not text.isprintable() or text.endswith(" \\"):
                raise Unreadable("a torn or foreign line")
            return self._record(text)
        except Unreadable:
            raise
        except (ValueError, IndexError, KeyError, OverflowError) as error:
            raise Unreadable("not a record") from error

    def _record(self, text: str) -> LogRecord:
        options = self.options
        at = _STAMP
        when = self._time(text[:at])
        if options.node:
            at = text.index(" ", at) + 1
        process, lane, sequence = 0, "", 0
        if options.process:
            end = text.index(" ", at)
            first, _, rest = text[at:end].partition(".")
            lane, _, last = rest.rpartition(".")
            process, lane, sequence = int(first, 16), plain(lane), int(last)
            at = end + 1
        end = text.index(" ", at)
        source = plain(text[at:end])
        at = max(at + 12, end) + 1
        end = text.index(" ", at)
        destination = plain(text[at:end])
        at = max(at + 12, end) + 1
        code, _, tail = text[at:].partition(" ")
        action = _ACTIONS[code[0]]
        take: Callable[..., LogRecord] = self._connection if action in CONNECTION else self._message
        return take(action, when, source, destination, plain(code[1:]), tail, lane, sequence, process)

    def _time(self, stamp: str) -> float:
        prefix = stamp[:21]
        if prefix != self._read_prefix:
            found = _PREFIX.fullmatch(prefix)
            if found is None:
                raise Unreadable("no time stamp")
            day, month, year, hour, minute, second = found.groups()
            fields = (int(year), MONTH_OF[month], int(day), int(hour), int(minute), int(second), 0, 0, -1)
            self._read_hundredths = int(time.mktime(fields)) * 100
            self._read_prefix = prefix
        if stamp[23:] != " ":
            raise Unreadable("no time stamp")
        return (self._read_hundredths + int(stamp[21:23])) / 100

    def _message(
        self,
        action: Action,
        when: float,
        source: str,
        destination: str,
        modifiers: str,
        tail: str,
        lane: str,
        sequence: int,
        process: int,
    ) -> LogRecord:
        options = self.options
        with_file = action not in WITHOUT_FILE
        count = 4
        if with_file:
            count += options.notary + options.filename + options.envelope_id + options.message_id
        count += options.username
        parts = tail.split(" ", count)
        missing = count - len(parts)
        if missing >= 0:  # blanks at the end were left off
            parts += [""] * (missing + 1)
        left = parts.pop()
        size, sender, original, current = parts[:4]
        if not original.startswith("rfc822;"):
            raise Unreadable("no original recipient")
        optional = iter(parts[4:])
        notary = int(next(optional)) if with_file and options.notary else 0
        file = file_of(next(optional)) if with_file and options.filename else None
        envelope_id = plain(next(optional)) if with_file and options.envelope_id else ""
        message_id = plain(next(optional)) if with_file and options.message_id else ""
        user = user_of(next(optional)) if options.username else ""
        system = subject = reason = diagnostic = ""
        queue_time: float | None = None
        if options.connection and action in WITH_SYSTEM:
            system, left = take_system(left)
        if left and action is _E:
            subject, left = take_quoted(left)
        if options.reason and action in WITH_REASON:
            reason, left = take_quoted(left)
        if options.queue_time and action in WITH_QUEUE_TIME:
            left, _, spent = left.rpartition(" ")
            queue_time = None if spent == "-" else (int(spent[:-4]) * 1000 + int(spent[-3:])) / 1000
        if options.diagnostics and action is not _E:
            diagnostic, left = plain(left), ""
        if left:
            raise Unreadable("more fields than a record has")
        return LogRecord(
            action=action,
            time=when,
            source=source,
            destination=destination,
            modifiers=modifiers,
            size_octets=int(size) * BLOCK,
            sender=plain(sender),
            original_to=plain(original[7:]),
            current_to=plain(current),
            notary=notary,
            file=file,
            envelope_id=envelope_id,
            message_id=message_id,
            user=user,
            source_system=system,
            subject=subject,
            reason=reason,
            diagnostic=diagnostic,
            queue_time=queue_time,
            lane=lane,
            sequence=sequence,
            process=process,
        )

    def _connection(
        self,
        action: Action,
        when: float,
        source: str,
        direction: str,
        modifiers: str,
        tail: str,
        lane: str,
        sequence: int,
        process: int,
    ) -> LogRecord:
        options = self.options
        with_user = options.username and action is _U
        count = 3 if with_user else 2
        parts = tail.split(" ", count)
        parts += [""] * (count + 1 - len(parts))
        if parts[count] and not options.diagnostics:
            raise Unreadable("more fields than a record has")
        return LogRecord(
            action=action,
            time=when,
            source=source,
            direction=direction,
            modifiers=modifiers,
            transport=plain(parts[0]),
            application=plain(parts[1]),
            user=user_of(parts[2]) if with_user else "",
            diagnostic=plain(parts[count]),
            lane=lane,
            sequence=sequence,
            process=process,
        )


def process_field(process: int, lane: str) -> str:
    """The process field less the sequence number: the same for every line of a lane's owner."""
    return f"{process:x}.{word(lane)}."
