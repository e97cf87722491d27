"""A recorder that keeps its records in a list: the fake of L{IRecorder}."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from attrs import define, evolve, field
from zope.interface import implementer

from qmailpy.interfaces import BooksCheckpoint, IRecorder
from qmailpy.records.record import LogRecord
from qmailpy.stats.fold import apply
from qmailpy.stats.items import STORED, Table, zeros


@implementer(IRecorder)
@define(eq=False)
class MemoryRecorder:
    """
    @ivar records: everything written, numbered as the real one does; offsets of a checkpoint are positions here.
    @ivar synced: how many of them were "durable" at the last L{thd_sync}.
    """

    lane: str = "0"
    records: list[LogRecord] = field(factory=list)
    synced: int = 0
    behind: bool = False

    def write(self, records: Iterable[LogRecord]) -> None:
        for record in records:
            self.records.append(evolve(record, lane=self.lane, sequence=len(self.records) + 1, process=1))

    def flush(self) -> None:
        pass

    def checkpoint(self) -> BooksCheckpoint:
        return BooksCheckpoint(0, len(self.records), len(self.records), {})

    def stored(self, channel: str) -> tuple[int, int, int]:
        table: Table = {}
        for record in self.records:
            apply(table, record)
        messages, recipients, size = table.get(channel, zeros())[STORED : STORED + 3]
        return messages, recipients, size

    def thd_sync(self) -> None:
        self.synced = len(self.records)

    @property
    def sequence(self) -> int:
        return len(self.records)

    def thd_recover(self, base: BooksCheckpoint | None, ids: Container[str] | None = None) -> Sequence[LogRecord]:
        behind = self.records[base.offset if base is not None else 0 :]
        return [one for one in behind if ids is None or (one.file.id if one.file is not None else "") in ids]

    def actions(self) -> str:
        """The action letters in order, C{"OEC"}: the shortest way to say what happened."""
        return "".join(record.action.value for record in self.records)
