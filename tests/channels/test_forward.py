"""Mail that addresses of ours pass on to somebody elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.channels.forward import Marked
from qmailpy.channels.process import ProcessChannel
from qmailpy.config.schema import ChannelConfig, Config, ForwardConfig
from qmailpy.testing.memory_directory import MemoryDirectory
from qmailpy.testing.scripted_router import ScriptedRouter, remote
from qmailpy.values import Disposition, Job, MemoryContent, NewMail, Recipient, Verdict
from qmailpy.wire.srs import Srs
from tests.channels.common import MESSAGE, make_config, make_job, make_parts

NOW = 1700000000.0
SECRET = b"a secret of tests"


def to(address: str, original: str) -> Recipient:
    return Recipient(address=address, original=original, channel="process")


class ForwardTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = MemoryDirectory(["example.org", "other.example"], ["joe@example.org"])
        self.router = ScriptedRouter()
        for name in ("x", "y", "z"):
            self.router.later[f"{name}@far.example"] = remote(f"{name}@far.example")
        self.channel = self.make(make_config())

    def make(self, config: Config, secret: bytes = SECRET) -> ProcessChannel:
        parts = make_parts(config, directory=self.directory, router=self.router)
        parts = evolve(parts, srs_secret=secret, seconds=lambda: NOW)
        return ProcessChannel(config, ChannelConfig(name="process", kind="process"), parts)

    def dequeue(
        self, *recipients: Recipient, sender: str = "bob@example.com", octets: bytes = MESSAGE
    ) -> Sequence[Disposition]:
        job = make_job("x@y", octets=octets, channel="process")
        job = evolve(
            job,
            envelope=evolve(job.envelope, sender=sender),
            recipients=recipients,
            numbers=tuple(range(len(recipients))),
        )
        return self.run_job(job)

    def run_job(self, job: Job) -> Sequence[Disposition]:
        return self.successResultOf(Deferred.fromCoroutine(self.channel.dequeue(job)))

    def mail(self, *recipients: Recipient, sender: str = "bob@example.com") -> NewMail:
        found = self.dequeue(*recipients, sender=sender)
        self.assertEqual({one.verdict for one in found}, {Verdict.FORWARDED})
        [mail] = {id(one.mails[0]): one.mails[0] for one in found}.values()
        return mail

    def test_it_gets_a_sender_of_ours_and_a_mark(self) -> None:
        mail = self.mail(to("x@far.example", "info@example.org"))
        self.assertEqual(mail.envelope.sender, Srs(SECRET, 21).forward("bob@example.com", "example.org", NOW))
        self.assertEqual(mail.content.read(), b"Delivered-To: info@example.org\r\n" + MESSAGE)
        [recipient] = mail.envelope.recipients
        self.assertEqual((recipient.address, recipient.channel), ("x@far.example", "tcp_local"))
        self.assertEqual(recipient.original, "info@example.org")

    def test_many_targets_of_one_address_are_one_message(self) -> None:
        mail = self.mail(*(to(f"{name}@far.example", "info@example.org") for name in "xyz"))
        self.assertEqual([one.address for one in mail.envelope.recipients], [f"{n}@far.example" for n in "xyz"])

    def test_targets_of_two_addresses_are_two(self) -> None:
        found = self.dequeue(to("x@far.example", "info@example.org"), to("y@far.example", "all@other.example"))
        self.assertEqual(
            [one.mails[0].envelope.sender.rpartition("@")[2] for one in found], ["example.org", "other.example"]
        )

    def test_senders_of_ours_and_notices_keep_theirs(self) -> None:
        for sender in ("joe@example.org", "joe@EXAMPLE.org", "joe@other.example", ""):
            self.assertEqual(self.mail(to("x@far.example", "info@example.org"), sender=sender).envelope.sender, sender)

    def test_a_domain_for_them_may_be_set_and_all_of_it_be_off(self) -> None:
        forward = to("x@far.example", "info@example.org")
        self.channel.reconfigure(evolve(make_config(), forward=ForwardConfig(domain="bounces.example")))
        self.assertTrue(self.mail(forward).envelope.sender.endswith("=example.com=bob@bounces.example"))
        self.channel.reconfigure(evolve(make_config(), forward=ForwardConfig(srs=False)))
        self.assertEqual(self.mail(forward).envelope.sender, "bob@example.com")
        self.channel = self.make(make_config(), secret=b"")
        self.assertEqual(self.mail(forward).envelope.sender, "bob@example.com")

    def test_what_comes_round_again_is_a_loop(self) -> None:
        """5.4.6: this address has passed it on before."""
        octets = b"Received: x\r\nDelivered-To: INFO@example.org\r\n\r\nbody\r\n"
        [one, other] = self.dequeue(
            to("x@far.example", "info@example.org"), to("y@far.example", "all@example.org"), octets=octets
        )
        self.assertEqual((one.verdict, one.reply.enhanced), (Verdict.FAILED, "5.4.6"))
        self.assertEqual(other.verdict, Verdict.FORWARDED)

    def test_who_was_named_or_rewritten_by_a_rule_is_no_forward(self) -> None:
        for recipient in (to("x@far.example", "x@far.example"), to("x@far.example", "x@old.example")):
            [found] = self.dequeue(recipient)
            self.assertEqual(([one.address for one in found.onward], found.mails), (["x@far.example"], ()))

    def test_a_directory_that_is_away_makes_it_wait(self) -> None:
        self.directory.away = True
        [found] = self.dequeue(to("x@far.example", "info@example.org"))
        self.assertEqual((found.verdict, found.reply.enhanced), (Verdict.DEFERRED, "4.3.0"))


class MarkedTests(SynchronousTestCase):
    def test_it_is_the_content_with_a_field_in_front(self) -> None:
        marked = Marked(b"A: b\r\n", MemoryContent(MESSAGE))
        whole = b"A: b\r\n" + MESSAGE
        self.assertEqual((marked.read(), b"".join(marked.chunks(5)), marked.size), (whole, whole, len(whole)))
        self.assertEqual(marked.header(), whole[: whole.index(b"\r\n\r\n") + 4])
        self.assertEqual(marked.header(10), whole[:10])
        self.assertTrue(marked.in_memory)
