"""
The files of a message that has left the journal: info/ and chan/ or hold/ (docs/queue.md s.4).

Text, a fact a line: one letter, the value. The first line is the version; the last, C{Z}, is the CRC-32 of all before
it in hex, so that a torn or damaged file is known for what it is; C{Z-} is taken unchecked, for one repaired by hand.

    info/   V1; N size crc (of mess/); C channel, one for each copy it was born with; the envelope (queue.codec)
    chan/   V1; Q number of the last journal record it knows; W delay notices; B until when its sender wants it
            delivered (RFC 2852, mode N); H reason (held); G an operator let it go;
            then recipients: c h o r n (queue.codec), i number in the envelope, and either
            a attempts, t next attempt, e last error, T address   (to do)
            or  d outcome and time, D address                     (done)
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from attrs import frozen

from qmailpy.queue.codec import Damaged, Outcome, decode_envelope, encode_envelope
from qmailpy.queue.state import Copy, Done, Message, Pending
from qmailpy.values import Envelope, Recipient

_OUTCOMES = {outcome.name[:3].lower(): outcome for outcome in Outcome}


@frozen
class Info:
    """What info/ says."""

    envelope: Envelope  # without recipients
    size: int
    crc: int
    channels: tuple[str, ...]


def encode_info(message: Message) -> bytes:
    """The info file of a message."""
    lines = [b"V1", b"N%d %08x" % (message.size, message.crc)]
    lines += [_line("C", channel) for channel in message.channels]
    envelope = encode_envelope(message.envelope)
    if b"\n" in envelope:
        envelope = envelope.replace(b"\n", b" ")
    lines.append(envelope[:-1].replace(b"\0", b"\n"))
    return _sealed(lines)


def decode_info(octets: bytes) -> Info:
    """
    The reverse.

    @raise Damaged: it cannot be.
    """
    size = crc = -1
    channels = []
    rest = []
    for line in _opened(octets):
        if line[:1] == b"N":
            try:
                first, _, second = line[1:].partition(b" ")
                size, crc = int(first), int(second, 16)
            except ValueError as problem:
                raise Damaged(f"info: {problem}") from problem
        elif line[:1] == b"C":
            channels.append(_text(line))
        else:
            rest.append(line + b"\0")
    if size < 0:
        raise Damaged("info: no size")
    return Info(decode_envelope(b"".join(rest)), size, crc, tuple(channels))


def encode_copy(copy: Copy) -> bytes:
    """The chan or hold file of a copy."""
    lines = [b"V1", b"Q%d" % copy.sequence]
    if copy.warned:
        lines.append(b"W%d" % copy.warned)
    if copy.patience:
        lines.append(_line("B", repr(copy.patience)))
    if copy.held is not None:
        lines.append(_line("H", copy.held))
    elif copy.released:
        lines.append(b"G1")
    host = ""
    for number in sorted([*copy.pending, *copy.done]):
        pending = copy.pending.get(number)
        recipient = pending.recipient if pending is not None else copy.done[number].recipient
        if recipient.host != host:
            host = recipient.host
            lines.append(_line("h", host))
        if recipient.original != recipient.address:
            lines.append(_line("o", recipient.original))
        if recipient.orcpt:
            lines.append(_line("r", recipient.orcpt))
        if recipient.notify:
            lines.append(b"n%d" % recipient.notify)
        lines.append(b"i%d" % number)
        if pending is not None:
            if pending.attempts:
                lines.append(b"a%d" % pending.attempts)
            lines.append(_line("t", repr(pending.next_attempt)))
            if pending.error:
                lines.append(_line("e", pending.error))
            lines.append(_line("T", recipient.address))
        else:
            done = copy.done[number]
            lines.append(_line("d", f"{done.outcome.name[:3].lower()} {done.time!r}"))
            lines.append(_line("D", recipient.address))
    return _sealed(lines)


def decode_copy(octets: bytes, channel: str) -> Copy:
    """
    The reverse.

    @raise Damaged: it cannot be.
    """
    copy = Copy(channel, {})
    host = ""
    facts: dict[str, str] = {}
    try:
        for line in _opened(octets):
            letter, value = chr(line[0]), _text(line)
            if letter == "h":
                host = value
            elif letter == "Q":
                copy.sequence = copy.filed = int(value)
            elif letter == "W":
                copy.warned = int(value)
            elif letter == "B":
                copy.patience = float(value)
            elif letter == "H":
                copy.held = value
            elif letter == "G":
                copy.released = True
            elif letter in "TD":
                recipient = Recipient(
                    address=value,
                    original=facts.get("o", value),
                    channel=channel,
                    host=host,
                    orcpt=facts.get("r", ""),
                    notify=int(facts.get("n", "0")),
                )
                number = int(facts["i"])
                if letter == "T":
                    copy.pending[number] = Pending(
                        recipient, int(facts.get("a", "0")), float(facts["t"]), facts.get("e", "")
                    )
                else:
                    outcome, _, time = facts["d"].partition(" ")
                    copy.done[number] = Done(recipient, _OUTCOMES[outcome], float(time))
                facts = {}
            else:
                facts[letter] = value
    except (KeyError, ValueError) as problem:
        raise Damaged(f"chan: {problem!r}") from problem
    return copy


def _line(letter: str, value: str) -> bytes:
    octets = (letter + value).encode("utf-8", "surrogateescape")
    return octets.replace(b"\n", b" ") if b"\n" in octets else octets


def _text(line: bytes) -> str:
    return line[1:].decode("utf-8", "surrogateescape")


def _sealed(lines: list[bytes]) -> bytes:
    body = b"\n".join(lines) + b"\n"
    return body + b"Z%08x\n" % zlib.crc32(body)


def _opened(octets: bytes) -> Iterator[bytes]:
    """The lines between the first and the last."""
    end = octets.rfind(b"\nZ", 0, len(octets) - 1) + 1
    seal = octets[end + 1 :].strip()
    if not end or not octets.startswith(b"V1\n"):
        raise Damaged("not a file of this version, or cut short")
    if seal != b"-" and seal != b"%08x" % zlib.crc32(octets[:end]):
        raise Damaged("its checksum is wrong")
    for line in octets[3:end].split(b"\n"):
        if line:
            yield line
