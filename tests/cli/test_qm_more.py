"""C{qm qshape}, C{flush}, C{why} and what chooses among messages, over a queue in memory."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.cli import qm_complete, qm_why
from qmailpy.cli.qm import WORDS
from qmailpy.cli.qm_choose import Progress
from qmailpy.cli.qm_complete import candidates
from qmailpy.cli.qm_session import Session
from qmailpy.cli.qm_shape import edges_of
from qmailpy.cli.qm_why import explained
from qmailpy.config.schema import ChannelConfig, Config, ServerConfig
from qmailpy.queue.entries import MessageStanding, Standing
from tests.cli.fakequeue import IDS, entry
from tests.cli.test_qm import QmCase

NOW = 1.8e9


class ChoiceTests(QmCase):
    """Each option narrows the list."""

    def chosen(self, *words: str) -> list[int]:
        return [IDS.index(one["id"]) + 1 for one in json.loads(self.out("directory", "--json", *words))]

    def test_domain_size_and_attempts_choose(self) -> None:
        self.queue.list[0] = entry(1, recipients=("r@a.example",), size_octets=5000)
        self.queue.list[1] = entry(2, recipients=("r@x.a.example",), attempts=3)
        self.assertEqual(self.chosen("-domain=A.example"), [1])
        self.assertEqual(self.chosen("-domain=.a.example"), [2])
        self.assertEqual(self.chosen("-domain=*a.example"), [1, 2])
        self.assertEqual(self.chosen("-larger=2k"), [1])
        self.assertEqual(self.chosen("-smaller=1024"), [3])
        self.assertEqual(self.chosen("-min_attempts=1"), [2])
        self.assertEqual(self.chosen("-max_attempts=0", "-larger=1100"), [1])

    def test_age_chooses(self) -> None:
        now = time.time()
        self.queue.list = [entry(1, arrival=now - 7200), entry(2, arrival=now - 60)]
        self.assertEqual(self.chosen("-older=1h"), [1])
        self.assertEqual(self.chosen("-newer=1h"), [2])
        self.assertIn("no time", self.fails("dir", "-older=soon"))

    def test_subject_and_content_choose(self) -> None:
        self.assertEqual(self.chosen("-subject=HELL"), [1, 2, 3])
        self.assertEqual(self.chosen("-subject=hell?"), [1, 2, 3])
        self.assertEqual(self.chosen("-subject=hell"), [1, 2, 3])
        self.assertEqual(self.chosen("-content=nowhere"), [])
        self.assertEqual(self.chosen("-content=na*text*"), [1, 2, 3])

    def test_changes_take_them_with_all_and_not_with_ids(self) -> None:
        self.out("delete", "-all", "-domain=example.net", "-max_attempts=0", "-noconfirm")
        self.assertEqual(self.left, [2])
        self.assertIn("among -all", self.fails("delete", IDS[1], "-larger=1"))


class ShapeTests(QmCase):
    """The table of ages."""

    def setUp(self) -> None:
        super().setUp()
        self.queue.now = NOW
        self.queue.list = [
            entry(1, arrival=NOW - 60, recipients=("a@x.example", "b@X.example", "c@y.example"), remaining=3),
            entry(2, arrival=NOW - 301, recipients=("a@x.example",)),
            entry(3, arrival=NOW - 90000, recipients=("a@z.example",), sender=""),
        ]

    def test_rows_are_recipients_by_domain_and_age(self) -> None:
        found = self.out("qshape").splitlines()[3:]
        self.assertEqual(
            [line.split() for line in found],
            [
                ["T", "5", "10", "20", "40", "80", "160", "320", "640", "1280", "1280+"],
                ["TOTAL", "5", "3", "1", *["0"] * 7, "1"],
                ["x.example", "3", "2", "1", *["0"] * 8],
                ["y.example", "1", "1", *["0"] * 9],
                ["z.example", "1", *["0"] * 9, "1"],
            ],
        )
        self.assertEqual(len({len(line) for line in found}), 1)

    def test_senders_columns_and_rows_can_be_chosen(self) -> None:
        found = json.loads(self.out("qshape", "-sender", "-buckets=3", "-first=1", "-top=1", "--json"))
        self.assertEqual((found["by"], found["edges_minutes"], found["names"]), ("sender", [1.0, 2.0], 2))
        self.assertEqual(found["rows"], [{"name": "example.org", "total": 2, "counts": [0, 1, 1]}])
        self.assertIn("and 1 more", self.out("qshape", "-sender", "-top=1"))
        self.assertIn("TOTAL", self.out("qshape", "nowhere"))

    def test_edges_double(self) -> None:
        self.assertEqual(edges_of(5.0, 4), [5.0, 10.0, 20.0])


class FlushTests(QmCase):
    """Mail that is tried now."""

    def test_destination_channel_or_ids(self) -> None:
        self.assertIn("%QM-I-FLUSHED, x.example: 2 waiting", self.out("flush", "x.example"))
        self.patch(self.queue, "flush", lambda destination: 0)
        self.assertIn("y.example: nothing waits but what is held", self.out("flush", "y.example"))
        self.out("flush", "-channel=local")
        self.out("directory")
        self.out("flush", "1-2")
        self.assertEqual(
            self.queue.done,
            [
                ("flush", "", "x.example"),
                ("forgive", "", "local"),
                ("try", IDS[0], "ims-ms"),
                ("try", IDS[1], "ims-ms"),
            ],
        )

    def test_what_cannot_be_meant_is_refused(self) -> None:
        self.assertIn("give a destination", self.fails("flush"))
        self.assertIn("one destination", self.fails("flush", "a.example", "b.example"))
        self.assertIn("of all channels", self.fails("flush", "a.example", "-channel=local"))


class WhyTests(SynchronousTestCase):
    """The sentences."""

    def told(self, **standing: object) -> str:
        values = {
            "channel": "tcp_local",
            "state": "waiting",
            "recipients": ("r@x.example",),
            "count": 1,
            "host": "x.example",
        }
        one = Standing(**{**values, "ends": NOW + 9000, **standing})  # type: ignore[arg-type]
        hold = NOW + 50 if standing.get("next_attempt") == NOW + 50 else 0.0
        message = MessageStanding(
            id=IDS[0], arrival=NOW - 100, sender="s@y.example", source="tcp_local", hold_until=hold, standings=(one,)
        )
        return "\n".join(explained(message, NOW))

    def test_waiting(self) -> None:
        told = self.told(attempts=2, last_error="451 later", next_attempt=NOW + 600)
        self.assertIn("It was tried 2 times in vain; the last answer: 451 later", told)
        self.assertIn("in 10 min.", told)
        self.assertIn("goes back to its sender at", told)
        self.assertIn(f"qm flush {IDS[0]}", told)

    def test_a_piece_goes_on_as_it_is_when_the_others_do_not_come(self) -> None:
        """It goes back to nobody before that; where the lifetime is shorter, it does."""
        piece = {"channel": "defragment", "attempts": 1, "next_attempt": NOW + 600, "last_error": "451 waits"}
        told = self.told(**piece, gathered=NOW + 5000)
        self.assertIn("If its other pieces do not come it goes on as it is, with the first attempt after", told)
        self.assertNotIn("goes back to its sender", told)
        told = self.told(**piece, gathered=NOW - 5)
        self.assertIn("with its next attempt it goes on as it is.\n  If nothing helps it goes back", told)
        self.assertIn("goes back to its sender", self.told(**piece, gathered=NOW + 10_000))

    def test_held_stopped_ready_trying_and_postponed(self) -> None:
        self.assertIn(
            f"It is held: spam.\n  Next: nothing, until somebody says qm release {IDS[0]}.",
            self.told(state="held", reason="spam"),
        )
        self.assertIn("until somebody says qm start tcp_local", self.told(stopped="it was stopped by an operator"))
        self.assertIn("until the channel is configured again", self.told(stopped="it is not in the configuration"))
        self.assertIn(
            "turn comes; 3 jobs wait for that destination, 2 at once", self.told(state="ready", ahead=3, limit=2)
        )
        self.assertIn("turn comes; 1 job waits for that destination.", self.told(state="ready", ahead=1))
        self.assertIn("is room for it; 200 jobs wait", self.told(next_attempt=NOW - 5, ahead=200))
        self.assertIn("being tried at this moment", self.told(state="trying"))
        self.assertIn("wants it to go at", self.told(next_attempt=NOW + 50))
        self.assertIn(f"To try it now: qm release {IDS[0]}", self.told(next_attempt=NOW + 50))
        self.assertIn("But x.example asked for less", self.told(trouble="x.example asked for less"))

    def test_held_while_it_is_tried(self) -> None:
        """The attempt that is under way is not broken off; what comes of it decides."""
        told = self.told(state="trying", reason="look at it")
        self.assertIn("What is left of it is held then: look at it.", told)
        self.assertNotIn("goes back", told)

    def test_what_is_converted_is_not_tried_and_has_no_host(self) -> None:
        told = self.told(state="trying", kind="conversion", channel="conversion", host="tcp_local far.example")
        self.assertIn("channel conversion on its way to tcp_local to far.example:", told)
        self.assertIn("It is being converted at this moment.", told)
        self.assertIn("It is being delivered at this moment.", self.told(state="trying", kind="local", host=""))

    def test_a_notice_goes_back_to_nobody(self) -> None:
        one = Standing(channel="tcp_local", state="waiting", recipients=("s@y.example",), count=1, ends=NOW + 90)
        message = MessageStanding(id=IDS[0], arrival=NOW, sender="", source="process", standings=(one,))
        told = "\n".join(explained(message, NOW))
        self.assertIn("If nothing helps it is given up, being a notice itself, at ", told)
        self.assertNotIn("goes back", told)

    def test_overdue(self) -> None:
        """What waits for somebody is not given back, and is told so."""
        for standing, then in (
            ({"stopped": "it was stopped by an operator"}, "the channel goes on"),
            ({"state": "held", "reason": "spam"}, "it is released"),
        ):
            told = self.told(ends=NOW - 5, **standing)
            self.assertIn("It is overdue since ", told)
            self.assertIn(f"but kept: it gets its last chance when {then}.", told)
            self.assertNotIn("goes back", told)
        self.assertIn("if that does not help it goes back to its sender", self.told(ends=NOW - 5, next_attempt=NOW - 9))


class WhyCommandTests(QmCase):
    def test_what_has_left_is_looked_up_in_the_log(self) -> None:
        self.patch(qm_why, "found_lines", lambda home, queue_id: "")
        self.assertIn("neither in the queue nor in the log", self.fails("why", IDS[0]))
        self.queue.standings[IDS[0]] = MessageStanding(id=IDS[0], arrival=NOW, sender="", source="tcp_local")
        self.assertIn("(a notice)", self.out("why", IDS[0]))
        self.assertEqual(json.loads(self.out("why", IDS[0], "--json"))[0]["queued"], True)


class CompletionTests(QmCase):
    def offered(self, before: str, text: str) -> list[str]:
        session = Session(self.home)
        return list(candidates(WORDS, session, before, text))

    def test_commands_options_and_channels(self) -> None:
        config = Config(
            home="/h",
            server=ServerConfig(hostname="h.example"),
            channels={name: ChannelConfig(name=name, kind="smtp") for name in ("local", "tcp_local")},
        )
        self.patch(qm_complete, "load", lambda home: config)
        self.assertEqual(self.offered("", "he"), ["held ", "help "])
        self.assertEqual(self.offered("help ", "qs"), ["qshape "])
        self.assertEqual(self.offered("dir ", "-fr"), ["-from="])
        self.assertEqual(self.offered("directory ", "-hel"), ["-held "])
        self.assertEqual(self.offered("stop ", "t"), ["tcp_local "])
        self.assertEqual(self.offered("delete -channel=", "l"), ["local "])
        self.assertEqual(self.offered("delete -from=", "l"), [])
        self.assertEqual(self.offered("delete ", "l"), [])
        self.assertEqual(self.offered("nonsense ", "l"), [])
        self.assertEqual(self.offered("d ", "l"), [])  # several begin so

    def test_commands_within_commands_too(self) -> None:
        config = SimpleNamespace(channels={"tcp_local": None})
        self.patch(qm_complete, "load", lambda home: config)
        self.assertEqual(self.offered("counters ", "s"), ["show "])
        self.assertEqual(self.offered("help trace ", "o"), ["off ", "on "])
        self.assertEqual(self.offered("help trace on ", "o"), [])
        self.assertEqual(self.offered("cou sh ", "-noh"), ["-noheaders "])
        self.assertEqual(self.offered("counters show ", "t"), ["tcp_local "])
        self.assertEqual(self.offered("trace on ", "-cl"), ["-client="])
        self.assertEqual(self.offered("trace on ", "tc"), ["tcp_local "])
        for words in ("counters c ", "counters nonsense ", "counters clear "):
            self.assertEqual(self.offered(words, "t"), [], words)

    def test_each_command_has_help_and_options_that_are_offered(self) -> None:
        """Every verb, and those within."""
        ways: list[tuple[str, ...]] = [(name,) for name in WORDS]
        ways += [("counters", name) for name in ("show", "clear", "verify")] + [("trace", "on"), ("trace", "list")]
        for way in ways:
            told = self.out("help", *way)
            self.assertIn("Usage:", told, way)
            self.assertIn("--help", told, way)
            if way[-1] not in ("date", "exit", "quit", "help", "counters", "trace", "view", "run"):
                self.assertNotEqual(self.offered(f"{' '.join(way)} ", "-"), [], way)


class ProgressTests(SynchronousTestCase):
    def test_only_what_takes_long_is_told_and_only_on_a_terminal(self) -> None:
        now = [0.0]
        progress = Progress(seconds=lambda: now[0])
        progress._terminal = True
        told: list[str] = []
        self.patch(__import__("click"), "echo", lambda text="", **_: told.append(text))
        progress.add(10)
        self.assertEqual(told, [])
        now[0] = 1.0
        progress.add(1990)
        self.assertEqual(list(progress.over([1])), [1])
        self.assertEqual(told, ["\r2,000 messages looked at", "\r\x1b[K"])
