"""
Where the index goes on reading the log (L{qmailpy.records.index}), whatever was rolled and packed away since.

Noted are the number of the file that was read last (L{file_number}) and the offset reached, in what it holds when it is
compressed. Such a file, once read to its end, is noted as done: it never changes. One that was packed away since is
known by how its content begins.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

from attrs import frozen

from qmailpy.disk.files import Files
from qmailpy.records.archive import Source, thd_head
from qmailpy.records.logfile import HEAD, file_number

_MARGIN_S = 2 * 86400.0  # the name of a file has a day, and clocks are set


@frozen(kw_only=True)
class Place:
    """What is to be read."""

    sources: Sequence[Source]  # open
    numbers: Sequence[int]  # of each; 0: too young to have one
    offset: int  # in the first of them
    careful: bool  # lines may be there already


def thd_place(files: Files, sources: Sequence[Source], noted: Callable[[str], int], oldest: float) -> Place:
    """
    What of the log is new; the other files are closed.

    @param sources: all of it, the oldest first.
    @param noted: gives C{file}, C{offset}, C{done}, C{cumulative_file} and C{cumulative}; 0 of what is not noted.
    @param oldest: seconds since the epoch; no line of before is wanted.
    @raise OSError: a file cannot be read.
    """
    numbers = [file_number(files, source.file.fileno()) for source in sources]
    at, offset, careful = _found(sources, numbers, noted)
    if at < len(sources) and numbers[at] and numbers[at] == noted("done"):
        at, offset = at + 1, 0
    while at < len(sources) and not offset and _too_old(sources[at], oldest):
        at += 1
    for source in sources[:at]:
        source.file.close()
    return Place(sources=sources[at:], numbers=numbers[at:], offset=offset, careful=careful)


def _found(sources: Sequence[Source], numbers: Sequence[int], noted: Callable[[str], int]) -> tuple[int, int, bool]:
    """Which file is the one that was read last, the offset in it, and whether that is uncertain."""
    known = noted("file")
    if not known:
        return 0, 0, False
    if known in numbers:
        return numbers.index(known), noted("offset"), False
    # Packed away since, or rolled twice. Then, where mail.log is still the one it was, what follows is behind its end
    # of that time.
    for number, name, careful in ((known, "offset", False), (noted("cumulative_file"), "cumulative", True)):
        if number in numbers and number:
            return numbers.index(number), noted(name), careful
        packed = _packed(sources, number)
        if packed is not None:
            return packed, noted(name), careful
    return 0, 0, True


def _packed(sources: Sequence[Source], number: int) -> int | None:
    """The one that holds what a file held, by how it begins. The newest are looked at first."""
    for at in range(len(sources) - 1, -1, -1):
        if number and sources[at].packed:
            head = thd_head(sources[at], HEAD)
            if len(head) == HEAD and zlib.crc32(head) == number & 0xFFFFFFFF:
                return at
    return None


def _too_old(source: Source, oldest: float) -> bool:
    return source.day is not None and source.day + _MARGIN_S < oldest
