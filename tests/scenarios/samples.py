"""
Reviewed transaction logs of scenarios, and how a log is compared with one: field by field, by L{differences}.

A sample (samples/NAME.log) has a line a record as it stands in the log. What differs from run to run stands as a word
in angle brackets:

  <time>      a timestamp: 24-Nov-2026 06:00:00.00
  <process>   pid.lane.sequence: 1f3a.0.17
  <seconds>   a number with fraction: 0.031
  <port>      a port number
  <id:a>      a queue id: the same letter is the same id throughout, two letters are two ids
  <nn>        the directory it is in
  <notice>    the word a notice's Message-ID is made of
  <text>      anything, within the line

Lines that begin with C{#} are comments, empty ones are nothing. Every line of the log must be in the sample and the
other way round. Lines that name the same id must stand in the order of the sample, and so must those of connections to
us, of connections from us, and what is left; which of two messages comes first is left open.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

_KINDS = {
    "time": r"\d\d-[A-Z][a-z]{2}-\d{4} \d\d:\d\d:\d\d\.\d\d",
    "process": r"[0-9a-f]+\.[0-9a-z]+\.\d+",
    "seconds": r"\d+\.\d+",
    "port": r"\d{1,5}",
    "nn": r"[0-9a-f]{2}",
    "notice": r"[a-z-]+\.[0-9a-f]{24}",
    "text": r".*",
}
_WORD = re.compile(r"<(id:[a-z]|" + "|".join(_KINDS) + ")>")
_CONNECTION = re.compile(r"\\ (\\?[+-])\\ +(?:\\ )*[OC]\\ ")
FOLDER = os.path.join(os.path.dirname(__file__), "samples")


def sample(name: str) -> list[str]:
    """The lines of samples/NAME.log without comments."""
    with open(os.path.join(FOLDER, f"{name}.log")) as source:
        return [line.rstrip("\n") for line in source if line.strip() and not line.startswith("#")]


def _pattern(line: str) -> tuple[re.Pattern[str], list[str]]:
    """The line as a pattern, and the letters of its ids, in order."""
    pieces, letters, at = [], [], 0
    for word in _WORD.finditer(line):
        pieces.append(re.escape(line[at : word.start()]))
        if word[1].startswith("id:"):
            letters.append(word[1][3:])
            pieces.append("([0-9a-v]{15})")
        else:
            pieces.append(_KINDS[word[1]])
        at = word.end()
    pieces.append(re.escape(line[at:]))
    return re.compile("".join(pieces)), letters


def differences(expected: Sequence[str], found: Sequence[str]) -> list[str]:
    """What is different, in lines for people; nothing when the log is as the sample has it."""
    patterns = [_pattern(line) for line in expected]
    match = _match(patterns, list(found), 0, {}, {}, frozenset())
    if match is not None:
        return []
    told = [f"{len(expected)} records expected, {len(found)} found"]
    told += [
        f"in the sample only: {line}"
        for line, (one, _) in zip(expected, patterns, strict=True)
        if not any(map(one.fullmatch, found))
    ]
    told += [f"in the log only:    {line}" for line in found if not any(one.fullmatch(line) for one, _ in patterns)]
    if len(told) == 1 and len(expected) == len(found):
        told.append("each line has its like, but the order of a message's lines, or what its ids say, is another:")
        told += found
    return told


def _match(
    patterns: Sequence[tuple[re.Pattern[str], list[str]]],
    found: list[str],
    at: int,
    ids: dict[str, str],
    last: dict[str, int],
    used: frozenset[int],
) -> frozenset[int] | None:
    """Find each line of the sample its line of the log; tries what is left open."""
    if at == len(patterns):
        return used if len(used) == len(found) else None
    pattern, letters = patterns[at]
    direction = _CONNECTION.search(pattern.pattern)
    chains = letters or [direction[1] if direction else ""]
    first = max(last.get(chain, -1) for chain in chains) + 1
    for index in range(first, len(found)):
        if index in used:
            continue
        match = pattern.fullmatch(found[index])
        if match is None:
            continue
        bound = dict(ids)
        for letter, value in zip(letters, match.groups(), strict=True):
            if bound.setdefault(letter, value) != value:
                break
        else:
            if len(set(bound.values())) == len(bound):
                after = {**last, **dict.fromkeys(chains, index)}
                rest = _match(patterns, found, at + 1, bound, after, used | {index})
                if rest is not None:
                    return rest
    return None
