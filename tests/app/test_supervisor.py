"""The supervisor with a clock and processes made of paper: order, restarts, drain, reload."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import define, evolve, field
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.app.handover import Message, decode
from qmailpy.app.pulse import QUESTION_S as PING_S
from qmailpy.app.pulse import SILENT, STARTING
from qmailpy.app.restarts import LIMIT, WINDOW_S, YOUNG_S, Restarts
from qmailpy.app.supervisor import FLUSH_MOST, PATIENCE_S, Keeper, Place, State, Supervisor
from qmailpy.config.schema import Config, ServerConfig
from qmailpy.testing.memory_events import MemoryEvents

CONFIG = Config(home="/nowhere", server=ServerConfig(hostname="mail.example.org"))
NEVER = Config(home="/nowhere", server=ServerConfig(hostname="mail.example.org", frozen_s=0))
SILENCE_S = CONFIG.server.frozen_s
PLACES = (Place(role="directory", index=0), *(Place(role="mta", index=n, shards=(str(n),), rank=1) for n in (0, 1)))


@define
class PaperChild:
    name: str
    config: Config
    keeper: Keeper
    pid: int
    sent: list[Message] = field(factory=list)
    signals: list[str] = field(factory=list)

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def terminate(self) -> None:
        self.signals.append("TERM")

    def kill(self) -> None:
        self.signals.append("KILL")

    def ready(self) -> None:
        self.keeper.said({"say": "ready"})

    def die(self, how: str = "signal 9") -> None:
        self.keeper.ended(how, how == "exit status 0")


class PaperSpawn:
    def __init__(self) -> None:
        self.children: list[PaperChild] = []
        self.fail = 0

    def __call__(self, place: Place, config: Config, keeper: Keeper) -> PaperChild:
        if self.fail:
            self.fail -= 1
            raise BlockingIOError(11, "Resource temporarily unavailable")
        child = PaperChild(place.name, config, keeper, 100 + len(self.children))
        self.children.append(child)
        return child

    def names(self) -> list[str]:
        return [child.name for child in self.children]


class SupervisorCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.spawn = PaperSpawn()
        self.told: list[str] = []
        self.supervisor = Supervisor(
            self.clock, PLACES, self.spawn, CONFIG, lambda: self.told.append("ready"), self.told.append
        )

    def states(self) -> set[State]:
        return {state for state, _ in self.supervisor.children().values()}

    def all_ready(self) -> list[PaperChild]:
        self.supervisor.start()
        self.spawn.children[0].ready()
        for child in self.spawn.children[1:]:
            child.ready()
        return list(self.spawn.children)


class Telling(SupervisorCase):
    """What the events file says of it."""

    def setUp(self) -> None:
        super().setUp()
        self.events = MemoryEvents()
        self.supervisor = Supervisor(self.clock, PLACES, self.spawn, CONFIG, events=self.events)

    def test_a_child_that_dies_is_an_event(self) -> None:
        self.all_ready()
        self.spawn.children[1].die()
        ((name, fields),) = self.events.happenings
        self.assertEqual((name, fields["worker"], fields["wait"]), ("worker.restarted", "mta-0", 0))

    def test_one_that_dies_again_and_again_is_another(self) -> None:
        """With each death: how often it is written is the events file's to decide."""
        self.all_ready()
        for _ in range(2 * LIMIT):
            [child for child in self.spawn.children if child.name == "mta-0"][-1].die()
            self.clock.advance(1)
        self.assertEqual(self.events.names.count("worker.crash-loop"), LIMIT)
        before = self.events.names[: self.events.names.index("worker.crash-loop")]
        self.assertEqual(before.count("worker.restarted"), LIMIT + 1)

    def ended(self) -> list[dict[str, str | int | float]]:
        return [
            {"event": fields["event"], "about": fields["about"]}
            for name, fields in self.events.happenings
            if name == "trouble.over"
        ]

    def rounds(self, count: int, silent: str = "mta-0", seconds: float = PING_S) -> None:
        """All answer but one."""
        for _ in range(count):
            self.clock.advance(seconds)
            for child in self.spawn.children:
                if child.name != silent:
                    child.keeper.said({"say": "pong"})

    def test_it_is_over_when_it_has_lived_for_as_long_as_a_loop_is_one(self) -> None:
        self.all_ready()
        for _ in range(2 * LIMIT):
            [child for child in self.spawn.children if child.name == "mta-0"][-1].die()
            self.clock.advance(1)
        self.clock.advance(WINDOW_S)
        self.spawn.children[-1].ready()
        self.events.happenings.clear()
        self.rounds(round(WINDOW_S / PING_S) - 1, silent="")
        over: dict[str, str | int | float] = {"event": "worker.crash-loop", "about": "mta-0"}
        self.assertNotIn(over, self.ended())
        self.rounds(3, silent="")
        self.assertIn(over, self.ended())
        self.rounds(50, silent="")
        self.assertEqual(self.ended().count(over), 1)

    def test_one_that_stands_still_is_told_and_that_it_goes_on(self) -> None:
        """Not before it has left three questions without an answer."""
        self.all_ready()
        self.rounds(SILENT)
        self.assertEqual(self.events.names, [])
        self.rounds(1)
        self.assertEqual(
            self.events.happenings, [("worker.down", {"worker": "mta-0", "why": "it has said nothing for 15 s"})]
        )
        self.rounds(1, silent="")
        name, fields = self.events.happenings[-1]
        self.assertEqual((name, fields), ("trouble.over", {"event": "worker.down", "about": "mta-0", "lasted": "20 s"}))
        self.events.happenings.clear()
        self.rounds(20, silent="")
        self.assertEqual(self.events.names, [])

    def test_the_end_of_one_that_was_silent_is_when_its_successor_is_ready(self) -> None:
        self.all_ready()
        self.rounds(round(SILENCE_S / PING_S) + 1)
        child = self.spawn.children[1]
        self.assertEqual(child.signals, ["KILL"])
        self.supervisor.reopen()
        child.die()
        self.assertEqual(self.events.names[-1], "worker.restarted")
        self.assertEqual(self.events.happenings[-1][1]["how"], "it did not answer: signal 9")
        self.assertNotIn({"do": "reopen"}, child.sent)
        successor = self.spawn.children[-1]
        successor.keeper.said({"say": "pong"})  # it starts, and nothing is open yet
        self.assertNotIn("trouble.over", self.events.names)
        successor.ready()
        self.assertEqual(self.events.names[-1], "trouble.over")
        self.assertEqual(successor.sent, [], "what was kept for the other is no matter of this one")

    def test_a_start_is_no_silence(self) -> None:
        """Of a large queue it takes minutes; what has been loaded by then answers nobody."""
        self.supervisor.start()
        self.rounds(20, silent="directory-0")
        self.assertEqual(self.events.names, [])

    def test_rounds_that_come_late_prove_nothing(self) -> None:
        """The machine sleeps again and again, and the child never has the time to answer before we ask."""
        self.all_ready()
        self.rounds(50, seconds=4 * PING_S)
        self.assertEqual((self.events.names, self.spawn.children[1].signals), ([], []))
        self.rounds(SILENT - 1)
        self.rounds(1, seconds=4 * PING_S)
        self.assertEqual(self.events.names, [], "nor what was counted before")
        self.rounds(1)
        self.assertEqual(self.events.names, ["worker.down"])

    def test_one_that_may_stand_still_for_ever_is_told_of_and_left_alone(self) -> None:
        """And what waits for it does not grow: one question, and the last message of a kind."""
        self.supervisor = Supervisor(self.clock, PLACES, self.spawn, NEVER, events=self.events)
        directory, worker, _ = self.all_ready()
        self.rounds(1000)
        self.assertEqual((set(self.events.names), worker.signals), ({"worker.down"}, []))
        for number in range(1000):
            directory.keeper.said({"say": "changed", "what": [f"user{number}@example.org"]})
            self.supervisor.reopen()
            self.supervisor.reload(NEVER)
        self.assertEqual(worker.sent, [{"do": "ping"}])
        self.supervisor.reload(CONFIG)
        worker.keeper.said({"say": "pong"})
        _, flush, reopen, reload = worker.sent
        self.assertEqual((flush, reopen["do"]), ({"do": "flush", "what": [""]}, "reopen"))
        self.assertEqual(decode(reload["config"]), CONFIG)
        self.rounds(round(SILENCE_S / PING_S) + 1)
        self.assertEqual(worker.signals, ["KILL"], "as the new configuration has it")

    def test_an_orderly_end_is_none(self) -> None:
        self.all_ready()
        self.supervisor.stop(10)
        for child in reversed(self.spawn.children):
            child.die()
        self.assertEqual(self.events.names, [])


class Supervising(SupervisorCase):
    def test_the_directory_is_ready_before_workers_start(self) -> None:
        self.supervisor.start()
        self.assertEqual(self.spawn.names(), ["directory-0"])
        self.spawn.children[0].ready()
        self.assertEqual(self.spawn.names(), ["directory-0", "mta-0", "mta-1"])

    def test_readiness_is_told_once_when_all_are_ready(self) -> None:
        self.supervisor.start()
        self.spawn.children[0].ready()
        self.spawn.children[1].ready()
        self.assertEqual(self.told, [])
        self.spawn.children[2].ready()
        self.assertEqual(self.told, ["ready"])
        self.spawn.children[2].die()
        self.spawn.children[3].ready()
        self.assertEqual(self.told, ["ready"])

    def test_workers_start_without_a_directory_that_takes_too_long(self) -> None:
        self.supervisor.start()
        self.clock.advance(PATIENCE_S)
        self.assertEqual(self.spawn.names(), ["directory-0", "mta-0", "mta-1"])
        self.spawn.children[0].ready()
        self.assertEqual(len(self.spawn.children), 3)

    def test_mailboxes_stay_closed_until_the_queue_was_taken_up(self) -> None:
        """Deliveries that an unclean stop cut short are replayed first, however long that takes."""
        places = (*PLACES, Place(role="access", index=0, rank=2, patient=True))
        self.supervisor = Supervisor(self.clock, places, self.spawn, CONFIG)
        self.supervisor.start()
        self.spawn.children[0].ready()
        self.clock.advance(PATIENCE_S * 3)
        self.assertEqual(self.spawn.names(), ["directory-0", "mta-0", "mta-1"])
        for child in self.spawn.children[1:3]:
            child.ready()
        self.assertEqual(self.spawn.names()[3:], ["access-0"])

    def test_a_child_that_dies_is_back_at_once(self) -> None:
        self.all_ready()
        self.spawn.children[1].die()
        self.assertEqual(self.spawn.names()[3:], ["mta-0"])
        self.assertEqual(self.supervisor.children()["mta-0"], (State.STARTING, 103))
        self.assertFalse(self.supervisor.ready)
        self.spawn.children[3].ready()
        self.assertTrue(self.supervisor.ready)

    def test_a_child_that_ends_by_itself_is_restarted_too(self) -> None:
        self.all_ready()
        self.spawn.children[1].die("exit status 0")
        self.assertEqual(self.spawn.names()[3:], ["mta-0"])

    def test_a_process_that_cannot_be_made_is_tried_again(self) -> None:
        self.all_ready()
        self.spawn.fail = 3
        self.spawn.children[1].die()
        self.clock.pump([0.1] * 20)
        self.assertEqual(self.spawn.names()[3:], ["mta-0"])

    def test_a_child_that_dies_young_again_and_again_is_held_back_but_never_given_up(self) -> None:
        self.all_ready()
        starts = len(self.spawn.children)
        for _ in range(1200):  # two minutes
            child = self.spawn.children[-1]
            if self.supervisor.children()["mta-1"][1] == child.pid or child.name != "mta-1":
                last = next(one for one in reversed(self.spawn.children) if one.name == "mta-1")
                if self.supervisor.children()["mta-1"][1] == last.pid:
                    last.die("exit status 1")
            self.clock.advance(0.1)
        restarted = len(self.spawn.children) - starts
        self.assertGreater(restarted, LIMIT)
        self.assertLessEqual(restarted, 2 * LIMIT + 2)

    def test_workers_stop_before_the_directory(self) -> None:
        directory, one, two = self.all_ready()
        stopped = self.supervisor.stop(20.0)
        self.assertEqual((directory.signals, one.signals, two.signals), ([], ["TERM"], ["TERM"]))
        one.die("exit status 0")
        two.die("exit status 0")
        self.assertEqual(directory.signals, ["TERM"])
        self.assertNoResult(stopped)
        directory.die("exit status 0")
        self.successResultOf(stopped)
        self.assertEqual(self.states(), {State.GONE})
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_does_not_end_in_time_is_killed(self) -> None:
        directory, one, two = self.all_ready()
        stopped = self.supervisor.stop(20.0)
        one.die("exit status 0")
        self.clock.advance(20.0)
        self.assertEqual((directory.signals, two.signals), (["KILL"], ["TERM", "KILL"]))
        two.die()
        directory.die()
        self.successResultOf(stopped)

    def test_nothing_is_restarted_while_stopping(self) -> None:
        directory, one, two = self.all_ready()
        one.die()
        last = self.spawn.children[-1]
        last.die()  # a second time: waits for its restart
        self.clock.advance(0.001)
        self.supervisor.stop(20.0)
        two.die("exit status 0")
        directory.die("exit status 0")
        self.clock.advance(60)
        self.assertEqual(len(self.spawn.children), 4)
        self.assertEqual(self.states(), {State.GONE})

    def test_stopping_before_the_workers_have_started_leaves_them_out(self) -> None:
        self.supervisor.start()
        stopped = self.supervisor.stop(20.0)
        self.spawn.children[0].ready()
        self.spawn.children[0].die("exit status 0")
        self.successResultOf(stopped)
        self.clock.advance(60)
        self.assertEqual(self.spawn.names(), ["directory-0"])

    def test_a_new_configuration_reaches_children_now_and_after_a_restart(self) -> None:
        children = self.all_ready()
        new = evolve(CONFIG, server=evolve(CONFIG.server, hostname="new.example.org"))
        self.supervisor.reload(new)
        for child in children:
            self.assertEqual(decode(child.sent[-1]["config"]), new)
        children[1].die()
        self.assertEqual(self.spawn.children[-1].config, new)

    def test_wishes_of_children_are_passed_on_and_nonsense_is_not(self) -> None:
        child = self.all_ready()[1]
        for said in ({"say": "reload"}, {"say": "stop"}, {"say": "x"}, {}, {"say": ["ready"]}, {"say": "ready"}):
            child.keeper.said(said)
        self.assertEqual(self.told, ["ready", "reload", "stop"])


class Silence(SupervisorCase):
    """A child that lives and does not answer is as good as dead."""

    def ticks(self, count: int) -> None:
        for _ in range(count):
            self.clock.advance(PING_S)

    def test_children_that_answer_are_left_alone(self) -> None:
        children = self.all_ready()
        for _ in range(30):
            self.ticks(1)
            for child in children:
                self.assertEqual(child.sent[-1], {"do": "ping"})
                child.keeper.said({"say": "pong"})
        self.assertEqual([child.signals for child in children], [[], [], []])

    def test_one_that_stays_silent_is_killed_and_started_again(self) -> None:
        """After SILENCE_S and not before; until its successor is there the service manager hears nothing from us."""
        children = self.all_ready()
        for _ in range(int(SILENCE_S / PING_S)):
            self.ticks(1)
            children[0].keeper.said({"say": "pong"})
            children[2].keeper.said({"say": "pong"})
        self.assertEqual((children[1].signals, self.supervisor.answering), ([], True))
        self.ticks(1)
        self.assertEqual([child.signals for child in children], [[], ["KILL"], []])
        self.assertFalse(self.supervisor.answering)
        children[0].keeper.said({"say": "pong"})
        children[2].keeper.said({"say": "pong"})
        self.ticks(1)
        self.assertEqual(children[1].signals, ["KILL"], "once")
        children[1].die()
        self.assertTrue(self.supervisor.answering)
        self.assertEqual(self.spawn.names()[3:], ["mta-0"])
        self.spawn.children[3].ready()
        self.ticks(int(SILENCE_S / PING_S))
        self.assertEqual(self.spawn.children[3].signals, [])

    def test_a_start_may_take_longer(self) -> None:
        self.supervisor.start()
        child = self.spawn.children[0]
        self.ticks(int(STARTING * SILENCE_S / PING_S))
        self.assertEqual(child.signals, [])
        self.ticks(1)
        self.assertEqual(child.signals, ["KILL"])

    def test_a_clock_that_jumps_kills_nobody(self) -> None:
        """A machine that slept: seconds have passed, and nobody was asked meanwhile."""
        children = self.all_ready()
        self.clock.advance(86400.0)
        self.assertEqual([child.signals for child in children], [[], [], []])

    def test_one_that_was_told_to_end_has_the_drain_limit_and_no_other(self) -> None:
        children = self.all_ready()
        stopped = self.supervisor.stop(10 * SILENCE_S)
        self.ticks(int(2 * SILENCE_S / PING_S))
        self.assertEqual([child.signals for child in children], [[], ["TERM"], ["TERM"]])
        for child in reversed(children):
            child.die("exit status 0")
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class Flushes(SupervisorCase):
    def test_what_the_directory_says_has_changed_the_workers_are_told_to_forget(self) -> None:
        directory, *workers = self.all_ready()
        directory.keeper.said({"say": "changed", "what": ["a@b.example", "b.example"]})
        for worker in workers:
            self.assertEqual(worker.sent, [{"do": "flush", "what": ["a@b.example", "b.example"]}])
        self.assertEqual(directory.sent, [])

    def test_the_process_of_mailboxes_is_told_too(self) -> None:
        """It lets people in by what it remembers of the directory."""
        places = (*PLACES, Place(role="access", index=0, rank=2, patient=True))
        self.supervisor = Supervisor(self.clock, places, self.spawn, CONFIG)
        self.supervisor.start()
        for child in self.spawn.children:  # grows while ranks become ready
            child.ready()
        self.spawn.children[0].keeper.said({"say": "changed", "what": ["ann@example.org"]})
        self.assertIn({"do": "flush", "what": ["ann@example.org"]}, self.spawn.children[3].sent)

    def test_nonsense_is_not_passed_on(self) -> None:
        directory, *workers = self.all_ready()
        for what in (None, "a@b", [1], ["a"] * (FLUSH_MOST + 1)):
            directory.keeper.said({"say": "changed", "what": what})
        self.assertEqual([worker.sent for worker in workers], [[], []])


class RestartTimes(SynchronousTestCase):
    def waits(self, lives: Iterable[float]) -> list[float]:
        restarts, now, waits = Restarts(), 0.0, []
        for life in lives:
            now += life
            wait, _ = restarts.delay(now, life)
            waits.append(round(wait, 3))
            now += wait
        return waits

    def test_the_first_restart_is_immediate_and_later_ones_wait_below_a_second(self) -> None:
        self.assertEqual(self.waits([0.1] * 8), [0, 0.05, 0.1, 0.2, 0.4, 0.8, 0.8, 0.8])

    def test_a_child_that_ran_well_starts_anew(self) -> None:
        self.assertEqual(self.waits([0.1, 0.1, YOUNG_S, 0.1]), [0, 0.05, 0, 0.05])

    def test_no_more_than_the_limit_in_a_window(self) -> None:
        restarts, now, times = Restarts(), 0.0, []
        while now < 10 * WINDOW_S:
            wait, _ = restarts.delay(now, 0.0)
            now += wait
            times.append(now)
        for at in times:
            self.assertLessEqual(sum(at <= other < at + WINDOW_S for other in times), LIMIT)
        self.assertGreater(len(times), 9 * LIMIT)
