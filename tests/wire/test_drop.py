"""The drop file."""

from __future__ import annotations

import zlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.wire.drop import Drop, DropError, make_drop, read_drop

ADDRESS = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


def made_of(envelope: bytes) -> bytes:
    """A file of version 2 with this envelope."""
    return b"qmailpy-drop 2 %d 0 %08x\n" % (len(envelope), zlib.crc32(envelope)) + envelope


class DropTests(SynchronousTestCase):
    """L{make_drop} and L{read_drop}."""

    @given(st.just("") | ADDRESS, st.lists(ADDRESS, min_size=1, max_size=5), st.binary(max_size=200))
    def test_what_was_written_is_read(self, sender: str, recipients: list[str], content: bytes) -> None:
        made = Drop(sender, tuple(recipients), content)
        self.assertEqual(read_drop(make_drop(sender, recipients, content)), made)
        made = Drop(sender, tuple(recipients), content, 10, "HDRS", "an id")
        again = make_drop(sender, recipients, content, notify=10, ret="HDRS", envid="an id")
        self.assertEqual(read_drop(again), made)

    def test_what_the_sender_wants_to_be_told_is_of_version_2(self) -> None:
        octets = make_drop("a@b", ["c@d"], b"x", notify=1, ret="FULL", envid="+")
        self.assertTrue(octets.startswith(b"qmailpy-drop 2 23 1 "))
        self.assertTrue(octets.endswith(b"\nN1\0RFULL\0V+\0Fa@b\0Tc@d\0\0x"))
        self.assertRaises(DropError, read_drop, made_of(b"R\0N1\0V\0Fa@b\0Tc@d\0\0"))
        self.assertRaises(DropError, read_drop, made_of(b"Nx\0R\0V\0Fa@b\0Tc@d\0\0"))
        self.assertRaises(DropError, read_drop, made_of(b"Fa@b\0Tc@d\0\0"))

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
        made = make_drop("a@b", ["c@d"], b"").replace(b"drop 1 ", b"drop 3 ")
        self.assertIn("version 3", str(self.assertRaises(DropError, read_drop, made)))

    def test_an_envelope_that_cannot_be_written_is_refused(self) -> None:
        for sender, recipients in (("a", []), ("a\0b", ["c"]), ("a", ["c\0"]), ("a", [""])):
            self.assertRaises(ValueError, make_drop, sender, recipients, b"")
