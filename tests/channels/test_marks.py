"""Files of channels that change while the configuration does not."""

from __future__ import annotations

import os

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.channels.marks import thd_marks_of_all, to_remake
from qmailpy.config.schema import ChannelConfig, Config, DestinationConfig, ServerConfig


class MarksTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = os.path.abspath(self.mktemp())
        os.makedirs(self.home)
        smtp = ChannelConfig(name="out", kind="smtp", relay_password_file="secret", tls_ca_file=f"{self.home}/ca.pem")
        self.config = Config(
            home=self.home,
            server=ServerConfig(hostname="mx.example.org"),
            channels={
                "out": smtp,
                "other": evolve(smtp, name="other", relay_password_file=""),
                "local": ChannelConfig(name="local", kind="local"),
            },
        )

    def write(self, name: str, text: str) -> None:
        with open(f"{self.home}/{name}.new", "w") as target:
            target.write(text)
        os.rename(f"{self.home}/{name}.new", f"{self.home}/{name}")

    def test_a_file_that_is_made_changed_or_removed_makes_a_difference(self) -> None:
        """Even one of the same size: it is another file."""
        seen = [thd_marks_of_all(self.config)]
        for text in ("one", "two"):
            self.write("secret", text)
            seen.append(thd_marks_of_all(self.config))
        self.write("ca.pem", "x")
        seen.append(thd_marks_of_all(self.config))
        os.unlink(f"{self.home}/secret")
        seen.append(thd_marks_of_all(self.config))
        self.assertEqual(len({one["out"] for one in seen}), 5)
        self.assertEqual(len({one["other"] for one in seen}), 2)
        self.assertEqual(thd_marks_of_all(self.config), seen[-1])
        self.assertNotIn("local", seen[0])

    def test_what_is_made_anew(self) -> None:
        """What has changed, and nothing else; what is shared changes all."""
        before = self.config
        marks = thd_marks_of_all(before)

        def names(config: Config) -> list[str]:
            return list(to_remake(config, before, thd_marks_of_all(config), marks))

        self.assertEqual(names(before), [])
        self.write("secret", "one")
        self.assertEqual(names(before), ["out"])
        os.unlink(f"{self.home}/secret")
        other = {**before.channels, "other": evolve(before.channels["other"], port=26)}
        self.assertEqual(names(evolve(before, channels=other)), ["other"])
        destinations = (DestinationConfig(pattern="a.example", tls="must"),)
        self.assertEqual(names(evolve(before, destinations=destinations)), ["out", "other"])
