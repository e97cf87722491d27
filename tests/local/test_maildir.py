"""The mail store: names, content, and what a power cut at any moment leaves of a delivery."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator, Sequence
from itertools import count
from zlib import crc32

from attrs import evolve, frozen
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.disk.files import replace
from qmailpy.disk.placing import Placed, Placement, PlacingHere
from qmailpy.local.maildir import FEW, Delivered, Delivery, Store, sanitised_host, thd_octets, trouble
from qmailpy.queue.content import FileContent
from qmailpy.testing.crashdisk import CrashDisk, PowerCut
from qmailpy.values import Content, MemoryContent

HOME = "/home"
BOX = "example.org/ann/Maildir"
WHERE = f"{HOME}/mail/{BOX}"
MESSAGE = b"Received: from x\r\nSubject: hello\r\n\r\nbody\r\n.dot\r\n"
STORED = b"Return-Path: <bob@example.com>\nDelivered-To: ann@example.org\n" + MESSAGE.replace(b"\r\n", b"\n")
ON_THE_WIRE = len(STORED) + STORED.count(b"\n")
NAME = f"1700000000.Qabcdefghijklm00R2.mx.example.org,S={len(STORED)},W={ON_THE_WIRE}"


@frozen
class PiecesContent:
    """Content that comes in given pieces, as from a disk."""

    pieces: tuple[bytes, ...]
    in_memory: bool = False

    @property
    def size(self) -> int:
        return len(self.read())

    def read(self) -> bytes:
        return b"".join(self.pieces)

    def chunks(self, octets: int = 65536) -> Iterator[bytes]:
        yield from self.pieces

    def header(self, limit: int = 65536) -> bytes:
        return MemoryContent(self.read()).header(limit)


def delivery(
    content: Content | bytes = MESSAGE, *, name: str = "abcdefghijklm00", number: int = 2, mailbox: str = BOX
) -> Delivery:
    return Delivery(
        id=name,
        number=number,
        arrival=1700000000.75,
        sender="bob@example.com",
        address="ann@example.org",
        mailbox=mailbox,
        content=MemoryContent(content) if isinstance(content, bytes) else content,
    )


def filed(disk: CrashDisk, octets: bytes, name: str = "content") -> FileContent:
    """Content in a file of the disk, durable."""
    path = f"{HOME}/{name}"
    replace(disk, path, octets)
    return FileContent(disk, path, len(octets))


def store(disk: CrashDisk) -> Store:
    return Store(disk, f"{HOME}/mail", "mx.example.org")


class BinaryTests(SynchronousTestCase):
    """Messages that came as BINARYMIME."""

    HEAD = b"Content-Type: image/gif\r\nContent-Transfer-Encoding: binary\r\n\r\n"

    def stored(self, content: bytes) -> bytes:
        return b"".join(thd_octets(evolve(delivery(content), binary=True))).partition(b"Delivered-To: ")[2]

    def test_parts_that_are_no_lines_are_stored_in_base64(self) -> None:
        """POP3 would spoil them (its lines end in CRLF); what they hold is the same."""
        found = self.stored(self.HEAD + b"\0\n\r\xff")
        self.assertIn(b"\nContent-Transfer-Encoding: base64\n\nAAoN/w==", found)

    def test_what_cannot_be_made_lines_is_stored_as_it_is(self) -> None:
        """Rather than lost."""
        content = b"Content-Type: multipart/signed; boundary=x\r\n\r\n--x\r\n\r\n\0\r\n--x--\r\n"
        self.assertTrue(self.stored(content).endswith(b"\n--x\n\n\0\n--x--\n"))


class DeliveryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.disk = CrashDisk(directories=[HOME])
        self.store = store(self.disk)

    def tearDown(self) -> None:
        self.assertEqual(self.disk.open_paths(), [])

    def test_the_first_delivery_makes_the_mailbox(self) -> None:
        """Maildir++ with its three directories; the message is in new/ under a name made of its id, with its size."""
        done = self.store.thd_deliver(delivery())
        self.assertEqual(sorted(self.disk.listdir(WHERE)), ["cur", "new", "tmp"])
        self.assertEqual(self.disk.listdir(f"{WHERE}/new"), [NAME])
        self.assertEqual(done, Delivered(f"{WHERE}/new/{NAME}", BOX, crc32(STORED), True))
        self.assertEqual(self.disk.listdir(f"{WHERE}/tmp"), [])

    def test_the_file_holds_two_fields_and_the_message_with_lf_line_ends(self) -> None:
        self.store.thd_deliver(delivery())
        self.assertEqual(self.disk.read(f"{WHERE}/new/{NAME}"), STORED)

    def test_a_message_that_is_not_in_memory_is_stored_alike(self) -> None:
        self.store.thd_deliver(delivery(PiecesContent((MESSAGE[:16], MESSAGE[16:17], MESSAGE[17:]))))
        self.assertEqual(self.disk.read(f"{WHERE}/new/{NAME}"), STORED)

    def test_without_an_end_of_its_last_line_the_size_on_the_wire_is_left_out(self) -> None:
        """Programs disagree about it: Dovecot counts no CRLF that it adds."""
        self.store.thd_deliver(delivery(MESSAGE[:-2]))
        (name,) = self.disk.listdir(f"{WHERE}/new")
        self.assertTrue(name.endswith(f",S={len(STORED) - 1}"))

    def test_the_null_sender_is_an_empty_path(self) -> None:
        self.assertTrue(b"".join(thd_octets(evolve(delivery(), sender=""))).startswith(b"Return-Path: <>\n"))

    def test_an_address_cannot_add_a_field(self) -> None:
        octets = b"".join(thd_octets(evolve(delivery(), sender="a\r\nX: y\n@b\0", address="c\nd")))
        self.assertTrue(octets.startswith(b"Return-Path: <a X: y @b >\nDelivered-To: c d\nReceived: "))

    @given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b""]), max_size=12))
    def test_line_ends_are_converted_wherever_the_pieces_are_cut(self, pieces: list[bytes]) -> None:
        """CRLF becomes LF, and nothing else changes."""
        octets = b"".join(thd_octets(delivery(PiecesContent(tuple(pieces)))))
        head = octets.index(b"ann@example.org\n") + len(b"ann@example.org\n")
        self.assertEqual(octets[head:], b"".join(pieces).replace(b"\r\n", b"\n"))

    def test_the_host_cannot_be_mistaken_for_flags_or_a_directory(self) -> None:
        self.assertEqual(sanitised_host("mx-1.example.org"), "mx-1.example.org")
        self.assertEqual(sanitised_host("a/b:c,d"), "a\\057b\\072c\\054d")

    def test_a_path_that_leads_out_of_the_store_is_refused(self) -> None:
        for path in ("../x/Maildir", "/etc/Maildir", "a//b", "", "a/./b"):
            self.assertRaises(OSError, self.store.thd_deliver, delivery(mailbox=path))
        self.assertEqual(self.disk.listdir(HOME), [])

    def test_a_leftover_of_an_attempt_that_was_cut_short_is_no_obstacle(self) -> None:
        self.store.thd_deliver(delivery(name="other0000000000"))
        handle = self.disk.open(f"{WHERE}/tmp/{NAME.partition(',')[0]}", create=True)
        self.disk.pwrite(handle, b"leftover, longer than the message: " + b"x" * 5000, 0)
        self.disk.close(handle)
        self.store.thd_deliver(delivery())
        self.assertEqual(self.disk.read(f"{WHERE}/new/{NAME}"), STORED)
        self.assertEqual(self.disk.listdir(f"{WHERE}/tmp"), [])

    def test_a_mailbox_that_was_removed_is_made_again(self) -> None:
        self.store.thd_deliver(delivery())
        self.disk.rename(f"{HOME}/mail/example.org", f"{HOME}/gone")
        self.assertTrue(self.store.thd_deliver(delivery()).fresh)
        self.assertEqual(self.disk.listdir(f"{WHERE}/new"), [NAME])

    def test_a_delivery_that_fails_leaves_nothing_behind(self) -> None:
        self.store.thd_deliver(delivery(name="other0000000000"))
        for operation in ("open", "pwrite", "rename"):
            self.disk.fail(operation, 1, errno.ENOSPC)
            self.assertRaises(OSError, self.store.thd_deliver, delivery())
            self.assertEqual(self.disk.listdir(f"{WHERE}/tmp"), [])
            self.assertEqual(len(self.disk.listdir(f"{WHERE}/new")), 1)

    def test_want_of_space_and_other_trouble_are_told_apart(self) -> None:
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE):
            self.assertEqual(trouble(OSError(number, "")).enhanced, "4.3.1")
        for number in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EIO):
            self.assertEqual(trouble(OSError(number, "")).enhanced, "4.2.0")


class ReplayTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.disk = CrashDisk(directories=[HOME])
        self.store = store(self.disk)
        self.path = self.store.thd_deliver(delivery()).path

    def test_a_delivery_that_is_there_is_left_alone(self) -> None:
        before = self.disk.count()
        self.assertEqual([one.path for one in store(self.disk).thd_replay(delivery())], [self.path])
        self.assertEqual(self.disk.count(), before)

    def test_a_delivery_that_a_reader_has_seen_is_left_alone(self) -> None:
        """In cur/, with any flags."""
        seen = f"{WHERE}/cur/{NAME}:2,RS"
        self.disk.rename(self.path, seen)
        before = self.disk.count()
        self.assertEqual([one.path for one in self.store.thd_replay(delivery())], [seen])
        self.assertEqual(self.disk.count(), before)

    def test_a_delivery_that_is_missing_is_made(self) -> None:
        self.disk.unlink(self.path)
        self.store.thd_replay(delivery())
        self.assertEqual(self.disk.read(self.path), STORED)

    def test_a_torn_delivery_is_replaced_where_it_is(self) -> None:
        for path in (self.path, f"{WHERE}/cur/{NAME}:2,S"):
            self.disk.rename(self.path, path)
            for torn in (b"", STORED[:-1], STORED[:-1] + b"\0", STORED + b"more", bytes(len(STORED))):
                handle = self.disk.open(path)
                self.disk.truncate(handle, 0)
                self.disk.pwrite(handle, torn, 0)
                self.disk.close(handle)
                self.store.thd_replay(delivery())
                self.assertEqual(self.disk.read(path), STORED)
                self.assertEqual(len(self.disk.listdir(f"{WHERE}/new") + self.disk.listdir(f"{WHERE}/cur")), 1)

    def test_other_messages_are_not_taken_for_it(self) -> None:
        other = self.store.thd_deliver(delivery(number=3)).path
        self.disk.unlink(self.path)
        self.store.thd_replay(delivery())
        self.assertEqual({self.disk.read(self.path), self.disk.read(other)}, {STORED})

    def test_a_second_name_in_tmp_is_removed(self) -> None:
        handle = self.disk.open(f"{WHERE}/tmp/{NAME.partition(',')[0]}", create=True)
        self.disk.close(handle)
        self.store.thd_replay(delivery())
        self.assertEqual(self.disk.listdir(f"{WHERE}/tmp"), [])


class SyncTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.disk = CrashDisk(directories=[HOME])
        self.store = store(self.disk)

    def test_a_mailbox_that_nobody_can_open_any_more_is_synced_all_the_same(self) -> None:
        """Its rights were changed, there is no descriptor: its journal segment is to go."""
        for problem in (errno.EACCES, errno.EMFILE):
            for operation in ("open", "sync_directory"):
                disk = CrashDisk(directories=[HOME])
                done = store(disk).thd_deliver(delivery())
                self.store = store(disk)
                disk.fail(operation, number=problem, times=10**9, path=f"{HOME}/mail/{BOX}")
                self.store.thd_sync([done])
                self.assertIn(MESSAGE.replace(b"\r\n", b"\n"), disk.reboot("none").read(done.path))

    def test_a_mailbox_that_was_moved_is_synced_where_it_is(self) -> None:
        """With its user, say."""
        done = self.store.thd_deliver(delivery())
        self.disk.mkdir(f"{HOME}/mail/example.net")
        self.disk.rename(f"{HOME}/mail/{BOX}", f"{HOME}/mail/example.net/ann")
        self.store.thd_sync([done])
        found = self.disk.reboot("none")
        [name] = found.listdir(f"{HOME}/mail/example.net/ann/new")
        self.assertEqual(found.read(f"{HOME}/mail/example.net/ann/new/{name}"), STORED)

    def test_a_sync_that_fails_is_not_helped_by_another(self) -> None:
        """The kernel has marked as clean what it could not write."""
        disk = CrashDisk(directories=[HOME])
        done = store(disk).thd_deliver(delivery())
        disk.fail("fsync", number=errno.EIO, path=f"{HOME}/mail/{BOX}")
        self.assertRaises(OSError, store(disk).thd_sync, [done])
        self.assertEqual(disk.count("syncfs"), 0)

    def test_few_files_are_synced_one_by_one_and_many_at_once(self) -> None:
        few = [self.store.thd_deliver(delivery(number=number)) for number in range(FEW)]
        self.store.thd_sync(few)
        self.assertEqual((self.disk.count("fsync"), self.disk.count("syncfs")), (FEW, 0))
        self.store.thd_sync([self.store.thd_deliver(delivery(number=number)) for number in range(FEW + 1)])
        self.assertEqual((self.disk.count("fsync"), self.disk.count("syncfs")), (FEW, 1))

    def test_a_known_mailbox_costs_one_directory_sync(self) -> None:
        self.store.thd_sync([self.store.thd_deliver(delivery())])
        before = self.disk.count("sync_directory")
        self.store.thd_sync([self.store.thd_deliver(delivery(number=3))])
        self.assertEqual(self.disk.count("sync_directory"), before + 1)

    def test_a_delivery_that_a_reader_has_moved_is_synced_where_it_is(self) -> None:
        done = self.store.thd_deliver(delivery())
        self.disk.rename(done.path, f"{WHERE}/cur/{NAME}:2,S")
        self.store.thd_sync([done])
        self.assertEqual(self.disk.reboot().read(f"{WHERE}/cur/{NAME}:2,S"), STORED)

    def test_a_delivery_that_a_reader_has_removed_is_no_trouble(self) -> None:
        done = self.store.thd_deliver(delivery())
        self.disk.unlink(done.path)
        self.store.thd_sync([done])
        self.disk.rename(f"{HOME}/mail/example.org", f"{HOME}/gone")
        self.store.thd_sync([done])

    def test_nothing_to_sync_touches_no_disk(self) -> None:
        self.store.thd_sync([])
        self.assertEqual(self.disk.count(), 0)

    def test_a_failed_sync_can_be_mended_by_writing_anew_only(self) -> None:
        """After the failure the file can be read, whole, and a plain replay believes it; the disk never got it."""
        for mend, kept in (("nothing", False), ("replay", False), ("doubtful replay", True), ("rewrite", True)):
            disk = CrashDisk(directories=[HOME])
            mail = store(disk)
            done = mail.thd_deliver(delivery())
            disk.fail("fsync")
            self.assertRaises(OSError, mail.thd_sync, [done])
            if "replay" in mend:
                [done] = mail.thd_replay(delivery(), doubtful=mend == "doubtful replay")
            elif mend == "rewrite":
                mail.thd_rewrite(done)
            mail.thd_sync([done])
            after = disk.reboot()
            self.assertEqual(after.exists(done.path) and after.read(done.path) == STORED, kept, mend)

    def test_a_delivery_is_rewritten_where_a_reader_has_moved_it(self) -> None:
        done = self.store.thd_deliver(delivery())
        self.store.thd_rewrite(done)
        seen = f"{WHERE}/cur/{NAME}:2,S"
        self.disk.rename(done.path, seen)
        self.store.thd_rewrite(done)
        self.assertEqual(self.disk.read(seen), STORED)
        self.assertEqual((self.disk.listdir(f"{WHERE}/new"), self.disk.listdir(f"{WHERE}/tmp")), ([], []))
        self.disk.unlink(seen)
        self.store.thd_rewrite(done)
        self.assertEqual(self.disk.listdir(f"{WHERE}/cur"), [])

    def test_a_delivery_that_has_changed_is_not_taken_for_whole(self) -> None:
        done = self.store.thd_deliver(delivery())
        handle = self.disk.open(done.path)
        self.disk.pwrite(handle, b"\0", 9)
        self.disk.close(handle)
        self.assertRaises(OSError, self.store.thd_rewrite, done)


class DiskPlacer(PlacingHere):
    """A placer that makes its files on a simulated disk, as far as it is let."""

    def __init__(self, disk: CrashDisk) -> None:
        super().__init__(disk)
        self.batches: list[int] = []
        self.dies_behind = 1000  # so many files

    def thd_place(self, files: Sequence[Placement]) -> list[Placed | OSError]:
        self.batches.append(len(files))
        made = super().thd_place(files[: self.dies_behind])
        self.dies_behind -= len(made)
        if len(made) < len(files):
            raise OSError(errno.EIO, "gone")
        return made


class SeveralTests(SynchronousTestCase):
    """Several deliveries at once."""

    def setUp(self) -> None:
        self.disk = CrashDisk(directories=[HOME])
        self.placer = DiskPlacer(self.disk)
        self.store = Store(self.disk, f"{HOME}/mail", "mx.example.org", self.placer)

    def names(self, where: str = "new") -> list[str]:
        return sorted(name.split("Q")[1][:15] for name in self.disk.listdir(f"{WHERE}/{where}"))

    def test_they_are_written_as_single_ones_are(self) -> None:
        wanted = [delivery(name=f"abcdefghijklm{number:02}") for number in range(3)]
        wanted.append(delivery(b"x" * 70_000, name="abcdefghijklm03"))
        wanted.append(delivery(PiecesContent((b"a\r", b"\nb\r\n")), name="abcdefghijklm04"))
        wanted.append(delivery(b"x" * 300_000, name="abcdefghijklm05"))
        wanted.append(delivery(self.filed((b"x" * 78 + b"\r\n") * 5000), name="abcdefghijklm06"))
        wanted.append(evolve(delivery(self.filed(b"a\nb\r\n", "other"), name="abcdefghijklm07"), binary=True))
        made = self.store.thd_deliver_all(wanted)
        other = CrashDisk(directories=[HOME])
        alone = store(other)
        self.assertEqual(made[1:], [[alone.thd_deliver(one)] for one in wanted][1:])
        for one in made:
            assert isinstance(one, list)
            self.assertEqual(self.disk.read(one[0].path), other.read(one[0].path))
        self.assertEqual(self.placer.batches, [5])
        self.store.thd_deliver_all(wanted[:1])
        self.assertEqual(self.placer.batches, [5], "a small one alone is not worth a process")
        self.store.thd_deliver_all([wanted[6]])
        self.assertEqual(self.placer.batches, [5, 1])

    def filed(self, octets: bytes, name: str = "content") -> FileContent:
        return filed(self.disk, octets, name)

    def test_a_large_one_that_the_placer_cannot_make_is_made_all_the_same(self) -> None:
        """Its temporary file is left of an attempt that was cut short; then the process dies."""
        wanted = delivery(self.filed(b"x" * 78 + b"\r\n"))
        self.store.thd_deliver(delivery(name="other0000000000"))
        self.disk.close(self.disk.open(f"{WHERE}/tmp/{NAME.partition(',')[0]}", create=True))
        for dies_behind in (1000, 0):
            self.placer.dies_behind = dies_behind
            [made] = self.store.thd_deliver_all([wanted])
            assert isinstance(made, list)
            self.assertTrue(self.disk.read(made[0].path).endswith(b"\n" + b"x" * 78 + b"\n"))
            self.assertEqual(len(self.names()), 2)
            self.assertEqual(self.disk.listdir(f"{WHERE}/tmp"), [])
            self.disk.unlink(made[0].path)
            self.assertEqual(len(self.names()), 1)

    def test_a_large_one_whose_content_cannot_be_read_is_told_of(self) -> None:
        content = self.filed(b"x\r\n")
        self.disk.unlink(content.path)
        other = delivery(name="other0000000000")
        made = self.store.thd_deliver_all([delivery(content), other])
        self.assertEqual([isinstance(one, OSError) for one in made], [True, False])
        self.assertEqual(self.names(), ["other0000000000"])

    def test_one_that_cannot_be_written_is_told_of_by_itself(self) -> None:
        self.disk.fail("open", number=errno.ENOSPC, path=f"{WHERE}/tmp/1700000000.Qabcdefghijklm01", times=2)
        made = self.store.thd_deliver_all([delivery(name=f"abcdefghijklm{number:02}") for number in range(3)])
        self.assertEqual([isinstance(one, OSError) for one in made], [False, True, False])
        self.assertEqual(self.names(), ["abcdefghijklm00", "abcdefghijklm02"])

    def test_a_mailbox_that_was_removed_is_made_again(self) -> None:
        wanted = [delivery(name=f"abcdefghijklm{number:02}") for number in range(2)]
        self.store.thd_deliver_all(wanted)
        self.disk.rename(f"{HOME}/mail/example.org", f"{HOME}/gone")
        self.assertTrue(all(isinstance(one, list) for one in self.store.thd_deliver_all(wanted)))
        self.assertEqual(self.names(), ["abcdefghijklm00", "abcdefghijklm01"])

    def test_a_process_that_dies_amid_a_batch_costs_no_mail_and_doubles_none(self) -> None:
        """What it has made may have been read, and moved to cur/, by then."""
        place = self.placer.thd_place

        def thd_place(files: Sequence[Placement]) -> list[Placed | OSError]:
            try:
                return place(files)
            except OSError:
                [name] = [name for name in self.disk.listdir(f"{WHERE}/new") if "klm00" in name]
                self.disk.rename(f"{WHERE}/new/{name}", f"{WHERE}/cur/{name}:2,S")
                raise

        self.patch(self.placer, "thd_place", thd_place)
        self.placer.dies_behind = 2
        made = self.store.thd_deliver_all([delivery(name=f"abcdefghijklm{number:02}") for number in range(4)])
        self.assertTrue(all(isinstance(one, list) for one in made))
        self.assertEqual(self.names("cur"), ["abcdefghijklm00"])
        self.assertEqual(self.names(), [f"abcdefghijklm{number:02}" for number in (1, 2, 3)])


class PowerCutTests(SynchronousTestCase):
    """The promise: once thd_sync has returned, or replay and thd_sync after a cut, the message is there and whole."""

    def deliveries(self, many: int) -> list[Delivery]:
        boxes = (BOX, "example.org/bea/Maildir", "example.net/ann/Maildir")
        return [
            delivery(MESSAGE + b"%d\r\n" % number * 300, number=number, mailbox=boxes[number % 3])
            for number in range(many)
        ]

    def large(self, disk: CrashDisk, many: int, *, make: bool = False) -> list[Delivery]:
        """The same, each in a file of the disk."""
        wanted = []
        for one in self.deliveries(many):
            octets = one.content.read()
            if make:
                filed(disk, octets, str(one.number))
            wanted.append(evolve(one, content=FileContent(disk, f"{HOME}/{one.number}", len(octets))))
        return wanted

    def held(self, disk: CrashDisk, wanted: list[Delivery]) -> bool:
        """Whether each is there exactly once, whole, and nothing else."""
        for mailbox in {one.mailbox for one in wanted}:
            where = f"{HOME}/mail/{mailbox}"
            here = [one for one in wanted if one.mailbox == mailbox]
            names = [f"{where}/new/{name}" for name in disk.listdir(f"{where}/new")]
            found = sorted(disk.read(name) for name in names)
            if found != sorted(b"".join(thd_octets(one)) for one in here):
                return False
        return True

    def check(self, many: int, seeds: int) -> int:
        """Cut before every step of deliver-and-sync, then of replay-and-sync; the number of steps."""
        wanted = self.deliveries(many)
        for die_at in count():
            disk = CrashDisk(die_at, directories=[HOME])
            try:
                mail = store(disk)
                mail.thd_sync([mail.thd_deliver(one) for one in wanted])
                disk.cut()
                synced = True
            except PowerCut:
                synced = False
            for seed in range(seeds):
                after = disk.reboot(random.Random(seed), reorder=seed % 2 == 0)
                if synced and not self.held(after, wanted):
                    return -1
                after.die_at = random.Random(die_at * 1000 + seed).randint(0, 40)
                try:
                    mail = store(after)
                    mail.thd_sync([path for one in wanted for path in mail.thd_replay(one)])
                except PowerCut:
                    after = after.reboot(random.Random(seed))
                    mail = store(after)
                    mail.thd_sync([path for one in wanted for path in mail.thd_replay(one)])
                if not self.held(after.reboot(), wanted):
                    return -1
            if synced:
                return die_at
        raise AssertionError

    def test_a_few_deliveries_survive_a_cut_at_any_step(self) -> None:
        self.assertGreater(self.check(3, 12), 20)

    def test_large_deliveries_made_together_survive_a_cut_at_any_step(self) -> None:
        for die_at in count():
            disk = CrashDisk(directories=[HOME])
            wanted = self.large(disk, 3, make=True)
            disk.die_at = len(disk.operations) + die_at
            synced = False
            try:
                mail = Store(disk, f"{HOME}/mail", "mx.example.org", PlacingHere(disk))
                made = mail.thd_deliver_all(wanted)
                mail.thd_sync([path for paths in made if isinstance(paths, list) for path in paths])
                disk.cut()
                synced = True
            except PowerCut:
                pass
            for seed in range(8):
                after = disk.reboot(random.Random(seed), reorder=seed % 2 == 0)
                wanted = self.large(after, 3)
                if synced:
                    self.assertTrue(self.held(after, wanted))
                mail = store(after)
                mail.thd_sync([path for one in wanted for path in mail.thd_replay(one)])
                after = after.reboot()
                self.assertTrue(self.held(after, self.large(after, 3)))
            if synced:
                self.assertGreater(die_at, 20)
                return

    def test_many_deliveries_survive_a_cut_at_any_step(self) -> None:
        self.assertGreater(self.check(FEW + 2, 4), 40)

    def test_each_sync_is_needed(self) -> None:
        """Leave out each kind of sync, and the same check finds mail lost: it would notice its absence."""
        real = CrashDisk.__init__
        for kind, path, many in (
            ("fsync", "", 3),
            ("sync_directory", "/new", 3),
            ("sync_directory", "/Maildir", 3),
            ("sync_directory", "/ann", 3),
            ("sync_directory", "/example.org", 3),
            ("sync_directory", "/mail", 3),
            ("sync_directory", HOME, 3),
            ("syncfs", "", FEW + 2),
        ):

            def deaf(self: CrashDisk, *args: object, kind: str = kind, path: str = path, **named: object) -> None:
                real(self, *args, **named)  # type: ignore[arg-type]
                self.ignore_sync = lambda what, where: what == kind and where.endswith(path)

            self.patch(CrashDisk, "__init__", deaf)
            self.assertEqual(self.check(many, 4), -1, (kind, path))
