"""
Passwords as C{userPassword} keeps them: argon2id by default, C{{SSHA}} read as well (RFC 2307 s.5.3).

Both directions cost tens of milliseconds and megabytes on purpose and are for threads. The stored form is
C{{ARGON2}$argon2id$...}, the one OpenLDAP's argon2 module uses too. Beside it, as a second value, stands what
SCRAM-SHA-256 needs of the same password: C{{SCRAM-SHA-256}ITERATIONS:SALT$STOREDKEY:SERVERKEY}, RFC 5803's form behind
the scheme in braces. It costs a thief of the directory less work a guess than argon2 does; so it has eight times the
rounds RFC 7677 asks for.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Iterable

import argon2
from argon2.exceptions import Argon2Error, InvalidHashError

from qmailpy.values import ScramSecret
from qmailpy.wire import sasl

MOST = 1024
"""Octets of a password we look at: more is no password, only work."""

SCRAM = "SCRAM-SHA-256"
_SCRAM = re.compile(r"\{SCRAM-SHA-256\}([0-9]{1,7}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)")
_SCHEME = re.compile(r"\{([A-Za-z0-9-]+)\}(.*)", re.DOTALL)
# An OWASP argon2id profile: 19 MiB and two passes, 15-30 ms here, so that a few logins at once fit a small machine.
_HASHER = argon2.PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)
_MEMORY_KIB = 256 * 1024  # a stored hash may not make us allocate more than this


def _nobodys() -> str:
    """What no password has, in the form of L{_HASHER}: as much work to check as another's, and none to make."""
    salt, digest = (base64.b64encode(os.urandom(size)).rstrip(b"=").decode() for size in (16, 32))
    return f"$argon2id$v=19$m={_HASHER.memory_cost},t={_HASHER.time_cost},p={_HASHER.parallelism}${salt}${digest}"


_DUMMY = _nobodys()


def scheme(value: str) -> str:
    """The scheme's name in upper case, "" for a value without one (a password in clear)."""
    found = _SCHEME.fullmatch(value)
    return found.group(1).upper() if found else ""


def supported(value: str) -> bool:
    """Whether L{thd_verify} can do something with this stored value."""
    found = scheme(value)
    return found in {"ARGON2", "SSHA"} or (found == SCRAM and scram((value,)) is not None)


def thd_hash(password: bytes) -> str:
    """The stored form of a password, argon2id with a fresh salt."""
    return "{ARGON2}" + _HASHER.hash(password)


def thd_stored(password: bytes) -> tuple[str, ...]:
    """All that is kept of a password: L{thd_hash}'s value and, where SASLprep allows the password, SCRAM's."""
    secret = sasl.derive(password, os.urandom(16))
    return (thd_hash(password),) if secret is None else (thd_hash(password), scram_value(secret))


def scram_value(secret: ScramSecret) -> str:
    """The stored form of a SCRAM secret."""
    salt, stored, server = (
        base64.b64encode(part).decode() for part in (secret.salt, secret.stored_key, secret.server_key)
    )
    return f"{{{SCRAM}}}{secret.iterations}:{salt}${stored}:{server}"


def scram(stored: Iterable[str]) -> ScramSecret | None:
    """The first SCRAM secret among stored values."""
    for value in stored:
        found = _SCRAM.fullmatch(value)
        if found is None:
            continue
        try:
            salt, stored_key, server_key = (base64.b64decode(part, validate=True) for part in found.groups()[1:])
        except (binascii.Error, ValueError):
            continue
        secret = ScramSecret(salt=salt, iterations=int(found[1]), stored_key=stored_key, server_key=server_key)
        if salt and len(stored_key) == len(server_key) == 32 and 4096 <= secret.iterations <= 1_000_000:
            return secret
    return None


def ssha(password: bytes) -> str:
    """The stored form of a B{long random secret}: cheap to check, so for machine identities only."""
    salt = os.urandom(16)
    return "{SSHA}" + base64.b64encode(hashlib.sha1(password + salt).digest() + salt).decode()  # noqa: S324 - a 256-bit secret


def thd_verify(stored: Iterable[str], password: bytes) -> bool:
    """
    Whether C{password} is one of those stored.

    With nothing stored, or what is quick to check, a hash is computed all the same before the answer is no: so the time
    taken does not tell who exists.
    """
    if not password or len(password) > MOST:
        return False
    slow = False
    # A SCRAM secret is looked at only where there is nothing else: with a second check here, the time taken by a wrong
    # password would differ from that of an unknown name.
    values = list(stored)
    for value in [one for one in values if scheme(one) != SCRAM] or values:
        found = _SCHEME.fullmatch(value)
        if found is None:
            continue
        kind = found.group(1).upper()
        slow = slow or kind in ("ARGON2", SCRAM)
        check = _CHECKS.get(kind)
        if check is not None and check(found.group(2), password):
            return True
    if not slow:
        _argon2(_DUMMY, password)
    return False


def _argon2(stored: str, password: bytes) -> bool:
    try:
        if argon2.extract_parameters(stored).memory_cost > _MEMORY_KIB:
            return False
        return _HASHER.verify(stored, password)
    except (Argon2Error, InvalidHashError, UnicodeError, ValueError):
        return False


def _ssha(stored: str, password: bytes) -> bool:
    try:
        octets = base64.b64decode(stored, validate=True)
    except (binascii.Error, ValueError):
        return False
    digest, salt = octets[:20], octets[20:]
    return len(digest) == 20 and hmac.compare_digest(hashlib.sha1(password + salt).digest(), digest)  # noqa: S324 - RFC 2307


def _scram(stored: str, password: bytes) -> bool:
    secret = scram((f"{{{SCRAM}}}{stored}",))
    found = sasl.derive(password, secret.salt, secret.iterations) if secret is not None else None
    return secret is not None and found is not None and hmac.compare_digest(found.stored_key, secret.stored_key)


_CHECKS = {"ARGON2": _argon2, "SSHA": _ssha, SCRAM: _scram}
