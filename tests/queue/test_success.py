"""Reports of success: who is told what, in the transaction that ends the recipient, once (RFC 3461 s.5.2)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.queue.notices import shared_mails, success
from qmailpy.records.record import Action
from qmailpy.stats.fold import balanced
from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.values import Disposition, Envelope, Job, MemoryContent, NewMail, Notify, Recipient, Reply, Verdict
from tests.queue.world import HOME, Outside, World, forks

OK = Reply(250, "2.0.0", "ok")
ASKING = Recipient(address="x@here.example", original="x@here.example", channel="local", notify=Notify.SUCCESS)
BOTH = evolve(ASKING, notify=Notify.SUCCESS | Notify.FAILURE)
PLAIN = evolve(ASKING, notify=0)


def forwarded(*onward: Recipient, mails: tuple[NewMail, ...] = ()) -> Disposition:
    return Disposition(verdict=Verdict.FORWARDED, reply=OK, onward=onward, mails=mails)


NAMES = {"b": "bob@here.example", "e": "eve@here.example"}


def mail(*to: Recipient) -> NewMail:
    envelope = Envelope(sender="s@here.example", recipients=to, source="x", arrival=0.0)
    return NewMail(envelope=envelope, content=MemoryContent(b""))


class WhoIsToldTests(SynchronousTestCase):
    """RFC 3461 s.5.2.1 to s.5.2.7, as a table."""

    def test_each_end_has_its_word(self) -> None:
        delivered = Disposition(verdict=Verdict.DELIVERED, reply=OK)
        for recipient, said, action in (
            (ASKING, delivered, "delivered"),  # s.5.2.3 (a)
            (evolve(ASKING, notify=Notify.FAILURE), delivered, ""),  # (b)
            (evolve(ASKING, notify=Notify.NEVER), delivered, ""),
            (PLAIN, delivered, ""),  # (c)
            (ASKING, evolve(delivered, relayed=True), "relayed"),  # s.5.2.2 (b)
            (ASKING, evolve(delivered, told_there=True), ""),  # s.5.2.1
            (ASKING, evolve(delivered, verdict=Verdict.DEFERRED), ""),
            (ASKING, evolve(delivered, verdict=Verdict.FAILED), ""),
            (ASKING, forwarded(ASKING), ""),  # s.5.2.7.2
            (ASKING, forwarded(ASKING, PLAIN), ""),  # s.5.2.7.3 (b)
            (ASKING, forwarded(ASKING, ASKING), "expanded"),  # (c)
            (ASKING, forwarded(ASKING, mails=(mail(ASKING),)), "expanded"),
            (ASKING, forwarded(mails=(mail(PLAIN, PLAIN),)), "delivered"),  # s.5.2.7.1
            (ASKING, forwarded(mails=(mail(ASKING),)), ""),
        ):
            self.assertEqual(success(recipient, said)[0], action, (recipient, said))

    def test_those_an_address_was_expanded_to_do_not_ask_again(self) -> None:
        """SUCCESS goes, and where nothing else was asked for NEVER takes its place."""
        _, said = success(BOTH, forwarded(ASKING, BOTH, PLAIN, mails=(mail(BOTH),)))
        self.assertEqual([one.notify for one in said.onward], [Notify.NEVER, Notify.FAILURE, 0])
        self.assertEqual([one.notify for one in said.mails[0].envelope.recipients], [Notify.FAILURE])

    def test_a_mail_that_several_share_stays_one(self) -> None:
        """Each has its own recipient in it, and its request goes on with that."""
        both = mail(ASKING, evolve(ASKING, address="y@here.example"))
        said = forwarded(mails=(both,))
        action, after = success(ASKING, said, shared_mails([said, said]))
        self.assertEqual(action, "")
        self.assertIs(after.mails[0], both)
        self.assertEqual(success(ASKING, said, shared_mails([said]))[0], "expanded")


class Ways(Outside):
    """
    C{dsn@} takes DSN, C{alias@} is Bob and Eve, C{list@} a list, the others are relayed to; C{b@} and C{e@} are Bob and
    Eve by a mail they share.
    """

    async def dequeue(self, job: Job) -> Sequence[Disposition]:
        found = list(await super().dequeue(job))
        shares = [one for one in job.recipients if one.address[:2] in ("b@", "e@")]
        if shares:
            to = tuple([evolve(one, address=NAMES[one.address[0]], channel="local", host="") for one in shares])
            both = NewMail(envelope=evolve(job.envelope, recipients=to), content=job.content)
            for at, one in enumerate(job.recipients):
                if one in shares:
                    found[at] = forwarded(mails=(both,))
        return found

    def _one(self, job: Job, recipient: Recipient) -> Disposition:
        user = recipient.address.partition("@")[0]
        bob = evolve(recipient, address="bob@here.example", channel="local", host="")
        eve = evolve(bob, address="eve@here.example")
        if user == "alias":
            return forwarded(bob, eve)
        if user == "one":
            return forwarded(bob)
        if user == "list":
            envelope = evolve(job.envelope, sender="eve@here.example", recipients=(evolve(bob, notify=0),))
            return forwarded(mails=(NewMail(envelope=envelope, content=job.content),))
        said = super()._one(job, recipient)
        if said.verdict is Verdict.DELIVERED:
            said = evolve(said, relayed=user != "dsn", told_there=user == "dsn")
        return said


class SuccessTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]))
        self.world.outside = Ways()
        self.world.up()

    def told(self, world: World | None = None) -> list[bytes]:
        """What stands in the reports, without the queue ids."""
        boxed = (world or self.world).mailbox("ann")
        return sorted(octets.split(b": ")[2].strip() for octets in boxed if octets.startswith(b"success: "))

    def send(self, *to: str, notify: int = Notify.SUCCESS, sender: str = "ann@here.example") -> None:
        self.world.send(*to, notify=notify, sender=sender)

    def test_delivery_into_a_mailbox_is_told_of_with_its_mark(self) -> None:
        """One transaction: the E line of the report, then the D line; and the books hold."""
        self.send("bob@here.example")
        self.assertEqual(self.told(), [b"bob@here.example delivered"])
        self.assertEqual(self.world.actions(), "EEDD")
        first, second = [record for record in self.world.log() if record.action is Action.ENQUEUED]
        self.assertEqual((second.sender, first.sender), ("", "ann@here.example"))
        log, counters = self.world.books()
        self.assertEqual(log, counters)
        self.assertTrue(all(balanced(row) for row in counters.values()))

    def test_nothing_is_told_that_was_not_asked_for(self) -> None:
        self.send("bob@here.example", "ok@out.example", notify=0)
        self.send("bob@here.example", "ok@out.example", notify=Notify.NEVER)
        self.send("bob@here.example", "ok@out.example", notify=Notify.FAILURE | Notify.DELAY)
        self.assertEqual(self.told(), [])

    def test_nobody_is_told_of_what_came_from_nobody(self) -> None:
        """RFC 3461 s.5.2."""
        self.send("bob@here.example", "ok@out.example", sender="")
        self.assertEqual(self.told(), [])
        self.assertEqual(sorted(self.world.actions()), ["D", "D", "E", "E"])

    def test_recipients_of_one_attempt_are_in_one_report(self) -> None:
        self.send("bob@here.example", "eve@here.example")
        self.assertEqual(self.told(), [b"bob@here.example delivered,eve@here.example delivered"])

    def test_a_peer_without_dsn_is_relayed_to_and_one_with_it_tells_itself(self) -> None:
        self.send("ok@out.example", "dsn@out.example")
        self.assertEqual(self.told(), [b"ok@out.example relayed"])

    def test_success_is_told_when_it_comes(self) -> None:
        self.send("later@out.example")
        self.assertEqual(self.told(), [])
        self.world.wait(4000)
        self.assertEqual(self.told(), [b"later@out.example relayed"])

    def test_an_alias_of_several_is_expanded_and_they_say_no_more(self) -> None:
        self.send("alias@out.example")
        self.assertEqual(self.told(), [b"alias@out.example expanded"])
        self.assertEqual((len(self.world.mailbox("bob")), len(self.world.mailbox("eve"))), (1, 1))

    def test_an_alias_of_one_has_the_end_told(self) -> None:
        self.send("one@out.example")
        self.assertEqual(self.told(), [b"bob@here.example delivered"])

    def test_two_that_go_on_in_one_mail_get_it_once(self) -> None:
        """Whoever sent it; each of them is told of at its end."""
        self.send("b@out.example", "e@out.example")
        self.assertEqual(self.told(), [b"bob@here.example delivered,eve@here.example delivered"])
        self.send("b@out.example", "e@out.example", sender="")
        self.assertEqual((len(self.world.mailbox("bob")), len(self.world.mailbox("eve"))), (2, 2))

    def test_mail_for_a_list_has_arrived_when_the_list_has_it(self) -> None:
        self.send("list@out.example")
        self.assertEqual(self.told(), [b"list@out.example delivered"])

    def test_failure_with_notify_never_or_success_alone_is_told_to_nobody(self) -> None:
        """A K line instead of R (RFC 3461 s.5.2.6 (b))."""
        for notify in (Notify.NEVER, Notify.SUCCESS, Notify.DELAY):
            self.send("bad@out.example", notify=notify)
        self.assertEqual(self.world.mailbox("ann"), [])
        self.assertEqual(self.world.actions(), "EKEKEK")

    def test_a_message_that_cannot_be_read_again_is_told_of_all_the_same(self) -> None:
        """Without its header; the delivery stands whatever becomes of the report."""
        self.world.broken_notices = 1
        self.send("bob@here.example")
        self.assertEqual(self.told(), [b"bob@here.example delivered"])
        self.world.broken_notices = 2
        self.send("bob@here.example")
        self.assertEqual(len(self.told()), 1)
        self.assertEqual(len(self.world.mailbox("bob")), 2)
        self.assertEqual(self.world.stored(), {})
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 3)

    def survive(self, revive: Callable[[World, int], World]) -> None:
        """Power fails before each step: in the end each recipient was told of once, and none that was not accepted."""

        def send(world: World) -> None:
            world.send("bob@here.example", "ok@out.example", "alias@out.example", notify=Notify.SUCCESS)
            world.settle()
            world.wait(60)

        world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]))
        world.outside = Ways()
        world.up()
        dying = [*forks(world, send), (0, world)]
        self.assertGreater(len(dying), 10)
        for die_at, each in dying:
            after = revive(each, die_at)
            after.up()
            after.wait(4000)
            told = [one for each in self.told(after) for one in each.split(b",")]
            wanted = [b"alias@out.example expanded", b"bob@here.example delivered", b"ok@out.example relayed"]
            if after.accepted or told:
                self.assertEqual(sorted(told), wanted, die_at)
            log, counters = after.books()
            self.assertEqual(log, counters, die_at)
            self.assertEqual(after.stored(), {}, die_at)

    def test_each_is_told_of_once_however_the_power_fails(self) -> None:
        self.survive(lambda world, die_at: world.crash("none"))
        self.survive(lambda world, die_at: world.crash("all"))
        self.survive(lambda world, die_at: world.crash(random.Random(die_at)))

    def test_each_is_told_of_once_when_the_process_is_killed(self) -> None:
        self.survive(lambda world, die_at: world.crash(killed=True))
