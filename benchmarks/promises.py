"""
Was every promise kept? What the senders were told, against Maildirs, sink and notices.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from attrs import Factory, define, frozen

from benchmarks.mailing import (
    AWAY,
    AWAY_TEXT,
    LATER,
    REFUSED,
    SENDER,
    TAKEN,
    TEAM,
    Fate,
    Ledger,
    Sent,
    digest_after_mark,
)
from benchmarks.node import DOMAIN, VOID

_RETURNED = re.compile(rb"(?im)^Final-Recipient: *rfc822; *([^\s<>]+)\r?$")
_ANSWER = f"\r\n\r\n{AWAY_TEXT}\r\n".encode()
_SHOWN = 20


@frozen(kw_only=True)
class Stored:
    """A file in a Maildir."""

    user: str
    path: str
    octets: bytes  # with CRLF


def thd_stored(mail: str) -> Iterator[Stored]:
    """
    Everything in C{new/} and C{cur/} below HOME/mail/DOMAIN. Blocks.

    @param mail: HOME/mail.
    """
    top = os.path.join(mail, DOMAIN)
    for user in sorted(os.listdir(top)) if os.path.isdir(top) else ():
        for part in ("new", "cur"):
            directory = os.path.join(top, user, "Maildir", part)
            for name in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
                path = os.path.join(directory, name)
                with open(path, "rb") as source:
                    yield Stored(user=user, path=path, octets=source.read().replace(b"\n", b"\r\n"))


@define
class Findings:
    """What was found."""

    accepted: int = 0  # messages with a 250
    unanswered: int = 0  # messages without an answer
    refused: int = 0
    stored: int = 0  # deliveries in Maildirs that are right
    relayed: int = 0  # deliveries at the sink that are right, each recipient once
    returned: int = 0  # recipients that came back to the sender
    discarded: int = 0  # recipients of the bitbucket, promised and gone
    answers: int = 0  # of the user who is away
    duplicates: list[str] = Factory(list)  # locally: more than once in a Maildir
    sink_duplicates: int = 0  # at the sink: its 250 and our mark were cut apart
    extra: int = 0  # delivered although the 250 never reached the sender: no fault
    faults: list[str] = Factory(list)

    @property
    def kept(self) -> bool:
        """Whether all promises were kept."""
        return not self.faults

    def lines(self) -> list[str]:
        """For people."""
        lines = [
            f"messages: {self.accepted} acknowledged, {self.refused} refused, {self.unanswered} without an answer",
            f"deliveries as promised: {self.stored} in Maildirs, {self.relayed} at the sink, {self.returned} returned",
            f"thrown away as promised: {self.discarded}; answers of a user who is away: {self.answers}",
            f"duplicates: {len(self.duplicates)} in Maildirs, {self.sink_duplicates} at the sink "
            "(its 250 and our mark cut apart)",
            f"delivered without the sender knowing: {self.extra}",
        ]
        lines += [f"FAULT: {fault}" for fault in self.faults[:_SHOWN]]
        if len(self.faults) > _SHOWN:
            lines.append(f"... and {len(self.faults) - _SHOWN} more")
        return lines


def check(ledger: Ledger, stored: Iterable[Stored]) -> Findings:
    """Compare."""
    found = Findings()
    local: Counter[tuple[str, str]] = Counter()
    returned: Counter[str] = Counter()
    for file in stored:
        _classify(file, ledger, local, returned, found)
    for token, one in ledger.sent.items():
        found.accepted += one.fate is Fate.ACCEPTED
        found.unanswered += one.fate is Fate.UNKNOWN
        found.refused += one.fate is Fate.REFUSED
        for recipient, target in one.targets():
            promised = recipient in one.expected()
            if target.startswith(REFUSED):
                count = returned[target]
                found.returned += bool(count)
                what = f"the notice that {target} was refused"
            elif target.endswith(f"@{DOMAIN}"):
                count = local[token, target]
                found.stored += bool(count)
                what = f"{token} for {target}"
            elif target.endswith(f"@{VOID}"):
                found.discarded += promised
                continue  # at the sink it would be invented
            else:
                count = _at_sink(ledger, token, target, one.digest, found)
                found.relayed += bool(count)
                what = f"{token} at the sink for {target}"
                found.sink_duplicates += max(0, count - 1)
                count = min(count, 1)
            if promised and not count:
                found.faults.append(f"lost: {what}")
            if count and recipient not in one.accepted:
                found.faults.append(f"delivered though refused: {what}")
            found.extra += bool(count) and not promised
            if count > 1:
                found.duplicates.append(what)
                found.faults.append(f"{count} times: {what}")
    for token, recipient in ledger.arrived:
        if token not in ledger.sent or not _meant(ledger.sent[token], recipient):
            found.faults.append(f"invented: {token or 'something'} at the sink for {recipient}")
    _answers(ledger, found)
    return found


def _meant(one: Sent, address: str) -> bool:
    """Whether a message may arrive for an address."""
    return not address.endswith(f"@{VOID}") and any(target == address for _, target in one.targets())


def _answers(ledger: Ledger, found: Findings) -> None:
    """The user who is away answers, and each sender once; there is one sender."""
    if found.answers > 1:
        found.faults.append(f"{found.answers} times: the answer of {AWAY}")
    if not found.answers and any(AWAY in one.expected() for one in ledger.sent.values()):
        found.faults.append(f"lost: the answer of {AWAY}")


def _at_sink(ledger: Ledger, token: str, recipient: str, digest: bytes, found: Findings) -> int:
    digests = ledger.arrived.get((token, recipient), [])
    for other in digests:
        if other != digest:
            found.faults.append(f"altered: {token} at the sink for {recipient}")
    return sum(other == digest for other in digests)


def _classify(
    file: Stored, ledger: Ledger, local: Counter[tuple[str, str]], returned: Counter[str], found: Findings
) -> None:
    address = f"{file.user}@{DOMAIN}"
    if file.user == SENDER and file.octets.startswith(b"Return-Path: <>\r\n"):
        recipients = [name.decode("ascii", "replace") for name in _RETURNED.findall(file.octets)]
        if not recipients and _ANSWER in file.octets:
            found.answers += 1
            return
        if not recipients:
            found.faults.append(f"invented: {file.path} is a notice about nobody")
        for recipient in recipients:
            if _token(recipient) not in ledger.sent or not recipient.startswith(REFUSED):
                found.faults.append(f"invented: a notice about {recipient}")
            returned[recipient] += 1
        return
    token, digest = digest_after_mark(file.octets)
    one = ledger.sent.get(token)
    if one is None or not _meant(one, address):
        found.faults.append(f"invented: {file.path}")
    elif one.digest != digest or not _topped(file.octets, address, TEAM if TEAM in one.recipients else ""):
        found.faults.append(f"altered: {token} in {file.path}")
    else:
        local[token, address] += 1


def _topped(octets: bytes, address: str, group: str = "") -> bool:
    """Whether the fields on top are those of a delivery, once; and that of the group it came by."""
    top = octets[: octets.find(b"X-Token: ")]
    via = f"Delivered-To: {group}\r\n" if group else ""
    wanted = f"Return-Path: <{SENDER}@{DOMAIN}>\r\nDelivered-To: {address}\r\n{via}Received: ".encode()
    return top.startswith(wanted) and len(re.findall(rb"(?m)^\S", top)) == (4 if group else 3)


def _token(recipient: str) -> str:
    """The token in a remote recipient's address."""
    name = recipient.partition("@")[0]
    for prefix in (TAKEN, LATER, REFUSED):
        name = name.removeprefix(prefix)
    return name
