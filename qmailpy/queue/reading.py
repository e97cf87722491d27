"""
Looking at the queue while it works: lists, summaries, messages. Nothing here changes anything.

A copy is looked up in memory first, for memory knows what the files do not say yet; then in its files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import nsmallest
from itertools import chain

from attrs import frozen
from twisted.internet.defer import DeferredLock

from qmailpy.config.schema import Config
from qmailpy.errors import QmailpyError
from qmailpy.interfaces import IRecorder
from qmailpy.queue.content import FileContent
from qmailpy.queue.entries import (
    ChannelSummary,
    HistoryEvent,
    MessageEnvelope,
    QueueEntry,
    QueueFilter,
    QueueJob,
)
from qmailpy.queue.ids import shard_of, to_id, to_number
from qmailpy.queue.papers import Info
from qmailpy.queue.runner import Runner
from qmailpy.queue.shard import Shard
from qmailpy.queue.showing import entry, envelope_of, history
from qmailpy.queue.state import Copy, Message
from qmailpy.queue.walk import Walk
from qmailpy.values import BLOCK, Content

LIMIT = 1000
"""Entries of an answer at most, whatever is asked for."""

LOOK = 200
"""Copies whose files are read in one go of a thread."""

SLICE_S = 0.5
"""An answer is given after so long, however few entries it has."""

WALKS = 16
"""Walks kept between the pages of listings; those used least recently go first."""

IDLE_S = 120.0
"""A walk that was not used for so long has been given up by whoever was reading it."""

PIECE = 1024 * 1024
"""Octets of content in an answer at most."""

JOBS = 1000

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


@frozen
class Piece:
    """A part of a message that is read."""

    envelope: MessageEnvelope | None  # with the first
    content: bytes
    next: int | None  # offset of the next; None at the end


class QueueReading:
    """The shards of one process, looked at."""

    def __init__(self, parts: Callable[[], Sequence[Part]], config: Config, seconds: Callable[[], float]) -> None:
        """
        @param parts: the shards; called for each question, may raise L{QmailpyError}.
        @param seconds: wall clock.
        """
        self._parts = parts
        self._config = config
        self._seconds = seconds
        self._walks: dict[tuple[str, str, bool | None], tuple[Walk, float]] = {}  # shard, channel, held; last used
        self._walking = DeferredLock()
        self._taking: tuple[str, Walk] | None = None  # the one being taken, and its shard
        self._attended: set[str] = set()

    # --- listing ---------------------------------------------------------------------------------------------

    async def page(self, wanted: QueueFilter, cursor: str | None, limit: int) -> tuple[list[QueueEntry], str | None]:
        """
        A page of the copies that pass the filter, ordered by channel and then by id.

        @param cursor: C{None} for the first page, then what came with the page before.
        @return: the entries, at most C{limit}, maybe none; and the cursor for the next page, C{None} after the last.
        @raise QmailpyError: the cursor is none of ours.
        @raise OSError: the queue cannot be read.
        """
        parts = self._parts()
        limit = max(1, min(limit, LIMIT))
        start, place = _parsed(cursor)
        if cursor is None:
            self._walks.clear()  # a listing shows what there is at its beginning
        channels = [name for name in await self._channels(parts) if name >= start and wanted.admits_channel(name)]
        deadline = self._seconds() + SLICE_S
        found: list[QueueEntry] = []
        for at, channel in enumerate(channels):
            place = place if channel == start else ""
            while ids := await self._next(parts, channel, wanted.held, place):
                for queue_id, one in await self._look(channel, ids, wanted):
                    place = queue_id
                    if one is not None:
                        found.append(one)
                        if len(found) == limit:
                            return found, f"{channel}/{place}"
                if self._seconds() >= deadline:
                    return found, f"{channel}/{place}"
            if self._seconds() >= deadline and at + 1 < len(channels):
                return found, f"{channels[at + 1]}/"
        self._walks.clear()
        return found, None

    async def _channels(self, parts: Sequence[Part]) -> list[str]:
        """All that may have mail, sorted."""
        names: set[str] = set()
        for part in parts:
            names.update(part.runners)
            if not part.runners:
                names.update(chain.from_iterable(one.copies for one in part.shard.state.messages.values()))
            for kind in ("chan", "hold"):
                names.update(await part.shard.in_thread(part.shard.files.listdir, f"{part.shard.layout.root}/{kind}"))
        return sorted(names)

    async def _next(
        self, parts: Sequence[Part], channel: str, held: bool | None, place: str
    ) -> list[tuple[str, Part, int]]:
        """The next ids of a channel behind a place, with where they are."""
        found: list[tuple[str, Part, int]] = []
        for part in parts:
            code = part.shard.layout.code
            number = -1
            if place:
                number = to_number(place)
                if code > place[-len(code) :]:
                    number -= 1  # the same number in this shard comes after it
            walk = await self._walk(part, channel, held)
            found += [(to_id(one, code), part, one) for one in walk.after(number, LOOK)]
        found.sort(key=lambda item: item[0])
        return found[:LOOK]

    async def _walk(self, part: Part, channel: str, held: bool | None) -> Walk:
        walk: Walk = await self._walking.run(self._walk_now, part, channel, held)
        return walk

    async def _walk_now(self, part: Part, channel: str, held: bool | None) -> Walk:
        self._attend(part)
        key = (part.name, channel, held)
        now = self._seconds()
        kept = self._walks.pop(key, None)
        if kept is not None and not kept[0].overfull:
            self._walks[key] = (kept[0], now)
            return kept[0]
        walk = Walk(part.shard, channel, held)
        self._taking = part.name, walk
        try:
            await walk.take()
        finally:
            self._taking = None
        self._walks[key] = (walk, self._seconds())
        while len(self._walks) > WALKS:
            del self._walks[next(iter(self._walks))]
        return walk

    def _attend(self, part: Part) -> None:
        """Be told what leaves the shard's memory."""
        if part.name in self._attended:
            return
        self._attended.add(part.name)
        name = part.name

        def evicted(message: Message) -> None:
            if self._taking is not None and self._taking[0] == name:
                self._taking[1].evicted(message)
            if self._walks:
                old = self._seconds() - IDLE_S
                for key, (walk, used) in list(self._walks.items()):
                    if used < old:
                        del self._walks[key]
                    elif key[0] == name:
                        walk.evicted(message)

        part.shard.on_evict = evicted

    async def _look(
        self, channel: str, ids: Sequence[tuple[str, Part, int]], wanted: QueueFilter
    ) -> Iterable[tuple[str, QueueEntry | None]]:
        """The copies behind these ids; C{None} for those that have gone or are not wanted."""
        filed: dict[str, tuple[Info, Copy]] = {}
        for part in {id(item[1]): item[1] for item in ids}.values():
            state = part.shard.state
            numbers = [
                number
                for _, where, number in ids
                if where is part and number not in state.messages and not state.finished(number)
            ]
            if numbers:
                filed |= await part.shard.in_thread(_thd_filed, part.shard, channel, numbers)
        return [(queue_id, self._entry(channel, part, number, filed, wanted)) for queue_id, part, number in ids]

    def _entry(
        self, channel: str, part: Part, number: int, filed: Mapping[str, tuple[Info, Copy]], wanted: QueueFilter
    ) -> QueueEntry | None:
        state = part.shard.state
        queue_id = to_id(number, part.shard.layout.code)
        message = state.messages.get(number)  # it may have come to memory while the files were read
        if message is None:
            if queue_id not in filed or state.finished(number):
                return None
            info, copy = filed[queue_id]
            return entry(queue_id, info.envelope, info.size, copy, False, wanted)
        found = message.copies.get(channel)
        if found is None:
            return None
        runner = part.runners.get(channel)
        busy = runner is not None and runner.trying(message, found)
        return entry(queue_id, message.envelope, message.size, found, busy, wanted)

    # --- one message -----------------------------------------------------------------------------------------

    async def read(self, queue_id: str, offset: int, octets: int) -> Piece | None:
        """
        A part of a message; C{None} when it is not here.

        @param octets: of the content, at most L{PIECE}; 0 = only the envelope.
        @raise OSError: it cannot be read.
        """
        found = await self._message(queue_id)
        if found is None:
            return None
        part, message = found
        offset = max(0, offset)
        octets = max(0, min(octets, PIECE))
        envelope = envelope_of(message) if offset == 0 else None
        content = b""
        if octets:
            try:
                content = await _piece(part.shard, message.content, offset, octets)
            except FileNotFoundError:
                return None
        part.shard.evict(message)
        end = offset + len(content)
        return Piece(envelope, content, end if content and end < message.size else None)

    async def history(self, queue_id: str) -> Sequence[HistoryEvent] | None:
        """What the queue knows of a message's life, oldest first; C{None} when it is not here."""
        found = await self._message(queue_id)
        if found is None:
            return None
        part, message = found
        events = history(message, self._seconds())
        part.shard.evict(message)
        return events

    async def _message(self, queue_id: str) -> tuple[Part, Message] | None:
        """A message in memory, brought there if need be."""
        part = self.part_of(queue_id)
        if part is None:
            return None
        number = to_number(queue_id)
        found = await part.shard.load([number])
        return (part, found[0]) if found else None

    def part_of(self, queue_id: str) -> Part | None:
        """Where a message would be; C{None} when not here."""
        try:
            name = shard_of(queue_id)
        except ValueError:
            return None
        return next((part for part in self._parts() if part.name == name), None)

    # --- all of it -------------------------------------------------------------------------------------------

    async def summary(self) -> Sequence[ChannelSummary]:
        """
        The channels by name: every configured one and those with mail.

        Messages, recipients and sizes are the books' (Stored, in blocks), where these are kept: they cost nothing.
        C{ready} counts what is in memory, so at most L{qmailpy.queue.runner.READY} or so.

        @raise OSError: the queue cannot be read.
        """
        parts = self._parts()
        channels = sorted({*self._config.channels, *await self._channels(parts)})
        found = []
        for channel in channels:
            sums = [await self._sum(part, channel) for part in parts]
            ages = [one.oldest for one in sums if one.oldest is not None]
            runners = [part.runners[channel] for part in parts if channel in part.runners]
            found.append(
                ChannelSummary(
                    channel=channel,
                    messages=sum(one.messages for one in sums),
                    recipients=sum(one.recipients for one in sums),
                    size_octets=sum(one.size_octets for one in sums),
                    held=sum(one.held for one in sums),
                    ready=sum(runner.fair.messages for runner in runners),
                    busy=sum(len(runner.jobs) for runner in runners),
                    oldest=min(ages, default=None),
                    stopped=any(runner.stopped for runner in runners),
                )
            )
        return found

    async def _sum(self, part: Part, channel: str) -> ChannelSummary:
        if part.recorder is None:
            return await self._counted(part, channel)
        part.recorder.flush()
        messages, recipients, size = (max(0, value) for value in part.recorder.stored(channel))
        shard = part.shard
        state = shard.state
        filed = await shard.in_thread(_thd_held, shard, channel)
        held = sum(1 for number in filed if number not in state.messages and not state.finished(number))
        oldest: float | None = None
        for message in state.messages.values():
            copy = message.copies.get(channel)
            if copy is not None:
                held += copy.held is not None
                oldest = message.envelope.arrival if oldest is None else min(oldest, message.envelope.arrival)
        numbers = await shard.in_thread(_thd_lowest, shard, channel)
        numbers = [number for number in numbers if number not in state.messages and not state.finished(number)]
        for number in numbers:
            one = await shard.in_thread(shard.shelf.thd_copy, channel, number)
            if one is not None:
                arrival = one[0].envelope.arrival
                oldest = arrival if oldest is None else min(oldest, arrival)
                break
        return ChannelSummary(
            channel=channel,
            messages=messages,
            recipients=recipients,
            size_octets=size * BLOCK,
            held=held,
            oldest=oldest if messages else None,
        )

    async def _counted(self, part: Part, channel: str) -> ChannelSummary:
        """The same without books: every copy is looked at."""
        walk = Walk(part.shard, channel, None)
        await walk.take()
        wanted = QueueFilter()
        messages = recipients = size = held = 0
        oldest: float | None = None
        number = -1
        while numbers := walk.after(number, LOOK):
            number = numbers[-1]
            ids = [(to_id(one, part.shard.layout.code), part, one) for one in numbers]
            for _, one in await self._look(channel, ids, wanted):
                if one is not None:
                    messages += 1
                    recipients += one.remaining
                    size += -(-one.size_octets // BLOCK) * BLOCK
                    held += one.held
                    oldest = one.arrival if oldest is None else min(oldest, one.arrival)
        return ChannelSummary(
            channel=channel, messages=messages, recipients=recipients, size_octets=size, held=held, oldest=oldest
        )

    def jobs(self) -> Sequence[QueueJob]:
        """The attempts under way, by channel; at most L{JOBS}."""
        return sorted(self._jobs(), key=lambda job: (job.channel, job.host, job.id))[:JOBS]

    def _jobs(self) -> Iterator[QueueJob]:
        for part in self._parts():
            for runner in part.runners.values():
                for unit, job in runner.jobs.items():
                    yield QueueJob(
                        channel=job.channel,
                        id=job.id,
                        attempt=job.attempt,
                        recipients=len(job.recipients),
                        host=unit.destination,
                        size_octets=job.content.size,
                        sender=job.envelope.sender,
                    )


def _parsed(cursor: str | None) -> tuple[str, str]:
    """A cursor's channel and id; empty ones for none."""
    if cursor is None:
        return "", ""
    channel, slash, place = cursor.rpartition("/")
    try:
        if place:
            to_number(place)
    except ValueError:
        slash = ""
    if not slash:
        raise QmailpyError("not a cursor of this listing")
    return channel, place


async def _piece(shard: Shard, content: Content, offset: int, octets: int) -> bytes:
    if isinstance(content, FileContent):
        found: bytes = await shard.in_thread(content.piece, offset, octets)
        return found
    return content.read()[offset : offset + octets]


def _thd_filed(shard: Shard, channel: str, numbers: Iterable[int]) -> dict[str, tuple[Info, Copy]]:
    found = {}
    for number in numbers:
        one = shard.shelf.thd_copy(channel, number)
        if one is not None:
            found[to_id(number, shard.layout.code)] = one
    return found


def _thd_held(shard: Shard, channel: str) -> list[int]:
    return list(shard.shelf.thd_scan("hold", channel))


def _thd_lowest(shard: Shard, channel: str) -> list[int]:
    names = chain(shard.shelf.thd_scan("chan", channel), shard.shelf.thd_scan("hold", channel))
    return nsmallest(CANDIDATES, names)
