"""
From what a channel says of an attempt to the changes of the queue: pure decisions, and the notices that go with them.

A sender is told once: recipients that have failed wait for the others of their message that are on their way, a minute
at most, and then fail together, in one record with the one notice about all of them. Until then the journal knows
nothing of it; after a crash they are tried again, which costs a refusal and loses nothing.

Success waits for nobody, since to forget it would deliver twice: recipients of one attempt are told of together.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from errno import EINVAL
from random import Random
from typing import Protocol

from attrs import Factory, define, evolve, frozen
from twisted.logger import Logger

from qmailpy.config.schema import QueueConfig
from qmailpy.events.log import NoEvents
from qmailpy.interfaces import IEvents
from qmailpy.queue import deadline
from qmailpy.queue.codec import Attempted, Enqueued, Held, Op, Outcome, Result, Warned, encode_recipients
from qmailpy.queue.notices import (
    NOT_TRIED,
    SUSPENDED,
    last_word,
    shared_mails,
    success,
    wants_delay,
    wants_failure,
    warnings_passed,
)
from qmailpy.queue.retry import Schedule, expired_reply
from qmailpy.queue.shard import Shard
from qmailpy.queue.state import Copy, Message, Withheld
from qmailpy.records.record import JOURNAL
from qmailpy.values import Content, Disposition, Envelope, Job, MemoryContent, NewMail, Recipient, Reply, Verdict

TEXT = 1000  # characters of a diagnostic kept
UNTOLD_S = 300.0  # when a notice cannot be made its recipients are tried again after this
UNREADABLE = Reply(451, "4.3.0", "the message cannot be handed on now; it is kept")
BUG = Disposition(verdict=Verdict.DEFERRED, reply=Reply(451, "4.3.0", "internal error; the message is kept"))
LOST = Reply(554, "5.3.0", "The content of the message has been lost")
Failures = Sequence[tuple[Recipient, Disposition]]
Successes = Sequence[tuple[Recipient, Disposition, str]]  # the last is the Action of RFC 3464 s.2.3.3


class INotices(Protocol):
    """Builds the messages that tell senders (channels.process)."""

    def build_failure(
        self, envelope: Envelope, queue_id: str, failures: Failures, content: Content, now: float
    ) -> tuple[Envelope, bytes] | None:
        """The notice of these failures, or C{None} when nobody is to be told. May read the content: for a thread."""

    def build_delay(
        self,
        envelope: Envelope,
        queue_id: str,
        delayed: Failures,
        content: Content,
        now: float,
        until: float | None,
        tried_now: int,
    ) -> tuple[Envelope, bytes] | None:
        """
        The same for recipients that still wait.

        @param until: when they are given up; C{None}: that is not known.
        @param tried_now: how many of them, from the first on, were tried just now.
        """

    def build_success(
        self, envelope: Envelope, queue_id: str, successes: Successes, content: Content, now: float
    ) -> tuple[Envelope, bytes] | None:
        """The same for recipients that were delivered, relayed or expanded."""


@frozen
class Settlement:
    """What is to be committed, and whose attempt is over with it."""

    ops: list[Op]
    over: dict[str, list[int]]  # channel: numbers of recipients
    courtesies: tuple[Op, ...] = ()  # ops that may be left out, were there no room for all

    def bare(self) -> Settlement:
        """The same without courtesies."""
        left_out = {id(op) for op in self.courtesies}
        return Settlement([op for op in self.ops if id(op) not in left_out], self.over)


@define(eq=False)
class _Made:
    """What an attempt has put into the queue so far."""

    room: int  # octets of content its transaction still takes: it has to fit into a segment
    mails: dict[int, Op | OSError] = Factory(dict)  # by identity of a NewMail: several recipients may share one
    courtesies: list[Op] = Factory(list)  # those that nothing depends on


class Verdicts:
    """The judgement of one channel in one shard."""

    _log = Logger()

    def __init__(
        self,
        *,
        name: str,
        shard: Shard,
        notices: INotices,
        seconds: Callable[[], float],
        chance: Random,
        schedule: Schedule,
        queue: QueueConfig,
        events: IEvents | None = None,
    ) -> None:
        """@ivar schedule: may be replaced, as C{queue} may."""
        self.schedule = schedule
        self.queue = queue
        self._name = name
        self._shard = shard
        self._notices = notices
        self._seconds = seconds
        self._chance = chance
        self._events: IEvents = events or NoEvents()

    async def settle(
        self, message: Message, copy: Copy, job: Job, dispositions: Sequence[Disposition], *, at_once: bool = False
    ) -> Settlement:
        """
        What an attempt comes to.

        @param at_once: failures wait for nobody: an operator gives the mail back.
        """
        now = self._seconds()
        onward: list[Op] = []  # what is enqueued goes before what it follows from
        made = _Made(self.queue.segment_octets // 4)
        lost: list[bool] = []
        held: list[Op] = []
        tried: list[tuple[Result, Disposition]] = []
        failed: list[Withheld] = []
        arrived: list[tuple[Recipient, Disposition, str]] = []
        shared = shared_mails(dispositions) if any(said.mails for said in dispositions) else frozenset[int]()
        for number, recipient, said in zip(job.numbers, job.recipients, dispositions, strict=True):
            if said.verdict is Verdict.HELD:
                held = [Held(message.number, self._name, said.reply.text)]
                continue
            action = ""
            if said.verdict is Verdict.DEFERRED and not message.content.in_memory:
                said = await self._unless_lost(message, said, lost)  # noqa: PLW2901
            if recipient.notify and message.envelope.sender:
                action, said = success(recipient, said, shared)  # noqa: PLW2901
            if said.onward or said.mails:
                try:
                    onward += await self._onward(message, said, now, made)
                except OSError as problem:
                    self._log.error("message {id} cannot go on: {problem}", id=message.id, problem=str(problem))
                    said = evolve(said, verdict=Verdict.DEFERRED, reply=UNREADABLE)  # noqa: PLW2901
                    said = await self._unless_lost(message, said, lost)  # noqa: PLW2901
                    action = ""
            if action:
                arrived.append((recipient, said, action))
            outcome, next_attempt, final = self._outcome(message, copy, number, said, now)
            result = Result(
                number, outcome, next_attempt, final.transferred, final.modifiers, _text(final), final.place
            )
            if outcome is Outcome.FAILED:
                failed.append(Withheld(self._name, result, recipient, final))
            else:
                tried.append((result, final))
        over = {self._name: list(job.numbers)}
        if not at_once and (failed or message.withheld) and others_out(message, job.numbers):
            message.withheld += failed
            waiting = {each.result.recipient for each in failed}
            over[self._name] = [number for number in job.numbers if number not in waiting]
            failed = []
        elif message.withheld:
            failed = message.withheld + failed
            message.withheld = []
        notice, results = await self._tell(message, failed, now)
        for channel, some in results.items():
            numbers = over.setdefault(channel, [])
            numbers += [one.recipient for one in some if one.recipient not in numbers]
        mine = results.setdefault(self._name, [])
        mine[:0] = [result for result, _ in tried]
        ops = onward + notice + await self._arrived(message, arrived, now) + _attempts(message, results, now)
        ended = {*job.numbers, *(one.recipient for some in results.values() for one in some)}
        ended.update(each.result.recipient for each in message.withheld)
        ops += await self._warning(message, copy, tried, ended, now)
        return Settlement(ops + held, over, tuple(made.courtesies))

    async def _unless_lost(self, message: Message, said: Disposition, lost: list[bool]) -> Disposition:
        """
        What is said of a deferral: that it has failed, when the content of the message is gone for good.

        @param lost: whether it is, once somebody has looked.
        """
        if message.content.in_memory:
            return said
        if not lost:
            lost.append(await self._shard.in_thread(self._shard.shelf.thd_lost, message.number))
            if lost[0]:
                self._events.happened("message.lost", id=message.id, channel=self._name)
        return evolve(said, verdict=Verdict.FAILED, reply=LOST, diagnostic="") if lost[0] else said

    async def release(self, message: Message) -> Settlement:
        """The recipients of a message that failed have waited long enough for the others."""
        failed, message.withheld = message.withheld, []
        now = self._seconds()
        notice, results = await self._tell(message, failed, now)
        over = {channel: [one.recipient for one in some] for channel, some in results.items()}
        return Settlement(notice + _attempts(message, results, now), over)

    def _outcome(
        self, message: Message, copy: Copy, number: int, said: Disposition, now: float
    ) -> tuple[Outcome, float, Disposition]:
        """Outcome, time of the next attempt, and what is said of it in the end."""
        if said.verdict is Verdict.DEFERRED:
            envelope = message.envelope
            begun = min(deadline.begins(envelope), now)  # an operator may have let it go before its sender would have
            age = self.schedule.next_age(
                now - begun,
                attempts=copy.pending[number].attempts + 1,
                draw=self._chance.random(),
                retry_after=said.retry_after,
            )
            if age is not None and not deadline.overdue(envelope, now):
                return Outcome.DEFERRED, deadline.limited(envelope, begun + age, now), said
            reply = expired_reply(said.reply, said.remote_mta)  # our words, and not the peer's any more
            said = evolve(said, verdict=Verdict.FAILED, reply=reply, remote_mta="", diagnostic="")
        elif said.verdict is not Verdict.FAILED:
            return Outcome.DELIVERED, 0.0, said
        recipient = copy.pending[number].recipient
        return Outcome.FAILED if wants_failure(recipient.notify) else Outcome.SILENCED, 0.0, said

    async def _onward(self, message: Message, disposition: Disposition, now: float, made: _Made) -> list[Op]:
        """
        What goes into the queue with an outcome: the message again for others, and mail of the channel's making.

        @param made: what has been made of the same attempt, or why not: a mail that several dispositions name is queued
            once, and when it, or another of one of them, cannot be made none of them has happened.
        @raise OSError: some of it cannot be made.
        """
        ops: list[Op] = []
        if disposition.onward:
            envelope = evolve(message.envelope, recipients=disposition.onward)
            ops.append(await self._made(message, NewMail(envelope=envelope, content=message.content), now, made))
        fresh: dict[int, Op | OSError] = {}
        for mail in disposition.mails:
            before = made.mails.get(id(mail))
            if isinstance(before, OSError):
                raise before
            if before is not None:
                continue
            if mail.courtesy:
                ops += await self._courtesy(message, mail, now, made)
                continue
            try:
                fresh[id(mail)] = op = await self._made(message, mail, now, made)
            except OSError as problem:
                for one in disposition.mails:  # others may share some that could be made
                    made.mails.setdefault(id(one), problem)
                raise
            ops.append(op)
        made.mails.update(fresh)
        return ops

    async def _courtesy(self, message: Message, mail: NewMail, now: float, made: _Made) -> list[Op]:
        """An answer or a warning beside a delivery, which must not be done again for want of it."""
        try:
            op = await self._made(message, mail, now, made)
        except Exception:
            self._log.failure("what message {id} would have been answered is left out", id=message.id)
            return []
        made.mails[id(mail)] = op
        made.courtesies.append(op)
        return [op]

    async def _made(self, message: Message, mail: NewMail, now: float, made: _Made) -> Op:
        envelope = evolve(
            mail.envelope,
            source=self._name,
            arrival=now,
            source_system=message.id + JOURNAL if mail.journal else message.id,
            user="",
            hold_until=0.0,  # that is over, if only because an operator says so
        )
        try:  # the journal would refuse the whole record, and what others have got they would get again
            encode_recipients(envelope.recipients)
        except ValueError as problem:
            raise OSError(EINVAL, f"an address cannot be written down: {problem}") from problem
        op = await self._shard.new_message(envelope, mail.content, made.room)
        made.room -= 0 if op.content is None else len(op.content)
        return op

    async def _tell(
        self, message: Message, failed: Sequence[Withheld], now: float
    ) -> tuple[list[Op], dict[str, list[Result]]]:
        """The notice of failures, and their results; when it cannot be made the failures have not happened yet."""
        if not failed:
            return [], {}
        told = [(each.recipient, each.disposition) for each in failed]
        results = [(each.channel, each.result) for each in failed]
        ops: list[Op] = []
        try:
            notice = await self._failure_notice(message, told, now)
            if notice is not None:
                ops.append(await self._from(message, notice))
        except Exception:
            self._log.failure("no notice can be made for message {id}: it is kept", id=message.id)
            results = [
                (channel, evolve(result, outcome=Outcome.DEFERRED, next_attempt=now + UNTOLD_S))
                for channel, result in results
            ]
        by_channel: dict[str, list[Result]] = {}
        for channel, result in results:
            by_channel.setdefault(channel, []).append(result)
        return ops, by_channel

    async def _failure_notice(self, message: Message, told: Failures, now: float) -> tuple[Envelope, bytes] | None:
        build = self._notices.build_failure
        try:
            notice: tuple[Envelope, bytes] | None = await self._shard.in_thread(
                build, message.envelope, message.id, told, message.content, now
            )
        except FileNotFoundError:
            # Its file has gone, by whatever hand, and does not come back by waiting: its sender has to know.
            self._log.error("the content of message {id} has vanished: it is returned without it", id=message.id)
            content = MemoryContent(f"Message-ID: {message.envelope.message_id}\r\n\r\n".encode("utf-8", "replace"))
            notice = await self._shard.in_thread(build, message.envelope, message.id, told, content, now)
        return notice

    async def _arrived(self, message: Message, arrived: Successes, now: float) -> list[Op]:
        """The notice of success, which must not undo it: when the message cannot be read, without its header."""
        if not arrived:
            return []
        for content in (message.content, MemoryContent(b"")):
            try:
                notice = await self._shard.in_thread(
                    self._notices.build_success, message.envelope, message.id, arrived, content, now
                )
                return [await self._from(message, notice)] if notice is not None else []
            except Exception:
                self._log.failure("trouble with the notice of success of message {id}", id=message.id)
        return []

    async def _warning(
        self,
        message: Message,
        copy: Copy,
        tried: Sequence[tuple[Result, Disposition]],
        ended: Container[int],
        now: float,
    ) -> list[Op]:
        """
        The delay notice that may be due after a deferral: of all recipients of the copy that wait, since they are tried
        at times of their own and the notice is one.

        While others of the copy are on their way nobody knows whether these wait: then it is made by age, when they are
        back and recorded, or have been out for long (queue.watching).

        @param ended: numbers that were in this attempt, or have failed.
        """
        envelope = message.envelope
        delayed = [
            (copy.pending[result.recipient].recipient, disposition)
            for result, disposition in tried
            if result.outcome is Outcome.DEFERRED
        ]
        if not delayed or not envelope.sender:
            return []
        if any(number not in ended for number in copy.flying):
            return []
        passed = self._passed(message, copy, now)
        if not passed:
            return []
        tried_now = len(delayed)
        delayed += [
            (one.recipient, last_word(one.error)) for number, one in copy.pending.items() if number not in ended
        ]
        return await self._delay_notice(message, copy, passed, delayed, now, tried_now)

    async def overdue(self, message: Message, copy: Copy, *, stopped: bool) -> list[Op]:
        """
        The delay notice that is due by age alone, of all recipients of the copy that wait; nothing when there is none,
        or it cannot be made.

        @param stopped: nothing of the channel is tried.
        """
        now = self._seconds()
        passed = self._passed(message, copy, now)
        if not passed:
            return []
        failed = {each.result.recipient for each in message.withheld}
        untried = SUSPENDED if stopped else NOT_TRIED
        delayed = [
            (one.recipient, last_word(one.error) if one.error else untried)
            for number, one in copy.pending.items()
            if number not in failed
        ]
        return await self._delay_notice(message, copy, passed, delayed, now)

    def _passed(self, message: Message, copy: Copy, now: float) -> int:
        """What C{Copy.warned} becomes with a notice that is due now; 0: none is, or it is being made."""
        envelope = message.envelope
        ages = deadline.warned_at(envelope, self.queue.warn_s)
        passed = warnings_passed(ages, now - deadline.begins(envelope), copy.warned)
        return passed if passed > max(copy.warned, copy.telling) else 0

    async def _delay_notice(
        self, message: Message, copy: Copy, passed: int, delayed: Failures, now: float, tried_now: int = 0
    ) -> list[Op]:
        """@param tried_now: how many of C{delayed}, from the first on, were tried just now."""
        envelope = message.envelope
        copy.telling = passed
        left_out = [each.result.recipient for each in message.withheld if each.result.recipient in copy.pending]
        wanting = [item for item in delayed if wants_delay(item[0].notify)]
        just_now = sum(wants_delay(recipient.notify) for recipient, _ in delayed[:tried_now])
        ops: list[Op] = [Warned(message.number, self._name, now, passed, tuple(left_out))]
        if wanting:
            ends = deadline.ends(envelope, self.schedule.lifetime_s)
            until = ends if ends > now else None  # a channel that is stopped gives nothing back
            try:
                notice = await self._shard.in_thread(
                    self._notices.build_delay, envelope, message.id, wanting, message.content, now, until, just_now
                )
                if notice is not None:
                    ops.insert(0, await self._from(message, notice))
            except Exception:
                self._log.failure("no delay notice can be made for message {id}", id=message.id)
                if copy.telling == passed:  # if not, one of a later age is being made
                    copy.telling = 0
                return []  # later, perhaps
        return ops

    def put_off(self, message: Message, out: Mapping[str, Sequence[int]]) -> Settlement:
        """
        An attempt of which nothing can be said has come to nothing.

        @param out: channel: numbers of its recipients.
        """
        now = self._seconds()
        text = _text(BUG)
        results = {
            channel: [Result(number, Outcome.DEFERRED, now + UNTOLD_S, text=text) for number in numbers]
            for channel, numbers in out.items()
        }
        over = {channel: list(numbers) for channel, numbers in out.items()}
        for channel in out:
            if channel in message.copies:
                message.copies[channel].telling = 0  # the notice has gone with the rest
        return Settlement(_attempts(message, results, now), over)

    async def _from(self, message: Message, notice: tuple[Envelope, bytes]) -> Enqueued:
        """A notice enters the queue; like all mail of our own making its E line names the message it comes from."""
        envelope, octets = notice
        # RFC 8689 s.5: what was to be sent over TLS alone is so in a notice too.
        envelope = evolve(envelope, source_system=message.id, require_tls=message.envelope.require_tls)
        return await self._shard.new_message(envelope, MemoryContent(octets))


def others_out(message: Message, numbers: Sequence[int] = ()) -> bool:
    """Whether recipients are on their way, or about to be for the first time, besides these and those that wait."""
    ours = {*numbers, *(each.result.recipient for each in message.withheld)}
    for copy in message.copies.values():
        for number, item in copy.pending.items():
            if number not in ours and (number in copy.flying or (not item.attempts and copy.held is None)):
                return True
    return False


def _attempts(message: Message, results: Mapping[str, Sequence[Result]], now: float) -> list[Op]:
    """One op a channel: what leaves and what stays of one attempt belong together in the records."""
    return [Attempted(message.number, channel, now, tuple(some)) for channel, some in results.items() if some]


def _text(disposition: Disposition) -> str:
    text = disposition.diagnostic or str(disposition.reply)
    return text[:TEXT].replace("\0", "")
