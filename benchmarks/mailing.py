"""
What was sent: every message with its checksum, who was to get it, and what the server said about it.
"""

from __future__ import annotations

import re
from enum import Enum
from hashlib import sha256
from random import Random

from attrs import Factory, define, frozen

from benchmarks.node import DOMAIN, REMOTE, VOID

MARK = b"X-Token: "
USERS = tuple(f"user{number}" for number in range(8))
SENDER = "sender"
"""Local user whose mail comes back."""

# What the sink does with a remote recipient, by the beginning of its address.
TAKEN = "ok-"
LATER = "later-"  # 451 at first
REFUSED = "no-"  # 550: the sender gets a notice

# Domains, groups and users whose mail goes through further channels (benchmarks.wide).
CONVERTED = "converted.example"  # through a conversion, to the sink; what is for REFUSED the conversion returns
KEPT = "kept.example"  # held by the conversion until it is released at the end; then to the sink
PIECES = "pieces.example"  # in pieces (message/partial), which are put together; to the sink
AGAIN = "again.example"  # routed once more, as REMOTE
STORED = "stored.example"  # to the sink, which speaks LMTP too
HELD = "held.example"  # held until it is released at the end; then to the sink
PIPED = "piped.example"  # into the files a program writes
TEAM = f"team@{DOMAIN}"
MEMBERS = (f"{USERS[0]}@{DOMAIN}", f"{USERS[1]}@{DOMAIN}", f"{TAKEN}member@{REMOTE}")
"""The group and who is in it."""

AWAY = f"away@{DOMAIN}"
AWAY_TEXT = "I am away."
"""A local user for whom the channel of kind autoreply answers, and what it says."""


class Fate(Enum):
    """What the sender of a message was told."""

    UNKNOWN = "no answer"
    ACCEPTED = "250"
    REFUSED = "refused"


@define(eq=False)
class Sent:
    """A message and its envelope."""

    token: str
    digest: bytes  # SHA-256 of the content with CRLF
    size: int
    recipients: tuple[str, ...]
    accepted: tuple[str, ...] = ()  # those RCPT said 250 to
    fate: Fate = Fate.UNKNOWN

    def expected(self) -> tuple[str, ...]:
        """Recipients that the server has promised to serve."""
        return self.accepted if self.fate is Fate.ACCEPTED else ()

    def targets(self) -> tuple[tuple[str, str], ...]:
        """(recipient, where its message shall arrive), a row for each member of a group."""
        return tuple((one, target) for one in self.recipients for target in _leads_to(one))


@define(eq=False)
class Ledger:
    """All messages sent, and all that the sink got."""

    sent: dict[str, Sent] = Factory(dict)  # by token
    arrived: dict[tuple[str, str], list[bytes]] = Factory(dict)  # (token, recipient): digests, one each time
    put_off: set[str] = Factory(set)  # recipients that had their 451
    wholes: int = 0  # messages that came in pieces and arrived whole

    def accepted(self) -> int:
        """How many messages were acknowledged."""
        return sum(one.fate is Fate.ACCEPTED for one in self.sent.values())


@frozen
class Mail:
    """A message to be sent."""

    sent: Sent
    content: bytes  # CRLF, not dot-stuffed


def _leads_to(recipient: str) -> tuple[str, ...]:
    if recipient == TEAM:
        return MEMBERS
    local, _, domain = recipient.partition("@")
    return (f"{local}@{REMOTE}",) if domain == AGAIN else (recipient,)


def compose(token: str, chance: Random, *, large: bool = True, wide: bool = False, turn: int = -1) -> Mail:
    """
    A message of its own: sizes, line forms and recipients by chance.

    @param large: now and then one that does not fit into the journal.
    @param wide: for recipients behind channels of every kind, too.
    @param turn: the number of a kind of recipients, to have them all; less than 0 = by chance.
    """
    recipients = _recipients(token, chance, wide, turn)
    size = chance.choice((200, 900, 3000, 9000))
    if large and chance.random() < 0.02:
        size = chance.randrange(140_000, 600_000)
    lines = [
        MARK + token.encode(),
        f"From: <{SENDER}@{DOMAIN}>".encode(),
        b"To: " + ", ".join(recipients).encode(),
        b"Subject: torture " + token.encode(),
        b"",
    ]
    length = 0
    while length < size:
        line = chance.choice((_text, _dots, _octets, _empty))(chance)
        lines.append(line)
        length += len(line) + 2
    content = b"\r\n".join(lines) + b"\r\n"
    return Mail(Sent(token, sha256(content).digest(), len(content), recipients), content)


def in_pieces(token: str, chance: Random) -> list[Mail]:
    """
    Some pieces of one message, each with a mark of its own, so that it is known in the whole as well as alone.

    @param token: of the message; its pieces have further ones.
    """
    total = chance.choice((2, 3, 5))
    recipient = f"{TAKEN}{token}@{PIECES}"
    found = []
    for number in range(1, total + 1):
        name = f"{token}p{number}"
        lines = [MARK + name.encode(), *(_text(chance) for _ in range(chance.choice((1, 20, 90))))]
        part = b"\r\n".join(lines) + b"\r\n"
        header = [
            f"From: <{SENDER}@{DOMAIN}>".encode(),
            f"Subject: piece {number}".encode(),
            f"Content-Type: message/partial; id={token}; number={number}; total={total}".encode(),
            b"",
        ]
        inner = b"Subject: whole\r\n\r\n" if number == 1 else b""
        content = b"\r\n".join([*header, b""]) + inner + part
        found.append(Mail(Sent(name, sha256(part).digest(), len(content), (recipient,)), content))
    return found


def digests_of_pieces(octets: bytes) -> list[tuple[str, bytes]]:
    """Token and checksum of each piece of L{in_pieces} in a message as it arrived, whole or not."""
    starts = [found.start() for found in re.finditer(rb"(?m)^" + re.escape(MARK), octets)]
    ends = [*starts[1:], len(octets)]
    return [digest_after_mark(octets[start:end]) for start, end in zip(starts, ends, strict=True)]


def _recipients(token: str, chance: Random, wide: bool, turn: int) -> tuple[str, ...]:
    local = [f"{user}@{DOMAIN}" for user in chance.sample(USERS, 3)]
    taken, later, refused = (f"{prefix}{token}@{REMOTE}" for prefix in (TAKEN, LATER, REFUSED))
    kinds = [
        (10, local[:1]),
        (3, local),
        (3, [taken]),
        (3, [*local[:2], taken]),
        (2, [later]),
        (2, [local[0], taken, later]),
        (2, [refused]),
        (2, [local[0], later, refused]),
    ]
    if wide:
        converted, kept, again, stored, held, piped, void = (
            f"{TAKEN}{token}@{domain}" for domain in (CONVERTED, KEPT, AGAIN, STORED, HELD, PIPED, VOID)
        )
        kinds += [
            (2, [converted]),
            (2, [converted, f"{TAKEN}{token}-2@{CONVERTED}", local[0]]),
            (1, [f"{REFUSED}{token}@{CONVERTED}", converted]),
            (1, [kept]),
            (2, [again, piped]),
            (2, [stored]),
            (2, [stored, f"{LATER}{token}@{STORED}"]),
            (1, [held]),
            (1, [piped]),
            (1, [void, local[0]]),
            (2, [TEAM]),
            (1, [TEAM, taken, piped]),
            (2, [AWAY]),
        ]
    if turn >= 0:
        return tuple(kinds[turn % len(kinds)][1])
    return tuple(chance.choices([one for _, one in kinds], [weight for weight, _ in kinds])[0])


def _text(chance: Random) -> bytes:
    return b"The quick brown fox jumps over the lazy dog %016x" % chance.getrandbits(64)


def _dots(chance: Random) -> bytes:
    return b"." * chance.randrange(1, 4)


def _octets(chance: Random) -> bytes:
    return bytes(octet for octet in chance.randbytes(70) if octet not in b"\r\n\0")


def _empty(chance: Random) -> bytes:
    return b""


def digest_after_mark(octets: bytes) -> tuple[str, bytes]:
    """
    Token and checksum of a message as it arrived, whatever fields were put on top of it.

    @param octets: with CRLF line ends.
    @return: ("", b"") when it is none of ours.
    """
    at = octets.find(MARK)
    while at > 0 and octets[at - 2 : at] != b"\r\n":
        at = octets.find(MARK, at + 1)
    if at < 0:
        return "", b""
    token = octets[at + len(MARK) : octets.find(b"\r\n", at)].decode("ascii", "replace")
    return token, sha256(memoryview(octets)[at:]).digest()
