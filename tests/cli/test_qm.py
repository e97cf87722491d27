"""The queue manager's command line and prompt, over a queue in memory."""

from __future__ import annotations

import builtins
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from attrs import evolve
from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.cli import qm_past, qm_session, qm_show
from qmailpy.cli.context import Context
from qmailpy.cli.qm import WORDS, execute, qm
from qmailpy.cli.qm_session import Session
from qmailpy.errors import CommandError
from qmailpy.queue.entries import HistoryEvent
from qmailpy.records.record import Action, LogRecord
from tests.cli.fakequeue import IDS, FakeQueue, entry

LISTING = """\
Channel: ims-ms                   Size Queued since
--------------------------------------------------------------
1 ZZ0c0000000000001.01               1 24-Feb-1999 19:52:29
2 ZY0c0000000000002.03               2 24-Feb-1999 19:51:57
--------------------------------------------------------------
Total size:                          3

Channel: local                    Size Queued since
--------------------------------------------------------------
3 ZZ0c0000000000003.HELD             1 24-Feb-1999 19:51:57
--------------------------------------------------------------
Total size:                          1

Grand total size:                    4
"""


class QmCase(SynchronousTestCase):
    """A queue of three messages, in UTC."""

    def setUp(self) -> None:
        self.queue = FakeQueue(
            [
                entry(1, channel="ims-ms", size_octets=600, arrival=919885949.0),
                entry(
                    2,
                    channel="ims-ms",
                    size_octets=1025,
                    arrival=919885917.0,
                    remaining=3,
                    attempts=1,
                    last_error="450 x",
                ),
                entry(3, channel="local", size_octets=1024, arrival=919885917.0, held=True, reason="by hand"),
            ]
        )
        self.cache = os.path.abspath(self.mktemp())
        self.home = os.path.abspath(self.mktemp())
        self.terminal = False
        self.patch(qm_session, "open_view", lambda home: self.queue)
        self.patch(Session, "terminal", property(lambda session: self.terminal))
        self.zone("UTC")

    def zone(self, name: str) -> None:
        """Local time."""
        before = os.environ.get("TZ")

        def restore() -> None:
            if before is None:
                os.environ.pop("TZ", None)
            else:
                os.environ["TZ"] = before
            time.tzset()

        self.addCleanup(restore)
        os.environ["TZ"] = name
        time.tzset()

    def run_qm(self, *words: str, typed: str = "") -> Result:
        """One command."""
        environment = {"XDG_CACHE_HOME": self.cache}
        return CliRunner().invoke(qm, list(words), obj=Context(self.home), input=typed, env=environment)

    def out(self, *words: str, typed: str = "") -> str:
        """Its output; it must succeed."""
        result = self.run_qm(*words, typed=typed)
        self.assertEqual(result.exit_code, 0, result.output)
        return result.output

    def fails(self, *words: str, typed: str = "") -> str:
        """Why it failed, in one line as the command's frame prints it."""
        result = self.run_qm(*words, typed=typed)
        self.assertNotEqual(result.exit_code, 0, result.output)
        return str(result.exception) if isinstance(result.exception, CommandError) else result.output

    @property
    def left(self) -> list[int]:
        """Numbers of the messages that are left."""
        return sorted(IDS.index(one.id) + 1 for one in self.queue.list)


class DirectoryTests(QmCase):
    """Lists (imta.md 3.1)."""

    def test_directory_has_the_ancestors_layout(self) -> None:
        """Heading, a part for each channel, totals in blocks."""
        date, source, empty, *rest = self.out("directory").splitlines(keepends=True)
        self.assertRegex(date, r"^[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+0000 \(UTC\)$")
        self.assertEqual((source, empty), ("Data gathered from the queue directory tree\n", "\n"))
        self.assertEqual("".join(rest), LISTING)

    def test_options_choose_and_shape(self) -> None:
        """Channel with a wildcard, -noheld, -nototal, -nofile_info."""
        found = self.out("dir", "ims*", "-noheld", "-nototal", "-nofile_info")
        self.assertIn("1 ZZ0c0000000000001.01\n2 ZY0c0000000000002.03\n", found)
        self.assertNotIn("otal", found)
        self.assertNotIn("Size", found)
        self.assertNotIn("local", found)
        self.assertIn("No messages.\nqmailpy: there is no channel nowhere\n", self.out("dir", "nowhere"))
        self.assertNotIn("there is no channel", self.out("dir", "ims-*", "-from=nobody@*"))

    def test_from_implies_the_envelope(self) -> None:
        """-from alone, or -to too with -match."""
        found = self.out("dir", "-from=s2@*")
        self.assertIn("     From: <s2@example.org>\n     To:   <r2@example.net>\n     and 2 more\n", found)
        self.assertNotIn(IDS[0], found)
        self.assertIn(IDS[0], self.out("dir", "-from=s2@*", "-to", "r1@"))
        self.assertIn("No messages.", self.out("dir", "-from=s2@*", "-to", "r1@", "-match=and"))

    def test_owner_is_the_login_it_was_submitted_with(self) -> None:
        """Nobody has logged in for these; the filter itself: tests.queue.test_entries."""
        self.assertIn("No messages.", self.out("dir", "-owner=joe"))
        self.assertIn("directory -noheld lists the others", self.fails("held", "-noheld"))
        self.assertEqual(self.out("held", "-held", "-nototal").count("HELD"), 1)

    def test_held_lists_held_messages_with_reasons(self) -> None:
        """And nothing else; so does directory -held, without reasons."""
        found = self.out("held")
        self.assertIn("1 ZZ0c0000000000003.HELD             1 24-Feb-1999 19:51:57  by hand\n", found)
        self.assertNotIn("ims-ms", found)
        self.assertIn(IDS[2], self.out("directory", "-held"))

    def test_lists_are_json_too(self) -> None:
        """Whatever is listed."""
        found = json.loads(self.out("directory", "--json"))
        self.assertEqual([(one["number"], one["id"]) for one in found], list(enumerate(IDS[:3], 1)))
        self.assertEqual(json.loads(self.out("dir", "nowhere", "--json")), [])
        self.assertEqual([one["attempts"] for one in json.loads(self.out("messages", "--json"))], [0, 1])
        self.assertEqual([one["messages"] for one in json.loads(self.out("summarize", "--json"))], [2, 1, 0])

    def test_control_characters_cannot_reach_the_terminal(self) -> None:
        """A sender with an escape sequence in it."""
        self.queue.list = [entry(1, sender='"\x1b[2J\r\n"@example.org')]
        found = self.out("dir", "-envelope")
        self.assertNotIn("\x1b", found)
        self.assertIn("\\x1b[2J\\r\\n", found)

    def test_summarize_has_a_line_a_channel_and_totals(self) -> None:
        """With -held a column more, with -noheading and -notrailing less."""
        found = self.out("summarize").splitlines()
        self.assertEqual(found[2].split(), ["ims-ms", "2", "2", "24-Feb-1999", "19:51:57"])
        self.assertEqual(found[-1].split(), ["Totals", "3", "3", "24-Feb-1999", "19:51:57"])
        self.assertEqual(len(self.out("summ", "-nohead", "-notrail").splitlines()), 3)
        self.assertEqual(self.out("summ", "-held").splitlines()[3].split()[:4], ["local", "1", "1", "1"])

    def test_messages_shows_attempts_and_errors(self) -> None:
        """Not the held ones; -ignore_zz leaves out what was never tried."""
        found = self.out("messages")
        self.assertRegex(found, rf"{IDS[1]}  ims-ms +3 +1  24-Feb-1999 19:59:09  450 x\n")
        self.assertNotIn(IDS[2], found)
        self.assertNotIn(IDS[0], self.out("messages", "-ignore_zz"))


class WordTests(QmCase):
    """Abbreviations and spellings."""

    def test_commands_and_options_may_be_abbreviated(self) -> None:
        """As far as they are unique."""
        self.assertIn(IDS[2], self.out("dir", "-hel"))
        self.assertIn("'d' may be date, delete, directory", self.fails("d"))
        self.assertIn("'n' may be", self.fails("dir", "-n"))
        self.assertIn("No such command 'frobnicate'", self.fails("frobnicate"))
        self.assertIn("No such option", self.fails("dir", "-frobnicate"))

    def test_value_that_looks_like_an_option_stays_a_value(self) -> None:
        """The word after an option that takes one."""
        self.queue.list = [entry(1, sender="-held@example.org")]
        self.assertIn(IDS[0], self.out("dir", "-from", "-held"))

    def test_gnu_spelling_works_alike(self) -> None:
        """--no-held, --file-info."""
        self.assertNotIn(IDS[2], self.out("directory", "--no-held", "--file-info"))

    def test_every_word_leads_to_a_command_of_its_name(self) -> None:
        """The table is right; counters is another part's."""
        from click import Context as ClickContext

        with ClickContext(qm) as context:
            for name in WORDS:
                if name not in ("counters", "quit"):
                    command = qm.get_command(context, name)
                    assert command is not None
                    self.assertEqual(command.name, name)

    def test_help_tells_about_one_and_all(self) -> None:
        """Abbreviations too; what there is not is told."""
        self.assertIn("summarize", self.out("help"))
        self.assertIn("Usage: qm delete", self.out("help", "del"))
        self.assertIn("there is no command", self.fails("help", "frobnicate"))


class ChangeTests(QmCase):
    """hold, release, delete, return."""

    def test_message_named_by_its_id_is_deleted_without_a_question(self) -> None:
        """Who writes 15 characters means them."""
        self.assertEqual(self.out("delete", IDS[0]), f"%QM-I-DELETED, deleted the message {IDS[0]} in ims-ms\n")
        self.assertEqual(self.left, [2, 3])

    def test_file_names_of_listing_and_log_are_ids(self) -> None:
        """With letters and count, with directory or not."""
        self.out("delete", f"ZY{IDS[1]}.03", f"local/00/ZZ{IDS[2]}.HELD")
        self.assertEqual(self.left, [1])
        self.assertEqual(self.queue.done[-1], ("delete", IDS[2], "local"))

    def test_numbers_are_those_of_the_most_recent_listing(self) -> None:
        """Kept between commands; ranges and lists."""
        self.out("dir")
        self.out("hold", "1,2")
        self.assertEqual(self.queue.done, [("hold", IDS[0], "ims-ms"), ("hold", IDS[1], "ims-ms")])
        self.out("held", "local")
        self.out("release", "1")
        self.assertEqual(self.queue.done[-1], ("release", IDS[2], "local"))
        self.assertIn("3-1 is the wrong way round: say 1-3", self.fails("hold", "3-1"))
        self.assertIn("4-5 is not in the most recent listing, which has 1-1", self.fails("release", "4-5"))
        self.assertIn("is no queue id", self.fails("release", "x"))

    def test_number_without_a_listing_is_refused(self) -> None:
        """Nothing to take it from; and the listing of another home does not count."""
        self.assertIn("there is no listing", self.fails("hold", "1"))
        self.out("dir")
        self.home = os.path.abspath(self.mktemp())
        self.assertIn("there is no listing", self.fails("hold", "1"))

    def test_kept_listing_that_is_broken_or_a_link_counts_as_none(self) -> None:
        """It may be lost at any time; and no link is followed."""
        self.out("dir")
        folder = os.path.join(self.cache, "qmailpy")
        (name,) = os.listdir(folder)
        path = os.path.join(folder, name)
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        os.rename(path, path + ".moved")
        os.symlink(path + ".moved", path)
        self.assertIn("there is no listing", self.fails("hold", "1"))
        os.unlink(path)
        with open(path, "w") as out:
            out.write('[["')
        self.assertIn("there is no listing", self.fails("hold", "1"))

    def test_harm_by_number_needs_a_yes(self) -> None:
        """Asked at a terminal, refused where nobody is, done with -noconfirm."""
        self.out("dir")
        self.assertIn("Nobody is there to ask", self.fails("delete", "1"))
        self.terminal = True
        self.assertIn("nothing was done", self.fails("return", "1-2", typed="n\n"))
        self.assertEqual(self.left, [1, 2, 3])
        self.assertIn("Delete 1 message: " + IDS[0] + " (ims-ms)?", self.out("delete", "1", typed="y\n"))
        self.assertEqual(self.left, [2, 3])
        self.terminal = False
        self.out("return", "2", "-noconfirm")
        self.assertEqual(self.left, [3])

    def test_all_needs_a_yes_and_excludes_ids(self) -> None:
        """For whatever is done to all."""
        self.assertIn("Nobody is there to ask", self.fails("hold", "-all"))
        self.assertIn("exclude each other", self.fails("hold", "-all", IDS[0]))
        self.assertIn("give ids or numbers, or -all", self.fails("hold"))
        self.assertIn("2 messages held.", self.out("hold", "-all", "--yes", "-channel=ims-ms"))
        self.assertIn("3 messages released.", self.out("release", "-all", "--yes"))
        self.assertIn("1 message deleted.", self.out("delete", "-all", "--yes", "-from=s2@*"))
        self.assertEqual(self.left, [1, 3])

    def test_release_all_means_the_held_ones(self) -> None:
        """What waits by itself is left alone."""
        self.out("release", "-all", "-noconfirm")
        self.assertEqual(self.queue.done, [("release", IDS[2], "local")])
        self.assertIn("No messages to release.", self.out("release", "-all", "-noconfirm"))

    def test_confirm_asks_in_any_case(self) -> None:
        """-confirm with an id."""
        self.assertIn("Nobody is there to ask", self.fails("release", IDS[2], "-confirm"))

    def test_channel_must_fit(self) -> None:
        """A number or a file name of another channel is refused; an id is narrowed."""
        self.out("dir")
        self.assertIn("is in channel ims-ms, not in local", self.fails("hold", "1", "-channel=local"))
        self.assertIn("is in channel local", self.fails("hold", f"local/00/ZZ{IDS[2]}.HELD", "-channel=ims-ms"))
        self.assertIn("cannot hold", self.fails("hold", IDS[0], "-channel=local"))

    def test_what_failed_is_told_and_the_rest_done(self) -> None:
        """One line each, exit status 1 at the end."""
        self.queue.list.append(entry(4, busy=True))
        result = self.run_qm("delete", IDS[3], IDS[0], "0" * 15)
        self.assertEqual(result.exit_code, 1)
        self.assertIn(f"%QM-E-BUSY, message {IDS[3]} in tcp_local: being delivered", result.output)
        self.assertIn(f"%QM-E-UNKNOWN, message {'0' * 15}", result.output)
        self.assertEqual(str(result.exception), f"cannot delete {IDS[3]}: being delivered (and 1 more)")
        self.assertEqual(self.left, [2, 3, 4])

    def test_results_are_json_too(self) -> None:
        """For scripts."""
        found = json.loads(self.out("hold", IDS[0], "--json", "-reason=why"))
        self.assertEqual(found, [{"id": IDS[0], "channel": "ims-ms", "outcome": "done", "text": ""}])
        self.assertEqual(self.queue.reasons, ["why"])

    def test_channel_is_stopped_and_started(self) -> None:
        """And told when it was so already."""
        self.assertEqual(self.out("stop", "ims-ms"), "%QM-I-STOPPED, channel ims-ms stopped\n")
        self.assertEqual(self.out("stop", "ims-ms"), "%QM-I-STOPPED, channel ims-ms was stopped\n")
        self.assertIn("stopped", self.out("summarize").splitlines()[2])
        self.assertEqual(json.loads(self.out("start", "ims-ms", "--json"))["changed"], True)
        self.assertIn("no channel nowhere", self.fails("stop", "nowhere"))


class ShowTests(QmCase):
    """read and history."""

    def setUp(self) -> None:
        super().setUp()
        self.log: list[LogRecord] = []
        told: Callable[[str], list[LogRecord]] = lambda queue_id: self.log  # noqa: E731
        self.patch(qm_past, "lines_of", lambda home: nullcontext(told))

    def test_history_is_what_the_log_tells_and_how_it_stands(self) -> None:
        """Recipients with the same outcome in a line; of the queue only how it stands now."""

        def line(action: Action, time: float, diagnostic: str = "", **more: Any) -> LogRecord:
            return LogRecord(action=action, time=time, source="tcp_local", diagnostic=diagnostic, **more)

        new = {"destination": "ims-ms", "source_system": "relay ([192.0.2.1])"}
        self.log = [line(Action.ENQUEUED, 1e9, **new), line(Action.ENQUEUED, 1e9, **new)]
        self.log += [line(Action.DEFERRED, 1e9 + 1, "450 later"), line(Action.DEQUEUED, 1e9 + 9, "250 ok")]
        self.log += [line(Action.DEQUEUED, 1e9 + 99, "deleted by the operator"), line(Action.OPENED, 1e9 + 99)]
        found = [text.split("  ", 2)[2] for text in self.out("history", "0" * 15).splitlines()[1:]]
        self.assertEqual(
            found,
            [
                "tcp_local        enqueued, 2 recipients: to ims-ms, from relay ([192.0.2.1])",
                "tcp_local        deferred, 1 recipient: 450 later",
                "tcp_local        delivered, 1 recipient: 250 ok",
                "tcp_local        deleted, 1 recipient: deleted by the operator",
            ],
        )
        held = HistoryEvent(time=2e9, channel="ims-ms", event="held", recipients=1, text="why")
        told = qm_past.whole(qm_past.events(self.log), [evolve(held, event="enqueued"), held])
        assert told is not None
        self.assertEqual([one.event for one in told], ["enqueued", "deferred", "delivered", "deleted", "held"])

    def test_a_log_that_cannot_be_read_is_told_of(self) -> None:
        def broken(home: str) -> AbstractContextManager[Any]:
            raise OSError(13, "Permission denied")

        self.patch(qm_past, "lines_of", broken)
        found = self.out("history", IDS[1])
        self.assertIn("the log cannot be read: [Errno 13] Permission denied", found)
        self.assertIn("deferred, 1 recipient: 450 later", found)

    def test_read_shows_envelope_and_harmless_content(self) -> None:
        """Text as UTF-8, escapes as text."""
        found = self.out("read", IDS[0])
        self.assertIn("Sender:        <s1@example.org>\n", found)
        self.assertIn("Recipient:     <r1@example.net> waiting, ims-ms\n", found)
        self.assertTrue(found.endswith("\nSubject: hello\n\nnaïve \\x1b[2J text\n.\n"), found)
        self.assertNotIn("Subject", self.out("read", IDS[0], "-nocontent"))

    def test_raw_content_is_octet_for_octet(self) -> None:
        """For a file."""
        result = self.run_qm("read", "-raw", IDS[0])
        self.assertEqual(result.stdout_bytes, b"Subject: hello\r\n\r\nna\xc3\xafve \x1b[2J text\r\n.\r\n")

    def test_history_is_oldest_first(self) -> None:
        """A line an event."""
        found = self.out("history", IDS[1])
        self.assertEqual(
            found,
            f"Message {IDS[1]}\n  24-Feb-1999 19:51:57  ims-ms           deferred, 1 recipient: 450 later\n",
        )
        self.assertEqual(json.loads(self.out("hist", IDS[1], "--json"))[0]["events"][0]["text"], "450 later")

    def test_all_may_be_shown_or_all_of_a_channel(self) -> None:
        """imta.md 3.1: -all or ids; asked only when that is wished."""
        self.assertEqual(self.out("read", "-all", "-nocontent").count("Sender:"), 3)
        found = self.out("history", "-all", "-channel=ims-ms", "-noconfirm")
        self.assertEqual([IDS[at] in found for at in range(3)], [True, True, False])
        self.assertIn("give ids or numbers", self.fails("history"))
        self.assertIn("exclude each other", self.fails("read", "-all", IDS[0]))
        self.terminal = True
        self.assertIn("nothing was done", self.fails("read", "-all", "-confirm", typed="n\n"))

    def test_missing_message_is_told(self) -> None:
        """The others are shown."""
        for command in ("read", "history"):
            result = self.run_qm(command, "0" * 15, IDS[0])
            self.assertEqual((result.exit_code, str(result.exception)[:7]), (1, "message"))
            self.assertIn(IDS[0], result.output)

    def test_history_of_what_is_older_than_the_log_says_so(self) -> None:
        self.patch(qm_show, "found_lines", lambda home, queue_id: f"message {queue_id} is of long ago")
        self.assertEqual(self.fails("history", "0" * 15), f"message {'0' * 15} is of long ago")


class PromptTests(QmCase):
    """qm.maint> and files of commands."""

    def test_commands_are_read_from_a_pipe(self) -> None:
        """Until exit; what follows is not done. Numbers are remembered without a file."""
        found = self.out(typed=f"! a comment\ndir\n\nhold 1\nexit\nhold {IDS[1]}\n")
        self.assertIn("%QM-I-HELD, held the message " + IDS[0], found)
        self.assertEqual(len(self.queue.done), 1)
        self.assertFalse(os.path.exists(self.cache))

    def test_failed_command_does_not_end_the_rest_but_counts(self) -> None:
        """A pipe's exit status is 1; each failure is a line."""
        result = self.run_qm(typed=f"frob\nhold 'x\nhold {IDS[0]}\n")
        self.assertEqual((result.exit_code, str(result.exception)), (1, "2 of the commands failed"))
        self.assertIn("qmailpy: No such command 'frob'; try help.\nqmailpy: No closing quotation\n", result.output)
        self.assertEqual(len(self.queue.done), 1)

    def test_who_leaves_a_pipe_is_told_of_what_failed_before(self) -> None:
        self.assertEqual(self.run_qm(typed="frob\nexit\ndate\n").exit_code, 1)
        self.assertEqual(self.run_qm(typed="date\nexit\nfrob\n").exit_code, 0)

    def test_terminal_is_prompted_until_the_end_of_file(self) -> None:
        """A failure is told and forgotten; Control-C drops the line."""
        typed: Iterator[str | type[BaseException]] = iter(["dir", "frob", KeyboardInterrupt, "hold 1", EOFError])
        prompts: list[str] = []

        def read(prompt: str) -> str:
            prompts.append(prompt)
            found = next(typed)
            if isinstance(found, str):
                return found
            raise found

        self.terminal = True
        self.patch(builtins, "input", read)
        found = self.out()
        self.assertEqual(prompts, ["qm.maint> "] * 5)
        self.assertIn("No such command 'frob'", found)
        self.assertEqual(len(self.queue.done), 1)

    def test_file_of_commands_is_run(self) -> None:
        """Comments and empty lines are passed over; it may not run itself for ever."""
        path = self.mktemp()
        with open(path, "w") as out:
            out.write(f"# first\n\nhold {IDS[0]}\n")
        self.out("run", path)
        self.assertEqual(len(self.queue.done), 1)
        with open(path, "a") as out:
            out.write(f"run {path}\n")
        result = self.run_qm("run", path)
        self.assertEqual(result.exit_code, 1)
        self.assertIn("nested too deeply", result.output)

    def test_channel_is_run_and_a_file_is_taken_for_a_file(self) -> None:
        """Both are called run: the one of imsimta, the other of its qm."""
        self.assertIn("channel tcp_local", self.out("run", "tcp_local"))
        self.assertIn("all channels", self.out("run"))
        self.assertEqual(self.queue.done, [("run", "", "tcp_local"), ("run", "", "")])
        self.assertIn("nowhere", self.fails("run", "nowhere"))
        self.assertIn("no file", self.fails("run", "/no/such/file"))

    def test_jobs_are_listed_by_channel_and_host(self) -> None:
        """As the job controller's."""
        self.queue.list = [entry(1, busy=True, next_attempt=None), entry(2)]
        self.assertEqual(
            self.out("jobs"),
            f"channel tcp_local\n  host h.example\n    message {IDS[0]}, attempt 1, 1 recipient, 2 blocks\n"
            "1 job under way.\n",
        )
        self.assertEqual(self.out("jobs", "local"), "0 jobs under way.\n")
        self.assertEqual(json.loads(self.out("jobs", "--json"))[0]["host"], "h.example")

    def test_date_and_exit_work_without_a_prompt(self) -> None:
        """As one-shot commands; quit is exit."""
        self.assertRegex(self.out("date"), r"\(UTC\)\n$")
        self.assertEqual(self.out("quit"), "")

    def test_execute_tells_whether_it_was_done(self) -> None:
        """The prompt's own loop."""
        session = Session(self.home)
        session.at_prompt = True
        self.assertTrue(execute(session, ""))
        self.assertFalse(execute(session, "read"))
