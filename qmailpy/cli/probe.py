"""C{qmailpy test}: try out what the configuration makes of an address, a client, or a domain."""

from __future__ import annotations

from collections.abc import Sequence

import click
from attrs import evolve
from twisted.internet.defer import Deferred, maybeDeferred

from qmailpy.cli.context import Context
from qmailpy.cli.conversion import conversion, known
from qmailpy.cli.mapping import mapping
from qmailpy.cli.output import print_json, print_line
from qmailpy.cli.probe_event import event
from qmailpy.cli.probe_tls import tls
from qmailpy.cli.store import open_store
from qmailpy.config.schema import Config
from qmailpy.directory.embedded import EmbeddedDirectory
from qmailpy.errors import CommandError
from qmailpy.routing import srs_secret
from qmailpy.routing.router import Router, Trace
from qmailpy.routing.rules import Origin
from qmailpy.routing.selection import Selection
from qmailpy.routing.senders import Senders
from qmailpy.values import Envelope, Posting, Recipient, Refused, Reply, RouteResult
from qmailpy.wire.address import parse_path


@click.group()
def test() -> None:
    """Try out rewrite rules, conversions, access tables, the TLS of other domains and the command for events."""


test.add_command(conversion)
test.add_command(event)
test.add_command(mapping)
test.add_command(tls)


@test.command("rewrite")
@click.argument("address", metavar="ADDRESS")
@click.option("--source", default="tcp_local", show_default=True, metavar="CHANNEL", help="Where the mail comes from.")
@click.option("--from", "sender", default=None, metavar="ADDRESS", help='Who sends it; "" is the null sender.')
@click.option("--user", default="", metavar="LOGIN", help="Who has logged in.")
@click.option("--size", default=0, metavar="OCTETS", help="How large it is; mailboxes and channels may mind.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def rewrite(
    context: Context, address: str, source: str, sender: str | None, user: str, size: int, as_json: bool
) -> None:
    """
    Show where mail for ADDRESS would go, and why.

    With --from also what its sender is called outside, where rules make another of it; without it, rules and groups
    that ask who sends are asked nothing, a [[conversion]] table sees the null sender, and the limits of channels
    (expandlimit, blocklimit with --size) are not told.
    """
    known(context.config, source)
    about = None
    if sender is not None or user or size:
        about = Posting(sender=_sender(sender or ""), user=user.strip().lower(), size_octets=size)
    trace = _traced(context, address, source, about)
    result = trace.result
    leaving = _leaving(context.config, result, source, about)
    recipients = [] if isinstance(result, Refused) else result.recipients
    converted = _converted(context.config, recipients, source, about)
    if as_json:
        refused = isinstance(result, Refused)
        print_json(
            {
                "address": address,
                "source": source,
                "accepted": not refused,
                "local": False if isinstance(result, Refused) else result.local,
                "recipients": [
                    {"address": one.address, "channel": one.channel, "host": one.host, "through": through}
                    for one, through in zip(recipients, converted, strict=True)
                ],
                "reply": str(result.reply) if isinstance(result, Refused) else "",
                "steps": list(trace.steps),
                "senders": [{"channel": channel, "sender": named, "rule": rule} for channel, named, rule in leaving],
            }
        )
        return
    for step in trace.steps:
        print_line(f"  {step}")
    if isinstance(result, Refused):
        print_line(f"refused: {result.reply}")
        return
    for recipient, through in zip(recipients, converted, strict=True):
        way = f" by {recipient.host}" if recipient.host else ""
        first = f", through channel {through} first" if through else ""
        print_line(f"<{recipient.address}> in channel {recipient.channel}{way}{first}")
    for channel, named, number in leaving:
        print_line(f"its sender leaves by {channel} as <{named}>, by rewrite rule {number}")
    print_line("anybody may send there" if result.local else "only clients that may relay may send there")


def _read(address: str, *, sender: bool = False) -> str | Reply:
    """
    An address as the server reads it in MAIL and RCPT: quotes that need not be go, as do source routes, and names in
    other letters are those that the DNS has for them.

    @param address: in brackets or without. @return: it, or the refusal.
    """
    address = address.strip()
    line = (address if address.startswith("<") else f"<{address}>").encode("utf-8", "replace")
    found = parse_path(line, 0, sender=sender, utf8=True)
    if isinstance(found, Reply):
        return found
    read, end = found
    return read if end == len(line) else Reply(501, "5.1.7" if sender else "5.1.3", "Bad address syntax")


def _sender(address: str) -> str:
    """@raise click.BadParameter: no message can come from it."""
    found = _read(address, sender=True)
    if isinstance(found, Reply):
        raise click.BadParameter(f"{address!r} is no address: {found}", param_hint="'--from'")
    return found


def _leaving(config: Config, result: RouteResult, source: str, about: Posting | None) -> list[tuple[str, str, int]]:
    """What a sender becomes: channel, the other sender, and the number of the rule that says so."""
    if isinstance(result, Refused) or about is None or not about.sender:
        return []
    origin = Origin(source=source, sender=about.sender, user=about.user)
    found = []
    for channel in dict.fromkeys(one.channel for one in result.recipients):
        match = Senders(config, channel).match(about.sender, origin)
        if match is not None and config.channels[channel].kind in ("smtp", "lmtp"):
            found.append((channel, match.address, match.number))
    return found


def _converted(config: Config, recipients: Sequence[Recipient], source: str, about: Posting | None) -> list[str]:
    """For each recipient the channel that a [[conversion]] table sends it through on its way; "" for none."""
    sender, size = (about.sender, about.size_octets) if about is not None else ("", 0)
    envelope = Envelope(sender=sender, recipients=tuple(recipients), source=source, arrival=0.0)
    found = Selection(config).redirect(envelope, size, b"\r\n").recipients
    return [new.channel if new is not old else "" for new, old in zip(found, recipients, strict=True)]


def _traced(context: Context, address: str, source: str, about: Posting | None) -> Trace:
    """Ask the router; without a reactor, for the embedded directory answers at once in this thread."""
    config = context.config
    read = _read(address)
    if isinstance(read, Reply):
        return Trace(Refused(read), ("as an address it cannot be read",))
    found: list[Trace] = []
    failed: list[BaseException] = []
    with open_store(context.home) as store:
        router = Router(config, EmbeddedDirectory(store, maybeDeferred), srs_secret=srs_secret.thd_read(context.home))
        asked = Deferred.fromCoroutine(router.trace(read, source, about))
        asked.addCallbacks(found.append, lambda failure: failed.append(failure.value))
    if failed:
        raise failed[0]
    if not found:
        raise CommandError("the directory gave no answer")
    if read.lower() == address.strip().strip("<>").lower():
        return found[0]
    return evolve(found[0], steps=(f"it is read as <{read}>", *found[0].steps))
