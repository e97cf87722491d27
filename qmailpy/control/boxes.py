"""
AMP boxes as octets, without Twisted: what a command needs to talk to a process and nothing more.

A box is pairs of key and value, each with a length of two octets in front (big-endian), and ends with an empty key. A
key has 1 to 255 octets, a value at most 65,535. Commands start quickly because this imports nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

KEY_LIMIT = 255
VALUE_LIMIT = 65535

Box = dict[bytes, bytes]


def pack(box: Mapping[bytes, bytes]) -> bytes:
    """
    The octets of a box.

    @raise ValueError: a key or a value is too long, or a key is empty.
    """
    parts = []
    for key, value in box.items():
        if not 0 < len(key) <= KEY_LIMIT or len(value) > VALUE_LIMIT:
            raise ValueError("an AMP key has 1 to 255 octets, a value at most 65535")
        parts += [len(key).to_bytes(2, "big"), key, len(value).to_bytes(2, "big"), value]
    parts.append(b"\0\0")
    return b"".join(parts)


class Unpacker:
    """
    Octets in, boxes out, in whatever pieces the octets arrive.

    Linear: an octet is copied a fixed number of times. Bounded: a box of more than C{limit} octets is refused.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._box: Box = {}
        self._size = 0  # octets of the box under way that have been taken out of the buffer
        self._key: bytes | None = None

    def feed(self, octets: bytes) -> list[Box]:
        """
        Take octets; the boxes that are complete with them, in order.

        @raise ValueError: a key or a box is longer than it may be; the stream cannot be used any further.
        """
        self._buffer += octets
        done: list[Box] = []
        at = 0
        while len(self._buffer) - at >= 2:
            length = int.from_bytes(self._buffer[at : at + 2], "big")
            if self._key is None and length > KEY_LIMIT:
                raise ValueError("not AMP: a key is longer than 255 octets")
            if self._size + 2 + length > self._limit:
                raise ValueError(f"an AMP box is longer than {self._limit} octets")
            if len(self._buffer) - at - 2 < length:
                break
            text = bytes(self._buffer[at + 2 : at + 2 + length])
            at += 2 + length
            self._size += 2 + length
            if self._key is not None:
                self._box[self._key] = text
                self._key = None
            elif text:
                self._key = text
            else:
                done.append(self._box)
                self._box, self._size = {}, 0
        del self._buffer[:at]
        return done
