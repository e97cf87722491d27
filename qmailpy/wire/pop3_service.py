"""
What the POP3 sessions of a listener have in common: limits, the greeting and the list of capabilities (RFC 2449).
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import field, frozen

RESPONSE_OCTETS = 512
"""RFC 2449 s.4: the longest first line of a response, its CRLF included."""

_PRINTABLE = "".join(chr(code) if 0x20 <= code < 0x7F else "?" for code in range(0x100)).encode("latin-1")


@frozen(kw_only=True)
class Limits:
    """What a session may do."""

    line_octets: int = 512  # a command with its line end; RFC 2449 s.4 has 255, names and passwords may be longer
    errors: int = 20  # bad commands before the session is ended
    logins: int = 5  # logins that failed
    early: int = 100  # commands before there is a login


def text_line(sign: bytes, text: str) -> bytes:
    """A response line; never longer than L{RESPONSE_OCTETS}, never broken by what C{text} holds."""
    octets = text.encode("latin-1", "replace").translate(_PRINTABLE)
    return b"%b %b\r\n" % (sign, octets[: RESPONSE_OCTETS - len(sign) - 3])


@frozen(kw_only=True)
class Service:
    """What the sessions of one listener have in common."""

    hostname: str
    limits: Limits = Limits()
    stls: bool = False  # TLS can be begun
    scram: bool = False  # the directory can give secrets
    login_delay_s: int = 0  # announced; whoever opens mailboxes sees to it
    greeting: bytes = field(init=False)
    front_greeting: bytes = field(init=False)  # for clients that may tell who is behind them; Dovecot has it so, too

    @greeting.default
    def _greeting(self) -> bytes:
        return text_line(b"+OK", f"{self.hostname} POP3 qmailpy")

    @front_greeting.default
    def _front_greeting(self) -> bytes:
        return text_line(b"+OK", f"[XCLIENT] {self.hostname} POP3 qmailpy")

    def capabilities(self, *, entered: bool, secure: bool, plain: bool, mechanisms: Sequence[str]) -> bytes:
        """
        The answer to CAPA.

        @param entered: in the TRANSACTION state.
        @param secure: under TLS.
        @param plain: USER and PASS may be used now.
        @param mechanisms: of AUTH, as may be used now.
        """
        lines = ["TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", "EXPIRE NEVER"]
        lines.append(f"LOGIN-DELAY {self.login_delay_s}")
        lines += ["UTF8 USER", "LANG"]
        if plain:
            lines.append("USER")
        if mechanisms:
            lines.append("SASL " + " ".join(mechanisms))
        if self.stls and not secure and not entered:
            lines.append("STLS")
        lines.append("IMPLEMENTATION qmailpy")
        return "".join(["+OK Capabilities\r\n", *(f"{line}\r\n" for line in lines), ".\r\n"]).encode("ascii")
