"""
Logins over SMTP: what L{Logins<qmailpy.auth.logins.Logins>} are asked, and the words the client gets (RFC 4954 s.6).
"""

from __future__ import annotations

from twisted.internet.defer import Deferred

from qmailpy.auth.logins import Logins, Refusal, Why
from qmailpy.values import Mailbox, Reply, ScramSecret
from qmailpy.wire.sasl import CheckPassword, Failed, Proven, SecretWanted

LOGIN_FIRST = Reply(530, "5.7.0", "Authentication required")
TLS_FIRST = Reply(530, "5.7.0", "Must issue a STARTTLS command first")  # RFC 3207 s.4
NOT_YOURS = Reply(553, "5.7.1", "Sender address is not yours")

_LOGGED_IN = Reply(235, "2.7.0", "Authentication successful")
_REFUSED = {
    Why.WRONG: Reply(535, "5.7.8", "Authentication credentials invalid"),
    Why.MALFORMED: Reply(501, "5.5.2", "Malformed authentication message"),
    Why.BANNED: Reply(454, "4.7.0", "Too many failed logins, try again later"),
    Why.NOT_ALLOWED: Reply(535, "5.7.1", "Sending mail is not allowed for this account"),
    Why.AWAY: Reply(454, "4.7.0", "Temporary authentication failure"),
}


def ask(
    logins: Logins, step: SecretWanted | CheckPassword | Proven | Failed, client: str, ip: str
) -> Deferred[ScramSecret | Refusal] | Deferred[Mailbox | Refusal]:
    """
    Have a step of an exchange decided.

    @param client: whose failures are counted, "" = nobody's.
    @param ip: the client's address.
    @return: fires with the secret that is wanted; or with who has logged in; or with why not.
    """
    if isinstance(step, SecretWanted):
        return Deferred.fromCoroutine(logins.secret(step.login, client))
    return Deferred.fromCoroutine(logins.decide(step, client, "submission", ip))


def reply(found: Mailbox | Refusal) -> Reply:
    """What the client is told of the end of an exchange."""
    return _REFUSED[found.why] if isinstance(found, Refusal) else _LOGGED_IN
