"""
The control channel between commands and the running processes: AMP over UNIX sockets.

Each process listens on C{HOME/run/control/ROLE-INDEX.sock} (mode 0600, in a directory of mode 0700): who can open it is
who the process runs as, or root. L{qmailpy.control.client} is the blocking client of the command line and needs no
reactor; L{qmailpy.control.commands} is the same vocabulary for Twisted; the server is L{qmailpy.servers.control}.
"""

from qmailpy.control.client import (
    Endpoint,
    Json,
    ask_each,
    call,
    call_all,
    clear_counters,
    flush_directory,
    running,
)

__all__ = ["Endpoint", "Json", "ask_each", "call", "call_all", "clear_counters", "flush_directory", "running"]
