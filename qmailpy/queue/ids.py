"""
Queue ids: unique, sortable by time of birth, never used again.

A message has a 64-bit number within its shard: 54 bits of microseconds since 2020 and 10 bits of chance. Numbers of a
shard strictly increase, also over a restart and over a clock that is set back, because the source starts above the
highest number the disk knows (docs/queue.md s.2). The id is the number in 13 digits of base 32 and the shard in two
more, so ids of one node sort by time and name their shard.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

EPOCH_S = 1577836800  # 2020-01-01T00:00:00Z
DIGITS = "0123456789abcdefghijklmnopqrstuv"
LENGTH = 15
SHARDS = 1024
_VALUE = {digit: value for value, digit in enumerate(DIGITS)}
_ID = re.compile(f"[{DIGITS[:16]}][{DIGITS}]{{{LENGTH - 1}}}").fullmatch  # the first digit has the last of 64 bits
_DIGITS = DIGITS.encode()
_ABOVE = 1 << 64
_PAIRS = [a + b for a in DIGITS for b in DIGITS]


def shard_code(shard: str) -> str:
    """
    The two digits that stand for a shard in an id.

    @param shard: its name, a decimal number below 1024.
    @raise ValueError: it is not.
    """
    number = int(shard)
    if not 0 <= number < SHARDS or shard != str(number):
        raise ValueError(f"not a shard name: {shard!r}")
    return _PAIRS[number]


def to_id(number: int, code: str) -> str:
    """The id of a message number in the shard with these two digits."""
    pairs = _PAIRS
    return (
        DIGITS[number >> 60]
        + pairs[number >> 50 & 1023]
        + pairs[number >> 40 & 1023]
        + pairs[number >> 30 & 1023]
        + pairs[number >> 20 & 1023]
        + pairs[number >> 10 & 1023]
        + pairs[number & 1023]
        + code
    )


def to_number(queue_id: str) -> int:
    """
    The message number of an id.

    @raise ValueError: it is no id.
    """
    if _ID(queue_id) is None:
        raise ValueError(f"not a queue id: {queue_id!r}")
    return int(queue_id[:13], 32)  # many times faster than we could


def numbers_of(names: Sequence[str]) -> list[int]:
    """The numbers of those names that are ids, ascending; a million in a third of a second."""
    # All of them at once, as names of one length and of digits alone are nearly always. What remains is a first digit
    # that is too high, and that makes a number that is too high.
    if set(map(len, names)) == {LENGTH} and not "".join(names).encode("utf-8", "replace").translate(None, _DIGITS):
        numbers = sorted([int(name[:13], 32) for name in names])
        if numbers[-1] < _ABOVE:
            return numbers
    return sorted([int(name[:13], 32) for name in names if _ID(name)])


def is_id(name: str) -> bool:
    """Whether this is an id by its looks."""
    return _ID(name) is not None


def shard_of(queue_id: str) -> str:
    """
    The name of the shard an id belongs to.

    @raise ValueError: it is no id.
    """
    to_number(queue_id)
    return str(_VALUE[queue_id[13]] << 5 | _VALUE[queue_id[14]])


def born(number: int) -> float:
    """When a number was made: seconds since the Unix epoch."""
    return (number >> 10) / 1e6 + EPOCH_S


class IdSource:
    """Makes the numbers of one shard."""

    def __init__(self, seconds: Callable[[], float], shard: str, above: int = 0, chance: Random | None = None) -> None:
        """
        @param seconds: the wall clock.
        @param above: the highest number ever used in the shard.
        """
        self._seconds = seconds
        self.code = shard_code(shard)
        self._last = above >> 10
        self._bits = (chance or Random()).getrandbits  # noqa: S311 - against collisions after a clock jump, not secret

    def next_number(self) -> int:
        """A number above all earlier ones."""
        tick = int((self._seconds() - EPOCH_S) * 1e6)
        if tick <= self._last:
            tick = self._last + 1
        self._last = tick
        return tick << 10 | self._bits(10)

    @property
    def highest(self) -> int:
        """No number made so far is above this one."""
        return self._last << 10 | 1023
