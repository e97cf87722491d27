"""
Programs that take a message on their standard input: those of pipe channels and of users' .qmail files.

They are run as conversion commands are (L{qmailpy.channels.conversions.command}): with an environment of their own, in
a process group of their own, within limits of time, memory and file size, and killed with all they started when their
time is over; as the user of the mail worker. The message has LF line ends, as programs on Unix expect it, and is in a
file, so that no program has to read it.

How a program has ended says what becomes of the recipient:

  - 0: it has the message. 99: so it has, and what a .qmail file says behind it is not done.
  - 100, and 64, 65, 70, 76, 77, 78, 112 (qmail-command(8)): the message fails. 67 and 68 as well: no such user, no such
    host (sysexits.h).
  - 111 and anything else, a signal or a limit of ours: it is tried again.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Coroutine, Mapping, Sequence
from enum import Enum
from typing import Any, Protocol, TypeVar

from attrs import frozen
from twisted.internet.defer import Deferred

from qmailpy.channels.conversions.command import Ended, Invocation, Run
from qmailpy.interfaces import InThread
from qmailpy.values import Content, Disposition, Reply, Verdict
from qmailpy.wire.lines import to_lf

PATH = "/usr/local/bin:/usr/bin:/bin"
_FAILED = frozenset({64, 65, 67, 68, 70, 76, 77, 78, 100, 112})
_CODES: Mapping[int, str] = {65: "5.6.0", 67: "5.1.1", 68: "5.1.2", 77: "5.7.0"}
_TEXT = 300  # characters of what a program has said that the sender is told

T = TypeVar("T")


class Took(Enum):
    """What a program has made of a message."""

    TAKEN = "taken"
    LAST = "last"  # taken, and nothing else is to be done
    FAILED = "failed"
    AGAIN = "again"


@frozen(kw_only=True)
class Limits:
    """What a program may use."""

    timeout_s: float
    memory_octets: int
    file_octets: int  # size of a file it writes


class IPrograms(Protocol):
    """What runs programs; an argument, so that tests have their own."""

    async def run(
        self, argv: Sequence[str], environment: Mapping[str, str], directory: str, content: Content, limits: Limits
    ) -> Ended:
        """
        Run one.

        @param environment: all it gets but C{PATH}.
        @param directory: where it begins.
        @raise OSError: the message cannot be read.
        """


class Programs:
    """L{IPrograms} beside the reactor."""

    def __init__(self, run: Run, in_thread: InThread, scratch: str) -> None:
        """
        @param in_thread: runs a blocking function.
        @param scratch: directory for messages that are being read; made when it is not there.
        """
        self._run = run
        self._in_thread = in_thread
        self._scratch = scratch

    async def run(
        self, argv: Sequence[str], environment: Mapping[str, str], directory: str, content: Content, limits: Limits
    ) -> Ended:
        handle: int = await self._in_thread(thd_file, self._scratch, content)
        try:
            invocation = Invocation(
                argv=tuple(argv),
                environment={"PATH": PATH, **environment},
                directory=directory,
                timeout_s=limits.timeout_s,
                memory_octets=limits.memory_octets,
                output_octets=limits.file_octets,
                stdin=handle,
            )
            return await self._run(invocation)
        finally:
            os.close(handle)


def thd_file(scratch: str, content: Content) -> int:
    """
    The message with LF line ends in a file without a name, to be read from its beginning.

    @raise OSError: it cannot be read, or not be written.
    """
    os.makedirs(scratch, mode=0o700, exist_ok=True)
    with tempfile.TemporaryFile(dir=scratch) as target:
        carry = b""
        for chunk in content.chunks():
            octets = carry + chunk
            carry = b""
            if octets.endswith(b"\r"):  # its LF may be in the next piece
                octets, carry = octets[:-1], b"\r"
            target.write(to_lf(octets))
        target.write(carry)
        target.flush()
        handle = os.dup(target.fileno())
    os.lseek(handle, 0, os.SEEK_SET)
    return handle


def took(ended: Ended) -> Took:
    """What a program's end means."""
    if ended.status == 0:
        return Took.TAKEN
    if ended.status == 99:
        return Took.LAST
    return Took.FAILED if ended.status in _FAILED else Took.AGAIN


def not_taken(ended: Ended) -> Disposition:
    """What is told of a program that has not taken the message."""
    said = ended.said[:_TEXT] or ended.why
    if took(ended) is Took.FAILED:
        reply = Reply(554, _CODES.get(ended.status or 0, "5.3.0"), said or f"The program ended with {ended.status}")
        return Disposition(verdict=Verdict.FAILED, reply=reply)
    if not said:
        said = f"The program ended with {ended.status}"
    # What went wrong with a program on our side is nothing that its sender is to read in a delay notice.
    reply = Reply(451, "4.3.0", "The program that takes the message cannot do so now")
    return Disposition(verdict=Verdict.DEFERRED, reply=reply, diagnostic=f"{reply}: {said}")


async def gathered(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of several that do not wait for each other, in order; as they are, they never fail."""
    ended = [Deferred.fromCoroutine(one) for one in work]
    return [await one for one in ended]
