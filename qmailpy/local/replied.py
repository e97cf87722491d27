"""
Whom a user's automatic answers have gone to, so that nobody gets one twice in some days.

One file a user, beside the Maildir (C{HOME/mail/DOMAIN/USER/qmailpy-replied}), with a line for each answer, the
oldest first::

    TIME QUEUE-ID SENDER

A line is durable before its answer is queued. The id lets the same attempt, when it was cut short behind that, have its
answer all the same; so a crash costs nobody an answer, and never makes two. A torn last line counts for nothing. When
there are twice as many lines as are kept the file is written anew. Workers that answer in the same moment do not see
each other: at worst somebody gets two.
"""

from __future__ import annotations

from qmailpy.disk.files import Files, replace
from qmailpy.local.maildir import mailbox_path

FILE = "qmailpy-replied"

KEPT = 2000
"""Answers that are remembered at least, for each user."""

A_DAY = 500
"""Answers a user gives in 24 hours: senders are easily invented, and each would get one."""

_DAY = 86400.0
_OCTETS = 4 * 1024 * 1024  # nobody but us writes the file, and it is never so large


class Replied:
    """The files of all users."""

    def __init__(self, files: Files, root: str) -> None:
        """@param root: HOME/mail."""
        self._files = files
        self._root = root

    def thd_may(self, mailbox: str, sender: str, queue_id: str, now: float, days: int) -> bool:
        """
        Whether a message is to be answered; then this is remembered, durably.

        @param mailbox: C{Mailbox.path}.
        @param days: an answer to the same sender counts for so long; 1 at least.
        @raise OSError: it cannot be remembered, and must not be answered.
        """
        directory = mailbox_path(self._root, mailbox).rpartition("/")[0]
        path = f"{directory}/{FILE}"
        sender = "".join(sender.lower().split())
        known = self._thd_read(path)
        since = now - max(days, 1) * _DAY
        for when, name, who in reversed(known):
            if who == sender and when > since:
                return name == queue_id
        if sum(when > now - _DAY for when, _, _ in known) >= A_DAY:
            return False
        line = _line(now, queue_id, sender)
        if len(known) < 2 * KEPT:
            self._thd_append(path, line)
        else:
            replace(self._files, path, b"".join(_line(*one) for one in known[-KEPT:]) + line)
        return True

    def _thd_read(self, path: str) -> list[tuple[float, str, str]]:
        try:
            octets = self._files.read(path)[-_OCTETS:]
        except FileNotFoundError:
            return []
        found = []
        for line in octets.split(b"\n")[:-1]:
            parts = line.decode("utf-8", "surrogateescape").split(" ")
            if len(parts) == 3 and parts[0].isascii() and parts[0].isdigit() and len(parts[0]) < 16:
                found.append((float(parts[0]), parts[1], parts[2]))
        return found

    def _thd_append(self, path: str, line: bytes) -> None:
        files = self._files
        new = not files.exists(path)
        handle = files.open(path, create=True, append=True)
        try:
            size = files.size(handle)
            if size and files.pread(handle, 1, size - 1) != b"\n":
                line = b"\n" + line  # behind a torn one
            files.append(handle, line)
            files.fsync(handle)
        finally:
            files.close(handle)
        if new:
            files.sync_directory(path.rpartition("/")[0])


def _line(when: float, queue_id: str, sender: str) -> bytes:
    return f"{int(when)} {queue_id} {sender}\n".encode("utf-8", "surrogateescape")
