"""Events made to happen on a node that runs, with their ends: told when they are true, and only then."""

from __future__ import annotations

import datetime
import json
import os
import resource
import signal
import threading
from typing import ClassVar

from qmailpy.cli.certificate import self_signed
from qmailpy.control import call
from qmailpy.events.catalogue import CATALOGUE
from qmailpy.events.reading import Event, thd_events
from qmailpy.queue.ids import shard_code, to_number
from qmailpy.queue.layout import Layout
from qmailpy.records.record import Action
from qmailpy.stats.counters import Mapped, store_row, thd_read
from qmailpy.stats.items import RECEIVED
from tests.integration.daemon_process import until
from tests.integration.node import NodeCase, Settings
from tests.integration.peers.client import message
from tests.integration.peers.sink import always


class EventCase(NodeCase):
    """Looked at every second; the command is told of everything."""

    settings: ClassVar[Settings] = {
        "monitor.interval_s": 1,
        "monitor.queue_age_s": 1.0,
        "monitor.stuck_s": 2.0,
        "queue.roll_s": 0.5,
        "events.severity": "notice",
        "events.command": ["/bin/sh", "-c", 'cat >>"$QMAILPY_HOME/log/told"'],
    }

    def happened(self, name: str, **fields: str) -> list[Event]:
        return [
            one
            for one in thd_events(self.node.path("log"))
            if one.event == name and all(one.fields.get(key) == value for key, value in fields.items())
        ]

    def told(self) -> list[str]:
        """Ids of what the command was given."""
        if not os.path.exists(self.node.path("log", "told")):
            return []
        with open(self.node.path("log", "told")) as source:
            return [str(json.loads(line)["id"]) for line in source if line.endswith("\n")]

    def begins(self, name: str, limit_s: float = 20.0, **fields: str) -> Event:
        """Until an event has come: once, with the fields of the catalogue, and the command has it as well."""
        until(lambda: bool(self.happened(name, **fields)), limit_s)
        (event,) = self.happened(name, **fields)
        kind = CATALOGUE[name]
        self.assertEqual((set(event.fields), event.severity), (set(kind.fields), kind.severity))
        self.assertNotIn("{", event.text + event.remedy)
        self.assertTrue(all(event.fields.values()), event.fields)
        until(lambda: event.id in self.told())
        return event

    def ends(self, name: str, about: str) -> Event:
        """Until it is over."""
        return self.begins("trouble.over", event=name, about=about)

    def reload(self, settings: Settings) -> None:
        assert self.node.process is not None
        before = self.node.printed().count("mta-0 has the new configuration")
        self.node.set(settings)
        self.node.process.send_signal(signal.SIGHUP)
        self.node.wait_for("mta-0 has the new configuration", before + 1)

    def waiting(self, to: str = "x@waits.example", content: bytes = b"") -> str:
        """A message that is deferred, settled into files; its id."""
        self.sink.answer = always("RCPT", "451 4.3.0 later")
        known = {one["id"] for one in self.node.queued()}
        with self.node.talk() as talk:
            self.assertEqual(talk.mail("alice@example.org", [to], content or message("waits"))[:3], "250")
        found: list[str] = []

        def there() -> bool:
            found[:] = [one["id"] for one in self.node.queued() if one["id"] not in known]
            return bool(found) and os.path.exists(self.layout().info(to_number(found[0])))

        until(there)
        return found[0]

    def layout(self) -> Layout:
        return Layout(self.node.path("queue", "0"), shard_code("0"))

    def deliver(self) -> None:
        self.sink.answer = lambda _: None
        self.node.qmailpy("qm", "run")
        self.wait_idle()


class Conditions(EventCase):
    """What lasts."""

    def test_a_disk_that_fills(self) -> None:
        """First low, then full, then neither: by the reserve, which is what the one disk of a test can change."""
        found = os.statvfs(self.node.home)
        free = found.f_bavail * found.f_frsize
        self.reload({"queue.reserve_octets": free // 2})
        self.assertEqual(self.begins("disk.low", directory="queue").fields["reserve"], str(free // 2))
        self.reload({"queue.reserve_octets": 2 * free})
        self.begins("disk.full", directory="queue")
        self.ends("disk.low", "queue")
        self.reload({"queue.reserve_octets": 1 << 20})
        self.ends("disk.full", "queue")

    def test_a_channel_whose_mail_grows_old_is_stopped_and_goes_on(self) -> None:
        self.waiting()
        self.assertEqual(self.begins("queue.age", channel="tcp_local").fields["limit"], "1 s")
        self.node.qmailpy("qm", "stop", "tcp_local")
        self.assertEqual(self.begins("channel.stopped", channel="tcp_local").fields["messages"], "1")
        self.node.qmailpy("qm", "start", "tcp_local")
        self.ends("channel.stopped", "tcp_local")
        self.deliver()
        self.ends("queue.age", "tcp_local")

    def test_a_channel_that_ends_no_attempt(self) -> None:
        """Its peer says nothing more."""
        go_on = threading.Event()
        self.addCleanup(go_on.set)

        def hang(line: str) -> str | None:
            if line.startswith("RCPT"):
                go_on.wait(30)
            return None

        self.sink.answer = hang
        with self.node.talk() as talk:
            talk.mail("alice@example.org", ["x@hangs.example"], message("hangs"))
        self.assertEqual(self.begins("channel.stuck", channel="tcp_local").fields["waiting"], "1")
        go_on.set()
        self.ends("channel.stuck", "tcp_local")
        self.wait_idle()

    def test_a_log_that_cannot_be_written(self) -> None:
        log = self.node.path("log", "mail.log_current")
        os.rename(log, log + ".away")
        os.mkdir(log)
        call(self.node.home, "mta-0", "log.reopen")
        with self.node.talk() as talk:
            self.assertEqual(talk.mail("a@b.example", ["alice@example.org"], message("during"))[:3], "250")
        self.assertEqual(self.begins("log.behind", worker="mta-0").fields["lost"], "0")
        os.rmdir(log)
        os.rename(log + ".away", log)
        self.ends("log.behind", "mta-0")
        self.node.wait_mailbox("alice", 1)
        self.wait_idle()

    def test_counters_that_were_tampered_with(self) -> None:
        with self.node.talk() as talk:
            talk.mail("a@b.example", ["alice@example.org"], message("counted"))
        self.node.wait_mailbox("alice", 1)
        self.wait_idle()
        _, (lane,) = thd_read(self.node.path("run", "counters"))
        place = list(lane.table).index("local")
        row = list(lane.table["local"])
        for change, then in ((7, self.begins), (0, None)):
            mapped = Mapped(self.node.path("run", "counters"), write=True)
            try:
                row[RECEIVED] = lane.table["local"][RECEIVED] + change
                store_row(mapped, mapped.sizes.lane_at(0), place, row)
            finally:
                mapped.close()
            if then is not None:
                then("counters.mismatch", channel="local", lane="0")
        self.ends("counters.mismatch", "local")

    def test_a_certificate_that_runs_out_until_there_is_another(self) -> None:
        """Told after the reload that brought it; and over with the one that brings the next."""
        kept = {}
        for name in ("cert.pem", "key.pem"):
            with open(self.node.path("tls", name), "rb") as source:
                kept[name] = source.read()
        almost = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=3649)
        for name, octets in zip(kept, self_signed("mail.example.org", almost), strict=True):
            with open(self.node.path("tls", name), "wb") as target:
                target.write(octets)
        self.reload({})
        event = self.begins("tls.certificate-expires", file="tls/cert.pem")
        self.assertIn(event.fields["days"], {"1", "2", "3", "4"})
        for name, octets in kept.items():
            with open(self.node.path("tls", name), "wb") as target:
                target.write(octets)
        self.reload({})
        self.ends("tls.certificate-expires", "tls/cert.pem")


class Damage(EventCase):
    """What happens to files of the queue, by whatever hand."""

    def test_content_that_was_removed(self) -> None:
        """Of a small message that was let go of, and of a large one: each fails, and its sender is told."""
        large = message("large", (b"z" * 62 + b"\r\n") * 8000)
        for content in (message("small"), large):
            queue_id = self.waiting(content=content)
            os.unlink(self.layout().mess(to_number(queue_id)))
            self.node.qmailpy("qm", "run")
            self.assertEqual(self.begins("message.lost", id=queue_id).fields["channel"], "tcp_local")
        self.node.wait_mailbox("alice", 2)
        self.wait_idle()
        self.assertEqual(len(self.node.records(Action.FAILED)), 2)

    def test_an_envelope_that_cannot_be_read(self) -> None:
        queue_id = self.waiting()
        os.truncate(self.layout().info(to_number(queue_id)), 5)
        self.node.kill("mta-0")
        self.node.wait_for("mta-0 is ready", 2)
        self.assertIn("cut short", self.begins("message.aside", id=queue_id).fields["why"])
        self.node.qmailpy("qm", "clean", "-corrupt", "--yes")
        self.wait_idle()

    def test_a_journal_that_cannot_be_written(self) -> None:
        """The kernel refuses it (EFBIG): the worker starts again, and what it had not acknowledged was not taken."""
        pid = self.node.pid("mta-0")
        limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (16384, limits[1]))
        with self.node.talk() as talk:
            reply = talk.mail("a@b.example", ["alice@example.org"], message("large", b"x" * 60 + b"\r\n" * 20000))
        self.assertEqual(reply[:1], "4", reply)
        event = self.begins("journal.broken", worker="mta-0")
        self.assertIn("File too large", event.fields["why"])
        self.begins("worker.restarted", how="exit status 0")
        self.wait_idle()
