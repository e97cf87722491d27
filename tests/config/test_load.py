"""From text to Config, and every error with its line and remedy."""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config import forms
from qmailpy.config.checks import CHECKS
from qmailpy.config.load import config_path, examine, load, parse
from qmailpy.config.schema import QueueConfig
from qmailpy.config.template import template_text
from qmailpy.errors import ConfigError

MINIMAL = """\
[server]
hostname = "mx.example.org"
[channel.local]
kind = "local"
[channel.process]
kind = "process"
"""


def problems(text: str) -> list[str]:
    return [str(problem) for problem in examine(text, "F", "/home")[1]]


class LoadTests(SynchronousTestCase):
    """L{load} and L{config_path}."""

    def test_a_home_is_loaded_from_its_etc(self) -> None:
        home = self.mktemp()
        os.makedirs(os.path.join(home, "etc"))
        with open(os.path.join(home, "etc", "qmailpy.toml"), "w") as target:
            target.write(MINIMAL)
        config = load(home)
        self.assertEqual(config.home, os.path.abspath(home))
        self.assertEqual(config.server.hostname, "mx.example.org")
        self.assertEqual(config.queue, QueueConfig())

    def test_a_home_without_configuration_names_the_command_that_makes_one(self) -> None:
        home = self.mktemp()
        problem = self.assertRaises(ConfigError, load, home).problems[0]
        self.assertIn("etc/qmailpy.toml: there is no such file", problem)
        self.assertIn(f"qmailpy init {os.path.abspath(home)}", problem)

    def test_text_that_is_not_utf_8_is_told_with_its_line(self) -> None:
        home = self.mktemp()
        os.makedirs(os.path.join(home, "etc"))
        with open(os.path.join(home, "etc", "qmailpy.toml"), "wb") as target:
            target.write(b"# a\n# \xff\n")
        self.assertIn("qmailpy.toml:2: is not UTF-8", self.assertRaises(ConfigError, load, home).problems[0])

    def test_an_endless_file_is_not_read(self) -> None:
        """A device or a log by that name costs bounded memory."""
        home = self.mktemp()
        os.makedirs(os.path.join(home, "etc"))
        os.symlink("/dev/zero", os.path.join(home, "etc", "qmailpy.toml"))
        self.assertIn("larger than", self.assertRaises(ConfigError, load, home).problems[0])

    def test_the_default_home_without_etc_has_its_file_in_slash_etc(self) -> None:
        with mock.patch("os.path.isdir", return_value=False):
            self.assertEqual(config_path("/var/lib/qmailpy/"), "/etc/qmailpy/qmailpy.toml")
            self.assertEqual(config_path("/srv/q"), "/srv/q/etc/qmailpy.toml")
        with mock.patch("os.path.isdir", return_value=True):
            self.assertEqual(config_path("/var/lib/qmailpy"), "/var/lib/qmailpy/etc/qmailpy.toml")


class RuleTests(SynchronousTestCase):
    """[[rewrite]] and what channels may name several of."""

    def rule(self, lines: str) -> list[str]:
        return problems(f'{MINIMAL}[[rewrite]]\npattern = ".x.example"\n{lines}\n')

    def test_several_hosts_are_a_list_or_a_text_with_commas(self) -> None:
        for written in ('["a.example:587", "b.example"]', '"a.example:587, b.example"'):
            text = f"""{MINIMAL}[channel.out]
kind = "smtp"
relay = {written}
[[rewrite]]
pattern = "*.example"
channel = "out"
host = {written}
"""
            config = parse(text, "F", "/home")
            self.assertEqual(config.channels["out"].relay, "a.example:587,b.example")
            self.assertEqual(config.rules[0].host, "a.example:587,b.example")

    def test_what_is_wrong_with_lists_of_hosts_is_told(self) -> None:
        for written, words in (
            ('["a.example,b.example"]', "has a comma in an element"),
            ('["a..example"]', "is no host and port"),
            ("[1]", "is no text"),
            ("1", "is no text"),
        ):
            said = problems(f'{MINIMAL}[channel.out]\nkind = "smtp"\nrelay = {written}\n')
            self.assertIn(words, said[0])
            self.assertIn("F:9: [channel.out] relay", said[0])

    def test_a_dollar_that_stands_for_nothing_is_told(self) -> None:
        """It would be in the address."""
        rule = 'channel = "local"\naddress = "{}"'
        for good in ("$U@x.example", "$0u.$1U@$H$D", "a$$b@x.example", "$$U@x.example"):
            self.assertEqual(self.rule(rule.format(good)), [], good)
        [said] = self.rule(rule.format("$Q@x.example"))
        self.assertTrue(
            said.endswith('"$Q" in "$Q@x.example" stands for nothing; there are $U, $0U, $1U, $D, $H, $L, $$')
        )

    def test_keywords_of_channels(self) -> None:
        def channel(lines: str) -> list[str]:
            return problems(f'{MINIMAL}[channel.out]\nkind = "smtp"\n{lines}\n')

        good = "maxjobs = 3\nblocklimit = 1\nlinelimit = 998\nholdlimit = 5\nmaxreceived = 99\nexpandlimit = 9\n"
        good += 'expandchannel = "process"\nsingle = true\nlogging = "brief"\nnotices = [60, 3600]'
        config = parse(f'{MINIMAL}[channel.out]\nkind = "smtp"\n{good}', "F", "/home")
        self.assertEqual(config.channels["out"].concurrency, 3)
        for lines, words in (
            ("maxjobs = 3\nconcurrency = 4", "maxjobs: is the same as concurrency"),
            ("maxreceived = 100", "maxreceived: is never reached"),
            ("linelimit = 20", "right would be 78"),
            ('expandchannel = "proces"', 'there is no channel "proces"; did you mean "process"'),
            ('expandchannel = "local"', 'is of kind "local"'),
            ("notices = [3600, 60]", "is out of order"),
            ('logging = "off"', '"off" is not known'),
        ):
            said = channel(lines)
            self.assertEqual(len(said), 1, (lines, said))
            self.assertIn(words, said[0])

    def test_logins_and_addresses_of_destinations(self) -> None:
        for lines, words in (
            ('user = "u"', "user: is nothing without password_file"),
            ('password_file = "f"', "password_file: is nothing without user"),
            ('source_address = ["192.0.2.1", "192.0.2.2"]', "several addresses of a family"),
            ('source_address = ["mx.example"]', "right would be as in"),
            ('helo = "192.0.2.1"', "is an IP address"),
        ):
            said = problems(f'{MINIMAL}[[destination]]\npattern = "x.example"\n{lines}\n')
            self.assertEqual(len(said), 1, said)
            self.assertIn(words, said[0])
        good = 'user = "u"\npassword_file = "f"\nsource_address = ["192.0.2.1", "::1"]\nhelo = "a.example"\n'
        self.assertEqual(problems(f'{MINIMAL}[[destination]]\npattern = "x.example"\n{good}'), [])

    def test_each_direction_has_its_keys(self) -> None:
        self.assertEqual(self.rule('direction = "from"\naddress = "$U@x.example"'), [])
        for lines, words in (
            ("", "channel: is missing"),
            ('channel = ""', "channel: is empty"),
            ('direction = "from"', "address: is missing"),
            ('direction = "from"\naddress = "$U@x.example"\nhost = "h.example"', "host: is nothing with"),
            ('direction = "up"\nchannel = "local"', 'direction: "up" is not known'),
            ('direction = "from"\naddress = "$U@x.example"\nchannel = "lokal"', 'there is no channel "lokal"'),
            ('channel = "local"\nsender = [""]', "sender: is empty or too long"),
        ):
            said = self.rule(lines)
            self.assertEqual(len(said), 1, (lines, said))
            self.assertIn(words, said[0])

    def test_patterns_with_stars_and_networks(self) -> None:
        for good in ("*.example", "a.*.example", "*.*", "[192.0.2.0/24]", "[2001:db8::/32]", "[IPv6:2001:db8::1]"):
            self.assertEqual(forms.pattern(good), "", good)
        for bad in ("a*.example", "*..example", ".*.example", "[192.0.2.1/24]", "[x]", "**"):
            self.assertIn("matches nothing", forms.pattern(bad), bad)

    def test_a_name_in_other_letters_is_told_as_the_dns_has_it(self) -> None:
        """Mail for it is compared with that form, so that the other would match nothing."""
        name, dns = "B\u00fccher.example", "xn--bcher-kva.example"
        for form, prefix in ((forms.pattern, ""), (forms.pattern, "."), (forms.pattern, "*."), (forms.domain, "")):
            self.assertIn(f'right would be "{prefix}{dns}"', form(prefix + name))
            self.assertEqual(form(prefix + dns), "")
        self.assertIn(f'right would be ".{dns}"', forms.destination_pattern(f".{name}"))
        self.assertIn("matches nothing", forms.pattern("b\u00fc cher.example"))
        self.assertIn("is no domain name", forms.domain("\u202e.example"))


class ParseTests(SynchronousTestCase):
    """L{parse} and L{examine}."""

    def test_whole_numbers_are_taken_where_seconds_are_wanted(self) -> None:
        config = parse(MINIMAL + "[queue]\nroll_s = 5\nwarn_s = [60, 120.5]\n", "F", "/home")
        self.assertEqual((config.queue.roll_s, config.queue.warn_s), (5.0, (60.0, 120.5)))
        self.assertIsInstance(config.queue.roll_s, float)

    def test_a_socket_path_is_relative_to_home(self) -> None:
        config = parse(template_text(), "F", "/srv/a:b")
        self.assertEqual(config.listeners[-1].endpoint, "unix:/srv/a\\:b/run/inject.sock")

    def test_an_ipv6_interface_keeps_its_escapes(self) -> None:
        text = MINIMAL + '[directory]\nendpoint = "tcp:389:interface=\\\\:\\\\:1"\n'
        self.assertEqual(parse(text, "F", "/home").directory.endpoint, "tcp:389:interface=\\:\\:1")

    def test_every_problem_is_found_in_one_go_in_the_order_of_lines(self) -> None:
        text = (
            '[server]\nhostnme = "a"\nworkers = "2"\n[qeue]\n[queue]\nroll_s = -1\n'
            '[trust]\nnetworks = ["10.0.0.1/8"]\n[channel.x]\nkind = "smpt"\n'
            '[[rewrite]]\npattern = "."\nchannel = "y"\n'
        )
        self.assertEqual(
            problems(text),
            [
                "F:1: [server] hostname: is missing; right would be a line hostname = ...",
                'F:2: [server] hostnme: is not known; did you mean "hostname"?',
                'F:3: [server] workers: "2" is no whole number; right would be a whole number without quotes, as in 10',
                'F:4: [qeue]: [qeue] is not known; did you mean "queue"?',
                "F:6: [queue] roll_s: -1.0 is out of range; right would be 0.1 or more",
                'F:8: [trust] networks: "10.0.0.1/8" is no network; right would be as in "10.0.0.0/8"',
                'F:10: [channel.x] kind: "smpt" is not known; right would be "smtp" or "lmtp" or "local" or "process" '
                'or "hold" or "bitbucket" or "conversion" or "reprocess" or "defragment" or "pipe" or "autoreply"',
                'F:13: [[rewrite]] 1 channel: there is no channel "y"; known are x',
            ],
        )

    def test_a_listener_is_spoken_of_by_number_and_name(self) -> None:
        listener = '[[listener]]\nname = "smtp"\nkind = "smtp"\nendpoint = "tcp:{}"\nchannel = "{}"\n'
        text = MINIMAL + listener.format("25", "local") + listener.format("25:interface=127.0.0.1", "locl")
        self.assertEqual(
            problems(text),
            [
                'F:13: [[listener]] 2 (smtp) name: "smtp" is also the name of [[listener]] 1; right would be a name of '
                "its own",
                'F:15: [[listener]] 2 (smtp) endpoint: is where "smtp" listens already; right would be another port '
                "or interface",
                'F:16: [[listener]] 2 (smtp) channel: there is no channel "locl"; did you mean "local"?',
            ],
        )

    def test_a_login_at_a_relay_is_whole_or_none(self) -> None:
        """Name, password and relay belong together."""
        text = MINIMAL + '[channel.out]\nkind = "smtp"\n'
        for more, said in (
            ('relay_user = "joe"', "relay_user: is nothing without relay_password_file"),
            ('relay = "a.example"\nrelay_user = "joe"', "relay_user: is nothing without relay_password_file"),
            ('relay_password_file = "x"', "relay_password_file: is nothing without relay_user"),
            ('relay_user = "joe"\nrelay_password_file = "x"', "relay_user: is nothing without relay"),
        ):
            self.assertIn(said, " ".join(problems(text + more)))
        good = 'relay = "a.example"\nrelay_user = "joe"\nrelay_password_file = "x"'
        self.assertEqual(parse(text + good, "F", "/home").channels["out"].relay_user, "joe")

    def test_trust_in_the_dns_is_trust_in_servers_that_are_named(self) -> None:
        """Those of /etc/resolv.conf may be anybody's."""
        self.assertIn(
            "[dns] trusted: is nothing without servers", " ".join(problems(MINIMAL + "[dns]\ntrusted = true\n"))
        )
        self.assertEqual(problems(MINIMAL + '[dns]\nservers = ["127.0.0.1"]\ntrusted = true\n'), [])

    def test_a_channel_to_a_mail_store_needs_to_know_where(self) -> None:
        """kind = "lmtp"."""
        text = MINIMAL + '[channel.lists]\nkind = "lmtp"\n'
        self.assertIn("has no relay", " ".join(problems(text)))
        self.assertEqual(problems(text + 'relay = "store.example:24"'), [])

    def test_the_channel_to_other_nodes_learns_from_the_directory_where(self) -> None:
        """C{store_channel}: a channel of kind "lmtp" that is there."""
        text = MINIMAL + '[channel.stores]\nkind = "lmtp"\n'
        server = 'hostname = "mx.example.org"\n'
        self.assertIn(server, text)
        for name, said in (("stores", ""), ("local", "is not of kind"), ("nothing", "there is no channel")):
            found = problems(text.replace(server, server + f'store_channel = "{name}"\n'))
            self.assertEqual(bool(found), bool(said), found)
            self.assertIn(said, " ".join(found))

    def test_destinations_are_checked(self) -> None:
        """Patterns, words of tls, channels."""
        text = MINIMAL + "[[destination]]\n"
        for more, said in (
            ('pattern = "*"', "matches nothing"),
            ('pattern = "a.example"\ntls = "yes"', '"yes" is not known'),
            ('pattern = "a.example"\nchannel = "nowhere"', 'there is no channel "nowhere"'),
            ('tls = "must"', "pattern: is missing"),
        ):
            self.assertIn(said, " ".join(problems(text + more)))
        self.assertEqual(problems(text + 'pattern = "."\nchannel = ""\n'), [])

    def test_two_listeners_may_share_a_port_on_different_addresses(self) -> None:
        text = MINIMAL + "".join(
            f'[[listener]]\nname = "{name}"\nkind = "smtp"\nendpoint = "tcp:25:interface={name}"\nchannel = "local"\n'
            for name in ("127.0.0.1", "127.0.0.2")
        )
        self.assertEqual([p for p in problems(text) if "listens already" in p], [])

    def test_a_channel_every_mail_system_needs_may_not_be_missing(self) -> None:
        found = problems('[server]\nhostname = "a.example"\n[channel.local]\nkind = "local"\n')
        self.assertEqual(len(found), 1)
        self.assertIn('F:3: [channel]: there is no channel of kind "process"', found[0])

    def test_a_text_that_is_no_toml_is_told_with_line_and_column(self) -> None:
        self.assertEqual(
            problems("[server]\nhostname = mx\n"),
            ["F:2: is no TOML: Invalid value in column 12; see https://toml.io/en/v1.0.0"],
        )

    def test_nesting_without_end_is_no_crash(self) -> None:
        self.assertIn("is no TOML", problems("a = " + "[" * 100000)[0])

    def test_wrong_shapes_are_told_as_such(self) -> None:
        """A table where a list belongs, a value where a table belongs, and so on."""
        found = problems('server = 1\nchannel = "x"\nlistener = {}\nqueue = []\nrewrite = [1]\nzzz = 2\n')
        self.assertEqual(len(found), 6)
        for words in (
            "F:1: [server]: is no table",
            "F:2: [channel]: is no table",
            "F:3: [listener]: is no array of tables",
            "F:4: [queue]: is no table",
            "F:5: [rewrite]: is no array of tables",
            "F:6: [zzz]: key zzz is not known",
        ):
            self.assertTrue(any(words in problem for problem in found), (words, found))

    def test_control_characters_of_a_value_are_not_shown(self) -> None:
        """A terminal that shows the report cannot be made to do anything."""
        found = problems(MINIMAL.replace('"mx.example.org"', '"a\\u001b[2Jb"') + '[queue]\nroll_s = "\\u001b"\n')
        self.assertEqual(len(found), 2)
        self.assertFalse(any("\x1b" in problem for problem in found), found)

    def test_truth_values_are_no_numbers(self) -> None:
        self.assertIn("true is no whole number", problems(MINIMAL + "[queue]\nsegments = true\n")[0])
        self.assertIn("true is no number", problems(MINIMAL + "[queue]\nroll_s = true\n")[0])
        self.assertIn("1 is no truth value", problems(MINIMAL + "[bounce]\ndouble_bounce = 1\n")[0])

    def test_numbers_that_are_none_are_refused(self) -> None:
        for word in ("nan", "inf", "-inf"):
            self.assertEqual(len(problems(MINIMAL + f"[queue]\nroll_s = {word}\n")), 1, word)
            self.assertEqual(len(problems(MINIMAL + f"[queue]\nlifetime_s = {word}\n")), 1, word)

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.sampled_from([*template_text().splitlines(), "[queue]", "x = 1", "[[listener]]", "kind = 3"])))
    def test_any_lines_give_a_configuration_or_problems(self, lines: list[str]) -> None:
        config, found = examine("\n".join(lines), "F", "/home")
        self.assertEqual(config is None, bool(found))
        self.assertFalse(any("\n" in str(problem) for problem in found))


class CheckTests(SynchronousTestCase):
    """The values each check takes and refuses."""

    CASES: tuple[tuple[forms.Check, list[Any], list[Any]], ...] = (
        (forms.hostname, ["mx", "mx.example.org", "MX-1.example"], ["", "-a", "a..b", "a b", "192.0.2.1", "x" * 64]),
        (forms.address, ["a@b.c", "a.b+c@d"], ["a", "@b", "a@", "a b@c", "a@b@c", "a..b@c", "<a@b>"]),
        (forms.network, ["::/0", "10.0.0.0/8", "192.0.2.1"], ["10.0.0.1/8", "a", "1.2.3/24"]),
        (
            forms.relays,
            ["h", "h:25", "[::1]:25", "a:1, b:2", "127.0.0.1:2525"],
            ["h:0", "h:x", "::1", "", "a,,b", ":25"],
        ),
        (forms.server_address, ["::1", "127.0.0.1", "127.0.0.1:53", "[::1]:53"], ["dns", "1.2.3.4:0", "x:53"]),
        (forms.clock, ["00:00", "23:59"], ["24:00", "1:00", "00:60", "00:00:00"]),
        (forms.pattern, [".", "*", "[]", "a.b", ".b.c", "[192.0.2.1]"], ["", "..", "[x]", "a b", "a*.x", "a*.x"]),
        (forms.rewritten, ["$U@b.c", "x@$D", "a@b"], ["$U", "b", "@b", "$U@"]),
        (forms.ascending, [(), (1.0, 2.0)], [(2.0, 1.0), (0.0,), (1.0, 1.0)]),
        (forms.next_host, ["h", "h:25", "[192.0.2.1]", "[IPv6:::1]"], ["[x]", "a b"]),
        (
            forms.endpoint,
            [
                "tcp:25",
                "tcp:0:interface=127.0.0.1",
                "tcp:1:interface=\\:\\:1:backlog=5",
                "unix:a",
                "unix:/a:mode=600",
                "tcp6:25",
            ],
            [
                "25",
                "tcp",
                "tcp:",
                "tcp:x",
                "tcp:65536",
                "tcp:1:interface=::1",
                "ssl:1",
                "tcp6:1:interface=127.0.0.1",
                "unix:/",
                "unix:/a:mode=999",
                "tcp:1:a=b",
            ],
        ),
    )

    def test_each_check_knows_right_from_wrong(self) -> None:
        """What is refused is refused with a word about what would be right."""
        for check, right, wrong in self.CASES:
            for value in right:
                self.assertEqual(check(value), "", (check, value))
            for value in wrong:
                self.assertNotEqual(check(value), "", (check, value))

    def test_every_line_of_the_table_is_about_a_key_of_the_schema(self) -> None:
        for shape, lines in CHECKS.items():
            names = {field.name for field in shape.__attrs_attrs__}  # type: ignore[attr-defined]
            self.assertEqual(set(lines) - names, set(), shape)
