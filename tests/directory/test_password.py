"""Stored passwords."""

from __future__ import annotations

import base64
import hashlib

import argon2
from argon2.exceptions import VerifyMismatchError
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.directory import password
from qmailpy.wire.sasl import derive


class PasswordTests(SynchronousTestCase):
    def test_an_argon2_hash_verifies_its_password_and_no_other(self) -> None:
        stored = password.thd_hash("sésame".encode())
        self.assertTrue(stored.startswith("{ARGON2}$argon2id$"))
        self.assertTrue(password.thd_verify([stored], "sésame".encode()))
        self.assertFalse(password.thd_verify([stored], b"sesame"))

    def test_hashes_are_salted(self) -> None:
        self.assertNotEqual(password.thd_hash(b"x"), password.thd_hash(b"x"))

    def test_ssha_of_other_programs_verifies(self) -> None:
        """RFC 2307: base64 of SHA-1(password + salt) + salt, the salt of any length."""
        digest = hashlib.sha1(b"secret" + b"salt").digest()
        stored = "{ssha}" + base64.b64encode(digest + b"salt").decode()
        self.assertTrue(password.thd_verify([stored], b"secret"))
        self.assertFalse(password.thd_verify([stored], b"Secret"))
        self.assertTrue(password.thd_verify([password.ssha(b"machine")], b"machine"))

    def test_any_of_several_passwords_will_do(self) -> None:
        self.assertTrue(password.thd_verify([password.ssha(b"a"), password.ssha(b"b")], b"b"))

    def test_nothing_verifies_against_nothing(self) -> None:
        self.assertFalse(password.thd_verify([], b"x"))
        self.assertFalse(password.thd_verify([""], b"x"))
        self.assertFalse(password.thd_verify([password.thd_hash(b"")], b""))

    def test_broken_or_foreign_values_verify_nothing(self) -> None:
        for stored in ("{SSHA}", "{SSHA}%%%", "{SSHA}c2hvcnQ=", "{ARGON2}x", "{MD5}abc", "x", "{ARGON2}" + "é" * 9):
            self.assertFalse(password.thd_verify([stored], b"x"), stored)

    def test_a_stored_hash_cannot_make_us_take_gigabytes(self) -> None:
        stored = password.thd_hash(b"x")
        self.patch(password, "_MEMORY_KIB", 19455)
        self.assertFalse(password.thd_verify([stored], b"x"))

    def test_what_nobody_has_is_as_much_work_as_a_password(self) -> None:
        """With the parameters of our hashes, and well-formed: a refusal before the work would be a quick one."""
        stored = password.thd_hash(b"sesame").removeprefix("{ARGON2}")
        self.assertEqual(argon2.extract_parameters(password._DUMMY), argon2.extract_parameters(stored))
        with self.assertRaises(VerifyMismatchError):
            argon2.PasswordHasher().verify(password._DUMMY, b"sesame")

    def test_a_password_too_long_is_none(self) -> None:
        long = b"x" * (password.MOST + 1)
        self.assertFalse(password.thd_verify([password.ssha(long)], long))


class ScramTests(SynchronousTestCase):
    """What is kept for SCRAM beside the hash (RFC 5803)."""

    def test_both_forms_are_of_the_same_password(self) -> None:
        hashed, scram = password.thd_stored(b"sesame")
        self.assertTrue(hashed.startswith("{ARGON2}"))
        self.assertRegex(scram, r"^\{SCRAM-SHA-256\}32768:[A-Za-z0-9+/=]{24}\$[A-Za-z0-9+/=]{44}:[A-Za-z0-9+/=]{44}$")
        found = password.scram([hashed, scram])
        assert found is not None
        self.assertEqual(derive(b"sesame", found.salt, found.iterations), found)
        self.assertEqual(password.scram_value(found), scram)
        self.assertTrue(password.supported(scram))

    def test_a_password_saslprep_forbids_has_only_the_hash(self) -> None:
        self.assertEqual(len(password.thd_stored(b"\xff\xfe")), 1)

    def test_a_secret_alone_verifies_the_password_too(self) -> None:
        """As where secrets were brought from elsewhere."""
        scram = password.thd_stored(b"sesame")[1]
        self.assertTrue(password.thd_verify([scram], b"sesame"))
        self.assertFalse(password.thd_verify([scram], b"Sesame"))

    def test_beside_a_hash_it_costs_no_time(self) -> None:
        """A wrong password must take as long as an unknown name, which has one hash computed for it."""
        asked: list[bytes] = []
        self.patch(password, "_CHECKS", {**password._CHECKS, "SCRAM-SHA-256": lambda *a: asked.append(a[1])})
        self.assertFalse(password.thd_verify(password.thd_stored(b"sesame"), b"x"))
        self.assertEqual(asked, [])

    def test_what_is_no_secret_is_none(self) -> None:
        good = password.thd_stored(b"sesame")[1]
        for bad in (
            *("", "{SCRAM-SHA-256}", good[:-2], good.replace("32768", "1"), good.replace("32768", "9999999")),
            *(good.replace("$", ":"), good + "x", good.replace("SHA-256", "SHA-1"), "{SCRAM-SHA-256}4096:a$b:c"),
        ):
            self.assertIsNone(password.scram([bad]), bad)
            self.assertFalse(password.supported(bad), bad)
