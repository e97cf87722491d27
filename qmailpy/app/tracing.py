"""
The traces of a process behind its control socket: C{trace.on}, C{trace.off}, C{trace.list} (docs/control.md).
"""

from __future__ import annotations

import math
import time

from qmailpy.app.context import ChildContext
from qmailpy.config.schema import Config
from qmailpy.control.client import Json
from qmailpy.errors import QmailpyError
from qmailpy.events.traces import FOLDER, Traces, Wanted, to_json

_LONGEST = 60 * 24 * 7
"""Minutes a trace may be asked for."""


class Tracing:
    """Switches them; @ivar traces: for whoever has sessions."""

    def __init__(self, context: ChildContext, config: Config) -> None:
        self._mail = context.role == "mta"
        self.traces = Traces(context.reactor, config.path("log", FOLDER), context.name, time.time)
        self.reconfigure(config)
        context.control.add("trace.on", self._on)
        context.control.add("trace.off", self._off)
        context.control.add("trace.list", self._list)

    def reconfigure(self, config: Config) -> None:
        """Channels with master_debug are traced."""
        if self._mail:
            self.traces.configure([name for name, channel in config.channels.items() if channel.master_debug])

    async def _on(self, what: str, client: str, minutes: float, sessions: int, content: bool) -> Json:
        right = isinstance(what, str) and isinstance(client, str) and isinstance(sessions, int)
        if not right or not isinstance(minutes, int | float) or not what or len(what) > 300:
            raise QmailpyError("trace.on: what and client are text, minutes and sessions numbers")
        if not (math.isfinite(minutes) and 0 < minutes <= _LONGEST and sessions >= 0):
            raise QmailpyError(f"trace.on: minutes are at most {_LONGEST}")
        wanted = Wanted(what=what, client=client, minutes=minutes, sessions=sessions, content=bool(content))
        try:
            return {"file": self.traces.switch_on(wanted)}
        except (OSError, ValueError) as error:
            raise QmailpyError(f"no trace: {error}") from None

    async def _off(self, what: str) -> Json:
        return {"files": [*self.traces.switch_off(str(what))]}

    async def _list(self) -> Json:
        return {"traces": [{**to_json(trace)} for trace in self.traces.current()]}
