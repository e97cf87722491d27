"""
The drop: mail that commands leave in HOME/queue/drop while no daemon takes it, one file a message.

The file, version 1::

    qmailpy-drop 1 ENVELOPE CONTENT CRC\\n      lengths in octets and the CRC-32 of all that follows this line, in hex
    FsenderNUL TrecipientNUL TrecipientNUL ... NUL        (without the blanks)
    content: header and body with CRLF line ends, as the commands completed them

Written as C{tmp.NAME}, synced, renamed to C{NAME} and the directory synced: what has no C{tmp.} is whole. The daemon
takes files at its start and whenever it looks; it removes one only after its content is durable in the queue, so
that a crash between may double a message and never lose one. One that does not read is set aside, never deleted.
Leftovers with C{tmp.} that are a day old may be removed.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from qmailpy.errors import QmailpyError

VERSION = 1
_HEAD = re.compile(rb"qmailpy-drop ([0-9]{1,9}) ([0-9]{1,12}) ([0-9]{1,12}) ([0-9a-f]{8})\n")


class DropError(QmailpyError):
    """What was read is no whole drop file, or one of a version we do not know."""


class Drop(NamedTuple):
    """A message with its envelope."""

    sender: str  # "" is the null sender
    recipients: tuple[str, ...]
    content: bytes


def make_drop(sender: str, recipients: Sequence[str], content: bytes) -> bytes:
    """
    The octets of a drop file.

    @param sender: canonical address, or "".
    @param recipients: canonical addresses, one at least.
    @param content: with CRLF line ends, not dot-stuffed.
    @raise ValueError: an address holds a NUL, or there is no recipient.
    """
    if not recipients or any("\0" in address for address in (sender, *recipients)) or "" in recipients:
        raise ValueError("no such envelope")
    envelope = b"".join(
        (
            b"F",
            sender.encode("utf-8"),
            b"\0",
            *(b"T" + address.encode("utf-8") + b"\0" for address in recipients),
            b"\0",
        )
    )
    crc = zlib.crc32(content, zlib.crc32(envelope))
    return b"qmailpy-drop %d %d %d %08x\n" % (VERSION, len(envelope), len(content), crc) + envelope + content


def read_drop(octets: bytes) -> Drop:
    """
    Read what L{make_drop} made: C{(sender, recipients, content)}.

    @raise DropError: it is not whole; says why.
    """
    head = _HEAD.match(octets)
    if head is None:
        raise DropError("this is no drop file: its first line is wrong")
    if int(head[1]) != VERSION:
        raise DropError(f"this drop file has version {int(head[1])}, and only {VERSION} is known")
    start = head.end()
    end = start + int(head[2])
    if len(octets) != end + int(head[3]):
        raise DropError(f"the drop file has {len(octets)} octets and should have {end + int(head[3])}")
    if zlib.crc32(memoryview(octets)[start:]) != int(head[4], 16):
        raise DropError("the checksum of the drop file is wrong")
    items = octets[start:end].split(b"\0")
    if len(items) < 4 or items[-2:] != [b"", b""] or items[0][:1] != b"F" or any(i[:1] != b"T" for i in items[1:-2]):
        raise DropError("the envelope of the drop file is wrong")
    try:
        sender, *recipients = (item[1:].decode("utf-8") for item in items[:-2])
    except UnicodeDecodeError:
        raise DropError("an address of the drop file is not UTF-8") from None
    if "" in recipients:
        raise DropError("a recipient of the drop file is empty")
    return Drop(sender, tuple(recipients), octets[end:])
