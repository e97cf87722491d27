"""
A large queue: how soon after a restart mail moves again, and what a waiting message costs in memory.

The messages are put where the daemon would have put them after a failed attempt, with the queue's own classes but
without the daemon: through SMTP it would take minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from random import Random
from zlib import crc32

from attrs import frozen

from benchmarks import processes
from benchmarks.measure import to_sink
from benchmarks.node import Node
from benchmarks.postfix_tools import Shape, Sink
from qmailpy.config.load import load
from qmailpy.disk.files import RealFiles
from qmailpy.queue.ids import IdSource, shard_code, to_id
from qmailpy.queue.layout import Layout
from qmailpy.queue.shelf import Shelf, filing
from qmailpy.queue.state import Copy, Message, Pending
from qmailpy.values import Envelope, MemoryContent, Recipient

BATCH = 2000
DUE = 500  # of the messages; the others wait for an hour and more
DOMAINS = 1000
QUIET_S = 2.0  # a worker that has used next to nothing for so long has taken up its queue
LIMIT_S = 180.0


@frozen(kw_only=True)
class Waiting:
    """What was found."""

    messages: int
    written_s: float  # time to write the queue, for information
    greeting_s: float  # from the start of the daemon to its first greeting
    first_s: float  # ... to the first message at the sink
    listed_s: float  # ... to the last one known
    octets_each: float  # growth of the worker's memory a message

    def describe(self) -> str:
        """One line."""
        return (
            f"{self.messages} messages: greets after {self.greeting_s:.2f} s, first delivery after {self.first_s:.2f} "
            f"s, all known after {self.listed_s:.1f} s, {self.octets_each:.0f} octets of memory each"
        )


def measure_waiting(node: Node, sink: Sink, messages: int, say: Callable[[str], None]) -> Waiting:
    """
    Measure, on a home whose daemon does not run and whose queue is empty.

    @raise OSError: it did not come to an end.
    """
    shape = Shape(octets=1024, connections=5, reuse=True)
    node.start()
    try:
        to_sink(node, sink, shape, DUE)
        _quiet(node)
        before = processes.rss(node.worker())
    finally:
        node.stop()
    say(f"writing {messages} messages into the queue")
    begun = time.monotonic()
    for done in thd_fill(node.home, messages):
        if time.monotonic() - begun > 10 * LIMIT_S:
            raise OSError(f"only {done} of {messages} messages could be written")
    written = time.monotonic() - begun
    say("starting")
    seen = sink.messages
    begun = time.monotonic()
    node.launch()
    try:
        greeting = node.wait_open()
        while sink.messages == seen:
            if time.monotonic() - begun > LIMIT_S:
                raise OSError(f"no delivery within {LIMIT_S:.0f} s of the start")
            time.sleep(0.005)
        first = time.monotonic() - begun
        _quiet(node)
        listed = time.monotonic() - begun - QUIET_S
        after = processes.rss(node.worker())
    finally:
        node.stop()
    return Waiting(
        messages=messages,
        written_s=written,
        greeting_s=greeting,
        first_s=first,
        listed_s=listed,
        octets_each=(after - before) / messages,
    )


def _quiet(node: Node) -> None:
    """Wait until the worker has nothing to do."""
    pid = node.worker()
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        used = _own_cpu(pid)
        time.sleep(QUIET_S)
        if _own_cpu(pid) - used < 0.05 * QUIET_S:
            return
    raise OSError(f"the worker is still busy after {LIMIT_S:.0f} s")


def _own_cpu(pid: int) -> float:
    one = processes.process(pid)
    if one is None:
        raise OSError("the worker has gone")
    return one.cpu_s


def thd_fill(home: str, messages: int) -> Iterator[int]:
    """Put messages into shard 0 as files, a batch a step: yields how many there are. Blocks."""
    config = load(home)
    files = RealFiles()
    layout = Layout(config.path("queue", "0"), shard_code("0"))
    shelf = Shelf(files, layout, config.queue.spill_octets)
    shelf.thd_make(tuple(config.channels))
    chance = Random(1)  # noqa: S311 - reproducible
    now = time.time()
    ids = IdSource(lambda: now - 7200.0, "0", 0, chance)
    for start in range(0, messages, BATCH):
        batch = [_message(ids, number, now, chance) for number in range(start, min(start + BATCH, messages))]
        shelf.thd_file([filing(message) for message in batch])
        yield start + len(batch)


def _message(ids: IdSource, number: int, now: float, chance: Random) -> Message:
    """A message that failed once; due now or in an hour to a day."""
    address = f"user{number}@d{number % DOMAINS}.example"
    recipient = Recipient(address=address, original=address, channel="tcp_local", host=address.partition("@")[2])
    envelope = Envelope(
        sender="load@load.example.net",
        recipients=(recipient,),
        source="tcp_local",
        arrival=now - 7200.0,
        message_id=f"<{number}@load.example.net>",
        source_system="load.example.net ([127.0.0.1])",
    )
    content = (
        b"Received: from load.example.net ([127.0.0.1])\r\n\tby mail.example.org with ESMTP;\r\n"
        b"\tTue, 1 Jan 2030 00:00:00 +0000\r\n"
        b"From: <load@load.example.net>\r\nTo: <%s>\r\nSubject: waiting\r\n\r\n" % address.encode()
    ) + b"It has waited for two hours.\r\n" * 30
    key = ids.next_number()
    due = now if number % max(1, 200_000 // DUE) == 0 else now + chance.uniform(3600.0, 86400.0)
    pending = Pending(recipient, 1, due, "451 4.4.1 connection refused")
    copy = Copy("tcp_local", {0: pending}, sequence=1)
    message = Message(
        key,
        to_id(key, ids.code),
        envelope,
        MemoryContent(content),
        len(content),
        crc32(content),
        {"tcp_local": copy},
    )
    message.generation = 1  # as if it came from the journal: all its files are to be written
    message.channels = ("tcp_local",)
    return message
