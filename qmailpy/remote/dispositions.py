"""
What is said of recipients when a peer did not take them: the words of their dispositions, and so of the records and the
notices. What a failure counts against is decided in L{qmailpy.remote.trouble}.
"""

from __future__ import annotations

from qmailpy.remote.mx import is_address
from qmailpy.remote.peers import Peer
from qmailpy.remote.pool import skipping
from qmailpy.remote.session import Session
from qmailpy.remote.trouble import Fault, Judgement, Scope, Trouble
from qmailpy.values import Disposition, Reply, Verdict


def of_trouble(trouble: Trouble, judged: Judgement, peer: Peer, session: Session | None, sent: int = 0) -> Disposition:
    """For recipients that a trouble struck, as it was judged. @param sent: octets of content that had been sent."""
    words = judged.reply.text
    if session is not None:
        theirs = trouble.fault is Fault.REFUSED
        words = diagnostic(session, f"smtp;{judged.reply}" if theirs else judged.reply.text)
    return Disposition(
        verdict=judged.verdict,
        reply=judged.reply,
        remote_mta="" if judged.scope is Scope.NODE else name(peer),
        diagnostic=words,
        transferred=sent,
        modifiers=modifiers(session),
    )


def without_promise(peer: Peer, session: Session | None) -> Disposition:
    """For a message with REQUIRETLS and a host that does not pass it on (RFC 8689 s.5)."""
    reply = Reply(550, "5.7.30", f"REQUIRETLS support required, which {peer.host} does not offer")
    words = reply.text if session is None else diagnostic(session, reply.text)
    return Disposition(verdict=Verdict.FAILED, reply=reply, remote_mta=name(peer), diagnostic=words)


def skipped(why: str, seconds: float, peer: Peer) -> Disposition:
    """For a host that is passed over. @param seconds: for how long it will be."""
    text = skipping(why)
    reply = Reply(451, "4.4.1", text)
    return Disposition(
        verdict=Verdict.DEFERRED, reply=reply, remote_mta=name(peer), diagnostic=text, retry_after=seconds
    )


def weight(disposition: Disposition) -> int:
    """
    Which of several peers' failures is told: a temporary one above a permanent one, since that host might have taken
    the mail; one met above one remembered.
    """
    if disposition.verdict is not Verdict.DEFERRED:
        return 0
    return 1 if disposition.retry_after is not None else 2


def diagnostic(session: Session, words: str) -> str:
    """The diagnostic of a transaction log record: who said it, over which connection, and what."""
    tls = f"({session.tls}) " if session.tls else ""
    return f"dns;{name(session.peer)} ({session.ends}) ({session.core.banner}) {tls}{words}"


def name(peer: Peer) -> str:
    """A peer as records name it."""
    return f"[{peer.host}]" if is_address(peer.host) else peer.host


def modifiers(session: Session | None) -> str:
    """The letters behind an action (docs/counters-and-log.md); none where there was no connection."""
    if session is None:
        return ""
    core = session.core
    facts = (
        ("E", core.esmtp and not core.lmtp),
        ("C", core.chunked),
        ("S", core.secure),
        ("A", core.authenticated),
        ("L", core.lmtp),
    )
    return "".join(letter for letter, true in facts if true)
