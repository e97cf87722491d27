"""
Address lists of header fields: RFC 5322 s.3.4 with the obsolete forms of s.4.4, as people and programs write them.

For mail of our own users (C{inject}, C{sendmail}); the envelope of other mail never comes from its header. The field is
taken apart into words, marks, quoted strings, comments and literals in one pass, then into addresses in another;
nothing recurses (comments nest by a counter), so time and memory are linear in the length, and both are bounded. What
cannot be understood is told with its place, and reading goes on behind the next comma.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from attrs import frozen

from qmailpy.values import Reply
from qmailpy.wire.address import join, parse_mailbox

OCTETS = 4 * 1024 * 1024
"""Longest field that is read."""

ADDRESSES = 100_000
"""More addresses than this in one field are not read."""


@frozen(kw_only=True)
class Listed:
    """One address of a list."""

    address: (
        str  # canonical, as L{qmailpy.wire.address} has it; a local part alone when it was written without a domain
    )
    qualified: bool  # whether it was written with a domain
    name: str  # display name or, failing that, the comment behind; unquoted, "" when there is none
    group: str  # display name of the group it is in, "" when in none
    end: int  # where its last octet is followed, in octets of the field: there a missing @domain can be put


@frozen(kw_only=True)
class Trouble:
    """A piece of a list that is no address."""

    at: int  # octet of the field
    text: str  # what is wrong, and with what


@frozen(kw_only=True)
class AddressList:
    """What a field holds."""

    addresses: tuple[Listed, ...]
    troubles: tuple[Trouble, ...]


class _Token(NamedTuple):
    kind: str  # "w" word, "q" quoted string, "l" literal, "c" comment, or the mark itself: one of , ; : < > @ .
    text: str  # what it stands for: of "q" and "c" without the quotes and backslashes
    start: int
    end: int


_WORD = re.compile(
    r"[^\s(),;:<>@.\[\]\"\\\x00-\x1f]+", re.ASCII
)  # ASCII: a no-break space is part of a UTF-8 letter here
_BLANKS = re.compile(r"\s+", re.ASCII)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*+)"', re.DOTALL)
_LITERAL = re.compile(r"\[((?:[^\[\]\\]|\\.)*+)\]", re.DOTALL)
_COMMENT_PART = re.compile(r"[^()\\]+")
_PAIR = re.compile(r"\\(.)", re.DOTALL)
_LINE = re.compile(r"\r?\n")


def parse_list(value: bytes) -> AddressList:
    """
    The addresses of a field's value.

    @param value: raw, folding and all.
    """
    troubles: list[Trouble] = []
    if len(value) > OCTETS:
        troubles.append(Trouble(at=OCTETS, text=f"the field is longer than {OCTETS} octets"))
        value = value[:OCTETS]
    parser = _Parser(troubles)
    for token in _tokens(value.decode("latin-1"), troubles):
        if not parser.take(token):
            break
    parser.finish(len(value))
    troubles.sort(key=lambda trouble: trouble.at)
    return AddressList(addresses=tuple(parser.found), troubles=tuple(troubles))


def _decoded(text: str) -> str:
    """Octets that were read as Latin-1 to keep their places, as the UTF-8 they are."""
    return text if text.isascii() else text.encode("latin-1").decode("utf-8", "replace")


def _tokens(text: str, troubles: list[Trouble]) -> Sequence[_Token]:
    found: list[_Token] = []
    at = 0
    while at < len(text):
        character = text[at]
        match = None
        kind = ""
        if character in ",;:<>@.":
            found.append(_Token(character, character, at, at + 1))
            at += 1
            continue
        if character == "(":
            comment, end = _comment(text, at)
            if end < 0:
                troubles.append(Trouble(at=at, text="a comment is not closed"))
                break
            found.append(_Token("c", " ".join(_decoded(comment).split()), at, end))
            at = end
            continue
        if character == '"':
            match, kind = _QUOTED.match(text, at), "q"
        elif character == "[":
            match, kind = _LITERAL.match(text, at), "l"
        elif match := _BLANKS.match(text, at):
            at = match.end()
            continue
        else:
            match, kind = _WORD.match(text, at), "w"
        if match is None:
            what = {"q": "a quoted string", "l": "an address literal"}.get(kind)
            if what:  # never closed: nothing behind it can be told apart
                troubles.append(Trouble(at=at, text=f"{what} is not closed"))
                break
            troubles.append(Trouble(at=at, text="a character that cannot be here"))
            at += 1
            continue
        inner = match[1] if kind in "ql" else match[0]
        if kind == "q":
            inner = _PAIR.sub(r"\1", _LINE.sub("", inner))
        found.append(_Token(kind, _decoded(inner), at, match.end()))
        at = match.end()
    return found


def _comment(text: str, at: int) -> tuple[str, int]:
    """The comment at C{at} without its outer parentheses, and where it ends; -1 when it does not."""
    pieces: list[str] = []
    depth = 0
    start = at
    while at < len(text):
        character = text[at]
        if character == "\\":
            pieces.append(text[at + 1 : at + 2])
            at += 2
            continue
        if character in "()":
            depth += 1 if character == "(" else -1
            at += 1
            if depth == 0:
                return "".join(pieces), at
            if at > start + 1:
                pieces.append(character)
            continue
        match = _COMMENT_PART.match(text, at)
        assert match is not None
        pieces.append(match[0])
        at = match.end()
    return "", -1


class _Parser:
    """Tokens into addresses: what stands between two commas is looked at as a whole."""

    def __init__(self, troubles: list[Trouble]) -> None:
        self.found: list[Listed] = []
        self.troubles = troubles
        self.tokens: list[_Token] = []  # since the last separator, comments apart
        self.comment = ""
        self.group: str | None = None
        self.angle = -1  # place of the "<" in tokens, -1 when there is none
        self.closed = False  # whether its ">" has been seen
        self.route = False  # in an obsolete source route, <@a,@b:c@d>, whose commas do not separate (RFC 5322 s.4.4)

    def take(self, token: _Token) -> bool:
        """@return: whether more is wanted."""
        open_angle = self.angle >= 0 and not self.closed
        if token.kind == "c":
            self.comment = token.text
        elif token.kind == "," and not self.route:
            self.finish(token.start)
        elif token.kind == ";":
            self.finish(token.start)
            if self.group is None:
                self._trouble(token.start, "a semicolon without a group")  # some use it for a comma
            self.group = None
        elif token.kind == ":" and not open_angle:
            if self.group is not None:
                self._trouble(token.start, "a group within a group")
                self._reset()
            else:
                self.group = _phrase(self.tokens)
                self._reset()
        else:
            if token.kind == "<":
                if self.angle < 0:
                    self.angle = len(self.tokens)
                else:
                    self._trouble(token.start, 'a second "<"')
            elif token.kind == ">":
                self.closed, self.route = True, False
            elif token.kind == "@" and open_angle and self.angle == len(self.tokens) - 1:
                self.route = True
            elif token.kind == ":":
                self.route = False
            self.tokens.append(token)
        return len(self.found) < ADDRESSES or self._trouble(token.start, f"more than {ADDRESSES} addresses")

    def _trouble(self, at: int, text: str) -> bool:
        self.troubles.append(Trouble(at=at, text=text))
        return False

    def _reset(self) -> None:
        self.tokens, self.comment, self.angle = [], "", -1
        self.closed = self.route = False

    def finish(self, at: int) -> None:
        """What has been gathered ends here."""
        tokens, comment = self.tokens, self.comment
        angle, closed = self.angle, self.closed
        self._reset()
        if not tokens:
            return  # nothing between two commas: obsolete, and harmless
        if angle >= 0:
            if not closed:
                self._trouble(tokens[angle].start, '"<" without ">"')
                return
            end = next(number for number in range(len(tokens) - 1, -1, -1) if tokens[number].kind == ">")
            if end != len(tokens) - 1 or end < angle:
                self._trouble(tokens[end].start, 'text behind ">"' if end > angle else '">" without "<"')
                return
            inner, name = tokens[angle + 1 : end], _phrase(tokens[:angle]) or comment
        elif closed:
            self._trouble(tokens[0].start, '">" without "<"')
            return
        else:
            inner, name = tokens, comment
        if angle >= 0 and inner and inner[0].kind == "@":  # the route, which nobody follows any more
            colon = next((number for number, token in enumerate(inner) if token.kind == ":"), -1)
            if colon < 0:
                self._trouble(inner[0].start, "a source route without its end")
                return
            inner = inner[colon + 1 :]
        try:
            address, has_domain = _address(inner)
        except ValueError as error:
            shown = " ".join(token.text for token in inner[:10])[:60]
            self._trouble(inner[0].start if inner else at, f"{error}: {shown}" if shown else str(error))
            return
        self.found.append(
            Listed(address=address, qualified=has_domain, name=name, group=self.group or "", end=inner[-1].end)
        )


def _phrase(tokens: Sequence[_Token]) -> str:
    """The display name of words, quoted strings and, as many write them, dots and such."""
    pieces: list[str] = []
    last = -1
    for token in tokens:
        pieces.append(" " + token.text if token.start > last >= 0 else token.text)
        last = token.end
    return "".join(pieces)


def _address(tokens: Sequence[_Token]) -> tuple[str, bool]:
    """
    An addr-spec, blanks and comments inside it dropped (RFC 5322 s.4.4).

    @return: its canonical form and whether it has a domain.
    @raise ValueError: it is none; says why.
    """
    if not tokens:
        raise ValueError("an empty address")
    at = next((number for number in range(len(tokens) - 1, -1, -1) if tokens[number].kind == "@"), len(tokens))
    previous = "."
    for token in tokens[:at]:
        if token.kind not in "wq.":
            raise ValueError("not an address")
        if token.kind in "wq" and previous in "wq":
            raise ValueError("not an address, but a text")
        previous = token.kind
    local = "".join(token.text for token in tokens[:at])
    if not local:
        raise ValueError("an address without a local part")
    if at == len(tokens):
        return _checked(local, _ANY_DOMAIN).removesuffix("@" + _ANY_DOMAIN), False
    domain = tokens[at + 1 :]
    if len(domain) == 1 and domain[0].kind == "l":
        return _checked(local, f"[{''.join(domain[0].text.split())}]"), True
    if not domain or any(token.kind not in "w." for token in domain):
        raise ValueError("an address with a bad domain")
    return _checked(local, "".join(token.text for token in domain)), True


_ANY_DOMAIN = "a.invalid"


def _checked(local: str, domain: str) -> str:
    """The canonical address. @raise ValueError: it is none."""
    found = parse_mailbox(join(local, domain))
    if isinstance(found, Reply):
        raise ValueError(found.text)
    return found


def qualified(value: bytes, found: AddressList, domain: str) -> bytes:
    """
    The field's value with C{@domain} behind each address that was written without one; all else stays.

    @param found: what L{parse_list} made of C{value}.
    """
    pieces: list[bytes] = []
    at = 0
    for listed in found.addresses:
        if not listed.qualified:
            pieces += (value[at : listed.end], b"@" + domain.encode())
            at = listed.end
    return b"".join((*pieces, value[at:]))
