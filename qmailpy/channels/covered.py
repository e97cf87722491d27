"""
Deliveries that the queue's journal still covers: made durable in groups, and made once more after a power cut.

Where each went is in its mark (C{Disposition.place}), and there it is repeated: whatever has become of the address
since, and without a word from the directory. One that cannot be repeated now is owed: its journal segment is kept until
it is there, or the queue has made it mail that waits (L{qmailpy.queue.owing}), while other mail goes on. Marks of
versions that wrote no place are looked up in the directory, as then.

    place = Mailbox.path [ "//" the folder of a subaddress ]
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterable, Mapping

from attrs import evolve
from twisted.logger import Logger

from qmailpy.errors import Temporary
from qmailpy.local.maildir import Delivered, Delivery, Store
from qmailpy.local.usage import Usage
from qmailpy.values import Job, Recipient

KEPT = "250 2.1.5 Delivered to the mailbox"
"""What the journal has of a delivery without a place that may have to be repeated; never to be changed."""

_FOLDER = "//"  # no path of a mailbox has it

Lookup = Callable[[str], tuple[str, str] | None]
"""Mailbox and subaddress of an address, as of today; C{None} = it is no mailbox. Blocks. Raises Temporary."""


def delivery_of(job: Job, number: int, recipient: Recipient, mailbox: str) -> Delivery:
    """One delivery of a job. @param mailbox: C{Mailbox.path}."""
    envelope = job.envelope
    return Delivery(
        id=job.id,
        number=number,
        arrival=envelope.arrival,
        sender=envelope.sender,
        address=recipient.address,
        mailbox=mailbox,
        content=job.content,
        binary=envelope.body == "BINARYMIME",
    )


def place_of(wanted: Delivery, made: Delivery) -> str:
    """
    What the mark says of where a delivery went.

    @param wanted: into the mailbox.
    @param made: the same, or into a folder of it.
    """
    folder = made.mailbox[len(wanted.mailbox) + 1 :]
    return f"{wanted.mailbox}{_FOLDER}{folder}" if folder else wanted.mailbox


class Covered:
    """Those of one channel. What is called C{thd_} blocks and may come from any thread."""

    _log = Logger()

    def __init__(self, name: str, store: Store, usage: Usage | None, lookup: Lookup) -> None:
        """
        @param name: of the channel.
        @param lookup: for marks without a place.
        """
        self._name = name
        self._store = store
        self._usage = usage
        self._lookup = lookup
        self._guard = threading.Lock()  # over the three below
        self._delivered: dict[str, dict[int, list[Delivered]]] = {}  # by id and number: what may not be durable yet
        self._doubtful: dict[str, set[int]] = {}  # id: numbers whose sync failed
        self._owed: dict[str, Job] = {}  # by id: what could not be repeated yet

    def remember(self, name: str, number: int, paths: list[Delivered]) -> None:
        """A message was delivered."""
        with self._guard:
            self._delivered.setdefault(name, {})[number] = paths
            self._settle_doubt(name, number)

    def thd_sync(self, ids: Iterable[str]) -> None:
        """As L{qmailpy.interfaces.IDurableDelivery.thd_sync_deliveries} says."""
        ids = list(ids)
        if self._owed:
            self._thd_pay(ids)
        with self._guard:
            group = {name: dict(self._delivered[name]) for name in ids if name in self._delivered}
            doubtful = [
                one
                for name in self._doubtful.keys() & group.keys()
                for number in self._doubtful[name] & group[name].keys()
                for one in group[name][number]
            ]
        for one in doubtful:
            self._store.thd_rewrite(one)
        try:
            self._store.thd_sync(one for numbers in group.values() for paths in numbers.values() for one in paths)
        except OSError:
            self._doubt(group)
            raise
        with self._guard:
            for name, numbers in group.items():
                known = self._delivered[name]
                for number, paths in numbers.items():
                    if known[number] is paths:  # not delivered once more while we were syncing
                        del known[number]
                        self._settle_doubt(name, number)
                if not known:
                    del self._delivered[name]

    def sync_lost(self) -> None:
        """As L{qmailpy.interfaces.IDurableDelivery.sync_lost} says."""
        self._doubt(self._delivered)

    def _doubt(self, group: Mapping[str, Iterable[int]]) -> None:
        with self._guard:
            for name, numbers in group.items():
                self._doubtful.setdefault(name, set()).update(numbers)

    def doubts(self) -> bool:
        """As L{qmailpy.interfaces.IDurableDelivery.doubts} says."""
        return bool(self._doubtful)

    def thd_replay(self, job: Job, doubtful: bool = False) -> bool:
        """As L{qmailpy.interfaces.IDurableDelivery.thd_replay} says."""
        if doubtful:
            with self._guard:
                self._doubtful.setdefault(job.id, set()).update(job.numbers)
        owed = []
        for at, (number, recipient, said) in enumerate(zip(job.numbers, job.recipients, job.said, strict=True)):
            place = job.places[at] if job.places else ""
            if not place and said != KEPT:  # durable at once, by a .qmail file; or it went on to somebody else
                self._forget(job.id, number)
                continue
            try:
                self._thd_again(job, number, recipient, place)
            except Exception as problem:  # whatever it is, it keeps neither the others nor the queue from starting
                if not isinstance(problem, OSError):
                    self._log.failure("bug in channel {name}, message {id}", name=self._name, id=job.id)
                self._log.error(
                    "{channel}: message {id}, delivered before the power failed, cannot be written again for "
                    "{address} yet: {problem}",
                    channel=self._name,
                    id=job.id,
                    address=recipient.address,
                    problem=str(problem),
                )
                owed.append(at)
        with self._guard:
            if owed:
                self._owed[job.id] = evolve(
                    job,
                    numbers=tuple([job.numbers[at] for at in owed]),
                    recipients=tuple([job.recipients[at] for at in owed]),
                    said=tuple([job.said[at] for at in owed]),
                    places=tuple([job.places[at] for at in owed]) if job.places else (),
                )
            else:
                self._owed.pop(job.id, None)
        return not owed

    def owed(self, ids: Iterable[str]) -> list[Job]:
        """As L{qmailpy.interfaces.IDurableDelivery.owed} says."""
        if not self._owed:
            return []
        with self._guard:
            return [self._owed[name] for name in ids if name in self._owed]

    def let_go(self, job: Job) -> None:
        """As L{qmailpy.interfaces.IDurableDelivery.let_go} says."""
        for number in job.numbers:
            self._forget(job.id, number)
        with self._guard:
            self._owed.pop(job.id, None)

    def _thd_pay(self, ids: Iterable[str]) -> None:
        """Repeat what is owed. @raise OSError: some of it is still."""
        with self._guard:
            jobs = [self._owed[name] for name in ids if name in self._owed]
        left = [job for job in jobs if not self.thd_replay(job)]
        if left:
            addresses = sorted({one.address for job in left for one in job.recipients})
            raise OSError(errno.EAGAIN, f"deliveries of before the power failed wait: {', '.join(addresses[:5])}")

    def _thd_again(self, job: Job, number: int, recipient: Recipient, place: str) -> None:
        if place:
            mailbox, _, folder = place.partition(_FOLDER)
            delivery = self._store.thd_in_folder(delivery_of(job, number, recipient, mailbox), folder)
        else:
            try:
                found = self._lookup(recipient.address)
            except Temporary as error:
                raise OSError(errno.EAGAIN, str(error), recipient.address) from error
            if found is None:
                self._forget(job.id, number)
                return
            mailbox, tag = found
            delivery = self._store.thd_into_folder(evolve(delivery_of(job, number, recipient, mailbox), tag=tag))
        with self._guard:
            doubtful = number in self._doubtful.get(job.id, ())
        self.remember(job.id, number, self._store.thd_replay(delivery, doubtful=doubtful))
        if self._usage is not None:
            self._usage.thd_doubtful_at(mailbox)

    def _forget(self, name: str, number: int) -> None:
        with self._guard:
            known = self._delivered.get(name)
            if known is not None:
                known.pop(number, None)
                if not known:
                    del self._delivered[name]
            self._settle_doubt(name, number)

    def _settle_doubt(self, name: str, number: int) -> None:
        doubtful = self._doubtful.get(name)
        if doubtful is not None:
            doubtful.discard(number)
            if not doubtful:
                del self._doubtful[name]
