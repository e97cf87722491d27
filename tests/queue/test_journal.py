"""The journal by itself: what is written is found again, and nothing else is."""

from __future__ import annotations

import errno
import struct
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.interfaces import BooksCheckpoint
from qmailpy.queue.codec import Checkpoint, encode_op
from qmailpy.queue.journal import HEADER_OCTETS, Journal, JournalBroken, Position
from qmailpy.testing.crashdisk import CrashDisk

payloads = st.binary(max_size=300).map(lambda octets: b"r" + octets)  # none that pretends to be a checkpoint
WHERE, ASIDE = "/q/journal", "/q/corrupt"
RECORD_OCTETS = 28  # of a record beside its payload


def journal(disk: CrashDisk, octets: int = 1024) -> Journal:
    """A journal on this disk, not yet recovered."""
    return Journal(disk, WHERE, ASIDE, octets)


def begun(disk: CrashDisk, octets: int = 1024) -> Journal:
    """One at work."""
    made = journal(disk, octets)
    made.recover()
    made.start()
    return made


def checkpoint(low: int, sequence: int) -> bytes:
    """The payload of a checkpoint."""
    return encode_op(Checkpoint(low, sequence, 0, BooksCheckpoint(0, 0, 0, {})))


def found(disk: CrashDisk) -> list[bytes]:
    """The payloads a restart finds."""
    again = journal(disk)
    again.recover()
    return [payload for _, payload in again.records()]


class JournalTests(SynchronousTestCase):
    """Segments and records."""

    def setUp(self) -> None:
        self.disk = CrashDisk(directories=[WHERE, ASIDE])

    def test_only_zeros_alone_are_a_segment_that_was_never_used(self) -> None:
        """Whatever their number, and wherever there is another octet."""
        for size in (0, 1, 1000, 1 << 16, 3 << 16, (3 << 16) + 5):
            for at in (None, *{0, size // 2, size - 1}):
                octets = bytearray(size)
                if at is not None and 0 <= at < size:
                    octets[at] = 1
                disk = CrashDisk(directories=[WHERE, ASIDE])
                handle = disk.open(f"{WHERE}/00000001", create=True)
                disk.pwrite(handle, bytes(octets), 0)
                journal(disk).recover()
                self.assertEqual(disk.listdir(ASIDE), ["journal-00000001"] if any(octets) else [], (size, at))

    @given(st.lists(st.lists(payloads, min_size=1, max_size=5), max_size=8))
    def test_what_was_written_is_found_in_order(self, batches: list[list[bytes]]) -> None:
        """Over as many segments as it takes."""
        disk = CrashDisk(directories=[WHERE, ASIDE])
        at_work = begun(disk)
        for batch in batches:
            places = at_work.write([(payload, False) for payload in batch])
            self.assertTrue(all(isinstance(place, Position) for place in places))
        self.assertEqual(found(disk.reboot("none")), [payload for batch in batches for payload in batch])

    def test_a_batch_is_one_write_and_one_sync(self) -> None:
        """Group commit."""
        at_work = begun(self.disk)
        before = self.disk.count()
        at_work.write([(b"a", False), (b"b", False), (b"c", True)])
        self.assertEqual([kind for kind, _ in self.disk.operations[before:]], ["pwrite", "fdatasync"])

    def test_the_space_of_a_segment_is_taken_before_it_is_used(self) -> None:
        """Filled and synced when it is made, so that a record needs no metadata written."""
        begun(self.disk)
        kinds = [kind for kind, path in self.disk.operations if path.endswith("00000000")]
        self.assertEqual(kinds[:3], ["create", "pwrite", "fsync"])

    def test_a_recycled_segment_gives_back_nothing_of_its_former_life(self) -> None:
        """The generation, and a mark and salt of its own."""
        at_work = begun(self.disk)
        for number in range(30):
            at_work.write([(b"old %d" % number + bytes(200), False)])
            if len(at_work.closed) > 1:
                oldest = at_work.closed[0].generation
                at_work.write([(checkpoint(oldest + 1, at_work.sequence), True)])
                at_work.recycle(oldest)
        self.assertLess(len(self.disk.listdir(WHERE)), 6)
        left = [payload for payload in found(self.disk.reboot("none")) if payload.startswith(b"old")]
        self.assertLess(len(left), 15)
        self.assertEqual(left, sorted(left, key=lambda payload: int(payload[4:6].strip(b"\0"))))

    def test_content_that_looks_like_a_record_is_not_one(self) -> None:
        """Not even behind a torn record: who sends mail knows neither mark nor salt."""
        at_work = begun(self.disk)
        fake = struct.pack("<4sIQQI", b"QPJR", 3, at_work.generation, 2, 0) + b"bad"
        at_work.write([(fake * 5, False)])
        path = f"{WHERE}/00000000"
        handle = self.disk.open(path)
        self.disk.pwrite(handle, b"\xff", HEADER_OCTETS + 5)  # damage the real record's header
        self.assertEqual(found(self.disk), [])

    @given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 6))
    def test_of_a_torn_batch_only_whole_records_are_found(self, seed: int, first: int, second: int) -> None:
        """And everything of the batches before it."""
        disk = CrashDisk(directories=[WHERE, ASIDE])
        at_work = begun(disk, 65536)
        chance = Random(seed)
        acknowledged = [b"r" + chance.randbytes(chance.randrange(900)) for _ in range(first)]
        at_work.write([(payload, False) for payload in acknowledged])
        torn = [b"r" + chance.randbytes(chance.randrange(2000)) for _ in range(second)]
        disk.die_at = disk.count() + 1  # the write happens, the sync does not
        try:
            at_work.write([(payload, False) for payload in torn])
        except BaseException as cut:
            self.assertEqual(type(cut).__name__, "PowerCut")
        left = found(disk.reboot(chance))
        self.assertEqual(left[:first], acknowledged)
        for payload in left[first:]:
            self.assertIn(payload, torn)

    def test_damage_inside_loses_one_record_and_is_told(self) -> None:
        """What follows it is still found."""
        at_work = begun(self.disk)
        for number in range(20):
            at_work.write([(b"%d" % number + bytes(150), False)])
        handle = self.disk.open(f"{WHERE}/00000000")
        self.disk.pwrite(handle, b"\xff", HEADER_OCTETS + 200)
        again = journal(self.disk)
        again.recover()
        self.assertEqual(len(list(again.records())), 19)
        [warning] = again.warnings
        self.assertIn("records 2 to 2 in segment 00000000 cannot be read", warning)

    def test_a_header_that_cannot_be_read_sets_the_segment_aside_whole(self) -> None:
        """Nothing is deleted that was not understood."""
        at_work = begun(self.disk)
        at_work.write([(b"precious", False)])
        handle = self.disk.open(f"{WHERE}/00000000")
        self.disk.pwrite(handle, b"\xff", 20)
        again = journal(self.disk)
        again.recover()
        self.assertEqual(self.disk.listdir(ASIDE), ["journal-00000000"])
        self.assertIn(b"precious", self.disk.read(f"{ASIDE}/journal-00000000"))
        self.assertEqual(len(again.warnings), 1)

    def test_what_is_no_segment_keeps_nothing_from_starting(self) -> None:
        """Somebody has put it there."""
        at_work = begun(self.disk)
        at_work.write([(b"precious", False)])
        self.disk.close(self.disk.open(f"{WHERE}/00000000~", create=True))
        again = journal(self.disk)
        again.recover()
        self.assertEqual([payload for _, payload in again.records()], [b"precious"])
        self.assertEqual((self.disk.listdir(ASIDE), len(again.warnings)), (["journal-00000000~"], 1))

    def told(self, gone: str, low: int = 1) -> list[str]:
        """What is told of a journal of three segments, two records each, that lacks one of them."""
        disk = CrashDisk(directories=[WHERE, ASIDE])
        at_work = begun(disk)
        for number in range(5):
            at_work.write([(b"%d" % number + bytes(400), False)])
        at_work.write([(checkpoint(low, at_work.sequence), True)])
        if gone:
            disk.unlink(f"{WHERE}/{gone}")
        again = journal(disk)
        again.recover()
        return again.warnings

    def test_a_segment_that_is_missing_is_told(self) -> None:
        self.assertEqual(self.told(""), [])
        self.assertEqual(self.told("00000001"), ["journal: generations 2 to 2 are missing before 00000002"])
        self.assertEqual(self.told("00000000"), ["journal: generations 1 to 1 are missing"])
        self.assertEqual(self.told("00000000", low=2), [])

    def test_records_that_are_missing_at_the_end_of_a_segment_are_told(self) -> None:
        at_work = begun(self.disk)
        for number in range(5):
            at_work.write([(b"%d" % number + bytes(400), False)])
        handle = self.disk.open(f"{WHERE}/00000000")
        self.disk.pwrite(handle, b"\xff", HEADER_OCTETS + 600)
        again = journal(self.disk)
        again.recover()
        self.assertEqual(again.warnings, ["journal: records 2 to 2 before segment 00000001 are missing"])

    def test_only_what_is_retired_is_written_over_by_the_next_life(self) -> None:
        """And that is: there is no end to lives. The newest checkpoint counts, wherever it is."""
        kept: list[bytes] = []
        room = []
        for life in range(8):
            at_work = begun(self.disk)
            low = at_work.generation
            for number in range(6):
                payload = b"%d %d" % (life, number) + bytes(300)
                at_work.write([(payload, False)])
                kept.append(payload)
            self.assertEqual([one for one in found(self.disk) if one[:1] != b"\6"], kept)
            if life % 2:  # all before this life is done with
                at_work.write([(checkpoint(low, at_work.sequence), True)])
                kept = kept[-6:]
            at_work.close()
            self.assertEqual([one for one in found(self.disk) if one[:1] != b"\6"], kept)
            room.append(len(self.disk.listdir(WHERE)))
        self.assertEqual(room[3], room[7], room)

    def test_a_full_disk_keeps_no_journal_from_starting_that_has_a_segment_left(self) -> None:
        begun(self.disk).close()
        again = journal(self.disk)
        again.recover()
        self.disk.fail("open", number=errno.ENOSPC, times=10**9, path=f"{WHERE}/00000003")
        again.start(spare=8)
        (place,) = again.write([(b"mark", True)])
        self.assertIsInstance(place, Position)

    def test_sequences_are_never_used_twice(self) -> None:
        """Over restarts, and when everything has been retired."""
        at_work = begun(self.disk)
        at_work.write([(b"one", False), (b"two", False)])
        again = begun(self.disk)
        (place,) = again.write([(b"three", False)])
        self.assertEqual(place, Position(2, 3))

    def test_a_failed_sync_is_final(self) -> None:
        """Nobody may be told 250; not even when the next sync would succeed."""
        at_work = begun(self.disk)
        self.disk.fail("fdatasync", number=errno.EIO)
        with self.assertRaises(JournalBroken):
            at_work.write([(b"lost", False)])

    def test_when_the_disk_is_full_marks_go_on_and_new_mail_does_not(self) -> None:
        """The last spare segment is kept for them."""
        at_work = begun(self.disk)
        self.disk.fail("open", number=errno.ENOSPC, path=f"{WHERE}/00000003", times=1000)
        results = []
        for _ in range(12):
            results += at_work.write([(bytes(300), False), (bytes(30), True)])
        mail, marks = results[::2], results[1::2]
        self.assertTrue(all(isinstance(place, Position) for place in marks))
        self.assertIsInstance(mail[-1], OSError)

    def test_segments_that_a_crash_left_half_made_are_made_anew(self) -> None:
        """They would be full with one record each, for the rest of the life."""
        begun(self.disk).close()
        for name, octets in (("00000007", b""), ("00000008", bytes(100))):
            handle = self.disk.open(f"{WHERE}/{name}", create=True)
            self.disk.pwrite(handle, octets, 0)
            self.disk.close(handle)
        again = begun(self.disk)
        self.assertFalse({"00000007", "00000008"} & {*self.disk.listdir(WHERE)})
        before = again.generation
        places = [place for _ in range(12) for place in again.write([(bytes(200), True)])]
        last = places[-1]
        assert isinstance(last, Position)
        self.assertEqual(last.generation - before, 2)

    def test_on_a_full_disk_segments_that_are_half_made_are_better_than_none(self) -> None:
        """They stay, and are written."""
        begun(self.disk).close()
        for name in self.disk.listdir(WHERE):
            self.disk.unlink(f"{WHERE}/{name}")
        for number in range(3):
            handle = self.disk.open(f"{WHERE}/{number:08d}", create=True)
            self.disk.pwrite(handle, bytes(200), 0)
            self.disk.close(handle)
        self.disk.syncfs(WHERE)  # as a shard does when it starts
        self.disk.fail("pwrite", number=errno.ENOSPC, times=10**9, path=f"{WHERE}/00000003")
        again = begun(self.disk)
        places = again.write([(b"x" * 70, True) for _ in range(3)])
        self.assertEqual([isinstance(place, Position) for place in places], [True] * 3)
        self.assertEqual(found(self.disk.reboot("none")), [b"x" * 70] * 3)

    def test_a_full_descriptor_table_when_a_segment_is_full_refuses_and_passes(self) -> None:
        """Nothing of it is final: what could not be written then can be later."""
        at_work = begun(self.disk)
        at_work.write([(bytes(700), False)])
        self.disk.fail("open", number=errno.EMFILE, path=WHERE, times=2)
        refused = at_work.write([(bytes(100), True), (bytes(300), False), (bytes(30), True)])
        self.assertEqual([isinstance(place, Position) for place in refused], [True, False, True])
        self.disk.heal()
        (place,) = at_work.write([(bytes(300), False)])
        self.assertIsInstance(place, Position)

    def test_a_segment_that_could_not_be_made_can_be_made_later(self) -> None:
        """Half of it takes neither the room nor the name."""
        at_work = begun(self.disk)
        before = self.disk.listdir(WHERE)
        at_work._free.clear()
        self.disk.fail("pwrite", number=errno.ENOSPC, path=f"{WHERE}/00000003")
        with self.assertRaises(OSError):
            at_work._allocate()
        self.assertEqual(self.disk.listdir(WHERE), before)
        at_work.write([(bytes(700), False)])
        (place,) = at_work.write([(bytes(700), False)])
        self.assertIsInstance(place, Position)

    def test_one_segment_is_open(self) -> None:
        """However many there have been; and none in the end."""
        at_work = begun(self.disk)
        for _ in range(5):
            at_work.write([(bytes(700), False)])
        self.assertEqual(len(self.disk.open_paths()), 1)
        at_work.close()
        at_work.close()
        self.assertEqual(self.disk.open_paths(), [])

    def test_what_is_set_aside_takes_the_place_of_nothing(self) -> None:
        for octets in (b"one", b"two"):
            handle = self.disk.open(f"{WHERE}/00000009", create=True)
            self.disk.pwrite(handle, octets, 0)
            journal(self.disk).recover()
        kept = sorted(self.disk.read(f"{ASIDE}/{name}") for name in self.disk.listdir(ASIDE))
        self.assertEqual(kept, [b"one", b"two"])

    def test_a_segment_cannot_be_closed_while_there_is_no_room_for_another(self) -> None:
        """Nothing has happened then: what is written goes on into the old one, and it passes."""
        at_work = begun(self.disk)
        at_work._free.clear()
        at_work.write([(b"a", False)])
        self.disk.fail("open", number=errno.ENOSPC, times=10**9, path=WHERE)
        with self.assertRaises(OSError) as raised:
            at_work.roll()
        self.assertEqual((raised.exception.errno, at_work.generation), (errno.ENOSPC, 1))
        at_work.write([(b"b", False)])
        self.disk.heal()
        at_work.roll()
        self.assertEqual(at_work.generation, 2)
        at_work.write([(b"c", False)])
        self.assertEqual(found(self.disk.reboot("none")), [b"a", b"b", b"c"])

    def test_a_record_that_fills_its_segment_to_the_last_octet_is_found(self) -> None:
        """With the end of the one before it, too."""
        at_work = begun(self.disk)
        wanted = [b"r" * at_work.largest, b"r" * 100, b"s" * (at_work.largest - 100 - RECORD_OCTETS), b"t"]
        places = at_work.write([(payload, False) for payload in wanted])
        self.assertEqual([one.generation for one in places if isinstance(one, Position)], [1, 2, 2, 3])
        self.assertEqual(found(self.disk.reboot("none")), wanted)

    def test_a_record_too_large_is_refused_alone(self) -> None:
        """The others of its batch are not touched."""
        at_work = begun(self.disk)
        places = at_work.write([(b"a", False), (bytes(2000), False), (b"b", False)])
        self.assertEqual([isinstance(place, Position) for place in places], [True, False, True])
