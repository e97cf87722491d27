"""Groups: who gets the message, once, from whom, and in how many pieces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.channels.process import ProcessChannel
from qmailpy.config.schema import ChannelConfig, QueueConfig, RuleConfig
from qmailpy.routing.router import Router
from qmailpy.testing.memory_directory import MemoryDirectory
from qmailpy.values import Alias, Disposition, Group, Mailbox, NewMail, Notify, Recipient, Verdict
from qmailpy.wire.srs import Srs
from tests.channels.common import MESSAGE, make_config, make_job, make_parts

ALL = "all@example.org"
NOW = 1700000000.0
SECRET = b"a secret of tests"
OWNER = "owner@example.org"
CHANNELS = {
    name: ChannelConfig(name=name, kind=kind)
    for name, kind in {"tcp_local": "smtp", "local": "local", "process": "process", "conversion": "conversion"}.items()
}


def user(number: int) -> str:
    return f"u{number}@example.org"


class GroupTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.directory = MemoryDirectory(["example.org"], ["ann@example.org", "bea@example.org", OWNER])
        self.limit = 1000
        self.channel = self.make()

    def make(self) -> ProcessChannel:
        config = evolve(
            make_config(CHANNELS),
            rules=(RuleConfig(pattern=".", channel="tcp_local"),),
            queue=QueueConfig(recipients=self.limit),
        )
        parts = make_parts(config, directory=self.directory, router=Router(config, self.directory), clock=self.clock)
        parts = evolve(parts, srs_secret=SECRET, seconds=lambda: NOW)
        return ProcessChannel(config, CHANNELS["process"], parts)

    def group(self, *members: str, address: str = ALL, **more: object) -> Group:
        made = Group(address=address, members=members, **more)  # type: ignore[arg-type]
        self.directory.entries[address] = made
        return made

    def dequeue(self, *recipients: Recipient, octets: bytes = MESSAGE, **envelope: object) -> Sequence[Disposition]:
        named = recipients or (Recipient(address=ALL, original=ALL, channel="process"),)
        job = make_job(ALL, octets=octets, channel="process")
        job = evolve(
            job,
            recipients=named,
            numbers=tuple(range(len(named))),
            envelope=evolve(job.envelope, recipients=named, **envelope),  # type: ignore[arg-type]
        )
        ended = Deferred.fromCoroutine(self.channel.dequeue(job))
        while not ended.called and self.clock.getDelayedCalls():
            self.clock.advance(0)
        return self.successResultOf(ended)

    def said(self, **envelope: object) -> tuple[Verdict, str]:
        [one] = self.dequeue(**envelope)  # type: ignore[arg-type]
        return one.verdict, one.reply.enhanced

    def mails(self, **envelope: object) -> tuple[NewMail, ...]:
        [one] = self.dequeue(**envelope)  # type: ignore[arg-type]
        self.assertIs(one.verdict, Verdict.FORWARDED)
        return one.mails

    def got(self, mails: Iterable[NewMail]) -> list[tuple[str, str]]:
        return [(one.address, one.channel) for mail in mails for one in mail.envelope.recipients]

    def test_its_members_get_the_message_with_its_mark(self) -> None:
        self.group("Ann@example.org", "bea@example.org")
        [mail] = self.mails()
        self.assertEqual(self.got([mail]), [("ann@example.org", "local"), ("bea@example.org", "local")])
        self.assertEqual(mail.content.read(), b"Delivered-To: all@example.org\r\n" + MESSAGE)
        self.assertEqual(mail.envelope.sender, "bob@example.com")

    def test_groups_in_groups_are_taken_for_their_members_once(self) -> None:
        """In circles, through aliases, and whatever way leads to a member."""
        self.group("ann@example.org", "in@example.org", "also@example.org", "copies@example.org")
        self.group("ann@example.org", "bea@example.org", ALL, address="in@example.org")
        self.group("c@example.com", "bea@example.org", address="third@example.org")
        self.directory.entries["also@example.org"] = Alias(
            address="also@example.org", targets=("third@example.org", OWNER)
        )
        self.directory.entries["copies@example.org"] = Mailbox(
            address="copies@example.org", path="example.org/copies/Maildir", forwards=("in@example.org",)
        )
        found = Counter(self.got(self.mails()))
        names = ("ann@example.org", "bea@example.org", OWNER, "copies@example.org")
        self.assertEqual(found, {**{(one, "local"): 1 for one in names}, ("c@example.com", "tcp_local"): 1})

    def test_who_is_a_member_by_another_name_too_gets_it_once(self) -> None:
        """By an alias of ours, here and elsewhere."""
        for name, target in (("info", "c@example.com"), ("boss", "ann@example.org")):
            self.directory.entries[f"{name}@example.org"] = Alias(address=f"{name}@example.org", targets=(target,))
        self.group("c@example.com", "info@example.org", "boss@example.org", "ann@example.org")
        found = [address for address, _ in self.got(self.mails())]
        self.assertEqual(sorted(found), ["ann@example.org", "c@example.com"])

    def test_members_elsewhere_get_a_sender_that_leads_back(self) -> None:
        self.group("ann@example.org", "c@example.com")
        ours, others = self.mails()
        self.assertEqual((ours.envelope.sender, self.got([ours])), ("bob@example.com", [("ann@example.org", "local")]))
        self.assertEqual(self.got([others]), [("c@example.com", "tcp_local")])
        self.assertEqual(others.envelope.sender, Srs(SECRET, 21).forward("bob@example.com", "example.org", NOW))

    def test_an_owner_is_the_sender_and_the_writers_wishes_end_here(self) -> None:
        """RFC 3461 s.5.2.7.1: neither NOTIFY, ORCPT, ENVID nor RET go on."""
        self.group("ann@example.org", "c@example.com", owner=OWNER)
        asking = Recipient(address=ALL, original=ALL, channel="process", orcpt="rfc822;x@y", notify=int(Notify.SUCCESS))
        [one] = self.dequeue(asking, envid="id", ret="FULL")
        [mail] = one.mails
        self.assertEqual((mail.envelope.sender, mail.envelope.envid, mail.envelope.ret), (OWNER, "", ""))
        self.assertEqual({(to.notify, to.orcpt) for to in mail.envelope.recipients}, {(0, "")})
        self.assertEqual(len(mail.envelope.recipients), 2)

    def test_without_an_owner_the_wishes_go_on(self) -> None:
        self.group("ann@example.org")
        asking = Recipient(address=ALL, original=ALL, channel="process", orcpt="rfc822;x@y", notify=int(Notify.FAILURE))
        [one] = self.dequeue(asking, envid="id")
        [mail] = one.mails
        [to] = mail.envelope.recipients
        self.assertEqual((mail.envelope.envid, to.notify, to.orcpt), ("id", int(Notify.FAILURE), "rfc822;x@y"))

    def test_a_notice_for_a_group_stays_one(self) -> None:
        """Else the owner's notices would make notices."""
        self.group("ann@example.org", "c@example.com", owner=OWNER)
        self.assertEqual({mail.envelope.sender for mail in self.mails(sender="")}, {""})

    def test_what_has_come_round_fails(self) -> None:
        self.group("ann@example.org")
        [one] = self.dequeue(octets=b"Delivered-To: ALL@example.org\r\n" + MESSAGE)
        self.assertEqual((one.verdict, one.reply.enhanced), (Verdict.FAILED, "5.4.6"))

    def test_who_may_write_is_asked_again(self) -> None:
        self.group("ann@example.org", posters="members")
        self.assertEqual(self.said(), (Verdict.FAILED, "5.7.1"))
        self.assertEqual(self.said(sender="ann@example.org"), (Verdict.FORWARDED, "2.1.5"))
        self.assertEqual(self.said(user="ann@example.org"), (Verdict.FORWARDED, "2.1.5"))

    def test_who_wrote_by_a_login_is_not_asked_for_it_behind_a_conversion(self) -> None:
        """The login is not known there any more; it was asked for when the mail came in."""
        self.group("ann@example.org", posters="members")
        self.assertEqual(self.said(source="conversion"), (Verdict.FORWARDED, "2.1.5"))

    def test_a_group_in_a_group_is_open_to_whoever_may_write_to_that(self) -> None:
        self.group("in@example.org")
        self.group("ann@example.org", address="in@example.org", posters="listed")
        self.assertEqual(self.said(), (Verdict.FORWARDED, "2.1.5"))

    def test_members_that_are_gone_are_told_of_and_in_nobodys_way(self) -> None:
        """The local channel says so to whoever gets the notices."""
        self.directory.entries["off@example.org"] = Mailbox(
            address="off@example.org", path="example.org/off/Maildir", active=False
        )
        self.group("ann@example.org", "off@example.org", "nobody@example.org")
        self.assertEqual(
            self.got(self.mails()),
            [("ann@example.org", "local"), ("off@example.org", "local"), ("nobody@example.org", "local")],
        )

    def test_an_empty_group_fails(self) -> None:
        self.group()
        self.assertEqual(self.said(), (Verdict.FAILED, "5.2.4"))
        self.group(ALL)
        self.assertEqual(self.said(), (Verdict.FAILED, "5.2.4"))

    def test_it_waits_while_the_directory_is_away(self) -> None:
        self.group("ann@example.org")
        self.directory.away = True
        self.assertEqual(self.said(), (Verdict.DEFERRED, "4.3.0"))

    def test_a_large_group_is_done_in_parts(self) -> None:
        """Each member is in one of them, though the group changes and the process is another by then."""
        self.limit = 20
        self.directory.entries |= MemoryDirectory([], [user(number) for number in range(200)]).entries
        self.group("in@example.org", *map(user, range(150)))
        self.group(*map(user, range(100, 200)), "also@example.org", address="in@example.org")
        self.directory.entries["also@example.org"] = Alias(address="also@example.org", targets=(user(3), user(150)))
        self.channel = self.make()
        [one] = self.dequeue()
        self.assertEqual((one.verdict, one.mails), (Verdict.FORWARDED, ()))
        self.assertEqual({(to.address, to.channel) for to in one.onward}, {(ALL, "process")})
        self.assertEqual([to.host for to in one.onward], [f"{number}/14" for number in range(14)])
        found: Counter[tuple[str, str]] = Counter()
        for at, to in enumerate(one.onward):
            if at == 5:  # what was remembered is gone, and the order is another
                self.group(*map(user, reversed(range(150))), "in@example.org", user(20))
                self.channel = self.make()
            [said] = self.dequeue(to, source="process")
            mails = said.mails
            self.assertTrue(all(mail.content.read().startswith(b"Delivered-To: all@") for mail in mails))
            found.update(self.got(mails))
            self.assertLess(max(len(mail.envelope.recipients) for mail in mails), 40)
        self.assertEqual(found, {(user(number), "local"): 1 for number in range(200)})

    def test_parts_look_for_the_members_once(self) -> None:
        self.limit = 20
        self.directory.entries |= MemoryDirectory([], [user(number) for number in range(200)]).entries
        self.group(*map(user, range(200)))
        self.channel = self.make()
        [one] = self.dequeue()
        self.directory.asked.clear()
        self.dequeue(one.onward[0], source="process")
        self.assertLess(len(self.directory.asked), 100)

    def test_a_part_that_nobody_is_in_is_done(self) -> None:
        self.group("ann@example.org")
        part = Recipient(address=ALL, original=ALL, channel="process", host="0/1000")
        [one] = self.dequeue(part, source="process")
        self.assertIs(one.verdict, Verdict.DELIVERED)
