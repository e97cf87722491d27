"""The conversion channel over the real daemon, with real commands: records, counters, limits, reload."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from typing import ClassVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from qmailpy.channels.conversions import command
from qmailpy.channels.conversions.command import Ended, Invocation, run_now
from qmailpy.records.record import Action
from tests.integration.node import NodeCase, Settings, trace_and_message
from tests.integration.peers.client import message
from tests.integration.peers.sink import always

ONE = (1, 1, 1)
DONE = {"received": ONE, "delivered": ONE, "first": 1, "timed": 1, "timed_first": 1}
SCRIPT = """#!/bin/sh
case "$CONVERSION_TAG" in
no-op) cp "$1" "$2" ;;
upper) tr a-z A-Z <"$1" >"$2" ;;
status) exit "$3" ;;
options) printf 'STATUS=PMDF__FORCERETURN\\nOUTPUT_DIAGNOSTIC=no such words here\\n' >"$OUTPUT_OPTIONS" ;;
sleep) sleep 100 & echo $! >"$HOME/../../../../../child"; wait ;;
link) ln -s "$1" "$2" ;;
directory) mkdir "$2" ;;
moved) mv "$HOME" "$HOME.moved"; ln -s /tmp "$HOME"; mkdir "$HOME.moved/../left" ;;
removed) rm -r "$HOME" ;;
memory) exec "$PYTHON" -c 'x = bytearray(400_000_000)' ;;
esac
"""


def entries(*tables: str) -> str:
    return "".join(f"[[entry]]\n{table}\n" for table in tables)


class Conversion(NodeCase):
    """All mail from outside is converted, however it goes on."""

    settings: ClassVar[Settings] = {
        "channel.tcp_local.messages_per_connection": 1,
        "channel.conversion.backoff": [1.0],
        "channel.conversion.jitter": 0.0,
        "server.drain_s": 4.0,
    }

    def setUp(self) -> None:
        super().setUp()
        etc = self.node.path("etc")
        self.script = os.path.join(etc, "script")
        if not os.path.exists(self.script):
            with open(self.script, "w") as target:
                target.write(SCRIPT.replace("$PYTHON", os.path.realpath("/usr/bin/python3")))
            os.chmod(self.script, stat.S_IRWXU)
            with open(self.node.path("etc", "qmailpy.toml"), "a") as target:
                target.write('\n[[conversion]]\nsource = "tcp_local"\n')
        self.table("")

    def table(self, text: str) -> None:
        """Have the running daemon use it."""
        said = self.log().count("conversions.toml in force")
        with open(self.node.path("etc", "conversions.toml"), "w") as target:
            target.write(text + entries(f'action = "keep"\nname = "{said}"'))  # another table each time
        assert self.node.process is not None
        self.node.process.send_signal(signal.SIGHUP)
        self.until(lambda: self.log().count("conversions.toml in force") > said)

    def command(self, tag: str, *more: str, **keys: object) -> str:
        argv = ", ".join(f'"{one}"' for one in (self.script, "$INPUT", "$OUTPUT", *more))
        extra = "".join(f"{key} = {value}\n" for key, value in keys.items())
        return entries(f'action = "command"\ntag = "{tag}"\ncommand = [{argv}]\n{extra}')

    def send(self, *recipients: str, body: bytes = b"hello\r\n") -> bytes:
        content = message("converted", body)
        with self.node.talk() as talk:
            reply = talk.mail("a@client.example", recipients or ("alice@example.org",), content)
            self.assertTrue(reply.startswith("250"), reply)
        return content.replace(b"\r\n", b"\n")

    def got(self) -> bytes:
        (octets,) = self.node.wait_mailbox("alice", 1)
        return trace_and_message(octets)[1]

    def test_a_pass_through_is_four_records_in_order_and_counts_so(self) -> None:
        """C8: E to conversion, E from it, D by it, D by whoever delivers; nothing changed is the same octets."""
        self.before = self.counted()
        self.table(self.command("no-op"))
        start = len(self.node.records())
        sent = self.send()
        self.assertEqual(self.got(), sent)
        self.wait_idle()
        lines = [one for one in self.node.records()[start:] if one.action in (Action.ENQUEUED, Action.DEQUEUED)]
        self.assertEqual(
            [(one.source, one.destination, one.action.value) for one in lines],
            [
                ("tcp_local", "conversion", "E"),
                ("conversion", "local", "E"),
                ("conversion", "", "D"),
                ("local", "", "D"),
            ],
        )
        self.assertEqual(len({one.message_id for one in lines}), 1)
        self.assertEqual({one.current_to for one in lines}, {"alice@example.org"})
        self.expect(
            {
                "tcp_local": {"submitted": ONE, "in": 1},
                "conversion": {**DONE, "submitted": ONE},
                "local": DONE,
            }
        )

    def test_a_stop_does_not_wait_for_a_command_and_leaves_none_behind(self) -> None:
        """It is ended in time for its end to be recorded; the message is converted anew after the start."""
        self.table(self.command("sleep", timeout_s=900.0))
        sent = self.send()
        there = self.node.path("child")
        self.until(lambda: os.path.exists(there) and os.path.getsize(there) > 1)
        with open(there) as source:
            child = int(source.read())
        os.unlink(there)
        start = len(self.node.records())
        self.assertEqual(self.node.stop(), 0)
        self.assertNotIn("did not end in time", self.log())
        self.until(lambda: not os.path.exists(f"/proc/{child}"))
        self.assertEqual([one.action for one in self.node.records()[start:]], [Action.DEFERRED])
        with open(self.node.path("etc", "conversions.toml"), "w") as target:
            target.write(self.command("no-op"))
        self.node.start()
        self.assertEqual(self.got(), sent)
        self.wait_idle()

    def test_a_command_changes_what_it_says(self) -> None:
        self.table(self.command("upper"))
        sent = self.send()
        octets = self.got()
        self.assertIn(b"\n\nHELLO", octets)
        self.assertIn(sent.partition(b"\n\n")[0].splitlines()[0], octets)
        self.assertEqual(os.listdir(self.node.path("run", "conversion")), ["0-conversion"])
        self.assertEqual(os.listdir(self.node.path("run", "conversion", "0-conversion")), [])

    def test_recipients_on_two_channels_are_converted_for_each(self) -> None:
        self.table(entries('action = "disclaimer"\nout_channel = "tcp_local"\ntext = "with care"'))
        sent = self.send("alice@example.org", "bob@example.org", "x@remote.example")
        self.assertEqual(self.got(), sent)
        (mail,) = self.sink.wait_mails(1)
        self.assertIn(b"with care", mail.content)

    def test_a_message_is_returned_with_the_commands_words(self) -> None:
        self.table(self.command("options"))
        with self.node.talk() as talk:
            talk.mail("alice@example.org", ["bob@example.org"], message("x", b"hello\r\n"))
        (octets,) = self.node.wait_mailbox("alice", 1)
        self.assertIn(b"554 5.7.1 no such words here", octets)
        self.wait_idle()

    def test_a_message_is_held_and_released(self) -> None:
        self.table(self.command("status", "82"))
        self.send()
        self.until(lambda: bool(self.held()))
        self.table("")
        self.node.qmailpy("qm", "release", str(self.held()[0]["id"]))
        self.got()
        self.wait_idle()

    def test_what_is_released_is_converted_as_the_rest_and_held_no_more(self) -> None:
        """The table is as it was when the message was held."""
        self.table(entries('action = "hold"\nwhole = true') + entries('action = "disclaimer"\ntext = "with care"'))
        self.send()
        self.until(lambda: bool(self.held()))
        self.node.qmailpy("qm", "release", str(self.held()[0]["id"]))
        self.assertIn(b"with care", self.got())
        self.wait_idle()

    def test_a_message_beyond_a_limit_waits_for_an_operator_or_goes_back(self) -> None:
        """A program behind more parts than are looked at; the log tells which way it went."""
        head = b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n"
        part = b'--b\r\nContent-Type: application/octet-stream; name="run.exe"\r\n\r\nMZ\r\n'
        octets = head + b"Subject: hidden\r\n\r\n" + b"--b\r\n\r\n\r\n" * 20 + part + b"--b--\r\n"
        guard = entries('action = "return"\nfile = ["*.exe"]\ntext = "no programs"')
        for beyond, letters in (("hold", "EED"), ("return", "EER")):
            self.table(guard + f'[limits]\nparts = 10\nbeyond = "{beyond}"\n')
            before = len(self.node.records())
            with self.node.talk() as talk:
                self.assertEqual(talk.mail("alice@example.org", ["bob@example.org"], octets)[:3], "250")
            if beyond == "hold":
                self.until(lambda: bool(self.held()))
                self.node.qmailpy("qm", "release", str(self.held()[0]["id"]))
                self.assertIn(b"MZ", self.node.wait_mailbox("bob", 1)[0])
            else:
                self.assertIn(b"554 5.7.1 it has too many parts", self.node.wait_mailbox("alice", 1)[0])
            self.wait_idle()
            mine = [one for one in self.node.records()[before:] if "conversion" in (one.source, one.destination)]
            self.assertEqual("".join(one.action.value for one in mine), letters)

    def held(self) -> list[dict[str, object]]:
        found = json.loads(self.node.qmailpy("qm", "held", "--json"))
        return list(found["messages"] if isinstance(found, dict) else found)

    def test_what_fails_is_tried_again_until_it_works(self) -> None:
        """
        A status nobody knows, too much memory, and too much time; no file where one should be, another directory than
        the one it was given: never a bounce, and nothing stays.
        """
        for table in (
            self.command("status", "1"),
            self.command("memory", memory_octets=100_000_000),
            self.command("sleep", timeout_s=0.3),
            self.command("link"),
            self.command("directory"),
            self.command("moved"),
            self.command("removed"),
        ):
            before = len(self.node.records(Action.DEFERRED))
            self.table(table)
            self.send()
            self.until(lambda before=before: len(self.node.records(Action.DEFERRED)) > before)  # type: ignore[misc]
            self.table("")
            self.got()
            self.node.empty("alice")
        with open(self.node.path("child")) as source:
            child = int(source.read())
        self.until(lambda: not os.path.exists(f"/proc/{child}"))
        self.until(lambda: os.listdir(self.node.path("run", "conversion", "0-conversion")) == [])

    def test_a_journal_copy_goes_to_the_archive(self) -> None:
        self.table(entries('action = "journal"\naddress = "bob@example.org"'))
        sent = self.send("alice@example.org", "x@remote.example")
        self.assertEqual(self.got(), sent)
        (octets,) = self.node.wait_mailbox("bob", 1)
        self.assertEqual(trace_and_message(octets)[1], sent)
        self.assertTrue(octets.startswith(b"Return-Path: <>\n"))
        self.wait_idle()
        self.assertEqual(len(self.node.mailbox("bob")), 1)

        (copy,) = [one for one in self.node.records(Action.ENQUEUED) if one.current_to == "bob@example.org"]
        self.assertEqual((copy.source_system[15:], copy.modifiers, copy.sender), (" (journal)", "", ""))
        told = json.loads(self.node.qmailpy("trace", copy.message_id, "--json"))["messages"][-4:]
        self.assertIn(
            f": copy kept of {copy.source_system[:15]} from <>, ", self.node.qmailpy("trace", copy.message_id)
        )
        self.assertEqual([one["parent"] for one in told], ["", *[told[0]["id"]] * 3])

    def test_large_messages_go_through_in_files(self) -> None:
        self.table(entries('action = "disclaimer"\ntext = "with care"'))
        body = (b"y" * 70 + b"\r\n") * 20_000
        self.send(body=body)
        octets = self.got()
        self.assertIn(b"with care", octets)
        self.assertGreater(len(octets), 1_400_000)

    def test_what_bounces_behind_a_conversion_goes_to_the_sender(self) -> None:
        self.sink.answer = always("RCPT", "550 5.1.1 unknown")
        with self.node.talk() as talk:
            talk.mail("alice@example.org", ["gone@remote.example"], message("x", b"hello\r\n"))
        (octets,) = self.node.wait_mailbox("alice", 1)
        self.assertIn(b"gone@remote.example", octets)
        self.wait_idle()


class RealCommands(SynchronousTestCase):
    """Limits and process groups, without a daemon."""

    def run_(self, *argv: str, **given: float) -> Ended:
        place = self.mktemp()
        os.mkdir(place)
        invocation = Invocation(
            argv=argv,
            environment={"PATH": "/usr/bin:/bin", "X": "y"},
            directory=place,
            timeout_s=given.get("timeout_s", 10.0),
            memory_octets=int(given.get("memory_octets", 1 << 30)),
            output_octets=int(given.get("output_octets", 1 << 20)),
        )
        self.place = place
        return self.successResultOf(run_now(invocation))

    def test_a_command_has_an_environment_and_a_group_of_its_own(self) -> None:
        ended = self.run_("/bin/sh", "-c", "env; ps -o pgid= -p $$; echo $$; pwd")
        self.assertEqual(ended.status, 0)
        self.assertIn("X=y", ended.said)
        self.assertNotIn("HOME=", ended.said)
        words = ended.said.split(" / ")
        self.assertEqual(words[-3].strip(), words[-2])
        self.assertEqual(words[-1], os.path.realpath(self.place))

    def test_limits_hold(self) -> None:
        ended = self.run_("/bin/sh", "-c", "head -c 100000 /dev/zero >file", output_octets=4096)
        self.assertNotEqual(ended.status, 0)
        self.assertLessEqual(os.path.getsize(os.path.join(self.place, "file")), 4096)
        begin = time.monotonic()
        ended = self.run_("/bin/sh", "-c", "sleep 60 & sleep 60", timeout_s=0.2)
        self.assertEqual((ended.status, ended.why), (None, "took longer than 0.2 s"))
        self.assertLess(time.monotonic() - begin, 5)

    def test_what_cannot_be_run_is_told(self) -> None:
        ended = self.run_("/no/such/program")
        self.assertNotIn(ended.status, (0, 75, 80, 81, 82, 83, 84))
        self.assertIn("/no/such/program", ended.said)

    def test_who_has_left_the_group_and_holds_the_output_is_not_waited_for(self) -> None:
        """By commands and by the daemon; what was said is there, and the outcome is the command's own."""
        self.patch(command, "LINGER_S", 0.2)
        script = "echo said; setsid sleep 30 & sleep 0.1; exit 75"
        begin = time.monotonic()
        self.assertEqual(self.run_("/bin/sh", "-c", script), Ended(status=75, said="said"))
        self.assertLess(time.monotonic() - begin, 5)

    def test_what_is_said_without_end_takes_no_memory(self) -> None:
        """Its end is kept."""
        ended = self.run_("/bin/sh", "-c", "yes | head -c 20000000; echo over", timeout_s=20.0)
        self.assertEqual(ended.status, 0)
        self.assertTrue(ended.said.endswith("y / over"), ended.said)


class DaemonsCommands(TestCase):
    """L{ReactorRun} with real processes."""

    timeout = 10

    async def test_who_speaks_without_end_is_listened_to_now_and_then(self) -> None:
        """What he says is taken no faster than others' mail can bear; its end is there."""
        self.patch(command, "REST_S", 0.1)
        begin = time.monotonic()
        invocation = Invocation(
            argv=("/bin/sh", "-c", "yes | head -c 4500000; echo over"),
            environment={"PATH": "/usr/bin:/bin"},
            directory="/",
            timeout_s=8.0,
            memory_octets=1 << 30,
            output_octets=1 << 20,
        )
        ended = await command.ReactorRun(reactor)(invocation)
        self.assertEqual((ended.status, ended.why), (0, ""))
        self.assertTrue(ended.said.endswith("y / over"), ended.said)
        self.assertGreater(time.monotonic() - begin, 0.35)

    def test_who_has_left_the_group_and_holds_the_output_is_not_waited_for(self) -> Deferred[None]:
        """A user's program could keep a delivery for ever, whatever its time was; killed or not."""
        self.patch(command, "LINGER_S", 0.2)
        run = command.ReactorRun(reactor)

        async def both() -> None:
            for script, timeout_s, expected in (
                ("echo said; setsid sleep 30 & sleep 0.1; exit 75", 10.0, Ended(status=75, said="said")),
                ("setsid sleep 30 & sleep 30", 0.3, Ended(why="took longer than 0.3 s")),
            ):
                invocation = Invocation(
                    argv=("/bin/sh", "-c", script),
                    environment={"PATH": "/usr/bin:/bin"},
                    directory="/",
                    timeout_s=timeout_s,
                    memory_octets=1 << 30,
                    output_octets=1 << 20,
                )
                self.assertEqual(await run(invocation), expected)

        return Deferred.fromCoroutine(both())
