"""
What is wrong with a configuration, one line each: C{FILE:LINE: [table] key: what is wrong; what would be right}.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from attrs import field, frozen

from qmailpy.config.locate import Path, locate, locate_nearest


@frozen(kw_only=True)
class Problem:
    """One thing that is wrong, or (as a warning) dubious."""

    file: str
    line: int  # from 1; 0 when the trouble has no line, as with a missing file
    where: str  # "[table] key", "[[listener]] 2 (smtp) endpoint", or ""
    text: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(part for part in (place, self.where, self.text) if part)


def section(path: Path, name: str = "") -> str:
    """How a table is spoken of: C{[queue]}, C{[channel.local]}, C{[[listener]] 2 (smtp)}."""
    if len(path) >= 2 and isinstance(path[1], int):
        return f"[[{path[0]}]] {path[1] + 1}" + (f" ({name})" if name else "")
    return "[" + ".".join(str(part) for part in path) + "]" if path else ""


@frozen
class Reader:
    """A configuration text being read: collects the problems found in it."""

    file: str
    text: str
    problems: list[Problem] = field(factory=list)
    _lines: dict[Path, int] = field(init=False)

    @_lines.default
    def _locate(self) -> dict[Path, int]:
        return locate(self.text)

    def add(self, path: Path, key: str, text: str, name: str = "") -> None:
        """
        Note a problem.

        @param path: of the table; C{()} is the top of the file.
        @param key: in that table; "" when the table itself is wrong.
        @param text: what is wrong, then "; " and what would be right.
        @param name: of the element of an array of tables, to speak of it.
        """
        where = " ".join(part for part in (section(path, name), key) if part)
        line = locate_nearest(self._lines, (*path, key) if key else path)
        self.problems.append(Problem(file=self.file, line=line, where=_printable(where), text=_printable(text)))

    def line(self, path: Path) -> int:
        """Where something stands, from 1."""
        return locate_nearest(self._lines, path)


def _printable(text: str) -> str:
    """One line that does nothing to a terminal: values of the file are part of it."""
    return text if text.isprintable() else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def nearest(word: str, known: Iterable[str]) -> str:
    """C{; did you mean "x"?} when a known word is close, else the list of them when short, else ""."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if close:
        return f'; did you mean "{close[0]}"?'
    return "; known are " + ", ".join(words) if 0 < len(words) <= 24 else ""
