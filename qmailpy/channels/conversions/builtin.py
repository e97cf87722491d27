"""
Conversions that are built in. Each is a class in L{BUILT_IN}; a new one is a line there, and a word in
config.conversion_schema.ACTIONS.
"""

from __future__ import annotations

import html
import re
import secrets
from collections.abc import Mapping
from string import Template

from zope.interface import Interface, implementer

from qmailpy.channels.conversions.images import stripped
from qmailpy.channels.conversions.markup import plain_text
from qmailpy.channels.conversions.part import Draft, Part
from qmailpy.config.conversion_schema import EntryConfig
from qmailpy.wire.mime_rewrite import edit_header
from qmailpy.wire.mime_values import codec

_NOTICE = "The attachment $NAME ($TYPE, $SIZE octets) was taken out by the mail system.\n"
_REVEALING = (
    "user-agent",
    "x-mailer",
    "x-mimeole",
    "x-originating-ip",
    "x-originating-email",
    "x-originating-client",
    "x-php-originating-script",
    "x-client-ip",
    "x-sender-ip",
    "thread-topic",
    "thread-index",
)
_META = re.compile(r"(<meta\b[^<>]{0,200}?\bcharset\s*=\s*[\"']?)[A-Za-z0-9_.:-]{1,40}", re.IGNORECASE)
_KEPT = ("content-type", "content-id", "content-location", "content-language", "content-base", "content-disposition")


class IConversion(Interface):
    """A change to parts of messages."""

    def wants(part: Part) -> bool:
        """Whether there may be something to do for a part that its entry fits. Cheap; the data is not known yet."""

    def thd_convert(draft: Draft, entry: EntryConfig) -> str:
        """
        Change a part.

        @param draft: C{data} is there, but for parts that have parts of their own.
        @return: what was done, in some words; "" for nothing, and then the part stays octet for octet.
        @raise ValueError: it cannot be done; the part stays as it is.
        """


@implementer(IConversion)
class Disclaimer:
    """Adds a text to what is read first, in each of its alternatives."""

    def wants(self, part: Part) -> bool:
        return part.body and part.subtype in ("plain", "html")

    def thd_convert(self, draft: Draft, entry: EntryConfig) -> str:
        text, charset = _text_of(draft)
        if draft.part.subtype == "html":
            added = entry.html or "<p>" + html.escape(entry.text.strip()).replace("\n", "<br>\n") + "</p>"
            at = text.lower().rfind("</body")
            changed = f"{text[:at]}{added}\r\n{text[at:]}" if at >= 0 else f"{text}\r\n{added}\r\n"
        else:
            added = entry.text.strip("\n")
            changed = f"{text.rstrip()}\n\n{added}\n"
        if added.strip() in text[-len(added) - 2000 :]:
            return ""  # it has been here before
        try:
            changed.encode(charset)
        except UnicodeEncodeError:
            charset = "utf-8"
            changed = _META.sub(r"\1utf-8", changed, count=1) if draft.part.subtype == "html" else changed
        draft.set_text(changed, charset)
        return "disclaimer added"


@implementer(IConversion)
class Replace:
    """Puts a notice in an attachment's place."""

    def wants(self, part: Part) -> bool:
        return not part.container or part.ordinal > 0

    def thd_convert(self, draft: Draft, entry: EntryConfig) -> str:
        part = draft.part
        words = {"NAME": part.name or "without a name", "TYPE": part.media, "SIZE": str(draft.size)}
        notice = Template(entry.text or _NOTICE).safe_substitute(words)
        draft.set_data(notice.encode("utf-8"), "text/plain")
        draft.set_name((part.name or "attachment") + ".txt", "attachment" if part.ordinal else "inline")
        return "replaced by a notice"


@implementer(IConversion)
class Alternative:
    """Gives HTML that comes alone an alternative in plain text."""

    def wants(self, part: Part) -> bool:
        return part.media == "text/html" and part.body and not part.alternative

    def thd_convert(self, draft: Draft, entry: EntryConfig) -> str:
        text, _ = _text_of(draft)
        plain = Draft(part=draft.part, header=b"Content-Type: text/plain; charset=utf-8\r\n\r\n")
        plain.set_data(plain_text(text).encode("utf-8"))
        drop = [name for name in _field_names(draft.header) if name not in _KEPT]
        pairs = [_part(plain, plain.header), _part(draft, edit_header(draft.header, drop))]
        boundary = secrets.token_hex(16)
        line = f"--{boundary}".encode("ascii")
        body = b"".join(line + b"\r\n" + one + b"\r\n" for one in pairs) + line + b"--\r\n"
        draft.set_parts("multipart/alternative", f'boundary="{boundary}"', body)
        return "text alternative made"


@implementer(IConversion)
class Strip:
    """Takes out what tells of the sender's software and whereabouts: header fields, what cameras add to pictures."""

    def wants(self, part: Part) -> bool:
        return part.ordinal == 0 or part.media in ("image/jpeg", "image/jpg", "image/pjpeg", "image/png")

    def thd_convert(self, draft: Draft, entry: EntryConfig) -> str:
        before = draft.header
        if draft.part.ordinal == 0:
            draft.strip_fields(_REVEALING)
        less = stripped(draft.data) if draft.data is not None and draft.part.type == "image" else None
        if less is not None:
            draft.set_data(less)
        return "metadata taken out" if less is not None or draft.header != before else ""


@implementer(IConversion)
class Utf8:
    """Text in UTF-8."""

    def wants(self, part: Part) -> bool:
        return part.type == "text" and codec(part.charset) not in ("", "utf-8", "ascii")

    def thd_convert(self, draft: Draft, entry: EntryConfig) -> str:
        charset = codec(draft.part.charset)
        try:
            text = (draft.data or b"").decode(charset)
        except (UnicodeDecodeError, ValueError):
            raise ValueError(f"it is not all {charset}") from None
        if draft.part.subtype == "html":
            text = _META.sub(r"\1utf-8", text, count=1)
        draft.set_text(text.removeprefix("\ufeff"))
        return f"from {charset} to utf-8"


BUILT_IN: Mapping[str, type] = {
    "disclaimer": Disclaimer,
    "replace": Replace,
    "alternative": Alternative,
    "strip": Strip,
    "utf8": Utf8,
}
"""By the name of the action."""


def _text_of(draft: Draft) -> tuple[str, str]:
    """
    The text of a part and its charset.

    @raise ValueError: it is not what it says.
    """
    charset = codec(draft.part.charset or "us-ascii")
    if charset == "ascii":
        charset = "utf-8"  # which it is as well, and perhaps it says the wrong thing
    if not charset:
        raise ValueError("its charset is not known")
    try:
        return (draft.data or b"").decode(charset), charset
    except (UnicodeDecodeError, ValueError):
        raise ValueError(f"it is not all {charset}") from None


def _part(draft: Draft, header: bytes) -> bytes:
    made, body = draft.entity(header)
    return made.replace(b"MIME-Version: 1.0\r\n", b"", 1) + b"".join(body())


def _field_names(header: bytes) -> set[str]:
    lines = header.split(b"\r\n")
    names = {line.partition(b":")[0].rstrip(b" \t").lower() for line in lines if not line.startswith((b" ", b"\t"))}
    return {name.decode("ascii", "replace") for name in names if name.isascii()}
