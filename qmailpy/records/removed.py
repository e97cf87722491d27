"""
D lines by which mail leaves the books that nobody got. The counters know them as dequeued, as the ancestor's do; only
the diagnostic tells. Another server's words never read like these: they begin with who said them.
"""

from __future__ import annotations

from qmailpy.records.record import Action, LogRecord

DELETED = "deleted by the operator"
TAKEN_OUT = "its files cannot be understood; taken out of the books by the operator"
SET_ASIDE = "its files cannot be understood; set aside in corrupt/"
DISCARDED = "Discarded by a conversion"

REMOVED = frozenset({DELETED, TAKEN_OUT, SET_ASIDE, f"250 2.6.0 {DISCARDED}"})
"""The diagnostics."""

ENDS = tuple(sorted(f" {text}".encode() for text in REMOVED))
"""How the diagnostic of such a line ends; those of others may, too."""


def removed(record: LogRecord) -> bool:
    """Whether it is such a line; not known of a log without diagnostics."""
    return record.action is Action.DEQUEUED and record.diagnostic in REMOVED
