"""
C{qmailpy inject}: qmail-inject, with its options, its environment and its exit codes.

Exit status: 0 sent, 100 never (wrong usage, a recipient refused, a message that cannot be sent), 111 try again.
"""

from __future__ import annotations

import os
import pwd
import secrets
import socket
import sys
import time
from collections.abc import Mapping

import attrs
import click
from attrs import frozen

from qmailpy.cli.compose import (
    Author,
    Composed,
    ComposeError,
    compose,
    full_addresses,
    normalised,
    sender_address,
    variable_sender,
)
from qmailpy.cli.context import Context
from qmailpy.cli.output import print_error
from qmailpy.cli.submit import NotNow, Refused, Submission, submit
from qmailpy.config.schema import Config, QueueConfig
from qmailpy.errors import ConfigError

NEVER = 100
LATER = 111


@frozen(kw_only=True)
class Surroundings:
    """What a command knows of its user and its machine before it has seen a message."""

    author: Author
    sender: str  # envelope sender unless something else says so
    octets: int  # largest message
    config: Config | None  # C{None} when this user may not read it
    flags: frozenset[str]  # letters of QMAILINJECT


def first(environ: Mapping[str, str], *names: str) -> str:
    """The first of these variables that is set and not empty."""
    return next((environ[name] for name in names if environ.get(name)), "")


def surroundings(context: Context, environ: Mapping[str, str], full_name: str = "") -> Surroundings:
    """
    Find out who sends, and as whom.

    @param environ: the environment; the QMAIL variables of qmail-inject(8) are heeded.
    @param full_name: display name from the command line.
    @raise ComposeError: a variable holds no address.
    """
    try:
        config = context.config
    except (ConfigError, OSError):
        config = None
    domain = (config.server.domain or config.server.hostname) if config else socket.gethostname()
    user = first(environ, "QMAILUSER", "MAILUSER", "USER", "LOGNAME")
    name = full_name or first(environ, "QMAILNAME", "MAILNAME", "NAME")
    try:
        found = pwd.getpwuid(os.getuid())
        user = user or found.pw_name
        name = name or found.pw_gecos.partition(",")[0].replace("&", found.pw_name.capitalize())
    except KeyError:
        user = user or f"uid{os.getuid()}"
    host = first(environ, "QMAILHOST", "MAILHOST") or domain
    address = sender_address(user, host)
    sender = sender_address(environ.get("QMAILSUSER") or user, environ.get("QMAILSHOST") or host)
    flags = frozenset(environ.get("QMAILINJECT", ""))
    lists: frozenset[str] = frozenset()
    if environ.get("QMAILMFTFILE"):
        with open(environ["QMAILMFTFILE"], encoding="utf-8", errors="replace") as source:
            lists = frozenset(line.strip().lower() for line in source.read(1 << 20).splitlines() if line.strip())
    now = time.time()
    return Surroundings(
        author=Author(
            address=address,
            name=name,
            domain=domain,
            moment=now,
            unique=f"{time.strftime('%Y%m%d%H%M%S', time.gmtime(now))}.{os.getpid()}.{secrets.token_hex(6)}",
            id_host=config.server.hostname if config else socket.gethostname(),
            comment_from="c" in flags,
            drop_from="f" in flags,
            drop_message_id="i" in flags,
            lists=lists,
        ),
        sender=sender,
        octets=(config.queue if config else QueueConfig()).message_octets,
        config=config,
        flags=flags,
    )


def read_message(limit: int, *, dot_ends: bool = False) -> bytes:
    """
    The message on standard input, L{normalised}.

    @raise ComposeError: it is longer than C{limit} octets, or holds a NUL.
    """
    octets = sys.stdin.buffer.read(limit + 1)
    if len(octets) > limit:
        raise ComposeError(f"the message is larger than {limit} octets, the most that is taken")
    return normalised(octets, dot_ends=dot_ends)


class _Command(click.Command):
    """A command whose wrong usage is C{NEVER} as well."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            print_error(f"{error.format_message()} (see {ctx.command_path} --help)")
            ctx.exit(NEVER)


@click.command(cls=_Command)
@click.argument("recipients", nargs=-1, metavar="[RECIPIENT]...")
@click.option("-a", "source", flag_value="arguments", help="Recipients are those named here.")
@click.option("-h", "source", flag_value="header", help="Recipients are those of the header.")
@click.option(
    "-A", "source", flag_value="either", default=True, help="Those named here; of the header if there are none."
)
@click.option("-H", "source", flag_value="both", help="Those named here and those of the header.")
@click.option("-f", "sender", default=None, metavar="SENDER", help="Envelope sender; '' is the null sender.")
@click.option("-n", "printing", flag_value=True, default=False, help="Print the message instead of sending it.")
@click.option("-N", "printing", flag_value=False, help="Send the message (the default).")
@click.pass_context
def inject(ctx: click.Context, recipients: tuple[str, ...], source: str, sender: str | None, printing: bool) -> None:
    """
    Send the message on standard input.

    Completes its header (Date, From, Message-ID), takes out Bcc, and gives addresses without a domain ours. The
    environment is that of qmail-inject: QMAILUSER, QMAILHOST, QMAILNAME, QMAILSUSER, QMAILSHOST, QMAILMFTFILE and
    QMAILINJECT (letters c f i s r m). Exit status 0 sent, 100 never, 111 try again.
    """
    try:
        about = surroundings(ctx.obj, os.environ)
        message = compose(read_message(about.octets), about.author)
        if printing:
            sys.stdout.buffer.write(message.content.replace(b"\r\n", b"\n"))
            return
        envelope = _envelope(about, message, recipients, source, sender)
        for submission in envelope:
            submit(ctx.obj.home, submission, about.config)
    except (ComposeError, Refused) as error:
        print_error(error)
        ctx.exit(NEVER)
    except (NotNow, OSError) as error:
        print_error(error)
        ctx.exit(LATER)


def _envelope(
    about: Surroundings, message: Composed, arguments: tuple[str, ...], source: str, sender: str | None
) -> list[Submission]:
    """What is to be submitted: one message, or with QMAILINJECT r one for each recipient."""
    named = full_addresses(arguments, about.author.domain)
    header = source in ("header", "both") or (source == "either" and not named)
    if header and message.troubles:
        raise ComposeError(message.troubles[0])
    found = (named if source != "header" else ()) + (message.recipients if header else ())
    recipients = tuple(dict.fromkeys(found))
    if not recipients:
        raise ComposeError("no recipients; name them as arguments, or in To, Cc or Bcc")
    if sender is not None:
        envelope_sender = sender_address(sender, about.author.domain)
    elif message.return_path is not None and "s" not in about.flags:
        envelope_sender = message.return_path
    else:
        envelope_sender = about.sender
    whole = Submission(sender=envelope_sender, recipients=recipients, content=message.content)
    if "r" in about.flags:
        return [
            attrs.evolve(whole, sender=variable_sender(envelope_sender, one), recipients=(one,)) for one in recipients
        ]
    if "m" in about.flags and envelope_sender:
        local, _, host = envelope_sender.rpartition("@")
        return [attrs.evolve(whole, sender=f"{local}-{int(about.author.moment)}.{os.getpid()}@{host}")]
    return [whole]
