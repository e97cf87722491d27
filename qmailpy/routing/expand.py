"""
Where an address leads, as a conversation: a generator that asks the directory's questions and is sent the answers.

Pure, so that one text serves the answer at once from a cache, the answer that waits for the directory, and the
explanation for people. In order: C{postmaster} without a domain; a domain of ours, with its users, then senders that
SRS has rewritten, then C{user+tag} as C{user}, then postmaster, then the catch-all; anything else by the rewrite rules.
Aliases are followed to the end: breadth first, each address once, within bounds.

What becomes of an address of ours:

  - a mailbox here goes to the local channel, one that another node has to the channel for stores, with that host;
  - what an address of ours passes on to somebody elsewhere goes by the process channel, where the message is marked
    (Delivered-To, against circles) and gets a sender of ours; that it leads somewhere is known before;
  - a group goes to the process channel, which knows its members; who may write to it is asked here.

Quotas and sizes refuse an address that is full in itself, or that leads to nobody who is not; a full mailbox among the
targets of an alias does not stand in the way of the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping

from attrs import frozen

from qmailpy.config.schema import ChannelConfig
from qmailpy.directory.address import POSTMASTER
from qmailpy.routing.posting import Answer, AskAddress, may_post, too_large
from qmailpy.routing.rules import Origin, Rules
from qmailpy.values import (
    Alias,
    Domain,
    Group,
    Mailbox,
    Posting,
    Recipient,
    Refused,
    Reply,
    Room,
    Routed,
    RouteResult,
)
from qmailpy.wire.srs import is_srs

DEPTH = 10
"""Aliases that may follow each other."""

FAN_OUT = 1000
"""Addresses that one address may come to stand for."""

SUBADDRESS = "+"

UNKNOWN_USER = Reply(550, "5.1.1", "No such user here")
SUSPENDED = Reply(550, "5.2.1", "This mailbox is disabled and takes no mail")
SUSPENDED_FOR_NOW = Reply(450, "4.2.1", "This mailbox is disabled, try again later")
NO_ROUTE = Reply(550, "5.1.2", "There is no way to this domain from here")
BAD_SYNTAX = Reply(550, "5.1.3", "Not an address")
LOOP = Reply(550, "5.4.6", "The aliases of this address go round in a circle or too deep")
TOO_MANY = Reply(550, "5.2.4", "This address stands for too many others")
MISCONFIGURED = Reply(451, "4.3.5", "Mail system misconfigured, try again later")
WRONG_NODE = Reply(451, "4.3.5", "This mailbox is on another node than the one that was asked")


@frozen
class AskDomain:
    """Is this domain ours? Answered with a L{Domain} or C{None}."""

    name: str


@frozen
class AskRoom:
    """Has this mailbox room for so much? Answered with a L{Room}."""

    mailbox: Mailbox
    domain: Domain
    size_octets: int


Question = AskDomain | AskAddress | AskRoom
Note = Callable[[str], None]
_Spot = tuple[str, str, str]  # address, channel, host


@frozen(kw_only=True)
class Table:
    """What routing knows beside the directory: fixed by the configuration."""

    rules: Rules
    channels: Mapping[str, ChannelConfig]
    local: str  # name of the first channel of kind "local", "" when there is none
    postmasters: tuple[str, ...]  # who takes postmaster's mail: the first of these that is somebody
    configured: bool = False  # whether the first of them was named by the administrator, and so may be anywhere
    process: str = ""  # name of the first channel of kind "process"
    expanding: str = ""  # where large expansions are put off to
    store: str = ""  # name of the channel to mailboxes that other nodes have
    nodes: frozenset[str] = frozenset()  # what the directory may call this node, in lower case
    suspended: Reply = SUSPENDED  # what is said for a disabled account
    bounce_domain: str = ""  # a domain for the senders of SRS alone
    unforward: Callable[[str], str | Reply] | None = None  # L{Srs.reverse<qmailpy.wire.srs.Srs.reverse>}, now


@frozen(kw_only=True)
class _Leaf:
    """Where one address ends, aliases not yet followed."""

    recipients: tuple[_Spot, ...] = ()
    further: tuple[str, ...] = ()  # addresses it stands for besides
    ours: bool = False
    refusal: Reply | None = None
    channel: str = ""  # where what is refused would have gone, as far as that is known
    full: Reply | None = None  # the recipients are right, but take no message of this size now
    sized: bool = False  # C{full} is a matter of the size


_Steps = Generator[Question, Answer, _Leaf]


@frozen(kw_only=True)
class _Case:
    """What is the same for all the addresses that one question comes to."""

    table: Table
    origin: Origin
    note: Note | None
    about: Posting | None  # C{None}: the message was accepted before

    def tell(self, text: str) -> None:
        if self.note is not None:
            self.note(text)


def resolve(
    table: Table, address: str, source: str, note: Note | None = None, about: Posting | None = None
) -> Generator[Question, Answer, RouteResult]:
    """
    Find where C{address} leads.

    @param source: channel the mail comes from.
    @param note: told each step in a sentence, for people; C{None} = nobody asks.
    @param about: the message; C{None} = it was accepted before, and rules that ask who sent it do not match.
    @return: the result; its recipients keep C{address} as their original.
    """
    origin = (
        Origin(source=source, known=False)
        if about is None
        else Origin(source=source, sender=about.sender, user=about.user)
    )
    case = _Case(table=table, origin=origin, note=note, about=None if about is None or about.accepted else about)
    first = yield from _leaf(case, address)
    if first.refusal is not None:
        return Refused(first.refusal, first.channel)
    if first.full is not None:
        return Refused(first.full, first.recipients[0][1])
    unknown = table.local if first.ours else ""  # of what leads nowhere in the end
    found: dict[_Spot, Reply | None] = dict.fromkeys(first.recipients)
    bad: dict[_Spot, Reply | None] = {}
    sized = first.sized
    seen = {address.lower(), *(one[0].lower() for one in first.recipients)}
    waiting = deque((target, 1) for target in first.further)
    reason = Refused(UNKNOWN_USER, unknown)
    while waiting:
        target, depth = waiting.popleft()
        key = target.lower()
        if key in seen:
            reason = Refused(LOOP, unknown)
            continue
        if depth > DEPTH:
            case.tell(f"<{target}> is more than {DEPTH} aliases away: too deep")
            return Refused(LOOP, unknown)
        if len(seen) + len(waiting) > FAN_OUT:
            case.tell(f"more than {FAN_OUT} addresses: too many")
            return Refused(TOO_MANY, unknown)
        seen.add(key)
        leaf = yield from _leaf(case, target)
        if leaf.refusal is not None:
            if leaf.refusal.temporary and leaf.refusal != table.suspended:
                return Refused(leaf.refusal, leaf.channel or unknown)
            reason = Refused(leaf.refusal, leaf.channel or unknown)
            bad[(target, table.local, "")] = None
        sized = sized or leaf.sized
        for one in leaf.recipients if leaf.ours else _passed_on(case, leaf.recipients):
            seen.add(one[0].lower())
            found[one] = leaf.full
        waiting.extend((other, depth + 1) for other in leaf.further)
    if not found:
        return reason
    sized = _minding_channels(case, found) or sized
    full = [Refused(reply, spot[1]) for spot, reply in found.items() if reply is not None]
    if len(full) == len(found):
        return next((one for one in full if one.reply.temporary), full[0])
    where = _deferred(case, len(found))
    if where:
        recipient = Recipient(address=address, original=address, channel=where)
        return Routed(recipients=(recipient,), local=first.ours, sized=sized)
    # A target that leads nowhere stays a recipient when others are good: the local channel will find nobody and the
    # sender hears of it in a bounce, where dropping it here would lose somebody's share in silence.
    return Routed(
        recipients=tuple(
            Recipient(address=one, original=address, channel=channel, host=host)
            for one, channel, host in (*found, *(bad if table.local else ()))
        ),
        local=first.ours,
        sized=sized,
    )


def _minding_channels(case: _Case, found: dict[_Spot, Reply | None]) -> bool:
    """
    Note for which recipients the message is too large to go by their channel.

    @return: whether any of them minds.
    """
    minding = False
    for spot, full in found.items():
        channel = case.table.channels.get(spot[1])
        if channel is not None and channel.blocklimit:
            minding = True
            if case.about is not None and full is None and case.about.size_octets > channel.blocklimit:
                found[spot] = too_large(channel)
    return minding


def _deferred(case: _Case, count: int) -> str:
    """The channel where an address is to be looked up that stands for so many; "" = it is done here (expandlimit)."""
    source = case.table.channels.get(case.origin.source)
    if source is None or not source.expandlimit or count <= source.expandlimit or case.about is None:
        return ""
    where = source.expandchannel or case.table.expanding
    case.tell(f"it stands for {count} recipients, more than the {source.expandlimit} of {source.name}: {where} does it")
    return where


def _passed_on(case: _Case, recipients: tuple[_Spot, ...]) -> tuple[_Spot, ...]:
    """What an address of ours has sent to somebody elsewhere goes by the process channel."""
    table = case.table
    if not table.process:
        return recipients
    made = []
    for address, channel, host in recipients:
        if table.channels[channel].kind in ("smtp", "lmtp"):
            case.tell(f"<{address}> is elsewhere: it goes on from {table.process}, as mail that was forwarded")
            made.append((address, table.process, ""))
        else:
            made.append((address, channel, host))
    return tuple(made)


def _leaf(case: _Case, address: str) -> _Steps:
    """One address, its own aliases not followed."""
    local, at, domain = address.rpartition("@")
    if not at and address.lower() == POSTMASTER:
        return (yield from _postmaster(case))
    if not local or not domain:
        case.tell(f"<{address}> is not of the form user@domain")
        return _Leaf(refusal=BAD_SYNTAX)
    domain = domain.lower()
    if domain.startswith("["):
        case.tell(f"{domain} is an address literal: only a rule can say where it leads")
        return (yield from _by_rules(case, local, domain))
    ours = yield AskDomain(domain)
    if isinstance(ours, Domain):
        return (yield from _ours(case, local, ours))
    if domain == case.table.bounce_domain:
        return _forwarded_before(case, local, domain) or _Leaf(refusal=UNKNOWN_USER, channel=case.table.local)
    if case.note is not None:
        case.note(f"{domain} is not a domain of ours")
    return (yield from _by_rules(case, local, domain))


def _by_rules(case: _Case, local: str, domain: str) -> _Steps:
    table = case.table
    match = table.rules.match(local, domain, case.origin)
    if match is None:
        case.tell(f"no rewrite rule matches {domain} for mail from {case.origin.source}")
        return _Leaf(refusal=NO_ROUTE)
    channel = table.channels.get(match.rule.channel)
    if case.note is not None:
        case.note(f"rewrite rule {match.number} ({match.rule.pattern}) gives <{match.address}> to {match.rule.channel}")
    if channel is None:
        return _Leaf(refusal=MISCONFIGURED)
    if channel.kind == "local":
        local, _, domain = match.address.rpartition("@")
        ours = yield AskDomain(domain)
        if isinstance(ours, Domain):
            return (yield from _ours(case, local, ours))
        case.tell(f"but {domain} is not a domain of ours")
        return _Leaf(refusal=NO_ROUTE)
    host = match.host if channel.kind == "smtp" or match.rule.host else ""
    return _Leaf(recipients=((match.address, channel.name, host),))


def _ours(case: _Case, local: str, domain: Domain) -> _Steps:
    """An address in a domain of ours."""
    name, is_postmaster = domain.name, local.lower() == POSTMASTER
    if case.note is not None:
        case.note(f"{name} is a domain of ours" + ("" if domain.active else ", suspended"))
    if not domain.active:
        return (
            (yield from _postmaster(case))
            if is_postmaster
            else _Leaf(refusal=case.table.suspended, channel=case.table.local)
        )
    found = yield AskAddress(f"{local.lower()}@{name}")
    tag = ""
    if found is None:
        before = _forwarded_before(case, local, name)
        if before is not None:
            return before
        base, separator, tag = local.partition(SUBADDRESS)
        if separator and base:
            if case.note is not None:
                case.note(f"<{local}@{name}> is nobody; without its subaddress it is <{base}@{name}>")
            found = yield AskAddress(f"{base.lower()}@{name}")
    leaf = yield from _entry(case, found, domain, tag)
    if is_postmaster and (leaf is None or leaf.refusal is not None):
        return (yield from _postmaster(case))
    if leaf is not None:
        return leaf
    if domain.catch_all:
        if case.note is not None:
            case.note(f"<{local}@{name}> is nobody; {name} gives such mail to <{domain.catch_all}>")
        return _Leaf(further=(domain.catch_all,), ours=True)
    if case.note is not None:
        case.note(f"<{local}@{name}> is nobody")
    return _Leaf(refusal=UNKNOWN_USER, channel=case.table.local)


def _forwarded_before(case: _Case, local: str, domain: str) -> _Leaf | None:
    """A bounce of mail that we have forwarded, to the sender we gave it; C{None} when it is no such address."""
    unforward = case.table.unforward
    if unforward is None or not is_srs(local.removeprefix('"')):
        return None
    target = unforward(local)
    if isinstance(target, Reply):
        case.tell(f"<{local}@{domain}> looks like a sender of forwarded mail, and is none of ours: {target.text}")
        return _Leaf(refusal=target, channel=case.table.local)
    case.tell(f"<{local}@{domain}> is the sender we gave to forwarded mail of <{target}>")
    return _Leaf(further=(target,), ours=True)


def _entry(
    case: _Case, found: Answer, domain: Domain | None, tag: str = ""
) -> Generator[Question, Answer, _Leaf | None]:
    """
    What a directory entry comes to; C{None} for nobody.

    @param domain: its domain; C{None} = no matter: then there is nothing to say of quotas.
    @param tag: the subaddress it was found without.
    """
    if isinstance(found, Alias):
        if case.note is not None:
            case.note(f"<{found.address}> is an alias for " + ", ".join(f"<{one}>" for one in found.targets))
        refusal = None if found.targets else case.table.suspended
        return _Leaf(further=found.targets, ours=True, refusal=refusal, channel=case.table.local)
    if isinstance(found, Group):
        return (yield from _group(case, found))
    if not isinstance(found, Mailbox):
        return None
    if not found.active:
        case.tell(f"<{found.address}> is a mailbox, suspended")
        return _Leaf(refusal=case.table.suspended, channel=case.table.local)
    address = found.address
    if tag and (found.subfolders or found.dot_qmail):
        name, _, host = address.rpartition("@")
        address = f"{name}{SUBADDRESS}{tag}@{host}"
    node = found.host or (domain.host if domain is not None else "")
    if node and not is_this_node(node, case.table.nodes):
        return _elsewhere(case, address, node)
    if not case.table.local:
        case.tell(f"<{found.address}> is a mailbox, but no channel of kind local is configured")
        return _Leaf(refusal=MISCONFIGURED)
    if case.note is not None:
        copies = ", with copies to " + ", ".join(f"<{one}>" for one in found.forwards) if found.forwards else ""
        case.note(f"<{found.address}> is a mailbox in {found.path}{copies}")
    full: Reply | None = None
    limited = bool(found.quota_octets or found.quota_messages or (domain is not None and domain.quota_octets))
    about = case.about
    if about is not None:
        if found.size_octets and about.size_octets > found.size_octets:
            full = Reply(552, "5.3.4", f"Message is larger than the {found.size_octets} octets this mailbox takes")
        elif limited and domain is not None and found.address.endswith(f"@{domain.name}"):
            room = yield AskRoom(found, domain, about.size_octets)
            full = room.refusal if isinstance(room, Room) else None
    return _Leaf(
        recipients=((address, case.table.local, ""),),
        further=found.forwards,
        ours=True,
        full=full,
        sized=limited or bool(found.size_octets),
    )


def is_this_node(node: str, names: frozenset[str]) -> bool:
    """
    Whether a mailHost means this node: it is one of its names, with a port or without.

    @param names: in lower case.
    """
    node = node.lower()
    return node in names or node.rpartition(":")[0] in names


def _elsewhere(case: _Case, address: str, node: str) -> _Leaf:
    """
    A mailbox that another node has. That node knows of its forwards and its quota; mail that a node has handed on is
    never handed on again, or two that do not agree would send it to and fro.
    """
    if case.about is not None and case.about.handed_on:
        case.tell(f"<{address}> is a mailbox of {node}, but another node has handed this mail on to us")
        return _Leaf(refusal=WRONG_NODE, channel=case.table.store)
    channel = case.table.channels.get(case.table.store)
    if channel is None or channel.kind != "lmtp":
        case.tell(f"<{address}> is a mailbox of {node}, but store_channel is no channel of kind lmtp")
        return _Leaf(refusal=MISCONFIGURED)
    case.tell(f"<{address}> is a mailbox of the node {node}")
    # A host in brackets is one to connect to, without a look at MX records; the port is the channel's.
    return _Leaf(recipients=((address, channel.name, node if ":" in node else f"[{node}]"),), ours=True)


def _group(case: _Case, group: Group) -> _Steps:
    if not case.table.process:
        case.tell(f"<{group.address}> is a group, but no channel of kind process is configured")
        return _Leaf(refusal=MISCONFIGURED)
    case.tell(f"<{group.address}> is a group of {len(group.members)} ({group.posters} may write to it)")
    if case.about is not None:
        refusal = yield from may_post(group, case.about)
        if refusal is not None:
            return _Leaf(refusal=refusal, channel=case.table.process)
    return _Leaf(recipients=((group.address, case.table.process, ""),), ours=True)


def _postmaster(case: _Case) -> _Steps:
    """Somebody reads mail for postmaster (RFC 5321 s.4.5.1), whichever of our domains it names."""
    table = case.table
    for candidate in table.postmasters:
        case.tell(f"mail for postmaster goes to <{candidate}>")
        leaf = yield from _entry(case, (yield AskAddress(candidate.lower())), None)
        if leaf is not None:
            if leaf.refusal is None:
                return leaf
            continue
        ours = yield AskDomain(candidate.rpartition("@")[2].lower())
        if ours is None and candidate == table.postmasters[0] and table.configured:
            return _Leaf(further=(candidate,), ours=True)
        case.tell(f"<{candidate}> is nobody")
    return _Leaf(refusal=UNKNOWN_USER, channel=table.local)
