"""Notices: who is told what, once; and the channel that sends them on their way."""

from __future__ import annotations

import base64
import os

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from qmailpy.channels.process import Notices, ProcessChannel
from qmailpy.config.schema import BounceConfig, ChannelConfig
from qmailpy.errors import Temporary
from qmailpy.interfaces import IChannel
from qmailpy.testing.scripted_router import ScriptedRouter, local, remote, unknown_user
from qmailpy.values import (
    Disposition,
    Envelope,
    MemoryContent,
    Notify,
    Posting,
    Recipient,
    Refused,
    Reply,
    Routed,
    RouteResult,
    Verdict,
)
from tests.channels.common import MESSAGE, QUEUE_ID, make_config, make_job, make_parts

NOW = 1700000100.0
FAILED = Disposition(verdict=Verdict.FAILED, reply=Reply(550, "5.1.1", "no such user"), remote_mta="mx.example.net")
DELAYED = Disposition(verdict=Verdict.DEFERRED, reply=Reply(451, "4.4.1", "busy"))
X = Recipient(address="x@example.net", original="x@example.net", channel="tcp_local", host="example.net")
Y = evolve(X, address="y@example.net", original="y@example.net")


def envelope(sender: str = "bob@example.com", ret: str = "") -> Envelope:
    return Envelope(sender=sender, recipients=(X, Y), source="tcp_local", arrival=1700000000.0, ret=ret)


class NoticesTests(SynchronousTestCase):
    def make(self, postmaster: str = "", **bounce: object) -> Notices:
        config = make_config(bounce=BounceConfig(**bounce), postmaster=postmaster)  # type: ignore[arg-type]
        return Notices(config, lambda: "c0ffee")

    def failure(
        self,
        notices: Notices,
        sender: str = "bob@example.com",
        recipients: tuple[Recipient, ...] = (X,),
        octets: bytes = MESSAGE,
        ret: str = "",
    ) -> tuple[Envelope, bytes] | None:
        failures = [(recipient, FAILED) for recipient in recipients]
        return notices.build_failure(envelope(sender, ret), QUEUE_ID, failures, MemoryContent(octets), NOW)

    def told(self, found: tuple[Envelope, bytes] | None) -> list[str]:
        return [one.address for one in found[0].recipients] if found else []

    def test_the_sender_is_told_once_of_all_that_failed(self) -> None:
        """One notice from nobody to the sender, on the process channel, from the channel that failed."""
        found = self.failure(self.make(), recipients=(X, Y))
        assert found is not None
        notice, octets = found
        self.assertEqual((notice.sender, notice.source, notice.arrival, notice.body), ("", "tcp_local", NOW, "7BIT"))
        self.assertEqual(
            notice.recipients,
            (Recipient(address="bob@example.com", original="bob@example.com", channel="process"),),
        )
        self.assertEqual(notice.message_id, "<bounce.c0ffee@mx.example.org>")
        self.assertEqual(notice.protocol, "")  # it came by none, and is not converted
        self.assertEqual(octets.count(b"Action: failed"), 2)
        self.assertIn(b"To: bob@example.com\r\n", octets)
        self.assertIn(MESSAGE, octets)

    def test_the_notice_goes_to_the_process_channel_by_its_configured_name(self) -> None:
        config = make_config({"notify": ChannelConfig(name="notify", kind="process")})
        found = self.failure(Notices(config))
        assert found is not None
        self.assertEqual(found[0].recipients[0].channel, "notify")

    def test_a_copy_to_the_postmaster_is_a_second_recipient(self) -> None:
        """Mission C7: one to the sender and one to the postmaster."""
        self.assertEqual(self.told(self.failure(self.make(copy_postmaster=True))), ["bob@example.com", "postmaster"])
        notices = self.make("pm@example.org", copy_postmaster=True)
        self.assertEqual(self.told(self.failure(notices)), ["bob@example.com", "pm@example.org"])
        self.assertEqual(self.told(self.failure(notices, "PM@example.org")), ["PM@example.org"])

    def test_a_notice_that_fails_goes_to_the_postmaster(self) -> None:
        """A double bounce, never to the null sender and never in copy."""
        found = self.failure(self.make("pm@example.org", copy_postmaster=True), "")
        assert found is not None
        self.assertEqual((found[0].sender, self.told(found)), ("", ["pm@example.org"]))
        self.assertIn(b"Subject: Undeliverable notice\r\n", found[1])

    def test_a_double_bounce_that_fails_is_discarded(self) -> None:
        """No third notice: whatever the postmaster's address had become when it failed."""
        for postmaster, address, original in (
            ("pm@example.org", "pm@example.org", "pm@example.org"),
            ("pm@example.org", "boss@example.net", "pm@example.org"),
            ("", "postmaster", "postmaster"),
            ("", "boss@example.net", "postmaster"),
        ):
            recipient = evolve(X, address=address, original=original)
            self.assertIsNone(self.failure(self.make(postmaster), "", (recipient,)))

    def test_double_bounces_can_be_switched_off(self) -> None:
        self.assertIsNone(self.failure(self.make(double_bounce=False), ""))

    def test_nobody_is_told_who_did_not_want_to_be(self) -> None:
        """RFC 3461 s.4.1: NOTIFY=NEVER, or without FAILURE."""
        never = evolve(X, notify=int(Notify.NEVER))
        success = evolve(X, notify=int(Notify.SUCCESS))
        wanted = evolve(Y, notify=int(Notify.FAILURE))
        self.assertIsNone(self.failure(self.make(), recipients=(never, success)))
        found = self.failure(self.make(), recipients=(never, wanted))
        assert found is not None
        self.assertEqual(found[1].count(b"Action: failed"), 1)

    def test_large_messages_come_back_with_their_header_only(self) -> None:
        header, body = b"Subject: hello\r\n\r\n", b"x" * 70 + b"\r\n"
        for octets, ret, whole in (
            (header + body, "", True),
            (header + body, "FULL", True),
            (header + body, "HDRS", False),
            (header + body * 20, "FULL", False),
        ):
            found = self.failure(self.make(return_octets=1000), octets=octets, ret=ret)
            assert found is not None
            self.assertEqual((b"Subject: hello" in found[1], body in found[1]), (True, whole))

    def test_eight_bit_notices_say_so_in_their_envelope(self) -> None:
        found = self.failure(self.make(), octets=MESSAGE + b"\xe4\r\n")
        assert found is not None
        self.assertEqual((found[0].body, found[0].smtputf8), ("8BITMIME", False))

    def test_ids_differ(self) -> None:
        notices = Notices(make_config())
        first, second = self.failure(notices), self.failure(notices)
        assert first is not None and second is not None
        self.assertNotEqual(first[0].message_id, second[0].message_id)

    def test_a_delay_is_told_to_the_sender_with_the_header(self) -> None:
        notices = self.make(copy_postmaster=True)
        content = MemoryContent(MESSAGE)
        found = notices.build_delay(envelope(), QUEUE_ID, [(X, DELAYED)], content, NOW, NOW + 9, 1)
        assert found is not None
        self.assertEqual(self.told(found), ["bob@example.com"])
        self.assertIn(b"Action: delayed", found[1])
        self.assertNotIn(b"body\r\n", found[1])

    def test_the_language_is_the_messages_where_that_is_evident_and_else_the_houses(self) -> None:
        """[bounce] language; with "both" the one that is more likely read comes first."""
        chinese = b"Content-Language: zh-CN\r\n\r\n"
        english = b"Content-Language: en\r\n\r\n"
        for house, octets, wanted in (
            ("en", MESSAGE, ["en"]),
            ("zh", MESSAGE, ["zh"]),
            ("en", chinese, ["zh"]),
            ("zh", english, ["en"]),
            ("both", MESSAGE, ["en", "zh"]),
            ("both", chinese, ["zh", "en"]),
        ):
            found = self.failure(self.make(language=house), octets=octets)
            assert found is not None
            rest = found[1].partition(b"\r\n\r\n")[2]
            coded = rest.partition(b"base64\r\n\r\n")[2].partition(b"\r\n--")[0]
            text = base64.b64decode(coded).decode() if coded else rest.decode()
            order = sorted(wanted, key=lambda one: text.index({"en": "I'm sorry", "zh": "很抱歉"}[one]))
            self.assertEqual(order, wanted)
            self.assertEqual(("I'm sorry" in text, "很抱歉" in text), ("en" in wanted, "zh" in wanted))
            self.assertEqual((found[0].body, found[0].smtputf8), ("7BIT", False))

    def test_only_an_international_sender_makes_a_notice_so(self) -> None:
        """RFC 6533 s.4: by SMTPUTF8 where it must, not where it can."""
        for sender, needed in (("bob@example.com", False), ("böb@example.com", True)):
            found = self.failure(self.make(), sender, octets="Subject: ü\r\n\r\n".encode())
            assert found is not None
            self.assertEqual(found[0].smtputf8, needed)

    def test_words_are_read_anew(self) -> None:
        """On SIGHUP; a file with mistakes is told of in the log and not used."""
        home = os.path.abspath(self.mktemp())
        os.makedirs(f"{home}/etc/notices")
        notices = self.make()
        for words, wanted in (
            ("[somewhere]\nfar away\n", b"to far away, which"),
            ("[what]\n", b"to another system, which"),
        ):
            with open(f"{home}/etc/notices/en.txt", "w") as target:
                target.write(words)
            notices.thd_configure(evolve(make_config(), home=home))
            said = Disposition(verdict=Verdict.DELIVERED, reply=Reply(250, "", "ok"))
            found = notices.build_success(envelope(), QUEUE_ID, [(X, said, "relayed")], MemoryContent(MESSAGE), NOW)
            assert found is not None
            self.assertIn(wanted, found[1].replace(b"\r\n", b" "))

    def test_delays_of_notices_and_unwanted_ones_are_not_told(self) -> None:
        notices, content = self.make(), MemoryContent(MESSAGE)
        self.assertIsNone(notices.build_delay(envelope(""), QUEUE_ID, [(X, DELAYED)], content, NOW, NOW, 1))
        failure_only = evolve(X, notify=int(Notify.FAILURE))
        self.assertIsNone(notices.build_delay(envelope(), QUEUE_ID, [(failure_only, DELAYED)], content, NOW, NOW, 1))


class ProcessChannelTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.router = ScriptedRouter()
        config = make_config()
        self.channel = ProcessChannel(
            config, ChannelConfig(name="process", kind="process"), make_parts(config, router=self.router)
        )

    def dequeue(self, *addresses: str) -> list[Disposition]:
        job = make_job(*addresses, channel="process")
        return list(self.successResultOf(Deferred.fromCoroutine(self.channel.dequeue(job))))

    def test_it_is_a_channel(self) -> None:
        self.assertTrue(verifyObject(IChannel, self.channel))
        self.successResultOf(Deferred.fromCoroutine(self.channel.stop()))

    def test_each_recipient_is_forwarded_to_where_the_router_says(self) -> None:
        """C7: two recipients, two forwards, and so two submissions."""
        self.router.later["bob@example.com"] = remote("bob@example.com")
        self.router.later["postmaster"] = local("pm@example.org")
        found = self.dequeue("bob@example.com", "postmaster")
        self.assertEqual([one.verdict for one in found], [Verdict.FORWARDED] * 2)
        self.assertEqual(
            [[(to.address, to.channel) for to in one.onward] for one in found],
            [[("bob@example.com", "tcp_local")], [("pm@example.org", "local")]],
        )

    def test_rules_are_told_who_sent_it(self) -> None:
        """And that it was accepted before: who may write to whom is asked no more."""
        asked: list[Posting | None] = []

        class Asked(ScriptedRouter):
            async def route(self, address: str, source: str, about: Posting | None = None) -> RouteResult:
                asked.append(about)
                return unknown_user()

        parts = make_parts(make_config(), router=Asked())
        self.channel = ProcessChannel(make_config(), ChannelConfig(name="process", kind="process"), parts)
        self.dequeue("bob@example.com")
        self.assertEqual(asked, [Posting(sender="bob@example.com", accepted=True)])

    def test_what_the_sender_wished_goes_along(self) -> None:
        self.router.later["a@b"] = remote("a@b")
        recipient = Recipient(address="a@b", original="a@b", channel="process", orcpt="rfc822;c@d", notify=4)
        job = evolve(make_job("a@b"), recipients=(recipient,))
        [found] = self.successResultOf(Deferred.fromCoroutine(self.channel.dequeue(job)))
        self.assertEqual([(one.orcpt, one.notify) for one in found.onward], [("rfc822;c@d", 4)])

    def test_a_refused_route_fails_or_defers(self) -> None:
        self.router.later["gone@example.org"] = unknown_user()
        self.router.later["later@example.org"] = Refused(Reply(451, "4.3.5", "misconfigured"))
        self.router.later["away@example.org"] = Temporary(Reply(451, "4.3.0", "away"))
        found = self.dequeue("gone@example.org", "later@example.org", "away@example.org")
        self.assertEqual(
            [(one.verdict, one.reply.enhanced) for one in found],
            [(Verdict.FAILED, "5.1.1"), (Verdict.DEFERRED, "4.3.5"), (Verdict.DEFERRED, "4.3.0")],
        )

    def test_a_route_that_leads_back_here_is_not_taken(self) -> None:
        back = Recipient(address="a@b", original="a@b", channel="process")
        self.router.later["a@b"] = Routed(recipients=(back,), local=True)
        self.assertEqual([one.verdict for one in self.dequeue("a@b")], [Verdict.DEFERRED])
