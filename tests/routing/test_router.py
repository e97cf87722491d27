"""From an address to a channel."""

from __future__ import annotations

import time

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from qmailpy.config.schema import ChannelConfig, Config, RuleConfig, ServerConfig
from qmailpy.directory.cache import CachedDirectory
from qmailpy.interfaces import IRouter
from qmailpy.routing.router import Router
from qmailpy.testing.memory_directory import MemoryDirectory
from qmailpy.values import Alias, Domain, Mailbox, Recipient, Refused, Routed, RouteResult

_CONFIG = Config(
    home="/nowhere",
    server=ServerConfig(hostname="mx1.mail.example.org"),
    channels={
        name: ChannelConfig(name=name, kind=kind)
        for name, kind in (
            *(("tcp_local", "smtp"), ("tcp_intranet", "smtp"), ("local", "local"), ("local2", "local")),
            *(("process", "process"), ("bitbucket", "bitbucket"), ("hold", "hold")),
        )
    },
    rules=(
        RuleConfig(pattern="old.example", channel="local", address="$U@example.org"),
        RuleConfig(pattern="gone.example", channel="local", address="$U@nowhere.example"),
        RuleConfig(pattern=".internal", channel="tcp_intranet", host="gate.internal"),
        RuleConfig(pattern="void.example", channel="bitbucket"),
        RuleConfig(pattern="lost.example", channel="no_such_channel"),
        RuleConfig(pattern="held.example", channel="hold", source="process"),
        RuleConfig(pattern="[192.0.2.25]", channel="tcp_local"),
        RuleConfig(pattern=".", channel="tcp_local"),
    ),
)


def _alias(name: str, *targets: str) -> Alias:
    return Alias(address=f"{name}@example.org", targets=targets)


class RouterTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = MemoryDirectory(
            [
                "example.org",
                Domain(name="all.example", catch_all="joe@example.org"),
                Domain(name="off.example", active=False),
            ],
            [
                *("joe@example.org", "ann@example.org", "postmaster@example.org", "a+b@example.org", "new@all.example"),
                Mailbox(address="shut@example.org", path="x", active=False),
                Mailbox(address="both@example.org", path="x", forwards=("x@remote.example", "both@example.org")),
                _alias("info", "joe@example.org", "Bob@remote.example"),
                _alias("deep", "info@example.org", "ann@example.org"),
                _alias("self", "self@example.org"),
                _alias("ring1", "ring2@example.org"),
                _alias("ring2", "ring1@example.org", "joe@example.org"),
                _alias("circle1", "circle2@example.org"),
                _alias("circle2", "CIRCLE1@example.org"),
                _alias("half", "joe@example.org", "nobody@example.org"),
                _alias("none", "nobody@example.org", "shut@example.org"),
                _alias("empty"),
                _alias("twice", "joe@example.org", "j.doe@example.org", "JOE@example.org"),
                _alias("many", *(f"u{n}@remote.example" for n in range(900))),
                _alias("toomany", *(f"u{n}@remote.example" for n in range(1100))),
                *(_alias(f"chain{n}", f"chain{n + 1}@example.org") for n in range(20)),
            ],
            alternates={"j.doe@example.org": "joe@example.org"},
        )
        self.router = Router(_CONFIG, self.directory)

    def route(self, address: str, source: str = "tcp_local") -> RouteResult:
        return self.successResultOf(Deferred.fromCoroutine(self.router.route(address, source)))

    def goes(self, address: str, *where: str, source: str = "tcp_local") -> Routed:
        """C{where} is ADDRESS CHANNEL [HOST] each."""
        result = self.route(address, source)
        assert isinstance(result, Routed), result
        found = [" ".join(filter(None, (one.address, one.channel, one.host))) for one in result.recipients]
        self.assertEqual(found, list(where))
        self.assertEqual({one.original for one in result.recipients}, {address})
        return result

    def refused(self, address: str, reply: str, source: str = "tcp_local") -> None:
        result = self.route(address, source)
        assert isinstance(result, Refused), result
        self.assertEqual(f"{result.reply.code} {result.reply.enhanced}", reply, address)


class RefusedTests(RouterTestCase):
    def test_it_tells_where_an_address_would_have_gone(self) -> None:
        """As far as that is known: an address of ours, not one that leads nowhere."""
        ours = "nobody", "shut", "empty", "none", "self", "circle1", "toomany", "chain0"
        for address in (*(f"{name}@example.org" for name in ours), "joe@off.example", "nobody@old.example"):
            result = self.route(address)
            self.assertEqual((type(result), getattr(result, "channel", None)), (Refused, "local"), address)
        for address in ("joe", "joe@", "x@[192.0.2.1]", "x@lost.example", "x@gone.example"):
            result = self.route(address)
            self.assertEqual((type(result), getattr(result, "channel", None)), (Refused, ""), address)


class LocalTests(RouterTestCase):
    def test_it_is_a_router(self) -> None:
        verifyObject(IRouter, self.router)

    def test_a_mailbox_goes_to_the_first_local_channel(self) -> None:
        result = self.goes("Joe@example.org", "joe@example.org local")
        self.assertTrue(result.local)
        self.assertEqual(
            result.recipients[0], Recipient(address="joe@example.org", original="Joe@example.org", channel="local")
        )

    def test_an_alternate_address_is_its_mailbox(self) -> None:
        self.goes("j.doe@example.org", "joe@example.org local")

    def test_the_domain_s_case_does_not_matter(self) -> None:
        self.goes("joe@EXAMPLE.org", "joe@example.org local")

    def test_nobody_is_refused(self) -> None:
        for address in ("nobody@example.org", "abuse@example.org", "+joe@example.org", '"joe"@example.org'):
            self.refused(address, "550 5.1.1")

    def test_a_suspended_mailbox_or_domain_is_refused(self) -> None:
        self.refused("shut@example.org", "550 5.2.1")
        self.refused("shut+x@example.org", "550 5.2.1")
        self.refused("joe@off.example", "550 5.2.1")

    def test_what_is_no_address_is_refused(self) -> None:
        for address in ("", "joe", "@example.org", "joe@", "@"):
            self.refused(address, "550 5.1.3")

    def test_a_subaddress_falls_back_to_its_user(self) -> None:
        self.goes("joe+lists+a@example.org", "joe@example.org local")
        self.goes("a+b@example.org", "a+b@example.org local")
        self.goes("info+x@example.org", "joe@example.org local", "Bob@remote.example process")

    def test_the_catch_all_takes_what_nobody_else_does(self) -> None:
        self.assertTrue(self.goes("any.body@all.example", "joe@example.org local").local)
        self.goes("new@all.example", "new@all.example local")

    def test_without_a_local_channel_mail_waits(self) -> None:
        channels = {"tcp_local": _CONFIG.channels["tcp_local"]}
        self.router.reconfigure(evolve(_CONFIG, channels=channels))
        self.refused("joe@example.org", "451 4.3.5")


class PostmasterTests(RouterTestCase):
    """RFC 5321 s.4.5.1: always somebody, whatever the case."""

    def test_bare_postmaster_is_that_of_the_first_domain(self) -> None:
        for address in ("postmaster", "Postmaster", "POSTMASTER"):
            self.assertTrue(self.goes(address, "postmaster@example.org local").local)

    def test_every_domain_of_ours_has_a_postmaster(self) -> None:
        for address in ("postmaster@example.org", "PostMaster@all.example", "postmaster@off.example"):
            self.goes(address, "postmaster@example.org local")

    def test_a_domain_s_own_postmaster_comes_first(self) -> None:
        own = Mailbox(address="postmaster@all.example", path="x")
        self.directory.entries[own.address] = own
        self.goes("postmaster@all.example", "postmaster@all.example local")
        self.directory.entries[own.address] = evolve(own, active=False)
        self.goes("postmaster@all.example", "postmaster@example.org local")

    def test_the_configured_postmaster_may_be_anybody_anywhere(self) -> None:
        del self.directory.entries["postmaster@example.org"]
        for named, where in (
            ("ann@example.org", "ann@example.org local"),
            ("deep@example.org", "ann@example.org local"),
            ("admin@remote.example", "admin@remote.example tcp_local remote.example"),
        ):
            self.router.reconfigure(evolve(_CONFIG, server=evolve(_CONFIG.server, postmaster=named)))
            result = self.route("postmaster@example.org")
            assert isinstance(result, Routed)
            self.assertTrue(result.local)
            self.assertIn(where.split()[0], [one.address for one in result.recipients])

    def test_a_configured_postmaster_who_is_gone_is_replaced(self) -> None:
        self.router.reconfigure(evolve(_CONFIG, server=evolve(_CONFIG.server, postmaster="gone@example.org")))
        self.goes("postmaster", "postmaster@example.org local")

    def test_postmaster_elsewhere_is_theirs(self) -> None:
        result = self.goes("postmaster@remote.example", "postmaster@remote.example tcp_local remote.example")
        self.assertFalse(result.local)


class AliasTests(RouterTestCase):
    def test_an_alias_goes_to_all_its_targets_by_their_own_ways(self) -> None:
        result = self.goes("info@example.org", "joe@example.org local", "Bob@remote.example process")
        self.assertTrue(result.local)

    def test_aliases_of_aliases_are_followed(self) -> None:
        self.goes(
            "deep@example.org",
            *("ann@example.org local", "joe@example.org local", "Bob@remote.example process"),
        )

    def test_nobody_gets_it_twice(self) -> None:
        self.goes("twice@example.org", "joe@example.org local")

    def test_circles_end(self) -> None:
        for address in ("self@example.org", "circle1@example.org"):
            self.refused(address, "550 5.4.6")
        self.goes("ring1@example.org", "joe@example.org local")
        self.goes("ring2@example.org", "joe@example.org local")

    def test_chains_are_bounded(self) -> None:
        self.refused("chain0@example.org", "550 5.4.6")
        self.directory.entries["chain10@example.org"] = _alias("chain10", "joe@example.org")
        self.goes("chain1@example.org", "joe@example.org local")

    def test_the_number_of_recipients_is_bounded(self) -> None:
        self.assertEqual(len(self.goes_many("many@example.org")), 900)
        self.refused("toomany@example.org", "550 5.2.4")

    def goes_many(self, address: str) -> tuple[Recipient, ...]:
        result = self.route(address)
        assert isinstance(result, Routed)
        return result.recipients

    def test_a_target_that_is_nobody_is_left_to_the_local_channel_to_report(self) -> None:
        """Its share is bounced, not dropped in silence; the others get theirs."""
        self.goes("half@example.org", "joe@example.org local", "nobody@example.org local")

    def test_an_alias_with_no_good_target_is_refused(self) -> None:
        self.refused("none@example.org", "550 5.2.1")
        self.refused("empty@example.org", "550 5.2.1")

    def test_a_mailbox_with_copies_gets_its_own_and_sends_the_others(self) -> None:
        self.goes("both@example.org", "both@example.org local", "x@remote.example process")


class RuleRouteTests(RouterTestCase):
    def test_others_go_by_the_rules(self) -> None:
        self.assertFalse(self.goes("Bob@remote.example", "Bob@remote.example tcp_local remote.example").local)
        self.goes("bob@a.internal", "bob@a.internal tcp_intranet gate.internal")
        self.goes("bob@void.example", "bob@void.example bitbucket")

    def test_a_rule_may_look_at_the_source(self) -> None:
        self.goes("bob@held.example", "bob@held.example hold", source="process")
        self.goes("bob@held.example", "bob@held.example tcp_local held.example")

    def test_a_rule_may_make_a_domain_another_name_of_ours(self) -> None:
        self.assertTrue(self.goes("joe+x@old.example", "joe@example.org local").local)
        self.refused("nobody@old.example", "550 5.1.1")
        self.refused("joe@gone.example", "550 5.1.2")

    def test_literals_lead_nowhere_unless_a_rule_says_so(self) -> None:
        self.refused("joe@[127.0.0.1]", "550 5.1.2")
        self.goes("joe@[192.0.2.25]", "joe@[192.0.2.25] tcp_local [192.0.2.25]")
        self.assertEqual([key for question, key in self.directory.asked if "[" in key], [])

    def test_without_a_rule_there_is_no_way(self) -> None:
        self.router.reconfigure(evolve(_CONFIG, rules=()))
        self.refused("bob@remote.example", "550 5.1.2")

    def test_a_rule_for_a_channel_that_is_not_there_makes_mail_wait(self) -> None:
        self.refused("bob@lost.example", "451 4.3.5")


class WaitingTests(RouterTestCase):
    def test_a_directory_that_is_away_makes_mail_wait(self) -> None:
        """Never "no such user", and never out to the internet, for the domain may be ours."""
        self.directory.away = True
        for address in ("joe@example.org", "bob@remote.example", "postmaster"):
            self.refused(address, "451 4.3.0")

    def test_the_answer_is_there_at_once_when_the_cache_has_it(self) -> None:
        cache = CachedDirectory(Clock(), self.directory, 60, 10, 1000)
        self.router = Router(_CONFIG, cache)
        for address in (
            "joe@example.org",
            "deep@example.org",
            "bob@remote.example",
            "nobody@example.org",
            "postmaster",
        ):
            cache.flush()
            self.assertIsNone(self.router.route_now(address, "tcp_local"))
            asked = self.route(address)
            questions = len(self.directory.asked)
            self.assertEqual(self.router.route_now(address, "tcp_local"), asked)
            self.assertEqual(len(self.directory.asked), questions)

    def test_literals_need_no_directory(self) -> None:
        router = Router(_CONFIG, CachedDirectory(Clock(), self.directory, 60, 10, 1000))
        self.assertIsInstance(router.route_now("joe@[127.0.0.1]", "tcp_local"), Refused)

    def test_a_directory_without_a_cache_is_always_asked(self) -> None:
        self.route("joe@example.org")
        self.assertIsNone(self.router.route_now("joe@example.org", "tcp_local"))

    def test_routing_from_the_cache_is_fast(self) -> None:
        """It happens for every RCPT: 30 us is a tenth of what the rest of the command may take."""
        cache = CachedDirectory(Clock(), self.directory, 60, 10, 1000)
        router = Router(_CONFIG, cache)
        self.successResultOf(Deferred.fromCoroutine(router.route("joe@example.org", "tcp_local")))
        best = 1.0
        for _ in range(5):
            started = time.process_time()
            for _ in range(500):
                router.route_now("joe@example.org", "tcp_local")
            best = min(best, (time.process_time() - started) / 500)
        self.assertLess(best, 100e-6)


class TraceTests(RouterTestCase):
    def test_a_trace_has_the_same_result_and_tells_every_step(self) -> None:
        for address in (
            "joe+x@example.org",
            "deep@example.org",
            "bob@remote.example",
            "nobody@example.org",
            "joe@[::1]",
            "x@all.example",
            "postmaster@off.example",
            "joe@old.example",
            "toomany@example.org",
            "joe",
        ):
            trace = self.successResultOf(Deferred.fromCoroutine(self.router.trace(address, "tcp_local")))
            self.assertEqual(trace.result, self.route(address))
            self.assertTrue(trace.steps)
        trace = self.successResultOf(Deferred.fromCoroutine(self.router.trace("joe+x@example.org", "tcp_local")))
        self.assertEqual(
            trace.steps,
            (
                "example.org is a domain of ours",
                "<joe+x@example.org> is nobody; without its subaddress it is <joe@example.org>",
                "<joe@example.org> is a mailbox in example.org/joe/Maildir",
            ),
        )

    def test_a_trace_says_when_the_directory_is_away(self) -> None:
        self.directory.away = True
        trace = self.successResultOf(Deferred.fromCoroutine(self.router.trace("joe@example.org", "tcp_local")))
        self.assertIn("cannot tell", trace.steps[-1])
