"""
The values in a line of the transaction log: how each is written so that the line can be read back, and read.

Words hold no blank, phrases do; what neither could hold is escaped: see L{qmailpy.records.text}.
"""

from __future__ import annotations

import re
from functools import lru_cache

from qmailpy.records.record import QueueFile

LIMIT = 1000
"""Characters of a value that are kept; a longer one ends in three dots."""

_SHORT = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ESCAPE = re.compile(r"\\(?:([\\nrt])|x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|)")
_UNSHORT = {"\\": "\\", "n": "\n", "r": "\r", "t": "\t"}
_SYSTEM = re.compile(r"([^ ]*) \(([^()]*)\)")

_DOWN = "ZYXWVUTSRQPONMLKJIHGFEDCBA9876543210"
_CODES = [a + b for a in _DOWN for b in _DOWN]
_ID_LENGTH = 15  # queue.ids.LENGTH, which records may not import

_DIGITS = "0123456789abcdefghijklmnopqrstuv"
# The sub-directory of a queue file: bits 20-25 of the message number, which two digits of the id hold.
SPLIT = {a + b: f"{(i & 1) << 5 | j:02x}" for i, a in enumerate(_DIGITS) for j, b in enumerate(_DIGITS)}


class Unreadable(ValueError):
    """A line that is not a record: torn, foreign, or written with other options."""


def _escaped(char: str, blank: bool = True) -> str:
    if char in _SHORT:
        return _SHORT[char]
    if char.isprintable() and (char != " " or not blank):
        return char
    number = ord(char)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _cut(value: str) -> str:
    return value if len(value) <= LIMIT else value[: LIMIT - 3] + "..."


def word(value: str) -> str:
    """A value that is one word."""
    value = _cut(value)
    if value.isprintable() and " " not in value and "\\" not in value:
        return value
    return "".join(map(_escaped, value))


def phrase(value: str) -> str:
    """A value that may hold blanks, but not begin with a parenthesis (a source system has one) nor end in a blank."""
    if len(value) <= LIMIT and value.isprintable() and "\\" not in value and value[:1] != "(" and value[-1:] != " ":
        return value
    body = "".join(_escaped(char, blank=False) for char in _cut(value))
    if body[:1] == "(":
        body = "\\x28" + body[1:]
    return body[:-1] + "\\x20" if body[-1:] == " " else body


@lru_cache(maxsize=1024)
def system_field(value: str) -> str:
    """The source system field. A client comes again."""
    found = _SYSTEM.fullmatch(_cut(value))
    if found is None:
        return word(value)
    return f"{word(found[1])} ({''.join(_escaped(char, blank=False) for char in found[2])})"


def plain(value: str) -> str:
    """The value that was escaped."""
    return _ESCAPE.sub(_unescape, value) if "\\" in value else value


def _unescape(found: re.Match[str]) -> str:
    if found[1]:
        return _UNSHORT[found[1]]
    digits = found[2] or found[3] or found[4]
    if not digits or int(digits, 16) > 0x10FFFF:
        raise Unreadable("broken escape")
    return chr(int(digits, 16))


def attempts_code(attempts: int) -> str:
    """
    That of a file field, as the ancestor's files are named: ZZ for none, ZY for one, ... ZA (25), Z9, ... Z0 (35), YZ,
    ... 00 (1295), then YZZ: to the base 36, with Z for 0.
    """
    if attempts < len(_CODES):
        return _CODES[max(attempts, 0)]
    return attempts_code(attempts // 36) + _DOWN[attempts % 36]


def attempts_of(code: str) -> int:
    """The attempts that L{attempts_code} stands for. @raise ValueError: it has other characters than 0-9 and A-Z."""
    number = 0
    for digit in code:
        number = number * 36 + 35 - int(digit, 36)
    return number


def file_field(file: QueueFile) -> str:
    """C{CHANNEL/NN/ZZID.RR}, and C{+} when the line goes on with an event."""
    code = attempts_code(file.attempts)
    split = SPLIT.get(file.id[7:9], "00")
    return f"{word(file.channel)}/{split}/{code}{word(file.id)}.{file.remaining:02d}{'+' if file.continued else ''}"


def file_of(field: str) -> QueueFile | None:
    """@raise Unreadable: it is no file field."""
    if not field:
        return None
    channel, split, name = field.rsplit("/", 2)
    stem, _, remaining = name.rpartition(".")
    if len(split) != 2:
        raise Unreadable("not a file field")
    cut = max(2, len(stem) - _ID_LENGTH)
    code = stem[:cut]
    if len(code) < 2 or not code.isascii() or not code.isalnum():
        raise Unreadable("not a file field")
    continued = remaining[-1:] == "+"
    return QueueFile(
        channel=plain(channel),
        id=plain(stem[cut:]),
        attempts=attempts_of(code),
        remaining=int(remaining[:-1] if continued else remaining),
        continued=continued,
    )


def user_of(field: str) -> str:
    """The login of a field that is C{*LOGIN}, or empty. @raise Unreadable: it is neither."""
    if field and field[0] != "*":
        raise Unreadable("not a user field")
    return plain(field[1:])


def take_system(left: str) -> tuple[str, str]:
    """The source system at the beginning of C{left}, and what follows it. @raise Unreadable: there is none."""
    helo, _, rest = left.partition(" ")
    if not rest.startswith("("):
        return plain(helo), rest
    end = rest.index(")")
    if rest[end + 1 : end + 2] not in {"", " "}:
        raise Unreadable("not a source system")
    return f"{plain(helo)} {plain(rest[: end + 1])}", rest[end + 2 :]


def take_quoted(left: str) -> tuple[str, str]:
    """What is in quotes at the beginning of C{left}, and what follows it. @raise Unreadable: nothing is."""
    if left[:1] != '"':
        raise Unreadable("not in quotes")
    end = left.index('"', 1)
    if left[end + 1 : end + 2] not in {"", " "}:
        raise Unreadable("not in quotes")
    return plain(left[1:end]), left[end + 2 :]
