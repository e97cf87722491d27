"""
Opening a shard: its lock, its directories, recovery (docs/queue.md s.6) and a journal segment to write into.

Whatever goes wrong leaves the shard unlocked and nothing decided: who tries next finds what this one found, and, when
the disk failed, a note that it did (queue.doubt).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import cast

from attrs import frozen
from twisted.internet.interfaces import IReactorTime

from qmailpy.config.schema import Config
from qmailpy.disk.files import Files
from qmailpy.errors import QmailpyError
from qmailpy.interfaces import IChannel, IDurableDelivery, IEvents, InThread, IRecorder
from qmailpy.queue.committer import ICommitter
from qmailpy.queue.ids import shard_code
from qmailpy.queue.journal import Journal
from qmailpy.queue.layout import Layout
from qmailpy.queue.recovery import Recovered, Recovery
from qmailpy.queue.shelf import Shelf
from qmailpy.queue.verdicts import INotices


class ShardBusy(QmailpyError):
    """Another process owns the shard."""


@frozen(kw_only=True)
class Surroundings:
    """What a shard works with; everything that differs between the daemon, a command and a test."""

    config: Config
    files: Files
    recorder: IRecorder
    channels: Mapping[str, IChannel]
    notices: INotices
    clock: IReactorTime
    seconds: Callable[[], float]  # wall clock
    chance: Random
    in_thread: InThread
    committer: Callable[[Journal], ICommitter]  # started
    replay: bool  # deliveries may have been lost: anything but our own process may have died
    stopped: Callable[[str], bool] = lambda name: False  # whether an operator has stopped a channel
    events: IEvents | None = None  # who is told of events; C{None} = nobody


@frozen
class Opened:
    """A shard that is locked and recovered, its journal begun."""

    name: str
    layout: Layout
    shelf: Shelf
    journal: Journal
    durable: dict[str, IDurableDelivery]
    recovered: Recovered
    lock: int


def thd_open(name: str, around: Surroundings) -> Opened:
    """
    Lock and recover a shard. Blocks, and may ask the reactor things: not for its thread.

    @param name: the shard's, "0" ...
    @raise ShardBusy: another process has it.
    @raise OSError: the disk cannot be read or written; nothing was decided.
    """
    config, files = around.config, around.files
    layout = Layout(config.path("queue", name), shard_code(name))
    shelf = Shelf(files, layout, config.queue.spill_octets)
    files.mkdir(layout.root)
    try:
        lock = files.lock(layout.lock)
    except BlockingIOError:
        raise ShardBusy(f"queue shard {name} is in use by another process") from None
    try:
        try:
            shelf.thd_make(tuple(config.channels))
        except OSError:  # perhaps of what a former life had written; whoever starts next would not be told again
            shelf.doubt.thd_note()
            raise
        journal = Journal(files, layout.journal, layout.corrupt, config.queue.segment_octets)
        durable = {
            channel: cast(IDurableDelivery, way)
            for channel, way in around.channels.items()
            if IDurableDelivery.providedBy(way)
        }
        recovered = Recovery(
            files=files,
            layout=layout,
            journal=journal,
            shelf=shelf,
            recorder=around.recorder,
            durable=durable,
            replay=around.replay,
        ).thd_run()
        # Channels that are no longer configured may have mail in the journal, which has to go somewhere.
        others = {channel for message in recovered.state.messages.values() for channel in message.copies}
        if not others <= set(config.channels):
            shelf.thd_make(tuple(sorted(others)))
        journal.start()
    except BaseException:
        files.close(lock)
        raise
    return Opened(name, layout, shelf, journal, durable, recovered, lock)
