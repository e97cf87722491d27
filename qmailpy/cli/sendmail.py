"""
C{qmailpy sendmail}: the command line that programs expect of a mail system, with the exit codes of sysexits.h.

What has no meaning here is taken and has none, as in every other sendmail; an option that does not exist is wrong
usage. With C{-t} the recipients of the header join those of the command line. Exit status 0: the message is safe.
Anything else: it was not sent to anybody.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import sys
import threading
from collections.abc import Sequence

import attrs
import click
from attrs import field, frozen

from qmailpy.cli.compose import ComposeError, compose, full_addresses, sender_address
from qmailpy.cli.context import Context
from qmailpy.cli.inject import read_message, surroundings
from qmailpy.cli.output import print_error
from qmailpy.cli.submit import NotNow, Refused, Submission, connect, submit
from qmailpy.errors import CommandError
from qmailpy.values import Notify
from qmailpy.wire.orcpt import xtext

EX_USAGE = 64
EX_DATAERR = 65
EX_NOUSER = 67
EX_UNAVAILABLE = 69
EX_TEMPFAIL = 75

ENVID_CHARACTERS = 100  # RFC 3461 s.4.4, as xtext

_TAKES_VALUE = frozenset("ABCDFLMNORVXfhopr")
"""Options with a value, attached or in the next argument."""

_MAY_TAKE_VALUE = frozenset("bdeq")
"""Options whose value, if any, is attached."""

_PLAIN = frozenset("GEIJUcimnstvx")


@frozen(kw_only=True)
class Options:
    """A command line, understood."""

    mode: str = "m"  # of -b: m send, s SMTP on standard input, p print the queue, i aliases...
    header: bool = False  # -t
    dots: bool = True  # a lone dot ends the message; false with -i
    sender: str | None = None  # -f, -r
    name: str = ""  # -F
    flush: bool = False  # -q
    notify: int = 0  # -N: bits of Notify
    ret: str = ""  # -R: "FULL" or "HDRS"
    envid: str = ""  # -V
    recipients: tuple[str, ...] = field(default=())


class UsageError(ValueError):
    """The command line is wrong; the text says how."""


def parse(arguments: Sequence[str]) -> Options:
    """
    Understand a sendmail command line. Options may stand behind recipients; C{--} ends them.

    @raise UsageError: it cannot be understood.
    """
    options = Options()
    recipients: list[str] = []
    waiting = list(reversed(arguments))
    while waiting:
        argument = waiting.pop()
        if argument == "--":
            recipients += reversed(waiting)
            break
        if not argument.startswith("-") or argument == "-":
            recipients.append(argument)
            continue
        letters = argument[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            value = ""
            if letter in _TAKES_VALUE:
                if not letters and not waiting:
                    raise UsageError(f"-{letter} needs a value")
                value, letters = (letters or waiting.pop()), ""
            elif letter in _MAY_TAKE_VALUE:
                value, letters = letters, ""
            elif letter not in _PLAIN:
                raise UsageError(f"-{letter} is not known")
            options = _apply(options, letter, value)
    return attrs.evolve(options, recipients=tuple(recipients))


def _apply(options: Options, letter: str, value: str) -> Options:
    if letter == "b":
        if value not in tuple("misptvdDhH"):
            raise UsageError(f"-b{value} is not known")
        return attrs.evolve(options, mode=value)
    if letter == "I":
        return attrs.evolve(options, mode="i")
    if letter == "t":
        return attrs.evolve(options, header=True)
    if letter == "i" or (letter == "o" and value == "i"):
        return attrs.evolve(options, dots=False)
    if letter in "fr":
        return attrs.evolve(options, sender=value)
    if letter == "F":
        return attrs.evolve(options, name=value)
    if letter == "q":
        return attrs.evolve(options, flush=True)
    if letter == "N":
        return attrs.evolve(options, notify=_notify(value))
    if letter == "R":
        if value.upper() not in ("FULL", "HDRS"):
            raise UsageError("-R is followed by full or hdrs")
        return attrs.evolve(options, ret=value.upper())
    if letter == "V":
        if len(xtext(value)) > ENVID_CHARACTERS or not value.isprintable():
            raise UsageError(f"-V is followed by at most {ENVID_CHARACTERS} characters")
        return attrs.evolve(options, envid=value)
    return options  # -v, -m, -oem, -odi, -B8BITMIME and the like: nothing to do


def _notify(value: str) -> int:
    """RFC 3461 s.4.1, as sendmail has it: never, or some of success, failure and delay."""
    words = value.upper().split(",")
    if words == ["NEVER"]:
        return int(Notify.NEVER)
    if not words or not all(word in ("SUCCESS", "FAILURE", "DELAY") for word in words):
        raise UsageError("-N is followed by never, or by some of success,failure,delay")
    return sum({Notify[word] for word in words})


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}, add_help_option=False
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[OPTION|RECIPIENT]...")
@click.pass_context
def sendmail(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """
    Send the message on standard input, with sendmail's command line.

    \b
    -t          recipients are those of the header as well
    -i, -oi     a line with a dot alone does not end the message
    -f ADDRESS  envelope sender, and author where From is missing
    -F NAME     display name of the author where From is missing
    -N WORDS    tell the sender of: success,failure,delay; or never
    -R WORD     a notice has the whole message (full), or its header (hdrs)
    -V ID       what notices name the message by
    -bs         speak SMTP on standard input and output
    -bp         list the queue (mailq)
    -q          try what waits in the queue now
    -bm         send (the default)

    Other options of sendmail are taken and mean nothing. Exit status as in sysexits.h: 0 the message is safe, 64 wrong
    usage, 65 bad message, 67 no such user, 69 refused, 75 try again.
    """
    if "--help" in arguments:
        click.echo(ctx.get_help())
        return
    try:
        options = parse(arguments)
    except UsageError as error:
        print_error(f"sendmail: {error} (see {ctx.command_path} --help)")
        ctx.exit(EX_USAGE)
    if options.mode in "dD":
        print_error(f"sendmail: the daemon is started with: twistd -n qmailpy --home {ctx.obj.home}")
        ctx.exit(EX_USAGE)
    if options.mode in "tvhH":
        print_error(f"sendmail: -b{options.mode} is not there; see qmailpy test rewrite")
        ctx.exit(EX_UNAVAILABLE)
    if options.mode == "i":
        return  # newaliases: aliases are in the directory, and there is nothing to rebuild
    if options.mode == "s":
        ctx.exit(serve(ctx.obj))
    if options.mode == "p":
        ctx.exit(list_queue(ctx.obj))
    elif options.flush and not options.recipients and not options.header:
        ctx.exit(flush(ctx.obj))
    else:
        ctx.exit(send(ctx.obj, options))


def list_queue(context: Context) -> int:
    """What waits in the queue, as C{qmailpy qm directory} shows it (C{-bp})."""
    from qmailpy.cli.main import run

    return run(["--home", context.home, "qm", "directory"])


def flush(context: Context) -> int:
    """Have everything that waits tried now, except what is held (C{-q})."""
    from qmailpy.cli.livequeue import live_view
    from qmailpy.cli.queueview import BATCH
    from qmailpy.queue.entries import QueueFilter, Target

    try:
        view = live_view(context.home)
        if view is None:
            raise CommandError(f"the daemon does not run; start it with: twistd -n qmailpy --home {context.home}")
        waiting = view.entries(QueueFilter(held=False))
        while batch := list(itertools.islice(waiting, BATCH)):
            view.release([Target(entry.id, entry.channel) for entry in batch])
    except CommandError as error:
        print_error(f"sendmail: {error}")
        return EX_TEMPFAIL
    return 0


def send(context: Context, options: Options) -> int:
    """Send what is on standard input. @return: the exit status."""
    try:
        about = surroundings(context, os.environ, options.name)
        sender = about.sender
        author = about.author
        if options.sender is not None:
            sender = sender_address(options.sender, author.domain)
            author = attrs.evolve(author, address=sender or author.address)
        if options.name:
            author = attrs.evolve(author, name=options.name)
        recipients = full_addresses(options.recipients, author.domain)
        if not recipients and not options.header:
            print_error("sendmail: no recipients; name them as arguments, or use -t")
            return EX_USAGE
        message = compose(read_message(about.octets, dot_ends=options.dots), author)
        if options.header:
            if message.troubles:
                raise ComposeError(message.troubles[0])
            recipients = tuple(dict.fromkeys((*recipients, *message.recipients)))
            if not recipients:
                print_error("sendmail: no recipients in the header")
                return EX_USAGE
        submission = Submission(
            sender=sender,
            recipients=recipients,
            content=message.content,
            notify=options.notify,
            ret=options.ret,
            envid=options.envid,
        )
        submit(context.home, submission, about.config)
    except ComposeError as error:
        print_error(f"sendmail: {error}")
        return EX_DATAERR
    except Refused as error:
        print_error(f"sendmail: {error}")
        return EX_NOUSER if error.recipient and "5.1." in str(error.reply) else EX_UNAVAILABLE
    except (NotNow, OSError) as error:
        print_error(f"sendmail: {error}")
        return EX_TEMPFAIL
    return 0


def serve(context: Context) -> int:
    """
    Join standard input and output to the daemon (C{-bs}).

    @return: the exit status: 0 when the session ended in order.
    """
    try:
        connection = connect(context.home, None)
    except OSError as error:
        sys.stdout.write("421 4.3.2 The mail system is not running\r\n")
        sys.stdout.flush()
        print_error(f"sendmail: {error.strerror or error}; start it with: twistd -n qmailpy --home {context.home}")
        return EX_TEMPFAIL
    with connection:
        threading.Thread(target=_pump, args=(sys.stdin.fileno(), connection), daemon=True).start()
        while octets := connection.recv(65536):
            sys.stdout.buffer.write(octets)
            sys.stdout.buffer.flush()
    return 0


def _pump(source: int, connection: socket.socket) -> None:
    """
    Standard input to the daemon, in a thread of its own: it may be a terminal, a pipe or a file.

    At its end the connection is half closed, but not behind a QUIT: the daemon might take that for a lost connection
    and keep its last replies.
    """
    tail = b""
    with contextlib.suppress(OSError):  # the daemon has ended the connection, which the other side sees too
        while octets := os.read(source, 65536):
            connection.sendall(octets)
            tail = (tail + octets)[-8:]
        if not tail.upper().rstrip().endswith(b"\nQUIT"):
            connection.shutdown(socket.SHUT_WR)
