"""Debian's snmpd asks us, and its snmpwalk and snmpget ask it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from typing import ClassVar

from tests.integration.daemon_process import ROOT, until
from tests.integration.node import BIN, NodeCase, Settings
from tests.integration.peers.client import message
from tests.integration.peers.sink import always

_APPL = ".1.3.6.1.2.1.27"
_MTA = ".1.3.6.1.2.1.28"
_OPTIONS = ("-I", "-smux,mta_sendmail")  # it has objects of sendmail's own in MTA-MIB


class Snmp(NodeCase):
    """A private snmpd on a port of loopback, with our lines in its configuration."""

    settings: ClassVar[Settings] = {"channel.tcp_local.backoff": [600.0], "channel.tcp_local.jitter": 0.0}

    def setUp(self) -> None:
        super().setUp()
        snmpd = shutil.which("snmpd", path="/usr/sbin:/usr/bin")
        assert snmpd is not None, "scripts/bootstrap.sh test brings it"
        base = self.node.base
        self.environment = {**os.environ, "SNMP_PERSISTENT_DIR": f"{base}/persistent", "MIBS": ""}
        program = f"{base}/ask"
        with open(program, "w") as file:
            file.write(f"#!/bin/sh\nPYTHONPATH={ROOT} exec {BIN}/qmailpy --home {self.node.home} snmp\n")
        os.chmod(program, 0o755)
        with open(f"{base}/snmpd.conf", "w") as file:
            file.write(f"rocommunity public 127.0.0.1\npass_persist {_APPL} {program}\npass_persist {_MTA} {program}\n")
        # It takes no port from the system, and over a UNIX socket it gives no answers.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"udp:127.0.0.1:{free.getsockname()[1]}"
        self.agent = subprocess.Popen(
            [snmpd, "-f", "-C", "-c", f"{base}/snmpd.conf", "-Lf", f"{base}/snmpd.log", *_OPTIONS, self.address],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self.environment,
        )
        self.addCleanup(self.agent.wait, 10)
        self.addCleanup(self.agent.terminate)
        until(lambda: "Timeout" not in self.ask("snmpget", "-t", "1", "-r", "0", ".1.3.6.1.2.1.1.3.0"), 20)

    def ask(self, program: str, *words: str) -> str:
        done = subprocess.run(
            [program, "-v2c", "-c", "public", "-On", "-t", "10", "-r", "1", *words[:-1], self.address, words[-1]],
            env=self.environment,
            capture_output=True,
            timeout=30,
            check=False,
        )
        lines = (done.stdout + done.stderr).decode().splitlines()
        return "\n".join(line for line in lines if not line.startswith("Created directory"))

    def walk(self, base: str) -> dict[str, str]:
        lines = self.ask("snmpwalk", base).splitlines()
        found = dict(line.split(" = ", 1) for line in lines if " = " in line)
        self.assertEqual(len(found), len(lines), lines)
        return found

    def test_a_walk_shows_the_counters(self) -> None:
        """All of them, in their order, with the types of RFC 2789, and nothing of the other module."""
        with self.node.talk() as talk:
            talk.mail("bob@example.org", ["alice@example.org"], message("counted"))
        self.node.wait_mailbox("alice", 1)
        self.wait_idle()
        found = self.walk(_MTA)
        self.assertTrue(all(name.startswith(f"{_MTA}.") for name in found))
        names = [tuple(map(int, name[1:].split("."))) for name in found]
        self.assertEqual(names, sorted(names))
        groups = {
            value.split('"')[1]: name.rpartition(".")[2]
            for name, value in found.items()
            if name.startswith(f"{_MTA}.2.1.25.1.")
        }
        for channel, row in self.node.counters().items():
            at = f"1.{groups[channel]}"
            self.assertEqual(found[f"{_MTA}.2.1.2.{at}"], f"Counter32: {row['received']['messages']}")
            self.assertEqual(found[f"{_MTA}.2.1.5.{at}"], f"Counter32: {row['delivered']['messages']}")
            self.assertEqual(found[f"{_MTA}.2.1.10.{at}"], f"Gauge32: {max(0, row['stored']['recipients'])}")
        self.assertTrue(found[f"{_MTA}.2.1.24.1.{groups['tcp_local']}"].startswith("OID: .1.3.6.1.2.1.27.4."))
        lines = self.ask("snmpbulkwalk", "-Cr50", _APPL).splitlines()
        self.assertEqual([line.split(" = ")[0] for line in lines], list(self.walk(_APPL)))
        delivered = sum(row["delivered"]["messages"] for row in self.node.counters().values())
        self.assertEqual(found[f"{_MTA}.1.1.3.1"], f"Counter32: {delivered}")

    def test_what_became_of_connections_and_messages_is_told(self) -> None:
        """RFC 2789: times, reasons, the next attempt, and errors by their codes; each of the type it is to have."""
        self.sink.answer = always("RCPT", "451 4.2.1 not now")
        with self.node.talk() as talk:
            talk.mail("alice@example.org", ["x@waits.example"], message("oldest"))
            talk.say("MAIL FROM:<bob@example.org>")
            self.assertTrue(talk.say("RCPT TO:<nobody-such@example.org>").startswith("550 5.1.1"))
        until(lambda: self.node.counters()["tcp_local"]["attempted"]["messages"] > 0, 20)
        found: dict[str, str] = {}

        def told() -> bool:  # a look is good for some seconds
            found.clear()
            found.update(self.walk(_MTA))
            return any(name.startswith(f"{_MTA}.5.1.3.") and name.endswith(".4002001") for name in found)

        until(told, 30)
        group = next(
            name.rpartition(".")[2]
            for name, value in found.items()
            if name.startswith(f"{_MTA}.2.1.25.1.") and value == 'STRING: "tcp_local"'
        )
        types = {
            **dict.fromkeys((17, 18, 23, 34), "INTEGER"),
            **dict.fromkeys((20,), "Counter32"),
            **dict.fromkeys((21, 32), "STRING"),
        }
        for column, kind in types.items():
            self.assertTrue(found[f"{_MTA}.2.1.{column}.1.{group}"].startswith(f"{kind}: "), column)
        self.assertIn("oldest@client.example", found[f"{_MTA}.2.1.32.1.{group}"])
        self.assertEqual(found[f"{_MTA}.2.1.22.1.{group}"], '""')  # it was made
        self.assertGreater(int(found[f"{_MTA}.2.1.23.1.{group}"].split()[-1]), 1000)
        self.assertEqual(found[f"{_MTA}.5.1.3.1.{group}.4002001"], "Counter32: 1")
        self.assertEqual(found[f"{_MTA}.5.1.1.1.{group}.5001001"], "Counter32: 1")
        self.sink.answer = lambda *_: None
        self.node.qmailpy("qm", "run")
        self.wait_idle()

    def test_one_object_at_a_time(self) -> None:
        self.assertIn('STRING: "qmailpy mta"', self.ask("snmpget", f"{_APPL}.1.1.2.1"))
        self.assertIn("INTEGER: 1", self.ask("snmpget", f"{_APPL}.1.1.6.1"))
        self.assertIn("Timeticks: (0)", self.ask("snmpget", f"{_APPL}.1.1.5.1"))  # we were there before snmpd
        self.assertIn("No Such", self.ask("snmpget", f"{_APPL}.1.1.2.77"))
        self.assertIn("No Such", self.ask("snmpget", f"{_MTA}.1.1.99.1"))

        # And nobody can set anything.
        done = subprocess.run(
            ["snmpset", "-v2c", "-c", "public", "-On", self.address, f"{_MTA}.1.1.1.1", "u", "5"],
            env=self.environment,
            capture_output=True,
            timeout=30,
            check=False,
        )
        self.assertRegex(done.stderr.decode(), "notWritable|noAccess")
