"""Mailboxes as sessions have them: locked, read, emptied."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from qmailpy.disk.files import RealFiles
from qmailpy.errors import MailboxInUse
from qmailpy.interfaces import IHolder, IMaildrop, IMailStore, IMessagePieces
from qmailpy.local.mailstore import AHEAD_OCTETS, SMALL_OCTETS, MailStore
from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.testing.held import HeldThreads
from qmailpy.values import Mailbox
from qmailpy.wire.pop3_message import END, encode

ANN = Mailbox(address="ann@example.org", path="example.org/ann/Maildir")
MESSAGE = b"a: b\n\nc\n.d\n"


@implementer(IHolder)
class Holder:
    """A session that is as silent as the test says."""

    def __init__(self) -> None:
        self.silent = 0.0
        self.evicted = False
        self.drop: IMaildrop | None = None

    def silent_s(self) -> float:
        return self.silent

    def evict(self) -> None:
        self.evicted = True
        if self.drop is not None:
            self.drop.release()


class StoreTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = self.mktemp()
        self.box = f"{self.root}/{ANN.path}"
        for folder in ("new", "cur", "tmp"):
            os.makedirs(f"{self.box}/{folder}")
        self.in_thread = HeldThreads()
        self.store = MailStore(RealFiles(), self.root, self.in_thread, ahead_octets=1 << 20)
        self.addCleanup(lambda: self.assertEqual(self.store.ahead_left, 1 << 20, "memory lost count"))

    def put(self, *names: str, content: bytes = MESSAGE) -> None:
        for name in names:
            with open(f"{self.box}/{name}", "wb") as target:
                target.write(content)

    def begin(self, coroutine: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(coroutine)

    def get(self, coroutine: Any) -> Any:
        return self.successResultOf(self.begin(coroutine))

    def open(self, holder: Holder | None = None) -> IMaildrop:
        holder = holder or Holder()
        drop: IMaildrop = self.get(self.store.open(ANN, holder))
        holder.drop = drop
        self.addCleanup(lambda: drop.release())
        return drop

    def read(self, drop: IMaildrop, index: int, lines: int | None = None) -> bytes:
        pieces = self.get(drop.fetch(index, lines))
        octets = b""
        while pieces.more:
            octets += self.get(pieces.next())
        pieces.close()
        return octets


class OpenTests(StoreTestCase):
    def test_the_parts_provide_what_they_say(self) -> None:
        self.put("new/1.a.h,W=15")
        verifyObject(IMailStore, self.store)
        drop = self.open()
        verifyObject(IMaildrop, drop)
        verifyObject(IMessagePieces, self.get(drop.fetch(0, None)))
        verifyObject(IMessagePieces, self.get(drop.fetch(0, 0)))

    def test_sizes_and_unique_ids(self) -> None:
        self.put("new/1.a.h,W=15", "cur/2.b.h:2,S")
        drop = self.open()
        self.assertEqual(list(drop.sizes), [15, 15])
        self.assertEqual([drop.uid(0), drop.uid(1)], ["1.a.h", "2.b.h"])

    def test_a_mailbox_that_never_got_mail_is_empty_and_stays_unmade(self) -> None:
        bob = Mailbox(address="bob@example.org", path="example.org/bob/Maildir")
        drop = self.get(self.store.open(bob, Holder()))
        self.assertEqual(len(drop.sizes), 0)
        self.get(drop.update((), ()))
        drop.release()
        self.assertFalse(os.path.exists(f"{self.root}/example.org/bob"))

    def test_a_path_that_leads_elsewhere_is_refused(self) -> None:
        for path in ("../x", "/etc", "a//b", "", "a/\0"):
            self.failureResultOf(self.begin(self.store.open(Mailbox(address="x@y", path=path), Holder())), OSError)

    def test_it_is_for_one_session(self) -> None:
        first = self.open()
        self.failureResultOf(self.begin(self.store.open(ANN, Holder())), MailboxInUse)
        first.release()
        self.open()

    def test_another_process_is_kept_out(self) -> None:
        """The lock is on a file: whoever has another store, has the same lock."""
        first = self.open()
        other = MailStore(RealFiles(), self.root, self.in_thread)
        self.failureResultOf(self.begin(other.open(ANN, Holder())), MailboxInUse)
        self.assertEqual(len(other), 0)
        first.release()
        self.get(other.open(ANN, Holder())).release()

    def test_two_that_come_at_once_do_not_both_get_it(self) -> None:
        self.in_thread.hold()
        first = self.begin(self.store.open(ANN, Holder()))
        self.failureResultOf(self.begin(self.store.open(ANN, Holder())), MailboxInUse)
        self.in_thread.go_on()
        self.successResultOf(first).release()

    def test_a_holder_that_was_silent_for_long_gives_way(self) -> None:
        holder = Holder()
        self.open(holder)
        holder.silent = 119.0
        self.failureResultOf(self.begin(self.store.open(ANN, Holder())), MailboxInUse)
        self.assertFalse(holder.evicted)
        holder.silent = 120.0
        self.open()
        self.assertTrue(holder.evicted)

    def test_one_that_gives_way_finishes_what_it_does(self) -> None:
        self.put("new/1.a.h,W=15")
        holder = Holder()
        drop = self.open(holder)
        self.in_thread.hold()
        removing = self.begin(drop.update((0,), ()))
        holder.silent = 500.0
        second = self.begin(self.store.open(ANN, Holder()))
        self.assertNoResult(second)
        self.in_thread.go_on()
        self.assertEqual(self.successResultOf(removing), 0)
        after = self.successResultOf(second)
        self.assertEqual(len(after.sizes), 0)
        after.release()

    def test_a_mailbox_that_cannot_be_listed_is_not_held(self) -> None:
        os.rmdir(f"{self.box}/new")
        self.put("new")
        self.failureResultOf(self.begin(self.store.open(ANN, Holder())), OSError)
        os.unlink(f"{self.box}/new")
        self.open()

    def test_release_can_be_said_twice(self) -> None:
        drop = self.open()
        self.successResultOf(drop.release())
        self.successResultOf(drop.release())
        self.failureResultOf(self.begin(drop.update((0,), ())), FileNotFoundError)


class ReadTests(StoreTestCase):
    def test_a_message_as_it_is_sent(self) -> None:
        self.put("new/1.a.h,W=15")
        self.assertEqual(self.read(self.open(), 0), b"a: b\r\n\r\nc\r\n..d\r\n.\r\n")

    def test_the_top_of_a_message(self) -> None:
        self.put("new/1.a.h,W=15")
        self.assertEqual(self.read(self.open(), 0, 1), b"a: b\r\n\r\nc\r\n.\r\n")

    def test_messages_in_order_are_read_ahead(self) -> None:
        self.put(*(f"new/{number}.a.h,W=15" for number in range(9)))
        drop = self.open()
        self.in_thread.asked.clear()
        self.assertIsNone(drop.at_hand(0))
        self.assertEqual(self.read(drop, 0), encode(MESSAGE) + END)
        for index in range(1, 9):
            self.assertEqual(drop.at_hand(index), encode(MESSAGE))
            self.assertIsNone(drop.at_hand(index))
        self.assertEqual(self.in_thread.asked, ["_thd_read"])

    def test_what_is_read_ahead_is_bounded(self) -> None:
        """A session's part, and all sessions together."""
        content = b"x" * 4095 + b"\n"
        self.put(*(f"new/{number:03}.a.h,W=4097" for number in range(200)), content=content)
        drop = self.open()
        self.read(drop, 0)
        used = (1 << 20) - self.store.ahead_left
        self.assertTrue(4096 < used <= AHEAD_OCTETS, used)
        drop.release()
        self.assertEqual(self.store.ahead_left, 1 << 20)
        self.store.ahead_left = 0
        drop = self.open()
        self.read(drop, 0)
        self.assertIsNone(drop.at_hand(1))
        self.store.ahead_left = 1 << 20

    def test_out_of_order_nothing_is_read_ahead(self) -> None:
        self.put(*(f"new/{number}.a.h,W=15" for number in range(9)))
        drop = self.open()
        self.read(drop, 5)
        self.assertIsNone(drop.at_hand(6))

    def test_a_large_message_comes_in_pieces(self) -> None:
        """Never more than a piece of it is in memory."""
        content = b"a: b\n\n" + (b"." + b"x" * 62 + b"\n") * 40000
        size = len(content) + 40002
        self.put(f"new/1.a.h,W={size}", content=content)
        drop = self.open()
        pieces = self.get(drop.fetch(0, None))
        octets = b""
        while pieces.more:
            piece = self.get(pieces.next())
            self.assertLess(len(piece), 300_000)
            octets += piece
        self.assertEqual(octets, encode(content) + END)

    def test_a_size_that_is_not_true_harms_nobody(self) -> None:
        content = b"a: b\n\n" + b"x\n" * 100_000
        self.put("new/1.a.h,W=15", "new/2.b.h,W=9999999", content=content)
        drop = self.open()
        self.assertEqual(self.read(drop, 0), encode(content) + END)
        self.assertEqual(self.read(drop, 1), encode(content) + END)

    def test_a_message_of_exactly_the_small_size(self) -> None:
        for size in (SMALL_OCTETS - 1, SMALL_OCTETS, SMALL_OCTETS + 1, 262144, 262145):
            content = b"x" * (size - 1) + b"\n"
            self.put("new/1.a.h", content=content)
            drop = self.open()
            self.assertEqual(self.read(drop, 0), encode(content) + END)
            self.assertEqual(self.read(drop, 0, 5), encode(content) + END)
            drop.release()
            os.unlink(f"{self.box}/qmailpy-sizes")

    def test_one_that_was_moved_and_flagged_is_found(self) -> None:
        self.put("new/1.a.h,W=15", "new/2.b.h,W=15")
        drop = self.open()
        os.rename(f"{self.box}/new/1.a.h,W=15", f"{self.box}/cur/1.a.h,W=15:2,FS")
        self.assertEqual(self.read(drop, 0), encode(MESSAGE) + END)
        os.rename(f"{self.box}/new/2.b.h,W=15", f"{self.box}/cur/2.b.h,W=15:2,")
        self.assertEqual(self.read(drop, 1, 9), encode(MESSAGE) + END)

    def test_one_that_was_removed_is_gone(self) -> None:
        self.put("new/1.a.h,W=15", "new/2.b.h,W=15", "new/3.c.h,W=15")
        drop = self.open()
        os.unlink(f"{self.box}/new/1.a.h,W=15")
        os.unlink(f"{self.box}/new/3.c.h,W=15")
        self.failureResultOf(self.begin(drop.fetch(0, None)), FileNotFoundError)
        self.failureResultOf(self.begin(drop.fetch(2, 0)), FileNotFoundError)
        self.assertEqual(self.read(drop, 1), encode(MESSAGE) + END)

    def test_a_session_that_ends_in_the_middle_leaves_nothing_open(self) -> None:
        content = b"x" * 1_000_000
        self.put("new/1.a.h,W=1000002", content=content)
        before = len(os.listdir("/proc/self/fd"))
        drop = self.open()
        pieces = self.get(drop.fetch(0, None))
        self.get(pieces.next())
        drop.release()
        pieces.close()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)


class UpdateTests(StoreTestCase):
    def there(self) -> list[str]:
        return sorted(f"{folder}/{name}" for folder in ("new", "cur") for name in os.listdir(f"{self.box}/{folder}"))

    def test_deleted_messages_are_removed_and_seen_ones_flagged(self) -> None:
        self.put("new/1.a,W=15", "new/2.b,W=15", "cur/3.c,W=15:2,F", "cur/4.d,W=15", "new/5.e,W=15", "cur/6.f,W=15:1,x")
        drop = self.open()
        self.assertEqual(self.get(drop.update((0,), (1, 2, 3, 5))), 0)
        self.assertEqual(
            self.there(),
            ["cur/2.b,W=15:2,S", "cur/3.c,W=15:2,FS", "cur/4.d,W=15:2,S", "cur/6.f,W=15:1,x", "new/5.e,W=15"],
        )

    def test_what_was_removed_makes_room(self) -> None:
        """The mailbox's quota file and its domain's have a line of it; one without a size makes them be counted."""
        self.put("new/1.a,S=14,W=15", "new/2.b,S=10,W=15", "cur/3.c,W=15")
        files = [f"{self.box}/maildirsize", f"{self.root}/example.org/qmailpy-domainsize"]
        for path in files:
            with open(path, "w") as target:
                target.write("1000S\n39 3\n")
        self.get(self.open().update((0, 1), ()))
        for path in files:
            with open(path) as source:
                self.assertEqual(source.read(), "1000S\n39 3\n-24 -2\n")

    def test_what_was_removed_and_has_no_size_makes_them_be_counted(self) -> None:
        self.put("cur/3.c,W=15")
        path = f"{self.box}/maildirsize"
        with open(path, "w") as target:
            target.write("1000S\n39 3\n")
        self.get(self.open().update((0,), ()))
        self.assertFalse(os.path.exists(path))

    def test_one_that_was_moved_is_removed_where_it_is(self) -> None:
        self.put("new/1.a,W=15", "new/2.b,W=15")
        drop = self.open()
        os.rename(f"{self.box}/new/1.a,W=15", f"{self.box}/cur/1.a,W=15:2,S")
        os.unlink(f"{self.box}/new/2.b,W=15")
        self.assertEqual(self.get(drop.update((0, 1), ())), 0)
        self.assertEqual(self.there(), [])

    def test_what_cannot_be_removed_is_told(self) -> None:
        """RFC 1939 s.6: -ERR, and what can be removed is."""
        self.put("new/1.a,W=15")
        os.mkdir(f"{self.box}/cur/2.b,W=15")
        self.put("cur/3.c,W=15")
        drop = self.open()
        self.assertEqual(self.get(drop.update((0, 1, 2), ())), 1)
        self.assertEqual(self.there(), ["cur/2.b,W=15"])

    def test_after_a_power_cut_nothing_comes_back(self) -> None:
        """The client was told +OK and forgets its unique-ids."""
        disk = CrashDisk(directories=["/mail/b/new", "/mail/b/cur"])
        for path in ("/mail/b/new/1.a,W=0", "/mail/b/cur/2.b,W=0:2,S"):
            handle = disk.open(path, create=True)
            disk.fsync(handle)
            disk.close(handle)
            disk.sync_directory(path.rpartition("/")[0])
        store = MailStore(disk, "/mail", maybeDeferred)
        drop = self.get(store.open(Mailbox(address="b@x", path="b"), Holder()))
        self.assertEqual(self.get(drop.update((0, 1), ())), 0)
        after = disk.reboot()
        self.assertEqual((after.listdir("/mail/b/new"), after.listdir("/mail/b/cur")), ([], []))
