"""
C{qmailpy qm trace on|off|list}: what channels and their hosts, or listeners and their clients, say to each other,
written to files below HOME/log/trace while the daemon runs (L{qmailpy.events.traces}).
"""

from __future__ import annotations

import ipaddress
from typing import Any

import click

from qmailpy.cli.output import print_json, print_line, print_table
from qmailpy.cli.qm_session import Session
from qmailpy.config.load import load
from qmailpy.config.problems import nearest
from qmailpy.config.schema import Config
from qmailpy.control.client import NotRunningError, call, running
from qmailpy.errors import CommandError
from qmailpy.events.traces import LISTENER

_ROLES = ("mta", "access")


@click.group("trace")
def trace() -> None:
    """
    Write down what is said in the protocol, from now on.

    WHAT is a channel (what leaves by it), a destination (a domain, a host, or .domain for all below it) or
    listener:NAME (what arrives there). Passwords are left out, messages too.
    """


@trace.command("on")
@click.argument("what", metavar="WHAT")
@click.option("--client", default="", metavar="IP", help="Only sessions with this address.")
@click.option("--minutes", default=60.0, show_default=True, help="How long.")
@click.option("--sessions", default=0, metavar="N", help="Only the next N sessions of each process; 1 = one session.")
@click.option("--content", is_flag=True, help="Messages, too.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def on(
    session: Session, /, what: str, client: str, minutes: float, sessions: int, content: bool, as_json: bool
) -> None:
    """Begin a trace of WHAT; a file for each process."""
    _check(load(session.home), what)
    if client:
        try:
            client = str(ipaddress.ip_address(client))
        except ValueError:
            raise CommandError(f"{client} is no IP address; right would be as in 192.0.2.1") from None
    if not 0 < minutes <= 10080:
        raise CommandError("--minutes is at most 10080, which is a week")
    answers = _ask(
        session, "trace.on", what=what, client=client, minutes=minutes, sessions=max(0, sessions), content=content
    )
    files = [answer["file"] for answer in answers]
    if as_json:
        print_json({"what": what, "files": files})
        return
    for file in files:
        print_line(file)
    print_line(f"%QM-I-TRACE, {what} is traced for {minutes:g} minutes; to end it: qm trace off {what}")


@trace.command("off")
@click.argument("what", metavar="[WHAT]", default="")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def off(session: Session, /, what: str, as_json: bool) -> None:
    """End the traces of WHAT; all of them when nothing is named."""
    files = [file for answer in _ask(session, "trace.off", what=what) for file in answer["files"]]
    if as_json:
        print_json({"what": what, "files": files})
        return
    for file in files:
        print_line(file)
    print_line(f"%QM-I-TRACE, {len(files)} trace{'' if len(files) == 1 else 's'} ended")


@trace.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def list_(session: Session, /, as_json: bool) -> None:
    """List the traces that are on."""
    found = [one for answer in _ask(session, "trace.list") for one in answer["traces"]]
    if as_json:
        print_json(found)
    elif not found:
        print_line("Nothing is traced.")
    else:
        rows = [[one["what"], str(one["sessions"]), str(one["octets"]), one["file"], one["ended"]] for one in found]
        print_table(["what", "sessions", "octets", "file", ""], rows)


def _check(config: Config, what: str) -> None:
    """A name that can be nothing is told now, and not by a file that stays empty."""
    listeners = [listener.name for listener in config.listeners]
    if what.startswith(LISTENER):
        name = what.removeprefix(LISTENER)
        if name not in listeners:
            raise CommandError(f'there is no listener "{name}"{nearest(name, listeners)}')
    elif what not in config.channels and "." not in what and ":" not in what:
        hint = f"; did you mean {LISTENER}{what}?" if what in listeners else nearest(what, config.channels)
        raise CommandError(f'there is no channel "{what}"{hint}')


def _ask(session: Session, method: str, **arguments: Any) -> list[dict[str, Any]]:
    """Every process that has sessions."""
    names = [one.name for one in running(session.home) if one.role in _ROLES]
    if not names:
        raise NotRunningError(f"the daemon of {session.home} is not running")
    found = []
    for name in names:
        answer = call(session.home, name, method, **arguments)
        if not isinstance(answer, dict):
            raise CommandError(f"{name} gave no answer to {method}")
        found.append(answer)
    return found
