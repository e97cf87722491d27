"""
Which events the command of C{[events]} is told, and in what form (docs/monitoring.md): functions of values alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from qmailpy.config.schema import EventsConfig
from qmailpy.disk.rights import Identity
from qmailpy.events.catalogue import CATALOGUE, Severity

MEMORY_OCTETS = 256 * 1024 * 1024
"""Of address space that the command may use."""

FILE_OCTETS = 16 * 1024 * 1024
"""Of a file that it writes."""

_SETPRIV = "/usr/bin/setpriv"  # of util-linux, as prlimit and setsid
PATH = "/usr/local/bin:/usr/bin:/bin"
_VARIABLES = (
    ("QMAILPY_EVENT", "event"),
    ("QMAILPY_EVENT_ID", "id"),
    ("QMAILPY_SEVERITY", "severity"),
    ("QMAILPY_PROCESS", "process"),
    ("QMAILPY_TEXT", "text"),
    ("QMAILPY_REMEDY", "remedy"),
)


def wanted(config: EventsConfig, severity: str) -> bool:
    """Whether the command is told of an event as grave as that."""
    return bool(config.command) and Severity(severity).rank >= Severity(config.severity).rank


def as_user(who: Identity | None, command: Sequence[str]) -> tuple[str, ...]:
    """The arguments that run a command as somebody else than root. @param who: C{None}: as we are."""
    if who is None:
        return tuple(command)
    return (_SETPRIV, f"--reuid={who.uid}", f"--regid={who.gid}", "--clear-groups", "--", *command)


def environment(event: Mapping[str, Any], home: str) -> dict[str, str]:
    """
    All the command finds there: who wants more reads the event from standard input.

    @param event: a line of events.log, as an object.
    """
    return {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "QMAILPY_HOME": home,
        **{name: str(event.get(field, "")).replace("\0", "") for name, field in _VARIABLES},
    }


def sample(name: str, now: float) -> bytes:
    """
    An event that has not happened, to try the command with: a line as in events.log, its fields named by themselves.

    @raise KeyError: there is no such event.
    """
    kind = CATALOGUE[name]
    words = {field: f"({field})" for field in kind.fields}
    line = {
        "time": round(now, 3),
        "id": "test-0-0",
        "event": name,
        "severity": kind.severity.value,
        "process": "test",
        "fields": words,
        "text": kind.text.format_map(words),
        "remedy": kind.remedy.format_map(words),
    }
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"
