"""
What a POP3 client's octets mean: the events of L{qmailpy.wire.pop3.Pop3Core}.

Those that ask a question hold the session until it is answered. Messages are counted from 0 here.
"""

from __future__ import annotations

from attrs import field, frozen


@frozen(kw_only=True)
class LoginAsked:
    """
    USER and PASS, or AUTH with a mechanism that sends the password. Asks: is it right?

    Answered by C{enter}, C{handed_on} or C{refuse}.
    """

    login: str
    password: bytes = field(repr=False)
    authzid: str = ""  # whom the client wants to act as; "" = as itself
    mechanism: str = ""  # "" = USER and PASS


@frozen(kw_only=True)
class SecretAsked:
    """AUTH SCRAM. Asks for the secret of C{login}; answered by C{secret} or C{refuse}."""

    login: str


@frozen(kw_only=True)
class LoginProven:
    """AUTH SCRAM has shown that the client is C{login}. Asks for its mailbox; answered as L{LoginAsked}."""

    login: str
    authzid: str = ""
    mechanism: str


@frozen(kw_only=True)
class LoginFailed:
    """AUTH came to nothing. Asks for the refusal, so that it may wait like those of wrong passwords."""

    login: str  # as far as it was said
    mechanism: str
    reason: str  # for the log
    malformed: bool


@frozen
class TlsAsked:
    """STLS: send what L{take} has, then begin TLS, then tell the core by C{secured}."""


@frozen
class Fronted:
    """XCLIENT: somebody else is behind the client, who has been answered."""

    ip: str  # "" = it did not say
    hops: int  # how many nodes more it may be handed on to; 0 = none


@frozen(kw_only=True)
class FetchAsked:
    """RETR or TOP. Asks for the message; answered by C{begin}, C{body} and C{end}, or C{refuse}."""

    index: int
    lines: int | None  # of the body, for TOP; C{None} = all of the message


@frozen(kw_only=True)
class LeaveAsked:
    """QUIT in the TRANSACTION state. Asks to carry out the update; answered by C{left}."""

    deleted: tuple[int, ...]  # to be removed, rising
    seen: tuple[int, ...]  # retrieved whole and not deleted, rising


@frozen(kw_only=True)
class BadCommand:
    """A command that was refused for its form or its time; it has been answered."""

    verb: str  # "?" for an unknown one: it may be a secret, as arguments are
    text: str  # what the client was told


@frozen
class Ended:
    """Nothing more will be read: send what C{take} has, then close."""

    reason: str  # "" after QUIT


Event = (
    LoginAsked
    | SecretAsked
    | LoginProven
    | LoginFailed
    | TlsAsked
    | Fronted
    | FetchAsked
    | LeaveAsked
    | BadCommand
    | Ended
)
