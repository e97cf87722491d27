"""Quotas with others: Dovecot's quota plugin and we keep the same file over the same Maildir, and agree."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
import time
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from qmailpy.disk.files import RealFiles
from qmailpy.local.maildir import Delivery, Store
from qmailpy.local.quota import Amount, Limit, Tally, named_size
from qmailpy.values import MemoryContent
from tests.integration.peers import dovecot

LIMIT = Limit(1024 * 1024, 100)
ADDRESS = "ann@example.org"
EXTRA = """
mail_plugins = quota
plugin {
  quota = maildir:User quota
  quota_rule = *:storage=1M:messages=100
}
"""


class DovecotQuotaTests(SynchronousTestCase):
    def setUp(self) -> None:
        why = dovecot.missing()
        if why:
            raise SkipTest(why)
        self.home = tempfile.mkdtemp(prefix="qmailpy-quota-")
        os.chmod(self.home, 0o755)
        self.addCleanup(shutil.rmtree, self.home, ignore_errors=True)
        self.mail = os.path.join(self.home, "mail")
        self.maildir = os.path.join(self.mail, "example.org", "ann", "Maildir")
        self.store = Store(RealFiles(), self.mail, "mx.example.org")
        self.count = 0
        self.deliver(1000)
        self.other = dovecot.Dovecot(self.mail, "x", extra=EXTRA)
        self.addCleanup(self.other.stop)

    def tally(self) -> Tally:
        return Tally(RealFiles(), self.maildir, LIMIT, time.time)

    def deliver(self, octets: int) -> None:
        """As the local channel does."""
        self.count += 1
        delivery = Delivery(
            id=f"abcdefghijkl{self.count:03}",
            number=0,
            arrival=1700000000.0 + self.count,
            sender="x@example.com",
            address=ADDRESS,
            mailbox="example.org/ann/Maildir",
            content=MemoryContent(b"Subject: x\r\n\r\n" + b"x" * octets + b"\r\n"),
        )
        done = self.store.thd_deliver(delivery)
        self.tally().thd_add(named_size(done.path), 1)

    def theirs(self, *first: str) -> Amount:
        """What Dovecot says."""
        dovecot.give(self.mail, pwd.getpwnam(dovecot.USER))
        if first:
            self.other.doveadm(*first)
        values = {}
        for line in self.other.doveadm("-f", "tab", "quota", "get", "-u", ADDRESS).splitlines()[1:]:
            fields = line.split("\t")
            values[fields[1]] = int(fields[2])
        return Amount(values["STORAGE"], values["MESSAGE"])  # the former in KiB

    def agree(self, found: Amount) -> None:
        ours = self.tally().thd_amount()
        counted = self.tally().thd_count()
        self.assertEqual(ours, counted)
        self.assertEqual((-(-ours.octets // 1024), ours.messages), (found.octets, found.messages))

    def test_we_agree_whoever_adds_and_removes(self) -> None:
        self.agree(self.theirs())
        for octets in (5000, 20000, 300):
            self.deliver(octets)
            self.agree(self.theirs())
        dovecot.give(self.mail, pwd.getpwnam(dovecot.USER))
        self.other.doveadm("save", "-u", ADDRESS, "-m", "INBOX", stdin=b"Subject: y\n\n" + b"y" * 7000 + b"\n")
        self.agree(self.theirs())
        self.agree(self.theirs("expunge", "-u", ADDRESS, "mailbox", "INBOX", "larger", "6000"))
        self.deliver(100)
        self.agree(self.theirs())
        self.assertEqual(self.tally().thd_amount().messages, 4)

    def test_our_count_is_theirs(self) -> None:
        """A file that we have written anew, and one that they have."""
        self.deliver(5000)
        self.tally().thd_recount()
        before = (Path(self.maildir) / "maildirsize").read_text().splitlines()[1].split()
        self.agree(self.theirs())
        self.agree(self.theirs("quota", "recalc", "-u", ADDRESS))
        after = (Path(self.maildir) / "maildirsize").read_text().splitlines()[1].split()
        self.assertEqual(before, after)
