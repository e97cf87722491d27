"""
What is different about mail from our own users (RFC 6409): whose name it may be sent in, and what it may lack.
"""

from __future__ import annotations

from qmailpy.directory import address as addresses
from qmailpy.interfaces import IDirectory
from qmailpy.values import Alias, Mailbox
from qmailpy.wire.address import split
from qmailpy.wire.data import HEAD_OCTETS
from qmailpy.wire.headers import complete, find


async def may_send_as(directory: IDirectory, user: str, sender: str) -> bool:
    """
    Whether a user may send as C{sender}: its own address, another address or a subaddress (C{joe+lists@}) of its
    mailbox, an alias that leads to it; and the null sender, for notices of its mail program.

    @param user: the address of the mailbox that has logged in.
    @param sender: canonical.
    @raise Temporary: the directory is away.
    """
    key = addresses.key(sender)
    if not sender or key == user:
        return True
    local, domain = split(key)
    base, plus, _ = local.partition("+")
    for address in (key, f"{base}@{domain}")[: 2 if plus and base else 1]:
        if address == user:
            return True
        found = await directory.lookup(address)
        if isinstance(found, Mailbox):
            return found.address == user
        if isinstance(found, Alias):
            return await _leads_to(directory, found, user)
    return False


async def _leads_to(directory: IDirectory, alias: Alias, user: str) -> bool:
    """Whether a target of the alias is that user; one level deep, as many as there are."""
    targets = [addresses.key(target) for target in alias.targets]
    if user in targets:
        return True
    for target in targets[:100]:
        found = await directory.lookup(target)
        if isinstance(found, Mailbox) and found.address == user:
            return True
    return False


class Head:
    """
    The beginning of a submission, held until its header is whole, so that what it lacks can stand before it.

    A header of more than L{HEAD_OCTETS} goes on as it is.

    @ivar message_id: the Message-ID the message has, once L{feed} or L{end} has given octets out.
    """

    __slots__ = ("_held", "_host", "_moment", "_sender", "_unique", "message_id")

    def __init__(self, *, sender: str, host: str, unique: str, moment: float) -> None:
        """
        @param sender: canonical address for From, when there is none.
        @param unique: left part of a Message-ID.
        """
        self._held: bytearray | None = bytearray()
        self._sender = sender
        self._host = host
        self._unique = unique
        self._moment = moment
        self.message_id = ""

    def feed(self, octets: bytes) -> bytes:
        """Take content; what may be written of it."""
        held = self._held
        if held is None:
            return octets
        before = max(0, len(held) - 3)
        held += octets
        if held.startswith(b"\r\n") or held.find(b"\r\n\r\n", before) >= 0:
            return self.end()
        if len(held) <= HEAD_OCTETS:
            return b""
        self._held = None
        return bytes(held)

    def end(self) -> bytes:
        """No more content belongs to the header: what is still held, with what it lacked."""
        held, self._held = self._held, None
        if held is None:
            return b""
        whole = complete(bytes(held), sender=self._sender, host=self._host, unique=self._unique, moment=self._moment)
        self.message_id = find(whole[: HEAD_OCTETS + 1024], "message-id").get("message-id", "")
        return whole
