"""Entries as LDIF."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.directory.ldif import WIDTH, BadLdif, Record, read, written

_VALUES = st.text(st.characters(codec="utf-8")) | st.binary(max_size=200).map(
    lambda octets: octets.decode("utf-8", "surrogateescape")
)


def records(text: str) -> list[Record]:
    return list(read(text.encode("utf-8", "surrogateescape").splitlines(keepends=True)))


class LdifTests(SynchronousTestCase):
    @given(
        _VALUES, st.dictionaries(st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True), st.lists(_VALUES, min_size=1))
    )
    def test_what_is_written_is_read(self, dn: str, attributes: dict[str, list[str]]) -> None:
        attributes = {name: values for name, values in attributes.items() if name not in ("changetype", "control")}
        text = written(dn, attributes)
        self.assertTrue(text.isascii())
        self.assertLessEqual(max(map(len, text.splitlines())), WIDTH)
        found = list(read(line.encode() for line in f"version: 1\n\n{text}{text}".split("\n")))
        self.assertEqual([(one.dn, dict(one.attributes)) for one in found], [(dn, attributes)] * 2)

    def test_what_other_programs_write_is_read(self) -> None:
        text = (
            "version: 1\r\n# a comment\r\n  that goes on\r\ndn:cn=x,o=a\r\nCN: x\r\ncn:y\r\nobjectClass: top\r\n"
            "description: two li\r\n nes\r\ndisplayName:: SsO2ZQ==\r\nempty:\r\n\r\n\r\ndn: o=a\r\no: a"
        )
        first, second = records(text)
        self.assertEqual((first.line, first.dn), (4, "cn=x,o=a"))
        self.assertEqual(
            first.attributes,
            {
                "CN": ["x", "y"],
                "objectClass": ["top"],
                "description": ["two lines"],
                "displayName": ["Jöe"],
                "empty": [""],
            },
        )
        self.assertEqual((second.line, second.dn, second.attributes), (14, "o=a", {"o": ["a"]}))

    def test_what_is_none_is_told_with_its_line(self) -> None:
        for text, line in (
            ("dn: o=a\no\n", 2),
            ("dn: o=a\n\n goes on\n", 3),
            ("o: a\n", 1),
            ("dn: o=a\nchangetype: delete\n", 2),
            ("dn: o=a\nphoto:< file:///etc/shadow\n", 2),
            ("dn: o=a\no:: !!!!\n", 2),
            ("dn: o=a\n" + "o: " + "x" * 5_000_000, 2),
        ):
            with self.assertRaises(BadLdif) as caught:
                records(text)
            self.assertIn(f"line {line}:", str(caught.exception))
