"""Next hops that take, refuse, hang up and come back; and the notices that follow."""

from __future__ import annotations

import contextlib
import email
import email.message
import email.policy
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from email.header import decode_header, make_header
from typing import ClassVar

from twisted.trial.unittest import SkipTest

from qmailpy.records.record import Action
from tests.integration.daemon_process import until
from tests.integration.node import Node, NodeCase, Settings, quick, without_received
from tests.integration.peers.client import message
from tests.integration.peers.sink import always, first


class NextHops(NodeCase):
    """Our sink does what a test tells it."""

    settings: ClassVar[Settings] = {"queue.lifetime_s": 3600.0}

    def send(self, *recipients: str, sender: str = "alice@example.org", content: bytes = b"") -> None:
        with self.node.talk() as talk:
            reply = talk.mail(sender, recipients, content or message("onward"))
            self.assertTrue(reply.startswith("250"), reply)

    def notice(self, user: str) -> email.message.Message:
        (octets,) = self.node.wait_mailbox(user, 1)
        return email.message_from_bytes(octets, policy=email.policy.default)

    def test_a_hop_that_defers_and_then_accepts(self) -> None:
        """Q, and a second attempt of its own; the content is the same."""
        self.sink.answer = first(2, ".", "451 4.3.0 try later")
        self.send("x@remote.example", content=message("later", b".\r\n..\r\n"))
        (mail,) = self.sink.wait_mails(1)
        self.assertEqual(without_received(mail.content), message("later", b".\r\n..\r\n"))
        self.wait_idle()
        records = self.node.records(Action.DEFERRED, Action.DEQUEUED)[-3:]
        self.assertEqual([one.action.value for one in records], ["Q", "Q", "D"])
        self.assertEqual([one.file.attempts for one in records if one.file], [0, 1, 2])
        self.assertTrue(records[0].size_octets)  # it had been sent when it was refused

    def test_a_hop_that_answers_at_great_length_gets_the_message_once(self) -> None:
        self.sink.answer = first(1, ".", "250-still thinking\r\n" * 100_000 + "250 2.0.0 taken")
        self.send("x@remote.example")
        self.sink.wait_mails(1)
        self.wait_idle()
        self.assertEqual(len(self.sink.mails), 1)
        self.assertEqual(self.node.records(Action.DEFERRED, Action.DEQUEUED)[-1].action, Action.DEQUEUED)

    def test_a_hop_that_hangs_up_is_tried_again(self) -> None:
        for where in ("CONNECT", "EHLO", "MAIL", "DATA", "."):
            self.sink.answer = first(1, where, "HANG UP")
            before = len(self.sink.mails)
            self.send("x@remote.example")
            self.sink.wait_mails(before + 1)
        self.wait_idle()
        self.assertEqual(self.node.mailbox("alice"), [])

    def test_a_hop_that_has_no_time_is_tried_again(self) -> None:
        """421 at its greeting, and in the middle."""
        for where in ("CONNECT", "MAIL", "RCPT"):
            self.sink.answer = first(1, where, "421 4.3.2 closing")
            before = len(self.sink.mails)
            self.send("x@remote.example")
            self.sink.wait_mails(before + 1)
        self.wait_idle()

    def test_a_notice_tells_the_sender_who_and_why(self) -> None:
        """RFC 3464, RFC 6522: to the sender, from nobody; each failed recipient, the message itself."""
        self.sink.answer = always("RCPT TO:<gone@", "550 5.1.1 <gone> is not known here")
        self.send("x@remote.example", "gone@remote.example", content=message("who and why"))
        notice = self.notice("alice")
        self.assertEqual(notice["Return-Path"], "<>")
        self.assertEqual(notice.get_content_type(), "multipart/report")
        self.assertEqual(notice.get_param("report-type"), "delivery-status")
        self.assertEqual(notice["Auto-Submitted"], "auto-replied")
        self.assertEqual(notice["To"], "alice@example.org")
        words, status, original = notice.iter_parts()  # type: ignore[attr-defined]
        self.assertIn("gone@remote.example", words.get_content())
        self.assertEqual(status.get_content_type(), "message/delivery-status")
        about, one = status.get_payload()
        self.assertEqual(about["Reporting-MTA"], "dns; mail.example.org")
        self.assertTrue(about["Arrival-Date"])
        self.assertEqual(one["Final-Recipient"], "rfc822; gone@remote.example")
        self.assertEqual((one["Action"], one["Status"]), ("failed", "5.1.1"))
        self.assertEqual(one["Diagnostic-Code"], "smtp; 550 5.1.1 <gone> is not known here")
        self.assertTrue(one["Remote-MTA"].startswith("dns; "), one["Remote-MTA"])
        self.assertEqual(original.get_content_type(), "message/rfc822")
        self.assertEqual(original.get_payload()[0]["Subject"], "who and why")
        (mail,) = self.sink.wait_mails(1)
        self.assertEqual(mail.recipients, ["x@remote.example"])
        self.wait_idle()
        self.assertEqual(len(self.node.mailbox("alice")), 1)
        (failed,) = self.node.records(Action.FAILED)[-1:]
        self.assertEqual(failed.current_to, "gone@remote.example")

    def test_an_alias_of_several_is_expanded_and_the_sender_told_in_its_language(self) -> None:
        """RFC 3461 s.5.2.7.3 (c): one report, of the expansion; RFC 2047 in its subject."""
        self.node.qmailpy("alias", "add", "team@example.org", "bob@example.org", "x@remote.example")
        with self.node.talk() as talk:
            talk.say("MAIL FROM:<alice@example.org> ENVID=QQ314159")
            talk.say("RCPT TO:<team@example.org> NOTIFY=SUCCESS ORCPT=rfc822;Team@Example.org")
            talk.content(b"Content-Language: zh-CN\r\n" + message("to all"))
        self.node.wait_mailbox("bob", 1)
        self.sink.wait_mails(1)
        notice = self.notice("alice")
        self.wait_idle()
        self.assertEqual(len(self.node.mailbox("alice")), 1)
        self.assertEqual(str(make_header(decode_header(notice["Subject"]))), "您的邮件已投递")
        words, status, original = notice.iter_parts()  # type: ignore[attr-defined]
        self.assertIn("邮件已分发给该地址所代表的收件人", words.get_content())
        about, one = status.get_payload()
        self.assertEqual(about["Original-Envelope-Id"], "QQ314159")
        self.assertEqual(one["Original-Recipient"], "rfc822; Team@Example.org")
        self.assertEqual((one["Final-Recipient"], one["Action"]), ("rfc822; team@example.org", "expanded"))
        self.assertEqual(original.get_content_type(), "text/rfc822-headers")

    def test_a_notice_that_cannot_be_delivered_goes_to_postmaster(self) -> None:
        """A double bounce; and there is no third."""
        self.sink.answer = always("RCPT", "550 5.1.1 nobody")
        self.send("gone@remote.example", sender="gone.too@elsewhere.example")
        notice = self.notice("postmaster")
        self.assertEqual(notice["Return-Path"], "<>")
        self.assertIn("gone.too@elsewhere.example", str(notice.get_payload()[1]))  # type: ignore[index]
        self.wait_idle()
        self.assertEqual(len(self.node.mailbox("postmaster")), 1)

    def test_the_null_sender_gets_no_notice(self) -> None:
        """It goes to postmaster, as any notice that failed."""
        self.sink.answer = always("RCPT", "550 5.1.1 nobody")
        self.send("gone@remote.example", sender="")
        self.notice("postmaster")
        self.wait_idle()
        self.assertEqual(self.sink.mails, [])

    def test_mail_for_one_host_shares_connections(self) -> None:
        """20 messages at once need fewer connections."""
        connections = self.sink.connections
        with self.node.talk() as talk:
            for number in range(20):
                talk.mail("alice@example.org", ["x@remote.example"], message(str(number)))
        self.sink.wait_mails(20)
        self.assertEqual(
            sorted(mail.content.partition(b"Subject: ")[2].split(b"\r\n")[0] for mail in self.sink.mails),
            sorted(str(number).encode() for number in range(20)),
        )
        self.assertLessEqual(self.sink.connections - connections, 15)
        self.wait_idle()

    def test_a_hundred_and_fifty_recipients_leave_in_two_transactions(self) -> None:
        """recipients_per_job is 100; each of them once."""
        people = [f"u{number}@remote.example" for number in range(150)]
        self.send(*people)
        self.sink.wait(lambda: sum(len(mail.recipients) for mail in self.sink.mails) == 150)
        self.assertEqual(sorted(one for mail in self.sink.mails for one in mail.recipients), sorted(people))
        self.assertLessEqual(max(len(mail.recipients) for mail in self.sink.mails), 100)
        self.wait_idle()


@contextmanager
def smtp_sink(*options: str) -> Iterator[int]:
    """Postfix's smtp-sink on a port of its own. @raise SkipTest: it is not there."""
    program = shutil.which("smtp-sink", path="/usr/sbin:/usr/bin")
    if program is None:
        raise SkipTest("smtp-sink is not there (apt-get install postfix)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="qmailpy-sink-")
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = subprocess.Popen([program, *user, *options, f"127.0.0.1:{port}", "100"], cwd=folder)
    try:

        def answers() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
                return True
            return False

        until(answers)
        yield port
    finally:
        process.kill()
        process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


class SmtpSinks(NodeCase):
    """Postfix's own sink, with its soft and hard errors, behind channels of their own."""

    fresh = True

    def begin(self, node: Node) -> None:
        """Not yet: a test adds its channel first."""

    def through(self, port: int) -> None:
        """All remote mail to that port."""
        self.node.set({**quick(port), "channel.tcp_partner.kind": "smtp"})
        self.node.set({"channel.tcp_partner.relay": f"127.0.0.1:{port}", "channel.tcp_partner.backoff": [1.0]})
        self.node.set({"rewrite": [{"pattern": "partner.example", "channel": "tcp_partner"}]})
        self.node.start()
        with self.node.talk() as talk:
            for recipient in ("x@partner.example", "x@remote.example"):
                self.assertTrue(talk.mail("alice@example.org", [recipient], message("sink")).startswith("250"))

    def tearDown(self) -> None:
        if self.node.process is not None:
            super().tearDown()

    def check_empty(self) -> None:
        self.wait_idle()
        self.assertEqual(self.node.mailbox("alice"), [])

    def test_a_sink_that_takes_everything_without_extensions(self) -> None:
        """No ESMTP, no PIPELINING: HELO and one command after the other."""
        with smtp_sink("-e", "-p") as port:
            self.through(port)
            until(lambda: len(self.node.records(Action.DEQUEUED)) == 2)
            self.check_empty()
        counters = self.node.counters()
        self.assertEqual(counters["tcp_partner"]["delivered"]["messages"], 1)
        self.assertEqual(counters["tcp_local"]["delivered"]["messages"], 1)

    def test_soft_errors_keep_the_mail(self) -> None:
        with smtp_sink("-r", "rcpt") as port:
            self.through(port)
            until(lambda: len(self.node.records(Action.DEFERRED)) >= 4)
        counters = self.node.counters()
        self.assertEqual(counters["tcp_partner"]["stored"]["messages"], 1)
        self.assertEqual(len(self.node.queued()), 2)

    def test_hard_errors_send_it_back(self) -> None:
        with smtp_sink("-f", "data") as port:
            self.through(port)
            notices = self.node.wait_mailbox("alice", 2)
        self.assertEqual(len(notices), 2)
        self.wait_idle()
        self.assertEqual({one.source for one in self.node.records(Action.FAILED)}, {"tcp_partner", "tcp_local"})
