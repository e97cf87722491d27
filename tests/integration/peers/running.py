"""What every real peer needs: a port of its own, an end, and somebody who looks into its mailboxes."""

from __future__ import annotations

import os
import socket
import subprocess

PATIENCE_S = 10.0


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody has at this moment, for who cannot be told to take one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ended(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM; SIGKILL when that does not end it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def messages_in(folder: str) -> list[bytes]:
    """The files of a directory in the order of their names, those of a Maildir so in that of arrival."""
    found = []
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        with open(os.path.join(folder, name), "rb") as source:
            found.append(source.read())
    return found
