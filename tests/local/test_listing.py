"""What is in a Maildir: order, sizes and unique-ids."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.disk.files import RealFiles
from qmailpy.local.listing import SIZES, Listing, thd_list


class WatchedFiles(RealFiles):
    """Counts what is opened to be read."""

    def __init__(self) -> None:
        self.read_paths: list[str] = []

    def open_for_reading(self, path: str) -> int:
        self.read_paths.append(path)
        return super().open_for_reading(path)


class ListingTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.files = WatchedFiles()
        self.box = self.mktemp()
        for folder in ("new", "cur", "tmp"):
            os.makedirs(f"{self.box}/{folder}")

    def put(self, path: str, content: bytes = b"a: b\n\nc\n") -> None:
        with open(f"{self.box}/{path}", "wb") as target:
            target.write(content)

    def list(self) -> Listing:
        self.files.read_paths.clear()
        return thd_list(self.files, self.box)


class ListingTests(ListingTestCase):
    def test_both_folders_oldest_first(self) -> None:
        self.put("cur/1700000002.b.h,S=8,W=11:2,S")
        self.put("new/1700000003.a.h,S=8,W=11")
        self.put("new/999999999.z.h,S=8,W=11")
        self.put("tmp/1.x.h,S=8,W=11")
        self.put("cur/.hidden")
        self.assertEqual(
            self.list().paths,
            ["new/999999999.z.h,S=8,W=11", "cur/1700000002.b.h,S=8,W=11:2,S", "new/1700000003.a.h,S=8,W=11"],
        )

    def test_a_mailbox_that_is_not_there_is_empty(self) -> None:
        self.assertEqual(thd_list(self.files, self.box + "/nowhere").paths, [])

    def test_a_message_in_both_folders_is_one(self) -> None:
        """As a power cut during a move may leave it."""
        self.put("new/1.a.h,W=11")
        self.put("cur/1.a.h,W=11:2,")
        self.assertEqual(self.list().paths, ["cur/1.a.h,W=11:2,"])

    def test_a_size_in_the_name_is_believed_without_a_look(self) -> None:
        self.put("new/1.a.h,S=8,W=4711")
        self.assertEqual(list(self.list().sizes), [4711])
        self.assertEqual(self.files.read_paths, [])

    def test_other_files_are_counted_once(self) -> None:
        self.put("new/1.a.h", b"a: b\n\nc\n")
        self.put("cur/2.b.h,S=9:2,", b"a: b\r\n\nc")
        self.put("new/3.c.h,W=x", b"")
        self.assertEqual(list(self.list().sizes), [11, 11, 0])
        self.assertEqual(len(self.files.read_paths), 3)
        os.rename(f"{self.box}/new/1.a.h", f"{self.box}/cur/1.a.h:2,S")
        self.assertEqual(list(self.list().sizes), [11, 11, 0])
        self.assertEqual(self.files.read_paths, [])

    def test_a_damaged_memory_of_sizes_is_made_anew(self) -> None:
        self.put("new/1.a.h")
        self.list()
        with open(f"{self.box}/{SIZES}", "rb") as source:
            whole = source.read()
        for damaged in (whole.replace(b"11 ", b"12 "), whole[:-3], b"", b"\xff\n\xff"):
            self.put(SIZES, damaged)
            self.assertEqual(list(self.list().sizes), [11])
            self.assertEqual(len(self.files.read_paths), 1)

    def test_the_memory_of_sizes_forgets_what_is_gone(self) -> None:
        for number in range(300):
            self.put(f"new/{number}.a.h")
        self.list()
        for number in range(1, 300):
            os.unlink(f"{self.box}/new/{number}.a.h")
        self.list()
        with open(f"{self.box}/{SIZES}", "rb") as source:
            self.assertEqual(len(source.readlines()), 2)

    def test_what_is_no_file_is_no_message(self) -> None:
        os.mkdir(f"{self.box}/new/1.directory")
        os.symlink("/etc/passwd", f"{self.box}/new/2.link")
        os.mkfifo(f"{self.box}/new/3.pipe")
        self.put("new/4.a.h")
        self.assertEqual(self.list().paths[-1], "new/4.a.h")
        self.assertNotIn("new/1.directory", self.list().paths)
        self.assertNotIn("new/2.link", self.list().paths)

    def test_a_mailbox_that_cannot_be_written_can_be_listed(self) -> None:
        self.put("new/1.a.h")
        os.mkdir(f"{self.box}/{SIZES}.tmp")
        self.assertEqual(list(self.list().sizes), [11])


class UidTests(ListingTestCase):
    """RFC 1939 s.7 UIDL."""

    def uids(self) -> list[str]:
        listing = self.list()
        return [listing.uid(index) for index in range(len(listing.paths))]

    def test_it_is_the_name_without_sizes_and_flags(self) -> None:
        self.put("new/1700000000.Qabc0R0.mail.example.org,S=8,W=11")
        self.assertEqual(self.uids(), ["1700000000.Qabc0R0.mail.example.org"])

    def test_it_stays_when_a_message_is_moved_flagged_or_gets_its_size(self) -> None:
        self.put("new/1.a.h")
        before = self.uids()
        os.rename(f"{self.box}/new/1.a.h", f"{self.box}/cur/1.a.h:2,FS")
        self.assertEqual(self.uids(), before)
        os.rename(f"{self.box}/cur/1.a.h:2,FS", f"{self.box}/cur/1.a.h,S=8,W=11:2,S")
        self.assertEqual(self.uids(), before)

    def test_no_two_are_the_same_and_all_can_be_sent(self) -> None:
        names = [
            "1.a,S=8",
            "1.a,S=9",
            "2." + "x" * 100,
            "2." + "x" * 99 + "y",
            "3.ä",
            "4.b c",
            "5\x01",
            ",S=5",
            "6\udcff",
        ]
        for name in names:
            self.put(f"new/{name}")
        uids = self.uids()
        self.assertEqual(len(set(uids)), len(names))
        for uid in uids:
            self.assertRegex(uid, r"\A[\x21-\x7e]{1,70}\Z")
        self.assertEqual(self.uids(), uids)
