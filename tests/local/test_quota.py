"""The file maildirsize, as others keep it."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.disk.files import RealFiles
from qmailpy.local.quota import (
    CERTAIN_S,
    LARGE_OCTETS,
    Amount,
    Limit,
    Tally,
    domain_tally,
    named_size,
    parse,
    thd_count_maildir,
)

LIMIT = Limit(1000, 10)


class QuotaTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.domain = Path(self.mktemp())
        self.maildir = self.domain / "ann" / "Maildir"
        for folder in ("", ".lists", ".Trash"):
            for part in ("new", "cur", "tmp"):
                (self.maildir / folder / part).mkdir(parents=True)
        self.now = 2_000_000_000.0  # of all that is written here
        self.late = self.now
        self.settle()

    def settle(self) -> None:
        """What there is has been there for a second."""
        for place in (*self.maildir.rglob("*"), self.maildir):
            os.utime(place, (self.now - 1, self.now - 1))

    def put(self, name: str, octets: int, folder: str = "", part: str = "new") -> None:
        path = self.maildir / folder / part / name
        path.write_bytes(b"x" * octets)
        os.utime(path.parent, (self.now, self.now))

    def remove(self, name: str, part: str = "new") -> None:
        """As a tool does that knows nothing of quotas."""
        (self.maildir / part / name).unlink()
        os.utime(self.maildir / part, (self.now, self.now))

    def tally(self, limit: Limit = LIMIT) -> Tally:
        return Tally(RealFiles(), str(self.maildir), limit, lambda: self.late)

    def write(self, text: bytes, age_s: float = 0.5) -> None:
        (self.maildir / "maildirsize").write_bytes(text)
        os.utime(self.maildir / "maildirsize", (self.now - age_s, self.now - age_s))

    def written(self) -> bytes:
        return (self.maildir / "maildirsize").read_bytes()


class ParseTests(SynchronousTestCase):
    def test_the_sum_of_its_lines_counts(self) -> None:
        for octets, limit, amount in (
            (b"1000S,10C\n100 1\n", Limit(1000, 10), Amount(100, 1)),
            (b"10C,1000S\n   100    1\n-50 -1\n", Limit(1000, 10), Amount(50, 0)),
            (b"1000S\n0 0\n", Limit(1000), Amount(0, 0)),
            (b"\n5 1\n", Limit(), Amount(5, 1)),
        ):
            found = parse(octets)
            assert found is not None, octets
            self.assertEqual((found.limit, found.amount), (limit, amount))

    def test_what_is_torn_or_none_is_not_believed(self) -> None:
        for octets in (
            b"",
            b"1000S",
            b"1000S\n",
            b"1000S\n100 1",
            b"1000S\nx 1\n",
            b"xS\n1 1\n",
            b"1S\n-5 -1\n",
            b"1S\n\n",
        ):
            self.assertIsNone(parse(octets), octets)

    def test_a_name_tells_the_size(self) -> None:
        for name, size in (
            ("1.Qx.host,S=123,W=130", 123),
            ("new/1.Qx.host,S=123:2,S", 123),
            ("1.x.host", 0),
            ("1.x,S=9x", 0),
            ("1.x,W=5,S=7", 7),
        ):
            self.assertEqual(named_size(name), size, name)

    def test_limits(self) -> None:
        self.assertEqual([bool(Limit()), bool(Limit(1)), bool(Limit(0, 1))], [False, True, True])
        self.assertFalse(LIMIT.broken_by(Amount(1000, 10)))
        self.assertTrue(LIMIT.broken_by(Amount(1001, 1)))
        self.assertTrue(LIMIT.broken_by(Amount(1, 11)))
        self.assertEqual(LIMIT.share(Amount(100, 9)), 0.9)
        self.assertEqual([Limit(5).head, Limit(0, 7).head, LIMIT.head], [b"5S", b"7C", b"1000S,10C"])


class TallyTests(QuotaTestCase):
    def test_all_folders_count_by_name_or_by_size(self) -> None:
        self.put("1.a,S=100", 1)
        self.put("2.b:2,S", 30, part="cur")
        self.put("3.c,S=5:2,ST", 5, ".lists", "cur")
        self.put("4.d", 7, ".Trash")
        self.put("5.e", 9, part="tmp")
        self.put(".hidden", 9)
        self.assertEqual(thd_count_maildir(RealFiles(), str(self.maildir)), Amount(142, 4))

    def test_a_missing_file_is_made(self) -> None:
        self.put("1.a,S=100", 100)
        self.assertEqual(self.tally().thd_amount(), Amount(100, 1))
        self.assertEqual(self.written(), b"1000S,10C\n100 1\n")
        self.assertEqual(sorted(os.listdir(self.maildir)), [".Trash", ".lists", "cur", "maildirsize", "new", "tmp"])

    def test_changes_are_appended(self) -> None:
        self.write(b"1000S,10C\n100 1\n")
        self.tally().thd_add(50, 1)
        self.tally().thd_add(-100, -1)
        self.assertEqual(self.written(), b"1000S,10C\n100 1\n50 1\n-100 -1\n")
        self.assertEqual(self.tally().thd_amount(), Amount(50, 1))

    def test_without_a_file_a_change_is_no_matter(self) -> None:
        self.tally().thd_add(50, 1)
        self.assertFalse((self.maildir / "maildirsize").exists())

    def test_another_quota_a_torn_or_a_large_file_is_counted_anew(self) -> None:
        self.put("1.a,S=100", 100)
        for text in (
            b"2000S,10C\n5 1\n",
            b"1000S\n5 1\n",
            b"1000S,10C\n5 1",
            b"1000S,10C\n" + b"1 1\n-1 -1\n" * (LARGE_OCTETS // 10),
        ):
            self.write(text)
            self.assertEqual(self.tally().thd_amount(), Amount(100, 1))
            self.assertEqual(self.written(), b"1000S,10C\n100 1\n")

    def test_certain_is_a_young_file_of_one_change_that_no_directory_is_younger_than(self) -> None:
        self.write(b"1000S,10C\n2000 1\n")
        self.assertEqual(self.tally().thd_certain(), Amount(2000, 1))
        self.write(b"1000S,10C\n2000 1\n1 1\n")
        self.assertEqual(self.tally().thd_certain(), Amount(0, 0))
        self.write(b"1000S,10C\n2000 1\n")
        self.late = self.now + CERTAIN_S
        self.assertEqual(self.tally().thd_certain(), Amount(0, 0))

    def test_what_another_tool_removes_makes_room_at_once(self) -> None:
        """Issue: counted right after deletions by other tools."""
        self.put("1.a,S=2000", 1)
        self.settle()
        self.write(b"1000S,10C\n2000 1\n")
        self.assertEqual(self.tally().thd_certain(), Amount(2000, 1))
        self.remove("1.a,S=2000")
        self.assertEqual(self.tally().thd_certain(), Amount(0, 0))

    def test_mail_that_comes_while_somebody_counts_makes_the_next_one_count(self) -> None:
        def thd_count(files: object, maildir: str) -> Amount:
            self.put("1.a,S=100", 1)
            return Amount(0, 0)

        tally = Tally(RealFiles(), str(self.maildir), LIMIT, lambda: self.late, thd_count=thd_count)
        self.assertEqual(tally.thd_recount(), Amount(0, 0))
        self.assertFalse((self.maildir / "maildirsize").exists())
        self.assertEqual(self.tally().thd_amount(), Amount(100, 1))

    def test_a_mailbox_that_is_not_there_is_empty(self) -> None:
        tally = Tally(RealFiles(), str(self.domain / "nobody" / "Maildir"), LIMIT, lambda: self.late)
        self.assertEqual(tally.thd_amount(), Amount(0, 0))

    def test_a_domain_is_the_sum_of_its_mailboxes(self) -> None:
        """A mailbox's own file is believed."""
        self.put("1.a,S=100", 1)
        other = self.domain / "bob" / "Maildir"
        (other / "cur").mkdir(parents=True)
        (other / "maildirsize").write_bytes(b"5000S\n400 4\n")
        tally = domain_tally(RealFiles(), str(self.domain), Limit(9000), lambda: self.late)
        self.assertIsNone(tally.thd_read())
        self.assertEqual(tally.thd_recount(), Amount(500, 5))
        tally.thd_add(10, 1)
        self.assertEqual(tally.thd_read(), Amount(510, 6))
