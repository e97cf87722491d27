"""Which of several LDAP servers is asked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from random import Random

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from qmailpy.directory import password
from qmailpy.directory.client import FAILURE_S, LdapDirectory
from qmailpy.directory.pool import Pool
from qmailpy.directory.servers import FIRST_PROBE_S, LAST_PROBE_S, Servers
from qmailpy.errors import Temporary
from qmailpy.testing.memory_events import MemoryEvents
from qmailpy.values import Alias, Group, Mailbox
from tests.directory.parts import BASE, AskingTestCase, PumpedEndpoint, example, identity, served


class ServersTests(AskingTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.events = MemoryEvents()
        accounts = example(self)
        accounts.thd_add_user("joe@example.org", secret=b"sesame")
        self.name = identity(accounts.store, "service", password.ssha(b"machine"))
        self.endpoints = [served(accounts.store, self.clock) for _ in range(3)]
        self.use(self.endpoints)

    def use(self, endpoints: Sequence[PumpedEndpoint]) -> None:
        def secret() -> Deferred[bytes]:
            found: Deferred[bytes] = Deferred()
            found.callback(b"machine")
            return found

        pools = [
            Pool(self.clock, one, service=str(self.name), secret=secret, name="abc"[number], timeout_s=2)
            for number, one in enumerate(endpoints)
        ]
        self.servers = Servers(self.clock, pools, self.events, timeout_s=4, chance=Random(1))
        self.directory = LdapDirectory(self.clock, self.servers, BASE, ours=False, events=self.events)

    def step(self) -> None:
        while any(pump.pump() for one in self.endpoints if not one.silent for pump in list(one.pumps)):
            pass

    def start(self) -> Deferred[Mailbox | Alias | Group | None]:
        answer = Deferred.fromCoroutine(self.directory.lookup("joe@example.org"))
        self.step()
        return answer

    def found(self) -> None:
        self.assertIsInstance(self.successResultOf(self.start()), Mailbox)

    def up(self) -> str:
        return "".join(str(one["server"]) for one in self.directory.figures() if one["up"])

    def lose(self, *numbers: int) -> None:
        for number in numbers:
            self.endpoints[number].refuse = True
            self.endpoints[number].cut()

    def test_only_the_first_is_asked_while_it_answers(self) -> None:
        for _ in range(5):
            self.found()
        self.assertEqual([len(one.servers) for one in self.endpoints], [2, 0, 0])

    def test_the_next_answers_the_question_that_found_the_first_lost(self) -> None:
        self.found()
        self.lose(0)
        self.found()
        self.assertEqual(self.up(), "bc")
        self.assertEqual(
            [(name, fields["server"]) for name, fields in self.events.happenings], [("directory.server", "a")]
        )

    def test_one_that_is_down_is_not_asked_but_probed_after_growing_waits(self) -> None:
        self.lose(0)
        times: list[float] = []
        endpoint = self.endpoints[0]
        original = endpoint.connect

        def connect(factory: object) -> object:
            times.append(self.clock.seconds())
            return original(factory)  # type: ignore[arg-type]

        endpoint.connect = connect  # type: ignore[method-assign,assignment]
        for _ in range(3000):
            self.clock.advance(0.05)
            self.found()
        waits = [after - before for before, after in pairwise(times)]
        self.assertLess(len(times), 25)
        self.assertLess(waits[0], 2 * FIRST_PROBE_S + 0.05)
        self.assertTrue(0.8 * LAST_PROBE_S <= waits[-1] <= 1.25 * LAST_PROBE_S, waits)

    def test_the_first_is_used_again_when_it_is_back(self) -> None:
        self.lose(0)
        self.found()
        self.endpoints[0].refuse = False
        before = len(self.endpoints[1].servers)
        self.clock.advance(2 * FIRST_PROBE_S)
        self.step()
        self.assertEqual(self.up(), "abc")
        self.assertEqual(
            self.events.happenings[-1],
            ("trouble.over", {"event": "directory.server", "about": "a", "lasted": "0 s"}),
        )
        self.found()
        self.assertEqual(len(self.endpoints[1].servers), before)

    def test_one_that_does_not_answer_is_left_in_half_of_the_time(self) -> None:
        self.found()
        self.found()
        self.endpoints[0].silent = True
        asked = [self.start() for _ in range(5)]
        self.clock.advance(2)
        self.step()
        for one in asked:
            self.assertIsInstance(self.successResultOf(one), Mailbox)
        # One line is made anew when the first gives up on it; nobody tries that server again after that.
        self.assertLessEqual(len(self.endpoints[0].servers), 3)
        self.assertEqual(self.up(), "bc")

    def test_two_are_asked_and_not_all(self) -> None:
        """A question that no server can stand must not bring down all of them."""
        self.lose(0, 1)
        self.failureResultOf(self.start(), Temporary)
        self.assertEqual(self.up(), "c")
        self.found()

    def test_with_all_away_a_question_fails_at_once_and_nobody_is_called_unknown(self) -> None:
        self.lose(0, 1, 2)
        self.failureResultOf(self.start(), Temporary)
        self.failureResultOf(self.start(), Temporary)
        self.assertEqual(self.up(), "")
        connected = [len(one.servers) for one in self.endpoints]
        for _ in range(100):
            problem = self.failureResultOf(self.start(), Temporary).value
            self.assertEqual(problem.reply.code, 451)
        self.assertEqual([len(one.servers) for one in self.endpoints], connected)
        self.assertIn("directory.away", self.events.names)

    def test_a_lone_server_is_not_given_up_for_being_slow_once(self) -> None:
        self.use(self.endpoints[:1])
        self.found()
        self.found()
        self.endpoints[0].silent = True
        slow = self.start()
        self.clock.advance(4)
        self.failureResultOf(slow, Temporary)
        self.endpoints[0].silent = False
        self.found()

    def test_a_wrong_password_is_told_at_the_beat_of_a_clock(self) -> None:
        """Another directory may be quicker with a name that it does not know."""
        for login in ("joe@example.org", "nobody@example.org"):
            answer = Deferred.fromCoroutine(self.directory.authenticate(login, b"wrong"))
            self.step()
            self.clock.advance(FAILURE_S * 0.9)
            self.assertNoResult(answer)
            self.clock.advance(FAILURE_S * 0.2)
            self.assertIsNone(self.successResultOf(answer))

    def test_what_is_under_way_is_answered_when_others_take_over(self) -> None:
        self.found()
        self.found()
        self.endpoints[0].silent = True
        before = self.start()
        first = self.directory
        self.use(self.endpoints[1:])
        first.use(self.directory, 4)
        self.directory = first
        self.found()
        self.endpoints[0].silent = False
        self.step()
        self.assertIsInstance(self.successResultOf(before), Mailbox)
        self.clock.advance(4)
        self.assertEqual([pump.client.open for pump in self.endpoints[0].pumps], [False] * 2)

    def test_stopping_leaves_nothing(self) -> None:
        self.lose(0)
        self.found()
        self.successResultOf(Deferred.fromCoroutine(self.directory.stop()))
        self.failureResultOf(self.start(), Temporary)
        self.assertEqual([[pump.client.open for pump in one.pumps] for one in self.endpoints], [[], [False] * 2, []])
        self.assertNotIn("Servers", str(self.clock.getDelayedCalls()))  # the rest is the other end's
        self.clock.advance(100)
        self.assertEqual([len(one.servers) for one in self.endpoints], [0, 2, 0])
