"""
The blocking side of the control sockets, for commands: no reactor, few imports.

What every process answers: C{status}, C{methods}, C{reload}, C{log.reopen}, C{stop}; the rest is registered by the
roles (C{queue.*}, C{directory.flush}, C{counters.clear}, C{log.roll}; see docs/control.md). Whatever goes wrong is a
L{CommandError} with one line for the person.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from attrs import frozen

from qmailpy.control.boxes import Box, Unpacker, pack
from qmailpy.errors import CommandError

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

DIRECTORY = "run/control"
"""Where the sockets are, below HOME."""

PIECE = 60000
BOX_LIMIT = 128 * 1024
RESPONSE_LIMIT = 16 * 1024 * 1024  # as in qmailpy.control.commands, which would cost the import of Twisted
TIMEOUT_S = 30.0
_ROOM_S = 0.05  # until there may be room for another connection
_AT_ONCE = 16  # processes asked at the same time
PATH_LIMIT = 107  # octets a UNIX socket's address has room for

RIGHTS = "; run this as root or as the server's user"
"""Behind an error that says "Permission denied"."""

_NAME = re.compile(r"([a-z]{1,32})-([0-9]{1,4})\.sock")


@frozen(kw_only=True)
class Endpoint:
    """A process that answers."""

    role: str  # "mta", "directory"...
    index: int  # from 0
    path: str  # of its socket

    @property
    def name(self) -> str:
        """C{ROLE-INDEX}, as people and L{call} write it."""
        return f"{self.role}-{self.index}"


class NotRunningError(CommandError):
    """Nothing answers: the daemon is not running (or not as far as this process)."""


@contextmanager
def short_path(path: str) -> Iterator[str]:
    """
    A name for a socket that fits into an address of 107 octets, whatever the length of its path.

    Linux takes a path through the directory's descriptor in /proc; used where the plain path is too long.
    """
    if len(os.fsencode(path)) <= PATH_LIMIT:
        yield path
        return
    # O_PATH: the right to pass through is enough, as with the plain path.
    handle = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{os.path.basename(path)}"
    finally:
        os.close(handle)


def connect_unix(path: str, timeout_s: float | None) -> socket.socket:
    """
    A connection to the socket at C{path}, however long that is.

    @param timeout_s: of connecting and of each call after it; C{None} = none.
    @raise OSError: nobody listens there, or we may not.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        with short_path(path) as name:
            connection.connect(name)
    except BaseException:
        connection.close()
        raise
    return connection


def _sockets(home: str) -> list[Endpoint]:
    """All sockets by name, whether somebody answers or not (a process killed leaves its own behind)."""
    folder = os.path.join(home, DIRECTORY)
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        remedy = RIGHTS if isinstance(error, PermissionError) else ""
        raise CommandError(f"{folder}: {error.strerror}{remedy}") from error
    found = []
    for name in names:
        match = _NAME.fullmatch(name)
        if match:
            found.append(Endpoint(role=match[1], index=int(match[2]), path=os.path.join(folder, name)))
    return sorted(found, key=lambda endpoint: (endpoint.role, endpoint.index))


def running(home: str) -> list[Endpoint]:
    """
    The processes of the daemon on C{home} that are there, by role and index; empty when it is not running.

    One that stands still is there as well, also when it was asked so often that its socket takes no more: only a
    process keeps a socket open.

    @raise CommandError: the sockets may not be seen or opened by this user.
    """
    alive = []
    for endpoint in _sockets(home):
        try:
            connect_unix(endpoint.path, 0.0).close()  # at once, or its backlog is full
        except BlockingIOError:
            pass
        except (ConnectionError, FileNotFoundError):
            continue
        except PermissionError as error:
            raise CommandError(f"{endpoint.path}: {error.strerror}{RIGHTS}") from error
        except OSError:
            continue  # a socket in its last moments
        alive.append(endpoint)
    return alive


class _Session:
    """One connection: boxes out, the answers in, all before a deadline."""

    def __init__(self, endpoint: Endpoint, timeout_s: float) -> None:
        self._endpoint = endpoint
        self._deadline = time.monotonic() + timeout_s
        self._timeout_s = timeout_s
        self._boxes = Unpacker(BOX_LIMIT)
        self._waiting: list[Box] = []
        self._tag = 0
        self._socket = self._connected(endpoint.path)

    def _connected(self, path: str) -> socket.socket:
        while True:
            try:
                return connect_unix(path, self._timeout_s)
            except (
                BlockingIOError
            ):  # its backlog is full; the kernel does not wait for room there, whatever the timeout
                if time.monotonic() + _ROOM_S >= self._deadline:
                    raise TimeoutError from None
                time.sleep(_ROOM_S)

    def close(self) -> None:
        self._socket.close()

    def ask(self, command: str, **arguments: bytes) -> Box:
        """Send one command; its answer. @raise CommandError: the process answered with an error."""
        self._tag += 1
        box = {b"_ask": b"%d" % self._tag, b"_command": command.encode()}
        box.update({key.encode(): value for key, value in arguments.items()})
        self._time_left()
        self._socket.sendall(pack(box))
        while not self._waiting:
            self._time_left()
            octets = self._socket.recv(65536)
            if not octets:
                raise ConnectionError("the process closed the connection")
            self._waiting += self._boxes.feed(octets)
        answer = self._waiting.pop(0)
        if b"_error" in answer:
            raise CommandError(answer.get(b"_error_description", b"").decode("utf-8", "replace") or "error")
        return answer

    def _time_left(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)


def _call(endpoint: Endpoint, method: str, arguments: dict[str, Json], timeout_s: float) -> Json:
    request = json.dumps(arguments).encode()
    pieces = [request[at : at + PIECE] for at in range(0, len(request), PIECE)]
    session = None
    try:
        session = _Session(endpoint, timeout_s)
        for piece in pieces[:-1]:
            session.ask("Part", octets=piece)
        answer = session.ask("Call", method=method.encode(), octets=pieces[-1])
        result = bytearray(answer[b"octets"])
        while int(answer[b"remaining"]):
            if len(result) > RESPONSE_LIMIT:
                raise ValueError("the answer is too long")
            answer = session.ask("Next")
            result += answer[b"octets"]
        value: Json = json.loads(result)
    except TimeoutError as error:
        raise CommandError(f"{endpoint.name}: no answer to {method} within {timeout_s:g} s") from error
    except (ConnectionRefusedError, FileNotFoundError) as error:
        raise NotRunningError(f"{endpoint.name} is not running") from error
    except OSError as error:
        raise CommandError(f"{endpoint.name}: {error.strerror or error}") from error
    except (ValueError, KeyError, RecursionError) as error:
        raise CommandError(f"{endpoint.name}: an answer that makes no sense ({error})") from error
    finally:
        if session is not None:
            session.close()
    return value


def call(home: str, target: str, method: str, /, *, timeout_s: float = TIMEOUT_S, **arguments: Json) -> Json:
    """
    Have one process run a method and wait for its result.

    @param target: C{"mta-0"}; or a role alone, C{"directory"}, when it has one process.
    @param arguments: what the method takes, by name; JSON values.
    @raise NotRunningError: nothing runs under that name.
    @raise CommandError: the process refused, did not know the method or did not answer in time.
    """
    names = {endpoint.name: endpoint for endpoint in _sockets(home)}
    endpoint = names.get(target)
    if endpoint is None:
        matching = [one for one in running(home) if one.role == target]
        if not matching:
            raise NotRunningError(f"{target} is not running on {home}")
        if len(matching) > 1:
            choices = ", ".join(one.name for one in matching)
            raise CommandError(f"{target} is several processes; name one of {choices}")
        endpoint = matching[0]
    return _call(endpoint, method, arguments, timeout_s)


def call_all(
    home: str, role: str, method: str, /, *, timeout_s: float = TIMEOUT_S, **arguments: Json
) -> dict[str, Json]:
    """
    Have every running process of a role run a method, one after the other.

    @param role: C{"mta"}; C{""} means every process there is.
    @return: results by process name (C{"mta-0"}); empty when nothing runs.
    @raise CommandError: as L{call}; processes asked before the one that failed have done it.
    """
    return {
        endpoint.name: _call(endpoint, method, arguments, timeout_s)
        for endpoint in running(home)
        if role in ("", endpoint.role)
    }


def ask_each(names: Sequence[str], ask: Callable[[str], Json]) -> dict[str, Json | CommandError]:
    """
    Ask several processes at the same time: those that stand still cost one timeout together, not one each.

    @param names: C{"mta-0"}...
    @param ask: L{call}, for one of them; runs in a thread.
    @return: for each what it answers, or why it does not.
    """

    def thd_ask(name: str) -> Json | CommandError:
        try:
            return ask(name)
        except CommandError as error:
            return error

    if len(names) < 2:
        return {name: thd_ask(name) for name in names}
    from concurrent.futures import ThreadPoolExecutor  # commands that ask one process do without

    with ThreadPoolExecutor(min(len(names), _AT_ONCE)) as pool:
        return dict(zip(names, pool.map(thd_ask, names), strict=True))


def flush_directory(home: str, address: str = "") -> int:
    """
    Tell the running workers to forget what they have cached about C{address} (everything when empty).

    @return: how many processes were told; 0 when nothing runs, which is no error.
    @raise CommandError: a process is there and could not be told; its cache lifetime bounds the harm.
    """
    return sum(len(call_all(home, role, "directory.flush", address=address)) for role in ("mta", "access"))


def clear_counters(home: str) -> bool:
    """
    Have the running workers, who own the counter lanes, clear them.

    @return: false when nothing runs: the caller may do it itself, on the file.
    @raise CommandError: a worker is there and could not do it.
    """
    return bool(call_all(home, "mta", "counters.clear"))
