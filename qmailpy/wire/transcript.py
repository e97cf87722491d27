"""
What two ends of a mail protocol say to each other, as lines for people to read: SMTP, LMTP, POP3.

Octets of both directions go in as they pass by, in any pieces; lines come out, C{C: } what the client says, C{S: } the
server. What must not be read is left out:

  - secrets: what follows AUTH until the server has decided, the argument of PASS and APOP, LOGIN of XCLIENT;
  - messages: their octets are counted, unless they are wanted.

In doubt something is taken for a secret, or for a message. Memory is bounded: a line is cut at C{LINE}.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from enum import Enum

LINE = 1000
"""Octets of a line that are kept."""

_PENDING = 1000  # commands of POP3 without an answer that are remembered
_LOGIN = re.compile(rb"(?i)(LOGIN=)\S+")


class _Mode(Enum):
    """What the client's octets are."""

    COMMANDS = 1
    SECRET = 2  # lines of a login, until its last reply
    CONTENT = 3  # a message, until the next reply
    CHUNK = 4  # so many octets of a message


class _Lines:
    """Octets to lines, each with its end cut off."""

    def __init__(self) -> None:
        self._kept = b""
        self._more = 0  # octets of the line beyond those kept

    def feed(self, octets: bytes) -> tuple[bytes | None, int, bytes]:
        """
        @return: the next line, how much of it was cut off, and the octets behind it; C{None} when its end is to come.
        """
        end = octets.find(b"\n")
        piece = octets if end < 0 else octets[:end]
        room = LINE - len(self._kept)
        self._kept += piece[:room]
        self._more += max(0, len(piece) - room)
        if end < 0:
            return None, 0, b""
        line, more = self._kept, self._more
        self._kept, self._more = b"", 0
        return (line if more else line.removesuffix(b"\r")), more, octets[end + 1 :]

    def take(self) -> bytes:
        """What there is of a line."""
        kept, self._kept, self._more = self._kept, b"", 0
        return kept


class Transcript:
    """One session."""

    def __init__(self, say: Callable[[str], None], *, content: bool = False, pop3: bool = False) -> None:
        """
        @param say: is told each line.
        @param content: messages are wanted, too.
        """
        self._say = say
        self._wanted = content
        self._pop3 = pop3
        self._mode = _Mode.COMMANDS
        self._left = 0  # octets of the chunk to come
        self._open = 0  # SMTP: commands without a reply
        self._owed = 0  # SMTP: those of them before AUTH
        self._passed = 0  # octets of a message that were not shown
        self._commands = _Lines()
        self._replies = _Lines()
        self._asked: deque[bytes] = deque()  # POP3: verbs without an answer
        self._body = False  # POP3: the server is sending a message

    def commands(self, octets: bytes) -> None:
        """What the client says."""
        while octets:
            if self._mode is _Mode.CONTENT and not self._wanted:
                self._passed += len(octets)
                return
            if self._mode is _Mode.CHUNK:
                octets = self._chunk(octets)
                continue
            line, more, octets = self._commands.feed(octets)
            if line is None:
                return
            if self._mode is _Mode.SECRET:
                self._say("C: ***")
            elif self._mode is _Mode.CONTENT:
                self._say(f"C: {_shown(line, more)}")
            else:
                self._command(line, more)

    def _chunk(self, octets: bytes) -> bytes:
        piece, rest = octets[: self._left], octets[self._left :]
        self._left -= len(piece)
        if self._wanted:
            for line in piece.split(b"\n"):
                line = line.removesuffix(b"\r")  # noqa: PLW2901
                self._say(f"C: {_shown(line[:LINE], max(0, len(line) - LINE))}")
        else:
            self._passed += len(piece)
        if not self._left:
            self._mode = _Mode.COMMANDS
            self._tell_passed("C")
        return rest

    def _command(self, line: bytes, more: int) -> None:
        words = line.split()
        verb = words[0].upper() if words else b""
        if verb.startswith(b"AUTH"):
            known = verb == b"AUTH" and len(words) > 1
            mechanism = f" {_shown(words[1][:20])}" if known else ""
            self._say(f"C: AUTH{mechanism}{' ***' if len(words) > 1 + known or more else ''}")
            self._mode, self._owed = _Mode.SECRET, self._open
        elif verb in (b"PASS", b"APOP") and self._pop3:
            name = f" {_shown(words[1][:200])}" if verb == b"APOP" and len(words) > 2 else ""
            self._say(f"C: {verb.decode()}{name} ***")
        else:
            shown = _LOGIN.sub(rb"\1***", line) if verb == b"XCLIENT" else line
            self._say(f"C: {_shown(shown, more)}")
        self._open += 1
        if self._pop3:
            if len(self._asked) < _PENDING:
                self._asked.append(verb)
        elif verb == b"DATA":
            self._mode = _Mode.CONTENT  # until the reply says that it is none
        elif verb == b"BDAT" and len(words) > 1 and words[1].isdigit() and len(words[1]) < 20:
            self._left = int(words[1])
            self._mode = _Mode.CHUNK if self._left else _Mode.COMMANDS

    def replies(self, octets: bytes) -> None:
        """What the server says."""
        while octets:
            line, more, octets = self._replies.feed(octets)
            if line is None:
                return
            if self._body:
                self._of_body(line, more)
            elif self._pop3:
                self._pop3_reply(line, more)
            else:
                self._reply(line, more)

    def _reply(self, line: bytes, more: int) -> None:
        if self._mode is not _Mode.CHUNK:
            self._tell_passed("C")
        code, last = line[:3], line[3:4] != b"-"
        if code == b"334":
            self._say("S: 334 ***")
            self._mode = _Mode.SECRET if self._mode is not _Mode.CHUNK else _Mode.CHUNK
            return
        self._say(f"S: {_shown(line, more)}")
        if not last:
            return
        self._open = max(0, self._open - 1)
        if self._mode is _Mode.SECRET and self._owed:
            self._owed -= 1
            return
        if self._mode is _Mode.CHUNK:
            return
        self._mode = _Mode.CONTENT if code == b"354" else _Mode.COMMANDS

    def _pop3_reply(self, line: bytes, more: int) -> None:
        if line.startswith(b"+ ") or line == b"+":
            self._say("S: + ***")
            self._mode = _Mode.SECRET
            return
        good, bad = line.startswith(b"+OK"), line.startswith(b"-ERR")
        self._say(f"S: {_shown(line, more)}")
        if good or bad:
            verb = self._asked.popleft() if self._asked else b""
            if verb.startswith(b"AUTH") or not self._asked:
                self._mode = _Mode.COMMANDS
            self._body = good and verb in (b"RETR", b"TOP")

    def _of_body(self, line: bytes, more: int) -> None:
        if line == b"." and not more:
            self._body = False
            self._tell_passed("S")
        elif self._wanted:
            self._say(f"S: {_shown(line, more)}")
        else:
            self._passed += len(line) + more + 2

    def end(self) -> None:
        """The session is over."""
        self._tell_passed("S" if self._body else "C")
        if self._mode is not _Mode.SECRET:
            for who, lines in (("C", self._commands), ("S", self._replies)):
                rest = lines.take()
                if rest and not (who == "C" and self._mode is not _Mode.COMMANDS) and not self._body:
                    self._say(f"{who}: {'***' if who == 'C' else _shown(rest)} (without its end)")

    def _tell_passed(self, who: str) -> None:
        passed, self._passed = self._passed, 0
        if passed:
            self._say(f"{who}: ({passed} octets of a message)")


def _shown(line: bytes, more: int = 0) -> str:
    """A line as it may be printed anywhere."""
    text = "".join(
        character if character.isprintable() else f"\\x{ord(character):02x}"
        for character in line.decode("utf-8", "backslashreplace")
    )
    return f"{text} (and {more} octets)" if more else text
