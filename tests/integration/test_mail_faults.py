"""Full disks, mailboxes that cannot be written, no descriptors left, logs out of reach: mail waits, none is lost."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
import time
from typing import ClassVar

from twisted.trial.unittest import SkipTest

from qmailpy.cli.status import examine
from qmailpy.config.load import load
from qmailpy.control import call
from qmailpy.events.reading import thd_events
from qmailpy.records.record import Action
from qmailpy.stats.health import Level, Limits, worst
from tests.integration.node import Node, NodeCase, Settings, trace_and_message
from tests.integration.peers.client import Talk, message

MIB = 1 << 20


class FullDisk(NodeCase):
    """HOME is a file system of 24 MiB of its own."""

    fresh = True
    settings: ClassVar[Settings] = {
        "queue.reserve_octets": 4 * MIB,
        "queue.reserve_inodes": 10,
        "queue.segments": 4,
        "monitor.interval_s": 1,
    }
    place = ""

    def setUp(self) -> None:
        self.place = tempfile.mkdtemp(prefix="qmailpy-full-")
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=24m,mode=755", "qmailpy-test", self.place],
            capture_output=True,
            timeout=10,
            check=False,
        )
        if done.returncode != 0:
            os.rmdir(self.place)
            raise SkipTest("needs root and the right to mount a file system")
        try:
            super().setUp()
        except BaseException:
            self.unmount()
            raise

    def tearDown(self) -> None:
        """What addCleanup names runs before this, and the books are needed here."""
        try:
            super().tearDown()
        finally:
            self.node.clean_up()
            self.unmount()

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", self.place], timeout=10, check=False)
        os.rmdir(self.place)

    def make_node(self, settings: Settings) -> Node:
        return Node(settings, self.users, home=os.path.join(self.place, "home"))

    def events(self) -> list[str]:
        return [one.event for one in thd_events(self.node.path("log"))]

    def examined(self) -> tuple[Level, str]:
        found = examine(load(self.node.home), Limits(), time.time())
        return worst(found), "; ".join(one.text for one in found)

    def free(self) -> int:
        found = os.statvfs(self.place)
        return found.f_bavail * found.f_frsize

    def test_new_mail_is_refused_before_anything_is_lost_and_taken_again_later(self) -> None:
        """452 4.3.1; what is queued is delivered; the log says so once; with space again mail is taken again."""
        self.sink.answer = lambda line: "451 4.3.0 wait" if line.startswith("RCPT") else None
        with self.node.talk() as talk:
            self.assertTrue(talk.mail("a@b.example", ["x@remote.example"], message("queued")).startswith("250"))
        filler = os.path.join(self.place, "filler")
        with open(filler, "wb") as target:
            target.write(bytes(max(0, self.free() - 3 * MIB)))
        replies: list[str] = []

        def refused() -> bool:
            with self.node.talk() as talk:
                replies.append(talk.mail("a@b.example", ["alice@example.org"], message(f"full-{len(replies)}")))
            return not replies[-1].startswith("250")

        self.until(refused)
        self.assertEqual(replies[-1][:9], "452 4.3.1", replies)
        for _ in range(5):
            self.assertTrue(refused())
        self.until(lambda: "disk.full" in self.events())
        level, text = self.examined()
        self.assertEqual(level, Level.CRITICAL)
        self.assertIn("new mail is refused", text)
        self.node.wait_mailbox("alice", len([one for one in replies if one.startswith("250")]))
        self.sink.answer = lambda _: None
        self.sink.wait_mails(1)  # delivery goes on
        self.wait_idle()
        said = [line for line in self.log().splitlines() if "less than the reserve" in line]
        self.assertEqual(len(said), 1, said)
        os.unlink(filler)
        self.until(lambda: not refused())
        self.assertEqual(self.log().count("there is space again"), 1)
        self.until(lambda: "trouble.over" in self.events())
        accepted = len([one for one in replies if one.startswith("250")])
        self.assertEqual(len(self.node.wait_mailbox("alice", accepted)), accepted)
        self.wait_idle()

    def test_a_disk_without_a_single_octet_left_loses_nothing(self) -> None:
        """Filled to the end between two looks, behind the reserve's back."""
        with self.node.talk() as talk:  # alice is known from now on: the directory's file is on that disk too
            talk.mail("a@b.example", ["alice@example.org"], message("first"))
        self.node.wait_mailbox("alice", 1)
        filler = os.path.join(self.place, "filler")
        with open(filler, "wb", buffering=0) as target:
            try:
                while target.write(bytes(MIB)):
                    pass
            except OSError:
                pass
        large = message("large", (b"z" * 62 + b"\r\n") * 8000)
        replies = ["250 first"]
        for number in range(8):
            with self.node.talk() as talk:
                content = large if number % 2 else message(f"small-{number}")
                replies.append(talk.mail("a@b.example", ["alice@example.org"], content))
        self.assertEqual({reply[:3] for reply in replies} - {"250", "451", "452"}, set(), replies)
        self.assertTrue(any(reply.startswith("452 4.3.1") for reply in replies), replies)
        self.assertEqual(self.examined()[0], Level.CRITICAL)
        self.until(lambda: "disk.full" in str(call(self.node.home, "mta-0", "watch.conditions")))
        os.unlink(filler)

        def taken() -> bool:
            with self.node.talk() as talk:
                replies.append(talk.mail("a@b.example", ["alice@example.org"], message("after")))
            return replies[-1].startswith("250")

        self.until(taken)
        # What happened without room for a line of it is told as well, once there is some.
        self.until(lambda: {"disk.full", "trouble.over"} <= {*self.events()})
        accepted = len([one for one in replies if one.startswith("250")])
        self.assertEqual(len(self.node.wait_mailbox("alice", accepted)), accepted)
        self.wait_idle()


class Mailboxes(NodeCase):
    def test_a_mailbox_that_cannot_be_written_defers_only_its_own_mail(self) -> None:
        """A file stands where its directory should; the other recipient of the message has it at once."""
        folder = self.node.path("mail", "example.org", "alice")
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        with open(folder, "w"):
            pass
        with self.node.talk() as talk:
            reply = talk.mail("a@b.example", ["alice@example.org", "bob@example.org"], message("both"))
            self.assertTrue(reply.startswith("250"))
        self.node.wait_mailbox("bob", 1)
        self.until(lambda: any(one.current_to == "alice@example.org" for one in self.node.records(Action.PARTLY)))
        os.unlink(folder)
        (mail,) = self.node.wait_mailbox("alice", 1)
        self.assertEqual(trace_and_message(mail)[1].replace(b"\n", b"\r\n"), message("both"))
        self.wait_idle()
        self.assertEqual(len(self.node.mailbox("bob")), 1)

    def test_a_log_that_cannot_be_written_holds_no_mail_up(self) -> None:
        """A directory in the place of the transaction log; the lines come when it is gone."""
        with self.node.talk() as talk:
            talk.mail("a@b.example", ["alice@example.org"], message("before"))
        self.node.wait_mailbox("alice", 1)
        self.wait_idle()
        log = self.node.path("log", "mail.log_current")
        os.rename(log, log + ".away")
        os.mkdir(log)
        call(self.node.home, "mta-0", "log.reopen")
        with self.node.talk() as talk:
            self.assertTrue(talk.mail("a@b.example", ["alice@example.org"], message("during")).startswith("250"))
        self.node.wait_mailbox("alice", 2)
        os.rmdir(log)
        os.rename(log + ".away", log)
        call(self.node.home, "mta-0", "log.reopen")
        with self.node.talk() as talk:
            self.assertTrue(talk.mail("a@b.example", ["alice@example.org"], message("after")).startswith("250"))
        self.node.wait_mailbox("alice", 3)
        self.until(lambda: len(self.node.records(Action.DEQUEUED)) == 3)
        self.wait_idle()


class Descriptors(NodeCase):
    """So few descriptors that some clients get none."""

    def begin(self, node: Node) -> None:
        limit = 64
        node.start(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)))

    def test_more_clients_than_descriptors(self) -> None:
        """Those inside are served, nobody dies, and the others are served when there is room."""
        pid = self.node.pid()
        crowd = []
        for _ in range(80):
            crowd.append(Talk(self.node.port, greet=False, timeout_s=5))
        with self.subTest("one of the crowd is served"):
            crowd[0].reply()
            crowd[0].say("EHLO crowd")
            reply = crowd[0].mail("a@b.example", ["alice@example.org"], message("crowded"))
            self.assertEqual(reply[:1] in ("2", "4"), True, reply)
        accepted = int(reply.startswith("250"))
        for talk in crowd:
            talk.socket.close()

        def served() -> bool:
            try:
                with self.node.talk() as talk:
                    return talk.mail("a@b.example", ["alice@example.org"], message("room")).startswith("250")
            except OSError:
                return False

        self.until(served)
        self.node.wait_mailbox("alice", 1 + accepted)
        self.assertEqual(self.node.pid(), pid)
        self.wait_idle()
