"""
Tests for L{qmailpy.remote.protection}: the table of what is published against what a host must have.
"""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.remote.mx import destination
from qmailpy.remote.peers import Peer
from qmailpy.remote.policy import Policy
from qmailpy.remote.protection import Planned, Protection, StsFound
from qmailpy.testing.tables_resolver import TablesResolver
from qmailpy.wire.client_events import Tls
from qmailpy.wire.sts import Mode, StsPolicy
from qmailpy.wire.tlsa import Mismatch, Tlsa, Tlsas

DIGEST = bytes(32)
EE, TA, PKIX = Tlsa(3, 1, 1, DIGEST), Tlsa(2, 1, 1, DIGEST), Tlsa(1, 1, 1, DIGEST)
MX = "_25._tcp.mx.example"
SIGNED = ("d.example", "mx.example", MX)
FOLLOW = Policy(dane=True, mta_sts=True)


class FixedSts:
    """The same for every domain."""

    def __init__(self, mode: Mode | None = None, *mx: str, failure: Mismatch | None = None) -> None:
        policy = None if mode is None else StsPolicy(mode=mode, mx=mx or ("mx.example",), max_age_s=60, lines=("x",))
        self.found = StsFound(policy, failure)
        self.asked: list[str] = []

    async def find(self, domain: str) -> StsFound:
        self.asked.append(domain)
        return self.found


class ProtectionTests(SynchronousTestCase):
    """One host mx.example of the domain d.example."""

    def plan(
        self,
        policy: Policy = FOLLOW,
        sts: FixedSts | None = None,
        where: str = "d.example",
        peer: Peer | None = None,
        no_trust: str = "",
        watch: bool = True,
        **dns: Any,
    ) -> Planned:
        protection = Protection(TablesResolver(**dns), sts, no_trust=no_trust, watch=watch)
        peer = peer or Peer("mx.example", "192.0.2.1", 25, policy.tls)
        goal = destination(where, policy, trusted=False)
        [one], self.failure = self.successResultOf(Deferred.fromCoroutine(protection.plan(goal, [peer])))
        return one

    def dane(self, *records: Tlsa, signed: tuple[str, ...] = SIGNED, **options: Any) -> Planned:
        return self.plan(tlsas={MX: records}, secure=signed, **options)

    def must(self, one: Planned) -> tuple[Tls, tuple[str, ...], str]:
        self.assertIsNone(one.barred, one)
        return one.peer.tls, one.peer.names, one.peer.how

    # DANE

    def test_validated_records_must_be_fulfilled(self) -> None:
        """RFC 7672 s.2.2: by the host's own certificate whatever its name, by an authority's with one of two."""
        one = self.dane(EE)
        self.assertEqual(self.must(one), (Tls.DANE, (), "dane"))
        self.assertEqual((one.peer.tlsas, one.peer.sni), (Tlsas((EE,)), "mx.example"))
        self.assertEqual((one.applied.kind, one.applied.strings), ("tlsa", (str(EE),)))
        self.assertEqual(self.must(self.dane(TA)), (Tls.DANE, ("mx.example", "d.example"), "dane"))
        self.assertEqual(self.dane(TA, EE, PKIX).peer.tlsas, Tlsas((EE, TA)))

    def test_records_that_are_all_unusable_ask_for_tls_alone(self) -> None:
        """RFC 7672 s.2.2: never in the clear; what the configuration asks for beyond that stays."""
        self.assertEqual(self.must(self.dane(PKIX))[:2], (Tls.MUST, ()))
        strict = evolve(FOLLOW, tls=Tls.VERIFY)
        self.assertEqual(self.must(self.dane(PKIX, policy=strict))[0], Tls.VERIFY)

    def test_what_is_not_validated_does_not_count(self) -> None:
        """RFC 7672 s.2.1: the MX records, the addresses, the TLSA records; each of them, and the resolver's word."""
        for missing in SIGNED:
            signed = tuple(name for name in SIGNED if name != missing)
            self.assertEqual(self.must(self.dane(EE, signed=signed)), (Tls.MAY, (), ""), missing)
        self.assertEqual(self.must(self.dane(EE, signed=())), (Tls.MAY, (), ""))

    def test_a_denial_that_is_validated_is_an_answer(self) -> None:
        """Then everything is as without DANE."""
        self.assertEqual(self.must(self.dane()), (Tls.MAY, (), ""))

    def test_a_host_whose_records_cannot_be_had_is_not_used(self) -> None:
        """RFC 7672 s.2.1.2: bogus, or no answer; nobody shall make them go away."""
        one = self.dane(EE, broken=(MX,))
        assert one.barred is not None
        self.assertEqual((one.barred.kind, one.barred.reply.code), ("dnssec-invalid", 451))

    def test_an_alias_may_have_its_own_records(self) -> None:
        """RFC 7672 s.2.2.3: those of what it stands for come first."""
        real = "_25._tcp.real.example"
        signed = (*SIGNED, "real.example", real)
        both = {MX: [TA], real: [EE]}
        one = self.plan(tlsas=both, secure=signed, aliases={"mx.example": "real.example"})
        self.assertEqual((one.peer.tlsas, one.peer.sni), (Tlsas((EE,)), "real.example"))
        one = self.plan(tlsas={MX: [EE]}, secure=signed, aliases={"mx.example": "real.example"})
        self.assertEqual((one.peer.tlsas, one.peer.sni), (Tlsas((EE,)), "mx.example"))

    def test_a_relay_may_have_records_too(self) -> None:
        """RFC 7672 s.2.2.2: at its port; its name is from the configuration, so no MX record is needed."""
        place = "_2525._tcp.mx.example"
        peer = Peer("mx.example", "192.0.2.1", 2525)
        one = self.plan(where="mx.example:2525", peer=peer, tlsas={place: [EE]}, secure=("mx.example", place))
        self.assertEqual(self.must(one)[0], Tls.DANE)
        one = self.plan(where="[192.0.2.1]", peer=Peer("192.0.2.1", "192.0.2.1", 25), secure=SIGNED)
        self.assertEqual(self.must(one)[0], Tls.MAY)

    def test_dane_can_be_demanded(self) -> None:
        """tls = "dane": without records mail waits."""
        demanded = Policy(tls=Tls.DANE, dane=True)
        self.assertEqual(self.must(self.dane(EE, policy=demanded))[0], Tls.DANE)
        one = self.dane(policy=demanded)
        assert one.barred is not None
        self.assertEqual((one.barred.kind, one.barred.reply.code), ("dane-required", 451))

    def test_it_can_be_left_undone(self) -> None:
        """dane = false."""
        self.assertEqual(self.must(self.dane(EE, policy=Policy())), (Tls.MAY, (), ""))

    # MTA-STS

    def test_a_policy_that_is_enforced(self) -> None:
        """RFC 8461 s.4: the host must be named, and its certificate be for that name."""
        one = self.plan(sts=FixedSts(Mode.ENFORCE))
        self.assertEqual(self.must(one), (Tls.VERIFY, ("mx.example",), "mta-sts"))
        self.assertEqual((one.applied.kind, one.applied.mx), ("sts", ("mx.example",)))
        one = self.plan(sts=FixedSts(Mode.ENFORCE, "other.example"))
        assert one.barred is not None
        self.assertEqual((one.barred.kind, one.barred.reply.code), ("validation-failure", 451))

    def test_a_policy_that_is_tested(self) -> None:
        """Mail goes as without; who wants reports has the certificate looked at."""
        one = self.plan(sts=FixedSts(Mode.TESTING))
        self.assertEqual((self.must(one)[0], one.peer.watched, one.peer.names), (Tls.MAY, True, ("mx.example",)))
        self.assertFalse(self.plan(sts=FixedSts(Mode.TESTING), watch=False).peer.watched)
        self.assertEqual(self.plan(sts=FixedSts(Mode.TESTING, "other.example")).peer.tls, Tls.MAY)

    def test_no_policy(self) -> None:
        """None, one that was taken back, none that could be had, and a machine without a trust store."""
        failure = Mismatch("sts-policy-fetch-error", "404")
        for sts in (None, FixedSts(), FixedSts(Mode.NONE), FixedSts(failure=failure)):
            self.assertEqual(self.must(self.plan(sts=sts)), (Tls.MAY, (), ""))
        self.assertEqual(self.failure, failure)
        self.assertEqual(self.must(self.plan(sts=FixedSts(Mode.ENFORCE), no_trust="none"))[0], Tls.MAY)

    def test_a_relay_has_no_policy(self) -> None:
        """It belongs to the domain that mail is for, and a relay is not that."""
        sts = FixedSts(Mode.ENFORCE)
        self.assertEqual(self.must(self.plan(sts=sts, where="mx.example:25"))[0], Tls.MAY)
        self.assertEqual(sts.asked, [])

    # Both, and the configuration

    def test_dane_stands_above_mta_sts(self) -> None:
        """RFC 8461 s.2; also where the policy would forbid the host, or the records cannot be had."""
        for sts in (FixedSts(Mode.ENFORCE), FixedSts(Mode.ENFORCE, "other.example")):
            self.assertEqual(self.must(self.dane(EE, sts=sts))[0], Tls.DANE)
            self.assertIsNotNone(self.dane(EE, sts=sts, broken=(MX,)).barred)
        self.assertEqual(self.must(self.dane(sts=FixedSts(Mode.ENFORCE)))[0], Tls.VERIFY)

    def test_what_is_configured_for_a_destination_stands_above_both(self) -> None:
        explicit = Policy(tls=Tls.MAY)
        self.assertEqual(self.must(self.dane(EE, policy=explicit, sts=FixedSts(Mode.ENFORCE)))[0], Tls.MAY)

    # RFC 8689

    def test_mail_that_would_rather_arrive(self) -> None:
        """TLS-Required: No: nothing that is published counts."""
        one = self.dane(EE, policy=evolve(FOLLOW, optional=True), sts=FixedSts(Mode.ENFORCE))
        self.assertEqual(self.must(one)[0], Tls.MAY)

    def test_mail_that_must_have_verified_tls(self) -> None:
        """RFC 8689 s.4.2.1: by name, where the name cannot be forged; else by the domain's own."""
        require = evolve(FOLLOW, required=True)
        verify = Tls.VERIFY
        self.assertEqual(self.must(self.dane(EE, policy=require))[0], Tls.DANE)
        for mode in (Mode.ENFORCE, Mode.TESTING):
            self.assertEqual(self.must(self.plan(require, FixedSts(mode)))[:2], (verify, ("mx.example",)))
        self.assertEqual(self.must(self.dane(policy=require))[:2], (verify, ("mx.example",)))
        self.assertEqual(self.must(self.dane(PKIX, policy=require))[:2], (verify, ("mx.example",)))
        self.assertEqual(self.must(self.plan(require))[:2], (verify, ("d.example",)))
        self.assertEqual(self.must(self.plan(require, where="mx.example:25"))[:2], (verify, ("mx.example",)))
        barred = self.plan(evolve(require, tls=Tls.NONE)).barred
        assert barred is not None
        self.assertEqual(barred.reply.enhanced, "5.7.30")
        barred = self.plan(require, no_trust="none").barred
        assert barred is not None
        self.assertEqual(barred.reply.code, 451)
