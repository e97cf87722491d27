"""
What is odd about rewrite rules, though each of them is right: those no address comes to, and those that send mail round
in a circle. Pure; C{qmailpy check} warns of both.

A rule is covered by an earlier one whose pattern fits all that its own fits and whose conditions hold whenever its own
do. Circles are found by walking an address that fits the rule through the channels that ask the rules again.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

from attrs import frozen

from qmailpy.config.schema import ChannelConfig, RuleConfig
from qmailpy.routing.rules import NULL, Network, Origin, Rules, canonical, network

ASKING = frozenset({"process", "conversion", "defragment", "hold"})
"""Kinds of channels that ask the rules where mail goes from there, with themselves as its source."""

STEPS = 50
"""A way that is longer leads nowhere."""

_SAME = 100  # rules of one pattern that are compared with a later one
_ELSEWHERE = "sample.invalid"


@frozen(kw_only=True)
class Covered:
    """A rule that no address comes to."""

    rule: RuleConfig
    number: int  # from 1
    by: RuleConfig | None = None  # the earlier rule
    by_number: int = 0
    ours: bool = False  # its domain is one of ours, which the rules are not asked about


@frozen(kw_only=True)
class Circle:
    """A rule whose mail comes back to where it was."""

    rule: RuleConfig
    number: int
    address: str  # one that fits it
    way: tuple[str, ...]  # channels, the last one being that where it is stuck
    again: str  # the kind of that channel


def covered(rules: Sequence[RuleConfig], own: Collection[str] = ()) -> Iterator[Covered]:
    """
    In the order of the rules.

    @param own: domains of ours, in small letters; those that are known.
    """
    by_pattern: dict[tuple[str, str], list[int]] = defaultdict(list)
    others: list[int] = []  # stars and networks
    for index, rule in enumerate(rules):
        pattern = _pattern(rule)
        found = sorted(
            {
                *(at for key in _wider(pattern) for at in by_pattern.get((rule.direction, key), ())[:_SAME]),
                *(
                    at
                    for at in others
                    if rules[at].direction == rule.direction and _fits_all(_pattern(rules[at]), pattern)
                ),
            }
        )
        by = next((at for at in found if _takes_all(rules[at], rule)), None)
        if rule.direction == "to" and pattern in own:
            yield Covered(rule=rule, number=index + 1, ours=True)
        elif by is not None:
            yield Covered(rule=rule, number=index + 1, by=rules[by], by_number=by + 1)
        if "*" in pattern or "/" in pattern:
            others.append(index)
        else:
            by_pattern[rule.direction, pattern].append(index)


def circles(
    rules: Sequence[RuleConfig], channels: Mapping[str, ChannelConfig], own: Collection[str] = ()
) -> Iterator[Circle]:
    """
    In the order of the rules.

    @param own: as above.
    """
    table = Rules(rules)
    sources = ["", *sorted({rule.source for rule in rules if rule.source})]
    for index, rule in enumerate(rules):
        channel = channels.get(rule.channel)
        if rule.direction != "to" or channel is None or channel.kind not in {*ASKING, "reprocess"}:
            continue
        for source in [rule.source] if rule.source else sources:
            sender = _sample(rule.sender, f"somebody@{_ELSEWHERE}")
            origin = Origin(source=source, sender=sender, user=_sample(rule.user, ""))
            found = _walked(table, channels, own, index, origin)
            if found is not None:
                yield found
                break


def _walked(
    table: Rules, channels: Mapping[str, ChannelConfig], own: Collection[str], index: int, origin: Origin
) -> Circle | None:
    """The way of an address that fits a rule, when it does not end."""
    local, domain = "user", _domain(_pattern_of(table, index))
    match = table.match(local, domain, origin)
    if match is None or match.number != index + 1:
        return None  # an earlier rule has this address
    rule, address, first = match.rule, match.address, f"{local}@{domain}"
    seen: set[tuple[str, str]] = set()
    way: list[str] = []
    source = origin.source
    for _ in range(STEPS):
        channel = channels.get(match.rule.channel)
        if channel is None or channel.kind not in {*ASKING, "reprocess"}:
            return None
        source = channel.name if channel.kind in ASKING else source
        way.append(channel.name)
        if (match.address, source) in seen:
            break
        seen.add((match.address, source))
        address = match.address
        local, _, domain = address.rpartition("@")
        if domain in own:
            return None
        after = table.match(local, domain, Origin(source=source, sender=origin.sender))
        if after is None:
            return None
        match = after
    return Circle(rule=rule, number=index + 1, address=first, way=tuple(way), again=channels[way[-1]].kind)


# --- patterns ------------------------------------------------------------------------------------------------


def _pattern(rule: RuleConfig) -> str:
    pattern = rule.pattern.lower()
    return "." if pattern == "*" else canonical(pattern)


def _pattern_of(table: Rules, index: int) -> str:
    return _pattern(table.rule(index))


def _wider(pattern: str) -> Iterator[str]:
    """Patterns without stars and networks that fit all that this one does, itself included."""
    yield pattern
    if pattern.startswith("["):
        yield "[]"
        return
    at = pattern.find(".", 1)
    while at >= 0:
        yield pattern[at:]
        at = pattern.find(".", at + 1)
    yield "."


def _fits_all(wide: str, narrow: str) -> bool:
    """The same of one with stars or of a network."""
    if wide == narrow:
        return True
    if wide.startswith("["):
        net = network(wide)
        inner = network(narrow) if "/" in narrow else _alone(narrow)
        return net is not None and inner is not None and net.version == inner.version and inner.subnet_of(net)  # type: ignore[arg-type]
    if narrow.startswith((".", "[")):
        return False
    ours, theirs = wide.split("."), narrow.split(".")
    return len(ours) == len(theirs) and all(one in ("*", other) for one, other in zip(ours, theirs, strict=True))


def _alone(pattern: str) -> Network | None:
    """The network of one address literal."""
    try:
        return ipaddress.ip_network(pattern[1:-1].removeprefix("ipv6:")) if pattern.startswith("[") else None
    except ValueError:
        return None


def _takes_all(earlier: RuleConfig, later: RuleConfig) -> bool:
    """Whether the conditions of a rule hold whenever those of a later one do."""
    if earlier.source not in ("", later.source):
        return False
    if earlier.direction == "from" and earlier.channel not in ("", later.channel):
        return False
    return all(
        not ours or (bool(theirs) and set(theirs) <= set(ours))
        for ours, theirs in ((earlier.sender, later.sender), (earlier.user, later.user))
    )


def _domain(pattern: str) -> str:
    """A domain that fits."""
    if pattern == "[]":
        return "[192.0.2.1]"
    if pattern.startswith("["):
        net = network(pattern) if "/" in pattern else None
        return f"[{net.network_address}]" if net is not None else pattern
    if pattern == ".":
        return _ELSEWHERE
    return f"a{pattern}" if pattern.startswith(".") else pattern.replace("*", "a")


def _sample(patterns: Sequence[str], otherwise: str) -> str:
    """Something that a condition holds for."""
    if not patterns:
        return otherwise
    return "" if patterns[0] == NULL else patterns[0].replace("*", "x").replace("?", "x").lower()
