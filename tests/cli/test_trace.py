"""qmailpy trace."""

from __future__ import annotations

import json
import os
import time
from types import SimpleNamespace
from typing import Any

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.cli import trace as module
from qmailpy.cli.log import log
from qmailpy.cli.trace import trace
from qmailpy.config.schema import LogConfig
from qmailpy.disk.files import RealFiles
from qmailpy.errors import CommandError
from qmailpy.queue.ids import EPOCH_S, to_id
from qmailpy.records.index import IndexBroken, Indexed, LogIndex
from qmailpy.records.record import Action
from tests.records.stories import MAIL, MESSAGE_ID, NOTICE, OTHER, SECOND, SUBJECT, Log, bounced


class TraceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = os.path.abspath(self.mktemp())
        os.makedirs(f"{self.home}/log")
        self.options = LogConfig()
        config = SimpleNamespace(
            log=LogConfig(), server=SimpleNamespace(hostname="h"), path=lambda *parts: "/".join((self.home, *parts))
        )

        def load(home: str) -> SimpleNamespace:
            config.log = self.options
            return config

        self.patch(module, "load", load)
        self.log = bounced(time.time() - 1000)
        self.write(self.log)

    def write(self, log: Log) -> None:
        with open(f"{self.home}/log/mail.log_current", "ab") as file:
            file.write(log.octets)

    def call(self, *words: str) -> Result:
        return CliRunner().invoke(trace, list(words), obj=SimpleNamespace(home=self.home))

    def test_the_whole_story_is_told(self) -> None:
        """The owner's question: what happened to this mail? With the bounce, the replies and the times."""
        output = self.call(MAIL).output
        for text in (
            f'{MAIL}: message from ann@one.example, "{SUBJECT}", 3 KiB, Message-ID {MESSAGE_ID}',
            "accepted from relay (relay.example.com [192.0.2.66]) on submission by ESMTP, TLS, login ann "
            "for bob@here.example, into the queue of local",
            "delivered to bob@here.example by local (attempt 1), 0.30 s in the queue",
            "not yet delivered to cat@far.example by tcp_local (attempt 1): smtp;450 4.2.0 Come back later",
            "given up for cat@far.example by tcp_local (attempt 2), 7 min in the queue: smtp;550 5.1.1 No such user",
            "finished after 7 min: 1 recipient did not get it",
            f"{NOTICE}: notice about {MAIL} from <>",
            f"finished after 0.30 s: handed on as {SECOND}",
            f"{SECOND}: {NOTICE} handed on",
            "delivered to ann@one.example by local",
        ):
            self.assertIn(text, output)
        self.assertNotIn(OTHER, output)

    def test_it_is_found_in_every_way(self) -> None:
        whole = self.call(MAIL).output
        for what in (MESSAGE_ID, MESSAGE_ID.strip("<>"), NOTICE, "cat@far.example", "<CAT@far.example>", "köln lunch"):
            self.assertEqual(self.call(what).output, whole, what)

    def test_an_address_gives_its_last_messages(self) -> None:
        self.assertIn(OTHER, self.call("bob@here.example").output)
        self.assertNotIn(MAIL, self.call("-n", "1", "bob@here.example").output)

    def test_a_subject_may_look_like_anything_and_be_of_a_time(self) -> None:
        self.assertEqual(self.call("--subject", "lunch").output, self.call(MAIL).output)
        self.assertNotEqual(self.call("--subject", "bob@here.example").exit_code, 0)
        self.assertNotEqual(self.call("lunch", "--since", "1m").exit_code, 0)
        self.assertNotEqual(self.call("lunch", "--until", "2h").exit_code, 0)
        self.assertEqual(self.call("lunch", "--since", "2h").exit_code, 0)

    def test_what_the_other_server_was_and_said_is_told_in_words(self) -> None:
        """Where, over what, and its reply, or ours about it."""
        more = Log(time.time() - 10)
        ends = "dns;mx.far.example (TCP|192.0.2.9|2788|198.51.100.7|25)"
        for diagnostic in (
            f"{ends} (mx ESMTP (Postfix) ready) (TLSv1.3/TLS_AES_256_GCM_SHA384 dane) smtp;250 2.1.5 ok (really)",
            f"{ends} (mx) smtp;450 4.2.0 later",
            "dns;[198.51.100.7] (TCP|192.0.2.9|2788|198.51.100.7|25) (mx) smtp;450 4.2.0 later",
            f"{ends} (mx) the connection was lost",
        ):
            more.add(Action.DEQUEUED, OTHER, "tcp_local", "eve@far.example", modifiers="ES", diagnostic=diagnostic)
        self.write(more)
        output = self.call(OTHER).output
        for text in (
            "by tcp_local at mx.far.example [198.51.100.7], TLSv1.3/TLS_AES_256_GCM_SHA384 dane (attempt 1): "
            "250 2.1.5 ok (really)",
            "by tcp_local at mx.far.example [198.51.100.7], TLS (attempt 1): 450 4.2.0 later",
            "by tcp_local at [198.51.100.7], TLS (attempt 1): 450",
            "by tcp_local at mx.far.example [198.51.100.7], TLS (attempt 1): the connection was lost",
        ):
            self.assertIn(text, output)

    def test_mail_that_is_waiting_is_said_to_be(self) -> None:
        output = self.call(OTHER).output
        self.assertIn("still in the queue for bob@here.example (local)", output)

    def test_mail_that_an_operator_deleted_was_not_delivered(self) -> None:
        """Its record is a D line, and its recipients have nothing."""
        more = Log(time.time() - 10)
        more.add(Action.DEQUEUED, OTHER, "local", "bob@here.example", diagnostic="deleted by the operator")
        self.write(more)
        output = self.call(OTHER).output
        self.assertIn("deleted by the operator, for bob@here.example in the queue of local", output)
        self.assertIn("1 recipient did not get it", output)
        self.assertNotIn("delivered to", output)

    def test_what_the_server_wrote_is_called_by_its_name(self) -> None:
        """By its Message-ID, of mail that comes from other mail here: a stranger may write any Message-ID."""
        names = {
            "bounce": "bounce of",
            "double-bounce": "double bounce of",
            "delay": "delay notice about",
            "success": "success report about",
            "reply": "automatic reply to",
            "quota": "quota warning after",
            "other": "notice about",
        }
        more = Log(time.time() - 10)
        made = {name: f"06kq9q5g5k3l1{at:x}0" for at, name in enumerate(names, 1)}
        for name, queue_id in made.items():
            note = {"sender": "", "message_id": f"<{name}.0a1b2c@h>", "destination": "process"}
            more.add(Action.ENQUEUED, queue_id, "local", "eve@far.example", source_system=MAIL, **note)
            more.add(Action.ENQUEUED, f"{queue_id[:-1]}1", "process", "eve@far.example", source_system=queue_id, **note)
        foreign = {"sender": "eve@far.example", "message_id": "<quota.0a@far.example>", "destination": "local"}
        more.add(Action.ENQUEUED, "06kq9q5g5k3l1f0", "tcp_local", "bob@here.example", **foreign)
        self.write(more)
        output = self.call(MAIL).output
        for name, words in names.items():
            self.assertIn(f"  {made[name]}: {words} {MAIL} from <>", output)
            self.assertIn(f": {made[name]} handed on from <>", output)
        self.assertIn(": message from eve@far.example", self.call("06kq9q5g5k3l1f0").output)
        told = {one["id"]: one["notice"] for one in json.loads(self.call(MAIL, "--json").output)["messages"]}
        self.assertEqual({told[queue_id] for queue_id in made.values()}, {*names, ""} - {"other"})
        self.assertEqual(told[MAIL], "")
        self.assertEqual({told[f"{queue_id[:-1]}1"] for queue_id in made.values()}, {""})

    def test_refused_mail_is_found_by_address(self) -> None:
        more = Log(time.time() - 10)
        more.add(
            Action.REJECTED,
            "",
            "tcp_local",
            "dot@here.example",
            sender="spam@bad.example",
            source_system="x ([192.0.2.1])",
            diagnostic="550 5.1.1 no such user",
        )
        self.write(more)
        output = self.call("dot@here.example").output
        self.assertIn("refused from x ([192.0.2.1]) on tcp_local, from spam@bad.example for dot@here.example", output)
        self.assertIn("550 5.1.1 no such user", output)

    def test_programs_get_the_records(self) -> None:
        found = json.loads(self.call(MAIL, "--json").output)["messages"]
        self.assertEqual([one["id"] for one in found], [MAIL, NOTICE, SECOND])
        self.assertEqual([one["parent"] for one in found], ["", MAIL, NOTICE])
        self.assertEqual([event["action"] for event in found[0]["events"]], ["E", "E", "D", "Q", "R"])

    def test_what_is_not_there_is_said_in_a_line(self) -> None:
        error = self.call("nobody@nowhere.example").exception
        self.assertIsInstance(error, CommandError)
        self.assertIn("the last 30 days", str(error))

    def test_what_is_older_than_the_log_is_said_to_be(self) -> None:
        """An id holds its time; and so do questions."""
        begins = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.log.time - 401.0))[:-1]
        error = str(self.call("060000000000000").exception)
        self.assertIn("message 060000000000000 is of 20", error)
        self.assertIn(f"older than the log of the last 30 days, which begins at {begins}", error)
        self.assertIn(
            "nothing is known of before 2020-01-01 00:00:00", str(self.call("a@x", "--until", "2020-01-01").exception)
        )
        newer = str(self.call("7vvvvvvvvvvvv00").exception)
        self.assertIn("nothing in the log of the last 30 days is about 7vvvvvvvvvvvv00", newer)

    def test_an_index_that_is_found_broken_is_made_again_and_asked_again(self) -> None:
        self.call(MAIL)
        real, asked = LogIndex.by_id, []

        def by_id(index: LogIndex, queue_id: str) -> list[Indexed]:
            asked.append(queue_id)
            if len(asked) == 1:
                raise IndexBroken("malformed")
            return real(index, queue_id)

        self.patch(LogIndex, "by_id", by_id)
        result = self.call(MAIL)
        self.assertIn("delivered to bob@here.example", result.output)
        self.assertIn("it is made anew", result.stderr)

    def test_what_the_index_has_is_told_when_it_cannot_grow(self) -> None:
        """A full disk; but nothing is made of nothing."""
        real = LogIndex.thd_update

        def update(*words: Any, **more: Any) -> int:
            raise OSError(28, "No space left on device", "index.sqlite")

        self.patch(LogIndex, "thd_update", update)
        self.assertIsInstance(self.call(MAIL).exception, CommandError)
        self.patch(LogIndex, "thd_update", real)
        self.call(MAIL)
        self.patch(LogIndex, "thd_update", update)
        result = self.call(MAIL)
        self.assertIn("delivered to bob@here.example", result.output)
        self.assertIn("cannot be brought up to date: index.sqlite: No space left on device", result.stderr)
        self.assertIn("was not brought up to date", str(self.index().exception))

    def test_a_day_that_is_damaged_is_named_where_nothing_is_found(self) -> None:
        name = f"mail.log.{time.strftime('%Y-%m-%d')}.gz"
        with open(f"{self.home}/log/{name}", "wb") as file:
            file.write(b"none")
        os.utime(f"{self.home}/log/{name}", (1, 1))
        self.assertIn(f"{name}: damaged: ", self.call(MAIL).stderr)
        result = self.call("nobody@nowhere.example")
        self.assertIn(f"these files of the log are damaged: {name}", str(result.exception))
        self.assertEqual(result.stderr, "")

    def test_the_hour_that_comes_twice_is_told_in_order(self) -> None:
        """Deferred at 02:50 summer time, delivered at 02:12, 22 minutes later; and what came at both the 02:12."""
        before = os.environ.get("TZ")

        def zone(name: str | None) -> None:
            os.environ.pop("TZ", None)
            os.environ.update({} if name is None else {"TZ": name})
            time.tzset()

        self.addCleanup(zone, before)
        zone("CET-1CEST,M3.5.0,M10.5.0/3")
        self.options = LogConfig(index_days=36500)
        at = 1792889400.0  # 25 Oct 2026 00:50 UTC
        for start, minutes in ((at, 22), (at - 2280, 22), (at + 1320, 55)):
            queue_id = to_id(int((start - EPOCH_S) * 1e6) << 10, "00")
            more = Log(start)
            fields = {"sender": "a@x.example", "message_id": f"<{queue_id}@x>"}
            more.add(Action.ENQUEUED, queue_id, "tcp_local", "far@far.example", destination="tcp_local", **fields)
            more.add(Action.DEFERRED, queue_id, "tcp_local", "far@far.example", diagnostic="450 later", **fields)
            more.time = start + 60 * minutes
            more.add(Action.DEQUEUED, queue_id, "tcp_local", "far@far.example", attempts=1, **fields)
            self.write(more)
            told = self.call(queue_id).output
            self.assertIn(f"      +{minutes} min  delivered to far@far.example", told)
            self.assertIn(f"finished after {minutes} min: all have it", told)

    def test_nothing_reaches_the_terminal_that_it_might_act_upon(self) -> None:
        more = Log(time.time() - 10)
        more.add(Action.DEQUEUED, "06kq9q5g5k3l0x0", "local", "x@here.example", diagnostic="\x1b[2J\nforged line")
        self.write(more)
        output = self.call("x@here.example").output
        self.assertNotIn("\x1b", output)
        self.assertNotIn("\nforged", output)

    def test_without_a_home_the_remedy_is_named(self) -> None:
        self.home += "/none"
        self.assertIn("qmailpy init", str(self.call("x").exception))

    def index(self, *words: str) -> Result:
        return CliRunner().invoke(log, ["index", *words], obj=SimpleNamespace(home=self.home))

    def test_the_index_is_made_again_when_asked(self) -> None:
        self.assertEqual(self.index().output, "10 lines were added to the index\n")
        self.assertEqual(self.index().output, "0 lines were added to the index\n")
        self.assertEqual(self.index("--rebuild").output, "10 lines were added to the index\n")

    def test_two_at_once_are_told(self) -> None:
        files = RealFiles()
        lock = files.lock(f"{self.home}/log/index.sqlite_lock")
        for words in ((), ("--rebuild",)):
            self.assertIn("another process", str(self.index(*words).exception))
        files.close(lock)
