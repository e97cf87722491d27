"""Tests of the SASL client machines: the RFCs' examples, our server as the other side, and servers that are wrong."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.wire import sasl
from qmailpy.wire.sasl_client import Answer, Derive, Login, Machine, Refused, Step, client, thd_derive

TIM = Login(user="tim", password="tanstaaftanstaaf")
USER = Login(user="user", password="pencil")
NONCE = "rOprNGfwEbeRWgbNEkqO"
FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"


def machine(name: str, login: Login = USER, nonce: str = "") -> Machine:
    found = client([name], login, nonce)
    assert found is not None
    return found


class ClientTests(SynchronousTestCase):
    """L{client} and what it gives."""

    def test_the_strongest_of_those_offered_is_used(self) -> None:
        """Whatever the order, and nothing when we know none."""
        for offered, name in (
            (("LOGIN", "PLAIN", "scram-sha-256"), "SCRAM-SHA-256"),
            (("LOGIN", "PLAIN", "CRAM-MD5"), "PLAIN"),
            (("XOAUTH2", "LOGIN"), "LOGIN"),
        ):
            found = client(offered, USER)
            self.assertEqual(found and found.name, name)
        self.assertIsNone(client(("CRAM-MD5", "GSSAPI"), USER))

    def test_what_saslprep_refuses_is_left_to_plain(self) -> None:
        """A password with a control character."""
        found = client(("SCRAM-SHA-256", "PLAIN"), Login(user="a", password="x\x01"))
        self.assertEqual(found and found.name, "PLAIN")

    def test_plain_is_the_example_of_the_rfc(self) -> None:
        """RFC 4616 s.4; with the name or when it is asked for, and once."""
        plain = machine("PLAIN", TIM)
        self.assertEqual(plain.initial, b"\0tim\0tanstaaftanstaaf")
        self.assertEqual(plain.respond(b""), Answer(b"\0tim\0tanstaaftanstaaf"))
        self.assertIsInstance(plain.respond(b""), Refused)

    def test_login_gives_name_and_password_in_turn(self) -> None:
        login = machine("LOGIN", TIM)
        self.assertIsNone(login.initial)
        self.assertEqual(login.respond(b"Username:"), Answer(b"tim"))
        self.assertEqual(login.respond(b"Password:"), Answer(b"tanstaaftanstaaf"))
        self.assertIsInstance(login.respond(b"More:"), Refused)

    def derive(self, step: Step) -> bytes:
        assert isinstance(step, Derive)
        return thd_derive(step)

    def test_scram_is_the_example_of_the_rfc(self) -> None:
        """RFC 7677 s.3."""
        scram = machine("SCRAM-SHA-256", USER, NONCE)
        self.assertEqual(scram.initial, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
        self.assertEqual(
            scram.derived(self.derive(scram.respond(FIRST))),
            Answer(
                b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
                b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
            ),
        )
        self.assertFalse(scram.proven)
        self.assertEqual(scram.respond(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Answer(b""))
        self.assertTrue(scram.proven)

    def test_our_server_and_our_client_understand_each_other(self) -> None:
        """Names with commas and equals signs, passwords beyond ASCII."""
        for user, password in (("a,b=c", "pencil"), ("joe@example.org", "Grüße\u00a0x"), ("ü", "=,=")):
            server = sasl.server("SCRAM-SHA-256")
            assert server is not None
            scram = machine("SCRAM-SHA-256", Login(user=user, password=password))
            asked = server.start(scram.initial)
            assert isinstance(asked, sasl.SecretWanted)
            self.assertEqual(asked.login, user)
            secret = sasl.derive(password.encode(), b"salty", 4096)
            assert secret is not None
            first = server.secret(secret)
            assert isinstance(first, sasl.Challenge)
            answer = scram.derived(self.derive(scram.respond(first.octets)))
            assert isinstance(answer, Answer)
            last = server.respond(answer.octets)
            assert isinstance(last, sasl.Challenge)
            self.assertEqual(scram.respond(last.octets), Answer(b""))
            self.assertEqual(server.respond(b""), sasl.Proven(login=user, authzid=""))

    def test_a_server_that_is_wrong_is_left(self) -> None:
        """Another nonce, too few rounds, too many, no salt, another order."""
        for first in (
            b"",
            b"x",
            FIRST.replace(b"rOpr", b"sOpr"),
            b"r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            FIRST.replace(b"i=4096", b"i=1"),
            FIRST.replace(b"i=4096", b"i=99999999999"),
            FIRST.replace(b"i=4096", b"i=-4096"),
            FIRST.replace(b"s=W22", b"s=!"),
            b"m=x," + FIRST,
            FIRST + b"," * 10000,
        ):
            scram = machine("SCRAM-SHA-256", USER, NONCE)
            scram.respond(b"")  # the first message is asked for
            self.assertIsInstance(scram.respond(first), Refused, first[:80])

    def test_a_server_without_the_password_is_found_out(self) -> None:
        """A wrong signature, an error, and success without either."""
        for last in (b"v=AAAA", b"e=invalid-proof", b"", b"v=" + b"A" * 43 + b"="):
            scram = machine("SCRAM-SHA-256", USER, NONCE)
            scram.derived(self.derive(scram.respond(FIRST)))
            self.assertIsInstance(scram.respond(last), Refused)
            self.assertFalse(scram.proven)

    def test_passwords_are_in_no_repr(self) -> None:
        """Secrets never reach a log."""
        for value in (TIM, Answer(b"tanstaaf"), Derive(password=b"tanstaaf", salt=b"", iterations=1)):
            self.assertNotIn("tanstaaf", repr(value))

    @given(st.lists(st.binary(max_size=200), max_size=5))
    def test_no_server_makes_it_fail(self, messages: list[bytes]) -> None:
        for name in ("SCRAM-SHA-256", "PLAIN", "LOGIN"):
            found = machine(name)
            for message in messages:
                step = found.respond(message)
                if not isinstance(step, Answer):
                    break
