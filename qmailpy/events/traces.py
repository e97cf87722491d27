"""
Traces of protocol, as iMTA's master_debug and slave_debug: what a channel and its hosts, or a listener and its clients,
say to each other, written to C{HOME/log/trace/NAME-TIME-PROCESS.log} from now on, for a while.

Switched on and off while the daemon runs (C{qmailpy qm trace}), by each process for itself. While nothing is traced
sessions pay for a look at C{active}, or at an attribute of their own that is C{None}. A file ends at C{OCTETS}, and a
trace at its time; secrets and, unless they are wanted, messages are left out (L{qmailpy.wire.transcript}).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from attrs import define, field, frozen
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from qmailpy.values import one_line
from qmailpy.wire.transcript import Transcript

FOLDER = "trace"
OCTETS = 10 * 1024 * 1024
"""Of a file; what comes then is not written."""

MOST = 20
"""Traces at once, in a process."""

LISTENER = "listener:"


@frozen(kw_only=True)
class Wanted:
    """What is to be traced."""

    what: str  # a channel, "listener:NAME", or a destination: a domain or host, or ".domain" for all below it
    client: str = ""  # an IP address: only sessions with it; "" = any
    minutes: float = 60.0  # from now on; 0 = until it is switched off
    sessions: int = 0  # the next ones; 0 = all
    content: bool = False  # messages, too


@define(eq=False)
class Trace:
    """A trace that is on."""

    wanted: Wanted
    path: str
    handle: int = field(repr=False)
    seconds: Callable[[], float] = field(repr=False)
    written: int = 0
    begun: int = 0  # sessions
    unreached: int = 0  # of these, without a connection
    timer: IDelayedCall | None = None
    broken: str = ""

    @property
    def full(self) -> bool:
        """Whether it takes no more sessions."""
        return bool(self.broken) or bool(self.wanted.sessions and self.begun - self.unreached >= self.wanted.sessions)

    def write(self, number: int, text: str) -> None:
        """A line of a session."""
        if self.broken or self.handle < 0:
            return
        now = self.seconds()
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now)) + f".{int(now % 1 * 1000):03d}"
        octets = f"{stamp} [{number}] {text}\n".encode("utf-8", "replace")
        if self.written + len(octets) > OCTETS:
            self.broken = f"the file has its {OCTETS} octets"
            octets = f"{stamp} {self.broken}: nothing more is written\n".encode()
        try:
            os.write(self.handle, octets)  # seldom, and short: not worth a thread
        except OSError as error:
            self.broken = error.strerror or str(error)
        self.written += len(octets)

    def close(self) -> None:
        """Nothing more is written."""
        if self.timer is not None and self.timer.active():
            self.timer.cancel()
        handle, self.handle = self.handle, -1
        if handle >= 0:
            os.close(handle)


class Session:
    """One session in a trace; its methods are the halves of L{Transcript}."""

    def __init__(self, trace: Trace, about: str, *, pop3: bool = False) -> None:
        self.trace = trace
        trace.begun += 1
        self._number = trace.begun
        self._transcript = Transcript(self.note, content=trace.wanted.content, pop3=pop3)
        self.commands = self._transcript.commands
        self.replies = self._transcript.replies
        self.note(about)

    def note(self, text: str) -> None:
        """A line that neither side has said."""
        self.trace.write(self._number, text)

    def unreached(self, why: str) -> None:
        """There was no connection."""
        self.trace.unreached += 1
        self.note(f"not reached: {one_line(why, 500)}")

    def ended(self, why: str) -> None:
        """The connection is gone."""
        self._transcript.end()
        self.note(f"closed: {one_line(why, 500)}" if why else "closed")


class Traces:
    """
    Those of a process.

    @ivar active: whether there are any.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, folder: str, process: str, seconds: Callable[[], float]) -> None:
        """
        @param folder: HOME/log/trace.
        @param process: "mta-0".
        @param seconds: the time of day.
        """
        self.active = False
        self._clock = clock
        self._folder = folder
        self._process = process
        self._seconds = seconds
        self._on: list[Trace] = []
        self._configured: set[str] = set()

    def switch_on(self, wanted: Wanted) -> str:
        """
        Begin a trace.

        @return: the path of its file.
        @raise OSError: it cannot be made.
        @raise ValueError: there are too many.
        """
        if len(self._on) >= MOST:
            raise ValueError(f"there are {MOST} traces already; end some with: qmailpy qm trace off")
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", wanted.what)[:60].strip(".") or "_"
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(self._seconds()))
        for more in ("", *(f".{number}" for number in range(1, 100))):
            path = os.path.join(self._folder, f"{name}-{stamp}-{self._process}{more}.log")
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except FileExistsError:
                continue
            break
        else:
            raise FileExistsError(17, "File exists", path)
        trace = Trace(wanted, path, handle, self._seconds)
        if wanted.minutes:
            trace.timer = self._clock.callLater(wanted.minutes * 60.0, self._end, trace)
        self._on.append(trace)
        self.active = True
        return path

    def switch_off(self, what: str = "") -> list[str]:
        """
        End the traces of C{what}, "" = all.

        @return: their files.
        """
        ended = [trace for trace in self._on if not what or trace.wanted.what.lower() == what.lower()]
        for trace in ended:
            self._end(trace)
        return [trace.path for trace in ended]

    def current(self) -> list[Trace]:
        """Those that are on."""
        return list(self._on)

    def configure(self, channels: Iterable[str]) -> None:
        """The channels with master_debug; at the start and after each reload."""
        wanted = set(channels)
        for name in self._configured - wanted:
            self.switch_off(name)
        for name in wanted - self._configured:
            try:
                self.switch_on(Wanted(what=name, minutes=0))
            except (OSError, ValueError) as error:
                self._log.error("channel {name} cannot be traced: {error}", name=name, error=str(error))
        self._configured = wanted

    def close(self) -> None:
        """The process ends."""
        self.switch_off()

    def _end(self, trace: Trace) -> None:
        if trace in self._on:
            self._on.remove(trace)
            trace.close()
        self.active = bool(self._on)

    def outgoing(
        self, channel: str, names: Sequence[str], host: str, address: str, before: Session | None = None
    ) -> Session | None:
        """
        The trace of a session of ours with another host.

        @param names: the domain or relay it is for, and the domains of its recipients.
        @param before: the one it has; kept where it is right still.
        """
        for trace in self._on:
            what = trace.wanted.what.lower()
            if what == channel.lower() or any(_is_below(name, what) for name in (*names, host, address)):
                found = self._session(trace, address, f"{channel} to {host} [{address}] for {names[0]}", before)
                if found is not None:
                    return found
        return None

    def incoming(self, listener: str, ip: str, *, pop3: bool = False) -> Session | None:
        """The trace of a session of a client."""
        for trace in self._on:
            if trace.wanted.what.lower() == f"{LISTENER}{listener}".lower():
                found = self._session(trace, ip, f"{listener} from [{ip}]", pop3=pop3)
                if found is not None:
                    return found
        return None

    def _session(
        self, trace: Trace, address: str, about: str, before: Session | None = None, *, pop3: bool = False
    ) -> Session | None:
        if trace.wanted.client not in ("", address):
            return None
        if before is not None and before.trace is trace:
            return before
        return None if trace.full else Session(trace, about, pop3=pop3)


def _is_below(name: str, what: str) -> bool:
    name = name.lower()
    return name == what or (what.startswith(".") and name.endswith(what))


def to_json(trace: Trace) -> Mapping[str, str | int]:
    """A trace as it is told over the control socket."""
    return {
        "what": trace.wanted.what,
        "client": trace.wanted.client,
        "file": trace.path,
        "octets": trace.written,
        "sessions": trace.begun,
        "ended": trace.broken,
    }
