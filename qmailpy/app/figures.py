"""
What a process that has servers tells of them: a part of the control method C{figures} (docs/control.md). For the mail
workers there is more in L{qmailpy.app.queue_figures}.

Nothing is counted for its own sake on a message's way: these are sizes of what there is anyway, and numbers that a
connection, a login or a batch of the journal adds one to.
"""

from __future__ import annotations

from collections.abc import Sequence

from qmailpy.auth.logins import Logins
from qmailpy.control.client import Json
from qmailpy.servers.sessions import ListenerSite


def of_servers(sites: Sequence[ListenerSite], logins: Logins) -> dict[str, Json]:
    """Of the listeners and of the logins there."""
    return {
        "listeners": [
            {
                "listener": site.listener.name,
                "sessions": len(site.sessions),
                "clients": len(site.counts),
                "connections": site.tally.connections,
                "turned_away": site.tally.turned_away,
                "tls": site.tally.tls,
            }
            for site in sites
        ],
        "logins": {**logins.counts},
    }
