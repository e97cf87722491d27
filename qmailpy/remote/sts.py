"""
MTA-STS policies of the domains that mail goes to: found, kept, and had anew before they run out (RFC 8461 s.3.3, s.5).

A policy that is known holds for its C{max_age}, whatever happens to its TXT record or its web server meanwhile: who
could make a policy go away by taking these down would have no policy to fear. A TXT record with another id has it
fetched anew. A failure to fetch is remembered for a while; without a known policy, mail goes as if there were none.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

from attrs import evolve, frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from qmailpy.errors import Temporary
from qmailpy.interfaces import IResolver
from qmailpy.remote.https import HttpsAnswer, HttpsFailed
from qmailpy.remote.protection import StsFound
from qmailpy.remote.sts_file import DAY_S, LIMIT, Known, StsFile, merge
from qmailpy.wire.sts import Mode, parse_policy, policy_id
from qmailpy.wire.tlsa import Mismatch

FETCH_S = 60.0
"""How long a web server may take (RFC 8461 s.3.3 suggests a minute)."""

FAILURE_S = 300.0
"""How long a failure to fetch is remembered (RFC 8461 s.3.3: five minutes at least)."""

REFRESH_AGE_S = DAY_S
"""Age at which a policy in use is had anew: an attacker must keep us from it for all its time (RFC 8461 s.10.2)."""

IN_USE_DAYS = 14
"""A policy no mail went by for so long is left to run out."""


class Get(Protocol):
    """The way to a web server: C{Https.get}."""

    def __call__(self, url: str, timeout_s: float) -> Awaitable[HttpsAnswer]:
        """
        @raise HttpsFailed: no answer.
        """


@frozen
class _Failure:
    id: str
    until: float
    failure: Mismatch


class StsPolicies:
    """The policies of one process (L{qmailpy.remote.protection.Sts})."""

    _log = Logger()

    def __init__(
        self,
        resolver: IResolver,
        get: Get,
        seconds: Callable[[], float],
        in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
        file: StsFile | None = None,
    ) -> None:
        """
        @param seconds: the time now, since the epoch.
        @param file: where they are kept; C{None} = nowhere.
        """
        self._resolver = resolver
        self._get = get
        self._seconds = seconds
        self._in_thread = in_thread
        self._file = file
        self._known: dict[str, Known] = {}
        self._failures: OrderedDict[str, _Failure] = OrderedDict()
        self._fetching: dict[str, list[Deferred[None]]] = {}
        self._dirty = False

    async def find(self, domain: str) -> StsFound:
        """The policy of a domain: the one we have, or asked for now."""
        try:
            now_id = policy_id(await self._resolver.text(f"_mta-sts.{domain}"))
        except Temporary:
            now_id = ""
        known = self._valid(domain)
        if not now_id or (known is not None and known.id == now_id):
            return self._use(domain, known, None)
        failed = self._failed(domain, now_id)
        if failed is None:
            await self._fetch(domain, now_id)
            failed, known = self._failed(domain, now_id), self._valid(domain)
        return self._use(domain, known, failed)

    def known(self, domain: str) -> Known | None:
        """What is at hand, without a question to anybody."""
        return self._valid(domain)

    def _valid(self, domain: str) -> Known | None:
        known = self._known.get(domain)
        if known is not None and known.expires <= self._seconds():
            del self._known[domain]
            return None
        return known

    def _failed(self, domain: str, now_id: str) -> Mismatch | None:
        failed = self._failures.get(domain)
        if failed is None or failed.id != now_id or failed.until <= self._seconds():
            return None
        return failed.failure

    def _use(self, domain: str, known: Known | None, failure: Mismatch | None) -> StsFound:
        if known is None:
            return StsFound(None, failure)
        today = int(self._seconds() // DAY_S)
        if known.used != today:
            self._known[domain] = evolve(known, used=today)
            self._dirty = True
        return StsFound(known.policy, failure)

    def thd_load(self) -> None:
        """Take up what the disk has; before the first L{find}, or somebody could have mail go without. Blocks."""
        if self._file is not None:
            self._known = merge(self._file.thd_read(), self._known, self._seconds())

    async def _fetch(self, domain: str, now_id: str) -> None:
        """Have it, once for all who wait for it; then it is among the known, or the failure among the failures."""
        waiting = self._fetching.get(domain)
        if waiting is not None:
            mine: Deferred[None] = Deferred()
            waiting.append(mine)
            await mine
            return
        self._fetching[domain] = waiting = []
        try:
            if self._file is not None:
                # Perhaps another worker has it already.
                others = await self._in_thread(self._file.thd_read)
                there = merge(others, {}, self._seconds()).get(domain)
                if there is not None and there.id == now_id:
                    self._keep(domain, there)
                    return
            await self._fetch_now(domain, now_id)
        finally:
            del self._fetching[domain]
            for other in waiting:
                other.callback(None)

    async def _fetch_now(self, domain: str, now_id: str) -> bool:
        try:
            answer = await self._get(f"https://mta-sts.{domain}/.well-known/mta-sts.txt", FETCH_S)
            if answer.status != 200:
                raise HttpsFailed(Mismatch("sts-policy-fetch-error", f"the web server answers {answer.status}"))
            if answer.media_type != "text/plain":
                raise HttpsFailed(Mismatch("sts-policy-fetch-error", f"the answer is {answer.media_type!r}, no text"))
            policy = parse_policy(answer.body)
        except HttpsFailed as error:
            failure = error.failure
        except ValueError as error:
            failure = Mismatch("sts-policy-invalid", str(error))
        else:
            self._failures.pop(domain, None)
            now = self._seconds()
            before = self._known.get(domain)
            used = before.used if before is not None else int(now // DAY_S)
            self._keep(domain, Known(id=now_id, policy=policy, fetched=now, used=used))
            self._dirty = True
            await self._save()
            return True
        self._log.info("MTA-STS policy of {domain}: {kind}: {why}", domain=domain, kind=failure.kind, why=failure.why)
        self._failures[domain] = _Failure(now_id, self._seconds() + FAILURE_S, failure)
        self._failures.move_to_end(domain)
        if len(self._failures) > LIMIT:
            self._failures.popitem(last=False)
        return False

    def _keep(self, domain: str, known: Known) -> None:
        if len(self._known) >= LIMIT and domain not in self._known:
            del self._known[min(self._known, key=lambda each: self._known[each].used)]
        self._known[domain] = known

    async def sync(self) -> None:
        """Exchange what is new with the other processes, by way of the disk; hourly, and at the stop."""
        if self._file is not None and not self._dirty:
            self._known = merge(await self._in_thread(self._file.thd_read), self._known, self._seconds())
        await self._save()

    async def _save(self) -> None:
        """Bring what is new to the disk; trouble with that is logged and nothing else."""
        if self._file is None or not self._dirty:
            return
        self._dirty = False
        ours = dict(self._known)
        try:
            merged = await self._in_thread(partial(self._file.thd_merge, ours, self._seconds()))
        except OSError as error:
            self._dirty = True
            self._log.error("MTA-STS policies cannot be kept on the disk: {why}", why=str(error))
            return
        self._known = merge(merged, self._known, self._seconds())

    async def refresh(self) -> None:
        """
        Have anew the policies that are in use and a day old, one after the other; for one process of the node, hourly.
        """
        await self.sync()  # which domains others used, and what they have fetched
        now = self._seconds()
        today = now // DAY_S
        old = [
            domain
            for domain, known in self._known.items()
            if now - known.fetched >= REFRESH_AGE_S and today - known.used <= IN_USE_DAYS
        ]
        for domain in old:
            known = self._valid(domain)
            if known is None or domain in self._fetching:
                continue
            if known.policy.mode is Mode.NONE and known.expires - now > DAY_S:
                continue
            try:
                now_id = policy_id(await self._resolver.text(f"_mta-sts.{domain}"))
            except Temporary:
                now_id = ""
            if now_id and self._failed(domain, now_id) is None:
                await self._fetch_now(domain, now_id)
        await self._save()
