"""How a message stands and what is next for it, as values: what the commands C{why} makes plain words of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from qmailpy.config.schema import Config
from qmailpy.interfaces import IForgiving
from qmailpy.queue.deadline import ends
from qmailpy.queue.entries import RECIPIENTS_SHOWN, MessageStanding, Standing
from qmailpy.queue.retry import schedule_of
from qmailpy.queue.runner import Runner
from qmailpy.queue.state import Copy, Message, Pending
from qmailpy.wire.partial import WAITS

GROUPS = 200
"""Groups of recipients that are told of; a message has few."""

BY_OPERATOR = "it was stopped by an operator"
BY_CONFIGURATION = "the configuration says so (stopped = true)"
GONE = "it is not in the configuration"


def standing(message: Message, runners: Mapping[str, Runner], config: Config) -> MessageStanding:
    """
    What is next for a message.

    @param runners: by channel; none where no daemon runs: then nothing is said of what only it knows.
    """
    envelope = message.envelope
    found: list[Standing] = []
    for copy in message.copies.values():
        found += _copy(message, copy, runners.get(copy.channel), config)
    return MessageStanding(
        id=message.id,
        arrival=envelope.arrival,
        sender=envelope.sender,
        source=envelope.source,
        message_id=envelope.message_id,
        hold_until=envelope.hold_until,
        done=sum(len(copy.done) for copy in message.copies.values()),
        standings=tuple(found[:GROUPS]),
    )


def _copy(message: Message, copy: Copy, runner: Runner | None, config: Config) -> Iterator[Standing]:
    channel = config.channels.get(copy.channel)
    lifetime = schedule_of(channel, config.queue).lifetime_s if channel is not None else config.queue.lifetime_s
    gathered = 0.0
    if channel is not None and channel.kind == "defragment":  # what is no piece does not stay there
        gathered = message.envelope.arrival + channel.gather_s
    groups: dict[tuple[str, str, int, float, str], list[Pending]] = {}
    ready = _ready(message, copy, runner)
    for number, item in copy.pending.items():
        state = "held" if copy.held is not None else "waiting"
        if number in copy.flying:
            state = "ready" if number in ready else "trying"
        key = (state, item.recipient.host, item.attempts, item.next_attempt, item.error)
        groups.setdefault(key, []).append(item)
    for (state, host, attempts, next_attempt, error), items in groups.items():
        load = runner.fair.load(runner.place(host)) if runner is not None else None
        yield Standing(
            channel=copy.channel,
            state=state,
            recipients=tuple([item.recipient.address for item in items[:RECIPIENTS_SHOWN]]),
            count=len(items),
            host=host,
            attempts=attempts,
            next_attempt=next_attempt,
            last_error=error,
            reason=copy.held or "",
            stopped=stopped(copy.channel, runner, config),
            trouble=_trouble(runner, host or items[0].recipient.address.rpartition("@")[2]),
            ahead=load.waiting if load is not None else 0,
            limit=min(load.limit, channel.concurrency) if load is not None and channel is not None else 0,
            ends=ends(message.envelope, lifetime),
            gathered=gathered if WAITS in error else 0.0,
            kind=channel.kind if channel is not None else "",
        )


def _ready(message: Message, copy: Copy, runner: Runner | None) -> set[int]:
    """The numbers of those recipients that wait for their turn alone."""
    if runner is None or not copy.flying:
        return set()
    return {number for unit in runner.fair.waiting_of(message.number) for number in unit.payload}


def stopped(name: str, runner: Runner | None, config: Config, by_operator: bool = False) -> str:
    """
    Why nothing of a channel is tried; "" when it is.

    @param by_operator: where there is no runner: whether the operator has stopped it.
    """
    channel = config.channels.get(name)
    if channel is None:
        return GONE
    if not (runner.stopped if runner is not None else by_operator or channel.stopped):
        return ""
    return BY_CONFIGURATION if channel.stopped else BY_OPERATOR


def _trouble(runner: Runner | None, host: str) -> str:
    way: Any = runner.channel if runner is not None else None
    return way.trouble(host) if IForgiving.providedBy(way) else ""
