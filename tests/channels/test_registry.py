"""The kinds of channels, and the two smallest of them."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from qmailpy.channels.registry import KINDS, factory, make_channels
from qmailpy.config.schema import ChannelConfig
from qmailpy.errors import ConfigError
from qmailpy.interfaces import IChannel
from qmailpy.values import Verdict
from tests.channels.common import make_config, make_job, make_parts


class RegistryTests(SynchronousTestCase):
    def test_every_kind_makes_a_channel_under_its_configured_name(self) -> None:
        """Two instances of each kind exist side by side."""
        config = make_config(
            {f"{kind}_{n}": ChannelConfig(name=f"{kind}_{n}", kind=kind) for kind in KINDS for n in (1, 2)}
        )
        made = make_channels(make_parts(config))
        self.assertEqual(len(made), 2 * len(KINDS))
        for name, channel in made.items():
            self.assertTrue(verifyObject(IChannel, channel))
            self.assertEqual(channel.name, name)

    def test_kinds_that_do_not_exist_are_all_named(self) -> None:
        config = make_config({name: ChannelConfig(name=name, kind=f"{name}kind") for name in ("one", "two")})
        failure = self.assertRaises(ConfigError, make_channels, make_parts(config))
        self.assertEqual(len(failure.problems), 2)
        self.assertIn("onekind", failure.problems[0])

    def test_hold_holds_and_bitbucket_delivers(self) -> None:
        for kind, verdict in (("hold", Verdict.HELD), ("bitbucket", Verdict.DELIVERED)):
            channel = factory(kind)(make_config(), ChannelConfig(name=kind, kind=kind), make_parts())
            found = self.successResultOf(Deferred.fromCoroutine(channel.dequeue(make_job("a@b", "c@d"))))
            self.assertEqual([one.verdict for one in found], [verdict] * 2)
            self.successResultOf(Deferred.fromCoroutine(channel.stop()))
