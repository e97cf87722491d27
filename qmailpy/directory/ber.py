"""
LDAP messages cut out of a stream, and judged before anything recursive looks at them.

Pure. BER with definite lengths only (RFC 4511 s.5.1). L{Frames} waits for whole messages, so that nothing is decoded
twice; L{check} walks one in linear time, because the decoder behind it recurses into nested elements and copies
their contents at every level.
"""

from __future__ import annotations

DEPTH = 40
"""Deepest nesting we take; a sensible filter has less than ten levels."""

ELEMENTS = 20000
"""Most elements of a message we take."""


class BadMessage(Exception):
    """Not an LDAP message, or more than we take; the connection is of no use any more."""


def _header(octets: bytes | bytearray | memoryview, at: int) -> tuple[int, int] | None:
    """Octets of the tag-and-length at C{at} and of the content after it; C{None} while the header is not whole."""
    if at + 2 > len(octets):
        return None
    if octets[at] & 0x1F == 0x1F:
        raise BadMessage("a tag of several octets")
    first = octets[at + 1]
    if first < 0x80:
        return 2, first
    more = first & 0x7F
    if not 1 <= more <= 4:
        raise BadMessage("a length that is indefinite or absurd")
    if at + 2 + more > len(octets):
        return None
    return 2 + more, int.from_bytes(octets[at + 2 : at + 2 + more], "big")


class Frames:
    """Cuts a stream into messages, holding at most one that is not whole."""

    def __init__(self, limit: int) -> None:
        """@param limit: octets of the largest message taken; may be changed between messages."""
        self.limit = limit
        self._buffer = bytearray()

    @property
    def pending(self) -> bool:
        """Whether a part of a message waits for its rest."""
        return bool(self._buffer)

    def feed(self, octets: bytes) -> list[bytes]:
        """
        Take what arrived.

        @return: the messages that are whole now.
        @raise BadMessage: no message of ours can come of this.
        """
        self._buffer += octets
        found = []
        at = 0
        while at < len(self._buffer):
            if self._buffer[at] != 0x30:
                raise BadMessage("not a sequence")
            header = _header(self._buffer, at)
            if header is None:
                break
            end = at + sum(header)
            if end - at > self.limit:
                raise BadMessage("too large")
            if end > len(self._buffer):
                break
            found.append(bytes(self._buffer[at:end]))
            at = end
        del self._buffer[:at]
        return found


def check(message: bytes) -> None:
    """
    Judge a whole message: lengths that fit into each other, bounded depth and number of elements.

    @raise BadMessage: they do not.
    """
    ends = [len(message)]
    at = count = 0
    while at < len(message):
        while at >= ends[-1]:
            ends.pop()
        header = _header(message, at)
        if header is None or at + sum(header) > ends[-1]:
            raise BadMessage("an element is longer than what holds it")
        count += 1
        if count > ELEMENTS:
            raise BadMessage("too many elements")
        if not message[at] & 0x20:
            at += sum(header)
            continue
        if len(ends) > DEPTH:
            raise BadMessage("nested too deep")
        ends.append(at + sum(header))
        at += header[0]
