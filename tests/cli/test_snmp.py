"""qmailpy snmp: when it looks."""

from __future__ import annotations

import os
import threading
import time

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.cli import snmp as module
from qmailpy.cli.snmp import FRESH_S, STALE_S, Kept, parent_start
from qmailpy.errors import CommandError
from qmailpy.watch.mib import APPL, Objects
from qmailpy.watch.snmp_value import integer


class KeptTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 1000.0
        self.looks = 0
        self.nothing = Objects({})
        self.gate = threading.Event()
        self.gate.set()
        self.kept = Kept(self.look, self.nothing, lambda: self.now)

    def look(self) -> Objects:
        assert self.gate.wait(3)
        self.looks += 1
        if self.looks == 3:
            raise CommandError("no rights")
        return Objects({APPL: integer(self.looks)})

    def number(self) -> str:
        found = self.kept.objects().get(APPL)
        return found.text if found else "none"

    def test_the_first_look_is_waited_for_and_good_for_a_while(self) -> None:
        self.gate.clear()
        threading.Timer(0.1, self.gate.set).start()
        self.assertEqual(self.number(), "1")
        self.now += FRESH_S - 0.1
        self.assertEqual((self.number(), self.looks), ("1", 1))

    def test_a_later_one_is_taken_beside_the_questions(self) -> None:
        """snmpd stands still while it waits for an answer."""
        self.number()
        self.gate.clear()
        self.now += FRESH_S
        self.assertEqual(self.number(), "1")
        assert self.kept._thread is not None
        self.assertTrue(self.kept._thread.is_alive())
        self.gate.set()
        self.kept._thread.join(10)
        self.assertEqual(self.number(), "2")

    def test_an_old_one_is_not_good_enough(self) -> None:
        self.number()
        self.now += STALE_S
        self.assertEqual(self.number(), "2")

    def test_trouble_is_said_once_and_ends_nothing(self) -> None:
        said: list[object] = []
        self.patch(module, "print_error", said.append)
        for _ in range(4):
            self.number()
            self.now += STALE_S
        self.assertEqual([str(one) for one in said], ["no rights"])
        self.assertEqual(self.number(), "5")


class ParentTests(SynchronousTestCase):
    def test_the_start_of_our_parent_is_before_now_and_after_the_boot(self) -> None:
        now = time.time()
        with open("/proc/uptime") as source:
            booted = now - float(source.read().split()[0])
        self.assertTrue(booted - 1 <= parent_start(now) <= now + 1, os.getppid())
