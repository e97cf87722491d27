"""
The SMTP channel under TLS, over real sockets: against our own sink with certificates made here, and against Postfix.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import socket
from typing import Any, ClassVar, cast

from attrs import evolve
from OpenSSL import SSL
from twisted.internet import reactor as global_reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IProcessTransport, IReactorProcess
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest
from zope.interface import implementer

from qmailpy.channels.parts import Parts, Security
from qmailpy.channels.smtp import SmtpChannel
from qmailpy.cli.certificate import self_signed
from qmailpy.config.schema import ChannelConfig, Config, DestinationConfig, ServerConfig
from qmailpy.errors import ConfigError
from qmailpy.records.record import Action
from qmailpy.servers.tls import OWN, Certificates, Pair
from qmailpy.testing.smtp_sink import Script, SinkFactory
from qmailpy.testing.tables_resolver import TablesResolver
from qmailpy.values import Content, Disposition, MemoryContent, Verdict
from tests.integration.peers.postfix import Postfix, kind
from tests.integration.test_remote_peers import SMALL, Recorder, RemoteTestCase, reactor

NOW = datetime.datetime.now(datetime.UTC)


def pair(name: str, now: datetime.datetime = NOW) -> Pair:
    certificate, key = self_signed(name, now)
    return Pair(certificate=certificate, key=key)


MX = pair("mx.example")


@implementer(IOpenSSLServerConnectionCreator)
class NoCertificate:
    """A server that offers TLS and cannot do it."""

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        return SSL.Connection(SSL.Context(SSL.TLS_SERVER_METHOD), None)


class TlsTestCase(RemoteTestCase):
    """Hosts with names, all on this machine."""

    def tls_channel(self, port: int, *, trust: bytes = b"", domain: bool = False, **options: Any) -> SmtpChannel:
        """
        @param trust: the certificates of the trust store.
        @param domain: by the MX record of d.example, else mx.example as relay.
        """
        table = ChannelConfig(
            name="tcp_local",
            kind="smtp",
            relay="" if domain else f"mx.example:{port}",
            port=port,
            allow_loopback=True,
            tls_ca_file=self.file(trust or MX.certificate),
            **options,
        )
        return self.made(table)

    def made(
        self,
        table: ChannelConfig,
        *destinations: DestinationConfig,
        resolver: Any = None,
        security: Security | None = None,
    ) -> SmtpChannel:
        """@param resolver: C{None} = one that knows of no TLS."""
        config = Config(home="/nowhere", server=ServerConfig(hostname="us.example"), destinations=destinations)
        self.recorder = Recorder()
        nothing: Any = None
        anything: Any = global_reactor
        recorder: Any = self.recorder
        resolver = resolver or TablesResolver(
            mx={"x.example": [(10, "mx.example")]},
            addresses={name: ["127.0.0.1"] for name in ("mx.example", "b.example")},
        )
        parts = Parts(
            reactor=anything,
            files=nothing,
            directory=nothing,
            router=nothing,
            resolver=resolver,
            recorder=recorder,
            config=config,
            security=security or Security(),
        )
        channel = SmtpChannel(config, table, parts)
        self.addCleanup(lambda: Deferred.fromCoroutine(channel.stop()))
        return channel

    def secure_sink(self, tls: Any = None, script: Script | None = None) -> tuple[SinkFactory, int]:
        factory, port = self.sink(script)
        factory.tls = tls if tls is not None else Certificates({OWN: MX})
        return factory, port

    async def ended(self, sink: SinkFactory) -> None:
        """All its connections are closed."""
        while sink.log.open:
            await deferLater(reactor, 0.005)

    def file(self, octets: bytes) -> str:
        """The path of a file with that in it."""
        path: str = os.path.abspath(self.mktemp())
        with open(path, "wb") as target:
            target.write(octets)
        return path

    async def one(self, channel: SmtpChannel, content: Content = SMALL) -> Disposition:
        [found] = await channel.dequeue(self.job(content=content))
        return found


class OpportunisticTests(TlsTestCase):
    """tls = "may"."""

    async def test_it_is_used_where_it_is_offered(self) -> None:
        """And told in the record; a second message goes over the same connection."""
        sink, port = self.secure_sink()
        channel = self.tls_channel(port)
        found = await self.one(channel)
        self.assertEqual((found.verdict, found.modifiers), (Verdict.DELIVERED, "ES"))
        self.assertIn("(sink.example ESMTP) (TLSv1.3/TLS_AES_256_GCM_SHA384) smtp;250 ", found.diagnostic)
        await self.one(channel)
        self.assertEqual([message.secure for message in sink.log.messages], [True, True])
        self.assertEqual((sink.log.connections, sink.log.messages[0].content), (1, SMALL.read()))
        self.assertEqual([line.split()[0] for line in sink.log.commands[:4]], ["EHLO", "STARTTLS", "EHLO", "MAIL"])

    async def test_large_messages_arrive_whole(self) -> None:
        """From a file, in pieces, with back-pressure through TLS; by DATA and by BDAT (RFC 3030)."""
        for ehlo in ("250-x\n250-STARTTLS\n250 PIPELINING", "250-x\n250-STARTTLS\n250-CHUNKING\n250 PIPELINING"):
            sink, port = self.secure_sink(script={"EHLO": ehlo})
            content = self.large_file(3_000_000)
            found = await self.one(self.tls_channel(port, tls="must"), content)
            self.assertEqual((found.verdict, found.transferred), (Verdict.DELIVERED, content.size))
            self.assertEqual(sink.log.messages[0].content, b"".join(content.chunks()))
            self.assertEqual("DATA" in sink.log.commands, "CHUNKING" not in ehlo)

    async def test_a_large_message_is_refused_in_the_middle(self) -> None:
        """A chunk is refused: the message failed, whole or not."""
        script = {"EHLO": "250-x\n250-CHUNKING\n250 PIPELINING", "BDAT": ["250 ok", "552 5.3.4 too much"]}
        sink, port = self.sink(script)
        found = await self.one(self.tls_channel(port), self.large_file(1_000_000))
        self.assertEqual((found.verdict, found.reply.enhanced), (Verdict.FAILED, "5.3.4"))
        await self.ended(sink)

    async def test_without_it_mail_goes_all_the_same(self) -> None:
        """Not offered, or refused: on the same connection."""
        for script in ({"EHLO": "250 sink.example"}, {"STARTTLS": "454 4.7.0 not now"}):
            sink, port = self.secure_sink(script=script)
            found = await self.one(self.tls_channel(port))
            self.assertEqual((found.verdict, found.modifiers, sink.log.connections), (Verdict.DELIVERED, "E", 1))

    async def test_a_handshake_that_fails_is_followed_by_a_connection_without(self) -> None:
        """Within the attempt."""
        sink, port = self.secure_sink(NoCertificate())
        found = await self.one(self.tls_channel(port))
        self.assertEqual((found.verdict, found.modifiers, sink.log.connections), (Verdict.DELIVERED, "E", 2))
        self.assertFalse(sink.log.messages[0].secure)

    async def test_replies_put_in_before_the_handshake_are_not_believed(self) -> None:
        """Issue 3: STARTTLS injection, in the same segment."""
        sink, port = self.secure_sink(script={"STARTTLS": "220 go\n250-evil\n250 DSN"})
        found = await self.one(self.tls_channel(port, tls="must"))
        self.assertEqual((found.verdict, found.modifiers), (Verdict.DELIVERED, "ES"))
        self.assertIn("SIZE=", sink.log.messages[0].mail_parameters)

    async def test_it_can_be_done_without(self) -> None:
        """tls = "none"."""
        sink, port = self.secure_sink()
        await self.one(self.tls_channel(port, tls="none"))
        self.assertNotIn("STARTTLS", sink.log.commands)


class RequiredTests(TlsTestCase):
    """tls = "must" and "verify"."""

    async def deferred(self, channel: SmtpChannel, enhanced: str, words: str) -> None:
        found = await self.one(channel)
        self.assertEqual((found.verdict, found.reply.enhanced), (Verdict.DEFERRED, enhanced), found)
        self.assertIn(words, found.reply.text)

    async def test_without_tls_mail_waits(self) -> None:
        """And nothing of it is sent."""
        for script in ({"EHLO": "250 sink.example"}, {"STARTTLS": "454 4.7.0 not now"}):
            sink, port = self.secure_sink(script=script)
            await self.deferred(self.tls_channel(port, tls="must"), "4.7.4", "TLS is required: ")
            await self.ended(sink)
            self.assertEqual((sink.log.connections, sink.log.commands[-1]), (1, "QUIT"))
        sink, port = self.secure_sink(NoCertificate())
        await self.deferred(self.tls_channel(port, tls="must"), "4.7.5", "TLS failed: ")
        self.assertEqual((sink.log.connections, sink.log.messages), (1, []))

    async def test_a_certificate_that_is_right_is_enough(self) -> None:
        """For the exchanger's name, or for the domain's."""
        _, port = self.secure_sink()
        for by_domain in (False, True):
            found = await self.one(self.tls_channel(port, tls="verify", domain=by_domain))
            self.assertEqual((found.verdict, found.modifiers), (Verdict.DELIVERED, "ES"))
        theirs = pair("x.example")
        _, port = self.secure_sink(Certificates({OWN: theirs}))
        found = await self.one(self.tls_channel(port, tls="verify", domain=True, trust=theirs.certificate))
        self.assertEqual(found.verdict, Verdict.DELIVERED)

    async def test_one_that_is_not_makes_mail_wait(self) -> None:
        """Of an unknown authority, expired, for another name; nothing is sent, and "must" does not mind."""
        old = pair("mx.example", NOW - datetime.timedelta(days=365 * 20))
        other = pair("other.example")
        for theirs, trust, words in (
            (MX, other.certificate, "certificate is self-signed"),
            (old, old.certificate, "certificate has expired"),
            (other, other.certificate, "certificate is not for mx.example"),
        ):
            sink, port = self.secure_sink(Certificates({OWN: theirs}))
            await self.deferred(self.tls_channel(port, tls="verify", trust=trust), "4.7.5", f"TLS failed: {words}")
            self.assertEqual((sink.log.connections, sink.log.commands[1:]), (1, ["STARTTLS"]))
            found = await self.one(self.tls_channel(port, tls="must", trust=trust))
            self.assertEqual(found.verdict, Verdict.DELIVERED)

    async def test_the_name_is_told_before_the_certificate_is_shown(self) -> None:
        """SNI (RFC 6066 s.3): a server with several certificates shows the right one."""
        _, port = self.secure_sink(Certificates({OWN: pair("other.example"), "mx": MX}))
        found = await self.one(self.tls_channel(port, tls="verify"))
        self.assertEqual(found.verdict, Verdict.DELIVERED)

    async def test_a_destination_may_be_different(self) -> None:
        """And does not share connections with one that is not."""
        sink, port = self.secure_sink(Certificates({OWN: pair("other.example")}))
        table = ChannelConfig(name="tcp_local", kind="smtp", port=1, allow_loopback=True, connections_idle_s=60.0)
        channel = self.made(table, DestinationConfig(pattern="x.example", tls="verify", port=port))
        await self.deferred(channel, "4.7.5", "TLS failed: ")
        self.assertEqual(sink.log.messages, [])

    def test_a_trust_store_that_cannot_be_read_is_told_at_the_start(self) -> None:
        """Missing, or no certificates."""
        for path in ("/nowhere/ca.pem", self.file(b"nothing\n")):
            table = ChannelConfig(name="tcp_local", kind="smtp", tls="verify", tls_ca_file=path)
            error = self.assertRaises(ConfigError, self.made, table)
            self.assertIn("tls_ca_file", str(error))


class ImplicitTests(TlsTestCase):
    """implicit_tls = true."""

    async def test_tls_comes_before_the_greeting(self) -> None:
        """RFC 8314: port 465; and never without."""
        factory = SinkFactory(reactor)
        wrapped = TLSMemoryBIOFactory(Certificates({OWN: MX}), False, factory)
        listening = reactor.listenTCP(0, cast(Any, wrapped), interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        channel = self.tls_channel(cast(IPv4Address, listening.getHost()).port, implicit_tls=True, tls="verify")
        found = await self.one(channel)
        self.assertEqual((found.verdict, found.modifiers), (Verdict.DELIVERED, "ES"))
        self.assertNotIn("STARTTLS", factory.log.commands)
        sink, port = self.secure_sink()
        found = await self.one(self.tls_channel(port, implicit_tls=True))
        self.assertEqual((found.verdict, found.reply.enhanced, sink.log.messages), (Verdict.DEFERRED, "4.7.5", []))


class LoginTests(TlsTestCase):
    """relay_user and relay_password_file."""

    def login_channel(self, port: int, password: bytes = b"pencil\n") -> SmtpChannel:
        return self.tls_channel(port, relay_user="joe", relay_password_file=self.file(password))

    async def test_we_log_in_before_mail_is_sent(self) -> None:
        """Each mechanism; the record says so by A; with the strongest one that is offered."""
        for offered, used in (
            ("PLAIN LOGIN SCRAM-SHA-256", "AUTH SCRAM-SHA-256 "),
            ("LOGIN PLAIN", "AUTH PLAIN AGpvZQBwZW5jaWw="),
            ("LOGIN", "AUTH LOGIN"),
        ):
            sink, port = self.secure_sink(script={"AUTH": offered})
            found = await self.one(self.login_channel(port))
            self.assertEqual((found.verdict, found.modifiers), (Verdict.DELIVERED, "ESA"), found)
            self.assertEqual(sink.log.messages[0].user, "joe")
            self.assertTrue(sink.log.commands[3].startswith(used), sink.log.commands)

    async def test_a_refused_login_makes_mail_wait_and_is_not_tried_again_at_once(self) -> None:
        """The mistake is ours, not the sender's; and the account is not to be locked."""
        for offered in ("PLAIN", "LOGIN", "SCRAM-SHA-256", "CRAM-MD5", ""):
            sink, port = self.secure_sink(script={"AUTH": offered} if offered else {})
            channel = self.login_channel(port, b"wrong")
            found = await self.one(channel)
            self.assertEqual((found.verdict, found.reply.enhanced), (Verdict.DEFERRED, "4.7.8"), found)
            self.assertNotIn("wrong", str(found))
            again = await self.one(channel)
            self.assertEqual((again.verdict, again.retry_after is not None), (Verdict.DEFERRED, True))
            await self.ended(sink)
            self.assertEqual((sink.log.connections, sink.log.messages), (1, []))

    async def test_no_password_goes_out_without_tls(self) -> None:
        """Whatever tls says: not offered, refused, or the handshake fails."""
        for tls, script in ((None, {"EHLO": "250-sink.example\n250 AUTH PLAIN"}), (NoCertificate(), {"AUTH": "PLAIN"})):
            sink, port = self.secure_sink(tls, script=script)
            found = await self.one(self.login_channel(port))
            self.assertEqual((found.verdict, found.reply.enhanced[:3]), (Verdict.DEFERRED, "4.7"))
            await self.ended(sink)
            self.assertEqual([line for line in sink.log.commands if line.startswith(("AUTH", "MAIL"))], [])

    def test_a_password_file_that_cannot_be_used_is_told_at_the_start(self) -> None:
        """Missing, empty, too long, no text."""
        for octets in (None, b"", b"\npencil", b"x" * 2000, b"\xff\xfe"):
            path = "tls/nothing" if octets is None else self.file(octets)
            error = self.assertRaises(ConfigError, self.tls_channel, 1, relay_user="joe", relay_password_file=path)
            self.assertIn("relay_password_file", str(error))


class SeveralRelaysTests(TlsTestCase):
    """relay as a list, and [[destination]] tables for its hosts."""

    def channel(self, *ports: int, **more: Any) -> SmtpChannel:
        """mx.example and b.example, each with a login of its own; a trust store that knows the first one's name."""
        tables = (
            DestinationConfig(pattern="mx.example", user="joe", password_file=self.file(b"pencil\n"), tls="verify"),
            DestinationConfig(pattern="b.example", user="joe", password_file=self.file(b"pencil"), helo="b.us.example"),
        )
        relay = ",".join(f"{host}:{port}" for host, port in zip(("mx.example", "b.example"), ports, strict=True))
        table = ChannelConfig(name="tcp_local", kind="smtp", relay=relay, tls_ca_file=self.file(MX.certificate), **more)
        return self.made(table, *tables)

    async def test_the_first_that_works_gets_the_mail(self) -> None:
        """Its login, TLS and our name are those of its table; the second is not asked."""
        first, port = self.secure_sink(script={"AUTH": "PLAIN"})
        second, other = self.secure_sink(script={"AUTH": "PLAIN"})
        found = await self.one(self.channel(port, other))
        self.assertEqual((found.verdict, found.modifiers, found.remote_mta), (Verdict.DELIVERED, "ESA", "mx.example"))
        self.assertIn("verify) smtp;250", found.diagnostic)
        self.assertIn("EHLO us.example", first.log.commands)
        self.assertEqual((first.log.messages[0].user, second.log.connections), ("joe", 0))

    async def test_in_one_attempt_the_next_one_is_tried_whatever_is_wrong_with_the_first(self) -> None:
        """Nobody is there, a wrong login, a certificate for another name, 421."""
        sink, port = self.secure_sink(script={"AUTH": "PLAIN"})
        for tls, script in (
            (Certificates({OWN: pair("other.example")}), {"AUTH": "PLAIN"}),
            (NoCertificate(), {"AUTH": "PLAIN"}),
            (None, {"AUTH": "CRAM-MD5"}),
            (None, {"CONNECT": "421 4.3.2 not now"}),
            (None, {"CONNECT": "554 5.7.1 go away"}),
        ):
            bad, at = self.secure_sink(tls, script=script)
            before = len(sink.log.messages)
            found = await self.one(self.channel(at, port))
            self.assertEqual((found.verdict, found.remote_mta), (Verdict.DELIVERED, "b.example"), (script, found))
            self.assertEqual((len(sink.log.messages), bad.log.messages), (before + 1, []))
        self.assertIn("EHLO b.us.example", sink.log.commands)

    async def test_a_dead_one_is_passed_over_from_then_on(self) -> None:
        sink, port = self.secure_sink(script={"AUTH": "PLAIN"})
        with socket.create_server(("127.0.0.1", 0)) as free:
            dead = free.getsockname()[1]
        channel = self.channel(dead, port, connections_idle_s=0.0)
        for _ in range(3):
            self.assertEqual((await self.one(channel)).verdict, Verdict.DELIVERED)
        await self.ended(sink)
        unreached = [one for one in self.recorder.records if one.action is Action.UNREACHED]
        self.assertEqual((len(unreached), len(sink.log.messages)), (1, 3))

    async def test_with_none_left_the_mail_waits(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            dead = free.getsockname()[1]
        found = await self.one(self.channel(dead, dead))
        self.assertEqual((found.verdict, found.reply.enhanced), (Verdict.DEFERRED, "4.4.1"))

    async def test_in_any_order_both_get_mail(self) -> None:
        """relay_order = "random"."""
        sinks = [self.secure_sink(script={"AUTH": "PLAIN"}) for _ in range(2)]
        channel = self.channel(*(port for _, port in sinks), relay_order="random", connections_idle_s=0.0)
        for _ in range(30):  # that one of them gets none: 1 in 500,000,000
            await self.one(channel)
        for sink, _ in sinks:
            await self.ended(sink)
        self.assertEqual(sum(len(sink.log.messages) for sink, _ in sinks), 30)
        self.assertTrue(all(sink.log.messages for sink, _ in sinks))

    async def test_tls_from_the_first_octet_for_one_of_them(self) -> None:
        """implicit_tls of its table alone."""
        sink, port = self.sink()
        secure = TLSMemoryBIOFactory(Certificates({OWN: MX}), False, sink)
        listening = reactor.listenTCP(0, cast(Any, secure), interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        at = cast(IPv4Address, listening.getHost()).port
        relay = ChannelConfig(name="c", kind="smtp", relay=f"mx.example:{at},b.example:{port}", tls="may")
        for tables in ((DestinationConfig(pattern="mx.example", implicit_tls=True),), ()):
            channel = self.made(evolve(relay, greeting_timeout_s=0.5), *tables)
            found = await self.one(channel)
            self.assertEqual((found.verdict, found.modifiers), (Verdict.DELIVERED, "ES" if tables else "E"))
            self.assertEqual(found.remote_mta, "mx.example" if tables else "b.example")

    def test_a_password_file_of_a_table_that_cannot_be_used_is_told(self) -> None:
        table = ChannelConfig(name="tcp_local", kind="smtp")
        tables = DestinationConfig(pattern="mx.example", user="joe", password_file="tls/nothing")
        error = self.assertRaises(ConfigError, self.made, table, tables)
        self.assertIn("[[destination]] password_file: /nowhere/tls/nothing", str(error))


class OwnAddressTests(TlsTestCase):
    """source_address and helo."""

    async def test_connections_come_from_the_address_and_name_that_are_chosen(self) -> None:
        """Of the channel, or of the destination's table; the other family's is no matter."""
        for table, here, name in (
            (ChannelConfig(name="c", kind="smtp", source_address=("127.0.0.3",), helo="c.example"), "127.0.0.3", "c"),
            (ChannelConfig(name="c", kind="smtp", source_address=("::1",), helo="c.example"), "127.0.0.1", "c"),
            (ChannelConfig(name="c", kind="smtp"), "127.0.0.1", "us"),
        ):
            sink, port = self.secure_sink()
            channel = self.made(evolve(table, relay=f"mx.example:{port}"))
            self.assertEqual((await self.one(channel)).verdict, Verdict.DELIVERED)
            [opened] = [one for one in self.recorder.records if one.action is Action.OPENED]
            self.assertEqual(opened.transport.split("|")[1], here)
            self.assertIn(f"EHLO {name}.example", sink.log.commands)
        sink, port = self.secure_sink()
        special = DestinationConfig(pattern="mx.example", source_address=("127.0.0.4", "::1"), helo="d.example")
        channel = self.made(ChannelConfig(name="c", kind="smtp", relay=f"mx.example:{port}"), special)
        await self.one(channel)
        self.assertEqual(self.recorder.records[0].transport.split("|")[1], "127.0.0.4")
        self.assertIn("EHLO d.example", sink.log.commands)

    async def test_an_address_that_is_not_ours_makes_mail_wait_and_blames_no_host(self) -> None:
        sink, port = self.secure_sink()
        table = ChannelConfig(name="c", kind="smtp", relay=f"mx.example:{port}", source_address=("192.0.2.1",))
        channel = self.made(table)
        for _ in range(2):
            found = await self.one(channel)
            self.assertEqual((found.verdict, found.reply.code, found.retry_after), (Verdict.DEFERRED, 451, None))
        self.assertIn("from 192.0.2.1  Error: cannot assign requested address", self.recorder.records[0].diagnostic)
        self.assertEqual(sink.log.connections, 0)


class Dialogue(ProcessProtocol):
    """An SMTP server made of C{openssl s_server}: it does the TLS, and we answer its standard input and output."""

    ANSWERS: ClassVar = {b"DATA": b"354 go", b"QUIT": b"221 bye"}

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()
        self.lines: list[bytes] = []
        self._pending = b""
        self._in_data = False

    def connectionMade(self) -> None:
        self.say(b"220 openssl")

    def say(self, line: bytes) -> None:
        cast(IProcessTransport, self.transport).writeToChild(0, line + b"\r\n")

    def outReceived(self, data: bytes) -> None:
        *lines, self._pending = (self._pending + data).split(b"\r\n")
        for line in lines:
            self.lines.append(line)
            if not self._in_data or line == b".":
                self._in_data = line == b"DATA"
                self.say(self.ANSWERS.get(line, b"250 ok"))

    def processEnded(self, reason: Failure) -> None:
        self.ended.callback(None)


class OpensslTests(TlsTestCase):
    """openssl s_server, which is neither ours nor pyOpenSSL."""

    async def server(self, *options: str) -> tuple[Dialogue, int]:
        command = shutil.which("openssl")
        if command is None:
            raise SkipTest("openssl is missing")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
        dialogue = Dialogue()
        certificate, key = self.file(MX.certificate), self.file(MX.key)
        words = ["openssl", "s_server", "-quiet", "-accept", f"127.0.0.1:{port}", "-cert", certificate, "-key", key]
        process = cast(IReactorProcess, reactor).spawnProcess(dialogue, command, [*words, *options], env=None)

        def end() -> Deferred[None]:
            with contextlib.suppress(ProcessExitedAlready):
                process.signalProcess("KILL")
            return dialogue.ended

        self.addCleanup(end)
        while not self.listens(port):
            await deferLater(reactor, 0.01)
        return dialogue, port

    def listens(self, port: int) -> bool:
        """Asked of the kernel: a connection would be taken for the client's."""
        with open("/proc/net/tcp") as table:
            return any(f"0100007F:{port:04X} 00000000:0000 0A" in line for line in table)

    async def test_mail_goes_over_each_version_that_is_good(self) -> None:
        for option, version in (("-tls1_2", "TLSv1.2/ECDHE-"), ("-tls1_3", "TLSv1.3/TLS_")):
            dialogue, port = await self.server(option)
            found = await self.one(self.tls_channel(port, implicit_tls=True, tls="verify"))
            self.assertEqual((found.verdict, found.modifiers), (Verdict.DELIVERED, "ES"), found)
            self.assertIn(version, found.diagnostic)
            self.assertIn(b"MAIL FROM:<a@example.org>", dialogue.lines)

    async def test_old_versions_are_not_spoken(self) -> None:
        """RFC 8996."""
        dialogue, port = await self.server("-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
        found = await self.one(self.tls_channel(port, implicit_tls=True, tls="must"))
        self.assertEqual((found.verdict, found.reply.enhanced), (Verdict.DEFERRED, "4.7.5"), found)
        self.assertIn("TLS failed: ", found.reply.text)
        self.assertEqual(dialogue.lines, [])


class PostfixTests(TlsTestCase):
    """A real Postfix that takes no mail without TLS."""

    async def test_mail_arrives(self) -> None:
        """Verified, octet for octet; Postfix says what it saw in its Received field."""
        chain = self.file(MX.key + MX.certificate)
        more = (
            f"smtpd_tls_chain_files = {chain}\nsmtpd_tls_security_level = encrypt\nsmtpd_tls_received_header = yes\n"
            "virtual_mailbox_domains = x.example"
        )
        postfix = await deferToThread(Postfix, more)
        self.addCleanup(deferToThread, postfix.close)
        channel = self.tls_channel(postfix.port, tls="verify")
        for name in ("8bit", "large", "dots"):
            found = await self.one(channel, MemoryContent(kind(name)))
            used = "ECS" if name == "large" else "ES"
            self.assertEqual((found.verdict, found.modifiers), (Verdict.DELIVERED, used), f"{found} {postfix.log()}")
        while len(postfix.mailbox()) < 3:
            await deferLater(reactor, 0.02)
        mailbox = b"".join(postfix.mailbox())
        self.assertIn(b"using TLSv1.3 with cipher TLS_", mailbox)
        for name in ("8bit", "large", "dots"):
            self.assertIn(kind(name).replace(b"\r\n", b"\n").partition(b"\n\n")[2], mailbox)
