"""
The queue as the queue manager sees it, whoever has it: L{QueueView}. A running daemon is asked by
L{qmailpy.cli.livequeue}, the files of a stopped one are read by L{qmailpy.cli.offline}.

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

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from attrs import frozen

from qmailpy.queue.entries import (
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
)

PAGE = 500
"""Entries asked for at once."""

FIRST_PAGE = 50
"""... at the beginning: something to look at while the next ones are found."""

BATCH = 200
"""Targets sent at once."""

CONTENT_OCTETS = 256 * 1024
"""Content asked for at once."""

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
