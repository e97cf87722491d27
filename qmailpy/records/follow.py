"""Following the log as it grows, across rollovers and whatever else is done to it: C{qmailpy log tail -f}."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice

from attrs import define

from qmailpy.disk.files import Files
from qmailpy.records.logfile import CURRENT, YESTERDAY
from qmailpy.records.reading import CHUNK, last_lines, whole_end
from qmailpy.records.text import LINE_OCTETS, fragment

_LAST = 64  # octets that are looked at again


@define
class _Open:
    """A file that is read as it grows."""

    handle: int
    identity: int
    offset: int = 0
    rest: bytes = b""
    last: bytes = b""  # what stands before the offset


class Follower:
    """Gives the lines of the current log file from some line on, then those that come. All of it blocks briefly."""

    def __init__(self, files: Files, directory: str) -> None:
        """
        @param directory: HOME/log.
        """
        self._files = files
        self._path = f"{directory}/{CURRENT}"
        self._before = f"{directory}/{YESTERDAY}"
        self._yesterday = 0  # inode number of that file when it was looked at last
        self._open: list[_Open] = []  # the current file, and behind it the one before

    def thd_last(self, count: int, admits: Callable[[bytes], bool] = lambda line: True) -> list[bytes]:
        """
        The last lines there are in the current file and the one before, without LF; call it once, first. L{thd_more}
        goes on from there.

        @param admits: says which lines are meant; to find so many may take both files whole.
        @raise OSError: it cannot be read; C{FileNotFoundError} when there is none yet.
        """
        handle = self._files.open(self._path)
        current = _Open(handle, self._files.identity(handle))
        self._open.insert(0, current)
        self._yesterday = self._files.identity(self._before)
        end = current.offset = whole_end(self._files, handle)
        current.last = self._files.pread(handle, min(_LAST, end), max(0, end - _LAST))
        found: list[bytes] = []
        if count <= 0:
            return found
        for _, line in last_lines(self._files, handle, end):
            if admits(line):
                found.append(line)
            if len(found) == count:
                break
        if len(found) < count:
            found += self._thd_earlier(count - len(found), admits)
        found.reverse()
        return found

    def _thd_earlier(self, count: int, admits: Callable[[bytes], bool]) -> list[bytes]:
        """The last lines of the file before, the last first: shortly after a roll the current one has few."""
        try:
            handle = self._files.open(self._before)
        except FileNotFoundError:
            return []
        try:
            if self._files.identity(handle) == self._open[0].identity:  # rolled between the two
                return []
            lines = last_lines(self._files, handle, self._files.size(handle))
            return list(islice((line for _, line in lines if admits(line)), count))
        finally:
            self._files.close(handle)

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
                self._between()
                self._open.insert(0, _Open(handle, self._files.identity(handle)))
        for file in reversed(self._open):
            yield from self._grown(file)
        for old in self._open[2:]:
            self._files.close(old.handle)
        del self._open[2:]

    def _between(self) -> None:
        """Of two rolls since the last look the first one's new file is yesterday's by now, and was never seen."""
        known = {self._yesterday, *(file.identity for file in self._open)}
        try:
            handle = self._files.open(self._before)
        except FileNotFoundError:
            return
        self._yesterday = self._files.identity(handle)
        if self._open and self._yesterday not in known:
            self._open.insert(0, _Open(handle, self._yesterday))
        else:
            self._files.close(handle)

    @property
    def identity(self) -> int:
        """Inode number of the file that is followed; 0 as long as there is none."""
        return self._open[0].identity if self._open else 0

    def thd_open(self) -> None:
        """Open the current file at its beginning, if there is one; for those who do not begin with L{thd_last}."""
        with suppress(FileNotFoundError):
            handle = self._files.open(self._path)
            self._open.insert(0, _Open(handle, self._files.identity(handle)))
            self._yesterday = self._files.identity(self._before)

    def _grown(self, file: _Open) -> Iterator[list[bytes]]:
        files = self._files
        size = files.size(file.handle)
        if size < file.offset or (size > file.offset and not self._as_before(file)):
            file.offset = 0  # somebody has emptied it: what is in it now is new
            file.rest = file.last = b""
        while chunk := files.pread(file.handle, CHUNK, file.offset):
            file.offset += len(chunk)
            file.last = (file.last + chunk)[-_LAST:]
            pieces = (file.rest + chunk).split(b"\n")
            file.rest = pieces.pop()
            if len(file.rest) > LINE_OCTETS:  # none of ours
                file.rest = b""
            yield list(map(fragment, pieces))

    def _as_before(self, file: _Open) -> bool:
        """Whether what was read last still stands where it was read."""
        return self._files.pread(file.handle, len(file.last), file.offset - len(file.last)) == file.last

    def close(self) -> None:
        """Let go of the files."""
        for file in self._open:
            self._files.close(file.handle)
        self._open = []
