"""The LDAP client when things go wrong."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as LateError
from twisted.internet.task import Clock

from qmailpy.directory import password
from qmailpy.directory.cache import CachedDirectory
from qmailpy.directory.inherited import LIFETIME_S
from qmailpy.directory.plans import PLAN, Named
from qmailpy.directory.pool import LdapBusy, Pool
from qmailpy.directory.servers import FIRST_PROBE_S
from qmailpy.errors import Temporary
from qmailpy.testing.memory_events import MemoryEvents
from qmailpy.values import Mailbox
from tests.directory.parts import BASE, AskingTestCase, client, example, identity, served


class ClientTests(AskingTestCase):
    def setUp(self) -> None:
        self.accounts = example(self)
        self.accounts.thd_add_user("joe@example.org", secret=b"sesame")
        name = identity(self.accounts.store, "service", password.ssha(b"machine"))
        self.clock = Clock()
        self.endpoint = served(self.accounts.store, self.clock)
        self.secret = b"machine"
        self.directory = client(self.clock, self.endpoint, name, lambda: self.secret)

    def step(self) -> None:
        self.endpoint.flush()

    def away(self, answer: Deferred[Any]) -> None:
        problem = self.failureResultOf(answer, Temporary).value
        self.assertEqual(str(problem.reply).split(" ")[0:2], ["451", "4.3.0"])

    def start(self) -> Deferred[Any]:
        answer = Deferred.fromCoroutine(self.directory.lookup("joe@example.org"))
        self.step()
        return answer

    def probe(self) -> None:
        """Let a server that was down be found again."""
        self.clock.advance(2 * FIRST_PROBE_S)
        self.step()

    def test_connections_are_made_when_needed_and_kept(self) -> None:
        self.assertEqual(self.endpoint.pumps, [])
        for _ in range(10):
            self.assertIsInstance(self.successResultOf(self.start()), Mailbox)
        self.assertEqual(len(self.endpoint.pumps), 2)

    def test_what_users_share_is_asked_for_once_and_anew_after_a_change(self) -> None:
        """Plans and domains are remembered for seconds; a flush of the cache in front ends that."""
        plans = Named(self.accounts.tree, PLAN)
        plans.thd_add("gold", {"mailquotasize": ("5",)})
        for name in ("a", "b", "c"):
            self.accounts.thd_add_user(f"{name}@example.org", values={"qmailplanname": ("gold",)})
        cache = CachedDirectory(self.clock, self.directory, 3600, 3600, 100)
        asked: list[Any] = []
        original = self.directory._entry_of

        async def asking(kind: str, name: str) -> Any:
            asked.append((kind, name))
            return await original(kind, name)

        self.patch(self.directory._inherited, "_ask", asking)

        def quota(name: str) -> int:
            found = self.ask(cache.lookup(f"{name}@example.org"))
            assert isinstance(found, Mailbox)
            return found.quota_octets

        self.assertEqual([quota(name) for name in "abc"], [5, 5, 5])
        self.assertEqual(asked, [("domain", "example.org"), ("plan", "gold")])
        plans.thd_set("gold", {"mailquotasize": ("7",)})
        cache.flush("")
        self.assertEqual(quota("a"), 7)
        plans.thd_set("gold", {"mailquotasize": ("9",)})
        self.clock.advance(LIFETIME_S)
        self.assertEqual(quota("b"), 9)

    def test_a_lost_connection_is_made_again_and_the_question_asked_again(self) -> None:
        self.successResultOf(self.start())
        self.successResultOf(self.start())
        self.endpoint.silent = True
        answer = self.start()
        self.assertNoResult(answer)
        self.endpoint.silent = False
        self.endpoint.cut()
        self.assertIsInstance(self.successResultOf(answer), Mailbox)
        self.assertEqual(len(self.endpoint.pumps), 1)

    def test_questions_that_wait_for_one_connection_all_fail_with_it(self) -> None:
        self.endpoint.silent = True
        asked = [self.start() for _ in range(6)]
        self.clock.advance(5)
        for answer in asked:
            self.away(answer)

    def test_a_server_that_is_not_there(self) -> None:
        self.endpoint.refuse = True
        self.away(self.start())
        self.endpoint.refuse = False
        self.away(self.start())  # nobody is asked before a probe has found it
        self.probe()
        self.assertIsInstance(self.successResultOf(self.start()), Mailbox)

    def test_a_directory_that_is_away_and_back_is_told(self) -> None:
        """Once each, whatever is asked meanwhile."""
        events = self.directory.events = MemoryEvents()
        self.endpoint.refuse = True
        for _ in range(3):
            self.away(self.start())
        self.endpoint.refuse = False
        self.probe()
        self.successResultOf(self.start())
        self.assertEqual(events.names, ["directory.away", "directory.back"])

    def test_passwords_that_wait_too_long_are_no_directory_that_is_away(self) -> None:
        """Somebody guesses by thousands: that queue is full, and people are found all the same."""
        events = self.directory.events = MemoryEvents()
        for problem in (LdapBusy("too many logins wait"), LateError()):

            async def check(pool: Pool, dn: str, password: bytes, problem: Exception = problem) -> bool:
                raise problem

            self.patch(Pool, "check", check)
            login = Deferred.fromCoroutine(self.directory.authenticate("joe@example.org", b"sesame"))
            self.step()
            self.failureResultOf(login, Temporary)
        self.assertEqual((events.names, self.directory.away), ([], False))
        self.endpoint.refuse = True
        self.endpoint.cut()
        self.away(self.start())
        self.assertEqual((events.names, self.directory.away), (["directory.away"], True))

    def test_one_that_stays_away_is_told_again_once_in_a_while(self) -> None:
        """The first time may not have been written: it came back a minute before."""
        events = self.directory.events = MemoryEvents()
        self.endpoint.refuse = True
        for _ in range(121):
            self.away(self.start())
            self.clock.advance(1)
        self.assertEqual(events.names, ["directory.away"] * 3)

    def test_a_server_that_does_not_answer_is_given_up_and_left(self) -> None:
        self.successResultOf(self.start())
        self.successResultOf(self.start())
        self.endpoint.silent = True
        answer = self.start()
        self.clock.advance(4.9)
        self.assertNoResult(answer)
        self.clock.advance(0.1)
        self.away(answer)
        self.endpoint.silent = False
        for _ in range(2):
            self.assertIsInstance(self.successResultOf(self.start()), Mailbox)
        self.assertEqual(len(self.endpoint.pumps), 3)

    def test_a_server_that_does_not_know_us(self) -> None:
        self.secret = b"wrong"
        self.away(self.start())
        self.secret = b"machine"
        self.probe()
        self.assertIsInstance(self.successResultOf(self.start()), Mailbox)

    def test_a_late_answer_to_one_login_is_not_taken_for_another(self) -> None:
        self.endpoint.silent = True
        first = Deferred.fromCoroutine(self.directory.authenticate("joe@example.org", b"sesame"))
        self.clock.advance(5)
        self.away(first)
        self.endpoint.silent = False
        self.probe()
        second = Deferred.fromCoroutine(self.directory.authenticate("joe@example.org", b"wrong"))
        self.step()
        self.assertIsNone(self.successResultOf(second))

    def test_a_login_binds_even_for_somebody_unknown(self) -> None:
        """The time it takes must not tell who exists: the server hashes in both cases."""
        binds: list[str] = []
        access = self.endpoint.factory.access
        original = access.thd_bind

        def counted(dn: str, word: bytes) -> Any:
            binds.append(dn)
            return original(dn, word)

        access.thd_bind = counted  # type: ignore[method-assign,assignment]
        answer = Deferred.fromCoroutine(self.directory.authenticate("nobody@example.org", b"x"))
        self.step()
        self.assertIsNone(self.successResultOf(answer))
        self.assertEqual([dn for dn in binds if not dn.startswith("cn=service")], [f"uid=nobody,{BASE}"])

    def test_logins_reuse_their_connections(self) -> None:
        for _ in range(5):
            answer = Deferred.fromCoroutine(self.directory.authenticate("joe@example.org", b"sesame"))
            self.step()
            self.assertIsNotNone(self.successResultOf(answer))
        self.assertEqual(len(self.endpoint.pumps), 3)

    def test_garbage_from_the_server_is_trouble_not_nobody(self) -> None:
        self.successResultOf(self.start())
        self.successResultOf(self.start())
        self.endpoint.silent = True
        answer = self.start()
        for pump in self.endpoint.pumps:
            pump.client.dataReceived(b"HTTP/1.1 400 Bad Request\r\n")
        self.endpoint.refuse = True
        self.clock.advance(5)
        self.away(answer)

    def test_stopping_ends_connections_and_questions(self) -> None:
        self.successResultOf(self.start())
        self.endpoint.silent = True
        answer = self.start()
        self.successResultOf(Deferred.fromCoroutine(self.directory.stop()))
        self.away(answer)
        self.endpoint.silent = False
        self.away(self.start())
