"""Calls of the crash-simulated disk that are to fail, as its tests ask."""

from __future__ import annotations

import os

from attrs import define

__all__ = ["Faults"]


@define
class _Fault:
    operation: str
    wait: int  # matching calls to let pass
    times: int
    number: int
    path: str


class Faults:
    """What is to fail, as of L{qmailpy.testing.crashdisk.CrashDisk.fail}; of several for one call the first."""

    def __init__(self) -> None:
        self._faults: list[_Fault] = []

    def add(self, operation: str, nth: int, number: int, path: str, times: int) -> None:
        """The C{nth} call from now, and those after it, C{times} in all."""
        self._faults.append(_Fault(operation, nth - 1, times, number, path))

    def clear(self) -> None:
        """No more."""
        self._faults.clear()

    def check(self, operation: str, path: str) -> None:
        """
        Called at each call.

        @raise OSError: it is to fail.
        """
        for fault in self._faults:
            if fault.operation != operation or not path.startswith(fault.path) or fault.times <= 0:
                continue
            if fault.wait > 0:
                fault.wait -= 1
                continue
            fault.times -= 1
            raise OSError(fault.number, os.strerror(fault.number), path)
