"""
Looking at the queue while it works: lists, summaries, messages. Nothing here changes anything.

A copy is looked up in memory first, for memory knows what the files do not say yet; then in its files.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain

from attrs import frozen
from twisted.internet.defer import DeferredLock, FirstError, gatherResults

from qmailpy.config.schema import Config
from qmailpy.errors import QmailpyError
from qmailpy.queue.content import FileContent
from qmailpy.queue.entries import (
    ChannelSummary,
    HistoryEvent,
    MessageEnvelope,
    MessageStanding,
    QueueEntry,
    QueueFilter,
    QueueJob,
    ShapeRow,
)
from qmailpy.queue.ids import shard_of, to_id, to_number
from qmailpy.queue.papers import Info
from qmailpy.queue.shape import AgeCount
from qmailpy.queue.shard import Shard
from qmailpy.queue.showing import Found, entry, envelope_of, history
from qmailpy.queue.standing import standing
from qmailpy.queue.state import Copy, Message
from qmailpy.queue.summing import LOOK, Part, Place, channel_sum
from qmailpy.queue.texts import thd_texts, with_text
from qmailpy.queue.walk import Walk
from qmailpy.values import Content

LIMIT = 1000
"""Entries of an answer at most, whatever is asked for."""

RUN = 50
"""Copies whose files are read by one thread, with others beside it."""

SLICE_S = 0.5
"""An answer is given after so long, however few entries it has."""

WALKS = 16
"""Walks kept between the pages of listings; those used least recently go first."""

IDLE_S = 120.0
"""A walk that was not used for so long has been given up by whoever was reading it."""

PIECE = 1024 * 1024
"""Octets of content in an answer at most."""

JOBS = 1000


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

    def reconfigure(self, config: Config) -> None:
        """Show the queue by another configuration: its channels, lifetimes, what stops them. After a reload."""
        self._config = config

    # --- listing ---------------------------------------------------------------------------------------------

    async def page(
        self,
        wanted: QueueFilter,
        cursor: str | None,
        limit: int,
        looked: Callable[[int], None] = lambda copies: None,
    ) -> tuple[list[QueueEntry], str | None]:
        """
        A page of the copies that pass the filter, ordered by channel and then by id.

        @param cursor: C{None} for the first page, then what came with the page before.
        @param looked: is told how many copies were looked at, a batch at a time.
        @return: the entries, at most C{limit}, maybe none; and the cursor for the next page, C{None} after the last.
        @raise QmailpyError: the cursor is none of ours.
        @raise OSError: the queue cannot be read.
        """
        limit = max(1, min(limit, LIMIT))
        deadline = self._seconds() + SLICE_S
        found: list[QueueEntry] = []
        async for channel, ids, after in self._batches(wanted, cursor):
            done = 0
            for queue_id, one in await self._look(channel, ids, wanted):
                done += 1
                if one is not None:
                    found.append(one)
                    if len(found) == limit:
                        looked(done)
                        return found, f"{channel}/{queue_id}"
            looked(done)
            if after is not None and self._seconds() >= deadline:
                return found, after
        self._walks.clear()
        return found, None

    async def ages(
        self,
        wanted: QueueFilter,
        cursor: str | None,
        edges: Sequence[float],
        senders: bool,
        looked: Callable[[int], None] = lambda copies: None,
    ) -> tuple[list[ShapeRow], str | None]:
        """
        How old the mail is that passes the filter, by destination: a part of the table, to be added to the others.

        @param edges: ages in seconds, ascending.
        @param senders: by the domain of the sender instead, and messages instead of recipients.
        @return: and the cursor for the next part; as L{page}.
        """
        deadline = self._seconds() + SLICE_S
        count = AgeCount(edges, senders, self._seconds())
        place: str | None = None
        async for channel, ids, after in self._batches(wanted, cursor):
            place = after
            found = await self._found(channel, ids, brief=count.brief(wanted))
            for queue_id, one in found:
                if one is not None:
                    count.add(queue_id, one, wanted)
            looked(len(ids))
            if self._seconds() >= deadline or count.full:
                break
        if place is None:
            self._walks.clear()
        return count.rows(), place

    async def _batches(
        self, wanted: QueueFilter, cursor: str | None
    ) -> AsyncIterator[tuple[str, Sequence[Place], str | None]]:
        """
        What there is from a cursor on, some of it at a time: channel, places, and the cursor behind them. At the end of
        each channel there is an empty batch.
        """
        parts = self._parts()
        start, place = _parsed(cursor)
        if cursor is None:
            self._walks.clear()  # a listing shows what there is at its beginning
        channels = [name for name in await self._channels(parts) if name >= start and wanted.admits_channel(name)]
        for at, channel in enumerate(channels):
            place = place if channel == start else ""
            while ids := await self._next(parts, channel, wanted.held, place):
                place = ids[-1][0]
                yield channel, ids, f"{channel}/{place}"
            yield channel, (), f"{channels[at + 1]}/" if at + 1 < len(channels) else None

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

    async def _next(self, parts: Sequence[Part], channel: str, held: bool | None, place: str) -> list[Place]:
        """The next ids of a channel behind a place, with where they are."""
        found: list[Place] = []
        for part in parts:
            code = part.shard.layout.code
            number = -1
            if place:
                number = to_number(place)
                if code > place[-len(code) :]:
                    number -= 1  # the same number in this shard comes after it
            walk = await self._walk(part, channel, held, number)
            found += [(to_id(one, code), part, one) for one in walk.after(number, LOOK)]
        found.sort(key=lambda item: item[0])
        return found[:LOOK]

    async def _walk(self, part: Part, channel: str, held: bool | None, number: int) -> Walk:
        """A walk that knows what comes after a number."""
        walk: Walk = await self._walking.run(self._walk_now, part, channel, held, number)
        return walk

    async def _walk_now(self, part: Part, channel: str, held: bool | None, number: int) -> Walk:
        self._attend(part)
        key = (part.name, channel, held)
        now = self._seconds()
        kept = self._walks.pop(key, None)
        if kept is not None and not kept[0].overfull and kept[0].knows(number, LOOK):
            self._walks[key] = (kept[0], now)
            return kept[0]
        # One that does not know it goes on as a whole one: what it was told of meanwhile counts.
        walk = kept[0] if kept is not None and not kept[0].overfull else Walk(part.shard, channel, held)
        self._taking = part.name, walk
        try:
            if kept is None:
                await walk.take(number)
            if not walk.knows(number, LOOK):
                await walk.complete()
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
        self, channel: str, ids: Sequence[Place], wanted: QueueFilter
    ) -> Iterable[tuple[str, QueueEntry | None]]:
        """The copies behind these ids; C{None} for those that have gone or are not wanted."""
        found = [
            (queue_id, one, entry(queue_id, one.envelope, one.size, one.copy, one.busy, wanted) if one else None)
            for queue_id, one in await self._found(channel, ids)
        ]
        if not wanted.reads:
            return [(queue_id, shown) for queue_id, _, shown in found]
        contents: dict[str, tuple[Shard, Content]] = {}
        where = {queue_id: part.shard for queue_id, part, _ in ids}
        for queue_id, one, shown in found:
            if one is not None and shown is not None:
                shard = where[queue_id]
                content = one.content or FileContent(shard.files, shard.layout.mess_of(queue_id), one.size)
                contents[queue_id] = shard, content
        texts: dict[str, tuple[str, str]] = {}
        for shard in {id(each): each for each, _ in contents.values()}.values():
            mine = [(queue_id, content) for queue_id, (each, content) in contents.items() if each is shard]
            texts |= await shard.in_thread(thd_texts, mine)
        return [
            (queue_id, with_text(shown, *texts[queue_id], wanted) if shown is not None else None)
            for queue_id, _, shown in found
        ]

    async def _found(
        self, channel: str, ids: Sequence[Place], brief: bool = False
    ) -> Sequence[tuple[str, Found | None]]:
        """
        What is behind these ids; C{None} for what has gone.

        @param brief: of what is in files only the recipients; the envelope has only the time, by the id.
        """
        filed: dict[str, tuple[Info, Copy]] = {}
        for part in {id(item[1]): item[1] for item in ids}.values():
            state = part.shard.state
            numbers = [
                number
                for _, where, number in ids
                if where is part and number not in state.messages and not state.finished(number)
            ]
            if numbers:
                # Side by side: a disk that has to be asked for each file answers several at once.
                runs = [numbers[at : at + RUN] for at in range(0, len(numbers), RUN)]
                read = [part.shard.in_thread(_thd_filed, part.shard, channel, run, brief) for run in runs]
                try:
                    for some in await gatherResults(read, consumeErrors=True):
                        filed |= some
                except FirstError as problem:
                    problem.subFailure.raiseException()
        return [(queue_id, self._copy(channel, part, queue_id, number, filed)) for queue_id, part, number in ids]

    def _copy(
        self, channel: str, part: Part, queue_id: str, number: int, filed: Mapping[str, tuple[Info, Copy]]
    ) -> Found | None:
        state = part.shard.state
        message = state.messages.get(number)  # it may have come to memory while the files were read
        if message is None:
            if queue_id not in filed or state.finished(number):
                return None
            info, copy = filed[queue_id]
            return Found(info.envelope, info.size, copy)
        found = message.copies.get(channel)
        if found is None:
            return None
        runner = part.runners.get(channel)
        busy = runner is not None and runner.by_hand.trying(message, found)
        return Found(message.envelope, message.size, found, busy, message.content)

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

    async def standing(self, queue_id: str) -> MessageStanding | None:
        """Where a message stands and what is next; C{None} when it is not here."""
        found = await self._message(queue_id)
        if found is None:
            return None
        part, message = found
        stands = standing(message, part.runners, self._config)
        part.shard.evict(message)
        return stands

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

    async def summary(self, looked: Callable[[int], None] = lambda copies: None) -> Sequence[ChannelSummary]:
        """
        The channels by name: every configured one and those with mail.

        Messages, recipients and sizes are the books' (Stored, in blocks), where these are kept: they cost nothing.
        C{ready} counts what is in memory, so at most L{qmailpy.queue.runner.READY} or so.

        @param looked: is told of the copies that are looked at, where there are no books.
        @raise OSError: the queue cannot be read.
        """
        parts = self._parts()
        channels = sorted({*self._config.channels, *await self._channels(parts)})
        found = []
        for channel in channels:
            sums = [await channel_sum(part, channel, self._look, looked) for part in parts]
            ages = [(one.oldest, one.oldest_message) for one in sums if one.oldest is not None]
            oldest, oldest_message = min(ages, default=(None, ""))
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
                    oldest=oldest,
                    oldest_message=oldest_message,
                    stopped=any(runner.stopped for runner in runners),
                )
            )
        return found

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


def _thd_filed(shard: Shard, channel: str, numbers: Iterable[int], brief: bool) -> dict[str, tuple[Info, Copy]]:
    """@raise OSError: not one of them can be read; else those that cannot are left out, as damaged ones are."""
    found = {}
    trouble: OSError | None = None
    read = False
    for number in numbers:
        try:
            one = shard.shelf.thd_copy(channel, number, brief)
        except OSError as problem:
            trouble = problem
            continue
        read = True
        if one is not None:
            found[to_id(number, shard.layout.code)] = one
    if trouble is not None and not read:
        raise trouble
    return found
