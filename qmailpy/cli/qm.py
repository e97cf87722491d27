"""
C{qmailpy qm [SUBCOMMAND ...]}: the queue manager utility, one-shot or at its C{qm.maint>} prompt.

Sub-commands and options are those of C{imsimta qm}; see L{qmailpy.cli.qm_words} for how they may be written, and
L{qmailpy.cli.qm_session} for how messages are named.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator

import click

from qmailpy.cli.context import Context
from qmailpy.cli.output import print_error, print_interrupted, print_json, print_line
from qmailpy.cli.qm_complete import candidates
from qmailpy.cli.qm_prompt import typed
from qmailpy.cli.qm_session import Session, heading
from qmailpy.cli.qm_words import QmGroup, Word, unique
from qmailpy.errors import CommandError, ConfigError

LINE_LIMIT = 65536
DEPTH = 8

WORDS = {
    "clean": Word("qmailpy.cli.qm_clean:clean", "Hold or delete messages by what they say."),
    "counters": Word("qmailpy.cli.counters:counters", "Show and clear the channel counters."),
    "date": Word("qmailpy.cli.qm:date", "Print the date and time."),
    "delete": Word("qmailpy.cli.qm_change:delete", "Delete messages, without a notice to anybody."),
    "directory": Word("qmailpy.cli.qm_list:directory", "List the messages in the queue."),
    "exit": Word("qmailpy.cli.qm:leave", "Leave the prompt."),
    "flush": Word("qmailpy.cli.qm_shape:flush", "Try the mail for a destination now, as if nothing had failed."),
    "held": Word("qmailpy.cli.qm_list:held", "List the messages that are held."),
    "help": Word("qmailpy.cli.qm:help_", "Tell about the commands."),
    "history": Word("qmailpy.cli.qm_show:history", "Show what happened to messages."),
    "hold": Word("qmailpy.cli.qm_change:hold", "Hold messages: no attempts until they are released."),
    "jobs": Word("qmailpy.cli.qm_list:jobs", "List what is being tried at this moment."),
    "messages": Word("qmailpy.cli.qm_list:messages", "List the waiting messages with attempts and errors."),
    "qshape": Word("qmailpy.cli.qm_shape:qshape", "How old the mail is, by destination."),
    "quit": Word("qmailpy.cli.qm:leave", "Leave the prompt."),
    "read": Word("qmailpy.cli.qm_show:read", "Show the envelope and the content of messages."),
    "release": Word("qmailpy.cli.qm_change:release", "Release held messages and try them at once."),
    "return": Word("qmailpy.cli.qm_change:return_", "Return messages to their senders."),
    "run": Word("qmailpy.cli.qm:run", "Try a channel's mail now; or execute commands from a file."),
    "start": Word("qmailpy.cli.qm_change:start", "Start a channel that was stopped."),
    "stop": Word("qmailpy.cli.qm_change:stop", "Stop a channel: mail for it is kept."),
    "summarize": Word("qmailpy.cli.qm_list:summarize", "One line a channel: messages, size, oldest."),
    "top": Word("qmailpy.cli.qm_clean:top", "Show the most frequent subjects, senders or recipients."),
    "trace": Word("qmailpy.cli.qm_trace:trace", "Write down what is said in the protocol."),
    "view": Word("qmailpy.cli.qm_list:view", "Tell where listings come from."),
    "why": Word("qmailpy.cli.qm_why:why", "Tell what happened to messages, what is next and when."),
}


class _Group(QmGroup):
    words = WORDS


class _Leave(Exception):
    """The prompt is left."""


@click.group(cls=_Group, invoke_without_command=True)
@click.pass_context
def qm(ctx: click.Context) -> None:
    """
    The queue manager utility; without a command, its prompt.

    Commands and options may be abbreviated (dir -hel). Options are written --from=a@b or -from=a@b, --no-confirm or
    -noconfirm. Messages are named by their queue ids, or by the numbers of the most recent listing: 3, 1-5, 2,4.
    """
    if not isinstance(ctx.obj, Session):
        ctx.obj = Session(ctx.obj.home if isinstance(ctx.obj, Context) else os.getcwd())
    if ctx.invoked_subcommand is None:
        _prompt(ctx.obj)


@click.command()
@click.pass_obj
def date(session: Session) -> None:
    """Print the current date and time."""
    print_line(heading(time.time()))


@click.command(name="exit")
@click.pass_obj
def leave(session: Session) -> None:
    """Leave the prompt (also: end of file)."""
    if session.at_prompt:
        raise _Leave


@click.command(name="help")
@click.argument("command", nargs=-1)
@click.pass_context
def help_(ctx: click.Context, command: tuple[str, ...]) -> None:
    """Tell about the commands, or about COMMAND."""
    parent = ctx.parent
    assert parent is not None
    found: click.Command = qm
    names: list[str] = []
    for word in command:
        if not isinstance(found, click.Group):
            break
        name = unique(word, found.list_commands(parent))
        inner = found.get_command(parent, name) if name else None
        if name is None or inner is None:
            raise click.UsageError(f"there is no command {word!r}", ctx)
        found = inner
        names.append(name)
    click.echo(found.get_help(click.Context(found, info_name=" ".join(names), parent=parent) if names else parent))


@click.command()
@click.argument("what", metavar="[CHANNEL|FILE]", default="")
@click.option("--json", "as_json", is_flag=True, help="The result for a channel as JSON.")
@click.pass_obj
def run(session: Session, what: str, as_json: bool) -> None:
    """
    Try all mail of CHANNEL now, whatever its schedule says; of every channel when none is named.

    Or execute the commands in FILE, one a line; lines that begin with ! or # are comments. What is the name of a file
    is taken for one.
    """
    if what and os.path.isfile(what):
        _run_file(session, what)
        return
    if "/" in what:
        raise click.UsageError(f"there is no file {what!r}")
    waiting = session.view.run(what)
    if as_json:
        print_json({"channel": what, "waiting": waiting})
    else:
        print_line(f"%QM-I-RUN, {f'channel {what}' if what else 'all channels'}: {waiting} waiting, tried now")


def _run_file(session: Session, file: str) -> None:
    if session.depth >= DEPTH:
        raise CommandError(f"{file}: files that run files are nested too deeply")
    session.depth += 1
    try:
        with open(file, encoding="utf-8", errors="replace") as source:
            _execute_all(session, _lines_of(source))
    finally:
        session.depth -= 1


def _prompt(session: Session) -> None:
    """
    Read commands until the end. From a terminal: with editing, history and completion, and a failed command is told
    and forgotten. From a file or a pipe: without a prompt.

    @raise CommandError: commands that were not read from a terminal failed.
    """
    session.at_prompt = True
    with contextlib.suppress(_Leave):
        if not session.terminal:
            _execute_all(session, _lines_of(sys.stdin))
            return
        for line in typed(functools.partial(candidates, WORDS, session)):
            try:
                execute(session, line)
            except KeyboardInterrupt:
                print_interrupted()


def _execute_all(session: Session, lines: Iterable[str]) -> None:
    failed = 0
    try:
        for line in lines:
            failed += not execute(session, line)
    except _Leave:
        if session.terminal or session.depth or not failed:
            raise
    if failed:
        raise CommandError(f"{failed} of the commands failed")


def execute(session: Session, line: str) -> bool:
    """
    Run one line of the prompt or of a file; whatever is wrong is told in one line.

    @return: whether it was done.
    @raise KeyboardInterrupt: Ctrl-C, which also ends the file that commands are read from.
    """
    try:
        words = shlex.split(line)
        session.look_again()
        if words:
            qm.main(words, prog_name="qm", standalone_mode=False, obj=session)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
    except click.ClickException as error:
        print_error(error.format_message())
    except ConfigError as error:
        print_error(error.problems[0])
    except (CommandError, ValueError) as error:  # ValueError: quotes that do not end
        print_error(error)
    except OSError as error:
        print_error(": ".join(str(part) for part in (error.filename, error.strerror or error) if part))
    except click.Abort:  # click's word for it
        raise KeyboardInterrupt from None
    else:
        return True
    return False


def _lines_of(source: Iterable[str]) -> Iterator[str]:
    for line in source:
        text = line.strip()
        if text and text[0] not in "!#":
            if len(text) > LINE_LIMIT:
                raise CommandError("a line is too long")
            yield text
