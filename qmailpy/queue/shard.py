"""
One shard of the queue at work: every change goes through L{Shard.commit}, and what is in memory of its mail comes and
goes here. Behind it, segments of the journal are settled into files (queue.segments).

All of it runs in the reactor thread; what blocks is handed to C{in_thread}. Who decides what is tried when is the
scheduler (queue.runner); this module keeps a promise of docs/queue.md: nothing is told before its record is durable,
and the lines of a record are written after that, at once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from zlib import crc32

from attrs import evolve
from twisted.internet.defer import Deferred, DeferredLock, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from qmailpy.disk.files import Files
from qmailpy.events.log import NoEvents
from qmailpy.interfaces import IDurableDelivery, IEvents, InThread, IRecorder
from qmailpy.queue.aside import leaving_lines
from qmailpy.queue.codec import Enqueued, Op, encode_op
from qmailpy.queue.committer import ICommitter
from qmailpy.queue.content import FileContent
from qmailpy.queue.ids import IdSource
from qmailpy.queue.journal import JournalBroken, Position
from qmailpy.queue.layout import Layout
from qmailpy.queue.owing import Owing
from qmailpy.queue.segments import Segments
from qmailpy.queue.shelf import Shelf
from qmailpy.queue.state import Copy, Message, State, enqueued_lines
from qmailpy.records.removed import SET_ASIDE
from qmailpy.routing.selection import Selection
from qmailpy.values import Content, Envelope, MemoryContent


class Shard:
    """The owner of a shard's state, journal and directories."""

    _log = Logger()

    def __init__(
        self,
        *,
        files: Files,
        layout: Layout,
        state: State,
        shelf: Shelf,
        committer: ICommitter,
        recorder: IRecorder,
        ids: IdSource,
        in_thread: InThread,
        later: Callable[[float, Callable[[], None]], object],
        durable: dict[str, IDurableDelivery],
        segments: int,
        generations: Iterable[int],
        books: int = 0,
        events: IEvents | None = None,
        seconds: Callable[[], float] = time.time,
    ) -> None:
        """
        @param durable: channels whose deliveries the journal covers, by name; L{cover} adds to it.
        @param segments: with more segments in use than this, new mail waits for one to be retired.
        @param generations: those in use, the active one last.
        @param books: the last line of the log that a durable checkpoint knows.
        @param later: callLater.
        @param seconds: wall clock.
        """
        self._durable = durable
        self._events: IEvents = events or NoEvents()
        self._wall = seconds
        self.files = files
        self.layout = layout
        self.state = state
        self.shelf = shelf
        self.recorder = recorder
        self.ids = ids
        self.in_thread = in_thread
        self.segments = Segments(
            root=layout.root,
            state=state,
            shelf=shelf,
            committer=committer,
            recorder=recorder,
            ids=ids,
            in_thread=in_thread,
            later=later,
            durable=durable,
            owing=Owing(durable=durable, make=self._again, commit=self.commit, events=self._events, seconds=seconds),
            events=self._events,
            generations=generations,
            books=books,
            broken=lambda: self.broken is not None,
            failed=self._failed,
            evict=self.evict,
            room=self._release,
        )
        self._committer = committer
        self._most = segments
        self._held_back: deque[tuple[bytes, Callable[[Position | OSError], None]]] = deque()
        self._loads = DeferredLock()
        self.selection: Selection | None = None  # what goes through a conversion; C{None} = nothing
        self.broken: OSError | None = None
        self.on_arrival: Callable[[Message], None] = lambda message: None
        self.on_wait: Callable[[Message, Copy], None] = lambda message, copy: None
        self.on_evict: Callable[[Message], None] = lambda message: None
        self.on_broken: Callable[[OSError], None] = lambda problem: None

    def cover(self, channel: str, ability: IDurableDelivery) -> None:
        """The journal covers the deliveries of a channel that has come, from its first one on."""
        self._durable[channel] = ability
        self.state.durable = frozenset(self._durable)

    @property
    def held_back(self) -> int:
        """Messages that wait to be accepted because there are too many of these."""
        return len(self._held_back)

    # --- changes ---------------------------------------------------------------------------------------------

    def enqueue(self, op: Enqueued, answer: Callable[[OSError | None], None]) -> None:
        """
        Accept a message.

        @param answer: called with C{None} once it is durable, or with why it is not.
        """
        if self.selection is not None:
            op = evolve(op, envelope=self.selection.redirect(op.envelope, op.size, op.content))
        payload = encode_op(op)

        def done(result: Position | OSError) -> None:
            if isinstance(result, OSError):
                self._failed(result)
                answer(result)
                return
            message = self._admit(op, result)
            self.segments.seen(result.generation)
            answer(None)
            self.on_arrival(message)

        if len(self.segments.generations) > self._most:
            self._held_back.append((payload, done))
        else:
            self._committer.submit(payload, done)

    def commit(self, ops: Sequence[Op], done: Callable[[OSError | None], None]) -> None:
        """
        Make changes true together.

        @param ops: of messages in memory; Enqueued ones come before what they follow from.
        @param done: called once they are durable, applied and in the log, or with why they are not (then the shard is
            broken, or the disk is full to its last segment and the caller may try again).
        """

        def answered(result: Position | OSError) -> None:
            if isinstance(result, OSError):
                self._failed(result)
                done(result)
                return
            arrived = []
            for op in ops:
                if isinstance(op, Enqueued):
                    arrived.append(self._admit(op, result))
                else:
                    self.recorder.write(self.state.apply(op, result))
            # Only now: a checkpoint amid the ops of a record would count lines as told that nobody has written yet.
            self.segments.seen(result.generation)
            done(None)
            for message in arrived:
                self.on_arrival(message)

        self._committer.submit(b"".join([encode_op(op) for op in ops]), answered, essential=True)

    def _admit(self, op: Enqueued, position: Position) -> Message:
        content = (
            MemoryContent(op.content)
            if op.content is not None
            else FileContent(self.files, self.layout.mess(op.number), op.size)
        )
        message = self.state.admit(op, content, position)
        if op.content is None:
            message.filed = True  # its mess/ file is to be removed in the end
        self.recorder.write(enqueued_lines(message))
        return message

    def _failed(self, problem: OSError) -> None:
        if isinstance(problem, JournalBroken) and self.broken is None:
            self.broken = problem
            self._log.critical(
                "queue shard {root}: {problem}; no mail is accepted until the shard has been reopened and checked",
                root=self.layout.root,
                problem=str(problem),
            )
            self.on_broken(problem)

    @property
    def backlog(self) -> int:
        """Octets on their way into the journal."""
        return self._committer.backlog

    def _again(self, envelope: Envelope, content: Content) -> Deferred[Enqueued]:
        """The op that enqueues a message once more; without its content, when that is gone: it fails then."""

        def lost(failure: Failure) -> Enqueued:
            failure.trap(FileNotFoundError)
            return Enqueued(self.ids.next_number(), envelope, content.size, 0, None)

        return Deferred.fromCoroutine(self.new_message(envelope, content, convert=False)).addErrback(lost)

    def evict(self, message: Message) -> None:
        """
        Let go of a message that its files tell all about, unless something is being done with it; at least of its
        content, when that is all they tell yet: a host that is down defers thousands of large messages in a row.
        """
        if message.generation or not message.filed or message.busy or message.number not in self.state.messages:
            return
        if message.content.in_memory:
            message.content = FileContent(self.files, self.layout.mess(message.number), message.size)
        if any(copy.sequence > copy.filed for copy in message.copies.values()):
            return
        if any(message.number in touched for touched in self.state.touched.values()):
            return
        del self.state.messages[message.number]
        self.on_evict(message)

    def load(self, numbers: Sequence[int]) -> Deferred[list[Message]]:
        """
        Bring messages into memory from their files; fires with those that still exist, in memory already or now.

        One load at a time: so nothing that was read can have become untrue by the time it is taken in.
        """
        return self._loads.run(self._load, numbers)

    def _load(self, numbers: Sequence[int]) -> Deferred[list[Message]]:
        state = self.state
        absent = [number for number in numbers if number not in state.messages and not state.finished(number)]

        def adopt(found: list[Message]) -> list[Message]:
            self.tell_of_aside()
            for message in found:
                self.state.messages[message.number] = message
                for copy in message.copies.values():
                    copy.waiting = copy.watched = copy.held is None  # its entries outlived it
            messages = self.state.messages
            return [messages[number] for number in numbers if number in messages]

        return self.in_thread(self._thd_load, absent).addCallback(adopt) if absent else succeed(adopt([]))

    def tell_of_aside(self) -> None:
        """Report the messages that were set aside, and take them out of the books as far as is known what is left."""
        while self.shelf.aside:
            one = self.shelf.aside.pop(0)  # threads add to it
            self._log.error(
                "queue shard {root}: message {id}: {why}; its files were moved to {corrupt}{counted}",
                root=self.layout.root,
                id=one.id,
                why=one.why,
                corrupt=self.layout.corrupt,
                counted="" if one.whole else ", and it stays counted until qm clean -corrupt",
            )
            self._events.happened("message.aside", id=one.id, why=one.why)
            self.recorder.write(leaving_lines(one.id, one.leavings, self._wall(), SET_ASIDE))

    def _thd_load(self, numbers: Sequence[int]) -> list[Message]:
        return [message for message in map(self.shelf.thd_load, numbers) if message is not None]

    async def new_message(
        self, envelope: Envelope, content: Content, room: int | None = None, *, convert: bool = True
    ) -> Enqueued:
        """
        The op that enqueues a message of our own making. A large content has a durable file then, as one that came in.

        @param room: octets of content the transaction still has room for; a content beyond has a file, too.
        @param convert: false: it has been on its way before, and a conversion has had it, or is not to.
        @raise OSError: the content cannot be read, or the file not be written.
        """
        number = self.ids.next_number()
        if convert and self.selection is not None:
            header = content.header() if content.in_memory else None
            envelope = self.selection.redirect(envelope, content.size, header)
        if content.size > (self.shelf.memory_octets if room is None else min(room, self.shelf.memory_octets)):
            size, crc = await self.in_thread(self.shelf.thd_store, number, content)
            return Enqueued(number, envelope, size, crc, None)
        octets = content.read() if content.in_memory else await self.in_thread(content.read)
        return Enqueued(number, envelope, len(octets), crc32(octets), octets)

    def _release(self) -> None:
        while self._held_back and len(self.segments.generations) <= self._most:
            payload, done = self._held_back.popleft()
            self._committer.submit(payload, done)
