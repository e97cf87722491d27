"""
The words of notices in one language: templates in sections, read and filled in. Pure.

A text has sections C{[name]} of lines; lines that begin with C{#} are remarks. C{${name}} is a variable, each section
having its own (L{SECTIONS}); everything else stands for itself. Of the sections that are whole notices the first line
is C{Subject: }. A line whose variables are all empty is left out; blank lines part paragraphs, which are wrapped to
fit, between any two Chinese characters if need be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from attrs import frozen

LANGUAGES = ("en", "zh")
TEXT_CHARACTERS = 65536
"""Longest text that is read."""

_NOTICE = frozenset({"hostname", "sender", "arrival", "envid", "recipients"})
_RECIPIENT = frozenset({"hostname", "address", "original", "final", "host", "said", "status"})
SECTIONS: Mapping[str, frozenset[str]] = {
    "failure": _NOTICE,
    "double": _NOTICE,
    "delay": _NOTICE | {"until"},
    "delay without end": _NOTICE,
    "success": _NOTICE,
    "relayed": _NOTICE,
    "recipient failed": _RECIPIENT | {"advice"},
    "recipient delayed": _RECIPIENT | {"until"},
    "recipient untried": _RECIPIENT | {"until"},
    "recipient suspended": _RECIPIENT | {"until"},
    "recipient delivered": _RECIPIENT,
    "recipient relayed": _RECIPIENT,
    "recipient expanded": _RECIPIENT,
    "quota": frozenset({"hostname", "address", "percent", "used", "limit", "messages", "most"}),
    "leads to": frozenset({"original", "final"}),
    "said by": frozenset({"host", "reply"}),
    "somewhere": frozenset(),
}
"""The sections there must be, and what each knows of; besides there are C{advice N.N}, without variables."""

WITH_SUBJECT = frozenset({"failure", "double", "delay", "delay without end", "success", "relayed", "quota"})

_HEAD = re.compile(r"\[([^\[\]]{1,40})\]\s*")
_VARIABLE = re.compile(r"\$\{([^{}]{0,40})\}")
_ADVICE = re.compile(r"advice [0-9]{1,3}\.(?:[0-9]{1,3})?", re.ASCII)
_WIDTH = 76
_LONGEST = 900  # characters of a word that is not cut
_WIDE = (
    "\u2e80-\u2fff\u3000-\u303f\u3040-\u30ff\u3100-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\ufe30-\ufe4f\uff00-\uff60\uffe0-\uffe6"
)
_CLOSING = (
    "\uff0c\u3002\u3001\uff1b\uff1a\uff01\uff1f\uff09\u300b\u300d\u300f\u3011\u3009"  # never at the beginning of a line
)
_TOKEN = re.compile(f" +|[{_WIDE}][{_CLOSING}]*|[^ {_WIDE}]{{1,{_LONGEST}}}[{_CLOSING}]*")
_IS_WIDE = re.compile(f"[{_WIDE}]")
_CHINESE = frozenset(
    (
        "gb2312",
        "gbk",
        "gb18030",
        "hz-gb-2312",
        "iso-2022-cn",
        "euc-cn",
        "euc-tw",
        "big5",
        "big5-hkscs",
        "cp936",
        "cp950",
    )
)
_CHARSET = re.compile(r"charset\s*=\s*\"?([A-Za-z0-9._:-]{1,40})", re.I)
_WORD = re.compile(r"=\?([A-Za-z0-9._:-]{1,40})(?:\*[^?]{0,20})?\?[QqBb]\?")


@frozen
class Wording:
    """The sections of one language: lines, by name."""

    sections: Mapping[str, Sequence[str]]

    def over(self, other: Wording) -> Wording:
        """These sections, and from C{other} what is not among them."""
        return Wording({**other.sections, **self.sections})

    def missing(self) -> list[str]:
        """Sections that must be there and are not."""
        return [name for name in SECTIONS if name not in self.sections]

    def subject(self, kind: str) -> str:
        return self.sections[kind][0].partition(":")[2].strip()

    def body(self, kind: str, values: Mapping[str, str]) -> Iterator[str]:
        """The lines of a section, without its subject, filled in."""
        lines = self.sections[kind]
        for line in lines[1:] if kind in WITH_SUBJECT else lines:
            filled, variables = _filled(line, values)
            if not variables or any(values.get(name) for name in variables):
                yield filled

    def phrase(self, kind: str, values: Mapping[str, str]) -> str:
        """A section that is part of a line."""
        return " ".join(self.body(kind, values))

    def advice(self, detail: str) -> str:
        """
        What a sender can do; "" when we have no advice.

        @param detail: a status code without its class (RFC 3463): "1.1".
        """
        found = max(
            (name for name in self.sections if _ADVICE.fullmatch(name) and detail.startswith(name[7:])),
            key=len,
            default="",
        )
        return " ".join(self.sections[found]) if found else ""


def parse(text: str) -> tuple[Wording, list[tuple[int, str]]]:
    """
    Read a text.

    @return: its sections, which may be few; and what is wrong, by line. A text with anything wrong is not to be used.
    """
    if len(text) > TEXT_CHARACTERS:
        return Wording({}), [(0, f"is longer than {TEXT_CHARACTERS} characters")]
    sections: dict[str, list[str]] = {}
    problems: list[tuple[int, str]] = []
    name = ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            continue
        head = _HEAD.fullmatch(line)
        if head is not None:
            name = head[1]
            if name not in SECTIONS and _ADVICE.fullmatch(name) is None:
                problems.append((number, f"[{name}] is no section; known are {', '.join(SECTIONS)}, advice N.N"))
            elif name in sections:
                problems.append((number, f"[{name}] is there twice"))
            sections[name] = []
            continue
        if not name:
            if line.strip():
                problems.append((number, "is before the first section; right would be [failure] or the like"))
            continue
        if not line.isprintable():
            problems.append((number, "holds control characters; right would be plain text"))
        for variable in _VARIABLE.findall(line):
            known = SECTIONS.get(name, frozenset())
            if variable not in known:
                right = ", ".join(sorted(known)) or "none"
                problems.append((number, f"${{{variable}}} is no variable of [{name}]; known are {right}"))
        if not sections[name] and name in WITH_SUBJECT and line.strip():
            subject = line.partition(":")[2].strip()
            if not line.startswith("Subject:") or not 0 < len(subject) <= 100 or "${" in subject:
                problems.append((number, f"[{name}] must begin with a line Subject: of at most 100 characters"))
        if sections[name] or line.strip():
            sections[name].append(line.rstrip())
    for name, lines in sections.items():
        while lines and not lines[-1]:
            lines.pop()
        if not lines and name in SECTIONS:
            problems.append((0, f"[{name}] is empty; leave it out, and the words that come with qmailpy are used"))
        elif name in WITH_SUBJECT and not any("${recipients}" in line for line in lines):
            problems.append((0, f"[{name}] lacks ${{recipients}}, so that nobody would learn who is meant"))
    return Wording(sections), problems


def language_of(fields: Mapping[str, str]) -> str:
    """
    The language of a message where that is evident, "" where it is not.

    @param fields: of its header: content-language, content-type and subject.
    """
    tag = fields.get("content-language", "").partition(",")[0].strip().lower()
    if tag[:2] in LANGUAGES and tag[2:3] in ("", "-", "_"):
        return tag[:2]
    charset = _CHARSET.search(fields.get("content-type", "")[:1000])
    word = _WORD.search(fields.get("subject", "")[:1000])
    names = {found[1].lower() for found in (charset, word) if found is not None}
    return "zh" if names & _CHINESE else ""


def wrapped(lines: Iterator[str] | Sequence[str]) -> list[str]:
    """Lines of at most about 76 columns; several blank ones in a row become one."""
    found: list[str] = []
    for line in lines:
        if line.strip():
            found += _wrap(line)
        elif found and found[-1]:
            found.append("")
    return found


def _wrap(line: str) -> Iterator[str]:
    part, columns, blank = "", 0, ""
    for token in _TOKEN.findall(line):
        if token.startswith(" "):
            blank = " "
            continue
        width = len(token) + len(_IS_WIDE.findall(token))
        if part and columns + len(blank) + width > _WIDTH:
            yield part
            part, columns, blank = "", 0, ""
        part += blank + token
        columns += len(blank) + width
        blank = ""
    if part:
        yield part


def _filled(line: str, values: Mapping[str, str]) -> tuple[str, list[str]]:
    """The line with its variables filled in, and their names."""
    return _VARIABLE.sub(lambda found: values.get(found[1], ""), line), _VARIABLE.findall(line)
