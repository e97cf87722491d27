"""
MTA-STS without I/O: the TXT record that says there is a policy, and the policy (RFC 8461 s.3).

A policy is text, a C{key: value} a line::

    version: STSv1
    mode: enforce
    mx: mx1.example.org
    mx: *.mail.example.org
    max_age: 604800
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum

from attrs import frozen

OCTETS = 65536
"""Largest policy that is read (RFC 8461 s.3.3 has senders limit it)."""

MX_LIMIT = 256
"""Patterns of a policy; real ones have a few."""

LONGEST_S = 31557600
"""No policy is kept longer, whatever it says: a year (RFC 8461 s.3.2)."""

_PREFIX = "v=STSv1;"
_ID = re.compile(r"[A-Za-z0-9]{1,32}")
_FIELD = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31})=([\x21-\x3A\x3C\x3E-\x7E]+)")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


class Mode(Enum):
    """What a policy asks for."""

    ENFORCE = "enforce"  # no mail to a host that does not fit
    TESTING = "testing"  # mail goes, and what is wrong is reported
    NONE = "none"  # as if there were no policy: how a domain takes one back (RFC 8461 s.8.3)


@frozen(kw_only=True, cache_hash=True)
class StsPolicy:
    """A policy."""

    mode: Mode
    mx: tuple[str, ...]  # patterns, in lower case
    max_age_s: int
    lines: tuple[str, ...] = ()  # as published, for reports (RFC 8460 s.4.4)

    def allows(self, host: str) -> bool:
        """
        Whether a mail exchanger is one of the policy's (RFC 8461 s.4.1): a star stands for one label on the left.

        @param host: in any case, without a dot at its end.
        """
        host = host.lower()
        above = "*." + host.partition(".")[2]
        return any(pattern in (host, above) for pattern in self.mx)


def policy_id(texts: Sequence[str]) -> str:
    """
    The id of a domain's policy by its TXT records; "" when by them it has none (RFC 8461 s.3.1).

    @param texts: those of C{_mta-sts.DOMAIN}.
    """
    ours = [text for text in texts if text.startswith(_PREFIX)]
    if len(ours) != 1:
        return ""
    found = ""
    fields = ours[0][len(_PREFIX) :].split(";")
    if not fields[-1].strip(" \t"):
        fields.pop()  # the last semicolon may be there or not
    for field in fields:
        match = _FIELD.fullmatch(field.strip(" \t"))
        if match is None:
            return ""
        if match[1] == "id" and not found:
            if _ID.fullmatch(match[2]) is None:
                return ""
            found = match[2]
    return found


def parse_policy(octets: bytes) -> StsPolicy:
    """
    Read a policy; what it says twice counts as it says it first, what is not known is passed over.

    @raise ValueError: it is none; says why.
    """
    if len(octets) > OCTETS:
        raise ValueError("it is too large")
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("it is no UTF-8") from None
    found: dict[str, str] = {}
    mx: list[str] = []
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, 1):
        key, colon, value = line.partition(":")
        value = value.strip(" \t")
        if not colon or _KEY.fullmatch(key) is None or not value.isprintable():
            raise ValueError(f'line {number} is not "key: value"')
        if key == "mx":
            mx.append(_pattern(value))
        else:
            found.setdefault(key, value)
    if found.get("version") != "STSv1":
        raise ValueError("its version is not STSv1")
    try:
        mode = Mode(found.get("mode", ""))
    except ValueError:
        raise ValueError("its mode is not enforce, testing or none") from None
    age = found.get("max_age", "")
    if not (age.isascii() and age.isdecimal()) or len(age) > 10:
        raise ValueError("its max_age is no number of seconds")
    if not mx and mode is not Mode.NONE:
        raise ValueError("it names no mx")
    if len(mx) > MX_LIMIT:
        raise ValueError("it names too many mx")
    patterns = tuple(dict.fromkeys(mx))
    return StsPolicy(mode=mode, mx=patterns, max_age_s=min(int(age), LONGEST_S), lines=tuple(lines))


def _pattern(value: str) -> str:
    """
    @raise ValueError: no host name, not even with a star as its first label.
    """
    labels = value.removeprefix("*.").split(".")
    if len(value) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError(f"mx {value[:80]!r} is no host name")
    return value.lower()
