"""
What a shard knows about the messages it has in memory, and how each op changes it.

The same L{State.apply} serves the running daemon and recovery, so what a restart finds is what was there. It also says
which lines of the transaction log an op stands for; nobody else makes lines of that kind.

A message is in memory while its content is in the journal, while something is being done with it, or while its files do
not yet say what the journal says ("touched"). All others are a number in a waiting list and files.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import Factory, define, frozen

from qmailpy.queue.codec import (
    Attempted,
    Checkpoint,
    Enqueued,
    Held,
    Op,
    Outcome,
    Released,
    Requeued,
    Result,
    Warned,
)
from qmailpy.queue.deadline import begins
from qmailpy.queue.ids import is_id, to_id
from qmailpy.queue.journal import Position
from qmailpy.queue.notices import wants_delay
from qmailpy.records.record import Action, LogRecord, QueueFile
from qmailpy.values import Content, Disposition, Envelope, Recipient

_DEFERRED = Outcome.DEFERRED  # asked for with each recipient; an Enum's attribute is dear
_ENQUEUED = Action.ENQUEUED
_ACTIONS = {
    Outcome.DELIVERED: Action.DEQUEUED,
    Outcome.REMOVED: Action.DEQUEUED,
    Outcome.FAILED: Action.FAILED,
    Outcome.SILENCED: Action.SILENCED,
}


@define(eq=False)
class Pending:
    """A recipient that is not done."""

    recipient: Recipient
    attempts: int = 0  # that came to nothing
    next_attempt: float = 0.0
    error: str = ""  # of the last one


@define(eq=False)
class Done:
    """A recipient that is; kept for the history while the copy lasts."""

    recipient: Recipient
    outcome: Outcome
    time: float


@define(eq=False)
class Copy:
    """A message as one channel sees it."""

    channel: str
    pending: dict[int, Pending]  # by number in the envelope
    done: dict[int, Done] = Factory(dict)
    held: str | None = None  # the reason
    released: bool = False  # an operator's word since then
    warned: int = 0  # delay notices sent
    sequence: int = 0  # of the journal record that changed it last
    filed: int = 0  # the same, as the file says it; 0 = there is no file
    flying: set[int] = Factory(set)  # numbers handed to the channel or ready to be; scheduling only
    waiting: bool = False  # has an entry in the waiting list; scheduling only
    watched: bool = False  # has an entry for its next delay notice, or needs none; queue.watching only
    telling: int = 0  # what C{warned} becomes with the notice that is being made; above C{warned} while one is
    patience: float = 0.0  # the envelope's C{deliver_by} in mode N, for the copy's file; 0 = none

    def next_attempt(self) -> float:
        """The earliest time at which a recipient that is not on its way is due."""
        flying = self.flying
        return min(item.next_attempt for number, item in self.pending.items() if number not in flying)


@frozen
class Withheld:
    """A recipient that has failed and waits for the others of its message, to be told of together; in memory only."""

    channel: str
    result: Result
    recipient: Recipient
    disposition: Disposition


@define(eq=False)
class Message:
    """A message in memory."""

    number: int
    id: str
    envelope: Envelope  # of a message read from its files: without recipients, they are in the copies
    content: Content
    size: int
    crc: int
    copies: dict[str, Copy]  # by channel; empty ones have been taken out
    generation: int = 0  # of the segment that holds it; 0 = it is in files only
    filed: bool = False  # it has files, or may have
    channels: tuple[str, ...] = ()  # all copies it was born with
    withheld: list[Withheld] = Factory(list)  # among those in C{flying}; queue.verdicts

    @property
    def busy(self) -> bool:
        """Whether anything of it is on its way, or a notice about it in the making."""
        return any(copy.flying or copy.telling > copy.warned for copy in self.copies.values())


class State:
    """The messages in memory of one shard."""

    def __init__(self, code: str) -> None:
        """
        @param code: the shard's digits in its ids.
        """
        self._code = code
        self.messages: dict[int, Message] = {}
        self.living: dict[int, dict[int, Message]] = {}  # generation: not finished, content only there
        self.touched: dict[int, dict[int, Message]] = {}  # generation: has files that its ops made untrue
        self.delivered: dict[int, list[str]] = {}  # generation: ids whose deliveries it covers
        self.sequence = 0  # of the last record applied
        self.durable: frozenset[str] = frozenset()  # channels that want L{delivered}

    def admit(self, op: Enqueued, content: Content, position: Position) -> Message:
        """A message that is new, or new to us after a restart."""
        copies: dict[str, Copy] = {}
        sequence = position.sequence
        first = begins(op.envelope)
        for number, recipient in enumerate(op.envelope.recipients):
            copy = copies.get(recipient.channel)
            if copy is None:
                copy = copies[recipient.channel] = Copy(recipient.channel, {}, sequence=sequence)
            copy.pending[number] = Pending(recipient, 0, first)
        if op.envelope.by_mode.startswith("N"):
            for copy in copies.values():
                copy.patience = op.envelope.deliver_by
        queue_id = to_id(op.number, self._code)
        message = Message(op.number, queue_id, op.envelope, content, op.size, op.crc, copies)
        message.generation = position.generation
        message.channels = tuple(copies)
        self.messages[op.number] = message
        living = self.living.get(position.generation)
        if living is None:
            living = self.living[position.generation] = {}
        living[op.number] = message
        self.sequence = sequence
        return message

    def apply(self, op: Op, position: Position) -> list[LogRecord]:
        """
        A change of a message in memory.

        @param op: any but Enqueued, Requeued and Checkpoint, which change nothing; its message must be here, unless it
            left while the op was on its way (an operator holds what is just being delivered): nothing is changed then.
        @return: its lines.
        """
        self.sequence = position.sequence
        if isinstance(op, Checkpoint | Enqueued | Requeued):
            return []
        message = self.messages.get(op.number)
        copy = message.copies.get(op.channel) if message is not None else None
        if message is None or copy is None:
            return []
        lines: list[LogRecord] = []
        if isinstance(op, Attempted):
            lines = _attempted_lines(message, copy, op)
            self._attempted(message, copy, op, position)
        elif isinstance(op, Held):
            copy.held = op.reason
            copy.released = False
        elif isinstance(op, Released):
            copy.held = None
            copy.released = True
            for item in copy.pending.values():
                item.next_attempt = op.time
        elif isinstance(op, Warned):
            copy.warned = op.count
            lines = list(_warned_lines(message, copy, op))
        copy.sequence = position.sequence
        if message.filed:
            self.touch(message, position.generation)
        if not copy.pending:
            del message.copies[op.channel]
            if not message.copies:
                self._finish(message)
        return lines

    def finished(self, number: int) -> bool:
        """Whether a message is done with though its files are still there: they tell of the past."""
        return number not in self.messages and any(number in touched for touched in self.touched.values())

    def touch(self, message: Message, generation: int) -> None:
        """The files of a message are to be brought up to date before that generation is retired."""
        touched = self.touched.get(generation)
        if touched is None:
            touched = self.touched[generation] = {}
        touched[message.number] = message

    def _attempted(self, message: Message, copy: Copy, op: Attempted, position: Position) -> None:
        for result in op.results:
            outcome = result.outcome
            if outcome is Outcome.DEFERRED:
                item = copy.pending[result.recipient]
                item.attempts += 1
                item.next_attempt = result.next_attempt
                item.error = result.text
                continue
            item = copy.pending.pop(result.recipient)
            if copy.pending or len(message.copies) > 1:
                copy.done[result.recipient] = Done(item.recipient, outcome, op.time)
            if outcome is Outcome.DELIVERED and op.channel in self.durable:
                # When the message's own segment goes nobody can repeat it any more, unless there are files; when the
                # mark's goes nobody would know that there is something to repeat.
                self._cover(position.generation, message)
                if message.generation and message.generation != position.generation:
                    self._cover(message.generation, message)

    def _cover(self, generation: int, message: Message) -> None:
        delivered = self.delivered.get(generation)
        if delivered is None:
            delivered = self.delivered[generation] = []
        delivered.append(message.id)

    def _finish(self, message: Message) -> None:
        self.messages.pop(message.number, None)
        if message.generation:
            self.living[message.generation].pop(message.number, None)


# --- lines ---------------------------------------------------------------------------------------------------


def enqueued_lines(message: Message) -> list[LogRecord]:
    """The E lines of a message: channel by channel, in envelope order within each."""
    envelope = message.envelope
    system = envelope.source_system
    # What comes from a message here came by no protocol, whatever that one came by.
    modifiers = "" if " " not in system and is_id(system) else _MODIFIERS.get(envelope.protocol, "")
    lines = []
    for copy in message.copies.values():
        channel = copy.channel
        for remaining, item in enumerate(copy.pending.values(), 1):
            recipient = item.recipient
            lines.append(
                LogRecord(  # by place: see there
                    _ENQUEUED,
                    envelope.arrival,
                    envelope.source,
                    channel,
                    modifiers,
                    message.size,
                    envelope.sender,
                    recipient.original,
                    recipient.address,
                    recipient.notify,
                    QueueFile(channel, message.id, 0, remaining, remaining > 1),
                    envelope.envid,
                    envelope.message_id,
                    envelope.user,
                    system,
                    envelope.subject,
                )
            )
    return lines


_MODIFIERS = {
    "SMTP": "",
    "ESMTP": "E",
    "ESMTPS": "ES",
    "ESMTPA": "EA",
    "ESMTPSA": "ESA",
    "LMTP": "L",
    "LMTPS": "LS",
    "LMTPA": "LA",
    "LMTPSA": "LSA",
}


def _attempted_lines(message: Message, copy: Copy, op: Attempted) -> list[LogRecord]:
    """The lines of an attempt; before it is applied. Those that leave come first, grouped by their letter."""
    remaining = len(copy.pending)
    if len(op.results) == 1:  # most messages have one recipient
        result = op.results[0]
        if result.outcome is _DEFERRED:
            return [_dequeue_line(message, copy, op, result, Action.DEFERRED, remaining, False)]
        return [_dequeue_line(message, copy, op, result, _ACTIONS[result.outcome], remaining - 1, False)]
    leaving = [result for result in op.results if result.outcome is not _DEFERRED]
    deferred = [result for result in op.results if result.outcome is _DEFERRED]
    if len(leaving) > 1:
        leaving.sort(key=lambda result: _ACTIONS[result.outcome].value)  # stable: envelope order within a letter
    lines = []
    before: Action | None = None
    for result in leaving:
        action = _ACTIONS[result.outcome]
        remaining -= 1
        lines.append(_dequeue_line(message, copy, op, result, action, remaining, action is before))
        before = action
    action = Action.PARTLY if leaving else Action.DEFERRED
    for result in deferred:
        lines.append(_dequeue_line(message, copy, op, result, action, remaining, action is before))
        before = action
    return lines


def _dequeue_line(
    message: Message, copy: Copy, op: Attempted, result: Result, action: Action, remaining: int, continued: bool
) -> LogRecord:
    envelope = message.envelope
    item = copy.pending[result.recipient]
    recipient = item.recipient
    stays = result.outcome is _DEFERRED
    waited = op.time - envelope.arrival
    return LogRecord(  # by place: see there
        action,
        op.time,
        copy.channel,
        "",
        result.modifiers,
        result.transferred if stays else message.size,
        envelope.sender,
        recipient.original,
        recipient.address,
        recipient.notify,
        QueueFile(copy.channel, message.id, item.attempts, remaining, continued),
        envelope.envid,
        envelope.message_id,
        "",  # the user, the source system, the subject and the reason are not of this record
        "",
        "",
        "",
        result.text,
        None if stays else waited if waited > 0.0 else 0.0,
    )


def _warned_lines(message: Message, copy: Copy, op: Warned) -> Iterator[LogRecord]:
    envelope = message.envelope
    told = [
        item
        for number, item in copy.pending.items()
        if wants_delay(item.recipient.notify) and number not in op.left_out
    ]
    for ordinal, item in enumerate(told):
        recipient = item.recipient
        yield LogRecord(
            action=Action.WARNED,
            time=op.time,
            source=copy.channel,
            size_octets=message.size,
            sender=envelope.sender,
            original_to=recipient.original,
            current_to=recipient.address,
            notary=recipient.notify,
            file=QueueFile(
                channel=copy.channel,
                id=message.id,
                attempts=item.attempts,
                remaining=len(copy.pending),
                continued=ordinal > 0,
            ),
            envelope_id=envelope.envid,
            message_id=envelope.message_id,
        )
