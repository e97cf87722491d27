"""
What came of TLS with other domains' hosts, counted by UTC day for the daily reports (RFC 8460).

Each process writes a file of its own, C{HOME/queue/tls-results/DAY.PROCESS}, as a whole and about once a minute while
something changes; a crash loses that minute. Whoever sends the reports merges the files of a day and removes them.
Everything is bounded: what goes beyond is counted without its details, or, for domains without end, not at all.

    {"version": 1, "domains": {"example.org": [{"kind": "sts", "strings": [], "mx": [], "good": 9, "bad": 1,
        "failures": [[{"kind": "certificate-expired", "host": "mx.example.org", ...}, 1]]}]}}
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attrs import asdict, define, field
from twisted.logger import Logger

from qmailpy.disk.files import Files, replace
from qmailpy.wire.tlsrpt import Applied, Counted, Failed

VERSION = 1
DAY_S = 86400

DOMAINS = 10000
POLICIES = 16  # a domain and day
FAILURES = 64  # a policy; further kinds are in the sum alone

FILE_OCTETS = 64 * 1024 * 1024
FILES = 1000  # of one day

_NAME = re.compile(r"([0-9]{1,7})\.[A-Za-z0-9_.-]{1,100}")


@define
class Tally:
    """The sessions under one policy."""

    good: int = 0
    bad: int = 0
    failures: dict[Failed, int] = field(factory=dict)

    def add(self, failed: Failed | None, number: int = 1) -> None:
        """One more of a kind."""
        if failed is None:
            self.good += number
            return
        self.bad += number
        if failed in self.failures or len(self.failures) < FAILURES:
            self.failures[failed] = self.failures.get(failed, 0) + number


Day = dict[str, dict[Applied, Tally]]
"""By domain and policy."""


def counted(day: Day, domain: str) -> tuple[Counted, ...]:
    """What a report on C{domain} tells."""
    return tuple(
        Counted(applied=applied, good=tally.good, bad=tally.bad, failures=tuple(tally.failures.items()))
        for applied, tally in day[domain].items()
    )


class TlsResults:
    """What one process has seen (L{qmailpy.remote.delivery.Results})."""

    _log = Logger()

    def __init__(self, files: Files, directory: str, process: str, seconds: Callable[[], float]) -> None:
        """
        @param directory: HOME/queue/tls-results; made when it is needed.
        @param process: a name no other process has or had; letters, digits, dots.
        @param seconds: the time now, since the epoch.
        """
        self._files = files
        self._directory = directory
        self._process = process
        self._seconds = seconds
        self._days: dict[int, Day] = {}
        self._dirty: set[int] = set()

    def note(self, domain: str, applied: Applied, failed: Failed | None) -> None:
        day = int(self._seconds() // DAY_S)
        domains = self._days.setdefault(day, {})
        policies = domains.get(domain)
        if policies is None:
            if len(domains) >= DOMAINS:
                return
            policies = domains[domain] = {}
        tally = policies.get(applied)
        if tally is None:
            if len(policies) >= POLICIES:
                return
            tally = policies[applied] = Tally()
        tally.add(failed)
        self._dirty.add(day)

    def pending(self) -> Mapping[int, bytes]:
        """
        What is new, by day, as it is to be written; days that are over are forgotten once they were taken here.
        """
        found = {day: _written(self._days[day]) for day in self._dirty}
        self._dirty.clear()
        today = int(self._seconds() // DAY_S)
        for day in [day for day in self._days if day < today]:
            del self._days[day]
        return found

    def thd_write(self, pending: Mapping[int, bytes]) -> None:
        """Write them; trouble is logged, the figures of that time are lost. Blocks."""
        try:
            for day, octets in pending.items():
                if not self._files.exists(self._directory):
                    self._files.mkdir(self._directory)
                replace(self._files, f"{self._directory}/{day}.{self._process}", octets)
        except OSError as error:
            self._log.error("results of TLS cannot be kept: {why}", why=str(error))


class ResultFiles:
    """The files of all processes. All of it blocks."""

    _log = Logger()

    def __init__(self, files: Files, directory: str) -> None:
        """@param directory: HOME/queue/tls-results; need not be there."""
        self._files = files
        self._directory = directory

    def thd_days(self) -> list[int]:
        """The days there are files of."""
        return sorted({int(match[1]) for name in self._names() if (match := _NAME.fullmatch(name))})

    def thd_read(self, day: int) -> Day:
        """All of a day; a file that cannot be read is left out, and told."""
        merged: Day = {}
        for name in [name for name in self._names() if name.partition(".")[0] == str(day)][:FILES]:
            path = f"{self._directory}/{name}"
            try:
                _read(self._files.read(path)[:FILE_OCTETS], merged)
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                self._log.warn("{path} cannot be read: {why}", path=path, why=str(error)[:200])
        return merged

    def thd_remove(self, day: int) -> None:
        """
        @raise OSError: they cannot be removed.
        """
        for name in self._names():
            if name.partition(".")[0] == str(day):
                self._files.unlink(f"{self._directory}/{name}")
        self._files.sync_directory(self._directory)

    def _names(self) -> Iterable[str]:
        try:
            return self._files.listdir(self._directory)
        except FileNotFoundError:
            return ()


def _written(day: Day) -> bytes:
    domains = {
        domain: [
            {
                **asdict(applied),
                "good": tally.good,
                "bad": tally.bad,
                "failures": [[asdict(failed), number] for failed, number in tally.failures.items()],
            }
            for applied, tally in policies.items()
        ]
        for domain, policies in day.items()
    }
    return json.dumps({"version": VERSION, "domains": domains}).encode("ascii")


def _read(octets: bytes, into: Day) -> None:
    """
    Add a file's figures.

    @raise ValueError: it is of another kind; and KeyError, TypeError, AttributeError. What came before is added.
    """
    tree = json.loads(octets)
    if tree["version"] != VERSION:
        raise ValueError(f"version {tree['version']!r}")
    for domain, policies in tree["domains"].items():
        for one in policies:
            applied = Applied(str(one["kind"]), _texts(one["strings"]), _texts(one["mx"]))
            tally = into.setdefault(str(domain), {}).setdefault(applied, Tally())
            tally.add(None, int(one["good"]))
            left = int(one["bad"])
            for said, number in one["failures"]:
                tally.add(Failed(**{key: str(value) for key, value in said.items()}), int(number))
                left -= int(number)
            tally.bad += max(0, left)


def _texts(found: Any) -> tuple[str, ...]:
    return tuple(str(each) for each in found)
