"""qmailpy status."""

from __future__ import annotations

import datetime
import json
import os
import time
from types import SimpleNamespace

from attrs import evolve
from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.cli import status as module
from qmailpy.cli.certificate import self_signed
from qmailpy.cli.status import expected, status
from qmailpy.config.schema import Config, DirectoryConfig, ListenerConfig, MonitorConfig, ServerConfig
from qmailpy.control.client import Endpoint, Json
from qmailpy.errors import CommandError, ConfigError
from qmailpy.events.log import FILE_NAME, EventLog
from qmailpy.stats.counters import Sizes, create
from tests.cli.running import invoke


class StatusTests(SynchronousTestCase):
    """On a home with all it needs and a daemon made of answers."""

    def setUp(self) -> None:
        self.home = os.path.abspath(self.mktemp())
        for name in ("queue", "mail", "log", "run", "tls"):
            os.makedirs(f"{self.home}/{name}")
        self.alive = ["directory-0", "mta-0"]
        self.channel: dict[str, Json] = {
            "channel": "tcp_local",
            "messages": 2,
            "recipients": 2,
            "size_octets": 1,
            "stopped": False,
        }
        self.silent = ""
        self.asked: list[str] = []
        self.uptime, self.ready = 900.0, True
        self.conditions: list[Json] = []
        self.away = False
        self.servers: list[Json] = [{"server": "ldap://a", "up": True}]
        self.config = Config(
            home=self.home,
            server=ServerConfig(hostname="h"),
            listeners=(ListenerConfig(name="smtp", kind="smtp", endpoint="tcp:25"),),
        )
        self.certificate(datetime.datetime.now(datetime.UTC))
        create(f"{self.home}/run/counters", Sizes(made=time.time()))
        self.patch(module, "load", lambda home: self.config)
        self.patch(module, "running", self.running)
        self.patch(module, "call", self.answer)

    def certificate(self, made: datetime.datetime) -> None:
        octets, _ = self_signed("h.example", made)
        with open(f"{self.home}/tls/cert.pem", "wb") as file:
            file.write(octets)

    def running(self, home: str) -> list[Endpoint]:
        return [Endpoint(role=name.partition("-")[0], index=0, path="") for name in self.alive]

    def answer(self, home: str, target: str, method: str, /, timeout_s: float, **arguments: Json) -> Json:
        self.asked.append(f"{target} {method}")
        if target == self.silent:
            raise CommandError("no answer")
        if method == "watch.conditions":
            return {"conditions": self.conditions}
        if method == "directory.figures":
            return {"servers": self.servers, "away": self.away}
        if method != "status" and not self.ready:
            raise CommandError("the process is starting; try again in a moment")
        return (
            {"uptime": self.uptime, "ready": self.ready}
            if method == "status"
            else {"channels": [{**self.channel, "oldest": time.time()}]}
        )

    def call(self, *words: str) -> Result:
        return CliRunner().invoke(status, list(words), obj=SimpleNamespace(home=self.home))

    def expect(self, code: int, text: str, *words: str) -> None:
        result = self.call(*words)
        first = result.output.splitlines()[0]
        self.assertEqual(result.exit_code, code, result.output)
        self.assertIn(text, first)
        self.assertTrue(first.startswith(f"QMAILPY {('OK', 'WARNING', 'CRITICAL', 'UNKNOWN')[code]} - "), first)

    def test_all_is_well(self) -> None:
        """S2: one line with the verdict and the figures, then the details; status 0."""
        self.expect(0, "directory-0, mta-0 running; queue: 2 messages queued")
        lines = self.call().output.splitlines()
        self.assertIn(" | processes=2 uptime=900 queue=2 held=0", lines[0])
        self.assertEqual(
            [line.split()[1] for line in lines[1:]],
            [
                "processes:",
                "queue:",
                "channels:",
                "trouble:",
                "directory:",
                "space:",
                "certificate:",
                "counters:",
                "events:",
            ],
        )

    def test_while_it_starts_nobody_is_alarmed(self) -> None:
        """Neither by the ranks that come later, nor by a queue that cannot be asked yet."""
        self.config = evolve(
            self.config, listeners=(ListenerConfig(name="pop3", kind="pop3", endpoint="tcp:110", tls="none"),)
        )
        self.uptime, self.ready = 5.0, False
        self.expect(0, "access-0, directory-0, mta-0 starting; queue: not known yet: mta-0 starting")
        self.uptime = 70.0
        self.expect(1, "access-0, directory-0, mta-0 starting")
        self.ready = True
        self.expect(2, "access-0 not running")

    def test_a_daemon_that_is_down_is_critical(self) -> None:
        self.alive = []
        self.expect(2, "the daemon is not running")

    def test_a_process_that_is_missing_or_silent_is_critical(self) -> None:
        self.silent = "directory-0"
        self.expect(2, "directory-0 not answering")
        self.alive = ["mta-0"]
        self.expect(2, "directory-0 not running")

    def test_a_queue_nobody_can_ask_is_unknown_beside_what_is_worse(self) -> None:
        self.silent = "mta-0"
        self.assertIn("UNKNOWN   queue: no answer from mta-0", self.call().output)
        self.assertEqual([one for one in self.asked if "mta-0" in one], ["mta-0 status"])  # each costs seconds
        self.expect(2, "mta-0 not answering")

    def test_the_limits_are_options(self) -> None:
        self.expect(1, "2 messages queued", "--queue-warning", "2")
        self.expect(2, "2 messages queued", "--queue-critical", "1")
        self.expect(1, "2 messages queued", "--age-warning", "0")

    def test_a_stopped_channel(self) -> None:
        self.channel["stopped"] = True
        self.expect(1, "tcp_local stopped")

    def test_certificates(self) -> None:
        self.certificate(datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=365 * 11))
        self.expect(2, "certificate: ran out")
        with open(f"{self.home}/tls/cert.pem", "wb") as file:
            file.write(b"nothing")
        self.expect(2, "no certificate")
        os.unlink(f"{self.home}/tls/cert.pem")
        self.expect(1, "there is no TLS")

    def test_without_tls_no_certificate_is_missed(self) -> None:
        os.unlink(f"{self.home}/tls/cert.pem")
        plain = ListenerConfig(name="smtp", kind="smtp", endpoint="tcp:25", tls="none")
        self.config = Config(home=self.home, server=ServerConfig(hostname="h"), listeners=(plain,))
        self.expect(0, "running")

    def test_certificates_of_other_names(self) -> None:
        os.makedirs(f"{self.home}/tls/other.example")
        octets, _ = self_signed(
            "other.example", datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=365 * 11)
        )
        with open(f"{self.home}/tls/other.example/cert.pem", "wb") as file:
            file.write(octets)
        self.expect(2, "other.example: ran out")

    def test_trouble_the_server_knows_of(self) -> None:
        """What takes more than one look, the server's watch has seen; what status sees by itself is not told twice."""
        self.conditions = [
            {"event": "queue.age", "severity": "warning", "text": "old"},
            {"event": "channel.stuck", "severity": "critical", "text": "tcp_local has 3 messages"},
        ]
        self.expect(2, "trouble: tcp_local has 3 messages")
        self.conditions = [{"event": "log.behind", "severity": "warning", "text": "the log cannot be written"}]
        self.expect(1, "the log cannot be written")

    def test_directories_that_are_away(self) -> None:
        self.servers = [{"server": "ldap://a", "up": False}, {"server": "ldap://b", "up": True}]
        self.expect(1, "ldap://a does not serve; others do")
        self.servers = self.servers[:1]
        self.expect(2, "no directory server answers")
        self.servers = [{"server": "embedded", "up": True}]  # a lone one is asked however slow it is
        self.expect(0, "running")
        self.away = True
        self.expect(2, "no directory server answers")

    def test_a_critical_event_is_remembered_for_an_hour(self) -> None:
        now = time.time()
        events = EventLog(f"{self.home}/log/{FILE_NAME}", "mta-0", lambda: now)
        events.happened("worker.restarted", worker="mta-0", how="", wait=0)
        self.expect(0, "running")
        now -= 3700
        events.happened("journal.broken", worker="mta-1", why="EIO")
        self.expect(0, "running")
        now += 3600
        events.happened("journal.broken", worker="mta-0", why="EIO")
        self.expect(1, "in the last hour: the queue's journal cannot be written in mta-0")

    def test_a_start_of_what_dies_again_and_again_is_no_good_sign(self) -> None:
        self.ready, self.uptime = False, 1.0
        self.expect(0, "mta-0 starting")
        events = EventLog(f"{self.home}/log/{FILE_NAME}", "supervisor", time.time)
        events.happened("worker.crash-loop", worker="mta-0", how="exit status 1")
        self.expect(2, "mta-0 dying again and again")
        events.happened("trouble.over", event="worker.crash-loop", about="mta-0", lasted="2 min")
        self.expect(1, "in the last hour: mta-0 dies again and again")  # and it starts

    def test_the_configuration_has_limits_of_its_own(self) -> None:
        self.config = evolve(self.config, monitor=MonitorConfig(queue_messages=2))
        self.expect(1, "2 messages queued")
        self.config = evolve(self.config, monitor=MonitorConfig(queue_messages=0, queue_age_s=0))
        self.expect(0, "2 messages queued")

    def test_counters_that_are_damaged_or_gone(self) -> None:
        with open(f"{self.home}/run/counters", "wb") as file:
            file.write(b"x" * 5000)
        self.expect(1, "nothing is counted")
        os.unlink(f"{self.home}/run/counters")
        self.expect(1, "there are none")

    def test_a_configuration_that_cannot_be_read_is_critical(self) -> None:
        def refuse(home: str) -> Config:
            raise ConfigError(("F:1: wrong | so wrong",))

        self.patch(module, "load", refuse)
        self.expect(2, "F:1: wrong / so wrong")

    def test_what_cannot_be_found_out_is_unknown(self) -> None:
        """A watchdog must not take "no rights" for "down", nor for a warning."""

        def refuse(home: str) -> list[Endpoint]:
            raise CommandError("Permission denied; run this as root")

        self.patch(module, "running", refuse)
        self.expect(3, "Permission denied")
        self.home += "/none"
        self.expect(3, "qmailpy init")

    def test_programs_get_json(self) -> None:
        self.channel["stopped"] = True
        result = self.call("--json")
        found = json.loads(result.output)
        self.assertEqual((result.exit_code, found["code"], found["status"]), (1, 1, "warning"))
        self.assertEqual(found["findings"][1]["values"]["queue"], 2.0)

    def test_the_command_line_passes_the_status_on(self) -> None:
        """And wrong usage stays 2."""
        self.channel["stopped"] = True
        self.assertEqual(invoke("--home", self.home, "status").status, 1)
        self.assertEqual(invoke("--home", self.home, "status", "--nonsense").status, 2)

    def test_which_processes_there_should_be(self) -> None:
        pop3 = ListenerConfig(name="pop3", kind="pop3", endpoint="tcp:110")
        config = Config(home="/h", server=ServerConfig(hostname="h", workers=2), listeners=(pop3,))
        self.assertEqual(expected(config), ["directory-0", "mta-0", "mta-1", "access-0"])
        elsewhere = evolve(config, directory=DirectoryConfig(servers=("ldap://ldap.example",)))
        self.assertEqual(expected(elsewhere), ["mta-0", "mta-1", "access-0"])
