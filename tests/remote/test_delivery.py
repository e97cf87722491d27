"""
Tests for L{qmailpy.remote.delivery}, L{qmailpy.remote.pool} and L{qmailpy.remote.session} together.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.remote.mx import Destination, destination
from qmailpy.remote.peers import Peer
from qmailpy.remote.pool import Unreached
from qmailpy.testing.smtp_sink import Drop, Later, Silence
from qmailpy.testing.tables_resolver import TablesResolver
from qmailpy.values import Disposition, MemoryContent, Verdict
from qmailpy.wire.client_events import Transaction
from tests.remote.network import World

CONTENT = MemoryContent(b"Subject: x\r\n\r\n.hello\r\n")
MX = destination("mx.example", trusted=False)
PEER = Peer("mx.example", "192.0.2.1", 25)
D, Q, R = Verdict.DELIVERED, Verdict.DEFERRED, Verdict.FAILED


def two_hosts() -> TablesResolver:
    """A domain with two exchangers."""
    return TablesResolver(
        mx={"far.example": [(10, "mx1.example"), (20, "mx2.example")]},
        addresses={"mx1.example": ["192.0.2.1"], "mx2.example": ["192.0.2.2"]},
    )


FAR = destination("far.example", trusted=False)


class FileContent:
    """Content that is not in memory; fails after so many pieces when told to."""

    in_memory = False

    def __init__(self, pieces: Sequence[bytes], failure: Exception | None = None) -> None:
        self._pieces = pieces
        self._failure = failure
        self.size = sum(map(len, pieces))

    def read(self) -> bytes:
        return b"".join(self._pieces)  # in a thread

    def chunks(self, octets: int = 65536) -> Iterator[bytes]:
        yield from self._pieces
        if self._failure is not None:
            raise self._failure

    def header(self, limit: int = 65536) -> bytes:
        raise AssertionError("reading blocks")


class DeliveryTests(SynchronousTestCase):
    """One attempt, from the destination to the dispositions."""

    def start(
        self, world: World, *recipients: str, where: Destination = MX, content: MemoryContent | FileContent = CONTENT
    ) -> Deferred[Sequence[Disposition]]:
        transaction = Transaction(sender="a@example.org", recipients=recipients or ("b@mx.example",), size=content.size)
        return world.run(world.remote.send(where, transaction, content))

    def send(
        self, world: World, *recipients: str, where: Destination = MX, content: MemoryContent | FileContent = CONTENT
    ) -> Sequence[Disposition]:
        return self.successResultOf(self.start(world, *recipients, where=where, content=content))

    def test_a_message_is_delivered(self) -> None:
        """Whole, with the peer's words and both ends in the diagnostic (the transaction log's form)."""
        world = World()
        sink = world.network.host("192.0.2.1")
        [found] = self.send(world)
        self.assertEqual((found.verdict, found.remote_mta, found.modifiers), (D, "mx.example", "E"))
        self.assertEqual(
            found.diagnostic,
            "dns;mx.example (TCP|192.0.2.99|50000|192.0.2.1|25) (sink.example ESMTP) smtp;250 2.0.0 ok queued as 1",
        )
        [message] = sink.log.messages
        self.assertEqual((message.sender, message.recipients), ("a@example.org", ["b@mx.example"]))
        self.assertEqual(message.content, CONTENT.octets)

    def test_8_bit_content_is_converted_for_a_peer_of_7(self) -> None:
        """RFC 6152 s.3; from a file too, and announced with its new size. What is 7-bit goes as it is."""
        octets = b"Subject: x\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n"
        for content in (MemoryContent(octets), FileContent([octets])):
            world = World()
            sink = world.network.host("192.0.2.1", {"EHLO": "250-x\n250-PIPELINING\n250 SIZE"})
            [found] = self.send(world, content=content)
            self.assertEqual(found.verdict, D)
            [message] = sink.log.messages
            self.assertIn(b"\r\n\r\nGr=C3=BC=C3=9Fe\r\n", message.content)
            self.assertEqual(message.mail_parameters, f"SIZE={len(message.content)}")
            self.assertEqual(found.transferred, len(message.content))
            self.send(world, content=FileContent([CONTENT.octets]))
            self.assertEqual(sink.log.messages[1].content, CONTENT.octets)

    def test_content_that_cannot_be_converted_fails(self) -> None:
        """5.6.3, and the connection serves on."""
        octets = b"Content-Type: message/partial\r\n\r\n\xfc\r\n"
        world = World()
        sink = world.network.host("192.0.2.1", {"EHLO": "250 x"})
        [found] = self.send(world, content=MemoryContent(octets))
        self.assertEqual((found.verdict, found.reply.enhanced), (R, "5.6.3"))
        self.send(world)
        self.assertEqual((sink.log.connections, len(sink.log.messages)), (1, 1))

    def test_long_lines_are_encoded_where_the_channel_has_a_limit(self) -> None:
        """linelimit; from a file too, announced with its new size; what cannot be so goes back with 5.6.0."""
        long = b"Subject: x\r\n\r\n" + b"y" * 1500 + b"\r\n"
        for octets in (long, b"Subject: x\r\n\r\n" + b"\xc3\xbc" * 700 + b"\r\n"):
            for content in (MemoryContent(octets), FileContent([octets[:70], octets[70:]])):
                for ehlo in ("250-x\n250-8BITMIME\n250 SIZE", "250-x\n250 SIZE"):
                    world = World(linelimit=998)
                    sink = world.network.host("192.0.2.1", {"EHLO": ehlo})
                    for _ in range(2):
                        [found] = self.send(world, content=content)
                    self.assertEqual(found.verdict, D)
                    message = sink.log.messages[0]
                    self.assertLessEqual(max(map(len, message.content.split(b"\r\n"))), 998)
                    self.assertIn(f"SIZE={len(message.content)}", message.mail_parameters)
                    self.assertIn(b"quoted-printable", message.content)
        world = World(linelimit=998)
        sink = world.network.host("192.0.2.1")
        for header in (b"Content-Transfer-Encoding: base64\r\n", b"X: " + b"z" * 1000 + b"\r\n"):
            [found] = self.send(world, content=MemoryContent(header + long))
            self.assertEqual((found.verdict, str(found.reply)[:9]), (R, "554 5.6.0"))
        short = b"Subject: x\r\n\r\n" + (b"y" * 998 + b"\r\n") * 200
        for piece in (7, 65536):
            pieces = [short[at : at + piece] for at in range(0, len(short), piece)]
            self.send(world, content=FileContent(pieces))
            self.assertEqual(sink.log.messages.pop().content, short)

    def utf8(self, world: World, sender: str, *recipients: str, octets: bytes = CONTENT.octets) -> list[Disposition]:
        """Mail with SMTPUTF8."""
        transaction = Transaction(sender=sender, recipients=recipients, size=len(octets), utf8=True)
        return list(self.successResultOf(world.run(world.remote.send(MX, transaction, MemoryContent(octets)))))

    def test_addresses_and_fields_in_utf8_go_to_peers_that_take_them(self) -> None:
        """RFC 6531 s.3.4."""
        world = World()
        sink = world.network.host("192.0.2.1", {"EHLO": "250-x\n250-8BITMIME\n250-SMTPUTF8\n250 SIZE"})
        octets = "Subject: Grüße\r\n\r\nx\r\n".encode()
        [found] = self.utf8(world, "пример@a.example", "ü@mx.example", octets=octets)
        self.assertEqual(found.verdict, D)
        [message] = sink.log.messages
        self.assertEqual((message.sender, message.recipients), ("пример@a.example", ["ü@mx.example"]))
        self.assertEqual(message.content, octets)
        self.assertIn("SMTPUTF8", message.mail_parameters)

    def test_a_peer_without_smtputf8_gets_what_needs_none(self) -> None:
        """RFC 6531 s.3.6: 5.6.7 for the rest, be it the sender's address, a recipient's, or the header."""
        world = World()
        sink = world.network.host("192.0.2.1")
        found = self.utf8(world, "a@example.org", "ü@mx.example", "b@mx.example")
        self.assertEqual([(one.verdict, one.reply.enhanced) for one in found], [(R, "5.6.7"), (D, "2.0.0")])
        self.assertEqual([one.recipients for one in sink.log.messages], [["b@mx.example"]])
        self.assertNotIn("SMTPUTF8", sink.log.messages[0].mail_parameters)
        header = "Subject: Grüße\r\n\r\nx\r\n".encode()
        for sender, to, octets in (
            ("ü@example.org", "b@mx.example", CONTENT.octets),
            ("a@example.org", "b@mx.example", header),
            ("a@example.org", "ü@mx.example", CONTENT.octets),
        ):
            [one] = self.utf8(world, sender, to, octets=octets)
            self.assertEqual((one.verdict, one.reply.enhanced), (R, "5.6.7"))
        self.assertEqual((sink.log.connections, len(sink.log.messages)), (1, 1))

    def test_a_message_that_cannot_be_read_for_conversion_waits(self) -> None:
        """The disk's trouble is not the sender's."""
        world = World()
        world.network.host("192.0.2.1", {"EHLO": "250 x"})
        [found] = self.send(world, content=FileContent([b"x"], OSError(5, "Input/output error")))
        self.assertEqual((found.verdict, found.reply.enhanced), (Q, "4.3.0"))

    def test_a_peer_that_hangs_up_during_conversion_is_followed_by_the_next(self) -> None:
        """Nothing of the message has been sent."""
        world = World(two_hosts())
        world.network.host("192.0.2.1", {"EHLO": "250 x"})
        sink = world.network.host("192.0.2.2", {"EHLO": "250 x"})

        async def hang_up(read: Callable[[], bytes | None]) -> bytes | None:
            world.network.pumps[0].client.connectionLost(Failure(ConnectionDone()))
            return read()

        world.remote._in_thread = hang_up
        [found] = self.send(world, where=FAR, content=MemoryContent(b"\r\n\xfc\r\n"))
        self.assertEqual((found.verdict, found.remote_mta, len(sink.log.messages)), (D, "mx2.example", 1))

    def test_a_mail_store_answers_for_each_recipient(self) -> None:
        """LMTP: each disposition by its own reply; and those it has not answered for when it hangs up wait."""
        world = World(kind="lmtp")
        sink = world.network.host(
            "192.0.2.1", {".:c@x": "452 4.2.2 full", ".:d@x": "550 5.1.1 gone", "RCPT:e@x": "550 no"}
        )
        found = self.send(world, "b@x", "c@x", "d@x", "e@x", "f@x")
        self.assertEqual([one.verdict for one in found], [D, Q, R, R, D])
        self.assertEqual([one.reply.code for one in found], [250, 452, 550, 550, 250])
        self.assertEqual((found[0].modifiers, sink.log.messages[0].recipients), ("L", ["b@x", "f@x"]))
        sink.say(".:c@x", Drop())
        found = self.send(world, "b@x", "c@x", "f@x")
        self.assertEqual([one.verdict for one in found], [D, Q, Q])
        self.assertIn("possible duplicate", found[2].reply.text)

    def test_a_second_message_goes_over_the_same_connection(self) -> None:
        """No new question to the DNS either."""
        resolver = TablesResolver(addresses={"mx.example": ["192.0.2.1"]})
        world = World(resolver)
        sink = world.network.host("192.0.2.1")
        self.send(world)
        asked = len(resolver.asked)
        self.send(world)
        self.assertEqual((sink.log.connections, len(sink.log.messages), len(resolver.asked)), (1, 2, asked))

    def test_a_message_takes_two_writes(self) -> None:
        """The envelope in one, the content with its end in the other."""
        world = World()
        sink = world.network.host("192.0.2.1")
        self.send(world)
        before = len(sink.log.writes)
        self.send(world, "b@mx.example", "c@mx.example")
        self.assertEqual(len(sink.log.writes) - before, 2)

    def test_an_idle_connection_is_closed_with_quit(self) -> None:
        """After connections_idle_s."""
        world = World(connections_idle_s=5.0)
        sink = world.network.host("192.0.2.1")
        self.send(world)
        world.network.later(4.9)
        self.assertEqual((world.pool.idle, sink.log.open), (1, 1))
        world.network.later(0.2)
        self.assertEqual((world.pool.idle, world.pool.total, sink.log.open), (0, 0, 0))
        self.assertEqual(sink.log.commands[-1], "QUIT")
        self.assertEqual(len(world.watcher.said), 2)
        self.assertTrue(world.watcher.said[1].endswith("quit"), world.watcher.said)

    def test_a_connection_is_closed_after_so_many_messages(self) -> None:
        """messages_per_connection."""
        world = World(messages_per_connection=2)
        sink = world.network.host("192.0.2.1")
        for _ in range(3):
            self.send(world)
        self.assertEqual([message.connection for message in sink.log.messages], [1, 1, 2])

    def test_an_idle_connection_that_the_peer_closed_costs_nothing(self) -> None:
        """It is gone from the pool; and one that was found stale only when used is replaced at once."""
        world = World()
        sink = world.network.host("192.0.2.1", {"MAIL": ["250 ok", Drop(), "250 ok"]})
        self.send(world)
        [found] = self.send(world)
        self.assertEqual((found.verdict, sink.log.connections, world.memory.blocked(PEER)), (D, 2, None))

    def test_421_on_a_reused_connection_means_a_new_one(self) -> None:
        """The peer had enough of this connection, not of us."""
        world = World()
        sink = world.network.host("192.0.2.1", {"MAIL": ["250 ok", "421 4.7.0 enough", "250 ok"]})
        self.send(world)
        [found] = self.send(world)
        self.assertEqual((found.verdict, sink.log.connections), (D, 2))

    def test_each_recipient_has_its_own_disposition(self) -> None:
        """In the order of the job."""
        world = World()
        sink = world.network.host("192.0.2.1", {"RCPT:r@x": "550 5.1.1 no such user", "RCPT:q@x": "450 4.2.1 busy"})
        found = self.send(world, "r@x", "d@x", "q@x")
        self.assertEqual([one.verdict for one in found], [R, D, Q])
        self.assertEqual([one.reply.enhanced for one in found], ["5.1.1", "2.0.0", "4.2.1"])
        self.assertEqual([one.transferred for one in found], [0, CONTENT.size, 0])
        self.assertEqual(sink.log.messages[0].recipients, ["d@x"])

    def test_recipients_beyond_the_peers_limit_follow_in_another_transaction(self) -> None:
        """452 after some were taken is no failure (RFC 5321 s.4.5.3.1.10)."""
        world = World()
        sink = world.network.host(
            "192.0.2.1", {"RCPT": ["250 ok", "250 ok", "452 4.5.3 too many", "452 4.5.3 too many", "250 ok"]}
        )
        found = self.send(world, "b@x", "c@x", "d@x", "e@x")
        self.assertEqual([one.verdict for one in found], [D] * 4)
        self.assertEqual([message.recipients for message in sink.log.messages], [["b@x", "c@x"], ["d@x", "e@x"]])

    def test_a_refusal_of_the_message_is_every_recipients(self) -> None:
        """At MAIL, DATA and the final dot; temporary or permanent by its code; the connection serves on."""
        for stage, reply, verdict, transferred in (
            ("MAIL", "550 5.7.1 not you", R, 0),
            ("MAIL", "451 4.3.0 later", Q, 0),
            ("DATA", "554 5.5.0 no", R, 0),
            ("DATA", "452 4.3.1 full", Q, 0),
            (".", "552 5.3.4 too big", R, CONTENT.size),
            (".", "451 4.3.0 later", Q, CONTENT.size),
        ):
            world = World()
            sink = world.network.host("192.0.2.1", {stage: [reply, "354 go" if stage == "DATA" else "250 ok"]})
            found = self.send(world, "b@x", "c@x")
            self.assertEqual([one.verdict for one in found], [verdict] * 2, reply)
            self.assertTrue(found[0].diagnostic.endswith("smtp;" + reply), found[0].diagnostic)
            self.assertEqual(found[0].transferred, transferred, reply)
            self.assertEqual([one.verdict for one in self.send(world)], [D], reply)
            self.assertEqual(sink.log.connections, 1, reply)

    def test_a_connection_lost_after_the_final_dot_may_have_delivered(self) -> None:
        """Deferred, and the diagnostic says so."""
        world = World(two_hosts())
        world.network.host("192.0.2.1", {".": Drop()})
        other = world.network.host("192.0.2.2")
        [found] = self.send(world, where=FAR)
        self.assertEqual((found.verdict, found.reply.enhanced, found.transferred), (Q, "4.4.2", CONTENT.size))
        self.assertIn("possible duplicate", found.diagnostic)
        self.assertEqual(other.log.connections, 0)

    def test_no_reply_to_the_final_dot_in_time_may_have_delivered_too(self) -> None:
        """After data_timeout_s."""
        world = World(data_timeout_s=600.0)
        world.network.host("192.0.2.1", {".": Silence()})
        sending = self.start(world)
        world.network.later(599)
        self.assertNoResult(sending)
        world.network.later(2)
        [found] = self.successResultOf(sending)
        self.assertEqual((found.verdict, found.reply.enhanced), (Q, "4.4.2"))
        self.assertIn("possible duplicate", found.diagnostic)

    def test_each_stage_has_its_time(self) -> None:
        """RFC 5321 s.4.5.3.2: greeting and commands; a slow answer in time is fine."""
        for stage, seconds in (("CONNECT", 50), ("EHLO", 100), ("MAIL", 100), ("RCPT", 100), ("DATA", 100)):
            for late in (False, True):
                world = World(greeting_timeout_s=50.0, command_timeout_s=100.0)
                answer = {"CONNECT": "220 hi", "DATA": "354 go"}.get(stage, "250 ok")
                world.network.host("192.0.2.1", {stage: Later(seconds + (1 if late else -1), answer)})
                sending = self.start(world)
                world.network.later(seconds - 1.5)
                self.assertNoResult(sending)
                for _ in range(4):
                    world.network.later(0.75)
                [found] = self.successResultOf(sending)
                self.assertEqual(found.verdict, Q if late else D, (stage, late))
                if late:
                    self.assertIn("timed out while waiting", found.diagnostic)
                    self.assertEqual(found.reply.enhanced, "4.4.2")

    def test_the_next_host_is_tried_when_the_first_cannot_be_reached_or_refuses_us(self) -> None:
        """Connection refused, 4yz and 5yz at the door, 421 or a lost connection before MAIL is answered."""
        for script in (
            None,
            {"CONNECT": "554 no"},
            {"CONNECT": "421 busy"},
            {"CONNECT": "hello"},
            {"CONNECT": Drop()},
            {"EHLO": "451 no"},
            {"EHLO": "500 no", "HELO": "500 no"},
            {"MAIL": "421 bye"},
            {"MAIL": Drop()},
        ):
            world = World(two_hosts())
            if script is not None:
                world.network.host("192.0.2.1", script)
            world.network.host("192.0.2.2")
            [found] = self.send(world, where=FAR)
            self.assertEqual((found.verdict, found.remote_mta), (D, "mx2.example"), script)

    def test_recipients_with_an_answer_are_not_tried_again(self) -> None:
        """A connection lost among the recipients defers the others only."""
        world = World(two_hosts())
        world.network.host("192.0.2.1", {"RCPT:b@x": "550 5.1.1 no", "RCPT:c@x": Drop()})
        other = world.network.host("192.0.2.2")
        found = self.send(world, "b@x", "c@x", "d@x", where=FAR)
        self.assertEqual([one.verdict for one in found], [R, Q, Q])
        self.assertEqual(other.log.connections, 0)

    def test_no_host_left_is_told_by_what_the_last_one_said(self) -> None:
        """A connect failure in the words of the transaction log; 5yz from every host is permanent, else not."""
        world = World(two_hosts())
        world.network.host("192.0.2.1", {"CONNECT": "554 5.3.2 no mail here"})
        [found] = self.send(world, where=FAR)
        self.assertEqual(
            (found.verdict, found.diagnostic, found.transferred),
            (Q, "TCP active open: Failed connect() 192.0.2.2:25  Error: connection refused", 0),
        )
        world.network.host("192.0.2.2", {"CONNECT": "521 no mail here"})
        world.network.later(60)
        [found] = self.send(world, where=FAR)
        self.assertEqual((found.verdict, found.reply.code), (R, 521))

    def test_a_temporary_failure_of_one_host_outweighs_a_permanent_one_of_another(self) -> None:
        """In either order: that host might have taken the mail, also when it was passed over this time."""
        for first, second in (("451 4.3.0 later", "554 5.3.2 no"), ("554 5.3.2 no", "451 4.3.0 later")):
            world = World(two_hosts())
            world.network.host("192.0.2.1", {"CONNECT": first})
            world.network.host("192.0.2.2", {"CONNECT": second})
            [found] = self.send(world, where=FAR)
            self.assertEqual((found.verdict, found.reply.enhanced), (Q, "4.3.0"))
            number = 1 if first.startswith("451") else 2
            world.memory.failed(Peer(f"mx{number}.example", f"192.0.2.{number}", 25), "dead")
            [found] = self.send(world, where=FAR)
            self.assertEqual((found.verdict, found.reply.enhanced), (Q, "4.4.1"))
            self.assertIn("skipping", found.diagnostic)

    def test_a_dead_host_is_passed_over_for_a_while(self) -> None:
        """With the ancestor's diagnostic, and longer after each failure."""
        world = World()
        [found] = self.send(world)
        self.assertIn("Failed connect()", found.diagnostic)
        [found] = self.send(world)
        self.assertEqual(
            found.diagnostic,
            "Too many failures to this host during this run; skipping this host: connection refused",
        )
        self.assertEqual((found.verdict, found.retry_after, len(world.network.dialled)), (Q, 5.0, 1))
        world.network.later(5.1)
        self.send(world)
        world.network.later(5.1)
        self.send(world)
        self.assertEqual(len(world.network.dialled), 2)
        world.network.later(5)
        world.network.host("192.0.2.1")
        self.assertEqual([one.verdict for one in self.send(world)], [D])
        self.assertEqual(world.watcher.said[0][:21], "unreached mx.example ")

    def test_a_shortage_of_our_own_is_not_the_hosts_fault(self) -> None:
        """No descriptors left: deferred, nothing remembered."""
        world = World(two_hosts())
        world.network.failure = ConnectError(errno.EMFILE, "Too many open files")
        [found] = self.send(world, where=FAR)
        self.assertEqual((found.verdict, found.reply.enhanced, found.remote_mta), (Q, "4.3.0", ""))
        self.assertEqual(len(world.network.dialled), 1)
        world.network.host("192.0.2.1")
        self.assertEqual([one.verdict for one in self.send(world, where=FAR)], [D])

    def test_an_attempt_ends_though_all_hosts_are_silent(self) -> None:
        """Not each of many addresses gets its connect timeout."""
        addresses = [f"192.0.2.{number}" for number in range(1, 20)]
        world = World(TablesResolver(addresses={"mx.example": addresses}), connect_timeout_s=30.0)
        world.network.silent.update(addresses)
        sending = self.start(world)
        for _ in range(6):
            world.network.later(30)
        [found] = self.successResultOf(sending)
        self.assertIn("connection timed out", found.diagnostic)
        self.assertLess(len(world.network.dialled), 7)

    def test_a_message_larger_than_the_host_takes_is_not_sent(self) -> None:
        """Refused here: 5.3.4."""
        world = World()
        sink = world.network.host("192.0.2.1", {"EHLO": "250-sink\n250 SIZE 10"})
        [found] = self.send(world)
        self.assertEqual((found.verdict, found.reply.enhanced), (R, "5.3.4"))
        self.assertEqual(sink.log.commands, ["EHLO us.example"])

    def test_a_server_without_pipelining_gets_the_message_too(self) -> None:
        """Step by step, by HELO if it must be; the modifier tells."""
        world = World()
        sink = world.network.host("192.0.2.1", {"EHLO": "502 what?"})
        for _ in range(2):
            [found] = self.send(world)
            self.assertEqual((found.verdict, found.modifiers), (D, ""))
        self.assertEqual(sink.log.commands[:3], ["EHLO us.example", "HELO us.example", "MAIL FROM:<a@example.org>"])

    def test_content_from_a_file_is_sent_piece_by_piece(self) -> None:
        """Read in a thread; nothing changes on the way."""
        world = World()
        sink = world.network.host("192.0.2.1")
        content = FileContent([b"a: b\r\n\r\n", b".x\r", b"\n.y\r\n", b"z" * 70000, b"\r\n"])
        [found] = self.send(world, content=content)
        self.assertEqual((found.verdict, found.transferred), (D, content.size))
        self.assertEqual(sink.log.messages[0].content, b"a: b\r\n\r\n.x\r\n.y\r\n" + b"z" * 70000 + b"\r\n")

    def test_a_file_that_cannot_be_read_never_makes_a_short_message(self) -> None:
        """The connection is cut without the final dot; the mail waits."""
        world = World()
        sink = world.network.host("192.0.2.1")
        [found] = self.send(world, content=FileContent([b"a: b\r\n"], OSError(errno.EIO, "Input/output error")))
        self.assertEqual((found.verdict, found.reply.enhanced, found.remote_mta), (Q, "4.3.0", ""))
        world.network.settle()
        self.assertEqual((sink.log.messages, sink.log.open, world.pool.total), ([], 0, 0))

    def test_a_bug_while_reading_is_an_exception_and_never_a_short_message(self) -> None:
        """The queue logs it and keeps the mail."""
        world = World()
        sink = world.network.host("192.0.2.1")
        sending = self.start(world, content=FileContent([b"a: b\r\n"], KeyError("bug")))
        self.failureResultOf(sending, KeyError)
        world.network.settle()
        self.assertEqual((sink.log.messages, sink.log.open, world.pool.total), ([], 0, 0))

    def test_a_refusal_in_the_middle_of_the_message_is_its_answer(self) -> None:
        """The rest is not sent, and the connection not used again."""
        world = World()
        sink = world.network.host("192.0.2.1", {"CONTENT": "552 5.3.4 enough"})
        [found] = self.send(world, content=FileContent([b"x" * 1000 + b"\r\n"] * 50))
        self.assertEqual((found.verdict, found.reply.enhanced, found.transferred), (R, "5.3.4", 0))
        world.network.settle()
        self.assertLess(sum(map(len, sink.log.writes)), 10000)
        self.assertEqual((sink.log.messages, sink.log.open, world.pool.total), ([], 0, 0))

    def test_there_are_never_more_connections_to_a_host_than_allowed(self) -> None:
        """Others wait for their turn; all are served, also when the host dies meanwhile."""
        world = World(destination_concurrency=2)
        sink = world.network.host("192.0.2.1", {"DATA": Later(1.0, "354 go")})
        sending = [self.start(world) for _ in range(7)]
        for _ in range(5):
            self.assertLessEqual(world.pool.total, 2)
            world.network.later(1.0)
        self.assertEqual([self.successResultOf(one)[0].verdict for one in sending], [D] * 7)
        self.assertEqual((sink.log.most_open, len(sink.log.messages)), (2, 7))

    def test_who_waits_for_a_turn_at_a_host_that_dies_is_told(self) -> None:
        """None is left waiting for ever."""
        world = World(destination_concurrency=1, connect_timeout_s=30.0)
        world.network.silent.add("192.0.2.1")
        sending = [self.start(world) for _ in range(4)]
        world.network.later(31)
        found = [self.successResultOf(one)[0] for one in sending]
        self.assertEqual([one.verdict for one in found], [Q] * 4)
        self.assertEqual((len(world.network.dialled), world.pool.total), (1, 0))

    def test_idle_connections_give_way_to_new_ones(self) -> None:
        """All connections of a channel together stay within its concurrency."""
        resolver = TablesResolver(addresses={f"h{number}.example": [f"192.0.2.{number}"] for number in range(1, 6)})
        world = World(resolver, concurrency=2)
        for number in range(1, 6):
            world.network.host(f"192.0.2.{number}")
            self.send(world, where=destination(f"h{number}.example", trusted=False))
            self.assertLessEqual(world.pool.total, 2)

    def test_domains_share_a_hosts_connection(self) -> None:
        """Found by its peer when the destination is new."""
        resolver = TablesResolver(
            mx={"one.example": [(1, "mx.example")], "two.example": [(1, "mx.example")]},
            addresses={"mx.example": ["192.0.2.1"]},
        )
        world = World(resolver)
        sink = world.network.host("192.0.2.1")
        for name in ("one.example", "two.example"):
            self.send(world, where=destination(name, trusted=False))
        self.assertEqual((sink.log.connections, len(sink.log.messages)), (1, 2))

    def test_a_stale_connection_of_another_domain_is_replaced_too(self) -> None:
        """It was found by its peer; what had gone wrong with it says nothing of the host."""
        resolver = TablesResolver(addresses={"one.example": ["192.0.2.1"]}, mx={"two.example": [(1, "one.example")]})
        world = World(resolver)
        sink = world.network.host("192.0.2.1", {"MAIL": ["250 ok", "421 4.7.0 enough", "250 ok"]})
        for name in ("one.example", "two.example"):
            [found] = self.send(world, where=destination(name, trusted=False))
            self.assertEqual(found.verdict, D)
        self.assertEqual(sink.log.connections, 2)

    def test_a_relay_is_tried_host_by_host_without_the_dns(self) -> None:
        """Even on this machine, being the administrator's own word."""
        resolver = TablesResolver()
        world = World(resolver)
        sink = world.network.host("127.0.0.1", port=2526)
        relay = destination("127.0.0.1:2525, 127.0.0.1:2526", trusted=True)
        [found] = self.send(world, where=relay)
        self.assertEqual((found.verdict, found.remote_mta, resolver.asked), (D, "[127.0.0.1]", []))
        self.assertEqual((world.network.dialled, sink.log.connections), ([("127.0.0.1", 2525), ("127.0.0.1", 2526)], 1))

    def test_trouble_with_the_dns_is_temporary_and_no_domain_permanent(self) -> None:
        """No connection is made."""
        world = World(TablesResolver(broken=["mx.example"]))
        [found] = self.send(world)
        self.assertEqual((found.verdict, found.reply.enhanced), (Q, "4.4.3"))
        [found] = self.send(world, where=destination("none.example", trusted=False))
        self.assertEqual((found.verdict, found.reply.enhanced), (R, "5.1.2"))

    def test_stop_says_goodbye_on_idle_connections(self) -> None:
        """And does not wait long for an answer."""
        for script, seconds in ((None, 0.0), ({"QUIT": Silence()}, 2.1)):
            world = World()
            sink = world.network.host("192.0.2.1", script)
            self.send(world)
            stopping = world.run(world.pool.stop())
            if seconds:
                self.assertNoResult(stopping)
            world.network.later(seconds)
            self.successResultOf(stopping)
            self.assertEqual((sink.log.commands[-1], world.pool.total), ("QUIT", 0))

    def test_nothing_is_left_running(self) -> None:
        """No timer outlives its connection."""
        world = World()
        world.network.host("192.0.2.1", {".": ["250 ok", Drop()]})
        self.send(world)
        self.send(world)
        world.run(world.pool.stop())
        world.network.settle()
        self.assertEqual(world.network.getDelayedCalls(), [])

    def test_a_stop_while_dialling_leaves_no_connection(self) -> None:
        """Cancelled: neither counted nor open."""
        world = World()
        sink = world.network.host("192.0.2.1", {"CONNECT": Silence()})
        dialling = world.run(world.pool.connect(PEER))
        dialling.cancel()
        world.network.settle()
        self.failureResultOf(dialling)
        self.assertEqual((world.pool.total, sink.log.open), (0, 0))

    def test_a_host_that_is_passed_over_is_not_dialled_by_the_pool(self) -> None:
        """It may have died between the look and the turn."""
        world = World()
        world.memory.failed(PEER, "dead")
        self.failureResultOf(world.run(world.pool.connect(PEER)), Unreached)
        self.assertEqual(world.network.dialled, [])
