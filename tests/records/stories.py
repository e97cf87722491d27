"""A message with its bounce, as the log has it: what the tests of tracing read."""

from __future__ import annotations

from typing import Any

from qmailpy.config.schema import LogConfig
from qmailpy.records.record import Action, LogRecord, QueueFile
from qmailpy.records.text import LineFormat

MAIL, NOTICE, SECOND, OTHER = "06kq9q5g5k3l0a0", "06kq9q5g5k3l0b0", "06kq9q5g5k3l0c0", "06kq9q5g5k3l0d0"
MESSAGE_ID = "<1@ann.example>"
SUBJECT = "Lunch in Köln, 午餐时间"


class Log:
    """Writes lines, numbered in a lane."""

    def __init__(self, start: float) -> None:
        self.time = start
        self.lines: list[bytes] = []
        self._form = LineFormat(LogConfig())

    def add(self, action: Action, queue_id: str, source: str, to: str, **more: Any) -> None:
        """A line; a tenth of a second later than the one before."""
        self.time += 0.1
        attempts = more.pop("attempts", 0)
        file = QueueFile(channel=more.get("destination", source), id=queue_id, attempts=attempts)
        fields: dict[str, Any] = {"original_to": to, "current_to": to, "size_octets": 3000, **more}
        record = LogRecord(
            action=action, time=self.time, source=source, file=file, lane="0", sequence=len(self.lines) + 1, **fields
        )
        self.lines.append(self._form.line(record))

    @property
    def octets(self) -> bytes:
        return b"".join(self.lines)


def bounced(start: float) -> Log:
    """
    Ann writes to bob, who gets it, and to cat far away, who is deferred once and then not known; ann is told, and her
    notice goes by the process channel. Another message is about the same time.
    """
    log = Log(start)
    ann = {"sender": "ann@one.example", "message_id": MESSAGE_ID, "subject": SUBJECT}
    note = {"sender": "", "message_id": "<n@mail.example>", "subject": "Your mail was not delivered"}
    system = "relay (relay.example.com [192.0.2.66])"
    entered = {"source_system": system, "modifiers": "ESA", "user": "ann"}
    log.add(Action.ENQUEUED, MAIL, "submission", "bob@here.example", destination="local", **entered, **ann)
    log.add(Action.ENQUEUED, MAIL, "submission", "cat@far.example", destination="tcp_local", **entered, **ann)
    log.add(Action.ENQUEUED, OTHER, "tcp_local", "bob@here.example", destination="local", sender="zoe@zoo.example")
    log.add(Action.DEQUEUED, MAIL, "local", "bob@here.example", queue_time=0.3, **ann)
    reply = "smtp;450 4.2.0 Come back later"
    log.add(Action.DEFERRED, MAIL, "tcp_local", "cat@far.example", diagnostic=reply, **ann)
    log.time += 400
    log.add(Action.ENQUEUED, NOTICE, "tcp_local", "ann@one.example", destination="process", source_system=MAIL, **note)
    unknown = {"diagnostic": "smtp;550 5.1.1 No such user", "queue_time": 400.5}
    log.add(Action.FAILED, MAIL, "tcp_local", "cat@far.example", attempts=1, **unknown, **ann)
    log.add(Action.ENQUEUED, SECOND, "process", "ann@one.example", destination="local", source_system=NOTICE, **note)
    log.add(Action.DEQUEUED, NOTICE, "process", "ann@one.example", queue_time=0.2, **note)
    log.add(Action.DEQUEUED, SECOND, "local", "ann@one.example", queue_time=0.2, **note)
    return log
