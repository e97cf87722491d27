"""
Tests for L{qmailpy.remote.policy}.
"""

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.schema import ChannelConfig, DestinationConfig
from qmailpy.remote.policy import Policies, Policy
from qmailpy.wire.client_events import Tls

CHANNEL = ChannelConfig(name="tcp_local", kind="smtp")


class PoliciesTests(SynchronousTestCase):
    """Which table a destination gets."""

    def test_without_tables_all_is_as_the_channel_has_it(self) -> None:
        """TLS where it is offered, on port 25."""
        self.assertEqual(Policies(CHANNEL).of("x.example"), Policy(tls=Tls.MAY, port=25, dane=True, mta_sts=True))

    def test_the_most_exact_pattern_wins(self) -> None:
        """The name, then the longest suffix, then everything; case and a final dot do not matter."""
        policies = Policies(
            CHANNEL,
            [
                DestinationConfig(pattern=".", port=1),
                DestinationConfig(pattern=".example", port=2),
                DestinationConfig(pattern=".b.example", port=3),
                DestinationConfig(pattern="a.B.example", port=4, tls="verify"),
                DestinationConfig(pattern="b.example", channel="other", port=5),
            ],
        )
        for host, port in (
            ("a.b.example", 4),
            ("A.b.Example.", 4),
            ("x.a.b.example", 3),
            ("b.example", 2),
            ("example", 1),
            ("192.0.2.1", 1),
            ("", 1),
        ):
            self.assertEqual(policies.of(host).port, port, host)
        self.assertEqual(policies.of("a.b.example").tls, Tls.VERIFY)
        self.assertFalse(policies.of("a.b.example").mta_sts or policies.of("a.b.example").dane)
        self.assertTrue(policies.of("b.example").mta_sts and policies.of("b.example").dane)
        self.assertTrue(policies.verifying)

    def test_with_a_login_tls_is_a_must(self) -> None:
        """Whatever the words are, of the channel and of a table; verified stays verified."""
        tables = [DestinationConfig(pattern=f"{word}.example", tls=word) for word in ("none", "may", "must", "verify")]
        for tls in ("none", "may"):
            channel = ChannelConfig(name="out", kind="smtp", tls=tls, relay="r.example", relay_user="joe")
            policies = Policies(channel, tables)
            found = [policies.of(f"{word}.example").tls for word in ("other", "none", "may", "must", "verify")]
            self.assertEqual(found, [Tls.MUST] * 4 + [Tls.VERIFY])

    def test_a_table_may_be_for_one_channel(self) -> None:
        """What it leaves out is as the channel has it."""
        tables = [DestinationConfig(pattern="x.example", channel="tcp_local", tls="must")]
        self.assertEqual(Policies(CHANNEL, tables).of("x.example"), Policy(tls=Tls.MUST, port=25))
        other = ChannelConfig(name="other", kind="smtp", tls="none")
        self.assertEqual(Policies(other, tables).of("x.example").tls, Tls.NONE)
        self.assertFalse(Policies(other, tables).verifying)
