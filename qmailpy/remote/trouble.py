"""
What a failure counts against: the one place where remote delivery decides it (pure).

==========  ==================  =====================================  ==========================================
scope       failures            the mail                               the connection and the host
==========  ==================  =====================================  ==========================================
HOST        no connection; bad  the next host is tried; with none      closed; remembered as bad when it could not
            greeting or EHLO    left, deferred or (5yz) failed         be reached or kept silent
            no TLS where it     the next host is tried; with none      closed
            must be, or not     left, deferred (4.7.4; 4.7.5; 4.7.8)
            the one wanted; no
            login
CONNECTION  421, lost, silent,  deferred; before MAIL was answered     closed
            no SMTP             the next host is tried
MESSAGE     refused MAIL, DATA  all its recipients deferred or failed  kept
            or final dot        by the reply
RECIPIENT   refused RCPT        this recipient deferred or failed      kept
NODE        no socket, message  deferred                               closed, and the host is not to blame
            file unreadable
==========  ==================  =====================================  ==========================================

A connection lost, or silent, after the final dot may hide a delivery: the mail is deferred all the same, at least
once being the promise, and the diagnostic says C{possible duplicate} (RFC 5321 s.6.1, RFC 1047).

5yz in greeting or EHLO counts as permanent only when every host of the destination that could be asked says so
(RFC 7504, RFC 5321 s.3.1): another host may take the mail.
"""

from __future__ import annotations

from enum import Enum

from attrs import frozen

from qmailpy.values import Reply, Verdict
from qmailpy.wire.client_events import Outcome, Stage


class Fault(Enum):
    """What happened."""

    UNREACHED = "no connection could be made"
    LOST = "connection lost"
    TIMED_OUT = "timed out"
    REFUSED = "refused"
    VIOLATED = "protocol error"
    NO_TLS = "TLS is required"
    UNTRUSTED = "TLS failed"
    NO_LOGIN = "login failed"
    OURS = "trouble of our own"


class Scope(Enum):
    """What a failure counts against."""

    NODE = "node"
    HOST = "host"
    CONNECTION = "connection"
    MESSAGE = "message"
    RECIPIENT = "recipient"


@frozen(kw_only=True)
class Trouble:
    """A failure: when, what, and in whose words."""

    stage: Stage
    fault: Fault
    reply: Reply | None = None  # the peer's, when it gave one
    why: str = ""  # else the cause, in a few words
    kind: str = ""  # of a failure of TLS: the result type of RFC 8460 s.4.3


@frozen(kw_only=True)
class Judgement:
    """What follows from a trouble, for the recipients that have no answer of their own and for connection and host."""

    scope: Scope
    verdict: Verdict
    reply: Reply
    next_host: bool = False  # these recipients may be tried at another host at once: no message can have arrived
    blame: bool = False  # remember the host as unreachable for a while
    keep: bool = False  # the connection may serve on


_EARLY = (Stage.CONNECT, Stage.GREETING, Stage.EHLO, Stage.HELO, Stage.STARTTLS, Stage.TLS, Stage.AUTH)
_UNANSWERED = (*_EARLY, Stage.IDLE, Stage.RSET, Stage.MAIL)
_ENHANCED = {
    Fault.UNREACHED: "4.4.1",  # RFC 3463 X.4.1: no answer from host
    Fault.LOST: "4.4.2",  # X.4.2: bad connection
    Fault.TIMED_OUT: "4.4.2",
    Fault.VIOLATED: "4.5.0",  # X.5.0: protocol status, undefined
    Fault.NO_TLS: "4.7.4",  # X.7.4: security features not supported
    Fault.UNTRUSTED: "4.7.5",  # X.7.5: cryptographic failure
    Fault.NO_LOGIN: "4.7.8",  # X.7.8 (RFC 4954 s.6): authentication credentials invalid
    Fault.OURS: "4.3.0",  # X.3.0: mail system status, undefined
}


def judge(trouble: Trouble) -> Judgement:
    """What C{trouble} means for mail, connection and host; see the table above."""
    stage, fault = trouble.stage, trouble.fault
    if fault is Fault.REFUSED and trouble.reply is not None:
        return _refused(stage, trouble.reply)
    reply = Reply(451, _ENHANCED.get(fault, "4.4.0"), _words(trouble))
    if fault is Fault.OURS:
        return Judgement(scope=Scope.NODE, verdict=Verdict.DEFERRED, reply=reply)
    if stage in _EARLY:
        # What speaks no SMTP, or hangs up at once, answers quickly: only silence makes a host worth skipping.
        # Silence in a handshake is no reason either: without TLS it may serve. A refused login is: to try it again with
        # each message would have the account locked.
        silent = fault is Fault.TIMED_OUT and stage is not Stage.TLS
        blame = stage is Stage.CONNECT or silent or fault is Fault.NO_LOGIN
        return Judgement(scope=Scope.HOST, verdict=Verdict.DEFERRED, reply=reply, next_host=True, blame=blame)
    return Judgement(scope=Scope.CONNECTION, verdict=Verdict.DEFERRED, reply=reply, next_host=stage in _UNANSWERED)


def _refused(stage: Stage, reply: Reply) -> Judgement:
    verdict = Verdict.FAILED if reply.permanent else Verdict.DEFERRED
    if stage in _EARLY:
        return Judgement(scope=Scope.HOST, verdict=verdict, reply=reply, next_host=True)
    if reply.code == 421:
        return Judgement(scope=Scope.CONNECTION, verdict=Verdict.DEFERRED, reply=reply, next_host=stage in _UNANSWERED)
    if stage is Stage.RCPT:
        return Judgement(scope=Scope.RECIPIENT, verdict=verdict, reply=reply, keep=True)
    # While the message is being sent, an answer leaves us with half a message on the wire.
    return Judgement(scope=Scope.MESSAGE, verdict=verdict, reply=reply, keep=stage is not Stage.CONTENT)


def _words(trouble: Trouble) -> str:
    """The trouble as a diagnostic says it."""
    if trouble.fault is Fault.UNREACHED or trouble.fault is Fault.OURS:
        return trouble.why
    if trouble.fault in (Fault.NO_TLS, Fault.UNTRUSTED, Fault.NO_LOGIN):
        return f"{trouble.fault.value}: {trouble.why}"
    words = f"{trouble.fault.value} while {trouble.stage.value}"
    if trouble.why:
        words = f"{words}: {trouble.why}"
    return f"{words} (possible duplicate)" if trouble.stage is Stage.FINAL else words


@frozen(kw_only=True)
class Fate:
    """What a transaction came to for one recipient."""

    verdict: Verdict
    reply: Reply
    scope: Scope | None = None  # C{None}: delivered
    again: bool = False  # only the number of recipients was too large: worth another transaction at once
    whole: bool = False  # the peer had the whole message when it said so


def fates(outcome: Outcome) -> tuple[Fate | None, ...]:
    """
    What each recipient's own answers in C{outcome} decide, in order; C{None} where there was none, which leaves the
    recipient to the trouble that ended the transaction.
    """
    if outcome.mail is not None and outcome.mail.code >= 400:
        refused = _fate(Stage.MAIL, outcome.mail)
        return (refused,) * len(outcome.recipients)
    if outcome.data is not None:
        last: Fate | None = _fate(Stage.DATA, outcome.data)
    elif outcome.final is None:
        last = None
    elif outcome.final.code >= 400:
        last = _fate(Stage.CONTENT if outcome.stage is Stage.CLOSED else Stage.FINAL, outcome.final)
    else:
        last = _of_final(outcome.final)
    found: list[Fate | None] = []
    some = False
    for index, reply in enumerate(outcome.recipients):
        if reply is None:
            found.append(None)
        elif reply.code >= 400:
            found.append(_too_many(reply) if some and _says_too_many(reply) else _fate(Stage.RCPT, reply))
        else:
            some = True
            final = outcome.finals[index] if outcome.finals else None
            found.append(last if final is None else _of_final(final))
    return tuple(found)


def _fate(stage: Stage, reply: Reply) -> Fate:
    judged = _refused(stage, reply)
    return Fate(verdict=judged.verdict, reply=reply, scope=judged.scope, whole=stage is Stage.FINAL)


def _of_final(reply: Reply) -> Fate:
    """By the answer to the whole message, or by LMTP's to it for one recipient."""
    if reply.code >= 400:
        return _fate(Stage.FINAL, reply)
    return Fate(verdict=Verdict.DELIVERED, reply=reply, whole=True)


def _says_too_many(reply: Reply) -> bool:
    """
    Whether a refused RCPT says no more than that the transaction has enough recipients (RFC 5321 s.4.5.3.1.10).

    552 was the code for it before 452 was; with another enhanced code it speaks of the mailbox.
    """
    return reply.code in (452, 552) and reply.enhanced in ("", "4.5.3", "5.5.3")


def _too_many(reply: Reply) -> Fate:
    return Fate(verdict=Verdict.DEFERRED, reply=reply, scope=Scope.RECIPIENT, again=True)
