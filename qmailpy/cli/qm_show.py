"""
What the queue manager shows of single messages: C{read} and C{history}.
"""

from __future__ import annotations

import codecs
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import click

from qmailpy.cli.indexed import found_lines
from qmailpy.cli.output import print_json, print_line
from qmailpy.cli.qm_choose import Progress
from qmailpy.cli.qm_past import past, whole
from qmailpy.cli.qm_session import Session, warn, when
from qmailpy.cli.queueview import QueuedMessage
from qmailpy.cli.said import answer, way
from qmailpy.errors import CommandError, QmailpyError
from qmailpy.queue.entries import HistoryEvent, MessageEnvelope, QueueFilter, to_json
from qmailpy.values import Priority, blocks

F = TypeVar("F", bound=Callable[..., Any])

TOGETHER = 100
"""Messages whose histories are looked up at once."""

LINE_LIMIT = 100_000
"""Characters of a line that are shown; mail has shorter ones."""


def _ids(session: Session, words: tuple[str, ...], channel: str, everything: bool, confirm: bool) -> list[str]:
    """
    The messages that are meant, once each.

    @raise CommandError: words that name none, or a no to the question.
    """
    if bool(words) == everything:
        raise click.UsageError("-all and ids exclude each other" if words else "give ids or numbers, or -all")
    if everything:
        progress = Progress()
        entries = progress.over(session.view.entries(QueueFilter(channel=channel), progress.add))
        found = list(dict.fromkeys(entry.id for entry in entries))
    else:
        found = list(dict.fromkeys(target.id for target in session.select(words, channel).targets))
    if confirm:
        session.confirm(f"Show {len(found)} message{'s' * (len(found) != 1)}?")
    return found


def _showing(command: F) -> F:
    """How both are told which messages."""
    options = (
        click.argument("ids", nargs=-1),
        click.option("--channel", default="", metavar="NAME", help="Only in this channel."),
        click.option("--all", "everything", is_flag=True, help="All messages, or all of the channel."),
        click.option("--confirm/--no-confirm", default=False, help="Ask before; or do not (the default)."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@_showing
@click.option("--content/--no-content", default=True, help="Also the header and body (the default).")
@click.option("--raw", is_flag=True, help="The content alone, octet for octet.")
@click.option("--json", "as_json", is_flag=True, help="The envelopes as JSON.")
@click.pass_obj
def read(
    session: Session,
    ids: tuple[str, ...],
    channel: str,
    everything: bool,
    confirm: bool,
    content: bool,
    raw: bool,
    as_json: bool,
) -> None:
    """Show the envelope and the content of messages. What a terminal might act upon is shown as an escape."""
    messages: list[QueuedMessage] = []
    missing: list[str] = []
    for queue_id in _ids(session, ids, channel, everything, confirm):
        found = session.view.read(queue_id)
        if found is None:
            missing.append(queue_id)
        elif as_json:
            messages.append(found)
        else:
            _print(found, content, raw)
    if as_json:
        print_json([to_json(message.envelope) for message in messages])
    _complain(missing)


def _complain(missing: list[str], why: Callable[[str], str] = lambda queue_id: "") -> None:
    """@param why: more that is known of one, as a whole sentence; "" = nothing."""
    sentences = [why(queue_id) or f"message {queue_id} is not in the queue" for queue_id in missing]
    for sentence in sentences[:-1]:
        warn(sentence)
    if sentences:
        raise CommandError(sentences[-1])


def _too_old(home: str, queue_id: str) -> str:
    """Of a message that neither queue nor log know: that it is older than the log, where it is."""
    try:
        found = found_lines(home, queue_id)
    except (QmailpyError, OSError):
        return ""
    return found if isinstance(found, str) else ""


def _print(message: QueuedMessage, content: bool, raw: bool) -> None:
    if raw:
        sys.stdout.flush()
        for piece in message.content:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    _print_envelope(message.envelope)
    if content:
        print_line()
        for line in _text_lines(message.content):
            print_line(line)


def _print_envelope(envelope: MessageEnvelope) -> None:
    rows = [
        ("Message", envelope.id),
        ("Queued since", when(envelope.arrival)),
        ("Size", f"{blocks(envelope.size_octets)} ({envelope.size_octets} octets)"),
        ("From channel", envelope.source),
        ("From system", envelope.source_system),
        ("Protocol", envelope.protocol),
        ("User", envelope.user),
        ("Priority", _priority(envelope.priority)),
        ("Message-ID", envelope.message_id),
        ("Envelope id", envelope.envid),
        ("Sender", f"<{envelope.sender}>"),
    ]
    for name, value in rows:
        if value:
            print_line(f"{name + ':':<14} {value}")
    for one in envelope.recipients:
        origin = f", first <{one.original}>" if one.original and one.original != one.address else ""
        host = f" to {way(one.host)}" if one.host else ""
        print_line(f"{'Recipient:':<14} <{one.address}> {one.state}, {one.channel}{host}{origin}")
        if one.last_error:
            print_line(f"{'':<16}{answer(one.last_error)}")
    if envelope.recipients_total > len(envelope.recipients):
        print_line(f"{'':<14} and {envelope.recipients_total - len(envelope.recipients)} more")


def _priority(value: int) -> str:
    return Priority(value).name.lower() if value in set(Priority) else str(value)


def _text_lines(pieces: Iterator[bytes]) -> Iterator[str]:
    """The content's lines as UTF-8; what is none is replaced."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    for piece in pieces:
        *lines, rest = (rest + decoder.decode(piece)).split("\n")
        for line in lines:
            yield line.removesuffix("\r").expandtabs()
        while len(rest) > LINE_LIMIT:
            yield rest[:LINE_LIMIT]
            rest = rest[LINE_LIMIT:]
    rest += decoder.decode(b"", True)
    if rest:
        yield rest.removesuffix("\r").expandtabs()


@click.command()
@_showing
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def history(
    session: Session, ids: tuple[str, ...], channel: str, everything: bool, confirm: bool, as_json: bool
) -> None:
    """Show what happened to messages, oldest first, as the log tells; then how they stand in the queue."""
    missing: list[str] = []
    found = []
    for queue_id, events in _histories(session, list(_ids(session, ids, channel, everything, confirm))):
        if events is None:
            missing.append(queue_id)
            continue
        shown = [event for event in events if not channel or event.channel in ("", channel)]
        if as_json:
            found.append({"id": queue_id, "events": [to_json(event) for event in shown]})
            continue
        print_line(f"Message {queue_id}")
        for event in shown:
            print_line(_history_line(event))
    if as_json:
        print_json(found)
    _complain(missing, functools.partial(_too_old, session.home))


def _histories(session: Session, ids: Sequence[str]) -> Iterator[tuple[str, list[HistoryEvent] | None]]:
    for at in range(0, len(ids), TOGETHER):
        remembered = {queue_id: session.view.history(queue_id) for queue_id in ids[at : at + TOGETHER]}
        with past(session.home) as told:
            found = [(queue_id, whole(told(queue_id), events)) for queue_id, events in remembered.items()]
        yield from found


def _history_line(event: HistoryEvent) -> str:
    count = "" if not event.recipients else f", {event.recipients} recipient{'s' * (event.recipients != 1)}"
    text = f": {answer(event.text)}" if event.text else ""
    clock = "now" if event.event == "held" else when(event.time)  # since when it is nobody remembers
    return f"  {clock:<20}  {event.channel:<16} {event.event}{count}{text}"
