"""
The last look at each recipient of a message by LMTP, when all of it is there: RFC 2033 s.4.2 has a reply for each.

A recipient that cannot have this message now, or at all, is refused by itself, and the others get it. With SMTP there
is one reply for all, so what is wrong with one of several is found at delivery instead, and told in a notice.
"""

from __future__ import annotations

from collections.abc import Sequence

from zope.interface import implementer

from qmailpy.errors import MailError
from qmailpy.interfaces import IDirectory, ILastCheck, IRoom
from qmailpy.routing.expand import SUBADDRESS
from qmailpy.values import Mailbox, Recipient, Reply

SUSPENDED = Reply(550, "5.2.1", "This mailbox is disabled and takes no mail")
TOO_LARGE = Reply(552, "5.2.3", "Message is larger than this mailbox takes")


@implementer(ILastCheck)
class MailboxLimits:
    """That a mailbox is in use, how large a message it takes, and whether it has room."""

    def __init__(self, directory: IDirectory, room: IRoom | None = None) -> None:
        """@param room: whom to ask whether mailboxes are full; C{None} = none ever is."""
        self._directory = directory
        self._room = room

    async def refusal(self, recipient: Recipient, size_octets: int) -> Reply | None:
        found = await self._directory.lookup(recipient.address)
        local, _, domain = recipient.address.rpartition("@")
        if found is None and SUBADDRESS in local:
            found = await self._directory.lookup(f"{local.partition(SUBADDRESS)[0]}@{domain}")
        if not isinstance(found, Mailbox):
            return None
        if not found.active:
            return SUSPENDED
        if 0 < found.size_octets < size_octets:
            return TOO_LARGE
        if self._room is None:
            return None
        ours = await self._directory.domain(found.address.rpartition("@")[2])
        return (await self._room.room(found, ours, size_octets)).refusal if ours is not None else None


async def refusals(
    checks: Sequence[ILastCheck], asked: Sequence[Sequence[Recipient]], size_octets: int
) -> list[Reply | None]:
    """
    What refuses each of some names; C{None} = nothing.

    @param asked: whom each name stands for. One that stands for several is refused when all of them are: else the
        others would not get the message.
    @return: in order.
    """
    known: dict[Recipient, Reply | None] = {}
    found = []
    for recipients in asked:
        for recipient in recipients:
            if recipient not in known:
                known[recipient] = await _refusal(checks, recipient, size_octets)
        said = [known[recipient] for recipient in recipients]
        found.append(said[0] if said and None not in said else None)
    return found


async def _refusal(checks: Sequence[ILastCheck], recipient: Recipient, size_octets: int) -> Reply | None:
    for check in checks:
        try:
            found = await check.refusal(recipient, size_octets)
        except MailError as error:
            return error.reply
        if found is not None:
            return found
    return None
