"""The queue of one node, while nothing goes wrong and when the outside does."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from zope.interface import alsoProvides

from qmailpy.interfaces import IShaped
from qmailpy.records.record import Action
from qmailpy.testing.crashdisk import CrashDisk
from tests.queue.world import HOME, World


class QueueTests(SynchronousTestCase):
    """Accept, deliver, defer, fail, settle, start again."""

    def setUp(self) -> None:
        self.world = World(CrashDisk(directories=[HOME, HOME + "/log"]))
        self.world.up()

    def actions(self) -> str:
        return self.world.actions()

    def test_mail_is_accepted_and_delivered_at_once(self) -> None:
        """From memory: no file of the queue beside the journal is written."""
        queue_id = self.world.send("bob@here.example")
        self.assertIn(queue_id, self.world.accepted)
        self.assertEqual(self.world.mailbox("bob"), [self.world.accepted[queue_id][1]])
        self.assertEqual(self.actions(), "ED")
        self.assertEqual(
            [
                path
                for path in self.world.disk.operations
                if "/mess/" in path[1] and path[0] != "mkdir" and path[0] != "sync_directory"
            ],
            [],
        )

    def test_two_channels_are_one_message_and_two_enqueues(self) -> None:
        """Each recipient by its own way."""
        self.world.send("bob@here.example", "ok@out.example")
        self.assertEqual(sorted(self.actions()), ["D", "D", "E", "E"])
        self.assertEqual(len(self.world.outside.taken), 1)

    def test_a_deferred_recipient_is_tried_again_by_the_schedule(self) -> None:
        """Quadratic, 20 s steps: the third attempt takes it."""
        self.world.send("later@out.example")
        self.assertEqual(self.actions(), "EQ")
        self.world.wait(399)
        self.assertEqual(self.actions(), "EQ")
        self.world.wait(60)
        self.assertEqual(self.actions(), "EQQ")
        self.world.wait(1700)
        self.assertEqual(self.actions(), "EQQD")

    def test_a_failure_goes_back_to_the_sender_once(self) -> None:
        """And the notice's E comes before the R it follows from."""
        self.world.send("bad@out.example")
        self.assertEqual(self.actions(), "EERD")
        (notice,) = self.world.mailbox("ann")
        self.assertIn(b"bad@out.example", notice)

    def test_a_failure_of_mail_from_nobody_is_told_to_nobody(self) -> None:
        """The null sender."""
        self.world.send("bad@out.example", sender="")
        self.assertEqual(self.actions(), "ER")

    def test_mail_deferred_from_files_does_not_keep_its_content_in_memory(self) -> None:
        """Its files are not true again before the segment is retired, and many may be deferred until then."""
        queue_id = self.world.send("later@out.example", body=b"x" * 500)
        self.world.settle()
        self.world.wait(500)
        assert self.world.shard is not None
        (message,) = self.world.shard.shard.state.messages.values()
        self.assertEqual(message.copies["tcp_local"].pending[0].attempts, 2)
        self.assertFalse(message.content.in_memory)
        self.world.wait(2500)
        self.assertEqual(self.world.outside.taken["later@out.example", self.world.accepted[queue_id][1]], 1)

    def test_a_large_message_streams_into_its_file(self) -> None:
        """And is removed when it is done."""
        queue_id = self.world.send("bob@here.example", body=b"x" * 5000)
        self.assertEqual(self.world.mailbox("bob"), [self.world.accepted[queue_id][1]])
        self.world.settle()
        self.assertEqual([path for path in self.world.files() if "/mess/" in path], [])

    def test_failures_on_several_ways_are_told_of_together(self) -> None:
        """One notice, when the last of them has ended, though they are recorded on two channels."""
        self.world.send("bad@out.example", "bad@else.example", "gone@here.example", "ok@third.example")
        (notice,) = self.world.mailbox("ann")
        for address in (b"bad@out.example", b"bad@else.example", b"gone@here.example"):
            self.assertIn(address, notice)
        self.assertEqual(sorted(self.actions()), sorted("EEEE" + "D" + "E" + "RRR" + "D"))
        self.assertEqual(self.world.stored(), {})

    def test_mail_of_our_own_making_names_the_message_it_comes_from(self) -> None:
        """In its E lines, so that a trace finds the notice of a message, and the message of a notice."""
        queue_id = self.world.send("bad@out.example")
        entered = [record for record in self.world.log() if record.action is Action.ENQUEUED]
        self.assertEqual([record.source_system for record in entered[1:]], [queue_id] * (len(entered) - 1))
        self.assertEqual(len(entered), 2)

    def test_a_failure_waits_a_minute_at_most_for_others(self) -> None:
        """A recipient that takes long does not keep the sender in the dark."""
        self.world.outside.silent = True
        self.world.send("slow@out.example", "gone@here.example")
        self.world.wait(59)
        self.assertEqual(self.world.mailbox("ann"), [])
        self.world.wait(2)
        (notice,) = self.world.mailbox("ann")
        self.assertIn(b"gone@here.example", notice)
        self.world.outside.release()
        self.world.pump()
        self.assertEqual(self.world.stored(), {})
        self.assertEqual(len(self.world.mailbox("ann")), 1)

    def test_when_no_notice_can_be_made_the_failure_has_not_happened(self) -> None:
        """It is tried again, and nothing is lost."""
        self.world.broken_notices = 1
        self.world.send("bad@out.example")
        self.assertEqual(self.actions(), "EQ")
        self.world.wait(301)
        self.assertEqual(len(self.world.mailbox("ann")), 1)
        self.assertEqual(self.world.stored(), {})
        self.flushLoggedErrors(ZeroDivisionError)

    def test_a_channel_tells_how_much_its_hosts_can_bear(self) -> None:
        """IShaped: asked when a job has ended; from then on that host has so many at once, and others as before."""

        def limit(host: str) -> int | None:
            return {"out.example": 1, "else.example": 3}.get(host)

        outside: Any = self.world.outside
        outside.limit = limit
        alsoProvides(outside, IShaped)
        self.world.send("ok@out.example", "ok@else.example", "ok@third.example")
        outside.silent = True
        for host in ("out.example", "else.example", "third.example"):
            for number in range(5):
                self.world.send(f"ok{number}@{host}", hold=True)
        self.world.pump()
        assert self.world.shard is not None
        fair = self.world.shard.runners["tcp_local"].fair
        self.assertEqual([fair.load(f"{host}.example").busy for host in ("out", "else", "third")], [1, 3, 5])
        outside.release()
        self.world.pump()
        self.assertEqual(len(outside.taken), 18)

    def test_what_is_too_much_for_a_destination_comes_back_as_soon_as_it_has_less(self) -> None:
        """Parked, not forgotten: no pause while there is work for it."""
        self.world.outside.silent = True
        for number in range(800):
            self.world.send("ok@out.example", body=b"%d" % number, hold=True)
        self.world.pump()
        self.world.outside.release()
        self.world.pump()
        self.assertEqual(len(self.world.outside.taken), 800)
        self.assertEqual(self.world.stored(), {})
