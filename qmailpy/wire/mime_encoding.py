"""
Content-Transfer-Encodings (RFC 2045 s.6), a piece at a time: from what stands in a part to its data, and back.

Decoding is tolerant, as those who read mail are: what does not belong into base64 is passed over, a C{=} that means
nothing stays. Encoding gives lines of at most 76 characters, none of which looks like a boundary.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Iterator

from attrs import define

from qmailpy.wire.mime import IDENTITY

LONGEST = 998  # octets of a line that may go as it is (RFC 5322 s.2.1.1)
KEPT = 65536  # octets without a line end that are kept for more

_NOT_BASE64 = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="))
_DASHES = re.compile(rb"^--", re.MULTILINE)


def decodable(encoding: str) -> bool:
    """Whether L{Decoder} knows an encoding."""
    return encoding in IDENTITY or encoding in ("base64", "quoted-printable")


class Decoder:
    """The data of one part."""

    def __init__(self, encoding: str) -> None:
        """@param encoding: in lower case; one that is not L{decodable} is left as it is."""
        self._encoding = encoding
        self._kept = b""
        self._over = False

    def feed(self, octets: bytes) -> bytes:
        """The next octets as they stand in the part: what can be told of the data."""
        if self._encoding == "base64":
            return self._base64(octets)
        if self._encoding == "quoted-printable":
            octets = self._kept + octets
            end = octets.rfind(b"\n") + 1
            if not end and len(octets) > KEPT:
                end = octets.rfind(b"=", len(octets) - 3)
                end = len(octets) if end < 0 else end
            self._kept = octets[end:]
            return binascii.a2b_qp(octets[:end])
        return octets

    def end(self) -> bytes:
        """The rest."""
        kept, self._kept = self._kept, b""
        if self._encoding == "quoted-printable":
            return binascii.a2b_qp(kept)
        if self._encoding == "base64" and len(kept) > 1 and not self._over:
            return binascii.a2b_base64(kept + b"=" * (-len(kept) % 4))
        return b""

    def _base64(self, octets: bytes) -> bytes:
        if self._over:
            return b""
        octets = self._kept + octets.translate(None, _NOT_BASE64)
        pad = octets.find(b"=")
        if pad >= 0:
            self._over = True  # what stands behind the padding is not data (RFC 2045 s.6.8)
            octets = octets[:pad]
            octets = octets[:-1] if len(octets) % 4 == 1 else octets
            self._kept = b""
            return binascii.a2b_base64(octets + b"=" * (-len(octets) % 4))
        end = len(octets) - len(octets) % 4
        self._kept = octets[end:]
        return binascii.a2b_base64(octets[:end])


@define
class Survey:
    """What has to be known of data before its encoding is chosen; fed all of it, in pieces."""

    size: int = 0
    beyond: int = 0  # octets that are not ASCII
    longest: int = 0  # line, in octets
    odd: bool = False  # NUL, a bare CR or LF, or a line that may look like a boundary or a mailbox separator
    _line: int = 0
    _last: bytes = b"\n"

    def feed(self, octets: bytes) -> None:
        self.size += len(octets)
        self.beyond += len(octets) - len(octets.translate(None, bytes(range(128, 256))))
        lines = octets.split(b"\n")
        self.longest = max(self.longest, self._line + len(lines[0]), *map(len, lines))
        self._line = len(lines[-1]) + (self._line if len(lines) == 1 else 0)
        if not self.odd:
            joined = self._last + octets
            crlf = joined.count(b"\r\n")
            ends = joined.count(b"\n") - (1 if self._last == b"\n" else 0)
            bare = octets.count(b"\r") + (1 if self._last == b"\r" else 0) - (1 if octets.endswith(b"\r") else 0)
            self.odd = b"\0" in octets or crlf != ends or crlf != bare or b"\n-" in joined or b"\nFrom " in joined
        self._last = octets[-1:] or self._last

    def encoding(self, *, text: bool) -> str:
        """The best encoding for it: C{7bit}, C{quoted-printable} or C{base64}."""
        if not text:
            return "base64"
        if not self.beyond and not self.odd and self.longest <= LONGEST:
            return "7bit"
        return "quoted-printable" if self.beyond * 3 <= self.size else "base64"


def encoded(chunks: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """
    Data in an encoding, CRLF line ends, without one behind the last line.

    @param encoding: one that L{Survey.encoding} gave, with CRLF line ends in what is text.
    """
    if encoding == "base64":
        yield from _in_base64(chunks)
    elif encoding == "quoted-printable":
        yield from _quoted(chunks)
    else:
        yield from chunks


def _in_base64(chunks: Iterable[bytes]) -> Iterator[bytes]:
    kept, first = b"", True
    for chunk in chunks:
        kept += chunk
        end = len(kept) - len(kept) % 57
        if end and len(kept) > end:  # something is left for later, so these lines are not the last
            yield (b"" if first else b"\r\n") + _lines(kept[:end])
            first = False
            kept = kept[end:]
    if kept:
        yield (b"" if first else b"\r\n") + _lines(kept)


def _lines(octets: bytes) -> bytes:
    return b"\r\n".join(binascii.b2a_base64(octets[at : at + 57], newline=False) for at in range(0, len(octets), 57))


def _quoted(chunks: Iterable[bytes]) -> Iterator[bytes]:
    kept = b""
    for chunk in chunks:
        kept += chunk
        end = kept.rfind(b"\r\n") + 2
        if end >= 2:
            yield quoted(kept[:end])
            kept = kept[end:]
        elif len(kept) > KEPT:  # a line of that length is cut softly
            yield quoted(kept[:-1]) + b"=\r\n"
            kept = kept[-1:]
    if kept:
        yield quoted(kept)


def quoted(octets: bytes) -> bytes:
    """
    Text with CRLF line ends in quoted-printable, a bare CR or LF as data.
    """
    lines = [binascii.b2a_qp(line, istext=False).replace(b"\n", b"\r\n") for line in octets.split(b"\r\n")]
    return _DASHES.sub(b"=2D-", b"\r\n".join(lines))
