"""
The C{qm.maint>} prompt's line: editing, completion, and a history that outlives the session.

The history is a file of the user's own, C{qm_history} in L{cache_folder}: a line a command, written when the command is
given, so that no end of the session loses it. Several prompts at once append to it in turn, under a lock; it is cut to
its last L{HISTORY} lines when a prompt begins and it has twice as many. Without a home directory there is none.
"""

from __future__ import annotations

import fcntl
import locale
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import click

from qmailpy.cli.qm_session import cache_folder

PROMPT = "qm.maint> "
HISTORY = 1000
LINE_OCTETS = 4096  # of a command that is kept
_LARGEST = 4 * 1024 * 1024  # of the file; more is not ours


class History:
    """The file. Nothing is raised: without it there is less comfort, and that is all."""

    def __init__(self, path: str) -> None:
        self._path = path

    def begin(self) -> list[str]:
        """The lines there are, the oldest first; the file is cut when there are many."""
        with suppress(OSError), self._locked() as handle:
            octets = os.pread(handle, _LARGEST, 0)
            lines = octets.decode("utf-8", "replace").splitlines()
            if len(lines) > 2 * HISTORY or len(octets) == _LARGEST:
                kept = "".join(f"{line}\n" for line in lines[-HISTORY:]).encode()
                os.pwrite(handle, kept, 0)  # in place: who waits for the lock has this file open
                os.ftruncate(handle, len(kept))
            return lines[-HISTORY:]
        return []

    def add(self, line: str) -> None:
        """Keep a command."""
        octets = line.encode("utf-8", "replace")
        if "\n" not in line and len(octets) < LINE_OCTETS:
            with suppress(OSError), self._locked() as handle:
                os.lseek(handle, 0, os.SEEK_END)
                os.write(handle, octets + b"\n")

    @contextmanager
    def _locked(self) -> Iterator[int]:
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(handle).st_mode & 0o077:
                os.fchmod(handle, 0o600)
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield handle
        finally:
            os.close(handle)


def typed(complete: Callable[[str, str], Sequence[str]]) -> Iterator[str]:
    """
    The commands that are typed, until the end of input. Ctrl-C takes back the line that is being typed.

    @param complete: what may become of a word: given the line before it and its beginning.
    """
    history = History(os.path.join(cache_folder(), "qm_history"))
    last = ""
    with _editing(complete, history) as remember:
        while True:
            try:
                line = input(PROMPT)
            except EOFError:
                click.echo()
                return
            except KeyboardInterrupt:
                click.echo()
                continue
            text = line.strip()
            if text and line != last:
                last = line
                remember(line)
                history.add(line)
            if text and text[0] not in "!#":
                yield line


@contextmanager
def _editing(complete: Callable[[str, str], Sequence[str]], history: History) -> Iterator[Callable[[str], None]]:
    """readline, where there is one. @return: what lets the arrow keys find a line."""
    try:
        import readline
    except ImportError:
        yield lambda line: None
        return

    def completed(text: str, state: int) -> str | None:
        found = complete(readline.get_line_buffer()[: readline.get_begidx()], text)
        return found[state] if state < len(found) else None

    readline.set_auto_history(False)  # answers to questions are no commands
    readline.set_completer(completed)
    readline.set_completer_delims(" \t=,")
    # UTF-8 is what is typed, whatever the locale is called.
    for setting in ("tab: complete", "set input-meta on", "set output-meta on", "set convert-meta off"):
        readline.parse_and_bind(setting)
    if sys.getfilesystemencoding() == "utf-8" and locale.nl_langinfo(locale.CODESET) != "UTF-8":
        with suppress(locale.Error):  # where there is none, what is no ASCII cannot be brought back
            locale.setlocale(locale.LC_CTYPE, "C.UTF-8")

    def remember(line: str) -> None:
        with suppress(UnicodeError):
            readline.add_history(line)

    readline.clear_history()
    for line in history.begin():
        remember(line)
    try:
        yield remember
    finally:
        readline.set_completer(None)
