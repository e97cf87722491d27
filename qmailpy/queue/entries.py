"""
What an administrator sees of the queue, as values: entries, filters, results; and their form as JSON.

An entry is a I{copy}: one message in one channel. Whoever has the queue (a worker by its memory, a command by the
files) makes the entries and asks L{QueueFilter.admits}; the command line shows them. The methods that carry them
between processes are described in L{qmailpy.cli.queueview}.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from attrs import asdict, evolve, fields, frozen

CONTENT = 256
"""Octets of a body that are compared and shown, as the ancestor's default range."""

RECIPIENTS_SHOWN = 50
"""Addresses an entry carries at most; L{QueueEntry.remaining} tells how many there are."""


@frozen
class Target:
    """What an operation is about."""

    id: str  # queue id
    channel: str = ""  # one copy; "" = all copies of the message


@frozen(kw_only=True)
class QueueEntry:
    """A copy in the queue."""

    id: str
    channel: str
    size_octets: int
    arrival: float  # when the message was accepted
    sender: str  # "" is the null sender
    remaining: int  # recipients still to be served
    recipients: tuple[str, ...] = ()  # their addresses, when asked for
    attempts: int = 0  # that have failed
    next_attempt: float | None = None  # None: held, or being tried now
    busy: bool = False  # being tried now
    held: bool = False
    reason: str = ""  # why it is held
    last_error: str = ""  # the reply that deferred it last
    priority: int = 1  # values.Priority
    hold_until: float = 0.0  # its sender wants it to go then and not before (RFC 4865); 0 = at once
    hosts: tuple[str, ...] = ()  # their next hops, different ones; when recipients are asked for
    subject: str = ""  # when texts are asked for
    body: str = ""  # the beginning of it, the same


@frozen(kw_only=True)
class ActionResult:
    """What became of one target of hold, release, delete or return."""

    id: str
    channel: str  # the copy; as in the target when it is unknown
    outcome: str  # DONE, UNKNOWN, BUSY or REFUSED
    text: str = ""  # for people; "" when done


DONE = "done"
UNKNOWN = "unknown"  # no such copy
BUSY = "busy"  # being delivered at this moment: nothing was changed
REFUSED = "refused"  # cannot be done, see the text


@frozen(kw_only=True)
class ChannelSummary:
    """A channel's part of the queue."""

    channel: str
    messages: int  # held ones included
    recipients: int
    size_octets: int
    held: int = 0  # messages
    ready: int = 0  # messages that would be tried at once, were it not for the limits
    busy: int = 0  # jobs out
    oldest: float | None = None  # arrival of the oldest message
    oldest_message: str = ""  # its Message-ID; "" when it has none, or it was not looked at
    stopped: bool = False


def by_channel(summaries: Iterable[ChannelSummary]) -> list[ChannelSummary]:
    """Those of several shards as one a channel, by name."""
    sums: dict[str, ChannelSummary] = {}
    for one in summaries:
        before = sums.get(one.channel)
        sums[one.channel] = one if before is None else _sum(before, one)
    return [sums[name] for name in sorted(sums)]


def _sum(one: ChannelSummary, other: ChannelSummary) -> ChannelSummary:
    older = min((one, other), key=lambda each: each.oldest if each.oldest is not None else float("inf"))
    return evolve(
        one,
        messages=one.messages + other.messages,
        recipients=one.recipients + other.recipients,
        size_octets=one.size_octets + other.size_octets,
        held=one.held + other.held,
        ready=one.ready + other.ready,
        busy=one.busy + other.busy,
        oldest=older.oldest,
        oldest_message=older.oldest_message,
        stopped=one.stopped or other.stopped,
    )


@frozen(kw_only=True)
class QueueJob:
    """An attempt under way."""

    channel: str
    id: str
    attempt: int  # 1 for the first
    recipients: int
    host: str = ""  # where to, for channels with a next hop
    size_octets: int = 0
    sender: str = ""


@frozen(kw_only=True)
class ShapeRow:
    """How old the mail of one destination (or sender's domain) is."""

    name: str
    counts: tuple[int, ...]  # recipients (or messages) by age: up to each edge, and beyond the last


@frozen(kw_only=True)
class Standing:
    """How a copy stands, or a group of its recipients that share everything: what C{why} makes words of."""

    channel: str
    state: str  # "waiting", "ready" (its turn has to come), "trying" or "held"
    recipients: tuple[str, ...]  # at most L{RECIPIENTS_SHOWN}
    count: int  # how many there are
    host: str = ""  # the next hop, where there is one
    attempts: int = 0
    next_attempt: float = 0.0  # while it is waiting
    last_error: str = ""
    reason: str = ""  # of the hold
    stopped: str = ""  # why nothing of the channel is tried: "" = it goes on
    trouble: str = ""  # why nothing is tried at the host for the moment
    ahead: int = 0  # jobs of the same destination that are due, its own among them when it is ready
    limit: int = 0  # jobs at once to the destination; 0 = not known
    ends: float = 0.0  # when it goes back to its sender, if nothing else happens before
    gathered: float = 0.0  # a piece of a message: when the others are not waited for any more; 0 = none is waited for
    kind: str = ""  # of the channel


@frozen(kw_only=True)
class MessageStanding:
    """All that the queue knows of what is next for a message."""

    id: str
    arrival: float
    sender: str
    source: str
    message_id: str = ""
    hold_until: float = 0.0
    done: int = 0  # recipients that are finished
    standings: tuple[Standing, ...] = ()


@frozen(kw_only=True)
class Leaving:
    """A recipient that is taken out of the books, its files being of no use."""

    channel: str
    recipient: str
    original: str = ""
    sender: str = ""
    size_octets: int = 0
    message_id: str = ""
    envelope_id: str = ""
    arrival: float = 0.0


@frozen(kw_only=True)
class HistoryEvent:
    """Something that happened to a message, or (the last ones) how it stands: "waiting" until then, "held" now."""

    time: float
    channel: str
    event: str  # "enqueued", "delivered", "failed", "deleted", "waiting", "held"; of the log also "deferred", "delayed"
    recipients: int = 0  # how many it concerned
    text: str = ""  # reply or reason


@frozen(kw_only=True)
class MessageRecipient:
    """A recipient as C{read} shows it."""

    address: str
    original: str
    channel: str
    host: str = ""
    state: str = "waiting"  # "waiting", "delivered", "failed" or "deleted"
    last_error: str = ""


@frozen(kw_only=True)
class MessageEnvelope:
    """The envelope as C{read} shows it."""

    id: str
    sender: str
    arrival: float
    source: str  # channel it came from
    size_octets: int
    message_id: str = ""
    source_system: str = ""
    user: str = ""
    protocol: str = ""
    priority: int = 1
    envid: str = ""
    recipients_total: int = 0
    recipients: tuple[MessageRecipient, ...] = ()  # at most 1,000 of them


def pattern(text: str) -> Callable[[str], bool]:
    """
    A test for addresses and names, blind to case.

    C{*} stands for any characters and C{?} for one; a text without them may be anywhere in the address. C{<>} is the
    null sender, and C{<a@b>} exactly that address. Takes time linear in the two lengths multiplied, never more.
    """
    wanted = text.lower()
    if wanted.startswith("<") and wanted.endswith(">"):
        wanted = wanted[1:-1]
        if "*" not in wanted and "?" not in wanted:
            return lambda value: value.lower() == wanted
    elif "*" not in wanted and "?" not in wanted:
        return lambda value: wanted in value.lower()
    return lambda value: _glob(wanted, value.lower())


def _glob(wanted: str, value: str) -> bool:
    at = mark = 0
    star = -1
    here = 0
    while here < len(value):
        if at < len(wanted) and wanted[at] == "*":
            star, mark = at, here
            at += 1
        elif at < len(wanted) and wanted[at] in ("?", value[here]):
            at += 1
            here += 1
        elif star >= 0:  # let the last star take one more
            mark += 1
            at, here = star + 1, mark
        else:
            return False
    return all(char == "*" for char in wanted[at:])


@frozen(kw_only=True)
class QueueFilter:
    """Which copies are asked for, and how much of each."""

    channel: str = ""  # a name, which may hold * and ?; "" = all
    held: bool | None = None  # held ones only, others only, or both
    failed: bool = False  # only those with an attempt that failed
    sender: str = ""  # as for pattern(); "" = any
    recipient: str = ""
    owner: str = ""  # the login it was submitted with; as for pattern(); "" = any
    destination: str = ""  # a next hop or domain, or ".domain" for all below it, or with * and ?; "" = any
    match_all: bool = False  # sender and recipient must both match; otherwise one of them suffices
    envelope: bool = False  # entries are to carry recipients
    domain: str = ""  # of a recipient; as for pattern()
    subject: str = ""  # as for pattern(); what it costs: each message that passes the rest is opened
    content: str = ""  # the first L{CONTENT} octets of the body; as for pattern(), the same
    texts: bool = False  # entries are to carry subject and body
    arrived_from: float = 0.0  # not accepted before; 0 = whenever
    arrived_until: float = 0.0  # not accepted later
    least_octets: int = 0
    most_octets: int = 0  # 0 = any size
    least_attempts: int = 0
    most_attempts: int | None = None

    @property
    def reads(self) -> bool:
        """Whether messages have to be opened for it."""
        return self.texts or bool(self.subject or self.content)

    def admits_channel(self, channel: str) -> bool:
        """Whether copies in this channel can be meant: a cheap first question."""
        return not self.channel or _glob(self.channel.lower(), channel.lower())

    def admits(
        self,
        *,
        channel: str,
        held: bool,
        attempts: int,
        sender: str,
        recipients: Collection[str],
        hosts: Iterable[str] = (),
        arrival: float = 0.0,
        size_octets: int = 0,
        user: str = "",
    ) -> bool:
        """
        Whether a copy is meant, as far as can be told without its text.

        @param recipients: addresses still to be served; walked over only if they matter, several times perhaps.
        @param hosts: their next hops and domains; walked over once.
        @param user: login of who submitted it; "" = nobody had logged in.
        """
        if not self.admits_channel(channel) or (self.held is not None and held != self.held):
            return False
        if (self.failed and not attempts) or not self._in_range(attempts, arrival, size_octets):
            return False
        if self.owner and not pattern(self.owner)(user):
            return False
        if self.destination and not any(map(destined(self.destination), hosts)):
            return False
        if self.domain and not any(map(pattern(self.domain), (one.rpartition("@")[2] for one in recipients))):
            return False
        if self.sender:
            found = pattern(self.sender)(sender)
            if not self.recipient or found != self.match_all:
                return found
        return not self.recipient or any(map(pattern(self.recipient), recipients))

    def _in_range(self, attempts: int, arrival: float, size_octets: int) -> bool:
        if attempts < self.least_attempts or (self.most_attempts is not None and attempts > self.most_attempts):
            return False
        if arrival < self.arrived_from or (self.arrived_until and arrival > self.arrived_until):
            return False
        return size_octets >= self.least_octets and (not self.most_octets or size_octets <= self.most_octets)

    def admits_text(self, subject: str, body: str) -> bool:
        """The rest of the question. @param body: its first L{CONTENT} octets."""
        if self.subject and not pattern(self.subject)(subject):
            return False
        return not self.content or pattern(self.content)(body)


def destined(destination: str) -> Callable[[str], bool]:
    """A test for hosts. @param destination: as in L{QueueFilter}."""
    wanted = destination.lower()
    if "*" in wanted or "?" in wanted:
        return lambda host: _glob(wanted, host.lower())
    if wanted.startswith("."):
        return lambda host: host.lower().endswith(wanted)
    return lambda host: host.lower() == wanted


def to_json(value: Any) -> dict[str, Any]:
    """A value of this module as a JSON object: its fields by name."""
    return asdict(value)


def from_json(kind: type[Any], value: object) -> Any:
    """
    The value of that kind which a JSON object stands for. Fields that are missing have their defaults; those that are
    not known (from a newer process) are passed over.

    @raise ValueError: it is no object, lacks a field, or has one of the wrong type.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"no {kind.__name__}")
    found: dict[str, Any] = {}
    for name, simple, annotation in _plan(kind):
        if name not in value:
            continue
        given = value[name]
        if type(given) in simple:
            found[name] = given
            continue
        if not _fits(annotation, given):
            raise ValueError(f"{kind.__name__}.{name} has the wrong type")
        inner = _INNER.get(annotation)
        if inner is not None:
            given = (from_json(inner, each) for each in given)
        found[name] = tuple(given) if annotation.startswith("tuple[") else given
    try:
        return kind(**found)
    except TypeError as error:
        raise ValueError(str(error)) from None


def _plan(kind: type[Any]) -> Sequence[tuple[str, frozenset[type], str]]:
    """The fields of a kind: name, types that fit as they are, annotation. Kept: a listing asks a million times."""
    plan = _PLANS.get(kind)
    if plan is None:
        plan = _PLANS[kind] = [
            (
                one.name,
                frozenset(chain.from_iterable(_TYPES.get(name, ()) for name in annotation.split(" | "))),
                annotation,
            )
            for one in fields(kind)
            for annotation in (str(one.type),)
        ]
    return plan


_PLANS: dict[type[Any], list[tuple[str, frozenset[type], str]]] = {}

_INNER: Mapping[str, type[Any]] = {
    "tuple[MessageRecipient, ...]": MessageRecipient,
    "tuple[Standing, ...]": Standing,
}

_TYPES: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "None": (type(None),),
}


def _fits(annotation: str, value: object) -> bool:
    if annotation == "tuple[str, ...]":
        return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
    if annotation == "tuple[int, ...]":
        return isinstance(value, list | tuple) and all(type(each) is int for each in value)
    if annotation.startswith("tuple["):
        return isinstance(value, list | tuple)
    kinds = [kind for name in annotation.split(" | ") for kind in _TYPES[name]]
    return isinstance(value, tuple(kinds)) and (bool in kinds or not isinstance(value, bool))
