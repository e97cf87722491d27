"""
From what a program wrote to C{inject} or C{sendmail} to a message: line ends, missing fields, hidden recipients.

The rules are qmail-inject's: Bcc, Return-Path and Content-Length go, addresses without a domain get one, Date, From,
Message-ID and a Cc for want of any visible recipient are added; a message that is being resent (it has Resent- fields)
gets Resent- ones instead. Everything else stays as it came. Pure; linear in the length of the message.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence

from attrs import frozen

from qmailpy.wire.address import split as split_address
from qmailpy.wire.addresslist import parse_list, qualified
from qmailpy.wire.headers import date

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]*")

_RECIPIENTS = ("to", "cc", "bcc", "apparently-to")
_RESENT_RECIPIENTS = ("resent-to", "resent-cc", "resent-bcc")
_ADDRESSES = frozenset(
    (*_RECIPIENTS, *_RESENT_RECIPIENTS, "from", "sender", "reply-to", "resent-from", "resent-sender", "resent-reply-to")
)
_REMOVED = frozenset({"bcc", "resent-bcc", "return-path", "content-length"})


class ComposeError(ValueError):
    """The message cannot be sent as it is; the text, one line, says why."""


@frozen(kw_only=True)
class Author:
    """Who writes it, and how what is missing is made up."""

    address: str  # of the author, for From
    name: str = ""  # display name for From
    domain: str  # completes addresses without one
    moment: float  # now, seconds since the epoch
    unique: str  # left part of a Message-ID, never the same twice
    id_host: str  # right part of it
    comment_from: bool = False  # QMAILINJECT c: From as "address (name)"
    drop_from: bool = False  # QMAILINJECT f: a From that is there is replaced
    drop_message_id: bool = False  # QMAILINJECT i: so is a Message-ID
    lists: frozenset[str] = frozenset()  # addresses of mailing lists: mail to one gets Mail-Followup-To


@frozen(kw_only=True)
class Composed:
    """The message, and what its header said about the envelope."""

    content: bytes  # with CRLF line ends, the last line ended
    recipients: tuple[str, ...]  # of To, Cc and Bcc (of the Resent- ones when there are any), each once
    return_path: str | None  # of the Return-Path field; C{None} without one
    troubles: tuple[str, ...]  # recipients that are no addresses


@frozen
class _Field:
    name: str  # lower case
    raw: bytes  # all of it, with its CRLFs

    @property
    def value(self) -> bytes:
        return self.raw.partition(b":")[2].removesuffix(b"\r\n")


def normalised(octets: bytes, *, dot_ends: bool = False) -> bytes:
    """
    With CRLF as the only line end, and the last line ended.

    @param octets: as a program wrote them, with LF or CRLF; a lone CR, which mail may not hold, is a line end too.
    @param dot_ends: a line with nothing but a dot ends the message (sendmail without C{-i}).
    @raise ComposeError: there is a NUL in it, which mail cannot carry.
    """
    if b"\0" in octets:
        raise ComposeError("the message holds a NUL octet; encode it (MIME base64) or leave it out")
    text = octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if dot_ends:
        if text.startswith(b".\n") or text == b".":
            text = b""
        else:
            end = text.find(b"\n.\n")
            text = text[: end + 1] if end >= 0 else text.removesuffix(b"\n.") + b"\n" * text.endswith(b"\n.")
    if text and not text.endswith(b"\n"):
        text += b"\n"
    return text.replace(b"\n", b"\r\n")


def _scan(content: bytes) -> tuple[list[_Field], bytes]:
    """
    Fields and body. The header ends at an empty line or where a line is no field: then that line begins the body.
    """
    fields: list[_Field] = []
    at = 0
    if content.startswith((b"From ", b">From ")):  # the mark of an mbox file
        at = content.find(b"\r\n") + 2
    while at < len(content):
        end = content.find(b"\r\n", at) + 2
        if end == at + 2:
            return fields, content[end:]
        match = _FIELD.match(content, at)
        if match is None:
            break
        while content[end : end + 1] in (b" ", b"\t"):
            end = content.find(b"\r\n", end) + 2
        fields.append(_Field(match[1].decode("ascii").lower(), content[at:end]))
        at = end
    return fields, content[at:]


def compose(content: bytes, author: Author) -> Composed:
    """
    Complete a message.

    @param content: L{normalised}.
    """
    fields, body = _scan(content)
    names = {field.name for field in fields}
    resent = any(name.startswith("resent-") for name in names)
    wanted = _RESENT_RECIPIENTS if resent else _RECIPIENTS
    recipients: dict[str, None] = {}
    visible: dict[str, None] = {}
    troubles: list[str] = []
    return_path: str | None = None
    kept: list[bytes] = []
    for field in fields:
        raw = field.raw
        if field.name in _ADDRESSES:
            found = parse_list(field.value)
            for listed in found.addresses:
                full = listed.address if listed.qualified else f"{listed.address}@{author.domain}"
                if field.name in wanted:
                    recipients[full] = None
                if field.name in ("to", "cc"):
                    visible[full] = None
            if field.name in wanted:
                shown = raw.partition(b":")[0].decode("ascii")
                troubles += [f"{shown}: {trouble.text}" for trouble in found.troubles]
            if not all(listed.qualified for listed in found.addresses):
                raw = raw[: len(raw) - len(field.value) - 2] + qualified(field.value, found, author.domain) + b"\r\n"
        elif field.name == "return-path" and return_path is None:
            return_path = _return_path(field.value, author.domain)
        replaced = (field.name == "from" and author.drop_from) or (
            field.name == "message-id" and author.drop_message_id
        )
        if field.name not in _REMOVED and not replaced:
            kept.append(raw)
    names -= {name for name, gone in (("from", author.drop_from), ("message-id", author.drop_message_id)) if gone}
    added = _missing(names, author, "resent-" if resent else "", visible)
    header = b"".join((*added, *kept))
    return Composed(
        content=header + b"\r\n" + body,
        recipients=tuple(recipients),
        return_path=return_path,
        troubles=tuple(troubles),
    )


def _return_path(value: bytes, domain: str) -> str | None:
    found = parse_list(value)
    if found.addresses:
        listed = found.addresses[0]
        return listed.address if listed.qualified else f"{listed.address}@{domain}"
    return "" if b"<>" in value.replace(b" ", b"") else None


def _missing(names: set[str], author: Author, prefix: str, visible: Iterable[str]) -> list[bytes]:
    """The fields that have to be added, each with its CRLF."""
    title = "Resent-" if prefix else ""
    added = []
    if prefix + "date" not in names:
        added.append(f"{title}Date: {date(author.moment)}")
    if prefix + "message-id" not in names:
        added.append(f"{title}Message-ID: <{author.unique}@{author.id_host}>")
    if prefix + "from" not in names:
        added.append(f"{title}From: {_mailbox(author)}")
    if prefix + "to" not in names and prefix + "cc" not in names:
        added.append(f"{title}Cc: recipient list not shown: ;")
    visible = list(visible)
    if not prefix and "mail-followup-to" not in names and author.lists.intersection(map(str.lower, visible)):
        added.append("Mail-Followup-To: " + ",\r\n\t".join(visible))
    return [line.encode() + b"\r\n" for line in added]


def _mailbox(author: Author) -> str:
    """The author's address with its display name."""
    name = " ".join("".join(c if c.isprintable() else " " for c in author.name).split())
    if not name:
        return author.address
    if author.comment_from:
        comment = name.replace("\\", "").replace("(", "[").replace(")", "]")
        return f"{author.address} ({comment if comment.isascii() else _encoded(comment)})"
    if not name.isascii():
        phrase = _encoded(name)
    elif _ATOMS.fullmatch(name):
        phrase = name
    else:
        phrase = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{phrase} <{author.address}>"


def _encoded(text: str) -> str:
    """As encoded words (RFC 2047 s.2), each of at most 75 characters with whole letters in it."""
    words = (text[at : at + 11] for at in range(0, len(text), 11))  # 4 octets a letter at most: 44, 60 in base64
    return "\r\n ".join("=?utf-8?b?" + base64.b64encode(word.encode()).decode("ascii") + "?=" for word in words)


def full_addresses(arguments: Sequence[str], domain: str) -> tuple[str, ...]:
    """
    Recipients named on a command line, each an address list of its own, each once.

    @raise ComposeError: one is no address.
    """
    found: dict[str, None] = {}
    for argument in arguments:
        parsed = parse_list(argument.encode("utf-8", "surrogateescape"))
        if parsed.troubles:
            raise ComposeError(f"{argument}: {parsed.troubles[0].text}")
        for listed in parsed.addresses:
            found[listed.address if listed.qualified else f"{listed.address}@{domain}"] = None
    return tuple(found)


def sender_address(text: str, domain: str) -> str:
    """
    A sender named on a command line; C{""} and C{<>} are the null sender.

    @raise ComposeError: it is no address, or several.
    """
    if text.strip() in ("", "<>"):
        return ""
    found = full_addresses([text], domain)
    if len(found) != 1:
        raise ComposeError(f"{text}: not one address")
    return found[0]


def variable_sender(sender: str, recipient: str) -> str:
    """A sender that names the recipient, so that a bounce tells whose it is: C{list-joe=example.org@our.example}."""
    local, domain = split_address(sender)
    to_local, to_domain = split_address(recipient)
    return f"{local}-{to_local}={to_domain}@{domain}" if sender else ""
