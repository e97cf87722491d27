"""
Single keys of a configuration: looked up, and changed in its text with the comments kept.

A key is written C{server.hostname}, C{channel.tcp_local.relay}, C{listener.smtp.endpoint} (an element of an array of
tables by its C{name}) or C{rewrite.1.channel} (by its number, from 1).
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping
from typing import Any

import attrs
import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT, Table

from qmailpy.config.load import ARRAYS, TABLES
from qmailpy.config.schema import ACCESS_KEYS, ChannelConfig, Config
from qmailpy.errors import CommandError


def tree(config: Config) -> dict[str, Any]:
    """The effective configuration, defaults included, as plain dicts and lists in the order of the template."""
    found: dict[str, Any] = {name: _plain(getattr(config, name)) for name in TABLES}
    found["listener"] = [_plain(listener) for listener in config.listeners]
    found["channel"] = {
        name: {key: value for key, value in _plain(channel).items() if key != "name"}
        for name, channel in config.channels.items()
    }
    found["rewrite"] = [_plain(rule) for rule in config.rules]
    found["destination"] = [_plain(one) for one in config.destinations]
    found["conversion"] = [_plain(one) for one in config.selections]
    found["dnslist"] = [_plain(one) for one in config.dnslists]
    for name in ACCESS_KEYS:
        found[name] = [_plain(rule) for rule in getattr(config, name)]
    return found


def _plain(value: Any) -> dict[str, Any]:
    return {
        key: list(found) if isinstance(found, tuple) else found
        for key, found in attrs.asdict(value, recurse=False).items()
        if key != "line"  # of the file, no key in it
    }


def lookup(config: Config, key: str) -> Any:
    """
    The effective value of a key, or a whole table.

    @raise CommandError: there is no such key.
    """
    found: Any = tree(config)
    done: list[str] = []
    for part in key.split("."):
        names: list[str]
        if isinstance(found, dict):
            names = list(found)
            inner = found.get(part)
        elif done and done[0] in ARRAYS and isinstance(found, list) and len(done) == 1:
            names = [str(element.get("name", number)) for number, element in enumerate(found, 1)]
            inner = next((element for name, element in zip(names, found, strict=True) if name == part), None)
        else:
            raise CommandError(f"there is no key {key}: {'.'.join(done)} is a value")
        if inner is None:
            raise CommandError(f"there is no key {key}{_nearest(part, names)}")
        found = inner
        done.append(part)
    return found


def _nearest(part: str, names: list[str]) -> str:
    close = difflib.get_close_matches(part, names, n=1)
    if close:
        return f'; did you mean "{close[0]}"?'
    return "; known here are " + ", ".join(names) if names else ""


def value_from_text(key: str, text: str) -> object:
    """
    A value as it is typed on a command line, turned into what the key takes.

    Text stands as it is; lists are written with commas between (C{127.0.0.0/8,::1/128}) or as in the file
    (C{["a", "b"]}).

    @raise CommandError: there is no such key, or the text is no such value.
    """
    kind = _kind(key)
    try:
        if typing.get_origin(kind) is tuple:
            if text.lstrip().startswith("["):
                return tomlkit.parse(f"v = {text}").unwrap()["v"]
            inner = typing.get_args(kind)[0]
            return [inner(part.strip()) for part in text.split(",") if part.strip()]
        if kind is bool:
            return {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}[text.lower()]
        return kind(text)
    except (ValueError, KeyError, TOMLKitError):
        words = {bool: "true or false", int: "a whole number", float: "a number"}
        raise CommandError(f'{key} takes {words.get(kind, "a list")}, not "{text}"') from None


def _kind(key: str) -> Any:
    """The schema's type of a key."""
    parts = key.split(".")
    shape = {**TABLES, **ARRAYS, "channel": ChannelConfig}.get(parts[0])
    depth = 2 if parts[0] in TABLES else 3
    if shape is None:
        raise CommandError(f"there is no key {key}{_nearest(parts[0], [*TABLES, *ARRAYS, 'channel'])}")
    hints = typing.get_type_hints(shape)
    if len(parts) == depth and parts[-1] in hints and not (parts[0] == "channel" and parts[-1] == "name"):
        return hints[parts[-1]]
    if len(parts) < depth:
        example = {1: f"{parts[0]}.NAME.KEY", 2: f"{key}.KEY"}[len(parts)] if depth == 3 else f"{key}.KEY"
        raise CommandError(f"{key} is a table; name a key in it, as {example}")
    raise CommandError(f"there is no key {key}{_nearest(parts[-1], list(hints))}")


def changed(text: str, values: Mapping[str, object]) -> str:
    """
    A configuration text with some keys set; everything else, comments too, stays as it was.

    The result is not checked here: it is the caller's to parse it before it is used.

    @raise CommandError: a key names a table that is not there, or the text is no TOML.
    """
    try:
        document = tomlkit.parse(text)
    except TOMLKitError as error:
        raise CommandError(f"the configuration is no TOML: {error}") from None
    for key, value in values.items():
        _kind(key)
        *where, last = key.split(".")
        _table(document, where, key)[last] = value
    return tomlkit.dumps(document)


def _table(document: tomlkit.TOMLDocument, where: list[str], key: str) -> Table:
    """The table that holds C{key}; made when it is one of those there is one of."""
    found: Any = document
    for depth, part in enumerate(where):
        if isinstance(found, AoT):
            names = [str(element.get("name", number)) for number, element in enumerate(found.body, 1)]
            if part not in names:
                raise CommandError(f"there is no key {key}{_nearest(part, names)}")
            found = found.body[names.index(part)]
        elif part in found:
            found = found[part]
        elif depth == 0 and part in TABLES:
            found[part] = tomlkit.table()
            found = found[part]
        else:
            names = [str(name) for name in found]
            raise CommandError(f"there is no key {key}{_nearest(part, names)}")
    if not isinstance(found, Table):
        raise CommandError(f"there is no key {key}: {'.'.join(where)} is no table")
    return found
