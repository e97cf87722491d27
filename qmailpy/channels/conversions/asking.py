"""
What a command is given, in files and variables (the names are iMTA's), and what its answer means.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator

from qmailpy.channels.conversions.command import Answer, Ended, Invocation, answer, filled, options
from qmailpy.channels.conversions.entry import Decided, Entry, Kind, Mail
from qmailpy.channels.conversions.part import Part, field_of, pieces
from qmailpy.channels.conversions.scratch import Scratch
from qmailpy.values import Content, one_line
from qmailpy.wire.lines import to_lf

PATH = "/usr/local/bin:/usr/bin:/bin"
OPTIONS = 65536  # octets of OUTPUT_OPTIONS that are read
_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:[^\r\0]*")
_FOLDED = re.compile(rb"[ \t][^\r\0]*")


def thd_prepare(
    entry: Entry,
    mail: Mail,
    content: Content,
    part: Part,
    header: bytes,
    path: str | None,
    scratch: Scratch,
    top: bytes,
) -> Invocation:
    """
    Everything a command is given.

    @param content: the message as it is now.
    @param header: the part's.
    @param path: a file with its data; C{None} = the message. The command has a copy: it may change or remove that.
    @param top: the message's header.
    """
    config = entry.config
    input_path = scratch.thd_write("input", thd_input(content, part, path))
    variables = {
        "INPUT_FILE": input_path,
        "OUTPUT_FILE": scratch.thd_file("output"),
        "INPUT_HEADERS": scratch.thd_write("headers", _with_lf([header])),
        "OUTPUT_HEADERS": scratch.thd_file("headers"),
        "MESSAGE_HEADERS": scratch.thd_write("message", _with_lf([top])),
        "OUTPUT_OPTIONS": scratch.thd_file("options"),
        "INPUT_CHANNEL": mail.in_channel,
        "OUTPUT_CHANNEL": mail.out_channel,
        "INPUT_TYPE": part.type.upper(),
        "INPUT_SUBTYPE": part.subtype.upper(),
        "INPUT_ENCODING": part.encoding.upper(),
        "INPUT_DESCRIPTION": part.description,
        "INPUT_DISPOSITION": part.disposition.upper(),
        "INPUT_CHARSET": part.charset,
        "INPUT_NAME": part.name,
        "CONVERSION_TAG": config.tag,
        "ATTACHMENT_NUMBER": str(part.attachment),
        "PART_NUMBER": part.path or "0",
        "PART_SIZE": str(os.path.getsize(input_path)),
        "SENDER": mail.sender,
        "RECIPIENTS": " ".join(mail.recipients[:100]),
        "QUEUE_ID": mail.id,
        "MESSAGE_ID": mail.message_id,
        "SUBJECT": field_of(top, "subject"),
    }
    variables = {name: one_line(value, 4000) for name, value in variables.items()}
    environment = {**variables, "PATH": PATH, "LANG": "C.UTF-8", "HOME": os.path.dirname(input_path)}
    return Invocation(
        argv=filled(config.command, variables),
        environment=environment,
        directory=os.path.dirname(input_path),
        timeout_s=config.timeout_s,
        memory_octets=config.memory_octets,
        output_octets=config.output_octets,
    )


def thd_input(content: Content, part: Part, path: str | None) -> Iterator[bytes]:
    """What a command finds in INPUT_FILE, before it does anything to it; arguments as for L{thd_prepare}."""
    if path is None:
        return _with_lf(content.chunks())
    return _with_lf(pieces(path)) if part.type == "text" else pieces(path)


def thd_judge(entry: Entry, invocation: Invocation, ended: Ended) -> tuple[str, Answer]:
    """
    What a command has decided, and its words on it.

    @raise Decided: about the whole message.
    """
    said = thd_options(invocation)
    found = answer(ended, said)
    text = said.get("OUTPUT_DIAGNOSTIC", "")
    kinds = {Answer.HOLD: Kind.HOLD, Answer.RETURN: Kind.RETURN, Answer.DISCARD: Kind.DISCARD}
    if found in kinds:
        raise Decided(kinds[found], text or one_line(entry.config.text) or f"by the command of {entry.called}")
    if found is Answer.AGAIN:
        last = ended.said.rpartition(" / ")[2]
        why = ended.why or text or f"exit status {ended.status}"
        raise Decided(Kind.AGAIN, f"{invocation.argv[0]}: {why}" + (f": {last}" if last else ""))
    output = invocation.environment["OUTPUT_FILE"]
    if found is Answer.DONE and (why := _thd_odd(invocation.directory, output)):
        raise Decided(Kind.AGAIN, f"{invocation.argv[0]}: {why}")
    if found is Answer.DONE and thd_is_there(output) and os.path.getsize(output) >= invocation.output_octets:
        # A program that minds no error of a write has ended well, and left a piece.
        why = f"its output has reached the {invocation.output_octets} octets of output_octets"
        raise Decided(Kind.AGAIN, f"{invocation.argv[0]}: {why}")
    return text, found


def _thd_odd(directory: str, output: str) -> str:
    """What a command has left that makes its good end doubtful; "": nothing."""
    try:
        if not stat.S_ISDIR(os.lstat(directory).st_mode):
            return "there is something else in the place of its directory"
    except OSError:
        return "its directory is gone"
    if os.path.lexists(output) and not thd_is_there(output):
        return "OUTPUT_FILE is no file"
    return ""


def media_of(said: dict[str, str]) -> str:
    """The type a command says its output has; "" when it does not, or may not have."""
    kind, subtype = said.get("OUTPUT_TYPE", "").lower(), said.get("OUTPUT_SUBTYPE", "").lower()
    good = kind.isalnum() and subtype and all(c.isalnum() or c in "!#$&^_.+-" for c in subtype)
    return f"{kind}/{subtype}" if good and kind not in ("multipart", "message") else ""


def thd_options(invocation: Invocation) -> dict[str, str]:
    """The options a command may have left."""
    path = invocation.environment["OUTPUT_OPTIONS"]
    return options(_thd_some(path, OPTIONS) if thd_is_there(path) else b"")


def thd_header(invocation: Invocation, former: bytes, limit: int) -> bytes:
    """
    The header a command may have left, with CRLF line ends and the empty line; C{b""}: none.

    @param former: the header as it was: its lines may come again, whatever they are.
    @param limit: octets that a header may have.
    @raise Decided: it is no header; a part of one, or a body behind it, would change what readers make of the mail.
    """
    path = invocation.environment["OUTPUT_HEADERS"]
    octets = _thd_some(path, limit + 1) if thd_is_there(path) else b""
    if len(octets) > limit:
        raise Decided(Kind.AGAIN, f"{invocation.argv[0]}: OUTPUT_HEADERS has more than {limit} octets")
    text = to_lf(octets).strip(b"\n")
    if not text:
        return b""
    known = frozenset(to_lf(former).split(b"\n"))
    pattern = _FIELD  # the first line continues nothing
    for number, line in enumerate(text.split(b"\n"), 1):
        if not (line and line in known) and not pattern.fullmatch(line) and not _FIELD.fullmatch(line):
            why = f"line {number} of OUTPUT_HEADERS is no header field"
            raise Decided(Kind.AGAIN, f"{invocation.argv[0]}: {why}")
        pattern = _FOLDED
    return text.replace(b"\n", b"\r\n") + b"\r\n\r\n"


def _thd_some(path: str, limit: int) -> bytes:
    with open(path, "rb") as source:
        return source.read(limit)


def thd_is_there(path: str) -> bool:
    """Whether a command has left a file, and no pipe or device, which might keep us waiting."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def thd_equal(path: str, source: Iterable[bytes]) -> bool:
    """Whether a file is what C{source} gives."""
    with open(path, "rb") as file:
        return all(file.read(len(chunk)) == chunk for chunk in source) and not file.read(1)


def _with_lf(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """CRLF as LF, wherever the pieces are cut."""
    kept = b""
    for chunk in chunks:
        octets = kept + chunk
        kept = octets[-1:] if octets.endswith(b"\r") else b""
        yield to_lf(octets[:-1] if kept else octets)
    yield kept
