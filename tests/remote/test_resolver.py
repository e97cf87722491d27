"""
Tests for L{qmailpy.remote.resolver} and the settings of L{qmailpy.remote.dns_wire}.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from qmailpy.config.schema import DnsConfig
from qmailpy.errors import Temporary
from qmailpy.interfaces import IResolver, ISecureResolver
from qmailpy.remote.dns_wire import servers
from qmailpy.remote.resolver import Resolver
from qmailpy.testing.tables_resolver import TablesResolver
from qmailpy.wire.tlsa import Tlsa

T = TypeVar("T")
Answering = Callable[[dns.message.Message], bytes]
SERVERS = [("192.0.2.53", 53), ("192.0.2.54", 53)]


def records(*lines: str, rcode: dns.rcode.Rcode = dns.rcode.NOERROR, flags: int = 0) -> Answering:
    """An answer with C{lines} of a zone file, whatever the question."""

    def answer(query: dns.message.Message) -> bytes:
        response = dns.message.make_response(query)
        response.set_rcode(rcode)
        response.flags |= flags
        for line in lines:
            name, ttl, _, kind, data = line.split(" ", 4)
            rrset = dns.rrset.from_text(name, int(ttl), "IN", kind, data)
            (response.authority if kind == "SOA" else response.answer).append(rrset)
        return response.to_wire()

    return answer


NXDOMAIN = records("example. 30 IN SOA a.example. b.example. 1 2 3 4 30", rcode=dns.rcode.NXDOMAIN)
EMPTY = records("example. 30 IN SOA a.example. b.example. 1 2 3 4 30")
SERVFAIL = records(rcode=dns.rcode.SERVFAIL)


class Asked:
    """Answers by (name, type); the last of a list stays. C{questions} tells what was asked of whom."""

    def __init__(self, answers: dict[str, list[Answering | Exception | Deferred[bytes]]]) -> None:
        self._answers = answers
        self.questions: list[str] = []

    async def __call__(self, query: bytes, server: tuple[str, int], timeout_s: float, *, tcp: bool) -> bytes:
        message = dns.message.from_wire(query)
        [question] = message.question
        key = f"{question.name.to_text(omit_final_dot=True)} {dns.rdatatype.to_text(question.rdtype)}"
        self.questions.append(f"{key} {server[0]}{' tcp' if tcp else ''}")
        answers = self._answers[key]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Deferred):
            await answer
            return records()(message)
        return answer(message)


class ResolverTests(SynchronousTestCase):
    """Questions and answers."""

    def resolver(self, **answers: Any) -> Resolver:
        """C{mx_example_MX=[...]}: underscores stand for dots, the last for a blank."""
        self.clock = Clock()
        keys = {key.rpartition("_")[0].replace("_", ".") + " " + key.rpartition("_")[2]: key for key in answers}
        self.asked = Asked({key: list(answers[name]) for key, name in keys.items()})
        return Resolver(self.asked, SERVERS, 10.0, self.clock.seconds)

    def get(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def why(self, coroutine: Coroutine[Any, Any, object]) -> str:
        return str(self.failureResultOf(Deferred.fromCoroutine(coroutine), Temporary).value)

    def test_real_and_fake_have_the_interface(self) -> None:
        """The fake that tests of others use may stand for the real one."""
        verifyObject(IResolver, self.resolver())
        verifyObject(IResolver, TablesResolver())
        verifyObject(ISecureResolver, self.resolver())
        verifyObject(ISecureResolver, TablesResolver())

    def test_mx_records_as_published(self) -> None:
        """A null MX is (0, "")."""
        found = records("d.example. 60 IN MX 20 b.example.", "d.example. 60 IN MX 10 A.example.")
        resolver = self.resolver(d_example_MX=[found], n_example_MX=[records("n.example. 60 IN MX 0 .")])
        self.assertEqual(set(self.get(resolver.mx("D.example."))), {(20, "b.example"), (10, "A.example")})
        self.assertEqual(self.get(resolver.mx("n.example")), ((0, ""),))

    def test_addresses_of_both_families(self) -> None:
        """IPv6 first."""
        resolver = self.resolver(
            m_example_A=[records("m.example. 60 IN A 192.0.2.1")],
            m_example_AAAA=[records("m.example. 60 IN AAAA 2001:db8::1")],
        )
        self.assertEqual(self.get(resolver.addresses("m.example")), ("2001:db8::1", "192.0.2.1"))

    def test_other_servers_are_asked_from_a_reload_on(self) -> None:
        """What the former ones had said is forgotten; with the same ones it is not."""
        one = records("m.example. 60 IN MX 10 one.example.")
        resolver = self.resolver(m_example_MX=[one, records("m.example. 60 IN MX 10 two.example.")])
        self.assertEqual(self.get(resolver.mx("m.example")), ((10, "one.example"),))
        resolver.use(SERVERS, 5.0, trusted=False)
        self.assertEqual(self.get(resolver.mx("m.example")), ((10, "one.example"),))
        resolver.use([("192.0.2.99", 53)], 5.0, trusted=False)
        self.assertEqual(self.get(resolver.mx("m.example")), ((10, "two.example"),))
        self.assertEqual(self.asked.questions, ["m.example MX 192.0.2.53", "m.example MX 192.0.2.99"])
        resolver.use([("192.0.2.99", 53)], 5.0, trusted=True)
        self.assertTrue(resolver.validating)

    def test_one_family_failing_leaves_the_other(self) -> None:
        """Broken servers answer AAAA with SERVFAIL."""
        resolver = self.resolver(
            m_example_A=[records("m.example. 60 IN A 192.0.2.1")],
            m_example_AAAA=[SERVFAIL],
            n_example_A=[EMPTY],
            n_example_AAAA=[SERVFAIL],
        )
        self.assertEqual(self.get(resolver.addresses("m.example")), ("192.0.2.1",))
        self.assertIn("SERVFAIL", self.why(resolver.addresses("n.example")))

    def test_absence_is_no_failure_and_nxdomain_is_told_from_it(self) -> None:
        """Empty answers; C{exists} knows."""
        resolver = self.resolver(e_example_MX=[EMPTY], x_example_MX=[NXDOMAIN])
        for name, exists in (("e.example", True), ("x.example", False)):
            self.assertEqual(self.get(resolver.mx(name)), ())
            self.assertEqual(self.get(resolver.exists(name)), exists)
        self.assertEqual(len(self.asked.questions), 2)

    def test_names_that_cannot_be_are_not_asked_for(self) -> None:
        """No octet of them reaches the wire."""
        resolver = self.resolver()
        for name in ("", ".", "a..b", "a b.example", "x" * 64 + ".example", "é.example", "a\0b", "a." * 130, "a\\.b"):
            self.assertEqual(self.get(resolver.mx(name)), (), name)
            self.assertFalse(self.get(resolver.exists(name)), name)
        self.assertEqual(self.asked.questions, [])

    def test_aliases_are_followed(self) -> None:
        """In the answer, over another question, and not for ever."""
        resolver = self.resolver(
            c_example_MX=[records("c.example. 60 IN CNAME d.example.", "d.example. 60 IN MX 5 m.example.")],
            e_example_MX=[records("e.example. 60 IN CNAME f.example.")],
            f_example_MX=[records("f.example. 60 IN MX 6 m.example.")],
            l1_example_MX=[records("l1.example. 60 IN CNAME l2.example.")],
            l2_example_MX=[records("l2.example. 60 IN CNAME l1.example.")],
        )
        self.assertEqual(self.get(resolver.mx("c.example")), ((5, "m.example"),))
        self.assertEqual(self.get(resolver.mx("e.example")), ((6, "m.example"),))
        self.assertIn("aliases", self.why(resolver.mx("l1.example")))

    def test_the_name_of_an_address(self) -> None:
        """Empty when it has none."""
        resolver = self.resolver(
            **{
                "1_2_0_192_in-addr_arpa_PTR": [records("1.2.0.192.in-addr.arpa. 60 IN PTR host.example.")],
                "2_2_0_192_in-addr_arpa_PTR": [NXDOMAIN],
            }
        )
        self.assertEqual(self.get(resolver.reverse("192.0.2.1")), "host.example")
        self.assertEqual(self.get(resolver.reverse("192.0.2.2")), "")

    def test_an_answer_is_kept_for_its_lifetime(self) -> None:
        """Absences too, and nothing above an hour."""
        found = records("d.example. 60 IN MX 1 m.example.")
        resolver = self.resolver(
            d_example_MX=[found], e_example_MX=[EMPTY], f_example_MX=[records("f.example. 99999 IN MX 1 m.example.")]
        )
        for name, seconds in (("d.example", 60), ("e.example", 30), ("f.example", 3600)):
            self.asked.questions.clear()
            self.get(resolver.mx(name))
            self.clock.advance(seconds - 1)
            self.get(resolver.mx(name))
            self.assertEqual(len(self.asked.questions), 1, name)
            self.clock.advance(2)
            self.get(resolver.mx(name))
            self.assertEqual(len(self.asked.questions), 2, name)

    def test_a_failure_is_kept_for_a_moment(self) -> None:
        """So that much mail for a broken domain asks once."""
        resolver = self.resolver(d_example_MX=[SERVFAIL])
        for _ in range(3):
            self.why(resolver.mx("d.example"))
        asked = len(self.asked.questions)
        self.clock.advance(6)
        self.why(resolver.mx("d.example"))
        self.assertEqual(len(self.asked.questions), 2 * asked)

    def test_the_next_server_is_asked_when_one_is_silent_or_broken(self) -> None:
        """Each at most twice."""
        found = records("d.example. 60 IN MX 1 m.example.")
        resolver = self.resolver(
            d_example_MX=[TimeoutError("no answer"), found],
            e_example_MX=[SERVFAIL, records("e.example. 60 IN MX 2 m.example.")],
            f_example_MX=[ConnectionRefusedError("refused")],
        )
        self.assertEqual(self.get(resolver.mx("d.example")), ((1, "m.example"),))
        self.assertEqual(self.get(resolver.mx("e.example")), ((2, "m.example"),))
        self.asked.questions.clear()
        self.assertIn("refused", self.why(resolver.mx("f.example")))
        self.assertEqual(len(self.asked.questions), 4)

    def test_a_truncated_answer_is_asked_for_again_over_tcp(self) -> None:
        """RFC 7766."""
        resolver = self.resolver(
            d_example_MX=[records(flags=dns.flags.TC), records("d.example. 60 IN MX 1 m.example.")]
        )
        self.assertEqual(self.get(resolver.mx("d.example")), ((1, "m.example"),))
        self.assertEqual(self.asked.questions, ["d.example MX 192.0.2.53", "d.example MX 192.0.2.53 tcp"])

    def test_an_answer_to_another_question_is_not_believed(self) -> None:
        """Only the right id is not enough."""

        def forged(query: dns.message.Message) -> bytes:
            other = dns.message.make_query("evil.example", "MX", id=query.id)
            return records("d.example. 60 IN MX 1 evil.example.")(other)

        resolver = self.resolver(d_example_MX=[forged])
        self.assertIn("another question", self.why(resolver.mx("d.example")))

    def test_the_same_question_under_way_is_asked_once(self) -> None:
        """All who wait get the answer."""
        later: Deferred[bytes] = Deferred()
        resolver = self.resolver(d_example_MX=[later])
        waiting = [Deferred.fromCoroutine(resolver.mx("d.example")) for _ in range(5)]
        self.assertNoResult(waiting[0])
        later.callback(b"")
        self.assertEqual([self.successResultOf(one) for one in waiting], [()] * 5)
        self.assertEqual(len(self.asked.questions), 1)

    @given(st.binary(max_size=100))
    def test_garbage_is_a_temporary_failure(self, garbage: bytes) -> None:
        """Whatever a server sends."""
        resolver = self.resolver(d_example_MX=[lambda query: query.to_wire()[:2] + garbage])
        self.assertIn("d.example", self.why(resolver.mx("d.example")))


class ServersTests(SynchronousTestCase):
    """Which servers are asked."""

    def test_configured_servers_may_have_ports(self) -> None:
        """IPv6 with port in brackets."""
        config = DnsConfig(servers=("192.0.2.1", "192.0.2.2:5353", "2001:db8::1", "[2001:db8::2]:5353"))
        self.assertEqual(
            servers(config), (("192.0.2.1", 53), ("192.0.2.2", 5353), ("2001:db8::1", 53), ("2001:db8::2", 5353))
        )

    def test_else_those_of_the_system(self) -> None:
        """And the local one when there is no file."""
        path = self.mktemp()
        self.assertEqual(servers(DnsConfig(), path), (("127.0.0.1", 53),))
        with open(path, "w", encoding="ascii") as file:
            file.write("# x\nsearch y\nnameserver 192.0.2.8\nnameserver fe80::1%eth0\n")
        self.assertEqual(servers(DnsConfig(), path), (("192.0.2.8", 53), ("fe80::1", 53)))


class SecureTests(SynchronousTestCase):
    """What a validating server says: the AD bit (RFC 4035 s.3.2.3), and what DANE makes of it (RFC 7672 s.2)."""

    def resolver(self, answers: dict[str, Any], *, trusted: bool = True) -> Resolver:
        self.asked = Asked(answers)
        return Resolver(self.asked, SERVERS, 10.0, Clock().seconds, trusted=trusted)

    def found(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def test_only_a_trusted_server_is_believed(self) -> None:
        """And asked for it (RFC 6840 s.5.7)."""
        signed = records("d.example. 60 IN MX 10 m.example.", flags=dns.flags.AD)
        asked: list[int] = []

        def answer(query: dns.message.Message) -> bytes:
            asked.append(query.flags & dns.flags.AD)
            return signed(query)

        self.assertTrue(self.found(self.resolver({"d.example MX": [answer]}).secure_mx("d.example")))
        self.assertFalse(self.found(self.resolver({"d.example MX": [answer]}, trusted=False).secure_mx("d.example")))
        plain = records("d.example. 60 IN MX 10 m.example.")
        self.assertFalse(self.found(self.resolver({"d.example MX": [plain]}).secure_mx("d.example")))
        self.assertEqual(asked, [dns.flags.AD, 0])

    def test_absence_can_be_secure_too(self) -> None:
        """The implicit MX of a signed zone (RFC 7672 s.2.2.1)."""
        nothing = records("example. 30 IN SOA a.example. b.example. 1 2 3 4 30", flags=dns.flags.AD)
        self.assertTrue(self.found(self.resolver({"d.example MX": [nothing]}).secure_mx("d.example")))

    def test_what_cannot_be_validated_is_no_answer(self) -> None:
        """SERVFAIL: the records are forged, or their signatures are wrong."""
        resolver = self.resolver({"_25._tcp.m.example TLSA": [SERVFAIL], "d.example MX": [SERVFAIL]})
        for question in (resolver.tlsa("_25._tcp.m.example"), resolver.secure_mx("d.example")):
            self.failureResultOf(Deferred.fromCoroutine(question), Temporary)

    def test_tlsa_records(self) -> None:
        data = "ab" * 400
        line = f"_25._tcp.m.example. 60 IN TLSA 2 0 0 {data}"
        resolver = self.resolver({"_25._tcp.m.example TLSA": [records(line, flags=dns.flags.AD)]})
        self.assertEqual(self.found(resolver.tlsa("_25._tcp.m.example")), ((Tlsa(2, 0, 0, bytes.fromhex(data)),), True))

    def test_texts(self) -> None:
        """Strings are joined, records are not."""
        lines = ('t.example. 60 IN TXT "v=STSv1; " "id=1;"', "t.example. 60 IN TXT other")
        answer = records(*lines)
        self.assertEqual(
            sorted(self.found(self.resolver({"t.example TXT": [answer]}).text("t.example"))),
            ["other", "v=STSv1; id=1;"],
        )

    def bases(self, four: Answering, six: Answering, alias: Answering = EMPTY) -> list[str]:
        nothing = records("example. 30 IN SOA a.example. b.example. 1 2 3 4 30", flags=dns.flags.AD)
        resolver = self.resolver(
            {
                "m.example A": [four],
                "m.example AAAA": [six],
                "m.example CNAME": [alias],
                "real.example AAAA": [nothing],
            }
        )
        return list(self.found(resolver.tlsa_bases("M.example.")))

    def test_where_tlsa_records_are(self) -> None:
        """RFC 7672 s.2.2.2 and s.2.2.3."""
        ad = dns.flags.AD
        soa = "example. 30 IN SOA a.example. b.example. 1 2 3 4 30"
        four, alias = "m.example. 60 IN A 192.0.2.1", "m.example. 60 IN CNAME real.example."
        ends = "real.example. 60 IN A 192.0.2.1"
        self.assertEqual(self.bases(records(four, flags=ad), records(soa, flags=ad)), ["m.example"])
        self.assertEqual(self.bases(records(four), records(soa, flags=ad)), [])
        self.assertEqual(self.bases(records(four, flags=ad), records(soa)), [])
        self.assertEqual(self.bases(records(four, flags=ad), SERVFAIL), ["m.example"])
        self.assertEqual(self.bases(SERVFAIL, SERVFAIL), [])
        signed = self.bases(records(alias, ends, flags=ad), records(alias, soa, flags=ad))
        self.assertEqual(signed, ["real.example", "m.example"])
        half = self.bases(records(alias, ends), records(alias, soa), records(alias, flags=ad))
        self.assertEqual(half, ["m.example"])
        self.assertEqual(self.bases(records(alias, ends), records(alias, soa), records(alias)), [])
