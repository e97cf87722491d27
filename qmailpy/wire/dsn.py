"""
Delivery status notifications: RFC 3464 reports in the multipart/report of RFC 6522, built from values.

A report has three parts: words for a person (L{qmailpy.wire.wording}), C{message/delivery-status} for programs, and the
message itself or its header. It needs SMTPUTF8 only when the address it goes to does; then its parts are those of
RFC 6533. Nothing in an address, a reply or the returned message can add a field, end a part or make a line of ours
longer than 998 octets; what is not US-ASCII in the machine's part is written as RFC 6533 s.3 has it (C{\\x{E9}}). The
result has CRLF line ends and begins with a Received field, as everything in the queue does.
"""

from __future__ import annotations

import base64
import re
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence

from attrs import evolve, field, frozen

from qmailpy.values import Envelope, Recipient, Reply
from qmailpy.wire.lines import only_pairs
from qmailpy.wire.orcpt import unicode_xtext
from qmailpy.wire.wording import Wording, wrapped

LINE_MAX = 998  # RFC 5322 s.2.1.1, without the CRLF
_TEXT_MAX = 1000  # characters of a peer's words in a report
_WIDTH = 76

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_NOT_ASCII = re.compile(r"[^\x20-\x7e]")
_MESSAGE_ID = re.compile(r"<[\x21-\x3b\x3d\x3f-\x7e]{1,250}>")
_HEADER_JUNK = re.compile(rb"[\x00\r\n]+")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@frozen(kw_only=True)
class Notice:
    """The report as a message: who says it, to whom, when."""

    id: str  # its queue id
    hostname: str  # ours
    sender_name: str  # "Mail Delivery System"
    to: str  # who is told: an address
    time: float
    words: tuple[Wording, ...]  # in one language, or one after the other


@frozen(kw_only=True)
class Origin:
    """The message that is reported on."""

    id: str  # its queue id
    envelope: Envelope
    header: bytes  # its header section
    content: bytes | None  # all of it, or C{None} when only the header is to be returned


UNTRIED = Reply(451, "4.4.5", "not tried yet: there is much mail for this destination")
HALTED = Reply(451, "4.3.2", "not tried yet: delivery is suspended for the time being")
"""Our own words on recipients for whom there was no attempt to tell of; people are told in sections of their own."""

_NO_ATTEMPT = {UNTRIED: "recipient untried", HALTED: "recipient suspended"}


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
    return _report(notice, origin, "double" if double else "failure", recipients)


def delay_report(notice: Notice, origin: Origin, recipients: Sequence[Reported], retry_until: float | None) -> bytes:
    """
    The report of recipients that still wait.

    @param retry_until: when the message will be given up, seconds since the epoch; C{None}: nobody knows.
    """
    kind = "delay" if retry_until is not None else "delay without end"
    return _report(notice, origin, kind, [evolve(one, action="delayed") for one in recipients], retry_until)


def success_report(notice: Notice, origin: Origin, recipients: Sequence[Reported]) -> bytes:
    """The report of recipients that have their mail, or of whose nothing more will be heard: see their C{action}."""
    relayed = all(one.action == "relayed" for one in recipients)
    return _report(notice, origin, "relayed" if relayed else "success", recipients)


def note(notice: Notice, kind: str, values: Mapping[str, str]) -> bytes:
    """A message of plain text: a section that is a whole notice, in each of the languages, filled in."""
    found: list[str] = []
    for words in notice.words:
        if found:
            found += ["", "-" * 70, ""]
        found += wrapped([line for each in words.body(kind, values) for line in each.split("\n")])
    text = "\r\n".join([*found, ""]).encode("utf-8", "replace")
    coded = not text.isascii()
    fields = [
        f"Date: {date(notice.time)}",
        f"From: {_phrase(notice.sender_name)} <MAILER-DAEMON@{_ascii(notice.hostname)}>",
        f"To: {cleaned(notice.to)}",
        f"Subject: {encoded(' / '.join(words.subject(kind) for words in notice.words))}",
        f"Message-ID: <{notice.id}@{_ascii(notice.hostname)}>",
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        *["Content-Transfer-Encoding: base64"] * coded,
    ]
    pieces = [field.encode() if "\r\n" in field else _folded(field).encode() for field in fields]
    return b"\r\n".join([*pieces, b"", base64.encodebytes(text).replace(b"\n", b"\r\n") if coded else text])


def _report(
    notice: Notice, origin: Origin, kind: str, recipients: Sequence[Reported], retry_until: float | None = None
) -> bytes:
    # What needs SMTPUTF8 on its way goes in the forms of RFC 6533, everything else in those that need nothing.
    utf8 = not notice.to.isascii()
    about = [f"Reporting-MTA: dns; {_ascii(notice.hostname)}"]
    if origin.envelope.envid:
        about.insert(0, f"Original-Envelope-Id: {_ascii(origin.envelope.envid)}")
    about.append(f"Arrival-Date: {date(origin.envelope.arrival)}")
    statuses = [_status(one, retry_until, utf8=utf8) for one in recipients]
    status = "\r\n\r\n".join("\r\n".join(map(_folded, fields)) for fields in (about, *statuses)).encode()
    text = _text(notice, origin, kind, recipients, retry_until)
    parts = (
        _Part("text/plain; charset=utf-8", text, coded=not text.isascii()),
        _Part("message/global-delivery-status" if utf8 else "message/delivery-status", status + b"\r\n"),
        _returned(origin, utf8=utf8),
    )
    boundary = _boundary(notice, [part.octets for part in parts])
    subject = " / ".join(words.subject(kind) for words in notice.words)
    fields = [
        f"Received: by {_ascii(notice.hostname)} (qmailpy) id {notice.id}; {date(notice.time)}",
        f"Date: {date(notice.time)}",
        f"From: {_phrase(notice.sender_name)} <MAILER-DAEMON@{_ascii(notice.hostname)}>",
        f"To: {cleaned(notice.to)}",
        f"Subject: {encoded(subject)}",
        f"Message-ID: <{notice.id}@{_ascii(notice.hostname)}>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n boundary="{boundary}"',
    ]
    if _MESSAGE_ID.fullmatch(origin.envelope.message_id):
        fields.insert(6, f"References: {origin.envelope.message_id}")
    if not all(part.octets.isascii() for part in parts):
        fields.append("Content-Transfer-Encoding: 8bit")
    pieces = [field.encode() if "\r\n" in field else _folded(field).encode() for field in fields]
    pieces += [b"", b"This is a report in MIME format (RFC 6522).", b""]
    for part in parts:
        pieces += [b"--" + boundary.encode(), f"Content-Type: {part.kind}".encode()]
        if part.coded:
            pieces.append(b"Content-Transfer-Encoding: base64")
        elif not part.octets.isascii():
            pieces.append(b"Content-Transfer-Encoding: 8bit")
        pieces += [b"", part.octets]
    pieces += [b"--" + boundary.encode() + b"--", b""]
    return b"\r\n".join(pieces)


@frozen
class _Part:
    """A part of the report; C{coded}: it is in base64."""

    kind: str
    given: bytes
    coded: bool = False
    octets: bytes = field(init=False)

    @octets.default
    def _octets(self) -> bytes:
        return base64.encodebytes(self.given).replace(b"\n", b"\r\n") if self.coded else self.given


def _text(
    notice: Notice, origin: Origin, kind: str, recipients: Sequence[Reported], retry_until: float | None
) -> bytes:
    """The part for people, in each of the languages."""
    values = {
        "hostname": notice.hostname,
        "sender": cleaned(origin.envelope.sender),
        "arrival": date(origin.envelope.arrival),
        "envid": cleaned(origin.envelope.envid),
        "until": date(retry_until) if retry_until is not None else "",
    }
    found: list[str] = []
    for words in notice.words:
        lines: list[str] = []
        for one in recipients:
            section = "" if one.remote_mta or one.action != "delayed" else _NO_ATTEMPT.get(one.reply, "")
            lines += [*words.body(section or f"recipient {one.action}", {**values, **_told(one, words)}), ""]
        filled = words.body(kind, {**values, "recipients": "\n".join(lines)})
        if found:
            found += ["", "-" * 70, ""]
        found += wrapped([line for each in filled for line in each.split("\n")])
    return "\r\n".join([*found, ""]).encode("utf-8", "replace")


def _told(one: Reported, words: Wording) -> dict[str, str]:
    """What there is to say of one recipient."""
    final, host = cleaned(one.recipient.address), cleaned(one.remote_mta)
    original = cleaned(one.recipient.original) or final
    reply = cleaned(str(one.reply))[:_TEXT_MAX]
    status = _enhanced(one.reply)
    return {
        "original": original,
        "final": final,
        "address": f"<{original}>"
        if original == final
        else words.phrase("leads to", {"original": original, "final": final}),
        "host": host or words.phrase("somewhere", {}),
        "said": words.phrase("said by", {"host": host, "reply": reply}) if host else reply,
        "status": status,
        "advice": words.advice(status.partition(".")[2]),
    }


def _status(one: Reported, retry_until: float | None = None, *, utf8: bool = False) -> list[str]:
    """The fields about one recipient (RFC 3464 s.2.3)."""
    fields = []
    if one.recipient.orcpt:  # and never made up by us: RFC 3461 s.6.3 (d)
        kind, _, address = one.recipient.orcpt.partition(";")
        fields.append(f"Original-Recipient: {_typed(kind.strip() or 'rfc822', address, utf8=utf8)}")
    fields.append(f"Final-Recipient: {_typed('rfc822', one.recipient.address, utf8=utf8)}")
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


def _typed(kind: str, address: str, *, utf8: bool) -> str:
    """
    An address with its type; one that is not US-ASCII has the type C{utf-8} (RFC 6533 s.3), and stands as it is or, in
    a part that must be US-ASCII, as C{utf-8-addr-xtext}.
    """
    clean = cleaned(address)
    if clean.isascii() and kind.lower() != "utf-8":
        return f"{_ascii(kind)}; {clean}"
    return "utf-8; " + (clean if utf8 else unicode_xtext(clean))


def _enhanced(reply: Reply) -> str:
    """The status code of a reply, of its class when the peer gave none or an odd one (RFC 3463)."""
    if re.fullmatch(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}", reply.enhanced, re.ASCII):
        return reply.enhanced
    if reply.code < 300:
        return "2.0.0"
    return "5.0.0" if reply.permanent else "4.0.0"


def _returned(origin: Origin, *, utf8: bool) -> _Part:
    """
    The last part. A header with UTF-8 in it makes it C{message/global} or C{message/global-headers} (RFC 6532 s.3.7,
    RFC 6533 s.5), in base64 where the report does not go by SMTPUTF8.
    """
    international = origin.envelope.smtputf8 and not origin.header.isascii()
    content = origin.content
    if content is not None and origin.envelope.ret != "HDRS" and _sendable(content):
        kind, octets = "message/global" if international else "message/rfc822", content
    else:
        kind = "message/global-headers" if international else "text/rfc822-headers"
        octets = b"\r\n".join(_header_lines(origin.header)) + b"\r\n"
    return _Part(kind, octets, coded=international and not utf8)


def _sendable(content: bytes) -> bool:
    """Whether it can be part of a message as it is: whole lines of lawful length."""
    if b"\0" in content or not only_pairs(content):
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


def _folded(field: str) -> str:
    """A field on lines of at most about 76 characters, folded at blanks, in the last resort anywhere."""
    # textwrap would also swallow blanks that matter to nobody here
    lines = textwrap.wrap(field, _WIDTH, subsequent_indent=" ", break_long_words=False, break_on_hyphens=False)
    return "\r\n".join(line if len(line.encode()) <= LINE_MAX else line[: LINE_MAX // 4] for line in lines)


def _phrase(name: str) -> str:
    """A display name (RFC 5322 s.3.4), an encoded word when it is not US-ASCII (RFC 2047)."""
    clean = cleaned(name)[:60]
    if clean.isascii():
        return '"' + clean.replace("\\", "\\\\").replace('"', '\\"') + '"'
    octets = clean.encode("utf-8", "replace")[:40].decode("utf-8", "ignore").encode()
    return "=?utf-8?q?" + "".join(f"={octet:02X}" for octet in octets) + "?="


def encoded(text: str) -> str:
    """An unstructured value, as encoded words on lines of their own when it is not US-ASCII (RFC 2047)."""
    clean = cleaned(text)
    if clean.isascii():
        return clean
    words, part = [], ""
    for character in clean:
        if len((part + character).encode()) > 42:
            words.append(part)
            part = ""
        part += character
    return "\r\n ".join(f"=?utf-8?b?{base64.b64encode(word.encode()).decode()}?=" for word in (*words, part))


def cleaned(text: str) -> str:
    """One line of it, without controls."""
    return _CONTROLS.sub(" ", text).encode("utf-8", "replace").decode().strip()


def _ascii(text: str) -> str:
    """One line of it in printable US-ASCII."""
    return _NOT_ASCII.sub("?", cleaned(text))
