"""The retry schedule and the notices, as functions of values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.schema import ChannelConfig, QueueConfig
from qmailpy.queue import notices
from qmailpy.queue.retry import MINIMUM_S, Schedule, ages, expired_reply, quadratic_age, resumed, schedule_of
from qmailpy.values import Notify, Reply

REMOTE = Schedule(step_s=20.0, jitter=0.1)
LOCAL = Schedule(step_s=10.0, jitter=0.0)


class QuadraticTests(SynchronousTestCase):
    """qmail's schedule (qmail.md 1.9)."""

    def test_second_attempt_waits_400_s(self) -> None:
        """Remote mail is tried again 400 s after it came."""
        self.assertEqual(REMOTE.next_age(0.0, attempts=1, draw=0.0), 400.0)

    def test_second_local_attempt_waits_100_s(self) -> None:
        """Local mail is tried again sooner."""
        self.assertEqual(LOCAL.next_age(0.0, attempts=1, draw=0.0), 100.0)

    def test_attempts_are_at_the_squares(self) -> None:
        """Ages (20 k)^2, as the manual lists them."""
        self.assertEqual(list(ages(REMOTE))[:7], [0, 400, 1600, 3600, 6400, 10000, 14400])
        self.assertEqual(list(ages(LOCAL))[:6], [0, 100, 400, 900, 1600, 2500])

    def test_attempt_that_starts_late_does_not_shift_the_next(self) -> None:
        """The root is cut off: 40 s late at 400 s changes nothing."""
        self.assertEqual(REMOTE.next_age(440.0, attempts=2, draw=0.0), 1600.0)

    def test_last_attempt_is_exactly_at_the_lifetime(self) -> None:
        """The schedule would go past it; the sender hears at the promised age, not a step later."""
        found = ages(REMOTE)
        self.assertEqual(found[-1], 604800.0)
        self.assertEqual(found[-2], 760.0**2)
        self.assertEqual(len(found), 40)

    def test_clock_set_back_counts_as_new(self) -> None:
        """A negative age is no error."""
        self.assertEqual(REMOTE.next_age(-5.0, attempts=1, draw=0.0), 400.0)

    @given(st.floats(0, 1e7), st.floats(0, 100))
    def test_next_quadratic_age_is_later(self, age: float, step: float) -> None:
        """Whatever the step, even a zero."""
        self.assertGreater(quadratic_age(age, step), age)


class ChannelScheduleTests(SynchronousTestCase):
    """What a channel's configuration changes."""

    def test_backoff_list_is_followed_and_its_last_repeats(self) -> None:
        """The waits, from attempt to attempt."""
        schedule = Schedule(backoff_s=(60.0, 600.0, 3600.0), jitter=0.0, lifetime_s=10000.0)
        self.assertEqual(list(ages(schedule)), [0, 60, 660, 4260, 7860, 10000])

    def test_zero_backoff_is_no_loop(self) -> None:
        """There is a shortest wait."""
        schedule = Schedule(backoff_s=(0.0,), lifetime_s=10.0)
        self.assertEqual(schedule.next_age(3.0, attempts=1, draw=0.0), 3.0 + MINIMUM_S)

    def test_channel_lifetime_goes_before_the_queues(self) -> None:
        """0 stands for the queue's."""
        queue = QueueConfig(lifetime_s=500.0)
        self.assertEqual(schedule_of(ChannelConfig(name="a", kind="smtp"), queue).lifetime_s, 500.0)
        self.assertEqual(schedule_of(ChannelConfig(name="a", kind="smtp", lifetime_s=9.0), queue).lifetime_s, 9.0)

    def test_channel_keys_reach_the_schedule(self) -> None:
        """Step, list and jitter."""
        channel = ChannelConfig(name="a", kind="local", quadratic_s=10.0, backoff=(5.0,), jitter=0.5)
        self.assertEqual(
            schedule_of(channel, QueueConfig()),
            Schedule(step_s=10.0, backoff_s=(5.0,), jitter=0.5, lifetime_s=604800.0),
        )


class JitterTests(SynchronousTestCase):
    """Chance, handed in."""

    def test_jitter_lengthens_the_wait_by_its_share(self) -> None:
        """A tenth of 400 s at most."""
        self.assertEqual(REMOTE.next_age(0.0, attempts=1, draw=0.5), 420.0)

    def test_overdue_mail_is_spread_after_a_long_downtime(self) -> None:
        """Over five minutes, by the draw."""
        self.assertEqual(resumed(1000.0, 90000.0, 0.5), 90150.0)

    def test_overdue_mail_is_tried_at_once_after_a_short_one(self) -> None:
        """Two seconds late: within two seconds."""
        self.assertEqual(resumed(1000.0, 1002.0, 0.5), 1003.0)

    def test_mail_not_yet_due_keeps_its_time(self) -> None:
        """A restart does not hurry or delay it."""
        self.assertEqual(resumed(1000.0, 900.0, 0.9), 1000.0)


class PeerTests(SynchronousTestCase):
    """A peer's wish."""

    def test_peers_wish_is_a_minimum(self) -> None:
        """Longer than ours: granted. Shorter: ours stands."""
        self.assertEqual(REMOTE.next_age(0.0, attempts=1, draw=0.0, retry_after=900.0), 900.0)
        self.assertEqual(REMOTE.next_age(0.0, attempts=1, draw=0.0, retry_after=5.0), 400.0)

    def test_peers_wish_cannot_outlast_the_lifetime(self) -> None:
        """A month asked for: the last attempt is at the lifetime all the same."""
        self.assertEqual(REMOTE.next_age(0.0, attempts=1, draw=0.0, retry_after=1e9), 604800.0)


class LifetimeTests(SynchronousTestCase):
    """The end."""

    def test_no_attempt_follows_the_one_at_the_lifetime(self) -> None:
        """Nor one after it."""
        self.assertIsNone(REMOTE.next_age(604800.0, attempts=40, draw=0.0))
        self.assertIsNone(REMOTE.next_age(700000.0, attempts=40, draw=0.0))
        self.assertTrue(REMOTE.expired(604800.0))
        self.assertFalse(REMOTE.expired(604799.0))

    def test_temporary_failure_becomes_5_4_7(self) -> None:
        """RFC 3463 X.4.7, with the trouble still named."""
        reply = expired_reply(Reply(451, "4.4.1", "no answer from mx.example.org"))
        self.assertTrue(reply.permanent)
        self.assertEqual(reply.enhanced, "5.4.7")
        self.assertIn("no answer from mx.example.org", reply.text)
        later = expired_reply(Reply(450, "4.2.0", "later"), "mx.example.org")
        self.assertEqual(later.text, "delivery time expired; last answer of mx.example.org: 450 4.2.0 later")

    @given(
        st.floats(0, 604799),
        st.integers(1, 100),
        st.floats(0, 1, exclude_max=True),
        st.one_of(st.none(), st.floats(0, 1e9)),
        st.lists(st.floats(0, 1e6), max_size=4),
    )
    def test_next_age_is_later_and_hardly_past_the_lifetime(
        self, age: float, attempts: int, draw: float, retry_after: float | None, backoff: list[float]
    ) -> None:
        """So every message ends, and none is tried without a pause."""
        schedule = Schedule(backoff_s=tuple(backoff))
        found = schedule.next_age(age, attempts=attempts, draw=draw, retry_after=retry_after)
        assert found is not None
        self.assertGreater(found, age + MINIMUM_S * 0.99)
        self.assertLessEqual(found, schedule.lifetime_s + MINIMUM_S)


class NoticeTests(SynchronousTestCase):
    """Who is told what, and when."""

    def test_each_warning_age_is_due_once(self) -> None:
        """The recorded number says which are behind it."""
        self.assertEqual(notices.warnings_passed((14400.0, 86400.0), 14399.0, 0), 0)
        self.assertEqual(notices.warnings_passed((14400.0, 86400.0), 14400.0, 0), 1)
        self.assertEqual(notices.warnings_passed((14400.0, 86400.0), 20000.0, 1), 1)
        self.assertEqual(notices.warnings_passed((86400.0, 14400.0), 90000.0, 1), 2)

    def test_ages_that_passed_together_make_one_notice(self) -> None:
        """After a long downtime."""
        self.assertEqual(notices.warnings_passed((14400.0, 86400.0), 200000.0, 0), 2)

    def test_shortened_list_repeats_no_notice(self) -> None:
        """The number never falls."""
        self.assertEqual(notices.warnings_passed((14400.0,), 200000.0, 2), 2)

    def test_notify_parameter_decides_what_is_sent(self) -> None:
        """RFC 3461 s.4.1: absent means failures and delays; NEVER means nothing."""
        rows = {
            0: (True, True, False),
            Notify.NEVER: (False, False, False),
            Notify.FAILURE: (False, True, False),
            Notify.SUCCESS | Notify.DELAY: (True, False, True),
        }
        for notify, wanted in rows.items():
            self.assertEqual(
                (notices.wants_delay(notify), notices.wants_failure(notify), notices.wants_success(notify)), wanted
            )
