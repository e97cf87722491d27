"""
Tests for L{qmailpy.channels.smtp}.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from qmailpy.channels.parts import Parts
from qmailpy.channels.smtp import SmtpChannel
from qmailpy.config.schema import ChannelConfig, Config, DestinationConfig, LogConfig, RuleConfig, ServerConfig
from qmailpy.interfaces import IChannel, IShaped
from qmailpy.records.record import Action, LogRecord
from qmailpy.testing.smtp_sink import Later
from qmailpy.testing.tables_resolver import TablesResolver
from qmailpy.values import Disposition, Envelope, Job, MemoryContent, Notify, Recipient, Verdict
from tests.remote.network import Network


class Recorder:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.records: list[LogRecord] = []

    def write(self, records: list[LogRecord]) -> None:
        self.records.extend(records)


class SmtpChannelTests(SynchronousTestCase):
    """A Job in, Dispositions and connection records out."""

    def setUp(self) -> None:
        self.network = Network()
        self.recorder = Recorder()

    def channel(
        self,
        log: LogConfig = LogConfig(),  # noqa: B008 - a frozen value
        destinations: tuple[DestinationConfig, ...] = (),
        rules: tuple[RuleConfig, ...] = (),
        **options: Any,
    ) -> SmtpChannel:
        server = ServerConfig(hostname="us.example")
        config = Config(home="/nowhere", server=server, log=log, destinations=destinations, rules=rules)
        nothing: Any = None
        recorder: Any = self.recorder
        reactor: Any = self.network
        parts = Parts(
            reactor=reactor,
            files=nothing,
            directory=nothing,
            router=nothing,
            resolver=TablesResolver(addresses={"x.example": ["192.0.2.1"], "in.example": ["127.0.0.1"]}),
            recorder=recorder,
            config=config,
        )
        return SmtpChannel(config, ChannelConfig(name="tcp_out", kind="smtp", **options), parts)

    def job(self, *addresses: str, host: str = "", sender: str = "a@example.org", octets: bytes = b"x: y\r\n") -> Job:
        recipients = tuple(Recipient(address=one, original=one, channel="tcp_out", host=host) for one in addresses)
        return Job(
            id="0" * 15,
            channel="tcp_out",
            envelope=Envelope(sender=sender, recipients=recipients, source="tcp_local", arrival=0.0),
            content=MemoryContent(octets),
            recipients=recipients,
            numbers=tuple(range(len(recipients))),
            attempt=1,
        )

    def dequeue(self, channel: SmtpChannel, job: Job) -> list[Disposition]:
        running = Deferred.fromCoroutine(channel.dequeue(job))
        self.network.settle()
        found: Sequence[Disposition] = self.successResultOf(running)
        return list(found)

    def test_it_is_a_channel(self) -> None:
        """With the name of its table."""
        channel = self.channel()
        verifyObject(IChannel, channel)
        self.assertEqual(channel.name, "tcp_out")

    def test_a_job_is_delivered_to_its_host(self) -> None:
        """Announcing 8BITMIME unless the message said 7BIT."""
        sink = self.network.host("192.0.2.1")
        channel = self.channel()
        job = self.job("b@x.example", host="x.example")
        self.assertEqual([one.verdict for one in self.dequeue(channel, job)], [Verdict.DELIVERED])
        self.dequeue(channel, evolve(job, envelope=evolve(job.envelope, body="7BIT")))
        parameters = [message.mail_parameters for message in sink.log.messages]
        self.assertEqual(parameters, ["SIZE=6 BODY=8BITMIME", "SIZE=6"])

    def test_senders_are_called_outside_what_rules_say(self) -> None:
        """Masquerading: the peer is told the other one, and a sender of notices stays null."""
        sink = self.network.host("192.0.2.1")
        channel = self.channel(rules=(RuleConfig(pattern="example.org", direction="from", address="$U@house.example"),))
        for sender, told in (("a@example.org", "a@house.example"), ("a@x.example", "a@x.example"), ("", "")):
            self.dequeue(channel, self.job("b@x.example", sender=sender))
            self.assertEqual(sink.log.messages[-1].sender, told)

    def test_wishes_for_notices_go_on(self) -> None:
        """RFC 3461; each with its recipient, also when another one is refused at once."""
        sink = self.network.host("192.0.2.1", {"EHLO": "250-x\n250 DSN"})
        job = self.job("ü@x.example", "b@x.example")
        recipients = (job.recipients[0], evolve(job.recipients[1], notify=4, orcpt="rfc822;b"))
        job = evolve(job, recipients=recipients, envelope=evolve(job.envelope, envid="e", ret="FULL"))
        found = self.dequeue(self.channel(), job)
        self.assertEqual([one.verdict for one in found], [Verdict.FAILED, Verdict.DELIVERED])
        self.assertEqual(sink.log.messages[0].mail_parameters, "RET=FULL ENVID=e")
        self.assertIn("RCPT TO:<b@x.example> NOTIFY=FAILURE ORCPT=rfc822;b", sink.log.commands)

    def test_the_examples_of_rfc_3461(self) -> None:
        """S.10.2, s.10.4 and s.10.5: what goes to a peer with DSN, to one without, and behind an alias of one."""
        sink = self.network.host("192.0.2.1", {"EHLO": "250-x\n250 DSN"})
        job = self.job("bob@x.example")
        job = evolve(job, envelope=evolve(job.envelope, envid="QQ314159", ret="HDRS", body="7BIT"))
        [bob] = job.recipients
        bob = evolve(bob, notify=Notify.SUCCESS, orcpt="rfc822;Bob@Example.COM")
        sam = evolve(bob, original="george@y.example", orcpt="rfc822;George@Tax-ME.GOV")
        for ehlo, one, mail, more in (
            ("250-x\n250 DSN", bob, " RET=HDRS ENVID=QQ314159", " NOTIFY=SUCCESS ORCPT=rfc822;Bob@Example.COM"),
            ("250-x\n250 DSN", sam, " RET=HDRS ENVID=QQ314159", " NOTIFY=SUCCESS ORCPT=rfc822;George@Tax-ME.GOV"),
            ("250 x", bob, "", ""),
        ):
            sink.say("EHLO", ehlo)
            sink.log.commands.clear()
            self.dequeue(self.channel(), evolve(job, recipients=(one,)))
            self.assertIn(f"MAIL FROM:<{job.envelope.sender}>{mail}", sink.log.commands)
            self.assertIn(f"RCPT TO:<bob@x.example>{more}", sink.log.commands)

    def test_success_is_relayed_or_told_by_the_peer(self) -> None:
        """RFC 3461 s.5.2.1 and s.5.2.2: by what EHLO says of DSN."""
        sink = self.network.host("192.0.2.1")
        for ehlo, relayed in (("250-x\n250 DSN", False), ("250 x", True)):
            sink.say("EHLO", ehlo)
            [found] = self.dequeue(self.channel(), self.job("b@x.example"))
            self.assertEqual((found.relayed, found.told_there), (relayed, not relayed))
        sink.say("RCPT", "550 no")
        [found] = self.dequeue(self.channel(), self.job("b@x.example"))
        self.assertEqual((found.relayed, found.told_there), (False, False))

    def test_an_address_we_changed_goes_with_the_one_that_came(self) -> None:
        """RFC 3461 s.5.2.1 (d): an ORCPT may be added; one that came is not touched."""
        sink = self.network.host("192.0.2.1", {"EHLO": "250-x\n250 DSN"})
        job = self.job("b@x.example")
        [plain] = job.recipients
        for recipient, line in (
            (plain, "RCPT TO:<b@x.example>"),
            (evolve(plain, original="list@y.example"), "RCPT TO:<b@x.example> ORCPT=rfc822;list@y.example"),
            (evolve(plain, original="list@y.example", orcpt="rfc822;O@z"), "RCPT TO:<b@x.example> ORCPT=rfc822;O@z"),
        ):
            self.dequeue(self.channel(), evolve(job, recipients=(recipient,)))
            self.assertEqual(sink.log.commands[-2:][0] if sink.log.commands[-1] == "DATA" else "", line)

    def test_a_host_in_trouble_gets_less_at_once(self) -> None:
        """Asked for by the name that recipients have; through a relay all hosts are one."""
        verifyObject(IShaped, self.channel())
        for relay in ("", "x.example"):
            channel = self.channel(relay=relay, destination_concurrency=8)
            self.assertIsNone(channel.limit("x.example"))
            self.dequeue(channel, self.job("b@x.example", host="x.example"))  # nobody is there
            self.assertEqual(channel.limit("x.example"), 4)
            self.assertEqual(channel.limit("y.example"), 4 if relay else None)

    def test_a_host_that_asks_for_less_is_left_alone_for_a_while(self) -> None:
        """After three times 421 or 45z 4.7.z: nothing is tried until then."""
        sink = self.network.host("192.0.2.1", {"MAIL": "450 4.7.1 slow down"})
        channel = self.channel()
        for _ in range(3):
            self.dequeue(channel, self.job("b@x.example"))
        before = len(sink.log.commands)
        [found] = self.dequeue(channel, self.job("b@x.example"))
        self.assertEqual((found.verdict, found.reply.enhanced, found.retry_after), (Verdict.DEFERRED, "4.7.0", 30.0))
        self.assertIn("slow down", found.reply.text)
        self.assertEqual(len(sink.log.commands), before)
        self.network.later(30.0)
        sink.say("MAIL", "250 ok")
        self.assertEqual(self.dequeue(channel, self.job("b@x.example"))[0].verdict, Verdict.DELIVERED)

    def test_messages_go_at_the_rate_of_their_destination(self) -> None:
        """Evenly spaced; what would have to wait for long waits in the queue."""
        sink = self.network.host("192.0.2.1")
        channel = self.channel(destinations=(DestinationConfig(pattern="x.example", messages_per_minute=15.0),))
        running = [Deferred.fromCoroutine(channel.dequeue(self.job("b@x.example"))) for _ in range(4)]
        self.network.settle()
        [found] = self.successResultOf(running[3])
        self.assertEqual((found.reply.enhanced, found.retry_after), ("4.4.5", 12.0))
        counts = []
        for _ in range(9):
            counts.append(len(sink.log.messages))
            self.network.later(1.0)
        self.assertEqual(counts, [1, 1, 1, 1, 2, 2, 2, 2, 3])
        for each in running:
            self.successResultOf(each)

    def test_connections_of_a_destination_can_be_fewer(self) -> None:
        """concurrency of its table."""
        sink = self.network.host("192.0.2.1", {"MAIL": Later(1.0, "250 ok")})
        channel = self.channel(destinations=(DestinationConfig(pattern=".example", concurrency=2),))
        self.assertEqual(channel.limit("x.example"), 2)
        running = [Deferred.fromCoroutine(channel.dequeue(self.job("b@x.example"))) for _ in range(5)]
        self.network.settle()
        for _ in range(5):
            self.network.later(1.0)
        for each in running:
            self.successResultOf(each)
        self.assertEqual((sink.log.most_open, len(sink.log.messages)), (2, 5))

    def test_connections_are_recorded(self) -> None:
        """O and C with both ends, Y when there was none; direction "-" (imta.md s.1.3)."""
        sink = self.network.host("192.0.2.1")
        channel = self.channel()
        self.dequeue(channel, self.job("b@x.example"))
        self.network.later(1.0)
        stopping = Deferred.fromCoroutine(channel.stop())
        self.network.settle()
        self.successResultOf(stopping)
        del self.network.hosts["192.0.2.1", 25]
        self.dequeue(channel, self.job("b@x.example"))
        ends = "TCP|192.0.2.99|50000|192.0.2.1|25"
        self.assertEqual(
            [(one.action, one.transport, one.application, one.diagnostic) for one in self.recorder.records],
            [
                (Action.OPENED, ends, "SMTP/x.example", ""),
                (Action.CLOSED, ends, "SMTP/x.example", "quit"),
                (
                    Action.UNREACHED,
                    "",
                    "SMTP/x.example",
                    "TCP active open: Failed connect() 192.0.2.1:25  Error: connection refused",
                ),
            ],
        )
        self.assertEqual({(one.source, one.direction) for one in self.recorder.records}, {("tcp_out", "-")})
        self.assertEqual((self.recorder.records[1].time, sink.log.open), (1.0, 0))

    def test_connections_are_recorded_only_when_asked_for(self) -> None:
        """LogConfig.connections."""
        self.network.host("192.0.2.1")
        self.dequeue(self.channel(LogConfig(connections=False)), self.job("b@x.example"))
        self.dequeue(self.channel(logging="brief"), self.job("b@x.example"))
        self.assertEqual(self.recorder.records, [])

    def test_a_relay_takes_everything(self) -> None:
        """Whatever the host of the recipients."""
        sink = self.network.host("127.0.0.1", port=2525)
        channel = self.channel(relay="127.0.0.1:2525")
        found = self.dequeue(channel, self.job("b@elsewhere.example", host="elsewhere.example"))
        self.assertEqual((found[0].verdict, len(sink.log.messages)), (Verdict.DELIVERED, 1))

    def test_a_host_of_a_rule_may_be_anywhere_and_that_of_an_address_not(self) -> None:
        """A stranger's domain cannot lead into this machine."""
        self.network.host("127.0.0.1")
        channel = self.channel()
        [found] = self.dequeue(channel, self.job("b@in.example", host="in.example"))
        self.assertEqual((found.verdict, found.reply.enhanced), (Verdict.FAILED, "5.4.6"))
        [found] = self.dequeue(channel, self.job("b@y.example", host="in.example"))
        self.assertEqual(found.verdict, Verdict.DELIVERED)
        [found] = self.dequeue(channel, self.job("b@y.example", host="[127.0.0.1]"))
        self.assertEqual(found.verdict, Verdict.DELIVERED)
        [found] = self.dequeue(channel, self.job("b@[127.0.0.1]", host="[127.0.0.1]"))
        self.assertEqual((found.verdict, found.reply.enhanced), (Verdict.FAILED, "5.4.6"))

    def test_a_bad_destination_fails(self) -> None:
        """And is no exception."""
        [found] = self.dequeue(self.channel(), self.job("b@y.example", host="a:b:c"))
        self.assertEqual((found.verdict, found.reply.enhanced), (Verdict.FAILED, "5.1.2"))

    def test_addresses_that_cannot_be_sent_fail_alone(self) -> None:
        """The others get the message; a bad sender fails all."""
        sink = self.network.host("192.0.2.1")
        channel = self.channel()
        found = self.dequeue(channel, self.job("b@x.example", "ü@x.example", "c\r\n@x.example", "d@x.example"))
        self.assertEqual([one.verdict.value for one in found], ["delivered", "failed", "failed", "delivered"])
        self.assertEqual(sink.log.messages[0].recipients, ["b@x.example", "d@x.example"])
        found = self.dequeue(channel, self.job("b@x.example", sender="ü@example.org"))
        self.assertEqual((found[0].verdict, found[0].reply.enhanced), (Verdict.FAILED, "5.6.7"))

    def test_a_bad_relay_is_found_at_start(self) -> None:
        """Not when the first mail comes."""
        self.assertRaises(ValueError, self.channel, relay="a:b")
