"""
What belongs to a message: what it was before it was handed on, what came of it, the notices about it.
"""

from __future__ import annotations

from collections.abc import Sequence

from qmailpy.records.index import Indexed, LogIndex

MOST = 1000
"""A family has no more members that are looked for: a mailing list's mail, a loop."""


def family(index: LogIndex, first: Sequence[Indexed], most: int = MOST) -> list[Indexed]:
    """
    These messages and all that is related to them: what they come from and what came from them (C{parent}), what has
    the same Message-ID, and so on from each.

    @return: the oldest first, at most about C{most}.
    """
    found = {one.number: one for one in first}
    waiting = list(first)
    while waiting and len(found) < most:
        one = waiting.pop()
        related: list[Indexed] = []
        if one.id:
            related += index.by_parent(one.id, most)
        if one.parent:
            related += index.by_id(one.parent)
        if one.message_id:
            related += index.by_message_id(one.message_id, most)
        for other in related:
            if other.number not in found:
                found[other.number] = other
                waiting.append(other)
    return sorted(found.values(), key=lambda one: (one.time, one.number))
