"""
twisted.cred over L{IDirectory}: one portal for every login, by password or by SCRAM.

An avatar is the user's own L{Mailbox}; the interface to ask for is L{IMailUser}.
"""

from __future__ import annotations

from typing import Any

from attrs import field, frozen
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface, implementer

from qmailpy.interfaces import IDirectory
from qmailpy.values import Mailbox


class IMailUser(Interface):
    """Whoever has logged in."""

    mailbox: Mailbox = Attribute("The user's mailbox; its address is the user's name everywhere.")


@implementer(IMailUser)
@frozen
class MailUser:
    """A user of the directory."""

    mailbox: Mailbox


class IPassword(ICredentials):
    """A login and a password."""

    login: str = Attribute("As the client gave it, with its domain.")
    password: bytes = Attribute("As the client gave it.")


class IProof(ICredentials):
    """A login whose password the client has proved to know: SCRAM has checked that already."""

    login: str = Attribute("As the client gave it, with its domain.")


@implementer(IPassword)
@frozen
class Password:
    """L{IPassword}."""

    login: str
    password: bytes = field(repr=False)


@implementer(IProof)
@frozen
class Proof:
    """L{IProof}."""

    login: str


@implementer(ICredentialsChecker)
class DirectoryChecker:
    """Checks both kinds of credentials; an avatar id is the mailbox's address."""

    credentialInterfaces = (IPassword, IProof)

    def __init__(self, directory: IDirectory) -> None:
        self._directory = directory

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """@return: fails with C{UnauthorizedLogin}, or L{Temporary<qmailpy.errors.Temporary>}."""
        return Deferred.fromCoroutine(self._check(credentials))

    async def _check(self, credentials: IPassword | IProof) -> str:
        if IPassword.providedBy(credentials):
            mailbox = await self._directory.authenticate(credentials.login, credentials.password)
        else:
            found = await self._directory.lookup(credentials.login)
            mailbox = found if isinstance(found, Mailbox) and found.active else None
        if mailbox is None:
            raise UnauthorizedLogin
        return mailbox.address


@implementer(IRealm)
class MailRealm:
    """Gives L{IMailUser} for an address."""

    def __init__(self, directory: IDirectory) -> None:
        self._directory = directory

    def requestAvatar(self, avatarId: Any, mind: object, *interfaces: Any) -> Any:
        """@raise NotImplementedError: something else than L{IMailUser} was asked for."""
        if IMailUser not in interfaces:
            raise NotImplementedError("only IMailUser is given here")
        return Deferred.fromCoroutine(self._avatar(avatarId))

    async def _avatar(self, address: str) -> tuple[Any, MailUser, Any]:
        found = await self._directory.lookup(address)
        if not isinstance(found, Mailbox):
            raise UnauthorizedLogin  # gone since a moment ago
        return IMailUser, MailUser(found), lambda: None


def portal(directory: IDirectory) -> Portal:
    """The portal over a directory."""
    return Portal(MailRealm(directory), [DirectoryChecker(directory)])
