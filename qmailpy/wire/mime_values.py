"""
Values of MIME fields: C{text/plain; charset="utf-8"; name*0=...} (RFC 2045 s.5.1, RFC 2231); encoded words (RFC 2047).

Reading is linear, bounded and never fails: what is no parameter is passed over, what cannot be decoded has U+FFFD.
Charsets are those of an open list: some codecs Python has take quadratic time, or unpack what is packed.
"""

from __future__ import annotations

import binascii
import codecs
import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from attrs import Factory, frozen

from qmailpy.wire.headers import find

VALUE = 65536
"""Characters of a field's value that are looked at."""

PARAMETERS = 200
"""Parameters, segments of RFC 2231 counted each, that are looked at."""

LENGTH = 8192
"""Characters of one parameter."""

SUBJECT = 80
"""Characters of a Subject that the log keeps."""

# Each alternative begins with another character, so there is one way to match and the whole is linear.
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)(?:"|\Z)|;|=|[^\s;="(\\]+|\(|\\.?', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_COMMENT = re.compile(r"[()]|\\.", re.DOTALL)
_SEGMENT = re.compile(r"([^*]+)(?:\*(\d{1,4}))?(\*)?")
_WORD = re.compile(r"=\?([^?\s*]{1,40})(?:\*[^?\s]{0,40})?\?([bBqQ])\?([^?\s]*)\?=")
_CHARSET = re.compile(
    r"utf-?(8|16|32|16le|16be|32le|32be)|us-ascii|ascii|(iso-?)?8859-?\d{1,2}|latin-?\d{1,2}|(windows-|cp)\d{3,4}"
    r"|koi8-[rut]|gb2312|gbk|gb18030|big5(-?hkscs)?|hz-gb-2312|euc-?(jp|kr|cn)|ks_c_5601-1987|iso-2022-(jp(-[123])?|kr)"
    r"|shift[_-]?jis|s-?jis|tis-620|mac-?(roman|cyrillic|greek)|macintosh"
)
_ALIASES = {"ks_c_5601-1987": "cp949", "macintosh": "mac-roman", "iso-8859-8-i": "iso-8859-8"}


@frozen(kw_only=True)
class FieldValue:
    """A value with parameters."""

    main: str  # "text/plain", in lower case
    parameters: Mapping[str, str] = Factory(dict)  # by lower-case name, decoded; the first of equal names
    others: tuple[tuple[str, str], ...] = ()  # what was given besides of those names: other readers may prefer it


@lru_cache(maxsize=256)
def codec(charset: str) -> str:
    """Python's name of a charset, C{""} when it is not known or not to be trusted."""
    name = charset.strip().lower()[:40]
    name = _ALIASES.get(name, name)
    if not _CHARSET.fullmatch(name):
        return ""
    try:
        return codecs.lookup(name).name
    except LookupError:
        return ""


def decode(octets: bytes, charset: str) -> str:
    """Text of octets; a charset that is not known counts as UTF-8, then as ISO 8859-1. Never fails."""
    known = codec(charset)
    if known:
        return octets.decode(known, "replace")
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        return octets.decode("latin-1")


def parse_value(text: str) -> FieldValue:
    """
    The value of Content-Type, Content-Disposition and their like.

    @param text: unfolded.
    """
    if ";" not in text and '"' not in text and "(" not in text:
        return FieldValue(main=text.strip().lower())
    text = text[:VALUE]
    first = ""
    plain: dict[str, str] = {}
    others: list[tuple[str, str]] = []
    segments = _Segments()
    for number, words in enumerate(_items(text)):
        if number == 0:
            first = "".join(words).strip().lower()
            continue
        if number > PARAMETERS:
            break
        if len(words) < 3 or words[1] != "=":
            continue
        name, value = words[0].lower(), "".join(words[2:])[:LENGTH]
        match = _SEGMENT.fullmatch(name)
        if match is None:
            continue
        if match[2] is None and match[3] is None:
            if plain.setdefault(name, value) != value:
                others.append((name, value))
        else:
            segments.add(match[1], int(match[2] or 0), bool(match[3]), value)
    # RFC 2231 s.3: who can read them prefers them to the plain one.
    pieced = segments.values()
    others += [(name, plain[name]) for name, value in pieced.items() if plain.get(name, value) != value]
    return FieldValue(main=first, parameters={**plain, **pieced}, others=tuple(others))


def _items(text: str) -> list[list[str]]:
    """The words of each part between semicolons; a C{=} is a word."""
    items: list[list[str]] = [[]]
    at = 0
    while match := _TOKEN.search(text, at):
        at = match.end()
        word = match[0]
        if word == ";":
            if len(items) > PARAMETERS + 1:
                break
            items.append([])
        elif word == "(":
            at = _behind_comment(text, at)
        elif word.startswith('"'):
            items[-1].append(_ESCAPE.sub(r"\1", match[1]))
        else:
            items[-1].append(word)
    return items


def _behind_comment(text: str, at: int) -> int:
    """The end of a comment (RFC 5322 s.3.2.2), which may have others in it."""
    depth = 1
    for match in _COMMENT.finditer(text, at):
        depth += {"(": 1, ")": -1}.get(match[0], 0)
        if depth == 0:
            return match.end()
    return len(text)


class _Segments:
    """Parameters in pieces (RFC 2231 s.3 and 4)."""

    def __init__(self) -> None:
        self._found: dict[str, dict[int, tuple[bool, str]]] = {}

    def add(self, name: str, number: int, encoded: bool, value: str) -> None:
        self._found.setdefault(name, {}).setdefault(number, (encoded, value))

    def values(self) -> dict[str, str]:
        return {name: _joined(pieces) for name, pieces in self._found.items()}


def _joined(pieces: dict[int, tuple[bool, str]]) -> str:
    charset, octets, length = "", [], 0
    for number in range(len(pieces)):  # up to the first that is missing
        piece = pieces.get(number)
        if piece is None or length > LENGTH:
            break
        encoded, value = piece
        if number == 0 and encoded:
            head, first, rest = value.partition("'")
            _, second, tail = rest.partition("'")
            if first and second:
                charset, value = head, tail
        length += len(value)
        octets.append(
            unquote_to_bytes(value.encode("utf-8", "replace")) if encoded else value.encode("utf-8", "replace")
        )
    return decode(b"".join(octets), charset)[:LENGTH]


def decode_words(text: str) -> str:
    """
    An unstructured value with its encoded words read (RFC 2047); what is none stays as it is.

    Words of the same charset side by side are one text, since some software cuts within a character.
    """
    if "=?" not in text:
        return text
    text = text[:VALUE]
    out: list[str] = []
    pending: list[bytes] = []
    charset, at = "", 0

    def flush() -> None:
        if pending:
            out.append(decode(b"".join(pending), charset))
            pending.clear()

    for match in _WORD.finditer(text):
        between = text[at : match.start()]
        octets = _word(match[2], match[3])
        if octets is None:
            continue
        adjacent = bool(pending) and not between.strip()  # RFC 2047 s.6.2: blanks between words are none
        if not adjacent or match[1].lower() != charset:
            flush()
        if not adjacent:
            out.append(between)
        charset = match[1].lower()
        pending.append(octets)
        at = match.end()
    flush()
    out.append(text[at:])
    return "".join(out)


def subject_of(value: str) -> str:
    """
    A Subject for the log: encoded words read, blanks and line ends one blank each, at most L{SUBJECT} characters.

    @param value: as it stands in the header, unfolded.
    """
    return " ".join(decode_words(value[: 8 * SUBJECT]).split())[:SUBJECT] if value else ""


def subject_in(content: bytes) -> str:
    """L{subject_of} a message of our own making."""
    return subject_of(find(content[:VALUE], "subject").get("subject", ""))


def _word(encoding: str, text: str) -> bytes | None:
    octets = text.encode("utf-8", "replace")
    if encoding in "qQ":
        return binascii.a2b_qp(octets, header=True)
    try:
        return binascii.a2b_base64(octets + b"=" * (-len(octets) % 4))
    except binascii.Error:
        return None
