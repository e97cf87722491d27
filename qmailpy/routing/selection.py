"""
Which mail goes through a conversion channel: the C{[[conversion]]} tables, as iMTA's CONVERSIONS mapping.

Asked once when a message is enqueued, after routing. A recipient that is selected gets the conversion channel for its
own, and its way from there is remembered in C{Recipient.host}: the channel, a blank, and the next hop there. So mail
leaves a conversion where it would have gone without, whatever rules look at and whoever has a forward.

Notices of our own are only selected by tables that name where they come from. They enclose the message they are about:
an entry that returns or discards it would do the same to them, and nobody would hear of it.
"""

from __future__ import annotations

import re
from fnmatch import translate

from attrs import evolve, frozen

from qmailpy.config.conversion_schema import ConversionConfig
from qmailpy.config.schema import Config
from qmailpy.values import Envelope, MemoryContent, Recipient
from qmailpy.wire.partial import piece_of

PASSING = frozenset({"process", "reprocess", "defragment", "conversion", "hold", "bitbucket", "autoreply"})
"""Kinds of channels that a destination of "" does not mean: what mail leaves them for is another enqueue."""

NULL = "<>"
LENGTH = 1000  # characters of an address that patterns are tried on


class Patterns:
    """A list of patterns as those of file names; the case does not matter."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        """@param patterns: none = everything fits."""
        self._all = [re.compile(translate(one.lower())) for one in patterns]

    def fit(self, text: str) -> bool:
        """Whether one of them fits."""
        if not self._all:
            return True
        lower = text[:LENGTH].lower()
        return any(one.match(lower) for one in self._all)


def way(recipient: Recipient) -> tuple[str, str]:
    """
    Where a recipient of a conversion channel goes from there: channel and next hop.

    @return: ("", "") when no selection brought it there, but a rule.
    """
    channel, blank, host = recipient.host.partition(" ")
    return (channel, host) if blank else ("", "")


@frozen
class _Choice:
    table: ConversionConfig
    channel: str
    senders: Patterns

    def fits(self, envelope: Envelope, size: int, piece: bool) -> bool:
        table = self.table
        return (
            (piece or not table.partial)
            and (table.source == envelope.source if table.source else bool(envelope.protocol))
            and size >= table.min_octets
            and (not table.max_octets or size <= table.max_octets)
            and self.senders.fit(envelope.sender or NULL)
        )


class Selection:
    """The tables of a configuration."""

    def __init__(self, config: Config) -> None:
        kinds = {name: channel.kind for name, channel in config.channels.items()}
        self._converting = frozenset(name for name, kind in kinds.items() if kind == "conversion")
        self._passing = frozenset(name for name, kind in kinds.items() if kind in PASSING)
        self._holding = frozenset(name for name, kind in kinds.items() if kind == "hold")
        self._gathering = frozenset(name for name, kind in kinds.items() if kind == "defragment")
        first = next((name for name in kinds if name in self._converting), "")
        self._choices = [
            _Choice(table, table.channel or first, Patterns(table.sender))
            for table in config.selections
            if (table.channel or first) in self._converting | self._gathering
        ]
        self._partial = any(choice.table.partial for choice in self._choices)

    def __bool__(self) -> bool:
        return bool(self._choices)

    def redirect(self, envelope: Envelope, size: int, content: bytes | None = None) -> Envelope:
        """
        The envelope as it is to be enqueued.

        @param size: of the message, octets.
        @param content: at least its header; C{None} when it is not at hand.
        """
        source = envelope.source
        if source in self._converting or (envelope.converted and source in self._holding):
            return envelope  # it only waited in between for an operator's word
        piece = self._partial and (content is None or piece_of(MemoryContent(content).header()) is not None)
        choices = [choice for choice in self._choices if choice.fits(envelope, size, piece)]
        if source in self._gathering:
            choices = [choice for choice in choices if choice.channel not in self._gathering]
        if not choices:
            return envelope
        recipients = tuple([self._recipient(one, choices) for one in envelope.recipients])
        return evolve(envelope, recipients=recipients) if recipients != envelope.recipients else envelope

    def _recipient(self, recipient: Recipient, choices: list[_Choice]) -> Recipient:
        for choice in choices:
            table = choice.table
            if table.destination != recipient.channel and (table.destination or recipient.channel in self._passing):
                continue
            if not _below(recipient.address, table.recipient_domain):
                continue
            if not table.convert:
                return recipient
            return evolve(recipient, channel=choice.channel, host=f"{recipient.channel} {recipient.host}")
        return recipient


def _below(address: str, pattern: str) -> bool:
    if not pattern or pattern == ".":
        return True
    domain = address.rpartition("@")[2].lower()
    pattern = pattern.lower()
    return domain.endswith(pattern) if pattern.startswith(".") else domain == pattern
