"""
What a peer says it takes at most, so that it need not refuse it (RFC 9422).

A limit that is missing, or written as it may not be, is none: the peer then says so when it has enough.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from attrs import frozen

_VALUE = re.compile(r"[0-9]{1,6}")  # s.4: all that are defined so far


@frozen(kw_only=True)
class Limits:
    """Those that are defined (RFC 9422 s.5); 0 = there is none."""

    messages: int = 0  # MAILMAX: MAIL commands a session
    recipients: int = 0  # RCPTMAX: RCPT commands a transaction, also those that are refused
    domains: int = 0  # RCPTDOMAINMAX: of recipients, a session

    def fitting(self, recipients: Sequence[str], indexes: Iterable[int], domains: Collection[str]) -> list[int]:
        """
        Who of the recipients may be named in the next transaction.

        @param indexes: whom it is about, by their positions.
        @param domains: those that were named in this session (L{domain_of}).
        @return: the first that fit, in their order; nobody when the session has had its domains.
        """
        chosen: list[int] = []
        seen = set(domains)
        for index in indexes:
            if self.recipients and len(chosen) >= self.recipients:
                break
            if self.domains:
                domain = domain_of(recipients[index])
                if domain not in seen and len(seen) >= self.domains:
                    continue
                seen.add(domain)
            chosen.append(index)
        return chosen


NO_LIMITS = Limits()


def limits(parameters: str) -> Limits:
    """
    @param parameters: what follows LIMITS in the reply to EHLO.
    """
    found: dict[str, int] = {}
    for parameter in parameters.split():
        name, equals, value = parameter.partition("=")
        if equals and _VALUE.fullmatch(value):
            found.setdefault(name.upper(), int(value))
    return Limits(
        messages=found.get("MAILMAX", 0), recipients=found.get("RCPTMAX", 0), domains=found.get("RCPTDOMAINMAX", 0)
    )


def domain_of(address: str) -> str:
    """As domains are told apart."""
    return address.rpartition("@")[2].lower()
