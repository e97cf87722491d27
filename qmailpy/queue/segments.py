"""
What becomes of the journal segments of a shard: closed, settled into files, recycled; the oldest first.

A segment is recycled after its deliveries, the log and the files of its unfinished mail are durable, in this order, and
a checkpoint that says so is (docs/queue.md s.5). What hinders that is tried again, for ever; meanwhile segments become
more, until new mail has to wait (L{qmailpy.queue.shard.Shard}). All of it runs in the reactor thread; what blocks is
handed to C{in_thread}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from errno import EAGAIN, ENOSPC
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from qmailpy.disk.files import SyncLost
from qmailpy.interfaces import IDurableDelivery, IEvents, InThread, IRecorder
from qmailpy.queue.codec import Checkpoint, encode_op
from qmailpy.queue.committer import ICommitter
from qmailpy.queue.ids import IdSource
from qmailpy.queue.journal import Journal, Position
from qmailpy.queue.owing import Owing
from qmailpy.queue.shelf import Filing, Shelf, filing
from qmailpy.queue.state import Copy, Message, State

Composed = tuple[Message, Filing, list[tuple[Copy, int]]]
"""A message, what its files are to become, and the sequence each copy's file will know."""

BEHIND = 50_000
"""Lines of the log that no durable checkpoint knows: with so many one is made. A start reads them, in 0.2 s or so."""

SLICE = 200
"""Messages whose files are composed in one go in the reactor thread, some milliseconds."""


class Segments:
    """
    The segments of one shard that are in use.

    @ivar generations: theirs, the active one last.
    @ivar behind: as L{BEHIND}.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        root: str,
        state: State,
        shelf: Shelf,
        committer: ICommitter,
        recorder: IRecorder,
        ids: IdSource,
        in_thread: InThread,
        later: Callable[[float, Callable[[], None]], object],
        durable: Mapping[str, IDurableDelivery],
        owing: Owing,
        events: IEvents,
        generations: Iterable[int],
        books: int,
        broken: Callable[[], bool],
        failed: Callable[[OSError], None],
        evict: Callable[[Message], None],
        room: Callable[[], None],
    ) -> None:
        """
        @param root: the shard's directory, for messages.
        @param later: callLater.
        @param durable: channels whose deliveries the journal covers, by name; there may come more.
        @param books: the last line of the log that a durable checkpoint knows.
        @param broken: whether the journal cannot be written any more.
        @param failed: told of each record that could not be.
        @param evict: lets go of a message whose files may tell all about it now.
        @param room: called when there are fewer segments.
        """
        self.generations = list(generations)
        self.behind = BEHIND
        self._root = root
        self._state = state
        self._shelf = shelf
        self._committer = committer
        self._recorder = recorder
        self._ids = ids
        self._in_thread = in_thread
        self._later = later
        self._durable = durable
        self._owing = owing
        self._events = events
        self._books = books
        self._broken = broken
        self._failed = failed
        self._evict = evict
        self._room = room
        self._retiring = False  # or keeping the books: one checkpoint at a time
        self._paused = False
        self._idle: list[Deferred[None]] = []

    def seen(self, generation: int) -> None:
        """A record has been written into this segment: the one before it is closed when it is another."""
        if generation > self.generations[-1]:
            self.generations.append(generation)
            self.retire()

    def roll(self) -> None:
        """Close the active segment if it covers anything unfinished or untrue, so that it can be retired."""
        active = self.generations[-1]
        state = self._state
        if not (state.living.get(active) or state.touched.get(active) or state.delivered.get(active)):
            return

        def rolled(result: object) -> None:
            if isinstance(result, OSError):
                self._failed(result)
            else:
                assert isinstance(result, int)
                self.seen(result)

        self._committer.call(_roll, rolled)

    def retire(self) -> None:
        """Work off the oldest closed segment, then the next, until only the active one is left."""
        if self._retiring or self._paused or self._broken() or len(self.generations) < 2:
            self._tell_idle()
            return
        self._retiring = True
        self._compose_some(self.generations[0], None, [])

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
            living = self._state.living.get(generation, {})
            todo = list(living.values()) + [
                message for number, message in self._state.touched.get(generation, {}).items() if number not in living
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
        books = self._recorder.checkpoint()
        if self._recorder.behind:
            self._postpone(OSError(ENOSPC, "the transaction log cannot be written"))
            return
        checkpoint = Checkpoint(generation + 1, self._state.sequence, self._ids.highest, books)
        # Deliveries of this generation so far, and those of other generations that the files are about to know of (of
        # messages that had files before): what a file knows is not repeated by recovery.
        told = {message.id for message, _, _ in filings}
        covered = [
            name
            for number, names in self._state.delivered.items()
            for name in names
            if number == generation or name in told
        ]
        work = self._in_thread(self._thd_retire, covered, [item for _, item, _ in filings])
        work.addCallbacks(
            lambda _: self._commit_checkpoint(
                checkpoint, lambda: self._retired(generation, [(message, known) for message, _, known in filings])
            ),
            lambda failure: self._postpone(failure.value),
        )
        work.addErrback(lambda failure: self._log.failure("bug while retiring a segment", failure))

    def _thd_retire(self, covered: list[str], filings: list[Filing]) -> None:
        doubt = self._shelf.doubt
        try:
            for ability in list(self._durable.values()):
                ability.thd_sync_deliveries(covered)
            self._recorder.thd_sync()
            self._shelf.thd_file(filings)
            if doubt.noted and not any(ability.doubts() for ability in list(self._durable.values())):
                doubt.thd_clear()
        except OSError as problem:  # of whatever: it may have been deliveries that the disk did not take
            doubt.thd_note()
            if isinstance(problem, SyncLost):
                for ability in list(self._durable.values()):
                    ability.sync_lost()
            raise

    def _postpone(self, problem: BaseException) -> None:
        self._retiring = False
        if not isinstance(problem, OSError):  # it may have to do with a message that will be gone
            self._log.failure("bug while retiring a segment", Failure(problem))
        elif problem.errno != EAGAIN:  # deliveries that are owed have an event of their own
            self._events.happened("disk.failed", where=self._root, why=str(problem))
        self._log.error(
            "queue shard {root}: cannot settle a journal segment: {problem}; trying again in 5 s",
            root=self._root,
            problem=str(problem),
        )
        self._paused = True
        self._tell_idle()

        def again() -> None:
            self._paused = False
            ids = {name for names in self._state.delivered.values() for name in names}
            if not self._broken() and self._owing.enough(ids):
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
                root=self._root,
                problem=failure.getErrorMessage(),
            )

        def go_on(_: object) -> None:
            self._retiring = False
            self.retire()

        Deferred.fromCoroutine(self._owing.requeue(ids)).addErrback(failed).addBoth(go_on)

    def keep_books(self) -> None:
        """
        Make the books durable where they are, when the log has L{BEHIND} lines that no checkpoint knows. To be called
        now and then: refused mail and connections fill the log, but not the journal, so no segment is retired for them.
        """
        if self._retiring or self._paused or self._broken():
            return
        if self._recorder.sequence - self._books < self.behind:
            return
        books = self._recorder.checkpoint()
        if self._recorder.behind:
            return  # the log cannot be written; the next call tries again
        self._retiring = True
        # No segment goes, so neither files nor deliveries matter: the journal still tells of them.
        checkpoint = Checkpoint(self.generations[0], self._state.sequence, self._ids.highest, books)
        work = self._in_thread(self._recorder.thd_sync)
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
                if not self._broken():
                    self._postpone(result)
                self._tell_idle()
                return
            self._state.sequence = result.sequence
            self._books = checkpoint.books.sequence
            then()
            if result.generation > self.generations[-1]:
                self.generations.append(result.generation)
            self._retiring = False
            self._room()
            self.retire()

        self._committer.submit(encode_op(checkpoint), durable, essential=True)

    def _retired(self, generation: int, sequences: list[tuple[Message, list[tuple[Any, int]]]]) -> None:
        self._committer.call(lambda journal: journal.recycle(generation), lambda _: None)
        state = self._state
        self.generations.remove(generation)
        state.living.pop(generation, None)
        state.touched.pop(generation, None)
        state.delivered.pop(generation, None)
        for message, copies in sequences:
            for copy, sequence in copies:
                copy.filed = sequence
            if message.generation == generation:
                message.generation = 0
            self._evict(message)


def _roll(journal: Journal) -> int:
    journal.roll()
    return journal.generation
