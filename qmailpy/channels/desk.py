"""
Where the C{local} channel's thread works: deliveries into Maildirs, many jobs at a time.

Each delivery is looked at by itself: its loop, its folder, its quota; one that cannot be made, or meets a bug, is told
of by itself. Those that need nothing further are written together (L{Store.thd_deliver_all}).
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve, frozen
from twisted.logger import Logger

from qmailpy.channels.covered import Covered, place_of
from qmailpy.channels.quota_notice import QuotaNotice
from qmailpy.local.loops import delivered_to
from qmailpy.local.maildir import Delivered, Delivery, Store, trouble
from qmailpy.local.quota import named_size
from qmailpy.local.usage import Quota, Usage
from qmailpy.values import Disposition, NewMail, Reply, Verdict

_DELIVERED = Reply(250, "2.1.5", "Delivered to the mailbox")
_LOOP = Disposition(
    verdict=Verdict.FAILED,
    reply=Reply(554, "5.4.6", "Mail loop: the message has been delivered to this mailbox before"),
)
_BUG = Disposition(verdict=Verdict.DEFERRED, reply=Reply(451, "4.3.0", "internal error; the message is kept"))


@frozen(kw_only=True)
class Bounded(Delivery):
    """Into a mailbox that has a quota, or whose domain has one."""

    quota: Quota
    owner: str  # the mailbox's main address
    warning: bool  # it is a warning of ours, which must not be kept out by what it warns of


@frozen
class _Ready:
    """A delivery that can be made."""

    said: list[Disposition]  # of its job
    at: int  # its place there
    wanted: Delivery
    made: Delivery  # into its folder


class Desk:
    """The thread's half of the channel."""

    _log = Logger()

    def __init__(
        self, name: str, store: Store, covered: Covered, usage: Usage | None, notice: QuotaNotice, *, started: float
    ) -> None:
        """
        @param name: the channel's.
        @param started: when this life began: what is older may have been delivered before.
        """
        self._name = name
        self._store = store
        self._covered = covered
        self._usage = usage
        self._notice = notice
        self._started = started

    def thd_work(self, jobs: Sequence[Sequence[Delivery]]) -> list[list[Disposition]]:
        """Carry out jobs: a disposition for each delivery of each."""
        said: list[list[Disposition]] = []
        ready: list[_Ready] = []
        measured: set[str] = set()  # directories whose quotas do not know of what is ready
        for job in jobs:
            mine = [_BUG] * len(job)
            said.append(mine)
            passed: frozenset[str] | None = None
            for at, wanted in enumerate(job):
                made = wanted
                try:
                    if isinstance(wanted, Bounded):
                        tallies = {wanted.quota.maildir, wanted.quota.domain_directory}
                        if not measured.isdisjoint(tallies):
                            self._thd_deliver(ready)
                            ready, measured = [], set()
                        measured |= tallies
                    if wanted.tag:
                        made = self._store.thd_into_folder(wanted)
                    if passed is None:
                        passed = delivered_to(made.content.header())
                    refusal = _LOOP if made.address.lower() in passed else self._thd_refusal(made)
                    if refusal is not None:
                        mine[at] = refusal
                    elif made.arrival < self._started:
                        # A life before this one may have delivered it and not come to mark it.
                        paths = self._store.thd_replay(made, doubtful=made.at_once)
                        mine[at] = self._thd_delivered(wanted, made, paths)
                    else:
                        ready.append(_Ready(mine, at, wanted, made))
                except Exception as problem:  # what the others have got they would get again, were it the whole job's
                    mine[at] = self._failed(made, problem)
        self._thd_deliver(ready)
        return said

    def _thd_deliver(self, ready: Sequence[_Ready]) -> None:
        """Make the deliveries that are ready."""
        for one, outcome in zip(ready, self._store.thd_deliver_all([one.made for one in ready]), strict=True):
            try:
                if isinstance(outcome, Exception):
                    raise outcome
                one.said[one.at] = self._thd_delivered(one.wanted, one.made, outcome)
            except Exception as problem:
                one.said[one.at] = self._failed(one.made, problem)

    def _thd_delivered(self, wanted: Delivery, made: Delivery, paths: list[Delivered]) -> Disposition:
        """What is told of a delivery. @raise OSError: it was to be durable, and is not."""
        place = ""
        if made.at_once:
            self._store.thd_sync([evolve(one, fresh=True) for one in paths])
        else:
            self._covered.remember(made.id, made.number, paths)
            place = place_of(wanted, made)
        mails = self._thd_counted(made, paths) if isinstance(made, Bounded) else ()
        return Disposition(verdict=Verdict.DELIVERED, reply=_DELIVERED, mails=mails, place=place)

    def _failed(self, delivery: Delivery, problem: Exception) -> Disposition:
        if not isinstance(problem, OSError):
            self._log.failure("bug in channel {name}, message {id}", name=self._name, id=delivery.id)
            return _BUG
        self._log.warn(
            "{channel}: cannot deliver {id} to {mailbox!r}: {error}",
            channel=self._name,
            id=delivery.id,
            mailbox=delivery.mailbox,
            error=str(problem),
        )
        return Disposition(verdict=Verdict.DEFERRED, reply=trouble(problem))

    def _thd_refusal(self, delivery: Delivery) -> Disposition | None:
        """Whether there is no room for it; where that cannot be found out, there is."""
        if self._usage is None or not isinstance(delivery, Bounded) or delivery.warning:
            return None
        try:
            reply = self._usage.thd_refusal(delivery.quota, delivery.content.size)
            if reply is None or (delivery.arrival < self._started and self._store.thd_has(delivery)):
                return None  # what is there already needs no room
        except OSError as error:
            self._log.warn(
                "{channel}: quota of {mailbox!r}: {error}",
                channel=self._name,
                mailbox=delivery.mailbox,
                error=str(error),
            )
            return None
        return Disposition(verdict=Verdict.DEFERRED if reply.temporary else Verdict.FAILED, reply=reply)

    def _thd_counted(self, delivery: Bounded, paths: Sequence[Delivered]) -> tuple[NewMail, ...]:
        """It is in the mailbox, and counts; perhaps its user is to be told how much there is by now."""
        usage = self._usage
        if usage is None:
            return ()
        try:
            if delivery.arrival < self._started:
                usage.thd_doubtful(delivery.quota)
                return ()
            filling = usage.thd_delivered(delivery.quota, named_size(paths[0].path))
            return () if filling is None else (self._notice.thd_make(delivery.owner, filling),)
        except Exception:  # the message is there all the same
            self._log.failure("{channel}: quota of {mailbox!r}", channel=self._name, mailbox=delivery.mailbox)
            usage.thd_doubtful(delivery.quota)
            return ()
