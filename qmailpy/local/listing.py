"""
What is in a Maildir: its messages in order, their sizes on the wire and their unique-ids.

A size comes from the name (C{,W=}, as our deliveries and Dovecot's have it). For names without, the file is read once
and the size kept in a file of ours, C{qmailpy-sizes}, that other tools overlook; a message never changes, so a size
never does. That file is no more than a memory: what is torn or missing is counted again::

    qmailpy sizes 1 {CRC-32 of the rest, hexadecimal}
    {size} {name without flags}

A unique-id is the name without flags and sizes: it stays the same when a message is moved from C{new/} to C{cur/}, gets
other flags, or the daemon starts anew. Names that are too long or not printable (RFC 1939 s.7 allows 70 characters from
0x21 to 0x7E), and names that differ in nothing else, have a hash in its place.

All of it blocks and is for worker threads.
"""

from __future__ import annotations

import errno
import hashlib
import re
from array import array
from collections.abc import Mapping
from zlib import crc32

from attrs import field, frozen

from qmailpy.disk.files import Files, replace
from qmailpy.wire.pop3_message import SizeCount

SIZES = "qmailpy-sizes"

_HEAD = b"qmailpy sizes 1 "
_CHUNK = 262144
_UID = re.compile(r"[\x21-\x7e]{1,70}")
_GONE = (errno.ENOENT, errno.ELOOP)  # removed, or a link
_NO_FILE = (errno.EISDIR, errno.ESPIPE)


@frozen
class Listing:
    """The messages of a mailbox, oldest first."""

    paths: list[str]  # "new/NAME" or "cur/NAME:FLAGS"
    sizes: array[int]  # octets on the wire
    _twins: frozenset[str] = field(repr=False)  # unique parts that stand for more than one message

    def uid(self, index: int) -> str:
        """The unique-id of a message."""
        base = base_of(self.paths[index])
        unique = _unique(base)
        if unique not in self._twins and _UID.fullmatch(unique):
            return unique
        return hashlib.sha256(base.encode("utf-8", "surrogateescape")).hexdigest()[:40]


def base_of(path: str) -> str:
    """A message's name without folder and flags: what stays the same while it is moved and flagged."""
    return path[4:].partition(":")[0]


def thd_names(files: Files, mailbox: str) -> dict[str, str]:
    """
    The messages there are: their paths below the mailbox by their names without flags.

    @param mailbox: path of the Maildir; one that is not there is empty.
    """
    # new/ first: what is moved to cur/ meanwhile is seen twice, and not never.
    found = {}
    for folder in ("new/", "cur/"):
        for name in files.scan(mailbox + "/" + folder[:-1]):
            if name[0] != ".":
                found[name.partition(":")[0]] = folder + name
    return found


def thd_list(files: Files, mailbox: str) -> Listing:
    """
    List a mailbox.

    @raise OSError: it cannot be read.
    """
    found = thd_names(files, mailbox)
    bases = sorted(found, key=_age)
    sizes = {base: size for base in bases if (size := _named_size(base)) >= 0}
    if len(sizes) < len(bases):
        _thd_complete(files, mailbox, found, sizes)
        bases = [base for base in bases if base in sizes]  # the others have gone meanwhile
    uniques = [_unique(base) for base in bases]
    twins: set[str] = set()
    if len(set(uniques)) < len(uniques):
        seen: set[str] = set()
        for unique in uniques:
            (twins if unique in seen else seen).add(unique)
    return Listing([found[base] for base in bases], array("q", [sizes[base] for base in bases]), frozenset(twins))


def _age(base: str) -> tuple[int, str]:
    """Sorts by the seconds a Maildir name begins with (cr.yp.to/proto/maildir.html)."""
    seconds = base.partition(".")[0]
    return (int(seconds) if seconds.isdecimal() and len(seconds) < 16 else 0, base)


def _unique(base: str) -> str:
    return base.partition(",")[0]


def _named_size(base: str) -> int:
    """The size its name tells; -1 when it does not."""
    at = base.rfind(",W=")
    if at < 0:
        return -1
    digits = base[at + 3 :].partition(",")[0]
    return int(digits) if digits.isdecimal() and digits.isascii() and len(digits) <= 13 else -1


def _thd_complete(files: Files, mailbox: str, found: Mapping[str, str], sizes: dict[str, int]) -> None:
    """Add the sizes that no name tells."""
    wanted = [base for base in found if base not in sizes]
    path = f"{mailbox}/{SIZES}"
    known = _thd_known(files, path)
    learned = False
    for base in wanted:
        size = known.get(base)
        if size is None:
            size = thd_count(files, f"{mailbox}/{found[base]}")
            if size is None:
                continue
            learned = True
        sizes[base] = size
    kept = {base: sizes[base] for base in wanted if base in sizes}
    # Names that have gone may stay until they are the better part: a deletion is no reason to write everything anew.
    if learned or len(known) > 2 * len(kept) + 100:
        _thd_keep(files, path, kept)


def thd_count(files: Files, path: str) -> int | None:
    """The size on the wire of a stored message; C{None} when there is none of that name (any more)."""
    try:
        handle = files.open_for_reading(path)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
    try:
        count = SizeCount()
        while octets := files.pread(handle, _CHUNK, count.octets):
            count.feed(octets)
        return count.size
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise
    finally:
        files.close(handle)


def _thd_known(files: Files, path: str) -> dict[str, int]:
    """What the file of sizes holds; nothing when it is not whole."""
    try:
        octets = files.read(path)
    except OSError:
        return {}
    head, _, rest = octets.partition(b"\n")
    if head != _HEAD + b"%08x" % crc32(rest):
        return {}
    known = {}
    for line in rest.decode("utf-8", "surrogateescape").split("\n"):
        size, _, base = line.partition(" ")
        if base:
            known[base] = int(size)
    return known


def _thd_keep(files: Files, path: str, sizes: Mapping[str, int]) -> None:
    rest = "".join([f"{size} {base}\n" for base, size in sizes.items() if "\n" not in base])
    octets = rest.encode("utf-8", "surrogateescape")
    try:
        replace(files, path, _HEAD + b"%08x\n" % crc32(octets) + octets)
    except OSError:
        return  # a full disk, for one: they are counted again the next time
