"""
SMTP TLS reporting without I/O (RFC 8460): what is counted, the record that says who wants to know, and the report.
"""

from __future__ import annotations

import base64
import datetime
import gzip
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from attrs import frozen

_PREFIX = "v=TLSRPTv1"
_ADDRESS = re.compile(r"[A-Za-z0-9!#$&'*+/=^_`{|}~.-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")

RUA_LIMIT = 8
"""Addresses of a record that get the report."""


@frozen(cache_hash=True)
class Applied:
    """A policy as reports tell it (RFC 8460 s.4.4)."""

    kind: str  # "tlsa", "sts" or "no-policy-found"
    strings: tuple[str, ...] = ()  # its lines, or its records
    mx: tuple[str, ...] = ()  # patterns of an MTA-STS policy


NOTHING = Applied("no-policy-found")


@frozen(cache_hash=True)
class Failed:
    """A kind of failure, counted by all of this (RFC 8460 s.4.3)."""

    kind: str  # result type
    host: str = ""  # the mail exchanger
    address: str = ""  # its IP address
    ours: str = ""  # our IP address
    why: str = ""  # in words


@frozen(kw_only=True)
class Counted:
    """What came of a day's sessions under one policy."""

    applied: Applied
    good: int
    bad: int
    failures: tuple[tuple[Failed, int], ...] = ()  # with their numbers; may be fewer than bad, when they were too many


@frozen(kw_only=True)
class Reporter:
    """Who reports."""

    organization: str
    contact: str  # mail address
    domain: str  # the one the report comes from


def report_addresses(texts: Sequence[str]) -> tuple[str, ...]:
    """
    Where a domain wants its reports: C{mailto:ADDRESS} and C{https:} URLs, without those we cannot use (RFC 8460 s.3).

    @param texts: TXT records of C{_smtp._tls.DOMAIN}; there must be one of the right version.
    """
    ours = [text for text in texts if text.startswith(_PREFIX) and text[len(_PREFIX) :].lstrip(" \t").startswith(";")]
    if len(ours) != 1:
        return ()
    for field in ours[0].split(";")[1:]:
        name, equals, value = field.strip(" \t").partition("=")
        if name.strip() == "rua" and equals:
            found = (_rua(each.strip(" \t")) for each in value.split(","))
            return tuple(dict.fromkeys(filter(None, found)))[:RUA_LIMIT]
    return ()


def _rua(uri: str) -> str:
    """The URI, or "" when it is none of ours."""
    scheme, _, rest = uri.partition(":")
    if scheme.lower() == "mailto":
        address = rest.partition("?")[0]
        return f"mailto:{address}" if _ADDRESS.fullmatch(address) and ".." not in address else ""
    if scheme.lower() != "https" or not uri.isascii() or not uri.isprintable() or " " in uri or len(uri) > 2000:
        return ""
    try:
        parts = urlsplit(uri)
        usable = bool(parts.hostname) and parts.username is None and parts.port in (None, 443)
    except ValueError:
        return ""
    return uri if usable else ""


def report(domain: str, day: datetime.date, counted: Iterable[Counted], reporter: Reporter, report_id: str) -> bytes:
    """
    The report of one UTC day to one domain, as JSON (RFC 8460 s.4.4).

    @param report_id: unlike that of any other report.
    """
    policies = []
    for each in counted:
        policy: dict[str, Any] = {"policy-type": each.applied.kind}
        if each.applied.strings:
            policy["policy-string"] = list(each.applied.strings)
        policy["policy-domain"] = domain
        if each.applied.mx:
            policy["mx-host"] = list(each.applied.mx)
        policies.append(
            {
                "policy": policy,
                "summary": {"total-successful-session-count": each.good, "total-failure-session-count": each.bad},
                "failure-details": [_details(failed, number) for failed, number in each.failures],
            }
        )
    whole = {
        "organization-name": reporter.organization,
        "date-range": {"start-datetime": f"{day}T00:00:00Z", "end-datetime": f"{day}T23:59:59Z"},
        "contact-info": reporter.contact,
        "report-id": report_id,
        "policies": policies,
    }
    return json.dumps(whole, indent=1).encode("ascii")


def _details(failed: Failed, number: int) -> Mapping[str, Any]:
    said = {
        "result-type": failed.kind,
        "sending-mta-ip": failed.ours,
        "receiving-mx-hostname": failed.host,
        "receiving-ip": failed.address,
        "failure-reason-code": failed.why,
    }
    return {**{key: value for key, value in said.items() if value}, "failed-session-count": number}


def packed(octets: bytes) -> bytes:
    """A report as it travels (RFC 8460 s.5.2); the same octets for the same report."""
    return gzip.compress(octets, mtime=0)


def report_name(domain: str, day: datetime.date, reporter: Reporter, report_id: str) -> str:
    """Its file name (RFC 8460 s.5.1)."""
    begin = int(datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC).timestamp())
    unique = re.sub(r"[^A-Za-z0-9.-]", "", report_id.partition("@")[0])
    return f"{reporter.domain}!{domain}!{begin}!{begin + 86399}!{unique}.json.gz"


def report_mail(
    domain: str, day: datetime.date, zipped: bytes, reporter: Reporter, report_id: str, to: str, date: str
) -> bytes:
    """
    The message that brings a report (RFC 8460 s.5.3).

    It asks for no TLS, whatever is published: to tell of a broken policy must not fail by it (RFC 8689 s.3).

    @param to: its recipient.
    @param date: for the Date field.
    """
    boundary = f"=_tlsrpt_{re.sub('[^A-Za-z0-9]', '', report_id)[:40]}"
    name = report_name(domain, day, reporter, report_id)
    body = base64.b64encode(zipped).decode("ascii")
    lines = [
        f"From: <{reporter.contact}>",
        f"To: <{to}>",
        f"Date: {date}",
        f"Message-ID: <{report_id}>",
        f"Subject: Report Domain: {domain}",
        f" Submitter: {reporter.domain}",
        f" Report-ID: <{report_id}>",
        f"TLS-Report-Domain: {domain}",
        f"TLS-Report-Submitter: {reporter.domain}",
        "TLS-Required: No",
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type="tlsrpt"; boundary="{boundary}"',
        "",
        f"--{boundary}",
        "Content-Type: text/plain; charset=us-ascii",
        "",
        f"This is the report on TLS for mail from {reporter.domain} to {domain}",
        f"on {day} (UTC), as {domain} asks for it in its DNS (RFC 8460).",
        "",
        f"--{boundary}",
        "Content-Type: application/tlsrpt+gzip",
        "Content-Transfer-Encoding: base64",
        "Content-Disposition: attachment;",
        f' filename="{name}"',
        "",
        *(body[at : at + 76] for at in range(0, len(body), 76)),
        f"--{boundary}--",
        "",
    ]
    return "\r\n".join(lines).encode("ascii")
