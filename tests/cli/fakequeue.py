"""A queue in memory for the queue manager, and a worker that answers the control methods about one."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any

from attrs import evolve

from qmailpy.cli.queueview import Looked, QueuedMessage, ignored
from qmailpy.control import Json
from qmailpy.errors import CommandError
from qmailpy.queue.entries import (
    BUSY,
    DONE,
    UNKNOWN,
    ActionResult,
    ChannelSummary,
    HistoryEvent,
    Leaving,
    MessageEnvelope,
    MessageRecipient,
    MessageStanding,
    QueueEntry,
    QueueFilter,
    QueueJob,
    ShapeRow,
    Target,
    from_json,
    to_json,
)
from qmailpy.queue.shape import AgeCount
from qmailpy.queue.showing import Found
from qmailpy.queue.state import Copy, Pending
from qmailpy.queue.texts import text_of
from qmailpy.values import Envelope, Recipient

CONTENT = b"Subject: hello\r\n\r\nna\xc3\xafve \x1b[2J text\r\n.\r\n"
IDS = tuple(f"0c{number:013d}" for number in range(1, 10))


def entry(number: int, **changes: Any) -> QueueEntry:
    """Message C{number}, from 1."""
    values: dict[str, Any] = {
        "id": IDS[number - 1],
        "channel": "tcp_local",
        "size_octets": 1500,
        "arrival": 919885949.0 + number,
        "sender": f"s{number}@example.org",
        "remaining": 1,
        "recipients": (f"r{number}@example.net",),
        "next_attempt": 919886349.0,
    }
    return QueueEntry(**{**values, **changes})


class FakeQueue:
    """L{qmailpy.cli.queueview.QueueView} on a list; C{done} tells what was asked of it."""

    source = "the queue directory tree"

    def __init__(self, entries: Sequence[QueueEntry] = ()) -> None:
        self.list = list(entries)
        self.channels = {"tcp_local", "local"} | {one.channel for one in self.list}
        self.stopped: set[str] = set()
        self.done: list[tuple[str, str, str]] = []  # verb, id, channel
        self.reasons: list[str] = []
        self.now = 0.0
        self.standings: dict[str, MessageStanding] = {}

    def entries(self, wanted: QueueFilter, looked: Looked = ignored) -> Iterator[QueueEntry]:
        looked(len(self.list))
        subject, body = text_of(CONTENT)
        for one in sorted(self.list, key=lambda each: (each.channel, each.id)):
            if wanted.admits(
                channel=one.channel,
                held=one.held,
                attempts=one.attempts,
                sender=one.sender,
                recipients=one.recipients,
                hosts=(*one.hosts, *(each.rpartition("@")[2] for each in one.recipients)),
                arrival=one.arrival,
                size_octets=one.size_octets,
            ) and wanted.admits_text(subject, body):
                shown = evolve(one, subject=subject, body=body) if wanted.texts else one
                yield shown if wanted.envelope else evolve(shown, recipients=())

    def ages(
        self, wanted: QueueFilter, edges: Sequence[float], senders: bool, looked: Looked = ignored
    ) -> Iterator[ShapeRow]:
        count = AgeCount(edges, senders, self.now)
        for one in self.list:
            pending = {
                number: Pending(Recipient(address=address, original=address, channel=one.channel))
                for number, address in enumerate(one.recipients)
            }
            envelope = Envelope(sender=one.sender, recipients=(), source="", arrival=one.arrival)
            count.add(one.id, Found(envelope, one.size_octets, Copy(one.channel, pending)), wanted)
            yield from count.rows()  # a part for each: the caller adds them up
            count = AgeCount(edges, senders, self.now)

    def standing(self, queue_id: str) -> MessageStanding | None:
        return self.standings.get(queue_id)

    def read(self, queue_id: str) -> QueuedMessage | None:
        found = [one for one in self.list if one.id == queue_id]
        if not found:
            return None
        recipients = tuple(
            MessageRecipient(address=address, original=address, channel=one.channel, last_error=one.last_error)
            for one in found
            for address in one.recipients
        )
        envelope = MessageEnvelope(
            id=queue_id,
            sender=found[0].sender,
            arrival=found[0].arrival,
            source="tcp_intranet",
            size_octets=len(CONTENT),
            recipients_total=len(recipients),
            recipients=recipients,
        )
        return QueuedMessage(envelope, iter([CONTENT[:25], CONTENT[25:]]))

    def history(self, queue_id: str) -> Sequence[HistoryEvent] | None:
        return [
            HistoryEvent(time=one.arrival, channel=one.channel, event="deferred", recipients=1, text="450 later")
            for one in self.list
            if one.id == queue_id
        ] or None

    def _act(self, verb: str, targets: Sequence[Target]) -> Sequence[ActionResult]:
        results = []
        for target in targets:
            found = [one for one in self.list if one.id == target.id and target.channel in ("", one.channel)]
            if not found:
                results.append(ActionResult(id=target.id, channel=target.channel, outcome=UNKNOWN, text="not here"))
            for one in found:
                if one.busy:
                    results.append(ActionResult(id=one.id, channel=one.channel, outcome=BUSY, text="being delivered"))
                    continue
                self.list.remove(one)
                if verb in ("hold", "release"):
                    self.list.append(evolve(one, held=verb == "hold"))
                self.done.append((verb, one.id, one.channel))
                results.append(ActionResult(id=one.id, channel=one.channel, outcome=DONE))
        return results

    def hold(self, targets: Sequence[Target], reason: str) -> Sequence[ActionResult]:
        self.reasons.append(reason)
        return self._act("hold", targets)

    def release(self, targets: Sequence[Target]) -> Sequence[ActionResult]:
        return self._act("release", targets)

    def delete(self, targets: Sequence[Target]) -> Sequence[ActionResult]:
        return self._act("delete", targets)

    def return_(self, targets: Sequence[Target], reason: str) -> Sequence[ActionResult]:
        self.reasons.append(reason)
        return self._act("return", targets)

    def summary(self, looked: Looked = ignored) -> Sequence[ChannelSummary]:
        return [
            ChannelSummary(
                channel=name,
                messages=len(found),
                recipients=sum(one.remaining for one in found),
                size_octets=sum(one.size_octets for one in found),
                held=sum(one.held for one in found),
                oldest=min((one.arrival for one in found), default=None),
                stopped=name in self.stopped,
            )
            for name in sorted(self.channels)
            for found in [[one for one in self.list if one.channel == name]]
        ]

    def stop(self, channel: str) -> bool:
        self._known(channel)
        changed = channel not in self.stopped
        self.stopped.add(channel)
        return changed

    def start(self, channel: str) -> bool:
        self._known(channel)
        changed = channel in self.stopped
        self.stopped.discard(channel)
        return changed

    def flush(self, destination: str) -> int:
        self.done.append(("flush", "", destination))
        return 2

    def aside(self) -> Sequence[str]:
        return ()

    def settle(self, queue_id: str, leavings: Sequence[Leaving]) -> ActionResult:
        return ActionResult(id=queue_id, channel="", outcome=UNKNOWN)

    def try_now(self, targets: Sequence[Target]) -> Sequence[ActionResult]:
        self.done += [("try", target.id, target.channel) for target in targets]
        return [ActionResult(id=target.id, channel=target.channel, outcome=DONE) for target in targets]

    def run(self, channel: str, forgive: bool = False) -> int:
        if channel:
            self._known(channel)
        self.done.append(("forgive" if forgive else "run", "", channel))
        return sum(channel in ("", one.channel) for one in self.list)

    def jobs(self) -> Sequence[QueueJob]:
        return [
            QueueJob(
                channel=one.channel,
                id=one.id,
                attempt=one.attempts + 1,
                recipients=one.remaining,
                host="h.example",
                size_octets=one.size_octets,
            )
            for one in self.list
            if one.busy
        ]

    def _known(self, channel: str) -> None:
        if channel not in self.channels:
            raise CommandError(f"there is no channel {channel}")


class FakeWorker:
    """The control methods over a L{FakeQueue}, as docs of L{qmailpy.cli.queueview} have them; three entries a page."""

    def __init__(self, queue: FakeQueue) -> None:
        self.queue = queue
        self.calls: list[str] = []

    def answer(self, method: str, arguments: dict[str, Any]) -> Json:
        """The result of one call."""
        self.calls.append(method)
        queue = self.queue
        if method == "queue.list":
            found = list(queue.entries(from_json(QueueFilter, arguments["filters"])))
            cursor = arguments["cursor"]
            left = [one for one in found if cursor is None or f"{one.channel}/{one.id}" > cursor]
            page = left[: min(3, arguments["limit"])]
            more = f"{page[-1].channel}/{page[-1].id}" if len(left) > len(page) else None
            return {"entries": [to_json(one) for one in page], "cursor": more}
        if method == "queue.read":
            message = queue.read(arguments["id"])
            if message is None:
                return {"found": False, "envelope": None, "content": "", "next": None}
            offset = arguments["offset"]
            end = offset + min(arguments["octets"], 20)
            return {
                "found": True,
                "envelope": None if offset else to_json(message.envelope),
                "content": base64.b64encode(CONTENT[offset:end]).decode(),
                "next": end if arguments["octets"] and end < len(CONTENT) else None,
            }
        if method == "queue.history":
            events = queue.history(arguments["id"])
            return {"found": events is not None, "events": [to_json(one) for one in events or ()]}
        if method == "queue.summary":
            return {"channels": [to_json(one) for one in queue.summary()]}
        if method == "queue.jobs":
            return {"jobs": [to_json(one) for one in queue.jobs()]}
        if method == "queue.run":
            known = arguments["channel"] in {"", *queue.channels}
            return {"known": known, "waiting": queue.run(arguments["channel"]) if known else 0}
        if method in ("queue.stop_channel", "queue.start_channel"):
            if arguments["channel"] not in queue.channels:
                return {"known": False, "changed": False}
            switch = queue.stop if method == "queue.stop_channel" else queue.start
            return {"known": True, "changed": switch(arguments["channel"])}
        targets = [Target(*pair) for pair in arguments["targets"]]
        results = {
            "queue.hold": lambda: queue.hold(targets, arguments["reason"]),
            "queue.release": lambda: queue.release(targets),
            "queue.delete": lambda: queue.delete(targets),
            "queue.return": lambda: queue.return_(targets, arguments["reason"]),
        }[method]()
        return {"results": [to_json(one) for one in results]}
