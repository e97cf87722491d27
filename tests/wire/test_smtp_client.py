"""
Tests for L{qmailpy.wire.smtp_client}.
"""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.values import Notify, Reply
from qmailpy.wire.client_events import (
    Broken,
    Event,
    Finished,
    GoAhead,
    Goodbye,
    KeyWanted,
    Outcome,
    Ready,
    Secure,
    Stage,
    Tls,
    Transaction,
    Wish,
)
from qmailpy.wire.client_path import path, unsendable, wished
from qmailpy.wire.sasl_client import Login
from qmailpy.wire.smtp_client import SmtpClient

EHLO = b"250-mx.example hello\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250 8BITMIME\r\n"
PLAIN_EHLO = b"250 mx.example\r\n"
TWO = Transaction(sender="a@example.org", recipients=("b@example.net", "c@example.net"), size=9)
OK = Reply(250, "", "ok")


def session(ehlo: bytes = EHLO) -> SmtpClient:
    """A session that is ready for mail."""
    client = SmtpClient("us.example")
    client.receive(b"220 mx.example ESMTP\r\n")
    client.take()
    client.receive(ehlo)
    return client


def begun(ehlo: bytes = EHLO, transaction: Transaction = TWO) -> SmtpClient:
    """A session with a transaction under way."""
    client = session(ehlo)
    client.begin(transaction)
    client.take()
    return client


class OpeningTests(SynchronousTestCase):
    """From the greeting to the first transaction."""

    def test_ehlo_follows_the_greeting_and_the_keywords_are_known(self) -> None:
        """RFC 5321 s.4.1.1.1."""
        client = SmtpClient("us.example")
        self.assertEqual(client.take(), b"")
        self.assertEqual(client.receive(b"220 mx.example ESMTP ready\r\n"), [])
        self.assertEqual(client.take(), b"EHLO us.example\r\n")
        self.assertEqual(client.receive(b"250-mx\r\n250-size 77\r\n250-AUTH=PLAIN\r\n250 X-y a b\r\n"), [Ready()])
        self.assertEqual(client.extensions, {"SIZE": "77", "AUTH": "PLAIN", "X-Y": "a b"})
        self.assertEqual((client.banner, client.esmtp), ("mx.example ESMTP ready", True))

    def test_a_server_without_ehlo_gets_helo(self) -> None:
        """RFC 5321 s.3.2: 5yz to EHLO only says that it is old."""
        client = SmtpClient("us.example")
        client.receive(b"220 mx\r\n")
        client.take()
        self.assertEqual(client.receive(b"502 what?\r\n"), [])
        self.assertEqual(client.take(), b"HELO us.example\r\n")
        self.assertEqual(client.receive(b"250 mx\r\n"), [Ready()])
        self.assertEqual((client.extensions, client.esmtp), ({}, False))

    def test_a_refusal_at_the_door_breaks_the_session(self) -> None:
        """In the greeting, 4yz to EHLO, and to HELO."""
        for octets, stage, code in (
            (b"554 go away\r\n", Stage.GREETING, 554),
            (b"220 a\r\n451 later\r\n", Stage.EHLO, 451),
            (b"220 a\r\n500 b\r\n550 c\r\n", Stage.HELO, 550),
        ):
            client = SmtpClient("us.example")
            [event] = client.receive(octets)
            assert isinstance(event, Broken)
            self.assertEqual((event.stage, event.reply and event.reply.code), (stage, code))
            client.take()
            client.quit()
            self.assertEqual((client.take(), client.receive(b"221 bye\r\n")), (b"QUIT\r\n", []))

    def test_421_while_idle_breaks_the_session(self) -> None:
        """RFC 5321 s.3.8: the server may close at any time."""
        client = session()
        self.assertEqual(client.receive(b"421 4.4.2 idle\r\n"), [Broken(Stage.IDLE, Reply(421, "4.4.2", "idle"))])
        self.assertTrue(client.broken)

    def test_a_reply_nobody_asked_for_breaks_the_session(self) -> None:
        """We could not tell what the next one answers."""
        client = session()
        self.assertEqual(client.receive(b"250 ok\r\n"), [Broken(Stage.IDLE, None, "unexpected reply: 250 ok")])

    def test_quit_is_answered(self) -> None:
        """By 221, or by whatever there is."""
        client = session()
        client.quit()
        self.assertEqual(client.take(), b"QUIT\r\n")
        self.assertEqual(client.receive(b"221 bye\r\n"), [Goodbye()])


TLS_EHLO = b"250-mx.example\r\n250-STARTTLS\r\n250 8BITMIME\r\n"


class StarttlsTests(SynchronousTestCase):
    """RFC 3207, seen from the client."""

    def opened(self, tls: Tls, ehlo: bytes = TLS_EHLO) -> tuple[SmtpClient, list[Event]]:
        client = SmtpClient("us.example", tls)
        client.receive(b"220 mx\r\n")
        client.take()
        return client, client.receive(ehlo)

    def test_it_is_asked_for_where_it_is_offered_and_ehlo_is_said_again(self) -> None:
        """RFC 3207 s.4.2: what was said before is forgotten."""
        for tls in (Tls.MAY, Tls.MUST, Tls.VERIFY):
            client, events = self.opened(tls)
            self.assertEqual((events, client.take()), ([], b"STARTTLS\r\n"))
            self.assertEqual(client.receive(b"220 go\r\n"), [Secure()])
            client.secured()
            self.assertEqual((client.extensions, client.esmtp, client.take()), ({}, False, b"EHLO us.example\r\n"))
            self.assertEqual(client.receive(b"250-mx\r\n250 SIZE 7\r\n"), [Ready()])
            self.assertEqual((client.secure, client.extensions), (True, {"SIZE": "7"}))

    def test_what_comes_behind_the_reply_is_thrown_away(self) -> None:
        """Issue 3, the probe of STARTTLS injection: whole replies, and the beginning of one."""
        for more in (b"250-evil\r\n250 AUTH EVIL\r\n", b"250-ev", b"421 no\r\n", b"x\0\r\n"):
            client, _ = self.opened(Tls.MUST)
            self.assertEqual(client.receive(b"220 go\r\n" + more), [Secure()], more)
            client.secured()
            client.take()
            self.assertEqual(client.receive(b"250-mx\r\n250 GOOD\r\n"), [Ready()], more)
            self.assertEqual(client.extensions, {"GOOD": ""})

    def test_without_it_mail_goes_where_that_is_allowed(self) -> None:
        """Not offered, refused, or the server knows HELO alone."""
        for tls, allowed in ((Tls.NONE, True), (Tls.MAY, True), (Tls.MUST, False), (Tls.VERIFY, False)):
            for answers in ([PLAIN_EHLO], [TLS_EHLO, b"454 4.7.0 not now\r\n"], [b"500 what?\r\n", b"250 mx\r\n"]):
                client, events = self.opened(tls, answers[0])
                for answer in answers[1:] if client.stage is not Stage.IDLE else []:
                    events = client.receive(answer)
                if allowed:
                    self.assertEqual((events, client.secure), ([Ready()], False))
                else:
                    [event] = events
                    assert isinstance(event, Broken)
                    self.assertEqual((event.stage, event.insecure, client.broken), (Stage.STARTTLS, True, True))

    def test_tls_from_the_first_octet_has_the_greeting_inside(self) -> None:
        """RFC 8314 s.3.3."""
        client = SmtpClient("us.example", Tls.MUST)
        client.begin_tls()
        client.secured()
        self.assertEqual((client.stage, client.take()), (Stage.GREETING, b""))
        client.receive(b"220 mx\r\n")
        self.assertEqual(client.receive(TLS_EHLO), [Ready()])


class LoginTests(SynchronousTestCase):
    """RFC 4954, seen from the client."""

    LOGIN = Login(user="tim", password="tanstaaftanstaaf")

    def secured(self, ehlo: bytes) -> tuple[SmtpClient, list[Event]]:
        client = SmtpClient("us.example", Tls.MAY, self.LOGIN)
        client.receive(b"220 mx\r\n")
        client.receive(b"250-mx\r\n250-AUTH PLAIN LOGIN\r\n250 STARTTLS\r\n")
        client.receive(b"220 go\r\n")
        client.take()
        client.secured()
        client.take()
        return client, client.receive(ehlo)

    def test_the_login_comes_before_mail(self) -> None:
        """The example of RFC 4954 s.4.1."""
        client, events = self.secured(b"250-mx\r\n250 AUTH PLAIN\r\n")
        self.assertEqual((events, client.take()), ([], b"AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm\r\n"))
        self.assertEqual(client.receive(b"235 2.7.0 Authentication successful\r\n"), [Ready()])
        self.assertTrue(client.authenticated)

    def test_without_tls_there_is_no_login_and_no_mail(self) -> None:
        """Whatever the policy says: the core itself keeps the password."""
        for tls in Tls:
            for ehlo in (b"250-mx\r\n250 AUTH PLAIN\r\n", b"250-mx\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n454 no\r\n"):
                client = SmtpClient("us.example", tls, self.LOGIN)
                client.receive(b"220 mx\r\n")
                events = client.receive(ehlo)
                self.assertTrue(any(isinstance(event, Broken) and event.insecure for event in events), (tls, ehlo))
                self.assertNotIn(b"AUTH", client.take())

    def test_what_the_server_may_not_say_ends_the_session(self) -> None:
        """No mechanism we know, challenges that are none, success without proof, replies out of place."""
        for ehlo, answer in (
            (b"AUTH CRAM-MD5", b""),
            (b"SIZE", b""),
            (b"AUTH PLAIN", b"334 !\r\n"),
            (b"AUTH PLAIN", b"334 AAAA\r\n"),
            (b"AUTH PLAIN", b"250 ok\r\n"),
            (b"AUTH SCRAM-SHA-256", b"235 welcome\r\n"),
            (b"AUTH SCRAM-SHA-256", b"334 AAAA\r\n"),
            (b"AUTH PLAIN", b"535 5.7.8 no\r\n"),
        ):
            client, events = self.secured(b"250-mx\r\n250 " + ehlo + b"\r\n")
            events = events or client.receive(answer)
            assert isinstance(events[0], Broken), (ehlo, answer)
            self.assertEqual((events[0].stage, client.authenticated), (Stage.AUTH, False))


class DsnTests(SynchronousTestCase):
    """RFC 3461 s.5.2.1: what was wished goes on, to peers that know of it."""

    WISHED = Transaction(
        sender="a@example.org",
        recipients=("b@example.net", "c@example.net", "d@example.net"),
        size=9,
        wishes=(
            Wish(Notify.SUCCESS | Notify.DELAY, "rfc822;Carol+x=y@Ivory.EDU"),
            Wish(Notify.NEVER),
            Wish(0, "utf-8;ü\r\nRSET"),
        ),
        envid="QQ 314+159",
        ret="HDRS",
    )
    LINES = (
        b"RCPT TO:<b@example.net> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;Carol+2Bx+3Dy@Ivory.EDU\r\n",
        b"RCPT TO:<c@example.net> NOTIFY=NEVER\r\n",
        b"RCPT TO:<d@example.net> ORCPT=utf-8;\\x{FC}\\x{0D}\\x{0A}RSET\r\n",
    )

    def test_the_wishes_go_to_peers_that_offer_dsn(self) -> None:
        """In xtext, so that no value can become a command."""
        client = session(b"250-mx\r\n250-PIPELINING\r\n250 DSN\r\n")
        client.begin(self.WISHED)
        mail = b"MAIL FROM:<a@example.org> RET=HDRS ENVID=QQ+20314+2B159\r\n"
        self.assertEqual(client.take(), mail + b"".join(self.LINES) + b"DATA\r\n")
        client = session(b"250-mx\r\n250 DSN\r\n")
        client.begin(self.WISHED.only([0, 2]))
        self.assertEqual(client.take(), mail)
        client.receive(b"250 ok\r\n")
        self.assertEqual(client.take(), self.LINES[0])
        client.receive(b"250 ok\r\n")
        self.assertEqual(client.take(), self.LINES[2])

    def test_others_are_not_bothered(self) -> None:
        client = session()
        client.begin(self.WISHED)
        octets = client.take()
        for word in (b"NOTIFY", b"ORCPT", b"RET=", b"ENVID"):
            self.assertNotIn(word, octets)

    def test_a_value_that_is_too_long_is_left_out(self) -> None:
        """RFC 3461 s.4.2."""
        self.assertEqual(wished(Wish(0, "rfc822;" + "+" * 400)), b"")
        self.assertEqual(wished(Wish(0, "no type")), b"")


class ChunkingTests(SynchronousTestCase):
    """RFC 3030, for large messages."""

    LARGE = Transaction(sender="a@example.org", recipients=("b@example.net", "c@example.net"), size=1_000_000)

    def begun(self, answers: bytes) -> tuple[SmtpClient, list[Event]]:
        client = session(b"250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n")
        client.begin(self.LARGE)
        self.assertNotIn(b"DATA", client.take())
        return client, client.receive(answers)

    def test_chunks_are_sent_without_waiting_and_answered_in_turn(self) -> None:
        """Replies to chunks come before the end is sent, after it, or both."""
        for early in (0, 1, 2):
            client, events = self.begun(b"250 a\r\n250 b\r\n550 c\r\n")
            self.assertEqual(events, [GoAhead()])
            client.content(b"x\r\n")
            client.content(b".y\r\n")
            events = client.receive(b"250 chunk\r\n" * early)
            client.end_content()
            events += client.receive(b"250 chunk\r\n" * (2 - early))
            self.assertEqual((events, client.stage), ([], Stage.FINAL))
            self.assertEqual(client.take(), b"BDAT 3\r\nx\r\nBDAT 4\r\n.y\r\nBDAT 0 LAST\r\n")
            [event] = client.receive(b"250 ok\r\n")
            assert isinstance(event, Finished)
            self.assertEqual((event.outcome.final, event.outcome.stage), (OK, Stage.IDLE))
            self.assertEqual(client.stage, Stage.IDLE)

    def test_without_recipients_nothing_is_sent(self) -> None:
        """And what the peer still holds is reset before the next transaction."""
        client, events = self.begun(b"250 a\r\n550 b\r\n550 c\r\n")
        [event] = events
        self.assertIsInstance(event, Finished)
        self.assertEqual((client.stage, client.take()), (Stage.IDLE, b""))
        client.begin(TWO)
        self.assertTrue(client.take().startswith(b"RSET\r\nMAIL"))

    def test_a_refused_chunk_ends_the_message_and_the_session(self) -> None:
        """Before the end was sent, and after it; what comes for the other chunks is not waited for."""
        for ended in (False, True):
            client, _ = self.begun(b"250 a\r\n250 b\r\n250 c\r\n")
            client.content(b"x\r\n")
            client.content(b"y\r\n")
            if ended:
                client.end_content()
            [event] = client.receive(b"250 chunk\r\n552 5.3.4 too much\r\n503 what?\r\n")
            assert isinstance(event, Finished)
            self.assertEqual(event.outcome.final, Reply(552, "5.3.4", "too much"))
            self.assertTrue(client.broken)

    def test_a_refused_message_leaves_the_session(self) -> None:
        """The reply to the last chunk."""
        client, _ = self.begun(b"250 a\r\n250 b\r\n250 c\r\n")
        client.content(b"x\r\n")
        client.end_content()
        [event] = client.receive(b"250 chunk\r\n550 5.7.1 spam\r\n")
        assert isinstance(event, Finished)
        self.assertEqual((event.outcome.final and event.outcome.final.code, client.stage), (550, Stage.IDLE))

    def test_a_reply_to_a_chunk_that_was_not_sent_is_none(self) -> None:
        client, _ = self.begun(b"250 a\r\n250 b\r\n250 c\r\n")
        [event] = client.receive(b"250 chunk\r\n")
        self.assertIsInstance(event, Broken)

    def test_small_messages_and_peers_without_pipelining_get_data(self) -> None:
        client = session(b"250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n")
        client.begin(TWO)
        self.assertIn(b"DATA\r\n", client.take())
        client = session(b"250-mx\r\n250 CHUNKING\r\n")
        client.begin(self.LARGE)
        client.receive(b"250 a\r\n250 b\r\n250 c\r\n")
        self.assertIn(b"DATA\r\n", client.take())


class LmtpTests(SynchronousTestCase):
    """RFC 2033, seen from the client."""

    THREE = Transaction(sender="a@example.org", recipients=("b@x.example", "c@x.example", "d@x.example"), size=9)

    def begun(self, ehlo: bytes = EHLO) -> SmtpClient:
        client = SmtpClient("us.example", lmtp=True)
        client.receive(b"220 store LMTP\r\n")
        self.assertEqual(client.take(), b"LHLO us.example\r\n")
        self.assertEqual(client.receive(ehlo), [Ready()])
        client.begin(self.THREE)
        return client

    def test_there_is_no_older_form_of_hello(self) -> None:
        client = SmtpClient("us.example", lmtp=True)
        client.receive(b"220 smtp.example\r\n")
        [event] = client.receive(b"500 what?\r\n")
        assert isinstance(event, Broken)
        self.assertEqual(event.stage, Stage.EHLO)

    def test_each_recipient_that_was_taken_gets_a_reply(self) -> None:
        """In order, those that were not left out; then the session is ready for more."""
        client = self.begun()
        self.assertEqual(client.receive(b"250 a\r\n250 b\r\n550 c\r\n250 d\r\n354 go\r\n"), [GoAhead()])
        client.content(b"x\r\n")
        client.end_content()
        self.assertEqual(client.receive(b"250 ok\r\n"), [])
        self.assertEqual((client.stage, client.outcome().finals), (Stage.FINAL, (OK, None, None)))
        [event] = client.receive(b"452 4.2.2 full\r\n")
        assert isinstance(event, Finished)
        self.assertEqual(event.outcome.finals, (OK, None, Reply(452, "4.2.2", "full")))
        self.assertIsNone(event.outcome.final)
        client.begin(TWO)
        self.assertTrue(client.take().endswith(b"DATA\r\n"))

    def test_without_recipients_no_reply_is_waited_for(self) -> None:
        """Whether DATA is refused, as it must be, or not."""
        for answer in (b"503 no\r\n", b"354 go\r\n"):
            client = self.begun()
            [event] = client.receive(b"250 a\r\n" + b"550 x\r\n" * 3 + answer)
            assert isinstance(event, Finished)
            self.assertEqual((event.outcome.finals, client.stage), ((None, None, None), Stage.IDLE))


class PipeliningTests(SynchronousTestCase):
    """Transactions in one write (RFC 2920)."""

    def test_the_envelope_goes_out_in_one_piece(self) -> None:
        """With what the peer said it knows of SIZE and 8BITMIME."""
        client = session()
        client.begin(TWO)
        self.assertEqual(
            client.take(),
            b"MAIL FROM:<a@example.org> SIZE=9 BODY=8BITMIME\r\n"
            b"RCPT TO:<b@example.net>\r\nRCPT TO:<c@example.net>\r\nDATA\r\n",
        )

    def test_the_null_sender_is_an_empty_path(self) -> None:
        """RFC 5321 s.4.5.5; and no BODY for 7-bit content."""
        client = session()
        client.begin(Transaction(sender="", recipients=("b@example.net",), size=9, eight_bit=False))
        self.assertEqual(client.take(), b"MAIL FROM:<> SIZE=9\r\nRCPT TO:<b@example.net>\r\nDATA\r\n")

    def test_content_follows_354_and_its_end_is_answered(self) -> None:
        """The ordinary course; the session is ready for the next transaction, without RSET."""
        client = begun()
        self.assertEqual(client.receive(b"250 a\r\n250 b\r\n250 c\r\n354 go\r\n"), [GoAhead()])
        client.content(b"x\r\n.y")
        client.end_content()
        self.assertEqual(client.take(), b"x\r\n..y\r\n.\r\n")
        self.assertIs(client.stage, Stage.FINAL)
        replies = (Reply(250, "", "b"), Reply(250, "", "c"))
        outcome = Outcome(mail=Reply(250, "", "a"), recipients=replies, final=Reply(250, "2.0.0", "queued"))
        self.assertEqual(client.receive(b"250 2.0.0 queued\r\n"), [Finished(outcome)])
        client.begin(TWO)
        self.assertTrue(client.take().startswith(b"MAIL"))

    def test_some_recipients_refused_and_the_others_get_the_message(self) -> None:
        """Each keeps its own reply."""
        client = begun()
        self.assertEqual(client.receive(b"250 ok\r\n550 5.1.1 no\r\n250 ok\r\n354 go\r\n"), [GoAhead()])
        client.end_content()
        [event] = client.receive(b"250 ok\r\n")
        assert isinstance(event, Finished)
        self.assertEqual(event.outcome.recipients, (Reply(550, "5.1.1", "no"), OK))

    def test_all_recipients_refused_and_a_message_wanted_gets_an_empty_one(self) -> None:
        """RFC 2920 s.3.1; what is said of the empty message is no news, whether it is taken or not."""
        for final in (b"554 no valid recipients\r\n", b"250 ok\r\n"):
            client = begun()
            self.assertEqual(client.receive(b"250 ok\r\n550 b\r\n550 c\r\n354 go\r\n"), [])
            self.assertEqual(client.take(), b".\r\n")
            [event] = client.receive(final)
            assert isinstance(event, Finished)
            self.assertEqual((event.outcome.final, event.outcome.data), (None, None))
            self.assertIs(client.stage, Stage.IDLE)
            client.begin(TWO)
            self.assertTrue(client.take().startswith(b"MAIL"))

    def test_a_refused_sender_ends_the_transaction_after_all_replies(self) -> None:
        """The replies to what was sent along are read and mean nothing; there is nothing to reset."""
        client = begun()
        self.assertEqual(client.receive(b"550 5.7.1 a\r\n503 b\r\n503 c\r\n"), [])
        [event] = client.receive(b"503 d\r\n")
        assert isinstance(event, Finished)
        self.assertEqual((event.outcome.mail, event.outcome.data), (Reply(550, "5.7.1", "a"), None))
        client.begin(TWO)
        self.assertTrue(client.take().startswith(b"MAIL"))

    def test_a_confused_server_that_refuses_the_sender_and_takes_recipients_gets_no_message(self) -> None:
        """An empty one at most."""
        client = begun()
        self.assertEqual(client.receive(b"550 a\r\n250 b\r\n250 c\r\n354 d\r\n"), [])
        self.assertEqual(client.take(), b".\r\n")

    def test_refused_data_leaves_a_transaction_that_is_reset_before_the_next(self) -> None:
        """RSET goes with the next envelope, not before it is needed."""
        client = begun()
        [event] = client.receive(b"250 a\r\n250 b\r\n250 c\r\n451 4.3.0 d\r\n")
        assert isinstance(event, Finished)
        self.assertEqual(event.outcome.data, Reply(451, "4.3.0", "d"))
        client.begin(TWO)
        self.assertTrue(client.take().startswith(b"RSET\r\nMAIL FROM:"))
        self.assertEqual(client.receive(b"250 reset\r\n250 a\r\n250 b\r\n250 c\r\n354 d\r\n"), [GoAhead()])

    def test_an_answer_during_the_content_ends_the_session(self) -> None:
        """It is the answer to the message; half of it is on the wire, so nothing else can follow."""
        client = begun()
        client.receive(b"250 a\r\n250 b\r\n250 c\r\n354 d\r\n")
        client.content(b"x")
        [event] = client.receive(b"552 5.3.4 too big\r\n")
        assert isinstance(event, Finished)
        self.assertEqual(event.outcome.final, Reply(552, "5.3.4", "too big"))
        self.assertIs(client.stage, Stage.CLOSED)
        self.assertTrue(client.broken)

    def test_421_breaks_the_session_wherever_it_comes(self) -> None:
        """What had been answered before stays known."""
        client = begun()
        [event] = client.receive(b"250 ok\r\n550 no\r\n421 4.3.2 bye\r\n250 ok\r\n")
        self.assertEqual(event, Broken(Stage.RCPT, Reply(421, "4.3.2", "bye")))
        self.assertEqual(client.outcome().recipients, (Reply(550, "", "no"), None))
        self.assertIs(client.outcome().stage, Stage.RCPT)

    def test_a_reply_of_the_wrong_kind_breaks_the_session(self) -> None:
        """354 for an address, 250 for DATA: we are out of step."""
        for octets, stage in (
            (b"354 a\r\n", Stage.MAIL),
            (b"250 a\r\n354 b\r\n", Stage.RCPT),
            (b"250 a\r\n250 b\r\n250 c\r\n250 d\r\n", Stage.DATA),
            (b"250 a\r\n250 b\r\n250 c\r\n354 d\r\n250 e\r\n", Stage.CONTENT),
        ):
            event = begun().receive(octets)[-1]
            assert isinstance(event, Broken)
            self.assertEqual((event.stage, event.reply), (stage, None))

    def test_a_lost_session_tells_how_far_it_came(self) -> None:
        """C{outcome} at any time."""
        client = begun()
        client.receive(b"250 a\r\n250 b\r\n250 c\r\n354 d\r\n")
        client.end_content()
        self.assertIs(client.outcome().stage, Stage.FINAL)
        self.assertIsNone(client.outcome().final)


class StepByStepTests(SynchronousTestCase):
    """Transactions with a server that knows no PIPELINING."""

    def test_each_command_waits_for_the_reply_before_it(self) -> None:
        """RFC 5321 s.4.3.1."""
        client = session(PLAIN_EHLO)
        client.begin(TWO)
        said = [client.take()]
        for reply in (b"250 a\r\n", b"550 b\r\n", b"250 c\r\n"):
            self.assertEqual(client.receive(reply), [])
            said.append(client.take())
        self.assertEqual(
            said,
            [
                b"MAIL FROM:<a@example.org>\r\n",
                b"RCPT TO:<b@example.net>\r\n",
                b"RCPT TO:<c@example.net>\r\n",
                b"DATA\r\n",
            ],
        )
        self.assertEqual(client.receive(b"354 d\r\n"), [GoAhead()])

    def test_a_refused_sender_ends_it_at_once(self) -> None:
        """No recipient is asked for."""
        client = begun(PLAIN_EHLO)
        [event] = client.receive(b"451 a\r\n")
        assert isinstance(event, Finished)
        self.assertEqual(client.take(), b"")

    def test_when_all_recipients_are_refused_data_is_not_sent_and_the_next_transaction_resets(self) -> None:
        """The server still holds the sender."""
        client = begun(PLAIN_EHLO)
        self.assertIsInstance(client.receive(b"250 a\r\n550 b\r\n550 c\r\n")[0], Finished)
        client.take()
        client.begin(TWO)
        self.assertEqual(client.take(), b"RSET\r\n")
        client.receive(b"250 ok\r\n")
        self.assertEqual(client.take(), b"MAIL FROM:<a@example.org>\r\n")


class AddressTests(SynchronousTestCase):
    """What can be written into a command."""

    def test_local_parts_are_quoted_where_they_must_be(self) -> None:
        """RFC 5321 s.4.1.2."""
        for address, octets in (
            ("a.b+c@x.example", b"<a.b+c@x.example>"),
            ("a b@x.example", b'<"a b"@x.example>'),
            ('a"\\@x.example', b'<"a\\"\\\\"@x.example>'),
            ("a@b@x.example", b'<"a@b"@x.example>'),
            ("a..b@x.example", b'<"a..b"@x.example>'),
            ('"a b"@x.example', b'<"a b"@x.example>'),
            ("a@[192.0.2.1]", b"<a@[192.0.2.1]>"),
        ):
            self.assertIsNone(unsendable(address), address)
            self.assertEqual(path(address), octets)

    def test_an_address_can_never_become_a_command(self) -> None:
        """Line ends, controls, other alphabets and forms that end the path are refused before the wire."""
        for address in (
            "a\r\nQUIT@x.example",
            "a@x.example\r\nDATA",
            "a@x> SIZE=1 <y",
            "a@x y",
            'a"b"\n@x.example',
            '"a" b"@x.example',
            "a\0@x.example",
            "ü\u2028@x.example",
            "ü\x85@x.example",
            "ü\ud800@x.example",
            "a@ü.example",
            "a",
            "@x.example",
            "a@",
            "a" * 1000 + "@x.example",
        ):
            self.assertIsNotNone(unsendable(address), address)
            if "@" in address and len(address) < 1000:
                self.assertRaises(ValueError, path, address)

    @given(st.text(max_size=30))
    def test_whatever_passes_makes_one_path(self, address: str) -> None:
        """One printable line, in UTF-8 where the local part is."""
        if unsendable(address) is None:
            octets = path(address)
            self.assertEqual(octets.isascii(), address.isascii())
            self.assertTrue(octets.decode().isprintable())
            self.assertTrue(octets.startswith(b"<") and octets.endswith(b">"))

    def test_a_message_larger_than_the_peer_takes_is_refused_here(self) -> None:
        """RFC 1870 s.6.1."""
        client = session()
        self.assertIsNone(client.refusal(TWO))
        big = Transaction(sender="", recipients=("b@example.net",), size=1001)
        reply = client.refusal(big)
        self.assertEqual((reply and reply.code, reply and reply.enhanced), (552, "5.3.4"))
        for ehlo in (PLAIN_EHLO, b"250-a\r\n250 SIZE\r\n", b"250-a\r\n250 SIZE 0\r\n", b"250-a\r\n250 SIZE x\r\n"):
            self.assertIsNone(session(ehlo).refusal(big))


REPLIES = (
    b"220 go",
    b"250 ok",
    b"250-mx\r\n250-STARTTLS\r\n250-AUTH SCRAM-SHA-256 PLAIN\r\n250-PIPELINING\r\n250-DSN\r\n250 CHUNKING",
    b"250-mx\r\n250-AUTH LOGIN\r\n250 SIZE",
    b"235 in",
    b"334 ",
    b"334 cj1hLHM9YixpPTQwOTY=",
    b"354 go",
    b"421 bye",
    b"450 4.7.1 later",
    b"500 what?",
    b"503 order",
)


class AnythingTests(SynchronousTestCase):
    """Servers that answer whatever comes to their minds."""

    @given(
        st.lists(st.sampled_from(REPLIES) | st.binary(max_size=8), max_size=24),
        st.sampled_from(Tls),
        st.booleans(),
        st.booleans(),
        st.sampled_from([9, 100000]),
    )
    def test_no_order_of_replies_makes_it_fail(
        self, replies: list[bytes], tls: Tls, login: bool, lmtp: bool, size: int
    ) -> None:
        """And mail is never begun without the TLS and the login that it must have."""
        client = SmtpClient("us", tls, LoginTests.LOGIN if login else None, lmtp=lmtp)
        transaction = Transaction(sender="a@x.example", recipients=("b@x.example", "c@x.example"), size=size)
        waiting = [b"220 hi", *replies]
        events: list[Event] = []
        while waiting and not client.broken:
            events += client.receive(waiting.pop(0) + b"\r\n")
            while events:
                event = events.pop(0)
                if isinstance(event, Secure):
                    client.secured()
                elif isinstance(event, KeyWanted):
                    events += client.derived(b"k" * 32)
                elif isinstance(event, Ready):
                    self.assertTrue(client.secure or (tls in (Tls.NONE, Tls.MAY) and not login))
                    self.assertEqual(client.authenticated, login)
                    client.begin(transaction)
                elif isinstance(event, GoAhead) and client.stage is Stage.CONTENT:
                    client.content(b"hello\r\n")
                    client.end_content()
                elif isinstance(event, Finished):
                    self.assertEqual(len(event.outcome.recipients), 2)
                    if client.stage is Stage.IDLE:
                        client.begin(transaction)
            client.take()
        client.outcome()


class CutTests(SynchronousTestCase):
    """Octets whole and in pieces."""

    @given(st.binary(max_size=60) | st.sampled_from([b"", b"421 x\r\n"]), st.integers(1, 7), st.booleans())
    def test_where_the_network_cuts_makes_no_difference(self, tail: bytes, size: int, pipelining: bool) -> None:
        """The same events and the same octets out, also for garbage, which never raises."""
        octets = b"220 hi\r\n" + (EHLO if pipelining else PLAIN_EHLO)
        octets += b"250 2.1.0 a\r\n550-5.1.1 b\r\n550 5.1.1 c\r\n250 d\r\n354 e\r\n250 f\r\n" + tail

        def talk(pieces: list[bytes]) -> tuple[list[Event], bytes]:
            client, events, out = SmtpClient("us"), list[Event](), b""
            for piece in pieces:
                for event in client.receive(piece):
                    events.append(event)
                    if isinstance(event, Ready):
                        client.begin(TWO)
                    elif isinstance(event, GoAhead) and client.stage is Stage.CONTENT:
                        client.content(b"hello\r\n")
                        client.end_content()
                out += client.take()
            return events, out

        lines = octets.splitlines(keepends=True)
        in_pieces = [line[at : at + size] for line in lines for at in range(0, len(line), size)]
        self.assertEqual(talk(in_pieces), talk(lines))
