"""A look at a node whose processes are made of paper."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.schema import Config, ServerConfig
from qmailpy.control.client import Endpoint, Json
from qmailpy.errors import CommandError
from qmailpy.watch import look as module
from qmailpy.watch.look import Look, thd_look

EXPECTED = ["directory-0", "mta-0", "mta-1"]


class LookTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.there = list(EXPECTED)
        self.untold: set[tuple[str, str]] = set()
        self.asked: list[tuple[str, str]] = []
        self.patch(module, "running", self.running)
        self.patch(module, "call", self.answer)

    def running(self, home: str) -> list[Endpoint]:
        return [Endpoint(role=name[:-2], index=int(name[-1]), path="") for name in self.there]

    def answer(self, home: str, target: str, method: str, /, timeout_s: float, **arguments: Json) -> Json:
        self.asked.append((target, method))
        if (target, method) in self.untold:
            raise CommandError("no answer")
        summary: Json = {
            **{"channel": "tcp_local", "messages": 10, "recipients": 20, "size_octets": 3000, "held": 1, "busy": 2},
            **{"oldest": None, "stopped": False},
        }
        return {"uptime": 5} if method == "status" else {"channels": [summary]}

    def look(self) -> Look:
        config = Config(home=self.mktemp(), server=ServerConfig(hostname="h"))
        return thd_look(config, EXPECTED, 1000.0)

    def test_it_is_whole_when_every_worker_has_told_its_share(self) -> None:
        found = self.look()
        self.assertEqual((found.whole, found.silent, found.channels[0].messages), (True, [], 20))

    def test_one_that_is_missing_silent_or_not_yet_ready_leaves_it_in_part(self) -> None:
        self.there.remove("mta-1")
        found = self.look()
        self.assertEqual((found.whole, found.silent, found.missing), (False, ["mta-1"], ["mta-1"]))
        self.there.append("mta-1")
        for method in ("status", "queue.summary"):
            self.untold = {("mta-1", method)}
            self.asked.clear()
            found = self.look()
            self.assertEqual((found.whole, found.silent, found.channels[0].messages), (False, ["mta-1"], 10))
        self.untold = {("mta-1", "status")}
        self.asked.clear()
        self.look()
        self.assertEqual([method for name, method in self.asked if name == "mta-1"], ["status"], "each costs seconds")

    def test_the_directory_has_no_share(self) -> None:
        self.untold = {("directory-0", "status")}
        found = self.look()
        self.assertEqual((found.whole, found.silent), (True, ["directory-0"]))

    def test_a_daemon_that_does_not_run_tells_nothing(self) -> None:
        self.there.clear()
        found = self.look()
        self.assertEqual((found.whole, found.running, found.missing), (False, False, EXPECTED))
