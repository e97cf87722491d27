"""C{qmailpy snmp}: what snmpd asks about the server (docs/monitoring.md)."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import version

import click

from qmailpy.cli.context import Context
from qmailpy.cli.output import print_error
from qmailpy.cli.status import expected
from qmailpy.errors import QmailpyError
from qmailpy.watch.look import Look, thd_look
from qmailpy.watch.mib import Mib, Objects
from qmailpy.watch.pass_persist import serve

FRESH_S = 5.0
"""A look is good for so long; an older one is answered with while a new one is taken."""

STALE_S = 60.0
"""One that is older is not: then the new one is waited for."""


@click.command()
@click.pass_obj
def snmp(context: Context) -> None:
    """
    Answer snmpd's questions: NETWORK-SERVICES-MIB and MTA-MIB, by pass_persist.

    \b
    In snmpd.conf:
      pass_persist .1.3.6.1.2.1.27 /usr/bin/qmailpy --home HOME snmp
      pass_persist .1.3.6.1.2.1.28 /usr/bin/qmailpy --home HOME snmp
    and its own objects for sendmail switched off by the option: -I -smux,mta_sendmail
    """
    config = context.config
    names = expected(config)
    mib = Mib(config, version("qmailpy"))
    start = parent_start(time.time())

    def look() -> Objects:
        return mib.objects(thd_look(config, names, time.time(), jobs=True), start)

    nothing = mib.objects(Look(time=time.time(), processes=(), missing=names, channels=()), start)
    kept = Kept(look, nothing, time.monotonic)
    for answer in serve(sys.stdin, kept.objects):
        sys.stdout.write(answer)
        sys.stdout.flush()


class Kept:
    """The last look, renewed beside the questions: snmpd waits for nobody else while it waits for us."""

    def __init__(self, look: Callable[[], Objects], nothing: Objects, seconds: Callable[[], float]) -> None:
        """@param nothing: what there is while nothing can be seen."""
        self._look = look
        self._nothing = nothing
        self._seconds = seconds
        self._objects = nothing
        self._time = float("-inf")
        self._thread: threading.Thread | None = None
        self._said = ""

    def objects(self) -> Objects:
        """Those of now, or of a moment ago."""
        age = self._seconds() - self._time
        if age >= FRESH_S:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._renew, daemon=True)
                self._thread.start()
            if age >= STALE_S:
                self._thread.join()
        return self._objects

    def _renew(self) -> None:
        try:
            self._objects = self._look()
            self._said = ""
        except (QmailpyError, OSError) as error:
            self._objects = self._nothing
            if str(error) != self._said:
                self._said = str(error)
                print_error(error)
        self._time = self._seconds()


def parent_start(now: float) -> float:
    """When the process that started us began, in seconds since the epoch: for snmpd, when sysUpTime was 0."""
    try:
        with open(f"/proc/{os.getppid()}/stat") as source:
            # The second field is the name in parentheses, which may hold anything; the 22nd are ticks since the boot.
            since_boot = int(source.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        with open("/proc/uptime") as source:
            return now - float(source.read().split()[0]) + since_boot
    except (OSError, ValueError, IndexError):
        return now
