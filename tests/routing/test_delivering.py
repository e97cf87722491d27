"""What becomes of addresses of ours: groups, nodes, subaddresses, forwards, accounts that are disabled or full."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from qmailpy.config.schema import ChannelConfig, ForwardConfig, LocalConfig, ServerConfig
from qmailpy.directory.cache import CachedDirectory
from qmailpy.interfaces import IRoom
from qmailpy.routing.router import Router
from qmailpy.values import Alias, Domain, Group, Mailbox, Posting, Refused, Reply, Room, Routed, RouteResult
from qmailpy.wire.srs import Srs
from tests.routing.test_router import _CONFIG, RouterTestCase

NOW = 1700000000.0
SECRET = b"a secret of tests"
CONFIG = evolve(
    _CONFIG,
    server=ServerConfig(hostname="mx1.mail.example.org", names=("store1.example.org", "192.0.2.7:24")),
    channels={**_CONFIG.channels, "tcp_lmtp": ChannelConfig(name="tcp_lmtp", kind="lmtp", port=24)},
)
FULL = Reply(452, "4.2.2", "full")


@implementer(IRoom)
class Full:
    """Mailboxes named here have no room."""

    def __init__(self, *full: str) -> None:
        self.full = set(full)
        self.known = True
        self.asked: list[tuple[str, int]] = []

    def room_now(self, mailbox: Mailbox, domain: Domain, size_octets: int) -> Room | None:
        return self._room(mailbox, size_octets) if self.known else None

    async def room(self, mailbox: Mailbox, domain: Domain, size_octets: int) -> Room:
        return self._room(mailbox, size_octets)

    def _room(self, mailbox: Mailbox, size_octets: int) -> Room:
        self.asked.append((mailbox.address, size_octets))
        return Room(FULL if mailbox.address in self.full else None)


class DeliveringTestCase(RouterTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.room = Full("full@example.org")
        self.use(CONFIG)
        for entry in (
            Mailbox(address="full@example.org", path="x", quota_octets=1000),
            Mailbox(address="half@example.org", path="x", quota_octets=1000, forwards=("x@remote.example",)),
            Mailbox(address="small@example.org", path="x", size_octets=5000),
            Mailbox(address="tags@example.org", path="x", subfolders=True),
            Mailbox(address="far@example.org", path="x", host="Store2.example.org", forwards=("x@remote.example",)),
            Mailbox(address="port@example.org", path="x", host="store2.example.org:2400", subfolders=True),
            Mailbox(address="here@example.org", path="x", host="STORE1.example.org:24"),
            Mailbox(address="here2@example.org", path="x", host="192.0.2.7:24"),
            Mailbox(address="nopop@example.org", path="x", status="nopop"),
            Mailbox(address="noaccess@example.org", path="x", status="noaccess"),
            Alias(address="team@example.org", targets=("joe@example.org", "full@example.org")),
            Alias(address="fulls@example.org", targets=("full@example.org",)),
            Alias(address="shutted@example.org", targets=("joe@example.org", "shut@example.org")),
            Group(address="all@example.org", members=("joe@example.org", "ann@example.org")),
            Group(
                address="club@example.org",
                members=("joe@example.org", "inner@example.org", "Guest@remote.example"),
                posters="members",
                listed=("Boss@remote.example",),
            ),
            Group(address="inner@example.org", members=("ann@example.org", "club@example.org")),
            Group(address="house@example.org", members=("joe@example.org",), posters="domain"),
            Group(
                address="news@example.org", members=("joe@example.org",), posters="listed", listed=("ann@example.org",)
            ),
        ):
            self.directory.entries[entry.address] = entry
        self.directory.domains["stored.example"] = Domain(name="stored.example", host="store3.example.org")
        self.directory.entries["u@stored.example"] = Mailbox(address="u@stored.example", path="x")

    def use(self, config: object, room: IRoom | None = None) -> None:
        self.router = Router(
            config,  # type: ignore[arg-type]
            self.directory,
            room=room or self.room,
            srs_secret=SECRET,
            seconds=lambda: NOW,
        )

    def posted(self, address: str, sender: str = "a@remote.example", **more: object) -> RouteResult:
        about = Posting(sender=sender, **more)  # type: ignore[arg-type]
        return self.successResultOf(Deferred.fromCoroutine(self.router.route(address, "tcp_local", about)))

    def said(self, address: str, sender: str = "a@remote.example", **more: object) -> str:
        found = self.posted(address, sender, **more)
        return f"{found.reply.code} {found.reply.enhanced}" if isinstance(found, Refused) else "ok"


class AccountTests(DeliveringTestCase):
    def test_who_may_not_fetch_mail_still_gets_it(self) -> None:
        self.goes("nopop@example.org", "nopop@example.org local")
        self.goes("noaccess@example.org", "noaccess@example.org local")

    def test_a_disabled_account_may_make_mail_wait(self) -> None:
        """As configured: 5.2.1 or 4.2.1; a list with one disabled member is no matter of the others."""
        self.use(evolve(CONFIG, local=LocalConfig(disabled="defer")))
        self.refused("shut@example.org", "450 4.2.1")
        self.refused("joe@off.example", "450 4.2.1")
        self.goes("shutted@example.org", "joe@example.org local", "shut@example.org local")

    def test_a_subaddress_is_kept_for_those_who_want_it(self) -> None:
        self.goes("tags+Lists.a@example.org", "tags+Lists.a@example.org local")
        self.goes("tags@example.org", "tags@example.org local")
        self.goes("tags+@example.org", "tags@example.org local")
        self.goes("joe+x@example.org", "joe@example.org local")


class RoomTests(DeliveringTestCase):
    def test_a_full_mailbox_is_refused_before_the_message_comes(self) -> None:
        self.assertEqual(self.said("full@example.org", size_octets=5), "452 4.2.2")
        self.assertEqual(self.room.asked, [("full@example.org", 5)])
        self.assertEqual(self.said("fulls@example.org"), "452 4.2.2")

    def test_a_full_member_does_not_stand_in_the_way_of_the_others(self) -> None:
        found = self.posted("team@example.org")
        assert isinstance(found, Routed)
        self.assertEqual([one.address for one in found.recipients], ["joe@example.org", "full@example.org"])

    def test_a_copy_elsewhere_does_not_make_a_full_mailbox_acceptable(self) -> None:
        """Half of it would be bounced."""
        self.room.full.add("half@example.org")
        self.assertEqual(self.said("half@example.org"), "452 4.2.2")

    def test_a_message_larger_than_a_mailbox_takes_is_refused(self) -> None:
        self.assertEqual(self.said("small@example.org", size_octets=5001), "552 5.3.4")
        self.assertEqual(self.said("small@example.org", size_octets=5000), "ok")
        self.assertEqual(self.said("small@example.org"), "ok")

    def test_who_minds_the_size_is_told(self) -> None:
        for address, sized in (
            ("small@example.org", True),
            ("half@example.org", True),
            ("team@example.org", True),
            ("joe@example.org", False),
        ):
            found = self.posted(address)
            assert isinstance(found, Routed)
            self.assertEqual(found.sized, sized, address)

    def test_mail_that_was_accepted_before_is_not_asked(self) -> None:
        self.goes("full@example.org", "full@example.org local")
        self.assertEqual(self.room.asked, [])

    def test_who_has_no_quota_is_not_asked_about(self) -> None:
        self.posted("joe@example.org", size_octets=10**9)
        self.assertEqual(self.room.asked, [])

    def test_a_domain_s_quota_is_asked_for_its_own_mailboxes(self) -> None:
        self.directory.domains["example.org"] = Domain(name="example.org", quota_octets=10**6)
        self.posted("joe@example.org", size_octets=7)
        self.assertEqual(self.room.asked, [("joe@example.org", 7)])

    def test_what_is_not_known_at_once_is_asked_for(self) -> None:
        cache = CachedDirectory(Clock(), self.directory, 60, 10, 1000)
        router = Router(CONFIG, cache, room=self.room)
        about = Posting(sender="a@remote.example")
        self.room.known = False
        self.successResultOf(Deferred.fromCoroutine(router.route("full@example.org", "tcp_local", about)))
        self.assertIsNone(router.route_now("full@example.org", "tcp_local", about))
        self.room.known = True
        self.assertEqual(router.route_now("full@example.org", "tcp_local", about), Refused(FULL, "local"))


class GroupTests(DeliveringTestCase):
    def test_a_group_goes_to_the_process_channel(self) -> None:
        self.assertTrue(self.goes("all@example.org", "all@example.org process").local)
        self.assertEqual(self.said("all@example.org", ""), "ok")

    def test_members_may_write_wherever_they_are_members(self) -> None:
        """By their main address, another of theirs, or as members of a group within."""
        for sender in ("joe@example.org", "J.Doe@example.org", "ann@example.org", "guest@remote.example"):
            self.assertEqual(self.said("club@example.org", sender), "ok", sender)
        self.assertEqual(self.said("club@example.org", "x@remote.example", user="joe@example.org"), "ok")
        self.assertEqual(self.said("club@example.org", "boss@remote.example"), "ok")

    def test_others_may_not(self) -> None:
        for sender in ("", "x@remote.example", "nopop@example.org", "club@remote.example"):
            found = self.posted("club@example.org", sender)
            self.assertEqual(found, Refused(Reply(550, "5.7.1", "Only members may write to this group"), "process"))

    def test_a_domain_or_chosen_people_may_write(self) -> None:
        self.assertEqual(self.said("house@example.org", "nopop@EXAMPLE.org"), "ok")
        self.assertEqual(self.said("house@example.org", "x@remote.example"), "550 5.7.1")
        self.assertEqual(self.said("house@example.org", "x@sub.example.org"), "550 5.7.1")
        self.assertEqual(self.said("news@example.org", "ann@example.org"), "ok")
        self.assertEqual(self.said("news@example.org", "joe@example.org"), "550 5.7.1")

    def test_mail_that_was_accepted_before_is_not_asked(self) -> None:
        self.goes("club@example.org", "club@example.org process")


class NodeTests(DeliveringTestCase):
    """D4: a user's mail goes to the node that stores it."""

    def test_a_mailbox_of_another_node_goes_there(self) -> None:
        """By LMTP, without a look at MX records; its forwards are that node's business."""
        result = self.goes("far@example.org", "far@example.org tcp_lmtp [Store2.example.org]")
        self.assertTrue(result.local)
        self.goes("port+x@example.org", "port+x@example.org tcp_lmtp store2.example.org:2400")
        self.goes("u@stored.example", "u@stored.example tcp_lmtp [store3.example.org]")

    def test_a_mailbox_of_this_node_is_local_under_any_of_its_names(self) -> None:
        self.goes("here@example.org", "here@example.org local")
        self.goes("here2@example.org", "here2@example.org local")

    def test_what_another_node_has_handed_on_is_not_handed_on(self) -> None:
        self.assertEqual(self.said("far@example.org", handed_on=True), "451 4.3.5")
        self.assertEqual(self.said("here@example.org", handed_on=True), "ok")

    def test_without_the_channel_mail_waits(self) -> None:
        self.use(evolve(CONFIG, server=evolve(CONFIG.server, store_channel="tcp_local")))
        self.refused("far@example.org", "451 4.3.5")
        self.use(evolve(CONFIG, server=evolve(CONFIG.server, store_channel="nothing")))
        self.refused("far@example.org", "451 4.3.5")


class BounceTests(DeliveringTestCase):
    """Bounces of mail that was forwarded."""

    def test_a_sender_that_we_have_made_leads_back(self) -> None:
        made = Srs(SECRET, 21).forward("Ann@remote.example", "example.org", NOW)
        self.assertTrue(self.goes(made, "Ann@remote.example process").local)

    def test_one_that_we_have_not_is_nobody(self) -> None:
        """Never an open relay: another secret, another name, too old."""
        good = Srs(SECRET, 21).forward("ann@remote.example", "example.org", NOW)
        old = Srs(SECRET, 21).forward("ann@remote.example", "example.org", NOW - 30 * 86400)
        other = Srs(b"another", 21).forward("ann@remote.example", "example.org", NOW)
        for address in (good.replace("ann", "eve"), old, other, "SRS0=a=b=remote.example=x@example.org"):
            self.refused(address, "550 5.1.1")
        self.assertIsInstance(self.posted(other), Refused)

    def test_elsewhere_it_is_an_address_like_any_other(self) -> None:
        made = Srs(SECRET, 21).forward("ann@far.example", "remote.example", NOW)
        self.assertFalse(self.goes(made, f"{made} tcp_local remote.example").local)

    def test_a_domain_for_such_senders_alone_need_not_be_in_the_directory(self) -> None:
        self.use(evolve(CONFIG, forward=ForwardConfig(domain="Bounces.example")))
        made = Srs(SECRET, 21).forward("ann@remote.example", "bounces.example", NOW)
        self.assertTrue(self.goes(made, "ann@remote.example process").local)
        self.refused("ann@bounces.example", "550 5.1.1")

    def test_without_a_secret_there_are_none(self) -> None:
        self.router = Router(CONFIG, self.directory)
        self.refused(Srs(b"", 21).forward("ann@remote.example", "example.org", NOW), "550 5.1.1")


class ChannelLimitTests(DeliveringTestCase):
    """blocklimit and expandlimit."""

    def limited(self, reprocess: bool = False, **more: dict[str, Any]) -> None:
        channels = dict(CONFIG.channels)
        if reprocess:
            channels["reprocess"] = ChannelConfig(name="reprocess", kind="reprocess")
        for name, options in more.items():
            channels[name] = evolve(channels[name], **options)
        self.use(evolve(CONFIG, channels=channels))

    def ask(self, address: str, size: int = 0, source: str = "tcp_local", accepted: bool = False) -> RouteResult:
        about = Posting(sender="a@b.example", size_octets=size, accepted=accepted)
        result: RouteResult = self.successResultOf(Deferred.fromCoroutine(self.router.route(address, source, about)))
        return result

    def test_a_message_too_large_for_its_channel_is_refused(self) -> None:
        self.limited(tcp_local={"blocklimit": 1000}, local={"blocklimit": 2000})
        for address, size, refused in (
            ("x@remote.example", 1000, False),
            ("x@remote.example", 1001, True),
            ("x@remote.example", 0, False),
            ("joe@example.org", 1001, False),
            ("joe@example.org", 2001, True),
            ("x@void.example", 9999, False),
        ):
            found = self.ask(address, size)
            self.assertEqual(isinstance(found, Refused), refused, (address, size))
            if isinstance(found, Refused):
                self.assertIn("552 5.3.4 Message is larger than the ", str(found.reply))
            else:  # whether it is to be asked again when the size is known
                self.assertEqual(found.sized, address != "x@void.example")

    def test_what_was_accepted_is_not_refused_for_its_size(self) -> None:
        self.limited(tcp_local={"blocklimit": 1000})
        self.assertIsInstance(self.ask("x@remote.example", 5000, accepted=True), Routed)

    def test_an_address_that_stands_for_many_is_put_off(self) -> None:
        """To reprocess where there is one; from that source only; below the limit it is done at once."""
        for reprocess, channel in ((False, "process"), (True, "reprocess")):
            self.limited(reprocess, tcp_local={"expandlimit": 2})
            found = self.ask("deep@example.org")  # three
            assert isinstance(found, Routed)
            [one] = found.recipients
            self.assertEqual((one.address, one.channel, found.local), ("deep@example.org", channel, True))
            for source, accepted in (("tcp_intranet", False), ("tcp_local", True)):
                found = self.ask("deep@example.org", source=source, accepted=accepted)
                assert isinstance(found, Routed)
                self.assertEqual(len(found.recipients), 3)
            found = self.ask("info@example.org")
            assert isinstance(found, Routed)
            self.assertEqual(len(found.recipients), 2)

    def test_where_it_is_put_off_to_can_be_said(self) -> None:
        self.limited(True, tcp_local={"expandlimit": 1, "expandchannel": "process"})
        found = self.ask("deep@example.org")
        assert isinstance(found, Routed)
        self.assertEqual([one.channel for one in found.recipients], ["process"])
