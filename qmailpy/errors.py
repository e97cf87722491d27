"""
The exceptions of qmailpy.

Two families matter to mail: L{Temporary}, which keeps it and tries again, and L{Permanent}, which gives it back
to its sender. Whatever is neither is a bug and counts as temporary where mail is concerned.
"""

from __future__ import annotations

from qmailpy.values import Reply


class QmailpyError(Exception):
    """Anything that qmailpy itself raises on purpose."""


class MailError(QmailpyError):
    """A trouble with mail, with the reply that tells a peer about it."""

    def __init__(self, reply: Reply, cause: str = "") -> None:
        """
        @param reply: what the peer or the sender is told: short and general.
        @param cause: what the log is told; empty when the reply says it all.
        """
        super().__init__(cause or str(reply))
        self.reply = reply


class Temporary(MailError):
    """Not now: the mail is kept and tried again."""


class Permanent(MailError):
    """Never: the mail goes back to its sender."""


class ConfigError(QmailpyError):
    """The configuration cannot be used; each problem names its file, line and remedy."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class CommandError(QmailpyError):
    """A command cannot do what it was asked; the text is one line for standard error."""


class MailboxInUse(QmailpyError):
    """Another session has the mailbox for itself."""
