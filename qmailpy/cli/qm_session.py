"""
What the sub-commands of the queue manager share: the queue, the most recent listing and its numbers, and questions.

At the prompt the listing is in memory. Between one-shot commands it is kept in the user's own cache directory
(XDG_CACHE_HOME, or ~/.cache; without a home directory there are no numbers), one for each mail home.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property

import click
from attrs import frozen

from qmailpy.cli.context import Context
from qmailpy.cli.livequeue import open_view
from qmailpy.cli.output import ending_line, print_error
from qmailpy.cli.queueview import QueueView
from qmailpy.errors import CommandError
from qmailpy.queue.entries import Target
from qmailpy.queue.ids import LENGTH, to_number

LISTED = 100_000
"""So many entries of a listing can be named by their numbers."""

_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
_FILE = re.compile(r"(?:([A-Za-z0-9_-]+)/[0-9a-f]{2}/)?[0-9A-Z]{2,}([0-9a-v]{15})\.(?:[0-9]+\+?|HELD)")


@frozen(kw_only=True)
class Selection:
    """What a command is to work on, and how it was named."""

    targets: tuple[Target, ...]
    by_id: bool  # every one by its id, none by a number


class Session(Context):
    """The object behind C{ctx.obj} of all sub-commands."""

    def __init__(self, home: str) -> None:
        super().__init__(home)
        self.at_prompt = False
        self.depth = 0  # of files that run files
        self._listing: list[Target] | None = None

    @cached_property
    def view(self) -> QueueView:
        """The queue, found at first use. @raise CommandError: it cannot be seen."""
        return open_view(self.home)

    def look_again(self) -> None:
        """Have the next command find out anew who has the queue: the daemon may have been stopped or started."""
        self.__dict__.pop("view", None)

    @property
    def terminal(self) -> bool:
        """Whether somebody is there to answer a question."""
        return sys.stdin.isatty()

    def remember(self, listing: Sequence[Target]) -> None:
        """Keep the most recent listing; its numbers count from 1."""
        self._listing = list(listing[:LISTED])
        if not self.at_prompt:
            with suppress(OSError):  # then there are no numbers; the ids are in the listing too
                _save(self._path(), self._listing)

    def select(self, words: Sequence[str], channel: str) -> Selection:
        """
        The copies that ids and numbers stand for, without repetition.

        @param words: ids (of a message, or as file names in a listing or in the log), numbers of the most recent
            listing, ranges of them; several may be joined by commas.
        @param channel: only copies of this channel; "" = any.
        @raise CommandError: one of them is none of these, or not in the listing.
        """
        found: dict[Target, None] = {}
        by_id = True
        for word in (part for one in words for part in one.split(",") if part):
            target = _target(word)
            if target is not None:
                if channel and target.channel not in ("", channel):
                    raise CommandError(f"{word} is in channel {target.channel}, not in {channel}")
                found[Target(target.id, target.channel or channel)] = None
                continue
            by_id = False
            for listed in self._listed(word):
                if channel and listed.channel != channel:
                    raise CommandError(f"{word}: {listed.id} is in channel {listed.channel}, not in {channel}")
                found[listed] = None
        return Selection(targets=tuple(found), by_id=by_id)

    def names_messages(self, words: Sequence[str]) -> bool:
        """Whether words are ids, numbers or ranges, rather than names of hosts."""
        parts = [part for one in words for part in one.split(",") if part]
        return bool(parts) and all(_RANGE.fullmatch(part) or _target(part) for part in parts)

    def _listed(self, word: str) -> Sequence[Target]:
        match = _RANGE.fullmatch(word)
        if match is None:
            raise CommandError(f"{word!r} is no queue id, number or range")
        first, last = int(match[1]), int(match[2] or match[1])
        if self._listing is None:
            self._listing = _load(self._path())
        if not self._listing:
            raise CommandError(f"there is no listing that {word} could be in; use directory or held first, or an id")
        if first > last:
            raise CommandError(f"{word} is the wrong way round: say {last}-{first}")
        if not 1 <= first <= last <= len(self._listing):
            raise CommandError(f"{word} is not in the most recent listing, which has 1-{len(self._listing)}")
        return self._listing[first - 1 : last]

    def _path(self) -> str:
        """Where the listing is kept."""
        digest = hashlib.sha256(os.fsencode(os.path.abspath(self.home))).hexdigest()[:16]
        return os.path.join(cache_folder(), f"listing-{digest}.json")

    def confirm(self, question: str) -> None:
        """
        Ask, and go on only after a yes.

        @raise CommandError: the answer was no, or nobody is there to give one.
        """
        if not self.terminal:
            raise CommandError(f"{question} Nobody is there to ask: give -noconfirm (or --yes); nothing was done")
        try:
            yes = click.confirm(question, default=False)
        except click.Abort:  # Ctrl-C, or the end of input; it also ends the file that commands are read from
            ending_line()
            if self.depth:
                raise
            yes = False
        if not yes:
            raise CommandError("nothing was done")


def _target(word: str) -> Target | None:
    """The copy that an id or a file name stands for; C{None} when it is neither."""
    match = _FILE.fullmatch(word)
    queue_id = match[2] if match else word
    if len(queue_id) != LENGTH:
        return None
    try:
        to_number(queue_id)
    except ValueError:
        return None
    return Target(queue_id, (match[1] or "") if match else "")


def cache_folder() -> str:
    """The user's own directory for what may be lost."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "qmailpy")


def _save(path: str, listing: Sequence[Target]) -> None:
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    temporary = f"{path}.{secrets.token_hex(4)}.tmp"
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
    with open(handle, "w", encoding="ascii") as out:
        json.dump([[target.id, target.channel] for target in listing], out)
    os.rename(temporary, path)


def _load(path: str) -> list[Target]:
    """What L{_save} kept; nothing when there is nothing, or when it is not ours."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with open(handle, encoding="ascii") as source:
            if os.fstat(handle).st_uid != os.geteuid():
                return []
            return [Target(str(queue_id), str(channel)) for queue_id, channel in json.load(source)]
    except (OSError, ValueError, TypeError):
        return []


def when(seconds: float) -> str:
    """A time as listings show it, local: C{24-Feb-1999 11:52:29}."""
    return time.strftime("%d-%b-%Y %H:%M:%S", time.localtime(seconds))


def heading(seconds: float) -> str:
    """A time as headings show it, local: C{Wed, 24 Feb 1999 14:20:29 -0800 (PST)}."""
    return time.strftime("%a, %d %b %Y %H:%M:%S %z (%Z)", time.localtime(seconds))


def warn(text: str) -> None:
    """A line about something that failed while the rest goes on."""
    print_error(text)
