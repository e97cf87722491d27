"""
One measurement: send a number of messages to a server and see when they were accepted and when they had arrived.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from statistics import median
from typing import Protocol

from attrs import frozen

from benchmarks import postfix_tools, processes
from benchmarks.node import DOMAIN, REMOTE
from benchmarks.postfix_tools import Shape, Sink

ARRIVE_S = 120.0


class Server(Protocol):
    """What is measured."""

    @property
    def name(self) -> str: ...

    @property
    def pid(self) -> int: ...

    port: int
    submission_port: int
    login: tuple[str, str]

    def new(self, user: str) -> str: ...


@frozen(kw_only=True)
class Run:
    """What one measurement came to."""

    messages: int
    accept_s: float  # until the last message was accepted
    arrive_s: float  # until the last one was in the Maildir, or at the sink
    cpu_s: float  # of all processes of the server

    @property
    def accepted(self) -> float:
        """Messages accepted a second."""
        return self.messages / self.accept_s

    @property
    def arrived(self) -> float:
        """Messages a second from the first connection to the last arrival."""
        return self.messages / self.arrive_s

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds a message."""
        return self.cpu_s * 1000 / self.messages


def middle(runs: list[Run], value: Callable[[Run], float]) -> float:
    """The median of a figure; 0 without runs."""
    return median(map(value, runs)) if runs else 0.0


def to_maildir(server: Server, user: str, shape: Shape, messages: int) -> Run:
    """
    Into a Maildir, which is emptied afterwards.

    @raise OSError: not all of it arrived.
    """
    new = server.new(user)
    _empty(new)
    return _measure(server, f"{user}@{DOMAIN}", shape, messages, lambda: _count(new), lambda: _empty(new))


def to_sink(server: Server, sink: Sink, shape: Shape, messages: int, domain: str = REMOTE) -> Run:
    """
    Through the server to the sink.

    @param domain: one whose mail goes there.

    @raise OSError: not all of it arrived.
    """
    before = sink.messages
    return _measure(server, f"sink@{domain}", shape, messages, lambda: sink.messages - before, lambda: None)


def _measure(
    server: Server, recipient: str, shape: Shape, messages: int, arrived: Callable[[], int], tidy: Callable[[], None]
) -> Run:
    cpu = processes.cpu_s(server.pid)
    taken = postfix_tools.send(server, recipient, shape, messages)
    accepted = time.monotonic()
    begun = accepted - taken
    while (there := arrived()) < messages:
        if time.monotonic() - accepted > ARRIVE_S:
            raise OSError(f"{server.name}: {there} of {messages} messages arrived ({shape})")
        time.sleep(0.01)
    ended = time.monotonic()
    run = Run(
        messages=messages,
        accept_s=accepted - begun,
        arrive_s=ended - begun,
        cpu_s=processes.cpu_s(server.pid) - cpu,
    )
    tidy()
    return run


def _count(directory: str) -> int:
    try:
        return len(os.listdir(directory))
    except FileNotFoundError:
        return 0


def _empty(directory: str) -> None:
    """Remove what is in a directory; the directory stays, so that no server has to make it again."""
    try:
        entries = list(os.scandir(directory))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
