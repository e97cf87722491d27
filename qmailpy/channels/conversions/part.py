"""
A part of a message on its way through the entries: what can be told of it, and what has been made of it so far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from urllib.parse import quote

from attrs import define, evolve, field, frozen

from qmailpy.values import one_line
from qmailpy.wire.headers import fields, find
from qmailpy.wire.lines import to_lf
from qmailpy.wire.mime import Entity
from qmailpy.wire.mime_encoding import Survey, encoded
from qmailpy.wire.mime_rewrite import Replacement, edit_header
from qmailpy.wire.mime_values import FieldValue, decode_words, parse_value

PIECE = 65536
ENDS = 200  # characters at each end of a longer file name that are kept
NAMES = 10  # of a part that are looked at
NAME = 60  # characters of a file name that we write
_SAFE = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz !#$&'()+,-.=@[]^_`{}~")


@frozen(kw_only=True)
class Part:
    """What is known of a part."""

    ordinal: int
    path: str  # "2.1"; "" for the message
    type: str
    subtype: str
    encoding: str
    charset: str = ""
    name: str = ""  # file name, decoded; one line
    names: tuple[str, ...] = ()  # all that some reader may take for its file name, C{name} the first of them
    disposition: str = ""  # "attachment", "inline", ""
    description: str = ""
    container: bool = False
    body: bool = False  # text that is read first, in each of its alternatives
    signed: bool = False  # within multipart/signed or multipart/encrypted
    alternative: bool = False  # within multipart/alternative
    attachment: int = 0  # from 1 among those that have a name or say that they are attachments; 0 = it is none
    parameters: dict[str, str] = field(factory=dict)

    @property
    def media(self) -> str:
        """C{text/plain}."""
        return f"{self.type}/{self.subtype}"


def part_of(entity: Entity, attachments: int) -> Part:
    """
    What an entity is.

    @param attachments: how many came before.
    """
    found = find(entity.header, "content-disposition", "content-description")
    disposition = parse_value(found.get("content-disposition", ""))
    names = _names(disposition, entity.value)
    name = names[0] if names else ""
    attached = bool(name) or disposition.main == "attachment"
    signed = alternative = False
    body = entity.type == "text" and not attached
    child: Entity = entity
    above = entity.parent
    while above is not None:
        if above.type == "multipart":
            signed = signed or above.subtype in ("signed", "encrypted")
            alternative = alternative or above.subtype == "alternative"
            body = body and (above.subtype == "alternative" or child.index == 1)
        else:
            body = False
        child, above = above, above.parent
    return Part(
        ordinal=entity.ordinal,
        path=entity.path,
        type=entity.type,
        subtype=entity.subtype,
        encoding=entity.encoding,
        charset=entity.value.parameters.get("charset", ""),
        name=name,
        names=names,
        disposition=disposition.main,
        description=one_line(decode_words(found.get("content-description", "")), 255),
        container=entity.container,
        body=body,
        signed=signed,
        alternative=alternative,
        attachment=attachments + 1 if attached and not entity.container else 0,
        parameters=dict(entity.value.parameters),
    )


def _names(disposition: FieldValue, kind: FieldValue) -> tuple[str, ...]:
    """
    The file names of a part, decoded, each once: that of Content-Disposition, that of Content-Type, then those a reader
    may take who minds a double parameter, or RFC 2231, in another way; and each without what systems cut off: blanks
    and dots at the end, whatever is behind a NUL.
    """
    given = [disposition.parameters.get("filename", ""), kind.parameters.get("name", "")]
    for value, key in ((disposition, "filename"), (kind, "name")):
        given += [text for name, text in value.others if name == key]
    found: dict[str, None] = {}
    for name in given[:NAMES]:
        if not name:
            continue
        whole = decode_words(name)
        found[_shortened(one_line(whole, 8192))] = None
        found[_shortened(one_line(whole.partition("\0")[0], 8192).rstrip(" ."))] = None
    found.pop("", None)
    return tuple(found)


def _shortened(name: str) -> str:
    """A name with its beginning and its end, for patterns look at both."""
    return name if len(name) <= 2 * ENDS else name[:ENDS] + name[-ENDS:]


def pieces(path: str) -> Iterator[bytes]:
    """The octets of a file. Blocks."""
    with open(path, "rb") as source:
        while octets := source.read(PIECE):
            yield octets


def with_crlf(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Text with LF or CRLF line ends as CRLF."""
    last = b""
    for chunk in chunks:
        octets = to_lf(chunk)
        if last == b"\r" and chunk.startswith(b"\n"):
            octets = octets[1:]
            yield b"\n"
        last = chunk[-1:]
        yield octets.replace(b"\n", b"\r\n")


@define(eq=False)
class Draft:
    """A part, and what the entries have made of it; in the end a L{Replacement}, or nothing."""

    part: Part
    header: bytes
    data: bytes | None = None  # decoded; C{None}: it has parts of its own, or is in a file
    path: str = ""  # the file with the decoded data, where data is C{None}
    size: int = 0  # octets as it stands in the message, the header left out
    large: bool = False  # the data was too much for memory
    deleted: bool = False
    changed: bool = False  # the data, or what is said of it
    composed: bytes | None = None  # a body with parts of its own, 7-bit, in place of the data

    @property
    def touched(self) -> bool:
        """Whether the message has to be written anew for it."""
        return self.deleted or self.changed or self.composed is not None

    def delete(self) -> None:
        """Leave it out; the message itself is emptied instead."""
        if self.part.ordinal:
            self.deleted = True
        else:
            self.set_data(b"", "text/plain")

    def strip_fields(self, names: Iterable[str]) -> None:
        """Take fields out of its header."""
        without = edit_header(self.header, frozenset(names))
        if len(without) != len(self.header):
            self.header, self.changed = without, True

    def set_header(self, header: bytes) -> None:
        """
        Another header, with CRLF line ends and the empty line; how the data is encoded is put in later.

        The message's own is more than that of a part: of it C{header} replaces only the Content fields when it has no
        others, for who writes a part's header means those. Without From, Subject, and Received, which ends loops, it
        would not be the same mail.
        """
        if self.part.ordinal == 0 and all(name.startswith("content-") for name, _ in fields(header)):
            header = edit_header(self.header, ["content-*"], header.removesuffix(b"\r\n"))
        found = find(header, "content-type", "content-disposition")
        value = parse_value(found.get("content-type", ""))
        kind, _, subtype = value.main.partition("/")
        if kind in ("multipart", "message") or (kind and not subtype):
            header = edit_header(header, ["content-type"])
            kind = ""
        self.header, self.changed = header, True
        if kind:
            self.part = evolve(self.part, type=kind, subtype=subtype, charset=value.parameters.get("charset", ""))

    def set_text(self, text: str, charset: str = "utf-8") -> None:
        """Other text."""
        self.data = text.encode(charset, "replace")
        self.path = ""
        self.changed = True
        if charset != self.part.charset.lower():
            self.part = evolve(self.part, charset=charset)
            self._label()

    def set_data(self, data: bytes | None, media: str = "", *, path: str = "") -> None:
        """Other data, perhaps of another type; C{media} "" = as it was."""
        self.data, self.path, self.changed = data, path, True
        if media and media != self.part.media:
            kind, _, subtype = media.partition("/")
            charset = "utf-8" if kind == "text" else ""
            self.part = evolve(self.part, type=kind, subtype=subtype, charset=charset, parameters={})
            self._label()

    def set_name(self, name: str, disposition: str = "") -> None:
        """Another file name, or way to show it; "" = as it was."""
        part = self.part
        self.part = evolve(part, name=name or part.name, disposition=disposition or part.disposition)
        self.changed = True
        self._label()
        value = self.part.disposition or "attachment"
        field_ = f"Content-Disposition: {value}{_parameter('filename', self.part.name)}\r\n"
        self.header = edit_header(self.header, ["content-disposition"], field_.encode("ascii"))

    def set_parts(self, media: str, parameters: str, body: bytes) -> None:
        """
        Parts of its own.

        @param body: with the boundary lines that C{parameters} tells of, in 7 bits.
        """
        self.header = edit_header(
            self.header, ["content-*"], f"Content-Type: {media}; {parameters}\r\n".encode("ascii")
        )
        self.composed = body

    def _label(self) -> None:
        """Content-Type as the part is now."""
        part = self.part
        line = f"Content-Type: {part.media}"
        if part.charset:
            line += f"; charset={part.charset}"
        for name in ("format", "delsp"):
            if part.type == "text" and name in part.parameters:
                line += _parameter(name, part.parameters[name])
        if part.name:
            line += _parameter("name", part.name)
        self.header = edit_header(self.header, ["content-type"], f"{line}\r\n".encode("ascii", "replace"))

    def entity(self, header: bytes | None = None) -> tuple[bytes, Callable[[], Iterable[bytes]]]:
        """
        Header and encoded body of its data.

        @param header: its fields, with the empty line; C{None} = its own.
        """
        header = self.header if header is None else header
        text = self.part.type == "text"
        survey = Survey()
        for chunk in self._data(text):
            survey.feed(chunk)
        encoding = survey.encoding(text=text)
        add = f"Content-Transfer-Encoding: {encoding}\r\n".encode("ascii")
        header = edit_header(header, ["content-transfer-encoding", "content-md5", "content-length"], add)
        if self.part.ordinal == 0 and not find(header, "mime-version"):
            header = b"MIME-Version: 1.0\r\n" + header
        return header, lambda: encoded(self._data(text), encoding)

    def _data(self, text: bool) -> Iterator[bytes]:
        if self.data is None:
            return with_crlf(pieces(self.path)) if text else pieces(self.path)
        return with_crlf([self.data]) if text else iter([self.data])

    def replacement(self) -> Replacement | None:
        """What stands in its place; C{None} when it is left out. Only of one that is touched."""
        if self.deleted:
            return None
        if self.composed is not None:
            body = self.composed
            header = self.header
            if self.part.ordinal == 0 and not find(header, "mime-version"):
                header = b"MIME-Version: 1.0\r\n" + header
            return Replacement(header, lambda: [body])
        if self.data is None and not self.path:
            return Replacement(self.header)
        return Replacement(*self.entity())


def _parameter(name: str, value: str) -> str:
    """C{; name="value"}, beyond ASCII as RFC 2231 has it."""
    if not value:
        return ""
    if len(value) > NAME:
        stem, dot, end = value.rpartition(".")
        value = f"{(stem or value)[: NAME - 8]}{dot}{end}" if dot and len(end) < 8 else value[:NAME]
    if _SAFE.issuperset(value):
        return f'; {name}="{value}"'
    return f"; {name}*=utf-8''{quote(value, safe='')}"


def field_of(header: bytes, name: str) -> str:
    """A field's value on one line, for people and programs; "" when there is none."""
    return one_line(decode_words(find(header, name).get(name, "")), 1000)


__all__ = ["Draft", "Part", "field_of", "part_of", "pieces", "with_crlf"]
