"""
What every server asks when a client logs in: L{Logins} takes the steps of a L{qmailpy.wire.sasl} machine (or of a
protocol's own password command) and says who it is, or why not.

A wrong password and an unknown name are told by the same words after the same time: the directory hashes for both, and
L{sasl.imagined} stands in for the secret of who has none. How often one may fail is the L{Throttle}'s.

What fails and how: a refusal is a L{Refusal}, a directory that is away too; exceptions are bugs.
"""

from __future__ import annotations

import os
from enum import Enum
from typing import Any

from attrs import field, frozen
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from qmailpy.auth.lately import Lately
from qmailpy.auth.portal import IMailUser, Password, Proof, portal
from qmailpy.auth.throttle import Throttle
from qmailpy.errors import Temporary
from qmailpy.interfaces import IDirectory
from qmailpy.values import FEATURES, Mailbox, ScramSecret
from qmailpy.wire.sasl import CheckPassword, Failed, Proven, imagined

FETCHING = frozenset({"pop3", "imap", "webmail"})
"""Services that read mail: what accountStatus nopop bars."""


class Why(Enum):
    """Why a login was refused."""

    WRONG = "wrong name or password"
    MALFORMED = "not of the mechanism's form"
    BANNED = "too many failures"
    AWAY = "the directory is away"
    NOT_ALLOWED = "the account may not use that"


@frozen(kw_only=True)
class Refusal:
    """No login."""

    why: Why
    login: str = ""  # who it said it was, for the log
    detail: str = field(default="", repr=False)  # for the log


class Logins:
    """
    One for all servers of a process.

    @ivar counts: logins by what came of them: C{"ok"}, or why they were refused.
    """

    def __init__(
        self,
        clock: IReactorTime,
        directory: IDirectory,
        *,
        domain: str = "",
        key: bytes = b"",
        throttle: Throttle | None = None,
    ) -> None:
        """
        @param domain: completes a login without one.
        @param key: for L{imagined}: the same in all processes that clients may meet; b"" = one of our own.
        """
        self._clock = clock
        self._directory = directory
        self._portal = portal(directory)
        self._lately = Lately(clock, directory)
        self._domain = domain
        self._key = key or os.urandom(32)
        self.counts = dict.fromkeys(("ok", *(why.name.lower().replace("_", "-") for why in Why)), 0)
        self.throttle = throttle if throttle is not None else Throttle(clock.seconds)

    def full(self, login: str) -> str:
        """A login with its domain."""
        return login if "@" in login or not self._domain else f"{login}@{self._domain}"

    async def secret(self, login: str, client: str) -> ScramSecret | Refusal:
        """
        What SCRAM needs of a login, whoever that is.

        @param client: IP address; "" for one that is not to be counted.
        """
        login = self.full(login)
        if self.throttle.banned(login, client):
            return Refusal(why=Why.BANNED, login=login)
        try:
            found = await self._directory.scram(login)
        except Temporary as error:
            return Refusal(why=Why.AWAY, login=login, detail=str(error))
        return found or imagined(self._key, login)

    async def decide(
        self, step: CheckPassword | Proven | Failed, client: str, service: str = "", ip: str = ""
    ) -> Mailbox | Refusal:
        """
        Who it is. The answer to a failure comes after the wait it has earned; cancelling gives up.

        @param client: as for L{secret}.
        @param service: what the login is for, one of L{FEATURES}; "" = for nothing that could be barred.
        @param ip: the client's address, to be noted as that of the last login.
        """
        found = await self._decided(step, client, service, ip)
        self.counts[found.why.name.lower().replace("_", "-") if isinstance(found, Refusal) else "ok"] += 1
        return found

    async def _decided(
        self, step: CheckPassword | Proven | Failed, client: str, service: str, ip: str
    ) -> Mailbox | Refusal:
        login = self.full(step.login) if step.login else ""
        if self.throttle.banned(login, client):
            return Refusal(why=Why.BANNED, login=login)
        if isinstance(step, Failed):
            why = Why.MALFORMED if step.malformed else Why.WRONG
            return await self._refused(why, login, client, step.reason)
        if step.authzid and self.full(step.authzid).lower() != login.lower():
            return await self._refused(Why.WRONG, login, client, "may not act as somebody else")
        credentials = Password(login, step.password) if isinstance(step, CheckPassword) else Proof(login)
        try:
            _, user, _ = await self._ask(credentials)
        except UnauthorizedLogin:
            return await self._refused(Why.WRONG, login, client, "")
        except Temporary as error:
            return Refusal(why=Why.AWAY, login=login, detail=str(error))
        self.throttle.succeeded(login, client)
        mailbox: Mailbox = user.mailbox
        if not allowed(mailbox, service):
            return Refusal(why=Why.NOT_ALLOWED, login=login, detail=f"no {service} for this account")
        self._lately.seen(mailbox.address, service, ip)
        return mailbox

    def _ask(self, credentials: Password | Proof) -> Any:
        return self._portal.login(credentials, None, IMailUser)

    async def _refused(self, why: Why, login: str, client: str, detail: str) -> Refusal:
        wait = self.throttle.failed(login, client)
        if wait:
            await deferLater(self._clock, wait)
        return Refusal(why=why, login=login, detail=detail)


def allowed(mailbox: Mailbox, service: str) -> bool:
    """Whether a mailbox's owner may use a service, by its plan and its status."""
    if service not in FEATURES:
        return True
    return service in mailbox.features and not (service in FETCHING and mailbox.status == "nopop")
