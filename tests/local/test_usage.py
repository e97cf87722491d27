"""Who has room: at RCPT, at delivery, and when a user is warned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, maybeDeferred
from zope.interface.verify import verifyObject

from qmailpy.config.schema import Config, LocalConfig, ServerConfig
from qmailpy.disk.files import RealFiles
from qmailpy.interfaces import IRoom
from qmailpy.local.quota import Amount
from qmailpy.local.usage import FRESH_S, Quota, Usage
from qmailpy.values import Domain, Mailbox, Reply, Room
from tests.local.test_quota import QuotaTestCase

ANN = Mailbox(address="ann@example.org", path="example.org/ann/Maildir", quota_octets=1000)
DOMAIN = Domain(name="example.org")


class UsageTests(QuotaTestCase):
    def setUp(self) -> None:
        super().setUp()
        mail = self.domain.parent / "mail"
        mail.mkdir()
        self.domain.rename(mail / "example.org")
        self.domain = mail / "example.org"
        self.maildir = self.domain / "ann" / "Maildir"
        self.config = Config(home=str(mail.parent), server=ServerConfig(hostname="mx.example.org"))
        self.clock = 100.0
        self.waiting: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        self.usage = Usage(RealFiles(), self.config, maybeDeferred, lambda: self.late, lambda: self.clock)

    def room(self, size: int = 0, mailbox: Mailbox = ANN, domain: Domain = DOMAIN) -> str:
        found = self.successResultOf(Deferred.fromCoroutine(self.usage.room(mailbox, domain, size)))
        return self.said(found.refusal)

    def said(self, reply: Reply | None) -> str:
        return f"{reply.code} {reply.enhanced}" if reply is not None else "ok"

    def quota(self, mailbox: Mailbox = ANN, domain: Domain = DOMAIN) -> Quota:
        found = self.usage.quota(mailbox, domain)
        assert found is not None
        return found

    def deliver(self, octets: int, mailbox: Mailbox = ANN, domain: Domain = DOMAIN) -> int | None:
        """The percentage its user is told of, if."""
        self.put(f"{octets}.{self.clock}.{len(list(self.maildir.rglob('*')))},S={octets}", 0)
        filling = self.usage.thd_delivered(self.quota(mailbox, domain), octets)
        return None if filling is None else int(100 * filling.limit.share(filling.amount))

    def test_it_tells_of_room(self) -> None:
        self.assertTrue(verifyObject(IRoom, self.usage))

    def test_who_has_no_quota_costs_nothing(self) -> None:
        plain = evolve(ANN, quota_octets=0, path="nowhere")
        self.assertIsNone(self.usage.quota(plain, DOMAIN))
        self.assertEqual(self.usage.room_now(plain, DOMAIN, 10**9), Room())
        self.assertEqual(self.room(10**9, plain), "ok")

    def test_a_message_must_fit(self) -> None:
        self.put("1.a,S=600", 1)
        for size, said in ((0, "ok"), (400, "ok"), (401, "452 4.2.2"), (1000, "452 4.2.2"), (1001, "552 5.2.3")):
            self.assertEqual(self.room(size), said, size)

    def test_the_number_of_messages_counts_too(self) -> None:
        self.put("1.a,S=6", 1)
        self.assertEqual(self.room(5, evolve(ANN, quota_messages=1)), "452 4.2.2")
        self.assertEqual(self.room(5, evolve(ANN, quota_octets=0, quota_messages=2)), "ok")

    def test_figures_are_at_hand_for_some_seconds(self) -> None:
        self.assertIsNone(self.usage.room_now(ANN, DOMAIN, 5))
        self.room(5)
        self.assertEqual(self.usage.room_now(ANN, DOMAIN, 5), Room())
        self.assertIsNone(self.usage.room_now(ANN, DOMAIN, 1000 + 1), "it is certain before it is refused")
        self.deliver(900)
        self.assertIsNone(self.usage.room_now(ANN, DOMAIN, 200), "our own deliveries count at once")
        self.clock += FRESH_S
        self.assertIsNone(self.usage.room_now(ANN, DOMAIN, 5))

    def test_a_mailbox_that_stays_full_says_so_in_the_end(self) -> None:
        """4.2.2 first, 5.2.2 after the configured time; a delivery in between begins anew."""
        self.usage.reconfigure(evolve(self.config, local=LocalConfig(over_quota_s=3600)))
        self.put("1.a,S=990", 1)
        self.assertEqual(self.room(100), "452 4.2.2")
        self.late += 3599
        self.assertEqual(self.room(100), "452 4.2.2")
        self.late += 2
        self.assertEqual(self.room(100), "552 5.2.2")
        self.deliver(5)
        self.assertEqual(self.room(100), "452 4.2.2")
        self.late += 3601
        self.usage.thd_doubtful(self.quota())  # nobody knows whether this one is new, but it was delivered
        self.assertEqual(self.room(100), "452 4.2.2")

    def test_it_may_say_so_at_once(self) -> None:
        self.usage.reconfigure(evolve(self.config, local=LocalConfig(over_quota_s=0)))
        self.put("1.a,S=990", 1)
        self.assertEqual(self.room(100), "552 5.2.2")

    def test_a_user_is_warned_once_each_time_the_mark_is_passed(self) -> None:
        self.assertEqual(
            [self.deliver(850), self.deliver(60), self.deliver(10), self.deliver(10)], [None, 91, None, None]
        )
        (self.maildir / "maildirsize").unlink()
        for path in (self.maildir / "new").iterdir():
            path.unlink()
        self.assertEqual([self.deliver(850), self.deliver(60)], [None, None], "not clearly below: warned already")
        (self.maildir / "maildirsize").unlink()
        for path in (self.maildir / "new").iterdir():
            path.unlink()
        self.assertEqual([self.deliver(500), self.deliver(450)], [None, 95])

    def test_nobody_is_warned_where_that_is_off(self) -> None:
        self.usage.reconfigure(evolve(self.config, local=LocalConfig(quota_warn=0)))
        self.assertIsNone(self.deliver(950))

    def test_a_domain_may_be_full(self) -> None:
        """Counted in the background; nothing is refused before that is done."""
        plain, domain = evolve(ANN, quota_octets=0), evolve(DOMAIN, quota_octets=2000)
        self.put("1.a,S=1900", 1)
        self.assertEqual(self.room(500, plain, domain), "ok")
        self.assertEqual(self.room(500, plain, domain), "452 4.2.2")
        self.assertEqual(self.room(50, plain, domain), "ok")
        self.deliver(60, plain, domain)
        self.assertEqual(self.room(50, plain, domain), "452 4.2.2")

    def test_mail_that_others_remove_from_a_domain_makes_room(self) -> None:
        """With the count that the first refusal starts."""
        plain, domain = evolve(ANN, quota_octets=0), evolve(DOMAIN, quota_octets=2000)
        self.put("1.a,S=1900", 1)
        self.room(0, plain, domain)
        self.usage.thd_delivered(self.quota(plain, domain), 150)
        self.remove("1.a,S=1900")
        self.assertEqual(self.room(50, plain, domain), "452 4.2.2")
        self.assertEqual(self.room(50, plain, domain), "ok")

    def test_a_figure_that_cannot_be_found_out_refuses_nothing(self) -> None:
        class Broken(RealFiles):
            def scan(self, path: str) -> Any:
                raise OSError(5, "bad disk", path)

        self.usage = Usage(Broken(), self.config, maybeDeferred, lambda: self.late, lambda: self.clock)
        self.assertEqual(self.room(5), "ok")

    def test_a_mailbox_outside_of_the_store_has_none(self) -> None:
        self.assertIsNone(self.usage.quota(evolve(ANN, path="../../etc"), DOMAIN))

    def test_the_first_message_of_a_mailbox_counts(self) -> None:
        bob = evolve(ANN, address="bob@example.org", path="example.org/bob/Maildir")
        self.assertEqual(self.room(1000, bob), "ok")
        maildir = self.domain / "bob" / "Maildir"
        for part in ("new", "cur"):
            (maildir / part).mkdir(parents=True)
        (maildir / "new" / "1.a,S=700").write_bytes(b"")
        self.assertIsNone(self.usage.thd_delivered(self.quota(bob), 700))
        self.assertEqual(self.usage._known[str(maildir)][0], Amount(700, 1))
        self.assertEqual(self.room(400, bob), "452 4.2.2")
