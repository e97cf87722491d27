"""Handing mail over to a daemon, with real sockets: to a scripted one on HOME/run/inject.sock and on loopback."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.cli.submit import SOCKET, NotNow, Refused, Submission, submit
from qmailpy.config.load import parse
from qmailpy.control.client import short_path
from qmailpy.wire.drop import read_drop
from tests.config.test_load import MINIMAL

MAIL = Submission(sender="a@b.c", recipients=("x@y.z", "w@v.u"), content=b"S: x\r\n\r\n.hi\r\n..\r\nend\r\n")


class Scripted(threading.Thread):
    """A server for one connection: answers each command by its first word, 250 unless told otherwise."""

    def __init__(self, listening: socket.socket, replies: dict[str, str], extensions: str) -> None:
        super().__init__(daemon=True)
        self.listening = listening
        self.replies = replies
        self.extensions = extensions
        self.commands: list[str] = []
        self.content = b""

    def run(self) -> None:
        with contextlib.suppress(OSError):  # a client that does not wait for the reply to its QUIT
            self.serve()

    def serve(self) -> None:
        connection, _ = self.listening.accept()
        with connection, connection.makefile("rwb") as stream:

            def say(text: str) -> None:
                stream.write(text.encode() + b"\r\n")
                stream.flush()

            say(self.replies.get("greeting", "220 hello"))
            while line := stream.readline().decode().rstrip("\r\n"):
                self.commands.append(line)
                word = line.split(" ")[0]
                reply = self.replies.get(line) or self.replies.get(word)
                if reply == "":
                    return
                if word == "EHLO" and not reply:
                    reply = "".join(f"250-{each}\r\n" for each in ["us", *self.extensions.split()]) + "250 HELP"
                if word == "DATA" and not reply:
                    say("354 go")
                    while (part := stream.readline()) != b".\r\n":
                        self.content += part.removeprefix(b".")
                    reply = self.replies.get("dot", "250 2.0.0 q1 queued")
                    if not reply:
                        return
                say(reply or ("221 bye" if word == "QUIT" else "250 ok"))
                if word == "QUIT":
                    return


class SubmitTests(SynchronousTestCase):
    """L{submit}."""

    def setUp(self) -> None:
        self.home = os.path.abspath(self.mktemp())
        os.makedirs(os.path.join(self.home, "run"))
        self.config = parse(MINIMAL, "F", self.home)

    @contextmanager
    def daemon(self, replies: dict[str, str], extensions: str = "PIPELINING SIZE 8BITMIME") -> Iterator[Scripted]:
        """A scripted daemon on the home's socket."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            with short_path(os.path.join(self.home, SOCKET)) as name:
                listening.bind(name)
            listening.listen()
            server = Scripted(listening, replies, extensions)
            server.start()
            yield server
            server.join(10)
            os.unlink(os.path.join(self.home, SOCKET))

    def make_drop(self) -> str:
        folder = os.path.join(self.home, "queue", "drop")
        os.makedirs(folder)
        return folder

    def test_the_message_arrives_as_it_is(self) -> None:
        for extensions in ("PIPELINING SIZE 8BITMIME", ""):
            with self.daemon({}, extensions) as server:
                self.assertEqual(submit(self.home, MAIL, self.config, 10), "2.0.0 q1 queued")
            self.assertEqual(server.content, MAIL.content)
            size = f" SIZE={len(MAIL.content)}" if extensions else ""
            self.assertEqual(
                server.commands,
                [
                    "EHLO mx.example.org",
                    f"MAIL FROM:<a@b.c>{size}",
                    "RCPT TO:<x@y.z>",
                    "RCPT TO:<w@v.u>",
                    "DATA",
                    "QUIT",
                ],
            )

    def test_what_the_sender_wants_to_be_told_is_said_where_it_is_understood(self) -> None:
        """RFC 3461; and written into the drop."""
        mail = attrs.evolve(MAIL, notify=6, ret="HDRS", envid="a=b c")
        with self.daemon({}, "DSN SIZE") as server:
            submit(self.home, mail, self.config, 10)
        self.assertTrue(server.commands[1].endswith(" RET=HDRS ENVID=a+3Db+20c"))
        self.assertEqual(server.commands[2], "RCPT TO:<x@y.z> NOTIFY=SUCCESS,FAILURE")
        with self.daemon({}) as server:
            submit(self.home, mail, self.config, 10)
        self.assertEqual(server.commands[2], "RCPT TO:<x@y.z>")
        folder = self.make_drop()
        submit(self.home, mail, None, 10)
        (name,) = os.listdir(folder)
        with open(os.path.join(folder, name), "rb") as source:
            found = read_drop(source.read())
        self.assertEqual((found.notify, found.ret, found.envid), (6, "HDRS", "a=b c"))

    def test_a_message_of_8_bits_is_announced(self) -> None:
        with self.daemon({}) as server:
            submit(self.home, attrs.evolve(MAIL, content=b"S: \xff"), self.config, 10)
        self.assertTrue(server.commands[1].endswith(" BODY=8BITMIME"))
        self.assertEqual(server.content, b"S: \xff\r\n")

    def test_a_thousand_recipients_are_sent_in_batches(self) -> None:
        many = attrs.evolve(MAIL, recipients=tuple(f"u{number}@y.z" for number in range(1000)))
        with self.daemon({}) as server:
            submit(self.home, many, self.config, 10)
        self.assertEqual(len(server.commands), 1004)

    def test_a_refused_recipient_stops_it_for_all(self) -> None:
        """Nothing is sent, nothing is dropped, and the one that is the cause is named."""
        folder = self.make_drop()
        replies = {"RCPT TO:<w@v.u>": "550 5.1.1 No such user", "RCPT TO:<x@y.z>": "451 4.3.0 Later"}
        for extensions in ("PIPELINING", ""):
            with self.daemon(replies, extensions) as server:
                error = self.assertRaises(Refused, submit, self.home, MAIL, self.config, 10)
            self.assertEqual((error.recipient, error.reply.code), ("w@v.u", 550))
            self.assertEqual(str(error), "w@v.u: 550 5.1.1 No such user")
            self.assertNotIn("DATA", server.commands)
        self.assertEqual(os.listdir(folder), [])

    def test_a_refused_sender_or_message_is_final_too(self) -> None:
        for replies in ({"MAIL": "550 no"}, {"DATA": "554 no"}, {"dot": "552 5.3.4 too large"}, {"greeting": "554 no"}):
            with self.daemon(replies):
                error = self.assertRaises(Refused, submit, self.home, MAIL, self.config, 10)
            self.assertEqual(error.recipient, "")

    def test_what_is_refused_for_now_waits_in_the_drop(self) -> None:
        """As does what a daemon took that died, or that does not speak SMTP."""
        folder = self.make_drop()
        for number, replies in enumerate(
            (
                {"greeting": "421 busy"},
                {"RCPT": "452 4.5.3 too many"},
                {"DATA": "451 no"},
                {"DATA": "250 what?"},
                {"dot": "451 4.3.0 disk"},
                {"dot": ""},
                {"MAIL": ""},
                {"greeting": "hello there"},
            ),
            1,
        ):
            with self.daemon(replies):
                self.assertTrue(submit(self.home, MAIL, self.config, 10).startswith("dropped as "))
            names = os.listdir(folder)
            self.assertEqual(len(names), number, replies)
            self.assertFalse(any(name.startswith("tmp.") for name in names))
        for name in names:
            with open(os.path.join(folder, name), "rb") as source:
                self.assertEqual(read_drop(source.read())[:3], (MAIL.sender, MAIL.recipients, MAIL.content))
            self.assertEqual(os.stat(os.path.join(folder, name)).st_mode & 0o777, 0o600)

    def test_a_drop_that_fails_leaves_nothing(self) -> None:
        folder = self.make_drop()
        from qmailpy.disk.files import RealFiles

        self.patch(RealFiles, "fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        error = self.assertRaises(NotNow, submit, self.home, MAIL, self.config, 10)
        self.assertIn("queue/drop: No space left on device", str(error))
        self.assertEqual(os.listdir(folder), [])

    def test_who_may_not_drop_uses_a_loopback_listener(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
            text = MINIMAL + f'[[listener]]\nname = "a"\nkind = "smtp"\nendpoint = "tcp:{port}"\nchannel = "local"\n'
            server = Scripted(listening, {}, "")
            server.start()
            self.assertEqual(submit(self.home, MAIL, parse(text, "F", self.home), 10), "2.0.0 q1 queued")
            server.join(10)

    def test_without_any_way_every_reason_is_told(self) -> None:
        said = str(self.assertRaises(NotNow, submit, self.home, MAIL, self.config, 10))
        for words in ("inject.sock: No such file", "queue/drop: No such file", "twistd -n qmailpy --home"):
            self.assertIn(words, said)

    def test_smtp_on_standard_input_reaches_the_daemon(self) -> None:
        """C{sendmail -bs}, from a pipe and from a file."""
        script = "".join(
            f"{line}\r\n" for line in ("EHLO x", "MAIL FROM:<a@b>", "RCPT TO:<c@d>", "DATA", "S: x", "", ".", "QUIT")
        )
        path = self.mktemp()
        with open(path, "w", newline="") as target:
            target.write(script)
        for from_file in (False, True):
            arguments = ["--home", self.home, "sendmail", "-bs"]
            code = f"import sys; from qmailpy.cli.main import run; sys.exit(run({arguments}))"
            with self.daemon({}) as server, open(path, "rb") as source:
                child = subprocess.Popen(
                    [sys.executable, "-c", code],
                    stdin=source if from_file else subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
                out, err = child.communicate(None if from_file else script.encode(), timeout=20)
            self.assertEqual((child.returncode, err), (0, b""))
            self.assertEqual(server.content, b"S: x\r\n\r\n")
            self.assertTrue(out.startswith(b"220 hello\r\n250-us\r\n"), out)
