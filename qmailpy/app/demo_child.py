"""
C{python -m qmailpy.app.demo_child PARENT PROGRAM ARGUMENT...}: becomes a program that does not outlive its parent, the
demonstration.

In a process group of its own, so that Ctrl-C reaches the demonstration alone, which then stops the daemon in order; and
with SIGTERM from the kernel when the demonstration is killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Never returns; exit status 1 when the demonstration is gone already."""
    parent = int(sys.argv[1])
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked to be told
        sys.exit(1)
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - our own twistd


if __name__ == "__main__":
    main()
