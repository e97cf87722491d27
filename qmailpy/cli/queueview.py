"""
The queue as the queue manager sees it, whoever has it: L{QueueView}; and L{LiveQueueView}, which asks the workers.

The control methods
===================
A worker (role C{mta}) answers these about its own shards. Arguments and results are JSON objects; entries and the
like have the fields of the classes in L{qmailpy.queue.entries} (C{to_json}, C{from_json}); times are seconds since the
epoch.
TARGETS is a list of C{[ID, CHANNEL]}; an empty channel means all copies of the message.

C{queue.list {"filters": QueueFilter, "cursor": str or null, "limit": int}} -> C{{"entries": [QueueEntry...], "cursor":
str or null, "looked": int}}
    Copies that pass the filter, at most C{limit} of them, ordered by channel name and then by id. The first call has
    the cursor null; the answer's goes into the next call, null means that there is no more. A cursor names the place
    behind the last entry (not a number of entries), so what leaves or comes meanwhile neither repeats nor hides
    others. An answer may have fewer entries than C{limit}, even none, and a cursor: a walk over a large queue takes
    time slices. C{looked} tells how many copies were looked at for it. C{recipients} and C{hosts} are filled when
    C{filters.envelope} is true, with C{RECIPIENTS_SHOWN} addresses at most; subject and body with C{filters.texts}.

C{queue.read {"id": ID, "offset": int, "octets": int}} -> C{{"found": bool, "envelope": MessageEnvelope or null,
"content": BASE64, "next": int or null}}
    The envelope with offset 0 only, null afterwards; C{octets} of the content (CRLF line ends) from C{offset} on;
    C{next} is the offset to go on with, null at the end. 0 octets asks for the envelope alone. A message that is
    not here, or no longer: C{{"found": false, "envelope": null, "content": "", "next": null}}.

C{queue.history {"id": ID}} -> C{{"found": bool, "events": [HistoryEvent...]}}
    What the queue itself knows, oldest first, 1,000 at most (the latest).

C{queue.why {"id": ID}} -> C{{"standing": MessageStanding or null}}
    How the message stands and what is next; null when it is not here.

C{queue.aside {}} -> C{{"ids": [ID...]}}, C{queue.settle {"id": ID, "leavings": [Leaving...]}} -> ActionResult
    The messages in corrupt/; take one of them out of the books, its files are kept.

C{queue.ages {"filters": QueueFilter, "cursor": str or null, "edges": [seconds...], "senders": bool}} -> C{{"rows":
[ShapeRow...], "cursor": str or null, "looked": int}}
    A part of the table of ages: the caller adds up the rows of the same name until the cursor is null.

C{queue.hold {"targets": TARGETS, "reason": str}}, C{queue.release {"targets": TARGETS}},
C{queue.delete {"targets": TARGETS}}, C{queue.return {"targets": TARGETS, "reason": str}} -> C{{"results":
[ActionResult...]}}
    One result a copy, or one a target with the outcome C{unknown}, and id and channel as in the target, when the
    message or the copy is not here; answered when the change is durable. C{BATCH} targets at most. hold: no attempts
    until release; held already: done. release: of a held copy, and an attempt at once, ahead of others; of a waiting
    copy, an attempt at once. delete: the copy is gone, no notice. return: the remaining recipients fail with C{reason}
    and the sender is told. A copy that is being tried: C{busy}, nothing changed (hold may take effect after the
    attempt: done).

C{queue.summary {}} -> C{{"channels": [ChannelSummary...]}}
    Every configured channel and every one with mail.

C{queue.stop_channel {"channel": NAME}}, C{queue.start_channel {"channel": NAME}} -> C{{"known": bool, "changed": bool}}
    No more attempts of this channel, over restarts too, until it is started; mail for it is still accepted. start
    also starts work at once. C{changed} is false when it was so already.

C{queue.jobs {}} -> C{{"jobs": [QueueJob...]}}
    The attempts under way, 1,000 at most.

C{queue.flush {"destination": HOST}} -> C{{"waiting": int}}, C{queue.try {"targets": TARGETS}} -> C{{"results":
[ActionResult...]}}
    The mail for that destination (a next hop or domain, ".domain" for all below it), or these copies, are tried now,
    and what their hosts have done to us is forgotten. Held ones are not: left out, or C{refused}.

C{queue.run {"channel": NAME, "forgive": bool}} -> C{{"known": bool, "waiting": int}}
    All mail of the channel is tried now, whatever its schedule says; held mail is not. An empty name means all channels
    that are not stopped. C{forgive} (false when absent): what hosts have done to us is forgotten. C{waiting} is how
    many copies were waiting, about.
"""

from __future__ import annotations

import base64
import binascii
import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from attrs import frozen

from qmailpy.config.load import load
from qmailpy.control.client import TIMEOUT_S, Json, call, running
from qmailpy.errors import CommandError
from qmailpy.queue.entries import (
    UNKNOWN,
    ActionResult,
    ChannelSummary,
    HistoryEvent,
    Leaving,
    MessageEnvelope,
    MessageStanding,
    QueueEntry,
    QueueFilter,
    QueueJob,
    ShapeRow,
    Target,
    by_channel,
    from_json,
    to_json,
)

PAGE = 500
"""Entries asked for at once."""

FIRST_PAGE = 50
"""... at the beginning: something to look at while the next ones are found."""

BATCH = 200
"""Targets sent at once."""

CONTENT_OCTETS = 256 * 1024
"""Content asked for at once."""

T = TypeVar("T")

Looked = Callable[[int], None]
"""Is told how many more copies have been looked at."""


def ignored(copies: int) -> None:
    """For who does not want to know."""


@frozen
class QueuedMessage:
    """A message that is read: its envelope, and its content as it is fetched."""

    envelope: MessageEnvelope
    content: Iterator[bytes]


class QueueView(Protocol):
    """The queue of one node. Every method may raise C{CommandError}; C{OSError} where it works on files."""

    source: str
    """Where the data comes from, for a heading: "the running queue", "the queue directory tree"."""

    def entries(self, wanted: QueueFilter, looked: Looked = ignored) -> Iterator[QueueEntry]:
        """The copies that pass, ordered by channel and then by id; a million of them take no more memory than one."""

    def ages(
        self, wanted: QueueFilter, edges: Sequence[float], senders: bool, looked: Looked = ignored
    ) -> Iterator[ShapeRow]:
        """
        How old the mail is that passes: rows by destination (or domain of the sender), whose name may come again.

        @param edges: ages in seconds, ascending.
        """

    def standing(self, queue_id: str) -> MessageStanding | None:
        """Where a message stands and what is next; C{None} when it is not in the queue."""

    def read(self, queue_id: str) -> QueuedMessage | None:
        """One message; C{None} when it is not in the queue."""

    def history(self, queue_id: str) -> Sequence[HistoryEvent] | None:
        """What happened to a message, oldest first; C{None} when it is not in the queue."""

    def hold(self, targets: Sequence[Target], reason: str) -> Sequence[ActionResult]:
        """No attempts until they are released. One result a copy, or one for a target that is unknown."""

    def release(self, targets: Sequence[Target]) -> Sequence[ActionResult]:
        """Try them at once, held or waiting."""

    def delete(self, targets: Sequence[Target]) -> Sequence[ActionResult]:
        """Remove them without a word to anybody."""

    def return_(self, targets: Sequence[Target], reason: str) -> Sequence[ActionResult]:
        """Give them back to their senders."""

    def summary(self, looked: Looked = ignored) -> Sequence[ChannelSummary]:
        """The channels by name. @param looked: is told of the copies that have to be looked at for it, if any."""

    def stop(self, channel: str) -> bool:
        """Stop a channel; false when it was stopped. @raise CommandError: there is no such channel."""

    def start(self, channel: str) -> bool:
        """Start a channel; false when it was running. @raise CommandError: there is no such channel."""

    def flush(self, destination: str) -> int:
        """
        Try all mail for a destination now and forget what its hosts have done to us; how many copies those are.

        @raise CommandError: the daemon is not running.
        """

    def try_now(self, targets: Sequence[Target]) -> Sequence[ActionResult]:
        """The same for these copies."""

    def aside(self) -> Sequence[str]:
        """The messages in corrupt/, by id."""

    def settle(self, queue_id: str, leavings: Sequence[Leaving]) -> ActionResult:
        """Take such a message out of the books. @param leavings: its recipients that have not left, by the log."""

    def run(self, channel: str, forgive: bool = False) -> int:
        """
        Try all mail of a channel ("" = of every one) now; how many copies were waiting, about.

        @param forgive: also forget what hosts have done to us.
        @raise CommandError: there is no such channel, it is stopped, or the daemon is not running.
        """

    def jobs(self) -> Sequence[QueueJob]:
        """The attempts under way, by channel."""


Ask = Callable[[str, str, dict[str, Json]], Json]
"""(process, method, arguments) -> result; raises C{CommandError}."""


class LiveQueueView:
    """The queue of a running daemon: its workers are asked one after the other, and their answers joined."""

    source = "the running queue"

    def __init__(self, ask: Ask, workers: Sequence[str]) -> None:
        """@param workers: the processes that have a part of the queue; at least one."""
        self._ask = ask
        self._workers = tuple(workers)

    def entries(self, wanted: QueueFilter, looked: Looked = ignored) -> Iterator[QueueEntry]:
        return heapq.merge(
            *(self._entries_of(worker, wanted, looked) for worker in self._workers),
            key=lambda entry: (entry.channel, entry.id),
        )

    def _entries_of(self, worker: str, wanted: QueueFilter, looked: Looked) -> Iterator[QueueEntry]:
        arguments: dict[str, Json] = {"filters": to_json(wanted), "limit": FIRST_PAGE}
        for answer in self._pages(worker, "queue.list", arguments, looked):
            arguments["limit"] = PAGE
            yield from _values(QueueEntry, answer.get("entries"))

    def ages(
        self, wanted: QueueFilter, edges: Sequence[float], senders: bool, looked: Looked = ignored
    ) -> Iterator[ShapeRow]:
        arguments: dict[str, Json] = {"filters": to_json(wanted), "edges": [*edges], "senders": senders}
        for worker in self._workers:
            for answer in self._pages(worker, "queue.ages", arguments, looked):
                yield from _values(ShapeRow, answer.get("rows"))

    def _pages(self, worker: str, method: str, arguments: dict[str, Json], looked: Looked) -> Iterator[dict[str, Json]]:
        """The answers of a method that goes on from a cursor."""
        cursor: Json = None
        while True:
            answer = self._call(worker, method, {**arguments, "cursor": cursor})
            count = answer.get("looked")
            looked(count if isinstance(count, int) else 0)
            yield answer
            before, cursor = cursor, answer.get("cursor")
            if cursor is None:
                return
            if not isinstance(cursor, str) or cursor == before:
                raise _nonsense(method, "a cursor that leads nowhere")

    def standing(self, queue_id: str) -> MessageStanding | None:
        for worker in self._workers:
            found = self._call(worker, "queue.why", {"id": queue_id}).get("standing")
            if found is not None:
                return _value(MessageStanding, found)
        return None

    def read(self, queue_id: str) -> QueuedMessage | None:
        for worker in self._workers:
            arguments: dict[str, Json] = {"id": queue_id, "offset": 0, "octets": 0}
            answer = self._call(worker, "queue.read", arguments)
            if answer.get("found"):
                envelope = _value(MessageEnvelope, answer.get("envelope"))
                return QueuedMessage(envelope, self._content_of(worker, queue_id))
        return None

    def _content_of(self, worker: str, queue_id: str) -> Iterator[bytes]:
        offset: Json = 0
        while isinstance(offset, int):
            arguments: dict[str, Json] = {"id": queue_id, "offset": offset, "octets": CONTENT_OCTETS}
            answer = self._call(worker, "queue.read", arguments)
            if not answer.get("found"):
                raise CommandError(f"message {queue_id} left the queue while it was read")
            try:
                yield base64.b64decode(str(answer.get("content", "")), validate=True)
            except binascii.Error as error:
                raise _nonsense("queue.read", str(error)) from None
            before, offset = offset, answer.get("next")
            if isinstance(offset, int) and offset <= before:
                raise _nonsense("queue.read", "an offset that goes back")

    def history(self, queue_id: str) -> Sequence[HistoryEvent] | None:
        for worker in self._workers:
            answer = self._call(worker, "queue.history", {"id": queue_id})
            if answer.get("found"):
                return _values(HistoryEvent, answer.get("events"))
        return None

    def hold(self, targets: Sequence[Target], reason: str) -> Sequence[ActionResult]:
        return self._act("queue.hold", targets, {"reason": reason})

    def release(self, targets: Sequence[Target]) -> Sequence[ActionResult]:
        return self._act("queue.release", targets, {})

    def delete(self, targets: Sequence[Target]) -> Sequence[ActionResult]:
        return self._act("queue.delete", targets, {})

    def return_(self, targets: Sequence[Target], reason: str) -> Sequence[ActionResult]:
        return self._act("queue.return", targets, {"reason": reason})

    def aside(self) -> Sequence[str]:
        found: set[str] = set()
        for worker in self._workers:
            ids = self._call(worker, "queue.aside", {}).get("ids")
            found.update(map(str, ids) if isinstance(ids, list) else ())
        return sorted(found)

    def settle(self, queue_id: str, leavings: Sequence[Leaving]) -> ActionResult:
        arguments: dict[str, Json] = {"id": queue_id, "leavings": [to_json(one) for one in leavings]}
        result = ActionResult(id=queue_id, channel="", outcome=UNKNOWN)
        for worker in self._workers:
            result = _value(ActionResult, self._call(worker, "queue.settle", arguments))
            if result.outcome != UNKNOWN:
                break
        return result

    def try_now(self, targets: Sequence[Target]) -> Sequence[ActionResult]:
        return self._act("queue.try", targets, {})

    def flush(self, destination: str) -> int:
        return sum(
            _number("queue.flush", self._call(worker, "queue.flush", {"destination": destination}).get("waiting"))
            for worker in self._workers
        )

    def _act(self, method: str, targets: Sequence[Target], more: dict[str, Json]) -> Sequence[ActionResult]:
        """Each worker does what is its own; a target is unknown when all of them say so."""
        found: list[ActionResult] = []
        left = list(targets)
        for worker in self._workers:
            unknown: list[Target] = []
            for at in range(0, len(left), BATCH):
                batch = left[at : at + BATCH]
                pairs: list[Json] = [[target.id, target.channel] for target in batch]
                answer = self._call(worker, method, {"targets": pairs, **more})
                results = _values(ActionResult, answer.get("results"))
                found += (result for result in results if result.outcome != UNKNOWN)
                missed = {(result.id, result.channel) for result in results if result.outcome == UNKNOWN}
                # Our own targets go on to the next worker, so that no answer can widen what is asked of it.
                unknown += (target for target in batch if (target.id, target.channel) in missed)
            left = unknown
        found += (
            ActionResult(id=target.id, channel=target.channel, outcome=UNKNOWN, text="not in the queue")
            for target in left
        )
        return found

    def summary(self, looked: Looked = ignored) -> Sequence[ChannelSummary]:
        return by_channel(
            one
            for worker in self._workers
            for one in _values(ChannelSummary, self._call(worker, "queue.summary", {}).get("channels"))
        )

    def stop(self, channel: str) -> bool:
        return self._switch("queue.stop_channel", channel)

    def start(self, channel: str) -> bool:
        return self._switch("queue.start_channel", channel)

    def run(self, channel: str, forgive: bool = False) -> int:
        arguments: dict[str, Json] = {"channel": channel, "forgive": forgive}
        answers = [self._call(worker, "queue.run", arguments) for worker in self._workers]
        if not any(answer.get("known") for answer in answers):
            raise CommandError(f"there is no channel {channel}")
        counts = [answer.get("waiting") for answer in answers]
        return sum(count for count in counts if isinstance(count, int))

    def jobs(self) -> Sequence[QueueJob]:
        found: list[QueueJob] = []
        for worker in self._workers:
            found += _values(QueueJob, self._call(worker, "queue.jobs", {}).get("jobs"))
        return sorted(found, key=lambda job: (job.channel, job.host, job.id))

    def _switch(self, method: str, channel: str) -> bool:
        answers = [self._call(worker, method, {"channel": channel}) for worker in self._workers]
        if not any(answer.get("known") for answer in answers):
            raise CommandError(f"there is no channel {channel}")
        return any(answer.get("changed") for answer in answers)

    def _call(self, worker: str, method: str, arguments: dict[str, Json]) -> dict[str, Json]:
        answer = self._ask(worker, method, arguments)
        if not isinstance(answer, dict):
            raise _nonsense(method, "no object")
        return answer


def _number(method: str, value: Json) -> int:
    if not isinstance(value, int):
        raise _nonsense(method, "no number")
    return value


def _nonsense(method: str, what: str) -> CommandError:
    return CommandError(f"{method}: an answer that makes no sense ({what})")


def _value(kind: type[T], value: Json) -> T:
    try:
        found: T = from_json(kind, value)
    except ValueError as error:
        raise _nonsense(kind.__name__, str(error)) from None
    return found


def _values(kind: type[T], value: Json) -> list[T]:
    if not isinstance(value, list):
        raise _nonsense(kind.__name__, "no list")
    return [_value(kind, one) for one in value]


def live_view(home: str) -> LiveQueueView | None:
    """The view of the daemon that runs on C{home}; C{None} when no worker answers."""
    workers = [endpoint.name for endpoint in running(home) if endpoint.role == "mta"]
    if not workers:
        return None

    def ask(worker: str, method: str, arguments: dict[str, Json]) -> Json:
        return call(home, worker, method, timeout_s=TIMEOUT_S, **arguments)

    return LiveQueueView(ask, workers)


def open_view(home: str) -> QueueView:
    """
    The queue of C{home}: its daemon's, or its files where none runs.

    @raise CommandError: it cannot be seen.
    @raise ConfigError: the home's configuration cannot be read.
    """
    view = live_view(home)
    if view is not None:
        return view
    from qmailpy.cli.offline import OfflineQueueView  # the queue itself and all it needs: not for a running daemon

    return OfflineQueueView(load(home))
