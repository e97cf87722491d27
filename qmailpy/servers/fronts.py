"""
Clients that may do more than send mail: those who have waiting mail sent (ETRN), and filters and proxies that tell who
is behind them (XCLIENT).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve, frozen

from qmailpy.wire.smtp_events import QueueRun


@frozen(kw_only=True)
class Claims:
    """What a front has told of its client, as far as it has; C{None}: nothing, so that our own view counts."""

    name: str | None = None  # its name in the DNS, "" when it has none
    helo: str | None = None
    extended: bool | None = None  # it speaks ESMTP
    port: str | None = None
    our_ip: str | None = None  # which of our addresses it talks to
    our_port: str | None = None

    def told(self, attributes: Mapping[str, str]) -> Claims:
        """With what one more XCLIENT says; what that does not name stays."""
        names = {"NAME": "name", "HELO": "helo", "PORT": "port", "DESTADDR": "our_ip", "DESTPORT": "our_port"}
        said: dict[str, Any] = {field: attributes[name] for name, field in names.items() if name in attributes}
        if "NAME" not in attributes and attributes.get("REVERSE_NAME") == "":
            said["name"] = ""
        if attributes.get("PROTO"):
            said["extended"] = attributes["PROTO"] == "ESMTP"
        return evolve(self, **said)


NOTHING = Claims()


def may_run(patterns: Sequence[str], asked: QueueRun) -> bool:
    """
    Whether a listener lets clients have mail for that destination sent.

    @param patterns: C{ListenerConfig.etrn}.
    """
    name = f".{asked.domain}" if asked.below else asked.domain
    return any(
        pattern == "." or name == pattern.lower() or (pattern.startswith(".") and name.endswith(pattern.lower()))
        for pattern in patterns
    )


def destination_of(asked: QueueRun) -> str:
    """What is asked for, as the queue knows it: a domain, or C{.domain} for all below."""
    return f".{asked.domain}" if asked.below else asked.domain
