"""
The message of an SMTP session, on the side of the server: by DATA (RFC 5321 s.4.1.1.4) or by BDAT (RFC 3030 s.2).

The octets behind a BDAT command are read whatever the answer to it: to take them for commands would let whoever wrote
the message speak for the client. A BDAT whose size cannot be read ends the session for that reason.

Parts of L{qmailpy.wire.smtp}: each takes the session's state, and adds the events that come of it.
"""

from __future__ import annotations

from qmailpy.values import Reply
from qmailpy.wire import smtp_replies as say
from qmailpy.wire.data import TOO_LARGE, BinaryReader, ChunkReader, DataReader
from qmailpy.wire.reply import encode
from qmailpy.wire.smtp_events import DataBegun, DataChunk, DataEnded, DataRefused, Event
from qmailpy.wire.smtp_state import DATA_ASKED, END_ASKED, SmtpState


def data_command(core: SmtpState, line: bytes, argument: bytes, events: list[Event]) -> None:
    """DATA: its octets follow a 354."""
    if argument.strip(b" "):
        core.bad(line, say.NO_ARGUMENT, events)
    elif core.chunks is not None:
        core.bad(line, say.NOT_NOW_BDAT, events)
    elif core.binary and core.in_mail:
        core.bad(line, say.BDAT_ONLY, events)  # RFC 3030 s.3
    elif core.recipients:
        core.asked = DATA_ASKED
        events.append(DataBegun())
    elif core.refused:
        # A client that pipelines could not know (RFC 2920 s.3.1): no error of its.
        core.send(encode(say.NO_RECIPIENTS_LMTP if core.service.lmtp else say.NO_RECIPIENTS))
    else:
        core.bad(line, say.RCPT_FIRST if core.in_mail else say.MAIL_FIRST, events)


def bdat(core: SmtpState, line: bytes, argument: bytes, events: list[Event]) -> None:
    """BDAT: its octets are behind it already."""
    size, _, last = argument.strip(b" ").partition(b" ")
    last = last.strip(b" ").upper()
    if not size.isdigit() or len(size) > 20 or last not in (b"", b"LAST"):
        core.bad(line, say.BDAT_SYNTAX, events)
        if not core.closed:
            core.end(say.BDAT_SYNTAX)
        return
    core.left = int(size)
    core.last = bool(last)
    limits = core.service.limits
    chunks = core.chunks
    if chunks is None and not core.recipients:
        if core.refused:
            core.send(encode(say.NO_RECIPIENTS_LMTP if core.service.lmtp else say.NO_RECIPIENTS))
        else:
            core.bad(line, say.RCPT_FIRST if core.in_mail else say.MAIL_FIRST, events)
    elif (chunks.size if chunks is not None else 0) + core.left > limits.message_octets:
        _refuse(core, TOO_LARGE, core.left, events)  # known before it has come
    elif chunks is None:
        reader = BinaryReader if core.binary else ChunkReader
        core.chunks = reader(limits.message_octets, limits.received, limits.normalise)
        core.asked = DATA_ASKED
        events.append(DataBegun())
    elif not core.left:
        take_chunk(core, chunks, b"", events)


def read_data(core: SmtpState, data: DataReader, events: list[Event]) -> None:
    """Octets of a message by DATA are there; behind its end there may be more."""
    content, rest = data.feed(core.buffer[core.at :] if core.at else core.buffer)
    if content:
        events.append(DataChunk(content))
    core.at = 0
    if rest is None:
        core.buffer = b""
        return
    core.buffer = rest
    core.data = None
    fault = data.fault
    if fault is None:
        core.asked = END_ASKED
        events.append(DataEnded(data.size, data.head))
    else:
        core.send(encode(fault) * (core.recipients if core.service.lmtp else 1))
        core.forget()
        events.append(DataRefused(fault, data.size))
        core.count_error()


def read_chunk(core: SmtpState, events: list[Event]) -> None:
    """Octets of a chunk are there, some or all of them."""
    end = min(core.at + core.left, len(core.buffer))
    octets = core.buffer[core.at : end]
    core.left -= len(octets)
    if end < len(core.buffer):
        core.at = end
    else:
        core.buffer = b""
        core.at = 0
    if core.chunks is not None:
        take_chunk(core, core.chunks, octets, events)


def take_chunk(core: SmtpState, chunks: ChunkReader, octets: bytes, events: list[Event]) -> None:
    """Octets of a chunk, maybe its last; the end of one is answered, that of the last one asked about."""
    ended = not core.left
    content = chunks.take(octets, ended and core.last)
    if content:
        events.append(DataChunk(content))
    if not ended:
        return
    if not core.last:
        core.send(say.CHUNK_OK)
    elif chunks.fault is None:
        core.asked = END_ASKED
        events.append(DataEnded(chunks.size, chunks.head))
    else:
        _refuse(core, chunks.fault, chunks.size, events)


def _refuse(core: SmtpState, fault: Reply, size: int, events: list[Event]) -> None:
    """The message that comes by BDAT is refused, and the transaction over."""
    core.send(encode(fault) * (core.recipients if core.service.lmtp and core.last else 1))
    core.forget()
    events.append(DataRefused(fault, size))
    core.count_error()
