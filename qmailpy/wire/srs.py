"""
SRS, the Sender Rewriting Scheme: a sender of ours that leads back to somebody else's, for mail that is forwarded.

Whoever checks SPF (RFC 7208) looks for the sender's domain among the servers that may send for it, and the forwarding
one is not among them. So C{ann@far.example} becomes, behind the first forwarder and behind every further one::

    SRS0=HHHHHH=TT=far.example=ann@us.example
    SRS1=HHHHHH=first.example==HHHH=TT=far.example=ann@us.example

C{HHHHHH} is the beginning of an HMAC-SHA1 in base64 over what follows it, in lower case; C{TT} the day, modulo 1024, in
base32. What others made is kept as it was, so SRS1 grows no more: it leads to the first forwarder, which knows its own.

Nobody but us can make an address that L{Srs.reverse} takes, and none stays good for longer than its days, so that
these addresses are no open relay. The form is that of libsrs2 and postsrsd ("SRS: The Sender Rewriting Scheme", Meng
Weng Wong and Shevek, 2004); there is no RFC. Pure: the day is an argument.
"""

from __future__ import annotations

import base64
import hmac
import re
from hashlib import sha1

from qmailpy.values import Reply
from qmailpy.wire.address import LOCAL_OCTETS, PATH_OCTETS, join, split, unquote, valid_domain

HASH_CHARACTERS = 6
"""
Of the HMAC. Others take 4; compared without regard to case, as they must be (some servers change it), 6 leave 38^6
possibilities, each of which would lead to one address only.
"""

DAY_S = 86400
_BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_DAYS = 1024
_BAD = Reply(550, "5.1.1", "No such address here: it was not made by this server")
_OLD = Reply(550, "5.1.1", "No such address here any more: it has expired")
_LOOKS = re.compile(r"srs[01][-+=]", re.IGNORECASE)


def is_srs(local: str) -> bool:
    """Whether a local part looks like one of these; to be asked before L{Srs.reverse}."""
    return _LOOKS.match(local) is not None


class Srs:
    """Makes and undoes such senders with one secret."""

    def __init__(self, secret: bytes, days: int, characters: int = HASH_CHARACTERS) -> None:
        """
        @param days: for how many days after it was made an address leads back.
        @param characters: of the hash.
        """
        self._secret = secret
        self._days = days
        self._characters = characters

    def forward(self, sender: str, domain: str, now: float) -> str:
        """
        The sender with which mail of C{sender} goes on.

        @param sender: canonical address, not null.
        @param domain: of the new one.
        @return: C{sender} itself when the new one would be longer than an address may be (RFC 5321 s.4.5.3.1), or
            when it is in that domain already.
        """
        local, host = split(sender)
        local = unquote(local)
        if not host or host.lower() == domain.lower():
            return sender
        kind = local[:5].upper()
        if is_srs(local) and kind.startswith("SRS0"):
            made = self._again(host, local[4:])
        elif is_srs(local) and (parts := _guarded(local)) is not None:
            made = self._again(*parts)
        else:
            day = _stamp(now)
            made = f"SRS0={self._hash(day, host, local)}={day}={host}={local}"
        address = join(made, domain)
        whole = len(address.encode())
        if len(split(address)[0].encode()) > LOCAL_OCTETS or whole + 2 > PATH_OCTETS:
            return sender
        return address

    def reverse(self, local: str, now: float) -> str | Reply:
        """
        Whom a bounce to such an address is for.

        @param local: local part for which L{is_srs} holds, as it stands in an address.
        @return: the address it was made from, or the refusal of what we did not make, or too long ago.
        """
        local = unquote(local)
        if local[:4].upper() == "SRS1":
            parts = _guarded(local)
            given = local[5:].partition("=")[0]
            if parts is None or not self._is_ours(given, *parts):
                return _BAD
            return _joined("SRS0" + parts[1], parts[0])
        fields = local[5:].split("=", 3)
        if len(fields) < 4:
            return _BAD
        given, day, host, name = fields
        if not self._is_ours(given, day, host, name):
            return _BAD
        if (_number(_stamp(now)) - _number(day)) % _DAYS > self._days:
            return _OLD
        return _joined(name, host)

    def _again(self, host: str, rest: str) -> str:
        """@param rest: what stood behind C{SRS0}, with its separator."""
        return f"SRS1={self._hash(host, rest)}={host}={rest}"

    def _hash(self, *texts: str) -> str:
        octets = "".join(texts).lower().encode("utf-8", "replace")
        return base64.b64encode(hmac.digest(self._secret, octets, sha1)).decode()[: self._characters]

    def _is_ours(self, given: str, *texts: str) -> bool:
        mine = self._hash(*texts).lower().encode()
        return hmac.compare_digest(mine, given.lower().encode("utf-8", "replace"))


def _guarded(local: str) -> tuple[str, str] | None:
    """First forwarder and its part, with the separator, of an SRS1 local part."""
    fields = local[5:].split("=", 2)
    if local[:4].upper() != "SRS1" or len(fields) < 3 or fields[2][:1] not in {"=", "+", "-"} or not fields[2]:
        return None
    return fields[1], fields[2]


def _joined(local: str, domain: str) -> str | Reply:
    try:
        address = join(local, domain)
    except ValueError:
        return _BAD
    return address if local and valid_domain(domain) else _BAD


def _stamp(now: float) -> str:
    day = int(now // DAY_S) % _DAYS
    return _BASE32[day >> 5] + _BASE32[day & 31]


def _number(stamp: str) -> int:
    """The day of a stamp; what is none cannot have a hash of ours."""
    number = 0
    for character in stamp.upper():
        number = number * 32 + max(0, _BASE32.find(character))
    return number % _DAYS
