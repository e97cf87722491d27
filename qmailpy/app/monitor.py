"""
The endpoint of C{[monitor]}: figures over HTTP for all processes, from whichever mail worker takes the connection. The
one that stands still is what somebody wants to know of.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IListeningPort

from qmailpy.app.context import ChildContext
from qmailpy.app.expiry import ends
from qmailpy.app.sockets import MONITOR
from qmailpy.config.schema import Config
from qmailpy.errors import ConfigError

if TYPE_CHECKING:
    from prometheus_client.registry import CollectorRegistry


def expected(config: Config) -> list[str]:
    """The processes there should be."""
    from qmailpy.app.daemon import places  # which is above the roles

    return [place.name for place in places(config)]


def listen(context: ChildContext, config: Config) -> list[IListeningPort]:
    """Answer on its sockets, if there is an endpoint; the caller stops the ports."""
    if not context.sockets.get(MONITOR):
        return []
    from qmailpy.servers.event_metrics import EventCounts  # some MiB, for those who want it
    from qmailpy.servers.metrics import MetricsFactory, thd_figures

    reactor = context.reactor
    started = time.time()
    with suppress(OSError):
        started = os.stat(config.path("run", "qmailpy.pid")).st_mtime
    events = EventCounts(started)

    def thd_collect() -> CollectorRegistry:
        certificates: dict[str, float] = {}
        with suppress(ConfigError):
            certificates = ends(context.thd_pairs())
        found: CollectorRegistry = thd_figures(config, expected(config), time.time(), certificates, events)
        return found

    async def collect() -> CollectorRegistry:
        found: CollectorRegistry = await context.in_thread(thd_collect)
        return found

    return context.listen(MONITOR, MetricsFactory(reactor, collect))
