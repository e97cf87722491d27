"""Where LDAP servers are."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.forms import ldap_server
from qmailpy.config.ldapurl import parse_ldap_url


class LdapUrlTests(SynchronousTestCase):
    def test_what_is_a_server(self) -> None:
        for text, right in (
            ("ldap://ldap.example.org", "ldap://ldap.example.org:389"),
            ("LDAPS://Ldap.example.org/", "ldaps://ldap.example.org:636"),
            ("ldap://127.0.0.1:1389", "ldap://127.0.0.1:1389"),
            ("ldaps://[2001:db8::1]:6360", "ldaps://[2001:db8::1]:6360"),
            ("ldapi:///run/slapd/ldapi", "ldapi:///run/slapd/ldapi"),
            ("ldapi://%2Frun%2Fslapd%2Fldapi", "ldapi:///run/slapd/ldapi"),
        ):
            self.assertEqual(str(parse_ldap_url(text)), right)
            self.assertEqual(ldap_server(text), "")

    def test_what_is_none_is_told_with_what_would_be_right(self) -> None:
        for text in (
            *("", "ldap.example.org", "http://a.example", "ldap://", "ldap://a.example:0", "ldap://a.example:65536"),
            *("ldap://[::g]", "ldap://[1.2.3.4]", "ldap://a.example/o=x??sub", "ldapi://run", "ldapi://%2Fa%00b"),
            *("ldap://joe@a.example", "ldap://a b.example", "ldap://a.example\n"),
        ):
            self.assertIn("right would be", ldap_server(text), text)

    def test_what_cannot_be_heard_elsewhere(self) -> None:
        here = ("ldapi:///x", "ldap://127.0.0.2", "ldap://[::1]", "ldap://localhost")
        self.assertEqual([parse_ldap_url(text).here for text in here], [True] * 4)
        self.assertFalse(parse_ldap_url("ldap://10.0.0.1").here)
        self.assertFalse(parse_ldap_url("ldap://localhost.example").here)
