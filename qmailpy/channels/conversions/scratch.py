"""
Files of one conversion: a directory below HOME/run/conversion, gone when the conversion is; and content that outlives
it.

What a crash leaves is removed when the channel is used next. Everything here blocks.
"""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from twisted.internet.defer import DeferredLock

from qmailpy.values import Content, MemoryContent

MEMORY = 262_144
"""Octets of a new message that are kept in memory; a larger one is in a file."""


_HOME = "home"


class OpenContent:
    """L{Content} in a file that has no name any more: it goes when nobody wants it, or when the process ends."""

    def __init__(self, handle: int, size: int) -> None:
        """@param handle: is closed by this."""
        self.size = size
        self.in_memory = False
        self._handle = handle
        weakref.finalize(self, os.close, handle)

    def read(self) -> bytes:
        return b"".join(self.chunks(max(self.size, 1)))

    def chunks(self, octets: int = 65536) -> Iterator[bytes]:
        at = 0
        while at < self.size:
            piece = os.pread(self._handle, min(octets, self.size - at), at)
            if not piece:
                raise OSError(5, "shorter than it should be")
            yield piece
            at += len(piece)

    def header(self, limit: int = 65536) -> bytes:
        found = os.pread(self._handle, limit, 0)
        end = found.find(b"\r\n\r\n")
        return found[: end + 4] if end >= 0 else found


class Scratch:
    """
    The directory of one conversion, made when it is first needed.

    Commands are at home in a directory within it, so that what one makes of that (moves it away, has a link in its
    place) and what it leaves beside it goes with the rest.
    """

    def __init__(self, root: str) -> None:
        """@param root: made when it is missing."""
        self._root = root
        self._path = ""
        self._count = 0

    def thd_file(self, what: str) -> str:
        """A path for a new file, which nobody has made."""
        if not self._path:
            os.makedirs(self._root, mode=0o700, exist_ok=True)
            self._path = tempfile.mkdtemp(dir=self._root)
            os.mkdir(os.path.join(self._path, _HOME), 0o700)
        self._count += 1
        return os.path.join(self._path, _HOME, f"{what}{self._count}")

    def thd_write(self, what: str, chunks: Iterable[bytes]) -> str:
        """A new file; its path."""
        path = self.thd_file(what)
        with open(path, "xb") as target:
            for chunk in chunks:
                target.write(chunk)
        return path

    @property
    def used(self) -> bool:
        """Whether there is anything to remove."""
        return bool(self._path)

    def thd_remove(self) -> None:
        """Everything goes, whatever commands have left there."""
        if self._path:
            thd_clean(self._path)
            self._path = ""


def thd_clean(place: str) -> None:
    """
    Remove what commands, or a former process, have left, as far as it can be removed.

    However deep its directories are, and whatever their permissions: each is brought up to the top before it is looked
    into. Links are not followed.
    """
    word = secrets.token_hex(8)  # no name that is there
    count = 0
    waiting = [place]
    while waiting:
        directory = waiting.pop()
        with suppress(OSError):
            if not stat.S_ISDIR(os.lstat(directory).st_mode):
                os.unlink(directory)
                continue
            os.chmod(directory, 0o700)
            with os.scandir(directory) as found:
                for entry in found:
                    with suppress(OSError):
                        if not entry.is_dir(follow_symlinks=False):
                            os.unlink(entry.path)
                        elif directory == place:
                            waiting.append(entry.path)
                        else:
                            os.chmod(entry.path, 0o700)  # else it may not be moved
                            count += 1
                            up = os.path.join(place, f"{word}.{count}")
                            os.rename(entry.path, up)
                            waiting.append(up)
            if directory != place:
                os.rmdir(directory)
    with suppress(OSError):
        os.rmdir(place)


def thd_content(root: str, chunks: Iterable[bytes]) -> Content:
    """
    Content of octets that come in pieces: in memory, or in a file without a name.

    @raise OSError: it cannot be written.
    """
    pieces: list[bytes] = []
    size = 0
    source = iter(chunks)
    for chunk in source:
        pieces.append(chunk)
        size += len(chunk)
        if size > MEMORY:
            break
    else:
        return MemoryContent(b"".join(pieces))
    os.makedirs(root, mode=0o700, exist_ok=True)
    with tempfile.TemporaryFile(dir=root, buffering=65536) as target:
        target.write(b"".join(pieces))
        for chunk in source:
            size += target.write(chunk)
        target.flush()
        return OpenContent(os.dup(target.fileno()), size)


class Once:
    """Something in a thread that is done before anything else: whoever comes meanwhile waits for it."""

    def __init__(
        self, in_thread: Callable[..., Awaitable[Any]], thd_function: Callable[..., None], *arguments: Any
    ) -> None:
        self._in_thread = in_thread
        self._thd_function = thd_function
        self._arguments = arguments
        self._done = False
        self._one_by_one = DeferredLock()

    async def done(self) -> None:
        """See to it. @raise OSError: it cannot be done; the next one tries again."""
        if self._done:
            return
        await self._one_by_one.acquire()
        try:
            if not self._done:
                await self._in_thread(self._thd_function, *self._arguments)
                self._done = True
        finally:
            self._one_by_one.release()
