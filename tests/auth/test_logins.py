"""Tests of logins: portal, refusals and waits."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.portal import IRealm
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from qmailpy.auth.logins import Logins, Refusal, Why
from qmailpy.auth.portal import (
    DirectoryChecker,
    IMailUser,
    IPassword,
    IProof,
    MailRealm,
    MailUser,
    Password,
    Proof,
)
from qmailpy.errors import Temporary
from qmailpy.testing.memory_directory import MemoryDirectory
from qmailpy.values import Alias, Mailbox, Reply, ScramSecret
from qmailpy.wire.sasl import CheckPassword, Failed, Proven, derive, imagined

JOE = Mailbox(address="joe@example.org", path="example.org/joe/Maildir")
ANN = Mailbox(address="ann@example.org", path="example.org/ann/Maildir", active=False)
HERE = "192.0.2.1"
T = TypeVar("T")


class LoginsTests(SynchronousTestCase):
    """L{Logins}."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.directory = MemoryDirectory(
            ("example.org",),
            (JOE, ANN, Alias(address="info@example.org", targets=("joe@example.org",))),
            alternates={"j.doe@example.org": "joe@example.org"},
            passwords={"joe@example.org": b"sesame", "ann@example.org": b"sesame"},
        )
        self.logins = Logins(self.clock, self.directory, domain="example.org", key=b"key")

    def ask(self, question: Coroutine[Any, Any, T]) -> T:
        return self.successResultOf(Deferred.fromCoroutine(question))

    def password(self, login: str, password: bytes, authzid: str = "") -> Mailbox | Refusal:
        return self.ask(self.logins.decide(CheckPassword(login=login, password=password, authzid=authzid), HERE))

    def decided(self, step: CheckPassword, service: str) -> Mailbox | Refusal:
        waiting = Deferred.fromCoroutine(self.logins.decide(step, HERE, service, "192.0.2.9"))
        self.clock.advance(10)  # what a failure has to wait
        return self.successResultOf(waiting)

    def test_the_parts_provide_what_they_say(self) -> None:
        verifyObject(ICredentialsChecker, DirectoryChecker(self.directory))
        verifyObject(IRealm, MailRealm(self.directory))
        verifyObject(IMailUser, MailUser(JOE))
        verifyObject(IPassword, Password("a", b"b"))
        verifyObject(IProof, Proof("a"))
        self.assertNotIn("hush", repr(Password("a", b"hush")))

    def test_the_right_password_gives_the_mailbox(self) -> None:
        for login in ("joe@example.org", "JOE@example.org", "j.doe@example.org", "joe"):
            self.assertEqual(self.password(login, b"sesame"), JOE)
        self.assertEqual(self.password("joe", b"sesame", "joe@example.org"), JOE)

    def test_a_wrong_password_an_unknown_and_a_suspended_user_are_told_alike(self) -> None:
        """Issue 3: nobody learns who exists."""
        for login, word in (
            ("joe@example.org", b"x"),
            ("nobody@example.org", b"sesame"),
            ("ann@example.org", b"sesame"),
            ("info@example.org", b"sesame"),
        ):
            self.setUp()
            self.assertEqual(self.password(login, word), Refusal(why=Why.WRONG, login=login))

    def test_nobody_acts_as_somebody_else(self) -> None:
        found = self.password("joe@example.org", b"sesame", "ann@example.org")
        assert isinstance(found, Refusal)
        self.assertEqual(found.why, Why.WRONG)

    def test_a_proof_is_taken_for_who_may_log_in(self) -> None:
        self.assertEqual(self.ask(self.logins.decide(Proven(login="joe"), HERE)), JOE)
        for login in ("ann@example.org", "nobody@example.org", "info@example.org"):
            self.setUp()
            found = self.ask(self.logins.decide(Proven(login=login), HERE))
            assert isinstance(found, Refusal)
            self.assertEqual(found.why, Why.WRONG)

    def test_secrets_are_real_or_imagined(self) -> None:
        found = self.ask(self.logins.secret("joe", HERE))
        assert isinstance(found, ScramSecret)
        self.assertEqual(found, derive(b"sesame", found.salt, found.iterations))
        for login in ("nobody@example.org", "ann@example.org"):
            self.assertEqual(self.ask(self.logins.secret(login, HERE)), imagined(b"key", login))

    def test_a_directory_that_is_away_is_no_wrong_password(self) -> None:
        self.directory.away = True
        for question in (
            self.logins.secret("joe", HERE),
            self.logins.decide(Proven(login="joe"), HERE),
            self.logins.decide(CheckPassword(login="joe", password=b"sesame"), HERE),
        ):
            found = self.ask(question)
            assert isinstance(found, Refusal)
            self.assertEqual(found.why, Why.AWAY)
        self.assertEqual(len(self.logins.throttle), 0)

    def test_failures_wait_and_then_are_not_looked_at(self) -> None:
        for _ in range(2):
            self.password("joe", b"x")
        waiting = Deferred.fromCoroutine(self.logins.decide(CheckPassword(login="joe", password=b"x"), HERE))
        self.assertNoResult(waiting)
        self.clock.advance(1)
        self.assertEqual(self.successResultOf(waiting), Refusal(why=Why.WRONG, login="joe@example.org"))
        for _ in range(20):
            waiting = Deferred.fromCoroutine(self.logins.decide(CheckPassword(login="joe", password=b"x"), HERE))
            self.clock.advance(10)
            self.successResultOf(waiting)
        before = len(self.directory.asked)
        found = self.password("joe", b"sesame")
        assert isinstance(found, Refusal)
        self.assertEqual((found.why, len(self.directory.asked)), (Why.BANNED, before))
        banned = self.ask(self.logins.secret("joe", HERE))
        assert isinstance(banned, Refusal)

    def test_a_success_forgives_the_account(self) -> None:
        for client in ("192.0.2.1", "192.0.2.2"):
            waiting = Deferred.fromCoroutine(self.logins.decide(CheckPassword(login="joe", password=b"x"), client))
            self.successResultOf(waiting)
        self.assertEqual(self.password("joe", b"sesame"), JOE)
        waiting = Deferred.fromCoroutine(self.logins.decide(CheckPassword(login="joe", password=b"x"), "192.0.2.3"))
        self.successResultOf(waiting)  # the third failure of the account would wait

    def test_malformed_exchanges_count(self) -> None:
        for _ in range(30):
            waiting = Deferred.fromCoroutine(self.logins.decide(Failed(reason="x", malformed=True), HERE))
            self.clock.advance(10)
            found = self.successResultOf(waiting)
        assert isinstance(found, Refusal)
        self.assertEqual(found.why, Why.BANNED)

    def test_a_wait_can_be_given_up(self) -> None:
        for _ in range(2):
            self.password("joe", b"x")
        waiting = Deferred.fromCoroutine(self.logins.decide(CheckPassword(login="joe", password=b"x"), HERE))
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_a_plan_bars_is_refused_to_the_right_password_alone(self) -> None:
        """Nobody learns of an account's plan by guessing."""
        self.directory.entries["joe@example.org"] = Mailbox(
            address="joe@example.org", path="x", features=frozenset({"pop3"}), status="nopop"
        )
        for service, expected in (("pop3", Why.NOT_ALLOWED), ("submission", Why.NOT_ALLOWED), ("", None)):
            found = self.decided(CheckPassword(login="joe", password=b"sesame"), service)
            self.assertEqual(found.why if isinstance(found, Refusal) else None, expected, service)
            found = self.decided(CheckPassword(login="joe", password=b"wrong"), service)
            assert isinstance(found, Refusal)
            self.assertEqual(found.why, Why.WRONG)

    def test_the_directory_is_told_of_a_login_once_an_hour(self) -> None:
        step = CheckPassword(login="joe", password=b"sesame")
        for _ in range(3):
            self.decided(step, "pop3")
        self.assertEqual(self.directory.logins, [("joe@example.org", "pop3", "192.0.2.9")])
        self.clock.advance(3601)
        self.decided(step, "submission")
        self.assertEqual(len(self.directory.logins), 2)

    def test_a_note_that_cannot_be_made_does_not_fail_a_login(self) -> None:
        async def fails(address: str, service: str, ip: str) -> None:
            raise Temporary(Reply(451, "4.3.0", "away"), "away")

        self.patch(self.directory, "logged_in", fails)
        self.assertIsInstance(self.decided(CheckPassword(login="joe", password=b"sesame"), "pop3"), Mailbox)
