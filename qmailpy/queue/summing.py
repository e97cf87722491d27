"""
What there is of a channel in one shard: the books' sums, and what these do not know.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from heapq import nsmallest
from itertools import chain

from attrs import frozen

from qmailpy.interfaces import IRecorder
from qmailpy.queue.entries import ChannelSummary, QueueEntry, QueueFilter
from qmailpy.queue.ids import to_id, to_number
from qmailpy.queue.runner import Runner
from qmailpy.queue.shard import Shard
from qmailpy.queue.walk import Walk
from qmailpy.values import BLOCK, Envelope

LOOK = 200
"""Copies whose files are read in one go of a thread."""

CANDIDATES = 64
"""Numbers looked at to find the oldest message: the first may have left and be unlinked in a moment."""


@frozen(kw_only=True)
class Part:
    """One shard, and what schedules it."""

    name: str
    shard: Shard
    recorder: IRecorder | None  # None: nobody has taken up its counters
    runners: Mapping[str, Runner]  # by channel; none where nothing is scheduled
    runner: Callable[[str], Runner]  # makes one for a channel that is not configured


Place = tuple[str, Part, int]
"""The id of a message, where it is, and its number."""

Look = Callable[[str, Sequence[Place], QueueFilter], Awaitable[Iterable[tuple[str, QueueEntry | None]]]]
"""Looks at copies of a channel: each with its id, C{None} for what has gone or is not wanted."""


async def channel_sum(part: Part, channel: str, look: Look, looked: Callable[[int], None]) -> ChannelSummary:
    """
    Of one channel in one shard.

    @param look: where there are no books.
    @param looked: is told of the copies that are looked at then.
    @raise OSError: the queue cannot be read.
    """
    if part.recorder is None:
        return await _counted(part, channel, look, looked)
    part.recorder.flush()
    messages, recipients, size = (max(0, value) for value in part.recorder.stored(channel))
    shard = part.shard
    state = shard.state
    filed = await shard.in_thread(_thd_held, shard, channel)
    held = sum(1 for number in filed if number not in state.messages and not state.finished(number))
    oldest: Envelope | None = None
    for message in state.messages.values():
        copy = message.copies.get(channel)
        if copy is not None:
            held += copy.held is not None
            if oldest is None or message.envelope.arrival < oldest.arrival:
                oldest = message.envelope
    numbers = await shard.in_thread(_thd_lowest, shard, channel)
    numbers = [number for number in numbers if number not in state.messages and not state.finished(number)]
    for number in numbers:
        one = await shard.in_thread(shard.shelf.thd_copy, channel, number)
        if one is not None:
            if oldest is None or one[0].envelope.arrival < oldest.arrival:
                oldest = one[0].envelope
            break
    return ChannelSummary(
        channel=channel,
        messages=messages,
        recipients=recipients,
        size_octets=size * BLOCK,
        held=held,
        oldest=oldest.arrival if messages and oldest is not None else None,
        oldest_message=oldest.message_id if messages and oldest is not None else "",
    )


async def _counted(part: Part, channel: str, look: Look, looked: Callable[[int], None]) -> ChannelSummary:
    """The same without books: every copy is looked at."""
    walk = Walk(part.shard, channel, None)
    await walk.complete()
    wanted = QueueFilter()
    messages = recipients = size = held = 0
    oldest: QueueEntry | None = None
    number = -1
    while numbers := walk.after(number, LOOK):
        number = numbers[-1]
        looked(len(numbers))
        ids = [(to_id(one, part.shard.layout.code), part, one) for one in numbers]
        for _, one in await look(channel, ids, wanted):
            if one is not None:
                messages += 1
                recipients += one.remaining
                size += -(-one.size_octets // BLOCK) * BLOCK
                held += one.held
                oldest = one if oldest is None or one.arrival < oldest.arrival else oldest
    return ChannelSummary(
        channel=channel,
        messages=messages,
        recipients=recipients,
        size_octets=size,
        held=held,
        oldest=oldest.arrival if oldest is not None else None,
        oldest_message=await _message_id(part.shard, oldest) if oldest is not None else "",
    )


async def _message_id(shard: Shard, entry: QueueEntry) -> str:
    """The Message-ID of a copy; "" when it has none, or has left."""
    number = to_number(entry.id)
    message = shard.state.messages.get(number)
    if message is not None:
        return message.envelope.message_id
    one = await shard.in_thread(shard.shelf.thd_copy, entry.channel, number)
    return one[0].envelope.message_id if one is not None else ""


def _thd_held(shard: Shard, channel: str) -> list[int]:
    return list(shard.shelf.thd_scan("hold", channel))


def _thd_lowest(shard: Shard, channel: str) -> list[int]:
    names = chain(shard.shelf.thd_scan("chan", channel), shard.shelf.thd_scan("hold", channel))
    return nsmallest(CANDIDATES, names)
