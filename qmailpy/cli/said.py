"""
What another server said, for people: the log's C{dns;HOST (TCP|...) (banner) (TLS) smtp;REPLY} has the reply last.

The log and C{--json} keep the whole; lists and screens have room for a line, which shall begin with who said what.
"""

from __future__ import annotations

import re

from attrs import frozen

# dns;HOST (TCP|our ip|our port|ip|port) (banner) (TLS, if there was) smtp;REPLY: qmailpy.remote.dispositions.
_WHO = r"dns;([^ ]+) \((?:TCP\|[^|]*\|[^|]*\|([^|]*)\|\d+|UNIX[^)]*)\) \((.*?)\) (?:\(((?:TLS|SSL)v[^()]*)\) )?"
_PEER = re.compile(_WHO + "smtp;(.*)")
_ABOUT = re.compile(_WHO + "(.*)")  # our words about it: that it offers no TLS, that it hung up


@frozen
class Said:
    """Who said what, or of whom it is said. Of what is about no other server there are only words."""

    host: str  # "mx.example.org [192.0.2.1]"
    tls: str  # "TLSv1.3/TLS_AES_256_GCM_SHA384 dane"; empty: none
    words: str


def said(diagnostic: str) -> Said:
    """@param diagnostic: of a record, or the last error of a recipient in the queue."""
    found = _PEER.fullmatch(diagnostic) or _ABOUT.fullmatch(diagnostic)
    if found is None:
        return Said("", "", diagnostic)
    host, ip, _, tls, reply = found.groups(default="")
    return Said(f"{host} [{ip}]" if ip and ip not in host else host, tls, reply)


def answer(diagnostic: str) -> str:
    """The same in a line: C{"mx.example.org [192.0.2.1]: 451 4.2.1 come later"}."""
    begin = max(0, diagnostic.find("dns;"))  # "1 attempt failed; dns;..." in a history
    found = said(diagnostic[begin:])
    return f"{diagnostic[:begin]}{found.host}: {found.words}" if found.host else diagnostic


def way(host: str) -> str:
    """
    Where mail goes next: the host; of mail that is converted on its way the channel behind that, and the host there.

    @param host: as the queue remembers it (L{qmailpy.routing.selection}).
    """
    channel, blank, beyond = host.partition(" ")
    return f"{channel} to {beyond}" if blank and beyond else channel
