"""What the tests of conversions share: a converter without threads, commands that are functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.channels.conversions.command import Ended, Invocation
from qmailpy.channels.conversions.engine import Converter
from qmailpy.channels.conversions.entry import Kind, Mail, Outcome
from qmailpy.config.conversion_schema import ConversionsConfig, EntryConfig, StructureConfig
from qmailpy.values import Content, MemoryContent

Program = Callable[[Invocation], int]
"""Stands for a command: gets what it is given, leaves files, returns its exit status."""

MULTI = (
    b"From: a@b.example\r\nUser-Agent: x 1.0\r\nSubject: =?utf-8?q?h=C3=A9?=\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: multipart/mixed; boundary=b\r\n\r\npreamble\r\n"
    b"--b\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    b"caf=E9\r\n"
    b'\r\n--b\r\nContent-Type: application/x-msdownload; name="run me.EXE"\r\nContent-Disposition: attachment;\r\n'
    b' filename="run me.EXE"\r\nContent-Transfer-Encoding: base64\r\n\r\nTVqQAAM=\r\n'
    b"\r\n--b--\r\nepilogue\r\n"
)
EXE = MULTI[MULTI.index(b"Content-Type: application") : MULTI.index(b"\r\n--b--")]
TEXT = MULTI[MULTI.index(b"Content-Type: text/plain") : MULTI.index(b"\r\n--b\r\nContent-Type: application")]


def entry(action: str, **given: Any) -> EntryConfig:
    if action == "command":
        given = {"command": ("/bin/prog", "$INPUT", "${OUTPUT_FILE}"), **given}
    return EntryConfig(action=action, **given)


class ConverterCase(SynchronousTestCase):
    """Messages through a table."""

    def setUp(self) -> None:
        self.root = self.mktemp()
        self.asked: list[Invocation] = []
        self.notes: list[tuple[str, str, int, str, str]] = []

    def converter(self, *entries: EntryConfig, program: Program | None = None, **limits: Any) -> Converter:
        def run(invocation: Invocation) -> Deferred[Ended]:
            self.asked.append(invocation)
            assert program is not None
            status = program(invocation)
            ended: Deferred[Ended] = Deferred()
            ended.callback(Ended(status=status) if status >= 0 else Ended(why="killed"))
            return ended

        config = ConversionsConfig(limits=StructureConfig(**limits), entries=entries)
        return Converter(config, in_thread=maybeDeferred, run=run if program else None, root=self.root)

    def outcome(
        self, *entries: EntryConfig, message: bytes = MULTI, program: Program | None = None, **given: Any
    ) -> Outcome:
        limits = given.pop("limits", {})
        mail = Mail(
            id="q1",
            content=MemoryContent(message),
            sender="s@x.example",
            recipients=("r@y.example",),
            in_channel="tcp_local",
            out_channel="local",
        )
        content: Content | None = given.pop("content", None)
        mail = evolve(mail, **given) if content is None else evolve(mail, content=content, **given)
        converter = self.converter(*entries, program=program, **limits)
        self.notes = []
        note = lambda *said: self.notes.append(said)  # noqa: E731
        return self.successResultOf(Deferred.fromCoroutine(converter.convert(mail, note)))

    def made(
        self, *entries: EntryConfig, message: bytes = MULTI, program: Program | None = None, **given: Any
    ) -> bytes:
        """What a message becomes."""
        found = self.outcome(*entries, message=message, program=program, **given)
        self.assertIn(found.kind, (Kind.SAME, Kind.CHANGED), found.text)
        if found.kind is Kind.SAME:
            self.assertIsNone(found.content)
            return message
        assert found.content is not None
        octets = found.content.read()
        self.assertEqual(found.content.size, len(octets))
        self.assertEqual(b"".join(found.content.chunks(7)), octets)
        return octets

    def did(self) -> list[tuple[str, str]]:
        """Path of a part and what was done, of those that something was done with."""
        return [(path, did) for path, _, _, fits, did in self.notes if fits]
