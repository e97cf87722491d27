"""C{qmailpy test}: try out what the configuration makes of an address, a client, or a domain."""

from __future__ import annotations

import click
from twisted.internet.defer import Deferred, maybeDeferred

from qmailpy.cli.context import Context
from qmailpy.cli.mapping import mapping
from qmailpy.cli.output import print_json, print_line
from qmailpy.cli.probe_tls import tls
from qmailpy.cli.store import open_store
from qmailpy.directory.embedded import EmbeddedDirectory
from qmailpy.errors import CommandError
from qmailpy.routing import srs_secret
from qmailpy.routing.router import Router, Trace
from qmailpy.values import Refused


@click.group()
def test() -> None:
    """Try out rewrite rules, access tables and the TLS of other domains."""


test.add_command(mapping)
test.add_command(tls)


@test.command("rewrite")
@click.argument("address", metavar="ADDRESS")
@click.option("--source", default="tcp_local", show_default=True, metavar="CHANNEL", help="Where the mail comes from.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def rewrite(context: Context, address: str, source: str, as_json: bool) -> None:
    """Show where mail for ADDRESS would go, and why."""
    trace = _traced(context, address, source)
    result = trace.result
    if as_json:
        refused = isinstance(result, Refused)
        print_json(
            {
                "address": address,
                "source": source,
                "accepted": not refused,
                "local": False if isinstance(result, Refused) else result.local,
                "recipients": []
                if isinstance(result, Refused)
                else [{"address": r.address, "channel": r.channel, "host": r.host} for r in result.recipients],
                "reply": str(result.reply) if isinstance(result, Refused) else "",
                "steps": list(trace.steps),
            }
        )
        return
    for step in trace.steps:
        print_line(f"  {step}")
    if isinstance(result, Refused):
        print_line(f"refused: {result.reply}")
        return
    for recipient in result.recipients:
        way = f" by {recipient.host}" if recipient.host else ""
        print_line(f"<{recipient.address}> in channel {recipient.channel}{way}")
    print_line("anybody may send there" if result.local else "only clients that may relay may send there")


def _traced(context: Context, address: str, source: str) -> Trace:
    """Ask the router; without a reactor, for the embedded directory answers at once in this thread."""
    config = context.config
    found: list[Trace] = []
    failed: list[BaseException] = []
    with open_store(context.home) as store:
        router = Router(config, EmbeddedDirectory(store, maybeDeferred), srs_secret=srs_secret.thd_read(context.home))
        local, at, domain = address.strip().rpartition("@")
        asked = Deferred.fromCoroutine(router.trace(f"{local}{at}{domain.lower()}", source))
        asked.addCallbacks(found.append, lambda failure: failed.append(failure.value))
    if failed:
        raise failed[0]
    if not found:
        raise CommandError("the directory gave no answer")
    return found[0]
