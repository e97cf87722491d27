"""Tests of the SASL server machines, with the examples of the RFCs."""

from __future__ import annotations

import base64
import hashlib
import hmac

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.values import ScramSecret
from qmailpy.wire import sasl
from qmailpy.wire.sasl import Challenge, CheckPassword, Failed, Machine, Proven, SecretWanted, Step, server
from qmailpy.wire.saslprep import saslprep

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
OURS = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
BINDING = {"tls-exporter": b"E" * 32, "tls-server-end-point": b"S" * 32}


def machine(name: str, bindings: dict[str, bytes] | None = None, nonce: str = "") -> Machine:
    found = server(name, bindings, nonce)
    assert found is not None
    return found


def secret(password: bytes = b"pencil") -> ScramSecret:
    found = sasl.derive(password, SALT, 4096)
    assert found is not None
    return found


def proof(password: bytes, salt: bytes, iterations: int, message: bytes) -> bytes:
    """A client's proof: the other half of the mechanism, written from RFC 5802 s.3."""
    salted = hashlib.pbkdf2_hmac("sha256", password, salt, iterations)
    key = hmac.digest(salted, b"Client Key", "sha256")
    signature = hmac.digest(hashlib.sha256(key).digest(), message, "sha256")
    return base64.b64encode(bytes(a ^ b for a, b in zip(key, signature, strict=True)))


class ExternalTests(SynchronousTestCase):
    """RFC 4422 appendix A."""

    def external(self, login: bytes = b"fred@example.com") -> Machine:
        return machine("EXTERNAL", {sasl.EXTERNAL: login})

    def test_who_it_is_tls_has_proved(self) -> None:
        """A.3: without a name, and with one; with an initial response, and without."""
        self.assertEqual(self.external().start(b""), Proven(login="fred@example.com"))
        self.assertEqual(self.external().start(b"fred"), Proven(login="fred@example.com", authzid="fred"))
        external = self.external()
        self.assertEqual(external.start(None), Challenge(b""))
        self.assertEqual(external.respond(b""), Proven(login="fred@example.com"))

    def test_without_a_certificate_there_is_nothing(self) -> None:
        for bindings in ({}, {sasl.EXTERNAL: b""}, BINDING):
            self.assertIsInstance(machine("EXTERNAL", bindings).start(b"fred"), Failed)

    def test_a_name_that_is_none_is_malformed(self) -> None:
        for octets in (b"a\0b", b"\xff", b"x" * 600):
            step = self.external().start(octets)
            assert isinstance(step, Failed)
            self.assertTrue(step.malformed)


class PlainTests(SynchronousTestCase):
    """RFC 4616."""

    def test_the_example_of_the_rfc(self) -> None:
        step = machine("plain").start(b"\0tim\0tanstaaftanstaaf")
        self.assertEqual(step, CheckPassword(login="tim", password=b"tanstaaftanstaaf"))
        step = machine("PLAIN").start(b"Ursel\0Kurt\0xipj3plmq")
        self.assertEqual(step, CheckPassword(login="Kurt", password=b"xipj3plmq", authzid="Ursel"))

    def test_without_initial_response_the_client_is_asked(self) -> None:
        plain = machine("PLAIN")
        self.assertEqual(plain.start(None), Challenge(b""))
        self.assertEqual(plain.respond(b"\0a\0b"), CheckPassword(login="a", password=b"b"))

    def test_what_is_not_of_the_form_is_malformed(self) -> None:
        for octets in (
            b"",
            b"\0",
            b"a",
            b"\0a",
            b"\0\0b",
            b"\0a\0",
            b"\0a\0b\0c",
            b"\0a\nb\0c",
            b"\0\xff\0b",
            b"\r\0a\0b",
            b"\0" + b"a" * 513 + b"\0b",
            b"\0a\0" + b"b" * 1025,
            b"\0" * 9000,
        ):
            step = machine("PLAIN").start(octets)
            self.assertIsInstance(step, Failed)
            assert isinstance(step, Failed)
            self.assertTrue(step.malformed, octets)

    def test_a_password_does_not_show(self) -> None:
        """House rule: secrets never in logs."""
        self.assertNotIn("hush", repr(machine("PLAIN").start(b"\0a\0hush")))
        self.assertNotIn("stored_key", repr(secret()))


class LoginTests(SynchronousTestCase):
    """LOGIN, as clients use it."""

    def test_name_then_password(self) -> None:
        login = machine("LOGIN")
        self.assertEqual(login.start(None), Challenge(b"Username:"))
        self.assertEqual(login.respond(b"joe"), Challenge(b"Password:"))
        self.assertEqual(login.respond(b"pw"), CheckPassword(login="joe", password=b"pw"))

    def test_the_name_may_come_at_once(self) -> None:
        self.assertEqual(machine("LOGIN").start(b"joe"), Challenge(b"Password:"))

    def test_empty_and_wild_answers_are_malformed(self) -> None:
        for answers in ([b""], [b"a\0"], [b"joe", b""], [b"joe", b"a\0b"], [b"joe", b"x" * 1025]):
            login = machine("LOGIN")
            step = login.start(None)
            for answer in answers:
                step = login.respond(answer)
            self.assertIsInstance(step, Failed)


class ScramTests(SynchronousTestCase):
    """RFC 5802 and RFC 7677."""

    def test_the_example_of_rfc_7677(self) -> None:
        scram = machine("SCRAM-SHA-256", nonce=OURS)
        self.assertEqual(scram.start(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"), SecretWanted(login="user"))
        nonce = b"rOprNGfwEbeRWgbNEkqO" + OURS.encode()
        first = b"r=" + nonce + b",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        self.assertEqual(scram.secret(secret()), Challenge(first))
        final = b"c=biws,r=" + nonce + b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        self.assertEqual(scram.respond(final), Challenge(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="))
        self.assertEqual(scram.respond(b""), Proven(login="user"))

    def exchange(
        self,
        name: str,
        header: bytes,
        bound: bytes,
        *,
        bindings: dict[str, bytes] | None = None,
        password: bytes = b"pencil",
        kept: ScramSecret | None = None,
        user: bytes = b"user",
    ) -> Step:
        """A whole exchange as a client does it; the step it ends with."""
        scram = machine(name, bindings)
        bare = b"n=" + user + b",r=abc"
        step = scram.start(header + bare)
        if isinstance(step, Failed):
            return step
        self.assertIsInstance(step, SecretWanted)
        kept = kept or secret()
        step = scram.secret(kept)
        assert isinstance(step, Challenge)
        nonce = step.octets.split(b",")[0]
        self.assertTrue(nonce.startswith(b"r=abc"))
        without = b"c=" + base64.b64encode(header + bound) + b"," + nonce
        message = b",".join((bare, step.octets, without))
        step = scram.respond(without + b",p=" + proof(password, kept.salt, kept.iterations, message))
        if isinstance(step, Failed):
            return step
        assert isinstance(step, Challenge)
        signature = base64.b64encode(hmac.digest(kept.server_key, message, "sha256"))
        self.assertEqual(step.octets, b"v=" + signature)
        return scram.respond(b"")

    def test_the_right_password_with_every_binding(self) -> None:
        for kind, data in BINDING.items():
            header = b"p=" + kind.encode() + b",,"
            step = self.exchange("SCRAM-SHA-256-PLUS", header, data, bindings=BINDING)
            self.assertEqual(step, Proven(login="user"))

    def test_another_channel_is_found_out(self) -> None:
        """RFC 5802 s.6: a man in the middle has a TLS session of his own on each side."""
        step = self.exchange("SCRAM-SHA-256-PLUS", b"p=tls-exporter,,", b"M" * 32, bindings=BINDING)
        self.assertEqual(step, Failed(reason="wrong channel binding", login="user"))

    def test_a_wrong_password_fails(self) -> None:
        step = self.exchange("SCRAM-SHA-256", b"n,,", b"", password=b"pen")
        self.assertEqual(step, Failed(reason="wrong password", login="user"))

    def test_an_imagined_secret_fails_and_stays_the_same(self) -> None:
        """Who does not exist looks like who does: same salt each time, another for another name."""
        one, two = sasl.imagined(b"key", "joe@example.org"), sasl.imagined(b"key", "Joe@example.org")
        self.assertEqual(one, two)
        self.assertNotEqual(one.salt, sasl.imagined(b"key", "jim@example.org").salt)
        self.assertNotEqual(one.salt, sasl.imagined(b"other", "joe@example.org").salt)
        self.assertEqual((len(one.salt), one.iterations), (16, sasl.ITERATIONS))
        self.assertIsInstance(self.exchange("SCRAM-SHA-256", b"n,,", b"", kept=one), Failed)

    def test_a_downgrade_is_found_out(self) -> None:
        """RFC 5802 s.6: y says "I could, you did not offer"; when we did, somebody is in between."""
        self.assertIsInstance(self.exchange("SCRAM-SHA-256", b"y,,", b"", bindings=BINDING), Failed)
        self.assertEqual(self.exchange("SCRAM-SHA-256", b"y,,", b""), Proven(login="user"))

    def test_flag_and_mechanism_must_agree(self) -> None:
        self.assertIsInstance(self.exchange("SCRAM-SHA-256", b"p=tls-exporter,,", b"E" * 32, bindings=BINDING), Failed)
        self.assertIsInstance(self.exchange("SCRAM-SHA-256-PLUS", b"n,,", b"", bindings=BINDING), Failed)
        self.assertIsInstance(self.exchange("SCRAM-SHA-256-PLUS", b"p=tls-unique,,", b"", bindings=BINDING), Failed)

    def test_names_are_unescaped_and_prepared(self) -> None:
        step = self.exchange("SCRAM-SHA-256", b"n,a=other=2Cone,", b"", user=b"a=3Db=2Cc\xc2\xaad")
        self.assertEqual(step, Proven(login="a=b,cad", authzid="other,one"))

    def test_a_changed_nonce_fails(self) -> None:
        scram = machine("SCRAM-SHA-256", nonce="ours")
        scram.start(b"n,,n=user,r=abc")
        first = scram.secret(secret())
        assert isinstance(first, Challenge)
        without = b"c=biws,r=abcother"
        message = b",".join((b"n=user,r=abc", first.octets, without))
        step = scram.respond(without + b",p=" + proof(b"pencil", SALT, 4096, message))
        self.assertEqual(step, Failed(reason="wrong nonce", login="user"))

    def test_what_is_not_of_the_form_is_malformed(self) -> None:
        for octets in (
            b"",
            b"n",
            b"n,",
            b"n,,",
            b"n,,n=user",
            b"n,,r=abc,n=user",
            b"n,,n=,r=abc",
            b"n,,n=user,r=",
            b"n,,n=user,r=a\tb",
            b"n,,m=x,n=user,r=abc",
            b"n,x,n=user,r=abc",
            b"n,,n=us=er,r=abc",
            b"n,,n=\xff,r=abc",
            b"x,,n=user,r=abc",
            b"n,,n=user,r=" + b"a" * 9000,
        ):
            step = machine("SCRAM-SHA-256").start(octets)
            self.assertIsInstance(step, Failed)
            assert isinstance(step, Failed)
            self.assertTrue(step.malformed, octets)
        for octets in (b"", b"c=biws", b"c=biws,r=x", b"r=x,c=biws,p=AAAA", b"c=!,r=x,p=AAAA", b"c=biws,r=x,p=AAAA"):
            scram = machine("SCRAM-SHA-256")
            scram.start(b"n,,n=user,r=abc")
            scram.secret(secret())
            step = scram.respond(octets)
            assert isinstance(step, Failed)
            self.assertTrue(step.malformed, octets)

    def test_a_call_out_of_order_is_a_bug(self) -> None:
        scram = machine("SCRAM-SHA-256")
        self.assertRaises(RuntimeError, scram.secret, secret())
        scram.start(b"n,,n=user,r=abc")
        self.assertRaises(RuntimeError, scram.respond, b"")

    @given(st.sampled_from(list(sasl.MECHANISMS)), st.lists(st.binary(max_size=60), min_size=1, max_size=4))
    def test_garbage_never_raises_and_never_proves(self, name: str, messages: list[bytes]) -> None:
        one = machine(name, BINDING)
        step = one.start(messages[0])
        for message in messages[1:]:
            if isinstance(step, SecretWanted):
                step = one.secret(secret())
            if not isinstance(step, Challenge):
                break
            step = one.respond(message)
        self.assertNotIsInstance(step, Proven)


class OfferTests(SynchronousTestCase):
    """Names and framing."""

    def test_what_is_offered(self) -> None:
        self.assertEqual(
            sasl.offered(plain=True, bindings=True), ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN")
        )
        self.assertEqual(sasl.offered(plain=False, bindings=False), ("SCRAM-SHA-256",))
        self.assertEqual(sasl.offered(plain=True, bindings=True, scram=False), ("PLAIN", "LOGIN"))
        self.assertEqual(tuple(sasl.MECHANISMS), (*sasl.offered(plain=True, bindings=True), "EXTERNAL"))

    def test_an_unknown_mechanism_is_none(self) -> None:
        for name in ("", "CRAM-MD5", "GSSAPI", "PLAIN "):
            self.assertIsNone(server(name))

    def test_base64_is_strict(self) -> None:
        self.assertEqual(sasl.decode(sasl.encode(b"\0a\0b")), b"\0a\0b")
        self.assertEqual(sasl.decode(b""), b"")
        for line in (b"=", b"A", b"AA", b"AA A", b"AA-_", b"AAAA=", b"\xff", b"A" * 16384):
            self.assertIsNone(sasl.decode(line))
        self.assertEqual(sasl.decode_initial(b"="), b"")
        self.assertEqual(sasl.decode_initial(b"QQ=="), b"A")


class PrepTests(SynchronousTestCase):
    """RFC 4013 s.3."""

    def test_the_examples_of_the_rfc(self) -> None:
        for text, expected in (
            ("I\u00adX", "IX"),
            ("user", "user"),
            ("USER", "USER"),
            ("\u00aa", "a"),
            ("\u2168", "IX"),
        ):
            self.assertEqual(saslprep(text), expected)
        for text in ("\u0007", "\u0627\u0031"):
            self.assertRaises(ValueError, saslprep, text)

    def test_what_unicode_3_2_lacks_may_be_asked_and_not_stored(self) -> None:
        self.assertEqual(saslprep("\u0221"), "\u0221")
        self.assertRaises(ValueError, saslprep, "\u0221", stored=True)
        self.assertIsNone(sasl.derive("\u0221".encode(), SALT))
        self.assertIsNone(sasl.derive(b"\xff", SALT))

    def test_nothing_is_no_name(self) -> None:
        self.assertRaises(ValueError, saslprep, "")
        self.assertRaises(ValueError, saslprep, "\u00ad")
