"""Stored passwords."""

from __future__ import annotations

import base64
import hashlib

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.directory import password


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

    def test_a_password_too_long_is_none(self) -> None:
        long = b"x" * (password.MOST + 1)
        self.assertFalse(password.thd_verify([password.ssha(long)], long))
