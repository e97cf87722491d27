"""Delivery status notifications: what people and programs read in them, and that nothing from outside breaks them."""

from __future__ import annotations

import base64
import email
import email.policy
from email.message import EmailMessage
from typing import cast

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.wording import built_in
from qmailpy.values import Envelope, Recipient, Reply
from qmailpy.wire.dsn import (
    HALTED,
    LINE_MAX,
    UNTRIED,
    Notice,
    Origin,
    Reported,
    date,
    delay_report,
    failure_report,
    success_report,
)

HEADER = b"Received: from x\r\nFrom: bob@example.com\r\nSubject: hello\r\n\r\n"
CONTENT = HEADER + b"body\r\n"
NOTICE = Notice(
    id="c0ffee",
    hostname="mx.example.org",
    sender_name="Mail Delivery System",
    to="bob@example.com",
    time=1700000100.0,
    words=(built_in("en"),),
)
ANN = Recipient(address="ann@example.org", original="ann@example.org", channel="local")
ENVELOPE = Envelope(
    sender="bob@example.com",
    recipients=(ANN,),
    source="tcp_local",
    arrival=1700000000.0,
    message_id="<1@example.com>",
)
ORIGIN = Origin(id="abcdefghijklm00", envelope=ENVELOPE, header=HEADER, content=CONTENT)
GONE = Reported(
    recipient=ANN,
    reply=Reply(550, "5.1.1", "no such user"),
    remote_mta="mx.example.net",
    last_attempt=1700000099.0,
)

AWKWARD = st.one_of(
    st.sampled_from("\r\n\0\t :;<>-=\x85\u2028\u00e4\U0001f600a"), st.characters(exclude_categories=["Cs"])
)


def parsed(octets: bytes) -> EmailMessage:
    return email.message_from_bytes(octets, policy=email.policy.default)


def parts(octets: bytes) -> list[EmailMessage]:
    return cast(list[EmailMessage], parsed(octets).get_payload())


def statuses(octets: bytes) -> list[dict[str, str]]:
    """The groups of the message/delivery-status part."""
    return [dict(group.items()) for group in cast(list[EmailMessage], parts(octets)[1].get_payload())]


class ReportTests(SynchronousTestCase):
    def test_a_failure_report_is_a_multipart_report_of_three_parts(self) -> None:
        """RFC 6522 s.3 and RFC 3464 s.2."""
        found = parsed(failure_report(NOTICE, ORIGIN, [GONE]))
        self.assertEqual(found.get_content_type(), "multipart/report")
        self.assertEqual(found.get_param("report-type"), "delivery-status")
        self.assertEqual(
            [part.get_content_type() for part in parts(failure_report(NOTICE, ORIGIN, [GONE]))],
            ["text/plain", "message/delivery-status", "message/rfc822"],
        )
        for name, value in (
            ("From", '"Mail Delivery System" <MAILER-DAEMON@mx.example.org>'),
            ("To", "bob@example.com"),
            ("Date", "Tue, 14 Nov 2023 22:15:00 +0000"),
            ("Message-ID", "<c0ffee@mx.example.org>"),
            ("References", "<1@example.com>"),
            ("Auto-Submitted", "auto-replied"),
            ("MIME-Version", "1.0"),
            ("Subject", "Your message could not be delivered"),
        ):
            self.assertEqual(found[name].replace("Mail Delivery System <", '"Mail Delivery System" <'), value)
        self.assertTrue(found["Received"].startswith("by mx.example.org (qmailpy) id c0ffee;"))
        self.assertEqual(found.defects, [])

    def test_programs_find_every_field(self) -> None:
        origin = evolve(ORIGIN, envelope=evolve(ENVELOPE, envid="QQ314159"))
        recipient = evolve(ANN, original="info@example.org", orcpt="rfc822;Info@example.org")
        octets = failure_report(NOTICE, origin, [evolve(GONE, recipient=recipient)])
        self.assertEqual(
            statuses(octets),
            [
                {
                    "Original-Envelope-Id": "QQ314159",
                    "Reporting-MTA": "dns; mx.example.org",
                    "Arrival-Date": "Tue, 14 Nov 2023 22:13:20 +0000",
                },
                {
                    "Original-Recipient": "rfc822; Info@example.org",
                    "Final-Recipient": "rfc822; ann@example.org",
                    "Action": "failed",
                    "Status": "5.1.1",
                    "Remote-MTA": "dns; mx.example.net",
                    "Diagnostic-Code": "smtp; 550 5.1.1 no such user",
                    "Last-Attempt-Date": "Tue, 14 Nov 2023 22:14:59 +0000",
                },
            ],
        )

    def test_people_read_who_what_and_what_to_do(self) -> None:
        recipient = evolve(ANN, original="info@example.org")
        text = parts(failure_report(NOTICE, ORIGIN, [evolve(GONE, recipient=recipient)]))[0].get_content()
        flat = " ".join(text.split())
        self.assertIn("<info@example.org> (which leads to <ann@example.org>):", flat)
        self.assertIn("mx.example.net said: 550 5.1.1 no such user", flat)
        self.assertIn("check it for typing errors", flat)

    def test_several_recipients_are_in_one_report(self) -> None:
        bea = Reported(recipient=evolve(ANN, address="bea@example.org"), reply=Reply(552, "", "too large\nreally"))
        found = statuses(failure_report(NOTICE, ORIGIN, [GONE, bea]))
        self.assertEqual([group.get("Final-Recipient") for group in found[1:]][1], "rfc822; bea@example.org")
        self.assertEqual(found[2]["Status"], "5.0.0")
        self.assertEqual(found[2]["Diagnostic-Code"], "X-qmailpy; 552 too large really")

    def test_an_odd_status_code_is_replaced_by_that_of_its_class(self) -> None:
        for code, enhanced, status in (
            (550, "", "5.0.0"),
            (450, "x", "4.0.0"),
            (550, "5.1.1 Y", "5.0.0"),
            (550, "5.1.1\r\nY: z", "5.0.0"),
            (550, "5.1.1", "5.1.1"),
        ):
            octets = failure_report(NOTICE, ORIGIN, [evolve(GONE, reply=Reply(code, enhanced, "no"))])
            self.assertEqual(statuses(octets)[1]["Status"], status)

    def test_a_delay_report_says_until_when_and_that_nothing_need_be_done(self) -> None:
        waiting = evolve(GONE, reply=Reply(451, "4.4.1", "busy"))
        octets = delay_report(NOTICE, evolve(ORIGIN, content=None), [waiting], 1700600000.0)
        self.assertEqual(statuses(octets)[1]["Action"], "delayed")
        self.assertEqual(statuses(octets)[1]["Will-Retry-Until"], "Tue, 21 Nov 2023 20:53:20 +0000")
        self.assertEqual(parts(octets)[2].get_content_type(), "text/rfc822-headers")
        self.assertIn("need not send it again", " ".join(parts(octets)[0].get_content().split()))

    def test_who_was_never_tried_had_no_last_attempt(self) -> None:
        """In both languages; another server that says the same words is quoted."""
        english, chinese = built_in("en"), built_in("zh")
        for reply, words, text in (
            (UNTRIED, english, "It was not tried yet, since there is much mail for this destination."),
            (HALTED, english, "It was not tried yet, since delivery is suspended for the time being."),
            (UNTRIED, chinese, "尚未尝试投递。"),
            (HALTED, chinese, "因此尚未尝试投递此邮件。"),
        ):
            one = evolve(GONE, reply=reply, remote_mta="", last_attempt=None)
            octets = delay_report(evolve(NOTICE, words=(words,)), ORIGIN, [one], 1700600000.0)
            found = " ".join(parts(octets)[0].get_content().split())
            self.assertIn(text, found if words is english else found.replace(" ", ""))
            self.assertNotIn("last attempt", found)
            self.assertNotIn("最近一次", found)
            self.assertEqual(statuses(octets)[1]["Diagnostic-Code"], f"X-qmailpy; {reply}")
            quoted = delay_report(NOTICE, ORIGIN, [evolve(one, remote_mta="mx.example.net")], None)
            self.assertIn("The last attempt ended so: mx.example.net said", parts(quoted)[0].get_content())

    def test_a_report_of_success_tells_each_its_own(self) -> None:
        """RFC 3464 s.2.3.3; the subject tells when nothing is more than relayed."""
        ok = evolve(GONE, reply=Reply(250, "", "ok"))
        told = [evolve(ok, action=action) for action in ("delivered", "relayed", "expanded")]
        octets = success_report(NOTICE, evolve(ORIGIN, content=None), told)
        self.assertEqual([group["Action"] for group in statuses(octets)[1:]], ["delivered", "relayed", "expanded"])
        self.assertEqual({group["Status"] for group in statuses(octets)[1:]}, {"2.0.0"})
        self.assertEqual(parsed(octets)["Subject"], "Your message was delivered")
        self.assertEqual(parts(octets)[2].get_content_type(), "text/rfc822-headers")
        octets = success_report(NOTICE, evolve(ORIGIN, content=None), told[1:2])
        self.assertEqual(parsed(octets)["Subject"], "Your message was relayed")
        self.assertIn("to mx.example.net, which", " ".join(parts(octets)[0].get_content().split()))

    def test_an_original_recipient_is_the_one_that_was_given(self) -> None:
        """RFC 3461 s.6.3 (d): without ORCPT there is none, whatever the address became."""
        recipient = evolve(ANN, original="info@example.org")
        octets = failure_report(NOTICE, ORIGIN, [evolve(GONE, recipient=recipient)])
        self.assertNotIn("Original-Recipient", statuses(octets)[1])

    def test_a_double_bounce_says_that_it_is_one(self) -> None:
        octets = failure_report(NOTICE, ORIGIN, [GONE], double=True)
        self.assertEqual(parsed(octets)["Subject"], "Undeliverable notice")

    def test_the_message_comes_back_octet_for_octet(self) -> None:
        octets = failure_report(NOTICE, ORIGIN, [GONE])
        self.assertEqual(octets.count(b"Content-Type: message/rfc822\r\n\r\n" + CONTENT + b"\r\n--=_"), 1)

    def test_only_the_header_comes_back_when_asked_or_when_it_must(self) -> None:
        """RET=HDRS; no content given; lines that no message may hold; a bare LF."""
        for origin in (
            evolve(ORIGIN, envelope=evolve(ENVELOPE, ret="HDRS")),
            evolve(ORIGIN, content=None),
            evolve(ORIGIN, content=CONTENT + b"x" * (LINE_MAX + 1) + b"\r\n"),
            evolve(ORIGIN, content=CONTENT + b"bare\nlf\r\n"),
            evolve(ORIGIN, content=CONTENT + b"nul\0\r\n"),
        ):
            last = parts(failure_report(NOTICE, origin, [GONE]))[2]
            self.assertEqual(last.get_content_type(), "text/rfc822-headers")
            self.assertEqual(last.get_payload(), HEADER.decode()[:-2])

    def test_eight_bit_content_is_declared(self) -> None:
        octets = failure_report(NOTICE, evolve(ORIGIN, content=CONTENT + b"\xe4\r\n"), [GONE])
        found = parsed(octets)
        self.assertEqual(found["Content-Transfer-Encoding"], "8bit")
        self.assertEqual(parts(octets)[2]["Content-Transfer-Encoding"], "8bit")
        self.assertNotIn("Content-Transfer-Encoding", parts(octets)[0])
        plain = parsed(failure_report(NOTICE, ORIGIN, [GONE]))
        self.assertNotIn("Content-Transfer-Encoding", plain)

    def test_an_internationalised_message_comes_back_as_one(self) -> None:
        """RFC 6533: in base64 and with escaped addresses to who has a plain address, so that SMTPUTF8 is not needed."""
        header = "Subject: grüße\r\n\r\n".encode()
        envelope = evolve(ENVELOPE, smtputf8=True)
        origin = evolve(ORIGIN, envelope=envelope, header=header, content=header + b"body\r\n")
        reported = evolve(GONE, recipient=evolve(ANN, address="ä +n@example.org", original="x", orcpt="utf-8;ö@x"))
        octets = failure_report(NOTICE, origin, [reported])
        self.assertTrue(octets[: octets.index(b"text/plain")].isascii())
        self.assertEqual(
            [part.get_content_type() for part in parts(octets)],
            ["text/plain", "message/delivery-status", "message/global"],
        )
        self.assertEqual(parts(octets)[2]["Content-Transfer-Encoding"], "base64")
        self.assertIn(base64.b64encode(header + b"body\r\n"), octets)
        self.assertIn(b"Original-Recipient: utf-8; \\x{F6}@x\r\n", octets)
        self.assertIn(b"Final-Recipient: utf-8; \\x{E4}\\x{20}\\x{2B}n@example.org\r\n", octets)
        octets = failure_report(NOTICE, evolve(origin, content=None), [reported])
        self.assertIn(b"Content-Type: message/global-headers\r\nContent-Transfer-Encoding: base64\r\n", octets)

    def test_a_report_to_an_international_address_is_one_itself(self) -> None:
        """RFC 6533 s.4: UTF-8 as it is, in the part for programs too."""
        header = "Subject: grüße\r\n\r\n".encode()
        origin = evolve(ORIGIN, envelope=evolve(ENVELOPE, smtputf8=True), header=header, content=header)
        reported = evolve(GONE, recipient=evolve(ANN, address="änn@example.org"))
        octets = failure_report(evolve(NOTICE, to="bõb@example.com"), origin, [reported])
        self.assertIn("To: bõb@example.com\r\n".encode(), octets)
        self.assertIn(
            b"Content-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: 8bit\r\n\r\n", octets
        )
        self.assertIn("Final-Recipient: utf-8; änn@example.org\r\n".encode(), octets)
        self.assertIn(b"Content-Type: message/global\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + header, octets)
        plain = failure_report(evolve(NOTICE, to="bõb@example.com"), ORIGIN, [GONE])
        self.assertIn(b"Content-Type: message/rfc822\r\n", plain)

    def test_a_message_that_only_has_international_addresses_needs_no_form_of_its_own(self) -> None:
        octets = failure_report(NOTICE, evolve(ORIGIN, envelope=evolve(ENVELOPE, smtputf8=True)), [GONE])
        self.assertIn(b"Content-Type: message/rfc822\r\n", octets)

    def test_chinese_is_encoded_in_subject_and_text(self) -> None:
        """RFC 2047 words of at most 75 characters; the text is whole again behind base64."""
        notice = evolve(NOTICE, words=(built_in("zh"),))
        octets = failure_report(notice, ORIGIN, [GONE])
        self.assertTrue(octets.isascii())
        self.assertEqual(parsed(octets)["Subject"], "您的邮件未能投递")
        text = parts(octets)[0].get_content()
        self.assertIn("<ann@example.org>\uff1a", text)
        self.assertIn("没有这个地址", text)
        self.assertIn("mx.example.net 回复\uff1a550 5.1.1 no such user", text)
        self.assertLessEqual(max(len(line.encode("gb18030")) for line in text.splitlines()), 78)
        both = parsed(failure_report(evolve(NOTICE, words=(built_in("zh"), built_in("en"))), ORIGIN, [GONE]))
        self.assertEqual(both["Subject"], "您的邮件未能投递 / Your message could not be delivered")
        text = cast(list[EmailMessage], both.get_payload())[0].get_content()
        self.assertLess(text.index("很抱歉"), text.index("I'm sorry"))
        for line in octets.split(b"\r\n"):
            self.assertLessEqual(len(line), 76)

    def test_the_boundary_does_not_occur_in_what_is_returned(self) -> None:
        content = CONTENT + b"--=_c0ffee.0\r\n--=_c0ffee.1--\r\n"
        octets = failure_report(NOTICE, evolve(ORIGIN, content=content), [GONE])
        self.assertEqual(parsed(octets).get_boundary(), "=_c0ffee.2")
        self.assertEqual(len(parts(octets)), 3)

    def test_a_name_outside_ascii_is_an_encoded_word(self) -> None:
        octets = failure_report(evolve(NOTICE, sender_name='Zustellung "ä"'), ORIGIN, [GONE])
        self.assertTrue(parsed(octets)["From"].startswith('"Zustellung \\"ä\\"" <'))
        self.assertTrue(octets.isascii())

    def test_an_odd_message_id_is_not_referred_to(self) -> None:
        for odd in ("", "x", "<a b@c>", "<a@b>\r\nX: y", "<ä@b>"):
            octets = failure_report(NOTICE, evolve(ORIGIN, envelope=evolve(ENVELOPE, message_id=odd)), [GONE])
            self.assertNotIn("References", parsed(octets))

    def test_dates_are_those_of_rfc_5322(self) -> None:
        self.assertEqual(date(0), "Thu, 1 Jan 1970 00:00:00 +0000")

    @given(
        st.text(AWKWARD, max_size=300),
        st.text(AWKWARD, max_size=1500),
        st.text(AWKWARD, max_size=300),
        st.binary(max_size=300),
        st.sampled_from(["", "5.1.1", "5.1.1\r\nY: z", "4.4.4444"]),
    )
    def test_nothing_from_outside_breaks_the_report(
        self, address: str, words: str, host: str, header: bytes, enhanced: str
    ) -> None:
        """Whatever addresses, replies, names and headers hold: three parts, the same fields, lawful lines."""
        envelope = evolve(ENVELOPE, sender=address, envid=host, message_id=words)
        recipient = Recipient(address=address, original=host, channel="c", orcpt=words[:500])
        reported = Reported(recipient=recipient, reply=Reply(550, enhanced, words), remote_mta=host)
        origin = Origin(id="i", envelope=envelope, header=header, content=header)
        octets = failure_report(evolve(NOTICE, to=address), origin, [reported, reported])
        lines = octets.split(b"\r\n")
        self.assertTrue(all(len(line) <= LINE_MAX for line in lines))
        self.assertFalse(any(b"\r" in line or b"\n" in line or b"\0" in line for line in lines))
        head = lines[: lines.index(b"")]
        names = [line.partition(b":")[0] for line in head if not line.startswith(b" ")]
        wanted = [b"Received", b"Date", b"From", b"To", b"Subject", b"Message-ID", b"References", b"Auto-Submitted"]
        wanted += [b"MIME-Version", b"Content-Type", b"Content-Transfer-Encoding"]
        self.assertEqual(names, [name for name in wanted if name in names])
        boundary = b"--=_c0ffee.0"
        self.assertEqual([line for line in lines if line.startswith(boundary)], [boundary] * 3 + [boundary + b"--"])
        begin = [at for at, line in enumerate(lines) if line == boundary]
        status = lines[lines.index(b"", begin[1]) + 1 : begin[2]]
        self.assertTrue(all(line.isascii() for line in status) or not address.isascii())
        self.assertEqual(status.count(b"Action: failed"), 2)
        self.assertEqual([line for line in status if line == b""], [b""] * 3)
