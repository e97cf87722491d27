"""Tests of the POP3 core: RFC 1939 and its extensions, told as what goes in and what comes out."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Sequence

from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.wire import pop3_commands as commands
from qmailpy.wire import sasl
from qmailpy.wire.pop3 import BACKLOG_OCTETS, Pop3Core
from qmailpy.wire.pop3_events import (
    BadCommand,
    Ended,
    Event,
    FetchAsked,
    Fronted,
    LeaveAsked,
    LoginAsked,
    LoginFailed,
    LoginProven,
    SecretAsked,
    TlsAsked,
)
from qmailpy.wire.pop3_message import END
from qmailpy.wire.pop3_service import Limits, Service
from qmailpy.wire.pop3_state import VERBS

SECRET = b"geheim mit blank"
HEAD = b"Subject: x\r\n\r\n"


@frozen
class Box:
    """Messages of these sizes."""

    sizes: Sequence[int]

    def uid(self, index: int) -> str:
        return f"uid{index + 1}"

    def at_hand(self, index: int) -> bytes | None:
        return None


def answered(core: Pop3Core, octets: bytes, box: Box = Box((120, 200, 300))) -> bytes:
    """Feed a session whose questions are all answered at once with yes; what it says."""
    said = b""
    events = core.receive(octets)
    while True:
        for event in events:
            answer(core, event, box)
        said += core.take()
        while core.listing:
            said += core.take()
        if core.waiting or not (events := core.proceed()):
            said += core.take()
            if not core.listing:
                return said


def answer(core: Pop3Core, event: Event, box: Box) -> None:
    if isinstance(event, LoginAsked):
        if event.password == SECRET:
            core.enter(box)
        else:
            core.refuse("[AUTH] No", failed=True)
    elif isinstance(event, LoginFailed):
        core.refuse("Malformed" if event.malformed else "[AUTH] No", failed=True)
    elif isinstance(event, LoginProven):
        core.enter(box)
    elif isinstance(event, SecretAsked):
        core.secret(sasl.imagined(b"key", event.login))
    elif isinstance(event, FetchAsked):
        octets = HEAD + b"body %d\r\n" % event.index if event.lines is None else HEAD
        core.begin(box.sizes[event.index])
        core.body(octets + END)
        core.end(event.index, whole=event.lines is None)
    elif isinstance(event, LeaveAsked):
        core.left()


def entered(sizes: Sequence[int] = (120, 200, 300), **limits: int) -> Pop3Core:
    """A session in the TRANSACTION state."""
    core = Pop3Core(Service(hostname="pop.example.org", limits=Limits(**limits)), plain=True)
    answered(core, b"USER a@example.org\r\nPASS " + SECRET + b"\r\n", Box(sizes))
    assert core.entered
    return core


class FrontTests(SynchronousTestCase):
    """Clients that may say who is behind them."""

    def setUp(self) -> None:
        self.core = Pop3Core(Service(hostname="pop.example.org"), plain=True)
        self.core.front = True

    def test_they_are_told_so_as_dovecot_does(self) -> None:
        self.core.greet()
        self.assertEqual(self.core.take(), b"+OK [XCLIENT] pop.example.org POP3 qmailpy\r\n")

    def test_who_is_behind(self) -> None:
        for said, expected in (
            (b"XCLIENT ADDR=192.0.2.1 PORT=4711 SESSION=s+1 TTL=5\r\n", Fronted("192.0.2.1", 5)),
            (b"xclient addr=::ffff:192.0.2.1\r\n", Fronted("192.0.2.1", 0)),
            (b"XCLIENT ADDR=2001:DB8::1 TTL=0\r\n", Fronted("2001:db8::1", 0)),
            (b"XCLIENT TTL=1\r\n", Fronted("", 1)),
        ):
            self.assertEqual(self.core.receive(said), [expected])
            self.assertEqual(self.core.take(), b"+OK Understood\r\n")

    def test_what_is_none(self) -> None:
        for said in (b"ADDR=", b"ADDR=x", b"ADDR=192.0.2.1 TTL=-1", b"TTL=99999999", b"ADDR=192.0.2.1 TTL="):
            found = self.core.receive(b"XCLIENT " + said + b"\r\n")
            self.assertIsInstance(found[0], BadCommand, said)
            self.assertTrue(self.core.take().startswith(b"-ERR Syntax"))

    def test_others_may_not(self) -> None:
        self.core.front = False
        self.assertIsInstance(self.core.receive(b"XCLIENT ADDR=192.0.2.1\r\n")[0], BadCommand)
        self.assertEqual(self.core.take(), b"-ERR XCLIENT is not for you\r\n")

    def test_only_before_the_login(self) -> None:
        core = entered()
        core.front = True
        self.assertIsInstance(core.receive(b"XCLIENT ADDR=192.0.2.1\r\n")[0], BadCommand)

    def test_behind_a_login_elsewhere_nothing_is_read(self) -> None:
        """What has come early is handed over, as it is."""
        events = self.core.receive(b"USER a@example.org\r\nPASS x\r\nSTAT\r\nRE")
        self.assertIsInstance(events[-1], LoginAsked)
        self.core.receive(b"TR 1\r\n")
        self.core.take()
        self.assertEqual(self.core.handed_on(b"+OK in\r\n"), b"STAT\r\nRETR 1\r\n")
        self.assertEqual(self.core.take(), b"+OK in\r\n")
        self.assertTrue(self.core.waiting)


class CoreTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.core = Pop3Core(Service(hostname="pop.example.org", stls=True, scram=True), plain=True)

    def say(self, octets: bytes) -> bytes:
        return answered(self.core, octets)


class LoginTests(CoreTestCase):
    """The AUTHORIZATION state."""

    def test_the_greeting_has_no_apop_stamp(self) -> None:
        self.core.greet()
        self.assertEqual(self.core.take(), b"+OK pop.example.org POP3 qmailpy\r\n")

    def test_user_and_pass(self) -> None:
        (event,) = self.core.receive(b"user A@Example.org\r\npass geheim mit blank\r\n")
        self.assertEqual(event, LoginAsked(login="A@Example.org", password=SECRET))
        self.core.enter(Box((1, 2)))
        self.assertTrue(self.core.entered)
        self.assertEqual(self.core.take(), b"+OK Password, please\r\n+OK 2 messages\r\n")

    def test_a_password_keeps_its_blanks(self) -> None:
        """RFC 1939 s.7: PASS has one argument, blanks and all."""
        (event,) = self.core.receive(b"USER a\r\nPASS  two  blanks \r\n")
        assert isinstance(event, LoginAsked)
        self.assertEqual(event.password, b" two  blanks ")

    def test_a_name_in_utf8(self) -> None:
        (event,) = self.core.receive("USER ü@example.org\r\nPASS ß\r\n".encode())
        self.assertEqual(event, LoginAsked(login="ü@example.org", password="ß".encode()))

    def test_pass_comes_straight_behind_user(self) -> None:
        self.assertEqual(self.say(b"PASS x\r\n"), b"-ERR USER first\r\n")
        self.assertTrue(self.say(b"USER a\r\nCAPA\r\nPASS x\r\n").endswith(b".\r\n-ERR USER first\r\n"))
        self.assertEqual(
            self.say(b"USER a\r\nPASS no\r\nPASS yes\r\n"),
            b"+OK Password, please\r\n-ERR [AUTH] No\r\n-ERR USER first\r\n",
        )

    def test_passwords_are_refused_in_clear(self) -> None:
        """The refusal comes to USER, before the password is sent."""
        self.core.plain = False
        for octets in (b"USER a\r\n", b"AUTH PLAIN\r\n", b"AUTH LOGIN AAAA\r\n"):
            self.assertEqual(self.say(octets), b"-ERR [AUTH] Passwords are taken under TLS only: use STLS\r\n")
        self.assertEqual(self.say(b"PASS x\r\n"), b"-ERR USER first\r\n")
        self.assertNotIn(b"USER\r\n", self.say(b"CAPA\r\n").replace(b"UTF8 USER\r\n", b""))

    def test_failed_logins_end_the_session(self) -> None:
        self.assertFalse(self.core.closed)
        said = self.say(b"USER a\r\nPASS no\r\n" * 6)
        self.assertEqual(said.count(b"-ERR [AUTH] No\r\n"), 5)
        self.assertTrue(said.endswith(b"-ERR [AUTH] Too many failed logins\r\n"))
        self.assertTrue(self.core.closed)

    def test_a_directory_that_is_away_is_no_failed_login(self) -> None:
        for _ in range(7):
            self.core.receive(b"USER a\r\nPASS x\r\n")
            self.core.refuse("[SYS/TEMP] Later")
        self.assertFalse(self.core.closed)

    def test_commands_without_a_login_are_bounded(self) -> None:
        said = self.say(b"CAPA\r\n" * 300)
        self.assertEqual(said.count(b"+OK"), 100)
        self.assertTrue(self.core.closed)

    def test_what_needs_a_mailbox_waits_for_the_login(self) -> None:
        for verb in (b"STAT", b"LIST", b"UIDL", b"RETR 1", b"TOP 1 0", b"DELE 1", b"RSET", b"NOOP"):
            self.assertEqual(self.say(verb + b"\r\n"), b"-ERR Log in first\r\n")

    def test_quit_before_the_login(self) -> None:
        events = self.core.receive(b"QUIT\r\nNOOP\r\n")
        self.assertEqual(events, [Ended("")])
        self.assertEqual(self.core.take(), b"+OK Bye\r\n")

    def test_there_is_no_second_login(self) -> None:
        core = entered()
        for verb in (b"USER a", b"PASS b", b"AUTH PLAIN", b"STLS", b"UTF8"):
            self.assertEqual(answered(core, verb + b"\r\n"), b"-ERR Only before the login\r\n")

    def test_secrets_are_not_in_the_events_for_the_log(self) -> None:
        """What a client gets wrong may be a password: PASS in the wrong place, or one that is sent alone."""
        events = self.core.receive(b"PASS secret\r\nsecret\r\nAUTH PLAIN secret\r\nAUTH " + b"s" * 600 + b"\r\n")
        self.assertEqual(
            [event.verb for event in events if isinstance(event, BadCommand)], ["PASS", "?", "AUTH", "AUTH"]
        )
        (login,) = self.core.receive(b"USER a\r\nPASS secret\r\n")
        self.assertNotIn("secret", repr([*events, login]))


class AuthTests(CoreTestCase):
    """RFC 5034."""

    def test_plain_with_an_initial_response(self) -> None:
        """The example of RFC 5034 s.6."""
        (event,) = self.core.receive(b"AUTH PLAIN dGVzdAB0ZXN0AHRlc3Q=\r\n")
        self.assertEqual(event, LoginAsked(login="test", password=b"test", authzid="test", mechanism="PLAIN"))

    def test_plain_with_a_challenge(self) -> None:
        self.assertEqual(self.say(b"auth plain\r\n"), b"+ \r\n")
        (event,) = self.core.receive(base64.b64encode(b"\0a\0b") + b"\r\n")
        self.assertEqual(event, LoginAsked(login="a", password=b"b", mechanism="PLAIN"))
        self.core.refuse("[AUTH] No")
        self.assertEqual(self.say(b"STAT\r\n"), b"-ERR [AUTH] No\r\n-ERR Log in first\r\n")

    def test_an_exchange_can_be_cancelled(self) -> None:
        self.assertEqual(
            self.say(b"AUTH PLAIN\r\n*\r\nQUIT\r\n"), b"+ \r\n-ERR Authentication cancelled\r\n+OK Bye\r\n"
        )

    def test_garbage_ends_the_exchange(self) -> None:
        for garbage in (b"!!!", b"=", b"AAA", b"", b"\0", b"A" * 13000):
            self.setUp()
            said = self.say(b"AUTH PLAIN\r\n" + garbage + b"\r\nCAPA\r\n")
            self.assertIn(b"\r\n-ERR ", said)
            self.assertTrue(said.endswith(b"IMPLEMENTATION qmailpy\r\n.\r\n"), said)

    def test_a_mechanism_we_do_not_have(self) -> None:
        self.assertEqual(self.say(b"AUTH CRAM-MD5\r\n"), b"-ERR No such mechanism\r\n")
        self.assertEqual(self.say(b"AUTH SCRAM-SHA-256-PLUS\r\n"), b"-ERR No such mechanism\r\n")

    def test_without_an_argument_it_lists_the_mechanisms(self) -> None:
        self.assertEqual(self.say(b"AUTH\r\n"), b"+OK Mechanisms\r\nSCRAM-SHA-256\r\nPLAIN\r\nLOGIN\r\n.\r\n")

    def test_scram(self) -> None:
        """RFC 7677 s.3, in the frame of RFC 5034, with our own nonce."""
        salt = b"0123456789abcdef"
        secret = sasl.derive(b"pencil", salt, 4096)
        assert secret is not None
        self.core.plain = False
        first = b"n=user,r=rOprNGfwEbeRWgbNEkqO"
        (event,) = self.core.receive(b"AUTH SCRAM-SHA-256 " + base64.b64encode(b"n,," + first) + b"\r\n")
        self.assertEqual(event, SecretAsked(login="user"))
        self.core.secret(secret)
        challenge = base64.b64decode(self.core.take()[2:])
        nonce = challenge.split(b",")[0]
        without = b"c=biws," + nonce
        salted = hashlib.pbkdf2_hmac("sha256", b"pencil", salt, 4096)
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        signature = hmac.digest(hashlib.sha256(client_key).digest(), b",".join((first, challenge, without)), "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        final = without + b",p=" + base64.b64encode(proof)
        self.assertEqual(self.core.receive(base64.b64encode(final) + b"\r\n"), [])
        self.assertTrue(base64.b64decode(self.core.take()[2:]).startswith(b"v="))
        (proven,) = self.core.receive(b"\r\n")
        self.assertEqual(proven, LoginProven(login="user", mechanism="SCRAM-SHA-256"))
        self.core.enter(Box((1,)))
        self.assertEqual(self.core.take(), b"+OK 1 messages\r\n")

    def test_a_wrong_proof(self) -> None:
        self.core.receive(b"AUTH SCRAM-SHA-256 " + base64.b64encode(b"n,,n=user,r=abc") + b"\r\n")
        self.core.secret(sasl.imagined(b"key", "user"))
        nonce = base64.b64decode(self.core.take()[2:]).split(b",")[0]
        final = b"c=biws," + nonce + b",p=" + base64.b64encode(bytes(32))
        (event,) = self.core.receive(base64.b64encode(final) + b"\r\n")
        assert isinstance(event, LoginFailed)
        self.assertEqual((event.login, event.malformed), ("user", False))
        self.core.refuse("[AUTH] No", failed=True)
        self.assertEqual(self.core.take(), b"-ERR [AUTH] No\r\n")


class TlsTests(CoreTestCase):
    """RFC 2595 s.4."""

    def test_stls_forgets_what_was_said_before(self) -> None:
        self.assertEqual(self.core.receive(b"USER a\r\nSTLS\r\n"), [TlsAsked()])
        self.assertEqual(self.core.take(), b"+OK Password, please\r\n+OK Begin TLS\r\n")
        self.core.secured()
        self.assertEqual(self.say(b"PASS x\r\nSTLS\r\n"), b"-ERR USER first\r\n-ERR TLS is on already\r\n")
        self.assertNotIn(b"STLS", self.say(b"CAPA\r\n"))

    def test_what_is_injected_behind_stls_is_never_carried_out(self) -> None:
        """CVE-2011-0411: the session ends, in one segment or in two."""
        events = self.core.receive(b"STLS\r\nUSER a\r\nPASS b\r\n")
        self.assertEqual(events, [Ended("octets in clear behind STLS")])
        self.assertNotIn(b"+OK", self.core.take())
        self.setUp()
        self.core.receive(b"STLS\r\n")
        self.assertEqual(self.core.receive(b"USER a\r\n"), [Ended("octets in clear behind STLS")])

    def test_half_a_command_behind_stls(self) -> None:
        self.assertEqual(self.core.receive(b"STLS\r\nUS"), [Ended("octets in clear behind STLS")])

    def test_there_is_no_stls_without_a_certificate(self) -> None:
        core = Pop3Core(Service(hostname="pop.example.org"), plain=True)
        self.assertEqual(answered(core, b"STLS\r\n"), b"-ERR TLS is not to be had\r\n")
        self.assertNotIn(b"STLS", answered(core, b"CAPA\r\n"))

    def test_stls_comes_before_utf8(self) -> None:
        self.assertEqual(self.say(b"UTF8\r\nSTLS\r\n"), b"+OK UTF8 it is\r\n-ERR STLS comes before UTF8\r\n")

    def test_with_channel_bindings_there_is_plus(self) -> None:
        self.core.secure = True
        self.core.bindings = {sasl.TLS_EXPORTER: b"x"}
        self.assertIn(b"SASL SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN\r\n", self.say(b"CAPA\r\n"))


class CapabilityTests(CoreTestCase):
    """RFC 2449, RFC 6856."""

    def test_the_log_knows_every_command(self) -> None:
        self.assertEqual(set(commands._COMMANDS), VERBS)

    def test_capa_before_the_login(self) -> None:
        lines = self.say(b"CAPA\r\n").split(b"\r\n")
        self.assertEqual(lines[0][:3], b"+OK")
        for capability in (
            *(b"TOP", b"UIDL", b"USER", b"RESP-CODES", b"AUTH-RESP-CODE", b"PIPELINING", b"EXPIRE NEVER"),
            *(b"LOGIN-DELAY 0", b"UTF8 USER", b"LANG", b"STLS", b"SASL SCRAM-SHA-256 PLAIN LOGIN"),
            b"IMPLEMENTATION qmailpy",
        ):
            self.assertIn(capability, lines)

    def test_capa_behind_the_login_has_nothing_of_logins(self) -> None:
        lines = answered(entered(), b"CAPA\r\n").split(b"\r\n")
        self.assertIn(b"UIDL", lines)
        for capability in (b"STLS", b"USER"):
            self.assertNotIn(capability, lines)

    def test_lang(self) -> None:
        self.assertEqual(self.say(b"LANG\r\n"), b"+OK Languages\r\nen English\r\n.\r\n")
        self.assertEqual(self.say(b"LANG en\r\nLANG *\r\nLANG de\r\n").count(b"+OK"), 2)


class MailboxTests(SynchronousTestCase):
    """The TRANSACTION state (RFC 1939 s.5, s.7)."""

    def setUp(self) -> None:
        self.core = entered()

    def say(self, octets: bytes) -> bytes:
        return answered(self.core, octets)

    def test_stat_and_list(self) -> None:
        self.assertEqual(self.say(b"STAT\r\n"), b"+OK 3 620\r\n")
        self.assertEqual(self.say(b"LIST\r\n"), b"+OK 3 messages (620 octets)\r\n1 120\r\n2 200\r\n3 300\r\n.\r\n")
        self.assertEqual(self.say(b"LIST 2\r\n"), b"+OK 2 200\r\n")

    def test_uidl(self) -> None:
        self.assertEqual(self.say(b"UIDL 3\r\n"), b"+OK 3 uid3\r\n")
        self.assertEqual(self.say(b"UIDL\r\n").split(b"\r\n", 1)[1], b"1 uid1\r\n2 uid2\r\n3 uid3\r\n.\r\n")

    def test_retr(self) -> None:
        self.assertEqual(self.say(b"RETR 2\r\n"), b"+OK 200 octets\r\nSubject: x\r\n\r\nbody 1\r\n.\r\n")

    def test_a_message_in_pieces(self) -> None:
        self.assertEqual(self.core.receive(b"RETR 1\r\nNOOP\r\n"), [FetchAsked(index=0, lines=None)])
        self.core.begin(120)
        self.core.body(b"one\r\n")
        self.assertEqual(self.core.take(), b"+OK 120 octets\r\none\r\n")
        self.assertEqual(self.core.receive(b"NOOP\r\n"), [])
        self.core.body(b"two\r\n.\r\n")
        self.core.end(0, whole=True)
        self.assertEqual(self.core.proceed(), [])
        self.assertEqual(self.core.take(), b"two\r\n.\r\n+OK\r\n+OK\r\n")

    def test_top(self) -> None:
        self.assertEqual(self.core.receive(b"TOP 1 0\r\n"), [FetchAsked(index=0, lines=0)])
        self.core.refuse("[SYS/TEMP] x")
        self.assertEqual(self.core.receive(b"TOP 1 99999999999999999999\r\n"), [FetchAsked(index=0, lines=1 << 31)])

    def test_deleted_messages_are_gone_and_come_back(self) -> None:
        self.assertEqual(self.say(b"DELE 2\r\nSTAT\r\n"), b"+OK Marked as deleted\r\n+OK 2 420\r\n")
        self.assertEqual(self.say(b"LIST\r\n"), b"+OK 2 messages (420 octets)\r\n1 120\r\n3 300\r\n.\r\n")
        for verb in (b"DELE 2", b"RETR 2", b"LIST 2", b"UIDL 2", b"TOP 2 0"):
            self.assertEqual(self.say(verb + b"\r\n"), b"-ERR The message is marked as deleted\r\n")
        self.assertEqual(self.say(b"RSET\r\nSTAT\r\n"), b"+OK 3 messages\r\n+OK 3 620\r\n")

    def test_numbers_that_are_none(self) -> None:
        """0, -1, 2^63 and a million digits: refused, bounded."""
        core = entered(errors=1000)
        for number in (b"0", b"-1", b"9223372036854775808", b"4", b"1" * 400, b"x", b"1x", b"", b"1 2", "٣".encode()):
            for verb in (b"RETR ", b"DELE ", b"TOP "):
                said = answered(core, verb + number + (b" 1" if verb == b"TOP " else b"") + b"\r\n")
                self.assertTrue(said.startswith(b"-ERR ") and said.count(b"\r\n") == 1, (verb, number, said))
        for argument in (b"1 -1", b"1", b"1 x", b"1 1 1"):
            self.assertTrue(answered(core, b"TOP " + argument + b"\r\n").startswith(b"-ERR "))

    def test_quit_asks_for_the_update(self) -> None:
        self.say(b"RETR 1\r\nRETR 2\r\nTOP 3 0\r\nDELE 2\r\nDELE 3\r\n")
        (event,) = self.core.receive(b"QUIT\r\nNOOP\r\n")
        self.assertEqual(event, LeaveAsked(deleted=(1, 2), seen=(0,)))
        self.core.left()
        self.assertEqual(self.core.proceed(), [Ended("")])
        self.assertEqual(self.core.take(), b"+OK Bye\r\n")

    def test_an_update_that_failed_is_told(self) -> None:
        self.core.receive(b"QUIT\r\n")
        self.core.left("[SYS/TEMP] Some deleted messages were not removed")
        self.assertEqual(self.core.take(), b"-ERR [SYS/TEMP] Some deleted messages were not removed\r\n")
        self.assertTrue(self.core.closed)

    def test_a_long_listing_comes_in_pieces(self) -> None:
        core = entered([1000] * 100_000)
        core.receive(b"UIDL\r\nNOOP\r\n")
        largest = count = 0
        while core.listing:
            piece = core.take()
            largest, count = max(largest, len(piece)), count + piece.count(b"\r\n")
        self.assertEqual(count, 100_002)
        self.assertLess(largest, 100_000)
        self.assertEqual(core.proceed(), [])
        self.assertEqual(core.take(), b"+OK\r\n")

    def test_arguments_where_there_are_none(self) -> None:
        for verb in (b"STAT", b"NOOP", b"RSET", b"CAPA", b"QUIT"):
            self.assertEqual(self.say(verb + b" x\r\n"), b"-ERR Command takes no argument\r\n")


class AbuseTests(SynchronousTestCase):
    """What is no POP3."""

    def test_errors_are_bounded(self) -> None:
        core = entered(errors=20)
        said = answered(core, b"XYZZY\r\n" * 100)
        self.assertEqual(said.count(b"\r\n"), 21)
        self.assertTrue(core.closed)

    def test_a_bare_line_feed_is_answered(self) -> None:
        self.assertEqual(answered(entered(), b"NOOP\n"), b"-ERR A command ends with CR LF\r\n")

    def test_control_characters_are_refused(self) -> None:
        core = Pop3Core(Service(hostname="pop.example.org"), plain=True)
        for octets in (b"USER a\0b\r\n", b"USER a\rb\r\n", b"USER \x1b[2J\r\n", b"PASS \0\r\n"):
            self.assertEqual(answered(core, octets), b"-ERR Control characters in a command\r\n")
        self.assertEqual(answered(core, b"USER \xff\xfe\r\n"), b"-ERR A mailbox name is wanted\r\n")

    def test_a_login_name_of_a_megabyte(self) -> None:
        """It is not kept, takes linear time, and the session goes on."""
        core = Pop3Core(Service(hostname="pop.example.org"), plain=True)
        begun = time.process_time()
        core.receive(b"USER ")
        for _ in range(256):
            core.receive(b"a" * 4096)
            self.assertLess(len(core.buffer), 8192)
        self.assertEqual(answered(core, b"\r\nCAPA\r\n")[:20], b"-ERR Line too long\r\n")
        self.assertLess(time.process_time() - begun, 1.0)

    def test_what_is_sent_without_waiting_is_bounded(self) -> None:
        core = entered()
        core.receive(b"RETR 1\r\n")
        events: list[Event] = []
        for _ in range(BACKLOG_OCTETS // 4096 + 2):
            events += core.receive(b"NOOP\r\n" * 683)
        self.assertEqual(events, [Ended("too much sent without waiting")])

    def test_an_answer_without_a_question_is_a_bug(self) -> None:
        for call in (lambda: entered().left(), lambda: entered().enter(Box(())), lambda: entered().secured()):
            with self.assertRaises(RuntimeError):
                call()

    @given(
        st.lists(
            st.sampled_from(
                [
                    *(
                        b"USER a\r\n",
                        b"PASS geheim mit blank\r\n",
                        b"PASS x\r\n",
                        b"CAPA\r\n",
                        b"AUTH PLAIN\r\n",
                        b"*\r\n",
                    ),
                    *(b"AHRlc3QAdGVzdA==\r\n", b"STAT\r\n", b"LIST\r\n", b"UIDL 1\r\n", b"RETR 1\r\n", b"TOP 2 1\r\n"),
                    *(
                        b"DELE 1\r\n",
                        b"RSET\r\n",
                        b"NOOP\r\n",
                        b"\r\n",
                        b"\n",
                        b"\0",
                        b"x" * 600,
                        b"QUIT\r\n",
                        b"LANG\r\n",
                    ),
                ]
            )
            | st.binary(max_size=20),
            max_size=30,
        )
    )
    def test_whole_and_one_by_one_say_the_same(self, parts: list[bytes]) -> None:
        octets = b"".join(parts)
        service = Service(hostname="pop.example.org", scram=True)
        whole, single = Pop3Core(service, plain=True), Pop3Core(service, plain=True)
        said = answered(whole, octets)
        self.assertEqual(b"".join(answered(single, octets[at : at + 1]) for at in range(len(octets))), said)
        self.assertEqual(whole.closed, single.closed)
        for line in said.split(b"\r\n"):
            self.assertLessEqual(len(line), 512)
