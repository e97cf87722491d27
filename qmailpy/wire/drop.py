"""
The drop: mail that commands leave in HOME/queue/drop while no daemon takes it, one file a message.

The file, version 1, or 2 where the sender wants to be told of something (RFC 3461)::

    qmailpy-drop VERSION ENVELOPE CONTENT CRC\\n       lengths in octets, CRC-32 of all that follows, in hex
    NnotifyNUL RretNUL VenvidNUL                          version 2 alone: bits of NOTIFY in decimal
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

PLAIN, WISHING = 1, 2
"""Versions. The first is written whenever it can say all."""

_HEAD = re.compile(rb"qmailpy-drop ([0-9]{1,9}) ([0-9]{1,12}) ([0-9]{1,12}) ([0-9a-f]{8})\n")


class DropError(QmailpyError):
    """What was read is no whole drop file, or one of a version we do not know."""


class Drop(NamedTuple):
    """A message with its envelope."""

    sender: str  # "" is the null sender
    recipients: tuple[str, ...]
    content: bytes
    notify: int = 0  # bits of L{qmailpy.values.Notify}, for all recipients
    ret: str = ""  # "FULL", "HDRS" or ""
    envid: str = ""


def make_drop(
    sender: str, recipients: Sequence[str], content: bytes, *, notify: int = 0, ret: str = "", envid: str = ""
) -> bytes:
    """
    The octets of a drop file.

    @param sender: canonical address, or "".
    @param recipients: canonical addresses, one at least.
    @param content: with CRLF line ends, not dot-stuffed.
    @param notify: and C{ret} and C{envid}: as in a L{Drop}.
    @raise ValueError: an address holds a NUL, or there is no recipient.
    """
    if not recipients or any("\0" in text for text in (sender, ret, envid, *recipients)) or "" in recipients:
        raise ValueError("no such envelope")
    wishes = f"N{notify}\0R{ret}\0V{envid}\0".encode() if notify or ret or envid else b""
    envelope = b"".join(
        (
            wishes,
            b"F",
            sender.encode("utf-8"),
            b"\0",
            *(b"T" + address.encode("utf-8") + b"\0" for address in recipients),
            b"\0",
        )
    )
    crc = zlib.crc32(content, zlib.crc32(envelope))
    return (
        b"qmailpy-drop %d %d %d %08x\n" % (WISHING if wishes else PLAIN, len(envelope), len(content), crc)
        + envelope
        + content
    )


def read_drop(octets: bytes) -> Drop:
    """
    Read what L{make_drop} made.

    @raise DropError: it is not whole; says why.
    """
    head = _HEAD.match(octets)
    if head is None:
        raise DropError("this is no drop file: its first line is wrong")
    if int(head[1]) not in (PLAIN, WISHING):
        raise DropError(f"this drop file has version {int(head[1])}, and only {PLAIN} and {WISHING} are known")
    start = head.end()
    end = start + int(head[2])
    if len(octets) != end + int(head[3]):
        raise DropError(f"the drop file has {len(octets)} octets and should have {end + int(head[3])}")
    if zlib.crc32(memoryview(octets)[start:]) != int(head[4], 16):
        raise DropError("the checksum of the drop file is wrong")
    items = octets[start:end].split(b"\0")
    wishes = []
    if int(head[1]) == WISHING:
        wishes, items = items[:3], items[3:]
        if [item[:1] for item in wishes] != [b"N", b"R", b"V"] or not wishes[0][1:].isdigit():
            raise DropError("the envelope of the drop file is wrong")
    if len(items) < 4 or items[-2:] != [b"", b""] or items[0][:1] != b"F" or any(i[:1] != b"T" for i in items[1:-2]):
        raise DropError("the envelope of the drop file is wrong")
    try:
        sender, *recipients = (item[1:].decode("utf-8") for item in items[:-2])
        notify, ret, envid = (item[1:].decode("utf-8") for item in wishes) if wishes else ("0", "", "")
    except UnicodeDecodeError:
        raise DropError("an address of the drop file is not UTF-8") from None
    if "" in recipients:
        raise DropError("a recipient of the drop file is empty")
    return Drop(sender, tuple(recipients), octets[end:], int(notify), ret, envid)
