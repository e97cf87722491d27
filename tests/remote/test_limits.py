"""
Tests for L{qmailpy.remote.delivery} with hosts that say how much they take at once (RFC 9422).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.schema import ListenerConfig, LogConfig, QueueConfig, TrustConfig
from qmailpy.remote.mx import destination
from qmailpy.servers.smtp import SmtpFactory
from qmailpy.testing.memory_queue import MemoryQueue
from qmailpy.testing.memory_recorder import MemoryRecorder
from qmailpy.testing.scripted_router import ScriptedRouter, local
from qmailpy.testing.smtp_sink import Drop, Later, SinkFactory
from qmailpy.testing.tables_resolver import TablesResolver
from qmailpy.values import Disposition, MemoryContent, Verdict
from qmailpy.wire.client_events import Transaction
from tests.remote.network import World

CONTENT = MemoryContent(b"Subject: x\r\n\r\nhello\r\n")
MX = destination("mx.example", trusted=False)
D, Q, R = Verdict.DELIVERED, Verdict.DEFERRED, Verdict.FAILED


def ehlo(said: str, *more: str) -> dict[str, str]:
    return {"EHLO": "\n".join(["250-x", "250-PIPELINING", *(f"250-{one}" for one in more), f"250 LIMITS {said}"])}


class HostsWithLimitsTests(SynchronousTestCase):
    def send(self, world: World, *recipients: str, utf8: bool = False) -> Sequence[Disposition]:
        transaction = Transaction(sender="a@example.org", recipients=recipients, size=CONTENT.size, utf8=utf8)
        return self.successResultOf(world.run(world.remote.send(MX, transaction, CONTENT)))

    def taken(self, sink: SinkFactory) -> list[tuple[int, str]]:
        """Connection and recipients of each message."""
        return [(each.connection, " ".join(each.recipients)) for each in sink.log.messages]

    def test_more_recipients_go_in_further_transactions(self) -> None:
        """RCPTMAX; nobody waits."""
        world = World()
        sink = world.network.host("192.0.2.1", ehlo("RCPTMAX=2"))
        found = self.send(world, "a@x", "b@x", "c@x", "d@x", "e@x")
        self.assertEqual([each.verdict for each in found], [D] * 5)
        self.assertEqual(self.taken(sink), [(1, "a@x b@x"), (1, "c@x d@x"), (1, "e@x")])

    def test_more_messages_go_over_further_connections(self) -> None:
        """MAILMAX; the others are closed with QUIT, and none is left counted."""
        world = World()
        sink = world.network.host("192.0.2.1", ehlo("MAILMAX=2 RCPTMAX=1"))
        found = self.send(world, "a@x", "b@x", "c@x")
        self.assertEqual([each.verdict for each in found], [D] * 3)
        self.send(world, "d@x")
        self.send(world, "e@x")
        self.assertEqual(self.taken(sink), [(1, "a@x"), (1, "b@x"), (2, "c@x"), (2, "d@x"), (3, "e@x")])
        self.assertEqual(sink.log.commands.count("QUIT"), 2)
        self.assertEqual((world.pool.total, world.pool.idle), (1, 1))

    def test_a_connection_has_so_many_domains(self) -> None:
        """RCPTDOMAINMAX, also with those of messages before; recipients of a domain stay together."""
        world = World()
        sink = world.network.host("192.0.2.1", ehlo("RCPTDOMAINMAX=1"))
        found = self.send(world, "a@x", "b@y", "c@X", "d@z")
        self.assertEqual([each.verdict for each in found], [D] * 4)
        self.assertEqual(self.taken(sink), [(1, "a@x c@X"), (2, "b@y"), (3, "d@z")])
        self.send(world, "e@z")
        self.send(world, "f@x")
        self.assertEqual(self.taken(sink)[3:], [(3, "e@z"), (4, "f@x")])
        self.assertEqual((world.pool.total, world.pool.idle), (1, 1))

    def test_each_recipient_gets_the_answer_to_himself(self) -> None:
        """Whatever the order in which they were asked for."""
        world = World()
        script = {**ehlo("RCPTDOMAINMAX=1"), "RCPT:b@y": "550 5.1.1 no b", "RCPT:c@x": "550 5.1.1 no c"}
        world.network.host("192.0.2.1", script)
        found = self.send(world, "a@x", "b@y", "c@x", "d@y")
        self.assertEqual(
            [str(each.reply)[:14] for each in found if each.verdict is R], ["550 5.1.1 no b", "550 5.1.1 no c"]
        )
        self.assertEqual([each.verdict for each in found], [D, R, R, D])

    def test_one_who_says_too_many_all_the_same_is_asked_again(self) -> None:
        """452 (RFC 5321 s.4.5.3.1.10) beside a limit."""
        world = World()
        sink = world.network.host("192.0.2.1", ehlo("RCPTMAX=2"))
        sink.say("RCPT:b@x", ["452 4.5.3 too many", "250 ok"])
        found = self.send(world, "a@x", "b@x", "c@x")
        self.assertEqual([each.verdict for each in found], [D] * 3)
        self.assertEqual(self.taken(sink), [(1, "a@x"), (1, "b@x c@x")])

    def test_a_host_lost_in_between_leaves_the_others_waiting(self) -> None:
        """What was taken is taken, and nobody else gets it twice."""
        world = World()
        sink = world.network.host("192.0.2.1", ehlo("RCPTMAX=1"))
        sink.say("MAIL", ["250 ok", Drop()])
        found = self.send(world, "a@x", "b@x", "c@x")
        self.assertEqual([each.verdict for each in found], [D, Q, Q])
        self.assertEqual(self.taken(sink), [(1, "a@x")])

    def test_a_slow_host_of_few_at_a_time_does_not_keep_a_job_for_ever(self) -> None:
        """What it has taken has to be recorded some time; over one connection, and over one a message."""
        for said in ("RCPTMAX=1", "RCPTMAX=1 MAILMAX=1"):
            world = World()
            sink = world.network.host("192.0.2.1", ehlo(said))
            sink.say(".", Later(100, "250 2.0.0 ok"))
            transaction = Transaction(
                sender="a@example.org", recipients=tuple(f"{n}@x" for n in range(9)), size=CONTENT.size
            )
            sending = world.run(world.remote.send(MX, transaction, CONTENT))
            for _ in range(6):
                world.network.advance(100)
                world.network.settle()
            found = self.successResultOf(sending)
            self.assertEqual([each.verdict for each in found], [D] * 3 + [Q] * 6)
            self.assertEqual(str(found[-1].reply), "451 4.4.5 Host takes few recipients at a time")
            self.assertEqual(len(self.taken(sink)), 3)
            self.assertLessEqual(world.pool.total, 1)

    def test_a_host_that_closes_behind_a_message_is_dialled_again(self) -> None:
        world = World()
        sink = world.network.host("192.0.2.1", ehlo("RCPTMAX=1"))
        sink.say(".", ["250 2.0.0 ok\n421 4.3.2 that was all", "250 2.0.0 ok"])
        found = self.send(world, "a@x", "b@x")
        self.assertEqual([each.verdict for each in found], [D, D])
        self.assertEqual(self.taken(sink), [(1, "a@x"), (2, "b@x")])

    def test_a_host_that_stays_away_leaves_the_others_waiting(self) -> None:
        world = World()
        sink = world.network.host("192.0.2.1", ehlo("MAILMAX=1 RCPTMAX=1"))
        sink.say("CONNECT", ["220 hello", "421 4.3.2 no more"])
        found = self.send(world, "a@x", "b@x")
        self.assertEqual([each.verdict for each in found], [D, Q])
        self.assertIn("no more", str(found[1].reply))

    def test_another_host_takes_who_is_left(self) -> None:
        """Their order is that of the message, whatever was put off."""
        world = World(
            resolver=TablesResolver(
                mx={"mx.example": [(10, "one.example"), (20, "two.example")]},
                addresses={"one.example": ["192.0.2.1"], "two.example": ["192.0.2.2"]},
            )
        )
        one = world.network.host("192.0.2.1", ehlo("RCPTDOMAINMAX=1"))
        one.say("MAIL", "421 4.3.2 closing")
        two = world.network.host("192.0.2.2", ehlo("RCPTMAX=9"))
        two.say("RCPT:b@y", "550 5.1.1 no b")
        found = self.send(world, "a@x", "b@y", "c@x")
        self.assertEqual([each.verdict for each in found], [D, R, D])
        self.assertEqual(self.taken(two), [(1, "a@x c@x")])

    def test_a_refusal_of_the_whole_is_for_all(self) -> None:
        """SIZE, seen before it is sent."""
        world = World()
        world.network.host("192.0.2.1", ehlo("RCPTMAX=1", "SIZE 10"))
        found = self.send(world, "a@x", "b@x")
        self.assertEqual([each.reply.enhanced for each in found], ["5.3.4", "5.3.4"])

    def test_those_who_cannot_be_named_do_not_keep_back_the_others(self) -> None:
        world = World()
        sink = world.network.host("192.0.2.1", ehlo("RCPTMAX=1"))
        found = self.send(world, "\u00fc@x", "b@x", utf8=True)
        self.assertEqual([each.verdict for each in found], [R, D])
        self.assertEqual(self.taken(sink), [(1, "b@x")])

    def test_our_own_server_never_has_to_refuse(self) -> None:
        """It announces both limits: 250 recipients are three messages over two connections."""
        world = World()
        queue, router, recorder = MemoryQueue(), ScriptedRouter(), MemoryRecorder()
        people = [f"x{number}@mx.example" for number in range(250)]
        router.now.update({one: local(one) for one in people})
        server: Any = SmtpFactory(
            world.network,
            hostname="mx.example",
            listener=ListenerConfig(name="smtp", kind="smtp", endpoint="tcp:25", messages=2),
            enqueue=queue,
            router=router,
            recorder=recorder,
            queue=QueueConfig(recipients=100),
            log=LogConfig(),
            trust=TrustConfig(),
        )
        world.network.hosts["192.0.2.1", 25] = server
        found = self.send(world, *people)
        self.assertEqual({each.verdict for each in found}, {D})
        self.assertEqual([len(each.envelope.recipients) for each in queue.messages], [100, 100, 50])
        self.assertEqual(len(world.network.dialled), 2)
        self.assertEqual(recorder.actions(), "OOC")
