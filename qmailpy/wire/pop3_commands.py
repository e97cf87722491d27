"""
What each POP3 command does: the table of them, who may use which when, and those of the TRANSACTION state (RFC 1939
s.5); those before it are in L{qmailpy.wire.pop3_login}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from qmailpy.wire import pop3_login as login
from qmailpy.wire.pop3_drop import Row
from qmailpy.wire.pop3_events import Event, FetchAsked, LeaveAsked
from qmailpy.wire.pop3_message import END
from qmailpy.wire.pop3_state import ASKED_FETCH, ASKED_LEAVE, LISTING, Pop3State

_LINES_MOST = 1 << 31  # of TOP; more than any message has

_OK = b"+OK\r\n"
BYE = b"+OK Bye\r\n"


def run(core: Pop3State, line: bytes, events: list[Event]) -> None:
    """
    Carry out a command, or refuse it.

    @param line: without its end.
    """
    verb, _, argument = line.partition(b" ")
    command = _COMMANDS.get(verb.upper())
    if command is None:
        core.bad(line, "Unknown command", events)
    elif line.translate(None, _CONTROLS) != line:
        core.bad(line, "Control characters in a command", events)
    elif command.states == _BEFORE and core.drop is not None:
        core.bad(line, "Only before the login", events)
    elif command.states == _AFTER and core.drop is None:
        core.bad(line, "Log in first", events)
    elif command.bare and argument.strip(b" "):
        core.bad(line, "Command takes no argument", events)
    else:
        if core.drop is None:
            core.early += 1
            if core.early > core.service.limits.early:
                core.error("Too many commands without a login")
                core.finish("too many commands without a login")
                return
        command.run(core, line, argument, events)
        if command.run is not login.user:
            core.user = None  # only what follows USER at once may be its PASS


def _stat(core: Pop3State, line: bytes, argument: bytes, events: list[Event]) -> None:
    core.send(b"+OK %d %d\r\n" % (core.box.count, core.box.octets))


def _scan(core: Pop3State, line: bytes, argument: bytes, events: list[Event]) -> None:
    _rows(core, line, argument, events, core.box.scan_row)


def _uidl(core: Pop3State, line: bytes, argument: bytes, events: list[Event]) -> None:
    _rows(core, line, argument, events, core.box.uid_row)


def _rows(core: Pop3State, line: bytes, argument: bytes, events: list[Event], row: Row) -> None:
    """One line of a listing, or all of it."""
    word = argument.strip(b" ")
    if word:
        index = _index(core, line, word, events)
        if index is not None:
            core.send(b"+OK " + row(index))
        return
    core.send(b"+OK %d messages (%d octets)\r\n" % (core.box.count, core.box.octets))
    core.rows = core.box.listing(row)
    core.asked = LISTING


def _index(core: Pop3State, line: bytes, word: bytes, events: list[Event]) -> int | None:
    """The message a number stands for; C{None} when there is none, which has been answered."""
    index = core.box.index(word)
    if isinstance(index, int):
        return index
    core.bad(line, index, events)
    return None


def _retr(core: Pop3State, line: bytes, argument: bytes, events: list[Event]) -> None:
    index = _index(core, line, argument.strip(b" "), events)
    if index is None:
        return
    box = core.box
    octets = box.messages.at_hand(index)
    if octets is None:
        core.asked = ASKED_FETCH
        events.append(FetchAsked(index=index, lines=None))
        return
    core.send(b"+OK %d octets\r\n" % box.messages.sizes[index])
    core.send(octets)
    core.send(END)
    box.note(index)


def _top(core: Pop3State, line: bytes, argument: bytes, events: list[Event]) -> None:
    words = argument.split()
    if len(words) != 2 or not words[1].isdigit():
        core.bad(line, "A message number and a number of lines are wanted", events)
        return
    index = _index(core, line, words[0], events)
    if index is not None:
        lines = int(words[1]) if len(words[1]) <= 10 else _LINES_MOST
        core.asked = ASKED_FETCH
        events.append(FetchAsked(index=index, lines=min(lines, _LINES_MOST)))


def _dele(core: Pop3State, line: bytes, argument: bytes, events: list[Event]) -> None:
    index = _index(core, line, argument.strip(b" "), events)
    if index is not None:
        core.box.delete(index)
        core.ok("Marked as deleted")


def _rset(core: Pop3State, line: bytes, argument: bytes, events: list[Event]) -> None:
    core.box.reset()
    core.ok(f"{core.box.count} messages")


def _noop(core: Pop3State, line: bytes, argument: bytes, events: list[Event]) -> None:
    core.send(_OK)


def _quit(core: Pop3State, line: bytes, argument: bytes, events: list[Event]) -> None:
    if core.drop is None:
        core.send(BYE)
        core.finish("")
        return
    deleted, seen = core.drop.update()
    core.asked = ASKED_LEAVE
    events.append(LeaveAsked(deleted=deleted, seen=seen))


class _Command:
    """A row of the table of commands."""

    __slots__ = ("bare", "run", "states")

    def __init__(
        self, run: Callable[[Pop3State, bytes, bytes, list[Event]], None], states: int, bare: bool = False
    ) -> None:
        self.run = run
        self.states = states
        self.bare = bare  # takes no argument


_ALWAYS, _BEFORE, _AFTER = range(3)
_COMMANDS: Mapping[bytes, _Command] = {
    b"CAPA": _Command(login.capa, _ALWAYS, bare=True),
    b"STLS": _Command(login.stls, _BEFORE, bare=True),
    b"USER": _Command(login.user, _BEFORE),
    b"PASS": _Command(login.password, _BEFORE),
    b"AUTH": _Command(login.auth, _BEFORE),
    b"XCLIENT": _Command(login.xclient, _BEFORE),
    b"UTF8": _Command(login.utf8, _BEFORE, bare=True),
    b"LANG": _Command(login.lang, _ALWAYS),
    b"STAT": _Command(_stat, _AFTER, bare=True),
    b"LIST": _Command(_scan, _AFTER),
    b"UIDL": _Command(_uidl, _AFTER),
    b"RETR": _Command(_retr, _AFTER),
    b"TOP": _Command(_top, _AFTER),
    b"DELE": _Command(_dele, _AFTER),
    b"RSET": _Command(_rset, _AFTER, bare=True),
    b"NOOP": _Command(_noop, _AFTER, bare=True),
    b"QUIT": _Command(_quit, _ALWAYS, bare=True),
}
_CONTROLS = bytes([*range(0x20), 0x7F])
