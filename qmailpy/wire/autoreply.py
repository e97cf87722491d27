"""
Answers of people who are away (RFC 3834): to whom there is one, and what it looks like. Pure.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping

from attrs import frozen

from qmailpy.wire.addresslist import parse_list
from qmailpy.wire.dsn import cleaned, encoded
from qmailpy.wire.headers import date, fields, unfold
from qmailpy.wire.mime_values import decode_words

_ROBOT = re.compile(
    r"owner-.*|.*-(?:owner|request)|mailer-daemon|listserv|majordomo|postmaster|daemon|nobody|root|"
    r"(?:.*[-_.+])?(?:no|donot|do-not|do_not)[-_.]?reply(?:[-_.+].*)?|(?:.*[-_.+])?bounces?(?:[-_.+=].*)?",
    re.DOTALL,
)
"""Local parts of programs that do not read (RFC 3834 s.2, and what lists use today)."""

_LISTS = frozenset({"mailing-list", "x-mailing-list", "x-loop", "x-list", "x-autoreply", "x-autorespond"})
_TO = frozenset({"to", "cc", "bcc", "resent-to", "resent-cc", "resent-bcc", "apparently-to"})
_IDS = re.compile(r"<[^<>\s]{1,250}>")
_SUBJECT = 200  # characters of a subject that is quoted
_REFERENCES = 20
_TEXT = 65536  # characters of an answer
_FIELD = 65536  # octets of a field of addresses that are looked at


def why_not(header: bytes, sender: str, addresses: Collection[str]) -> str:
    """
    Why a message is not to be answered; "" when it is.

    @param header: with CRLF line ends, or the beginning of it.
    @param sender: of the envelope.
    @param addresses: that are the user's, in lower case: one of them must be named in the header (RFC 3834 s.2).
    """
    sender = sender.lower()
    if not sender or sender == "#@[]":
        return "it has no sender"
    if sender in addresses:
        return "it is from the user"
    if _ROBOT.fullmatch(sender.rpartition("@")[0].strip('"')):
        return "its sender is a program"
    named = False
    for name, raw in fields(header):
        if name in _TO:
            named = named or _names(raw, addresses)
            continue
        if name.startswith("list-") or name in _LISTS:
            return "it is from a list"
        said = _SAYS.get(name)
        if said is not None and said.search(unfold(raw[:1000]).lower()):
            return f"of its {name.title()} field"
    return "" if named else "the user is not among those it is addressed to"


_SAYS: Mapping[str, re.Pattern[str]] = {
    "auto-submitted": re.compile(r"^(?!no\s*(?:[;(]|$))"),
    "precedence": re.compile(r"^(?:bulk|list|junk)\b"),
    "x-auto-response-suppress": re.compile(r"\b(?:all|oof|autoreply)\b"),
    "return-path": re.compile(r"^<>"),
    "content-type": re.compile(r"^multipart/report\b"),
    "x-spam-flag": re.compile(r"^yes\b"),
    "x-fc-machinegenerated": re.compile(r"^true\b"),
}
"""Fields, and what in them is said by messages that nobody has written to somebody."""


def _names(raw: bytes, addresses: Collection[str]) -> bool:
    return any(one.address.lower() in addresses for one in parse_list(raw[:_FIELD]).addresses)


@frozen(kw_only=True)
class Answer:
    """What an answer is made of."""

    id: str  # for the Message-ID; unpredictable
    hostname: str
    user: str  # address of who answers
    to: str  # the sender of the message
    time: float
    text: str  # C{%SUBJECT%} in it stands for the subject of the message
    subject: str = ""  # likewise; "" = made from the message's


def answer(one: Answer, header: bytes) -> bytes:
    """
    The answer to a message.

    @param header: of the message.
    """
    found: dict[str, str] = {}
    for name, raw in fields(header):
        if name in ("subject", "message-id", "references", "in-reply-to") and name not in found:
            found[name] = unfold(raw[:16384])
    theirs = cleaned(decode_words(found.get("subject", "")))[:_SUBJECT]
    subject = one.subject.replace("%SUBJECT%", theirs) or f"Auto: {theirs or 'your message'}"
    message_id = _IDS.findall(found.get("message-id", ""))[:1]
    before = _IDS.findall(found.get("references", "") or found.get("in-reply-to", ""))
    references = [*before[:1], *before[1:][-_REFERENCES:], *message_id]
    lines = one.text[:_TEXT].replace("%SUBJECT%", theirs).splitlines()
    text = "\r\n".join([*lines, ""]).encode("utf-8", "replace")
    coded = not text.isascii() or b"\0" in text or any(len(line) > 900 for line in lines)
    head = [
        f"Date: {date(one.time)}",
        f"From: {cleaned(one.user)}",
        f"To: {cleaned(one.to)}",
        f"Subject: {encoded(subject[:400])}",
        f"Message-ID: <{one.id}@{one.hostname}>",
    ]
    if message_id and message_id[0].isascii():
        head.append(f"In-Reply-To: {message_id[0]}")
        head.append("References: " + "\r\n ".join([each for each in references if each.isascii()]))
    head += [
        "Auto-Submitted: auto-replied",
        "X-Auto-Response-Suppress: All",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        *["Content-Transfer-Encoding: base64"] * coded,
    ]
    body = base64.encodebytes(text).replace(b"\n", b"\r\n") if coded else text
    return "\r\n".join([*head, "", ""]).encode("utf-8", "replace") + body
