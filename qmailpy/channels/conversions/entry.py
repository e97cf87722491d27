"""
The entries of conversions.toml, ready to be tried on messages and parts; and what comes of a message.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from attrs import frozen

from qmailpy.channels.conversions.builtin import BUILT_IN
from qmailpy.channels.conversions.part import Part
from qmailpy.config.conversion_schema import EntryConfig
from qmailpy.routing.selection import NULL, Patterns
from qmailpy.values import Content


class Kind(Enum):
    """What comes of a message."""

    SAME = "unchanged"
    CHANGED = "changed"
    HOLD = "hold"
    RETURN = "return"
    DISCARD = "discard"
    AGAIN = "try again"


@frozen(kw_only=True)
class Outcome:
    """What comes of a message, and why."""

    kind: Kind
    content: Content | None = None  # of CHANGED
    text: str = ""  # HOLD, RETURN, AGAIN: for the operator, or the sender
    journals: tuple[Entry, ...] = ()  # entries that want a copy of it as it came


@frozen(kw_only=True)
class Mail:
    """What is to be converted, and for whom."""

    id: str
    content: Content
    sender: str
    recipients: tuple[str, ...]
    in_channel: str
    out_channel: str
    message_id: str = ""
    released: bool = False  # an operator has seen it: nothing holds it any more


@frozen(kw_only=True)
class Entry:
    """An entry of the table, ready for use."""

    config: EntryConfig
    number: int  # from 1
    in_channel: Patterns
    out_channel: Patterns
    sender: Patterns
    recipient: Patterns
    type: Patterns
    file: Patterns
    builtin: Any = None  # IConversion

    @classmethod
    def of(cls, config: EntryConfig, number: int) -> Entry:
        made = BUILT_IN[config.action]() if config.action in BUILT_IN else None
        return cls(
            config=config,
            number=number,
            in_channel=Patterns((config.in_channel,) if config.in_channel else ()),
            out_channel=Patterns((config.out_channel,) if config.out_channel else ()),
            sender=Patterns(config.sender),
            recipient=Patterns(config.recipient),
            type=Patterns(config.type),
            file=Patterns(config.file),
            builtin=made,
        )

    @property
    def called(self) -> str:
        """For people."""
        return f"entry {self.number}" + (f" ({self.config.name})" if self.config.name else "")

    def for_mail(self, mail: Mail) -> bool:
        """Whether it is for that mail, its recipients not looked at."""
        return (
            self.in_channel.fit(mail.in_channel)
            and self.out_channel.fit(mail.out_channel)
            and self.sender.fit(mail.sender or NULL)
        )

    def for_part(self, part: Part) -> bool:
        """Whether it fits a part, whose size is not known yet."""
        config = self.config
        if part.container and not config.type and not (config.action == "strip" and not part.ordinal):
            return False
        if (part.signed and not config.signed) or (config.body and not part.body):
            return False
        if config.disposition and config.disposition != (part.disposition or "inline"):
            return False
        if not self.type.fit(part.media) or (config.file and not self._fits_name(part)):
            return False
        return self.builtin is None or bool(self.builtin.wants(part))

    def _fits_name(self, part: Part) -> bool:
        """Whether one of its names fits; to be kept as it is, all of them have to."""
        names = part.names or (part.name,)
        return (all if self.config.action == "keep" else any)(map(self.file.fit, names))

    def for_size(self, octets: int) -> bool:
        """Whether it fits a part, or a message, of that size."""
        return octets >= self.config.min_octets and not 0 < self.config.max_octets < octets


class Decided(Exception):
    """An entry has decided about the whole message."""

    def __init__(self, kind: Kind, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
