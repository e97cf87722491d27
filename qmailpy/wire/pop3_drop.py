"""
A mailbox in the TRANSACTION state of POP3 (RFC 1939 s.5): its messages, which are marked as deleted, which were read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from qmailpy.wire.pop3_message import END

_PIECE_ROWS = 1024  # lines of a listing made at a time: 20 to 80 KiB


class Messages(Protocol):
    """The messages of a mailbox as the core needs them; they stay as they are while the session lasts."""

    @property
    def sizes(self) -> Sequence[int]:
        """Octets of each on the wire."""

    def uid(self, index: int) -> str:
        """Its unique-id: 1 to 70 characters from 0x21 to 0x7E (RFC 1939 s.7)."""

    def at_hand(self, index: int) -> bytes | None:
        """
        A message whose turn it is, if it is in memory: dot-stuffed, without the final dot line. C{None}: it must be
        asked for. Once given it is sent.
        """


Row = Callable[[int], bytes]


class Drop:
    """
    One session's view of its mailbox. Indexes are from 0, the numbers of the protocol from 1.

    @ivar octets: of all messages that are not marked as deleted.
    @ivar retrieved: messages the client was sent whole, and their octets.
    """

    __slots__ = ("_deleted", "_seen", "messages", "octets", "retrieved")

    def __init__(self, messages: Messages) -> None:
        self.messages = messages
        self._deleted: set[int] | None = None
        self._seen: set[int] | None = None
        self.octets = sum(messages.sizes)
        self.retrieved = (0, 0)

    @property
    def count(self) -> int:
        """Messages that are not marked as deleted."""
        return len(self.messages.sizes) - (len(self._deleted) if self._deleted else 0)

    def index(self, word: bytes) -> int | str:
        """The message a number of the client's stands for, or what is wrong with it."""
        if not word.isdigit():
            return "No such message" if word[1:].isdigit() else "A message number is wanted"  # "-1" is a number
        number = int(word)  # of a command line, so of some hundred digits at most
        if not 1 <= number <= len(self.messages.sizes):
            return "No such message"
        if self._deleted and number - 1 in self._deleted:
            return "The message is marked as deleted"
        return number - 1

    def scan_row(self, index: int) -> bytes:
        """A line of LIST."""
        return b"%d %d\r\n" % (index + 1, self.messages.sizes[index])

    def uid_row(self, index: int) -> bytes:
        """A line of UIDL."""
        return b"%d %b\r\n" % (index + 1, self.messages.uid(index).encode("ascii"))

    def listing(self, row: Row) -> Iterator[bytes]:
        """All lines of a listing and its end, in pieces."""
        deleted = self._deleted or ()
        total = len(self.messages.sizes)
        for at in range(0, total, _PIECE_ROWS):
            yield b"".join([row(index) for index in range(at, min(at + _PIECE_ROWS, total)) if index not in deleted])
        yield END

    def note(self, index: int) -> None:
        """The client has all of this message."""
        if self._seen is None:
            self._seen = set()
        self._seen.add(index)
        count, octets = self.retrieved
        self.retrieved = (count + 1, octets + self.messages.sizes[index])

    def delete(self, index: int) -> None:
        """Mark as deleted; from L{index}, so not twice."""
        if self._deleted is None:
            self._deleted = set()
        self._deleted.add(index)
        self.octets -= self.messages.sizes[index]

    def reset(self) -> None:
        """No message is marked as deleted any more."""
        self._deleted = None
        self.octets = sum(self.messages.sizes)

    def update(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What QUIT asks for: messages to remove, and those that were read and stay; both rising."""
        deleted = self._deleted or set()
        return tuple(sorted(deleted)), tuple(sorted((self._seen or set()) - deleted))
