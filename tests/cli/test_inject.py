"""C{qmailpy inject} and C{qmailpy sendmail}: what they submit, and their exit codes."""

from __future__ import annotations

import os
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.cli.sendmail import Options, parse
from qmailpy.cli.submit import NotNow, Refused, Submission
from qmailpy.errors import CommandError
from qmailpy.values import Reply
from qmailpy.wire.drop import read_drop
from tests.cli.running import Outcome, invoke
from tests.config.test_load import MINIMAL

MESSAGE = b"To: x@y.z\nBcc: s@y.z\nSubject: hi\n\nhello\n.\nmore\n"


class SubmittingCase(SynchronousTestCase):
    """With a home whose daemon does not run, and what would have been handed over."""

    def setUp(self) -> None:
        self.home = os.path.abspath(self.mktemp())
        os.makedirs(os.path.join(self.home, "etc"))
        with open(os.path.join(self.home, "etc", "qmailpy.toml"), "w") as target:
            target.write(MINIMAL.replace("[server]", '[server]\ndomain = "example.org"'))
        self.submitted: list[Submission] = []
        self.error: Exception | None = None

    def submit(self, home: str, submission: Submission, config: object) -> str:
        self.assertEqual(home, self.home)
        if self.error:
            raise self.error
        self.submitted.append(submission)
        return "ok"

    def run_command(self, *arguments: str, stdin: bytes = MESSAGE, **environ: str) -> Outcome:
        self.submitted.clear()
        module = "qmailpy.cli." + arguments[0]
        with mock.patch(module + ".submit", self.submit):
            return invoke("--home", self.home, *arguments, stdin=stdin, environ=environ)

    def sent(self, *arguments: str, stdin: bytes = MESSAGE, **environ: str) -> Submission:
        """The one message that the command submitted."""
        found = self.run_command(*arguments, stdin=stdin, **environ)
        self.assertEqual(found, Outcome(status=0, out="", err=""))
        self.assertEqual(len(self.submitted), 1)
        return self.submitted[0]


class InjectTests(SubmittingCase):
    """qmail-inject(8)."""

    def test_recipients_come_from_where_they_were_asked_for(self) -> None:
        both = ("x@y.z", "s@y.z")
        for arguments, wanted in (
            ([], both),
            (["joe"], ("joe@example.org",)),
            (["-a", "joe"], ("joe@example.org",)),
            (["-h", "joe"], both),
            (["-H", "joe"], ("joe@example.org", *both)),
            (["-A"], both),
        ):
            self.assertEqual(self.sent("inject", *arguments).recipients, wanted, arguments)

    def test_the_message_is_completed_and_keeps_its_dots(self) -> None:
        content = self.sent("inject").content
        self.assertIn(b"From: Joe Doe <joe@example.org>\r\n", content)
        self.assertRegex(content, rb"Message-ID: <\d{14}\.\d+\.[0-9a-f]{12}@mx\.example\.org>\r\n")
        self.assertTrue(content.endswith(b"\r\n\r\nhello\r\n.\r\nmore\r\n"))
        self.assertNotIn(b"Bcc", content)

    def test_the_sender_comes_from_option_field_environment_or_user(self) -> None:
        returned = b"Return-Path: <r@y.z>\n" + MESSAGE
        for arguments, stdin, environ, wanted in (
            ([], MESSAGE, {}, "joe@example.org"),
            (["-f", "f@y.z"], returned, {}, "f@y.z"),
            (["-f", ""], returned, {}, ""),
            ([], returned, {}, "r@y.z"),
            ([], returned, {"QMAILINJECT": "s"}, "joe@example.org"),
            ([], MESSAGE, {"QMAILSUSER": "s", "QMAILSHOST": "h.x"}, "s@h.x"),
            ([], MESSAGE, {"QMAILUSER": "u", "MAILHOST": "m.x"}, "u@m.x"),
        ):
            self.assertEqual(
                self.sent("inject", *arguments, stdin=stdin, **environ).sender, wanted, (arguments, environ)
            )

    def test_the_environment_names_the_author(self) -> None:
        content = self.sent("inject", QMAILUSER="u", QMAILHOST="h.x", QMAILNAME="U. U", QMAILINJECT="c").content
        self.assertIn(b"From: u@h.x (U. U)\r\n", content)

    def test_a_list_file_makes_a_followup_field(self) -> None:
        path = self.mktemp()
        with open(path, "w") as target:
            target.write("x@y.z\n")
        self.assertIn(b"Mail-Followup-To: x@y.z\r\n", self.sent("inject", QMAILMFTFILE=path).content)

    def test_senders_that_vary(self) -> None:
        """QMAILINJECT r: a message for each recipient; m: a sender for each message."""
        self.run_command("inject", QMAILINJECT="r")
        self.assertEqual(
            [(one.sender, one.recipients) for one in self.submitted],
            [("joe-x=y.z@example.org", ("x@y.z",)), ("joe-s=y.z@example.org", ("s@y.z",))],
        )
        self.assertRegex(self.sent("inject", QMAILINJECT="m").sender, r"^joe-\d+\.\d+@example\.org$")

    def test_n_prints_and_sends_nothing(self) -> None:
        found = self.run_command("inject", "-n")
        self.assertEqual((found.status, self.submitted), (0, []))
        self.assertTrue(found.out.endswith("\n\nhello\n.\nmore\n"))
        self.assertNotIn("\r", found.out)
        self.run_command("inject", "-n", "-N")
        self.assertEqual(len(self.submitted), 1)

    def test_the_exit_status_is_100_for_never_and_111_for_later(self) -> None:
        self.assertEqual(self.run_command("inject", "-Z").status, 100)
        self.assertEqual(self.run_command("inject", stdin=b"Subject: x\n\n").status, 100)
        self.assertEqual(self.run_command("inject", stdin=b"To: a b\n\n").status, 100)
        self.assertEqual(self.run_command("inject", stdin=b"To: a\n\n\0").status, 100)
        self.assertEqual(self.run_command("inject", QMAILMFTFILE="/nowhere").status, 111)
        for error, status in ((Refused(Reply(550, "5.1.1", "No")), 100), (NotNow("x"), 111)):
            self.error = error
            found = self.run_command("inject")
            self.assertEqual((found.status, found.err.count("\n")), (status, 1))

    def test_a_message_that_is_too_large_is_refused(self) -> None:
        with open(os.path.join(self.home, "etc", "qmailpy.toml"), "a") as target:
            target.write("[queue]\nmessage_octets = 65536\n")
        found = self.run_command("inject", stdin=MESSAGE + b"x" * 65536)
        self.assertEqual((found.status, self.submitted), (100, []))
        self.assertIn("larger than 65536 octets", found.err)

    def test_a_configuration_that_may_not_be_read_is_no_obstacle(self) -> None:
        os.unlink(os.path.join(self.home, "etc", "qmailpy.toml"))
        with mock.patch("socket.gethostname", return_value="box.example"):
            self.assertEqual(self.sent("inject").sender, "joe@box.example")


class SendmailTests(SubmittingCase):
    """The sendmail command line."""

    def test_what_programs_write_is_understood(self) -> None:
        """The lines of cron, PHP, mutt, git, mailx, and some odd ones."""
        for line, wanted in (
            ("-FCronDaemon -i -B8BITMIME -oem root", Options(name="CronDaemon", dots=False, recipients=("root",))),
            ("-t -i", Options(header=True, dots=False)),
            ("-oem -oi -f a@b -- x@y -z", Options(dots=False, sender="a@b", recipients=("x@y", "-z"))),
            ("-i a@b c@d", Options(dots=False, recipients=("a@b", "c@d"))),
            ("a@b -fc@d", Options(sender="c@d", recipients=("a@b",))),
            (
                "-ti -r x -N never -R hdrs -V id -O a=b -C /x -h 5",
                Options(header=True, dots=False, sender="x", notify=1, ret="HDRS", envid="id"),
            ),
            ("-Nsuccess,delay,success x", Options(notify=10, recipients=("x",))),
            ("-bs", Options(mode="s")),
            ("-bp", Options(mode="p")),
            ("-I", Options(mode="i")),
            ("-q15m", Options(flush=True)),
            ("-vodi -d0.1 -em -X /log -Am -G -U -E -J", None),
            ("-", Options(recipients=("-",))),
        ):
            if wanted is None:
                parse(["-v", *line.split()[1:]])
            else:
                self.assertEqual(parse(line.split()), wanted, line)

    def test_wrong_usage_is_64(self) -> None:
        for line in ("-Z", "-f", "-bx", "-bd", "-N x", "-N never,delay", "-N delay,", "-R x", "-V " + "x" * 101):
            found = self.run_command("sendmail", *line.split())
            self.assertEqual((found.status, found.err.count("\n"), self.submitted), (64, 1, []), line)
        self.assertEqual(self.run_command("sendmail").status, 64)
        self.assertEqual(self.run_command("sendmail", "-t", stdin=b"Subject: x\n\n").status, 64)

    def test_the_message_ends_at_a_lone_dot_unless_told_otherwise(self) -> None:
        self.assertTrue(self.sent("sendmail", "x@y.z").content.endswith(b"\r\n\r\nhello\r\n"))
        self.assertTrue(self.sent("sendmail", "-oi", "x@y.z").content.endswith(b"hello\r\n.\r\nmore\r\n"))

    def test_the_header_counts_only_with_t(self) -> None:
        self.assertEqual(self.sent("sendmail", "-i", "a").recipients, ("a@example.org",))
        self.assertEqual(self.sent("sendmail", "-t", "a").recipients, ("a@example.org", "x@y.z", "s@y.z"))
        self.assertNotIn(b"Bcc", self.sent("sendmail", "a").content)

    def test_the_sender_is_the_author_too_where_there_is_none(self) -> None:
        sent = self.sent("sendmail", "-t", "-f", "f@y.z", "-F", "F F")
        self.assertEqual(sent.sender, "f@y.z")
        self.assertIn(b"From: F F <f@y.z>\r\n", sent.content)
        sent = self.sent("sendmail", "-t", "-f", "<>")
        self.assertEqual(sent.sender, "")
        self.assertIn(b"From: Joe Doe <joe@example.org>\r\n", sent.content)

    def test_exit_codes_are_those_of_sysexits(self) -> None:
        for error, status in (
            (Refused(Reply(550, "5.1.1", "No such user"), "a@b"), 67),
            (Refused(Reply(550, "", "5.1.1 No such user"), "a@b"), 67),
            (Refused(Reply(552, "5.3.4", "Too large")), 69),
            (Refused(Reply(550, "5.7.1", "Relaying denied"), "a@b"), 69),
            (NotNow("x"), 75),
            (OSError(28, "No space"), 75),
        ):
            self.error = error
            found = self.run_command("sendmail", "a@b")
            self.assertEqual((found.status, found.err.count("\n")), (status, 1), error)
        self.error = None
        self.assertEqual(self.run_command("sendmail", "a b").status, 65)
        self.assertEqual(self.run_command("sendmail", "-t", stdin=b"To: a b\n\n").status, 65)
        self.assertEqual(self.run_command("sendmail", "-bv", "a").status, 69)

    def test_newaliases_has_nothing_to_do(self) -> None:
        self.assertEqual(self.run_command("sendmail", "-bi"), Outcome(status=0, out="", err=""))

    def test_serving_without_a_daemon_says_421(self) -> None:
        found = self.run_command("sendmail", "-bs")
        self.assertEqual((found.status, found.out), (75, "421 4.3.2 The mail system is not running\r\n"))

    def test_a_flush_without_a_daemon_is_told(self) -> None:
        found = self.run_command("sendmail", "-q")
        self.assertEqual(found.status, 75)
        self.assertIn("the daemon does not run", found.err)

    def test_a_flush_releases_what_waits_in_batches(self) -> None:
        entries = [mock.Mock(id=str(number), channel="c") for number in range(450)]
        view = mock.Mock()
        view.entries.return_value = iter(entries)
        with mock.patch("qmailpy.cli.livequeue.live_view", return_value=view):
            self.assertEqual(self.run_command("sendmail", "-q").status, 0)
        released = [target.id for call in view.release.call_args_list for target in call.args[0]]
        self.assertEqual(released, [entry.id for entry in entries])
        self.assertEqual(view.entries.call_args.args[0].held, False)
        view.entries.side_effect = CommandError("no answer")
        with mock.patch("qmailpy.cli.livequeue.live_view", return_value=view):
            self.assertEqual(self.run_command("sendmail", "-q").status, 75)

    def test_mail_is_taken_while_the_daemon_is_down(self) -> None:
        """It waits in the drop directory, and the status says that it is safe."""
        os.makedirs(os.path.join(self.home, "queue", "drop"))
        found = invoke("--home", self.home, "sendmail", "-t", "-f", "f@y.z", stdin=MESSAGE)
        self.assertEqual(found, Outcome(status=0, out="", err=""))
        (name,) = os.listdir(os.path.join(self.home, "queue", "drop"))
        with open(os.path.join(self.home, "queue", "drop", name), "rb") as source:
            drop = read_drop(source.read())
        self.assertEqual((drop.sender, drop.recipients), ("f@y.z", ("x@y.z", "s@y.z")))
        self.assertTrue(drop.content.endswith(b"Subject: hi\r\n\r\nhello\r\n"))

    def test_without_any_way_the_remedy_is_named(self) -> None:
        found = invoke("--home", self.home, "sendmail", "-t", stdin=MESSAGE)
        self.assertEqual((found.status, found.err.count("\n")), (75, 1))
        self.assertIn(f"start the daemon: twistd -n qmailpy --home {self.home}", found.err)
