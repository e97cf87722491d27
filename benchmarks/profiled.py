"""
Runs C{twistd} under a profiler: C{python -m benchmarks.profiled HOW FILE ARGUMENTS}; started by L{benchmarks.profile}.

SIGUSR1 begins, SIGUSR2 ends and writes FILE. HOW is C{calls} (cProfile: exact counts, dear for small functions) or
C{samples} (where the reactor's thread is at
each tick of the process's CPU clock: true shares, no counts).
"""

from __future__ import annotations

import cProfile
import json
import os
import pstats
import signal
import sys
import threading
from collections import Counter
from types import FrameType

from attrs import Factory, define

SAMPLE_S = 0.001


def place(file: str, line: int, function: str) -> str:
    """A function for people: "queue/shard.py:97 enqueue"."""
    short = file.rpartition("/site-packages/")[2].rpartition("/lib/python3.11/")[2].rpartition("/qmailpy/qmailpy/")[2]
    parts = short.split("/")
    return f"{'/'.join(parts[-3:])}:{line} {function}" if line else f"{function} (built in)"


@define(eq=False)
class Calls:
    """cProfile of the reactor's thread."""

    _profile: cProfile.Profile = Factory(cProfile.Profile)

    def begin(self) -> None:
        self._profile.enable()

    def end(self) -> dict[str, object]:
        self._profile.disable()
        rows = []
        for (file, line, function), (_, calls, own, total, _) in pstats.Stats(self._profile).stats.items():  # type: ignore[attr-defined]
            rows.append((place(file, line, function), own, total, calls))
        return {"rows": rows}


@define(eq=False)
class Samples:
    """Where the reactor's thread is when the process has used another tick of CPU."""

    _own: Counter[str] = Factory(Counter)
    _total: Counter[str] = Factory(Counter)

    def begin(self) -> None:
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, SAMPLE_S, SAMPLE_S)

    def _sample(self, number: int, frame: FrameType | None) -> None:
        # Python handles it in the main thread, the reactor's; what other threads use is found under its poll.
        seen = set()
        leaf = True
        while frame is not None:
            code = frame.f_code
            name = place(code.co_filename, code.co_firstlineno, code.co_qualname)
            if leaf:
                self._own[f"{name} @{frame.f_lineno}"] += 1
                leaf = False
            seen.add(name)
            frame = frame.f_back
        self._total.update(seen)

    def end(self) -> dict[str, object]:
        signal.setitimer(signal.ITIMER_PROF, 0)
        own: Counter[str] = Counter()
        for name, count in self._own.items():
            own[name.rpartition(" @")[0]] += count
        rows = [(name, own[name] * SAMPLE_S, count * SAMPLE_S, 0) for name, count in self._total.items()]
        lines = [(name, count * SAMPLE_S) for name, count in self._own.most_common(60)]
        return {"rows": rows, "lines": lines}


def main() -> None:
    """Never returns: twistd ends the process."""
    how, target = sys.argv[1:3]
    sys.argv = ["twistd", *sys.argv[3:]]
    profiler = Calls() if how == "calls" else Samples()

    def begin(number: int, frame: FrameType | None) -> None:
        profiler.begin()

    def end(number: int, frame: FrameType | None) -> None:
        found = profiler.end()
        found["threads"] = [one.name for one in threading.enumerate()]
        with open(target + ".part", "w") as output:
            json.dump(found, output)
        os.rename(target + ".part", target)

    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, end)
    from twisted.scripts.twistd import run

    run()


if __name__ == "__main__":
    main()
