"""Distinguished names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.directory.names import BadName, Name, escape, parse

_VALUES = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\x7f"), min_size=1, max_size=20
).filter(lambda text: text.strip())
_RDNS = st.lists(st.tuples(st.sampled_from(("uid", "dc", "cn", "o")), _VALUES), min_size=1, max_size=2).map(tuple)


class NameTests(SynchronousTestCase):
    def test_a_name_reads_from_the_leaf_up(self) -> None:
        self.assertEqual(
            parse("uid=joe, dc=example.org,o=qmailpy").rdns,
            ((("uid", "joe"),), (("dc", "example.org"),), (("o", "qmailpy"),)),
        )

    def test_escapes_are_undone(self) -> None:
        """RFC 4514 s.4."""
        self.assertEqual(parse(r"cn=James \"Jim\" Smith\, III").rdns[0][0][1], 'James "Jim" Smith, III')
        self.assertEqual(parse(r"cn=Lu\C4\8Di\C4\87").rdns[0][0][1], "Lučić")
        self.assertEqual(parse(r"cn=\20two\20").rdns[0][0][1], " two ")
        self.assertEqual(parse("cn=a+sn=b").rdns, ((("cn", "a"), ("sn", "b")),))

    @given(st.lists(_RDNS, min_size=1, max_size=4).map(tuple))
    def test_what_is_written_reads_back(self, rdns: tuple[tuple[tuple[str, str], ...], ...]) -> None:
        self.assertEqual(parse(str(Name(rdns))), Name(rdns))

    def test_blanks_and_backslashes_at_an_end_read_back(self) -> None:
        for value in ("a\\ ", "\\ ", " a ", "a  ", "#", "# ", "\\", "a\\\\ "):
            name = Name(((("uid", value),),))
            self.assertEqual(parse(str(name)), name, value)

    def test_keys_are_equal_whatever_the_case_and_blanks(self) -> None:
        self.assertEqual(parse("UID=Joe  Doe,O=QmailPy").key, parse("uid=joe doe , o=qmailpy").key)
        self.assertEqual(parse("cn=a+sn=b,o=c").key, parse("sn=B+cn=A,o=c").key)

    def test_different_names_have_different_keys(self) -> None:
        """A value that looks like another structure stays a value."""
        self.assertNotEqual(parse(r"cn=a\+sn\=b").key, parse("cn=a+sn=b").key)
        self.assertNotEqual(parse(r"cn=a\,o\=b").key, parse("cn=a,o=b").key)

    def test_a_key_begins_with_its_ancestors(self) -> None:
        self.assertTrue(parse("uid=joe,dc=x,o=y").key.startswith(parse("dc=x,o=y").key + "\x1f"))

    def test_what_is_no_name_is_refused(self) -> None:
        for bad in (
            "joe",
            "=x",
            "uid=",
            "uid=joe,",
            "uid=a\x1fb",
            r"uid=a\0Ab",
            "uid=a\\",
            'uid="a"',
            "uid=" + "x" * 2000,
        ):
            with self.assertRaises(BadName, msg=repr(bad)):
                parse(bad)

    def test_the_empty_name_is_the_root(self) -> None:
        self.assertEqual(parse(" "), Name(()))
        self.assertEqual(str(parse("o=x").parent), "")

    def test_special_characters_are_escaped(self) -> None:
        self.assertEqual(escape(" #a,b "), r"\ #a\,b\ ")
