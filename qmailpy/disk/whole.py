"""
Syncs of a whole file system, for one owner of files on it who must hear of each failure.

Linux tells of a failed write-back each handle that was open by then, and of those opened later the first one that asks
(errseq). Whoever opened one for each sync would be told nothing when another program's C{sync -f}, or another worker,
had asked before. So one stays open, from before the first file is written.

A file system that is mounted or unmounted over the directory meanwhile is noticed at the next sync: both are synced.
"""

from __future__ import annotations

import threading

from qmailpy.disk.files import Files, SyncLost


class WholeSync:
    """The file system that holds a directory. All of it blocks, and may come from any thread."""

    def __init__(self, files: Files, path: str) -> None:
        """@param path: of the directory, which need not be there yet."""
        self._files = files
        self._path = path
        self._held: int | None = None
        self._guard = threading.Lock()

    def thd_begin(self) -> None:
        """
        Before something is written: failures are heard from now on. Without descriptors to spare they are from the
        next call on; those of the time before then only when nobody else has asked.
        """
        if self._held is None:
            with self._guard:
                self._hold()

    def thd_sync(self) -> None:
        """Make all durable that anybody has written there. @raise SyncLost: some of it may not be."""
        files, path = self._files, self._path
        with self._guard:
            try:
                if self._held is None and not self._hold():
                    files.syncfs(path)
                    return
                files.syncfs(path, self._held)
                if self._held is not None and not files.holds(self._held, path):
                    held, self._held = self._held, None
                    files.close(held)
                    self._hold()
                    files.syncfs(path, self._held)
            except OSError as problem:
                raise SyncLost(problem.errno, problem.strerror, path) from problem

    def _hold(self) -> bool:
        """Open it; whether that went well."""
        if self._held is None:
            try:
                self._held = self._files.hold(self._path)
            except OSError:
                return False
        return True
