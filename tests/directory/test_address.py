"""Addresses of ours and the paths made of them."""

from __future__ import annotations

import os.path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.directory.address import BadAddress, domain_key, key, maildir, own, safe_path, segment, split, target


class AddressTests(SynchronousTestCase):
    def test_ours_are_lower_case_and_targets_keep_their_local_part(self) -> None:
        self.assertEqual(own("Joe.Doe@Example.ORG."), "joe.doe@example.org")
        self.assertEqual(target("Joe.Doe@Example.ORG"), "Joe.Doe@example.org")

    def test_international_domains_are_kept_in_ascii(self) -> None:
        self.assertEqual(domain_key("Müller.example"), "xn--mller-kva.example")
        self.assertEqual(key("joe@müller.example"), "joe@xn--mller-kva.example")

    def test_what_is_no_address_is_refused(self) -> None:
        for bad in (
            *("", "joe", "@example.org", "joe@", ".joe@example.org", "joe.@example.org", "a..b@example.org"),
            *("a b@example.org", '"a b"@example.org', "a\0b@example.org", "a\nb@example.org", "a@b@example.org"),
            *("joe@exa mple.org", "joe@-x.org", "joe@x..org", "joe@[127.0.0.1]", "joe@127.0.0.1", "joe@a/b.org"),
            *("x" * 65 + "@example.org", "joe@" + "x" * 64 + ".org", "joe@" + "x." * 127 + "org", "../joe@example.org"),
            *("a\u2028b@example.org", "a\u3000b@example.org", "joe@exa\u0000mple.org", "joe@.."),
        ):
            with self.assertRaises(BadAddress, msg=repr(bad)):
                split(bad)

    def test_a_maildir_is_domain_user_maildir(self) -> None:
        self.assertEqual(maildir("Joe+x@Example.org"), "example.org/joe+x/Maildir")

    def test_a_slash_in_a_local_part_does_not_lead_anywhere(self) -> None:
        """RFC 5321 allows it in an address; W: no address reaches the file system as it stands."""
        self.assertEqual(maildir("a/b@example.org"), "example.org/a%2fb/Maildir")
        self.assertEqual(maildir("~root@example.org"), "example.org/%7eroot/Maildir")

    @given(st.text(max_size=80), st.text(max_size=20))
    def test_whatever_becomes_a_path_stays_below_the_root(self, local: str, domain: str) -> None:
        for text in (f"{local}@{domain}", f"{local}@example.org"):
            try:
                path = maildir(text)
            except BadAddress:
                continue
            self.assertTrue(safe_path(path), path)
            self.assertEqual(os.path.normpath(path), path)
            self.assertEqual(path.count("/"), 2)

    @given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=12))
    def test_segments_are_safe_and_differ_when_the_texts_do(self, text: str) -> None:
        name = segment(text)
        self.assertNotIn("/", name)
        self.assertNotIn("\0", name)
        self.assertFalse(name.startswith("."))
        decoded = bytearray()
        at = 0
        while at < len(name):
            step = 3 if name[at] == "%" else 1
            decoded += bytes.fromhex(name[at + 1 : at + 3]) if step == 3 else name[at].encode()
            at += step
        self.assertEqual(decoded.decode(), text.lower())

    def test_paths_that_leave_the_mail_directory_are_not_safe(self) -> None:
        for bad in ("/etc", "../x", "a/../b", "a//b", "", ".ssh/x", "a/.b", "a\0b", "a b", "a/" * 12, "x" * 1001):
            self.assertFalse(safe_path(bad), bad)
        self.assertTrue(safe_path("example.org/joe/Maildir/"))
