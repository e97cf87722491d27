"""
The line of every key of a TOML text, which L{tomllib} does not tell.

A linear scan of a text that tomllib has already accepted: it knows just enough of TOML to step over values (strings of
the four kinds, arrays, inline tables, comments). Keys inside inline tables are not listed; look up what holds them.
"""

from __future__ import annotations

import re
import tomllib

Path = tuple[str | int, ...]
"""Keys from the top of the file; an element of an array of tables is its number from 0."""

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*+")
_KEY = re.compile(r"""[ \t]*(?:"((?:[^"\\\n]|\\.)*+)"|'([^'\n]*)'|([A-Za-z0-9_-]+))[ \t]*""")
_PLAIN = re.compile(r"""[^"'\[\]{}#\n]+""")


def _key(text: str, at: int) -> tuple[tuple[str, ...], int]:
    """The dotted key at C{at} and where it ends."""
    parts = []
    while match := _KEY.match(text, at):
        basic, literal, bare = match.groups()
        if basic is not None:
            parts.append(_unescaped(basic))
        else:
            parts.append(literal if literal is not None else bare)
        at = match.end()
        if text[at : at + 1] != ".":
            break
        at += 1
    return tuple(parts), at


def _unescaped(basic: str) -> str:
    """What stands between the quotes of a basic string."""
    if "\\" not in basic:
        return basic
    try:
        return str(tomllib.loads(f'k = "{basic}"')["k"])
    except tomllib.TOMLDecodeError:
        return basic


def _string_end(text: str, at: int) -> int:
    """Where the string that begins at C{at} ends."""
    quote = text[at]
    triple = quote * 3
    closing = triple if text.startswith(triple, at) else quote
    at += len(closing)
    while at < len(text):
        if quote == '"' and text[at] == "\\":
            at += 2
        elif text.startswith(closing, at):
            at += len(closing)
            while len(closing) == 3 and text[at : at + 1] == quote:  # """a"""" ends with a quote of its own
                at += 1
            return at
        else:
            at += 1
    return at


def _value_end(text: str, at: int) -> int:
    """Where the value that begins at C{at} ends: the end of its last line."""
    depth = 0
    while at < len(text):
        match = _PLAIN.match(text, at)
        if match:
            at = match.end()
            continue
        character = text[at]
        if character in "\"'":
            at = _string_end(text, at)
            continue
        if character == "#":
            end = text.find("\n", at)
            at = len(text) if end < 0 else end
            continue
        if character == "\n" and depth == 0:
            return at
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(character, 0)
        at += 1
    return at


def locate(text: str) -> dict[Path, int]:
    """
    The line, from 1, of every key and table header.

    @param text: valid TOML; of anything else some lines are told, and nothing is raised.
    """
    lines: dict[Path, int] = {}
    counts: dict[Path, int] = {}  # elements seen of each array of tables
    table: Path = ()
    line, counted, at = 1, 0, 0
    while at < len(text):
        blank = _BLANK.match(text, at)
        at = blank.end() if blank else at
        line += text.count("\n", counted, at)
        counted = at
        if at >= len(text):
            break
        if text[at] == "[":
            array = text.startswith("[[", at)
            parts, end = _key(text, at + (2 if array else 1))
            table = _resolve(parts, counts, new=array)
            for depth in range(1, len(table) + 1):
                lines.setdefault(table[:depth], line)
            at = max(end, at + 1)
            end = text.find("\n", at)
            at = len(text) if end < 0 else end
            continue
        parts, end = _key(text, at)
        for depth in range(1, len(parts) + 1):
            lines.setdefault((*table, *parts[:depth]), line)
        at = _value_end(text, max(end, at + 1))
    return lines


def _resolve(parts: tuple[str, ...], counts: dict[Path, int], *, new: bool) -> Path:
    """The path of a header, with the numbers of the array elements it stands in."""
    path: Path = ()
    for depth, part in enumerate(parts, 1):
        path = (*path, part)
        if new and depth == len(parts):
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


def locate_nearest(lines: dict[Path, int], path: Path) -> int:
    """The line of C{path}, or of the innermost thing around it that has one; 0 when nothing has."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return 0
