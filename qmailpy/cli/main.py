"""
C{qmailpy [--home HOME] COMMAND ...}: finds the command, and makes one line of whatever goes wrong.

Exit status: 0 done, 1 failed (the reason on standard error, one line), 2 wrong usage; C{inject} and C{sendmail} have
those of their ancestors. Each command's module is imported only when it is called, so that light ones start in well
under 150 ms. Under the name C{sendmail}, C{mailq} or C{newaliases} (a link to it) the program is that one.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import click
from attrs import frozen

from qmailpy.cli.context import Context
from qmailpy.cli.output import print_error, print_interrupted
from qmailpy.config.load import DEFAULT_HOME
from qmailpy.control.client import RIGHTS
from qmailpy.errors import CommandError, ConfigError


@frozen
class Entry:
    """A command: where it is and what it is for."""

    target: str  # "module:attribute"
    help: str


COMMANDS: Mapping[str, Entry] = {
    "init": Entry("qmailpy.cli.init:init", "Make a new home: configuration, directory, queue, certificate."),
    "check": Entry("qmailpy.cli.check:check", "Report every error of the configuration."),
    "config": Entry("qmailpy.cli.config:config", "Show and change the configuration."),
    "domain": Entry("qmailpy.cli.directory:domain", "Domains whose users are ours."),
    "user": Entry("qmailpy.cli.user:user", "Users: mailboxes and passwords."),
    "alias": Entry("qmailpy.cli.directory:alias", "Addresses that stand for others."),
    "group": Entry("qmailpy.cli.groups:group", "Groups: addresses that stand for their members."),
    "plan": Entry("qmailpy.cli.groups:plan", "Service plans: limits and features."),
    "server": Entry("qmailpy.cli.groups:server", "Nodes that users' mail may be on."),
    "role": Entry("qmailpy.cli.groups:role", "Who administers what."),
    "directory": Entry("qmailpy.cli.directory_group:directory", "The directory as a whole: checks, schema."),
    "dkim": Entry("qmailpy.cli.dkim:dkim", "Keys that sign reports on TLS."),
    "inject": Entry("qmailpy.cli.inject:inject", "Send a message from standard input, as qmail-inject."),
    "sendmail": Entry("qmailpy.cli.sendmail:sendmail", "Send a message, with sendmail's command line."),
    "qm": Entry("qmailpy.cli.qm:qm", "The queue manager: queue and counters."),
    "log": Entry("qmailpy.cli.log:log", "The transaction log."),
    "trace": Entry("qmailpy.cli.trace:trace", "What happened to a message."),
    "status": Entry("qmailpy.cli.status:status", "Whether all is well, for people and watchdogs."),
    "monitor": Entry("qmailpy.cli.monitor:monitor", "A screen that shows the server at work."),
    "snmp": Entry("qmailpy.cli.snmp:snmp", "Answer snmpd: NETWORK-SERVICES-MIB and MTA-MIB."),
    "events": Entry("qmailpy.cli.events:events", "What happened that an operator may want to know of."),
    "test": Entry(
        "qmailpy.cli.probe:test", "Try out rules, conversions, access tables, TLS of others, the command for events."
    ),
}

LINKS: Mapping[str, tuple[str, ...]] = {
    "sendmail": ("sendmail",),
    "mailq": ("sendmail", "-bp"),
    "newaliases": ("sendmail", "-bi"),
}
"""What the program is under another name."""

UNREAD = 141
"""The exit status when nobody reads the output any more: what a shell shows of programs that SIGPIPE has ended."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called; their one-line help is known before."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # click would make a failure of it
            _silence()
            raise click.exceptions.Exit(UNREAD) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.target.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise CommandError(
                    f"{cmd_name} needs the Python package {error.name}, which is not installed"
                ) from error
            raise CommandError(f"{cmd_name} is not part of this installation (there is no {module})") from error
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


def _version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import version

        click.echo(f"qmailpy {version('qmailpy')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"max_content_width": 120})
@click.option(
    "--home",
    envvar="QMAILPY_HOME",
    default=DEFAULT_HOME,
    show_default=True,
    metavar="HOME",
    help="The home to work on; also taken from QMAILPY_HOME.",
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print the version."
)
@click.pass_context
def root(ctx: click.Context, home: str) -> None:
    """
    qmailpy, an all-in-one mail server.

    The daemon itself is started with: twistd -n qmailpy --home HOME
    """
    ctx.obj = Context(os.path.abspath(home))


def run(arguments: Sequence[str], name: str = "qmailpy") -> int:
    """
    Run one command line.

    @param arguments: without the program's name.
    @param name: the program's name, for its help.
    @return: the exit status; whatever was wrong has been told in one line.
    """
    try:
        status = root.main(list(arguments), prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.UsageError as error:
        print_error(f"{error.format_message()} (see {error.ctx.command_path if error.ctx else name} --help)")
        return 2
    except click.ClickException as error:
        print_error(error.format_message())
        return 1
    except ConfigError as error:
        more = len(error.problems) - 1
        print_error(error.problems[0] + (f" (and {more} more: see qmailpy check)" if more else ""))
        return 1
    except CommandError as error:
        print_error(error)
        return 1
    except (click.Abort, KeyboardInterrupt):
        print_interrupted()
        return 1
    except BrokenPipeError:
        _silence()
        return UNREAD
    except OSError as error:
        remedy = RIGHTS if isinstance(error, PermissionError) else ""
        print_error(": ".join(str(part) for part in (error.filename, error.strerror or error) if part) + remedy)
        return 1
    except Exception as error:
        return _bug(error)
    return status if isinstance(status, int) else 0


def _silence() -> None:
    """Nobody reads standard output any more: what is still buffered goes nowhere, and nothing more is said about it."""
    with contextlib.suppress(OSError, ValueError):  # no real file, as in a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _bug(error: Exception) -> int:
    """An error that was not foreseen: one line for people, the whole trace only when it is asked for."""
    if os.environ.get("QMAILPY_TRACE"):
        traceback.print_exc()
        return 1
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    print_error(f"internal error, please report it: {type(error).__name__}: {error}{place}; QMAILPY_TRACE=1 tells more")
    return 1


def main() -> None:
    """The console script."""
    if not sys.flags.utf8_mode and sys.getfilesystemencoding() == "ascii":
        # What is typed is UTF-8 all the same. Python sees to that itself unless it is told not to.
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that cannot show it is no reason to stop
    called = os.path.basename(sys.argv[0])
    sys.exit(run([*LINKS.get(called, ()), *sys.argv[1:]]))
