"""
Messages in pieces: message/partial (RFC 2046 s.5.2.2). What a piece says of itself, and the header of the whole.

Pure and bounded; a piece that says nonsense is none.
"""

from __future__ import annotations

from attrs import frozen

from qmailpy.wire.headers import find
from qmailpy.wire.mime import IDENTITY
from qmailpy.wire.mime_rewrite import edit_header
from qmailpy.wire.mime_values import parse_value

WAITS = "Waiting for the other pieces of the message"
"""The words of the answer to a piece that has to stay in the queue for that."""

PIECES = 1000
"""Most pieces of a message."""

_ENCLOSED = ("content-*", "subject", "message-id", "encrypted", "mime-version")
"""Fields that are taken from the enclosed header, and not from that of the first piece (s.5.2.2.1)."""


@frozen(kw_only=True)
class Piece:
    """One piece."""

    id: str
    number: int  # from 1
    total: int  # 0 = it does not say


def piece_of(header: bytes) -> Piece | None:
    """
    What a message is a piece of; C{None} when it is none.

    @param header: of the message.
    """
    found = find(header, "content-type", "content-transfer-encoding")
    if "partial" not in found.get("content-type", "").lower():
        return None
    value = parse_value(found["content-type"])
    if value.main != "message/partial" or found.get("content-transfer-encoding", "").strip().lower() not in IDENTITY:
        return None
    number, total = _number(value.parameters.get("number", "")), _number(value.parameters.get("total", ""))
    name = value.parameters.get("id", "")
    if not name or not number or (total and number > total):
        return None
    return Piece(id=name, number=number, total=total)


def _number(text: str) -> int:
    """A number of pieces; 0 for what is none."""
    good = text.isascii() and text.isdigit() and len(text) <= 6
    return int(text) if good and int(text) <= PIECES else 0


def whole_header(first: bytes, enclosed: bytes) -> bytes:
    """
    The header of a whole message, by the rules of s.5.2.2.1.

    @param first: header of the first piece.
    @param enclosed: the header that its body begins with.
    @return: with the empty line.
    """
    outer = edit_header(first, _ENCLOSED).removesuffix(b"\r\n")
    return outer + _only(enclosed) + b"\r\n"


def _only(header: bytes) -> bytes:
    """The fields of an enclosed header that count."""
    names = tuple(name.encode("ascii") for name in _ENCLOSED if not name.endswith("*"))
    kept: list[bytes] = []
    keeping = False
    for line in header.split(b"\r\n"):
        if not line:
            continue
        if not line.startswith((b" ", b"\t")):
            name = line.partition(b":")[0].rstrip(b" \t").lower()
            keeping = name.startswith(b"content-") or name in names
        if keeping:
            kept.append(line + b"\r\n")
    return b"".join(kept)
