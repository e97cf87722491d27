"""The log's files, all of them."""

from __future__ import annotations

import gzip
import os

import zstandard
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.disk.files import RealFiles
from qmailpy.errors import CommandError
from qmailpy.records import archive
from qmailpy.records.archive import thd_batches, thd_head, thd_open, thd_sources
from qmailpy.records.logfile import roll


class ArchiveTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.log = os.path.abspath(self.mktemp())
        os.makedirs(self.log)

    def write(self, name: str, octets: bytes) -> str:
        path = f"{self.log}/{name}"
        with open(path, "wb") as file:
            file.write(octets)
        return path

    def read(self) -> list[bytes]:
        return [line for batch in thd_batches(thd_sources(self.log)) for line in batch]

    def test_the_oldest_line_comes_first(self) -> None:
        self.write("mail.log_current", b"5\ntorn")
        self.write("mail.log_yesterday", b"4\n")
        self.write("mail.log", b"3\n")
        self.write("mail.log-2026-02.gz", gzip.compress(b"2\n"))
        self.write("mail.log-2026-01.gz", gzip.compress(b"1\n"))
        self.write("other.gz", gzip.compress(b"0\n"))
        self.assertEqual(self.read(), [b"1", b"2", b"3", b"4", b"5"])

    def test_no_line_is_lost_or_doubled_by_a_roll_meanwhile(self) -> None:
        self.write("mail.log_current", b"3\n")
        self.write("mail.log_yesterday", b"2\n")
        self.write("mail.log", b"1\n")
        sources = thd_sources(self.log)
        roll(RealFiles(), self.log)
        roll(RealFiles(), self.log)
        found = [line for batch in thd_batches(sources) for line in batch]
        self.assertEqual(sorted(set(found)), [b"1", b"2", b"3"])

    def test_what_a_roll_has_copied_so_far_is_left_out(self) -> None:
        self.write("mail.log_yesterday", b"3\n4\n")
        self.write("mail.log", b"1\n2\n3\n")
        self.write("mail.log_rolling", b"4")
        self.assertEqual(self.read(), [b"1", b"2", b"3", b"4"])

    def test_mail_log_that_was_set_aside_between_the_looks_is_read_once(self) -> None:
        os.link(self.write("mail.log", b"1\n"), f"{self.log}/mail.log.2026-01-01")
        self.assertEqual(self.read(), [b"1"])

    def test_a_file_under_two_names_is_read_once(self) -> None:
        """A roll between the two looks: what was the current file is yesterday's now."""
        os.link(self.write("mail.log_current", b"1\n"), f"{self.log}/mail.log_yesterday")
        self.assertEqual(self.read(), [b"1"])

    def test_lines_over_pieces_are_whole(self) -> None:
        self.patch(archive, "CHUNK", 3)
        self.write("mail.log_current", b"one\ntwo\nthree\n")
        self.assertEqual(self.read(), [b"one", b"two", b"three"])

    def test_a_line_without_end_does_not_fill_the_memory(self) -> None:
        self.patch(archive, "CHUNK", 8)
        self.patch(archive, "LINE_OCTETS", 16)
        self.write("mail.log_current", b"1\n" + b"x" * 100 + b"\n2\n")
        self.assertEqual(self.read(), [b"1", b"2"])

    def test_damaged_compression_is_told_in_a_line(self) -> None:
        whole = [
            gzip.compress(b"1\n" * 10000),
            zstandard.ZstdCompressor(write_checksum=True).compress(b"1\n2\n" * 10000),
        ]
        for octets in whole:
            for damaged in (
                octets[:-1],
                octets[: len(octets) // 2],
                octets[:5],
                octets[:12] + b"damaged" + octets[19:],
            ):
                path = self.write("mail.log.gz", damaged)
                said = str(self.assertRaises(CommandError, self.read))
                self.assertIn(f"{path}: damaged: ", said)
                self.assertIn("the rest is read when it is moved out of there", said)

    def test_a_damaged_file_may_be_passed_over(self) -> None:
        """What can be read of it is read, and the others are; one that is not what its name says is damaged."""
        self.write("mail.log-1.gz", gzip.compress(b"1\n" * 2_000_000)[:-4])
        self.write("mail.log-2.zst", b"no zstd\n")
        self.write("mail.log-3.gz", b"")
        self.write("mail.log", b"4\n")
        told: list[str] = []
        found = [line for batch in thd_batches(thd_sources(self.log), damaged=told.append) for line in batch]
        self.assertEqual(found, [b"1"] * (len(found) - 1) + [b"4"])
        self.assertGreater(len(found), 1_000_000)
        self.assertEqual(
            [one.split("/")[-1].split(":")[0] for one in told], [f"mail.log-{n}" for n in ("1.gz", "2.zst", "3.gz")]
        )
        self.assertIn("not what its name says", told[1])
        self.assertIn("is empty", told[2])

    def test_reading_begins_where_it_is_told(self) -> None:
        """Also in what is packed: the offset is that in its content."""
        content = b"".join(b"%07d\n" % number for number in range(400_000))
        for name, octets in (
            ("x", content),
            ("x.gz", gzip.compress(content)),
            ("x.zst", zstandard.ZstdCompressor().compress(content)),
        ):
            path = self.write(name, octets)
            for start in (0, 8, 131_072, 8 * 399_999, 8 * 400_000):
                found = b"".join(b"".join(batch) for batch in thd_batches([thd_open(path)], start))
                self.assertEqual(found, content[start:].replace(b"\n", b""), (name, start))
            self.assertEqual(thd_head(thd_open(path), 20) if name != "x" else content[:20], content[:20])

    def test_zstd_is_read_frame_by_frame(self) -> None:
        """As gzip is: several files written one behind the other, with an empty one and one that is mostly air."""
        pack = zstandard.ZstdCompressor().compress
        noise = os.urandom(2000).hex().encode()
        self.write("mail.log.zst", pack(b"1\n") + pack(b"") + pack(b"2\n" * 500_000 + noise) + pack(b"\n3\n"))
        found = self.read()
        self.assertEqual((found[0], found[1:500_001], found[500_001:]), (b"1", [b"2"] * 500_000, [noise, b"3"]))

    def test_zstd_without_its_package_is_told(self) -> None:
        path = self.write("x.zst", b"\x28\xb5\x2f\xfd1234")
        self.patch(archive, "importlib", _NoModules())
        error = self.assertRaises(CommandError, lambda: list(thd_batches([thd_open(path)])))
        self.assertIn("zstandard", str(error))


class _NoModules:
    def import_module(self, name: str) -> object:
        raise ImportError(name)
