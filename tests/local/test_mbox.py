"""mbox files: what is written, and what a failure leaves."""

from __future__ import annotations

import fcntl
import mailbox
import os
import stat
from collections.abc import Iterator
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.disk.files import RealFiles
from qmailpy.local.mbox import from_line, quoted, thd_append

FILES = RealFiles()

TEXT = b"Subject: x\n\nFrom me\n>From you\n>>From\nFromage\n From\nFrom us"


class MboxTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = os.path.abspath(self.mktemp())

    def read(self) -> bytes:
        with open(self.path, "rb") as source:
            return source.read()

    def test_messages_are_found_again(self) -> None:
        """By Python's reader of mboxrd's sort, which takes one > away."""
        for number in range(2):
            pieces = [from_line("bob@x", 1e9), *quoted([b"N: %d\n" % number, TEXT])]
            self.assertTrue(thd_append(FILES, self.path, pieces.copy))
        wanted = (
            b"From bob@x Sun Sep  9 01:46:40 2001\nN: 0\nSubject: x\n\n>From me\n>>From you\n>>From\nFromage\n From\n"
        )
        self.assertTrue(self.read().startswith(wanted + b">From us\n\nFrom bob@x "))
        self.assertEqual([one["N"] for one in mailbox.mbox(self.path)], ["0", "1"])

    def test_senders_make_no_lines(self) -> None:
        self.assertEqual(from_line("", 0), b"From MAILER-DAEMON Thu Jan  1 00:00:00 1970\n")
        self.assertTrue(from_line("a b\n@x", 0).startswith(b"From a-b-@x "))

    @given(st.text("From >\nx", max_size=40).map(str.encode), st.lists(st.integers(0, 40), max_size=8))
    def test_pieces_make_no_difference(self, octets: bytes, cuts: list[int]) -> None:
        whole = b"".join(quoted([octets]))
        at = [0, *sorted(cuts), len(octets)]
        pieces = [octets[start:end] for start, end in pairwise(at) if start < end]
        self.assertEqual(b"".join(quoted(pieces)), whole)
        lines = [b">" + one if one.lstrip(b">").startswith(b"From ") else one for one in octets.split(b"\n")]
        text = b"\n".join(lines)
        self.assertEqual(whole, text if text.endswith(b"\n") or not text else text + b"\n")

    def test_who_has_it_locked_is_not_disturbed(self) -> None:
        with open(self.path, "wb") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            self.assertFalse(thd_append(FILES, self.path, lambda: [b"x\n"]))
        self.assertEqual(self.read(), b"")
        self.assertTrue(thd_append(FILES, self.path, lambda: [b"x\n"]))

    def test_a_failure_leaves_nothing(self) -> None:
        def broken() -> Iterator[bytes]:
            yield b"From x\n"
            raise OSError(5, "gone")

        thd_append(FILES, self.path, lambda: [b"x\n"])
        self.assertRaises(OSError, thd_append, FILES, self.path, broken)
        self.assertEqual(self.read(), b"x\n\n")

    def test_what_a_power_cut_has_torn_does_not_swallow_the_next(self) -> None:
        for torn in (b"From x\nN: 0\n\nhal", b"From x\nN: 0\n\nhalf\n", b"From x\nN: 0\n\nhalf\n\n"):
            with open(self.path, "wb") as target:
                target.write(torn)
            self.assertTrue(thd_append(FILES, self.path, lambda: [b"From y\nN: 1\n"]))
            self.assertEqual([one["N"] for one in mailbox.mbox(self.path)], ["0", "1"], torn)
            self.assertTrue(self.read().startswith(torn))
            self.assertEqual(self.read().count(b"\n\nFrom y"), 1)
            self.assertNotIn(b"\n\n\n", self.read())

    def test_a_file_that_somebody_replaces_is_not_written_to(self) -> None:
        """A mail reader that has locked the mbox renames a new one over it, and lets go: the old one is nowhere."""
        flock = fcntl.flock

        def late(handle: int, how: int) -> None:
            self.patch(fcntl, "flock", flock)
            os.rename(f"{self.path}.new", self.path)
            flock(handle, how)

        for name in (self.path, f"{self.path}.new"):
            with open(name, "wb"):
                continue
        self.patch(fcntl, "flock", late)
        self.assertFalse(thd_append(FILES, self.path, lambda: [b"x\n"]))
        self.assertTrue(thd_append(FILES, self.path, lambda: [b"x\n"]))
        self.assertEqual(self.read(), b"x\n\n")

    def test_a_file_is_written_to_when_its_name_is_durable(self) -> None:
        """Else the next attempt, which finds it, would not know that it is not."""

        def broken(handle: int) -> None:
            if stat.S_ISDIR(os.fstat(handle).st_mode):
                raise OSError(5, "gone")

        self.patch(os, "fsync", broken)
        self.assertRaises(OSError, thd_append, FILES, self.path, lambda: [b"x\n"])
        self.assertEqual(self.read(), b"")

    def test_what_is_no_file_takes_no_mail(self) -> None:
        os.mkfifo(self.path)
        reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        self.assertRaises(OSError, thd_append, FILES, self.path, lambda: [b"x\n"])
        self.assertEqual(os.read(reader, 1), b"")

    def write(self, octets: bytes) -> None:
        with open(self.path, "wb") as target:
            target.write(octets)

    def test_what_an_attempt_has_left_is_taken_away_by_the_next(self) -> None:
        """Whole, or cut short anywhere, or with zeros for sectors that were not written; what is before it stays."""
        before = b"From bob@x Sun Sep  9 01:46:40 2001\n\nother\n\n"
        text = [from_line("bob@x", 1e9), b"N: 0\n\n\n", b"x" * 300 + b"\n\n", b"\n\0\n\nFrag\n" * 20]
        whole = b"".join(text) + b"\n"
        for first in (b"", before):
            for end in range(len(whole) + 1):
                holes = whole[: end // 3] + b"\0" * (end - end // 3)
                middle = whole[: end // 3] + b"\0" * (end // 3) + whole[end // 3 * 2 : end]
                for torn in (whole[:end], holes, middle):
                    self.write(first + torn)
                    self.assertTrue(thd_append(FILES, self.path, lambda: text, again=True))
                    self.assertEqual(self.read(), first + whole, (end, torn))

    def test_what_is_not_the_beginning_of_it_stays(self) -> None:
        """Another message of the same sender and second, or what somebody has changed; zeros at the end never stay."""
        text = [from_line("bob@x", 1e9), b"N: 0\n\nx\n"]
        for other in (b"N: 1\n\nx\n\n", b"N: 0\nStatus: RO\n\nx\n\n", b"N: 0\n\nx\n\nmore\n\n"):
            for again in (True, False):
                for zeros in (b"", b"\0" * 70000):
                    self.write(text[0] + other + zeros)
                    self.assertTrue(thd_append(FILES, self.path, lambda: text, again=again))
                    self.assertEqual(self.read(), text[0] + other + b"".join(text) + b"\n")
        self.write(b"\0" * 200000)
        self.assertTrue(thd_append(FILES, self.path, lambda: text))
        self.assertEqual(self.read(), b"".join(text) + b"\n")

    def test_a_large_end_is_looked_through_in_pieces(self) -> None:
        """Blank lines and From lines without number; the beginning on either side of a border of pieces."""
        for shift in range(-3, 4):
            line = from_line("bob@x", 1e9)
            text = [line, b"y" * (65536 + shift - len(line)) + b"\n\n", b">From z\n\n" * 30000]
            before = line + b"a\n\n" + (b"From me\n\n" * 50000)
            self.write(before + b"".join(text)[:-70000])
            self.assertTrue(thd_append(FILES, self.path, lambda text=text: text, again=True))  # type: ignore[misc]
            self.assertEqual(self.read(), before + b"".join(text) + b"\n", shift)
