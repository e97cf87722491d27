"""Greylisting: who comes back is let in."""

from __future__ import annotations

import os
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.schema import GreylistConfig
from qmailpy.policy.greylist import PRUNE_S, Greylist

DAY = 86400.0


class GreylistTests(SynchronousTestCase):
    """L{Greylist}."""

    def make(self, path: str = "", **config: Any) -> Greylist:
        self.path = path or os.path.abspath(self.mktemp())
        greylist = Greylist(self.path, GreylistConfig(enabled=True, **config))
        self.addCleanup(greylist.thd_close)
        return greylist

    def ask(self, greylist: Greylist, now: float, network: str = "192.0.2.0/24", to: str = "b@x.example") -> float:
        return greylist.thd_wait_s(network, "a@y.example", to, 1e9 + now)

    def test_the_first_attempt_is_put_off_and_the_next_let_in(self) -> None:
        greylist = self.make()
        self.assertEqual([self.ask(greylist, now) for now in (0, 100, 299)], [300, 200, 1])
        self.assertEqual([self.ask(greylist, now) for now in (300, 301, 35 * DAY)], [0, 0, 0])
        self.assertEqual(self.ask(greylist, 36 * DAY, to="c@x.example"), 300)
        self.assertEqual(self.ask(greylist, 80 * DAY), 300)  # forgotten

    def test_a_retry_may_be_too_late(self) -> None:
        greylist = self.make()
        self.assertEqual([self.ask(greylist, now) for now in (0, 3 * DAY, 3 * DAY + 300)], [300, 300, 0])

    def test_it_is_there_after_a_restart_and_for_other_workers(self) -> None:
        first = self.make()
        self.ask(first, 0)
        other = self.make(self.path)
        self.assertEqual(self.ask(other, 300), 0)
        first.thd_close()
        self.assertEqual(self.ask(self.make(self.path), 301), 0)

    def test_networks_that_come_back_are_good(self) -> None:
        greylist = self.make(good_after=2)
        for number in range(2):
            self.ask(greylist, 0, to=f"{number}@x.example")
            self.assertEqual(self.ask(greylist, 400, to=f"{number}@x.example"), 0)
        self.assertEqual(self.ask(greylist, 500, to="new@x.example"), 0)
        self.assertEqual(self.ask(greylist, 500, network="192.0.3.0/24"), 300)

    def test_what_is_over_is_forgotten_and_the_rest_bounded(self) -> None:
        greylist = self.make(entries=100)
        for number in range(300):
            self.ask(greylist, number / 1000, to=f"{number}@x.example")
        self.ask(greylist, PRUNE_S + 1)
        database = greylist._database
        assert database is not None
        self.assertLessEqual(database.execute("SELECT count(*) FROM triplet").fetchone()[0], 101)
        self.ask(greylist, 90 * DAY)
        self.assertLessEqual(database.execute("SELECT count(*) FROM triplet").fetchone()[0], 2)

    def test_a_database_in_trouble_lets_everybody_in(self) -> None:
        greylist = self.make()
        with open(self.path, "wb") as target:
            target.write(b"no database" * 1000)
        self.assertEqual(self.ask(greylist, 0), 0)
        os.unlink(self.path)
        self.assertEqual(self.ask(greylist, 0), 300)
