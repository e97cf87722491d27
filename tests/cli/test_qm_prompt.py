"""The prompt's history, and what Ctrl-C does at a question, in a file of commands and in long work."""

from __future__ import annotations

import builtins
import fcntl
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.cli import qm_prompt, stopping
from qmailpy.cli.qm_prompt import HISTORY, History
from qmailpy.cli.stopping import Stop, steps
from qmailpy.queue.entries import ActionResult, Target
from tests.cli.fakequeue import IDS
from tests.cli.test_qm import QmCase


class HistoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = os.path.join(os.path.abspath(self.mktemp()), "qm_history")

    def text(self) -> str:
        with open(self.path, encoding="utf-8") as file:
            return file.read()

    def test_each_command_is_written_when_it_is_given(self) -> None:
        """For the user's own eyes, whatever the file was before."""
        history = History(self.path)
        self.assertEqual(history.begin(), [])
        os.chmod(self.path, 0o644)
        history.add("directory -subject=Grüße")
        history.add("quit")
        self.assertEqual(self.text(), "directory -subject=Grüße\nquit\n")
        self.assertEqual(History(self.path).begin(), ["directory -subject=Grüße", "quit"])
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(os.stat(os.path.dirname(self.path)).st_mode), 0o700)

    def test_it_does_not_grow_for_ever(self) -> None:
        history = History(self.path)
        history.add("x" * 10_000)
        history.add("two\nlines")
        self.assertEqual(history.begin(), [])
        for number in range(2 * HISTORY + 1):
            history.add(f"command {number}")
        found = History(self.path).begin()
        self.assertEqual((len(found), found[-1]), (HISTORY, f"command {2 * HISTORY}"))
        self.assertEqual(self.text().splitlines(), found)

    def test_several_prompts_at_once_keep_each_others(self) -> None:
        """Also when one of them cuts the file meanwhile."""
        first = History(self.path)
        for number in range(2 * HISTORY):
            first.add(f"old {number}")

        def work(name: str) -> None:
            history = History(self.path)
            for number in range(100):
                history.add(f"{name} {number}")
                if number % 10 == 0:
                    history.begin()

        threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        lines = self.text().splitlines()
        for name in "abcd":
            self.assertEqual([one for one in lines if one.startswith(name)], [f"{name} {n}" for n in range(100)])

    def test_who_has_the_file_is_waited_for(self) -> None:
        history = History(self.path)
        history.begin()
        handle = os.open(self.path, os.O_RDWR)
        fcntl.flock(handle, fcntl.LOCK_EX)
        thread = threading.Thread(target=history.add, args=("mine",))
        thread.start()
        thread.join(0.1)
        self.assertEqual((thread.is_alive(), self.text()), (True, ""))
        os.close(handle)
        thread.join()
        self.assertEqual(self.text(), "mine\n")

    def test_what_is_not_ours_is_left_alone(self) -> None:
        """A link; octets that are no text; a directory that cannot be made."""
        target = os.path.abspath(self.mktemp())
        os.makedirs(os.path.dirname(self.path))
        os.symlink(target, self.path)
        History(self.path).add("x")
        self.assertFalse(os.path.exists(target))
        os.unlink(self.path)
        with open(self.path, "wb") as file:
            file.write(b"\xff\xfe\ndirectory\n")
        self.assertEqual(History(self.path).begin()[-1], "directory")
        self.assertEqual(History("/proc/nowhere/x").begin(), [])
        History("/proc/nowhere/x").add("x")


class CtrlCTests(QmCase):
    def type(self, *typed: str | type[BaseException]) -> str:
        """A session at a terminal; C{input} is asked for answers as well."""
        lines: Iterator[str | type[BaseException]] = iter([*typed, EOFError])

        def read(prompt: str = "") -> str:
            found = next(lines)
            if isinstance(found, str):
                return found
            raise found

        self.terminal = True
        self.patch(builtins, "input", read)
        self.patch(click, "confirm", lambda question, default: self.answer(read))
        result = self.run_qm()
        self.assertIsNone(result.exception, result.output)
        return result.output

    def answer(self, read: Callable[[], str]) -> bool:
        """As click does."""
        try:
            return read() == "y"
        except KeyboardInterrupt:
            raise click.Abort from None

    def test_at_a_question_it_is_a_no(self) -> None:
        found = self.type("delete -all", KeyboardInterrupt, "date")
        self.assertIn("qmailpy: nothing was done\n", found)
        self.assertNotIn("interrupted", found)
        self.assertIn("(UTC)", found)
        self.assertEqual(self.queue.done, [])

    def test_answers_are_no_commands_of_the_history(self) -> None:
        self.type("delete -all", "n", "date", "date", "  ", "# why")
        with open(os.path.join(self.cache, "qmailpy", "qm_history")) as file:
            self.assertEqual(file.read().splitlines(), ["delete -all", "date", "# why"])

    def test_in_a_file_of_commands_it_ends_the_file(self) -> None:
        """Not only the command that is under way: those behind it may rest on it."""
        path = self.mktemp()
        with open(path, "w") as out:
            out.write(f"delete -all\nhold {IDS[0]}\n")
        self.assertIn("qmailpy: interrupted\n", self.type(f"run {path}", KeyboardInterrupt, "date"))
        self.assertEqual(self.queue.done, [])

    def interrupted(self) -> None:
        """Each step is one message, and somebody presses Ctrl-C in the first."""
        self.patch(stopping, "BATCH", 1)
        real = self.queue.hold

        def hold(targets: Sequence[Target], reason: str) -> Sequence[ActionResult]:
            os.kill(os.getpid(), signal.SIGINT)
            return real(targets, reason)

        self.patch(self.queue, "hold", hold)

    def test_in_long_work_it_ends_behind_a_step_and_tells_what_was_done(self) -> None:
        self.interrupted()
        before = signal.getsignal(signal.SIGINT)
        self.assertEqual(
            self.fails("hold", f"{IDS[0]},{IDS[1]}", "-noconfirm"), "interrupted: 1 message held, 1 left as they are"
        )
        self.assertEqual(len(self.queue.done), 1)
        self.assertIs(signal.getsignal(signal.SIGINT), before)

    def test_cleaning_ends_so_too(self) -> None:
        self.interrupted()
        self.assertEqual(self.fails("clean", "-subject=hell", "-min_length=1"), "interrupted, 1 left as they are")
        self.assertEqual(len(self.queue.done), 1)

    def test_pressed_again_it_does_not_wait(self) -> None:
        with stopping.stopping() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            self.assertTrue(stop)
            self.assertRaises(KeyboardInterrupt, os.kill, os.getpid(), signal.SIGINT)

    def test_where_no_signals_are_handled_the_work_is_done(self) -> None:
        found: list[Any] = []

        def work() -> None:
            with stopping.stopping() as stop:
                found.extend(steps([1, 2], stop))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        self.assertEqual(found, [[1, 2]])
        self.assertFalse(Stop())


class EditingTests(SynchronousTestCase):
    def test_without_readline_lines_are_read_all_the_same(self) -> None:
        real: Callable[..., Any] = builtins.__import__

        def without(name: str, *words: Any, **more: Any) -> Any:
            if name == "readline":
                raise ImportError(name)
            return real(name, *words, **more)

        lines = iter(["date"])
        self.patch(qm_prompt, "cache_folder", lambda: os.path.abspath("cache"))
        self.patch(builtins, "input", lambda prompt: next(lines, None) or self.end())
        self.patch(builtins, "__import__", without)
        self.assertEqual(list(qm_prompt.typed(lambda before, text: [])), ["date"])

    def end(self) -> str:
        raise EOFError
