"""
Where a shard keeps what: names only, no I/O (docs/queue.md s.2).

    SHARD/lock                  held by the process that owns the shard
    SHARD/doubt                 there while a sync that failed is not made up for (queue.doubt)
    SHARD/journal/NNNNNNNN      segments of the journal
    SHARD/mess/NN/ID            content: CRLF line ends, our Received field on top
    SHARD/info/NN/ID            envelope without recipients, size and checksum of mess/NN/ID
    SHARD/chan/CHANNEL/NN/ID    recipients a channel has still to serve, or had
    SHARD/hold/CHANNEL/NN/ID    the same, while an operator holds it
    SHARD/corrupt/              whatever could not be understood, whole
"""

from __future__ import annotations

import re

from qmailpy.queue.ids import to_id, to_number

SPLIT = 64
_CHANNEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def nn(number: int) -> str:
    """The sub-directory of a message: by its birth in milliseconds, so that neighbours spread."""
    return f"{number >> 20 & 63:02x}"


def check_channel(name: str) -> str:
    """
    The name, if it can be a directory.

    @raise ValueError: it cannot.
    """
    if not _CHANNEL.fullmatch(name):
        raise ValueError(f"not a channel name: {name!r}")
    return name


class Layout:
    """The paths of one shard."""

    def __init__(self, root: str, code: str) -> None:
        """
        @param root: HOME/queue/SHARD.
        @param code: the shard's digits in its ids.
        """
        self.root = root
        self.code = code
        self.lock = f"{root}/lock"
        self.doubt = f"{root}/doubt"
        self.journal = f"{root}/journal"
        self.corrupt = f"{root}/corrupt"
        self.splits = tuple(f"{number:02x}" for number in range(SPLIT))

    def mess(self, number: int) -> str:
        """The content file of a message."""
        return f"{self.root}/mess/{nn(number)}/{to_id(number, self.code)}"

    def mess_of(self, queue_id: str) -> str:
        """The same, by id."""
        return self.mess(to_number(queue_id))

    def info(self, number: int) -> str:
        """The envelope file of a message."""
        return f"{self.root}/info/{nn(number)}/{to_id(number, self.code)}"

    def chan(self, channel: str, number: int, held: bool = False) -> str:
        """The recipients file of a message copy."""
        return f"{self.root}/{'hold' if held else 'chan'}/{channel}/{nn(number)}/{to_id(number, self.code)}"

    def directories(self, channels: tuple[str, ...]) -> list[str]:
        """Every directory of a shard that serves these channels, parents first."""
        names = [self.root, self.journal, self.corrupt]
        tops = [f"{self.root}/mess", f"{self.root}/info"]
        tops += [f"{self.root}/{kind}/{check_channel(name)}" for kind in ("chan", "hold") for name in channels]
        names += [f"{self.root}/chan", f"{self.root}/hold"]
        for top in tops:
            names.append(top)
            names += [f"{top}/{split}" for split in self.splits]
        return names
