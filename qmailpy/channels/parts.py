"""
What a channel is built from: the parts of the node that every kind may use, in one value.

A factory of the registry is called C{factory(config, channel, parts)}; see L{qmailpy.channels.registry}.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from attrs import Factory, field, frozen
from twisted.internet.interfaces import (
    IReactorCore,
    IReactorFromThreads,
    IReactorProcess,
    IReactorTCP,
    IReactorThreads,
    IReactorTime,
)

from qmailpy.config.schema import ChannelConfig, Config
from qmailpy.disk.files import Files
from qmailpy.events.log import NoEvents
from qmailpy.events.traces import Traces
from qmailpy.interfaces import IChannel, IDirectory, IEvents, IRecorder, IResolver, IRouter
from qmailpy.local.usage import Usage

if TYPE_CHECKING:  # not every worker loads what speaks to other hosts
    from qmailpy.remote.delivery import Results
    from qmailpy.remote.protection import Sts


class IChannelReactor(IReactorCore, IReactorTime, IReactorProcess, IReactorTCP, IReactorThreads, IReactorFromThreads):
    """The most a channel may ask of a reactor; each takes it as the least it needs."""


@frozen(kw_only=True)
class Security:
    """What is known of other domains' TLS, and who wants to know what came of it; the same for all channels."""

    sts: Sts | None = None
    results: Results | None = None


@frozen(kw_only=True)
class Parts:
    """The node's parts, the same for all channels of a worker."""

    reactor: IChannelReactor
    files: Files
    directory: IDirectory
    router: IRouter
    resolver: IResolver
    recorder: IRecorder
    config: Config
    events: IEvents = Factory(NoEvents)
    traces: Traces | None = None  # what of the protocol is written down; C{None}: nothing
    security: Security = Security()
    srs_secret: bytes = field(default=b"", repr=False)  # of the senders that forwarded mail gets; empty: they stay
    seconds: Callable[[], float] = time.time  # the time of day
    usage: Usage | None = None  # quotas; C{None}: there are none


class ChannelFactory(Protocol):
    """What the registry holds for a kind: usually the channel's class itself."""

    def __call__(self, config: Config, channel: ChannelConfig, parts: Parts) -> IChannel:
        """
        Make the channel.

        @param channel: its table of the configuration; C{channel.name} becomes C{IChannel.name}.
        """
