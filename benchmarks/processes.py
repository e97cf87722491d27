"""
What processes use, from /proc: CPU time and memory of a server with all its children.
"""

from __future__ import annotations

import os
from contextlib import suppress

from attrs import frozen

_TICKS = os.sysconf("SC_CLK_TCK")


@frozen(kw_only=True)
class Process:
    """One process at one moment."""

    pid: int
    parent: int
    cpu_s: float  # user and system, its own and of children it has waited for
    command: str
    zombie: bool


def process(pid: int) -> Process | None:
    """A process; C{None} when it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as source:
            name, _, rest = source.read().rpartition(")")
        with open(f"/proc/{pid}/cmdline", "rb") as source:
            command = source.read().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return None
    fields = rest.split()
    ticks = sum(int(fields[number]) for number in (11, 12, 13, 14))
    return Process(
        pid=pid,
        parent=int(fields[1]),
        cpu_s=ticks / _TICKS,
        command=command or name.partition("(")[2],
        zombie=fields[0] == "Z",
    )


def tree(pid: int) -> list[Process]:
    """A process and all below it, itself first; empty when it is gone."""
    everybody = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            one = process(int(name))
            if one is not None:
                everybody[one.pid] = one
    children: dict[int, list[Process]] = {}
    for one in everybody.values():
        children.setdefault(one.parent, []).append(one)
    found = [everybody[pid]] if pid in everybody else []
    for one in found:  # grows while it is walked
        found += children.get(one.pid, ())
    return found


def cpu_s(pid: int) -> float:
    """CPU seconds a server has used so far: all its processes, and those it has seen end."""
    return sum(one.cpu_s for one in tree(pid))


def running_s(pid: int) -> float:
    """
    CPU seconds that the living threads of a server have had so far, by the scheduler's own count: exact where L{cpu_s}
    counts in hundredths of a second.
    """
    found = 0
    for one in tree(pid):
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{one.pid}/task"):
                with suppress(OSError), open(f"/proc/{one.pid}/task/{thread}/schedstat") as source:
                    found += int(source.read().split()[0])
    return found / 1e9


def rss(pid: int) -> int:
    """Octets of memory a process has resident; 0 when it is gone."""
    return _rollup(pid, b"Rss:")


def pss(pid: int) -> int:
    """The same, pages shared with others counted in part."""
    return _rollup(pid, b"Pss:")


def _rollup(pid: int, key: bytes) -> int:
    with suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as source:
        for line in source:
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    return 0
