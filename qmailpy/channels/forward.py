"""
Mail that an address of ours passes on to somebody elsewhere, as the process channel hands it on.

Two things are done to it. A C{Delivered-To} field with the address of ours is put on top, and a message that has it
already comes round in a circle: 5.4.6 (so qmail's forwards do). And its sender becomes one of ours that leads back to
the first (SRS, L{qmailpy.wire.srs}), or the next server would take it for a forgery; unless the sender is ours as it
is, is null, or C{[forward] srs} is off.

Recipients of one job that are passed on by the same address share one message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from attrs import evolve, frozen

from qmailpy.config.schema import Config
from qmailpy.interfaces import IDirectory
from qmailpy.local.loops import delivered_to
from qmailpy.values import Content, Job, NewMail, Recipient
from qmailpy.wire.srs import Srs


@frozen
class Marked:
    """A content with a field in front."""

    field: bytes  # with its line end
    content: Content

    @property
    def size(self) -> int:
        return len(self.field) + self.content.size

    @property
    def in_memory(self) -> bool:
        return self.content.in_memory

    def read(self) -> bytes:
        return self.field + self.content.read()

    def chunks(self, octets: int = 65536) -> Iterator[bytes]:
        yield self.field
        yield from self.content.chunks(octets)

    def header(self, limit: int = 65536) -> bytes:
        return (self.field + self.content.header(max(0, limit - len(self.field))))[:limit]


class Forwards:
    """What becomes of forwarded mail."""

    def __init__(self, config: Config, directory: IDirectory, secret: bytes, seconds: Callable[[], float]) -> None:
        """
        @param secret: of SRS; empty = senders stay as they are.
        @param seconds: the time of day.
        """
        self._directory = directory
        self._srs = Srs(secret, config.forward.srs_days) if secret and config.forward.srs else None
        self._bounce_domain = config.forward.domain.lower()
        self._fallback = (config.server.domain or config.server.hostname).lower()
        self._seconds = seconds

    async def is_forwarded(self, recipient: Recipient) -> bool:
        """
        Whether a recipient is there because an address of ours stands for it, and not because it was named, or
        because a rule has written it differently.

        @raise Temporary: the directory is away.
        """
        if recipient.original.lower() == recipient.address.lower():
            return False
        _, at, domain = recipient.original.rpartition("@")
        return not at or await self._is_ours(domain) or domain.lower() == self._bounce_domain

    def thd_came_round(self, job: Job, address: str) -> bool:
        """Whether the message has been passed on by this address of ours before. May read the disk."""
        return address.lower() in delivered_to(job.content.header())

    async def mail(self, job: Job, original: str, onward: tuple[Recipient, ...]) -> NewMail:
        """
        The message as it goes on.

        @param original: the address of ours.
        @param onward: to whom, routed.
        @raise Temporary: the directory is away.
        """
        sender = await self.sender(job.envelope.sender, original)
        # Of an address that is UTF-8, the field is (RFC 6532); the message came with SMTPUTF8 then.
        field = f"Delivered-To: {original}\r\n".encode("utf-8", "replace")
        return NewMail(
            envelope=evolve(job.envelope, sender=sender, recipients=onward), content=Marked(field, job.content)
        )

    async def sender(self, sender: str, original: str) -> str:
        """
        The sender that forwarded mail gets.

        @param original: the address of ours that forwards.
        @raise Temporary: the directory is away.
        """
        if self._srs is None or not sender or await self._is_ours(sender.rpartition("@")[2]):
            return sender
        domain = self._bounce_domain or original.rpartition("@")[2].lower() or self._fallback
        return self._srs.forward(sender, domain, self._seconds())

    async def _is_ours(self, domain: str) -> bool:
        return await self._directory.domain(domain.lower()) is not None
