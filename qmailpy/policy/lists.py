"""
Lists in files, for access rules: C{"list:FILE"} in a rule, FILE relative to the directory of the configuration.

An entry a line; blank lines are skipped, and what follows a "#" at the beginning of a line or behind a blank. Read at
the start and when the configuration is read again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from attrs import fields, frozen

from qmailpy.config.load import config_path
from qmailpy.config.schema import ACCESS_KEYS, AccessConfig, Config
from qmailpy.errors import ConfigError
from qmailpy.policy.patterns import Matcher, Names, Networks

PREFIX = "list:"
MAX_OCTETS = 64 * 1024 * 1024
"""Largest list that is read; a million entries have 20 MiB."""

Lists = Mapping[tuple[str, bool], Matcher]
"""By file name and whether its entries are networks."""


@frozen(kw_only=True)
class _Wanted:
    """A list that a rule names."""

    name: str
    networks: bool
    table: str
    rule: AccessConfig


def _wanted(config: Config) -> Iterable[_Wanted]:
    for table in ACCESS_KEYS:
        for rule in getattr(config, table):
            for field in fields(AccessConfig):
                value = getattr(rule, field.name)
                for entry in value if isinstance(value, tuple) else ():
                    if entry.startswith(PREFIX):
                        name = entry.removeprefix(PREFIX)
                        yield _Wanted(name=name, networks=field.name == "client", table=table, rule=rule)


def thd_read_lists(config: Config, *, strict: bool = True) -> Lists:
    """
    Read every list the access rules name. Blocks.

    @param strict: false: a list that cannot be used is one without entries.
    @raise ConfigError: some cannot be used; names every problem, with the place of the rule.
    """
    found: dict[tuple[str, bool], Matcher] = {}
    problems: list[str] = []
    path = config_path(config.home)
    for one in _wanted(config):
        key = (one.name, one.networks)
        if key in found:
            continue
        file = os.path.join(os.path.dirname(path), one.name)
        try:
            found[key] = _thd_read(file, one.networks)
        except OSError as error:
            where = f"{path}:{one.rule.line}: [[{one.table}]]"
            problems.append(f"{where}: {file}: cannot be read: {error.strerror or error}")
        except ValueError as error:
            problems.append(f"{file}{error}")
        found.setdefault(key, Names(()))
    if problems and strict:
        raise ConfigError(tuple(problems))
    return found


def _thd_read(file: str, networks: bool) -> Matcher:
    """@raise ValueError: an entry is wrong; the text is ":LINE: what"."""
    with open(file, "rb") as source:
        octets = source.read(MAX_OCTETS + 1)
    if len(octets) > MAX_OCTETS:
        raise ValueError(f": is larger than {MAX_OCTETS} octets")
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        raise ValueError(f":{line}: is not UTF-8; right would be text saved as UTF-8") from None
    made: list[Matcher] = []
    entries = list(_entries(text))
    if not networks:
        return Names(entry for _, entry in entries)
    try:
        return Networks(entry for _, entry in entries)
    except ValueError:
        for number, entry in entries:
            try:
                made.append(Networks([entry]))
            except ValueError:
                shown = "".join(c if c.isprintable() else "?" for c in entry[:60])
                raise ValueError(f':{number}: "{shown}" is no network; right would be as in "10.0.0.0/8"') from None
        raise


def _entries(text: str) -> Iterable[tuple[int, str]]:
    """(line, entry)"""
    for number, line in enumerate(text.split("\n"), 1):
        entry = line.partition(" #")[0].partition("\t#")[0].strip()
        if entry and not entry.startswith("#"):
            yield number, entry
