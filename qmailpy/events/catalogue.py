"""
Every event there is: how grave it is, what it says, which fields it has, what to do about it (docs/events.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from attrs import frozen


class Severity(Enum):
    """How grave, in syslog's words."""

    NOTICE = "notice"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """The graver, the higher."""
        return ("notice", "warning", "critical").index(self.value)


@frozen(kw_only=True)
class Kind:
    """A row of the catalogue."""

    severity: Severity
    text: str  # a sentence, with the fields in braces
    remedy: str  # what to do, with the command for it
    fields: tuple[str, ...] = ()  # the first is the key: the same event with the same key is told once an interval
    interval_s: float = 300.0
    lasts: bool = False  # a condition: told when it begins, and when it has ended
    single: bool = False  # there is one of it at a time, whatever its fields
    over: str = "trouble.over"  # event that tells the end of a condition


CATALOGUE: Mapping[str, Kind] = {
    "auth.banned": Kind(
        severity=Severity.WARNING,
        fields=("address", "login", "failures"),
        text="{address} tried {failures} wrong passwords, the last one for {login}, and is shut out for a while",
        remedy="Nothing, if it is a stranger. A user with an old password in some device: qmailpy user passwd {login}",
    ),
    "auth.attack": Kind(
        severity=Severity.WARNING,
        fields=("login", "failures"),
        text="{failures} wrong passwords for {login}: it is closed for a while to clients it was not used from before",
        remedy="Its owner is let in from the usual place. Is the password a weak one? qmailpy user passwd {login}",
    ),
    "directory.server": Kind(
        severity=Severity.WARNING,
        fields=("server", "why"),
        text="directory server {server} does not serve: {why}; another one is asked",
        remedy="Look after that server; how all of them are: qmailpy directory status",
        lasts=True,
    ),
    "directory.away": Kind(
        severity=Severity.CRITICAL,
        fields=("why",),
        text="no directory server answers: {why}; mail waits",
        remedy="qmailpy directory status; qmailpy status",
        lasts=True,
        single=True,
        over="directory.back",
    ),
    "limit.broken": Kind(
        severity=Severity.WARNING,
        fields=("who", "limit", "most"),
        text="{who} wants more than {limit} allows, which is {most}, and is put off",
        remedy="Nothing, if it is a stranger. A user may have a virus or a stolen password: qmailpy user passwd {who}; "
        "[limits] and service plans say how much is allowed",
    ),
    "clock.set": Kind(
        severity=Severity.WARNING,
        fields=("by",),
        text="the clock of the machine is {by} than it was: it was set, or the machine slept",
        remedy="Is it right now? Mail has its age by that clock: set it before the daemon starts (time-sync.target)",
    ),
    "directory.back": Kind(
        severity=Severity.NOTICE,
        fields=("seconds",),
        text="a directory server answers again, after {seconds} s; what waited for it goes on",
        remedy="Nothing",
        interval_s=0.0,
    ),
    "queue.age": Kind(
        severity=Severity.WARNING,
        fields=("channel", "age", "limit"),
        text="the oldest message in {channel} has waited {age}, more than {limit}",
        remedy="qmailpy qm top; qmailpy qm directory {channel}; one message: qmailpy qm why ID",
        interval_s=3600.0,
        lasts=True,
    ),
    "queue.size": Kind(
        severity=Severity.WARNING,
        fields=("limit", "messages", "channel"),
        text="{messages} messages are queued, {limit} or more are too many; most of them are in {channel}",
        remedy="qmailpy qm summarize; qmailpy qm top; is one sender behind it? qmailpy log account --by user",
        interval_s=3600.0,
        lasts=True,
    ),
    "channel.stuck": Kind(
        severity=Severity.CRITICAL,
        fields=("channel", "waiting", "age"),
        text="{channel} has {waiting} messages to deliver, and no attempt has ended for {age}",
        remedy="qmailpy qm jobs; what it says to others: qmailpy qm trace on {channel}; a restart loses nothing",
        interval_s=3600.0,
        lasts=True,
    ),
    "channel.stopped": Kind(
        severity=Severity.WARNING,
        fields=("channel", "messages"),
        text="{channel} was stopped by an operator; messages that wait there: {messages}",
        remedy="When it may go on: qmailpy qm start {channel}",
        interval_s=86400.0,
        lasts=True,
    ),
    "channel.held": Kind(
        severity=Severity.WARNING,
        fields=("channel", "messages"),
        text="messages in {channel} that are held until somebody decides: {messages}",
        remedy="qmailpy qm held; then qmailpy qm release, return or delete",
        interval_s=86400.0,
        lasts=True,
    ),
    "conversion.failed": Kind(
        severity=Severity.WARNING,
        fields=("channel", "why", "id"),
        text="channel {channel} cannot convert mail, which waits; message {id}: {why}",
        remedy="Mend the command or its entry in conversions.toml; what it does: qmailpy test conversion FILE --run",
    ),
    "message.held": Kind(
        severity=Severity.WARNING,
        fields=("channel", "id", "why"),
        text="message {id} is held in {channel}: {why}",
        remedy="qmailpy qm read {id}; then qmailpy qm release, return or delete {id}",
    ),
    "worker.restarted": Kind(
        severity=Severity.WARNING,
        fields=("worker", "how", "wait"),
        text="{worker} died ({how}) and is started again in {wait} s; no mail is lost",
        remedy="Why: grep {worker} HOME/log/qmailpy.log. Killed by the kernel? journalctl -k | grep -i oom",
        interval_s=60.0,
    ),
    "worker.crash-loop": Kind(
        severity=Severity.CRITICAL,
        fields=("worker", "how"),
        text="{worker} dies again and again ({how}); its restarts are held back",
        remedy="Why: grep {worker} HOME/log/qmailpy.log; qmailpy check",
        interval_s=600.0,
        lasts=True,
    ),
    "worker.down": Kind(
        severity=Severity.CRITICAL,
        fields=("worker", "why"),
        text="{worker} does not answer: {why}",
        remedy="qmailpy status; grep {worker} HOME/log/qmailpy.log",
        interval_s=3600.0,
        lasts=True,
    ),
    "disk.low": Kind(
        severity=Severity.WARNING,
        fields=("directory", "octets", "inodes", "reserve"),
        text="{octets} octets and {inodes} files are left for {directory}; below {reserve} octets new mail is refused",
        remedy="Make room, or let less in: [queue] reserve_octets, reserve_inodes; old logs: qmailpy log roll",
        interval_s=3600.0,
        lasts=True,
    ),
    "disk.full": Kind(
        severity=Severity.CRITICAL,
        fields=("directory", "octets", "inodes"),
        text="{octets} octets and {inodes} files are left for {directory}: new mail is refused (452)",
        remedy="Make room; mail is taken again by itself",
        interval_s=3600.0,
        lasts=True,
    ),
    "journal.broken": Kind(
        severity=Severity.CRITICAL,
        fields=("worker", "why"),
        text="the queue's journal cannot be written in {worker}: {why}; it starts anew and reads it from the disk",
        remedy="The disk: journalctl -k, smartctl -a; what was acknowledged is safe as far as the disk is",
        interval_s=60.0,
    ),
    "disk.failed": Kind(
        severity=Severity.CRITICAL,
        fields=("where", "why"),
        text="the disk did not take what queue shard {where} has to keep, or did not give it back: {why}; it is tried "
        "again, and the journal has it until then",
        remedy="The disk: journalctl -k, smartctl -a, df -h -i; mail goes on while the journal has room",
        interval_s=3600.0,
    ),
    "journal.stuck": Kind(
        severity=Severity.CRITICAL,
        fields=("worker", "age"),
        text="what {worker} writes to the queue's journal has not been durable for {age}: it accepts nothing",
        remedy="The disk or mount of HOME/queue does not answer: journalctl -k; mail goes on when it does",
        interval_s=3600.0,
        lasts=True,
    ),
    "message.aside": Kind(
        severity=Severity.CRITICAL,
        fields=("id", "why"),
        text="the files of message {id} in the queue cannot be understood ({why}): they were moved to corrupt/, whole",
        remedy="qmailpy qm history {id} tells whose mail it was, qmailpy inject sends it on; then: qmailpy qm clean "
        "-corrupt",
    ),
    "message.lost": Kind(
        severity=Severity.CRITICAL,
        fields=("id", "channel"),
        text="the content of message {id} is gone from mess/: what is left of it in {channel} has failed",
        remedy="Somebody has removed a file of the queue: qmailpy qm history {id} tells whose mail it was",
    ),
    "delivery.requeued": Kind(
        severity=Severity.WARNING,
        fields=("channel", "id", "address"),
        text="message {id}, delivered before the power failed, cannot be written again for {address}: it waits in "
        "{channel} as a new message",
        remedy="The mailbox: its quota, its rights, its disk; what waits: qmailpy qm directory {channel}; what became "
        "of it: qmailpy trace {id}. All that are concerned: grep 'queued again' HOME/log/qmailpy.log",
    ),
    "log.behind": Kind(
        severity=Severity.WARNING,
        fields=("worker", "lost"),
        text="the transaction log cannot be written by {worker}: its lines wait in memory, {lost} are lost so far",
        remedy="Room and rights of HOME/log; the lines come once it can be written",
        interval_s=3600.0,
        lasts=True,
    ),
    "counters.mismatch": Kind(
        severity=Severity.WARNING,
        fields=("channel", "lane"),
        text="the counters of {channel} do not add up in lane {lane}: received is not delivered and stored",
        remedy="qmailpy qm counters verify tells what differs; mail is not concerned",
        interval_s=86400.0,
        lasts=True,
    ),
    "events.many": Kind(
        severity=Severity.WARNING,
        fields=("event", "most"),
        text="more than {most} times {event} within 5 minutes: the others are left out here",
        remedy="Those that were written: qmailpy events; more of it may be in HOME/log/qmailpy.log",
        interval_s=3600.0,
    ),
    "trouble.over": Kind(
        severity=Severity.NOTICE,
        fields=("event", "about", "lasted"),
        text="{event} {about} is over after {lasted}",
        remedy="Nothing",
        interval_s=0.0,
    ),
    "tls.certificate-expires": Kind(
        severity=Severity.WARNING,
        fields=("file", "days", "date"),
        text="the certificate in {file} runs out on {date} ({days} days)",
        remedy="Put a new certificate and its key there; see with: qmailpy check; then: systemctl reload qmailpy",
        interval_s=43200.0,
        lasts=True,
    ),
}
"""By name, AREA.WHAT."""
