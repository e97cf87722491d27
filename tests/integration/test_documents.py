"""What README and docs show, typed as it stands there, by somebody who begins with nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from typing import ClassVar

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.daemon_process import ROOT, gone, until
from tests.integration.documents import Reader, Step, loose, matched, steps

BIN = os.path.dirname(sys.executable)
PROGRAMS = {
    # In the background, as twistd does it, but it ends with the test; and on ports nobody else has.
    "twistd": f"""\
home=$4
{sys.executable} -m tests.integration.documents_ports "$home" || exit 1
cd "$home" && exec {BIN}/twistd -n --pidfile= "$@" >>"$home/../twistd.out" 2>&1 </dev/null &
echo $! >>"$HOME/pids"
for turn in $(seq 250); do grep -q "qmailpy is ready" "$home/log/qmailpy.log" 2>/dev/null && exit 0; sleep 0.1; done
cat "$home/../twistd.out"; exit 1
""",
    "qmailpy": f'exec {BIN}/qmailpy "$@"\n',
}


class DocumentTests(SynchronousTestCase):
    timeout = 240
    order: ClassVar[tuple[str, ...]] = ("README.md", "docs/operations.md", "docs/channels.md", "docs/policy.md")

    def setUp(self) -> None:
        self.home = tempfile.mkdtemp(prefix="qmailpy-test-")
        self.addCleanup(shutil.rmtree, self.home, True)
        programs = os.path.join(self.home, "bin")
        os.mkdir(programs)
        for name, text in PROGRAMS.items():
            path = os.path.join(programs, name)
            with open(path, "w") as target:
                target.write(f"#!/bin/bash\n{text}")
            os.chmod(path, 0o755)
        environment = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": self.home, "PYTHONPATH": ROOT, "LC_ALL": "C.UTF-8"}
        self.reader = Reader(self.home, environment)
        self.addCleanup(self.end)

    def end(self) -> None:
        self.reader.close()
        with contextlib.suppress(FileNotFoundError), open(os.path.join(self.home, "pids")) as source:
            for pid in map(int, source.read().split()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
                until(lambda pid=pid: gone(pid), 30)  # type: ignore[misc]

    def test_commands_print_what_the_documents_show(self) -> None:
        """The first steps, the day of an operator, and what is told of channels and of access tables."""
        counts = {name: self.reader.read(os.path.join(ROOT, name), name) for name in self.order}
        for name, least in zip(self.order, (6, 20, 1, 5), strict=True):
            self.assertGreaterEqual(counts[name], least, counts)


class ReaderTests(SynchronousTestCase):
    """The reader itself notices."""

    def test_blocks_are_taken_apart(self) -> None:
        text = "# A\n```\n$ one \\\n  two\nsaid\n\n  more\n$ three\n```\n```\nno command\n```\n"
        self.assertEqual(
            list(steps("x", text)),
            [
                Step(where="x:3", command="one two", shown=("said", "  more")),
                Step(where="x:8", command="three", shown=()),
            ],
        )
        text = "```\n$ cat <<E\n> a\n>\n> E\na\n\n```\n"
        self.assertEqual(list(steps("x", text)), [Step(where="x:2", command="cat <<E\na\n\nE", shown=("a",))])

    def test_numbers_times_and_columns_may_differ_and_words_may_not(self) -> None:
        self.assertEqual(loose("tcp_local   2  24-Nov-2026 06:49:34"), loose("tcp_local 13 01-Jan-2030 16:49:34"))
        self.assertNotEqual(loose("2 waiting"), loose("2 held"))
        self.assertIsNone(matched(("a", "b"), ["a", "c"], {}))
        self.assertIsNone(matched(("a",), ["a", "b"], {}))
        self.assertIsNone(matched(("a", "b"), ["a"], {}))
        self.assertEqual(matched(("a", "...", "z"), ["a", "b", "c", "z"], {}), {})
        self.assertEqual(matched(("a ... z",), ["a b c z"], {}), {})

    def test_a_queue_id_stands_for_the_one_that_was_found(self) -> None:
        shown, real = "065utdfptjkdf00", "065aaaaaaaaaa00"
        known = matched((f"{shown} waits",), [f"{real} waits"], {})
        self.assertEqual(known, {shown: real})
        self.assertEqual(matched((f"held {shown}",), [f"held {real}"], known or {}), known)
        self.assertIsNone(matched((f"held {shown}",), ["held 065bbbbbbbbbb00"], known or {}))

    def test_a_command_that_fails_or_says_something_else_is_told_of(self) -> None:
        reader = Reader(self.mktemp_directory(), {"PATH": "/usr/bin:/bin"})
        self.addCleanup(reader.close)
        path = os.path.join(reader.directory, "x.md")
        for text, good in (("$ echo hello\nhello", True), ("$ echo hello\nbye", False), ("$ false", False)):
            with open(path, "w") as target:
                target.write(f"```\n{text}\n```\n")
            if good:
                self.assertEqual(reader.read(path, "x.md"), 1)
            else:
                self.assertRaises(AssertionError, reader.read, path, "x.md")

    def mktemp_directory(self) -> str:
        path = str(self.mktemp())
        os.makedirs(path)
        return path
