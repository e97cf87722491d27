"""
The queue in an operator's hands: what L{QueueReading} shows, and the changes. Every change is journalled through
C{Shard.commit} and its lines go to the log like those of any other attempt, so the books need not know of operators.

A copy of which recipients are being tried is I{busy}: it is not deleted or returned. It may be held; that counts from
the end of the attempt on. What is only ready, waiting for its turn, is taken back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

from attrs import evolve
from twisted.internet.defer import Deferred, gatherResults, succeed

from qmailpy.config.schema import Config
from qmailpy.errors import QmailpyError
from qmailpy.queue.aside import SETTLED, leaving_lines, thd_aside, thd_put_away
from qmailpy.queue.codec import Held, Op, Released
from qmailpy.queue.deadline import kept
from qmailpy.queue.entries import BUSY, DONE, REFUSED, UNKNOWN, ActionResult, Leaving, QueueFilter, Target
from qmailpy.queue.ids import shard_of, to_number
from qmailpy.queue.reading import LIMIT, QueueReading
from qmailpy.queue.service import QueueShard
from qmailpy.queue.settling import Told
from qmailpy.queue.shard import Shard
from qmailpy.queue.state import Copy, Message
from qmailpy.queue.summing import Part
from qmailpy.queue.switches import Switches
from qmailpy.records.removed import DELETED
from qmailpy.values import Reply, one_line

BATCH = 200
"""Targets of one call at most."""

REASON = 400
"""Characters of a reason that are kept."""


_BUSY = "it is being delivered at this moment"
_ABSENT = "not in the queue"

Act = Callable[[Part, Message, Copy], Awaitable[ActionResult]]


class QueueOperations(QueueReading):
    """The shards of one process, looked at and changed."""

    def __init__(
        self,
        parts: Callable[[], Sequence[Part]],
        config: Config,
        seconds: Callable[[], float],
        switches: Switches,
        in_thread: Callable[..., Deferred[bool]],
    ) -> None:
        """
        @param switches: where stopped channels are remembered.
        """
        super().__init__(parts, config, seconds)
        self._switches = switches
        self._in_thread = in_thread

    # --- copies ----------------------------------------------------------------------------------------------

    async def hold(self, targets: Sequence[Target], reason: str) -> list[ActionResult]:
        """
        No attempts of these copies until they are released; of one that is held already the reason changes.

        As the other three: one result a copy, or one for a target that is unknown; once it is durable.

        @raise QmailpyError: more than L{BATCH} targets.
        """
        why = one_line(reason, REASON)

        async def act(part: Part, message: Message, copy: Copy) -> ActionResult:
            await _committed(part.shard, [Held(message.number, copy.channel, why)])
            if copy.held is None:
                return _result(message, copy, UNKNOWN, "it left the queue meanwhile")
            part.runner(copy.channel).by_hand.take_back(message, copy)
            return _result(message, copy, DONE)

        return await self._each(targets, act)

    async def release(self, targets: Sequence[Target]) -> list[ActionResult]:
        """Try these copies at once, ahead of others, whether they were held or waiting."""

        async def act(part: Part, message: Message, copy: Copy) -> ActionResult:
            runner = part.runner(copy.channel)
            if copy.held is None and runner.by_hand.trying(message, copy):
                return _result(message, copy, BUSY, _BUSY)
            await _committed(part.shard, [Released(message.number, copy.channel, self._seconds())])
            if not copy.pending:
                return _result(message, copy, UNKNOWN, "it left the queue meanwhile")
            runner.expedite(message, copy)
            return _result(message, copy, DONE)

        return await self._each(targets, act)

    async def delete(self, targets: Sequence[Target]) -> list[ActionResult]:
        """Take these copies out of the queue; nobody is told."""

        async def act(part: Part, message: Message, copy: Copy) -> ActionResult:
            runner = part.runner(copy.channel)
            return await _taken(message, copy, lambda told: runner.by_hand.remove(message, copy, DELETED, told))

        return await self._each(targets, act)

    async def return_(self, targets: Sequence[Target], reason: str) -> list[ActionResult]:
        """Have what is left of these copies fail with the reason; their senders are told as of any other failure."""
        reply = Reply(550, "5.0.0", one_line(reason, REASON) or "returned by the operator")

        async def act(part: Part, message: Message, copy: Copy) -> ActionResult:
            runner = part.runner(copy.channel)
            return await _taken(message, copy, lambda told: runner.by_hand.give_back(message, copy, reply, told))

        return await self._each(targets, act)

    async def _each(self, targets: Sequence[Target], act: Act) -> list[ActionResult]:
        if len(targets) > BATCH:
            raise QmailpyError(f"{len(targets)} messages at once; {BATCH} is the most")
        here = {part.name: part for part in self._parts()}
        answers: list[Deferred[list[ActionResult]]] = []
        touched: list[tuple[Part, Message]] = []
        for part in here.values():
            numbers = [to_number(target.id) for target in targets if _shard(target.id) == part.name]
            with suppress(OSError):  # each is loaded by itself then, and tells what is the matter with it
                await part.shard.load(list(dict.fromkeys(numbers)))
        # All begin in this turn of the reactor. What was loaded for one shard may have gone while another was loaded:
        # then it is loaded anew.
        for target in targets:
            name = _shard(target.id)
            found = here.get(name)
            if found is None:
                answers.append(succeed([_unknown(target)]))
            else:
                answers.append(Deferred.fromCoroutine(self._one(found, target, act, touched)))
        results = await gatherResults(answers, consumeErrors=True)
        for part, message in touched:
            part.shard.evict(message)
        return [result for each in results for result in each]

    async def _one(
        self, part: Part, target: Target, act: Act, touched: list[tuple[Part, Message]]
    ) -> list[ActionResult]:
        number = to_number(target.id)
        message = part.shard.state.messages.get(number)
        if message is None:
            try:
                found = await part.shard.load([number])
            except OSError as problem:
                why = problem.strerror or str(problem)
                return [ActionResult(id=target.id, channel=target.channel, outcome=REFUSED, text=why)]
            message = found[0] if found else None
        copies = (
            [copy for copy in message.copies.values() if target.channel in ("", copy.channel)]
            if message is not None
            else []
        )
        if message is None or not copies:
            return [_unknown(target)]
        touched.append((part, message))
        # All of them begin before one ends: the first may let go of the message.
        work = [Deferred.fromCoroutine(_guarded(act, part, message, copy)) for copy in copies]
        return await gatherResults(work, consumeErrors=True)

    # --- channels --------------------------------------------------------------------------------------------

    async def stop(self, channel: str) -> tuple[bool, bool]:
        """
        No more attempts of a channel, over restarts too.

        @return: whether there is such a channel; whether it was running.
        @raise OSError: that cannot be written down; nothing was changed.
        """
        if not await self._known(channel):
            return False, False
        changed = await self._in_thread(self._switches.thd_switch, channel, True)
        for part in self._parts():
            runner = part.runners.get(channel)
            if runner is not None:
                changed = changed or not runner.stopped
                runner.stop()
        return True, changed

    async def start(self, channel: str) -> tuple[bool, bool]:
        """The reverse; what is due is tried at once. One that the configuration stops is started for this life."""
        if not await self._known(channel):
            return False, False
        changed = await self._in_thread(self._switches.thd_switch, channel, False)
        for part in self._parts():
            runner = part.runners.get(channel)
            if runner is not None:
                before = runner.stopped
                runner.start()
                changed = changed or before is not runner.stopped
        return True, changed

    async def run(self, channel: str, forgive: bool = False) -> tuple[bool, int]:
        """
        Try all mail of a channel now, whatever its schedule says.

        @param channel: "" = every channel.
        @param forgive: also what hosts have done to us is forgotten.
        @return: whether there is such a channel; how many copies were waiting.
        @raise QmailpyError: it is stopped.
        """
        if channel and not await self._known(channel):
            return False, 0
        waiting = 0
        for part in self._parts():
            for runner in list(part.runners.values()):
                if channel in ("", runner.name):
                    if channel and runner.stopped:
                        raise QmailpyError(f"channel {channel} is stopped")
                    if forgive:
                        runner.forgive("")
                    if not runner.stopped:
                        waiting += len(runner.due)
                        runner.run_now()
        return True, waiting

    async def flush(self, destination: str) -> int:
        """
        Try all mail for a destination now, whatever its schedule says; what its hosts have done to us is forgotten.

        @param destination: as in L{QueueFilter}.
        @return: how many copies that were, held ones left out; those of a stopped channel wait on.
        @raise OSError: the queue cannot be read.
        """
        count = 0
        cursor: str | None = None
        wanted = QueueFilter(destination=destination, held=False, envelope=True)
        while True:
            found, cursor = await self.page(wanted, cursor, LIMIT)
            by_shard: dict[tuple[str, str], list[int]] = {}
            forgiven: set[tuple[str, str]] = set()
            for entry in found:
                by_shard.setdefault((_shard(entry.id), entry.channel), []).append(to_number(entry.id))
                forgiven.update((entry.channel, host) for host in (destination, *entry.hosts))
            for part in self._parts():
                for name, host in forgiven:
                    if name in part.runners:
                        part.runners[name].forgive(host)
                for (shard, channel), numbers in by_shard.items():
                    runner = part.runners.get(channel)
                    if shard == part.name and runner is not None and not runner.stopped:
                        runner.hurry(numbers)
                        count += len(numbers)
            if cursor is None:
                return count

    async def try_now(self, targets: Sequence[Target]) -> list[ActionResult]:
        """
        Try these copies now, whatever their schedule says, and forget what their hosts have done to us.

        As the four above; a copy that is held, or whose channel is stopped, is refused.
        """

        async def act(part: Part, message: Message, copy: Copy) -> ActionResult:
            runner = part.runner(copy.channel)
            if copy.held is not None:
                return _result(message, copy, REFUSED, "it is held; release it")
            if runner.stopped:
                return _result(message, copy, REFUSED, f"channel {copy.channel} is stopped")
            if runner.by_hand.trying(message, copy):
                return _result(message, copy, BUSY, _BUSY)
            if not copy.flying and kept(message.envelope, copy.next_attempt(), self._seconds()):
                return _result(message, copy, REFUSED, "its sender wants it to wait; release it")
            for host in {item.recipient.host for item in copy.pending.values()} - {""}:
                runner.forgive(host)
            runner.hurry([message.number])
            return _result(message, copy, DONE)

        return await self._each(targets, act)

    # --- what was set aside ----------------------------------------------------------------------------------

    async def aside(self) -> list[str]:
        """The messages in corrupt/, by id. @raise OSError: it cannot be read."""
        found: list[str] = []
        for part in self._parts():
            found += await part.shard.in_thread(thd_aside, part.shard.files, part.shard.layout)
        return sorted(found)

    async def settle(self, queue_id: str, leavings: Sequence[Leaving]) -> ActionResult:
        """
        Take a message that was set aside out of the books; its files are kept, in corrupt/settled/.

        @param leavings: its recipients that have not left yet, by the log.
        @raise OSError: the files cannot be moved; the lines may be in the log, which a second call would see.
        """
        part = self.part_of(queue_id)
        result = ActionResult(id=queue_id, channel="", outcome=UNKNOWN, text="it is not in corrupt/")
        if part is None or part.shard.recorder is None:
            return result
        shard = part.shard
        if queue_id not in await shard.in_thread(thd_aside, shard.files, shard.layout):
            return result
        if await shard.load([to_number(queue_id)]):
            return evolve(result, outcome=REFUSED, text="it is in the queue as well")
        lines = leaving_lines(queue_id, leavings, self._seconds())
        shard.recorder.write(lines)
        shard.recorder.flush()
        await shard.in_thread(thd_put_away, shard.files, shard.layout, queue_id)
        count = f"{len(lines)} recipient{'s' * (len(lines) != 1)}"
        return evolve(result, outcome=DONE, text=f"{count} taken out of the books; the files are in corrupt/{SETTLED}")

    async def _known(self, channel: str) -> bool:
        if channel in self._config.channels or any(channel in part.runners for part in self._parts()):
            return True
        return channel in await self._channels(self._parts())


def parts_of(shards: Mapping[str, QueueShard]) -> list[Part]:
    """The shards of a queue service, or of a command that has opened some."""
    return [
        Part(name=one.name, shard=one.shard, recorder=one.shard.recorder, runners=one.runners, runner=one.runner)
        for one in shards.values()
    ]


def _shard(queue_id: str) -> str:
    try:
        return shard_of(queue_id)
    except ValueError:
        return ""


def _result(message: Message, copy: Copy, outcome: str, text: str = "") -> ActionResult:
    return ActionResult(id=message.id, channel=copy.channel, outcome=outcome, text=text)


def _unknown(target: Target) -> ActionResult:
    return ActionResult(id=target.id, channel=target.channel, outcome=UNKNOWN, text=_ABSENT)


async def _guarded(act: Act, part: Part, message: Message, copy: Copy) -> ActionResult:
    try:
        return await act(part, message, copy)
    except OSError as problem:
        return _result(message, copy, REFUSED, problem.strerror or str(problem))


def _committed(shard: Shard, ops: Sequence[Op]) -> Deferred[None]:
    """Fires when the changes are durable, applied and in the log; fails with OSError."""
    result: Deferred[None] = Deferred()
    shard.commit(ops, lambda problem: result.callback(None) if problem is None else result.errback(problem))
    return result


async def _taken(message: Message, copy: Copy, take: Callable[[Told], bool]) -> ActionResult:
    """Have a runner take a copy out."""
    result: Deferred[OSError | None] = Deferred()
    if not take(result.callback):
        return _result(message, copy, BUSY, _BUSY)
    problem = await result
    if problem is not None:
        raise problem
    return _result(message, copy, DONE)
