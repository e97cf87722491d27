"""The conversion channel: where mail goes on to, in how many messages, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import define, evolve, field
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from qmailpy.channels.conversion import ConversionChannel
from qmailpy.channels.reprocess import ReprocessChannel
from qmailpy.config.conversion_schema import ConversionsConfig
from qmailpy.config.schema import ChannelConfig
from qmailpy.errors import Temporary
from qmailpy.interfaces import IChannel
from qmailpy.testing.memory_events import MemoryEvents
from qmailpy.testing.scripted_router import ScriptedRouter, local, remote, unknown_user
from qmailpy.values import Disposition, Job, NewMail, Notify, Posting, Recipient, Reply, Routed, RouteResult, Verdict
from tests.channels.common import MESSAGE, make_config, make_job, make_parts
from tests.channels.conversions.common import MULTI, entry

HERE = ChannelConfig(name="conversion", kind="conversion")


def recipient(address: str, way: str = "local ", **given: Any) -> Recipient:
    return Recipient(address=address, original=address, channel="conversion", host=way, **given)


def job_for(*recipients: Recipient, octets: bytes = MULTI) -> Job:
    job = make_job(octets=octets, channel="conversion")
    envelope = evolve(job.envelope, recipients=recipients, envid="e1", message_id="<m@x>")
    return evolve(job, envelope=envelope, recipients=recipients, numbers=tuple(range(len(recipients))))


class ConversionChannelTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.router = ScriptedRouter()
        self.home = self.mktemp()
        self.events = MemoryEvents()

    def said(self, job: Job, *entries: Any) -> Sequence[Disposition]:
        config = make_config({"conversion": HERE})
        config = evolve(config, home=self.home, conversions=ConversionsConfig(entries=entries))
        channel = ConversionChannel(
            config, HERE, evolve(make_parts(config, router=self.router), events=self.events), maybeDeferred
        )
        verifyObject(IChannel, channel)
        return self.successResultOf(Deferred.fromCoroutine(channel.dequeue(job)))

    def mails(self, said: Sequence[Disposition]) -> list[NewMail]:
        """Every message, once."""
        found: dict[int, NewMail] = {}
        for one in said:
            found |= {id(mail): mail for mail in one.mails}
        return list(found.values())

    def test_mail_goes_on_where_it_would_have_gone(self) -> None:
        """One message for all that go the same way, with nothing asked of the router."""
        ann = recipient("ann@here.example", notify=int(Notify.NEVER), orcpt="rfc822;x")
        out = recipient("joe@out.example", "tcp_local mx.out.example")
        job = job_for(ann, recipient("bob@here.example"), out)
        said = self.said(job)
        self.assertEqual({one.verdict for one in said}, {Verdict.FORWARDED})
        first, second = self.mails(said)
        self.assertIs(said[0].mails[0], said[1].mails[0])
        self.assertEqual(
            first.envelope.recipients,
            (
                evolve(ann, channel="local", host=""),
                Recipient(address="bob@here.example", original="bob@here.example", channel="local"),
            ),
        )
        self.assertEqual(
            [(one.channel, one.host) for one in second.envelope.recipients], [("tcp_local", "mx.out.example")]
        )
        self.assertEqual((first.envelope.sender, first.envelope.envid), (job.envelope.sender, "e1"))
        self.assertIs(first.content, job.content)
        self.assertEqual(self.router.asked, [])

    def test_what_is_converted_goes_on_changed(self) -> None:
        (mail,) = self.mails(self.said(job_for(recipient("a@x.example")), entry("delete", file=("*.exe",))))
        self.assertNotIn(b"TVq", mail.content.read())

    def test_nobody_works_where_a_former_process_is_being_cleaned_up_after(self) -> None:
        """What a job has put there would go as well."""
        asked: list[str] = []
        cleaned: Deferred[None] = Deferred()

        def in_thread(function: Any, *arguments: Any) -> Deferred[Any]:
            asked.append(getattr(function, "__name__", ""))
            return cleaned if asked == ["thd_clean"] else maybeDeferred(function, *arguments)

        config = evolve(
            make_config({"conversion": HERE}),
            home=self.home,
            conversions=ConversionsConfig(entries=(entry("delete", file=("*.exe",)),)),
        )
        channel = ConversionChannel(config, HERE, make_parts(config, router=self.router), in_thread)
        job = job_for(recipient("a@x.example"))
        both = [Deferred.fromCoroutine(channel.dequeue(job)) for _ in range(2)]
        self.assertEqual(asked, ["thd_clean"])
        cleaned.callback(None)
        for one in both:
            self.assertNotIn(b"TVq", self.mails(self.successResultOf(one))[0].content.read())
        self.assertEqual(asked.count("thd_clean"), 1)

    def test_recipients_for_whom_other_entries_are_get_other_messages(self) -> None:
        job = job_for(recipient("a@x.example"), recipient("b@x.example"))
        first, second = self.mails(self.said(job, entry("delete", file=("*.exe",), recipient=("b@*",))))
        self.assertIs(first.content, job.content)
        self.assertNotIn(b"TVq", second.content.read())

    def test_a_rule_that_leads_here_has_the_router_asked(self) -> None:
        """With this channel for the source, so that another rule can say where it goes from here."""
        two = Routed(recipients=(*local("c@x.example").recipients, *remote("c@y.example").recipients), local=True)
        self.router.later = {"a@x.example": remote("a@x.example"), "b@x.example": unknown_user(), "c@x.example": two}
        job = job_for(*(recipient(f"{name}@x.example", "", notify=4) for name in "abc"))
        said = self.said(job)
        self.assertEqual([one.verdict for one in said], [Verdict.FORWARDED, Verdict.FAILED, Verdict.FORWARDED])
        self.assertEqual([len(one.envelope.recipients) for one in said[2].mails], [2])
        self.assertEqual({one.notify for mail in self.mails(said) for one in mail.envelope.recipients}, {4})
        for answer in (local("a@x.example", "conversion"), Temporary(Reply(451, "4.3.0", "away"))):
            self.router.later = {"a@x.example": answer}
            self.assertIs(self.said(job_for(recipient("a@x.example", "")))[0].verdict, Verdict.DEFERRED)

    def test_what_entries_decide_becomes_a_verdict(self) -> None:
        for action, verdict, code in (
            ("hold", Verdict.HELD, 451),
            ("return", Verdict.FAILED, 554),
            ("discard", Verdict.DELIVERED, 250),
        ):
            (said,) = self.said(job_for(recipient("a@x.example")), entry(action, whole=True, text="because"))
            self.assertEqual((said.verdict, said.reply.code), (verdict, code))
            self.assertEqual("because" in said.reply.text, action != "discard")
            self.assertEqual(self.mails([said]), [])
        self.assertEqual(self.events.names, ["message.held"])

    def test_what_an_operator_has_released_is_converted_and_not_held_again(self) -> None:
        """And its envelope says that it was converted."""
        job, entries = job_for(recipient("a@x.example")), (entry("hold", whole=True), entry("delete", file=("*.exe",)))
        self.assertEqual([one.verdict for one in self.said(job, *entries)], [Verdict.HELD])
        (mail,) = self.mails(self.said(evolve(job, released=True), *entries))
        self.assertNotIn(b"TVq", mail.content.read())
        self.assertTrue(mail.envelope.converted)

    def test_trouble_with_files_makes_mail_wait(self) -> None:
        with open(self.home, "w") as target:
            target.write("no directory")
        large = MULTI.replace(b"preamble", b"x" * 300_000)
        (said,) = self.said(job_for(recipient("a@x.example"), octets=large), entry("utf8"))
        self.assertIs(said.verdict, Verdict.DEFERRED)
        self.assertEqual(self.events.names, ["conversion.failed"])

    def test_a_journal_copy_goes_once_from_nobody(self) -> None:
        self.router.later = {"j@z.example": remote("j@z.example")}
        journal = entry("journal", whole=True, address="j@z.example", recipient=("b*", "c*"))
        job = job_for(*(recipient(f"{name}@x.example") for name in "abc"))
        said = self.said(job, journal)
        (copy,) = [mail for mail in self.mails(said) if not mail.envelope.sender]
        self.assertEqual(
            (copy.envelope.sender, [one.address for one in copy.envelope.recipients]), ("", ["j@z.example"])
        )
        self.assertIs(copy.content, job.content)
        # The others' attempts, later or beside: no second copy.
        third = evolve(job, recipients=job.recipients[2:], numbers=(2,))
        self.assertEqual([len(one.mails) for one in self.said(third, journal)], [1])
        self.router.later = {"j@z.example": unknown_user()}
        self.assertEqual(
            [one.verdict for one in self.said(job, journal)], [Verdict.FORWARDED, Verdict.DEFERRED, Verdict.DEFERRED]
        )

    def test_what_is_held_has_no_journal_copy_yet(self) -> None:
        self.router.later = {"j@z.example": remote("j@z.example")}
        journal = entry("journal", whole=True, address="j@z.example", go_on=True)
        said = self.said(job_for(recipient("a@x.example")), journal, entry("hold", whole=True))
        self.assertEqual(self.mails(said), [])


@define(eq=False)
class NotingRouter(ScriptedRouter):
    """Knows which sources it was asked for."""

    sources: list[str] = field(factory=list)

    async def route(self, address: str, source: str, about: Posting | None = None) -> RouteResult:
        self.sources.append(source)
        return await super().route(address, source, about)


class ReprocessTests(SynchronousTestCase):
    def test_the_router_is_asked_as_if_mail_came_in_now(self) -> None:
        router = NotingRouter(later={"a@x.example": remote("a@x.example"), "b@x.example": unknown_user()})
        config = ChannelConfig(name="reprocess", kind="reprocess")
        channel = ReprocessChannel(make_config(), config, make_parts(router=router))
        verifyObject(IChannel, channel)
        job = make_job("a@x.example", "b@x.example", octets=MESSAGE, channel="reprocess")
        said = self.successResultOf(Deferred.fromCoroutine(channel.dequeue(job)))
        self.assertEqual([one.verdict for one in said], [Verdict.FORWARDED, Verdict.FAILED])
        self.assertEqual(said[0].onward[0].channel, "tcp_local")
        self.assertEqual(set(router.sources), {"tcp_local"})
