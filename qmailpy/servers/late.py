"""
What can be said of recipients only when the message is there: its size was not announced, or it is larger.

Those that mind (C{Routed.sized}) are asked for once more. A mailbox that has no room now although it had when it was
named is its recipient's trouble alone: the message is refused when it has room nowhere; where it has for some, those
that are full are left to the local channel, which tries again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from qmailpy.interfaces import IRouter
from qmailpy.values import Posting, Refused, Reply


def late_now(router: IRouter, source: str, addresses: Iterable[str], about: Posting) -> Mapping[str, Reply] | None:
    """
    What refuses addresses now that the size is known.

    @param addresses: as the client has named them; they were accepted before.
    @return: replies by address; C{None} = L{late} must be asked.
    """
    refused = {}
    for address in addresses:
        result = router.route_now(address, source, about)
        if result is None:
            return None
        if isinstance(result, Refused):
            refused[address] = result.reply
    return refused


async def late(router: IRouter, source: str, addresses: Iterable[str], about: Posting) -> Mapping[str, Reply]:
    """As L{late_now}, in its own time."""
    refused = {}
    for address in addresses:
        result = await router.route(address, source, about)
        if isinstance(result, Refused):
            refused[address] = result.reply
    return refused
