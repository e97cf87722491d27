"""
The message that a user finds in a mailbox that is nearly full: section C{quota} of the words of notices.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from qmailpy.config.schema import Config
from qmailpy.config.wording import thd_wordings
from qmailpy.local.quota import size_words
from qmailpy.local.usage import Filling
from qmailpy.values import Envelope, MemoryContent, NewMail, Notify, Recipient
from qmailpy.wire.dsn import Notice, note
from qmailpy.wire.mime_values import subject_in
from qmailpy.wire.notice_id import NoticeKind, notice_id
from qmailpy.wire.wording import LANGUAGES


class QuotaNotice:
    """Makes these messages for one channel."""

    def __init__(self, config: Config, channel: str, seconds: Callable[[], float]) -> None:
        """
        @param channel: the local channel that will deliver them.
        @param seconds: the time of day.
        """
        self._channel = channel
        self._seconds = seconds
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """Use these settings from now on."""
        self._config = config

    def thd_make(self, address: str, filling: Filling) -> NewMail:
        """
        One of them. Blocks: reads the words, which is seldom.

        @param address: whose mailbox it is.
        """
        config, now = self._config, self._seconds()
        words, _ = thd_wordings(config.home)
        language = config.bounce.language
        notice = Notice(
            id=notice_id(NoticeKind.QUOTA, secrets.token_hex(12)),
            hostname=config.server.hostname,
            sender_name=config.bounce.sender_name,
            to=address,
            time=now,
            words=tuple(words[one] for one in LANGUAGES if language in (one, "both")),
        )
        limit, amount = filling.limit, filling.amount
        octets = note(
            notice,
            "quota",
            {
                "hostname": config.server.hostname,
                "address": address,
                "percent": str(int(100 * limit.share(amount))),
                "used": size_words(amount.octets) if limit.octets else "",
                "limit": size_words(limit.octets) if limit.octets else "",
                "messages": str(amount.messages) if limit.messages else "",
                "most": str(limit.messages) if limit.messages else "",
            },
        )
        # Nobody is told when it cannot be delivered: the mailbox is full then, and that is what it says.
        told = Recipient(address=address, original=address, channel=self._channel, notify=int(Notify.NEVER))
        envelope = Envelope(
            sender="",
            recipients=(told,),
            source=self._channel,
            arrival=now,
            smtputf8=not address.isascii(),
            message_id=f"<{notice.id}@{config.server.hostname}>",
            subject=subject_in(octets),
        )
        return NewMail(envelope=envelope, content=MemoryContent(octets), courtesy=True)
