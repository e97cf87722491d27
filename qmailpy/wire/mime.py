"""
The structure of a MIME message (RFC 2045, RFC 2046), found while it streams by: what is a header, a body, a boundary.

L{MimeWalker.feed} takes octets and gives events. The octets of all events, in order (L{raw}), are those that went in:
who rewrites a message copies what it does not touch. Nothing is recursive, time is linear in the octets, and memory is
bounded by the limits. Whatever comes in, there is no exception: what cannot be gone into is the body of a part, and
C{MimeWalker.verdict} says why.

Rules where peers differ:

    - a boundary line is C{--}, the boundary as a whole, blanks at most, CRLF. A line that only begins with the boundary
      is none, and the message counts as malformed, since RFC 2046 s.5.1.2 lets others see one there;
    - a boundary line ends a header that has not ended yet;
    - an outer boundary ends everything inside, closed or not;
    - a multipart with the boundary of one it is in, with none, or in base64, is a body;
    - behind its closing line a multipart has no parts any more.
"""

from __future__ import annotations

import re
from enum import Enum

from attrs import define, field, frozen

from qmailpy.wire.headers import find
from qmailpy.wire.mime_values import FieldValue, parse_value

IDENTITY = frozenset({"", "7bit", "8bit", "binary"})
"""Encodings that are none."""

LINE = 1000  # octets of the longest line that may be a boundary (RFC 5322 s.2.1.1)
BOUNDARY = 250  # characters of a boundary; RFC 2046 s.5.1.1 allows 70, and some software makes longer ones

_TYPE = re.compile(r"([a-z0-9!#$&^_.+-]{1,127})/([a-z0-9!#$&^_.+-]{1,127})")


class MimeVerdict(Enum):
    """What is wrong with a message's structure; of several the last in this order."""

    OK = "ok"
    MALFORMED = "malformed"
    TOO_DEEP = "too-deep"
    TOO_MANY_PARTS = "too-many-parts"
    HEADER_TOO_LARGE = "header-too-large"


_RANK = {verdict: rank for rank, verdict in enumerate(MimeVerdict)}


@frozen(kw_only=True)
class MimeLimits:
    """How far a walk goes."""

    depth: int = 50  # multiparts and enclosed messages in each other
    parts: int = 10_000  # entities, the message itself included
    header_octets: int = 262_144  # of one header section
    enclosed: bool = True  # go into message/rfc822


@define(eq=False, kw_only=True)
class Entity:
    """A message, or a part of one."""

    parent: Entity | None
    ordinal: int  # 0 for the message, then as they come
    index: int  # from 1 among its siblings; 0 for the message
    depth: int  # of entities around it
    header: bytes  # with the empty line that ends it, if there is one
    type: str  # "text", in lower case
    subtype: str  # "plain"
    value: FieldValue  # of Content-Type
    encoding: str  # of Content-Transfer-Encoding, in lower case; "" when it has none
    container: bool = False  # has parts, or is a message/rfc822 that was gone into
    children: int = 0  # so far

    @property
    def media(self) -> str:
        """C{text/plain}."""
        return f"{self.type}/{self.subtype}"

    @property
    def path(self) -> str:
        """C{2.1} for the first part of the second; C{""} for the message."""
        numbers: list[str] = []
        entity: Entity | None = self
        while entity is not None and entity.parent is not None:
            numbers.append(str(entity.index))
            entity = entity.parent
        return ".".join(reversed(numbers))


@frozen
class PartBegin:
    """An entity begins; its header has been read."""

    entity: Entity

    @property
    def octets(self) -> bytes:
        return self.entity.header


@frozen
class Body:
    """Octets of an entity that has no parts, as they stand there."""

    entity: Entity
    octets: bytes


@frozen
class Filler:
    """Octets of a multipart before, between or after its parts, which nobody reads."""

    entity: Entity
    octets: bytes


@frozen
class Delimiter:
    """A boundary line of a multipart, with the line end before it, which belongs to it (RFC 2046 s.5.1.1)."""

    entity: Entity
    octets: bytes
    closing: bool


@frozen
class PartEnd:
    """An entity is over."""

    entity: Entity
    octets: bytes = b""


Event = PartBegin | Body | Filler | Delimiter | PartEnd


def raw(events: list[Event]) -> bytes:
    """The octets that gave these events."""
    return b"".join([event.octets for event in events])


@define(eq=False)
class _Open:
    """An entity that has begun and not ended."""

    entity: Entity
    boundary: bytes = b""  # of a multipart that has not been closed
    closed: bool = False
    digest: bool = field(init=False)

    @digest.default
    def _digest(self) -> bool:
        return self.entity.type == "multipart" and self.entity.subtype == "digest"


class MimeWalker:
    """One message on its way."""

    def __init__(self, limits: MimeLimits | None = None) -> None:
        self.verdict = MimeVerdict.OK
        self._limits = limits or MimeLimits()
        self._buffer = bytearray()
        self._at = 0  # what is before was told in events
        self._seen = 0  # up to here there is no boundary line
        self._blank = -1  # where the next empty line is known to be: its position, or
        self._no_blank = 0  # up to here there is none
        self._fresh = True  # _at is the beginning of a line, and of a header or a body
        self._in_header = True
        self._opaque = False  # a limit was passed: the rest is not looked at
        self._stack: list[_Open] = []
        self._known: dict[bytes, int] = {}  # place in the stack of each open boundary
        self._count = 0
        self._events: list[Event] = []

    def feed(self, octets: bytes) -> list[Event]:
        """
        The next octets of the message.

        @return: what they told; octets may be kept for a later call until it is clear what they are.
        """
        self._buffer += octets
        return self._run(False)

    def end(self) -> list[Event]:
        """There is no more; called once. Everything that is open ends."""
        events = self._run(True)
        self._leave(0)
        events += self._events
        self._events = []
        return events

    # --- the machine -----------------------------------------------------------------------------------------

    def _run(self, final: bool) -> list[Event]:
        while self._header(final) if self._in_header else self._body(final):
            pass
        gone = self._at
        if gone:
            del self._buffer[:gone]
            self._at = 0
            self._seen = max(0, self._seen - gone)
            self._no_blank = max(0, self._no_blank - gone)
            self._blank = self._blank - gone if self._blank >= gone else -1
        events, self._events = self._events, []
        return events

    def _flaw(self, verdict: MimeVerdict) -> None:
        if _RANK[verdict] > _RANK[self.verdict]:
            self.verdict = verdict

    def _header(self, final: bool) -> bool:
        """Read a header; whether it was there, with all that follows from it."""
        buffer, at, size = self._buffer, self._at, len(self._buffer)
        limit = self._limits.header_octets
        if size - at < 2 and not final:
            return False
        if buffer.startswith(b"\r\n", at):
            self._begin(at + 2)
            return True
        if self._blank < at:
            self._blank = buffer.find(b"\r\n\r\n", max(at, self._no_blank - 3))
            if self._blank < 0:
                self._no_blank = size
        end = self._blank + 4 if self._blank >= 0 else size
        if self._blank < 0 and not final and size - at <= limit + LINE:
            return False
        if self._known:
            cut = self._cut(at, min(end, at + limit), final)
            if cut >= 0:
                self._begin(cut)
                return True
        if end - at > limit:
            self._flaw(MimeVerdict.HEADER_TOO_LARGE)
            self._begin(at + limit)
            self._opaque = True
            return True
        self._begin(end)
        return True

    def _cut(self, at: int, end: int, final: bool) -> int:
        """Where a boundary line begins in a header; -1 when there is none."""
        buffer = self._buffer
        line = at if buffer.startswith(b"--", at) else _next_dashes(buffer, at, end)
        while line >= 0:
            stop = buffer.find(b"\r\n", line, line + LINE + 2)
            if stop < 0 and final and len(buffer) - line <= LINE:
                stop = len(buffer)
            if stop >= 0 and self._level(line, stop) >= 0:
                return line
            line = _next_dashes(buffer, line, end)
        return -1

    def _begin(self, end: int) -> None:
        """A header ends at C{end}."""
        header = bytes(self._buffer[self._at : end])
        self._at = self._seen = end
        self._fresh = True
        self._in_header = False
        entity = self._entity(header)
        self._count += 1
        self._events.append(PartBegin(entity))
        opened = _Open(entity)
        if entity.container:
            if entity.type == "message":
                self._in_header = True
            else:
                opened.boundary = _boundary(entity.value)
                self._known[opened.boundary] = len(self._stack)
        self._stack.append(opened)
        if self._in_header and self._count >= self._limits.parts:
            self._too_many()

    def _too_many(self) -> None:
        self._flaw(MimeVerdict.TOO_MANY_PARTS)
        self._opaque = True
        self._in_header = False

    def _entity(self, header: bytes) -> Entity:
        parent = self._stack[-1] if self._stack else None
        found = find(header, "content-type", "content-transfer-encoding")
        lines = header.lower()
        if lines.count(b"\r\ncontent-type:") + lines.startswith(b"content-type:") > 1:
            self._flaw(MimeVerdict.MALFORMED)
        value = parse_value(found.get("content-type", ""))
        match = _TYPE.fullmatch(value.main)
        kind = ("message", "rfc822") if parent is not None and parent.digest else ("text", "plain")
        if match is not None:
            kind = (match[1], match[2])
        elif value.main:
            self._flaw(MimeVerdict.MALFORMED)
        if parent is not None:
            parent.entity.children += 1
        entity = Entity(
            parent=parent.entity if parent is not None else None,
            ordinal=self._count,
            index=parent.entity.children if parent is not None else 0,
            depth=len(self._stack),
            header=header,
            type=kind[0],
            subtype=kind[1],
            value=value,
            encoding=found.get("content-transfer-encoding", "").partition(";")[0].strip().lower()[:40],
        )
        entity.container = self._goes_into(entity)
        return entity

    def _goes_into(self, entity: Entity) -> bool:
        """Whether what follows the header is parts, or a message."""
        multipart = entity.type == "multipart"
        if not multipart and not (self._limits.enclosed and entity.media == "message/rfc822"):
            return False
        if entity.encoding not in IDENTITY:  # neither may have one (RFC 2046 s.5.2.1), but some readers decode it
            self._flaw(MimeVerdict.MALFORMED)
            return False
        if len(self._stack) >= self._limits.depth:
            self._flaw(MimeVerdict.TOO_DEEP)
            return False
        if not multipart:
            return True
        boundary = _boundary(entity.value)
        if not boundary or len(boundary) > BOUNDARY or boundary in self._known:
            self._flaw(MimeVerdict.MALFORMED)
            return False
        if len(boundary) > 70:
            self._flaw(MimeVerdict.MALFORMED)
        return True

    def _body(self, final: bool) -> bool:
        """Go on to the next boundary line; whether it was there."""
        buffer, size = self._buffer, len(self._buffer)
        if self._opaque or not self._known:
            self._tell(size)
            return False
        if self._fresh:
            if size - self._at < 2 and not final:
                return False
            if buffer.startswith(b"--", self._at):
                judged = self._candidate(self._at, self._at, final)
                if judged is not None:
                    return judged
            self._fresh = False
        while True:
            start = buffer.find(b"\r\n--", max(self._seen, self._at))
            if start < 0:
                kept = 0 if final else _tail(buffer)
                self._seen = max(self._seen, size - kept)
                self._tell(max(self._at, size - kept))
                return False
            judged = self._candidate(start, start + 2, final)
            if judged is not None:
                return judged

    def _candidate(self, start: int, line: int, final: bool) -> bool | None:
        """
        Look at a line that may be a boundary.

        @param start: of the line end before it, or of itself.
        @return: true, it is one; false, more octets must come first; C{None}, it is none.
        """
        buffer, size = self._buffer, len(self._buffer)
        end = buffer.find(b"\r\n", line, line + LINE + 2)
        if end < 0:
            if not final and size - line <= LINE + 1:
                self._tell(start)
                self._seen = start
                return False
            if size - line > LINE:
                self._seen = line
                return None
            end = size
        level = self._level(line, end)
        if level < 0:
            self._seen = end
            return None
        self._tell(start)
        place, closing = level // 2, level % 2 == 1
        opened = self._stack[place]
        self._leave(place + 1)
        stop = min(end + 2, size)
        self._events.append(Delimiter(opened.entity, bytes(buffer[start:stop]), closing))
        self._at = self._seen = stop
        self._fresh = True
        if closing:
            opened.closed = True
            del self._known[opened.boundary]
        elif self._count >= self._limits.parts:
            self._too_many()
        else:
            self._in_header = True
        return True

    def _level(self, line: int, end: int) -> int:
        """Twice the place in the stack of the multipart that a line is a boundary of, plus 1 when it closes it; -1."""
        mark = bytes(self._buffer[line + 2 : end]).rstrip(b" \t")
        place = self._known.get(mark)
        if place is not None:
            return 2 * place
        if mark.endswith(b"--"):
            place = self._known.get(mark[:-2])
            if place is not None:
                return 2 * place + 1
        innermost = self._stack[-1].boundary or (self._stack[-2].boundary if len(self._stack) > 1 else b"")
        if innermost and mark.startswith(innermost):
            self._flaw(MimeVerdict.MALFORMED)
        return -1

    def _tell(self, end: int) -> None:
        """The octets up to C{end} belong to where we are."""
        if end > self._at:
            octets = bytes(self._buffer[self._at : end])
            self._at = end
            entity = self._stack[-1].entity
            self._events.append(Filler(entity, octets) if entity.container else Body(entity, octets))

    def _leave(self, place: int) -> None:
        """Everything from that place of the stack on is over."""
        while len(self._stack) > place:
            opened = self._stack.pop()
            if opened.boundary and not opened.closed:
                self._flaw(MimeVerdict.MALFORMED)
                self._known.pop(opened.boundary, None)
            if opened.entity.container and not opened.entity.children:
                self._flaw(MimeVerdict.MALFORMED)
            self._events.append(PartEnd(opened.entity))


def _boundary(value: FieldValue) -> bytes:
    return value.parameters.get("boundary", "").rstrip(" \t").encode("utf-8", "surrogateescape")


def _next_dashes(buffer: bytearray, at: int, end: int) -> int:
    """Where the next line that begins with C{--} begins; -1 when there is none."""
    found = buffer.find(b"\r\n--", at, end)
    return -1 if found < 0 else found + 2


def _tail(buffer: bytearray) -> int:
    """How many of the last octets may be the beginning of a line end and a boundary."""
    for kept in (3, 2, 1):
        if buffer.endswith(b"\r\n-"[:kept]):
            return kept
    return 0
