"""qmailpy log account."""

from __future__ import annotations

import csv
import gzip
import json
import os
import time
from types import SimpleNamespace

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.cli import account as module
from qmailpy.cli import output
from qmailpy.cli.log import log
from qmailpy.cli.when import moment
from qmailpy.config.schema import LogConfig
from qmailpy.records.record import Action, LogRecord, QueueFile
from qmailpy.records.text import LineFormat
from tests.cli.pausing import pausing

_NOON = time.mktime((2026, 3, 1, 12, 0, 0, 0, 0, -1))
_SUN = b"16-Feb-2007 14:55:02.10 ims-ms                    D 5 a@b rfc822;b@example.com b@x\n"


def _line(at: float = _NOON, to: str = "b@one.example") -> bytes:
    record = LogRecord(
        action=Action.DEQUEUED,
        time=at,
        source="local",
        size_octets=2048,
        sender="a@x.example",
        original_to=to,
        current_to=to,
        file=QueueFile(channel="local", id="06kq9q5g5k3l0a0", attempts=0),
        queue_time=2.0,
        lane="0",
    )
    return LineFormat(LogConfig()).line(record)


class AccountTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = os.path.abspath(self.mktemp())
        os.makedirs(f"{self.home}/log")
        self.patch(
            module,
            "load",
            lambda home: SimpleNamespace(log=LogConfig(), channels={"clean": SimpleNamespace(kind="conversion")}),
        )

    def write(self, name: str, octets: bytes) -> str:
        path = f"{self.home}/log/{name}"
        with open(path, "ab") as file:
            file.write(octets)
        return path

    def call(self, *words: str) -> Result:
        return CliRunner().invoke(log, ["account", *words], obj=SimpleNamespace(home=self.home))

    def test_the_whole_log_is_added_up(self) -> None:
        """S1."""
        for name in ("mail.log_current", "mail.log_yesterday", "mail.log"):
            self.write(name, _line())
        self.write("mail.log-1.gz", gzip.compress(_line()))
        found = json.loads(self.call("--by", "channel", "--json").output)
        self.assertEqual(found["records"], 4)
        (line,) = found["lines"]
        self.assertEqual((line["key"], line["delivered_messages"], line["delivered_octets"]), ("local", 4, 8192))
        self.assertEqual((line["queue_time_s"], line["sent_messages"]), (2.0, 0))

    def test_a_table_is_for_people_and_csv_for_spreadsheets(self) -> None:
        self.write("mail.log_current", _line() + _line(to="b@=cmd"))
        self.assertIn("one.example", self.call().output)
        rows = list(csv.DictReader(self.call("--csv").output.splitlines()))
        self.assertEqual(
            {row["domain"]: row["delivered_recipients"] for row in rows}, {"one.example": "1", "'=cmd": "1"}
        )

    def test_where_no_line_tells_of_a_queue_time_there_is_none(self) -> None:
        path = self.write("old", _SUN)
        words = ("--format", "sun", "--by", "channel")
        self.assertEqual(self.call(*words, path).output.split()[-4:], ["-"] * 4)
        (line,) = json.loads(self.call(*words, "--json", path).output)["lines"]
        self.assertEqual((line["delivered_recipients"], line["queue_time_s"], line["p99_s"]), (1, None, None))
        (row,) = csv.DictReader(self.call(*words, "--csv", path).output.splitlines())
        self.assertEqual(row["p50_s"], "")

    def test_a_table_of_many_rows_is_as_one_of_few(self) -> None:
        """It is not kept in memory whole, and lines up all the same; a name that is long comes last of all."""
        names = [f"b@n{number}.example" for number in range(50)]
        self.write("mail.log_current", b"".join(_line(to=to) for to in names) + _line(to=f"b@{'n' * 60}.example"))
        usual = self.call().output
        self.patch(output, "_MANY", 10)
        self.assertEqual(self.call().output, usual)
        self.assertEqual(len({len(line) for line in usual.splitlines()}), 1)
        self.assertEqual(len(usual.splitlines()), 52)

    def test_several_keys_are_columns(self) -> None:
        self.write("mail.log_current", _line() + _line(_NOON + 86400))
        words = ("--by", "day", "--by", "domain")
        self.assertEqual(self.call(*words).output.split()[:2], ["day", "domain"])
        (first, _) = json.loads(self.call(*words, "--json").output)["lines"]
        self.assertEqual((first["key"], first["keys"]), ("2026-03-01", {"day": "2026-03-01", "domain": "one.example"}))
        rows = list(csv.DictReader(self.call(*words, "--csv").output.splitlines()))
        self.assertEqual(
            [(row["day"], row["domain"]) for row in rows],
            [("2026-03-01", "one.example"), ("2026-03-02", "one.example")],
        )

    def test_mail_to_a_destination_has_no_sender_there(self) -> None:
        """A table by destination has no columns of zeros; programs find the same names in each."""
        self.write("mail.log_current", _line())
        heads = self.call("--by", "destination").output.splitlines()[0].split()
        self.assertEqual(heads[:4], ["destination", "delivered", "to", "KiB"])
        self.assertNotIn("sent", heads)
        (line,) = json.loads(self.call("--by", "destination", "--json").output)["lines"]
        self.assertEqual((line["key"], line["sent_messages"]), ("local/one.example", 0))

    def test_what_a_channel_hands_on_goes_by_its_kind(self) -> None:
        """T7: whatever the operator has called it."""
        line = _line()
        self.write("mail.log_current", line + line.replace(b"local        ", b"clean        "))
        (found,) = json.loads(self.call("--by", "user", "--json").output)["lines"]
        self.assertEqual(found["delivered_messages"], 1)

    def test_since_and_until_and_top(self) -> None:
        self.write("mail.log_current", _line(_NOON, "b@one.example") + _line(_NOON + 7200, "b@two.example"))
        self.assertNotIn("one.example", self.call("--since", "2026-03-01 13:00").output)
        self.assertNotIn("two.example", self.call("--until", "2026-03-01T13:00").output)
        self.assertEqual(len(self.call("--top", "1").output.splitlines()), 2)
        self.assertEqual(self.call("--since", "soon").exit_code, 2)

    def test_a_day_that_is_damaged_is_left_out_and_told(self) -> None:
        """Exit status 1: the sum is not whole."""
        self.write("mail.log.2026-02-28.gz", gzip.compress(_line(to="b@lost.example"))[:-4])
        self.write("mail.log_current", _line())
        result = self.call("--by", "domain")
        self.assertIn("one.example", result.output)
        self.assertIn("mail.log.2026-02-28.gz: damaged: ", result.stderr)
        self.assertIn("the figures lack", str(result.exception))

    def test_named_files_are_read_instead(self) -> None:
        """Also an ancestor's, and without any home."""
        path = self.write("old", _SUN)
        self.home += "/none"
        self.assertIn("example.com", self.call("--format", "sun", path).output)

    def test_an_ancestors_days_are_days_in_any_format(self) -> None:
        element = b'<en ts="2007-02-17T09:45:50.29" sc="ims-ms" ac="D" sz="3" so="a@b" od="rfc822;c@d" de="c@d"/>\n'
        opened = b"19-Feb-2007 17:02:08.70 tcp_local    +            O TCP|192.0.2.12|25|198.51.100.66|1244 SMTP\n"
        path = self.write("old", _SUN + element + opened)
        found = json.loads(self.call("--by", "day", "--format", "sun", "--json", path).output)
        self.assertEqual([line["key"] for line in found["lines"]], ["2007-02-16", "2007-02-17"])
        self.assertEqual(found["unreadable"], 0)  # a connection's line is no mail, and nothing is wrong with it

    def test_following_shows_it_again_as_mail_goes_on(self) -> None:
        self.patch(module, "time", pausing(lambda: self.write("mail.log_current", _line()), lambda: None))
        self.write("mail.log_current", _line())
        self.write("mail.log_yesterday", _line())
        shown = [json.loads(line)["records"] for line in self.call("-f", "--json").output.splitlines()]
        self.assertEqual(shown, [2, 3])

    def test_without_a_home_the_remedy_is_named(self) -> None:
        self.home += "/none"
        self.assertIn("qmailpy init", str(self.call().exception))


class WhenTests(SynchronousTestCase):
    def test_times_as_people_write_them(self) -> None:
        midnight = _NOON - 12 * 3600
        for text, expected in (
            ("2026-03-01", midnight),
            ("2026-03-01 12:00", _NOON),
            ("today", midnight),
            ("yesterday", midnight - 86400),
            ("90m", _NOON - 5400),
            ("2w", _NOON - 14 * 86400),
        ):
            self.assertEqual(moment(text, _NOON), expected, text)
        for text in ("", "soon", "2026-13-01", "1y"):
            self.assertRaises(ValueError, moment, text, _NOON)
