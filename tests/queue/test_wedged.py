"""Nothing that goes wrong once may keep a message, or the stop of the daemon, waiting for ever."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.errors import Temporary
from qmailpy.queue import runner, segments
from qmailpy.queue.ids import to_number
from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.values import Content, Disposition, Envelope, Job, MemoryContent, NewMail, Recipient, Reply, Verdict
from tests.queue.world import HOME, Outside, PlainNotices, World, configuration


def fresh(**queue: object) -> World:
    """A node in its first life."""
    world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]), configuration(**queue))
    world.up()
    return world


def drained(world: World) -> bool:
    """Whether a stop comes to its end."""
    assert world.shard is not None
    ended: list[object] = []
    world.shard.drain().addBoth(ended.append)
    world.pump()
    return bool(ended)


class Forwarding(Outside):
    """Hands mail for C{fwd@} on to Bob."""

    def _one(self, job: Job, recipient: Recipient) -> Disposition:
        if not recipient.address.startswith("fwd@"):
            return super()._one(job, recipient)
        bob = Recipient(address="bob@here.example", original=recipient.original, channel="local")
        return Disposition(verdict=Verdict.FORWARDED, reply=Reply(250, "2.1.5", "ok"), onward=(bob,))


class DelayTrouble(PlainNotices):
    """No delay notice can be made."""

    def build_delay(
        self,
        envelope: Envelope,
        queue_id: str,
        delayed: Sequence[tuple[Recipient, Disposition]],
        content: Content,
        now: float,
        until: float | None,
        tried_now: int,
    ) -> tuple[Envelope, bytes] | None:
        raise OSError(errno.EIO, "the content cannot be read")


class WedgedTests(SynchronousTestCase):
    """Once is not for ever."""

    def test_a_delay_notice_that_cannot_be_made_keeps_nothing_from_being_tried(self) -> None:
        """The attempt is recorded all the same, and the daemon can stop."""
        world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]), configuration(warn_s=(100,)))
        world.notices = lambda: DelayTrouble(world)  # type: ignore[method-assign]
        world.up()
        world.outside.silent = True
        world.send("later@out.example")
        world.wait(200)
        world.outside.release()
        world.pump()
        self.flushLoggedErrors(OSError)
        self.assertEqual(world.actions(), "EQ")
        world.wait(5000)
        self.flushLoggedErrors(OSError)
        self.assertEqual(world.actions(), "EQQD")
        self.assertTrue(drained(world))

    def test_mail_that_goes_on_and_cannot_be_read_is_tried_again(self) -> None:
        """Its large content is in a file that cannot be read for a moment."""
        world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]))
        world.outside = Forwarding()
        world.up()
        world.disk.fail("pread", path=f"{HOME}/queue/0/mess")
        queue_id = world.send("fwd@out.example", body=b"x" * 2000)
        self.assertEqual(world.actions(), "EQ")
        world.wait(5000)
        self.assertEqual(world.mailbox("bob"), [world.accepted[queue_id][1]])
        self.assertTrue(drained(world))
        self.assertEqual(world.stored(), {})

    def test_mail_larger_than_a_segment_goes_on(self) -> None:
        """As a file of its own, like any other large message."""
        world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]))
        world.outside = Forwarding()
        world.up()
        queue_id = world.send("fwd@out.example", body=b"x" * 9000)
        self.assertEqual(world.mailbox("bob"), [world.accepted[queue_id][1]])
        self.assertTrue(drained(world))
        self.assertEqual(world.stored(), {})

    def test_a_channel_that_answers_nonsense_keeps_nothing_from_being_tried(self) -> None:
        """Bugs in channels cost an attempt."""
        world = fresh()
        told: list[object] = [None, [], [None], ZeroDivisionError()]

        async def dequeue(job: Job) -> object:
            if told:
                answer = told.pop(0)
                if isinstance(answer, Exception):
                    raise answer
                return answer
            return [Disposition(verdict=Verdict.DELIVERED, reply=Reply(250, "2.0.0", "ok"))]

        world.outside.dequeue = dequeue  # type: ignore[method-assign, assignment]
        world.send("ok@out.example")
        world.wait(20000)
        self.flushLoggedErrors()
        self.assertEqual(world.actions(), "EQQQQD")
        self.assertTrue(drained(world))

    def test_what_cannot_be_written_down_costs_an_attempt(self) -> None:
        """A NUL in the sender of what goes on; it is not tried again at once, and an operator may return it."""
        world = fresh()
        nul = [
            NewMail(envelope=Envelope(sender="a\0", recipients=(), source="", arrival=0.0), content=MemoryContent(b""))
        ]

        async def dequeue(job: Job) -> list[Disposition]:
            onward = (evolve(job.recipients[0], address="bob@here.example", channel="local"),)
            said = Disposition(verdict=Verdict.FORWARDED, reply=Reply(250, "2.0.0", "ok"), onward=onward)
            return [evolve(said, mails=tuple(nul))]

        world.outside.dequeue = dequeue  # type: ignore[method-assign]
        world.send("ok@out.example")
        world.wait(200)
        self.assertEqual(world.actions(), "EQ")
        nul.clear()
        world.wait(2000)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual((world.actions(), world.stored()), ("EQEDD", {}))
        self.assertTrue(drained(world))

    def test_what_cannot_be_written_down_costs_nobody_else_an_attempt(self) -> None:
        """A NUL in what one recipient's mail goes on to; another of the same attempt has it, once."""
        world = fresh()

        async def dequeue(job: Job) -> list[Disposition]:
            nul = Recipient(address="a\0@out.example", original="a", channel="tcp_local")
            return [
                Disposition(verdict=Verdict.FORWARDED, reply=Reply(250, "2.0.0", "ok"), onward=(nul,))
                if one.address.startswith("fwd")
                else Disposition(verdict=Verdict.DELIVERED, reply=Reply(250, "2.0.0", "ok"))
                for one in job.recipients
            ]

        world.outside.dequeue = dequeue  # type: ignore[method-assign]
        world.send("ok@out.example", "fwd@out.example")
        world.wait(200)
        self.assertEqual(
            [(one.action.value, one.current_to[:2]) for one in world.log()[2:]], [("D", "ok"), ("Z", "fw")]
        )
        self.assertEqual(world.stored(), {"tcp_local": 1})
        self.assertTrue(drained(world))

    def test_an_answer_that_cannot_be_written_down_is_left_out(self) -> None:
        """What it answers is delivered, and is not delivered again for it."""
        world = fresh()
        asked = []

        async def dequeue(job: Job) -> list[Disposition]:
            asked.append(job.id)
            envelope = Envelope(sender="a\0", recipients=job.recipients, source="tcp_local", arrival=0.0)
            mail = NewMail(envelope=envelope, content=MemoryContent(b""), courtesy=True)
            return [Disposition(verdict=Verdict.DELIVERED, reply=Reply(250, "2.0.0", "ok"), mails=(mail,))]

        world.outside.dequeue = dequeue  # type: ignore[method-assign]
        world.send("ok@out.example")
        world.wait(2000)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual((world.actions(), len(asked)), ("ED", 1))
        self.assertTrue(drained(world))

    def test_a_delete_whose_reason_cannot_be_written_down_changes_nothing(self) -> None:
        """The message is tried as before, and the daemon can stop."""
        world = fresh()
        assert world.shard is not None
        queue_id = world.send("later@out.example")
        [message] = [one for one in world.shard.shard.state.messages.values() if one.id == queue_id]
        out = world.shard.runners["tcp_local"]
        with self.assertRaises(ValueError):
            out.by_hand.remove(message, message.copies["tcp_local"], "\ud800", lambda problem: None)
        world.wait(5000)
        self.assertEqual(world.actions(), "EQQD")
        self.assertTrue(drained(world))

    def test_a_file_that_cannot_be_read_keeps_no_other_mail_waiting(self) -> None:
        """They are read together; one bad sector is one message's trouble, until it can be read."""
        world = fresh()
        assert world.shard is not None
        ids = [world.send("later@out.example") for _ in range(5)]
        world.settle()
        world.settle()
        self.assertEqual(world.shard.shard.state.messages, {})
        bad = world.shard.layout.info(to_number(ids[2]))
        world.disk.fail("read", times=10**9, path=bad)
        out = world.shard.runners["tcp_local"]
        out.stop()
        world.wait(5000)
        out.start()  # all are due
        world.wait(20000)
        self.assertEqual(world.stored(), {"tcp_local": 1})
        world.disk.heal()
        world.wait(60000)
        self.assertEqual(world.stored(), {})
        self.assertTrue(drained(world))

    def test_a_broken_journal_does_not_keep_the_daemon_from_stopping(self) -> None:
        """The next life reads the disk; this one has to end for it."""
        world = fresh()
        world.outside.silent = True
        world.send("ok@out.example")
        world.send("later@out.example")
        world.disk.fail("fdatasync", number=errno.EIO, path=f"{HOME}/queue/0/journal")
        world.outside.release()
        world.pump()
        self.assertTrue(drained(world))

    def test_want_of_descriptors_when_a_segment_is_full_passes(self) -> None:
        """New mail is told 452 meanwhile; nothing has to be started anew."""
        world = fresh()
        world.outside.silent = True
        world.disk.fail("open", number=errno.EMFILE, path=f"{HOME}/queue/0/journal", times=3)
        for _ in range(8):
            world.send("ok@out.example", body=b"x" * 700)
        world.outside.release()
        world.wait(10)
        world.disk.heal()
        world.wait(10)
        before = len(world.accepted)
        world.send("bob@here.example")
        self.assertEqual(len(world.accepted), before + 1)
        world.wait(5000)
        self.assertEqual(world.stored(), {})
        self.assertTrue(drained(world))

    def test_parked_mail_comes_back_when_what_it_waited_for_was_taken_away(self) -> None:
        """An operator holds all that is ready for a destination, while another one is busy."""
        self.patch(runner, "READY", 40)
        world = fresh(segments=1000)
        assert world.shard is not None
        out = world.shard.runners["tcp_local"]
        out.fair.concurrency = 1
        out.fair.waiting_limit = 10
        world.outside.silent = True
        world.send("ok@busy.example")  # which nothing ends
        ready = [world.send("ok@out.example") for _ in range(10)]
        parked = [world.send("ok@out.example") for _ in range(3)]
        self.assertEqual(len(out._parking.by_host["out.example"]), 3)
        for queue_id in ready:
            message = next(one for one in world.shard.shard.state.messages.values() if one.id == queue_id)
            gone: list[object] = []
            self.assertTrue(out.by_hand.remove(message, message.copies["tcp_local"], "away", gone.append))
        out.fair.concurrency = 2
        world.wait(60)
        self.assertEqual(out._parking.by_host, {})
        world.outside.release()
        world.pump()
        self.assertEqual(sum(world.outside.asked[queue_id, "ok@out.example"] for queue_id in parked), 3)
        self.assertEqual(world.stored(), {})

    def test_an_intake_that_is_aborted_while_it_is_committed_is_committed(self) -> None:
        """The connection went away: a record that refers to a file does not lose it."""
        world = fresh()
        queue_id = world.send("ok@out.example", body=b"x" * 3000, hold=True)
        assert world.shard is not None
        intake = world.shard.begin(world.shard.new_id())
        intake.write(b"y" * 3000)
        envelope, _ = world.offered[queue_id]
        told: list[object] = []
        intake.commit(envelope).addBoth(told.append)
        intake.abort()
        world.pump()
        self.assertEqual(told, [None])
        self.assertEqual(world.outside.taken["ok@out.example", b"y" * 3000], 1)
        self.assertEqual(world.shard._budget.used, 0)

    def test_an_envelope_that_cannot_be_written_down_is_refused(self) -> None:
        """A bug elsewhere: nobody waits for ever, and nothing is kept of it."""
        world = fresh()
        assert world.shard is not None
        bob = Recipient(address="bob@here.example", original="bob\0@here.example", channel="local")
        envelope = Envelope(sender="", recipients=(bob,), source="tcp_local", arrival=0.0)
        for octets in (b"x" * 100, b"y" * 3000):
            intake = world.shard.begin(world.shard.new_id())
            intake.write(octets)
            self.failureResultOf(intake.commit(envelope), Temporary)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)
        self.assertEqual(world.shard._budget.used, 0)
        left = [path for path in world.disk.open_paths() if "/mess/" in path]
        self.assertEqual(left, [])

    def test_a_bug_while_a_segment_is_retired_is_tried_again(self) -> None:
        """Wherever it is; new mail would wait for ever behind it, and a stop, too."""
        world = fresh()
        assert world.shard is not None
        at_work = world.shard.shard
        for module, name in ((at_work.shelf, "thd_file"), (segments, "filing")):
            world.send("never@out.example")
            good, times = getattr(module, name), [1, 1]

            def bug(what: object, good: object = good, times: list[int] = times) -> object:
                if times and times.pop():
                    raise ZeroDivisionError
                return good(what)  # type: ignore[operator]

            self.patch(module, name, bug)
            world.settle()
            settled: list[object] = []
            world.shard.settle().addBoth(settled.append)
            world.pump()
            self.assertEqual(len(settled), 1)
            self.assertEqual(len(at_work.segments.generations), 2)
            world.wait(11)
            self.assertEqual(len(at_work.segments.generations), 1)
            self.assertNotEqual(self.flushLoggedErrors(ZeroDivisionError), [])
        world.down()
