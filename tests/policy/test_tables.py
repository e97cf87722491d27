"""Access tables, and the lists they name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.load import parse
from qmailpy.config.schema import AccessConfig, Config
from qmailpy.config.template import template_text
from qmailpy.errors import ConfigError
from qmailpy.policy.lists import thd_read_lists
from qmailpy.policy.ruling import Facts
from qmailpy.policy.tables import Table, tables
from qmailpy.values import Reply


def rule(action: str, **keys: Any) -> AccessConfig:
    return AccessConfig(action=action, **keys)


class TableTests(SynchronousTestCase):
    """L{Table}."""

    def test_the_first_rule_that_fits_decides(self) -> None:
        table = Table(
            "mail_access",
            (
                rule("accept", sender=("joe@a.example",)),
                rule("reject", sender=("a.example",), recipient=("*@b.example",), text="No", code="5.7.9"),
                rule("defer", client=("10.0.0.0/8",), tagged=("odd",)),
                rule("reject", user=("<>",), destination=("tcp_local",)),
            ),
            {},
        )
        for facts, found in (
            (Facts(sender="joe@a.example", recipient="x@b.example", user="u"), 0),
            (Facts(sender="jim@a.example", recipient="x@b.example", user="u"), 1),
            (Facts(sender="jim@a.example", recipient="x@c.example", user="u"), None),
            (Facts(client="10.1.1.1", tagged=("even", "odd"), user="u"), 2),
            (Facts(client="10.1.1.1", tagged=("even",), user="u"), None),
            (Facts(destination="tcp_local"), 3),
        ):
            decided = table.decide(facts)
            self.assertEqual(decided, None if found is None else table.rules[found])
            steps = table.explain(facts)
            self.assertEqual([step.fits for step in steps], [False] * (len(steps) - 1) + [found is not None])
        replies = [each.reply for each in table.rules]
        self.assertEqual(replies[:2], [None, Reply(550, "5.7.9", "No")])
        self.assertEqual([str(reply)[:9] for reply in replies[2:]], ["450 4.7.1", "550 5.7.1"])

    def test_connections_are_refused_by_replies_that_end_them(self) -> None:
        rules = (rule("reject"), rule("defer"))
        self.assertEqual([each.reply.code for each in Table("port_access", rules, {}).rules if each.reply], [554, 421])


class ListTests(SynchronousTestCase):
    """L{thd_read_lists}."""

    def setUp(self) -> None:
        self.home = Path(self.mktemp())
        (self.home / "etc").mkdir(parents=True)

    def config(self, text: str) -> Config:
        return parse(template_text() + text, "F", str(self.home.resolve()))

    def test_rules_and_lists_together(self) -> None:
        (self.home / "etc" / "bad").write_text("# ours\nspam.example # since May\n\n  joe@a.example\n")
        (self.home / "etc" / "nets").write_text("10.0.0.0/8\n2001:db8::1\n")
        config = self.config(
            '[[from_access]]\naction = "reject"\nsender = ["x.example", "list:bad"]\n'
            '[[port_access]]\naction = "reject"\nclient = ["list:nets"]\n'
        )
        made = tables(config, thd_read_lists(config))
        for sender, found in (("a@spam.example", True), ("joe@a.example", True), ("a@x.example", True), ("b@y", False)):
            self.assertEqual(made["from_access"].decide(Facts(sender=sender)) is not None, found, sender)
        (step,) = made["port_access"].explain(Facts(client="10.2.3.4"))
        self.assertEqual((step.fits, step.why), (True, "client fits list:nets 10.0.0.0/8"))
        self.assertGreater(step.rule.line, 100)

    def test_what_cannot_be_used_is_told_with_its_line(self) -> None:
        (self.home / "etc" / "nets").write_text("10.0.0.0/8\n\n10.0.0.0.1\n")
        config = self.config('[[port_access]]\naction = "reject"\nclient = ["list:nets", "list:none"]\n')
        error = self.assertRaises(ConfigError, thd_read_lists, config)
        first, second = error.problems
        self.assertIn('etc/nets:3: "10.0.0.0.1" is no network', first)
        self.assertRegex(second, r"qmailpy\.toml:\d+: \[\[port_access\]\]: .*etc/none: cannot be read: No such file")
        lists = thd_read_lists(config, strict=False)
        self.assertIsNone(tables(config, lists)["port_access"].decide(Facts(client="10.0.0.1")))

    def test_rules_that_cannot_be_meant_are_refused(self) -> None:
        for text, said in (
            ('[[port_access]]\naction = "reject"\nsender = ["x"]', "sender: is not looked at by port_access"),
            ('[[send_access]]\naction = "reject"\ncode = "4.7.1"', 'code: "4.7.1" does not go with action "reject"'),
            ('[[send_access]]\naction = "accept"\ntext = "x"', 'text: is nothing with action "accept"'),
            ('[[send_access]]\naction = "tag"', "tag: is missing"),
            ('[[send_access]]\naction = "reject"\nsource = ["tcp_locl"]', 'there is no "tcp_locl"; did you mean'),
            ('[[mail_access]]\naction = "reject"\nclient = ["10.0.0.1/8"]', "is no network"),
            ('[[mail_access]]\naction = "reject"\ntext = "caf\u00e9"', "is no text for a reply"),
            ('[[mail_access]]\naction = "jump"', '"jump" is not known'),
            ('[[mail_access]]\naction = "reject"\nline = 3', "line: is not known"),
            ('[[dnslist]]\nzone = "a.example"\n[[dnslist]]\nzone = "A.example"', "is there twice"),
        ):
            error = self.assertRaises(ConfigError, self.config, text)
            self.assertIn(said, str(error), text)

    def test_actions_need_their_channels(self) -> None:
        text = template_text().replace('[channel.bitbucket]\nkind = "bitbucket"', "")
        text += '[[mail_access]]\naction = "discard"\n'
        self.assertIn(
            'needs a channel of kind "bitbucket"', str(self.assertRaises(ConfigError, parse, text, "F", "/h"))
        )
