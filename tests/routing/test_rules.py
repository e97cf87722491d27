"""Rewrite rules."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.schema import Config, RuleConfig, ServerConfig
from qmailpy.routing.rules import Match, Origin, Rules
from qmailpy.routing.senders import Senders
from qmailpy.values import Envelope


def rule(pattern: str, channel: str = "c", **more: Any) -> RuleConfig:
    return RuleConfig(pattern=pattern, channel=channel, **more)


def _fits(pattern: str, domain: str) -> bool:
    """The patterns' meaning, said plainly."""
    literal = domain.startswith("[")
    if pattern in {".", "*"}:
        return not literal
    if pattern == "[]":
        return literal
    if "*" in pattern:
        wanted, labels = pattern.split("."), domain.split(".")
        return (
            not literal
            and len(wanted) == len(labels)
            and all(one in ("*", label) for one, label in zip(wanted, labels, strict=True))
        )
    if pattern.startswith("."):
        return not literal and domain.endswith(pattern) and domain != pattern
    return domain == pattern


class RuleTests(SynchronousTestCase):
    def match(self, rules: list[RuleConfig], address: str, source: str = "tcp_local") -> Match | None:
        local, _, domain = address.rpartition("@")
        return Rules(rules).match(local, domain, Origin(source=source))

    def test_the_first_rule_that_fits_wins(self) -> None:
        rules = [rule(".", "any"), rule("host.example", "exact")]
        found = self.match(rules, "joe@host.example")
        assert found is not None
        self.assertEqual((found.rule.channel, found.number), ("any", 1))
        found = self.match(rules[::-1], "joe@host.example")
        assert found is not None
        self.assertEqual((found.rule.channel, found.number), ("exact", 1))

    def test_patterns_mean_what_they_say(self) -> None:
        for pattern, fits, fails in (
            ("host.example", ["host.example"], ["a.host.example", "xhost.example", "[host.example]"]),
            (".example", ["host.example", "a.b.example"], ["example", "xexample", "[1.example]"]),
            (".", ["host.example", "localhost"], ["[192.0.2.1]"]),
            ("*", ["host.example"], ["[192.0.2.1]"]),
            ("[]", ["[192.0.2.1]", "[ipv6:2001:db8::1]"], ["host.example"]),
            ("[192.0.2.1]", ["[192.0.2.1]"], ["[192.0.2.10]", "192.0.2.1"]),
            ("Host.Example", ["host.example"], []),
            ("*.example", ["a.example"], ["example", "a.b.example", "[1.example]"]),
            ("*.B.*", ["a.b.c"], ["b.c", "a.b", "a.x.c", "a.a.b.c"]),
            ("[192.0.2.0/24]", ["[192.0.2.1]", "[192.0.2.255]"], ["[192.0.3.1]", "[]", "[2001:db8::1]", "192.0.2.1"]),
            ("[2001:db8::/32]", ["[ipv6:2001:db8::1]", "[IPv6:2001:DB8:1::]"], ["[ipv6:2001:db9::1]", "[192.0.2.1]"]),
            ("[IPv6:2001:db8::1]", ["[ipv6:2001:0db8:0::1]"], ["[ipv6:2001:db8::2]"]),
        ):
            for domain in fits:
                self.assertIsNotNone(self.match([rule(pattern)], f"joe@{domain}"), (pattern, domain))
            for domain in fails:
                self.assertIsNone(self.match([rule(pattern)], f"joe@{domain}"), (pattern, domain))

    def test_a_rule_for_a_source_is_for_that_source(self) -> None:
        rules = [rule(".", "scan", source="tcp_local"), rule(".", "out")]
        for source, channel in (("tcp_local", "scan"), ("conversion", "out")):
            found = self.match(rules, "joe@x.example", source)
            assert found is not None
            self.assertEqual(found.rule.channel, channel)

    def test_the_next_hop_is_the_rule_s_or_the_domain(self) -> None:
        for given_host, expected in (("", "a.example"), ("relay.example", "relay.example")):
            found = self.match([rule(".", host=given_host)], "joe@a.example")
            assert found is not None
            self.assertEqual(found.host, expected)

    def test_addresses_are_rewritten(self) -> None:
        for pattern, template, address, expected in (
            ("old.example", "$U@new.example", "Joe.Doe@old.example", "Joe.Doe@new.example"),
            (".example", "$U@$Hinternal", "joe@a.b.example", "joe@a.b.internal"),
            (".example", "$U.$D@gate", "joe@a.example", "joe.example@gate"),
            ("[]", "$U+$L@Gate", "joe@[192.0.2.1]", "joe+192.0.2.1@gate"),
            (".", "$$U-$U@x.example", "joe@y.example", "$U-joe@x.example"),
            (".", "$0U@x.example", "joe+lists@y.example", "joe@x.example"),
            (".", "$1U.$x@x.example", "joe+lists@y.example", "lists.$x@x.example"),
            (".", "fixed@x.example", "joe@y.example", "fixed@x.example"),
            ("old.example", "$U@new.example", '"a@b"@old.example', '"a@b"@new.example'),
            ("old.example", "$U@new.example", "$D@old.example", "$D@new.example"),
            ("*.old.example", "$U.$H@$D", "joe@a.old.example", "joe.a.@old.example"),
            ("*.*.example", "$U@$Hx", "joe@a.b.example", "joe@a.b.x"),
            ("a.*.example", "$U@$D", "joe@a.b.example", "joe@a.b.example"),
        ):
            found = self.match([rule(pattern, address=template)], address)
            assert found is not None
            self.assertEqual((found.address, found.host), (expected, expected.rpartition("@")[2]))

    @given(
        st.lists(
            st.tuples(
                st.sampled_from((".", "*", "[]", ".b", ".a.b", "a.b", "b", "[a]", ".c", "*.b", "x.*.b", "*.*")),
                st.sampled_from(("", "s", "t")),
            ),
            max_size=8,
        ),
        st.sampled_from(("a.b", "b", "x.a.b", "c", "y.c", "[a]", "[b]", "")),
        st.sampled_from(("s", "t")),
    )
    def test_the_index_finds_what_a_walk_would(self, made: list[tuple[str, str]], domain: str, source: str) -> None:
        rules = [rule(pattern, source=wanted) for pattern, wanted in made]
        expected = next(
            (n for n, (p, s) in enumerate(made, 1) if _fits(p, domain) and s in {"", source}),
            None,
        )
        found = Rules(rules).match("joe", domain, Origin(source=source))
        self.assertEqual(found and found.number, expected)


class ConditionTests(SynchronousTestCase):
    """Who sends, and who has logged in."""

    def number(self, rules: list[RuleConfig], origin: Origin) -> int:
        found = Rules(rules).match("joe", "x.example", origin)
        return found.number if found else 0

    def test_a_rule_may_ask_who_sends(self) -> None:
        rules = [
            rule(".", sender=("*@Bank.example", "boss@*")),
            rule(".", sender=("<>",)),
            rule("x.example", sender=("*",)),
            rule("."),
        ]
        for sender, number in (
            ("a@bank.example", 1),
            ("A@BANK.EXAMPLE", 1),
            ("boss@y.example", 1),
            ("a@sub.bank.example", 3),
            ("", 2),
            ("a" * 5000 + "@bank.example", 3),  # only so much is looked at
        ):
            self.assertEqual(self.number(rules, Origin(source="s", sender=sender)), number, sender[:30])

    def test_a_rule_may_ask_who_has_logged_in(self) -> None:
        rules = [rule(".", user=("*@sales.example",)), rule(".", user=("<>",)), rule(".")]
        for user, number in (("ann@sales.example", 1), ("", 2), ("bob@x.example", 3)):
            self.assertEqual(self.number(rules, Origin(source="s", user=user)), number)

    def test_all_conditions_must_hold(self) -> None:
        rules = [rule(".", sender=("a@*",), user=("u@*",), source="s")]
        for source, sender, user, number in (
            ("s", "a@b", "u@b", 1),
            ("t", "a@b", "u@b", 0),
            ("s", "x@b", "u@b", 0),
            ("s", "a@b", "", 0),
        ):
            self.assertEqual(self.number(rules, Origin(source=source, sender=sender, user=user)), number)

    def test_where_nobody_knows_who_sent_it_rules_that_ask_do_not_match(self) -> None:
        rules = [rule(".", sender=("<>", "*")), rule(".", user=("<>", "*")), rule(".")]
        self.assertEqual(self.number(rules, Origin(source="s", known=False)), 3)


class SenderTests(SynchronousTestCase):
    """L{Senders}: rules with C{direction = "from"}."""

    def outgoing(self, sender: str, *rules: RuleConfig, channel: str = "tcp_local", user: str = "") -> str:
        config = Config(home="/h", server=ServerConfig(hostname="mx.example"), rules=rules)
        envelope = Envelope(sender=sender, recipients=(), source="tcp_submit", arrival=0.0, user=user)
        return Senders(config, channel).outgoing(envelope)

    def masked(self, **more: Any) -> RuleConfig:
        more.setdefault("address", "$U@example.org")
        return RuleConfig(pattern=".intranet.example", direction="from", **more)

    def test_inner_names_stay_inside(self) -> None:
        for sender, expected in (
            ("joe@ws1.Intranet.example", "joe@example.org"),
            ("joe+tag@a.b.intranet.example", "joe+tag@example.org"),
            ("joe@intranet.example", "joe@intranet.example"),
            ("joe@other.example", "joe@other.example"),
            ("", ""),
            ("joe", "joe"),
        ):
            self.assertEqual(self.outgoing(sender, self.masked()), expected)

    def test_a_rule_may_be_for_one_way_out(self) -> None:
        for channel, expected in (("tcp_local", "joe@example.org"), ("tcp_intranet", "joe@a.intranet.example")):
            found = self.outgoing("joe@a.intranet.example", self.masked(channel="tcp_local"), channel=channel)
            self.assertEqual(found, expected)

    def test_it_may_ask_for_login_source_and_sender(self) -> None:
        rules = (
            self.masked(user=("ann@*",), address="ann@example.org"),
            self.masked(source="conversion", address="c@example.org"),
            self.masked(sender=("root@*",), address="root-$H@example.org"),
        )
        for sender, user, expected in (
            ("joe@a.intranet.example", "ann@x", "ann@example.org"),
            ("joe@a.intranet.example", "", "joe@a.intranet.example"),
            ("root@a.intranet.example", "", "root-a.@example.org"),
        ):
            self.assertEqual(self.outgoing(sender, *rules, user=user), expected)

    def test_the_two_directions_have_nothing_to_do_with_each_other(self) -> None:
        rules = (self.masked(), rule(".intranet.example", address="$U@other.example"))
        self.assertEqual(self.outgoing("joe@a.intranet.example", rules[1]), "joe@a.intranet.example")
        found = Rules(rules).match("joe", "a.intranet.example", Origin(source="s"))
        assert found is not None
        self.assertEqual((found.number, found.address), (2, "joe@other.example"))

    @given(st.text(max_size=30), st.text(max_size=30))
    def test_whatever_the_sender_is_it_is_one_address_or_unchanged(self, local: str, domain: str) -> None:
        sender = f"{local}@{domain}"
        found = self.outgoing(sender, RuleConfig(pattern=".", direction="from", address="$U@example.org"))
        kept, _, _ = sender.rpartition("@")
        self.assertIn(found, {sender, f"{kept}@example.org"})
