"""Is all well?"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.stats.health import (
    DAY_S,
    Finding,
    Level,
    Limits,
    Queued,
    certificate,
    channels,
    processes,
    queue,
    space,
    worst,
)

_LIMITS = Limits()


def _queued(messages: int = 1, oldest_s: float | None = 1.0, held: int = 0, stopped: bool = False) -> Queued:
    return Queued(channel="tcp_local", messages=messages, held=held, oldest_s=oldest_s, stopped=stopped)


class HealthTests(SynchronousTestCase):
    def test_critical_is_worse_than_what_nobody_knows(self) -> None:
        def found(*levels: Level) -> Level:
            return worst([Finding(name="", level=level, text="") for level in levels])

        self.assertIs(found(), Level.OK)
        self.assertIs(found(Level.OK, Level.UNKNOWN), Level.UNKNOWN)
        self.assertIs(found(Level.UNKNOWN, Level.WARNING, Level.OK), Level.WARNING)
        self.assertIs(found(Level.UNKNOWN, Level.CRITICAL, Level.WARNING), Level.CRITICAL)

    def test_processes(self) -> None:
        """S2: all of them, none, one missing, one silent, one that died and is back."""
        names = ["directory-0", "mta-0"]
        for uptimes, level, text in (
            ({"directory-0": 900.0, "mta-0": 901.0}, Level.OK, "running"),
            ({"directory-0": 1.0, "mta-0": 2.0}, Level.OK, "running"),
            ({}, Level.CRITICAL, "the daemon is not running"),
            ({"directory-0": 900.0}, Level.CRITICAL, "mta-0 not running"),
            ({"directory-0": 900.0, "mta-0": None}, Level.CRITICAL, "mta-0 not answering"),
            ({"directory-0": 900.0, "mta-0": 12.0}, Level.WARNING, "mta-0 restarted a moment ago"),
        ):
            found = processes(names, uptimes)
            self.assertEqual(found.level, level, uptimes)
            self.assertIn(text, found.text)

    def test_what_is_still_to_be_started_is_no_trouble_until_it_takes_long(self) -> None:
        """Each rank waits for the one before; one that went away is missing all the same."""
        names = ["directory-0", "mta-0", "mta-1", "access-0"]
        for uptimes, starting, level, text in (
            ({"directory-0": 3.0}, ["directory-0"], Level.OK, "access-0, directory-0, mta-0, mta-1 starting"),
            ({"directory-0": 3.0, "mta-0": 2.0, "mta-1": 2.0}, ["mta-1"], Level.OK, "access-0, mta-1 starting"),
            ({"directory-0": 3.0, "mta-0": 2.0, "mta-1": 2.0}, [], Level.OK, "access-0 starting"),
            ({"directory-0": 90.0, "mta-0": 80.0, "mta-1": 80.0}, ["mta-0"], Level.WARNING, "access-0, mta-0 starting"),
            ({"directory-0": 90.0, "mta-0": 80.0, "mta-1": 80.0}, [], Level.CRITICAL, "access-0 not running"),
            ({"directory-0": 90.0, "mta-0": 80.0}, ["mta-0"], Level.CRITICAL, "mta-1 not running"),
            ({"mta-0": 3.0, "mta-1": 3.0}, ["mta-0"], Level.CRITICAL, "directory-0 not running"),
            (
                {"directory-0": None},
                [],
                Level.CRITICAL,
                "mta-0, mta-1, access-0 not running; directory-0 not answering",
            ),
            ({**dict.fromkeys(names, 900.0), "mta-0": 5.0}, ["mta-0"], Level.WARNING, "mta-0 starting"),
            (dict.fromkeys(names, 3.0), [], Level.OK, "running"),
        ):
            found = processes(names, uptimes, starting)
            self.assertEqual(found.level, level, uptimes)
            self.assertIn(text, found.text)

    def test_a_long_or_an_old_queue(self) -> None:
        for one, level in (
            (_queued(), Level.OK),
            (_queued(messages=10_000), Level.WARNING),
            (_queued(messages=100_000), Level.CRITICAL),
            (_queued(oldest_s=4 * 3600.0), Level.WARNING),
            (_queued(oldest_s=2 * DAY_S), Level.CRITICAL),
            (_queued(oldest_s=None, held=1), Level.OK),
        ):
            self.assertEqual(queue([one, _queued()], _LIMITS).level, level, one)
        found = queue([_queued(7, 30.0), _queued(3, None, held=3)], _LIMITS)
        self.assertEqual(found.values, {"queue": 10.0, "held": 3.0, "oldest": 30.0})
        self.assertEqual(found.text, "10 messages queued (3 held), the oldest 30 s old in tcp_local")
        self.assertEqual(queue([], _LIMITS).text, "0 messages queued")
        self.assertIn("1 message queued, ", queue([_queued()], _LIMITS).text)

    def test_a_stopped_channel_is_a_warning(self) -> None:
        self.assertEqual(channels([_queued()]).level, Level.OK)
        found = channels([_queued(5, stopped=True)])
        self.assertEqual((found.level, found.text), (Level.WARNING, "tcp_local stopped, 5 messages waiting there"))

    def test_space_before_mail_is_refused_and_after(self) -> None:
        for octets, inodes, level in (
            (400, 400, Level.OK),
            (399, 400, Level.WARNING),
            (400, 399, Level.WARNING),
            (99, 400, Level.CRITICAL),
            (400, 99, Level.CRITICAL),
        ):
            self.assertEqual(space(octets, inodes, 100, 100, "/q", _LIMITS).level, level, (octets, inodes))

    def test_a_certificate_that_runs_out(self) -> None:
        for left, level in (
            (15 * DAY_S, Level.OK),
            (13 * DAY_S, Level.WARNING),
            (DAY_S, Level.CRITICAL),
            (-DAY_S, Level.CRITICAL),
        ):
            self.assertEqual(certificate(left, _LIMITS).level, level, left)
