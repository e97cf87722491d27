"""The kinds of channels, and the two smallest of them."""

from __future__ import annotations

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from qmailpy.channels.registry import KINDS, factory, make_channels
from qmailpy.config.schema import ChannelConfig
from qmailpy.errors import ConfigError
from qmailpy.interfaces import IChannel
from qmailpy.testing.scripted_router import ScriptedRouter, local
from qmailpy.values import Recipient, Routed, Verdict
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

    def test_what_was_released_goes_where_the_router_says(self) -> None:
        """And where that is the same channel, it stays."""
        parts = make_parts()
        channel = factory("hold")(make_config(), ChannelConfig(name="hold", kind="hold"), parts)
        router = parts.router
        assert isinstance(router, ScriptedRouter)
        router.now["b@example.org"] = local("b@example.org")
        router.now["c@example.org"] = Routed(
            recipients=(Recipient(address="c@example.org", original="c@example.org", channel="hold"),), local=True
        )
        job = evolve(make_job("b@example.org", "c@example.org"), released=True)
        found = self.successResultOf(Deferred.fromCoroutine(channel.dequeue(job)))
        self.assertEqual([one.verdict for one in found], [Verdict.FORWARDED, Verdict.HELD])
        self.assertEqual([one.channel for one in found[0].onward], ["local"])
        self.assertIn('one with source = "hold" must say where else', found[1].reply.text)
