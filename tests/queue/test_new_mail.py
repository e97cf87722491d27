"""Mail that a channel makes: another content, another sender, in the transaction that ends the recipient."""

from __future__ import annotations

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.channels.autoreply import HeaderOnly
from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.values import Disposition, Envelope, Job, MemoryContent, NewMail, Recipient, Reply, Verdict
from tests.queue.world import HOME, Outside, World

PLAIN = Envelope(sender="", recipients=(), source="local", arrival=0.0)
_OK = Reply(250, "2.1.5", "ok")


class Changing(Outside):
    """Bob gets what came for C{new@}, from another sender and with another content."""

    def _one(self, job: Job, recipient: Recipient) -> Disposition:
        if not recipient.address.startswith("new@"):
            return super()._one(job, recipient)
        bob = Recipient(address="bob@here.example", original=recipient.original, channel="local")
        envelope = evolve(job.envelope, sender="other@here.example", recipients=(bob,))
        mail = NewMail(envelope=envelope, content=MemoryContent(b"Subject: new\r\n\r\nnew\r\n"))
        return Disposition(verdict=Verdict.FORWARDED, reply=_OK, mails=(mail,))


class Unreadable(MemoryContent):
    """A content on a disk that fails once."""

    failed = False

    def read(self) -> bytes:
        if not Unreadable.failed:
            Unreadable.failed = True
            raise OSError("gone")
        return super().read()


class Sharing(Outside):
    """All of a job share one message for Bob."""

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__()
        self._content = (Unreadable if broken else MemoryContent)(b"Subject: shared\r\n\r\n")
        self._mails: dict[str, NewMail] = {}

    def _one(self, job: Job, recipient: Recipient) -> Disposition:
        bob = Recipient(address="bob@here.example", original=recipient.original, channel="local")
        mail = NewMail(envelope=evolve(job.envelope, recipients=(bob,)), content=self._content)
        mail = self._mails.setdefault(job.id, mail)
        return Disposition(verdict=Verdict.FORWARDED, reply=_OK, mails=(mail,))


class WithCopy(Sharing):
    """And the first has a copy that cannot be read."""

    def _one(self, job: Job, recipient: Recipient) -> Disposition:
        said = super()._one(job, recipient)
        if not recipient.address.startswith("one@"):
            return said
        copy = NewMail(envelope=said.mails[0].envelope, content=Unreadable(b"Subject: copy\r\n\r\n"))
        return evolve(said, mails=(*said.mails, copy))


class NewMailTests(SynchronousTestCase):
    def test_what_a_channel_makes_of_a_message_is_queued_in_the_same_transaction(self) -> None:
        """Two E lines and two D lines, and the books hold; the new message names the old one (row C7)."""
        world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]))
        world.outside = Changing()
        world.up()
        world.send("new@out.example")
        self.assertEqual(world.actions(), "EEDD")
        self.assertEqual([one.modifiers for one in world.log()][:2], ["E", ""])  # by SMTP; by nothing
        self.assertEqual(world.mailbox("bob"), [b"Subject: new\r\n\r\nnew\r\n"])
        self.assertEqual(world.stored(), {})

    def test_a_mail_that_several_recipients_share_is_queued_once(self) -> None:
        world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]))
        world.outside = Sharing()
        world.up()
        world.send("one@out.example", "two@out.example")
        self.assertEqual(world.actions(), "EEEDDD")
        self.assertEqual(world.mailbox("bob"), [b"Subject: shared\r\n\r\n"])
        self.assertEqual(world.stored(), {})

    def test_nobody_who_shares_a_mail_is_done_when_it_cannot_be_made(self) -> None:
        """Both are tried again, though it could be made for the second."""
        self.patch(Unreadable, "failed", False)
        world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]))
        world.outside = Sharing(broken=True)
        world.up()
        world.send("one@out.example", "two@out.example")
        self.assertEqual(world.actions(), "EEQQ")
        self.assertEqual(world.mailbox("bob"), [])

    def test_what_comes_with_a_shared_mail_counts_as_well(self) -> None:
        """A copy for the first of two cannot be made: the shared one must not go to both for the second's sake."""
        self.patch(Unreadable, "failed", False)
        world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]))
        world.outside = WithCopy()
        world.up()
        world.send("one@out.example", "two@out.example")
        self.assertEqual(world.actions(), "EEQQ")
        self.assertEqual(world.mailbox("bob"), [])

    def test_a_content_that_turns_out_shorter_is_recorded_as_it_is(self) -> None:
        """A header is, than it may be at most: in the journal, and in a file where there is no room."""
        world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]))
        world.up()
        assert world.shard is not None
        content = HeaderOnly(MemoryContent(b"Subject: x\r\n\r\n" + b"x" * 900))
        for room in (1000, 10):
            made = Deferred.fromCoroutine(world.shard.shard.new_message(PLAIN, content, room))
            op = self.successResultOf(made)
            self.assertEqual((op.size, op.content is None), (14, room == 10))

    def test_more_than_a_segment_holds_goes_into_files(self) -> None:
        """A channel may make any number of mails of one: the transaction stays small."""
        world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]))
        world.outside = Many()
        world.up()
        world.send("many@out.example")
        self.assertEqual(len(world.mailbox("bob")), 20)
        self.assertEqual(set(map(len, world.mailbox("bob"))), {1000})
        self.assertEqual(world.actions(), "E" + "E" * 20 + "D" + "D" * 20)
        self.assertEqual(world.stored(), {})


class Many(Outside):
    """Twenty mails for Bob of one, more than a segment of the test's queue holds."""

    def _one(self, job: Job, recipient: Recipient) -> Disposition:
        bob = Recipient(address="bob@here.example", original=recipient.original, channel="local")
        envelope = evolve(job.envelope, recipients=(bob,))
        mails = tuple(NewMail(envelope=envelope, content=MemoryContent(b"x" * 998 + b"\r\n")) for _ in range(20))
        return Disposition(verdict=Verdict.FORWARDED, reply=_OK, mails=mails)
