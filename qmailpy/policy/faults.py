"""
What the checks have against a message: by name, what is to be done about it, and what is said. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attrs import frozen

from qmailpy.config.schema import ChecksConfig
from qmailpy.policy import hello
from qmailpy.policy.visit import Letter, Visit
from qmailpy.values import Reply

EARLY, PIPELINING, REVERSE, SENDER, LIST = "early_talkers", "pipelining", "reverse_name", "sender_domain", "dnslist"

TAGS: Mapping[str, str] = {
    EARLY: "early-talker",
    PIPELINING: "pipelining",
    hello.SYNTAX: "helo-syntax",
    hello.OURS: "helo-ours",
    hello.LITERAL: "helo-literal",
    REVERSE: "reverse-name",
    SENDER: "sender-domain",
    LIST: "dnslist",
}
"""By check: what a message is marked with."""

_REPLIES: Mapping[str, Reply] = {
    EARLY: Reply(554, "5.5.1", "You talk before you are greeted"),
    PIPELINING: Reply(550, "5.5.1", "You do not wait for our answers"),
    hello.SYNTAX: Reply(550, "5.7.1", "The name in your HELO is no full host name"),
    hello.OURS: Reply(550, "5.7.1", "The name in your HELO is ours"),
    hello.LITERAL: Reply(550, "5.7.1", "The address in your HELO is not yours"),
}
TALKS_EARLY = _REPLIES[EARLY]

# RFC 7372 s.3.3; RFC 3463 s.3.2; RFC 7505 s.4.2.
_NO_NAME = Reply(550, "5.7.25", "Your address has no name in the DNS")
_NOT_CONFIRMED = Reply(550, "5.7.25", "The name of your address does not lead back to it")
UNKNOWN_DOMAIN = Reply(550, "5.1.8", "The domain of the sender does not exist")
NULL_MX = Reply(550, "5.7.27", "The domain of the sender takes no mail")


@frozen
class Fault:
    """A check that was failed."""

    check: str
    action: str  # "tag" or "reject"
    reply: Reply


def faults(checks: ChecksConfig, hostname: str, visit: Visit, letter: Letter) -> Iterator[Fault]:
    """Those of a stranger's message, as far as is known now."""
    for check in visit.faults:
        # An early talker that is refused has been hung up on already.
        yield Fault(check, checks.pipelining if check == PIPELINING else "tag", _REPLIES[check])
    found = hello.fault(letter.helo, hostname, visit.ip, visit.ours)
    action = getattr(checks, found) if found else "none"
    if action != "none":
        yield Fault(found, action, _REPLIES[found])
    if letter.domain_fault is not None and checks.sender_domain != "none":
        yield Fault(SENDER, checks.sender_domain, letter.domain_fault)
    look = visit.inquiry.found if visit.inquiry is not None else None
    if look is None:
        return
    if look.zones and look.score >= checks.lists_score:
        listed = f"{visit.ip} is listed by {', '.join(look.zones[:5])}"
        reply = Reply(550, "5.7.1", f"{listed}: {look.reason}" if look.reason else listed)
        yield Fault(LIST, checks.lists_action, reply)
    if checks.reverse_name != "none" and not look.welcome:
        if not look.named:
            yield Fault(REVERSE, checks.reverse_action, _NO_NAME)
        elif checks.reverse_name == "confirmed" and not look.confirmed:
            yield Fault(REVERSE, checks.reverse_action, _NOT_CONFIRMED)
