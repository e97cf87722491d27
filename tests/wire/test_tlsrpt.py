"""
Tests for L{qmailpy.wire.tlsrpt}.
"""

from __future__ import annotations

import datetime
import email
import email.policy
import gzip
import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.wire.tlsrpt import (
    NOTHING,
    Applied,
    Counted,
    Failed,
    Reporter,
    packed,
    report,
    report_addresses,
    report_mail,
    report_name,
)

DAY = datetime.date(2016, 4, 1)
REPORTER = Reporter(organization="Company-X", contact="sts-reporting@company-x.example", domain="company-x.example")
STS = Applied(
    "sts",
    ("version: STSv1", "mode: testing", "mx: *.mail.company-y.example", "max_age: 86400"),
    ("*.mail.company-y.example",),
)
EXPIRED = Failed("certificate-expired", "mx1.mail.company-y.example", "2001:db8::2", "2001:db8:abcd:12::1")
OTHER = Failed("starttls-not-supported", "mx2.mail.company-y.example", "203.0.113.56", "", "not offered")


class RecordTests(SynchronousTestCase):
    """Who wants reports (RFC 8460 s.3)."""

    def test_the_examples_of_the_rfc(self) -> None:
        self.assertEqual(
            report_addresses(["v=TLSRPTv1;rua=mailto:reports@example.com"]), ("mailto:reports@example.com",)
        )
        url = "https://reporting.example.com/v1/tlsrpt"
        self.assertEqual(report_addresses([f"v=TLSRPTv1; rua={url}"]), (url,))

    def test_several_addresses_and_records(self) -> None:
        """Ours is the one of our version; what cannot be used is passed over."""
        texts = [
            "v=spf1 -all",
            "v=TLSRPTv1; x=y; rua=mailto:a@b.example, ftp://x/, https://c.example/r,mailto:a@b.example;",
        ]
        self.assertEqual(report_addresses(texts), ("mailto:a@b.example", "https://c.example/r"))
        self.assertEqual(report_addresses(["v=TLSRPTv1; rua=mailto:a@b.example?subject=x"]), ("mailto:a@b.example",))

    def test_what_counts_as_none(self) -> None:
        good = "v=TLSRPTv1; rua=mailto:a@b.example"
        for texts in ([], [good, good], ["v=TLSRPTv2; rua=mailto:a@b.example"], ["v=TLSRPTv1"], ["v=TLSRPTv1; rua="]):
            self.assertEqual(report_addresses(texts), ())
        for bad in (
            "mailto:a",
            "mailto:a b@c.example",
            "mailto:a@b.example\r\nx",
            "mailto:<a@b>",
            "mailto:a..b@c.example",
            "http://c.example/",
            "https://u@c.example/",
            "https://c.example:444/",
            "https:///x",
            "https://c example/",
        ):
            self.assertEqual(report_addresses([f"v=TLSRPTv1; rua={bad}"]), (), bad)
        many = ",".join(f"mailto:a{number}@b.example" for number in range(100))
        self.assertEqual(len(report_addresses([f"v=TLSRPTv1; rua={many}"])), 8)

    @given(st.text(max_size=60))
    def test_anything_is_read(self, text: str) -> None:
        for found in report_addresses([f"v=TLSRPTv1; rua={text}"]):
            self.assertTrue(found.isprintable() and " " not in found)


class ReportTests(SynchronousTestCase):
    """The report."""

    def made(self) -> bytes:
        counted = [
            Counted(applied=STS, good=5326, bad=303, failures=((EXPIRED, 100), (OTHER, 200))),
            Counted(applied=NOTHING, good=1, bad=0),
        ]
        return report("company-y.example", DAY, counted, REPORTER, "5065427c@company-x.example")

    def test_it_has_the_shape_of_the_rfcs_example(self) -> None:
        """RFC 8460 appendix B."""
        found = json.loads(self.made())
        self.assertEqual(found["organization-name"], "Company-X")
        self.assertEqual(
            found["date-range"], {"start-datetime": "2016-04-01T00:00:00Z", "end-datetime": "2016-04-01T23:59:59Z"}
        )
        self.assertEqual(found["contact-info"], "sts-reporting@company-x.example")
        first, second = found["policies"]
        self.assertEqual(
            first["policy"],
            {
                "policy-type": "sts",
                "policy-string": list(STS.strings),
                "policy-domain": "company-y.example",
                "mx-host": ["*.mail.company-y.example"],
            },
        )
        self.assertEqual(first["summary"], {"total-successful-session-count": 5326, "total-failure-session-count": 303})
        self.assertEqual(
            first["failure-details"],
            [
                {
                    "result-type": "certificate-expired",
                    "sending-mta-ip": "2001:db8:abcd:12::1",
                    "receiving-mx-hostname": "mx1.mail.company-y.example",
                    "receiving-ip": "2001:db8::2",
                    "failed-session-count": 100,
                },
                {
                    "result-type": "starttls-not-supported",
                    "receiving-mx-hostname": "mx2.mail.company-y.example",
                    "receiving-ip": "203.0.113.56",
                    "failure-reason-code": "not offered",
                    "failed-session-count": 200,
                },
            ],
        )
        self.assertEqual(second["policy"], {"policy-type": "no-policy-found", "policy-domain": "company-y.example"})

    def test_the_message_that_brings_it(self) -> None:
        """RFC 8460 s.5.3, read by another reader of MIME; it asks for no TLS (RFC 8689)."""
        zipped = packed(self.made())
        octets = report_mail(
            "company-y.example",
            DAY,
            zipped,
            REPORTER,
            "1@mx.company-x.example",
            "r@company-y.example",
            "Fri, 1 Apr 2016",
        )
        self.assertTrue(all(len(line) <= 998 for line in octets.split(b"\r\n")))
        self.assertNotIn(b"\n", octets.replace(b"\r\n", b""))
        message = email.message_from_bytes(octets, policy=email.policy.default)
        self.assertEqual(message.get_content_type(), "multipart/report")
        self.assertEqual(message.get_param("report-type"), "tlsrpt")
        self.assertEqual(message["TLS-Report-Domain"], "company-y.example")
        self.assertEqual(message["TLS-Report-Submitter"], "company-x.example")
        self.assertEqual(message["TLS-Required"], "No")
        self.assertEqual(
            message["Subject"],
            "Report Domain: company-y.example Submitter: company-x.example Report-ID: <1@mx.company-x.example>",
        )
        words, attached = message.iter_parts()
        self.assertEqual(words.get_content_type(), "text/plain")
        self.assertEqual(attached.get_content_type(), "application/tlsrpt+gzip")
        self.assertEqual(attached.get_filename(), "company-x.example!company-y.example!1459468800!1459555199!1.json.gz")
        self.assertEqual(gzip.decompress(attached.get_content()), self.made())

    def test_the_same_report_is_the_same_octets(self) -> None:
        self.assertEqual(packed(self.made()), packed(self.made()))
        self.assertEqual(
            report_name("d.example", DAY, REPORTER, "a!/b@x"),
            "company-x.example!d.example!1459468800!1459555199!ab.json.gz",
        )
