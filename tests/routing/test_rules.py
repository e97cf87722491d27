"""Rewrite rules."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.schema import RuleConfig
from qmailpy.routing.rules import Match, Rules


def rule(pattern: str, channel: str = "c", **more: str) -> RuleConfig:
    return RuleConfig(pattern=pattern, channel=channel, **more)


def _fits(pattern: str, domain: str) -> bool:
    """The patterns' meaning, said plainly."""
    literal = domain.startswith("[")
    if pattern in {".", "*"}:
        return not literal
    if pattern == "[]":
        return literal
    if pattern.startswith("."):
        return not literal and domain.endswith(pattern) and domain != pattern
    return domain == pattern


class RuleTests(SynchronousTestCase):
    def match(self, rules: list[RuleConfig], address: str, source: str = "tcp_local") -> Match | None:
        local, _, domain = address.rpartition("@")
        return Rules(rules).match(local, domain, source)

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
        ):
            found = self.match([rule(pattern, address=template)], address)
            assert found is not None
            self.assertEqual((found.address, found.host), (expected, expected.rpartition("@")[2]))

    @given(
        st.lists(
            st.tuples(
                st.sampled_from((".", "*", "[]", ".b", ".a.b", "a.b", "b", "[a]", ".c")),
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
        found = Rules(rules).match("joe", domain, source)
        self.assertEqual(found and found.number, expected)
