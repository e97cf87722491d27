"""
C{python -m benchmarks.pop3}: fetching mail, beside Debian's Dovecot in the same run.

Each server has the same Maildirs. Sessions run side by side, each over a mailbox of its own; the client is a process of
its own that reads what comes and does nothing with it. Logins are part of it once a session. Then: how many logins a
second, and what sessions that do nothing cost in memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import selectors
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from statistics import median
from typing import Any
from unittest import mock

import tomlkit
from attrs import frozen

from benchmarks import processes
from benchmarks.node import DOMAIN, Node
from benchmarks.places import free_port
from qmailpy.directory.accounts import Accounts
from qmailpy.directory.password import ssha
from qmailpy.directory.setup import store_path
from qmailpy.directory.store import Store
from tests.integration.peers import dovecot

PASSWORD = "sesame"  # noqa: S105 - of a home that lives for a minute
LISTENER = {"name": "pop3", "kind": "pop3", "connections_per_client": 100000, "plain_auth": True}


@frozen(kw_only=True)
class Load:
    """What is fetched."""

    sessions: int = 20
    messages: int = 1000  # of a mailbox
    octets: int = 4096  # of a message


@frozen(kw_only=True)
class Fetched:
    """What one run came to."""

    messages_s: float
    cpu_ms: float  # CPU milliseconds a message, all processes of the server


class Session:
    """One client: logs in, fetches everything, leaves; without waiting in between when told to."""

    def __init__(self, port: int, user: str, window: int) -> None:
        """@param window: RETR commands that may be unanswered; 1 = as most programs do it."""
        self.socket = socket.create_connection(("127.0.0.1", port), 30.0)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._window = window
        self._steps = [b"USER %b\r\n" % user.encode(), b"PASS %b\r\n" % PASSWORD.encode(), b"STAT\r\n"]
        self._tail = b""
        self._left = -1  # messages still to be asked for
        self._asked = 0  # answers still to come
        self._next = 1
        self.fetched = 0

    def take(self) -> bool:
        """Read what is there and go on. @return: whether the session is over. @raise OSError: it is refused."""
        octets = self.socket.recv(262144)
        if not octets:
            return True
        if self._left < 0:
            self._begin(octets)
            return False
        # Ends of messages, one of which may be torn over two reads; the content has no line with a dot alone.
        data = self._tail + octets
        ends = data.count(b"\r\n.\r\n")
        self._tail = data[-4:] if not data.endswith(b"\r\n.\r\n") else b""
        self.fetched += ends
        self._asked -= ends
        self._ask()
        return False

    def _begin(self, octets: bytes) -> None:
        self._tail += octets
        if not self._tail.endswith(b"\n"):
            return
        said, self._tail = self._tail, b""
        if not said.startswith(b"+OK"):
            raise OSError(f"refused: {said[:200]!r}")
        if self._steps:
            self.socket.sendall(self._steps.pop(0))
            return
        self._left = int(said.split()[1])
        self._ask()

    def _ask(self) -> None:
        wanted = min(self._window - self._asked, self._left)
        if wanted > 0 and (self._asked == 0 or self._window > 1):
            commands = b"".join(b"RETR %d\r\n" % number for number in range(self._next, self._next + wanted))
            self._next += wanted
            self._left -= wanted
            self._asked += wanted
            self.socket.sendall(commands)
        elif not self._left and not self._asked:
            self._left = 0
            self._asked = 1
            self.socket.sendall(b"QUIT\r\n")


def _client(port: int, users: Sequence[str], window: int, start: Any, answer: Any) -> None:
    """A process that is some sessions."""
    start.wait()
    selector = selectors.DefaultSelector()
    sessions = [Session(port, user, window) for user in users]
    for session in sessions:
        selector.register(session.socket, selectors.EVENT_READ, session)
    left = len(sessions)
    while left:
        for key, _ in selector.select(60.0):
            if key.data.take():
                selector.unregister(key.data.socket)
                key.data.socket.close()
                left -= 1
    answer.put(sum(session.fetched for session in sessions))


def fetch(server: Any, load: Load, window: int) -> Fetched:
    """
    Fetch everything of every mailbox.

    @param server: with C{port} and C{pid}.
    @raise OSError: not all of it came.
    """
    context = multiprocessing.get_context("fork")
    start, answer = context.Event(), context.Queue()
    users = [f"u{number}@{DOMAIN}" for number in range(load.sessions)]
    client = context.Process(target=_client, args=(server.port, users, window, start, answer), daemon=True)
    client.start()
    cpu = processes.cpu_s(server.pid)
    begun = time.monotonic()
    start.set()
    fetched = answer.get(timeout=120.0)
    took = time.monotonic() - begun
    client.join()
    if fetched != load.sessions * load.messages:
        raise OSError(f"{fetched} of {load.sessions * load.messages} messages fetched")
    return Fetched(messages_s=fetched / took, cpu_ms=(processes.cpu_s(server.pid) - cpu) * 1000 / fetched)


def logins(port: int, seconds: float = 3.0) -> float:
    """Whole sessions (login, STAT, QUIT) a second, one after the other."""
    done = 0
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        with socket.create_connection(("127.0.0.1", port), 30.0) as connection:
            for command in (b"", b"USER u0@%b\r\n" % DOMAIN.encode(), b"PASS sesame\r\n", b"STAT\r\n", b"QUIT\r\n"):
                connection.sendall(command)
                said = connection.recv(4096)
                if not said.startswith(b"+OK"):
                    raise OSError(f"refused: {said[:200]!r}")
        done += 1
    return done / (time.monotonic() - begun)


def idle(server: PopNode, sessions: int) -> tuple[int, int]:
    """
    Sessions that have logged in and do nothing.

    @return: resident octets of the process that holds them, before and with them.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < sessions + 200:
        resource.setrlimit(resource.RLIMIT_NOFILE, (sessions + 200, max(hard, sessions + 200)))
    pid = server.access()
    before = processes.rss(pid)
    with ExitStack() as stack:
        for number in range(sessions):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 30.0))
            user = b"idle%d@%b" % (number, DOMAIN.encode())
            for command in (b"", b"USER " + user + b"\r\n", b"PASS sesame\r\n"):
                connection.sendall(command)
                said = connection.recv(4096)
                if not said.startswith(b"+OK"):
                    raise OSError(f"refused: {said[:200]!r}")
        return before, processes.rss(pid)


class PopNode(Node):
    """A home with a POP3 listener."""

    def make_pop3(self, users: Sequence[str]) -> None:
        """As C{make}, with passwords, hashed in the cheap way: thousands of users are made, and log in once."""
        self.make(())
        store = Store(store_path(self.home))
        accounts = Accounts(store, "o=qmailpy")
        stored = (ssha(PASSWORD.encode()),)
        with mock.patch("qmailpy.directory.password.thd_stored", return_value=stored):
            for user in users:
                accounts.thd_add_user(f"{user}@{DOMAIN}", secret=PASSWORD.encode())
        store.thd_close()
        path = os.path.join(self.home, "etc", "qmailpy.toml")
        with open(path) as source:
            document: Any = tomlkit.parse(source.read())
        self.port = free_port()
        document["listener"].append(
            tomlkit.item({**LISTENER, "endpoint": f"tcp:{self.port}:interface=127.0.0.1", "tls": "none"})
        )
        with open(path, "w") as target:
            target.write(tomlkit.dumps(document))

    def start_pop3(self) -> None:
        """Start, and wait for POP3. @raise OSError: it does not come."""
        self.launch()
        end = time.monotonic() + 30.0
        while time.monotonic() < end:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 2.0) as connection:
                connection.settimeout(5.0)
                if connection.recv(3) == b"+OK":
                    return
            time.sleep(0.05)
        raise OSError(f"no POP3:\n{self.last_words()}")

    def access(self) -> int:
        """Process id of the process that serves POP3. @raise OSError: there is none."""
        for one in self.members():
            if "qmailpy.app.child access" in one.command:
                return one.pid
        raise OSError("no access process")


def fill(mail: str, load: Load) -> None:
    """Maildirs as our own deliveries make them."""
    head = b"Return-Path: <a@example.net>\nSubject: benchmark\n\n"
    content = head + (b"x" * 71 + b"\n") * ((load.octets - len(head)) // 72)
    size = f"S={len(content)},W={len(content) + content.count(10)}"
    for number in range(load.sessions):
        box = os.path.join(mail, DOMAIN, f"u{number}", "Maildir")
        for folder in ("new", "cur", "tmp"):
            os.makedirs(os.path.join(box, folder))
        for message in range(load.messages):
            with open(os.path.join(box, "new", f"1700000000.Q{message:013}00R0.mail.example.org,{size}"), "wb") as out:
                out.write(content)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pop3", description="POP3 beside Dovecot")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--messages", type=int, default=1000, help="in each mailbox")
    parser.add_argument("--idle", type=int, default=2000, help="sessions that do nothing")
    chosen = parser.parse_args(arguments)
    load = Load(sessions=chosen.sessions, messages=chosen.messages)
    why = dovecot.missing()
    if why:
        say(f"without Dovecot: {why}")
    with tempfile.TemporaryDirectory(prefix="qmailpy-pop3-") as top:
        os.chmod(top, 0o755)  # noqa: S103 - Dovecot's user must pass
        node = PopNode(os.path.join(top, "home"), relay=9)
        users = [f"u{number}" for number in range(load.sessions)]
        node.make_pop3([*users, *(f"idle{number}" for number in range(chosen.idle))])
        fill(os.path.join(node.home, "mail"), load)
        other = None if why else dovecot.Dovecot(os.path.join(node.home, "mail"), PASSWORD)
        try:
            node.start_pop3()
            compare(node, other, load, chosen.rounds)
            say(
                f"logins: qmailpy {logins(node.port):.0f}/s"
                + (f", Dovecot {logins(other.port):.0f}/s" if other else "")
            )
            if chosen.idle:
                node.stop()
                node.start_pop3()
                before, after = idle(node, chosen.idle)
                say(
                    f"{chosen.idle} idle sessions, logged in: {after / 1e6:.0f} MB (without them {before / 1e6:.0f} MB)"
                )
        finally:
            if other is not None:
                other.stop()
            node.stop()
    return 0


def compare(node: PopNode, other: dovecot.Dovecot | None, load: Load, rounds: int) -> None:
    """Turn and turn about, one command at a time and pipelined; the medians."""
    size = f"{load.sessions} sessions of {load.messages} messages of {load.octets} octets"
    for window, how in ((1, "one command at a time"), (32, "pipelined, 32 at a time")):
        found: dict[str, list[Fetched]] = {}
        for _ in range(rounds + 1):
            for server in (node, other):
                if server is not None:
                    found.setdefault(server.name, []).append(fetch(server, load, window))
        say(f"{size}, {how}:")
        for name, runs in found.items():
            rate = median(run.messages_s for run in runs[1:])  # the first one warms up
            say(f"  {name:8} {rate:7.0f} messages/s, {median(run.cpu_ms for run in runs[1:]):.3f} CPU ms a message")
        if other is not None:
            ours, theirs = (median(run.messages_s for run in found[one.name][1:]) for one in (node, other))
            say(f"  ratio {ours / theirs:.2f}")


def say(line: str) -> None:
    """Tell whoever runs it."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
