"""The first mail worker looks at the whole node once in a while, and says what is wrong (docs/events.md)."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from qmailpy.config.schema import Config
from qmailpy.control.client import Json
from qmailpy.events.reading import thd_lasting
from qmailpy.interfaces import IEvents
from qmailpy.watch.conditions import LOOKED_FOR, Watch
from qmailpy.watch.look import Look, thd_look


class Watching(Service):
    """
    Looks every C{[monitor] interval_s}, in a thread; the control method C{watch.conditions} tells what is in force.

    @ivar config: may be replaced.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        config: Config,
        events: IEvents,
        expected: Callable[[Config], list[str]],
        in_thread: Callable[..., Deferred[Look]],
        look: Callable[..., Look] = thd_look,
    ) -> None:
        """@param expected: names of the processes there should be."""
        self.config = config
        self._expected = expected
        self._in_thread = in_thread
        self._thd_look = look
        self._watch = Watch(events)
        self._resumed = False
        self._call = LoopingCall(self._look)
        self._call.clock = reactor
        self._every_s = 0.0

    def startService(self) -> None:
        super().startService()
        self._begin()

    def _begin(self) -> None:
        self._every_s = self.config.monitor.interval_s
        # Not at once: processes that start after this one are not missing.
        self._call.start(self._every_s, now=False)

    def reconfigure(self, config: Config) -> None:
        """Take another configuration."""
        self.config = config
        if self._call.running and config.monitor.interval_s != self._every_s:
            self._call.stop()
            self._begin()

    def stopService(self) -> None:
        super().stopService()
        if self._call.running:
            self._call.stop()

    def _look(self) -> Deferred[None]:
        config = self.config
        looked = self._in_thread(partial(self._thd_looked, config))
        return looked.addCallback(partial(self._tell, config)).addErrback(self._failed)

    def _thd_looked(self, config: Config) -> Look:
        if not self._resumed:
            self._resumed = True
            self._watch.resume(thd_lasting(config.path("log"), LOOKED_FOR))
        return self._thd_look(config, self._expected(config), time.time())

    def _tell(self, config: Config, look: Look) -> None:
        if self.running:
            self._watch.tell(look, config.monitor, config.queue)

    def _failed(self, failure: Failure) -> None:
        self._log.error("the node cannot be looked at: {why}", why=str(failure.value))

    async def conditions(self) -> Json:
        """What is in force."""
        return {"conditions": [{**one} for one in self._watch.in_force()]}
