"""Rules that no address comes to, and rules that send mail round in a circle."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as some
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.schema import ChannelConfig, RuleConfig
from qmailpy.routing.review import circles, covered
from qmailpy.routing.rules import Origin, Rules

_KINDS = ("smtp", "local", "process", "reprocess", "conversion", "hold")
_CHANNELS = {kind: ChannelConfig(name=kind, kind=kind) for kind in _KINDS}
_LABELS = some.sampled_from(["a", "b", "*"])
_PATTERNS = some.one_of(
    some.lists(_LABELS, min_size=1, max_size=3).map(".".join),
    some.lists(some.sampled_from(["a", "b"]), min_size=1, max_size=2).map(lambda labels: "." + ".".join(labels)),
    some.sampled_from([".", "*", "[]", "[192.0.2.1]", "[192.0.2.0/24]", "[192.0.2.0/25]"]),
)
_DOMAINS = ("a", "b", "a.b", "b.b", "a.a.b", "b.a", "a.b.a.b", "x.y", "[192.0.2.1]", "[192.0.2.200]", "[198.51.100.1]")


def rule(pattern: str, channel: str = "smtp", **more: Any) -> RuleConfig:
    return RuleConfig(pattern=pattern, channel=channel, **more)


class CoveredTests(SynchronousTestCase):
    def covered(self, *rules: RuleConfig, own: tuple[str, ...] = ()) -> list[tuple[int, int]]:
        return [(one.number, one.by_number) for one in covered(rules, own)]

    def test_a_wider_pattern_before_has_all_of_a_later_one(self) -> None:
        for wide, narrow in (
            (".", "a.example"),
            (".", ".example"),
            ("*", "*.example"),
            (".example", "a.example"),
            (".example", ".a.example"),
            (".example", "*.example"),
            ("*.example", "a.example"),
            ("*.*.example", "*.a.example"),
            ("A.example", "a.Example"),
            ("[]", "[192.0.2.1]"),
            ("[]", "[192.0.2.0/24]"),
            ("[192.0.2.0/24]", "[192.0.2.1]"),
            ("[192.0.2.0/24]", "[192.0.2.0/25]"),
        ):
            self.assertEqual(self.covered(rule(wide), rule("x.y"), rule(narrow))[-1], (3, 1), (wide, narrow))
            if wide.lower() != narrow.lower():
                self.assertEqual(
                    [two for two in self.covered(rule(narrow), rule(wide)) if two[0] == 2], [], (wide, narrow)
                )

    def test_what_is_not_wholly_had_by_one_is_reached(self) -> None:
        for first, second in (
            (".example", "example"),
            ("example", ".example"),
            (".", "[]"),
            ("[]", "."),
            ("a.example", "*.example"),
            ("[192.0.2.0/25]", "[192.0.2.0/24]"),
            ("[192.0.2.0/24]", "[ipv6:2001:db8::1]"),
        ):
            self.assertEqual(self.covered(rule(first), rule(second)), [], (first, second))

    def test_conditions_of_the_earlier_must_hold_whenever_the_later_ones_do(self) -> None:
        for first, second, found in (
            ({"source": "local"}, {}, False),
            ({}, {"source": "local"}, True),
            ({"source": "local"}, {"source": "local"}, True),
            ({"sender": ("*@a", "*@b")}, {"sender": ("*@b",)}, True),
            ({"sender": ("*@a",)}, {"sender": ("*@a", "*@b")}, False),
            ({"sender": ("*@a",)}, {}, False),
            ({"user": ("joe",)}, {"user": ("joe",), "source": "local"}, True),
            ({"direction": "from"}, {}, False),
            ({"direction": "from"}, {"direction": "from"}, True),
        ):
            self.assertEqual(bool(self.covered(rule(".", **first), rule("a.b", **second))), found, (first, second))
        one = rule(".", "smtp", direction="from", address="a@b")
        self.assertEqual(self.covered(one, rule("a", "local", direction="from", address="a@b")), [])
        self.assertEqual(self.covered(rule("a", "", direction="from"), rule("a", "local", direction="from")), [(2, 1)])

    def test_domains_of_ours_are_not_for_rules(self) -> None:
        self.assertEqual(self.covered(rule("a.b"), rule(".a.b"), own=("a.b",)), [(1, 0)])
        self.assertEqual(self.covered(rule("a.b", direction="from"), own=("a.b",)), [])

    @settings(max_examples=300, deadline=None)
    @given(some.lists(_PATTERNS, min_size=1, max_size=6))
    def test_what_is_called_covered_never_decides(self, patterns: list[str]) -> None:
        """By the rules themselves, of many domains."""
        rules = [rule(pattern) for pattern in patterns]
        table = Rules(rules)
        decide = {
            match.number for domain in _DOMAINS if (match := table.match("u", domain, Origin(source="x"))) is not None
        }
        self.assertEqual(decide & {number for number, _ in self.covered(*rules)}, set())


class CircleTests(SynchronousTestCase):
    def circles(self, *rules: RuleConfig, own: tuple[str, ...] = ()) -> list[tuple[int, tuple[str, ...]]]:
        return [(one.number, one.way) for one in circles(rules, _CHANNELS, own)]

    def test_reprocess_needs_another_address(self) -> None:
        again = rule("a.b", "reprocess")
        self.assertEqual(self.circles(again, rule(".")), [(1, ("reprocess", "reprocess"))])
        self.assertEqual(self.circles(rule("a.b", "reprocess", address="$U@c.d"), rule(".")), [])
        there, back = rule("a.b", "reprocess", address="$U@c.d"), rule("c.d", "reprocess", address="$U@a.b")
        self.assertEqual([number for number, _ in self.circles(there, back)], [1, 2])

    def test_an_address_that_grows_is_a_circle_too(self) -> None:
        self.assertEqual([number for number, _ in self.circles(rule(".", "reprocess", address="x$U@$H"))], [1])

    def test_mail_that_goes_through_needs_a_rule_with_that_source(self) -> None:
        for kind in ("conversion", "process", "hold"):
            self.assertEqual(self.circles(rule(".", kind)), [(1, (kind, kind))], kind)
            self.assertEqual(self.circles(rule(".", "smtp", source=kind), rule(".", kind)), [], kind)
            self.assertEqual(self.circles(rule(".", kind, source="local"), rule(".")), [], kind)

    def test_a_domain_of_ours_is_where_it_ends(self) -> None:
        rules = (rule(".", "reprocess", address="$U@ours.example"),)
        self.assertEqual(self.circles(*rules, own=("ours.example",)), [])
        self.assertEqual(len(self.circles(*rules)), 1)

    def test_a_circle_for_mail_from_one_channel_alone_is_found(self) -> None:
        rules = (rule(".", "smtp", source="tcp"), rule("a.b", "reprocess", source="local"), rule(".", "smtp"))
        self.assertEqual([number for number, _ in self.circles(*rules)], [2])
        other = (rule("c.d", "reprocess", address="$U@a.b", source="local"), rule("a.b", "reprocess"), rule("."))
        self.assertEqual([number for number, _ in self.circles(*other)], [1, 2])
        self.assertEqual(
            self.circles(rule("[]", "reprocess"), rule("*.a", "hold", source="hold"), rule("x", "hold"))[0][0], 1
        )

    def test_conditions_are_met(self) -> None:
        rules = (rule("a.b", "reprocess", sender=("*@x.y",), user=("joe*",)), rule("."))
        self.assertEqual(self.circles(*rules), [])  # the login is not known any more the second time
        self.assertEqual(len(self.circles(rule("a.b", "reprocess", sender=("<>",)), rule("."))), 1)
