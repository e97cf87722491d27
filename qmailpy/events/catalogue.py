"""
Every event there is: how grave it is, what it says, which fields it has, what to do about it (docs/events.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from attrs import frozen


class Severity(Enum):
    """How grave, in syslog's words."""

    NOTICE = "notice"
    WARNING = "warning"
    CRITICAL = "critical"


@frozen(kw_only=True)
class Kind:
    """A row of the catalogue."""

    severity: Severity
    text: str  # a sentence, with the fields in braces
    remedy: str  # what to do, with the command for it
    fields: tuple[str, ...] = ()  # the first is the key: the same event with the same key is told once an interval
    interval_s: float = 300.0


CATALOGUE: Mapping[str, Kind] = {
    "auth.banned": Kind(
        severity=Severity.WARNING,
        fields=("address", "login", "failures"),
        text="{address} tried {failures} wrong passwords, the last one for {login}, and is shut out for a while",
        remedy="Nothing, if it is a stranger. A user with an old password in some device: qmailpy user passwd {login}",
    ),
    "auth.attack": Kind(
        severity=Severity.WARNING,
        fields=("login", "failures"),
        text="{failures} wrong passwords for {login}: it is closed for a while to clients it was not used from before",
        remedy="Its owner is let in from the usual place. Is the password a weak one? qmailpy user passwd {login}",
    ),
    "directory.server": Kind(
        severity=Severity.WARNING,
        fields=("server", "why"),
        text="directory server {server} does not serve: {why}; another one is asked",
        remedy="Look after that server; how all of them are: qmailpy directory status",
    ),
    "directory.away": Kind(
        severity=Severity.CRITICAL,
        fields=("why",),
        text="no directory server answers: {why}; mail waits",
        remedy="qmailpy directory status; qmailpy status",
    ),
    "limit.broken": Kind(
        severity=Severity.WARNING,
        fields=("who", "limit", "most"),
        text="{who} wants more than {limit} allows, which is {most}, and is put off",
        remedy="Nothing, if it is a stranger. A user may have a virus or a stolen password: qmailpy user passwd {who}; "
        "[limits] and service plans say how much is allowed",
    ),
    "tls.certificate-expires": Kind(
        severity=Severity.WARNING,
        fields=("file", "days", "date"),
        text="the certificate in {file} runs out on {date} ({days} days)",
        remedy="Put a new certificate and its key there; see with: qmailpy check; then: systemctl reload qmailpy",
        interval_s=43200.0,
    ),
}
"""By name, AREA.WHAT."""
