"""
The command of C{[events]}: told of what happens in this process, an event a run (docs/monitoring.md).

Each process tells of its own events, so that nobody has to be alive for the others: the supervisor of workers that
die, the workers of the rest. One run at a time; up to C{waiting} events wait for it, later ones are counted and left to
events.log. What goes wrong with the command is a line of the daemon's log and never an event, which would call it
again.
"""

from __future__ import annotations

import json
import os
from collections import deque
from typing import Any

from twisted.logger import Logger

from qmailpy.channels.conversions.command import Ended, Invocation, ReactorRun, Run, kept_in_memory
from qmailpy.config.schema import Config
from qmailpy.disk.rights import Identity
from qmailpy.events.telling import FILE_OCTETS, MEMORY_OCTETS, as_user, environment, wanted


class Alarm:
    """Runs the command; see the module's text."""

    _log = Logger()

    def __init__(self, reactor: Any, config: Config, *, who: Identity | None = None, run: Run | None = None) -> None:
        """
        @param who: as whom it runs, where this process is root's.
        @param run: for tests; by default beside the reactor.
        """
        self._beside = ReactorRun(reactor)
        self._run = run or self._beside
        self._who = who
        self._waiting: deque[bytes] = deque()
        self._running = False
        self._starting = False
        self._stopped = False
        self._left_out = 0
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """Take another configuration; what waits is told to the command as it is then."""
        self._config = config

    def told(self, line: bytes) -> None:
        """Something has happened. @param line: of events.log."""
        config = self._config.events
        if not config.command or self._stopped or not wanted(config, json.loads(line)["severity"]):
            return
        if len(self._waiting) >= config.waiting:
            if not self._left_out:
                self._log.error(
                    "[events] command: {count} events wait for it already; later ones are in events.log alone",
                    count=len(self._waiting),
                )
            self._left_out += 1
            return
        self._waiting.append(line)
        self._next()

    def stop(self) -> None:
        """No more runs; one under way is ended."""
        self._stopped = True
        self._waiting.clear()
        self._beside.stop()

    def _next(self) -> None:
        """Run what waits, one after the other: a loop, since a command that cannot be started is over at once."""
        while not self._running and not self._stopped:
            if not self._config.events.command:  # it was taken away meanwhile
                self._waiting.clear()
            if not self._waiting:
                if self._left_out:
                    self._log.error("[events] command was not told of {count} events", count=self._left_out)
                    self._left_out = 0
                return
            self._running = self._starting = True
            self._start(self._waiting.popleft())
            self._starting = False

    def _start(self, line: bytes) -> None:
        config = self._config.events
        event = json.loads(line)
        try:
            handle = kept_in_memory(line)
        except OSError as problem:
            self._over(event, config.command, Ended(why=f"cannot be started: {problem.strerror}"))
            return
        try:
            invocation = Invocation(
                argv=as_user(self._who, config.command),
                environment=environment(event, self._config.home),
                directory=self._config.home,
                timeout_s=config.timeout_s,
                memory_octets=MEMORY_OCTETS,
                output_octets=FILE_OCTETS,
                stdin=handle,
            )
            ended = self._run(invocation)
        except Exception as problem:  # whoever has an event to tell has work of his own to go on with
            self._log.failure("bug in [events] command")
            self._over(event, config.command, Ended(why=f"cannot be started: {problem}"))
            return
        finally:
            os.close(handle)
        ended.addCallback(lambda how: self._ended(event, config.command, how))

    def _ended(self, event: Any, command: tuple[str, ...], ended: Ended) -> None:
        self._over(event, command, ended)
        if not self._starting:
            self._next()

    def _over(self, event: Any, command: tuple[str, ...], ended: Ended) -> None:
        self._running = False
        if ended.status != 0 and not self._stopped:
            said = f": {ended.said}" if ended.said else ""
            self._log.error(
                "[events] command {command} of {event}: {how}{said}",
                command=command[0],
                event=str(event.get("event")),
                how=ended.why or f"exit status {ended.status}",
                said=said,
            )
