"""
External commands: started with a clean environment, in a process group and a directory of their own, within limits of
time, memory and file size, and killed with all they started when their time is over.

The limits are set by C{prlimit}, the group by C{setsid} (both of util-linux), the directory by C{env -C}; each becomes
the next, and the last the command. There is no shell. It runs as the user of the mail worker. docs/conversion.md tells
what it is given and how it answers.

A command is over when it has ended, whoever may still hold its output: what it has left behind in its group is killed,
and whoever has left that too is waited for no longer than L{LINGER_S}.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall, IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from qmailpy.values import one_line

OUTPUT = 4096  # octets of what a command says that are kept
FLOOD = 1 << 20  # octets of what a command says, after which it is not listened to for a while:
REST_S = 0.5  # one that speaks without end would keep the worker from everybody else's mail
LINGER_S = 1.0  # for what a command has said to be read when it has ended and its output has not
OPTIONS = 65536  # of its answer in OUTPUT_OPTIONS
_VARIABLE = re.compile(r"\$(?:\{([A-Z_]+)\}|([A-Z_]+))")
_SHORT = {"INPUT": "INPUT_FILE", "OUTPUT": "OUTPUT_FILE"}


class Answer(Enum):
    """What a command has decided."""

    DONE = "done"  # OUTPUT_FILE is what it is to be; without that file nothing changes
    NO_CHANGE = "no change"
    DELETE = "delete"  # the part
    HOLD = "hold"  # the message, for an operator
    RETURN = "return"  # the message, to its sender
    DISCARD = "discard"  # the message, without a word
    AGAIN = "try again"


EXIT: Mapping[int, Answer] = {
    0: Answer.DONE,
    75: Answer.AGAIN,  # EX_TEMPFAIL
    80: Answer.NO_CHANGE,
    81: Answer.DELETE,
    82: Answer.HOLD,
    83: Answer.RETURN,
    84: Answer.DISCARD,
}
"""Exit statuses; any other is a failure, and the message is tried again."""

STATUS: Mapping[str, Answer] = {
    "NOCHANGE": Answer.NO_CHANGE,
    "FORCEDELETE": Answer.DELETE,
    "FORCEHOLD": Answer.HOLD,
    "FORCERETURN": Answer.RETURN,
    "FORCEDISCARD": Answer.DISCARD,
    "AGN": Answer.AGAIN,
    "178030178": Answer.DELETE,
    "178030250": Answer.HOLD,
    "178029946": Answer.RETURN,
    "178030259": Answer.DISCARD,
    "178028698": Answer.AGAIN,
}
"""C{STATUS} in OUTPUT_OPTIONS, iMTA's names (without PMDF__) and numbers."""


@frozen(kw_only=True)
class Invocation:
    """A command to be run."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    directory: str
    timeout_s: float
    memory_octets: int
    output_octets: int
    stdin: int | None = None  # a descriptor, which becomes its standard input; C{None} = it has an empty one

    def whole(self) -> list[str]:
        """The arguments with what sets group and limits before them."""
        limits = [
            f"--as={self.memory_octets}",
            f"--fsize={self.output_octets}",
            f"--cpu={int(self.timeout_s) + 1}",
            "--core=0",
        ]
        # env goes to the directory, since Twisted spawns only who stays where we are, and forks, slowly, the others.
        return [_ENV, "-C", self.directory, _SETSID, _PRLIMIT, *limits, "--", *self.argv]


@frozen(kw_only=True)
class Ended:
    """How it ended."""

    status: int | None = None  # exit status; C{None} when it was killed, or could not be started
    why: str = ""  # for the log, where there is no status
    said: str = ""  # the end of what it wrote to standard output and error, one line


class Run(Protocol):
    """What runs commands; an argument, so that tests and the command line have their own."""

    def __call__(self, invocation: Invocation) -> Deferred[Ended]:
        """Run it. Never fails."""


def _handles(invocation: Invocation) -> dict[int, int | str]:
    """What a command's standard input, output and error are, as C{spawnProcess} wants it."""
    return {0: "w" if invocation.stdin is None else invocation.stdin, 1: "r", 2: "r"}


def _found(program: str) -> str:
    return shutil.which(program, path="/usr/bin:/bin:/usr/local/bin") or f"/usr/bin/{program}"


_ENV, _SETSID, _PRLIMIT = _found("env"), _found("setsid"), _found("prlimit")


def filled(argv: Sequence[str], variables: Mapping[str, str]) -> tuple[str, ...]:
    """
    Arguments with variables put in: C{$NAME} or C{${NAME}}; each stays one argument, whatever is in it.

    A name that is not known is left as it is.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        return variables.get(_SHORT.get(name, name), match[0])

    return tuple([_VARIABLE.sub(value, one) for one in argv])


def options(octets: bytes) -> dict[str, str]:
    """The lines C{NAME=value} a command has left in OUTPUT_OPTIONS."""
    found: dict[str, str] = {}
    for line in octets[:OPTIONS].decode("utf-8", "replace").splitlines():
        name, equals, value = line.partition("=")
        if equals:
            value = value.strip()
            if len(value) > 1 and value[0] == value[-1] == '"':
                value = value[1:-1]
            found.setdefault(name.strip().upper(), one_line(value, 500))
    return found


def answer(ended: Ended, said: Mapping[str, str]) -> Answer:
    """
    What a command has decided: by its exit status, which C{STATUS} makes more exact.

    @param said: L{options}.
    """
    found = EXIT.get(ended.status, Answer.AGAIN) if ended.status is not None else Answer.AGAIN
    named = said.get("STATUS", "").upper().removeprefix("PMDF__")
    if found is Answer.DONE and named:
        if named.startswith("0X"):
            try:
                named = str(int(named, 16))
            except ValueError:
                return Answer.AGAIN
        return STATUS.get(named, Answer.AGAIN) if named not in ("0", "1") else found
    return found


_STOPS = "the mail server stops"


class _ReactorProcess(ProcessProtocol):
    """One command of the daemon's."""

    def __init__(self, ended: Deferred[Ended], clock: IReactorTime) -> None:
        self._ended = ended
        self._clock = clock
        self._lingering: IDelayedCall | None = None
        self._said = b""
        self._heard = 0  # octets since it was last not listened to
        self._resting: IDelayedCall | None = None
        self.why = ""
        self.pid = 0

    def outReceived(self, data: bytes) -> None:
        self._said = (self._said + data)[-OUTPUT:]
        self._heard += len(data)
        if self._heard >= FLOOD and self._resting is None:
            transport: Any = self.transport
            transport.pauseProducing()
            self._resting = self._clock.callLater(REST_S, self._listen)

    def _listen(self) -> None:
        self._heard, self._resting = 0, None
        transport: Any = self.transport
        transport.resumeProducing()

    def errReceived(self, data: bytes) -> None:
        self.outReceived(data)

    def kill(self, why: str) -> None:
        """End it and all it has started."""
        self.why = self.why or why
        kill_group(self.pid)
        if self.transport is not None:
            with contextlib.suppress(ProcessExitedAlready):  # that comes to us in a moment
                self.transport.signalProcess("KILL")

    def processExited(self, reason: Failure) -> None:
        kill_group(self.pid)  # what it has left behind, which may hold its output open
        if self.transport is not None:
            self._lingering = self._clock.callLater(LINGER_S, self.transport.loseConnection)

    def processEnded(self, reason: Failure) -> None:
        for timer in (self._lingering, self._resting):
            if timer is not None and timer.active():
                timer.cancel()
        problem: Any = reason.value
        status = problem.exitCode if not self.why else None
        why = self.why or ("" if status is not None else f"killed by signal {problem.signal}")
        self._ended.callback(Ended(status=status, why=why, said=_line(self._said)))


class ReactorRun:
    """Runs commands beside the reactor."""

    def __init__(self, reactor: Any) -> None:
        """@param reactor: IReactorProcess and IReactorTime."""
        self._spawn: IReactorProcess = reactor
        self._clock: IReactorTime = reactor
        self._running: set[_ReactorProcess] = set()
        self._stopped = False

    def __call__(self, invocation: Invocation) -> Deferred[Ended]:
        ended: Deferred[Ended] = Deferred()
        if self._stopped:
            ended.callback(Ended(why=_STOPS))
            return ended
        process = _ReactorProcess(ended, self._clock)
        argv = invocation.whole()
        try:
            transport = self._spawn.spawnProcess(
                process, argv[0], argv, env=dict(invocation.environment), childFDs=_handles(invocation)
            )
        except OSError as problem:
            ended.callback(Ended(why=f"cannot be started: {problem.strerror}"))
            return ended
        process.pid = transport.pid
        self._running.add(process)
        timer = self._clock.callLater(
            invocation.timeout_s, process.kill, f"took longer than {invocation.timeout_s:g} s"
        )

        def over(result: Ended) -> Ended:
            self._running.discard(process)
            if timer.active():
                timer.cancel()
            return result

        transport.closeStdin()
        return ended.addCallback(over)

    def stop(self) -> None:
        """End what runs, and start nothing more."""
        self._stopped = True
        for process in list(self._running):
            process.kill(_STOPS)


def run_now(invocation: Invocation) -> Deferred[Ended]:
    """Runs a command and waits for it: for commands of ours that have no reactor."""
    ended: Deferred[Ended] = Deferred()
    try:
        process = subprocess.Popen(
            invocation.whole(),
            env=dict(invocation.environment),
            stdin=subprocess.DEVNULL if invocation.stdin is None else invocation.stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except OSError as problem:
        ended.callback(Ended(why=f"cannot be started: {problem.strerror}"))
        return ended
    said, late = _output(process, time.monotonic() + invocation.timeout_s)
    status = process.wait()
    if late:
        ended.callback(Ended(why=f"took longer than {invocation.timeout_s:g} s", said=_line(said)))
        return ended
    why = "" if status >= 0 else f"killed by signal {-status}"
    ended.callback(Ended(status=status if status >= 0 else None, why=why, said=_line(said)))
    return ended


def _output(process: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, bool]:
    """
    Wait for a command to end.

    @return: the end of what it said; and whether it had to be ended.
    """
    assert process.stdout is not None
    said, late, over = b"", False, 0.0
    with process.stdout as pipe:
        open_ = [pipe.fileno()]
        while True:
            ready, _, _ = select.select(open_, [], [], 0.02)
            if ready:
                octets = os.read(open_[0], 65536)
                said = (said + octets)[-OUTPUT:]
                if not octets:
                    open_ = []
            now = time.monotonic()
            if over:
                if not open_ or now > over + LINGER_S:
                    return said, late
            elif process.poll() is not None:
                kill_group(process.pid)
                over = now
            elif now > deadline:
                late = True
                kill_group(process.pid)
                process.kill()


def kept_in_memory(octets: bytes) -> int:
    """
    A little for a command's standard input; the descriptor is the caller's.

    @raise OSError: there is no descriptor left.
    """
    handle = os.memfd_create("stdin", os.MFD_CLOEXEC)
    os.write(handle, octets)
    os.lseek(handle, 0, os.SEEK_SET)
    return handle


def kill_group(leader: int, kill: Callable[[int, int], None] = os.killpg) -> None:
    """End every process of a group that may be gone."""
    if leader > 1:
        try:
            kill(leader, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return


def _line(octets: bytes) -> str:
    return one_line(octets.decode("utf-8", "replace").strip().replace("\n", " / ")[-400:])
