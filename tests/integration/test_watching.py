"""A node that is watched: its events, its figures for Prometheus, its status."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import termios
from typing import ClassVar

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from qmailpy.cli.status import examine
from qmailpy.config.load import load
from qmailpy.control.client import short_path
from qmailpy.events.reading import Event, thd_events
from qmailpy.stats.health import Limits
from tests.integration.daemon_process import ROOT, until
from tests.integration.node import QMAILPY, NodeCase, Settings
from tests.integration.peers.client import message
from tests.integration.peers.sink import always


class Watched(NodeCase):
    """Looked at every second; a queue of one message is too long."""

    settings: ClassVar[Settings] = {
        "monitor.endpoint": "unix:run/monitor.sock",
        "monitor.interval_s": 1,
        "monitor.queue_messages": 1,
        "events.command": [
            "/bin/sh",
            "-c",
            'cat >>"$QMAILPY_HOME/log/told"; echo "$QMAILPY_EVENT, as it was told"; test "$QMAILPY_EVENT" != disk.full',
        ],
    }

    def told(self, name: str) -> list[dict[str, object]]:
        """What the command has been told of such events."""
        try:
            with open(self.node.path("log", "told")) as source:
                found = [json.loads(line) for line in source if line.endswith("\n")]
        except FileNotFoundError:
            return []
        return [one for one in found if one["event"] == name]

    def wait_event(self, name: str, **fields: str) -> Event:
        found: list[Event] = []

        def there() -> bool:
            found[:] = [
                one
                for one in thd_events(self.node.path("log"))
                if one.event == name and all(one.fields.get(key) == value for key, value in fields.items())
            ]
            return bool(found)

        until(there, 20)
        return found[-1]

    def queue_one(self) -> None:
        self.sink.answer = always("RCPT", "451 4.3.0 later")
        with self.node.talk() as talk:
            talk.mail("alice@example.org", ["x@waits.example"], message("waits"))

    def fetch(self, path: str, accept: str = "text/plain") -> str:
        with socket.socket(socket.AF_UNIX) as client, short_path(self.node.path("run", "monitor.sock")) as name:
            client.settimeout(20)
            client.connect(name)
            client.sendall(f"GET {path} HTTP/1.0\r\nAccept: {accept}\r\n\r\n".encode())
            found = b""
            while octets := client.recv(65536):
                found += octets
        return found.partition(b"\r\n\r\n")[2].decode()

    def test_a_worker_that_died_is_an_event(self) -> None:
        """Of the supervisor, which is another process than those that tell the others."""
        os.kill(self.node.pid("mta-0"), signal.SIGKILL)
        event = self.wait_event("worker.restarted", worker="mta-0")
        self.assertEqual((event.process, event.fields["how"]), ("supervisor", "signal 9"))
        self.assertIn("mta-0 died (signal 9)", self.node.qmailpy("events"))
        self.node.wait_for("mta-0 is ready", 2)

    def test_a_program_is_told_by_every_process_of_what_happens_there(self) -> None:
        """The supervisor, of a worker that died; a worker, of the queue; each line as in events.log."""
        os.kill(self.node.pid("mta-0"), signal.SIGKILL)
        event = self.wait_event("worker.restarted", worker="mta-0")
        until(lambda: event.id in [one["id"] for one in self.told("worker.restarted")], 20)
        self.node.wait_for("mta-0 is ready", 2)
        self.queue_one()
        event = self.wait_event("queue.size")
        until(lambda: event.id in [one["id"] for one in self.told("queue.size")], 20)
        self.assertEqual(self.told("queue.size")[-1]["text"], event.text)
        self.assertEqual(self.told("trouble.over"), [])  # a notice: not grave enough
        self.sink.answer = lambda *_: None
        self.node.qmailpy("qm", "run")
        self.wait_idle()

    def test_the_program_can_be_tried(self) -> None:
        said = self.node.qmailpy("test", "event", "auth.banned")
        self.assertEqual(said, "auth.banned, as it was told\n/bin/sh has taken auth.banned\n")
        self.assertIn("does not tell of it", self.node.qmailpy("test", "event", "directory.back"))
        self.assertIn("/bin/sh: exit status 1", self.node.qmailpy("test", "event", "disk.full", status=1))
        self.assertIn('did you mean "disk.low"', self.node.qmailpy("test", "event", "disk.lo", status=1))

    def test_a_long_queue_is_told_when_it_begins_and_when_it_is_over(self) -> None:
        self.queue_one()
        self.wait_event("queue.size", limit="1", messages="1")
        until(lambda: "queue.size" in self.fetch("/metrics"), 20)
        self.sink.answer = lambda *_: None
        self.node.qmailpy("qm", "run")
        self.wait_event("trouble.over", event="queue.size")
        self.wait_idle()

    def test_figures_are_of_the_form_both_formats_ask_for(self) -> None:
        """Read by the parsers of prometheus-client, of which that of OpenMetrics is strict; and JSON."""
        self.queue_one()
        plain = {one.name for one in prometheus(self.fetch("/metrics"))}
        strict = list(openmetrics(self.fetch("/metrics", "application/openmetrics-text; version=1.0.0")))
        self.assertEqual(len({one.name for one in strict}), len(strict))
        found = json.loads(self.fetch("/metrics.json"))
        for name in (
            "qmailpy_received_messages",
            "qmailpy_listener_sessions",
            "qmailpy_listener_tls",
            "qmailpy_logins",
            "qmailpy_commit_records",
            "qmailpy_commit_seconds",
            "qmailpy_journal_segments",
            "qmailpy_log_waiting",
            "qmailpy_queue_scheduled",
            "qmailpy_channel_connections",
            "qmailpy_certificate_end_seconds",
            "qmailpy_process_start_time_seconds",
            "qmailpy_directory_cache_hits",
            "qmailpy_free_octets",
            "qmailpy_trouble",
        ):
            family = next((one for one in strict if one.name == name), None)
            self.assertIsNotNone(family, name)
            self.assertTrue({name, f"{name}_total"} & plain, name)
            self.assertIn(name, found)
            if name != "qmailpy_trouble":
                self.assertTrue(found[name]["samples"], name)
        (count,) = (
            one["value"] for one in found["qmailpy_commit_records"]["samples"] if one["name"].endswith("_count")
        )
        self.assertGreater(count, 0)
        self.sink.answer = lambda *_: None
        self.node.qmailpy("qm", "run")
        self.wait_idle()

    def test_the_status_knows_what_the_watch_has_seen(self) -> None:
        self.queue_one()
        until(lambda: bool(self.node.queued()), 20)
        (target,) = {one["id"] for one in self.node.queued()}
        self.node.qmailpy("qm", "hold", target)
        self.wait_event("channel.held", channel="tcp_local", messages="1")
        self.assertIn("messages in tcp_local that are held until somebody decides: 1", self.status())
        self.node.qmailpy("qm", "delete", target, "--yes")
        until(lambda: "are held" not in self.status(), 20)
        self.sink.answer = lambda *_: None

    def test_the_monitor_goes_on_while_the_daemon_is_restarted(self) -> None:
        """On a terminal, which changes its size meanwhile."""
        terminal, end = pty.openpty()
        self.addCleanup(os.close, terminal)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        shown = subprocess.Popen(
            [QMAILPY, "--home", self.node.home, "monitor", "--interval", "0.2"],
            stdin=end,
            stdout=end,
            stderr=end,
            env={**os.environ, "PYTHONPATH": ROOT, "TERM": "xterm"},
        )
        os.close(end)
        self.addCleanup(shown.kill)
        octets = bytearray()

        def sees(text: bytes) -> bool:
            with contextlib.suppress(OSError):  # the other end is closed
                while select.select([terminal], [], [], 0)[0]:
                    octets.extend(os.read(terminal, 65536))
            return re.search(text, octets) is not None

        until(lambda: sees(b"tcp_local"), 20)
        self.node.kill("mta-0")
        until(lambda: sees(rb"mta-0 \d s"), 20)  # it is young again
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 60, 0, 0))
        octets.clear()
        until(lambda: sees(b"mta-0 "), 20)
        shown.send_signal(signal.SIGINT)
        until(lambda: (sees(b"x"), shown.poll() is not None)[1], 20)
        self.assertEqual(shown.returncode, 0)
        self.assertNotIn(b"Traceback", octets)
        frame = json.loads(self.node.qmailpy("monitor", "--json-lines", "--once"))
        self.assertTrue(frame["running"])
        self.assertIn("tcp_local", self.node.qmailpy("monitor", "--once"))

    def status(self) -> str:
        """Whatever its exit status."""
        return "\n".join(one.text for one in examine(load(self.node.home), Limits(), 0.0))
