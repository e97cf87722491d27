"""
Groups, as the process channel sends them on: a message for a group becomes one for its members.

Groups in a group are taken for their members, in circles or not, and each address gets the message once, however many
ways lead to it. Who may write is asked again, of the group that was written to: what is in it is open to whoever may
write to it. A C{Delivered-To} field with the group's address is put on top; a message that has it already has come
round: 5.4.6.

The sender becomes the group's owner, who then gets the notices, and what the writer wanted to be told of delivery ends
here: it is a list (RFC 3461 s.5.2.7.1). Without an owner the sender stays, and the wishes go on (s.5.2.7.3); members
elsewhere get a second message, whose sender leads back to the writer (SRS). A notice, whose sender is null, stays one.
Members that nobody can write to any more go to the local channel, which says so to whoever gets the notices.

A group of more than C{[queue] recipients} is done in parts, so that no transaction is large: the message goes to this
channel once more, with a recipient for each part, whose C{host} is C{"part/parts"}. Which part somebody is in follows
from the address alone that the message goes to in the end. So however often an attempt is cut short, and though the
group may change meanwhile, nobody is in two parts, and each part is done in one transaction.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from zlib import crc32

from attrs import Factory, define, evolve, frozen
from twisted.internet.defer import Deferred, DeferredList, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from qmailpy.channels.forward import Forwards, Marked
from qmailpy.config.schema import Config
from qmailpy.errors import Temporary
from qmailpy.interfaces import IDirectory, IRouter
from qmailpy.routing.posting import accepted, may_post
from qmailpy.routing.selection import PASSING
from qmailpy.values import Disposition, Group, Job, NewMail, Posting, Recipient, Refused, Reply, Verdict

_EXPANDED = Reply(250, "2.1.5", "Sent to the members of the group")
_EMPTY = Disposition(verdict=Verdict.FAILED, reply=Reply(550, "5.2.4", "The group has no members"))
_PART = re.compile(r"(\d{1,6})/(\d{1,6})")

AT_ONCE = 32
"""Questions about members that are under way together."""

MOST = 1_000_000
"""Addresses that are sent to; who comes behind waits for an operator (4.2.4)."""

KEPT_S = 600.0
"""How long the members of a large group are remembered for its parts."""

KEPT = 4
"""Groups whose members are remembered at once; 100,000 members take some 45 MB."""

_TOO_MANY = Disposition(
    verdict=Verdict.DEFERRED, reply=Reply(451, "4.2.4", f"The group has more than {MOST} members; the message is kept")
)


@frozen(kw_only=True)
class _Led:
    """Where a member leads."""

    people: tuple[Recipient, ...]  # routed
    groups: tuple[Group, ...] = ()
    local: bool  # the member is an address of ours


@frozen
class _Way:
    """What the router is to know of the message."""

    source: str
    about: Posting


_People = Mapping[str, tuple[Recipient, bool]]
"""By address in lower case: the recipient, routed, and whether an address of ours led there."""


@define
class _Kept:
    """Whom a large group stands for, for its parts."""

    people: _People
    until: float
    _split: list[dict[str, tuple[Recipient, bool]]] = Factory(list)

    def part(self, number: int, parts: int) -> _People:
        """One of so many parts."""
        if len(self._split) != parts:
            self._split = [{} for _ in range(parts)]
            for address, one in self.people.items():
                self._split[_hash(address) % parts][address] = one
        return self._split[number]


class Groups:
    """What becomes of mail for groups."""

    def __init__(
        self,
        name: str,
        config: Config,
        directory: IDirectory,
        router: IRouter,
        forwards: Forwards,
        clock: IReactorTime,
    ) -> None:
        """
        @param name: of the process channel.
        @param forwards: makes the senders of what goes elsewhere.
        """
        self._name = name
        self._directory = directory
        self._router = router
        self._forwards = forwards
        self._clock = clock
        self._counting = DeferredLock()  # parts of a group do not all look for its members at once
        self._limit = config.queue.recipients
        self._channels = config.channels
        self._local = next((each for each, one in config.channels.items() if one.kind == "local"), "")
        self._kept: dict[tuple[str, str, str], _Kept] = {}

    async def find(self, address: str) -> Group | None:
        """
        The group with an address.

        @raise Temporary: the directory is away.
        """
        found = await self._directory.lookup(address)
        return found if isinstance(found, Group) else None

    async def expanded(self, job: Job, recipient: Recipient, group: Group, source: str) -> Disposition:
        """
        The message for a group, as it goes on.

        @param recipient: the one of C{job} that is the group.
        @param source: the channel that rules are to see as the one the mail comes from.
        @raise Temporary: the directory is away.
        """
        part = _part(recipient.host)
        if part is None:
            refusal = await self._refusal(job, group)
            if refusal is not None:
                return Disposition(verdict=Verdict.FAILED, reply=refusal)
        await self._counting.acquire()
        try:
            found = await self._people(group, _Way(source, accepted(job.envelope)), keep=part is not None)
        finally:
            self._counting.release()
        people = found.people
        if len(people) > MOST:
            return _TOO_MANY
        if part is not None:
            people = found.part(*part)
            if not people:
                return Disposition(verdict=Verdict.DELIVERED, reply=Reply(250, "2.1.5", "Nobody is in this part"))
        elif not people:
            return _EMPTY
        elif len(people) > self._limit:
            return self._in_parts(recipient, group, len(people))
        return await self._sent(job, recipient, group, people)

    async def _refusal(self, job: Job, group: Group) -> Reply | None:
        """
        Who may write is asked of mail that comes from a channel of people. What other channels of ours pass on was
        asked about when it came in, and its login is not known any more.
        """
        envelope = job.envelope
        source = self._channels.get(envelope.source)
        if source is not None and source.kind in PASSING:
            return None
        steps = may_post(group, Posting(sender=envelope.sender, user=envelope.user))
        answer = None
        try:
            while True:
                answer = await self._directory.lookup(steps.send(answer).address)
        except StopIteration as end:
            refusal: Reply | None = end.value
            return refusal

    # --- members ---------------------------------------------------------------------------------------------

    async def _people(self, group: Group, way: _Way, *, keep: bool) -> _Kept:
        """
        All that a group stands for in the end, none of them a group; the nearest first.

        @param keep: use what was found for another part.
        @raise Temporary: the directory is away.
        """
        now = self._clock.seconds()
        self._kept = {name: one for name, one in self._kept.items() if one.until > now}
        key = (group.address, way.source, way.about.sender)  # rules may ask for these
        kept = self._kept.get(key)
        if keep and kept is not None:
            return kept
        found: dict[str, tuple[Recipient, bool]] = {}
        seen: set[str] = set()
        groups = {group.address.lower()}
        waiting = deque([group.members])
        while waiting and len(found) <= MOST:
            wanted = dict.fromkeys(map(str.lower, waiting.popleft()))
            fresh = [one for one in wanted if one not in seen and one not in groups]
            seen.update(fresh)
            async for led in self._led_to(fresh, way):
                for one in led.people:
                    found.setdefault(one.address.lower(), (one, led.local))
                for inner in led.groups:
                    if inner.address.lower() not in groups:
                        groups.add(inner.address.lower())
                        waiting.append(inner.members)
        made = _Kept(found, now + KEPT_S)
        if len(found) > self._limit:
            while len(self._kept) >= KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = made
        return made

    async def _led_to(self, addresses: Sequence[str], way: _Way) -> AsyncIterator[_Led]:
        """
        Where addresses lead, in order.

        @raise Temporary: it cannot be told now of one of them.
        """
        for start in range(0, len(addresses), AT_ONCE):
            some = addresses[start : start + AT_ONCE]
            asked = [Deferred.fromCoroutine(self._leads(one, way)) for one in some]
            answer: Any
            for good, answer in await DeferredList(asked, consumeErrors=True):
                if not good:
                    answer.raiseException()
                yield answer
            if start and start % (4 * AT_ONCE) == 0:  # some ms of work, when everything is known already
                await deferLater(self._clock, 0)

    async def _leads(self, address: str, way: _Way) -> _Led:
        route = self._router.route_now(address, way.source, way.about)
        if route is None:
            route = await self._router.route(address, way.source, way.about)
        if isinstance(route, Refused):
            if route.reply.temporary and route.reply.enhanced != "4.2.1":  # that is a mailbox that is disabled
                raise Temporary(route.reply)
            dead = Recipient(address=address, original=address, channel=self._local)
            return _Led(people=(dead,) if self._local else (), local=True)
        people, groups = [], []
        for one in route.recipients:
            inner = await self.find(one.address) if one.channel == self._name else None
            if inner is None:
                people.append(one)
            else:
                groups.append(inner)
        return _Led(people=tuple(people), groups=tuple(groups), local=route.local)

    # --- what goes on ----------------------------------------------------------------------------------------

    def _in_parts(self, recipient: Recipient, group: Group, count: int) -> Disposition:
        """To this channel again, once for each part; parts are a little smaller than they may be, for chance."""
        parts = -(-count * 4 // (self._limit * 3))
        wishes = _wishes(recipient, group)
        again = [
            evolve(recipient, address=group.address, channel=self._name, host=f"{number}/{parts}", **wishes)
            for number in range(parts)
        ]
        # The sender and the login stay, for they are what the parts make their own senders of.
        return Disposition(verdict=Verdict.FORWARDED, reply=_EXPANDED, onward=tuple(again))

    async def _sent(self, job: Job, recipient: Recipient, group: Group, people: _People) -> Disposition:
        wishes = _wishes(recipient, group)
        ours = [evolve(one, **wishes) for one, local in people.values() if local]
        others = [evolve(one, **wishes) for one, local in people.values() if not local]
        envelope = job.envelope
        sender = envelope.sender
        if group.owner and sender:
            envelope = evolve(envelope, sender=group.owner, envid="", ret="")
            ours += others
            others = []
        content = Marked(f"Delivered-To: {group.address}\r\n".encode("utf-8", "replace"), job.content)
        mails = []
        if ours:
            mails.append(NewMail(envelope=evolve(envelope, recipients=tuple(ours)), content=content))
        if others:
            outside = await self._forwards.sender(sender, group.address)
            mails.append(NewMail(envelope=evolve(envelope, sender=outside, recipients=tuple(others)), content=content))
        return Disposition(verdict=Verdict.FORWARDED, reply=_EXPANDED, mails=tuple(mails))


def _wishes(recipient: Recipient, group: Group) -> dict[str, Any]:
    """What members have of the wishes for the group: with an owner it is a list, and they end here."""
    if group.owner:
        return {"orcpt": "", "notify": 0}
    return {"orcpt": recipient.orcpt, "notify": recipient.notify}


def _hash(address: str) -> int:
    return crc32(address.encode("utf-8", "surrogateescape"))


def _part(host: str) -> tuple[int, int] | None:
    """The number of a part, and of all parts; C{None} for the whole."""
    match = _PART.fullmatch(host)
    if match is None or int(match[1]) >= int(match[2]):
        return None
    return int(match[1]), int(match[2])
