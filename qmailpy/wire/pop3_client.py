"""
The client side of a POP3 login, without I/O: how a node lets one of its users into a mailbox that another node has.

    greeting --> STLS, then TLS --> XCLIENT --> AUTH PLAIN --> let in
                 (where wanted)     (where greeted with [XCLIENT])

L{NodeLogin.receive} takes octets and gives what they come to, L{NodeLogin.take} what is to be sent. Behind L{LetIn} the
connection is the user's: nothing of it is looked at any more.

A node of ours that does not greet with [XCLIENT] does not know us. It could not tell a user from one who was handed on,
and two nodes that each take a mailbox for the other's would hand him on for ever: no login there.
"""

from __future__ import annotations

import base64

from attrs import field, frozen

LINE_OCTETS = 2048
"""Of a response; RFC 2449 s.4 has 512."""


@frozen(kw_only=True)
class Guest:
    """A user who is to be let in at another node."""

    login: str  # whose mailbox it is
    user: str = ""  # whose password it is: an account of the nodes'; "" = the user's own
    password: bytes = field(repr=False)
    ip: str = ""  # where the user comes from
    hops: int = 0  # how many nodes more the mailbox may be behind


@frozen
class TlsWanted:
    """Send what there is, then begin TLS, verify, and say C{secured}."""


@frozen
class LetIn:
    """The login has succeeded."""

    said: bytes  # the response, with its line end
    rest: bytes  # what came behind it


@frozen
class Turned:
    """The login was refused."""

    text: str  # behind -ERR, with its response code


@frozen
class Broken:
    """The other node cannot be talked to, or not about this."""

    why: str  # for the log


Outcome = TlsWanted | LetIn | Turned | Broken

_GREETING, _STLS, _TLS, _XCLIENT, _AUTH, _RESPONSE, _OVER = range(7)


class NodeLogin:
    """One login."""

    def __init__(self, guest: Guest, *, tls: bool) -> None:
        """@param tls: nothing of the user is said without."""
        self._guest = guest
        self._tls = tls
        self._front = False
        self._state = _GREETING
        self._buffer = b""
        self._out = b""

    def take(self) -> bytes:
        """What is to be sent next."""
        out, self._out = self._out, b""
        return out

    def receive(self, octets: bytes) -> Outcome | None:
        """
        Take octets of the other node.

        @return: what they come to; C{None} = more are awaited.
        """
        self._buffer += octets
        while self._state not in (_TLS, _OVER):
            line, end, rest = self._buffer.partition(b"\n")
            if not end:
                if len(line) > LINE_OCTETS:
                    return self._over(Broken("a line without end"))
                return None
            self._buffer = rest
            outcome = self._line(line.removesuffix(b"\r"))
            if outcome is not None:
                return outcome
        return None

    def secured(self) -> None:
        """TLS has begun, and with whom it should."""
        self._state = _STLS
        self._buffer = b""
        self._introduce()

    def _line(self, line: bytes) -> Outcome | None:
        good = line[:3] == b"+OK"
        state = self._state
        if state == _RESPONSE:
            return self._answered(line, good)
        if state == _AUTH:
            if line[:1] != b"+" or good:
                return self._over(Broken(f"AUTH PLAIN is answered {_words(line)}"))
            guest = self._guest
            name = guest.login.encode()
            # RFC 4616: whom to act as, who one is, and the password of that.
            parts = (name, guest.user.encode(), guest.password) if guest.user else (b"", name, guest.password)
            self._out += base64.b64encode(b"\0".join(parts)) + b"\r\n"
            self._state = _RESPONSE
            return None
        if not good:
            what = {_GREETING: "the greeting is", _STLS: "STLS is answered", _XCLIENT: "XCLIENT is answered"}[state]
            return self._over(Broken(f"{what} {_words(line)}"))
        if state == _GREETING:
            return self._greeted(line)
        if state == _STLS:
            if self._buffer:
                return self._over(Broken("octets in clear behind STLS"))
            self._state = _TLS
            return TlsWanted()
        self._authenticate()
        return None

    def _greeted(self, line: bytes) -> Outcome | None:
        self._front = b"[XCLIENT]" in line
        if not self._front and b" POP3 qmailpy" in line:
            return self._over(Broken("it does not know us as a node: xclient of its listener must name our address"))
        if self._tls:
            self._out += b"STLS\r\n"
            self._state = _STLS
        else:
            self._introduce()
        return None

    def _introduce(self) -> None:
        if not self._front:
            self._authenticate()
            return
        address = f" ADDR={self._guest.ip}" if self._guest.ip else ""
        self._out += f"XCLIENT{address} TTL={self._guest.hops}\r\n".encode("ascii")
        self._state = _XCLIENT

    def _authenticate(self) -> None:
        # Without an initial response: with one the command may be longer than a line (RFC 5034 s.4).
        self._out += b"AUTH PLAIN\r\n"
        self._state = _AUTH

    def _answered(self, line: bytes, good: bool) -> Outcome:
        if good:
            rest, self._buffer = self._buffer, b""
            return self._over(LetIn(line + b"\r\n", rest))
        if line[:4] == b"-ERR":
            return self._over(Turned(line[4:].decode("latin-1").strip()))
        return self._over(Broken(f"the login is answered {_words(line)}"))

    def _over(self, outcome: Outcome) -> Outcome:
        self._state = _OVER
        return outcome


def _words(line: bytes) -> str:
    """For the log."""
    return repr(line[:200].decode("latin-1"))
