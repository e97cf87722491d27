"""Tests for L{qmailpy.app.host}: when a role gets a new configuration."""

from __future__ import annotations

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.app.context import ChildContext
from qmailpy.app.host import RoleHost
from qmailpy.config.schema import Config, ServerConfig
from qmailpy.errors import CommandError


class SlowRole(Service):
    """Opens when it is told to, and takes a configuration when it is told to."""

    made: SlowRole

    def __init__(self, context: ChildContext) -> None:
        self.open = context.ready
        self.taken: list[str] = []
        self.taking: list[Deferred[None]] = []
        context.hooks.reload.append(self.reload)
        SlowRole.made = self

    async def reload(self, config: Config) -> None:
        self.taking.append(Deferred())
        await self.taking[-1]
        self.taken.append(config.server.hostname)


slow = SlowRole


def config(hostname: str) -> Config:
    return Config(home="/h", server=ServerConfig(hostname=hostname))


class ReloadTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.told: list[str] = []
        self.host = RoleHost(
            MemoryReactorClock(),
            config("old.example"),
            role="slow",
            index=0,
            shards=(),
            sockets={},
            session="s",
            ready=lambda: self.told.append("ready"),
            stop=lambda: None,
            reload=lambda: None,
            roles=__name__,
        )
        self.patch(self.host, "_server", Service())
        self.host.startService()
        self.role = SlowRole.made

    def reload(self, hostname: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self.host.reload(config(hostname)))

    def test_none_reaches_a_role_that_is_not_open_yet(self) -> None:
        """SIGHUP in the middle of the start, which takes minutes with a large queue: it counts once that is over."""
        done = self.reload("new.example")
        self.assertEqual(self.role.taking, [])
        self.role.open()
        self.assertEqual((self.told, len(self.role.taking)), (["ready"], 1))
        self.role.taking[0].callback(None)
        self.successResultOf(done)
        self.assertEqual(self.role.taken, ["new.example"])

    def test_the_last_one_counts(self) -> None:
        """They are taken one after the other, not in each other's midst."""
        self.role.open()
        one, two = self.reload("one.example"), self.reload("two.example")
        self.assertEqual(len(self.role.taking), 1)
        self.role.taking[0].errback(ValueError("not that one"))
        self.assertEqual(str(self.failureResultOf(one, CommandError).value), "ValueError: not that one")
        self.flushLoggedErrors(ValueError)
        self.role.taking[1].callback(None)
        self.successResultOf(two)
        self.assertEqual(self.role.taken, ["two.example"])
