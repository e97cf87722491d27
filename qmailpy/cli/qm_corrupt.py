"""C{qm clean -corrupt}: messages whose files could not be understood are taken out of the books."""

from __future__ import annotations

from qmailpy.cli.indexed import found_lines
from qmailpy.cli.output import print_json, print_line
from qmailpy.cli.qm_session import Session, warn
from qmailpy.errors import CommandError
from qmailpy.queue.aside import left_of
from qmailpy.queue.entries import DONE, ActionResult, Leaving, to_json


def settle_corrupt(session: Session, yes: bool, as_json: bool) -> None:
    """
    Find them, ask, and have a D line written for each recipient that has none; their files are kept.

    @raise CommandError: not everything could be done.
    """
    found: dict[str, list[Leaving]] = {}
    unknown = []
    for queue_id in session.view.aside():
        past = found_lines(session.home, queue_id, sure=True)
        if isinstance(past, str):
            unknown.append(queue_id)
        else:
            found[queue_id] = left_of(queue_id, past[1])
    recipients = sum(map(len, found.values()))
    if found and not yes:
        count = f"{len(found)} message{'s' * (len(found) != 1)}, {recipients} recipient{'s' * (recipients != 1)}"
        session.confirm(
            f"Take what is in corrupt/ out of the books: {count}? They will not be delivered by themselves."
        )
    results: list[ActionResult] = [session.view.settle(queue_id, left) for queue_id, left in found.items()]
    if as_json:
        print_json([to_json(result) for result in results])
    for result in results:
        if result.outcome == DONE and not as_json:
            print_line(f"%QM-I-SETTLED, {result.id}: {result.text}")
        elif result.outcome != DONE:
            warn(f"%QM-E-{result.outcome.upper()}, message {result.id}: {result.text}")
    for queue_id in unknown:
        warn(f"%QM-E-UNKNOWN, message {queue_id}: the log does not tell of it any more; it stays counted")
    if not results and not unknown and not as_json:
        print_line("Nothing is in corrupt/.")
    failed = len(unknown) + sum(result.outcome != DONE for result in results)
    if failed:
        raise CommandError(f"{failed} messages could not be settled")
