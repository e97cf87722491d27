"""systemd's readiness protocol (sd_notify(3)): datagrams to the socket named in the environment."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """
    Tells the service manager how we are; does nothing where there is none. Never raises, never waits: a manager that
    does not read cannot hold up mail.
    """

    def __init__(self, address: str, watchdog_s: float = 0.0) -> None:
        """
        @param address: value of NOTIFY_SOCKET; "" for no service manager.
        @param watchdog_s: seconds within which the manager wants to hear from us; 0 for never.
        """
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = watchdog_s if address else 0.0

    def tell(self, *lines: str) -> None:
        """Send assignments such as C{"READY=1"} and C{"STATUS=2 workers"} in one datagram."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sending:
            try:
                sending.sendto("\n".join(lines).encode(), self._address)
            except OSError:
                return


def from_environment(environment: MutableMapping[str, str], pid: int = 0) -> Notifier:
    """
    The notifier of this process; takes its variables out of the environment, so that children do not speak for us.

    @param pid: the process the watchdog must name; 0 = this one.
    """
    address, period, wanted = (environment.pop(name, "") for name in VARIABLES)
    ours = not wanted or wanted == str(pid or os.getpid())
    return Notifier(address, int(period) / 1e6 if ours and period.isdecimal() else 0.0)
