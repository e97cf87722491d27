"""What .qmail files say, done: in order, and all again when something cannot be done now."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping, Sequence

from attrs import evolve
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.channels.conversions.command import Ended
from qmailpy.channels.dotqmail import Case, DotQmail
from qmailpy.channels.programs import Limits
from qmailpy.config.schema import LocalConfig
from qmailpy.disk.files import RealFiles
from qmailpy.local.maildir import Delivery
from qmailpy.testing.memory_directory import MemoryDirectory
from qmailpy.testing.scripted_router import ScriptedRouter, local, remote, unknown_user
from qmailpy.values import Content, Disposition, Mailbox, NewMail, Notify, Refused, Reply, Verdict
from qmailpy.wire.srs import Srs
from tests.channels.common import MESSAGE, make_config, make_job, make_parts

ANN, BEA, FAR = "ann@example.org", "bea@example.org", "x@far.example"
DELIVERED = Disposition(verdict=Verdict.DELIVERED, reply=Reply(250, "2.1.5", "ok"))
SECRET = b"a secret of tests"
NOW = 1700000000.0


class Scripted:
    """Programs that end as a test says."""

    def __init__(self, test: DotQmailTests) -> None:
        self._test = test

    async def run(
        self, argv: Sequence[str], environment: Mapping[str, str], directory: str, content: Content, limits: Limits
    ) -> Ended:
        test = self._test
        test.assertEqual((argv[:2], directory, content.read()), (("/bin/sh", "-c"), test.home, MESSAGE))
        test.commands.append((argv[2], environment))
        return test.ends.get(argv[2], Ended(status=0))


class DotQmailTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = os.path.abspath(self.mktemp())
        self.home = f"{self.root}/mail/example.org/ann"
        os.makedirs(f"{self.home}/Maildir/new", 0o700)
        self.router = ScriptedRouter()
        self.router.later.update({ANN: local(ANN), BEA: local(BEA), FAR: remote(FAR)})
        self.mailbox = Mailbox(address=ANN, path="example.org/ann/Maildir", dot_qmail=True)
        self.deliveries: list[tuple[str, bool]] = []
        self.commands: list[tuple[str, Mapping[str, str]]] = []
        self.ends: dict[str, Ended] = {}
        self.clock = Clock()
        self.dots = self.make()

    def make(self, *, programs: bool = True) -> DotQmail:
        config = evolve(make_config(), home=self.root, local=LocalConfig(programs=programs))
        directory = MemoryDirectory(["example.org"], [ANN, BEA])
        parts = make_parts(config, directory=directory, router=self.router, clock=self.clock)
        parts = evolve(parts, files=RealFiles(), srs_secret=SECRET, seconds=lambda: NOW)
        return DotQmail(config, "local", parts, maybeDeferred, Scripted(self), self._deliver)

    async def _deliver(self, delivery: Delivery) -> Disposition:
        self.deliveries.append((delivery.mailbox, delivery.at_once))
        return DELIVERED

    def write(self, text: str, name: str = ".qmail") -> None:
        with open(f"{self.home}/{name}", "w") as target:
            target.write(text)

    def case(self, address: str = ANN, octets: bytes = MESSAGE, notify: int = 0) -> Case:
        job = make_job(address, octets=octets)
        recipient = evolve(job.recipients[0], notify=notify)
        delivery = Delivery(
            id=job.id,
            number=0,
            arrival=NOW,
            sender=job.envelope.sender,
            address=address,
            mailbox=self.mailbox.path,
            content=job.content,
        )
        return Case(
            job=evolve(job, recipients=(recipient,)), recipient=recipient, mailbox=self.mailbox, delivery=delivery
        )

    def done(self, case: Case | None = None) -> Disposition:
        ended = Deferred.fromCoroutine(self.dots.done(case or self.case()))
        while not ended.called and self.clock.getDelayedCalls():
            self.clock.advance(1)
        return self.successResultOf(ended)

    def said(self, case: Case | None = None) -> tuple[Verdict, str]:
        found = self.done(case)
        return found.verdict, found.reply.enhanced

    def to(self, mails: Sequence[NewMail]) -> list[tuple[str, list[str]]]:
        return [(mail.envelope.sender, [one.address for one in mail.envelope.recipients]) for mail in mails]

    def test_without_a_file_and_with_an_empty_one_mail_goes_to_the_mailbox(self) -> None:
        self.assertIs(self.done(), DELIVERED)
        self.write("")
        self.assertIs(self.done(), DELIVERED)
        self.assertEqual(self.deliveries, [("example.org/ann/Maildir", False)] * 2)

    def test_an_extension_without_a_file_is_nobody(self) -> None:
        """5.1.1, as qmail-local says; where users have folders for theirs it goes there."""
        self.assertEqual(self.said(self.case("ann+x@example.org")), (Verdict.FAILED, "5.1.1"))
        self.mailbox = evolve(self.mailbox, subfolders=True)
        self.assertIs(self.done(self.case("ann+x@example.org")), DELIVERED)

    def test_lines_are_done_in_order_and_forwards_last(self) -> None:
        self.write(f"&{BEA}\n./Maildir/\n./Mail/lists/\n|one\n{FAR}\n./mbox\n")
        found = self.done()
        self.assertEqual(found.verdict, Verdict.DELIVERED)
        self.assertEqual(self.deliveries, [("example.org/ann/Maildir", True), ("example.org/ann/Mail/lists", True)])
        self.assertEqual([command for command, _ in self.commands], ["one"])
        with open(f"{self.home}/mbox", "rb") as source:
            octets = source.read()
        wanted = b"\nReturn-Path: <bob@example.com>\nDelivered-To: ann@example.org\n" + MESSAGE.replace(b"\r\n", b"\n")
        self.assertTrue(octets.startswith(b"From bob@example.com Tue Nov 14 22:13:20 2023" + wanted), octets)
        outside = Srs(SECRET, 21).forward("bob@example.com", "example.org", NOW)
        self.assertEqual(self.to(found.mails), [("bob@example.com", [BEA]), (outside, [FAR])])
        self.assertEqual(found.mails[0].content.read(), b"Delivered-To: ann@example.org\r\n" + MESSAGE)

    def test_forwards_alone_are_a_forward(self) -> None:
        """Wishes for notices go on; with a copy kept here success is told here."""
        self.write("&bea\n# and nobody else\n")
        found = self.done(self.case(notify=int(Notify.SUCCESS)))
        self.assertIs(found.verdict, Verdict.FORWARDED)
        self.assertEqual([one.notify for one in found.mails[0].envelope.recipients], [int(Notify.SUCCESS)])
        self.write("&bea\n./Maildir/\n")
        found = self.done(self.case(notify=int(Notify.SUCCESS)))
        self.assertIs(found.verdict, Verdict.DELIVERED)
        self.assertEqual([one.notify for one in found.mails[0].envelope.recipients], [int(Notify.NEVER)])

    def test_comments_alone_throw_mail_away(self) -> None:
        self.write("# nothing\n")
        self.assertEqual(self.said(), (Verdict.DELIVERED, "2.1.5"))
        self.assertEqual(self.deliveries, [])

    def test_the_first_failure_ends_it_and_nothing_is_forwarded(self) -> None:
        for ended, verdict in (
            (Ended(status=111), Verdict.DEFERRED),
            (Ended(status=1), Verdict.DEFERRED),
            (Ended(why="killed by signal 9"), Verdict.DEFERRED),
            (Ended(status=100, said="go away"), Verdict.FAILED),
        ):
            self.ends["one"] = ended
            self.commands.clear()
            self.write(f"&{BEA}\n|one\n|two\n")
            found = self.done()
            self.assertEqual((found.verdict, found.mails), (verdict, ()))
            self.assertEqual(len(self.commands), 1)

    def test_99_leaves_out_the_rest(self) -> None:
        """Forwards before it go out all the same."""
        self.ends["one"] = Ended(status=99)
        self.write(f"&{BEA}\n|one\n|two\n&{FAR}\n")
        found = self.done()
        self.assertEqual((found.verdict, len(self.commands)), (Verdict.DELIVERED, 1))
        self.assertEqual(self.to(found.mails), [("bob@example.com", [BEA])])

    def test_nothing_is_begun_that_cannot_be_done(self) -> None:
        for text in ("./Maildir/\n&far away\n", "./Maildir/\n&@\n", "\n./Maildir/\n", "./Maildir/\n/etc/x/\n"):
            self.write(text)
            self.assertEqual(self.said(), (Verdict.DEFERRED, "4.3.5"), text)
        self.router.later[FAR] = Refused(Reply(451, "4.3.0", "away"))
        self.write(f"./Maildir/\n&{FAR}\n")
        self.assertEqual(self.said(), (Verdict.DEFERRED, "4.3.0"))
        self.assertEqual(self.deliveries, [])

    def test_programs_are_off_unless_both_say_so(self) -> None:
        self.write("./Maildir/\n|one\n")
        self.dots = self.make(programs=False)
        self.assertEqual(self.said(), (Verdict.DEFERRED, "4.3.5"))
        self.dots = self.make()
        self.mailbox = evolve(self.mailbox, features=frozenset({"forwarding"}))
        self.assertEqual(self.said(), (Verdict.DEFERRED, "4.3.5"))
        self.assertEqual((self.commands, self.deliveries), ([], []))

    def test_who_may_not_run_programs_stays_in_the_own_directory(self) -> None:
        """All mailboxes are one user's files."""
        self.dots = self.make(programs=False)
        os.symlink(self.root, f"{self.home}/out")
        for line in ("../bea/Maildir/", "/etc/passwd", "./../../x", "./out/x"):
            self.write(("./" if line[0] not in "./" else "") + line + "\n")
            self.assertEqual(self.said(), (Verdict.DEFERRED, "4.3.5"), line)
        self.mailbox = evolve(self.mailbox, features=frozenset())
        self.write(f"&{BEA}\n")
        self.assertEqual(self.said(), (Verdict.DEFERRED, "4.3.5"))

    def test_an_address_that_leads_nowhere_fails_by_itself(self) -> None:
        self.router.later[FAR] = unknown_user()
        self.write(f"./Maildir/\n&{FAR}\n")
        [mail] = self.done().mails
        self.assertEqual([(one.address, one.channel) for one in mail.envelope.recipients], [(FAR, "local")])

    def test_what_comes_round_is_a_loop(self) -> None:
        self.write(f"&{BEA}\n")
        case = self.case(octets=b"Delivered-To: Ann@example.org\r\n" + MESSAGE)
        self.assertEqual(self.said(case), (Verdict.FAILED, "5.4.6"))

    def test_an_owner_file_is_the_sender_of_forwards(self) -> None:
        """NEWSENDER; with an -owner-default file an address for each."""
        self.write(f"|one\n&{BEA}\n&{FAR}\n", ".qmail-list")
        self.write("", ".qmail-list-owner")
        case = self.case("ann+list@example.org")
        owner = "ann+list-owner@example.org"
        self.assertEqual(self.to(self.done(case).mails), [(owner, [BEA, FAR])])
        self.assertEqual((self.commands[0][1]["SENDER"], self.commands[0][1]["NEWSENDER"]), ("bob@example.com", owner))
        self.write("", ".qmail-list-owner-default")
        self.assertEqual(
            self.to(self.done(case).mails),
            [
                ("ann+list-owner-bea=example.org@example.org", [BEA]),
                ("ann+list-owner-x=far.example@example.org", [FAR]),
            ],
        )
        self.assertEqual(self.commands[1][1]["NEWSENDER"], "ann+list-owner-@example.org-@[]")

    def test_notices_keep_their_null_sender(self) -> None:
        self.write(f"&{FAR}\n")
        self.write("", ".qmail-owner")
        case = self.case()
        case = evolve(case, job=evolve(case.job, envelope=evolve(case.job.envelope, sender="")))
        self.assertEqual(self.to(self.done(case).mails), [("", [FAR])])

    def test_what_programs_know(self) -> None:
        """qmail-command(8)."""
        self.write("|one\n", ".qmail-a-default")
        self.done(self.case("ann+a-b-c@example.org"))
        [(_, found)] = self.commands
        self.assertEqual(
            {name: value for name, value in found.items() if name != "HOME"},
            {
                "SENDER": "bob@example.com",
                "NEWSENDER": "bob@example.com",
                "RECIPIENT": "ann+a-b-c@example.org",
                "USER": "ann",
                "LOGNAME": "ann",
                "SHELL": "/bin/sh",
                "LOCAL": "ann+a-b-c",
                "HOST": "example.org",
                "HOST2": "example",
                "HOST3": "",
                "HOST4": "",
                "EXT": "a-b-c",
                "EXT2": "b-c",
                "EXT3": "c",
                "EXT4": "",
                "DEFAULT": "b-c",
                "RPLINE": "Return-Path: <bob@example.com>\n",
                "DTLINE": "Delivered-To: ann+a-b-c@example.org\n",
                "UFLINE": "From bob@example.com Tue Nov 14 22:13:20 2023\n",
            },
        )

    def test_an_mbox_that_is_locked_is_waited_for_and_then_the_mail_waits(self) -> None:
        self.write("./mbox\n")
        with open(f"{self.home}/mbox", "w") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            self.assertEqual(self.said(), (Verdict.DEFERRED, "4.2.0"))
        self.assertGreaterEqual(self.clock.seconds(), 30)
        self.assertEqual(self.said(), (Verdict.DELIVERED, "2.1.5"))
