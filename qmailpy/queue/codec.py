"""
How the queue writes envelopes and transitions down.

Text facts are qmail's text0: one letter, the value, a NUL; nothing needs parsing beyond that. The same form serves the
journal and the files below info/ and chan/. A transition (op) is one frozen value; a journal record holds one or
more of them and is true as a whole or not at all.

Journal payload: op*. Op: kind (1 octet), length of body (4, little endian), body.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum

from attrs import evolve, frozen

from qmailpy.interfaces import BooksCheckpoint
from qmailpy.values import Envelope, Priority, Recipient


class Damaged(Exception):
    """Octets that are not what they should be."""


# --- text0 ---------------------------------------------------------------------------------------------------


def text0(letter: str, value: str) -> bytes:
    """
    One fact.

    @raise ValueError: the value holds a NUL; nothing a protocol lets in does.
    """
    octets = value.encode("utf-8", "surrogateescape")
    if b"\0" in octets:
        raise ValueError(f"NUL in an envelope value: {value!r}")
    return letter.encode() + octets + b"\0"


def facts(octets: bytes) -> Iterator[tuple[str, str]]:
    """
    The facts in C{octets}, in order.

    @raise Damaged: they do not end with a NUL.
    """
    if octets and octets[-1] != 0:
        raise Damaged("facts without their end")
    for piece in octets[:-1].split(b"\0") if octets else ():
        if not piece:
            raise Damaged("an empty fact")
        yield chr(piece[0]), piece[1:].decode("utf-8", "surrogateescape")


# --- envelope ------------------------------------------------------------------------------------------------


def encode_envelope(envelope: Envelope) -> bytes:
    """The envelope without its recipients."""
    parts = [text0("F", envelope.sender), text0("S", envelope.source), text0("A", repr(envelope.arrival))]
    if envelope.envid:
        parts.append(text0("E", envelope.envid))
    if envelope.ret:
        parts.append(text0("R", envelope.ret))
    if envelope.body != "8BITMIME":
        parts.append(text0("B", envelope.body))
    if envelope.smtputf8:
        parts.append(b"U\0")
    if envelope.priority is not Priority.NORMAL:
        parts.append(text0("P", str(int(envelope.priority))))
    if envelope.message_id:
        parts.append(text0("M", envelope.message_id))
    if envelope.subject:
        parts.append(text0("J", envelope.subject))
    if envelope.protocol != "ESMTP":
        parts.append(text0("W", envelope.protocol))
    if envelope.user:
        parts.append(text0("L", envelope.user))
    if envelope.source_system:
        parts.append(text0("Y", envelope.source_system))
    if envelope.hold_until:
        parts.append(text0("H", repr(envelope.hold_until)))
    if envelope.deliver_by:
        parts.append(text0("D", repr(envelope.deliver_by)))
        parts.append(text0("O", envelope.by_mode))
    if envelope.mt_priority:
        parts.append(text0("Q", str(envelope.mt_priority)))
    if envelope.require_tls:
        parts.append(b"Z\0")
    if envelope.tls_optional:
        parts.append(b"z\0")
    if envelope.converted:
        parts.append(b"V\0")
    return b"".join(parts)


def encode_recipients(recipients: Iterable[Recipient]) -> bytes:
    """Recipients in order; channel, host and original are written when they differ from what went before."""
    parts: list[bytes] = []
    channel = host = ""
    for recipient in recipients:
        if recipient.channel != channel:
            channel = recipient.channel
            parts.append(text0("c", channel))
        if recipient.host != host:
            host = recipient.host
            parts.append(text0("h", host))
        if recipient.original != recipient.address:
            parts.append(text0("o", recipient.original))
        if recipient.orcpt:
            parts.append(text0("r", recipient.orcpt))
        if recipient.notify:
            parts.append(text0("n", str(recipient.notify)))
        parts.append(text0("T", recipient.address))
    return b"".join(parts)


_ENVELOPE_KEYS = {
    "F": "sender",
    "S": "source",
    "E": "envid",
    "R": "ret",
    "B": "body",
    "M": "message_id",
    "J": "subject",
    "W": "protocol",
    "L": "user",
    "Y": "source_system",
    "O": "by_mode",
}

_TIMES = {"A": "arrival", "H": "hold_until", "D": "deliver_by"}


def decode_envelope(octets: bytes, recipients: bytes = b"") -> Envelope:
    """
    The reverse of L{encode_envelope} and L{encode_recipients}. Facts with unknown letters are passed over, so that a
    later version may add some.

    @raise Damaged: it cannot be.
    """
    found: dict[str, object] = {}
    try:
        for letter, value in facts(octets):
            key = _ENVELOPE_KEYS.get(letter)
            if key is not None:
                found[key] = value
            elif letter == "U":
                found["smtputf8"] = True
            elif letter == "P":
                found["priority"] = Priority(int(value))
            elif letter in _TIMES:
                found[_TIMES[letter]] = float(value)
            elif letter == "Q":
                found["mt_priority"] = int(value)
            elif letter == "Z":
                found["require_tls"] = True
            elif letter == "z":
                found["tls_optional"] = True
            elif letter == "V":
                found["converted"] = True
        return Envelope(recipients=tuple(decode_recipients(recipients)), **found)  # type: ignore[arg-type]
    except (ValueError, TypeError) as problem:
        raise Damaged(f"envelope: {problem}") from problem


def decode_recipients(octets: bytes) -> Iterator[Recipient]:
    """
    The recipients in order.

    @raise Damaged: they cannot be read.
    """
    channel = host = original = orcpt = ""
    notify = 0
    for letter, value in facts(octets):
        if letter == "T":
            yield Recipient(
                address=value, original=original or value, channel=channel, host=host, orcpt=orcpt, notify=notify
            )
            original, orcpt, notify = "", "", 0
        elif letter == "c":
            channel = value
        elif letter == "h":
            host = value
        elif letter == "o":
            original = value
        elif letter == "r":
            orcpt = value
        elif letter == "n":
            try:
                notify = int(value)
            except ValueError as problem:
                raise Damaged(f"recipient: {problem}") from problem


# --- ops -----------------------------------------------------------------------------------------------------


class Outcome(Enum):
    """What an attempt came to for a recipient, as the journal says it."""

    DELIVERED = 1
    DEFERRED = 2
    FAILED = 3
    SILENCED = 4  # failed, and the sender wants no notice
    REMOVED = 5  # deleted by an operator

    __hash__ = object.__hash__  # as that of L{qmailpy.records.record.Action}, and for the same reason


@frozen
class Enqueued:
    """A message was accepted."""

    number: int
    envelope: Envelope
    size: int
    crc: int
    content: bytes | None  # None: it is in mess/


@frozen
class Result:
    """One recipient's part of an attempt."""

    recipient: int  # number in the envelope
    outcome: Outcome
    next_attempt: float = 0.0  # for DEFERRED
    transferred: int = 0
    modifiers: str = ""
    text: str = ""  # diagnostic
    place: str = ""  # where it was delivered to, for a replay; "" when there is nothing to replay


@frozen
class Attempted:
    """An attempt ended."""

    number: int
    channel: str
    time: float
    results: tuple[Result, ...]


@frozen
class Held:
    """An operator, or the hold channel, keeps a copy back."""

    number: int
    channel: str
    reason: str


@frozen
class Released:
    """A held copy may go, at once."""

    number: int
    channel: str
    time: float


@frozen
class Warned:
    """A delay notice went out for what is left of a copy."""

    number: int
    channel: str
    time: float
    count: int  # delay notices so far, this one included
    left_out: tuple[int, ...] = ()  # recipients that had failed by then, though that was not recorded yet


@frozen
class Requeued:
    """Deliveries that were made could not be repeated after a power cut, and are mail that waits by now."""

    number: int
    channel: str
    recipients: tuple[int, ...]  # numbers in the envelope


@frozen
class Checkpoint:
    """Segments below C{low} are done with; the books are durable up to C{sequence}."""

    low: int
    sequence: int
    highest: int  # message number
    books: BooksCheckpoint


Op = Enqueued | Attempted | Held | Released | Warned | Requeued | Checkpoint

_OP = struct.Struct("<BI")
_ENQUEUED = struct.Struct("<QBQIII")
_ATTEMPTED = struct.Struct("<QdHI")
_RESULT = struct.Struct("<IBdQBI")
_PLACE = struct.Struct(
    "<II"
)  # position among the results, octets; behind all results, where older versions do not look
_NAMED = struct.Struct("<QdH")
_CHECKPOINT = struct.Struct("<QQQQQQI")


def encode_op(op: Op) -> bytes:
    """An op in the journal's form."""
    if isinstance(op, Enqueued):
        envelope = encode_envelope(op.envelope)
        recipients = encode_recipients(op.envelope.recipients)
        inline = op.content is not None
        head = _ENQUEUED.pack(op.number, inline, op.size, op.crc, len(envelope), len(recipients))
        content = op.content or b""
        length = len(head) + len(envelope) + len(recipients) + len(content)
        return b"".join((_OP.pack(1, length), head, envelope, recipients, content))
    if isinstance(op, Attempted):
        channel = op.channel.encode()
        parts = [_ATTEMPTED.pack(op.number, op.time, len(channel), len(op.results)), channel]
        places: list[bytes] = []
        for position, result in enumerate(op.results):
            modifiers = result.modifiers.encode()
            text = result.text.encode("utf-8", "surrogateescape")
            parts.append(
                _RESULT.pack(
                    result.recipient,
                    result.outcome.value,
                    result.next_attempt,
                    result.transferred,
                    len(modifiers),
                    len(text),
                )
            )
            parts.append(modifiers)
            parts.append(text)
            if result.place:
                place = result.place.encode("utf-8", "surrogateescape")
                places += (_PLACE.pack(position, len(place)), place)
        kind, body = 2, b"".join(parts + places)
    elif isinstance(op, Checkpoint):
        books = op.books
        parts = [
            _CHECKPOINT.pack(
                op.low, op.sequence, op.highest, books.file, books.offset, books.sequence, len(books.counters)
            )
        ]
        for name, values in books.counters.items():
            octets = name.encode()
            parts.append(struct.pack(f"<HH{len(octets)}s{len(values)}q", len(octets), len(values), octets, *values))
        kind, body = 6, b"".join(parts)
    else:
        if isinstance(op, Held):
            kind, time, rest = 3, 0.0, op.reason
        elif isinstance(op, Released):
            kind, time, rest = 4, op.time, ""
        elif isinstance(op, Requeued):
            kind, time, rest = 7, 0.0, " ".join(map(str, op.recipients))
        else:
            kind, time, rest = 5, op.time, " ".join(map(str, (op.count, *op.left_out)))
        channel = op.channel.encode()
        body = _NAMED.pack(op.number, time, len(channel)) + channel + rest.encode("utf-8", "surrogateescape")
    return _OP.pack(kind, len(body)) + body


def decode_ops(payload: bytes) -> Iterator[Op]:
    """
    The ops of a journal record.

    @raise Damaged: they cannot be read; the record's checksum was right, so that is a fault of ours.
    """
    at = 0
    try:
        while at < len(payload):
            kind, length = _OP.unpack_from(payload, at)
            at += _OP.size
            body = payload[at : at + length]
            if len(body) != length:
                raise Damaged("op cut short")
            at += length
            yield _DECODERS[kind](body)
    except (struct.error, KeyError, ValueError, UnicodeDecodeError) as problem:
        raise Damaged(f"op: {problem!r}") from problem


def is_checkpoint(payload: bytes) -> bool:
    """Whether a record is a checkpoint, without decoding the rest; checkpoints stand alone in their record."""
    return payload[:1] == b"\x06"


def _enqueued(body: bytes) -> Op:
    number, inline, size, crc, envelope, recipients = _ENQUEUED.unpack_from(body)
    at = _ENQUEUED.size
    middle = at + envelope
    end = middle + recipients
    content = body[end:] if inline else None
    if content is not None and len(content) != size:
        raise Damaged("content of another length")
    return Enqueued(number, decode_envelope(body[at:middle], body[middle:end]), size, crc, content)


def _attempted(body: bytes) -> Op:
    number, time, channel_length, count = _ATTEMPTED.unpack_from(body)
    at = _ATTEMPTED.size
    channel = body[at : at + channel_length].decode()
    at += channel_length
    results: list[Result] = []
    for _ in range(count):
        recipient, outcome, next_attempt, transferred, modifiers_length, text_length = _RESULT.unpack_from(body, at)
        at += _RESULT.size
        modifiers = body[at : at + modifiers_length].decode()
        at += modifiers_length
        text = body[at : at + text_length].decode("utf-8", "surrogateescape")
        at += text_length
        results.append(Result(recipient, Outcome(outcome), next_attempt, transferred, modifiers, text))
    while at < len(body):
        position, length = _PLACE.unpack_from(body, at)
        at += _PLACE.size
        if position >= count:
            raise Damaged("a place of nobody")
        place = body[at : at + length].decode("utf-8", "surrogateescape")
        results[position] = evolve(results[position], place=place)
        at += length
    return Attempted(number, channel, time, tuple(results))


def _named(body: bytes) -> tuple[int, float, str, str]:
    number, time, length = _NAMED.unpack_from(body)
    at = _NAMED.size
    return number, time, body[at : at + length].decode(), body[at + length :].decode("utf-8", "surrogateescape")


def _held(body: bytes) -> Op:
    number, _, channel, reason = _named(body)
    return Held(number, channel, reason)


def _released(body: bytes) -> Op:
    number, time, channel, _ = _named(body)
    return Released(number, channel, time)


def _warned(body: bytes) -> Op:
    number, time, channel, rest = _named(body)
    count, *left_out = map(int, rest.split())
    return Warned(number, channel, time, count, tuple(left_out))


def _requeued(body: bytes) -> Op:
    number, _, channel, recipients = _named(body)
    return Requeued(number, channel, tuple(map(int, recipients.split())))


def _checkpoint(body: bytes) -> Op:
    low, sequence, highest, file, offset, line, count = _CHECKPOINT.unpack_from(body)
    at = _CHECKPOINT.size
    counters: dict[str, tuple[int, ...]] = {}
    for _ in range(count):
        name_length, values = struct.unpack_from("<HH", body, at)
        at += 4
        name = body[at : at + name_length].decode()
        at += name_length
        counters[name] = struct.unpack_from(f"<{values}q", body, at)
        at += 8 * values
    return Checkpoint(low, sequence, highest, BooksCheckpoint(file, offset, line, counters))


_DECODERS: Mapping[int, Callable[[bytes], Op]] = {
    1: _enqueued,
    2: _attempted,
    3: _held,
    4: _released,
    5: _warned,
    6: _checkpoint,
    7: _requeued,
}
