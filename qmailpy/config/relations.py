"""
What must fit together in access tables, DNS lists and rewrite rules; L{qmailpy.config.load} asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from qmailpy.config.problems import Reader, nearest
from qmailpy.config.schema import ACCESS_KEYS, AccessConfig, ChannelConfig, QueueConfig

_CHANNELS = {"hold": "hold", "discard": "bitbucket"}
"""Actions, and the kind of channel that mail then goes to."""


@frozen(kw_only=True)
class _Known:
    """What rules may name."""

    kinds: frozenset[str]  # of channels
    words: Mapping[str, Sequence[str]]  # by key: what there is


def access(reader: Reader, tree: Mapping[str, Any], arrays: Mapping[str, Sequence[Any]]) -> None:
    """
    Note what does not fit.

    @param tree: the file.
    @param arrays: the elements without problems of their own, by the name of the array.
    """
    channels = {name: raw.get("kind") for name, raw in _tables(tree.get("channel")).items()}
    listeners = [raw["name"] for raw in _elements(tree.get("listener")) if isinstance(raw.get("name"), str)]
    known = _Known(
        kinds=frozenset(str(kind) for kind in channels.values()),
        words={"listener": listeners, "source": list(channels), "destination": list(channels)},
    )
    for table, keys in ACCESS_KEYS.items():
        # By their lines: elements with problems of their own are missing.
        numbers = {reader.line((table, number)): number for number, _ in enumerate(_elements(tree.get(table)))}
        for rule in arrays[table]:
            _rule(reader, (table, numbers[rule.line]), keys, rule, known)
    seen: set[str] = set()
    for number, raw in enumerate(_elements(tree.get("dnslist"))):
        zone = str(raw.get("zone")).lower()
        if zone in seen:
            reader.add(("dnslist", number), "zone", f'"{raw.get("zone")}" is there twice; right would be once')
        seen.add(zone)


def _tables(found: object) -> dict[str, dict[str, Any]]:
    return {key: one for key, one in found.items() if isinstance(one, dict)} if isinstance(found, dict) else {}


def _elements(found: object) -> list[dict[str, Any]]:
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _rule(reader: Reader, path: tuple[str, int], keys: Sequence[str], rule: AccessConfig, known: _Known) -> None:
    table = path[0]
    for key in ACCESS_KEYS["mail_access"]:
        entries: tuple[str, ...] = getattr(rule, key)
        if entries and key not in keys:
            later = next(name for name in ("from_access", "mail_access") if key in ACCESS_KEYS[name])
            text = f"is not looked at by {table}, which has {', '.join(keys)}; right would be [[{later}]]"
            reader.add(path, key, text)
        words = known.words.get(key)
        for entry in entries if words is not None else ():
            if "*" not in entry and not entry.startswith("list:") and words is not None and entry not in words:
                reader.add(path, key, f'there is no "{entry}"{nearest(entry, words)}')
    for key, actions in (("text", ("reject", "defer")), ("code", ("reject", "defer")), ("tag", ("tag",))):
        if getattr(rule, key) and rule.action not in actions:
            reader.add(path, key, f'is nothing with action "{rule.action}"; right would be "{actions[0]}"')
    if rule.action == "tag" and not rule.tag:
        reader.add(path, "tag", 'is missing; right would be a name, as in tag = "suspicious"')
    if rule.code and rule.action in ("reject", "defer"):
        wanted = "5" if rule.action == "reject" else "4"
        if not rule.code.startswith(wanted):
            right = f'right would be "{wanted}{rule.code[1:]}"'
            reader.add(path, "code", f'"{rule.code}" does not go with action "{rule.action}"; {right}')
    kind = _CHANNELS.get(rule.action)
    if kind is not None and kind not in known.kinds:
        text = f'needs a channel of kind "{kind}"; right would be [channel.{kind}] with kind = "{kind}"'
        reader.add(path, "action", text)


def keywords(reader: Reader, channel: str, values: object) -> object:
    """The table of a channel with C{maxjobs}, iMTA's word, as the C{concurrency} it is."""
    if not isinstance(values, dict) or "maxjobs" not in values:
        return values
    if "concurrency" in values:
        reader.add(("channel", channel), "maxjobs", "is the same as concurrency; right would be one of them")
    return {("concurrency" if key == "maxjobs" else key): value for key, value in values.items()}


def limits(
    reader: Reader, channels: Mapping[str, ChannelConfig], names: Sequence[str], queue: QueueConfig | None
) -> None:
    """
    Limits of channels that could not be reached, or lead nowhere.

    @param names: of all channels, also those with problems of their own.
    """
    for name, channel in channels.items():
        if queue is not None and channel.maxreceived >= queue.received:
            text = f"is never reached: mail with more than {queue.received} is refused ([queue] received)"
            reader.add(("channel", name), "maxreceived", f"{text}; right would be less")
        target = channel.expandchannel
        if target and target not in names:
            reader.add(("channel", name), "expandchannel", f'there is no channel "{target}"{nearest(target, names)}')
        elif target in channels and channels[target].kind not in ("process", "reprocess"):
            text = f'"{target}" is of kind "{channels[target].kind}"; right would be one of kind "reprocess"'
            reader.add(("channel", name), "expandchannel", text)


def logins(reader: Reader, tree: Mapping[str, Any]) -> None:
    """A login has a name and a password."""
    for number, raw in enumerate(_elements(tree.get("destination"))):
        for key, other in (("user", "password_file"), ("password_file", "user")):
            if raw.get(key) and not raw.get(other):
                reader.add(("destination", number), key, f"is nothing without {other}")


def rewriting(reader: Reader, tree: Mapping[str, Any], channels: Sequence[str]) -> None:
    """Rules say where recipients lead, or what senders become: each direction needs its own keys."""
    for number, raw in enumerate(_elements(tree.get("rewrite"))):
        path = ("rewrite", number)
        if raw.get("direction", "to") == "to":
            if "channel" not in raw:
                reader.add(path, "channel", "is missing; right would be a line channel = ...")
            elif raw["channel"] == "":
                reader.add(path, "channel", f"is empty{nearest('', channels)}")
        elif raw.get("direction") == "from":
            if not raw.get("address"):
                text = 'is missing, which direction = "from" needs; right would be as in address = "$U@example.org"'
                reader.add(path, "address", text)
            if raw.get("host"):
                reader.add(path, "host", 'is nothing with direction = "from"; right would be a line without it')
