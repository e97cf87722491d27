"""
Reading a peer's SMTP replies (RFC 5321 s.4.2): octets in, L{Reply} values out, for the client half.

Strict where a mistake could put us out of step with the peer (every line has a code, all lines of a reply have the same
one), lenient where it cannot: a reply line may end in a bare LF, as some old servers send, since nothing of a reply is
ever passed on as mail. Bounded: a line, the lines of a reply, and the text kept of it.
"""

from __future__ import annotations

import re

from qmailpy.values import Reply

LINE_LIMIT = 2048
"""Octets in a line. RFC 5321 s.4.5.3.1.5 allows 512; real servers write longer ones."""

LINES_LIMIT = 256
"""Lines of a reply that are kept; the rest is read and forgotten."""

TEXT_LIMIT = 4096
"""Octets of a reply's text that are kept; likewise."""

REPLY_LIMIT = 4 * 1024 * 1024
"""
Octets in a reply; a longer one is no reply but an attempt to keep us busy. Much is read of what is not kept: who gives
up on a reply to a message sends the message again, and the peer may have it.
"""

_ENHANCED = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})(?: +|$)")
_KEYWORD_END = re.compile("[ =]")
_CONTROLS = dict.fromkeys((*range(32), 127), "?")
_CONTROLS[9] = " "


class ReplyReader:
    """
    Cuts what a peer sends into replies.

    What has been received but makes no reply yet is kept, at most C{LINE_LIMIT} octets and the lines of one reply.
    """

    __slots__ = ("_code", "_kept", "_lines", "_pending", "_read", "error")

    def __init__(self) -> None:
        self.error = ""  # set once the peer speaks something else, or without end; nothing is read after that
        self._pending = b""  # a line not yet ended
        self._code = b""  # of a reply not yet ended; empty between replies
        self._lines: list[bytes] = []  # its texts so far
        self._kept = 0  # octets of them
        self._read = 0  # octets of the reply

    @property
    def idle(self) -> bool:
        """Whether nothing of an unfinished reply has been received."""
        return not self._pending and not self._code

    def feed(self, octets: bytes) -> list[Reply]:
        """
        The replies that C{octets} complete, in order; look at C{error} after them.
        """
        if self.error:
            return []
        if self._pending:
            octets = self._pending + octets
        lines = octets.split(b"\n")
        self._pending = lines.pop()
        replies: list[Reply] = []
        for line in lines:
            self.error = self._line(line[:-1] if line.endswith(b"\r") else line, replies)
            if self.error:
                self._pending = b""
                return replies
        if len(self._pending) > LINE_LIMIT:
            self.error = "reply line too long"
            self._pending = b""
        return replies

    def _line(self, line: bytes, replies: list[Reply]) -> str:
        """Take one line, adding the reply when this was its last one; what is wrong with it, or nothing."""
        code = line[:3]
        if len(line) > LINE_LIMIT:
            return "reply line too long"
        if not (code.isdigit() and len(code) == 3 and b"2" <= code[:1] <= b"5"):
            return "reply without a code: " + printable(line[:80])
        mark = line[3:4]
        if mark not in (b" ", b"-", b""):
            return "malformed reply: " + printable(line[:80])
        if self._code and code != self._code:
            return "reply with different codes on its lines: " + printable(self._code + b" and " + code)
        self._read += len(line) + 2
        if self._read > REPLY_LIMIT:
            return "reply without end"
        if len(self._lines) < LINES_LIMIT:
            text = line[4 : 4 + max(0, TEXT_LIMIT - self._kept)]
            self._lines.append(text)
            self._kept += len(text)
        self._code = code
        if mark != b"-":
            replies.append(_reply(int(code), self._lines))
            self._code, self._lines, self._kept, self._read = b"", [], 0, 0
        return ""


def printable(octets: bytes) -> str:
    """
    The peer's octets as text without control characters, also those of Unicode: what ends a line, turns the direction
    of writing or is a terminal's. What is not UTF-8 is escaped.
    """
    text = octets.decode("utf-8", "backslashreplace").translate(_CONTROLS)
    return text if text.isascii() else "".join([char if char.isprintable() else "?" for char in text])


def _reply(code: int, lines: list[bytes]) -> Reply:
    """A Reply of its lines, the enhanced code (RFC 2034) taken out of each."""
    texts = [printable(line) for line in lines]
    found = _ENHANCED.match(texts[0])
    if found is None or found[1] != str(code)[0]:
        # A class that contradicts the code says nothing we could rely on; it stays in the text for people.
        return Reply(code, "", "\n".join(texts))
    enhanced = ".".join(found.groups())
    stripped = []
    for text in texts:
        same = _ENHANCED.match(text)
        stripped.append(text[same.end() :] if same and ".".join(same.groups()) == enhanced else text)
    return Reply(code, enhanced, "\n".join(stripped))


def keywords(text: str) -> dict[str, str]:
    """The keywords of an EHLO reply's text (RFC 5321 s.4.1.1.1), its greeting line left out."""
    found: dict[str, str] = {}
    for line in text.split("\n")[1:]:
        # "AUTH=PLAIN" and "SIZE=1000" are forms of servers older than the RFC.
        keyword, *parameters = _KEYWORD_END.split(line.strip(), maxsplit=1)
        if keyword:
            found.setdefault(keyword.upper(), parameters[0].strip() if parameters else "")
    return found
