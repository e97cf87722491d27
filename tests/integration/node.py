"""
A whole qmailpy node for tests: a home in a directory of its own, the real daemon with the real roles, free ports.

A node is started once for the tests of a class (start-up takes a second or two): L{NodeCase} sees to that, to the next
hop all its mail goes to, and to what must hold after every test: the books balance, and no traceback is in the log.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import tomlkit
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.load import config_path, load
from qmailpy.control import call, call_all, running
from qmailpy.control.client import short_path
from qmailpy.directory.accounts import Accounts
from qmailpy.directory.setup import store_path
from qmailpy.directory.store import Store
from qmailpy.disk.files import RealFiles
from qmailpy.errors import CommandError
from qmailpy.records.reading import lines
from qmailpy.records.record import Action, LogRecord
from qmailpy.records.text import LineFormat
from qmailpy.stats.counters import thd_read
from qmailpy.stats.show import as_json
from qmailpy.stats.verify import thd_verify
from tests.integration.daemon_process import ROOT, gone, until
from tests.integration.peers.client import Talk
from tests.integration.peers.running import messages_in
from tests.integration.peers.sink import Sink

BIN = os.path.dirname(sys.executable)
QMAILPY = os.path.join(BIN, "qmailpy")
LIMIT_S = 20.0
_PORT = re.compile(r"SmtpFactory starting on (\d+)$", re.MULTILINE)
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG

IDENTITY = ("--hostname", "mail.example.org", "--domain", "example.org", "--unprivileged")

Settings = Mapping[str, object]
Counts = dict[str, dict[str, Any]]


def quick(relay: int) -> dict[str, object]:
    """Settings of nearly every test: small, fast to try again, all remote mail to a port of ours."""
    return {
        "directory.endpoint": "tcp:0:interface=127.0.0.1",
        "listener.smtp.endpoint": "tcp:0:interface=127.0.0.1",
        "log.index_s": 0.0,  # a process less
        "queue.segment_octets": 1 << 20,
        "channel.tcp_local.relay": f"127.0.0.1:{relay}",
        "channel.tcp_local.backoff": [1.0],
        "channel.tcp_local.jitter": 0.0,
        "channel.local.backoff": [1.0],
        "channel.local.jitter": 0.0,
        "channel.process.backoff": [1.0],
        "channel.tcp_local.connections_idle_s": 0.5,
    }


@cache
def _pristine() -> str:
    """A home that nothing was done in, made once."""
    base = tempfile.mkdtemp(prefix="qmailpy-test-")
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    home = os.path.join(base, "home")
    environment = {**os.environ, "PYTHONPATH": ROOT}
    subprocess.run([QMAILPY, "init", home, *IDENTITY], env=environment, capture_output=True, timeout=60, check=True)
    return home


class _EndedError(Exception):
    """What is waited for will not come."""


class Node:
    """A home and, between C{start} and C{stop}, its daemon."""

    def __init__(
        self,
        settings: Settings,
        users: Iterable[str] = ("alice", "bob"),
        home: str | None = None,
        *,
        copied: bool = False,
    ) -> None:
        """
        @param settings: as C{qmailpy config set} names them; a value of C{None} removes the key. C{rewrite} is a list
            of rules that go before those that are there.
        @param users: of example.org, beside postmaster.
        @param home: where; by default in a new temporary directory.
        @param copied: its keys and secrets may be another's, too, which saves making them.
        """
        self.base = tempfile.mkdtemp(prefix="qmailpy-test-")
        self.home = home or os.path.join(self.base, "home")
        self.output = os.path.join(self.base, "output")
        self.process: subprocess.Popen[bytes] | None = None
        self._printed = 0
        self.port = 0
        self.options: list[str] = []  # of the daemon, beside its home
        try:
            if copied:
                shutil.copytree(_pristine(), self.home)
            else:
                self.qmailpy("init", self.home, *IDENTITY)
            self._free_ports()
            self.set(settings)
            self.add_users(users)
        except BaseException:
            self.clean_up()
            raise

    # --- the home --------------------------------------------------------------------------------------------

    def path(self, *parts: str) -> str:
        return os.path.join(self.home, *parts)

    def _free_ports(self) -> None:
        """Only the listener that tests talk to has a port: nodes run side by side."""
        for listener in load(self.home).listeners:
            if listener.name != "smtp" and not listener.endpoint.startswith("unix:"):
                self.set({f"listener.{listener.name}.endpoint": f"unix:run/{listener.name}.sock"})

    def set(self, settings: Settings) -> None:
        """Change the configuration's file."""
        path = config_path(self.home)
        with open(path) as source:
            document: Any = tomlkit.parse(source.read())
        for key, value in settings.items():
            *tables, last = key.split(".")
            if not tables and isinstance(value, list):  # [[rewrite]]: before those that are there
                document[key] = [*value, *(dict(one) for one in document.get(key, []))]
                continue
            place = document
            for table in tables:
                if table == "listener":
                    place = list(place["listener"])
                elif isinstance(place, list):
                    place = next(one for one in place if one["name"] == table)
                else:
                    place = place.setdefault(table, tomlkit.table())
            if value is None:
                place.pop(last, None)
            else:
                place[last] = value
        with open(path, "w") as target:
            target.write(tomlkit.dumps(document))

    def add_users(self, users: Iterable[str], domain: str = "example.org") -> None:
        store = Store(store_path(self.home))
        try:
            for user in users:
                Accounts(store, "o=qmailpy").thd_add_user(f"{user}@{domain}")
        finally:
            store.thd_close()

    def qmailpy(
        self, *arguments: str, octets: bytes = b"", status: int = 0, environment: Mapping[str, str] | None = None
    ) -> str:
        """Run a command; what it printed. @raise AssertionError: it ended with another status."""
        done = subprocess.run(
            [QMAILPY, "--home", self.home, *arguments],
            input=octets,
            env={**os.environ, "PYTHONPATH": ROOT, **(environment or {})},
            capture_output=True,
            timeout=LIMIT_S,
            check=False,
        )
        if done.returncode != status or b"Traceback" in done.stderr:
            raise AssertionError(f"qmailpy {arguments}: status {done.returncode}\n{done.stdout!r}\n{done.stderr!r}")
        return (done.stdout if status == 0 else done.stderr).decode()

    # --- the daemon ------------------------------------------------------------------------------------------

    def launch(self, prepare: Callable[[], None] | None = None) -> None:
        """Start the daemon and return at once."""
        self._printed = os.path.getsize(self.output) if os.path.exists(self.output) else 0
        libc = ctypes.CDLL(None)

        def before() -> None:
            libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL)
            if prepare is not None:
                prepare()

        with open(self.output, "ab") as output:
            self.process = subprocess.Popen(
                [os.path.join(BIN, "twistd"), "-n", "--pidfile=", "qmailpy", "--home", self.home, *self.options],
                env={**os.environ, "PYTHONPATH": ROOT},
                cwd=self.base,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=before,
            )

    def start(self, prepare: Callable[[], None] | None = None) -> Node:
        """Start the daemon and wait until it takes mail."""
        self.launch(prepare)
        self.wait_for("qmailpy is ready")
        self.port = int(_PORT.findall(self.printed())[-1])
        return self

    def printed(self) -> str:
        """What this life of the daemon has printed."""
        with open(self.output, "rb") as source:
            source.seek(self._printed)
            return source.read().decode("utf-8", "replace")

    def wait_for(self, text: str, times: int = 1, limit_s: float = LIMIT_S) -> str:
        """Until the daemon has printed something so often."""
        assert self.process is not None

        def there() -> bool:
            if self.printed().count(text) >= times:
                return True
            assert self.process is not None
            if self.process.poll() is not None:
                raise _EndedError(f"ended without {text!r}:\n{self.printed()}")
            if self.printed().count(" cannot start: ") > 2:  # tried again and again, to no avail
                raise _EndedError(self.printed())
            return False

        try:
            until(there, limit_s)
        except AssertionError as error:
            raise AssertionError(f"no {text!r}: {error}\n{self.printed()[-4000:]}") from None
        return self.printed()

    def pid(self, target: str = "mta-0") -> int:
        status: Any = call(self.home, target, "status")
        return int(status["pid"])

    def kill(self, target: str = "mta-0") -> int:
        """kill -9 of a child; its old process id."""
        pid = self.pid(target)
        os.kill(pid, signal.SIGKILL)
        return pid

    def stop(self, limit_s: float = LIMIT_S) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(limit_s)

    def clean_up(self) -> None:
        """End what is left, by the process ids we know, and remove everything."""
        if self.process is not None and self.process.poll() is None:
            children = []
            with contextlib.suppress(Exception):
                children = [self.pid(each.name) for each in running(self.home)]
            self.process.kill()
            self.process.wait(LIMIT_S)
            for pid in children:
                with contextlib.suppress(AssertionError):
                    until(lambda pid=pid: gone(pid), 5)  # type: ignore[misc]
                if not gone(pid):
                    os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.base, ignore_errors=True)

    def rss(self, target: str = "mta-0") -> int:
        """Octets of memory in use by a child."""
        with open(f"/proc/{self.pid(target)}/status") as source:
            return int(re.findall(r"VmRSS:\s+(\d+) kB", source.read())[0]) * 1024

    # --- mail ------------------------------------------------------------------------------------------------

    def talk(self, **options: Any) -> Talk:
        return Talk(self.port, **options)

    def mailbox(self, user: str, domain: str = "example.org") -> list[bytes]:
        """The messages of a mailbox, in the order of their names (arrival)."""
        return messages_in(self.path("mail", domain, user, "Maildir", "new"))

    def wait_mailbox(self, user: str, count: int, limit_s: float = LIMIT_S) -> list[bytes]:
        """Until a mailbox has so many messages."""
        folder = self.path("mail", "example.org", user, "Maildir", "new")
        try:
            until(lambda: os.path.isdir(folder) and len(os.listdir(folder)) >= count, limit_s)
        except AssertionError as error:
            raise AssertionError(f"{user}: {len(self.mailbox(user))} of {count} messages: {error}") from None
        return self.mailbox(user)

    def empty(self, user: str) -> None:
        folder = self.path("mail", "example.org", user, "Maildir", "new")
        if os.path.isdir(folder):
            for name in os.listdir(folder):
                os.unlink(os.path.join(folder, name))

    # --- the books -------------------------------------------------------------------------------------------

    def records(self, *actions: Action) -> list[LogRecord]:
        """The whole transaction log, as values; with the lines that running workers were about to write."""
        with contextlib.suppress(CommandError):
            call_all(self.home, "mta", "log.flush", timeout_s=2.0)
        files = RealFiles()
        form = LineFormat(load(self.home).log)
        found = []
        for name in ("mail.log", "mail.log_yesterday", "mail.log_current"):
            if not os.path.exists(self.path("log", name)):
                continue
            handle = files.open(self.path("log", name))
            try:
                found += [form.record(line) for line in lines(files, handle)]
            finally:
                files.close(handle)
        return [one for one in found if not actions or one.action in actions]

    def counters(self) -> dict[str, Any]:
        """C{qm counters show --json}, without the start of a process."""
        channels: dict[str, Any] = as_json(*thd_read(self.path("run", "counters")))["channels"]
        return channels

    def metrics(self) -> str:
        """The figures of the endpoint of C{[monitor]}, as L{monitor}."""
        return self.monitor("/metrics").partition("\r\n\r\n")[2]

    def monitor(self, path: str) -> str:
        """All that the endpoint of C{[monitor]} answers, where that is C{unix:run/monitor.sock}."""
        with socket.socket(socket.AF_UNIX) as client, short_path(self.path("run", "monitor.sock")) as name:
            client.settimeout(LIMIT_S)
            client.connect(name)
            client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            found = b""
            while octets := client.recv(65536):
                found += octets
        return found.decode()

    def verify(self) -> None:
        """C{qm counters verify}. @raise AssertionError: the books do not balance."""
        _, lanes = thd_read(self.path("run", "counters"))
        verdict = thd_verify(RealFiles(), self.path("log"), load(self.home).log, lanes)
        if not verdict.equal:
            raise AssertionError("\n".join((*verdict.differences, *verdict.notes)))

    def queued(self) -> list[dict[str, Any]]:
        """What waits in the queue."""
        found: Any = json.loads(self.qmailpy("qm", "directory", "--json"))
        return list(found["messages"] if isinstance(found, dict) else found)


def flat(counters: Mapping[str, Any]) -> Counts:
    """
    Counters in short: event: (messages, recipients, blocks); C{first}, C{in}, C{out}, C{timed} (queue count) and
    C{timed_first}: a number. What is 0 is left out.
    """
    found: Counts = {}
    for channel, row in counters.items():
        short: dict[str, Any] = {}
        for event in ("received", "stored", "delivered", "submitted", "attempted", "rejected", "failed"):
            short[event] = tuple(row[event][unit] for unit in ("messages", "recipients", "blocks"))
        short["first"] = row["delivered"]["first_time_messages"]
        short["timed"] = row["queue_time"]["count"]
        short["timed_first"] = row["queue_first_time"]["count"]
        short["in"] = row["associations"]["in"]
        short["out"] = row["associations"]["out"]
        found[channel] = short
    return found


def grown(before: Counts, after: Counts) -> Counts:
    """What was counted between the two; channels and items without change are left out."""
    found: Counts = {}
    for channel, row in after.items():
        old = before.get(channel, {})
        for item, value in row.items():
            start = old.get(item, (0, 0, 0) if isinstance(value, tuple) else 0)
            more = (
                tuple(n - o for n, o in zip(value, start, strict=True)) if isinstance(value, tuple) else value - start
            )
            if more not in (0, (0, 0, 0)):
                found.setdefault(channel, {})[item] = more
    return found


def trace_and_message(octets: bytes) -> tuple[list[bytes], bytes]:
    """A delivered file: our Return-Path, Delivered-To and Received fields, and what the peer sent (LF line ends)."""
    fields: list[bytes] = []
    at = 0
    while True:
        end = octets.index(b"\n", at) + 1
        while octets[end : end + 1] in (b" ", b"\t"):
            end = octets.index(b"\n", end) + 1
        fields.append(octets[at:end])
        at = end
        if fields[-1].startswith(b"Received:"):
            return fields, octets[at:]
        if len(fields) > 3:
            raise AssertionError(f"no Received field of ours: {fields}")


def without_received(content: bytes) -> bytes:
    """What left us, without the one Received field we put on top (CRLF line ends)."""
    if not content.startswith(b"Received:"):
        raise AssertionError(f"no Received field of ours: {content[:100]!r}")
    end = content.index(b"\r\n") + 2
    while content[end : end + 1] in (b" ", b"\t"):
        end = content.index(b"\r\n", end) + 2
    return content[end:]


class _Shared:
    """The one node a test process keeps for the tests of a class, until another class wants its own."""

    def __init__(self) -> None:
        self.owner: type[NodeCase] | None = None
        self.node: Node | None = None
        self.sink: Sink | None = None
        atexit.register(self.close)

    def close(self) -> None:
        node, self.node, self.owner = self.node, None, None
        if node is not None:
            node.clean_up()
        if self.sink is not None:
            self.sink.close()
            self.sink = None


_shared = _Shared()


class NodeCase(SynchronousTestCase):
    """Tests of one class share a node, C{self.node}, and the sink behind it, C{self.sink}."""

    settings: ClassVar[Settings] = {}
    users: ClassVar[Sequence[str]] = ("alice", "bob")
    fresh: ClassVar[bool] = False  # a node for each test
    timeout = 60

    node: Node
    sink: Sink

    def setUp(self) -> None:
        if _shared.owner is not type(self) or self.fresh or self._is_down():
            _shared.close()
            _shared.sink = Sink()
            _shared.node = self.make_node({**quick(_shared.sink.port), **self.settings})
            _shared.owner = type(self)
            self.begin(_shared.node)
        assert _shared.node is not None and _shared.sink is not None
        self.node, self.sink = _shared.node, _shared.sink
        self.sink.forget()
        for user in (*self.users, "postmaster"):
            self.node.empty(user)
        self.before = self.counted()

    def make_node(self, settings: Settings) -> Node:
        return Node(settings, self.users, copied=True)

    def begin(self, node: Node) -> None:
        """Make the node ready for the tests: starts it; classes may do more."""
        node.start()

    def _is_down(self) -> bool:
        node = _shared.node
        return node is None or node.process is None or node.process.poll() is not None

    def tearDown(self) -> None:
        try:
            self.check_books()
            if "Traceback" in self.log():
                self.fail("\n".join(self.log().splitlines()[-60:]))
        except BaseException:
            _shared.close()  # what is wrong with it is no matter of the next test
            raise

    def check_books(self) -> None:
        """What must hold whenever it is asked."""
        self.node.verify()
        for channel, row in self.node.counters().items():
            for unit in ("messages", "recipients", "blocks"):
                balance = row["delivered"][unit] + row["stored"][unit]
                self.assertEqual(row["received"][unit], balance, f"{channel} {unit}: Received = Delivered + Stored")

    def log(self) -> str:
        """The daemon's own log."""
        with open(self.node.path("log", "qmailpy.log"), errors="replace") as source:
            return source.read()

    def counted(self) -> Counts:
        try:
            return flat(self.node.counters())
        except CommandError:
            return {}

    def expect(self, expected: Counts, limit_s: float = LIMIT_S) -> None:
        """Wait until exactly this was counted since the test began (or C{self.before} was set)."""
        end = time.monotonic() + limit_s
        while (found := grown(self.before, self.counted())) != expected and time.monotonic() < end:
            time.sleep(0.01)
        self.assertEqual(found, expected, f"\nfound {found}")

    def until(self, condition: Callable[[], bool], limit_s: float = LIMIT_S) -> float:
        """L{until}, telling what was counted and recorded when it was in vain."""
        try:
            return until(condition, limit_s)
        except AssertionError as error:
            last = "\n".join(
                f"{one.action.value} {one.source} {one.destination} {one.current_to} {one.file} {one.diagnostic}"
                for one in self.node.records()[-30:]
            )
            raise AssertionError(f"{error}\n{grown(self.before, self.counted())}\n{last}") from None

    def wait_idle(self, limit_s: float = LIMIT_S) -> None:
        """Until nothing is queued any more."""

        def idle() -> bool:
            call_all(self.node.home, "mta", "log.flush")  # then all that they have answered before is counted
            return all(row["stored"]["recipients"] == 0 for row in self.node.counters().values())

        self.until(idle, limit_s)
