"""
The client side of SASL (RFC 4422) without I/O: SCRAM-SHA-256 (RFC 5802, RFC 7677), PLAIN (RFC 4616) and LOGIN.

    machine = client(mechanisms, login)         the best one of those offered; C{None} when there is none
    machine.initial                             goes out with the name; C{None} when the server speaks first
    step = machine.respond(challenge)           for each message of the server, both without base64

    Answer     send its octets
    Derive     make a key of the password with L{thd_derive}, which takes a while, and give it to C{machine.derived}
    Refused    the server is wrong: end the exchange

Success is the protocol's to tell; only when C{machine.proven} is true as well is it to be believed: with SCRAM the
server has to show that it knows the password, too.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from typing import Protocol

from attrs import field, frozen

from qmailpy.wire.saslprep import saslprep

MESSAGE_OCTETS = 8192
"""The longest message of a server that is looked at."""

ITERATIONS = (4096, 1_000_000)
"""PBKDF2 rounds a server may ask for: fewer would help whoever listens (RFC 7677 s.4), more would keep us busy."""


@frozen(kw_only=True)
class Login:
    """Who we are to a server."""

    user: str
    password: str = field(repr=False)


@frozen
class Answer:
    """A message for the server."""

    octets: bytes = field(repr=False)


@frozen(kw_only=True)
class Derive:
    """The key is wanted: PBKDF2 of the password."""

    password: bytes = field(repr=False)
    salt: bytes
    iterations: int


@frozen
class Refused:
    """The server does not follow the mechanism, or does not know the password."""

    why: str


Step = Answer | Derive | Refused


class Machine(Protocol):
    """One exchange."""

    name: str
    initial: bytes | None
    proven: bool

    def respond(self, challenge: bytes) -> Step:
        """What follows from the server's next message."""

    def derived(self, key: bytes) -> Step:
        """After L{Derive}: here is the key."""


def client(offered: Iterable[str], login: Login, nonce: str = "") -> Machine | None:
    """
    The exchange to use.

    @param offered: names of mechanisms, in any case.
    @param nonce: what SCRAM is to use for one; for tests.
    """
    known = {name.upper() for name in offered}
    if _Scram.name in known:
        try:
            return _Scram(login, nonce or secrets.token_urlsafe(18))
        except ValueError:
            pass  # a name or password that SCRAM cannot carry (RFC 4013)
    if _Plain.name in known:
        return _Plain(login)
    return _Login(login) if _Login.name in known else None


def thd_derive(wanted: Derive) -> bytes:
    """The key of a password (RFC 5802 s.3, C{SaltedPassword}): 32 octets. Takes tens of milliseconds."""
    return hashlib.pbkdf2_hmac("sha256", wanted.password, wanted.salt, wanted.iterations)


class _Plain:
    """RFC 4616: one message, said at once."""

    name = "PLAIN"
    proven = True

    def __init__(self, login: Login) -> None:
        self.initial: bytes | None = f"\0{login.user}\0{login.password}".encode()

    def respond(self, challenge: bytes) -> Step:
        if challenge or self.initial is None:
            return Refused("PLAIN has no challenges")
        said, self.initial = self.initial, None  # a server that did not take it with the name; once
        return Answer(said)

    def derived(self, key: bytes) -> Step:
        raise RuntimeError("SASL messages in the wrong order")


class _Login:
    """LOGIN (draft-murchison-sasl-login-00): name, then password, whatever the prompts say."""

    name = "LOGIN"
    initial: bytes | None = None
    proven = True

    def __init__(self, login: Login) -> None:
        self._left = [login.password.encode(), login.user.encode()]

    def respond(self, challenge: bytes) -> Step:
        return Answer(self._left.pop()) if self._left else Refused("LOGIN has two challenges")

    def derived(self, key: bytes) -> Step:
        raise RuntimeError("SASL messages in the wrong order")


class _Scram:
    """RFC 5802 without channel binding, which servers that offer C{-PLUS} as well allow (C{n}: we have none)."""

    name = "SCRAM-SHA-256"

    def __init__(self, login: Login, nonce: str) -> None:
        """@raise ValueError: name or password are not of the kind SASLprep takes."""
        user = saslprep(login.user).replace("=", "=3D").replace(",", "=2C")
        self._password = saslprep(login.password).encode()
        self._nonce = nonce.encode("ascii")
        self._bare = b"n=%b,r=%b" % (user.encode(), self._nonce)
        self._messages = b""  # of both sides, which the proofs are made of
        self._without_proof = b""
        self._signature = b""  # what the server must say
        self.initial: bytes | None = b"n,," + self._bare
        self.proven = False

    def respond(self, challenge: bytes) -> Step:
        if len(challenge) > MESSAGE_OCTETS or self.proven:
            return Refused("SCRAM: unexpected message")
        if self._signature:
            return self._last(challenge)
        if not challenge and self.initial is not None:
            said, self.initial = self.initial, None
            return Answer(said)
        return self._first(challenge)

    def _first(self, challenge: bytes) -> Step:
        """C{r=nonce,s=salt,i=count}"""
        parts = challenge.split(b",")
        if len(parts) < 3 or [part[:2] for part in parts[:3]] != [b"r=", b"s=", b"i="] or self._messages:
            return Refused("SCRAM: not a server-first-message")
        nonce, count = parts[0][2:], parts[2][2:]
        salt = _decoded(parts[1][2:])
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce):
            return Refused("SCRAM: wrong nonce")
        if not salt or not count.isdigit() or not ITERATIONS[0] <= int(count[:8]) <= ITERATIONS[1]:
            return Refused("SCRAM: wrong salt or count")
        self._without_proof = b"c=biws,r=" + nonce
        self._messages = b",".join((self._bare, challenge, self._without_proof))
        return Derive(password=self._password, salt=salt, iterations=int(count))

    def derived(self, key: bytes) -> Step:
        if not self._messages:
            raise RuntimeError("SASL messages in the wrong order")
        client_key = hmac.digest(key, b"Client Key", "sha256")
        mask = hmac.digest(hashlib.sha256(client_key).digest(), self._messages, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, mask, strict=True))
        self._signature = hmac.digest(hmac.digest(key, b"Server Key", "sha256"), self._messages, "sha256")
        return Answer(self._without_proof + b",p=" + base64.b64encode(proof))

    def _last(self, challenge: bytes) -> Step:
        """C{v=signature} or C{e=error}"""
        if challenge[:2] == b"e=":
            return Refused(f"SCRAM: {challenge[2:80].decode('ascii', 'replace')}")
        said = _decoded(challenge[2:].partition(b",")[0]) if challenge[:2] == b"v=" else None
        if said is None or not hmac.compare_digest(said, self._signature):
            return Refused("SCRAM: the server does not know the password")
        self.proven = True
        return Answer(b"")


def _decoded(octets: bytes) -> bytes | None:
    try:
        return base64.b64decode(octets, validate=True)
    except ValueError:
        return None
