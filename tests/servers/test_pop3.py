"""Tests of the POP3 sessions and their factory, without sockets."""

from __future__ import annotations

import os
from typing import Any, cast

from attrs import evolve
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener, IProtocol, IProtocolFactory, IPushProducer
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from qmailpy.auth.logins import Logins
from qmailpy.config.schema import ListenerConfig, TrustConfig
from qmailpy.disk.files import RealFiles
from qmailpy.interfaces import IHolder
from qmailpy.local.mailstore import MailStore
from qmailpy.servers.pop3 import Pop3Factory
from qmailpy.servers.pop3_session import Pop3Session
from qmailpy.servers.pop3_site import Delays
from qmailpy.servers.tls import Certificates
from qmailpy.testing.held import HeldThreads
from qmailpy.testing.memory_directory import MemoryDirectory
from qmailpy.values import Mailbox

STRANGER, HOME, FRIEND = "198.51.100.9", "127.0.0.1", "192.0.2.4"
LOGIN = b"USER ann@example.org\r\nPASS sesame\r\n"
MESSAGE = b"Subject: x\n\nbody\n.\n"
SENT = b"Subject: x\r\n\r\nbody\r\n..\r\n.\r\n"


class LosableTransport(StringTransport):
    """A transport that tells its session when it has closed, and that can be slow."""

    session: Pop3Session
    aborted = False
    gone = False

    def setTcpKeepAlive(self, enabled: bool) -> None:
        pass

    def startTLS(self, certificates: Certificates) -> None:
        pass

    def loseConnection(self) -> None:
        super().loseConnection()
        self.lose()

    def abortConnection(self) -> None:
        super().abortConnection()
        self.aborted = True
        self.lose()

    def lose(self) -> None:
        if not self.gone:
            self.gone = True
            self.session.connectionLost(Failure(ConnectionDone()))


class SessionTestCase(SynchronousTestCase):
    """A factory over a real store in a temporary directory, a directory of tables and threads that wait when told."""

    listener = ListenerConfig(
        name="pop3", kind="pop3", endpoint="tcp:110", plain_auth=True, connections_per_client=3, command_timeout_s=600.0
    )

    def setUp(self) -> None:
        self.clock = Clock()
        self.directory = MemoryDirectory(
            ("example.org",), ("ann@example.org", "bob@example.org"), passwords={"ann@example.org": b"sesame"}
        )
        self.root = self.mktemp()
        self.box = f"{self.root}/example.org/ann/Maildir"
        for folder in ("new", "cur", "tmp"):
            os.makedirs(f"{self.box}/{folder}")
        for number in range(3):
            self.put(f"new/{number}.a.h", MESSAGE)
        self.in_thread = HeldThreads()
        self.store = MailStore(RealFiles(), self.root, self.in_thread)
        self.logins = Logins(self.clock, self.directory, domain="example.org")
        self.factory = self.make()

    def put(self, name: str, content: bytes) -> None:
        with open(f"{self.box}/{name}", "wb") as target:
            target.write(content)

    def make(self, **listener: Any) -> Pop3Factory:
        return Pop3Factory(
            self.clock,
            hostname="pop.example.org",
            listener=evolve(self.listener, **listener),
            trust=TrustConfig(networks=("192.0.2.0/24",)),
            logins=self.logins,
            store=self.store,
            certificates=None,
        )

    def connect(self, ip: str = HOME, factory: Pop3Factory | None = None) -> LosableTransport:
        session = (factory or self.factory).buildProtocol(None)
        assert isinstance(session, Pop3Session)
        transport = LosableTransport(
            hostAddress=IPv4Address("TCP", "203.0.113.1", 110), peerAddress=IPv4Address("TCP", ip, 4321)
        )
        transport.session = session
        session.makeConnection(transport)
        return transport

    def ask(self, transport: LosableTransport, octets: bytes) -> bytes:
        transport.clear()
        transport.session.dataReceived(octets)
        return bytes(transport.value())

    def entered(self, **listener: Any) -> LosableTransport:
        transport = self.connect(factory=self.make(**listener) if listener else None)
        self.assertIn(b"+OK 3 messages", self.ask(transport, LOGIN))
        return transport

    def there(self) -> list[str]:
        return sorted(f"{folder}/{name}" for folder in ("new", "cur") for name in os.listdir(f"{self.box}/{folder}"))


class LoginTests(SessionTestCase):
    def test_the_parts_provide_what_they_say(self) -> None:
        verifyObject(IProtocolFactory, self.factory)
        session = self.connect().session
        for interface in (IProtocol, IHandshakeListener, IPushProducer, IHolder):
            verifyObject(interface, session)

    def test_a_session(self) -> None:
        transport = self.connect()
        self.assertEqual(transport.value(), b"+OK pop.example.org POP3 qmailpy\r\n")
        said = self.ask(transport, LOGIN + b"STAT\r\nLIST 1\r\nRETR 1\r\nDELE 1\r\nQUIT\r\n")
        self.assertEqual(
            said,
            b"+OK Password, please\r\n+OK 3 messages\r\n+OK 3 69\r\n+OK 1 23\r\n+OK 23 octets\r\n"
            + SENT
            + b"+OK Marked as deleted\r\n+OK Bye\r\n",
        )
        self.assertTrue(transport.disconnecting)
        self.assertEqual(self.there(), ["new/1.a.h", "new/2.a.h"])
        self.assertEqual(len(self.store), 0)

    def test_a_name_without_its_domain(self) -> None:
        self.assertIn(b"+OK 3 messages", self.ask(self.connect(), b"USER ann\r\nPASS sesame\r\n"))

    def test_unknown_and_wrong_look_the_same(self) -> None:
        transport = self.connect()
        wrong = self.ask(transport, b"USER ann@example.org\r\nPASS x\r\n")
        self.assertEqual(self.ask(transport, b"USER nobody@example.org\r\nPASS x\r\n"), wrong)
        self.assertTrue(wrong.endswith(b"-ERR [AUTH] Wrong name or password\r\n"))

    def test_accounts_that_may_not_fetch(self) -> None:
        """No word tells a stranger that there is such an account; who knows the password is told."""
        wrong = self.ask(self.connect(), b"USER bob@example.org\r\nPASS x\r\n").split(b"\r\n")[1]
        for changes, reason in (
            ({"status": "noaccess"}, wrong),
            ({"status": "disabled", "active": False}, wrong),
            ({"status": "nopop"}, b"-ERR [SYS/PERM] POP3 is not allowed for this account"),
            ({"features": frozenset({"imap"})}, b"-ERR [SYS/PERM] POP3 is not allowed for this account"),
        ):
            ann = Mailbox(address="ann@example.org", path="example.org/ann/Maildir")
            self.directory.entries[ann.address] = evolve(ann, **cast(Any, changes))
            self.logins = Logins(self.clock, self.directory, domain="example.org")
            for password, answer in ((b"sesame", reason), (b"x", wrong)):
                transport = self.connect(factory=self.make())
                said = self.ask(transport, b"USER ann@example.org\r\nPASS " + password + b"\r\n")
                self.assertEqual(said.split(b"\r\n")[1], answer, (changes, password))
                transport.lose()

    def test_injected_filters_are_only_names(self) -> None:
        for name in (b"*)(uid=*", b"ann@example.org,o=x", b"a\\2a", b"%s", b"../ann"):
            said = self.ask(self.connect(), b"USER " + name + b"\r\nPASS sesame\r\n")
            self.assertIn(b"\r\n-ERR [AUTH]", said)
            self.clock.advance(3600)  # idle sessions end, failures fade

    def test_passwords_in_clear_are_taken_from_this_machine_alone(self) -> None:
        """plain_auth is about loopback; trust in a network does not make its wires safe."""
        for ip in (STRANGER, FRIEND):
            self.assertEqual(self.ask(self.connect(ip), b"USER a\r\n")[:11], b"-ERR [AUTH]")
        self.assertEqual(self.ask(self.connect(HOME), b"USER a\r\n")[:3], b"+OK")
        self.assertEqual(self.ask(self.connect(HOME, self.make(plain_auth=False)), b"USER a\r\n")[:11], b"-ERR [AUTH]")

    def test_a_directory_that_is_away(self) -> None:
        self.directory.away = True
        self.assertTrue(self.ask(self.connect(), LOGIN).split(b"\r\n")[1].startswith(b"-ERR [SYS/TEMP]"))

    def test_a_mailbox_that_is_in_use(self) -> None:
        first = self.entered()
        self.assertIn(b"-ERR [IN-USE]", self.ask(self.connect(), LOGIN))
        self.ask(first, b"QUIT\r\n")
        self.entered()

    def test_a_session_whose_client_is_silent_gives_way(self) -> None:
        first = self.entered()
        self.ask(first, b"DELE 1\r\n")
        self.clock.advance(121)
        self.entered()
        self.assertTrue(first.aborted)
        self.assertEqual(len(self.there()), 3)

    def test_a_connection_that_is_lost_lets_go_of_the_mailbox(self) -> None:
        transport = self.entered()
        self.ask(transport, b"DELE 1\r\n")
        transport.lose()
        self.entered()
        self.assertEqual(len(self.there()), 3)

    def test_a_connection_that_is_lost_while_the_mailbox_opens(self) -> None:
        self.in_thread.hold()
        transport = self.connect()
        self.ask(transport, LOGIN)
        transport.lose()
        self.in_thread.go_on()
        self.assertEqual(len(self.store), 0)

    def test_login_delay(self) -> None:
        """RFC 2449 s.6.5."""
        factory = self.make(login_delay_s=60.0)
        first = self.connect(factory=factory)
        self.assertIn(b"LOGIN-DELAY 60\r\n", self.ask(first, b"CAPA\r\n"))
        self.ask(first, LOGIN + b"QUIT\r\n")
        self.assertIn(b"-ERR [LOGIN-DELAY]", self.ask(self.connect(factory=factory), LOGIN))
        self.clock.advance(60)
        self.assertIn(b"+OK 3 messages", self.ask(self.connect(factory=factory), LOGIN))

    def test_login_delays_are_forgotten_when_they_are_over(self) -> None:
        delays = Delays(self.clock, 10.0, most=3)
        for number in range(9):
            delays.note(str(number))
        self.assertEqual(len(delays), 3)
        self.clock.advance(10)
        delays.note("x")
        self.assertEqual(len(delays), 1)


class MailboxTests(SessionTestCase):
    def test_a_listing_and_messages_wait_for_a_slow_client(self) -> None:
        """Nothing is made while the transport is full, and nothing is lost."""
        transport = self.connect()
        self.put("new/9.big.h", b"x" * 5_000_000 + b"\n")
        self.ask(transport, LOGIN)
        transport.clear()
        transport.session.dataReceived(b"NOOP\r\n")
        transport.session.pauseProducing()
        transport.session.dataReceived(b"RETR 4\r\nUIDL\r\nNOOP\r\n")
        before = len(transport.value())
        self.assertLess(before, 300_000)
        transport.session.resumeProducing()
        said = transport.value()
        self.assertEqual(said.count(b"x"), 5_000_000)
        self.assertTrue(said.endswith(b"\r\n4 9.big.h\r\n.\r\n+OK\r\n"))

    def test_each_piece_waits_for_the_one_before(self) -> None:
        self.put("new/9.big.h", b"x" * 5_000_000 + b"\n")
        transport = self.connect()
        self.ask(transport, LOGIN)
        pieces = 0
        transport.session.pauseProducing()
        transport.session.dataReceived(b"RETR 4\r\n")
        while True:
            before = len(transport.value())
            transport.clear()
            transport.session.resumeProducing()
            transport.session.pauseProducing()
            pieces += 1
            self.assertLess(before, 5_100_000)
            if transport.value().endswith(b"\r\n.\r\n") or pieces > 50:
                break
        self.assertTrue(transport.value().endswith(b"\r\n.\r\n"))

    def test_a_message_that_is_gone(self) -> None:
        transport = self.entered()
        os.unlink(f"{self.box}/new/1.a.h")
        self.assertEqual(self.ask(transport, b"RETR 2\r\n"), b"-ERR The message was removed by another program\r\n")
        self.assertEqual(self.ask(transport, b"RETR 3\r\n"), b"+OK 23 octets\r\n" + SENT)

    def test_a_message_that_cannot_be_read(self) -> None:
        transport = self.entered()
        os.unlink(f"{self.box}/new/1.a.h")
        os.mkdir(f"{self.box}/new/1.a.h")
        self.assertEqual(self.ask(transport, b"RETR 2\r\n")[:15], b"-ERR [SYS/TEMP]")

    def test_a_message_that_cannot_be_read_on_is_not_passed_for_whole(self) -> None:
        self.put("new/9.big.h", b"x" * 1_000_000 + b"\n")
        transport = self.connect()
        self.ask(transport, LOGIN)
        reads = 0
        real = RealFiles.pread

        def pread(files: RealFiles, handle: int, length: int, offset: int) -> bytes:
            nonlocal reads
            reads += 1
            if reads > 2:
                raise OSError(5, "Input/output error")
            return real(files, handle, length, offset)

        self.patch(RealFiles, "pread", pread)
        said = self.ask(transport, b"RETR 4\r\n")
        self.assertTrue(transport.aborted)
        self.assertFalse(said.endswith(b"\r\n.\r\n"))

    def test_what_was_deleted_but_stays_is_told(self) -> None:
        transport = self.entered()
        os.unlink(f"{self.box}/new/1.a.h")
        os.mkdir(f"{self.box}/new/1.a.h")
        said = self.ask(transport, b"DELE 1\r\nDELE 2\r\nQUIT\r\n")
        self.assertTrue(said.endswith(b"-ERR [SYS/TEMP] Some deleted messages were not removed\r\n"))
        self.assertEqual(self.there(), ["new/1.a.h", "new/2.a.h"])

    def test_what_was_retrieved_is_seen_behind_quit(self) -> None:
        self.ask(self.entered(), b"RETR 1\r\nTOP 2 0\r\nQUIT\r\n")
        self.assertEqual(self.there(), ["cur/0.a.h:2,S", "new/1.a.h", "new/2.a.h"])

    def test_what_follows_a_listing_is_answered_behind_it(self) -> None:
        said = self.ask(self.entered(), b"LIST\r\nUIDL\r\nNOOP\r\n")
        self.assertEqual((said.count(b"\r\n.\r\n"), said[-10:]), (2, b"a.h\r\n.\r\n+OK\r\n"[-10:]))

    def test_pipelined_commands_wait_for_their_turn(self) -> None:
        transport = self.entered()
        self.in_thread.hold()
        self.assertEqual(self.ask(transport, b"RETR 2\r\nSTAT\r\n"), b"")
        self.assertEqual(self.ask(transport, b"NOOP\r\n"), b"")
        self.assertEqual(transport.producerState, "paused")
        self.in_thread.go_on()
        self.assertEqual(transport.value(), b"+OK 23 octets\r\n" + SENT + b"+OK 3 69\r\n+OK\r\n")
        self.assertEqual(transport.producerState, "producing")


class EndTests(SessionTestCase):
    def handshaking(self) -> LosableTransport:
        """A connection to an implicit port whose client says nothing."""
        factory = self.make(tls="implicit")
        factory.site.certificates = cast(Certificates, object())
        return self.connect(factory=factory)

    def test_a_handshake_that_does_not_end_is_given_up(self) -> None:
        """The time for commands is ten minutes here; TLS is to be there after one."""
        transport = self.handshaking()
        self.clock.advance(59)
        self.assertFalse(transport.aborted)
        self.clock.advance(2)
        self.assertTrue(transport.aborted)
        self.assertEqual(transport.value(), b"")

    def test_a_stop_does_not_wait_for_handshakes(self) -> None:
        """There is no way to tell such a client anything."""
        transport = self.handshaking()
        transport.session.stop()
        self.assertTrue(transport.aborted)
        self.assertEqual(transport.value(), b"")

    def test_a_silent_client_is_cut_off_without_the_update(self) -> None:
        """RFC 1939 s.3: without a response, and nothing is removed."""
        transport = self.entered()
        self.ask(transport, b"DELE 1\r\n")
        transport.clear()
        self.clock.advance(599)
        self.assertFalse(transport.gone)
        self.clock.advance(1)
        self.assertTrue(transport.gone)
        self.assertEqual((transport.value(), len(self.there())), (b"", 3))

    def test_an_octet_now_and_then_does_not_hold_a_session(self) -> None:
        """A line must be whole within the limit for commands; each whole one begins it anew."""
        transport = self.entered()
        for _ in range(10):
            self.clock.advance(300)
            self.assertIn(b"+OK", self.ask(transport, b"NOOP\r\n"))
            self.clock.advance(200)
            self.ask(transport, b"LIST\r\n")
        for _ in range(61):
            if not transport.gone:
                transport.session.dataReceived(b"N")
                self.clock.advance(10)
        self.assertTrue(transport.gone)

    def test_a_client_that_takes_nothing_is_cut_off(self) -> None:
        transport = self.entered(data_timeout_s=50.0)
        transport.session.pauseProducing()
        transport.session.dataReceived(b"UIDL\r\n")
        for _ in range(20):
            self.clock.advance(5)
        self.assertTrue(transport.aborted)

    def test_too_many_connections(self) -> None:
        for _ in range(3):
            self.connect(STRANGER)
        refused = self.connect(STRANGER)
        self.assertEqual(refused.value(), b"-ERR [SYS/TEMP] Too many connections\r\n")
        self.assertTrue(refused.gone)
        for _ in range(5):
            self.assertFalse(self.connect(FRIEND).gone)

    def test_a_stop_waits_for_what_is_under_way(self) -> None:
        idle, busy = self.connect(), self.entered()
        self.in_thread.hold()
        busy.clear()
        busy.session.dataReceived(b"RETR 1\r\nDELE 1\r\nQUIT\r\n")
        done = self.factory.drain()
        self.assertTrue(idle.gone)
        self.assertNoResult(done)
        self.in_thread.go_on()
        self.successResultOf(done)
        self.assertTrue(busy.value().startswith(b"+OK 23 octets\r\n" + SENT))
        self.assertEqual(self.connect().value(), b"-ERR [SYS/TEMP] Server is stopping\r\n")

    def test_a_stop_ends_a_session_behind_the_command_it_is_at(self) -> None:
        transport = self.entered()
        self.in_thread.hold()
        transport.clear()
        transport.session.dataReceived(b"RETR 1\r\n")
        done = self.factory.drain()
        self.assertNoResult(done)
        self.in_thread.go_on()
        self.successResultOf(done)
        self.assertEqual(transport.value(), b"+OK 23 octets\r\n" + SENT + b"-ERR [SYS/TEMP] Server is stopping\r\n")

    def test_a_slow_disk_is_not_a_silent_client(self) -> None:
        transport = self.entered()
        self.in_thread.hold()
        transport.clear()
        transport.session.dataReceived(b"RETR 1\r\n")
        for _ in range(30):
            self.clock.advance(100)
        self.in_thread.go_on()
        self.assertEqual(transport.value(), b"+OK 23 octets\r\n" + SENT)

    def test_a_stop_does_not_wait_for_ever(self) -> None:
        transport = self.entered()
        self.in_thread.hold()
        transport.session.dataReceived(b"RETR 1\r\n")
        done = self.factory.drain(10.0)
        self.clock.advance(10)
        self.successResultOf(done)
        self.in_thread.go_on()
        self.assertEqual(len(self.store), 0)

    def test_a_bug_ends_the_session_and_is_logged(self) -> None:
        transport = self.entered()
        self.patch(self.store, "forget", lambda path: None)
        drop = transport.session._drop
        self.patch(drop, "fetch", lambda index, lines: 1 / 0)
        transport.session.dataReceived(b"RETR 1\r\n")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertTrue(transport.aborted)

    def test_new_settings_are_taken(self) -> None:
        transport = self.connect()
        self.factory.reconfigure(evolve(self.listener, plain_auth=False, login_delay_s=5.0), TrustConfig(networks=()))
        self.assertEqual(self.ask(self.connect(), b"USER a\r\n")[:11], b"-ERR [AUTH]")
        self.assertIn(b"LOGIN-DELAY 5", self.ask(self.connect(), b"CAPA\r\n"))
        self.assertEqual(self.ask(transport, b"USER a\r\n")[:3], b"+OK")
