"""The drop file."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.wire.drop import Drop, DropError, make_drop, read_drop

ADDRESS = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


class DropTests(SynchronousTestCase):
    """L{make_drop} and L{read_drop}."""

    @given(st.just("") | ADDRESS, st.lists(ADDRESS, min_size=1, max_size=5), st.binary(max_size=200))
    def test_what_was_written_is_read(self, sender: str, recipients: list[str], content: bytes) -> None:
        self.assertEqual(read_drop(make_drop(sender, recipients, content)), (sender, tuple(recipients), content))

    def test_its_form_is_that_of_version_1(self) -> None:
        """Files that wait must be readable by the next release: this never changes without a new version."""
        octets = b"qmailpy-drop 1 14 8 1d75b7e7\nFa@b\0Tc@d\0Te\0\0S: x\r\n\r\n"
        self.assertEqual(make_drop("a@b", ["c@d", "e"], b"S: x\r\n\r\n"), octets)
        self.assertEqual(read_drop(octets), Drop("a@b", ("c@d", "e"), b"S: x\r\n\r\n"))

    def test_no_damage_goes_unnoticed(self) -> None:
        """Cut anywhere, longer, or one bit changed anywhere: it is no drop."""
        made = make_drop("a@b", ["c@d"], b"S: x\r\n\r\nhello\r\n")
        for size in range(len(made)):
            self.assertRaises(DropError, read_drop, made[:size])
        self.assertRaises(DropError, read_drop, made + b"x")
        for at in range(len(made)):
            changed = bytearray(made)
            changed[at] ^= 4
            self.assertRaises(DropError, read_drop, bytes(changed))

    def test_a_newer_version_is_named(self) -> None:
        made = make_drop("a@b", ["c@d"], b"").replace(b"drop 1 ", b"drop 2 ")
        self.assertIn("version 2", str(self.assertRaises(DropError, read_drop, made)))

    def test_an_envelope_that_cannot_be_written_is_refused(self) -> None:
        for sender, recipients in (("a", []), ("a\0b", ["c"]), ("a", ["c\0"]), ("a", [""])):
            self.assertRaises(ValueError, make_drop, sender, recipients, b"")
