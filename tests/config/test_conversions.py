"""conversions.toml: what may be in it, and what is said of what may not."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.conversion_schema import ConversionsConfig
from qmailpy.config.conversions import load
from qmailpy.config.load import load as load_home
from qmailpy.errors import ConfigError

CHANNELS = ("tcp_local", "local", "conversion")
HOME = (
    '[server]\nhostname = "h.example"\n[channel.local]\nkind = "local"\n[channel.process]\nkind = "process"\n'
    '[channel.conversion]\nkind = "conversion"\n'
)


class ConversionsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = self.mktemp()
        os.mkdir(self.path)

    def write(self, text: str, name: str = "conversions.toml") -> None:
        with open(os.path.join(self.path, name), "w", encoding="utf-8") as target:
            target.write(text)

    def read(self, text: str) -> ConversionsConfig:
        self.write(text)
        config, problems = load(self.path, CHANNELS)
        self.assertEqual([str(one) for one in problems], [])
        return config

    def wrong(self, text: str) -> list[str]:
        self.write(text)
        return [str(one).removeprefix(self.path + "/") for one in load(self.path, CHANNELS)[1]]

    def test_without_a_file_there_are_no_entries(self) -> None:
        self.assertEqual(load(self.path, CHANNELS), (ConversionsConfig(), []))

    def test_entries_are_read_in_order_with_their_texts(self) -> None:
        self.write("with care\n", "care.txt")
        config = self.read(
            '[limits]\ndepth = 9\n[[entry]]\naction = "disclaimer"\ntext_file = "care.txt"\n'
            '[[entry]]\naction = "journal"\naddress = "j@x.example"\n'
            '[[entry]]\naction = "command"\ncommand = ["/bin/true"]\ntype = ["image/*"]\ntimeout_s = 5\n'
        )
        self.assertEqual(config.limits.depth, 9)
        self.assertEqual([one.action for one in config.entries], ["disclaimer", "journal", "command"])
        self.assertEqual(config.entries[0].text, "with care\n")
        self.assertEqual([one.whole for one in config.entries], [False, True, False])
        self.assertEqual((config.entries[2].command, config.entries[2].timeout_s), (("/bin/true",), 5.0))

    def test_every_problem_has_its_line(self) -> None:
        for text, said in (
            ("x", "conversions.toml: is no TOML"),
            ("[[enty]]\n", 'conversions.toml:1: [enty]: [enty] is not known; did you mean "entry"?'),
            ("[[entry]]\n", "conversions.toml:1: [[entry]] 1 action: is missing; right would be a line action"),
            ('[[entry]]\naction = "erase"\n', 'conversions.toml:2: [[entry]] 1 action: "erase" is not known; right'),
            ('[[entry]]\naction = "keep"\ntype = ["png"]\n', 'conversions.toml:3: [[entry]] 1 type: "png" is wrong'),
            ('[[entry]]\naction = "command"\n', "conversions.toml:1: [[entry]] 1 command: is missing; right would be"),
            (
                '[[entry]]\nname = "n"\naction = "command"\ncommand = ["scan"]\n',
                'conversions.toml:4: [[entry]] 1 (n) command: "scan" is no path from "/" on; right',
            ),
            ('[[entry]]\naction = "keep"\ncommand = ["/x"]\n', "conversions.toml:3: [[entry]] 1 command: is nothing"),
            ('[[entry]]\naction = "journal"\n', "conversions.toml:1: [[entry]] 1 address: is what the action journal"),
            ('[[entry]]\naction = "utf8"\nwhole = true\n', "conversions.toml:3: [[entry]] 1 whole: is nothing for"),
            (
                '[[entry]]\naction = "keep"\nwhole = true\nfile = ["*.x"]\n',
                "conversions.toml:3: [[entry]] 1 whole: is true, so type, file",
            ),
            (
                '[[entry]]\naction = "keep"\nin_channel = "tcp_loca"\n',
                'conversions.toml:3: [[entry]] 1 in_channel: "tcp_loca" fits no channel; did you mean "tcp_local"?',
            ),
            ('[[entry]]\naction = "disclaimer"\n', "conversions.toml:1: [[entry]] 1 text: is missing"),
            (
                '[[entry]]\naction = "disclaimer"\ntext_file = "none"\n',
                'conversions.toml:3: [[entry]] 1 text_file: "none" cannot be read: No such file or directory',
            ),
            (
                '[[entry]]\naction = "command"\ncommand = ["/x"]\nout_type = "multipart/mixed"\n',
                'conversions.toml:4: [[entry]] 1 out_type: "multipart/mixed" is no type a part may get',
            ),
            (
                '[limits]\nbroken = "x"\n',
                'conversions.toml:2: [limits] broken: "x" is not known; right would be "pass"',
            ),
            (
                '[limits]\nbeyond = "x"\n',
                'conversions.toml:2: [limits] beyond: "x" is not known; right would be "hold"',
            ),
        ):
            found = self.wrong(text)
            self.assertTrue(found and found[0].startswith(said), (text, found))

    def test_a_text_that_cannot_be_read_is_one_mistake_and_not_two(self) -> None:
        self.assertEqual(len(self.wrong('[[entry]]\naction = "disclaimer"\ntext_file = "none"\n')), 1)

    def test_a_home_reads_it_when_it_has_a_channel_for_it(self) -> None:
        home = self.path
        self.path = os.path.join(home, "etc")
        os.mkdir(self.path)
        self.write(HOME, "qmailpy.toml")
        self.write('[[entry]]\naction = "utf8"\n')
        self.assertEqual([one.action for one in load_home(home).conversions.entries], ["utf8"])
        self.write("[[entry]]\n")
        self.assertRaises(ConfigError, load_home, home)
        self.write(HOME[: HOME.index("[channel.conv")], "qmailpy.toml")
        self.assertEqual(load_home(home).conversions, ConversionsConfig())

    def test_a_selection_needs_a_channel_of_its_kind(self) -> None:
        home = self.path
        self.path = os.path.join(home, "etc")
        os.mkdir(self.path)
        for text, said in (
            (
                HOME + '[[conversion]]\nchannel = "local"\n',
                '[[conversion]] 1 channel: "local" is of kind "local"; right',
            ),
            (HOME + '[[conversion]]\nsource = "x"\n', '[[conversion]] 1 source: there is no channel "x"'),
            (HOME + '[[conversion]]\npartial = true\nchannel = "process"\n', 'is of kind "process"; right'),
            (HOME[: HOME.index("[channel.conv")] + "[[conversion]]\n", "[[conversion]] 1: needs a channel of kind"),
        ):
            self.write(text, "qmailpy.toml")
            self.assertIn(said, str(self.assertRaises(ConfigError, load_home, home)))
