"""
HOME/etc/conversions.toml into a L{ConversionsConfig}: read when a channel of kind conversion is configured.

Without the file there are no entries, and mail goes through as it is. The texts it names are read along, so that a
reload takes them, too.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection
from fnmatch import fnmatchcase

import attrs

from qmailpy.config.conversion_schema import ConversionsConfig, EntryConfig, StructureConfig
from qmailpy.config.problems import Problem, Reader, nearest
from qmailpy.config.tables import array, table

FILE_NAME = "conversions.toml"
MAX_OCTETS = 1024 * 1024
TEXT_OCTETS = 65536

_TEXTS = ("text", "html")


def load(directory: str, channels: Collection[str]) -> tuple[ConversionsConfig, list[Problem]]:
    """
    Read the file.

    @param directory: where it is.
    @param channels: names of all channels.
    @return: what it says, and what is wrong with it.
    """
    path = os.path.join(directory, FILE_NAME)
    try:
        with open(path, "rb") as source:
            octets = source.read(MAX_OCTETS + 1)
    except FileNotFoundError:
        return ConversionsConfig(), []
    except OSError as error:
        return ConversionsConfig(), [_problem(path, f"cannot be read: {error.strerror or error}")]
    if len(octets) > MAX_OCTETS:
        return ConversionsConfig(), [_problem(path, f"is larger than {MAX_OCTETS} octets")]
    try:
        text = octets.decode("utf-8")
        tree = tomllib.loads(text)
    except UnicodeDecodeError:
        return ConversionsConfig(), [_problem(path, "is not UTF-8; right would be text saved as UTF-8")]
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        return ConversionsConfig(), [_problem(path, f"is no TOML: {error}; see https://toml.io/en/v1.0.0")]
    reader = Reader(path, text)
    for key in tree:
        if key not in ("limits", "entry"):
            reader.add((key,), "", f"[{key}] is not known{nearest(key, ('limits', 'entry'))}")
    limits = table(reader, StructureConfig, ("limits",), tree.get("limits", {}))
    found = array(reader, EntryConfig, "entry", tree.get("entry", []))
    if reader.problems:
        return ConversionsConfig(), reader.problems
    entries = tuple([_entry(reader, number, entry, directory, channels) for number, entry in enumerate(found)])
    return ConversionsConfig(limits=limits, entries=entries), reader.problems


def _problem(path: str, text: str) -> Problem:
    return Problem(file=path, line=0, where="", text=text)


def _entry(reader: Reader, number: int, entry: EntryConfig, directory: str, channels: Collection[str]) -> EntryConfig:
    """An entry with its texts in place; what does not fit together is noted."""

    def wrong(key: str, text: str) -> None:
        reader.add(("entry", number), key, text, entry.name)

    for key in ("in_channel", "out_channel"):
        pattern = getattr(entry, key)
        if pattern and not any(fnmatchcase(name, pattern) for name in channels):
            wrong(key, f'"{pattern}" fits no channel{nearest(pattern, channels)}')
    if (entry.action == "command") != bool(entry.command):
        right = 'right would be as in command = ["/usr/local/bin/scan", "$INPUT_FILE"]'
        wrong("command", f"is missing; {right}" if not entry.command else 'is nothing without action = "command"')
    if (entry.action == "journal") != bool(entry.address):
        wrong("address", "is what the action journal needs, and no other")
    if entry.whole and entry.action in ("delete", "disclaimer", "replace", "alternative", "strip", "utf8"):
        wrong("whole", f'is nothing for action = "{entry.action}", which is for parts; right would be false')
    if entry.action == "journal" and not entry.whole:
        entry = attrs.evolve(entry, whole=True)
    if entry.whole and (entry.type or entry.file or entry.disposition or entry.body):
        wrong("whole", "is true, so type, file, disposition and body, which are about parts, must be left out")
    unread = False
    for key in _TEXTS:
        named = getattr(entry, f"{key}_file")
        if not named:
            continue
        if getattr(entry, key):
            wrong(f"{key}_file", f"is given besides {key}; right would be one of them")
            continue
        try:
            with open(os.path.join(directory, named), encoding="utf-8") as source:
                found = source.read(TEXT_OCTETS + 1)
        except (OSError, UnicodeDecodeError) as error:
            wrong(f"{key}_file", f'"{named}" cannot be read: {getattr(error, "strerror", None) or "it is not UTF-8"}')
            unread = unread or key == "text"
            continue
        if len(found) > TEXT_OCTETS:
            wrong(f"{key}_file", f'"{named}" is larger than {TEXT_OCTETS} characters')
        entry = attrs.evolve(entry, text=found) if key == "text" else attrs.evolve(entry, html=found)
    if entry.action == "disclaimer" and not entry.text and not unread:
        wrong("text", "is missing, which the action disclaimer needs; right would be text or text_file")
    return entry
