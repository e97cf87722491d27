"""
Who is told what about a message's delay or end, and when: functions of values alone.

NOTIFY is RFC 3461 s.4.1; without it a sender gets failure and delay notices and no success ones (s.5.2.3, s.5.2.5,
s.5.2.6). Of success is told by whoever ends it: we, when the message is in its mailbox or with a list ("delivered"),
with a peer that knows no DSN ("relayed"), or goes on to several ("expanded"); not by us while the request goes on with
the message, to one address (s.5.2.7.2) or to a peer that takes DSN (s.5.2.1).

That a notice is never sent to the null sender is for the caller to see to, who also knows about double bounces.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Sequence

from attrs import evolve

from qmailpy.values import Disposition, Notify, Recipient, Reply, Verdict
from qmailpy.wire.dsn import HALTED, UNTRIED

# The text of an attempt: dns;HOST (connection) (banner) smtp;REPLY, or our own words, with or without a code.
_PEER = re.compile(r"dns;(\S+) \(.*?\) smtp;(?=4\d\d )", re.DOTALL)
_REPLY = re.compile(r"(4\d\d) (?:(4\.\d{1,3}\.\d{1,3})(?: |$))?(.*)", re.DOTALL)
NOT_TRIED = Disposition(verdict=Verdict.DEFERRED, reply=UNTRIED)

SUSPENDED = Disposition(verdict=Verdict.DEFERRED, reply=HALTED)


def warnings_passed(warn_s: Sequence[float], age: float, passed: int = 0) -> int:
    """
    How many of the delay notices of a message are behind it.

    A delay notice is due when the result is greater than C{passed}, the number that was recorded
    when the last one went out. Each age is warned of once; ages that went by together (a long downtime) make one
    notice.

    @param warn_s: ages in seconds, in any order (C{QueueConfig.warn_s}).
    @param age: seconds since the message was accepted.
    @param passed: the recorded number; the result is never less, so a shortened list or a clock set back repeats none.
    """
    return max(passed, sum(1 for warn in warn_s if age >= warn))


def wants_delay(notify: int) -> bool:
    """Whether a delay notice may be sent for a recipient with these NOTIFY bits."""
    return notify == 0 or bool(notify & Notify.DELAY)


def last_word(text: str) -> Disposition:
    """
    What came of an earlier attempt for a recipient that waits, from the text that is kept of it.

    @param text: as the transaction log has it, "dns;mx (TCP|a|p|b|q) (banner) smtp;450 4.2.0 later", or what we said
        ourselves; "" when there was no attempt.
    """
    if not text:
        return NOT_TRIED
    peer = _PEER.match(text)
    reply = _REPLY.match(text, peer.end()) if peer else _REPLY.match(text)
    found = Reply(int(reply[1]), reply[2] or "", reply[3]) if reply else Reply(451, "4.4.0", text.rpartition(") ")[2])
    return Disposition(verdict=Verdict.DEFERRED, reply=found, remote_mta=peer[1] if peer else "")


def wants_failure(notify: int) -> bool:
    """Whether a failure notice is to be sent for a recipient with these NOTIFY bits."""
    return notify == 0 or bool(notify & Notify.FAILURE)


def wants_success(notify: int) -> bool:
    """Whether a success notice was asked for."""
    return bool(notify & Notify.SUCCESS)


def shared_mails(dispositions: Sequence[Disposition]) -> frozenset[int]:
    """The mails, by identity, that several dispositions of an attempt name: they are queued once."""
    count = Counter(id(mail) for said in dispositions for mail in said.mails)
    return frozenset([key for key, times in count.items() if times > 1])


def success(recipient: Recipient, said: Disposition, shared: Container[int] = ()) -> tuple[str, Disposition]:
    """
    What a sender who wants to be told of success is told, and what then becomes of the recipient.

    @param shared: of L{shared_mails}. In such a mail each recipient has one of its own, to which its request goes on;
        the mail stays the object it is.
    @return: the Action of RFC 3464 s.2.3.3, "" when nothing is told (yet); and C{said}, in which those an address was
        expanded to do not ask for reports of success any more.
    """
    if not wants_success(recipient.notify):
        return "", said
    if said.verdict is Verdict.DELIVERED:
        return "" if said.told_there else "relayed" if said.relayed else "delivered", said
    if said.verdict is not Verdict.FORWARDED:
        return "", said
    asking = sum(wants_success(one.notify) for one in said.onward)
    for mail in said.mails:
        found = sum(wants_success(one.notify) for one in mail.envelope.recipients)
        asking += min(found, 1) if id(mail) in shared else found
    if not asking:
        return "delivered", said  # to a list, which asks for reports of its own (s.5.2.7.1)
    if asking == 1:
        return "", said  # s.5.2.7.2, or s.5.2.7.3 (b)
    mails = tuple(
        [
            mail
            if id(mail) in shared
            else evolve(mail, envelope=evolve(mail.envelope, recipients=quieter(mail.envelope.recipients)))
            for mail in said.mails
        ]
    )
    return "expanded", evolve(said, onward=quieter(said.onward), mails=mails)


def quieter(recipients: Sequence[Recipient]) -> tuple[Recipient, ...]:
    """RFC 3461 s.5.2.7.3 (c): the same without SUCCESS; where nothing else was asked for that is NEVER."""
    return tuple(
        [
            evolve(one, notify=one.notify & ~Notify.SUCCESS or Notify.NEVER) if wants_success(one.notify) else one
            for one in recipients
        ]
    )
