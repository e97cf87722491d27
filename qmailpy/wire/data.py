r"""
The content of a DATA command: from dot-stuffed octets in any cut to the message (RFC 5321 s.4.1.1.4, s.4.5.2); and that
of BDAT commands, which is neither stuffed nor has an end of its own (RFC 3030 s.2).

The end of data is C{CR LF . CR LF} and nothing else (the CR LF that ends the DATA command counts as its first two).
A CR or LF alone ends no line: it is refused after the data, or, for a listener that serves old devices, made a CRLF.
In that case too neither ends the data, and a dot behind it is content. NUL is refused always. So a message that was
accepted holds CR and LF only as pairs, and means the same to every MTA behind us. The one exception is declared:
BODY=BINARYMIME, which comes and goes by BDAT alone.

What is wrong with a message is told at its end, by a fixed order of precedence, so that it does not depend on how the
octets were cut. Memory is flat: the first L{HEAD_OCTETS} of the header and four octets of carry.
"""

from __future__ import annotations

from qmailpy.values import Reply
from qmailpy.wire.lines import find_dot, only_pairs

END = b"\r\n.\r\n"
HEAD_OCTETS = 65536
"""How much of the header section is kept for the envelope (Message-ID, Priority)."""

_RECEIVED = b"\r\nreceived:"

TOO_LARGE = Reply(552, "5.3.4", "Message is larger than the limit")
BARE = Reply(550, "5.6.11", "Message has a CR or LF that is not part of CRLF")
NUL = Reply(550, "5.6.11", "Message has a NUL octet")
LOOP = Reply(554, "5.4.6", "Too many Received fields: the mail is in a loop")


class DataReader:
    """
    Takes the octets of one message that came by DATA.

    @ivar size: octets of content so far, without the dots of the transport (RFC 1870 s.5).
    """

    __slots__ = (
        "_bare",
        "_carry",
        "_head",
        "_head_tail",
        "_limit",
        "_normalise",
        "_nul",
        "_received",
        "_received_limit",
        "_skip",
        "size",
    )

    def __init__(self, limit: int, received_limit: int, normalise: bool = False) -> None:
        """
        @param limit: largest message in octets.
        @param received_limit: more Received fields than this is a loop.
        @param normalise: a CR or LF alone becomes CRLF and is no fault.
        """
        self.size = 0
        self._limit = limit
        self._received_limit = received_limit
        self._normalise = normalise
        # The command's own CRLF: so a dot that comes first needs no case of its own.
        self._carry = b"\r\n"
        self._skip = 2
        self._nul = False
        self._bare = False
        self._received = 0
        self._head = bytearray()
        self._head_tail: bytes | None = b"\r\n"

    def feed(self, octets: bytes) -> tuple[bytes, bytes | None]:
        """
        Take the next octets.

        @return: the content they bring (empty once the message has a fault), and what follows the end of data, C{None}
            while that has not been seen. After the end the reader is spent.
        """
        text = self._carry + octets
        dot = find_dot(text, b"\r\n")
        end = text.find(END, dot) if dot >= 0 else -1
        rest: bytes | None = None
        if end >= 0:
            body = text[: end + 2]
            rest = text[end + 5 :]
        else:
            held = _held(text)
            body = text[: len(text) - held]
            self._carry = text[len(text) - held :]
        if 0 <= dot < len(body):
            body = body.replace(b"\r\n.", b"\r\n")
        return self._take(body), rest

    def _take(self, body: bytes) -> bytes:
        """Look at what is content for certain; the octets that may go on, b"" once there is a fault."""
        if not only_pairs(body):
            if self._normalise:
                body = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
            else:
                self._bare = True
        if self._skip and body:
            # The borrowed CRLF leaves together: _held never cuts it.
            body = body[self._skip :]
            self._skip = 0
        if 0 in body:
            self._nul = True
        self.size += len(body)
        if self._head_tail is not None:
            self._read_head(body)
        if self._bare or self._nul or self.size > self._limit or self._received > self._received_limit:
            return b""
        return body

    @property
    def head(self) -> bytes:
        """The header section without its closing empty line, at most L{HEAD_OCTETS} of it."""
        return bytes(self._head)

    @property
    def fault(self) -> Reply | None:
        """Why the message cannot be accepted; asked after the end of data."""
        if self.size > self._limit:
            return TOO_LARGE
        if self._nul:
            return NUL
        if self._bare:
            return BARE
        if self._received > self._received_limit:
            return LOOP
        return None

    def _read_head(self, body: bytes) -> None:
        """Keep the header, count its Received fields; each octet is looked at a fixed number of times."""
        tail = self._head_tail or b""
        text = tail + body
        end = text.find(b"\r\n\r\n")
        if end >= 0:
            text = text[: end + 2]
        self._received += text.lower().count(_RECEIVED)
        room = HEAD_OCTETS - len(self._head)
        if room > 0:
            # What ends the header may lie in the tail, that is, before this body: then nothing is added.
            self._head += text[len(tail) : len(tail) + room]
        # One octet less than the pattern: what was counted is not counted again.
        self._head_tail = None if end >= 0 else text[-(len(_RECEIVED) - 1) :]


class ChunkReader(DataReader):
    """
    Takes the octets of one message that comes by BDAT. What is said of line ends above holds for them too: without
    BINARYMIME a message is lines (RFC 3030 s.3).
    """

    __slots__ = ("_open",)

    def __init__(self, limit: int, received_limit: int, normalise: bool = False) -> None:
        """As for DATA."""
        super().__init__(limit, received_limit, normalise)
        self._carry = b""
        self._skip = 0
        self._open = False  # the last line has no end yet

    def take(self, octets: bytes, last: bool) -> bytes:
        """
        Take the next octets.

        @param last: nothing follows. A last line without its end gets it: everything behind us, and DATA on the way
            out, wants lines.
        @return: the content they bring; empty once the message has a fault.
        """
        text = self._carry + octets
        self._carry = b""
        if last:
            if not text.endswith(b"\r\n") if text else self._open:
                text += b"\r\n"
        elif text.endswith(b"\r"):
            self._carry = b"\r"
            text = text[:-1]
        if text:
            self._open = not text.endswith(b"\r\n")
        return self._take(text)


class BinaryReader(ChunkReader):
    """
    Takes the octets of one message with BODY=BINARYMIME (RFC 3030 s.3), which may be any behind the header: they are
    kept as they are. The header is lines, as ever.
    """

    __slots__ = ()

    def take(self, octets: bytes, last: bool) -> bytes:
        text = self._carry + octets
        self._carry = b""
        if self._head_tail is not None and not last and text.endswith(b"\r"):
            self._carry = b"\r"
            text = text[:-1]
        return self._take(text)

    def _take(self, body: bytes) -> bytes:
        if self._head_tail is None:
            return self._more(body)
        end = (self._head_tail + body).find(b"\r\n\r\n")
        if end < 0:
            return super()._take(body)
        cut = end + 4 - len(self._head_tail)
        head = super()._take(body[:cut])
        return head + self._more(body[cut:])

    def _more(self, body: bytes) -> bytes:
        self.size += len(body)
        return b"" if self.fault is not None else body


def _held(text: bytes) -> int:
    """How many of the last octets may be the beginning of the end of data."""
    if text.endswith(b"\r"):
        return 4 if text.endswith(b"\r\n.\r") else 1
    if text.endswith(b"\r\n"):
        return 2
    return 3 if text.endswith(b"\r\n.") else 0
