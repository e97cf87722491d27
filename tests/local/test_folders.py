"""Folders of subaddresses."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.local.folders import folder_name, modified_utf7, thd_folder
from qmailpy.testing.crashdisk import CrashDisk


class FolderTests(SynchronousTestCase):
    def test_names_beyond_ascii_are_as_imap_has_them(self) -> None:
        """RFC 3501 s.5.1.3, with its own example."""
        for text, written in (
            ("~peter/mail/台北/日本語", "~peter/mail/&U,BTFw-/&ZeVnLIqe-"),
            ("a&b", "a&-b"),
            ("Entwürfe", "Entw&APw-rfe"),
            ("é&", "&AOk-&-"),
            ("😀", "&2D3eAA-"),
        ):
            self.assertEqual(modified_utf7(text), written)

    def test_what_can_be_no_folder_is_none(self) -> None:
        for tag in ("", ".", "..", ".a", "a.", "a..b", "../x", "a/b", "a\0b", "a\nb", "x" * 200):
            self.assertEqual(folder_name(tag), "", tag)
        self.assertEqual(folder_name("lists.twisted"), ".lists.twisted")

    def test_a_folder_is_found_whatever_the_case(self) -> None:
        disk = CrashDisk(directories=["/m/.Lists/cur", "/m/.work/cur", "/m/.WORK/cur", "/m/.empty", "/m/cur"])
        for tag, found in (
            ("lists", ".Lists"),
            ("Lists", ".Lists"),
            ("work", ".work"),
            ("WORK", ".WORK"),
            ("empty", ""),
            ("other", ""),
            ("cur", ""),
        ):
            self.assertEqual(thd_folder(disk, "/m", tag), found, tag)
