"""
C{why}: what happened to a message, what is next and when, in plain words. What is still queued is asked of the queue;
what has left it is looked up in the log.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import click

from qmailpy.cli.indexed import found_lines
from qmailpy.cli.output import print_json, print_line
from qmailpy.cli.qm_session import Session, warn, when
from qmailpy.cli.said import answer, way
from qmailpy.cli.story import span, story
from qmailpy.errors import CommandError
from qmailpy.queue.entries import MessageStanding, Standing, to_json

_DOING = {"conversion": "converted", "local": "delivered", "pipe": "delivered"}  # what a kind of channel does

NAMES = 3
"""Recipients that a sentence names; it tells the number of the others."""


@click.command()
@click.argument("ids", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="As JSON: where it stands, or the lines of the log.")
@click.pass_obj
def why(session: Session, ids: tuple[str, ...], as_json: bool) -> None:
    """Tell what happened to messages, what is next and when; also of those that have left the queue."""
    missing: list[str] = []  # a sentence for each
    found: list[dict[str, Any]] = []
    names = dict.fromkeys(target.id for target in session.select(ids, "").targets)
    for at, queue_id in enumerate(names):
        standing = session.view.standing(queue_id)
        if standing is None:
            past = found_lines(session.home, queue_id)
            if isinstance(past, str):
                missing.append(past or f"message {queue_id} is neither in the queue nor in the log")
                continue
            mail, records = past
            if as_json:
                lines = story(mail, records, {})
                found.append({"id": queue_id, "queued": False, "lines": [line.strip() for line in lines]})
                continue
            _print(at, [f"Message {queue_id} is not in the queue any more; the log tells:", *story(mail, records, {})])
        elif as_json:
            found.append({"queued": True, **to_json(standing)})
        else:
            _print(at, explained(standing, time.time(), session.view.source))
    if as_json:
        print_json(found)
    for sentence in missing[:-1]:
        warn(sentence)
    if missing:
        raise CommandError(missing[-1])


def _print(at: int, lines: list[str]) -> None:
    if at:
        print_line()
    for line in lines:
        print_line(line)


def explained(standing: MessageStanding, now: float, source: str = "") -> list[str]:
    """The sentences about a message that is in the queue."""
    sender = f"<{standing.sender}>" if standing.sender else "<> (a notice)"
    age = span(max(0.0, now - standing.arrival))
    lines = [f"Message {standing.id} from {sender} came from {standing.source} {age} ago, {when(standing.arrival)}."]
    if standing.done:
        count = "1 recipient is" if standing.done == 1 else f"{standing.done} recipients are"
        lines.append(f"{count} done; for the others:")
    for one in standing.standings:
        lines.append(_whom(one))
        lines += [f"  {text}" for text in _sentences(one, standing, now)]
    if source.startswith("the queue directory"):
        lines.append("The daemon is not running: nothing happens before it is started.")
    return lines


def _whom(one: Standing) -> str:
    names = ", ".join(f"<{address}>" for address in one.recipients[:NAMES])
    more = f" and {one.count - NAMES} more" if one.count > NAMES else ""
    toward = "on its way to" if one.kind == "conversion" else "by way of"
    where = f" {toward} {way(one.host)}" if one.host else ""
    return f"To {names}{more}, channel {one.channel}{where}:"


def _sentences(one: Standing, message: MessageStanding, now: float) -> Iterator[str]:
    if one.attempts:
        times = "once" if one.attempts == 1 else f"{one.attempts} times"
        yield f"It was tried {times} in vain; the last answer: {answer(one.last_error) or 'none'}"
    else:
        yield "It was not tried yet."
    if one.state == "held":
        yield f"It is held: {one.reason or 'no reason given'}."
        yield from _overdue(one, now, "it is released")
        yield f"Next: nothing, until somebody says qm release {message.id}."
        return
    if one.state == "trying":
        doing = _DOING.get(one.kind, "tried")
        yield f"It is being {doing} at this moment."
        if one.reason:
            yield f"What is left of it is held then: {one.reason}."
            return
    elif one.stopped:
        yield f"Channel {one.channel} is stopped: {one.stopped}."
        yield from _overdue(one, now, "the channel goes on")
        yield f"Next: nothing, until {_remedy(one)}."
        return
    elif one.state == "ready":
        yield f"Next: at once, when its turn comes{_crowd(one)}."
    elif message.hold_until > now and not one.attempts:
        yield f"Its sender wants it to go at {when(message.hold_until)} and not before."
        yield f"Next: an attempt at {when(one.next_attempt)}."
    elif one.next_attempt <= now:
        yield f"Next: an attempt is due and is made as soon as there is room for it{_crowd(one)}."
    else:
        yield f"Next: an attempt at {when(one.next_attempt)}, in {span(one.next_attempt - now)}."
    if one.trouble:
        yield f"But {one.trouble}."
    if one.gathered and one.gathered <= now:
        yield f"Its other pieces were waited for until {when(one.gathered)}: with its next attempt it goes on as it is."
    if now < one.gathered < one.ends:
        yield f"If its other pieces do not come it goes on as it is, with the first attempt after {when(one.gathered)}."
    elif one.ends > now:
        yield f"If nothing helps it {_back(message)} at {when(one.ends)}."
    else:
        yield f"Its time was over at {when(one.ends)}: if that does not help it {_back(message)}."
    if one.state == "waiting" and one.next_attempt > now:
        verb = "release" if now < message.hold_until <= one.next_attempt else "flush"
        yield f"To try it now: qm {verb} {message.id}"


def _crowd(one: Standing) -> str:
    """How many want the same."""
    if not one.ahead:
        return ""
    limit = f", {one.limit} at once" if one.limit else ""
    return f"; {one.ahead} {'job waits' if one.ahead == 1 else 'jobs wait'} for that destination{limit}"


def _back(message: MessageStanding) -> str:
    """What is done in the end. Of a notice nobody is left to be told but the postmaster."""
    return "goes back to its sender" if message.sender else "is given up, being a notice itself,"


def _overdue(one: Standing, now: float, then: str) -> Iterator[str]:
    """What waits for somebody is kept, however old it gets. @param then: what it waits for."""
    if one.ends <= now:
        yield f"It is overdue since {when(one.ends)}, but kept: it gets its last chance when {then}."


def _remedy(one: Standing) -> str:
    if "not in the configuration" in one.stopped:
        return "the channel is configured again, or the message is returned (qm return) or deleted"
    return f"somebody says qm start {one.channel}"
