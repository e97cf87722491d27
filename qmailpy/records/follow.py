"""Following the log as it grows, across rollovers: C{qmailpy log tail -f}."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

from attrs import define

from qmailpy.disk.files import Files
from qmailpy.records.logfile import CURRENT
from qmailpy.records.reading import CHUNK, last_lines
from qmailpy.records.text import LINE_OCTETS, fragment


@define
class _Open:
    """A file that is read as it grows."""

    handle: int
    identity: int
    offset: int = 0
    rest: bytes = b""


class Follower:
    """Gives the lines of the current log file from some line on, then those that come. All of it blocks briefly."""

    def __init__(self, files: Files, directory: str) -> None:
        """
        @param directory: HOME/log.
        """
        self._files = files
        self._path = f"{directory}/{CURRENT}"
        self._open: list[_Open] = []  # the current file, and behind it the one before

    def thd_last(self, count: int, admits: Callable[[bytes], bool] = lambda line: True) -> list[bytes]:
        """
        The last lines there are in the current file, without LF; call it once, first. L{thd_more} goes on from there.

        @param admits: says which lines are meant; to find so many may take the whole file.
        @raise OSError: it cannot be read; C{FileNotFoundError} when there is none yet.
        """
        handle = self._files.open(self._path)
        current = _Open(handle, self._files.identity(handle))
        self._open.insert(0, current)
        size = current.offset = self._files.size(handle)
        found: list[bytes] = []
        if count > 0:
            first = True
            for at, line in last_lines(self._files, handle, size):
                if first:
                    current.offset = at + len(line) + 1
                    first = False
                if admits(line):
                    found.append(line)
                if len(found) == count:
                    break
        found.reverse()
        return found

    def thd_more(self) -> list[bytes]:
        """The lines written since, without LF. After a rollover both files are read: a writer may be late to change."""
        return [line for batch in self.thd_batches() for line in batch]

    def thd_batches(self) -> Iterator[list[bytes]]:
        """The same in pieces, for files that are long: without L{thd_last} it begins with the first line there is."""
        identity = self._files.identity(self._path)
        if identity and (not self._open or identity != self._open[0].identity):
            try:
                handle = self._files.open(self._path)
            except FileNotFoundError:
                handle = -1
            if handle >= 0:
                self._open.insert(0, _Open(handle, self._files.identity(handle)))
                for old in self._open[2:]:
                    self._files.close(old.handle)
                del self._open[2:]
        for file in reversed(self._open):
            yield from self._grown(file)

    @property
    def identity(self) -> int:
        """Inode number of the file that is followed; 0 as long as there is none."""
        return self._open[0].identity if self._open else 0

    def thd_open(self) -> None:
        """Open the current file at its beginning, if there is one; for those who do not begin with L{thd_last}."""
        with suppress(FileNotFoundError):
            handle = self._files.open(self._path)
            self._open.insert(0, _Open(handle, self._files.identity(handle)))

    def _grown(self, file: _Open) -> Iterator[list[bytes]]:
        while chunk := self._files.pread(file.handle, CHUNK, file.offset):
            file.offset += len(chunk)
            pieces = (file.rest + chunk).split(b"\n")
            file.rest = pieces.pop()
            if len(file.rest) > LINE_OCTETS:  # none of ours
                file.rest = b""
            yield list(map(fragment, pieces))

    def close(self) -> None:
        """Let go of the files."""
        for file in self._open:
            self._files.close(file.handle)
        self._open = []
