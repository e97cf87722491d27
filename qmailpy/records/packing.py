"""
Packing the cumulative log away: mail.log becomes C{mail.log.2026-03-01}, and that C{mail.log.2026-03-01.zst} (C{.gz}).

With C{[log] compress}, and by the process that keeps the index, so that mail does not wait for it. The date is that of
the last line. Steps, each of which may be the last before a power cut:

  P1 mail.log, whose last line is older than L{AGE_S}, is renamed to its dated name, under the lock that rolling takes;
     the next roll makes a new one.
  P2 A dated file without ending is packed into C{mail.log_packing}, that is synced and gets its name; then the plain
     file goes. As long as there are both, the plain one counts (L{qmailpy.records.archive}).
  P3 Dated files older than C{keep_days} are removed.

Recovery and "counters verify" never need lines so old from mail.log: recovery reads from the last checkpoint, which is
minutes old while the daemon runs; verify reads packed files too.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import zstandard

from qmailpy.disk.files import Files
from qmailpy.records.archive import DATED, midnight
from qmailpy.records.logfile import CUMULATIVE, LOCK, ROLLING
from qmailpy.records.reading import CHUNK, last_lines
from qmailpy.records.text import MONTH_OF, fragment

AGE_S = 12 * 3600.0
"""The last line of what is packed is older."""

ENDINGS = {"zstd": ".zst", "gzip": ".gz"}
"""Of a packed file, by C{[log] compress}."""

_PACKING = "mail.log_packing"
_LEVELS = {"zstd": 3, "gzip": 6}  # zstd 9: five times the time for a tenth less
_LOOK = 1000  # lines from the end that are looked at for a time stamp


def thd_pack(
    files: Files,
    directory: str,
    compress: str,
    keep_days: int,
    now: float,
    pause: Callable[[], None] = lambda: None,
) -> int:
    """
    Do what is due of P1 to P3. Blocks; one process at a time.

    @param directory: HOME/log.
    @param compress: "zstd", "gzip", or "": nothing is packed.
    @param keep_days: dated files older than that are removed; 0 = none.
    @param pause: called between pieces of work; what it raises ends it, and all is done again next time.
    @return: how many files were packed.
    @raise OSError: one could not be.
    """
    if not compress:
        return 0
    _set_aside(files, directory, now)
    packed = 0
    for name in sorted(files.listdir(directory)):
        found = DATED.fullmatch(name)
        if found is None:
            continue
        if keep_days and now - midnight(int(found[1]), int(found[2]), int(found[3])) > (keep_days + 1) * 86400:
            files.unlink(f"{directory}/{name}")
        elif not found[5]:
            _pack(files, directory, name, compress, pause)
            packed += 1
    return packed


def _set_aside(files: Files, directory: str, now: float) -> None:
    """P1."""
    path = f"{directory}/{CUMULATIVE}"
    if not files.exists(path):
        return
    try:
        lock = files.lock(f"{directory}/{LOCK}")
    except BlockingIOError:  # it is being rolled: next time
        return
    try:
        if files.exists(f"{directory}/{ROLLING}"):  # a roll was cut, and will want to know its size
            return
        stamp = _last_stamp(files, path)
        if stamp is None or midnight(*stamp[:3]) + stamp[3] * 3600 > now - AGE_S:
            return
        name = plain = "{}.{:04d}-{:02d}-{:02d}".format(CUMULATIVE, *stamp[:3])
        number = 1
        while any(files.exists(f"{directory}/{name}{ending}") for ending in ("", *ENDINGS.values())):
            number += 1
            name = f"{plain}-{number}"
        files.rename(path, f"{directory}/{name}")
        files.sync_directory(directory)
    finally:
        files.close(lock)


def _last_stamp(files: Files, path: str) -> tuple[int, int, int, int] | None:
    """Year, month, day and hour of the last line that has some."""
    handle = files.open(path)
    try:
        for count, (_, line) in enumerate(last_lines(files, handle, files.size(handle))):
            stamp = fragment(line)[:14].decode("ascii", "replace")
            if len(stamp) == 14 and stamp[3:6] in MONTH_OF and (stamp[:2] + stamp[7:11] + stamp[12:]).isdecimal():
                return int(stamp[7:11]), MONTH_OF[stamp[3:6]], int(stamp[:2]), int(stamp[12:])
            if count == _LOOK:
                break
    finally:
        files.close(handle)
    return None


def _pack(files: Files, directory: str, name: str, compress: str, pause: Callable[[], None]) -> None:
    """P2."""
    temporary = f"{directory}/{_PACKING}"
    if files.exists(temporary):
        files.unlink(temporary)
    target = files.open(temporary, create=True, append=True)
    try:
        for piece in _packed(files, f"{directory}/{name}", compress):
            if piece:
                files.append(target, piece)
            pause()
        files.fsync(target)
    finally:
        files.close(target)
    files.rename(temporary, f"{directory}/{name}{ENDINGS[compress]}")
    files.sync_directory(directory)
    files.unlink(f"{directory}/{name}")
    files.sync_directory(directory)


def _packed(files: Files, path: str, compress: str) -> Iterator[bytes]:
    level = _LEVELS[compress]
    packer: Any = (
        zlib.compressobj(level, wbits=31)
        if compress == "gzip"
        else zstandard.ZstdCompressor(level=level, write_checksum=True).compressobj()
    )
    source = files.open(path)
    try:
        at = 0
        while chunk := files.pread(source, CHUNK, at):
            at += len(chunk)
            yield packer.compress(chunk)
        yield packer.flush()
    finally:
        files.close(source)
