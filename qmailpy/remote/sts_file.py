"""
The MTA-STS policies that are known, on the disk: C{HOME/queue/tls-policies}, for all workers and over restarts.

One JSON file, replaced as a whole (a crash leaves the old one or the new) under a lock beside it. A worker merges what
it knows into what is there: of two policies of a domain the one fetched later counts. A file that cannot be read is an
empty one: its policies are asked for again, and that is told.

    {"version": 1, "policies": {"example.org": {"id": "1", "fetched": 1700000000, "used": 19800, "lines": [...]}}}
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from attrs import evolve, frozen
from twisted.logger import Logger

from qmailpy.disk.files import Files, replace
from qmailpy.wire.sts import StsPolicy, parse_policy

VERSION = 1

LIMIT = 10000
"""Policies kept; beyond, those used longest ago go."""

FILE_OCTETS = 32 * 1024 * 1024

PATIENCE = 100  # times
STEP_S = 0.02

DAY_S = 86400


@frozen(kw_only=True)
class Known:
    """A policy with what is known about it."""

    id: str  # of the TXT record it was fetched for
    policy: StsPolicy
    fetched: float  # seconds since the epoch
    used: int  # day since the epoch when mail last went by it

    @property
    def expires(self) -> float:
        """When it holds no longer (RFC 8461 s.3.2)."""
        return self.fetched + self.policy.max_age_s


class StsFile:
    """The file of one home. All of it blocks."""

    _log = Logger()

    def __init__(self, files: Files, path: str, sleep: Callable[[float], None] = time.sleep) -> None:
        """@param path: HOME/queue/tls-policies."""
        self._files = files
        self._path = path
        self._sleep = sleep

    def thd_read(self) -> dict[str, Known]:
        """What is there; nothing when it cannot be read."""
        try:
            octets = self._files.read(self._path)
            return _known(json.loads(octets[:FILE_OCTETS]))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self._log.warn(
                "{path} cannot be read, MTA-STS policies are fetched anew: {why}", path=self._path, why=str(error)[:200]
            )
            return {}

    def thd_merge(self, ours: Mapping[str, Known], now: float) -> dict[str, Known]:
        """
        Bring what we know into the file, and forget what has run out.

        @return: what is in it now.
        @raise OSError: it cannot be written, or others keep it locked.
        """
        lock = self._locked()
        try:
            merged = merge(self.thd_read(), ours, now)
            policies = {
                domain: {"id": one.id, "fetched": one.fetched, "used": one.used, "lines": one.policy.lines}
                for domain, one in merged.items()
            }
            replace(self._files, self._path, json.dumps({"version": VERSION, "policies": policies}).encode())
        finally:
            self._files.close(lock)
        return merged

    def _locked(self) -> int:
        for _ in range(PATIENCE):
            try:
                return self._files.lock(f"{self._path}.lock")
            except BlockingIOError:
                self._sleep(STEP_S)
        raise BlockingIOError(f"{self._path} is locked by another process")


def merge(one: Mapping[str, Known], other: Mapping[str, Known], now: float) -> dict[str, Known]:
    """Both together, the later of two, without what has run out, and not more than L{LIMIT}."""
    merged = dict(one)
    for domain, known in other.items():
        there = merged.get(domain)
        if there is None:
            merged[domain] = known
        else:
            later = known if known.fetched >= there.fetched else there
            merged[domain] = evolve(later, used=max(known.used, there.used))
    valid = {domain: known for domain, known in merged.items() if known.expires > now and known.fetched <= now + DAY_S}
    if len(valid) > LIMIT:
        valid = dict(sorted(valid.items(), key=lambda item: (-item[1].used, item[0]))[:LIMIT])
    return valid


def _known(tree: Any) -> dict[str, Known]:
    """
    @raise ValueError: it is of another kind; and KeyError, TypeError, AttributeError.
    """
    if tree["version"] != VERSION:
        raise ValueError(f"version {tree['version']!r}")
    return {
        str(domain): Known(
            id=str(one["id"]),
            policy=parse_policy("\n".join(one["lines"]).encode()),
            fetched=float(one["fetched"]),
            used=int(one["used"]),
        )
        for domain, one in tree["policies"].items()
    }
