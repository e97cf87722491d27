"""
A note of one life of a shard to the next: the disk has failed to take something.

Linux tells of a failed write-back once: to the first sync that asks, and to handles that were open by then (errseq).
What could not be written counts as clean from then on; it can be read, a later sync succeeds, and a power cut takes it.
So a process that has heard of a failure, and dies before it has made up for it, has to leave word: to its successor,
whose C{syncfs} hears nothing, all deliveries that the journal covers would be durable.

The note is an empty file, and not synced: it speaks of what the machine has in its memory, and after a power cut every
delivery is looked at anyway, as the disk has it. Noted too often costs some deliveries written anew by the next start.
"""

from __future__ import annotations

from twisted.logger import Logger

from qmailpy.disk.files import Files


class Doubt:
    """
    The note of one shard. All of it blocks.

    @ivar noted: whether there is one.
    """

    _log = Logger()

    def __init__(self, files: Files, path: str) -> None:
        """@param path: C{Layout.doubt}."""
        self.noted = False
        self._files = files
        self._path = path

    def thd_look(self) -> bool:
        """Whether a life before this one has left a note. @raise OSError: it cannot be found out."""
        self.noted = self._files.exists(self._path)
        return self.noted

    def thd_note(self) -> None:
        """A sync has failed. Best effort: on a disk that takes no empty file little else goes on."""
        if self.noted:
            return
        try:
            self._files.close(self._files.open(self._path, create=True))
        except OSError as problem:
            self._log.error(
                "cannot note in {path} that a sync failed: {problem}", path=self._path, problem=str(problem)
            )
        else:
            self.noted = True

    def thd_clear(self) -> None:
        """All of it has been made up for. @raise OSError: the note is still there."""
        self._files.unlink(self._path)
        self.noted = False
