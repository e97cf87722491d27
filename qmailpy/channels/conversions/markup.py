"""
HTML as plain text, for people who read mail so: linear whatever comes in, in one pass, without a tree.

A tag ends at the next C{>}. What scripts and style sheets hold is left out, as are comments.
"""

from __future__ import annotations

import html
import re

_TAG = re.compile(r"/?([a-zA-Z][a-zA-Z0-9]{0,20})")
_HREF = re.compile(r"\shref\s*=\s*(?:\"([^\"]{1,2000})\"|'([^']{1,2000})'|([^\s\"'>]{1,2000}))", re.IGNORECASE)
_BLANKS = re.compile(r"[ \t\r\n\f]+")
_HIDDEN = frozenset({"script", "style", "head", "title", "template"})
_BLOCKS = frozenset(
    [
        "p",
        "div",
        "ul",
        "ol",
        "table",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "blockquote",
        "pre",
        "section",
        "article",
        "header",
        "footer",
        "form",
        "hr",
        "dl",
        "address",
    ]
)
_LINES = frozenset({"br", "tr", "li", "dt", "dd"})
_TAG_OCTETS = 10_000  # of a tag that are looked at


def plain_text(source: str) -> str:
    """The text of an HTML document, LF line ends, one at its end."""
    out = _Lines()
    lower = source.lower()
    at, link = 0, ""
    while True:
        start = source.find("<", at)
        out.add(html.unescape(source[at : start if start >= 0 else len(source)]))
        if start < 0:
            break
        if source.startswith("<!--", start):
            end = source.find("-->", start + 4)
            if end < 0:
                break
            at = end + 3
            continue
        match = _TAG.match(source, start + 1)
        if match is None and not source.startswith(("!", "?", "/"), start + 1):
            out.add("<")  # a sign, no tag
            at = start + 1
            continue
        end = source.find(">", start)
        if end < 0:
            break
        at = end + 1
        if match is None:
            continue
        name, closing = match[1].lower(), source[start + 1] == "/"
        if name in _HIDDEN and not closing:
            end = lower.find(f"</{name}", at)
            if end < 0:
                break
            at = end
        elif name == "a":
            if link and closing:
                out.link(link)
            found = None if closing else _HREF.search(source, start, min(end, start + _TAG_OCTETS))
            link = html.unescape(found[1] or found[2] or found[3]) if found else ""
            out.mark()
        elif name == "pre":
            out.gap()
            out.kept = not closing
        elif name in _BLOCKS:
            out.gap()
        elif name in _LINES and not (closing and name != "tr"):
            out.newline()
            if name == "li":
                out.add("* ")
        elif name in ("td", "th") and not closing:
            out.add(" ")
    return out.text()


class _Lines:
    """Text as it grows."""

    def __init__(self) -> None:
        self.kept = False  # blanks and line ends are as they are
        self._lines: list[list[str]] = [[]]
        self._empty = True  # the line has nothing but blanks
        self._blank = True  # the line has nothing, or ends with a blank
        self._gap = True  # the line before is empty, or there is none
        self._mark: list[str] = []

    def add(self, text: str) -> None:
        if self.kept:
            first, *others = text.replace("\r\n", "\n").split("\n")
            self._append(first)
            for line in others:
                self.newline()
                self._append(line)
            return
        text = _BLANKS.sub(" ", text)
        self._append(text.removeprefix(" ") if self._blank else text)

    def _append(self, text: str) -> None:
        if text:
            self._lines[-1].append(text)
            self._mark.append(text)
            self._blank = text.endswith(" ")
            self._empty = self._empty and text.isspace()

    def newline(self) -> None:
        self._gap = self._empty
        self._lines.append([])
        self._empty = self._blank = True

    def gap(self) -> None:
        """An empty line, unless there is one."""
        if not self._empty:
            self.newline()
        if not self._gap:
            self.newline()

    def mark(self) -> None:
        """A link begins, or ends."""
        self._mark = []

    def link(self, target: str) -> None:
        """It ends: where it leads is told, unless that is its text."""
        text = "".join(self._mark).strip()
        if target.startswith(("http:", "https:", "mailto:")) and target not in (text, f"mailto:{text}"):
            self.add(f" <{''.join(target.split())}>")

    def text(self) -> str:
        found: list[str] = []
        for parts in self._lines:
            line = "".join(parts).rstrip().replace("\xa0", " ")
            if line or (found and found[-1]):
                found.append(line)
        return "\n".join(found).rstrip() + "\n"
