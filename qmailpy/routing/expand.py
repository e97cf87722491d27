"""
Where an address leads, as a conversation: a generator that asks the directory's questions and is sent the answers.

Pure, so that one text serves the answer at once from a cache, the answer that waits for the directory, and the
explanation for people. In order: C{postmaster} without a domain; a domain of ours, with its users, then C{user+tag} as
C{user}, then postmaster, then the catch-all; anything else by the rewrite rules. Aliases are followed to the end:
breadth first, each address once, within bounds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping

from attrs import frozen

from qmailpy.config.schema import ChannelConfig
from qmailpy.directory.address import POSTMASTER
from qmailpy.routing.rules import Rules
from qmailpy.values import Alias, Domain, Group, Mailbox, Recipient, Refused, Reply, Routed, RouteResult

DEPTH = 10
"""Aliases that may follow each other."""

FAN_OUT = 1000
"""Addresses that one address may come to stand for."""

SUBADDRESS = "+"

UNKNOWN_USER = Reply(550, "5.1.1", "No such user here")
SUSPENDED = Reply(550, "5.2.1", "This mailbox is disabled and takes no mail")
NO_ROUTE = Reply(550, "5.1.2", "There is no way to this domain from here")
BAD_SYNTAX = Reply(550, "5.1.3", "Not an address")
LOOP = Reply(550, "5.4.6", "The aliases of this address go round in a circle or too deep")
TOO_MANY = Reply(550, "5.2.4", "This address stands for too many others")
MISCONFIGURED = Reply(451, "4.3.5", "Mail system misconfigured, try again later")


@frozen
class AskDomain:
    """Is this domain ours? Answered with a L{Domain} or C{None}."""

    name: str


@frozen
class AskAddress:
    """Who is this? Answered with a L{Mailbox}, an L{Alias} or C{None}."""

    address: str


Question = AskDomain | AskAddress
Answer = Domain | Mailbox | Alias | Group | None
Note = Callable[[str], None]


@frozen(kw_only=True)
class Table:
    """What routing knows beside the directory: fixed by the configuration."""

    rules: Rules
    channels: Mapping[str, ChannelConfig]
    local: str  # name of the first channel of kind "local", "" when there is none
    postmasters: tuple[str, ...]  # who takes postmaster's mail: the first of these that is somebody
    configured: bool = False  # whether the first of them was named by the administrator, and so may be anywhere


@frozen
class _Leaf:
    """Where one address ends, aliases not yet followed."""

    recipients: tuple[tuple[str, str, str], ...] = ()  # (address, channel, host)
    further: tuple[str, ...] = ()  # addresses it stands for besides
    ours: bool = False
    refusal: Reply | None = None


_Steps = Generator[Question, Answer, _Leaf]


def resolve(
    table: Table, address: str, source: str, note: Note | None = None
) -> Generator[Question, Answer, RouteResult]:
    """
    Find where C{address} leads.

    @param source: channel the mail comes from.
    @param note: told each step in a sentence, for people; C{None} = nobody asks.
    @return: the result; its recipients keep C{address} as their original.
    """
    first = yield from _leaf(table, address, source, note)
    if first.refusal is not None:
        return Refused(first.refusal)
    found = dict.fromkeys(first.recipients)
    bad: dict[tuple[str, str, str], None] = {}
    seen = {address.lower(), *(one[0].lower() for one in first.recipients)}
    waiting = deque((target, 1) for target in first.further)
    reason = UNKNOWN_USER
    while waiting:
        target, depth = waiting.popleft()
        key = target.lower()
        if key in seen:
            reason = LOOP
            continue
        if depth > DEPTH:
            _tell(note, f"<{target}> is more than {DEPTH} aliases away: too deep")
            return Refused(LOOP)
        if len(seen) + len(waiting) > FAN_OUT:
            _tell(note, f"more than {FAN_OUT} addresses: too many")
            return Refused(TOO_MANY)
        seen.add(key)
        leaf = yield from _leaf(table, target, source, note)
        if leaf.refusal is not None:
            if leaf.refusal.temporary:
                return Refused(leaf.refusal)
            reason = leaf.refusal
            bad[(target, table.local, "")] = None
        for one in leaf.recipients:
            seen.add(one[0].lower())
            found[one] = None
        waiting.extend((other, depth + 1) for other in leaf.further)
    if not found:
        return Refused(reason)
    # A target that leads nowhere stays a recipient when others are good: the local channel will find nobody and the
    # sender hears of it in a bounce, where dropping it here would lose somebody's share in silence.
    return Routed(
        recipients=tuple(
            Recipient(address=one, original=address, channel=channel, host=host)
            for one, channel, host in (*found, *(bad if table.local else ()))
        ),
        local=first.ours,
    )


def _tell(note: Note | None, text: str) -> None:
    if note is not None:
        note(text)


def _leaf(table: Table, address: str, source: str, note: Note | None) -> _Steps:
    """One address, its own aliases not followed."""
    local, at, domain = address.rpartition("@")
    if not at and address.lower() == POSTMASTER:
        return (yield from _postmaster(table, note))
    if not local or not domain:
        if note:
            note(f"<{address}> is not of the form user@domain")
        return _Leaf(refusal=BAD_SYNTAX)
    domain = domain.lower()
    if domain.startswith("["):
        if note:
            note(f"{domain} is an address literal: only a rule can say where it leads")
        return (yield from _by_rules(table, local, domain, source, note))
    ours = yield AskDomain(domain)
    if isinstance(ours, Domain):
        return (yield from _ours(table, local, ours, note))
    if note:
        note(f"{domain} is not a domain of ours")
    return (yield from _by_rules(table, local, domain, source, note))


def _by_rules(table: Table, local: str, domain: str, source: str, note: Note | None) -> _Steps:
    match = table.rules.match(local, domain, source)
    if match is None:
        if note:
            note(f"no rewrite rule matches {domain} for mail from {source}")
        return _Leaf(refusal=NO_ROUTE)
    channel = table.channels.get(match.rule.channel)
    if note:
        note(f"rewrite rule {match.number} ({match.rule.pattern}) gives <{match.address}> to {match.rule.channel}")
    if channel is None:
        return _Leaf(refusal=MISCONFIGURED)
    if channel.kind == "local":
        local, _, domain = match.address.rpartition("@")
        ours = yield AskDomain(domain)
        if isinstance(ours, Domain):
            return (yield from _ours(table, local, ours, note))
        if note:
            note(f"but {domain} is not a domain of ours")
        return _Leaf(refusal=NO_ROUTE)
    host = match.host if channel.kind == "smtp" or match.rule.host else ""
    return _Leaf(recipients=((match.address, channel.name, host),))


def _ours(table: Table, local: str, domain: Domain, note: Note | None) -> _Steps:
    """An address in a domain of ours."""
    name, is_postmaster = domain.name, local.lower() == POSTMASTER
    if note:
        note(f"{name} is a domain of ours" + ("" if domain.active else ", suspended"))
    if not domain.active:
        return (yield from _postmaster(table, note)) if is_postmaster else _Leaf(refusal=SUSPENDED)
    found = yield AskAddress(f"{local.lower()}@{name}")
    base, separator, _ = local.partition(SUBADDRESS)
    if found is None and separator and base:
        if note:
            note(f"<{local}@{name}> is nobody; without its subaddress it is <{base}@{name}>")
        found = yield AskAddress(f"{base.lower()}@{name}")
    leaf = _entry(table, found, note)
    if is_postmaster and (leaf is None or leaf.refusal is not None):
        return (yield from _postmaster(table, note))
    if leaf is not None:
        return leaf
    if domain.catch_all:
        if note:
            note(f"<{local}@{name}> is nobody; {name} gives such mail to <{domain.catch_all}>")
        return _Leaf(further=(domain.catch_all,), ours=True)
    if note:
        note(f"<{local}@{name}> is nobody")
    return _Leaf(refusal=UNKNOWN_USER)


def _entry(table: Table, found: Answer, note: Note | None) -> _Leaf | None:
    """What a directory entry comes to; C{None} for nobody."""
    if isinstance(found, Alias):
        if note:
            note(f"<{found.address}> is an alias for " + ", ".join(f"<{one}>" for one in found.targets))
        return _Leaf(further=found.targets, ours=True, refusal=None if found.targets else SUSPENDED)
    if not isinstance(found, Mailbox):
        return None
    if not found.active:
        if note:
            note(f"<{found.address}> is a mailbox, suspended")
        return _Leaf(refusal=SUSPENDED)
    if not table.local:
        if note:
            note(f"<{found.address}> is a mailbox, but no channel of kind local is configured")
        return _Leaf(refusal=MISCONFIGURED)
    if note:
        copies = ", with copies to " + ", ".join(f"<{one}>" for one in found.forwards) if found.forwards else ""
        note(f"<{found.address}> is a mailbox in {found.path}{copies}")
    return _Leaf(recipients=((found.address, table.local, ""),), further=found.forwards, ours=True)


def _postmaster(table: Table, note: Note | None) -> _Steps:
    """Somebody reads mail for postmaster (RFC 5321 s.4.5.1), whichever of our domains it names."""
    for candidate in table.postmasters:
        if note:
            note(f"mail for postmaster goes to <{candidate}>")
        leaf = _entry(table, (yield AskAddress(candidate.lower())), note)
        if leaf is not None:
            if leaf.refusal is None:
                return leaf
            continue
        ours = yield AskDomain(candidate.rpartition("@")[2].lower())
        if ours is None and candidate == table.postmasters[0] and table.configured:
            return _Leaf(further=(candidate,), ours=True)
        if note:
            note(f"<{candidate}> is nobody")
    return _Leaf(refusal=UNKNOWN_USER)
