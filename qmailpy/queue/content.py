"""Message content that is in a file below mess/."""

from __future__ import annotations

from collections.abc import Iterator

from qmailpy.disk.files import Files
from qmailpy.disk.pieces import thd_pieces


class FileContent:
    """L{qmailpy.values.Content} in a file; reading blocks and is for threads."""

    __slots__ = ("_files", "in_memory", "path", "size")

    def __init__(self, files: Files, path: str, size: int) -> None:
        self._files = files
        self.path = path
        self.size = size
        self.in_memory = False

    def read(self) -> bytes:
        return b"".join(self.chunks(max(self.size, 1)))

    def chunks(self, octets: int = 65536) -> Iterator[bytes]:
        return thd_pieces(self._files, self.path, self.size, octets)

    def piece(self, offset: int, octets: int) -> bytes:
        """A part of the content; shorter at its end."""
        handle = self._files.open(self.path)
        try:
            return self._files.pread(handle, max(0, min(octets, self.size - offset)), offset)
        finally:
            self._files.close(handle)

    def header(self, limit: int = 65536) -> bytes:
        found = b""
        for piece in self.chunks(4096):
            start = max(0, len(found) - 3)
            found += piece
            end = found.find(b"\r\n\r\n", start)
            if end >= 0 or len(found) >= limit:
                return found[: min(end + 4, limit)] if end >= 0 else found[:limit]
        return found
