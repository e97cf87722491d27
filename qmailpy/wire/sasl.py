"""
The server side of SASL (RFC 4422) without I/O: PLAIN (RFC 4616), LOGIN, EXTERNAL, SCRAM-SHA-256 and SCRAM-SHA-256-PLUS
(RFC 5802, RFC 7677). SMTP, POP3 and IMAP all use it; how messages are framed (base64, prefixes, C{*}) is theirs.

    machine = server(name, bindings)            for a name of L{MECHANISMS}; C{None} for others
    step = machine.start(initial or None)       then, for each message of the client,
    step = machine.respond(octets)              until the step is one of the last three

    Challenge      send its octets, wait for the client's answer, give that to C{respond}
    SecretWanted   ask the directory for the secret of C{login}, give it to C{machine.secret}; that is the next step
    CheckPassword  the exchange is over: whoever asks decides by the password
    Proven         the exchange is over, and the client has proved to know the password of C{login}
    Failed         the exchange is over, without a login

Whoever has no secret in the directory must be given one of L{imagined} instead, so that a stranger cannot tell who
exists. With success a last message of the mechanism goes out as a Challenge that the client answers with nothing, as
SMTP, POP3 and IMAP have it (RFC 4954 s.4, RFC 5034 s.4).

What goes wrong is a L{Failed}, never an exception, but for calls in the wrong order (RuntimeError). Work is linear in
what the client sends, of which L{MESSAGE_OCTETS} at a time are looked at.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from typing import Protocol

from attrs import field, frozen

from qmailpy.values import ScramSecret
from qmailpy.wire.saslprep import saslprep

MESSAGE_OCTETS = 8192
"""The longest message of a client, decoded. RFC 4954 s.4 has room for 12288 octets of base64, which is 9216."""

LINE_OCTETS = 12288
"""The longest line with a message, in base64 (RFC 4954 s.4)."""

LOGIN_OCTETS = 512
PASSWORD_OCTETS = 1024
ITERATIONS = 32768
"""PBKDF2 rounds of secrets we make, and of those we imagine. RFC 7677 s.4 has 4096 as the least."""

TLS_EXPORTER = "tls-exporter"  # RFC 9266
TLS_SERVER_END_POINT = "tls-server-end-point"  # RFC 5929 s.4
EXTERNAL = "external"
"""Among the bindings, no channel binding: the login that the layer below has proved, for the mechanism EXTERNAL."""


@frozen
class Challenge:
    """A message for the client, who answers."""

    octets: bytes


@frozen(kw_only=True)
class SecretWanted:
    """The client says it is C{login}: its secret is needed to go on."""

    login: str


@frozen(kw_only=True)
class CheckPassword:
    """The client says it is C{login} and that this is its password."""

    login: str
    password: bytes = field(repr=False)
    authzid: str = ""  # whom it wants to act as; "" = as itself


@frozen(kw_only=True)
class Proven:
    """The client is C{login}."""

    login: str
    authzid: str = ""  # whom it wants to act as; "" = as itself


@frozen(kw_only=True)
class Failed:
    """No login came of it."""

    reason: str  # for the log
    malformed: bool = False  # the client's message was not of the mechanism's form; else it did not prove what it says
    login: str = ""  # who it said it was, as far as that was said


Step = Challenge | SecretWanted | CheckPassword | Proven | Failed


class Machine(Protocol):
    """One exchange."""

    def start(self, initial: bytes | None) -> Step:
        """@param initial: the client's initial response; C{None} when it sent none (which is not the empty one)."""

    def respond(self, octets: bytes) -> Step:
        """The client's answer to the last Challenge."""

    def secret(self, secret: ScramSecret) -> Step:
        """The answer to a SecretWanted."""


def server(name: str, bindings: Mapping[str, bytes] | None = None, nonce: str = "") -> Machine | None:
    """
    The machine of a mechanism, C{None} when there is none of that name.

    @param name: in any case.
    @param bindings: channel bindings of the connection by the names of RFC 5056's registry; empty or C{None} = none can
        be had, so that -PLUS is not offered either.
    @param nonce: our part of the nonce, for tests; "" = a random one.
    """
    make = MECHANISMS.get(name.upper())
    return make(bindings or {}, nonce) if make is not None else None


def offered(*, plain: bool, bindings: bool, scram: bool = True) -> tuple[str, ...]:
    """
    The mechanisms to announce, the strongest first.

    @param plain: whether those that send the password may be used: under TLS, as a rule.
    @param bindings: whether the connection has channel bindings.
    @param scram: whether the directory can give secrets.
    """
    names = []
    if scram:
        names += ["SCRAM-SHA-256-PLUS"] * bindings + ["SCRAM-SHA-256"]
    if plain:
        names += ["PLAIN", "LOGIN"]
    return tuple(names)


def decode(line: bytes) -> bytes | None:
    """A message in base64 (RFC 4648 s.4, nothing else in it); C{None} when it is not."""
    if len(line) > LINE_OCTETS:
        return None
    try:
        octets = base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        return None
    return octets if base64.b64encode(octets) == line else None  # the decoder forgives padding too much


def decode_initial(argument: bytes) -> bytes | None:
    """The initial response of an AUTH command: as L{decode}, and C{=} is the empty one (RFC 4954 s.4, RFC 5034 s.4)."""
    return b"" if argument == b"=" else decode(argument)


def encode(octets: bytes) -> bytes:
    """A message as base64."""
    return base64.b64encode(octets)


def imagined(key: bytes, login: str) -> ScramSecret:
    """
    The secret of somebody who has none: always the same for a login and a key, and good for no password.

    @param key: random, kept as long as answers shall stay the same; the same in all processes of a server.
    """
    seed = hmac.digest(key, login.lower().encode("utf-8", "surrogateescape"), "sha512")
    return ScramSecret(
        salt=seed[:16],
        iterations=ITERATIONS,
        stored_key=hmac.digest(key, b"stored" + seed, "sha256"),
        server_key=hmac.digest(key, b"server" + seed, "sha256"),
    )


def derive(password: bytes, salt: bytes, iterations: int = ITERATIONS) -> ScramSecret | None:
    """
    What a server keeps of a password (RFC 5802 s.3): blocks for as long as the iterations take, so for threads.

    @return: C{None} when SASLprep does not allow the password, so that no client could log in with it by SCRAM.
    """
    try:
        prepared = saslprep(password.decode("utf-8"), stored=True)
    except ValueError:
        return None
    salted = hashlib.pbkdf2_hmac("sha256", prepared.encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return ScramSecret(
        salt=salt,
        iterations=iterations,
        stored_key=hashlib.sha256(client_key).digest(),
        server_key=hmac.digest(salted, b"Server Key", "sha256"),
    )


def _malformed(reason: str, login: str = "") -> Failed:
    return Failed(reason=reason, malformed=True, login=login)


def _name(octets: bytes) -> str | None:
    """A login or authorisation identity; C{None} when it cannot be one."""
    if len(octets) > LOGIN_OCTETS:
        return None
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None


def _out_of_order() -> RuntimeError:
    return RuntimeError("SASL messages in the wrong order")


class _Plain:
    """RFC 4616: one message, C{authzid NUL authcid NUL password}."""

    def __init__(self, bindings: Mapping[str, bytes], nonce: str) -> None:
        pass

    def start(self, initial: bytes | None) -> Step:
        return Challenge(b"") if initial is None else self.respond(initial)

    def respond(self, octets: bytes) -> Step:
        parts = octets.split(b"\0", 3) if len(octets) <= MESSAGE_OCTETS else []
        if len(parts) != 3:
            return _malformed("PLAIN has three parts")
        authzid, login = _name(parts[0]), _name(parts[1])
        if authzid is None or not login:
            return _malformed("PLAIN without a proper name")
        if not 0 < len(parts[2]) <= PASSWORD_OCTETS:
            return _malformed("PLAIN without a proper password", login)
        return CheckPassword(login=login, password=parts[2], authzid=authzid)

    def secret(self, secret: ScramSecret) -> Step:
        raise _out_of_order()


class _Login:
    """LOGIN was never standardised (draft-murchison-sasl-login-00): name, then password, each on its challenge."""

    def __init__(self, bindings: Mapping[str, bytes], nonce: str) -> None:
        self._login: str | None = None

    def start(self, initial: bytes | None) -> Step:
        # Clients that send the name at once exist, Outlook among them.
        return Challenge(b"Username:") if initial is None else self.respond(initial)

    def respond(self, octets: bytes) -> Step:
        if self._login is None:
            login = _name(octets)
            if not login:
                return _malformed("LOGIN without a proper name")
            self._login = login
            return Challenge(b"Password:")
        if not 0 < len(octets) <= PASSWORD_OCTETS or 0 in octets:
            return _malformed("LOGIN without a proper password", self._login)
        return CheckPassword(login=self._login, password=octets)

    def secret(self, secret: ScramSecret) -> Step:
        raise _out_of_order()


class _Scram:
    """
    RFC 5802 with SHA-256 (RFC 7677), with and without channel binding::

        client-first  gs2-header "n=" login ",r=" nonce        -> SecretWanted
        server-first  "r=" nonce+ours ",s=" salt ",i=" count   <- Challenge
        client-final  "c=" binding ",r=" nonce ",p=" proof     -> checked
        server-final  "v=" signature                           <- Challenge, answered by an empty message
    """

    def __init__(self, plus: bool, bindings: Mapping[str, bytes], nonce: str) -> None:
        self._plus = plus
        self._bindings = bindings
        self._ours = nonce or secrets.token_urlsafe(18)
        self._expects: Callable[[bytes], Step] | None = self._first
        self._binding = b""  # what c= must say
        self._login = ""
        self._authzid = ""
        self._nonce = b""
        self._client_first = b""
        self._server_first = b""
        self._secret: ScramSecret | None = None

    def start(self, initial: bytes | None) -> Step:
        return Challenge(b"") if initial is None else self.respond(initial)

    def respond(self, octets: bytes) -> Step:
        expects, self._expects = self._expects, None
        if expects is None:
            raise _out_of_order()
        if len(octets) > MESSAGE_OCTETS:
            return _malformed("message too long", self._login)
        return expects(octets)

    def _first(self, octets: bytes) -> Step:
        flag, _, rest = octets.partition(b",")
        identity, sign, bare = rest.partition(b",")
        if not sign:
            return _malformed("no GS2 header")
        refused = self._bind(flag, octets[: len(octets) - len(bare)])
        if refused is not None:
            return refused
        authzid = self._identity(identity[2:]) if identity[:2] == b"a=" else None if identity else ""
        parts = bare.split(b",")
        # "m=" comes before the name and announces what must be understood: we understand nothing of it (s.5.1).
        if authzid is None or len(parts) < 2 or parts[0][:2] != b"n=" or parts[1][:2] != b"r=":
            return _malformed("not a client-first-message")
        login, nonce = self._identity(parts[0][2:]), parts[1][2:]
        if not login or not _printable(nonce):
            return _malformed("no proper name or nonce")
        self._login, self._authzid = login, authzid
        self._nonce = nonce + self._ours.encode("ascii")
        self._client_first = bare
        return SecretWanted(login=login)

    def _bind(self, flag: bytes, header: bytes) -> Failed | None:
        """The GS2 channel binding flag (s.6): what it asks for must be what the mechanism is."""
        if flag[:2] == b"p=":
            data = self._bindings.get(flag[2:].decode("ascii", "replace"))
            if not self._plus or data is None:
                return Failed(reason="unsupported channel binding type")
            self._binding = header + data
            return None
        if flag not in (b"n", b"y"):
            return _malformed("no channel binding flag")
        if self._plus:
            return _malformed("-PLUS without channel binding")
        if flag == b"y" and self._bindings:
            # The client thinks we have no -PLUS, and we had announced it: somebody has changed our words.
            return Failed(reason="server does support channel binding")
        self._binding = header
        return None

    def _identity(self, octets: bytes) -> str | None:
        """A C{saslname}: C{=2C} and C{=3D} for comma and equals sign, and no other equals sign."""
        text = _name(octets)
        if text is None or "=" in text.replace("=2C", "").replace("=3D", ""):
            return None
        try:
            return saslprep(text.replace("=2C", ",").replace("=3D", "="))
        except ValueError:
            return None

    def secret(self, secret: ScramSecret) -> Step:
        if not self._nonce or self._secret is not None:
            raise _out_of_order()
        self._secret = secret
        self._server_first = b"r=%b,s=%b,i=%d" % (self._nonce, base64.b64encode(secret.salt), secret.iterations)
        self._expects = self._final
        return Challenge(self._server_first)

    def _final(self, octets: bytes) -> Step:
        without, sign, proof_text = octets.rpartition(b",p=")
        parts = without.split(b",")
        if not sign or len(parts) < 2 or parts[0][:2] != b"c=" or parts[1][:2] != b"r=":
            return _malformed("not a client-final-message", self._login)
        binding, proof = decode(parts[0][2:]), decode(proof_text)
        if binding is None or proof is None or len(proof) != 32:
            return _malformed("not base64", self._login)
        if self._secret is None:
            raise _out_of_order()
        message = b",".join((self._client_first, self._server_first, without))
        signature = hmac.digest(self._secret.stored_key, message, "sha256")
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
        proven = hmac.compare_digest(hashlib.sha256(client_key).digest(), self._secret.stored_key)
        bound = hmac.compare_digest(binding, self._binding)
        fresh = hmac.compare_digest(parts[1][2:], self._nonce)
        if not (proven and bound and fresh):
            reason = "wrong password" if bound and fresh else "wrong channel binding" if fresh else "wrong nonce"
            return Failed(reason=reason, login=self._login)
        self._expects = self._done
        return Challenge(b"v=" + base64.b64encode(hmac.digest(self._secret.server_key, message, "sha256")))

    def _done(self, octets: bytes) -> Step:
        if octets:
            return _malformed("the last message is empty", self._login)
        return Proven(login=self._login, authzid=self._authzid)


def _printable(nonce: bytes) -> bool:
    return 0 < len(nonce) <= 1024 and all(0x21 <= octet <= 0x7E and octet != 0x2C for octet in nonce)


class _External:
    """
    EXTERNAL (RFC 4422 appendix A): the layer below has proved who the client is, who says at most whom it wants to act
    as.
    """

    def __init__(self, bindings: Mapping[str, bytes], nonce: str) -> None:
        self._login = bindings.get(EXTERNAL, b"").decode("utf-8", "replace")

    def start(self, initial: bytes | None) -> Step:
        return Challenge(b"") if initial is None else self.respond(initial)

    def respond(self, octets: bytes) -> Step:
        authzid = _name(octets)
        if authzid is None:
            return _malformed("EXTERNAL without a proper name", self._login)
        if not self._login:
            return Failed(reason="no certificate")
        return Proven(login=self._login, authzid=authzid)

    def secret(self, secret: ScramSecret) -> Step:
        raise _out_of_order()


MECHANISMS: Mapping[str, Callable[[Mapping[str, bytes], str], Machine]] = {
    "SCRAM-SHA-256-PLUS": lambda bindings, nonce: _Scram(True, bindings, nonce),
    "SCRAM-SHA-256": lambda bindings, nonce: _Scram(False, bindings, nonce),
    "PLAIN": _Plain,
    "LOGIN": _Login,
    "EXTERNAL": _External,
}
"""All there are; L{offered} tells which are announced, and in which order."""
