"""
Rewrite rules: from an address, and where and whom it comes from, to a channel, a next hop and perhaps another address.

Pure. The first rule that matches wins (docs/channels.md). Patterns: C{host.example} that host only, C{.example} any
host below it but not itself, C{*.b.example} one name in place of each star, C{[]} any address literal, C{[192.0.2.1]}
that literal, C{[192.0.2.0/24]} any in that network, C{.} or C{*} any domain. They are indexed by pattern, so that a
question costs as many look-ups as its domain has labels, however many rules there are; only those with stars or
networks are gone through one by one.
"""

from __future__ import annotations

import ipaddress
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from fnmatch import translate

from attrs import frozen

from qmailpy.config.schema import RuleConfig

_SUBSTITUTION = re.compile(r"\$([01]?[A-Za-z]|\$)")
_LENGTH = 1000  # characters of an address that conditions are tried on

NULL = "<>"
"""How a condition names the null sender, and a client without a login."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@frozen(kw_only=True)
class Origin:
    """Where a message comes from, as far as rules ask."""

    source: str  # channel
    sender: str = ""  # "" the null sender
    user: str = ""  # "" without a login
    known: bool = True  # sender and user are; else rules that ask for them do not match


@frozen(kw_only=True)
class Match:
    """What the rules say about an address."""

    rule: RuleConfig
    number: int  # of the rule, from 1, in the order of the configuration
    address: str  # rewritten, or as it was
    host: str  # next hop: the rule's, or the address's own domain


class _Condition:
    """A list of patterns for an address or a name that there may be none of."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._none = NULL in patterns
        self._some = [re.compile(translate(one.lower())) for one in patterns if one != NULL]

    def holds(self, text: str) -> bool:
        if not text:
            return self._none
        lower = text[:_LENGTH].lower()
        return any(one.match(lower) for one in self._some)


class _Rule:
    """A rule, its conditions made ready."""

    __slots__ = ("config", "network", "sender", "user")

    def __init__(self, config: RuleConfig) -> None:
        self.config = config
        self.sender = _Condition(config.sender) if config.sender else None
        self.user = _Condition(config.user) if config.user else None
        self.network = network(config.pattern)

    def takes(self, origin: Origin) -> bool:
        if self.config.source not in ("", origin.source):
            return False
        if self.sender is None and self.user is None:
            return True
        return (
            origin.known
            and (self.sender is None or self.sender.holds(origin.sender))
            and (self.user is None or self.user.holds(origin.user))
        )


class Rules:
    """The rules of a configuration for one direction, indexed."""

    def __init__(self, rules: Sequence[RuleConfig], direction: str = "to", channel: str = "") -> None:
        """
        @param channel: only rules for any channel or this one; "" = all.
        """
        self._rules: dict[int, _Rule] = {}
        self._by_pattern: dict[str, list[int]] = defaultdict(list)
        self._by_labels: dict[int, list[tuple[int, list[str]]]] = defaultdict(list)  # those with stars, by length
        self._networks: list[tuple[int, Network]] = []
        for index, config in enumerate(rules):
            if config.direction != direction or (channel and config.channel not in ("", channel)):
                continue
            self._rules[index] = rule = _Rule(config)
            pattern = config.pattern.lower()
            if rule.network is not None:
                self._networks.append((index, rule.network))
            elif pattern != "*" and "*" in pattern:
                labels = pattern.split(".")
                self._by_labels[len(labels)].append((index, labels))
            else:
                self._by_pattern["." if pattern == "*" else canonical(pattern)].append(index)

    def __bool__(self) -> bool:
        return bool(self._rules)

    def rule(self, index: int) -> RuleConfig:
        """The rule at a place in the configuration, from 0; one of this direction."""
        return self._rules[index].config

    def match(self, local: str, domain: str, origin: Origin) -> Match | None:
        """
        The first rule for C{local@domain}.

        @param domain: lower case; an address literal with its brackets.
        @return: C{None} when no rule matches.
        """
        found = [index for pattern in _patterns(canonical(domain)) for index in self._first(pattern, origin)]
        if self._by_labels or self._networks:
            found += self._by_one(domain, origin)
        if not found:
            return None
        index = min(found)
        rule = self._rules[index].config
        address = _rewritten(rule, local, domain) if rule.address else f"{local}@{domain}"
        return Match(rule=rule, number=index + 1, address=address, host=rule.host or address.rpartition("@")[2])

    def _first(self, pattern: str, origin: Origin) -> Iterator[int]:
        """The first rule with that pattern that takes mail from there, if any."""
        for index in self._by_pattern.get(pattern, ()):
            if self._rules[index].takes(origin):
                yield index
                return

    def _by_one(self, domain: str, origin: Origin) -> Iterator[int]:
        """The first rule of those with stars or networks."""
        if domain.startswith("["):
            address = literal(domain)
            for index, network in self._networks:
                if address is not None and address in network and self._rules[index].takes(origin):
                    yield index
                    return
            return
        labels = domain.split(".")
        for index, wanted in self._by_labels.get(len(labels), ()):
            if all(one in ("*", label) for one, label in zip(wanted, labels, strict=True)) and self._rules[index].takes(
                origin
            ):
                yield index
                return


def literal(domain: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address of an address literal (RFC 5321 s.4.1.3), C{None} when it is none that we know."""
    text = domain[1:-1]
    try:
        return ipaddress.ip_address(text[5:] if text[:5].lower() == "ipv6:" else text)
    except ValueError:
        return None


def canonical(domain: str) -> str:
    """An address literal in the one way rules are indexed by; anything else as it is."""
    if not domain.startswith("["):
        return domain
    address = literal(domain)
    return domain if address is None else f"[{address}]"


def network(pattern: str) -> Network | None:
    """The network that a pattern is; C{None} when it is none."""
    if not pattern.startswith("[") or "/" not in pattern:
        return None
    text = pattern[1:-1]
    return ipaddress.ip_network(text[5:] if text[:5].lower() == "ipv6:" else text)


def _patterns(domain: str) -> Iterator[str]:
    """Every pattern that C{domain} matches, but for stars and networks."""
    yield domain
    if domain.startswith("["):
        yield "[]"
        return
    at = domain.find(".")
    while at >= 0:
        yield domain[at:]
        at = domain.find(".", at + 1)
    yield "."


def _rewritten(rule: RuleConfig, local: str, domain: str) -> str:
    """
    The rule's address template filled in.

    C{$U} the local part, C{$0U} the same without its subaddress, C{$1U} the subaddress; C{$D} the part of the domain
    that the pattern names, C{$H} the rest in front of it with its dot (of C{*.b.example} what the stars in front stand
    for), C{$L} the literal's address, C{$$} a dollar. Anything else stays as it is.
    """
    pattern, matched = rule.pattern.lower(), domain
    if pattern in {".", "*"}:
        matched = ""
    elif pattern.startswith("."):
        matched = pattern
    elif pattern.startswith("*."):
        labels = pattern.split(".")
        stars = next((at for at, label in enumerate(labels) if label != "*"), len(labels))
        matched = "".join([f".{label}" for label in domain.split(".")[stars:]])
    values = {
        "U": local,
        "0U": local.partition("+")[0] or local,
        "1U": local.partition("+")[2],
        "D": matched.removeprefix("."),
        "H": domain[: len(domain) - len(matched)] + ("." if matched.startswith(".") else ""),
        "L": domain.strip("[]"),
        "$": "$",
    }
    local_part, at, rest = rule.address.rpartition("@")
    return _filled(local_part, values) + at + _filled(rest, values).lower()


def _filled(template: str, values: dict[str, str]) -> str:
    return _SUBSTITUTION.sub(lambda found: values.get(found.group(1).upper(), found.group()), template)
