"""
Mailboxes that other nodes have (popServer, else mailHost): which they are, and as whom their users are let in there.

A user's login is decided here, and done once more there: with the password he has just shown; or, where there is an
account of the nodes', with that one's and his name (RFC 4616 s.2: the authorization identity). SCRAM shows no password,
so that it needs the account. Who may use it, and tell for whom (XCLIENT), is said by C{xclient} of a listener.

Nobody is handed on twice: whoever says for whom it speaks says also how many nodes may still follow, and we say none.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection

from qmailpy.config.schema import Config, Pop3Config
from qmailpy.remote.pop3_node import Far, Nodes, NodeSecrets, split
from qmailpy.values import Mailbox
from qmailpy.wire import sasl
from qmailpy.wire.pop3_client import Guest

HOPS = 1
"""Nodes a user may be handed on to, from the one he is connected to."""


class Elsewhere:
    """What the listeners of a process know of other nodes."""

    def __init__(self, nodes: Nodes, config: Config, secrets: NodeSecrets) -> None:
        self._nodes = nodes
        self.use(config, secrets)

    def use(self, config: Config, secrets: NodeSecrets) -> None:
        """Take another configuration."""
        self._settings: Pop3Config = config.pop3
        self._names: Collection[str] = frozenset(
            name.lower() for name in (config.server.hostname, *config.server.names)
        )
        self._secrets = secrets

    def node_of(self, mailbox: Mailbox) -> str:
        """The node whose listeners have a mailbox, "" for ours."""
        node = (mailbox.pop_host or mailbox.host).lower()
        if not node or node in self._names:
            return ""
        host, port = split(node, self._settings.port)
        if host in self._names and port == self._settings.port:
            return ""
        # The port of mailHost is that of its LMTP.
        return node if mailbox.pop_host else host

    def on_behalf(self, step: sasl.CheckPassword) -> sasl.CheckPassword | sasl.Proven | sasl.Failed:
        """What a login is by somebody who may tell for whom it speaks: with the nodes' account it is that user's."""
        user, password = self._settings.node_user, self._secrets.password
        if not user or not password or step.login != user or not step.authzid:
            return step
        if hmac.compare_digest(step.password, password):
            return sasl.Proven(login=step.authzid, authzid="")
        return sasl.Failed(reason="not the password of the nodes' account", malformed=False, login=step.authzid)

    def guest(
        self, mailbox: Mailbox, step: sasl.CheckPassword | sasl.Proven | sasl.Failed, ip: str, hops: int
    ) -> Guest | None:
        """
        As whom a user is let in.

        @param hops: nodes he may be handed on to; not 0.
        @return: C{None}: there is no password that would be taken.
        """
        user, password = self._settings.node_user, self._secrets.password
        if user and password:
            return Guest(login=mailbox.address, user=user, password=password, ip=ip, hops=hops - 1)
        if isinstance(step, sasl.CheckPassword):
            return Guest(login=mailbox.address, password=step.password, ip=ip, hops=hops - 1)
        return None

    async def enter(self, node: str, guest: Guest) -> Far:
        """
        Let somebody in. Cancelling gives up.

        @raise NodeAway: that node cannot be used.
        @raise NodeRefused: it refuses him.
        """
        return await self._nodes.enter(node, guest, self._settings, self._secrets)
