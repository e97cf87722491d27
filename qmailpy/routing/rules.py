"""
Rewrite rules: from a domain and a source channel to a channel, a next hop and perhaps another address.

Pure. The first rule that matches wins (docs/channels.md). Patterns: C{host.example} that host only, C{.example} any
host below it but not itself, C{[]} any address literal, C{[192.0.2.1]} that literal, C{.} or C{*} any domain. They are
indexed by pattern, so that a question costs as many look-ups as its domain has labels, however many rules there are.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from attrs import frozen

from qmailpy.config.schema import RuleConfig

_SUBSTITUTION = re.compile(r"\$([01]?[A-Za-z]|\$)")


@frozen(kw_only=True)
class Match:
    """What the rules say about an address."""

    rule: RuleConfig
    number: int  # of the rule, from 1, in the order of the configuration
    address: str  # rewritten, or as it was
    host: str  # next hop: the rule's, or the address's own domain


class Rules:
    """The rules of a configuration, indexed."""

    def __init__(self, rules: Sequence[RuleConfig]) -> None:
        self._rules = tuple(rules)
        self._by_pattern: dict[str, list[int]] = defaultdict(list)
        for index, rule in enumerate(self._rules):
            pattern = "." if rule.pattern == "*" else rule.pattern.lower()
            self._by_pattern[pattern].append(index)

    def match(self, local: str, domain: str, source: str) -> Match | None:
        """
        The first rule for mail to C{local@domain} from channel C{source}.

        @param domain: lower case; an address literal with its brackets.
        @return: C{None} when no rule matches.
        """
        found = [index for pattern in _patterns(domain) for index in self._first(pattern, source)]
        if not found:
            return None
        index = min(found)
        rule = self._rules[index]
        address = f"{local}@{domain}"
        if rule.address:
            address = _rewritten(rule, local, domain)
        return Match(rule=rule, number=index + 1, address=address, host=rule.host or address.rpartition("@")[2])

    def _first(self, pattern: str, source: str) -> Iterator[int]:
        """The first rule with that pattern that takes mail from C{source}, if any."""
        for index in self._by_pattern.get(pattern, ()):
            if self._rules[index].source in {"", source}:
                yield index
                return


def _patterns(domain: str) -> Iterator[str]:
    """Every pattern that C{domain} matches."""
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
    that the pattern matched, C{$H} the rest in front of it with its dot, C{$L} the literal's address, C{$$} a dollar.
    Anything else stays as it is.
    """
    matched = domain
    if rule.pattern in {".", "*"}:
        matched = ""
    elif rule.pattern.startswith("."):
        matched = rule.pattern.lower()
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
