"""
Quotas: how full mailboxes and domains are, whether they take more, and when a user is warned.

Asked at RCPT and at the end of a message (L{IRoom}), with figures that may be some seconds old, and by the local
channel before it writes, with those of the file. Two workers that deliver at the same moment do not see each other: a
mailbox may end up beyond its quota by what was on its way, and no more.

A mailbox that is full is 4.2.2 at first; since when, is in a file C{qmailpy-quota-full} in it, for after
C{over_quota_s} it is 5.2.2. A message that is larger than the whole quota is 5.2.3 at once. That a user was warned is a
file C{qmailpy-quota-warned}, until there is clearly more room again. Whoever has no quota, and whose domain has none,
costs nothing here.

A domain's sum is counted in the background, when there is none or it is not believed; until it is known, and when it
cannot be found out, nothing is refused for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from qmailpy.config.schema import Config
from qmailpy.disk.files import Files
from qmailpy.interfaces import IRoom
from qmailpy.local.maildir import mailbox_path
from qmailpy.local.quota import Amount, Limit, Tally, domain_tally
from qmailpy.values import Domain, Mailbox, Reply, Room

FULL_FILE = "qmailpy-quota-full"
WARNED_FILE = "qmailpy-quota-warned"
FRESH_S = 5.0
"""How old a figure may be that a recipient is accepted by."""

_KNOWN_MAX = 100_000
_CLEARLY = 0.9  # of the share at which a user is warned: below it the next crossing is another one
_FREE = Room()

InThread = Callable[..., Awaitable[Any]]


@frozen(kw_only=True)
class Quota:
    """The limits of one mailbox, and where it is."""

    maildir: str  # absolute path
    limit: Limit
    domain_directory: str
    domain_limit: Limit


@frozen
class Filling:
    """How full a mailbox has become, when it is time to tell its user."""

    amount: Amount
    limit: Limit


@implementer(IRoom)
class Usage:
    """The quotas of this node's mailboxes, as one worker knows them."""

    _log = Logger()

    def __init__(
        self,
        files: Files,
        config: Config,
        in_thread: InThread,
        seconds: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        """
        @param in_thread: for work that may take long.
        @param seconds: the time of day, as files have it.
        @param clock: seconds that only ever grow.
        """
        self._files = files
        self._root = config.path("mail")
        self._in_thread = in_thread
        self._seconds = seconds
        self._clock = clock
        self._known: dict[str, tuple[Amount, float]] = {}  # by directory; written by threads, too
        self._counting: set[str] = set()
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """Use these settings from now on."""
        self._patience_s = config.local.over_quota_s
        self._warn = config.local.quota_warn

    def quota(self, mailbox: Mailbox, domain: Domain | None) -> Quota | None:
        """The limits of a mailbox; C{None} = there are none."""
        limit = Limit(mailbox.quota_octets, mailbox.quota_messages)
        domain_limit = Limit(domain.quota_octets) if domain is not None else Limit()
        if not limit and not domain_limit:
            return None
        try:
            maildir = mailbox_path(self._root, mailbox.path)
        except OSError:
            return None  # it cannot be written either
        top = mailbox.path.partition("/")[0]
        return Quota(maildir=maildir, limit=limit, domain_directory=f"{self._root}/{top}", domain_limit=domain_limit)

    # --- at the door -------------------------------------------------------------------------------------------

    def room_now(self, mailbox: Mailbox, domain: Domain, size_octets: int) -> Room | None:
        quota = self.quota(mailbox, domain)
        if quota is None:
            return _FREE
        for directory, limit in (
            (quota.maildir, quota.limit),
            (quota.domain_directory, quota.domain_limit),
        ):
            if limit:
                known = self._known.get(directory)
                if known is None or not 0 <= self._clock() - known[1] < FRESH_S:
                    return None
                if limit.broken_by(known[0].plus(size_octets, 1)):
                    return None  # not before it is certain
        return _FREE

    async def room(self, mailbox: Mailbox, domain: Domain, size_octets: int) -> Room:
        quota = self.quota(mailbox, domain)
        if quota is None:
            return _FREE
        try:
            refusal: Reply | None = await self._in_thread(self.thd_refusal, quota, size_octets)
        except OSError as error:
            self._log.warn("quota of {mailbox}: {error}", mailbox=mailbox.address, error=str(error))
            return _FREE
        if quota.domain_limit:
            self._count_domain(quota)
        return Room(refusal) if refusal is not None else _FREE

    # --- at delivery -------------------------------------------------------------------------------------------

    def thd_refusal(self, quota: Quota, size_octets: int) -> Reply | None:
        """
        Why a mailbox does not take a message of that size; C{None} = it does. Blocks.

        @raise OSError: the figures cannot be found out.
        """
        limit = quota.limit
        if 0 < limit.octets < size_octets:
            return Reply(552, "5.2.3", f"Message is larger than the {limit.octets} octets of the whole mailbox")
        if limit:
            tally = Tally(self._files, quota.maildir, limit, self._seconds)
            amount = tally.thd_amount()
            if limit.broken_by(amount.plus(size_octets, 1)):
                amount = tally.thd_certain()
            self._keep(quota.maildir, amount)
            if limit.broken_by(amount.plus(size_octets, 1)):
                return self._thd_full(quota.maildir, "The mailbox is full")
        if quota.domain_limit:
            known = domain_tally(self._files, quota.domain_directory, quota.domain_limit, self._seconds).thd_read()
            if known is not None:
                self._keep(quota.domain_directory, known)
                if quota.domain_limit.broken_by(known.plus(size_octets, 1)):
                    return self._thd_full(quota.domain_directory, "The mailboxes of this domain are full")
            else:
                self._keep(quota.domain_directory, Amount(0, 0))  # not known: nothing is refused for it
        return None

    def thd_delivered(self, quota: Quota, octets: int) -> Filling | None:
        """
        A message of so many octets was written into a mailbox. Blocks.

        @return: when its user is to be told how full it has become: once for each time it passes the mark.
        """
        for directory, limit, tally in self._tallies(quota):
            if limit:
                tally.thd_add(octets, 1)
                known = self._known.get(directory)
                if known is not None:
                    self._known[directory] = (known[0].plus(octets, 1), known[1])
                self._thd_unmark(f"{directory}/{FULL_FILE}")
        if not quota.limit or not self._warn:
            return None
        amount = Tally(self._files, quota.maildir, quota.limit, self._seconds).thd_amount()
        share = quota.limit.share(amount)
        mark = f"{quota.maildir}/{WARNED_FILE}"
        if share >= self._warn:
            return Filling(amount, quota.limit) if self._thd_mark(mark) else None
        if share < self._warn * _CLEARLY:
            self._thd_unmark(mark)
        return None

    def thd_doubtful(self, quota: Quota) -> None:
        """A message was written that may have been there before: the mailbox is to be counted anew. Blocks."""
        for directory, limit, tally in self._tallies(quota):
            if limit:
                self._thd_unmark(f"{directory}/{FULL_FILE}")
                if directory == quota.maildir:
                    tally.thd_forget()

    def thd_doubtful_at(self, mailbox: str) -> None:
        """The same, whatever its limits are today. @param mailbox: C{Mailbox.path}. Blocks."""
        maildir, domain = f"{self._root}/{mailbox}", f"{self._root}/{mailbox.partition('/')[0]}"
        for directory in (maildir, domain):
            self._thd_unmark(f"{directory}/{FULL_FILE}")
        Tally(self._files, maildir, Limit(), self._seconds).thd_forget()

    def _tallies(self, quota: Quota) -> list[tuple[str, Limit, Tally]]:
        return [
            (quota.maildir, quota.limit, Tally(self._files, quota.maildir, quota.limit, self._seconds)),
            (
                quota.domain_directory,
                quota.domain_limit,
                domain_tally(self._files, quota.domain_directory, quota.domain_limit, self._seconds),
            ),
        ]

    def _keep(self, directory: str, amount: Amount) -> None:
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        self._known[directory] = (amount, self._clock())

    # --- marks -------------------------------------------------------------------------------------------------

    def _thd_full(self, directory: str, text: str) -> Reply:
        """It is full: since when?"""
        path = f"{directory}/{FULL_FILE}"
        now = self._seconds()
        if not self._files.exists(path):
            self._thd_mark(path, b"%d\n" % now)
            since = now
        else:
            try:
                since = float(self._files.read(path).strip()[:20])
            except (OSError, ValueError):
                since = now
        if now - since < self._patience_s:
            return Reply(452, "4.2.2", text)
        return Reply(552, "5.2.2", text)

    def _thd_mark(self, path: str, octets: bytes = b"") -> bool:
        """Make a mark; whether it was not there."""
        try:
            handle = self._files.open(path, exclusive=True)
        except OSError:
            return False
        try:
            self._files.pwrite(handle, octets, 0)
        except OSError:
            return True
        finally:
            self._files.close(handle)
        return True

    def _thd_unmark(self, path: str) -> None:
        if self._files.exists(path):
            try:
                self._files.unlink(path)
            except OSError:
                return

    # --- domains -----------------------------------------------------------------------------------------------

    def _count_domain(self, quota: Quota) -> None:
        """Have a domain counted in the background, when its sum is not known or not certain; one count at a time."""
        directory = quota.domain_directory
        if directory in self._counting:
            return
        self._counting.add(directory)
        tally = domain_tally(self._files, directory, quota.domain_limit, self._seconds)

        async def count() -> None:
            try:
                await self._in_thread(self._thd_count_domain, tally, quota)
            except OSError as error:
                self._log.warn("{directory}: cannot be counted: {error}", directory=directory, error=str(error))
            finally:
                self._counting.discard(directory)

        counting: Deferred[None] = Deferred.fromCoroutine(count())
        counting.addErrback(lambda failure: self._log.failure("counting {what}", failure=failure, what=directory))

    def _thd_count_domain(self, tally: Tally, quota: Quota) -> None:
        if not self._files.exists(quota.domain_directory):
            return
        known = tally.thd_read()
        if known is None or (quota.domain_limit.broken_by(known.plus(0, 1)) and not tally.thd_is_certain()):
            self._keep(quota.domain_directory, tally.thd_recount())
