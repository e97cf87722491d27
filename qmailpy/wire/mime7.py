"""
8-bit messages for peers that take 7 bits only (RFC 6152 s.3, RFC 2045 s.6): bodies in quoted-printable or base64.

Each part that has 8-bit octets is encoded by itself, text as quoted-printable and everything else as base64; parts
without any, and all headers but Content-Transfer-Encoding, stay as they are. Multiparts and enclosed messages
(message/rfc822), which may not be encoded themselves, are gone into, without recursion and C{DEPTH} deep. A
message that is no MIME becomes text of an unknown charset (RFC 1428).

Not touched, since it would be worthless afterwards, but told by L{Unconvertible}: what is signed or encrypted by parts
(RFC 1847), other kinds of message/..., and parts whose encoding is not what they say. Octets beyond ASCII in a header
stay: they have no right to be there, and no encoding that fits every field. A DKIM signature does not survive; RFC 6376
s.5.3 asks those who sign to send 7 bits for that reason.

L{shorten} does the same for lines that are longer than a channel allows; other parts stay, 8-bit ones too.

Pure; linear in the size of the message, of which at most a few copies are held. C{LIMIT} bounds what is converted.
"""

from __future__ import annotations

import base64
import binascii
import re

from attrs import define

from qmailpy.wire.headers import fields, unfold
from qmailpy.wire.lines import only_pairs

LIMIT = 32 * 1024 * 1024
"""Octets of the largest message that is converted."""

LINE_OCTETS = 998
"""Octets of a line, without its end."""

DEPTH = 50
"""How deep multiparts may be nested."""

_BOUNDARY = re.compile(r';\s*boundary\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))', re.IGNORECASE)
_TYPE = re.compile(r"\s*([A-Za-z0-9.+-]+/[A-Za-z0-9.+_-]+)")
_VALUE_LIMIT = 2000  # characters of a field that are looked at
_MASK = bytes(range(128)) + b"?" * 128
_IDENTITY = ("", "7bit", "8bit", "binary")


class Unconvertible(Exception):
    """The message cannot be made 7-bit; says why."""


@define
class _Level:
    """A multipart that is open."""

    boundary: bytes
    sealed: bool  # nothing in it may change
    digest: bool  # its parts are messages unless they say otherwise (RFC 2046 s.5.1.5)


def convert(content: bytes, *, binary: bool = False) -> bytes:
    """
    The same message in 7 bits.

    @param content: CRLF line ends.
    @param binary: it came as BINARYMIME (RFC 3030 s.3), so that its parts may be anything; they become lines as well.
    @raise Unconvertible: see above.
    """
    if content.isascii() and not binary:
        return content
    if len(content) > LIMIT:
        raise Unconvertible("it is too large")
    return b"".join(_Converter(content, binary).pieces)


def shorten(content: bytes, most: int) -> bytes:
    """
    The same message without lines of more than C{most} octets.

    @param content: CRLF line ends.
    @param most: 78 at least.
    @raise Unconvertible: see above; or the long line is not one of a part that can be encoded.
    """
    if not longer(content, most):
        return content
    if len(content) > LIMIT:
        raise Unconvertible("it is too large")
    made = b"".join(_Converter(content, False, most).pieces)
    if longer(made, most):
        raise Unconvertible("a line is too long in a header, or between parts")
    return made


def longer(body: bytes, most: int) -> bool:
    """Whether a line is longer, without its CRLF."""
    if len(body) <= most:
        return False
    at, size = 0, len(body)
    while size - at > most:
        end = body.rfind(b"\r\n", at, at + most + 2)  # the last end of a line that may be
        if end < 0:
            return True
        at = end + 2
    return False


class _Converter:
    """One message on its way."""

    def __init__(self, content: bytes, binary: bool, most: int = 0) -> None:
        """
        @param most: only parts with longer lines are encoded; 0 = all that are not 7-bit.
        """
        self.pieces: list[bytes] = []
        self._most = most
        self._binary = binary
        self._content = content
        self._levels: list[_Level] = []
        self._known: dict[bytes, int] = {}  # level of each open boundary
        self._enclosed = False  # the next header is that of an enclosed message
        at, top = 0, True
        while at >= 0:
            at = self._entity(at, top)
            top = False

    def _entity(self, at: int, top: bool) -> int:
        """
        A header and what follows it, up to the next header.

        @return: where that begins, -1 at the end.
        """
        end = self._header_end(at)
        header = self._content[at:end]
        found: dict[str, str] = {}
        for name, value in fields(header):
            found.setdefault(name, unfold(value[:_VALUE_LIMIT]))
        kind = self._kind(found, top or self._enclosed)
        self._enclosed = False
        encoding = found.get("content-transfer-encoding", "").strip().lower()
        if kind == "message/rfc822" and encoding in _IDENTITY and header:
            self._enclosed = True
            self.pieces.append(self._plain(header, encoding))
            return end
        boundary = _BOUNDARY.search(found.get("content-type", "")) if kind.startswith("multipart/") else None
        if boundary is None:
            return self._leaf(header, end, kind, encoding, found if top else None)
        mark = re.sub(r"\\(.)", r"\1", boundary[1]) if boundary[1] is not None else boundary[2]
        self._open(mark.rstrip().encode("utf-8", "surrogateescape"), kind, encoding)
        self.pieces.append(self._plain(header, encoding))
        return self._between(end)

    def _plain(self, header: bytes, encoding: str) -> bytes:
        """The header of what holds other entities, which are 7-bit from now on."""
        return _with_encoding(header, b"7bit") if encoding in ("8bit", "binary") and not self._most else header

    def _kind(self, found: dict[str, str], whole: bool) -> str:
        """
        The media type of an entity, in lower case.

        @param whole: it is a message and no part.
        """
        match = _TYPE.match(found.get("content-type", ""))
        if match is not None:
            return match[1].lower()
        return "message/rfc822" if self._levels and self._levels[-1].digest and not whole else "text/plain"

    def _open(self, boundary: bytes, kind: str, encoding: str) -> None:
        if not boundary or boundary in self._known or len(self._levels) >= DEPTH or encoding not in _IDENTITY:
            raise Unconvertible("its parts cannot be told apart")
        sealed = kind in ("multipart/signed", "multipart/encrypted") or (bool(self._levels) and self._levels[-1].sealed)
        self._known[boundary] = len(self._levels)
        self._levels.append(_Level(boundary, sealed, kind == "multipart/digest"))

    def _leaf(self, header: bytes, at: int, kind: str, encoding: str, top: dict[str, str] | None) -> int:
        """
        A body that is data.

        @param top: the fields of the message's own header, when it is that.
        """
        start, line_end, level = self._next_boundary(at)
        body = self._content[at:start]
        lines = not self._binary or _lines(body)
        if not longer(body, self._most) if self._most else lines and body.isascii():
            if self._binary and encoding == "binary":
                header = _with_encoding(header, b"7bit")
        else:
            if self._levels and self._levels[-1].sealed:
                raise Unconvertible("it is signed or encrypted")
            if kind.startswith("message/") or encoding not in _IDENTITY:
                raise Unconvertible(f"a part of type {kind} cannot be encoded")
            text = kind.startswith("text/") and lines
            header = _with_encoding(header, b"quoted-printable" if text else b"base64")
            if top is not None and "mime-version" not in top:
                header = b"MIME-Version: 1.0\r\n" + header
                if "content-type" not in top and not body.isascii():
                    header = b"Content-Type: text/plain; charset=unknown-8bit\r\n" + header
            body = _quoted(body) if text else base64.encodebytes(body).replace(b"\n", b"\r\n").removesuffix(b"\r\n")
        self.pieces += (header, body)
        return self._pass(start, line_end, level)

    def _between(self, at: int) -> int:
        """Text before, between or after parts, which nobody reads: its 8-bit octets become question marks."""
        start, line_end, level = self._next_boundary(at)
        self.pieces.append(self._masked(at, start))
        return self._pass(start, line_end, level)

    def _masked(self, at: int, end: int) -> bytes:
        return self._content[at:end] if self._most else self._content[at:end].translate(_MASK)

    def _pass(self, start: int, line_end: int, level: int) -> int:
        """
        Go over a boundary line.

        @param level: as of L{_next_boundary}.
        @return: where the next header begins, -1 at the end.
        """
        while level >= 0:
            self.pieces.append(self._content[start:line_end])
            closing = level % 2
            for gone in self._levels[level // 2 + (0 if closing else 1) :]:
                del self._known[gone.boundary]
            del self._levels[level // 2 + (0 if closing else 1) :]
            if not closing:
                return line_end
            at = line_end
            start, line_end, level = self._next_boundary(at)
            self.pieces.append(self._masked(at, start))
        return -1

    def _header_end(self, at: int) -> int:
        """Behind the empty line that ends the header at C{at}, or at the boundary line that cuts it short."""
        content = self._content
        while True:
            end = content.find(b"\r\n", at)
            if end < 0:
                return len(content)
            if end == at:
                return end + 2
            if content.startswith(b"--", at) and self._boundary(at, end) >= 0:
                return at
            at = end + 2

    def _next_boundary(self, at: int) -> tuple[int, int, int]:
        """
        The next line that is an open boundary.

        @return: where it begins (with the CRLF before it, which is part of it: RFC 2046 s.5.1.1), where it ends (behind
            its CRLF), and twice its level, plus 1 when it closes it; level -1 where there is none, at the end.
        """
        content, size = self._content, len(self._content)
        if self._levels:
            first = True
            while True:
                line = at if first and content.startswith(b"--", at) else -1
                start = line
                if line < 0:
                    start = content.find(b"\r\n--", at)
                    if start < 0:
                        break
                    line = start + 2
                first = False
                end = content.find(b"\r\n", line)
                end = size if end < 0 else end
                level = self._boundary(line, end)
                if level >= 0:
                    return start, min(end + 2, size), level
                at = end if end > at else at + 1
        return size, size, -1

    def _boundary(self, line: int, end: int) -> int:
        """Which boundary a line is, as of L{_next_boundary}."""
        if end - line > 1000:
            return -1
        mark = self._content[line + 2 : end].rstrip(b" \t")
        level = self._known.get(mark)
        if level is not None:
            return 2 * level
        level = self._known.get(mark[:-2]) if mark.endswith(b"--") else None
        return -1 if level is None else 2 * level + 1


def _with_encoding(header: bytes, encoding: bytes) -> bytes:
    """A header that says so in its only Content-Transfer-Encoding field."""
    kept: list[bytes] = []
    dropping = False
    lines = header.split(b"\r\n")
    for line in lines:
        if not line.startswith((b" ", b"\t")):
            dropping = line.partition(b":")[0].rstrip().lower() == b"content-transfer-encoding"
        if not dropping:
            kept.append(line)
    new = b"Content-Transfer-Encoding: " + encoding
    ended = len(kept) >= 2 and not kept[-1] and not kept[-2]  # with the empty line
    if ended or header == b"\r\n":
        kept.insert(len(kept) - 2, new)
        return b"\r\n".join(kept)
    return b"\r\n".join(line for line in kept if line) + (b"\r\n" if any(kept) else b"") + new + b"\r\n\r\n"


def _lines(body: bytes) -> bool:
    """Whether a body is what DATA may carry: lines of at most 998 octets (RFC 5321 s.4.5.3.1.6), and no NUL."""
    if b"\0" in body or not only_pairs(body):
        return False
    return len(body) <= LINE_OCTETS or max(map(len, body.split(b"\r\n"))) <= LINE_OCTETS


def _quoted(body: bytes) -> bytes:
    """Quoted-printable (RFC 2045 s.6.7) with CRLF line ends."""
    return binascii.b2a_qp(body, istext=True).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
