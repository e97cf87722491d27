"""
What the queue manager does by what messages say: C{top} counts, C{clean} holds or deletes.

Senders and recipients come with the list of the queue; subject and body have to be read from each message, which takes
its time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

import click

from qmailpy.cli.output import print_json, print_line
from qmailpy.cli.qm_choose import WHOLE, Progress, Range, Span, ancestors
from qmailpy.cli.qm_corrupt import settle_corrupt
from qmailpy.cli.qm_session import Session, warn
from qmailpy.cli.stopping import Stop, steps, stopping
from qmailpy.errors import CommandError
from qmailpy.queue.entries import CONTENT, DONE, ActionResult, QueueEntry, QueueFilter, Target, to_json

F = TypeVar("F", bound=Callable[..., Any])

VALUES = 1_000_000
"""Different values that are counted of each kind: as many as there are messages, mostly."""

KINDS = ("subject", "from", "to", "domain_to", "content")

OPTIONS = ("subject", "by_from", "by_to", "domain_to", "content")
"""... as options, and as fields of the filter:"""

FIELDS = ("subject", "sender", "recipient", "domain", "content")


def _values(entry: QueueEntry, kinds: Collection[str]) -> dict[str, tuple[str, ...]]:
    """What a copy has of each kind."""
    found: dict[str, tuple[str, ...]] = {
        "subject": (entry.subject,),
        "from": (entry.sender or "<>",),
        "to": entry.recipients,
        "domain_to": tuple({one.rpartition("@")[2] for one in entry.recipients}),
        "content": (entry.body,),
    }
    return {kind: values for kind, values in found.items() if kind in kinds}


def _counting(option: str, name: str, text: str) -> Callable[[F], F]:
    """An option that asks for a kind to be counted, perhaps by a part of the values."""
    return click.option(option, name, type=Range(), is_flag=False, flag_value="", metavar="[=RANGE]", help=text)


@click.command()
@click.argument("channel", default="")
@_counting("--subject", "subject", "Count subjects (the default).")
@_counting("--from", "by_from", "Count senders.")
@_counting("--to", "by_to", "Count recipients.")
@_counting("--domain-to", "domain_to", "Count domains of recipients.")
@_counting("--content", "content", f"Count beginnings of bodies ({CONTENT} octets).")
@click.option("--held/--no-held", default=None, help="Only messages that are held; or only others.")
@click.option("--ignore-zz", is_flag=True, help="Not those that were never tried yet.")
@click.option("--min-count", type=click.IntRange(1), default=2, show_default=True, help="Show what is there so often.")
@click.option("--top", "most", type=click.IntRange(1), default=20, show_default=True, help="Show so many of a kind.")
@click.option("--verbose", is_flag=True, help="Also how many messages were looked at.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@ancestors
@click.pass_obj
def top(
    session: Session,
    channel: str,
    subject: Span | None,
    by_from: Span | None,
    by_to: Span | None,
    domain_to: Span | None,
    content: Span | None,
    held: bool | None,
    ignore_zz: bool,
    min_count: int,
    most: int,
    verbose: bool,
    as_json: bool,
) -> None:
    """
    Show the most frequent subjects (or senders, recipients...) of what is queued, of all channels or of CHANNEL.

    -subject=(START=1,LENGTH=20) compares the first 20 characters alone; so with the others.
    """
    asked = dict(zip(KINDS, (subject, by_from, by_to, domain_to, content), strict=True))
    if content is not None and content.end > CONTENT and content != WHOLE:
        raise click.UsageError(f"of a body the first {CONTENT} octets are compared: START + LENGTH must not go beyond")
    kinds = {kind: part for kind, part in asked.items() if part is not None} or {"subject": WHOLE}
    left_out: Counter[str] = Counter()
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS if kind in kinds}
    texts = not kinds.keys().isdisjoint({"subject", "content"})
    asked_for = QueueFilter(channel=channel, held=held, failed=ignore_zz, envelope=True, texts=texts)
    progress = Progress()
    for entry in session.view.entries(asked_for, progress.add):
        for kind, values in _values(entry, kinds).items():
            counter = counts[kind]
            for value in map(kinds[kind].of, values):
                if value in counter or len(counter) < VALUES:
                    counter[value] += 1
                else:
                    left_out[kind] += 1
    progress.clear()
    for kind, count in left_out.items():
        warn(f"more than {VALUES} different values of {kind}: {count} messages with rare ones are not counted")
    shown = {
        kind: [(value, count) for value, count in counter.most_common(most) if count >= min_count]
        for kind, counter in counts.items()
    }
    if as_json:
        print_json({kind: [{"value": value, "count": count} for value, count in rows] for kind, rows in shown.items()})
        return
    if verbose:
        print_line(f"{progress.count} messages looked at")
    for kind, rows in shown.items():
        print_line(f"{'Count':>10}  {kind}")
        for value, count in rows:
            print_line(f"{count:>10}  {' '.join(value.split())}")
        if not rows and counts[kind]:
            print_line(f"{'-':>10}  none occurs {min_count} times; -min_count=1 shows all")


@click.command()
@click.argument("channel", default="")
@ancestors
@click.option("--subject", default="", metavar="TEXT", help="Text in the subject (with * and ?: the whole of it).")
@click.option("--from", "by_from", default="", metavar="ADDRESS", help="The sender.")
@click.option("--to", "by_to", default="", metavar="ADDRESS", help="A recipient.")
@click.option("--domain-to", default="", metavar="DOMAIN", help="The domain of a recipient.")
@click.option("--content", default="", metavar="TEXT", help=f"Text in the first {CONTENT} octets of the body.")
@click.option(
    "--match", type=click.Choice(["and", "or"], case_sensitive=False), default="and", help="All of them (the default)."
)
@click.option("--delete", "action", flag_value="delete", help="Delete what is found.")
@click.option("--hold", "action", flag_value="hold", default="hold", help="Hold what is found (the default).")
@click.option("--corrupt", is_flag=True, help="Take what is in corrupt/ out of the books; the files are kept.")
@click.option("--min-length", type=click.IntRange(1), default=24, show_default=True, help="Refuse shorter texts.")
@click.option("--ignore-zz", is_flag=True, help="Not those that were never tried yet.")
@click.option("--verbose", is_flag=True, help="A line for each message.")
@click.option("--yes", is_flag=True, help="Do not ask before deleting.")
@click.option("--json", "as_json", is_flag=True, help="The results as JSON.")
@click.pass_obj
def clean(session: Session, /, channel: str, action: str, match: str, **options: Any) -> None:
    """
    Hold or delete the messages that fit, of all channels or of CHANNEL.

    For when somebody has filled the queue: at least one text, and for safety's sake none shorter than -min_length.
    """
    texts = [options[option] for option in OPTIONS]
    if options["corrupt"]:
        if channel or any(texts):
            raise click.UsageError("-corrupt is about all that is in corrupt/, and goes alone")
        settle_corrupt(session, options["yes"], options["as_json"])
        return
    if not any(texts):
        raise click.UsageError("give at least one of -subject, -from, -to, -domain_to, -content")
    short = next((text for text in texts if text and len(text) < options["min_length"]), None)
    if short is not None:
        raise CommandError(f"{short!r} is shorter than {options['min_length']} characters; see -min_length")
    targets = _targets(session, channel, options, action, every=match.lower() == "and")
    if targets and action == "delete" and not options["yes"]:
        session.confirm(f"Delete {len(targets)} message{'s' * (len(targets) != 1)}?")
    with stopping() as stop:
        results = list(_acted(session, action, targets, stop))
    if options["as_json"]:
        print_json([to_json(result) for result in results])
    done = [result for result in results if result.outcome == DONE]
    if not options["as_json"]:
        past = "deleted" if action == "delete" else "held"
        for result in done if options["verbose"] else ():
            print_line(f"%QM-I-{past.upper()}, {past} the message {result.id} in {result.channel}")
        print_line(f"{len(done)} message{'s' * (len(done) != 1)} {past}.")
    if len(results) < len(targets):
        raise CommandError(f"interrupted, {len(targets) - len(results)} left as they are")
    if len(done) < len(results):
        raise CommandError(f"{len(results) - len(done)} messages were being delivered or have left")


def _acted(session: Session, action: str, targets: list[Target], stop: Stop) -> Iterator[ActionResult]:
    for some in steps(targets, stop):
        yield from session.view.delete(some) if action == "delete" else session.view.hold(some, "held by clean")


def _targets(session: Session, channel: str, options: Mapping[str, Any], action: str, every: bool) -> list[Target]:
    """What is meant, once each; where one text suffices there is a walk for each."""
    conditions = {field: options[option] for option, field in zip(OPTIONS, FIELDS, strict=True) if options[option]}
    walks = [conditions] if every else [{field: text} for field, text in conditions.items()]
    found: dict[Target, None] = {}
    progress = Progress()
    for walk in walks:
        asked = QueueFilter(channel=channel, held=None, failed=options["ignore_zz"], match_all=True, **walk)
        for entry in session.view.entries(asked, progress.add):
            if not (entry.held and action == "hold"):
                found[Target(entry.id, entry.channel)] = None
    progress.clear()
    return list(found)
