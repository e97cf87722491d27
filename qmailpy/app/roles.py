"""
The roles there are: each builds the service tree of one kind of process from its L{ChildContext}.

The functions are looked up here by the role's name; tests put a module of their own in this one's place.
"""

from __future__ import annotations

from twisted.application.service import IService

from qmailpy.app.context import ChildContext


def mta(context: ChildContext) -> IService:
    """A mail worker: servers, its shards of the queue, channels."""
    from qmailpy.app.mta import MailWorker

    service: IService = MailWorker(context)
    return service


def directory(context: ChildContext) -> IService:
    """The embedded directory."""
    from qmailpy.app.directory import DirectoryServer

    service: IService = DirectoryServer(context)
    return service


def access(context: ChildContext) -> IService:
    """Where users fetch their mail from."""
    from qmailpy.app.access import MailAccess

    service: IService = MailAccess(context)
    return service
