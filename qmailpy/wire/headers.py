"""
Message headers (RFC 5322 s.2.2): reading just enough of them, and building the fields that are ours to add.

Reading is linear, bounded by what it is given, never raises and never uses the standard library's C{email} package,
which untrusted mail can keep busy for seconds. Content has CRLF line ends throughout.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import lru_cache

from qmailpy.values import Priority

FIELDS = 2000
"""More fields than this are not looked at."""

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_PRIORITIES = {"urgent": Priority.URGENT, "normal": Priority.NORMAL, "non-urgent": Priority.NONURGENT}
# What may stand in the clauses of a Received field as it is; anything else a client claims becomes "?".
_TOKEN = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-._:[]")


def split(content: bytes) -> tuple[bytes, bytes]:
    """
    Header section, with the empty line that ends it, and body.

    Content without an empty line is all header; content that begins with one has only that for a header.
    """
    if content.startswith(b"\r\n"):
        return content[:2], content[2:]
    end = content.find(b"\r\n\r\n")
    return (content, b"") if end < 0 else (content[: end + 4], content[end + 4 :])


def fields(header: bytes, limit: int = FIELDS) -> Iterator[tuple[str, bytes]]:
    """
    The fields of a header section in order: the name in lower case and the raw value, folding and all, without the
    last CRLF. Lines that are no field (no colon, a blank or an octet that is not ASCII in the name) are left out
    with their continuation lines.

    @param limit: stop after so many.
    """
    at, size, count = 0, len(header), 0
    while at < size and count < limit:
        start = at
        while True:  # to the end of the last line of this field
            line_end = header.find(b"\r\n", at)
            if line_end < 0:
                line_end = at = size
                break
            at = line_end + 2
            if header[at : at + 1] not in (b" ", b"\t"):
                break
        if line_end == start:  # the empty line
            return
        raw_name, colon, value = header[start:line_end].partition(b":")
        name = raw_name.rstrip(b" \t")  # RFC 5322 s.4.5: obsolete syntax lets a blank stand before the colon
        if colon and name and name.isascii() and b" " not in name and b"\t" not in name and b"\r" not in name:
            count += 1
            yield name.lower().decode("ascii"), value


def unfold(value: bytes) -> str:
    """
    A raw value as one line: line ends go, blanks at both ends too (RFC 5322 s.2.2.3). Octets that are not UTF-8 become
    U+FFFD.
    """
    return value.replace(b"\r\n", b"").strip(b" \t").decode("utf-8", "replace")


def find(header: bytes, *names: str) -> dict[str, str]:
    """
    The first value, unfolded, of each field of those names (lower case) that the header has.

    For a few names: it searches for each instead of going through all fields.
    """
    text = b"\r\n" + split(header)[0]
    lower = text.lower()
    found: dict[str, str] = {}
    for name in names:
        at = lower.find(b"\r\n%s:" % name.encode("ascii"))
        if at >= 0:
            _, value = next(fields(text[at + 2 :], 1))
            found[name] = unfold(value)
    return found


def count_received(header: bytes) -> int:
    """How many Received fields there are: the number of times the message has been handed on."""
    return (b"\r\n" + split(header)[0]).lower().count(b"\r\nreceived:")


def priority(value: str) -> Priority:
    """The meaning of a Priority field's value (RFC 2156 s.5.3.6); normal when it has none we know."""
    return _PRIORITIES.get(value.strip().lower(), Priority.NORMAL)


def date(moment: float) -> str:
    """
    RFC 5322 s.3.3 date in local time. Cheap: the last seconds' are kept.

    @param moment: seconds since the epoch.
    """
    return _date(int(moment))


@lru_cache(maxsize=8)
def _date(second: int) -> str:
    at = time.localtime(second)
    offset = at.tm_gmtoff // 60
    sign, offset = ("-", -offset) if offset < 0 else ("+", offset)
    return (
        f"{_DAYS[at.tm_wday]}, {at.tm_mday:02} {_MONTHS[at.tm_mon - 1]} {at.tm_year} "
        f"{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} {sign}{offset // 60:02}{offset % 60:02}"
    )


def source_system(helo: str, name: str, ip: str) -> str:
    """
    Who sent it, in the form of the transaction log: C{"helo (rdns [ip])"}, or C{"helo ([ip])"} without reverse DNS, or
    C{"helo"} when it came by other ways than TCP.
    """
    if not ip:
        return helo
    return f"{helo} ({name} [{ip}])" if name else f"{helo} ([{ip}])"


def received_field(
    *,
    helo: str,
    name: str = "",
    ip: str,
    host: str,
    protocol: str,
    queue_id: str,
    moment: float,
    recipient: str = "",
    tls: str = "",
) -> bytes:
    """
    Our trace field with its CRLF (RFC 5321 s.4.4).

    @param helo: what the client called itself; made harmless here.
    @param name: what the reverse DNS calls C{ip}, "" when not known.
    @param ip: the client's address in text form; "" when it came by other ways than TCP.
    @param host: our name.
    @param protocol: RFC 3848 keyword.
    @param recipient: the canonical address of the only recipient; "" leaves the C{for} clause out.
    @param tls: what protected the connection, for the C{tls} clause of RFC 8314 s.4.3: the registered name of the
        cipher suite, and a comment; "" for a connection in the clear.
    """
    literal = f"[IPv6:{ip}]" if ":" in ip else f"[{ip}]" if ip else ""
    tcp_info = " ".join(part for part in (_token(name), literal) if part)
    lines = [f"Received: from {_token(helo) or 'unknown'}" + (f" ({tcp_info})" if tcp_info else "")]
    lines.append(f"\tby {host} with {protocol} id {queue_id}")
    if recipient:
        lines.append(f"\tfor <{recipient}>")
    if tls:
        lines.append(f"\ttls {tls}")
    return ("\r\n".join(lines) + f"; {date(moment)}\r\n").encode("utf-8")


def _token(text: str) -> str:
    return text if _TOKEN.issuperset(text) else "".join(char if char in _TOKEN else "?" for char in text)


def complete(content: bytes, *, sender: str, host: str, unique: str, moment: float, full_name: str = "") -> bytes:
    """
    A submission (RFC 6409 s.8) with what it lacks: Date, From and Message-ID, put before its own fields.

    For mail of our own users only: nothing is invented for mail that arrives from elsewhere. Content that has no header
    at all gets one, so that no line of its body is taken for a field.

    @param content: header and body with CRLF.
    @param sender: canonical address for From; "" leaves it to C{MAILER-DAEMON} at C{host}.
    @param unique: left part of a Message-ID, such as a queue id.
    @param full_name: display name for From.
    """
    header, body = split(content)
    first = next(fields(header, 1), None)
    if first is None or header.startswith((b" ", b"\t")) or not _starts_with_field(header):
        header, body, present = b"", content.removeprefix(b"\r\n"), set()
    else:
        present = {name for name, _ in fields(header)}
    added = []
    if "date" not in present:
        added.append(f"Date: {date(moment)}\r\n")
    if "from" not in present:
        address = sender or f"MAILER-DAEMON@{host}"
        phrase = full_name.translate(_PHRASE)
        added.append(f'From: "{phrase}" <{address}>\r\n' if phrase.strip() else f"From: {address}\r\n")
    if "message-id" not in present:
        added.append(f"Message-ID: <{unique}@{host}>\r\n")
    if not header.endswith(b"\r\n\r\n"):
        # A header without its empty line: only when there is no body, or when we make the header ourselves.
        header = (header + b"\r\n" if header and not header.endswith(b"\r\n") else header) + b"\r\n"
    return "".join(added).encode("utf-8") + header + body


# A quoted phrase: controls and line ends become blanks, quotes go.
_PHRASE: dict[int, str | None] = {**dict.fromkeys((*range(32), 127), " "), ord('"'): None, ord("\\"): None}


def _starts_with_field(header: bytes) -> bool:
    """Whether the first line is a field and not a line of text: what stands before its colon has no blank in it."""
    line = header.partition(b"\r\n")[0]
    name, colon, _ = line.partition(b":")
    return bool(colon) and bool(name) and name.isascii() and b" " not in name.rstrip(b" \t")
