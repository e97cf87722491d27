"""
Taking up a shard: from what the disk says to what was true (docs/queue.md s.6).

Reads only the disk, changes nothing that a second run would not do again, and ends before the first connection. Mail
that has long left the journal is not looked at here; the scheduler lists it while business goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from attrs import Factory, define
from twisted.logger import Logger

from qmailpy.disk.files import Files
from qmailpy.interfaces import BooksCheckpoint, IDurableDelivery, IRecorder
from qmailpy.queue.codec import Attempted, Checkpoint, Enqueued, Op, Outcome, Requeued, Result, decode_ops
from qmailpy.queue.content import FileContent
from qmailpy.queue.journal import Journal, Position
from qmailpy.queue.layout import Layout
from qmailpy.queue.shelf import Shelf
from qmailpy.queue.state import Message, State, enqueued_lines
from qmailpy.records.record import LogRecord
from qmailpy.values import Content, Job, MemoryContent, Recipient

Key = tuple[str, str, str, str, int]


@define
class Recovered:
    """What recovery found."""

    state: State
    highest: int  # no message number above it has been used
    generations: list[int]  # segments that hold work, oldest first
    known: frozenset[int] = frozenset()  # numbers the journal told of, finished ones too
    books: int = 0  # last line of the lane that the newest checkpoint knows
    messages: int = 0  # accepted ones that the journal told of
    missing: list[LogRecord] = Factory(list)  # lines the crash had swallowed, to be written before any other
    warnings: list[str] = Factory(list)
    owed: bool = False  # deliveries of before the power failed are still to be repeated


class Recovery:
    """One run over one shard. All of it blocks."""

    _log = Logger()

    def __init__(
        self,
        *,
        files: Files,
        layout: Layout,
        journal: Journal,
        shelf: Shelf,
        recorder: IRecorder,
        durable: Mapping[str, IDurableDelivery],
        replay: bool,
    ) -> None:
        """
        @param durable: channels whose deliveries the journal covers, by name.
        @param replay: whether these may have been lost: true unless only our process had died.
        """
        self._files = files
        self._layout = layout
        self._journal = journal
        self._shelf = shelf
        self._recorder = recorder
        self._durable = durable
        self._replay = replay
        self._born: dict[int, Message] = {}  # all the live segments tell of, finished or not
        self._delivered: dict[tuple[int, str], tuple[Message, list[tuple[Recipient, Result]]]] = {}

    def thd_run(self) -> Recovered:
        """
        Do it. Afterwards the journal may be started.

        @raise OSError: the disk cannot be read; nothing was decided.
        """
        layout = self._layout
        highest = 0
        newest = self._journal.recover()
        base: BooksCheckpoint | None = None
        told = 0
        if newest is not None:
            base, told, highest = newest.books, newest.sequence, newest.highest
        state = State(layout.code)
        state.durable = frozenset(self._durable)
        result = Recovered(state, highest, [segment.generation for segment in self._journal.closed])
        result.books = base.sequence if base is not None else 0
        owed: list[LogRecord] = []  # lines of what happened behind the checkpoint; most are in the log
        for position, payload in self._journal.records():
            for op in decode_ops(payload):
                lines = self._apply(state, op, position, result)
                if position.sequence > told:
                    owed += lines
        ids = {line.file.id for line in owed if line.file is not None}
        found = Counter(_key(record) for record in self._recorder.thd_recover(base, ids))
        result.missing = list(_without(owed, found))
        state.sequence = self._journal.sequence  # also what was skipped, because files knew it
        for message in list(state.messages.values()):
            if not message.filed and self._shelf.thd_has_files(message.number, message.channels):
                message.filed = True  # settling it had begun
        self._clear_finished(state)
        if self._shelf.doubt.thd_look():  # a sync of ours would not hear of what its own has heard
            result.owed = not self._thd_replay(doubtful=True)
        elif self._replay:
            result.owed = not self._thd_replay(doubtful=False)
        elif not self._thd_trust():
            self._shelf.doubt.thd_note()
            result.owed = not self._thd_replay(doubtful=True)
        result.known = frozenset(self._born) | frozenset(state.messages)
        # Not taken out of the books here: the journal may know more than the files did.
        result.warnings = self._journal.warnings + [
            f"message {one.id}: {one.why}; its files were moved to {self._layout.corrupt}, and it stays counted until "
            "qm clean -corrupt"
            for one in self._shelf.aside
        ]
        self._shelf.aside.clear()
        return result

    def _apply(self, state: State, op: Op, position: Position, result: Recovered) -> Iterable[LogRecord]:
        if isinstance(op, Checkpoint):
            return ()
        result.highest = max(result.highest, op.number)
        if isinstance(op, Requeued):
            self._requeued(op)
            return ()
        if isinstance(op, Enqueued):
            result.messages += 1
            content: Content
            if op.content is not None:
                content = MemoryContent(op.content)
            else:
                content = FileContent(self._files, self._layout.mess(op.number), op.size)
            message = state.admit(op, content, position)
            if op.content is None:
                message.filed = True
            self._born[op.number] = message
            return enqueued_lines(message)
        found = state.messages.get(op.number)
        if found is None:
            if op.number in self._born:
                return ()  # finished before; an op can follow only by a fault of ours, and there is nothing to do
            found = self._shelf.thd_load(op.number)
            if found is None:
                return ()  # it had finished and its files were gone already; its lines are durable (docs/queue.md s.5)
            state.messages[op.number] = found
        copy = found.copies.get(op.channel)
        if copy is None or copy.filed >= position.sequence:
            return ()  # its file knows
        if isinstance(op, Attempted) and op.channel in self._durable:
            for part in op.results:
                if part.outcome is Outcome.DELIVERED and part.recipient in copy.pending:
                    entry = self._delivered.setdefault((op.number, op.channel), (found, []))
                    entry[1].append((copy.pending[part.recipient].recipient, part))
        return state.apply(op, position)

    def _requeued(self, op: Requeued) -> None:
        """Deliveries that are not owed any more: they are other mail by now."""
        found = self._delivered.pop((op.number, op.channel), None)
        if found is not None:
            message, recipients = found
            left = [(recipient, part) for recipient, part in recipients if part.recipient not in op.recipients]
            if left:
                self._delivered[op.number, op.channel] = (message, left)

    def _clear_finished(self, state: State) -> None:
        """A message that is finished may have files all the same, when settling it had begun: they must go."""
        newest = max((segment.generation for segment in self._journal.closed), default=0)
        for number, message in self._born.items():
            if not message.copies and self._shelf.thd_has_files(number, message.channels):
                message.filed = True
                state.touch(message, newest)

    def _thd_trust(self) -> bool:
        """Whether deliveries of a process that died, which the machine has in its memory, are durable now."""
        try:
            for channel in {channel for _, channel in self._delivered}:
                self._durable[channel].thd_sync_former()
        except OSError as problem:
            self._log.warn("deliveries of the former process are looked at one by one: {why}", why=str(problem))
            return False
        return True

    def _thd_replay(self, *, doubtful: bool) -> bool:
        """Whether all is there."""
        whole = True
        for (number, channel), (message, recipients) in self._delivered.items():
            if not message.content.in_memory and self._gone(self._layout.mess(number)):
                continue  # its content went when the delivery was durable (docs/queue.md s.5)
            whole &= self._durable[channel].thd_replay(
                Job(
                    id=message.id,
                    channel=channel,
                    envelope=message.envelope,
                    content=message.content,
                    recipients=tuple([recipient for recipient, _ in recipients]),
                    numbers=tuple([part.recipient for _, part in recipients]),
                    attempt=1,
                    said=tuple([part.text for _, part in recipients]),
                    places=tuple([part.place for _, part in recipients]),
                ),
                doubtful,
            )
        return whole

    def _gone(self, path: str) -> bool:
        try:
            return not self._files.exists(path)
        except OSError:
            return False  # whoever reads it has the trouble


def _without(lines: Iterable[LogRecord], found: Counter[Key]) -> Iterator[LogRecord]:
    """Those lines of a journalled change that the log does not have."""
    for line in lines:
        key = _key(line)
        if found[key] > 0:
            found[key] -= 1
        else:
            yield line


def _key(record: LogRecord) -> Key:
    """What tells a line of a journalled change from every other one."""
    file = record.file
    if file is None:
        return (record.action.value, "", "", "", 0)
    return (record.action.value, file.id, file.channel, record.current_to, file.attempts)
