"""
The roles there are: each builds the service tree of one kind of process from its L{ChildContext}.

The functions are looked up here by the role's name; tests put a module of their own in this one's place.
"""

from __future__ import annotations

from twisted.application.service import IService, MultiService

from qmailpy.app.context import ChildContext


class _Open(MultiService):
    """Open for business as soon as it has started."""

    def __init__(self, context: ChildContext) -> None:
        super().__init__()
        self._context = context

    def startService(self) -> None:
        super().startService()
        self._context.ready()


def mta(context: ChildContext) -> IService:
    """A mail worker: servers, its shards of the queue, channels."""
    service: IService = _Open(context)
    return service


def directory(context: ChildContext) -> IService:
    """The embedded directory."""
    service: IService = _Open(context)
    return service
