"""
The access tables: rules in order, of which the first that fits decides. Pure.

A rule fits when each key it has fits; a key fits when one of its entries does (L{qmailpy.policy.patterns}).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import frozen

from qmailpy.config.schema import ACCESS_KEYS, AccessConfig, Config
from qmailpy.policy.lists import PREFIX, Lists
from qmailpy.policy.patterns import Matcher, Names, Networks, Several
from qmailpy.policy.ruling import Facts
from qmailpy.values import Reply

_TEXTS = {
    "port_access": "Connections from your address are not accepted here",
    "from_access": "Mail from this sender is not accepted here",
    "orig_send_access": "You may not send to this recipient",
    "send_access": "You may not send to this recipient",
    "mail_access": "This mail is not accepted here",
}
"""What is said where a rule says nothing."""


@frozen(kw_only=True)
class Step:
    """A rule that was asked, for people."""

    rule: AccessConfig
    fits: bool
    why: str  # which entries fitted, or which key did not


class Rule:
    """A rule, ready to be asked."""

    __slots__ = ("_keys", "config", "reply")

    def __init__(self, table: str, config: AccessConfig, lists: Lists) -> None:
        """@param lists: those it names (L{thd_read_lists<qmailpy.policy.lists.thd_read_lists>})."""
        self.config = config
        self._keys = tuple(
            (key, _matcher(key, getattr(config, key), lists)) for key in ACCESS_KEYS[table] if getattr(config, key)
        )
        self.reply: Reply | None = None
        if config.action in ("reject", "defer"):
            code = (421 if table == "port_access" else 450) if config.action == "defer" else 554
            if table != "port_access" and config.action == "reject":
                code = 550
            enhanced = config.code or ("4.7.1" if config.action == "defer" else "5.7.1")
            self.reply = Reply(code, enhanced, config.text or _TEXTS[table])

    def fits(self, facts: Facts) -> bool:
        """Whether it is for this."""
        return all(_match(matcher, getattr(facts, key)) for key, matcher in self._keys)

    def explain(self, facts: Facts) -> Step:
        """The same, with the reason."""
        found: list[str] = []
        for key, matcher in self._keys:
            value = getattr(facts, key)
            entry = _match(matcher, value)
            if not entry:
                shown = ", ".join(value) if isinstance(value, tuple) else value
                return Step(rule=self.config, fits=False, why=f'{key} "{shown}" fits none of its entries')
            found.append(f"{key} fits {entry}")
        return Step(rule=self.config, fits=True, why="; ".join(found) or "it is for everything")


class Table:
    """One access table."""

    __slots__ = ("name", "rules")

    def __init__(self, name: str, rules: Sequence[AccessConfig], lists: Lists) -> None:
        self.name = name
        self.rules = tuple(Rule(name, rule, lists) for rule in rules)

    def decide(self, facts: Facts) -> Rule | None:
        """The first rule that fits; C{None}: the table has nothing to say."""
        for rule in self.rules:
            if rule.fits(facts):
                return rule
        return None

    def explain(self, facts: Facts) -> list[Step]:
        """The rules that are asked, up to the one that decides."""
        steps: list[Step] = []
        for rule in self.rules:
            steps.append(rule.explain(facts))
            if steps[-1].fits:
                break
        return steps


def tables(config: Config, lists: Lists) -> Mapping[str, Table]:
    """Those that have rules, by name."""
    return {name: Table(name, rules, lists) for name in ACCESS_KEYS if (rules := getattr(config, name))}


def _match(matcher: Matcher, value: str | tuple[str, ...]) -> str:
    if isinstance(value, tuple):
        return next((found for each in value if (found := matcher.match(each))), "")
    return matcher.match(value)


def _matcher(key: str, entries: Sequence[str], lists: Lists) -> Matcher:
    networks = key == "client"
    own = [entry for entry in entries if not entry.startswith(PREFIX)]
    made: Matcher = Networks(own) if networks else Names(own)
    named = [entry for entry in entries if entry.startswith(PREFIX)]
    if not named:
        return made
    parts = [(f"{entry} ", lists[entry.removeprefix(PREFIX), networks]) for entry in named]
    return Several([("", made), *parts])
