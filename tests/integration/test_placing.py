"""Many files at once, by a process: what it makes, what it tells, and that it never outlives who asked it."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import subprocess
import sys
import textwrap
from typing import ClassVar
from zlib import crc32

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.disk.files import RealFiles
from qmailpy.disk.placing import Placed, Placement, PlacingHere, PlacingProcess
from tests.integration.daemon_process import ROOT, until
from tests.integration.node import Node, NodeCase

LIMIT_MS = 20_000


class PlacingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.top = os.path.abspath(self.mktemp())
        os.makedirs(f"{self.top}/new")
        self.placer = self.make()

    def make(self, program: str = "") -> PlacingProcess:
        placer = PlacingProcess(program) if program else PlacingProcess()
        self.addCleanup(placer.thd_close)
        return placer

    def script(self, text: str) -> str:
        path = f"{self.top}/program.py"
        with open(path, "w") as target:
            target.write(textwrap.dedent(text))
        return path

    def placement(self, name: str, octets: bytes = b"x") -> Placement:
        return Placement(temporary=f"{self.top}/{name}", base=f"{self.top}/new/{name}", front=b"", octets=octets)

    def made(self, name: str, octets: bytes = b"x", sizes: str = ",S=1") -> Placed:
        return Placed(f"{self.top}/new/{name}{sizes}", crc32(octets))

    def found(self) -> dict[str, bytes]:
        contents = {}
        for name in os.listdir(f"{self.top}/new"):
            with open(f"{self.top}/new/{name}", "rb") as source:
                contents[name] = source.read()
        return contents

    def test_files_are_made_under_their_names_and_nothing_else_is_left(self) -> None:
        wanted = {"a": b"1\r\n", "b": b"", "\u00fc \udcff": b"\0" * 70_000}
        self.assertEqual(
            self.placer.thd_place([self.placement(name, octets) for name, octets in wanted.items()]),
            [
                self.made("a", b"1\n", ",S=2,W=3"),
                self.made("b", b"", ",S=0"),
                self.made("\u00fc \udcff", b"\0" * 70_000, ",S=70000"),
            ],
        )
        self.assertEqual(self.found(), {"a,S=2,W=3": b"1\n", "b,S=0": b"", "\u00fc \udcff,S=70000": b"\0" * 70_000})
        self.assertEqual(os.listdir(self.top), ["new"])
        self.assertEqual(os.stat(f"{self.top}/new/b,S=0").st_mode & 0o777, 0o600)

    def test_a_batch_larger_than_any_buffer_goes_through(self) -> None:
        batch = [self.placement(f"{number:02}", b"%02d" % number * 20_000) for number in range(64)]
        for _ in range(2):
            self.assertFalse([one for one in self.placer.thd_place(batch) if isinstance(one, OSError)])
        self.assertEqual(self.found(), {f"{number:02},S=40000": b"%02d" % number * 20_000 for number in range(64)})

    def test_a_message_in_a_file_becomes_what_it_becomes_without_a_process(self) -> None:
        """Of any size, with line ends on the edges of what is read at once, and no more of it than is asked for."""
        source = f"{self.top}/source"
        for size in (0, 1, 262_143, 262_144, 262_145, 1_000_000):
            octets = (b"x" * 78 + b"\r\n") * (size // 80 + 1)
            with open(source, "wb") as target:
                target.write(octets[:size] + b"more")
            wanted = Placement(
                temporary=f"{self.top}/tmp", base=f"{self.top}/new/a", front=b"X: y\n", source=source, size=size
            )
            made = self.placer.thd_place([wanted])
            stored = b"X: y\n" + octets[:size].replace(b"\r\n", b"\n")
            self.assertEqual(list(self.found().values()), [stored])
            self.assertEqual(PlacingHere(RealFiles()).thd_place([wanted]), made)
            self.assertEqual(list(self.found().values()), [stored])
            [one] = made
            assert isinstance(one, Placed)
            self.assertEqual(one.crc, crc32(stored))
            os.unlink(one.path)

    def test_a_message_whose_file_is_not_there_or_short_is_told_of_by_itself(self) -> None:
        source = f"{self.top}/source"
        with open(source, "wb") as target:
            target.write(b"x" * 10)
        batch = [
            Placement(
                temporary=f"{self.top}/{number}", base=f"{self.top}/new/{number}", front=b"", source=path, size=size
            )
            for number, (path, size) in enumerate([(source, 11), (f"{self.top}/none", 1), (source, 10)])
        ]
        codes = [one.errno if isinstance(one, OSError) else None for one in self.placer.thd_place(batch)]
        self.assertEqual(codes, [errno.EIO, errno.ENOENT, None])
        self.assertEqual(self.found(), {"2,S=10": b"x" * 10})

    def test_what_cannot_be_made_is_told_of_by_itself(self) -> None:
        with open(f"{self.top}/there", "w") as target:
            target.write("precious")
        batch = [
            self.placement("a"),
            self.placement("there", b"other"),
            Placement(temporary=f"{self.top}/none/b", base=f"{self.top}/new/b", front=b""),
            Placement(temporary=f"{self.top}/c", base=f"{self.top}/none/c", front=b""),
            self.placement("d"),
        ]
        codes = [one.errno if isinstance(one, OSError) else None for one in self.placer.thd_place(batch)]
        self.assertEqual(codes, [None, errno.EEXIST, errno.ENOENT, errno.ENOENT, None])
        self.assertEqual(sorted(self.found()), ["a,S=1", "d,S=1"])
        with open(f"{self.top}/there") as source:
            self.assertEqual(source.read(), "precious")

    def test_a_process_that_was_killed_is_told_of_and_the_next_batch_has_another(self) -> None:
        self.placer.thd_place([self.placement("a")])
        first = self.placer.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        self.assertRaises(OSError, self.placer.thd_place, [self.placement("b")])
        self.assertEqual(self.placer.thd_place([self.placement("c")]), [self.made("c")])
        self.assertNotEqual(self.placer.pid, first)

    def test_one_that_does_not_answer_as_it_should_is_gone_before_that_is_told(self) -> None:
        for text in (
            "",
            "import os; os.write(0, b'x')",
            "raise SystemExit(1)",
            "import socket; socket.socket(fileno=0).recv(1)",
        ):
            placer = self.make(self.script(text + "\n"))
            self.assertRaises(OSError, placer.thd_place, [self.placement("a"), self.placement("b")])
            self.assertIs(placer.pid, None)

    def test_it_ends_with_the_socket(self) -> None:
        self.placer.thd_place([self.placement("a")])
        pid = self.placer.pid
        assert pid is not None
        end = os.pidfd_open(pid)
        self.addCleanup(os.close, end)
        self.placer.thd_close()
        self.assertTrue(select.select([end], [], [], 0)[0])

    def test_it_is_killed_with_its_parent_whatever_it_is_doing(self) -> None:
        """Else it could do behind the back of a successor what that has found undone."""
        program = f"""
            import os, signal
            from qmailpy.disk.placing import Placement, PlacingProcess
            placer = PlacingProcess()
            placer.thd_place([Placement(temporary="{self.top}/a", base="{self.top}/new/a", front=b"x")])
            os.kill(placer.pid, signal.SIGSTOP)  # so that it does not see the end of its socket
            print(placer.pid, flush=True)
            signal.pause()
            """
        environment = {**os.environ, "PYTHONPATH": ROOT}
        parent = subprocess.Popen([sys.executable, self.script(program)], stdout=subprocess.PIPE, env=environment)
        self.addCleanup(parent.wait)
        self.addCleanup(parent.kill)
        assert parent.stdout is not None
        with parent.stdout:
            child = int(parent.stdout.readline())
        end = os.pidfd_open(child)
        self.addCleanup(os.close, end)
        self.addCleanup(_killed, end)
        poll = select.poll()
        poll.register(end, select.POLLIN)
        self.assertFalse(poll.poll(0))
        parent.kill()
        self.assertTrue(poll.poll(LIMIT_MS))


def _killed(process: int) -> None:
    """@param process: a pidfd."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGKILL)


def below(pid: int) -> list[int]:
    """The processes of C{disk/placing_child.py} that a process has begun."""
    found = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/children") as source:
            children = [int(child) for child in source.read().split()]
        for child in children:
            with contextlib.suppress(FileNotFoundError), open(f"/proc/{child}/cmdline") as source:
                if "placing_child.py" in source.read():
                    found.append(child)
    return found


class DeliveryTests(NodeCase):
    """The real daemon."""

    settings: ClassVar = {"channel.local.stopped": True}

    def begin(self, node: Node) -> None:
        node.start()

    def test_killing_the_process_while_it_writes_neither_loses_nor_doubles_mail(self) -> None:
        count = 300
        with self.node.talk() as talk:
            for number in range(count):
                self.assertIn("queued", talk.mail("x@remote.example", ["alice@example.org"], b"X: %d\r\n\r\n" % number))
        worker = self.node.pid()
        self.node.qmailpy("qm", "start", "local")
        killed: set[int] = set()

        def done() -> bool:
            for child in below(worker):
                if len(killed) < 5:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
                        killed.add(child)
            return len(self.node.mailbox("alice")) >= count

        until(done, 20.0)
        self.wait_idle()
        self.assertTrue(killed)
        found = sorted(int(octets.partition(b"X: ")[2].partition(b"\n")[0]) for octets in self.node.mailbox("alice"))
        self.assertEqual(found, list(range(count)))
