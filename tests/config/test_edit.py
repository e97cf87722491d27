"""Single keys: looked up, changed, and told apart from what is no key."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.edit import changed, lookup, tree, value_from_text
from qmailpy.config.load import parse
from qmailpy.config.template import template_text
from qmailpy.errors import CommandError


class LookupTests(SynchronousTestCase):
    """L{lookup}."""

    def setUp(self) -> None:
        self.config = parse(template_text(), "F", "/home")

    def test_keys_tables_and_elements_are_found(self) -> None:
        self.assertEqual(lookup(self.config, "server.hostname"), "mail.example.org")
        self.assertEqual(lookup(self.config, "channel.local.quadratic_s"), 10.0)
        self.assertEqual(lookup(self.config, "listener.smtp.kind"), "smtp")
        self.assertEqual(lookup(self.config, "rewrite.1.pattern"), ".")
        self.assertEqual(lookup(self.config, "trust"), {"networks": ["127.0.0.0/8", "::1/128"]})

    def test_a_wrong_key_is_answered_with_a_near_one(self) -> None:
        said = str(self.assertRaises(CommandError, lookup, self.config, "server.hostnme"))
        self.assertEqual(said, 'there is no key server.hostnme; did you mean "hostname"?')
        self.assertIn(
            "known here are smtp, submissions, submission, lmtp, pop3s, pop3, inject",
            str(self.assertRaises(CommandError, lookup, self.config, "listener.9")),
        )
        self.assertIn("is a value", str(self.assertRaises(CommandError, lookup, self.config, "server.hostname.x")))

    def test_the_tree_written_as_a_file_is_the_same_configuration(self) -> None:
        """What C{config show} prints can be used as a file."""
        import tomlkit

        self.assertEqual(parse(tomlkit.dumps(tree(self.config)), "F", "/home"), self.config)


class ChangedTests(SynchronousTestCase):
    """L{changed} and L{value_from_text}."""

    def test_a_value_is_read_as_its_key_takes_it(self) -> None:
        for key, text, value in (
            ("server.workers", "2", 2),
            ("queue.roll_s", "1.5", 1.5),
            ("bounce.copy_postmaster", "yes", True),
            ("trust.networks", "127.0.0.0/8, ::1/128", ["127.0.0.0/8", "::1/128"]),
            ("trust.networks", '["::1"]', ["::1"]),
            ("channel.local.backoff", "60,120", [60.0, 120.0]),
            ("server.hostname", "12", "12"),
            ("dns.servers", "", []),
        ):
            self.assertEqual(value_from_text(key, text), value, key)

    def test_a_value_that_is_none_is_refused_in_one_line(self) -> None:
        for key, text, said in (
            ("server.workers", "two", 'server.workers takes a whole number, not "two"'),
            ("bounce.copy_postmaster", "maybe", 'bounce.copy_postmaster takes true or false, not "maybe"'),
            ("channel.local.backoff", "a,b", 'channel.local.backoff takes a list, not "a,b"'),
            ("trust.networks", "[", 'trust.networks takes a list, not "["'),
            ("server", "x", "server is a table; name a key in it, as server.KEY"),
            ("channel.local", "x", "channel.local is a table; name a key in it, as channel.local.KEY"),
            ("sever.hostname", "x", 'there is no key sever.hostname; did you mean "server"?'),
            ("channel.local.name", "x", "there is no key channel.local.name"),
        ):
            self.assertIn(said, str(self.assertRaises(CommandError, value_from_text, key, text)))

    def test_only_the_line_of_the_key_changes(self) -> None:
        before = template_text()
        after = changed(before, {"listener.inject.channel": "tcp_local", "channel.hold.concurrency": 3})
        removed = set(before.splitlines()) - set(after.splitlines())
        self.assertEqual(len(after.splitlines()), len(before.splitlines()) + 1)
        self.assertEqual(removed, set())
        counts = [text.splitlines().count('channel = "local"') for text in (before, after)]
        self.assertEqual(counts, [2, 1])
        config = parse(after, "F", "/home")
        self.assertEqual((config.listeners[-1].channel, config.channels["hold"].concurrency), ("tcp_local", 3))

    def test_a_table_that_was_left_out_is_made(self) -> None:
        self.assertIn("[queue]\nroll_s = 3.0", changed('[server]\nhostname = "a"\n', {"queue.roll_s": 3.0}))

    def test_a_channel_that_is_not_there_is_not_made(self) -> None:
        said = str(self.assertRaises(CommandError, changed, template_text(), {"channel.tcp_locl.port": 1}))
        self.assertIn('did you mean "tcp_local"?', said)
