"""
Delivery status notifications: RFC 3464 reports in the multipart/report of RFC 6522, built from values.

A report has three parts: words for a person, C{message/delivery-status} for programs, and the message itself or its
header. Nothing in an address, a reply or the returned message can add a field, end a part or make a line of ours
longer than 998 octets; what is not US-ASCII in the machine's part is written as RFC 6533 s.3 has it (C{\\x{E9}}). The
result has CRLF line ends and begins with a Received field, as everything in the queue does.
"""

from __future__ import annotations

import re
import textwrap
import time
from collections.abc import Iterator, Sequence

from attrs import evolve, frozen

from qmailpy.values import Envelope, Recipient, Reply

LINE_MAX = 998  # RFC 5322 s.2.1.1, without the CRLF
_TEXT_MAX = 1000  # characters of a peer's words in a report
_WIDTH = 76

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_NOT_ASCII = re.compile(r"[^\x20-\x7e]")
_MESSAGE_ID = re.compile(r"<[\x21-\x3b\x3d\x3f-\x7e]{1,250}>")
_HEADER_JUNK = re.compile(rb"[\x00\r\n]+")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_ADVICE = (
    # (what the enhanced code begins with after its class, what the sender can do); first match
    ("1.", "There is no such address. Please check it for typing errors, or ask for the right one."),
    ("2.1", "The mailbox is not in use at the moment. Please reach the recipient some other way."),
    ("2.2", "The mailbox is full. Please tell the recipient some other way, and send the message again later."),
    ("2.3", "The message is larger than this mailbox takes. Please send less, or in parts."),
    ("3.4", "The message is larger than the receiving system takes. Please send less, or in parts."),
    ("4.6", "The message went round in a circle. Please tell the recipient's postmaster."),
    ("4.7", "It could not be delivered in all this time. Please send it again later, or reach the recipient some other "
    "way."),
    ("4.", "The receiving system could not be reached. Please send the message again later."),
    ("6.", "The receiving system cannot handle the form of the message. Please send it in a simpler one."),
    ("7.", "The receiving system does not want this message. Please reach the recipient some other way, or ask the "
    "recipient's postmaster."),
)  # fmt: skip


@frozen(kw_only=True)
class Notice:
    """The report as a message: who says it, to whom, when."""

    id: str  # its queue id
    hostname: str  # ours
    sender_name: str  # "Mail Delivery System"
    to: str  # who is told: an address
    time: float


@frozen(kw_only=True)
class Origin:
    """The message that is reported on."""

    id: str  # its queue id
    envelope: Envelope
    header: bytes  # its header section
    content: bytes | None  # all of it, or C{None} when only the header is to be returned


@frozen(kw_only=True)
class Reported:
    """A recipient and what became of it."""

    recipient: Recipient
    reply: Reply  # the peer's words or ours
    remote_mta: str = ""  # who said it; "" when it was us
    last_attempt: float | None = None
    action: str = "failed"  # RFC 3464 s.2.3.3: "failed", "delayed", "delivered", "relayed" or "expanded"


def date(when: float) -> str:
    """A date-time as RFC 5322 s.3.3 writes it, in UTC."""
    at = time.gmtime(when)
    return (
        f"{_DAYS[at.tm_wday]}, {at.tm_mday} {_MONTHS[at.tm_mon - 1]} {at.tm_year} "
        f"{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} +0000"
    )


def failure_report(notice: Notice, origin: Origin, recipients: Sequence[Reported], *, double: bool = False) -> bytes:
    """
    The report of recipients that were given up.

    @param double: it goes to the postmaster, because the message is itself a notice and its sender cannot be told.
    """
    words = [f"This is the mail system at host {notice.hostname}."]
    if double:
        words.append(
            "A notice to the sender of a message could not be delivered. It is returned to you, since nobody else can "
            "be told."
        )
    else:
        words.append("I'm sorry to say that your message could not be delivered to the recipients below.")
    for one in recipients:
        words += _told(one, "It was given up for this reason:")
    subject = "Undeliverable notice" if double else "Your message could not be delivered"
    return _report(notice, origin, subject, words, [_status(one) for one in recipients])


def delay_report(notice: Notice, origin: Origin, recipients: Sequence[Reported], retry_until: float) -> bytes:
    """
    The report of recipients that are still being tried.

    @param retry_until: when the message will be given up, seconds since the epoch.
    """
    words = [
        f"This is the mail system at host {notice.hostname}.",
        "Your message has not been delivered yet to the recipients below. You need not send it again: delivery is "
        f"tried until {date(retry_until)}, and you will be told if it fails.",
    ]
    for one in recipients:
        words += _told(one, "The last attempt ended so:", advice=False)
    statuses = [_status(evolve(one, action="delayed"), retry_until) for one in recipients]
    return _report(notice, origin, "Your message is delayed", words, statuses)


def success_report(notice: Notice, origin: Origin, recipients: Sequence[Reported]) -> bytes:
    """The report of recipients that have their mail, or of whose nothing more will be heard: see their C{action}."""
    relayed = all(one.action == "relayed" for one in recipients)
    words = [
        f"This is the mail system at host {notice.hostname}.",
        "You asked to be told of the delivery of your message. This is what became of it.",
    ]
    for one in recipients:
        words += [f"{_named(one)}:", _ARRIVED[one.action].format(host=_clean(one.remote_mta) or "another system")]
    subject = "Your message was relayed" if relayed else "Your message was delivered"
    return _report(notice, origin, subject, words, [_status(one) for one in recipients])


_ARRIVED = {
    "delivered": "It was delivered.",
    "relayed": "It was handed over to {host}, which does not tell of deliveries. You will hear of it again only if it "
    "cannot be delivered, if at all.",
    "expanded": "It was sent on to those the address stands for. Of them you will hear only what fails, if at all.",
}


def _report(notice: Notice, origin: Origin, subject: str, words: Sequence[str], statuses: Sequence[list[str]]) -> bytes:
    text = _wrapped(words)
    about = [f"Reporting-MTA: dns; {_ascii(notice.hostname)}"]
    if origin.envelope.envid:
        about.insert(0, f"Original-Envelope-Id: {_ascii(origin.envelope.envid)}")
    about.append(f"Arrival-Date: {date(origin.envelope.arrival)}")
    status = "\r\n\r\n".join("\r\n".join(map(_folded, fields)) for fields in (about, *statuses)).encode("ascii")
    kind, returned = _returned(origin)
    eight_bit = not (text.isascii() and returned.isascii())
    boundary = _boundary(notice, (text, status, returned))
    fields = [
        f"Received: by {_ascii(notice.hostname)} (qmailpy) id {notice.id}; {date(notice.time)}",
        f"Date: {date(notice.time)}",
        f"From: {_phrase(notice.sender_name)} <MAILER-DAEMON@{_ascii(notice.hostname)}>",
        f"To: {_clean(notice.to)}",
        f"Subject: {subject}",
        f"Message-ID: <{notice.id}@{_ascii(notice.hostname)}>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n boundary="{boundary}"',
    ]
    if _MESSAGE_ID.fullmatch(origin.envelope.message_id):
        fields.insert(6, f"References: {origin.envelope.message_id}")
    if eight_bit:
        fields.append("Content-Transfer-Encoding: 8bit")
    parts = (
        ("text/plain; charset=utf-8", text),
        ("message/delivery-status", status + b"\r\n"),
        (kind, returned),
    )
    pieces = [field.encode() if "\r\n" in field else _folded(field).encode() for field in fields]
    pieces += [b"", b"This is a report in MIME format (RFC 6522).", b""]
    for content_type, octets in parts:
        pieces += [b"--" + boundary.encode(), f"Content-Type: {content_type}".encode()]
        if not octets.isascii():
            pieces.append(b"Content-Transfer-Encoding: 8bit")
        pieces += [b"", octets]
    pieces += [b"--" + boundary.encode() + b"--", b""]
    return b"\r\n".join(pieces)


def _told(one: Reported, introduction: str, *, advice: bool = True) -> list[str]:
    """Paragraphs about one recipient."""
    said = _clean(str(one.reply))[:_TEXT_MAX]
    who = f"{_clean(one.remote_mta)} said: " if one.remote_mta else ""
    told = [f"{_named(one)}:", f"{introduction} {who}{said}"]
    if advice:
        detail = _enhanced(one.reply).partition(".")[2]
        told += [words for begin, words in _ADVICE if detail.startswith(begin)][:1]
    return told


def _named(one: Reported) -> str:
    """A recipient as its sender knows it."""
    recipient = one.recipient
    address = f"<{_clean(recipient.original or recipient.address)}>"
    if recipient.original and recipient.original != recipient.address:
        address += f" (which leads to <{_clean(recipient.address)}>)"
    return address


def _status(one: Reported, retry_until: float | None = None) -> list[str]:
    """The fields about one recipient (RFC 3464 s.2.3)."""
    fields = []
    if one.recipient.orcpt:  # and never made up by us: RFC 3461 s.6.3 (d)
        kind, _, address = one.recipient.orcpt.partition(";")
        fields.append(f"Original-Recipient: {_typed(kind.strip() or 'rfc822', address)}")
    fields.append(f"Final-Recipient: {_typed('rfc822', one.recipient.address)}")
    fields.append(f"Action: {one.action}")
    fields.append(f"Status: {_enhanced(one.reply)}")
    if one.remote_mta:
        fields.append(f"Remote-MTA: dns; {_ascii(one.remote_mta)}")
    # "smtp" is for what a peer said (RFC 3464 s.2.3.6); our own words have a type of our own
    kind = "smtp" if one.remote_mta else "X-qmailpy"
    fields.append(f"Diagnostic-Code: {kind}; {_ascii(str(one.reply))[:_TEXT_MAX]}")
    if one.last_attempt is not None:
        fields.append(f"Last-Attempt-Date: {date(one.last_attempt)}")
    if retry_until is not None:
        fields.append(f"Will-Retry-Until: {date(retry_until)}")
    return fields


def _typed(kind: str, address: str) -> str:
    """An address with its type; one that is not US-ASCII has the type C{utf-8} (RFC 6533 s.3)."""
    clean = _clean(address)
    if clean.isascii():
        return f"{_ascii(kind)}; {clean}"
    return "utf-8; " + _NOT_ASCII.sub(lambda found: f"\\x{{{ord(found[0]):X}}}", clean.replace("\\", "\\x{5C}"))


def _enhanced(reply: Reply) -> str:
    """The status code of a reply, of its class when the peer gave none or an odd one (RFC 3463)."""
    if re.fullmatch(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}", reply.enhanced, re.ASCII):
        return reply.enhanced
    if reply.code < 300:
        return "2.0.0"
    return "5.0.0" if reply.permanent else "4.0.0"


def _returned(origin: Origin) -> tuple[str, bytes]:
    """Content type and octets of the last part."""
    content = origin.content
    utf8 = origin.envelope.smtputf8
    if content is not None and origin.envelope.ret != "HDRS" and _sendable(content):
        return "message/global" if utf8 else "message/rfc822", content
    header = b"\r\n".join(_header_lines(origin.header))
    return "message/global-headers" if utf8 else "text/rfc822-headers", header + b"\r\n"


def _sendable(content: bytes) -> bool:
    """Whether it can be part of a message as it is: whole lines of lawful length."""
    lines = content.count(b"\r\n")
    if b"\0" in content or lines != content.count(b"\n") or lines != content.count(b"\r"):
        return False
    return all(len(line) <= LINE_MAX for line in content.split(b"\r\n"))


def _header_lines(header: bytes) -> Iterator[bytes]:
    """The lines of a header without the empty one, cut to length."""
    for line in header.split(b"\r\n"):
        clean = _HEADER_JUNK.sub(b" ", line)
        if clean.strip():
            yield clean[:LINE_MAX]


def _boundary(notice: Notice, parts: Sequence[bytes]) -> str:
    """A boundary that no part holds; the id is made of chance, so the first will do unless somebody plays tricks."""
    number = 0
    while True:
        boundary = f"=_{notice.id}.{number}"
        sought = boundary.encode()
        if not any(sought in part for part in parts):
            return boundary
        number += 1


def _wrapped(paragraphs: Sequence[str]) -> bytes:
    lines: list[str] = []
    for paragraph in paragraphs:
        lines += [*textwrap.wrap(paragraph, _WIDTH, break_on_hyphens=False), ""]
    return "\r\n".join(lines).encode("utf-8", "replace")


def _folded(field: str) -> str:
    """A field on lines of at most about 76 characters, folded at blanks, in the last resort anywhere."""
    # textwrap would also swallow blanks that matter to nobody here
    lines = textwrap.wrap(field, _WIDTH, subsequent_indent=" ", break_long_words=False, break_on_hyphens=False)
    return "\r\n".join(line if len(line.encode()) <= LINE_MAX else line[: LINE_MAX // 4] for line in lines)


def _phrase(name: str) -> str:
    """A display name (RFC 5322 s.3.4), an encoded word when it is not US-ASCII (RFC 2047)."""
    clean = _clean(name)[:60]
    if clean.isascii():
        return '"' + clean.replace("\\", "\\\\").replace('"', '\\"') + '"'
    octets = clean.encode("utf-8", "replace")[:40].decode("utf-8", "ignore").encode()
    return "=?utf-8?q?" + "".join(f"={octet:02X}" for octet in octets) + "?="


def _clean(text: str) -> str:
    """One line of it, without controls."""
    return _CONTROLS.sub(" ", text).encode("utf-8", "replace").decode().strip()


def _ascii(text: str) -> str:
    """One line of it in printable US-ASCII."""
    return _NOT_ASCII.sub("?", _clean(text))
