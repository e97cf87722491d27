"""
All there is of the transaction log, read once from its oldest line: in large pieces, in bounded memory.

That is what is packed away (C{mail.log*.gz}, C{mail.log*.zst}: by L{qmailpy.records.packing} or by the site) or about
to be (C{mail.log.2026-03-01}), the cumulative C{mail.log}, yesterday's and the current file. While a roll is under way
yesterday is in C{mail.log} already, perhaps in part: that part is left out, by the size noted in C{mail.log_rolling}.

Gzip and zstd files are known by their first octets.
"""

from __future__ import annotations

import gzip
import importlib
import os
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, cast

from attrs import frozen

from qmailpy.errors import CommandError
from qmailpy.records.logfile import CUMULATIVE, CURRENT, ROLLING, YESTERDAY
from qmailpy.records.reading import CHUNK
from qmailpy.records.text import LINE_OCTETS

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_PACKED = (".gz", ".zst")
ZSTD_PIECE = 1024  # octets that are unpacked at once: at worst four are a block of 128 KiB
DATED = re.compile(r"mail\.log\.(\d{4})-(\d\d)-(\d\d)(-\d{1,4})?(\.gz|\.zst)?")
"""Names of what was set aside: year, month, day of the last line, a number where there are several, the ending."""

_KEPT = re.compile(r"mail\.log.*\.(?:gz|zst)|mail\.log\.\d{4}-\d\d-\d\d(?:-\d{1,4})?")


@frozen
class Source:
    """A file of the log, open."""

    path: str
    file: BinaryIO
    identity: int  # inode number
    limit: int  # octets to be read; -1: all
    modified: float = 0.0  # when it was written last, seconds since the epoch

    @property
    def packed(self) -> bool:
        """Whether its name says that it is compressed."""
        return self.path.endswith(_PACKED)

    @property
    def day(self) -> float | None:
        """The midnight before its last line, by its name; C{None} when that does not tell."""
        found = DATED.fullmatch(os.path.basename(self.path))
        return midnight(int(found[1]), int(found[2]), int(found[3])) if found else None

    @property
    def current(self) -> bool:
        """Whether it was the current file when it was opened."""
        return self.path.endswith(CURRENT)


def midnight(year: int, month: int, day: int) -> float:
    """When a day began here, in seconds since the epoch; 0 of what is no day."""
    try:
        return time.mktime((year, month, day, 0, 0, 0, 0, 0, -1))
    except (OverflowError, ValueError):
        return 0.0


def thd_sources(directory: str) -> list[Source]:
    """
    The files of a home's log, the oldest first, open: a roll meanwhile takes no line away.

    @param directory: HOME/log.
    @raise OSError: one cannot be opened.
    """
    found: list[Source] = []
    seen: set[int] = set()
    for name in (CURRENT, YESTERDAY, CUMULATIVE):  # the newest first: a roll moves lines to the next
        try:
            file = open(f"{directory}/{name}", "rb")  # noqa: SIM115 - closed by whoever reads it
        except FileNotFoundError:
            continue
        identity = os.fstat(file.fileno()).st_ino
        if identity in seen:  # rolled between the two
            file.close()
            continue
        seen.add(identity)
        limit = _noted(directory) if name == CUMULATIVE and found and found[0].path.endswith(YESTERDAY) else -1
        found.insert(0, Source(f"{directory}/{name}", file, identity, limit))
    return [*_thd_kept(directory, seen), *found]


def thd_packed(directory: str) -> list[Source]:
    """Those of L{thd_sources} that come before mail.log. @raise OSError: one cannot be opened."""
    seen: set[int] = set()
    with suppress(FileNotFoundError):
        seen.add(os.stat(f"{directory}/{CUMULATIVE}").st_ino)
    try:
        return _thd_kept(directory, seen)
    except FileNotFoundError:
        return []


def _thd_kept(directory: str, seen: set[int]) -> list[Source]:
    """
    What was packed away, or is about to be. Of a file that is there plain and packed (which was cut), the plain one.

    @param seen: inode numbers of files that are read under another name: mail.log, set aside between the two looks.
    """
    found: list[Source] = []
    for stem in sorted({_stem(name) for name in os.listdir(directory) if _KEPT.fullmatch(name)}):
        for ending in ("", *_PACKED):
            try:
                source = thd_open(f"{directory}/{stem}{ending}")
            except FileNotFoundError:  # packed meanwhile, or removed for its age
                continue
            if source.identity in seen:
                source.file.close()
            else:
                found.append(source)
            break
    return found


def _stem(name: str) -> str:
    for ending in _PACKED:
        name = name.removesuffix(ending)
    return name


def _noted(directory: str) -> int:
    try:
        with open(f"{directory}/{ROLLING}", "rb") as noted:
            return int(noted.read())
    except (FileNotFoundError, ValueError):
        return -1


def thd_open(path: str) -> Source:
    """One file, wherever it is. @raise OSError: it cannot be opened."""
    file = open(path, "rb")  # noqa: SIM115
    stat = os.fstat(file.fileno())
    return Source(path, file, stat.st_ino, -1, stat.st_mtime)


def thd_batches(
    sources: Sequence[Source], start: int = 0, damaged: Callable[[str], None] | None = None
) -> Iterator[list[bytes]]:
    """
    The whole lines of these files, without LF, many at once; each file is closed when it is done.

    @param start: offset in the first file, where a line begins; in a compressed one that of what it holds.
    @param damaged: told of a compressed file that is damaged, and the others are read nevertheless; without it that
        ends the reading.

    Lines are as they stand: see L{qmailpy.records.text.fragment}. One of more than L{LINE_OCTETS} is left out.

    @raise CommandError: a compressed file is damaged, or there is nothing to read zstd with.
    @raise OSError: a file cannot be read.
    """
    for source in sources:
        try:
            yield from _batches(source, start)
        except _damages() as error:
            why = f"{source.path}: damaged: {error}"
            if damaged is None:
                raise CommandError(f"{why}; the rest is read when it is moved out of there") from error
            damaged(why)
        finally:
            source.file.close()
        start = 0


def thd_head(source: Source, size: int) -> bytes:
    """
    How a file begins, when it is compressed: what it holds.

    @return: fewer octets of a shorter file; none of one that is damaged.
    @raise OSError: it cannot be read.
    """
    try:
        return _unpacked(source).read(size)[:size]
    except CommandError:  # zstd without its package
        return b""
    except _damages():
        return b""


def _chunks(source: Source, start: int) -> Iterator[bytes]:
    """The octets behind C{start}, as far as they are meant."""
    file = _unpacked(source)
    if file is source.file:
        source.file.seek(start)
    else:
        while start > 0 and (chunk := file.read(min(CHUNK, start))):
            if len(chunk) > start:
                yield chunk[start:]
            start -= len(chunk)
    left = source.limit if source.limit < 0 else max(0, source.limit - start)
    while chunk := file.read(CHUNK if left < 0 else min(CHUNK, left)):
        left -= len(chunk) if left > 0 else 0
        yield chunk


def _batches(source: Source, start: int) -> Iterator[list[bytes]]:
    rest = b""
    skip = False
    for chunk in _chunks(source, start):
        pieces = (rest + chunk).split(b"\n")
        rest = pieces.pop()
        if skip and pieces:
            del pieces[0]
            skip = False
        if len(rest) > LINE_OCTETS:
            rest = b""
            skip = True
        yield pieces


def _damages() -> tuple[type[Exception], ...]:
    """What is raised for damaged files; by zstd's package only when it was needed."""
    module = sys.modules.get("zstandard")
    return (zlib.error, EOFError, gzip.BadGzipFile, *(() if module is None else (module.ZstdError,)))


class _ZstdFile:
    """What is in a zstd file. Its package's own reader takes one that was cut off for one that has ended."""

    def __init__(self, frame: Callable[[], Any], file: BinaryIO) -> None:
        """@param frame: makes a C{decompressobj}."""
        self._new_frame = frame
        self._file = file
        self._frame: Any = None
        self._rest = b""

    def read(self, size: int) -> bytes:
        """
        About so many octets, or what there is until the end.

        @raise EOFError: the file ends within a frame.
        """
        found: list[bytes] = []
        while size > 0:
            packed = self._rest or self._file.read(ZSTD_PIECE)
            if not packed:
                if self._frame is not None:
                    raise EOFError("it ends too early")
                break
            if self._frame is None:
                self._frame = self._new_frame()
            found.append(self._frame.decompress(packed))
            size -= len(found[-1])
            self._rest = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
        return b"".join(found)


def _unpacked(source: Source) -> BinaryIO | _ZstdFile:
    """From its beginning on."""
    source.file.seek(0)
    head = source.file.read(4)
    source.file.seek(0)
    if head.startswith(_GZIP):
        return cast("BinaryIO", gzip.GzipFile(fileobj=source.file))
    if head == _ZSTD:
        try:
            module = importlib.import_module("zstandard")
        except ImportError:
            raise CommandError(
                f"{source.path}: to read it install the Python package zstandard, or unpack it"
            ) from None
        return _ZstdFile(module.ZstdDecompressor().decompressobj, source.file)
    if source.packed:
        raise EOFError("it is empty" if not head else "it is not what its name says")
    return source.file
