"""The index of the log."""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn
from unittest import mock

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.schema import LogConfig
from qmailpy.disk.files import RealFiles
from qmailpy.records import index as index_module
from qmailpy.records.archive import Source, thd_batches
from qmailpy.records.family import family
from qmailpy.records.index import DAY_S, IndexBroken, LogIndex, thd_index
from qmailpy.records.logfile import roll
from qmailpy.records.packing import thd_pack
from qmailpy.records.text import LineFormat
from tests.records.stories import MAIL, MESSAGE_ID, NOTICE, OTHER, SECOND, bounced

_NOW = 1_800_000_000.0


class IndexTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.log = os.path.abspath(self.mktemp())
        os.makedirs(self.log)
        self.options = LogConfig()
        self.story = bounced(_NOW - 1000)

    def write(self, octets: bytes, name: str = "mail.log_current") -> None:
        with open(f"{self.log}/{name}", "ab") as file:
            file.write(octets)

    def index(self, now: float = _NOW, rebuild: bool = False) -> LogIndex:
        index = thd_index(RealFiles(), self.log, self.options, now, rebuild=rebuild)
        self.addCleanup(index.close)
        return index

    def count(self, index: LogIndex, queue_id: str) -> int:
        (mail,) = index.by_id(queue_id)
        return len(index.lines(mail))

    def stored(self, index: LogIndex) -> int:
        (count,) = index._database.execute("SELECT count(*) FROM line").fetchone()
        return int(count)

    def test_messages_are_found_by_id_message_id_and_address(self) -> None:
        self.write(self.story.octets)
        index = self.index()
        self.assertEqual([one.id for one in index.by_message_id(MESSAGE_ID)], [MAIL])
        self.assertEqual([one.id for one in index.by_address("BOB@here.example", 10)], [OTHER, MAIL])
        self.assertEqual([one.id for one in index.by_address("bob@here.example", 1)], [OTHER])
        self.assertEqual(index.by_id("nothing"), [])
        self.assertEqual(self.count(index, MAIL), 5)

    def test_messages_are_found_by_words_of_their_subject(self) -> None:
        """Or pieces of words, in any order, whatever the script and the case; only what is there."""
        self.write(self.story.octets)
        index = self.index()
        for words in ("lunch", "LUNCH in", "köln lunch", "KÖLN", "午餐", "间", "unch in Kö"):
            self.assertEqual([one.id for one in index.by_subject(words, 10)], [MAIL], words)
        self.assertEqual([one.id for one in index.by_subject("mail", 10)], [SECOND, NOTICE])
        self.assertEqual([one.id for one in index.by_subject("mail", 1)], [SECOND])
        for words in ("lunch dinner", "%", "", " "):
            self.assertEqual(index.by_subject(words, 10), [], words)

    def test_what_is_looked_for_may_have_bounds_in_time(self) -> None:
        self.write(self.story.octets)
        index = self.index()
        (other,) = index.by_id(OTHER)
        self.assertEqual([one.id for one in index.by_address("bob@here.example", 10, since=other.time)], [OTHER])
        self.assertEqual([one.id for one in index.by_address("bob@here.example", 10, until=other.time)], [MAIL])
        self.assertEqual(index.by_subject("lunch", 10, since=other.time), [])
        self.assertEqual([one.id for one in index.by_subject("lunch", 10, until=other.time)], [MAIL])

    def test_a_family_is_a_message_its_notice_and_what_that_was_handed_on_as(self) -> None:
        """From whichever of them one begins."""
        self.write(self.story.octets)
        index = self.index()
        for start in (MAIL, NOTICE, SECOND):
            found = family(index, index.by_id(start))
            self.assertEqual([one.id for one in found], [MAIL, NOTICE, SECOND], start)

    def test_a_family_in_a_circle_comes_to_an_end(self) -> None:
        self.write(self.story.octets)
        index = self.index()
        self.assertEqual(len(family(index, index.by_id(MAIL), most=2)), 2)

    def test_what_comes_later_is_added(self) -> None:
        """In pieces, wherever they end."""
        octets = self.story.octets
        for at in range(0, len(octets), 211):
            self.write(octets[at : at + 211])
            index = self.index()
        self.assertEqual(self.stored(index), len(self.story.lines))

    def test_no_line_is_missed_or_doubled_over_rolls(self) -> None:
        """However often the log was rolled since."""
        for rolls in range(4):
            self.setUp()
            half = len(self.story.lines) // 2
            self.write(b"".join(self.story.lines[:half]))
            self.index()
            for number in range(rolls):
                roll(RealFiles(), self.log)
                self.write(self.story.lines[half + number])
            self.write(b"".join(self.story.lines[half + rolls :]))
            self.assertEqual(self.stored(self.index()), len(self.story.lines), rolls)

    def test_what_was_packed_since_is_known_and_what_is_packed_is_read(self) -> None:
        self.write(gzip.compress(b"".join(self.story.lines[:4])), "mail.log-1.gz")
        self.write(b"".join(self.story.lines[4:]))
        self.assertEqual(self.stored(self.index()), len(self.story.lines))
        os.unlink(f"{self.log}/mail.log-1.gz")
        self.assertEqual(self.stored(self.index()), len(self.story.lines))

    def test_a_mail_log_that_is_not_the_one_of_then_is_read_whole(self) -> None:
        """Nobody read the log for days, meanwhile it was rolled and mail.log packed away: no line is missed."""
        lines = self.story.lines
        self.write(b"".join(lines[:2]), "mail.log")
        self.write(b"".join(lines[2:4]))
        self.index().close()
        roll(RealFiles(), self.log)
        roll(RealFiles(), self.log)
        with open(f"{self.log}/mail.log", "rb") as file:
            self.write(gzip.compress(file.read()), "mail.log.2026-01-01.gz")
        os.unlink(f"{self.log}/mail.log")
        self.write(b"".join(lines[4:]))
        for _ in range(3):
            roll(RealFiles(), self.log)
        self.assertEqual(self.stored(self.index()), len(lines))

    def test_what_was_packed_meanwhile_is_not_read_again(self) -> None:
        """By the daemon's own steps, while no mail comes: the place is found in the packed file, which is done then."""
        for compress in ("gzip", "zstd"):
            self.setUp()
            self.write(b"".join(self.story.lines[:3]))
            self.index().close()
            self.write(b"".join(self.story.lines[3:5]))
            self.pack(compress)
            self.write(b"".join(self.story.lines[5:]))
            with self.index() as index:
                self.assertEqual((index.added, self.stored(index)), (7, 10), compress)
            for _ in range(2):
                roll(RealFiles(), self.log)
            self.pack(compress)
            opened: list[str] = []

            def batches(sources: Sequence[Source], *words: Any, opened: list[str] = opened) -> Iterator[list[bytes]]:
                opened += [os.path.basename(one.path) for one in sources]
                return thd_batches(sources, *words)

            never = mock.patch.object(LineFormat, "record", side_effect=AssertionError("read again"))
            with mock.patch.object(index_module, "thd_batches", batches), never:
                for _ in range(2):
                    with self.index() as index:
                        self.assertEqual(index.added, 0)
            ending = {"gzip": ".gz", "zstd": ".zst"}[compress]
            self.assertEqual(
                [name for name in opened if name.endswith(ending)], [f"mail.log.{self.day}-2{ending}"], opened
            )

    @property
    def day(self) -> str:
        return time.strftime("%Y-%m-%d", time.localtime(_NOW))

    def pack(self, compress: str) -> None:
        for _ in range(2):
            roll(RealFiles(), self.log)
        self.assertEqual(thd_pack(RealFiles(), self.log, compress, 0, _NOW + DAY_S), 1)

    def test_a_damaged_day_keeps_no_other_out(self) -> None:
        """What of it is known is told, and by the index too, for whoever finds nothing."""
        lines = self.story.lines
        self.write(gzip.compress(b"".join(lines[:3]))[:-4], f"mail.log.{self.day}.gz")
        self.write(b"".join(lines[3:]))
        with self.index() as index:
            self.assertIn(f"mail.log.{self.day}.gz: damaged: ", index.damaged[0])
            self.assertEqual(index.missing(), [f"mail.log.{self.day}.gz"])
            self.assertGreaterEqual(self.stored(index), len(lines) - 3)
        with self.index() as index:
            self.assertEqual((index.added, index.damaged), (0, []))
            self.assertEqual(index.missing(), [f"mail.log.{self.day}.gz"])

    def test_a_file_that_is_being_packed_is_waited_for(self) -> None:
        """By the site, that is: it has its name before it is whole. The lines of later files come behind it."""
        lines = self.story.lines
        path = f"{self.log}/mail.log.{self.day}.gz"
        whole = gzip.compress(b"".join(lines[:3]))
        self.write(whole[:-20], os.path.basename(path))
        self.write(b"".join(lines[3:]))
        os.utime(path, (_NOW - 5, _NOW - 5))
        with self.index() as index:
            self.assertIn("may not be whole yet", index.damaged[0])
            self.assertEqual((self.stored(index), index.missing()), (0, []))
        self.write(whole[-20:], os.path.basename(path))
        with self.index() as index:
            self.assertEqual((self.stored(index), index.damaged), (len(lines), []))

    def test_days_that_are_too_old_are_not_even_unpacked(self) -> None:
        """A hundred days kept, thirty wanted."""
        self.write(b"not to be looked at", "mail.log.2020-01-01.gz")
        self.write(self.story.octets)
        with self.index() as index:
            self.assertEqual((index.added, index.damaged), (len(self.story.lines), []))

    def test_it_reaches_no_further_than_the_log_that_is_kept(self) -> None:
        """Who has old days removed means the lines, wherever they are."""
        self.write(self.story.octets)
        for options, kept in (
            (LogConfig(compress="zstd", keep_days=5), 0),
            (LogConfig(compress="zstd"), 10),
            (LogConfig(keep_days=5), 10),
            (LogConfig(compress="zstd", keep_days=50, index_days=7), 0),
        ):
            self.options = options
            with self.index(_NOW + 8 * DAY_S, rebuild=True) as index:
                self.assertEqual(self.stored(index), kept, options)

    def test_damage_that_is_found_when_it_is_asked_is_told(self) -> None:
        self.write(self.story.octets)
        self.index().close()
        with open(f"{self.log}/index.sqlite", "r+b") as file:
            octets = file.read()
            file.seek(octets.rindex(MESSAGE_ID.encode()) // 4096 * 4096)
            file.write(b"\xff" * 4096)
        with LogIndex(f"{self.log}/index.sqlite") as index:
            for question in (lambda: index.lines(index.by_id(MAIL)[0]), lambda: index.by_message_id(MESSAGE_ID)):
                try:
                    question()
                except IndexBroken:
                    break
            else:
                self.fail("it was not noticed")

    def test_it_knows_how_far_back_it_reaches(self) -> None:
        self.assertIsNone(self.index().oldest())
        self.write(self.story.octets)
        self.assertAlmostEqual(self.index().oldest() or 0, _NOW - 999.9, places=2)

    def test_what_is_forgotten_goes_piece_by_piece(self) -> None:
        """With rests between, in which nothing is locked; and also when nothing is left."""
        self.patch(index_module, "_FORGOTTEN", 1)
        self.write(self.story.octets)
        index = self.index()
        rests = []

        def pause() -> None:
            rests.append(self.stored(index))
            LogIndex(f"{self.log}/index.sqlite").close()

        index.thd_update(RealFiles(), self.log, self.options, _NOW + 40 * DAY_S, pause=pause)
        self.assertEqual(rests, sorted(rests, reverse=True))
        self.assertGreaterEqual(len(set(rests)), 3)
        for table in ("mail", "line", "address", "subject"):
            self.assertEqual(index._database.execute(f"SELECT count(*) FROM {table}").fetchone(), (0,))

    def test_a_full_disk_is_no_reason_to_throw_it_away(self) -> None:
        self.write(self.story.octets)
        index = self.index()
        index._database.execute("PRAGMA max_page_count = 1")
        self.write(bounced(_NOW - 500).octets.replace(b"l0", b"m0") * 2000)
        self.assertRaises(OSError, index.thd_update, RealFiles(), self.log, self.options, _NOW)
        self.assertEqual(self.count(index, MAIL), 5)
        index._database.execute("PRAGMA max_page_count = 100000")
        index.thd_update(RealFiles(), self.log, self.options, _NOW)
        self.assertEqual(len(index.by_id(MAIL.replace("l0", "m0"))), 1)

    def test_old_mail_is_forgotten_and_never_read(self) -> None:
        """30 days, counted from its first line."""
        self.write(self.story.octets)
        index = self.index()
        new = bounced(_NOW + 40 * DAY_S)
        self.write(new.octets.replace(b"l0", b"m0"))
        index = self.index(_NOW + 41 * DAY_S)
        self.assertEqual(index.by_id(MAIL), [])
        self.assertEqual(index.by_message_id(MESSAGE_ID)[0].id, MAIL.replace("l0", "m0"))
        self.assertEqual(len(index.by_address("bob@here.example", 10)), 2)
        again = self.index(_NOW + 41 * DAY_S, rebuild=True)
        self.assertEqual(self.stored(again), len(new.lines))

    def test_a_damaged_index_is_made_again(self) -> None:
        self.write(self.story.octets)
        self.index().close()
        with open(f"{self.log}/index.sqlite", "r+b") as file:
            file.write(b"no database at all " * 100)
        self.assertRaises(IndexBroken, LogIndex, f"{self.log}/index.sqlite")
        self.assertEqual(self.count(self.index(), MAIL), 5)

    def test_two_at_once_do_not_add_lines_twice(self) -> None:
        """The second one is given the index as it is."""
        self.write(self.story.octets)
        files = RealFiles()
        lock = files.lock(f"{self.log}/index.sqlite_lock")
        index = self.index()
        self.assertTrue(index.busy)
        self.assertEqual(self.stored(index), 0)
        self.assertRaises(BlockingIOError, self.index, rebuild=True)
        files.close(lock)
        self.assertFalse(self.index().busy)

    def test_lines_that_are_no_records_are_passed_over(self) -> None:
        self.write(b"\n\xff\x00\nxx-Jan-2026 nothing\n" + self.story.octets[:100] + b" \\\n" + self.story.octets)
        self.assertEqual(self.stored(self.index()), len(self.story.lines))

    def test_a_stranger_cannot_make_mail_ours(self) -> None:
        """A name in HELO is never taken for the id of a message: a source system has an address behind it."""
        self.write(self.story.octets.replace(b"relay (relay.example.com", NOTICE.encode() + b" (relay.example.com"))
        self.assertEqual(self.index().by_id(MAIL)[0].parent, "")

    def test_the_file_is_its_owners_alone(self) -> None:
        self.index()
        self.assertEqual(os.stat(f"{self.log}/index.sqlite").st_mode & 0o777, 0o600)

    def test_options_of_less_detail_are_enough(self) -> None:
        """Without process field."""
        self.options = evolve(self.options, process=False)
        self.write(b"".join(_without_process(line) for line in self.story.lines))
        self.assertEqual(self.count(self.index(), MAIL), 5)


def _without_process(line: bytes) -> bytes:
    words = line.split(b" ", 3)
    return b" ".join([*words[:2], words[3]])


class OldDaysTests(SynchronousTestCase):
    def test_lines_of_old_days_are_not_even_parsed(self) -> None:
        """A long cumulative log from before the limit costs a look at each date."""

        def record(form: LineFormat, line: bytes) -> NoReturn:
            raise AssertionError(line)

        log = os.path.abspath(self.mktemp())
        os.makedirs(log)
        with open(f"{log}/mail.log", "wb") as file:
            file.write(bounced(_NOW - 100 * DAY_S).octets)
        self.patch(LineFormat, "record", record)
        thd_index(RealFiles(), log, LogConfig(), _NOW).close()
