"""Answers of people who are away: to whom, and what they look like."""

from __future__ import annotations

import base64

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.wire.autoreply import Answer, answer, why_not

ANN = frozenset({"ann@example.org", "info@example.org"})
TO = b"To: Ann <Ann@Example.org>\r\n"


class WhyNotTests(SynchronousTestCase):
    def no(self, header: bytes, sender: str = "bob@example.com") -> str:
        return why_not(header + b"\r\n", sender, ANN)

    def test_people_who_write_to_the_user_have_an_answer(self) -> None:
        for field in (
            TO,
            b"CC: x@y, ann@example.org\r\n",
            b"To: team: info@example.org, z@y;\r\n",
            b"To: a@b\r\nCc:\r\n ann@example.org\r\n",
            TO + b"Auto-Submitted: no\r\n",
            TO + b"Auto-Submitted: No (it is me)\r\n",
            TO + b"Precedence: first-class\r\n",
            TO + b"X-Auto-Response-Suppress: DR, NDR\r\n",
            TO + b"Content-Type: multipart/mixed; boundary=report\r\n",
            TO + b"Subject: list-unsubscribe: x\r\n",
        ):
            self.assertEqual(self.no(field), "", field)

    def test_lists_and_programs_have_none(self) -> None:
        """RFC 3834 s.2, RFC 2369, RFC 2919, and what Exchange and others use."""
        for field in (
            b"List-Id: <l.example>\r\n",
            b"List-Unsubscribe: <mailto:x@y>\r\n",
            b"Mailing-List: x\r\n",
            b"X-Loop: x\r\n",
            b"Auto-Submitted: auto-generated\r\n",
            b"Auto-Submitted:\r\n auto-replied; x=y\r\n",
            b"auto-submitted: nope\r\n",
            b"Precedence: bulk\r\n",
            b"Precedence: LIST\r\n",
            b"Precedence: junk (x)\r\n",
            b"X-Auto-Response-Suppress: DR, OOF\r\n",
            b"X-Auto-Response-Suppress: All\r\n",
            b"Content-Type: multipart/report; report-type=delivery-status\r\n",
            b"Return-Path: <>\r\n",
            b"X-Spam-Flag: YES\r\n",
        ):
            self.assertNotEqual(self.no(TO + field), "", field)

    def test_senders_that_nobody_reads_have_none(self) -> None:
        for local in (
            "owner-list",
            "list-request",
            "list-owner",
            "MAILER-DAEMON",
            "no-reply",
            "noreply",
            "donotreply",
            "do_not_reply+x",
            "shop.noreply",
            "list-bounces",
            "bounce+bob=x.example",
            "bounces",
            "postmaster",
        ):
            self.assertNotEqual(self.no(TO, f"{local}@example.com"), "", local)
        for local in ("bob", "replyall", "bouncer", "requests", "owner", "nora.reply"):
            self.assertEqual(self.no(TO, f"{local}@example.com"), "", local)

    def test_the_null_sender_and_the_user_have_none(self) -> None:
        for sender in ("", "#@[]", "Ann@example.org"):
            self.assertNotEqual(self.no(TO, sender), "", sender)

    def test_who_is_not_named_does_not_answer(self) -> None:
        for field in (b"To: undisclosed-recipients:;", b"To: all@example.org", b"Subject: ann@example.org", b"X: y"):
            self.assertNotEqual(self.no(field + b"\r\n"), "", field)

    def test_a_header_of_addresses_costs_linear_time(self) -> None:
        self.assertNotEqual(self.no(b"To: " + b"a@b, " * 100_000 + b"\r\n"), "")
        self.assertNotEqual(self.no(b"To: " + b"(" * 100_000 + b"\r\n"), "")


class AnswerTests(SynchronousTestCase):
    def make(self, header: bytes, text: str = "I am away.\n", subject: str = "") -> bytes:
        one = Answer(
            id="c0ffee",
            hostname="mx.example.org",
            user="ann@example.org",
            to="bob@example.com",
            time=0,
            text=text,
            subject=subject,
        )
        return answer(one, header + b"\r\n")

    def test_it_names_what_it_answers(self) -> None:
        """RFC 3834 s.3.1 and s.5, RFC 5322 s.3.6.4."""
        octets = self.make(b"Subject: hello\r\nMessage-ID: <2@x>\r\nReferences: <0@x>\r\n <1@x>\r\n")
        head, _, body = octets.partition(b"\r\n\r\n")
        for line in (
            b"From: ann@example.org",
            b"To: bob@example.com",
            b"Subject: Auto: hello",
            b"In-Reply-To: <2@x>",
            b"References: <0@x>\r\n <1@x>\r\n <2@x>",
            b"Auto-Submitted: auto-replied",
            b"Message-ID: <c0ffee@mx.example.org>",
        ):
            self.assertIn(line, head)
        self.assertEqual(body, b"I am away.\r\n")
        self.assertNotIn(b"base64", head)

    def test_nothing_of_the_message_makes_a_field(self) -> None:
        octets = self.make(
            b"Subject: =?utf-8?q?x=0D=0ABcc:_evil@x?=\r\n"
            b"Message-ID: <a@b>\x0bBcc: x\r\nReferences: junk <c\xe4@d> <e@f>\r\n",
            subject="re: %SUBJECT%",
        )
        head = octets.partition(b"\r\n\r\n")[0]
        self.assertNotIn(b"\nBcc", head)
        self.assertIn(b"Subject: re: x", head)
        self.assertIn(b"References: <e@f>\r\n <a@b>", head)

    def test_words_of_the_world(self) -> None:
        octets = self.make(b"Subject: =?utf-8?b?5L2g5aW9?=\r\n", "不在: %SUBJECT%\n")
        head, _, body = octets.partition(b"\r\n\r\n")
        self.assertTrue(octets.isascii())
        self.assertIn(b"Subject: =?utf-8?b?" + base64.b64encode("Auto: 你好".encode()), head)
        self.assertEqual(base64.b64decode(body).decode(), "不在: 你好\r\n")

    def test_long_lines_are_encoded(self) -> None:
        octets = self.make(b"", "x" * 3000)
        self.assertLess(max(map(len, octets.split(b"\r\n"))), 100)
        self.assertIn(b"Subject: Auto: your message\r\n", octets)
