"""
What the queue manager changes: C{hold}, C{release}, C{delete}, C{return}; C{stop} and C{start} of channels.

A question is asked before C{delete} and C{return}, unless every message was named by its whole queue id, and before
anything with C{-all}; C{-noconfirm} (C{--yes}) answers it, C{-confirm} has it asked in any case. Where nobody is there
to ask, nothing is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from qmailpy.cli.output import print_json, print_line
from qmailpy.cli.qm_choose import Progress, chosen_by, selecting, wanted
from qmailpy.cli.qm_session import Session, warn
from qmailpy.cli.stopping import steps, stopping
from qmailpy.errors import CommandError
from qmailpy.queue.entries import DONE, ActionResult, Target, to_json

F = TypeVar("F", bound=Callable[..., Any])
Act = Callable[[Sequence[Target]], Sequence[ActionResult]]

SHOWN = 3
"""Messages that a question names; it tells the number of the others."""


def _changing(command: F) -> F:
    """The options that the four commands share."""
    options = (
        click.argument("ids", nargs=-1),
        click.option("--channel", default="", metavar="NAME", help="Only in this channel."),
        click.option("--all", "everything", is_flag=True, help="All messages, or all that the other options choose."),
        click.option("--confirm/--no-confirm", default=None, help="Ask before; or do not ask."),
        click.option("--yes", is_flag=True, help="As -noconfirm."),
        click.option("--log/--no-log", default=None, help="A line for each message (the default without -all)."),
        click.option("--json", "as_json", is_flag=True, help="The results as JSON."),
    )
    for option in reversed(options):
        command = option(command)
    return selecting(command)


@click.command()
@click.option("--reason", default="held by the operator", show_default=True, help="Kept, and shown by held.")
@_changing
@click.pass_obj
def hold(session: Session, /, reason: str, **options: Any) -> None:
    """Hold messages: they stay in the queue and are not tried until they are released."""
    _change(session, ("HELD", "hold", "held"), lambda some: session.view.hold(some, reason), held=False, **options)


@click.command()
@_changing
@click.pass_obj
def release(session: Session, /, **options: Any) -> None:
    """
    Release held messages and try them at once, ahead of others.

    A message that was not held is tried at once too. With -all: the held ones only.
    """
    _change(session, ("RELEASED", "release", "released"), session.view.release, held=True, **options)


@click.command()
@_changing
@click.pass_obj
def delete(session: Session, /, **options: Any) -> None:
    """Delete messages; nobody is told."""
    _change(session, ("DELETED", "delete", "deleted"), session.view.delete, harm=True, **options)


@click.command(name="return")
@click.option(
    "--reason", default="returned by the operator", show_default=True, help="What the sender is told as the reason."
)
@_changing
@click.pass_obj
def return_(session: Session, /, reason: str, **options: Any) -> None:
    """Return messages to their senders, as if delivery had failed."""
    _change(
        session,
        ("RETURNED", "return", "returned"),
        lambda some: session.view.return_(some, reason),
        harm=True,
        **options,
    )


def _change(
    session: Session,
    words: tuple[str, str, str],
    act: Act,
    *,
    ids: tuple[str, ...],
    channel: str,
    everything: bool,
    confirm: bool | None,
    yes: bool,
    log: bool | None,
    as_json: bool,
    held: bool | None = None,
    harm: bool = False,
    **chosen: Any,
) -> None:
    """
    Find what is meant, ask, act, tell.

    @raise CommandError: nothing was done, or not everything.
    """
    _, verb, _ = words
    if bool(ids) == everything:
        raise click.UsageError("give ids or numbers, or -all" if not ids else "-all and ids exclude each other")
    if everything:
        asked = wanted(channel=channel, held=held, **chosen)
        progress = Progress()
        entries = progress.over(session.view.entries(asked, progress.add))
        targets = tuple(Target(entry.id, entry.channel) for entry in entries)
        ask = True
    else:
        if chosen_by(chosen):
            raise click.UsageError("-from, -to and the like choose among -all, not among ids")
        selection = session.select(ids, channel)
        targets = selection.targets
        ask = harm and not selection.by_id
    if not targets:
        if as_json:
            print_json([])
        else:
            print_line(f"No messages to {verb}.")
        return
    if confirm or (ask and confirm is None and not yes):
        session.confirm(f"{verb.capitalize()} {_described(targets)}?")
    changed(words, act, targets, as_json, log=not everything if log is None else log, total=everything)


def changed(
    words: tuple[str, str, str],
    act: Act,
    targets: Sequence[Target],
    as_json: bool,
    *,
    log: bool = True,
    total: bool = False,
) -> None:
    """
    Act upon copies and tell what came of it.

    @param words: the code of a line, the verb, and what has been done.
    @param log: a line for each that was done.
    @param total: a line about all of them.
    @raise CommandError: not everything was done.
    """
    code, verb, past = words
    done: list[ActionResult] = []
    failed: list[ActionResult] = []
    progress = Progress(past)
    with stopping() as stop:
        for some in steps(targets, stop):
            for result in act(some):
                (done if result.outcome == DONE else failed).append(result)
                if not as_json:
                    if log or result.outcome != DONE:
                        progress.clear()
                    _tell(result, code, past, log=log)
            progress.add(len(some))
    progress.clear()
    if as_json:
        print_json([to_json(result) for result in done + failed])
    elif total:
        print_line(f"{_count(len(done))} {past}.")
    if (left := len(targets) - len(done) - len(failed)) > 0:
        raise CommandError(f"interrupted: {_count(len(done))} {past}, {left} left as they are")
    if failed:
        first = failed[0]
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise CommandError(f"cannot {verb} {first.id}: {first.text or first.outcome}{more}")


def _tell(result: ActionResult, code: str, past: str, *, log: bool) -> None:
    place = f" in {result.channel}" if result.channel else ""
    if result.outcome != DONE:
        warn(f"%QM-E-{result.outcome.upper()}, message {result.id}{place}: {result.text or result.outcome}")
    elif log:
        print_line(f"%QM-I-{code}, {past} the message {result.id}{place}")


def _count(number: int) -> str:
    return "1 message" if number == 1 else f"{number} messages"


def _described(targets: Sequence[Target]) -> str:
    names = [f"{target.id}{f' ({target.channel})' if target.channel else ''}" for target in targets[:SHOWN]]
    more = f" and {len(targets) - SHOWN} more" if len(targets) > SHOWN else ""
    return f"{_count(len(targets))}: {', '.join(names)}{more}"


@click.command()
@click.argument("channel")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def stop(session: Session, channel: str, as_json: bool) -> None:
    """Stop CHANNEL: mail for it is taken and kept, also over restarts, until it is started."""
    _switched(channel, session.view.stop(channel), "stopped", as_json)


@click.command()
@click.argument("channel")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def start(session: Session, channel: str, as_json: bool) -> None:
    """Start CHANNEL again; what waits for it is tried at once."""
    _switched(channel, session.view.start(channel), "started", as_json)


def _switched(channel: str, changed: bool, past: str, as_json: bool) -> None:
    if as_json:
        print_json({"channel": channel, "state": past, "changed": changed})
    else:
        print_line(f"%QM-I-{past.upper()}, channel {channel} {'' if changed else 'was '}{past}")
