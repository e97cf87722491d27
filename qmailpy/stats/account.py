"""
Accounting: who sent and got how much, from the transaction log alone (C{qmailpy log account}).

For each key (a domain, a user, a channel, a destination, a day, an hour, or several of these together):

  - sent: E lines, by their sender (C{user}: the login, else the sender's address); messages, recipients, octets.
  - delivered: D lines, by recipient as it was addressed (C{destination}: channel and domain it went to), with the time
    they spent in the queue.
  - failed: recipients given up (R, K); deferred: attempts of a recipient that failed for now (Q, Z); rejected: J.
  - removed: D lines of mail that an operator deleted or a conversion discarded (L{qmailpy.records.removed}).

For a channel, sent is what it enqueued (the counters' Submitted). A message counts once a key for what was enqueued
together, and once a key and attempt for what was delivered; its octets with it, in whole blocks, as the log has them.

What a channel hands on (converted, put together, released, forwarded, given to C{autoreply}) is no new mail, so but for
channels and destinations its E line there and its D line here count for nobody: L{qmailpy.stats.handed}.

The usual line is taken apart by two cuts around C{rfc822;}; whatever is odd about a line sends it through the whole
parser (L{LineFormat.record}), which also refuses it. Memory: a row a key, L{KEYS} at most, the rest in one of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Protocol

from attrs import frozen

from qmailpy.config.schema import LogConfig
from qmailpy.records.fields import Unreadable
from qmailpy.records.record import LogRecord
from qmailpy.records.removed import ENDS, removed
from qmailpy.records.sun import NoMatterOfOurs
from qmailpy.records.text import CONNECTION, MONTH_OF, LineFormat, fragment, milliseconds
from qmailpy.stats.handed import PASSING, Quick, handed_on
from qmailpy.stats.sketch import FACTOR, Sketch
from qmailpy.values import BLOCK, blocks

KEYS = 1_000_000
"""Keys told apart, some 500 octets each; what comes with later ones is counted together."""

OTHERS = b"(others)"
_NOBODY = b"<>"
_LOCAL = b"(local)"  # the domain of addresses without one, where nobody can tell
_BETWEEN = b"\0"  # keys of a row; in no line
_NO_COLUMN = b" " * 12

_SENT, _DELIVERED, _FAILED, _DEFERRED, _REJECTED, _TIME, _TIMES, _REMOVED = 0, 3, 6, 7, 8, 9, 10, 11
_COUNTS = 12
_NOTHING = (0,) * _COUNTS
_GONE = b"-"  # stands for the code of a D line that tells of mail which was removed
_MONTHS = {name.encode(): number for name, number in MONTH_OF.items()}
_NAMES = {number: name for name, number in _MONTHS.items()}


class By(Enum):
    """What an account is kept by."""

    DOMAIN = "domain"
    USER = "user"
    MAILBOX = "mailbox"  # as USER, but what was delivered by whose it came to be: aliases and user+tag are the user's
    CHANNEL = "channel"
    DESTINATION = "destination"
    DAY = "day"
    HOUR = "hour"


class Reader(Protocol):
    """What makes a record of a line: L{LineFormat}, L{qmailpy.records.sun.SunFormat}."""

    def record(self, line: bytes) -> LogRecord:
        """@raise Unreadable: it is none."""


@frozen(kw_only=True)
class Volume:
    """How much."""

    messages: int
    recipients: int
    octets: int  # whole blocks of 1024


@frozen(kw_only=True)
class Line:
    """A key's account."""

    keys: tuple[str, ...]  # as many as ways
    sent: Volume
    delivered: Volume
    failed: int  # recipients
    deferred: int  # attempts of a recipient
    rejected: int  # recipients
    removed: int  # recipients: deleted by an operator, discarded by a conversion
    queue_time_s: float | None  # average of delivered recipients; none: no line told of one
    percentiles_s: tuple[float, float, float] | None  # 50, 95 and 99 of 100 waited no longer (error: sketch.ERROR)


class Account:
    """
    Adds up lines.

    @ivar records: message lines that were counted or were of no matter. @ivar unreadable: lines that were none.
    """

    def __init__(
        self,
        by: By | Sequence[By],
        options: LogConfig,
        *,
        since: float | None = None,
        until: float | None = None,
        foreign: Reader | None = None,
        kinds: Mapping[str, str] = PASSING,
        keys: int = KEYS,
    ) -> None:
        """
        @param by: several: a row for each that occur together.
        @param options: those the log was written with.
        @param since: only lines of this time (seconds since the epoch) or later.
        @param until: only lines before.
        @param foreign: reads lines that are not ours.
        @param kinds: the kind of each channel, by its name.
        """
        self.records = self.unreadable = 0
        self._ways = (by,) if isinstance(by, By) else tuple(by)
        self._by = self._ways[0]
        self._more = self._ways[1:]
        self._by_channel = By.CHANNEL in self._ways
        self._all = self._by_channel or By.DESTINATION in self._ways
        self._kinds = kinds
        self._passing = frozenset([] if self._all else [name.encode() for name in kinds if kinds[name] in PASSING])
        self._options = options
        self._handed_on = Quick(kinds, options)
        self._bounded = since is not None or until is not None
        self._since = -math.inf if since is None else since
        self._until = math.inf if until is None else until
        self._reader: Reader = foreign if foreign is not None else LineFormat(options)
        self._fast = foreign is None
        self._keys = keys
        # A key's row are _COUNTS values from there on. Of a million rows each object would count.
        self._rows: dict[bytes, int] = {}
        self._counts: list[int] = []
        self._sketches: dict[int, dict[int, int]] = {}  # Sketch.classes, by row, from its first waiting time on
        self._times: dict[bytes, bytes] = {}  # day or hour as the log writes it: as we do
        self._last_enqueued = b""
        self._event: set[bytes] = set()
        self._minute = b""
        self._minute_at = 0.0

    def feed(self, lines: Iterable[bytes]) -> None:
        """Count lines, without LF, as they stand in the file."""
        if not self._fast:
            for line in lines:
                self._slow(line)
            return
        options = self._options
        channel_at = 2 + options.node + options.process
        most = channel_at + 2
        file_at = 2 + options.notary if options.filename else 0
        user_at = 2 + options.notary + options.filename + options.envelope_id + options.message_id
        by_user = By.USER in self._ways or By.MAILBOX in self._ways
        cuts = user_at + 1 if by_user and options.username else file_at + 1 if file_at else 2
        with_user = cuts > user_at
        timed, told = options.queue_time, options.diagnostics
        bounded, whole, passing = self._bounded, self._all, self._passing
        count, handed = self._count, self._handed_on
        file = b""
        for line in lines:
            head, found, tail = line.partition(b" rfc822;")
            if not found:  # a connection's, or a piece
                continue
            try:
                front, code, size, sender = head.rsplit(b" ", 3)
                words = front.split()
                letter = code[:1]
                if not channel_at < len(words) <= most or len(words[0]) != 11 or b"\\" in line:
                    raise ValueError
                if (len(words) < most) != (front[-12:] == _NO_COLUMN) or letter in b"BVW" or b" rfc822;" in tail:
                    raise ValueError
                if bounded and not self._since <= self._at(line) < self._until:
                    continue
                spent = -1
                if letter == b"D":
                    left = tail
                    if timed:
                        left, word = tail.rsplit(b" ", 1)
                        if word != b"-":
                            spent = int(word[:-4]) * 1000 + int(word[-3:])
                    if told and left.endswith(ENDS):
                        raise ValueError
                    if words[channel_at] in passing:
                        self.records += 1
                        continue
                elif code == b"E" and not whole:  # without modifiers: it may be of our own making
                    passes = handed(words[channel_at], words[channel_at + 1], tail)
                    if passes is None:
                        raise ValueError
                    if passes:
                        self.records += 1
                        continue
                fields = tail.split(b" ", cuts)
                if file_at:
                    file = fields[file_at]
                user = fields[user_at][1:] if with_user and letter == b"E" and len(fields) > user_at else b""
                source, leads = words[channel_at], words[-1]
                count(letter, line, source, leads, int(size), sender, fields[0], fields[1], file, user, spent)
            except (ValueError, IndexError):
                self._slow(line)

    def _slow(self, line: bytes) -> None:
        """Count a line that is odd, if it is a record."""
        line = fragment(line)
        try:
            record = self._reader.record(line)
        except NoMatterOfOurs:
            return
        except Unreadable:
            self.unreadable += bool(line)
            return
        if record.action in CONNECTION or not self._since <= record.time < self._until:
            return
        gone = removed(record)
        if not self._all and not gone and handed_on(record, self._kinds):
            self.records += 1
            return
        file = record.file
        name = b""
        if file is not None:
            name = f"/ZZ{file.id}.{file.remaining}{'+' if file.continued else ''}".encode()
        spent = milliseconds(record.queue_time)
        self._count(
            _GONE if gone else record.action.value.encode(),
            line if self._fast else _stamped(record.time),
            record.source.encode(),
            (record.destination or record.source).encode(),
            blocks(record.size_octets),
            record.sender.encode("utf-8", "replace"),
            record.original_to.encode("utf-8", "replace"),
            record.current_to.encode("utf-8", "replace"),
            name,
            record.user.encode("utf-8", "replace"),
            -1 if spent is None else spent,
        )

    def _count(
        self,
        letter: bytes,
        line: bytes,
        source: bytes,
        leads: bytes,
        size: int,
        sender: bytes,
        original: bytes,
        current: bytes,
        file: bytes,
        user: bytes,
        spent: int,
    ) -> None:
        """
        Count one recipient's line.

        @param source: the channel it came from, or that it left. @param leads: the channel it went to, or, refused,
            would have gone to; or that it left. @param size: in blocks.
        @param file: the file field, or at least its end C{/ZZid.RR+}.
        @param spent: in milliseconds; negative: not known.
        """
        self.records += 1
        enqueued = letter == b"E"
        who = (user or sender) if enqueued else original
        key = self._key(self._by, enqueued, line, source, leads, who, current)
        if self._more and key is not None:
            keys = [key]
            for by in self._more:
                key = self._key(by, enqueued, line, source, leads, who, current)
                if key is None:
                    break
                keys.append(key)
            else:
                key = _BETWEEN.join(keys)
        if key is None:
            return  # no mail has gone there yet
        rows = self._rows
        row = rows.get(key)
        if row is None:
            row = self._row(key)
        counts = self._counts
        if enqueued:
            counts[row + _SENT + 1] += 1
            if file[-1:] != b"+":
                # A message for several channels is one for whoever sent it.
                whole = file[file.rfind(b"/") + 3 : file.rfind(b".")]
                if whole != self._last_enqueued or not whole or self._by_channel:
                    counts[row + _SENT] += 1
                    counts[row + _SENT + 2] += size
                self._last_enqueued = whole
        elif letter == b"D":
            counts[row + _DELIVERED + 1] += 1
            if file[-1:] != b"+":
                self._event = {key}
                counts[row + _DELIVERED] += 1
                counts[row + _DELIVERED + 2] += size
            elif key not in self._event:
                self._event.add(key)
                counts[row + _DELIVERED] += 1
                counts[row + _DELIVERED + 2] += size
            if spent >= 0:
                counts[row + _TIME] += spent
                counts[row + _TIMES] += 1
                classes = self._sketches.get(row)
                if classes is None:
                    classes = self._sketches[row] = {}
                at = math.ceil(math.log(spent) * FACTOR) if spent else -1
                classes[at] = classes.get(at, 0) + 1
        elif letter in b"RK":
            counts[row + _FAILED] += 1
        elif letter in b"QZ":
            counts[row + _DEFERRED] += 1
        elif letter == b"J":
            counts[row + _REJECTED] += 1
        elif letter == _GONE:
            counts[row + _REMOVED] += 1

    def _key(
        self, by: By, enqueued: bool, line: bytes, source: bytes, leads: bytes, who: bytes, current: bytes
    ) -> bytes | None:
        """@param who: the sender, or whom it was for. @return: C{None}: a line that does not count."""
        if by is By.DOMAIN:
            _, at, domain = who.rpartition(b"@")
            if at:
                return domain.lower()
            _, at, domain = _bare(who, enqueued, current).rpartition(b"@")
            return domain.lower() if at or domain == _NOBODY else _LOCAL
        if by is By.USER:
            return (who if b"@" in who else _bare(who, enqueued, current)).lower()
        if by is By.MAILBOX:
            return ((who if enqueued else current) or _NOBODY).lower()
        if by is By.CHANNEL:
            return source
        if by is By.DAY:
            return self._stamp(line[:11])
        if by is By.HOUR:
            return self._stamp(line[:14])
        return None if enqueued else leads + b"/" + current.rpartition(b"@")[2].lower()

    def _row(self, key: bytes) -> int:
        if len(self._rows) >= self._keys:
            key = OTHERS if key not in self._rows else key
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = len(self._counts)
            self._counts.extend(_NOTHING)
        return row

    def _stamp(self, prefix: bytes) -> bytes:
        found = self._times.get(prefix)
        if found is None:
            day = b"%s-%02d-%s" % (prefix[7:11], _MONTHS.get(prefix[3:6], 0), prefix[:2])
            found = day + prefix[11:] + (b":00" if len(prefix) > 11 else b"")
            if len(self._times) < self._keys:
                self._times[prefix] = found
        return found

    def _at(self, line: bytes) -> float:
        minute = line[:17]
        if minute != self._minute:
            month = _MONTHS.get(minute[3:6])
            if month is None:
                raise ValueError
            day, year, hour, of_hour = int(minute[:2]), int(minute[7:11]), int(minute[12:14]), int(minute[15:17])
            try:
                self._minute_at = time.mktime((year, month, day, hour, of_hour, 0, 0, 0, -1))
            except OverflowError:
                raise ValueError from None
            self._minute = minute
        return self._minute_at + int(line[18:20]) + int(line[21:23]) / 100

    def order(self, top: int | None = None) -> list[bytes]:
        """
        The rows there are, for L{line}: days and hours by time, within these by octets delivered and sent, the largest
        first.

        @param top: only so many.
        """
        rows, counts = self._rows, self._counts
        times = [at for at, by in enumerate(self._ways) if by in {By.DAY, By.HOUR}]

        def place(key: bytes) -> tuple[tuple[bytes, ...], int, bytes]:
            row = rows[key]
            keys = key.split(_BETWEEN) if times else []
            octets = counts[row + _DELIVERED + 2] + counts[row + _SENT + 2]
            return tuple([keys[at] for at in times if at < len(keys)]), -octets, key

        return sorted((key for key, row in rows.items() if any(counts[row : row + _COUNTS])), key=place)[:top]

    def line(self, key: bytes) -> Line:
        """The account of a row."""
        row, keys = self._rows[key], key.split(_BETWEEN)
        counts = self._counts[row : row + _COUNTS]
        sketch = Sketch()
        sketch.classes = self._sketches.get(row, {})
        half, most, nearly = sketch.percentiles(0.5, 0.95, 0.99)
        timed = counts[_TIMES]
        return Line(
            keys=tuple([key.decode("utf-8", "replace") for key in keys] + [""] * (len(self._ways) - len(keys))),
            sent=_volume(counts, _SENT),
            delivered=_volume(counts, _DELIVERED),
            failed=counts[_FAILED],
            deferred=counts[_DEFERRED],
            rejected=counts[_REJECTED],
            removed=counts[_REMOVED],
            queue_time_s=counts[_TIME] / 1000 / timed if timed else None,
            percentiles_s=(half / 1000, most / 1000, nearly / 1000) if timed else None,
        )

    def lines(self, top: int | None = None) -> list[Line]:
        """The accounts so far, in their L{order}."""
        return [self.line(key) for key in self.order(top)]


def _bare(who: bytes, enqueued: bool, current: bytes) -> bytes:
    """
    Who an address without a domain is: C{postmaster} of ours; a user of the ancestor's (LOG_LOCAL=0), whose current
    address has the tag of a channel instead of a domain.
    """
    if not who:
        return _NOBODY
    return current if not enqueued and b"." in current.rpartition(b"@")[2] else who


def _stamped(at: float) -> bytes:
    """A time as our lines begin with it, for lines that have it in another form."""
    now = time.localtime(at)
    return b"%02d-%s-%04d %02d" % (now.tm_mday, _NAMES[now.tm_mon], now.tm_year, now.tm_hour)


def _volume(counts: Sequence[int], at: int) -> Volume:
    return Volume(messages=counts[at], recipients=counts[at + 1], octets=counts[at + 2] * BLOCK)
