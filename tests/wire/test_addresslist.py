"""Address lists of header fields, as people and programs write them."""

from __future__ import annotations

import time

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.wire.addresslist import ADDRESSES, OCTETS, parse_list, qualified


def addresses(value: bytes) -> list[str]:
    found = parse_list(value)
    return [listed.address for listed in found.addresses]


def names(value: bytes) -> list[str]:
    return [listed.name for listed in parse_list(value).addresses]


LOCAL = st.text(alphabet='ab.+"\\ (@,;<>:é', min_size=1, max_size=8)
NAME = st.text(alphabet='ab .,"\\()<>@:;é', max_size=10)
BLANK = st.sampled_from(["", " ", "\r\n ", "\t", "(c)", "(a (b\\) \\( ) , ; <x@y>)", " (é) "])


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class ParseTests(SynchronousTestCase):
    """L{parse_list}."""

    def test_the_forms_of_rfc_5322(self) -> None:
        """Its appendix A, less the dates."""
        for value, wanted, called in (
            (b"joe@x.org", ["joe@x.org"], [""]),
            (b" John Doe <jdoe@Machine.Example>", ["jdoe@machine.example"], ["John Doe"]),
            (b'"Joe Q. Public" <john.q.public@example.com>', ["john.q.public@example.com"], ["Joe Q. Public"]),
            (
                b"Mary Smith <mary@x.test>, jdoe@example.org, Who? <one@y.test>",
                ["mary@x.test", "jdoe@example.org", "one@y.test"],
                ["Mary Smith", "", "Who?"],
            ),
            (
                b"A Group:Ed Jones <c@a.test>,joe@where.test,John <jdoe@one.test>;",
                ["c@a.test", "joe@where.test", "jdoe@one.test"],
                ["Ed Jones", "", "John"],
            ),
            (b"Undisclosed recipients:;", [], []),
            (b"Pete(A nice \\) chap) <pete(his account)@silly.test(his host)>", ["pete@silly.test"], ["Pete"]),
            (
                b"A Group(Some people)\r\n     :Chris Jones <c@(Chris's host.)public.example>,\r\n"
                b"         joe@example.org,\r\n  John <jdoe@one.test> (my dear friend); (the end of the group)",
                ["c@public.example", "joe@example.org", "jdoe@one.test"],
                ["Chris Jones", "", "John"],
            ),
            (b"(Empty list)(start)Hidden recipients  :(nobody(that I know))  ;", [], []),
            (b"Mary Smith <@node.test,@b.test:mary@example.net>, , jdoe@test  . example", None, None),
            (b"Joe Q. Public <john . q . public@example.com>", ["john.q.public@example.com"], ["Joe Q. Public"]),
        ):
            if wanted is None:
                wanted, called = ["mary@example.net", "jdoe@test.example"], ["Mary Smith", ""]
            self.assertEqual(addresses(value), wanted, value)
            self.assertEqual(names(value), called, value)
            self.assertEqual(parse_list(value).troubles, (), value)

    def test_the_forms_of_every_day(self) -> None:
        for value, wanted in (
            (b"root", ["root"]),
            (b"joe@x.org (Joe Doe)", ["joe@x.org"]),
            (b"J\xc3\xb6rg <j@x.org>", ["j@x.org"]),
            (b"\xc3\xa0 b <j@x.org>", ["j@x.org"]),
            (b'"a@b, c" <d@e.f>', ["d@e.f"]),
            (b'"joe doe"@x.org', ['"joe doe"@x.org']),
            (b"joe@[192.0.2.1]", ["joe@[192.0.2.1]"]),
            (b"a@b.c; d@e.f", ["a@b.c", "d@e.f"]),
            (b"MAILER-DAEMON <>", []),
            (b"postmaster, root@localhost", ["postmaster", "root@localhost"]),
        ):
            self.assertEqual(addresses(value), wanted, value)
        self.assertEqual(names(b"J\xc3\xb6rg <j@x.org>, x@y.z (\xc3\xa4  b)"), ["Jörg", "ä b"])

    def test_groups_are_told(self) -> None:
        found = parse_list(b"a@x, Team: b@x, c@x;, d@x").addresses
        self.assertEqual([listed.group for listed in found], ["", "Team", "Team", ""])

    def test_what_is_no_address_is_told_and_the_rest_is_read(self) -> None:
        for value, at, text, rest in (
            (b"a@b.c, joe doe, d@e.f", 7, "not an address, but a text: joe doe", ["a@b.c", "d@e.f"]),
            (b"<a@b.c, d@e.f", 0, '"<" without ">"', ["d@e.f"]),
            (b"a@b.c>, d@e.f", 0, '">" without "<"', ["d@e.f"]),
            (b"a@b.c, (oops, d@e.f", 7, "a comment is not closed", ["a@b.c"]),
            (b'a@b.c, "oops, d@e.f', 7, "a quoted string is not closed", ["a@b.c"]),
            (b"@b.c, d@e.f", 0, "an address without a local part: @ b . c", ["d@e.f"]),
            (b"a@, d@e.f", 0, "an address with a bad domain: a @", ["d@e.f"]),
            (b"a@b c@d, d@e.f", 0, "not an address: a @ b c @ d", ["d@e.f"]),
            (b"<a@b.c> x, d@e.f", 6, 'text behind ">"', ["d@e.f"]),
            (b"a\x00b@c, d@e.f", 1, "a character that cannot be here", None),
            (b"\xc3\xa4@b.c, d@e.f", 0, "Address is not ASCII", ["d@e.f"]),
        ):
            found = parse_list(value)
            self.assertIn(at, [trouble.at for trouble in found.troubles], value)
            self.assertTrue(any(text in trouble.text for trouble in found.troubles), found)
            if rest is not None:
                self.assertEqual([listed.address for listed in found.addresses], rest, value)

    def test_domains_are_put_where_they_are_missing(self) -> None:
        """Everything else stays octet for octet."""
        value = b' root (me), "J. Doe" <joe>,\r\n x@y.z, T: <jim >;'
        self.assertEqual(
            qualified(value, parse_list(value), "d.e"),
            b' root@d.e (me), "J. Doe" <joe@d.e>,\r\n x@y.z, T: <jim@d.e >;',
        )

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.tuples(LOCAL, NAME, BLANK, BLANK, st.booleans()), max_size=5))
    def test_what_was_written_is_read(self, items: list[tuple[str, str, str, str, bool]]) -> None:
        """Any name and local part, properly quoted, with blanks and comments around, comes back."""
        pieces, wanted = [], []
        for local, name, before, between, angle in items:
            spec = f"{before}{quoted(local)}{between}@{between}x.example{before}"
            pieces.append(f"{quoted(name)}{between}<{spec}>{before}" if angle else spec)
            wanted.append((local, name if angle else None))
        value = ",".join(pieces).encode()
        found = parse_list(value)
        ascii_only = [(local, name) for local, name in wanted if local.isascii()]
        self.assertEqual(len(found.addresses), len(ascii_only), (value, found))
        self.assertEqual(len(found.troubles), len(wanted) - len(ascii_only))
        for listed, (_, called) in zip(found.addresses, ascii_only, strict=True):
            if called:
                self.assertEqual(listed.name, called)
            self.assertTrue(listed.address.endswith("@x.example"))

    def test_a_bracket_of_a_group_within_a_group_is_forgotten(self) -> None:
        """Found by the test below."""
        self.assertEqual(len(parse_list(b":>:<").addresses), 0)

    @settings(max_examples=500, deadline=None)
    @given(st.binary(max_size=60) | st.text(alphabet='ab@.,;:<>()"\\[] \r\n', max_size=60).map(str.encode))
    def test_no_octets_make_it_fail(self, value: bytes) -> None:
        """Whatever comes, each address it tells is one line, and its place is inside the field."""
        found = parse_list(value)
        for listed in found.addresses:
            self.assertTrue(listed.address.isprintable())
            self.assertTrue(0 < listed.end <= len(value))
        again = parse_list(qualified(value, found, "q.example"))
        self.assertTrue(all(listed.qualified for listed in again.addresses))
        self.assertEqual(len(again.addresses), len(found.addresses))

    def test_time_is_linear_in_the_length(self) -> None:
        """The forms that take naive parsers quadratic time or the whole stack."""
        for unit in (
            b"a@b.c,",
            b"(",
            b"(a)",
            b"()",
            b'"',
            b'"" ',
            b"<",
            b"<a@b>",
            b"\\",
            b"a ",
            b"a.",
            b"@",
            b"@a,",
            b":",
            b";",
        ):
            for _ in range(4):  # a collection of garbage may fall into any
                short, long = (self.spent(b"<" * (unit == b"@a,") + unit * count) for count in (4000, 32000))
                if long <= short * 24 + 0.05:
                    break
            else:
                self.fail(f"{unit!r}: {short:.3f} s, eight times as much {long:.3f} s")

    def spent(self, value: bytes) -> float:
        """Seconds to parse it."""
        start = time.process_time()
        parse_list(value)
        return time.process_time() - start

    def test_what_is_kept_is_bounded(self) -> None:
        found = parse_list(b"a@b," * (ADDRESSES + 10))
        self.assertEqual(len(found.addresses), ADDRESSES)
        self.assertIn("more than", found.troubles[0].text)
        self.assertIn("longer than", parse_list(b" " * (OCTETS + 1)).troubles[0].text)
