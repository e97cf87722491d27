"""Search filters."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.directory.filters import And, Equal, Filter, Not, Or, Ordered, Present, Substrings, keys, matches, without
from qmailpy.directory.names import parse
from qmailpy.directory.schema import Entry

_JOE = Entry(
    parse("uid=joe,o=x"),
    {
        "uid": ("joe",),
        "mail": ("joe@example.org",),
        "cn": ("Joe  Doe",),
        "mailquotasize": ("900",),
        "userpassword": ("{X}y",),
    },
)


class FilterTests(SynchronousTestCase):
    def test_matching(self) -> None:
        cases: list[tuple[Filter, bool]] = [
            (Equal("cn", "joe DOE"), True),
            (Equal("mail", "JOE@example.org"), True),
            (Equal("mail", "jo@example.org"), False),
            (Equal("sn", "x"), False),
            (Present("cn"), True),
            (Present("sn"), False),
            (Not(Present("sn")), True),
            (And(()), True),
            (Or(()), False),
            (And((Present("cn"), Present("sn"))), False),
            (Or((Present("cn"), Present("sn"))), True),
            (Substrings("mail", "joe@", (), ".org"), True),
            (Substrings("mail", "", ("@", "ample"), ""), True),
            (Substrings("mail", "", ("ample", "@"), ""), False),
            (Substrings("uid", "jo", (), "oe"), False),
            (Ordered("mailquotasize", "1000", True), False),
            (Ordered("mailquotasize", "1000", False), True),
            (Ordered("mailquotasize", "900", True), True),
        ]
        for what, expected in cases:
            self.assertEqual(matches(what, _JOE), expected, what)

    def test_keys_find_an_index_where_there_is_one(self) -> None:
        one, other = ("mail", "a@x"), ("uid", "b")
        self.assertEqual(keys(Equal("mail", "A@X")), (one,))
        self.assertEqual(keys(Or((Equal("mail", "a@x"), Equal("uid", "b")))), (one, other))
        self.assertEqual(keys(And((Present("cn"), Equal("objectclass", "qmailUser"), Equal("uid", "b")))), (other,))
        self.assertIsNone(keys(Or((Equal("mail", "a@x"), Present("cn")))))
        self.assertIsNone(keys(Not(Equal("mail", "a@x"))))
        self.assertEqual(keys(Or(())), ())

    def test_secrets_cannot_be_guessed_by_filters(self) -> None:
        """Neither a test of the attribute nor its negation tells anything."""
        secret = frozenset({"userpassword"})
        for what in (
            *(Present("userpassword"), Substrings("userpassword", "{X}"), Equal("userpassword", "{X}y")),
            *(Not(Present("userpassword")), Not(Equal("userpassword", "z")), Not(And((Not(Present("userpassword")),)))),
            *(Ordered("userpassword", "a", True), Present("userpassword;lang-en"), Or((Present("userpassword"),))),
        ):
            self.assertFalse(matches(without(what, secret), _JOE), what)
        self.assertTrue(matches(without(Present("cn"), secret), _JOE))
