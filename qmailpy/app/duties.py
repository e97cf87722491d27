"""
What one mail worker does for the whole node, and the first one has: mail that commands have dropped, the roll of the
log and its index, reports on TLS, certificates that run out, and the conditions that events tell of.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred

from qmailpy.app import monitor
from qmailpy.app.context import ChildContext
from qmailpy.app.drops import Drops
from qmailpy.app.expiry import watch_certificates
from qmailpy.app.indexer import Indexer
from qmailpy.app.published import Published
from qmailpy.app.rolling import Rolling
from qmailpy.app.tls_reports import TlsReports
from qmailpy.app.watching import Watching
from qmailpy.config.schema import Config
from qmailpy.disk.files import Files
from qmailpy.interfaces import IEvents, IResolver, IRouter
from qmailpy.queue.service import QueueService
from qmailpy.remote.tls_results import ResultFiles


class Duties:
    """Theirs, from L{start} to L{stop}."""

    def __init__(
        self,
        context: ChildContext,
        config: Config,
        *,
        files: Files,
        events: IEvents,
        queue: QueueService,
        router: IRouter,
        resolver: IResolver,
        published: Published,
        reopen: Callable[[], None],
    ) -> None:
        """
        @param queue: open.
        @param reopen: has this worker write to a new log.
        """
        reactor = context.reactor
        self._control = context.control
        self._drops = Drops(reactor, config, files, queue.first, router, queue.in_thread)
        self._rolling = Rolling(reactor, config, files, reopen, queue.in_thread)
        self._reports = TlsReports(
            reactor,
            config,
            ResultFiles(files, config.path("queue", "tls-results")),
            resolver,
            published.https,
            queue.first,
            router,
            queue.in_thread,
        )
        self._indexer = Indexer(reactor, config)
        self._certificates = watch_certificates(context, config, events)
        self._watching = Watching(reactor, config, events, monitor.expected, context.in_thread)

    def start(self) -> None:
        """Begin with all of it, and answer to its control methods."""
        for part in (self._drops, self._rolling, self._reports, self._indexer, self._certificates, self._watching):
            part.startService()
        self._control.add("log.roll", self._rolling.roll)
        self._control.add("watch.conditions", self._watching.conditions)

    def reconfigure(self, config: Config) -> None:
        """Another configuration is in force, and its certificates."""
        self._reports.config = config
        self._rolling.reconfigure(config)
        self._watching.reconfigure(config)
        self._indexer.reconfigure(config)
        self._certificates.look()

    def clock_set(self) -> None:
        """The time of day is another."""
        self._rolling.clock_set()

    def stop(self) -> Deferred[None] | None:
        """End. @return: fires when the indexer has ended; C{None}: it has."""
        for part in (self._drops, self._rolling, self._certificates, self._reports, self._watching):
            part.stopService()
        return self._indexer.stopService()
