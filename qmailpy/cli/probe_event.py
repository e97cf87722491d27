"""C{qmailpy test event}: the command of C{[events]}, told of an event that has not happened."""

from __future__ import annotations

import json
import os
import time

import click

from qmailpy.channels.conversions.command import Ended, Invocation, kept_in_memory, run_now
from qmailpy.cli.context import Context
from qmailpy.cli.output import print_json, print_line
from qmailpy.config.load import config_path
from qmailpy.config.problems import nearest
from qmailpy.disk.rights import owner
from qmailpy.errors import CommandError
from qmailpy.events.catalogue import CATALOGUE
from qmailpy.events.telling import FILE_OCTETS, MEMORY_OCTETS, as_user, environment, sample, wanted


@click.command("event", short_help="Run the command of [events], as for EVENT.")
@click.argument("name", metavar="[EVENT]", default="queue.age")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def event(context: Context, name: str, as_json: bool) -> None:
    """
    Run the command of [events] as the server would for EVENT, and show what it says.

    The fields of the event are their names in brackets. It runs as the server's user.
    """
    config = context.config.events
    kind = CATALOGUE.get(name)
    if kind is None:
        raise CommandError(f'there is no event "{name}"{nearest(name, CATALOGUE)}; see: qmailpy events --catalogue')
    if not config.command:
        raise CommandError(f"{config_path(context.home)}: [events] has no command")
    line = sample(name, time.time())
    handle = kept_in_memory(line)
    try:
        invocation = Invocation(
            argv=as_user(owner(os.path.join(context.home, "log")), config.command),
            environment=environment(json.loads(line), context.home),
            directory=context.home,
            timeout_s=config.timeout_s,
            memory_octets=MEMORY_OCTETS,
            output_octets=FILE_OCTETS,
            stdin=handle,
        )
        found: list[Ended] = []
        run_now(invocation).addCallback(found.append)
    finally:
        os.close(handle)
    ended = found[0]
    told = wanted(config, kind.severity.value)
    if as_json:
        print_json({"event": name, "told": told, "status": ended.status, "why": ended.why, "said": ended.said})
    else:
        for text in filter(None, (ended.said, "" if told else _untold(name, kind.severity.value, config.severity))):
            print_line(text)
    if ended.status != 0:
        raise CommandError(f"{config.command[0]}: {ended.why or f'exit status {ended.status}'}")
    if not as_json:
        print_line(f"{config.command[0]} has taken {name}")


def _untold(name: str, severity: str, least: str) -> str:
    return f'{name} is a {severity}: the server does not tell of it ([events] severity = "{least}")'
