"""
One shard of the queue at work: every change goes through L{Shard.commit}, and segments are retired behind it.

All of it runs in the reactor thread; what blocks is handed to C{in_thread}. Who decides what is tried when is the
scheduler (queue.service); this module only keeps the promises of docs/queue.md:

    nothing is told before its record is durable; the lines of a record are written after that, at once;
    a segment is recycled after its deliveries, the log and the files of its unfinished mail are durable, in this order,
    and a checkpoint that says so is.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from errno import ENOSPC
from typing import Any
from zlib import crc32

from attrs import evolve
from twisted.internet.defer import Deferred, DeferredLock, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from qmailpy.disk.files import Files, SyncLost
from qmailpy.events.log import NoEvents
from qmailpy.interfaces import IDurableDelivery, IEvents, IRecorder
from qmailpy.queue.aside import leaving_lines
from qmailpy.queue.codec import Checkpoint, Enqueued, Op, encode_op
from qmailpy.queue.committer import ICommitter
from qmailpy.queue.content import FileContent
from qmailpy.queue.ids import IdSource
from qmailpy.queue.journal import Journal, JournalBroken, Position
from qmailpy.queue.layout import Layout
from qmailpy.queue.owing import Owing
from qmailpy.queue.shelf import Filing, Shelf, filing
from qmailpy.queue.state import Copy, Message, State, enqueued_lines
from qmailpy.records.removed import SET_ASIDE
from qmailpy.routing.selection import Selection
from qmailpy.values import Content, Envelope, MemoryContent

InThread = Callable[..., "Deferred[Any]"]
"""in_thread(function, *arguments): runs it elsewhere and fires with its result; in tests, at once."""

Composed = tuple[Message, Filing, list[tuple[Copy, int]]]
"""A message, what its files are to become, and the sequence each copy's file will know."""

BEHIND = 50_000
"""Lines of the log that no durable checkpoint knows: with so many one is made. A start reads them, in 0.2 s or so."""

SLICE = 200
"""Messages whose files are composed in one go in the reactor thread, some milliseconds."""


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
        durable: Mapping[str, IDurableDelivery],
        segments: int,
        generations: Iterable[int],
        books: int = 0,
        events: IEvents | None = None,
        seconds: Callable[[], float] = time.time,
    ) -> None:
        """
        @param durable: channels whose deliveries the journal covers, by name.
        @param segments: with more segments in use than this, new mail waits for one to be retired.
        @param generations: those in use, the active one last.
        @param books: the last line of the log that a durable checkpoint knows.
        @param later: callLater.
        @param seconds: wall clock.
        """
        self._events: IEvents = events or NoEvents()
        self._wall = seconds
        self._owing = Owing(durable=durable, make=self._again, commit=self.commit, events=self._events, seconds=seconds)
        self.files = files
        self.layout = layout
        self.state = state
        self.shelf = shelf
        self.recorder = recorder
        self.ids = ids
        self.in_thread = in_thread
        self._later = later
        self._committer = committer
        self._durable = durable
        self._segments = segments
        self._generations = list(generations)
        self._books = books
        self.behind = BEHIND
        self._retiring = False  # or keeping the books: one checkpoint at a time
        self._paused_retiring = False
        self._held_back: deque[tuple[bytes, Callable[[Position | OSError], None]]] = deque()
        self._idle: list[Deferred[None]] = []
        self._loads = DeferredLock()
        self.selection: Selection | None = None  # what goes through a conversion; C{None} = nothing
        self.broken: OSError | None = None
        self.on_arrival: Callable[[Message], None] = lambda message: None
        self.on_wait: Callable[[Message, Copy], None] = lambda message, copy: None
        self.on_evict: Callable[[Message], None] = lambda message: None
        self.on_broken: Callable[[OSError], None] = lambda problem: None

    @property
    def generations(self) -> int:
        """Journal segments with work in them."""
        return len(self._generations)

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
            self._seen(result.generation)
            answer(None)
            self.on_arrival(message)

        if len(self._generations) > self._segments:
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
            self._seen(result.generation)
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

    def _seen(self, generation: int) -> None:
        if generation > self._generations[-1]:
            self._generations.append(generation)
            self.retire()

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

    # --- retiring --------------------------------------------------------------------------------------------

    def roll(self) -> None:
        """Close the active segment if it covers anything unfinished or untrue, so that it can be retired."""
        active = self._generations[-1]
        state = self.state
        if not (state.living.get(active) or state.touched.get(active) or state.delivered.get(active)):
            return

        def rolled(result: object) -> None:
            if isinstance(result, OSError):
                self._failed(result)
            else:
                assert isinstance(result, int)
                self._seen(result)

        self._committer.call(_roll, rolled)

    def retire(self) -> None:
        """Work off the oldest closed segment, then the next, until only the active one is left."""
        if self._retiring or self._paused_retiring or self.broken is not None or len(self._generations) < 2:
            self._tell_idle()
            return
        self._retiring = True
        self._compose_some(self._generations[0], None, [])

    def settled(self) -> Deferred[None]:
        """Fires when no retiring is going on; with L{roll} before it, when everything is in files."""
        waiting: Deferred[None] = Deferred()
        self._idle.append(waiting)
        self._tell_idle()
        return waiting

    def _tell_idle(self) -> None:
        if not self._retiring:
            waiting, self._idle = self._idle, []
            for each in waiting:
                each.callback(None)

    def _compose_some(self, generation: int, todo: list[Message] | None, filings: list[Composed]) -> None:
        try:
            self._compose(generation, todo, filings)
        except Exception as problem:
            self._postpone(problem)

    def _compose(self, generation: int, todo: list[Message] | None, filings: list[Composed]) -> None:
        """Compose the files of a generation's messages, a slice a turn."""
        if todo is None:
            living = self.state.living.get(generation, {})
            todo = list(living.values()) + [
                message for number, message in self.state.touched.get(generation, {}).items() if number not in living
            ]
            todo.reverse()
        for _ in range(min(SLICE, len(todo))):
            message = todo.pop()
            message.filed = True  # from here on it may have files: whoever finishes it has to have them removed
            known = [(copy, copy.sequence) for copy in message.copies.values()]  # what the files will know: no more
            filings.append((message, filing(message), known))
        if todo:
            self._later(0, lambda: self._compose_some(generation, todo, filings))
            return
        # What finished after its slice has files by then, too, and is seen again in a later generation.
        books = self.recorder.checkpoint()
        if self.recorder.behind:
            self._postpone(OSError(ENOSPC, "the transaction log cannot be written"))
            return
        checkpoint = Checkpoint(generation + 1, self.state.sequence, self.ids.highest, books)
        # Deliveries of this generation so far, and those of other generations that the files are about to know of (of
        # messages that had files before): what a file knows is not repeated by recovery.
        told = {message.id for message, _, _ in filings}
        covered = [
            name
            for number, names in self.state.delivered.items()
            for name in names
            if number == generation or name in told
        ]
        work = self.in_thread(self._thd_retire, covered, [item for _, item, _ in filings])
        work.addCallbacks(
            lambda _: self._commit_checkpoint(
                checkpoint, lambda: self._retired(generation, [(message, known) for message, _, known in filings])
            ),
            lambda failure: self._postpone(failure.value),
        )
        work.addErrback(lambda failure: self._log.failure("bug while retiring a segment", failure))

    def _thd_retire(self, covered: list[str], filings: list[Filing]) -> None:
        doubt = self.shelf.doubt
        try:
            for ability in self._durable.values():
                ability.thd_sync_deliveries(covered)
            self.recorder.thd_sync()
            self.shelf.thd_file(filings)
            if doubt.noted and not any(ability.doubts() for ability in self._durable.values()):
                doubt.thd_clear()
        except OSError as problem:  # of whatever: it may have been deliveries that the disk did not take
            doubt.thd_note()
            if isinstance(problem, SyncLost):
                for ability in self._durable.values():
                    ability.sync_lost()
            raise

    def _postpone(self, problem: BaseException) -> None:
        self._retiring = False
        if not isinstance(problem, OSError):  # it may have to do with a message that will be gone
            self._log.failure("bug while retiring a segment", Failure(problem))
        self._log.error(
            "queue shard {root}: cannot settle a journal segment: {problem}; trying again in 5 s",
            root=self.layout.root,
            problem=str(problem),
        )
        self._paused_retiring = True
        self._tell_idle()

        def again() -> None:
            self._paused_retiring = False
            ids = {name for names in self.state.delivered.values() for name in names}
            if self.broken is None and self._owing.enough(ids):
                self._requeue(ids)
            else:
                self.retire()

        self._later(5.0, again)

    def _requeue(self, ids: Iterable[str]) -> None:
        """Deliveries that cannot be repeated are mail that waits from now on; then go on retiring."""
        self._retiring = True  # so that nothing of them is repeated now

        def failed(failure: Failure) -> None:
            self._log.error(
                "queue shard {root}: what was delivered before the power failed cannot be queued again: {problem}",
                root=self.layout.root,
                problem=failure.getErrorMessage(),
            )

        def go_on(_: object) -> None:
            self._retiring = False
            self.retire()

        Deferred.fromCoroutine(self._owing.requeue(ids)).addErrback(failed).addBoth(go_on)

    def _again(self, envelope: Envelope, content: Content) -> Deferred[Enqueued]:
        """The op that enqueues a message once more; without its content, when that is gone: it fails then."""

        def lost(failure: Failure) -> Enqueued:
            failure.trap(FileNotFoundError)
            return Enqueued(self.ids.next_number(), envelope, content.size, 0, None)

        return Deferred.fromCoroutine(self.new_message(envelope, content, convert=False)).addErrback(lost)

    def keep_books(self) -> None:
        """
        Make the books durable where they are, when the log has L{BEHIND} lines that no checkpoint knows. To be called
        now and then: refused mail and connections fill the log, but not the journal, so no segment is retired for them.
        """
        if self._retiring or self._paused_retiring or self.broken is not None:
            return
        if self.recorder.sequence - self._books < self.behind:
            return
        books = self.recorder.checkpoint()
        if self.recorder.behind:
            return  # the log cannot be written; the next call tries again
        self._retiring = True
        # No segment goes, so neither files nor deliveries matter: the journal still tells of them.
        checkpoint = Checkpoint(self._generations[0], self.state.sequence, self.ids.highest, books)
        work = self.in_thread(self.recorder.thd_sync)
        work.addCallbacks(
            lambda _: self._commit_checkpoint(checkpoint, lambda: None),
            lambda failure: self._postpone(failure.value),
        )
        work.addErrback(lambda failure: self._log.failure("bug while keeping the books", failure))

    def _commit_checkpoint(self, checkpoint: Checkpoint, then: Callable[[], None]) -> None:
        def durable(result: Position | OSError) -> None:
            if isinstance(result, OSError):
                self._failed(result)
                self._retiring = False
                if self.broken is None:
                    self._postpone(result)
                self._tell_idle()
                return
            self.state.sequence = result.sequence
            self._books = checkpoint.books.sequence
            then()
            if result.generation > self._generations[-1]:
                self._generations.append(result.generation)
            self._retiring = False
            self._release()
            self.retire()

        self._committer.submit(encode_op(checkpoint), durable, essential=True)

    def _retired(self, generation: int, sequences: list[tuple[Message, list[tuple[Any, int]]]]) -> None:
        self._committer.call(lambda journal: journal.recycle(generation), lambda _: None)
        state = self.state
        self._generations.remove(generation)
        state.living.pop(generation, None)
        state.touched.pop(generation, None)
        state.delivered.pop(generation, None)
        for message, copies in sequences:
            for copy, sequence in copies:
                copy.filed = sequence
            if message.generation == generation:
                message.generation = 0
            self.evict(message)

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
        while self._held_back and len(self._generations) <= self._segments:
            payload, done = self._held_back.popleft()
            self._committer.submit(payload, done)


def _roll(journal: Journal) -> int:
    journal.roll()
    return journal.generation
