r"""
The lines of many records at once: the octets of L{LineFormat.line} for each, at a fraction of its cost.

That one looks at every value for what a line must not hold. Nearly always there is nothing; so here a line is put
together as if there were not, and looked at afterwards:

  - where the place of a value matters (a word has no blank, a text does not begin with a parenthesis nor end in a
    blank, what is in quotes has none) at the value, when the line is made;
  - for what may be nowhere in a line (controls, other characters that need a look, backslashes, a second time stamp)
    at all lines of the batch together, and only when that finds something at each of them.

A line that does not pass is made anew, by L{LineFormat.rest}. What is a matter of the options and the action is
settled once, when the function that makes such lines is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.logger import Logger

from qmailpy.config.schema import LogConfig
from qmailpy.records.fields import LIMIT, SPLIT, attempts_code, system_field
from qmailpy.records.record import Action, LogRecord
from qmailpy.records.text import (
    CONNECTION,
    DATE,
    WITH_QUEUE_TIME,
    WITH_REASON,
    WITH_SYSTEM,
    WITHOUT_FILE,
    LineFormat,
    head,
    milliseconds,
)
from qmailpy.values import BLOCK

Rest = Callable[[LogRecord, str], str | None]
"""
What follows the time stamp (and node) in the line of a record, from it and the process field with its blank.

The line is right if it is plain (see L{_plain}); C{None}: this record needs a look at each of its values.
"""

_CONTROLS = bytes([*range(32), 127])
_TWO_DIGITS = tuple(f"{number:02d}" for number in range(100))
_THOUSANDTHS = tuple(f".{number:03d}" for number in range(1000))
_EXACT = 1e11  # seconds; up to there a float tells hundredths apart by far


class Lines:
    """Makes the lines of one writer. Not for several threads at once."""

    log = Logger()

    def __init__(self, form: LineFormat, process: str) -> None:
        """
        @param process: see L{qmailpy.records.text.process_field}.
        """
        self._form = form
        self._process = process if form.options.process else ""
        self._makers = {action: _maker(form.options, action) for action in Action}

    def make(self, records: Sequence[LogRecord], number: int) -> tuple[bytes, Sequence[LogRecord]]:
        """
        Lines, numbered on from C{number}, the last one given out before.

        @return: them, and the records that have one: all, but for those of which a bug, or a value of a wrong type,
            kept us from making it.
        """
        makers, process = self._makers, self._process
        begin = end = 0.0  # the times that C{before} is right for: a batch has few hundredths of a second
        before = ""
        failed: set[int] = set()
        pieces: list[str] = []  # stamp with the LF before it, rest, and so on
        for record in records:
            number += 1
            field = f"{process}{number} " if process else ""
            try:
                at = record.time
                if not begin <= at < end:
                    before, begin, end = self._before(at)
                rest = makers[record.action](record, field)
            except Exception:  # whoever looks more carefully may be able to
                rest = None
            if rest is None:
                try:
                    before, begin, end = "\n" + self._form.stamp(record.time), 0.0, 0.0
                    rest = self._form.rest(record, field)
                except Exception:
                    self.log.failure("a record has no line")
                    failed.add(len(pieces) // 2 + len(failed))
                    number -= 1
                    continue
            pieces.append(before)
            pieces.append(rest)
        made = records
        if failed:
            made = [record for index, record in enumerate(records) if index not in failed]
        if not pieces:
            return b"", made
        if not _all_plain(pieces[1::2]):
            self._mend(pieces, made, number - len(made))
        pieces.append("\n")
        return "".join(pieces)[1:].encode(), made

    def _before(self, at: float) -> tuple[str, float, float]:
        """
        What stands before the rest of a line that tells of this moment, and from and until when it does, which is less
        than its hundredth of a second: at the edges it is rounded.
        """
        if not -_EXACT < at < _EXACT:
            raise ValueError("no time that can be counted with")
        hundredths = round(at * 100)
        return "\n" + self._form.stamp(at), (hundredths - 0.49) / 100, (hundredths + 0.49) / 100

    def _mend(self, pieces: list[str], made: Sequence[LogRecord], number: int) -> None:
        """Make those anew that are not plain."""
        for index, record in enumerate(made):
            if not _plain(pieces[2 * index + 1]):
                field = f"{self._process}{number + index + 1} " if self._process else ""
                pieces[2 * index + 1] = self._form.rest(record, field)


def _plain(rest: str) -> bool:
    """Whether all of it can be in a line as it is. Blanks have been left off at its end, which a time stamp has."""
    return rest.isprintable() and "\\" not in rest and DATE.search(rest + " ") is None


def _all_plain(rests: list[str]) -> bool:
    """
    Whether each of them is L{_plain}, in a tenth of the time for ASCII; false, too, for other characters, harmless
    ones as well, and for what two make together.
    """
    text = " ".join(rests) + " "
    if not text.isascii() or "\\" in text or DATE.search(text) is not None:
        return False
    octets = text.encode()
    return len(octets.translate(None, _CONTROLS)) == len(octets)


def _maker(options: LogConfig, action: Action) -> Rest:
    return _connections(options, action) if action in CONNECTION else _messages(options, action)


def _connections(options: LogConfig, action: Action) -> Rest:
    letter = action.value
    with_user = options.username and action is Action.AUTHENTICATED
    diagnostics = options.diagnostics

    def rest(record: LogRecord, process: str) -> str | None:
        transport, application = record.transport, record.application
        if " " in transport or " " in application:
            return None
        line = f"{process}{head(record.source, record.direction, letter, record.modifiers)}{transport} {application}"
        if with_user:
            user = record.user
            if " " in user:
                return None
            line += f" *{user}" if user else " "
        if diagnostics and record.diagnostic:
            diagnostic = record.diagnostic
            if diagnostic[0] == "(" or diagnostic[-1] == " ":
                return None
            line += " " + diagnostic
        return line.rstrip(" ") if len(line) <= LIMIT else None

    return rest


def _messages(options: LogConfig, action: Action) -> Rest:
    letter = action.value
    with_file = action not in WITHOUT_FILE
    with_notary = with_file and options.notary
    with_name = with_file and options.filename
    with_envelope_id = with_file and options.envelope_id
    with_message_id = with_file and options.message_id
    with_user = options.username
    with_system = options.connection and action in WITH_SYSTEM
    with_subject = options.subject and action is Action.ENQUEUED
    with_reason = options.reason and action in WITH_REASON
    with_diagnostic = options.diagnostics and action is not Action.ENQUEUED
    with_queue_time = options.queue_time and action in WITH_QUEUE_TIME

    def rest(record: LogRecord, process: str) -> str | None:
        sender, original, current = record.sender, record.original_to, record.current_to
        if " " in sender or " " in original or " " in current:
            return None
        notary = name = envelope_id = message_id = user = system = subject = reason = diagnostic = spent = ""
        if with_notary:
            notary = f" {record.notary}"
        if with_name:
            file = record.file
            if file is None:
                name = " "
            else:
                channel, number, attempts, remaining = file.channel, file.id, file.attempts, file.remaining
                if " " in channel or " " in number:
                    return None
                code = attempts_code(attempts) if attempts else "ZZ"
                left = _TWO_DIGITS[remaining] if 0 <= remaining < 100 else f"{remaining:02d}"
                more = "+" if file.continued else ""
                name = f" {channel}/{SPLIT.get(number[7:9], '00')}/{code}{number}.{left}{more}"
        if with_envelope_id:
            envelope_id = record.envelope_id
            if " " in envelope_id:
                return None
            envelope_id = " " + envelope_id
        if with_message_id:
            message_id = record.message_id
            if " " in message_id:
                return None
            message_id = " " + message_id
        if with_user:
            user = record.user
            if " " in user:
                return None
            user = f" *{user}" if user else " "
        if with_system:
            system = " " + system_field(record.source_system)
        if with_subject and record.subject:
            subject = record.subject
            if subject[0] == "(" or subject[-1] == " " or '"' in subject:
                return None
            subject = f' "{subject}"'
        if with_reason:
            reason = record.reason
            if reason and (reason[0] == "(" or reason[-1] == " " or '"' in reason):
                return None
            reason = f' "{reason}"'
        if with_diagnostic:
            diagnostic = record.diagnostic
            if diagnostic and (diagnostic[0] == "(" or diagnostic[-1] == " "):
                return None
            diagnostic = " " + diagnostic
        if with_queue_time:
            waited = milliseconds(record.queue_time)
            spent = " -" if waited is None else f" {waited // 1000}{_THOUSANDTHS[waited % 1000]}"
        line = (
            f"{process}{head(record.source, record.destination, letter, record.modifiers)}"
            f"{-(-record.size_octets // BLOCK)} {sender} rfc822;{original} {current}"
            f"{notary}{name}{envelope_id}{message_id}{user}{system}{subject}{reason}{diagnostic}{spent}"
        )
        if len(line) > LIMIT:  # else no value is longer
            return None
        return line if line[-1] != " " else line.rstrip(" ")

    return rest
