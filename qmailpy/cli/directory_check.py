"""C{qmailpy directory check}: everything that is wrong with the entries."""

from __future__ import annotations

import os

import attrs
import click

from qmailpy.cli.context import Context
from qmailpy.cli.output import print_json, print_line
from qmailpy.cli.people import JSON, accounts_of
from qmailpy.directory.audit import Audit, Finding


@click.command("check")
@click.option("--homes", is_flag=True, help="Also tell users whose Maildir is not there: they never got mail.")
@JSON
@click.pass_obj
def check(context: Context, homes: bool, as_json: bool) -> int:
    """
    Find what is wrong with the directory: references that lead nowhere, addresses and Maildirs that are there twice,
    aliases and groups that lead back to themselves, entries that mail cannot use.

    Exit status 1 when something is; notes, of what works all the same, do not count.
    """
    audit = Audit(frozenset({context.config.server.hostname.lower()}))
    with accounts_of(context) as accounts:
        for entry in accounts.tree.thd_all():
            audit.see(entry)
    found = audit.findings()
    if homes:
        found += _homeless(context, audit)
    severe = sum(one.severe for one in found)
    if as_json:
        print_json([attrs.asdict(one) for one in found])
        return 1 if severe else 0
    for one in found:
        print_line(f"{'' if one.severe else 'note: '}{one.subject}: {one.problem}; {one.remedy}")
    notes = len(found) - severe
    print_line(f"{severe} problem{'s' * (severe != 1)}, {notes} note{'s' * (notes != 1)}")
    return 1 if severe else 0


def _homeless(context: Context, audit: Audit) -> list[Finding]:
    """Users without a Maildir. With our own rights: HOME/mail is closed to the directory's user."""
    top = context.config.path("mail")
    os.listdir(top)  # who may not look there must not take everybody for homeless
    return [
        Finding(
            code="homeless",
            subject=mail,
            problem=f"there is no {path} below {top}",
            remedy="it is made with the first message",
            severe=False,
        )
        for path, mail in sorted(audit.mailboxes.items())
        if not os.path.isdir(os.path.join(top, path))
    ]
