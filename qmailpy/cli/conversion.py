"""C{qmailpy test conversion}: what conversions.toml makes of a message."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any

import click
from twisted.internet.defer import Deferred, maybeDeferred

from qmailpy.channels.conversions.command import run_now
from qmailpy.channels.conversions.engine import Converter
from qmailpy.channels.conversions.entry import Kind, Mail, Outcome
from qmailpy.channels.conversions.part import pieces, with_crlf
from qmailpy.cli.context import Context
from qmailpy.cli.output import print_json, print_line, print_table
from qmailpy.config.schema import Config
from qmailpy.errors import CommandError
from qmailpy.routing.selection import Selection
from qmailpy.values import Envelope, MemoryContent, Recipient

Note = tuple[str, str, int, str, str]


@click.command("conversion", short_help="Show what becomes of the message in FILE.")
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False))
@click.option("--source", default="tcp_local", show_default=True, metavar="CHANNEL", help="Where the mail comes from.")
@click.option("--destination", default="local", show_default=True, metavar="CHANNEL", help="The channel it is for.")
@click.option("--from", "sender", default="", metavar="ADDRESS", help="Envelope sender; nobody by default.")
@click.option("--to", "recipient", default="somebody@localhost", metavar="ADDRESS", help="Envelope recipient.")
@click.option("--run", "running", is_flag=True, help="Run the commands of the entries; --write does, too.")
@click.option("--write", "output", metavar="OUT", help="Write what the message becomes to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def conversion(
    context: Context,
    file: str,
    source: str,
    destination: str,
    sender: str,
    recipient: str,
    running: bool,
    output: str | None,
    as_json: bool,
) -> None:
    """
    Show the parts of the message in FILE, the entry of conversions.toml that fits each, and what is done.

    Nothing is queued or sent. Without --run and --write commands are named, not run.
    """
    config = context.config
    for name in (source, destination):
        known(config, name)
    octets = b"".join(with_crlf(pieces(file)))
    channel = _channel(config, sender, recipient, source, destination, len(octets))
    mail = Mail(
        id="test",
        content=MemoryContent(octets),
        sender=sender,
        recipients=(recipient,),
        in_channel=source,
        out_channel=destination,
    )
    notes: list[Note] = []
    root = tempfile.mkdtemp(prefix="qmailpy-")
    try:
        outcome = _converted(config, mail, notes, running or output is not None, root)
        if output is not None:
            _write(output, outcome, octets)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    notes.sort(key=lambda note: [int(number) for number in note[0].split(".") if number])  # commands come last
    if as_json:
        keys = ("part", "what", "octets", "entry", "done")
        rows = [dict(zip(keys, note, strict=True)) for note in notes]
        copies = [one.config.address for one in outcome.journals]
        said: dict[str, Any] = {"channel": channel, "outcome": outcome.kind.value, "text": outcome.text}
        print_json({**said, "parts": rows, "copies": copies})
        return
    if channel:
        print_line(f"goes through channel {channel} on its way from {source} to {destination}")
    else:
        print_line(f"from {source} to {destination} it would not be converted: no [[conversion]] table selects it")
    print_table(("Part", "What", "Octets", "Entry", "Done"), [_row(note) for note in notes], right=(2,))
    print_line(f"outcome: {outcome.kind.value}" + (f": {outcome.text}" if outcome.text else ""))


def known(config: Config, channel: str) -> None:
    """@raise CommandError: there is no such channel."""
    if channel not in config.channels:
        raise CommandError(f'there is no channel "{channel}"; known are {", ".join(sorted(config.channels))}')


def _channel(config: Config, sender: str, recipient: str, source: str, destination: str, size: int) -> str:
    """The conversion channel that would be selected; "" for none."""
    to = Recipient(address=recipient, original=recipient, channel=destination)
    envelope = Envelope(sender=sender, recipients=(to,), source=source, arrival=0.0)
    (found,) = Selection(config).redirect(envelope, size).recipients
    return found.channel if found.host else ""


def _converted(config: Config, mail: Mail, notes: list[Note], running: bool, root: str) -> Outcome:
    """Convert in this thread; everything answers at once."""
    converter = Converter(config.conversions, in_thread=maybeDeferred, run=run_now if running else None, root=root)
    found: list[Outcome] = []
    failed: list[BaseException] = []
    done = Deferred.fromCoroutine(converter.convert(mail, lambda *note: notes.append(note)))
    done.addCallbacks(found.append, lambda failure: failed.append(failure.value))
    if failed:
        raise failed[0]
    return found[0]


def _write(path: str, outcome: Outcome, octets: bytes) -> None:
    """What goes on to the destination, with LF line ends, as files of messages have them."""
    if outcome.kind not in (Kind.SAME, Kind.CHANGED):
        raise CommandError(f"nothing is written: {outcome.kind.value}: {outcome.text}")
    if os.path.exists(path):
        raise CommandError(f"{path} exists already; name another file")
    made = outcome.content.read() if outcome.content is not None else octets
    try:
        with open(path, "xb") as target:
            target.write(made.replace(b"\r\n", b"\n"))
    except OSError as problem:
        raise CommandError(f"{path}: {problem.strerror}") from None


def _row(note: Note) -> tuple[object, ...]:
    path, what, size, entry, done = note
    return (path or "-", what, size, entry or "-", done or ("-" if not entry else "nothing"))
