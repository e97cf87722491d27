"""
How much there is in a Maildir: the file C{maildirsize} of Maildir++, as Courier, Dovecot and others keep it.

Its first line is the quota, C{{octets}S,{messages}C}, either part left out where there is no such limit; each line
behind it is a change, C{{octets} {messages}}. The sum of the changes is what is there. Whoever adds or removes mail
appends a line, in one write; whoever reads counts anew (from the names and C{,S=} in them; from the files where a name
has none) and writes the file anew when it is missing, tells of another quota, or has grown to 5120 octets.

A sum beyond the quota is not believed before it is certain: it is counted anew when the file has more than one line of
changes or is older than 15 minutes, and, which is more than others do, when a directory has changed after it: mail that
was removed by a tool that knows nothing of the file makes room at once. Counted are C{new/} and C{cur/} of the Maildir
and of all its folders, the folder Trash included (as Dovecot does).

The sum may be wrong for a while when mail comes in while somebody counts: the file is taken away then, and the next one
counts again. Nothing here is synced. All of it blocks.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable, Iterator

from attrs import frozen

from qmailpy.disk.files import Files

FILE = "maildirsize"
DOMAIN_FILE = "qmailpy-domainsize"
LARGE_OCTETS = 5120
DOMAIN_OCTETS = 262144
CERTAIN_S = 900.0
_NAMED = re.compile(r",S=([0-9]{1,15})(?:[,:]|$)")
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)


@frozen
class Amount:
    """So much mail."""

    octets: int
    messages: int

    def plus(self, octets: int, messages: int) -> Amount:
        """A sum that has gone below nothing is nothing."""
        return Amount(max(0, self.octets + octets), max(0, self.messages + messages))


@frozen
class Limit:
    """At most so much; 0 = no such limit."""

    octets: int = 0
    messages: int = 0

    def __bool__(self) -> bool:
        return bool(self.octets or self.messages)

    def broken_by(self, amount: Amount) -> bool:
        return 0 < self.octets < amount.octets or 0 < self.messages < amount.messages

    def share(self, amount: Amount) -> float:
        """How full it is, by whichever limit is nearer; 1.0 = full."""
        return max(
            amount.octets / self.octets if self.octets else 0.0,
            amount.messages / self.messages if self.messages else 0.0,
        )

    @property
    def head(self) -> bytes:
        """The first line."""
        parts = [f"{self.octets}S"] * bool(self.octets) + [f"{self.messages}C"] * bool(self.messages)
        return ",".join(parts).encode()


@frozen
class _Read:
    limit: Limit
    amount: Amount
    lines: int  # of changes


def parse(octets: bytes) -> _Read | None:
    """What a file says; C{None} when it is not one, or not whole."""
    head, end, rest = octets.partition(b"\n")
    if not end or not rest.endswith(b"\n"):
        return None
    size = count = 0
    try:
        limits = {part[-1:]: int(part[:-1]) for part in head.split(b",") if part}
        lines = rest.split(b"\n")[:-1]
        for line in lines:
            octets_part, _, messages_part = line.strip().partition(b" ")
            size += int(octets_part)
            count += int(messages_part)
    except ValueError:
        return None
    if size < 0 or count < 0:
        return None
    return _Read(Limit(limits.get(b"S", 0), limits.get(b"C", 0)), Amount(size, count), len(lines))


class Tally:
    """
    One such file: of a Maildir, or (C{qmailpy-domainsize}) of all Maildirs of a domain.

    Made anew for each use; it keeps nothing.
    """

    def __init__(
        self,
        files: Files,
        directory: str,
        limit: Limit,
        seconds: Callable[[], float],
        name: str = FILE,
        large_octets: int = LARGE_OCTETS,
        thd_count: Callable[[Files, str], Amount] | None = None,
        thd_places: Callable[[Files, str], Iterator[str]] | None = None,
    ) -> None:
        """
        @param directory: where the file is.
        @param limit: some limit; none = whatever the file says.
        @param seconds: the time of day.
        @param large_octets: of the file; then it is time to count anew.
        @param thd_count: counts what is there; by default the Maildir C{directory}.
        @param thd_places: the directories that change with it.
        """
        self._files = files
        self._directory = directory
        self._path = f"{directory}/{name}"
        self._limit = limit
        self._seconds = seconds
        self._large_octets = large_octets
        self._count = thd_count or thd_count_maildir
        self._thd_places = thd_places or _thd_places

    def thd_amount(self) -> Amount:
        """What there is, by the file when there is a good one. @raise OSError: it cannot be found out."""
        found = self.thd_read()
        return self.thd_recount() if found is None else found

    def thd_read(self) -> Amount | None:
        """What the file says; C{None} when it is time to count anew."""
        found = self._thd_parsed()
        return None if found is None else found.amount

    def thd_certain(self) -> Amount:
        """What there is, when the file's word is not good enough. @raise OSError: it cannot be found out."""
        found = self._thd_parsed()
        if found is None or found.lines > 1 or self._thd_is_old():
            return self.thd_recount()
        return found.amount

    def thd_is_certain(self) -> bool:
        """Whether L{thd_certain} need not count."""
        found = self._thd_parsed()
        return found is not None and found.lines <= 1 and not self._thd_is_old()

    def thd_count(self) -> Amount:
        """Count, and nothing else. @raise OSError: it cannot be counted."""
        return self._count(self._files, self._directory)

    def thd_recount(self) -> Amount:
        """Count, and write the file anew, if that can be done. @raise OSError: it cannot be counted."""
        before = self._thd_changed()
        amount = self.thd_count()
        temporary = f"{self._path}.{os.getpid()}.{threading.get_ident()}.tmp"
        try:
            handle = self._files.open(temporary, create=True)
            try:
                self._files.truncate(handle, 0)
                line = b"%s\n%d %d\n" % (self._limit.head, amount.octets, amount.messages)
                self._files.pwrite(handle, line, 0)
            finally:
                self._files.close(handle)
            self._files.rename(temporary, self._path)
            if self._thd_changed() != before:
                self._files.unlink(self._path)  # what came meanwhile may have been counted, or not
        except OSError:
            return amount
        return amount

    def thd_add(self, octets: int, messages: int) -> None:
        """So much more is there (or less); without a file there is nothing to note. Never fails."""
        try:
            handle = self._files.open(self._path, append=True)
        except OSError:
            return
        try:
            self._files.append(handle, b"%d %d\n" % (octets, messages))
        except OSError:
            self.thd_forget()
        finally:
            self._files.close(handle)

    def thd_forget(self) -> None:
        """What the file says may be wrong: the next one counts."""
        try:
            self._files.unlink(self._path)
        except OSError:
            return

    def _thd_parsed(self) -> _Read | None:
        try:
            octets = self._files.read(self._path)
        except OSError:
            return None
        found = parse(octets) if len(octets) < self._large_octets else None
        return found if found is not None and (not self._limit or found.limit == self._limit) else None

    def _thd_is_old(self) -> bool:
        written = self._files.modified(self._path)
        if not 0 <= self._seconds() - written < CERTAIN_S:
            return True
        # In the same moment is after: clocks of file systems tick a few times a hundredth of a second at best.
        return any(changed >= written for changed in self._thd_changed())

    def _thd_changed(self) -> list[float]:
        return [self._files.modified(place) for place in self._thd_places(self._files, self._directory)]


def _thd_places(files: Files, maildir: str) -> Iterator[str]:
    """The directories of a Maildir that hold mail."""
    for folder in ("", *sorted(f"/{name}" for name in files.scan(maildir) if name.startswith(".") and name != "..")):
        for part in ("new", "cur"):
            place = f"{maildir}{folder}/{part}"
            if files.exists(place):
                yield place


def thd_count_maildir(files: Files, maildir: str) -> Amount:
    """What is in a Maildir and its folders. @raise OSError: it cannot be read."""
    octets = messages = 0
    for place in _thd_places(files, maildir):
        for name in files.scan(place):
            if name.startswith("."):
                continue
            named = _NAMED.search(name)
            size = int(named[1]) if named else _thd_size(files, f"{place}/{name}")
            if size is not None:
                octets += size
                messages += 1
    return Amount(octets, messages)


def size_words(octets: int) -> str:
    """A size for people: "1.5 MiB"."""
    size = float(octets)
    for unit in ("octets", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "octets" or size >= 100 else f"{size:.1f} {unit}"


def named_size(path: str) -> int:
    """The size that the name of a message tells; 0 when it does not."""
    named = _NAMED.search(path.rpartition("/")[2])
    return int(named[1]) if named else 0


def _thd_size(files: Files, path: str) -> int | None:
    """The size of a message whose name does not tell; C{None} when it has gone."""
    try:
        handle = files.open_for_reading(path)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
    try:
        return files.size(handle)
    finally:
        files.close(handle)


# --- a domain ------------------------------------------------------------------------------------------------


def domain_tally(files: Files, directory: str, limit: Limit, seconds: Callable[[], float]) -> Tally:
    """
    The file of a domain, C{HOME/mail/DOMAIN/qmailpy-domainsize}.

    To count it takes as long as the domain is large, so it is done in the background, and the mailboxes' own files are
    believed where there are any.
    """
    return Tally(
        files,
        directory,
        limit,
        seconds,
        DOMAIN_FILE,
        DOMAIN_OCTETS,
        _thd_count_domain,
        lambda files, directory: iter(()),
    )


def _thd_count_domain(files: Files, directory: str) -> Amount:
    total = Amount(0, 0)
    for user in files.scan(directory):
        maildir = f"{directory}/{user}/Maildir"
        if not user.startswith(".") and files.exists(f"{maildir}/cur"):
            try:
                known = parse(files.read(f"{maildir}/{FILE}"))
            except OSError:
                known = None
            found = known.amount if known is not None else thd_count_maildir(files, maildir)
            total = total.plus(found.octets, found.messages)
    return total
