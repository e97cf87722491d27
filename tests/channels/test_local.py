"""The local channel: who gets the message, what the others are told, and what is durable when."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import cast

from attrs import evolve
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from qmailpy.channels.local import LocalChannel
from qmailpy.config.schema import ChannelConfig, LocalConfig
from qmailpy.interfaces import IChannel, IDurableDelivery
from qmailpy.local.maildir import Delivery
from qmailpy.local.usage import Usage
from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.testing.inline import InlineThreads
from qmailpy.testing.memory_directory import MemoryDirectory
from qmailpy.testing.scripted_router import ScriptedRouter, local, remote, unknown_user
from qmailpy.values import (
    Alias,
    AutoReply,
    Disposition,
    Domain,
    Job,
    Mailbox,
    MemoryContent,
    Notify,
    Recipient,
    Routed,
    Verdict,
)
from tests.channels.common import MESSAGE, make_config, make_job, make_parts

ANN, BEA = "ann@example.org", "bea@example.org"


class LocalChannelTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.disk = CrashDisk(directories=["/home"])
        self.directory = MemoryDirectory(["example.org"], [ANN, BEA])
        self.router = ScriptedRouter()
        self.clock = Clock()
        self.channel = self.make()

    def make(self) -> LocalChannel:
        config = make_config()
        parts = make_parts(config, files=self.disk, directory=self.directory, router=self.router, clock=self.clock)
        return LocalChannel(config, ChannelConfig(name="local", kind="local"), parts, InlineThreads())

    def dequeue(self, job: Job) -> Sequence[Disposition]:
        return self.successResultOf(Deferred.fromCoroutine(self.channel.dequeue(job)))

    def replies(self, job: Job) -> list[tuple[Verdict, str]]:
        return [(one.verdict, one.reply.enhanced) for one in self.dequeue(job)]

    def mailbox(self, user: str, disk: CrashDisk | None = None) -> list[bytes]:
        disk = disk or self.disk
        where = f"/home/mail/example.org/{user}/Maildir/new"
        return [disk.read(f"{where}/{name}") for name in disk.listdir(where)]

    def test_it_provides_what_a_durable_channel_does(self) -> None:
        self.assertTrue(verifyObject(IChannel, self.channel))
        self.assertTrue(verifyObject(IDurableDelivery, self.channel))
        self.assertEqual(self.channel.name, "local")

    def test_each_recipient_gets_a_file_of_its_own(self) -> None:
        self.assertEqual(self.replies(make_job(ANN, BEA)), [(Verdict.DELIVERED, "2.1.5")] * 2)
        for user in ("ann", "bea"):
            self.assertEqual(
                self.mailbox(user),
                [
                    b"Return-Path: <bob@example.com>\nDelivered-To: %s@example.org\n" % user.encode()
                    + MESSAGE.replace(b"\r\n", b"\n")
                ],
            )

    def test_each_recipient_has_a_disposition_of_its_own_in_order(self) -> None:
        """Gone: 5.1.1. Suspended: 5.2.1. The others get their mail."""
        self.directory.entries["sue@example.org"] = Mailbox(
            address="sue@example.org", path="example.org/sue/Maildir", active=False
        )
        self.assertEqual(
            self.replies(make_job("nobody@example.org", ANN, "sue@example.org", BEA)),
            [
                (Verdict.FAILED, "5.1.1"),
                (Verdict.DELIVERED, "2.1.5"),
                (Verdict.FAILED, "5.2.1"),
                (Verdict.DELIVERED, "2.1.5"),
            ],
        )
        self.assertEqual(len(self.mailbox("bea")), 1)
        self.assertEqual(self.mailbox("sue"), [])

    def test_a_directory_that_is_away_defers(self) -> None:
        """Never "no such user"."""
        self.directory.away = True
        self.assertEqual(self.replies(make_job(ANN)), [(Verdict.DEFERRED, "4.3.0")])

    def test_a_mailbox_that_cannot_be_written_defers_its_own_mail_only(self) -> None:
        for number, enhanced in (
            (errno.ENOSPC, "4.3.1"),
            (errno.EDQUOT, "4.3.1"),
            (errno.EMFILE, "4.3.1"),
            (errno.EACCES, "4.2.0"),
            (errno.EROFS, "4.2.0"),
            (errno.ENOTDIR, "4.2.0"),
        ):
            self.disk.fail("open", number=number, path="/home/mail/example.org/ann", times=2)  # together, and alone
            self.assertEqual(
                self.replies(make_job(ANN, BEA)), [(Verdict.DEFERRED, enhanced), (Verdict.DELIVERED, "2.1.5")]
            )

    def test_a_message_that_was_here_before_is_a_loop(self) -> None:
        """The same Delivered-To field, in any case and folded; another's is none, nor is one in the body."""
        for octets, verdict in (
            (b"X: y\r\nDelivered-To: ann@example.org\r\n\r\nbody\r\n", Verdict.FAILED),
            (b"delivered-to:\r\n  ANN@Example.org \r\n\r\nbody\r\n", Verdict.FAILED),
            (b"Delivered-To: bea@example.org\r\n\r\nbody\r\n", Verdict.DELIVERED),
            (b"X-Delivered-To: ann@example.org\r\n\r\nbody\r\n", Verdict.DELIVERED),
            (b"X: y\r\n\r\nDelivered-To: ann@example.org\r\n", Verdict.DELIVERED),
        ):
            found = self.dequeue(make_job(ANN, octets=octets))
            self.assertEqual(
                (found[0].verdict, found[0].reply.enhanced == "5.4.6"), (verdict, verdict is Verdict.FAILED)
            )

    def test_a_disabled_account_may_make_mail_wait(self) -> None:
        self.directory.entries[ANN] = Mailbox(address=ANN, path="example.org/ann/Maildir", active=False)
        self.channel.reconfigure(evolve(make_config(), local=LocalConfig(disabled="defer")))
        self.assertEqual(self.replies(make_job(ANN)), [(Verdict.DEFERRED, "4.2.1")])

    def test_a_subaddress_goes_to_its_folder(self) -> None:
        """When there is one and the user wants that; else into the mailbox."""
        self.directory.entries[ANN] = Mailbox(address=ANN, path="example.org/ann/Maildir", subfolders=True)
        maildir = "/home/mail/example.org/ann/Maildir"
        self.disk.mkdir(f"{maildir}/.lists/cur")
        for user in ("ann", "bea"):
            self.replies(make_job(f"{user}+lists@example.org", f"{user}+other@example.org"))
        self.assertEqual(len(self.disk.listdir(f"{maildir}/.lists/new")), 1)
        self.assertEqual(len(self.mailbox("ann")), 1)
        self.assertEqual(len(self.mailbox("bea")), 2)

    def test_a_delivery_into_a_folder_is_repeated_there(self) -> None:
        """After an unclean stop: the same file, once."""
        self.directory.entries[ANN] = Mailbox(address=ANN, path="example.org/ann/Maildir", subfolders=True)
        folder = "/home/mail/example.org/ann/Maildir/.lists"
        self.disk.mkdir(f"{folder}/cur")
        job = make_job("ann+lists@example.org")
        self.dequeue(job)
        before = self.disk.listdir(f"{folder}/new")
        self.channel.thd_replay(job)
        self.channel.thd_sync_deliveries([job.id])
        self.assertEqual((self.disk.listdir(f"{folder}/new"), self.mailbox("ann")), (before, []))

    def bound(self, octets: int) -> Usage:
        """Ann has a quota."""
        self.directory.entries[ANN] = Mailbox(address=ANN, path="example.org/ann/Maildir", quota_octets=octets)
        config = make_config()
        usage = Usage(self.disk, config, maybeDeferred, lambda: 0.0, self.clock.seconds)
        parts = make_parts(config, files=self.disk, directory=self.directory, router=self.router, clock=self.clock)
        channel = ChannelConfig(name="local", kind="local")
        self.channel = LocalChannel(config, channel, evolve(parts, usage=usage), InlineThreads())
        return usage

    def test_what_comes_behind_a_delivery_does_not_undo_it(self) -> None:
        """It would be delivered again, and again: a count that fails, a notice or an answer that cannot be made."""

        def broken(*_: object) -> None:
            raise trouble

        for trouble in (OSError(13, "denied"), ZeroDivisionError()):
            usage = self.bound(10_000)
            self.patch(usage, "thd_delivered", broken)
            self.assertEqual(self.replies(make_job(ANN, BEA)), [(Verdict.DELIVERED, "2.1.5")] * 2)
            self.assertEqual(len(self.flushLoggedErrors(type(trouble))), 1)
        mailbox = cast(Mailbox, self.directory.entries[ANN])
        self.directory.entries[ANN] = evolve(mailbox, quota_octets=0, auto_reply=AutoReply(text="away"))
        self.patch(self.channel._answers, "mail", broken)
        self.assertEqual(self.replies(make_job(ANN, BEA)), [(Verdict.DELIVERED, "2.1.5")] * 2)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_bug_costs_nobody_else_the_mark_of_a_delivery(self) -> None:
        """Else all would be delivered once more at each attempt."""
        temporary = self.channel._store._temporary

        def broken(delivery: Delivery) -> str:
            if delivery.address == BEA:
                raise ZeroDivisionError
            return temporary(delivery)

        self.patch(self.channel._store, "_temporary", broken)
        self.assertEqual(self.replies(make_job(ANN, BEA)), [(Verdict.DELIVERED, "2.1.5"), (Verdict.DEFERRED, "4.3.0")])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.patch(self.channel._store, "_temporary", temporary)
        self.directory.entries[BEA] = evolve(cast(Mailbox, self.directory.entries[BEA]), dot_qmail=True)
        self.patch(self.channel._dots, "_done", broken)
        self.assertEqual(self.replies(make_job(ANN, BEA)), [(Verdict.DELIVERED, "2.1.5"), (Verdict.DEFERRED, "4.3.0")])
        self.assertEqual(len(self.flushLoggedErrors()), 1)

    def test_a_full_mailbox_defers_its_own_mail_only(self) -> None:
        self.bound(230)
        for expected in ((Verdict.DELIVERED, "2.1.5"), (Verdict.DELIVERED, "2.1.5"), (Verdict.DEFERRED, "4.2.2")):
            job = make_job(ANN, BEA, queue_id=f"abcdefghijkl{len(self.mailbox('bea')):03}")
            self.assertEqual(self.replies(job), [expected, (Verdict.DELIVERED, "2.1.5")])
        self.assertEqual((len(self.mailbox("ann")), len(self.mailbox("bea"))), (2, 3))

    def test_what_can_never_fit_fails(self) -> None:
        self.bound(len(MESSAGE) - 1)
        self.assertEqual(self.replies(make_job(ANN)), [(Verdict.FAILED, "5.2.3")])

    def test_a_user_is_warned_in_the_transaction_of_the_delivery(self) -> None:
        self.bound(105)
        [found] = self.dequeue(make_job(ANN))
        [mail] = found.mails
        self.assertEqual((found.verdict, mail.envelope.sender), (Verdict.DELIVERED, ""))
        [told] = mail.envelope.recipients
        self.assertEqual((told.address, told.channel, told.notify), (ANN, "local", int(Notify.NEVER)))
        self.assertIn(b"\r\nSubject: Your mailbox is nearly full\r\n", mail.content.read())
        job = make_job(ANN, octets=mail.content.read(), queue_id="abcdefghijklm01")
        made = evolve(mail.envelope, source="local", source_system="abcdefghijklm00")
        stranger = evolve(made, source_system="x ([::1])")
        for envelope, verdict in ((stranger, Verdict.FAILED), (made, Verdict.DELIVERED)):
            [found] = self.dequeue(evolve(job, envelope=envelope))
            self.assertEqual((found.verdict, found.mails), (verdict, ()), "what it warns of does not keep it out")

    def test_what_a_former_life_has_delivered_needs_no_room(self) -> None:
        """It is found there, and not refused; the mailbox is counted anew."""
        self.bound(110)
        job = make_job(ANN)
        self.assertEqual(self.replies(job), [(Verdict.DELIVERED, "2.1.5")])
        self.clock.advance(job.envelope.arrival + 1)
        self.bound(110)
        self.assertEqual(self.replies(job), [(Verdict.DELIVERED, "2.1.5")])
        self.assertEqual(len(self.mailbox("ann")), 1)
        self.assertFalse(self.disk.exists("/home/mail/example.org/ann/Maildir/maildirsize"))

    def test_who_has_no_quota_has_no_file_of_it(self) -> None:
        self.bound(10**6)
        self.dequeue(make_job(ANN, BEA))
        self.assertTrue(self.disk.exists("/home/mail/example.org/ann/Maildir/maildirsize"))
        self.assertFalse(self.disk.exists("/home/mail/example.org/bea/Maildir/maildirsize"))

    def test_a_mailbox_that_has_moved_to_another_node_is_forwarded(self) -> None:
        self.directory.entries[ANN] = Mailbox(address=ANN, path="example.org/ann/Maildir", host="other.example.org")
        stored = Recipient(address=ANN, original=ANN, channel="tcp_lmtp", host="[other.example.org]")
        self.router.later[ANN] = Routed(recipients=(stored,), local=True)
        [found] = self.dequeue(make_job(ANN))
        self.assertEqual((found.verdict, found.onward), (Verdict.FORWARDED, (stored,)))

    def test_a_domain_that_has_moved_to_another_node_is_forwarded(self) -> None:
        """Where a mailbox has a node of its own, that counts."""
        stored = Recipient(address=ANN, original=ANN, channel="tcp_lmtp", host="[other.example.org]")
        self.router.later[ANN] = Routed(recipients=(stored,), local=True)
        self.directory.domains["example.org"] = Domain(name="example.org", host="other.example.org")
        [found] = self.dequeue(make_job(ANN))
        self.assertEqual((found.verdict, found.onward), (Verdict.FORWARDED, (stored,)))
        here = make_config().server.hostname
        self.directory.entries[ANN] = Mailbox(address=ANN, path="example.org/ann/Maildir", host=here)
        [found] = self.dequeue(make_job(ANN))
        self.assertEqual(found.verdict, Verdict.DELIVERED)

    def test_an_address_that_has_become_an_alias_is_forwarded(self) -> None:
        self.directory.entries[ANN] = Alias(address=ANN, targets=("x@example.com",))
        self.router.later[ANN] = remote("x@example.com")
        found = self.dequeue(make_job(ANN))
        self.assertEqual([one.verdict for one in found], [Verdict.FORWARDED])
        self.assertEqual([(one.address, one.original) for one in found[0].onward], [("x@example.com", ANN)])

    def test_an_alias_that_leads_back_here_is_deferred(self) -> None:
        """Directory and rules disagree: the mail waits, it does not go round."""
        self.directory.entries[ANN] = Alias(address=ANN, targets=(ANN,))
        self.router.later[ANN] = local(ANN)
        self.assertEqual(self.replies(make_job(ANN)), [(Verdict.DEFERRED, "4.3.5")])

    def test_an_alias_that_leads_nowhere_fails(self) -> None:
        self.directory.entries[ANN] = Alias(address=ANN, targets=("gone@example.org",))
        self.router.later[ANN] = unknown_user()
        self.assertEqual(self.replies(make_job(ANN)), [(Verdict.FAILED, "5.1.1")])

    def test_deliveries_are_durable_once_they_were_synced_and_not_before(self) -> None:
        self.dequeue(make_job(ANN, BEA))
        self.dequeue(make_job(ANN, queue_id="other0000000000"))
        self.assertEqual(self.mailbox("ann", self.disk.reboot()), [])
        disk = self.disk.kill()
        self.assertEqual(len(self.mailbox("ann", disk)), 2)

    def test_a_sync_is_for_the_messages_named(self) -> None:
        self.dequeue(make_job(ANN, BEA))
        self.dequeue(make_job(ANN, queue_id="other0000000000"))
        self.channel.thd_sync_deliveries(["abcdefghijklm00", "unknown00000000"])
        before = self.disk.count()
        self.channel.thd_sync_deliveries(["abcdefghijklm00"])  # forgotten
        self.assertEqual(self.disk.count(), before)
        after = self.disk.reboot()
        self.assertEqual((len(self.mailbox("ann", after)), len(self.mailbox("bea", after))), (2, 1))
        contents = self.mailbox("ann", after)
        self.assertEqual(contents.count(b""), 1)  # the other's name came along, its content did not

    def test_after_a_failed_sync_the_next_one_writes_anew(self) -> None:
        """fsync tells of an error once: a second one would succeed and the mail be lost."""
        for mend in (False, True):
            job = make_job(ANN)
            self.dequeue(job)
            self.disk.fail("fsync")
            self.assertRaises(OSError, self.channel.thd_sync_deliveries, [job.id])
            if mend:
                self.channel.thd_replay(job)
            self.channel.thd_sync_deliveries([job.id])
            self.assertIn(b"body\n", self.mailbox("ann", self.disk.reboot())[0])
            self.disk = CrashDisk(directories=["/home"])
            self.channel = self.make()

    def test_replay_brings_back_what_a_power_cut_took(self) -> None:
        job = make_job(ANN, BEA)
        self.dequeue(job)
        self.disk = self.disk.reboot()
        self.channel = self.make()
        self.channel.thd_replay(job)
        self.channel.thd_sync_deliveries([job.id])
        after = self.disk.reboot()
        self.assertEqual((len(self.mailbox("ann", after)), len(self.mailbox("bea", after))), (1, 1))

    def test_marks_without_a_place_are_looked_up_in_the_directory(self) -> None:
        """Those of earlier versions: of users that are gone nothing is known; one that is away is asked again."""
        job = make_job(ANN, BEA)
        del self.directory.entries[ANN]
        self.directory.away = True
        self.channel.thd_replay(job)
        self.assertRaises(OSError, self.channel.thd_sync_deliveries, [job.id])
        self.directory.away = False
        self.channel.thd_sync_deliveries([job.id])
        after = self.disk.reboot()
        self.assertEqual((len(self.mailbox("ann", after)), len(self.mailbox("bea", after))), (0, 1))

    def test_a_message_of_an_earlier_life_is_not_delivered_twice(self) -> None:
        """Killed between delivery and mark, the queue tries again; a reader may have moved it to cur/ by then."""
        job = make_job(ANN)
        self.dequeue(job)
        where = "/home/mail/example.org/ann/Maildir"
        [name] = self.disk.listdir(f"{where}/new")
        self.disk.rename(f"{where}/new/{name}", f"{where}/cur/{name}:2,S")
        self.clock.advance(job.envelope.arrival + 10)
        self.channel = self.make()
        self.assertEqual(self.replies(job), [(Verdict.DELIVERED, "2.1.5")])
        self.assertEqual((self.mailbox("ann"), self.disk.listdir(f"{where}/cur")), ([], [f"{name}:2,S"]))

    def test_what_the_journal_cannot_deliver_again_is_durable_at_once(self) -> None:
        """A line of a .qmail file: nobody knows after a crash what it said."""
        delivery = Delivery(
            id="q",
            number=0,
            arrival=1.0,
            sender="",
            address=ANN,
            mailbox="example.org/ann/Maildir/.x",
            content=MemoryContent(MESSAGE),
            at_once=True,
        )
        for _ in range(2):  # the directories are known to be there the second time
            self.successResultOf(Deferred.fromCoroutine(self.channel._deliver_one(delivery)))
            after = self.disk.reboot()
            self.assertEqual(len(after.listdir("/home/mail/example.org/ann/Maildir/.x/new")), 1)
            self.disk = after
            self.channel = self.make()

    def test_what_must_be_durable_at_once_is_so_after_a_failed_sync_as_well(self) -> None:
        """Found whole by the next attempt, it may be so in the cache alone."""
        self.clock.advance(10)
        self.channel = self.make()
        delivery = Delivery(
            id="q",
            number=0,
            arrival=1.0,
            sender="",
            address=ANN,
            mailbox="example.org/ann/Maildir",
            content=MemoryContent(MESSAGE),
            at_once=True,
        )
        self.disk.fail("fsync")
        for verdict in (Verdict.DEFERRED, Verdict.DELIVERED):
            said = self.successResultOf(Deferred.fromCoroutine(self.channel._deliver_one(delivery)))
            self.assertIs(said.verdict, verdict)
        self.assertIn(b"body\n", self.mailbox("ann", self.disk.reboot())[0])

    def test_replay_leaves_alone_what_a_users_file_has_done(self) -> None:
        """Or what went on to somebody else: that was durable, as the journal's word for it tells."""
        self.directory.entries[ANN] = evolve(cast(Mailbox, self.directory.entries[ANN]), dot_qmail=True)
        job = make_job(ANN)
        self.channel.thd_replay(evolve(job, said=("250 2.1.5 Delivered as .qmail says",)))
        self.assertFalse(self.disk.exists("/home/mail/example.org/ann/Maildir/new"))
        self.channel.thd_replay(job)
        self.assertEqual(len(self.mailbox("ann")), 1)

    def test_stop_ends(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.channel.stop()))

    def test_numbers_keep_two_deliveries_to_one_mailbox_apart(self) -> None:
        job = make_job(ANN, ANN)
        self.dequeue(evolve(job, numbers=(4, 7)))
        self.assertEqual(len(self.mailbox("ann")), 2)
