"""Answers of users who are away: asked for with the delivery, given once, in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from qmailpy.channels.autoreply import AutoReplyChannel, HeaderOnly
from qmailpy.channels.local import LocalChannel
from qmailpy.config.schema import ChannelConfig
from qmailpy.interfaces import IChannel
from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.testing.inline import InlineThreads
from qmailpy.testing.memory_directory import MemoryDirectory
from qmailpy.testing.scripted_router import ScriptedRouter, remote, unknown_user
from qmailpy.values import (
    AutoReply,
    Disposition,
    Job,
    Mailbox,
    MemoryContent,
    Notify,
    Recipient,
    Refused,
    Reply,
    Verdict,
)
from tests.channels.common import make_config, make_job, make_parts

ANN, BOB = "ann@example.org", "bob@example.com"
CHANNELS = {name: ChannelConfig(name=name, kind=name) for name in ("local", "autoreply", "process")}
MAIL = b"To: info@example.org\r\nSubject: hello\r\nMessage-ID: <1@x>\r\n\r\nbody\r\n"
NOW = 1700000500.0


class AutoReplyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.disk = CrashDisk(directories=["/home"])
        self.router = ScriptedRouter()
        self.router.later[BOB] = remote(BOB)
        self.now = NOW
        self.directory = MemoryDirectory(["example.org"])
        self.away(AutoReply(text="I am away.", days=3))
        config = make_config(CHANNELS)
        parts = make_parts(config, files=self.disk, directory=self.directory, router=self.router)
        self.parts = evolve(parts, seconds=lambda: self.now)
        self.local = LocalChannel(config, CHANNELS["local"], self.parts, InlineThreads())
        self.channel = self.make()

    def make(self) -> AutoReplyChannel:
        return AutoReplyChannel(make_config(CHANNELS), CHANNELS["autoreply"], self.parts, maybeDeferred)

    def away(self, reply: AutoReply | None) -> None:
        self.directory.entries[ANN] = Mailbox(address=ANN, path="example.org/ann/Maildir", auto_reply=reply)

    def run_job(self, channel: Any, job: Job) -> Sequence[Disposition]:
        return self.successResultOf(Deferred.fromCoroutine(channel.dequeue(job)))

    def deliver(self, octets: bytes = MAIL, sender: str = BOB) -> Disposition:
        job = make_job(ANN, octets=octets)
        to = evolve(job.recipients[0], original="info@example.org")
        job = evolve(job, recipients=(to,), envelope=evolve(job.envelope, sender=sender, recipients=(to,)))
        [said] = self.run_job(self.local, job)
        self.assertIs(said.verdict, Verdict.DELIVERED)
        return said

    def asked(self, octets: bytes = MAIL, queue_id: str = "q1") -> Job:
        to = Recipient(address=ANN, original="info@example.org", channel="autoreply", notify=1)
        job = make_job(ANN, octets=octets, channel="autoreply", queue_id=queue_id)
        return evolve(job, recipients=(to,), envelope=evolve(job.envelope, recipients=(to,), source="local"))

    def answer(self, job: Job) -> Disposition:
        [said] = self.run_job(self.channel, job)
        return said

    def test_it_is_a_channel(self) -> None:
        self.assertTrue(verifyObject(IChannel, self.channel))
        self.successResultOf(Deferred.fromCoroutine(self.channel.stop()))

    def test_the_header_comes_with_the_delivery(self) -> None:
        [mail] = self.deliver().mails
        [to] = mail.envelope.recipients
        self.assertEqual((to.address, to.original, to.channel), (ANN, "info@example.org", "autoreply"))
        self.assertEqual((to.notify, mail.envelope.sender), (int(Notify.NEVER), BOB))
        self.assertEqual(mail.content.read(), MAIL.partition(b"body")[0])

    def test_nothing_comes_of_what_is_not_to_be_answered(self) -> None:
        """Seen where the header is in memory; else the autoreply channel sees it."""
        self.assertEqual(self.deliver(b"List-Id: x\r\n" + MAIL).mails, ())
        self.assertEqual(self.deliver(sender="").mails, ())
        for reply in (None, AutoReply(text="x", begins=NOW + 1), AutoReply(text="x", ends=NOW)):
            self.away(reply)
            self.assertEqual(self.deliver().mails, ())
        self.away(AutoReply(text="x", begins=NOW, ends=NOW + 1))
        self.assertEqual(len(self.deliver().mails), 1)
        self.local.reconfigure(make_config({"local": CHANNELS["local"]}))
        self.assertEqual(self.deliver().mails, ())

    def test_the_sender_is_answered_by_nobody(self) -> None:
        """RFC 3834 s.3.3 and s.4: the null sender, to the sender of the envelope; and no notices of it."""
        self.deliver()
        said = self.answer(self.asked())
        self.assertEqual((said.verdict, said.reply.text), (Verdict.DELIVERED, "Answered"))
        [mail] = said.mails
        [to] = mail.envelope.recipients
        self.assertEqual((mail.envelope.sender, to.address, to.channel, to.notify), ("", BOB, "tcp_local", 1))
        octets = mail.content.read()
        self.assertEqual(mail.envelope.subject, "Auto: hello")
        self.assertIn(b"Subject: Auto: hello\r\n", octets)
        self.assertIn(b"In-Reply-To: <1@x>\r\n", octets)
        self.assertTrue(octets.endswith(b"\r\n\r\nI am away.\r\n"))

    def test_once_in_some_days(self) -> None:
        self.deliver()
        self.assertEqual(len(self.answer(self.asked()).mails), 1)
        self.assertEqual(len(self.answer(self.asked(queue_id="q2")).mails), 0)
        self.channel = self.make()  # a process later
        self.assertEqual(len(self.answer(self.asked(queue_id="q3")).mails), 0)
        self.now += 3.1 * 86400
        self.assertEqual(len(self.answer(self.asked(queue_id="q4")).mails), 1)

    def test_an_attempt_that_was_cut_short_answers_again(self) -> None:
        """Its first answer was never queued: that and the end of the attempt are one transaction."""
        self.deliver()
        self.answer(self.asked())
        self.channel = self.make()
        self.assertEqual(len(self.answer(self.asked()).mails), 1)

    def test_what_cannot_be_remembered_is_answered_later(self) -> None:
        self.deliver()
        self.disk.fail("append")
        self.assertIs(self.answer(self.asked()).verdict, Verdict.DEFERRED)
        self.assertEqual(len(self.answer(self.asked()).mails), 1)

    def test_who_is_back_does_not_answer(self) -> None:
        self.deliver()
        for reply in (None, AutoReply(text="x", ends=NOW)):
            self.away(reply)
            said = self.answer(self.asked())
            self.assertEqual((said.verdict, said.mails), (Verdict.DELIVERED, ()))

    def test_a_sender_that_leads_nowhere_has_none(self) -> None:
        self.deliver()
        self.router.later[BOB] = unknown_user()
        self.assertEqual(self.answer(self.asked()).mails, ())
        self.router.later[BOB] = Refused(Reply(451, "4.3.5", "later"))
        self.assertIs(self.answer(self.asked()).verdict, Verdict.DEFERRED)

    def test_a_directory_that_is_away_makes_it_wait(self) -> None:
        self.directory.away = True
        self.assertIs(self.answer(self.asked()).verdict, Verdict.DEFERRED)

    def test_lists_are_seen_here_too(self) -> None:
        self.assertEqual(self.answer(self.asked(b"Precedence: list\r\n" + MAIL)).mails, ())

    def test_the_header_is_a_content(self) -> None:
        content = HeaderOnly(MemoryContent(MAIL))
        header = MAIL.partition(b"body")[0]
        self.assertEqual((b"".join(content.chunks(7)), content.header(5)), (header, header[:5]))
        self.assertGreaterEqual(content.size, len(header))
