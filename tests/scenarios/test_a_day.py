"""
A day of one server, larger than the other scenarios: every figure was derived by hand from mission s.4 and imta s.2,
and is told alike by counters, accounts, Prometheus, SNMP and log, before and after a clear, a kill -9 and a restart.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import Any, ClassVar

from qmailpy.records.record import Action
from tests.integration.daemon_process import ROOT, until
from tests.integration.node import BIN, NodeCase, Settings, flat
from tests.integration.peers.client import message

ONE, NONE = (1, 1, 1), (0, 0, 0)
_TABLES = """
[[entry]]
sender = ["drop@*"]
action = "discard"

[[entry]]
sender = ["keep@*"]
whole = true
action = "journal"
address = "kept@example.org"
"""
_GROUP = ".1.3.6.1.2.1.28.2.1"
_MTA = ".1.3.6.1.2.1.28.1.1"
_COLUMNS = (
    *(
        (2, "received", "messages"),
        (3, "rejected", "messages"),
        (4, "stored", "messages"),
        (5, "delivered", "messages"),
    ),
    *((6, "received", "blocks"), (7, "stored", "blocks"), (8, "delivered", "blocks")),
    *((9, "received", "recipients"), (10, "stored", "recipients"), (11, "delivered", "recipients")),
)
"""Of mtaGroupTable, and the counters they are."""


def _row(**items: Any) -> dict[str, Any]:
    events = ("received", "stored", "delivered", "submitted", "attempted", "rejected", "failed")
    return {**dict.fromkeys(events, NONE), **dict.fromkeys(("first", "timed", "timed_first", "in", "out"), 0), **items}


class ADay(NodeCase):
    """Mail from src.example is converted on its way to our users; nothing is tried again unless an operator says so."""

    fresh = True
    users = ("alice", "bob", "kept")
    settings: ClassVar[Settings] = {
        "trust.networks": ["127.0.0.2/32"],
        "channel.tcp_local.messages_per_connection": 1,
        "channel.tcp_local.backoff": [3600.0],
        "bounce.copy_postmaster": True,
        "monitor.endpoint": "unix:run/monitor.sock",
    }

    def setUp(self) -> None:
        super().setUp()
        self.settlings = 0
        self.known: dict[tuple[str, int], dict[str, dict[str, int]]] = {}  # accounts, until something happens
        assert self.node.process is not None
        with open(self.node.path("etc", "qmailpy.toml"), "a") as target:
            target.write('\n[[conversion]]\nsource = "tcp_local"\ndestination = "local"\n')
        with open(self.node.path("etc", "conversions.toml"), "w") as target:
            target.write(_TABLES)
        self.node.process.send_signal(signal.SIGHUP)
        self.until(lambda: "entries of conversions.toml in force: 2" in self.log())

    def answer(self, line: str) -> str | None:
        if line.startswith("RCPT TO:<gone@"):
            return "550 5.1.1 unknown"
        if line.startswith("RCPT TO:<later"):
            return "450 4.2.1 wait"
        return None

    def send(self, sender: str, *recipients: str, octets: int = 100) -> None:
        content = message("the day", (b"y" * 62 + b"\r\n") * (octets // 64))
        with self.node.talk(source="127.0.0.2") as talk:
            self.assertEqual(talk.mail(sender, recipients, content)[:3], "250")

    def test_every_figure_is_told_alike(self) -> None:
        self.sink.answer = self.answer
        blocks = self.the_morning()
        expected = self.expected_morning(blocks)
        self.settled(expected)
        self.accounts(blocks)
        self.told_alike()

        stuck = self.node.queued()[0]["id"]
        self.node.qmailpy("qm", "hold", stuck)
        self.assertEqual(self.snmp(f"{_MTA}.12.1"), "1")  # what is held now
        self.node.qmailpy("qm", "counters", "clear", "-associations")
        empty = _row()
        self.settled(dict.fromkeys(expected, empty))

        # What was queued at the clear leaves: below zero, at the second attempt (C6).
        self.sink.answer = lambda _: None
        self.node.qmailpy("qm", "release", stuck)
        gone = (-1, -1, -1)
        left = _row(stored=gone, delivered=ONE, timed=1, out=1)
        self.settled({**dict.fromkeys(expected, empty), "tcp_local": left})
        self.told_alike()

        self.sink.answer = self.answer
        self.send("a@src.example", "later2@far.example")
        more = {"received": ONE, "submitted": ONE, "attempted": (1, 1, 0), "in": 1}
        waits = {**dict.fromkeys(expected, empty), "tcp_local": {**left, **more, "stored": NONE, "out": 2}}
        self.settled(waits)
        stored = self.node.counters()["tcp_local"]["stored"]
        self.assertEqual((stored["minimum"]["messages"], stored["true"]["messages"]), (-1, 1))

        # Neither a crash nor a restart changes a figure, and the clear is not forgotten.
        self.node.kill()
        self.node.wait_for("mta-0 is ready", 2)
        self.settled(waits)
        self.assertEqual(self.node.stop(), 0)
        self.settled(waits)
        self.node.start()
        self.settled(waits)
        stored = self.node.counters()["tcp_local"]["stored"]
        self.assertEqual((stored["minimum"]["messages"], stored["true"]["messages"]), (-1, 1))

        self.sink.answer = lambda _: None
        self.node.qmailpy("qm", "run", "tcp_local")
        done = {**waits["tcp_local"], "stored": gone, "delivered": (2, 2, 2), "timed": 2, "out": 3}
        self.settled({**waits, "tcp_local": done})
        self.told_alike()
        self.assertEqual(self.node.qmailpy("qm", "counters", "today"), "15 messages processed so far today\n")
        self.assertEqual(self.total("waiting"), 0)

    def the_morning(self) -> int:
        """What happens; the blocks of the bounce, the one size that is not ours to choose."""
        self.send("a@src.example", "alice@example.org")
        self.send("a@src.example", "alice@example.org", "bob@example.org", "x@far.example", octets=5500)
        self.send("drop@src.example", "alice@example.org")
        self.send("keep@src.example", "alice@example.org")
        self.send("alice@example.org", "gone@far.example")
        self.send("a@src.example", "later@far.example", "now@far.example")
        with self.node.talk() as talk:
            replies = talk.envelope("a@src.example", ["nobody@example.org", "y@far.example"])
            self.assertEqual([reply[:3] for reply in replies], ["250", "550", "550"])
            talk.say("QUIT")
        self.node.wait_mailbox("postmaster", 1)
        (notice, *_) = [one for one in self.node.records(Action.ENQUEUED) if one.destination == "process"]
        return notice.size_octets // 1024

    def expected_morning(self, n: int) -> dict[str, Any]:
        """
        By channel: in tcp_local come A (1), B (two copies of 6), C to be dropped, D to be kept, E that bounces with a
        copy to postmaster, F of whose two recipients one waits.
        """
        return {
            "tcp_local": _row(
                # A, B twice, C, D, E, the notice for two, F
                submitted=(8, 11, 1 + 6 + 6 + 1 + 1 + 1 + n + 1),
                received=(3, 4, 6 + 1 + 1),  # B, E, F
                delivered=(2, 3, 6 + 1),  # B, E that bounced, one of F
                stored=(1, 1, 1),
                attempted=(1, 1, 0),
                failed=ONE,
                rejected=(1, 2, 0),
                first=1,
                timed=1,
                timed_first=1,
                **{"in": 7, "out": 3},
            ),
            "conversion": _row(
                received=(4, 5, 9), delivered=(4, 5, 9), first=4, timed=4, timed_first=4,
                submitted=(4, 5, 1 + 6 + 1 + 1),  # A, B, D and its copy; nothing of C
            ),
            "process": _row(
                received=(1, 2, n), delivered=(1, 2, n), first=1, timed=1, timed_first=1, submitted=(2, 2, 2 * n)
            ),
            "local": _row(
                received=(6, 7, 9 + 2 * n), delivered=(6, 7, 9 + 2 * n), first=6, timed=6, timed_first=6
            ),
        }  # fmt: skip

    def settled(self, expected: dict[str, Any]) -> None:
        """Until exactly this is in the counters, whole, not as a difference; then they equal the log."""
        found: dict[str, Any] = {}
        self.settlings += 1

        def so() -> bool:
            found.clear()
            found.update(flat(self.node.counters()))
            return found == expected

        try:
            until(so, 15)
        except AssertionError:
            self.assertEqual(found, expected)
        self.assertIn("equal the transaction log", self.node.qmailpy("qm", "counters", "verify"))

    # --- accounts ----------------------------------------------------------------------------------------------

    def account(self, by: str) -> dict[str, dict[str, int]]:
        if (by, self.settlings) in self.known:
            return self.known[by, self.settlings]
        found = json.loads(self.node.qmailpy("log", "account", "--by", by, "--json"))
        self.assertEqual(found["unreadable"], 0)
        lines = self.known[by, self.settlings] = {line["key"]: line for line in found["lines"]}
        return lines

    def total(self, what: str, by: str = "user") -> int:
        lines = self.account(by).values()
        if what == "waiting":
            signs = {"sent_recipients": 1, "delivered_recipients": -1, "failed": -1, "removed": -1}
            return sum(sign * line[name] for line in lines for name, sign in signs.items())
        return sum(line[what] for line in lines)

    def accounts(self, n: int) -> None:
        user = self.account("user")
        sent = ("sent_messages", "sent_recipients", "sent_octets")
        got = ("delivered_messages", "delivered_recipients", "delivered_octets")

        def three(line: dict[str, int], names: tuple[str, ...]) -> tuple[int, ...]:
            return line[names[0]], line[names[1]], line[names[2]] // 1024

        self.assertEqual(
            {key: three(line, sent) for key, line in user.items() if line["sent_recipients"]},
            {
                "a@src.example": (3, 6, 8),
                "drop@src.example": ONE,
                "keep@src.example": ONE,
                "alice@example.org": ONE,
                "<>": (2, 3, n + 1),  # the notice, the copy that is kept
            },
        )
        self.assertEqual(
            {key: three(line, got) for key, line in user.items() if line["delivered_recipients"]},
            {
                "alice@example.org": (4, 4, 8 + n),
                "bob@example.org": (1, 1, 6),
                "kept@example.org": ONE,
                "postmaster@example.org": (1, 1, n),
                "x@far.example": (1, 1, 6),
                "now@far.example": ONE,
            },
        )
        once = {"failed": "gone@far.example", "deferred": "later@far.example", "removed": "alice@example.org"}
        for what, key in once.items():
            self.assertEqual({name: line[what] for name, line in user.items() if line[what]}, {key: 1})
        domain = self.account("domain")
        self.assertEqual(three(domain["src.example"], sent), (5, 8, 10))
        self.assertEqual(three(domain["example.org"], got), (6, 7, 9 + 2 * n))
        self.assertEqual(three(domain["far.example"], got), (2, 2, 7))
        destination = self.account("destination")
        self.assertEqual(
            {key: line["rejected"] for key, line in destination.items() if line["rejected"]},
            {"local/example.org": 1, "tcp_local/far.example": 1},
        )
        # What adds up however it is sorted, and what is still in the queue (docs/counters-and-log.md).
        for by in ("user", "mailbox", "domain", "day", "hour"):
            for what, sum_ in (
                *(("sent_messages", 8), ("sent_recipients", 12), ("sent_octets", (12 + n) * 1024)),
                ("delivered_recipients", 9),
            ):
                self.assertEqual(self.total(what, by), sum_, (by, what))
            self.assertEqual(self.total("waiting", by), 1)
        for by in ("user", "mailbox", "domain", "channel", "destination", "day", "hour"):
            for what, sum_ in (("failed", 1), ("deferred", 1), ("rejected", 2), ("removed", 1)):
                self.assertEqual(self.total(what, by), sum_, (by, what))
        rows = flat(self.node.counters())
        for key, line in self.account("channel").items():
            self.assertEqual(three(line, sent), rows[key]["submitted"])
            self.assertEqual(
                line["delivered_recipients"] + line["failed"] + line["removed"], rows[key]["delivered"][1], key
            )

    # --- the other tellers ---------------------------------------------------------------------------------------

    def told_alike(self) -> None:
        """Prometheus and SNMP have what the counters have."""
        rows = self.node.counters()
        figures = self.figures()
        groups = self.groups()
        for channel, row in rows.items():
            for event in ("received", "delivered", "submitted", "attempted", "rejected", "failed", "stored"):
                for unit in ("messages", "recipients", "blocks"):
                    name = f"qmailpy_{event}_{unit}{'' if event == 'stored' else '_total'}"
                    self.assertEqual(figures[f'{name}{{channel="{channel}"}}'], row[event][unit], (channel, name))
            at = f'{{channel="{channel}"}}'
            self.assertEqual(
                figures[f"qmailpy_delivered_first_messages_total{at}"], row["delivered"]["first_time_messages"]
            )
            for item in ("queue_time", "queue_first_time"):
                self.assertEqual(figures[f"qmailpy_{item}_seconds_count{at}"], row[item]["count"])
                self.assertAlmostEqual(figures[f"qmailpy_{item}_seconds_sum{at}"], row[item]["seconds"], 2)
            for way in ("in", "out"):
                name = f'qmailpy_associations_total{{channel="{channel}",direction="{way}"}}'
                self.assertEqual(figures[name], row["associations"][way], name)
        sums: dict[int, int] = {}
        asked = {f"{_GROUP}.{column}.1.{group}": 0 for column, _, _ in _COLUMNS for group in groups.values()}
        said = self.ask([*asked, *(f"{_MTA}.{number}.1" for number in range(1, 10))])
        for column, event, unit in _COLUMNS:
            for channel, group in groups.items():
                value = max(0, rows[channel][event][unit]) if channel in rows else 0
                self.assertEqual(said[f"{_GROUP}.{column}.1.{group}"], str(value), (channel, event, unit))
                sums[column] = sums.get(column, 0) + value
        for number, column in enumerate((2, 4, 5, 6, 7, 8, 9, 10, 11), 1):
            self.assertEqual(said[f"{_MTA}.{number}.1"], str(sums[column]), number)

    def figures(self) -> dict[str, float]:
        lines = self.node.metrics().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines) if name[:1] != "#"}

    def groups(self) -> dict[str, str]:
        found = self.ask([f"{_GROUP}.25.1.{number}" for number in range(1, 20)])
        return {name: at.rpartition(".")[2] for at, name in found.items()}

    def snmp(self, at: str) -> str:
        return self.ask([at])[at]

    def ask(self, objects: list[str]) -> dict[str, str]:
        """As snmpd asks by pass_persist; what is not there is left out."""
        done = subprocess.run(
            [os.path.join(BIN, "qmailpy"), "--home", self.node.home, "snmp"],
            input="PING\n" + "".join(f"get\n{one}\n" for one in objects),
            env={**os.environ, "PYTHONPATH": ROOT},
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        lines = iter(done.stdout.splitlines())
        self.assertEqual(next(lines), "PONG")
        found = {}
        for line in lines:
            if line != "NONE":
                _, found[line] = next(lines), next(lines)
        return found
