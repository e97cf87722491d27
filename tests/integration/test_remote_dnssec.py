"""
DANE against a DNS that is signed by knot and validated by unbound: the table of outcomes of RFC 7672.
"""

from __future__ import annotations

import datetime
from typing import Any, cast

from attrs import evolve
from twisted.internet import reactor as global_reactor
from twisted.internet.threads import deferToThread

from qmailpy.channels.parts import Security
from qmailpy.config.schema import DnsConfig
from qmailpy.remote.dns_wire import IDnsReactor, resolver
from qmailpy.servers.tls import OWN, Certificates
from qmailpy.testing.smtp_sink import DEFAULT_EHLO
from qmailpy.values import Disposition, Verdict
from tests.integration.peers.dnssec import WRONG, Dnssec
from tests.integration.test_remote_policies import Noted, PublishedTestCase, describes
from tests.integration.test_remote_tls import NOW, pair

NAME = "mx.signed.test"
GOOD = pair(NAME)
OLD = pair("old.signed.test", NOW - datetime.timedelta(days=365 * 20))
OTHER = pair("other.test")


class DnssecTests(PublishedTestCase):
    """Mail to domains of three zones, whose exchangers are all on this machine."""

    async def setUp(self) -> None:  # type: ignore[override]
        _, self.port = self.secure_sink(Certificates({OWN: GOOD, "old.signed.test": OLD}))
        _, self.bare = self.secure_sink(script={"EHLO": DEFAULT_EHLO})
        right, wrong = describes(GOOD), describes(OTHER)
        at = f"_{self.port}._tcp"
        signed = [
            "mx A 127.0.0.1",
            f"{at}.mx TLSA {right}",
            "good MX 10 mx",
            "alias CNAME mx",
            "toalias MX 10 alias",
            "wrong A 127.0.0.1",
            f"{at}.wrong TLSA {wrong}",
            "bad MX 10 wrong",
            "two MX 10 wrong",
            "two MX 20 mx",
            "roll A 127.0.0.1",
            f"{at}.roll TLSA {wrong}",
            f"{at}.roll TLSA {right}",
            "rollover MX 10 roll",
            "old A 127.0.0.1",
            f"{at}.old TLSA {describes(OLD)}",
            "expired MX 10 old",
            "odd A 127.0.0.1",
            f"{at}.odd TLSA {describes(OTHER, 1)}",
            "unusable MX 10 odd",
            "none A 127.0.0.1",
            "missing MX 10 none",
            "implicit A 127.0.0.1",
            f"{at}.implicit TLSA {wrong}",
            "lame A 127.0.0.1",
            "_tcp.lame NS ns",
            f"_tcp.lame DS {WRONG}",
            "forged MX 10 lame",
            "elsewhere MX 10 mx.plain.test.",
            "broken MX 10 mx.bogus.test.",
            "www CNAME none",
            f"_{self.bare}._tcp.mx TLSA {right}",
        ]
        others = ["mx A 127.0.0.1", f"{at}.mx TLSA {wrong}", "@ MX 10 mx", "in MX 10 mx.signed.test."]
        text = "\n".join(others) + "\n"
        self.dns = await deferToThread(Dnssec, "\n".join(signed) + "\n", text, text, "_tcp.lame.signed.test")
        self.addCleanup(deferToThread, self.dns.close)

    async def mail(self, domain: str, *, trusted: bool = True, port: int = 0) -> Disposition:
        config = DnsConfig(servers=(f"127.0.0.1:{self.dns.port}",), trusted=trusted, timeout_s=8.0)
        asking = resolver(cast(IDnsReactor, global_reactor), config)
        self.noted = Noted()
        options: dict[str, Any] = {}
        channel = self.channel_with(asking, port or self.port, Security(results=self.noted), b"", options)
        job = self.job()
        to = tuple(evolve(each, address=f"b@{domain}", host=domain) for each in job.recipients)
        [found] = await channel.dequeue(evolve(job, recipients=to))
        return found

    async def test_the_table(self) -> None:
        """Domain by domain: what arrives, under which policy, and what reports say."""
        for domain, how, said in (
            ("good.signed.test", "dane", ("tlsa", "")),
            ("rollover.signed.test", "dane", ("tlsa", "")),
            ("expired.signed.test", "dane", ("tlsa", "")),  # RFC 7671 s.5.1
            ("toalias.signed.test", "dane", ("tlsa", "")),
            ("unusable.signed.test", "dane, unusable", ("tlsa", "")),
            ("missing.signed.test", "", ("no-policy-found", "")),
            ("www.signed.test", "", ("no-policy-found", "")),
            ("elsewhere.signed.test", "", ("no-policy-found", "")),
            ("plain.test", "", ("no-policy-found", "")),
            ("in.plain.test", "", ("no-policy-found", "")),
        ):
            self.delivered(await self.mail(domain), how)
            self.assertEqual(self.noted.said, [said], domain)
        for domain, enhanced, words, noted in (
            ("bad.signed.test", "4.7.5", "certificate matches no TLSA record", [("tlsa", "certificate-not-trusted")]),
            ("implicit.signed.test", "4.7.5", "matches no TLSA record", [("tlsa", "certificate-not-trusted")]),
            (
                "forged.signed.test",
                "4.7.5",
                "TLSA records of lame.signed.test cannot be had",
                [("tlsa", "dnssec-invalid")],
            ),
            ("broken.signed.test", "4.4.3", "SERVFAIL", []),
            ("bogus.test", "4.4.3", "SERVFAIL", []),
        ):
            found = await self.mail(domain)
            self.assertEqual((found.verdict, found.reply.enhanced), (Verdict.DEFERRED, enhanced), found)
            self.assertIn(words, found.reply.text)
            self.assertEqual(self.noted.said, noted, domain)

    async def test_the_next_host_is_tried(self) -> None:
        """One whose certificate is wrong is not the end."""
        self.delivered(await self.mail("two.signed.test"), "dane")
        self.assertEqual(self.noted.said, [("tlsa", "certificate-not-trusted"), ("tlsa", "")])

    async def test_without_trust_in_the_resolver_there_is_no_dane(self) -> None:
        """[dns] trusted = false: the AD bit of just anybody says nothing."""
        self.delivered(await self.mail("bad.signed.test", trusted=False), "")

    async def test_starttls_that_is_stripped(self) -> None:
        """Where records ask for it, nothing goes in the clear."""
        found = await self.mail("good.signed.test", port=self.bare)
        self.assertEqual((found.verdict, found.reply.enhanced), (Verdict.DEFERRED, "4.7.4"), found)
