"""
C{qmailpy domain}, C{user} and C{alias}: who is here.

They work on the directory's file, as root or as its user, whether the daemon runs or not; one that runs is told, so
that its caches forget at once. Passwords come from standard input or a terminal, never from the command line, where
others could read them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import click

from qmailpy.cli.context import Context
from qmailpy.cli.output import print_error, print_json, print_line, print_table
from qmailpy.cli.store import open_store
from qmailpy.control import flush_directory
from qmailpy.directory.accounts import Accounts
from qmailpy.directory.address import BadAddress, maildir, own
from qmailpy.directory.schema import STATUSES
from qmailpy.errors import CommandError

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_YES = click.option("--yes", is_flag=True, help="Do not ask.")
_PASSWORD = click.option(
    "--password-stdin", is_flag=True, help="Read the password from the first line of standard input."
)


@contextmanager
def _accounts(context: Context) -> Iterator[Accounts]:
    base = context.config.directory.base
    with open_store(context.home) as store:
        yield Accounts(store, base)


def notify_directory_change(home: str, *what: str) -> None:
    """
    Tell the running processes what has changed, so that their caches forget it now and not when it expires.

    @param what: addresses, or a domain for everything in it. The change is made: not reaching somebody is no failure.
    """
    for one in what:
        try:
            flush_directory(home, one)
        except CommandError as problem:
            print_error(f"done, but the running daemon sees it only when its cache expires: {problem}")
            return


def _sure(question: str, yes: bool) -> None:
    """Ask before harm is done. @raise CommandError: nobody is there to ask."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError("this cannot be undone: say --yes to do it")
    click.confirm(question, abort=True, err=True)


def _secret(from_stdin: bool) -> bytes | None:
    """The password of the caller's choice; C{None} without one."""
    if from_stdin:
        line = sys.stdin.buffer.readline(4097)
        if len(line) > 4096:
            raise CommandError("the first line of standard input is too long for a password")
        secret = line.rstrip(b"\r\n")
        if not secret:
            raise CommandError("there is no password on standard input")
        return secret
    if not sys.stdin.isatty():
        return None
    answer: str = click.prompt("Password (empty for none)", default="", hide_input=True, show_default=False, err=True)
    if answer and click.prompt("Once more", hide_input=True, err=True) != answer:
        raise CommandError("the two passwords differ")
    return answer.encode() or None


class _Size(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.3 on only
    """Octets, with K, M, G or T behind the number for multiples of 1024."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).strip().upper().removesuffix("B").removesuffix("I")
        shift = {"K": 10, "M": 20, "G": 30, "T": 40}.get(text[-1:], 0)
        number = text[:-1] if shift else text
        if not (number.isascii() and number.isdigit() and len(number) <= 15):
            self.fail(f"{value!r} is no size; right would be as in 500M or 2G (0 = no limit)", param, ctx)
        return min(int(number) << shift, 10**17)


@click.group()
def domain() -> None:
    """Domains whose users are ours."""


@domain.command("add")
@click.argument("name", metavar="DOMAIN")
@click.option(
    "--catch-all", default="", metavar="ADDRESS", help="Who gets mail for unknown users; nobody unless given."
)
@click.pass_obj
def domain_add(context: Context, name: str, catch_all: str) -> None:
    """Add DOMAIN."""
    with _accounts(context) as accounts:
        added = accounts.thd_add_domain(name, catch_all)
    notify_directory_change(context.home, added)
    print_line(f"added {added}")


@domain.command("list")
@_JSON
@click.pass_obj
def domain_list(context: Context, as_json: bool) -> None:
    """List all domains."""
    with _accounts(context) as accounts:
        found = accounts.thd_domains()
    if as_json:
        print_json([attrs.asdict(one) for one in found])
        return
    heads = ("Domain", "Status", "Users", "Aliases", "Catch-all")
    print_table(heads, [(one.name, one.status, one.users, one.aliases, one.catch_all) for one in found], (2, 3))


@domain.command("show")
@click.argument("name", metavar="DOMAIN")
@_JSON
@click.pass_obj
def domain_show(context: Context, name: str, as_json: bool) -> None:
    """Show DOMAIN."""
    with _accounts(context) as accounts:
        found = accounts.thd_domain(name)
    _show(found, as_json)


@domain.command("set")
@click.argument("name", metavar="DOMAIN")
@click.option("--catch-all", metavar="ADDRESS", help='Who gets mail for unknown users; "" for nobody.')
@click.option("--status", type=click.Choice(("active", "disabled")), help="A disabled domain refuses its mail.")
@click.pass_obj
def domain_set(context: Context, name: str, catch_all: str | None, status: str | None) -> None:
    """Change DOMAIN."""
    if catch_all is None and status is None:
        raise click.UsageError("nothing to change: say --catch-all or --status")
    with _accounts(context) as accounts:
        accounts.thd_set_domain(name, catch_all=catch_all, status=status)
        changed = accounts.thd_domain(name).name
    notify_directory_change(context.home, changed)
    print_line(f"changed {changed}")


@domain.command("delete")
@click.argument("name", metavar="DOMAIN")
@click.option("--force", is_flag=True, help="Delete its users and aliases, too.")
@_YES
@click.pass_obj
def domain_delete(context: Context, name: str, force: bool, yes: bool) -> None:
    """Delete DOMAIN; the mail of its users stays on disk."""
    with _accounts(context) as accounts:
        found = accounts.thd_domain(name)
    if found.users + found.aliases and force:
        _sure(f"Delete {found.name} with {found.users} users and {found.aliases} aliases?", yes)
    with _accounts(context) as accounts:
        accounts.thd_delete_domain(name, force=force)
    notify_directory_change(context.home, found.name)
    print_line(f"deleted {found.name}")


@click.group()
def user() -> None:
    """Users: mailboxes and passwords."""


@user.command("add")
@click.argument("address", metavar="ADDRESS")
@_PASSWORD
@click.option("--name", default="", help="The person's name.")
@click.option("--quota", type=_Size(), default=0, metavar="SIZE", help="Most octets of mail (500M, 2G); 0 = no limit.")
@click.option("--forward", multiple=True, metavar="ADDRESS", help="Send a copy there; may be repeated.")
@click.option("--adopt", is_flag=True, help="Take over the mail an earlier user of that address has left.")
@click.pass_obj
def user_add(
    context: Context, address: str, password_stdin: bool, name: str, quota: int, forward: tuple[str, ...], adopt: bool
) -> None:
    """Add the mailbox ADDRESS."""
    with _accounts(context) as accounts:
        known = accounts.thd_known(address)
    if not adopt and not known:
        _no_old_mail(context, address)  # with our own rights: HOME/mail is closed to the directory's user
    secret = _secret(password_stdin)
    with _accounts(context) as accounts:
        added = accounts.thd_add_user(address, secret=secret, name=name, quota_octets=quota, forwards=forward)
    notify_directory_change(context.home, added.address)
    without = "" if secret else " without a password: qmailpy user passwd gives it one"
    print_line(f"added {added.address}{without}")


def _no_old_mail(context: Context, address: str) -> None:
    """Somebody else's old mail is not shown to a new user by accident."""
    try:
        place = context.config.path("mail", maildir(own(address)))
    except BadAddress:
        return  # thd_add_user says what is wrong with it
    if os.path.isdir(place):
        raise CommandError(f"{place} holds mail of an earlier user; move it away, or give it to this one with --adopt")


@user.command("list")
@click.argument("name", metavar="[DOMAIN]", required=False, default="")
@_JSON
@click.pass_obj
def user_list(context: Context, name: str, as_json: bool) -> None:
    """List the users, of one DOMAIN or of all."""
    with _accounts(context) as accounts:
        found = accounts.thd_users(name)
    if as_json:
        print_json([attrs.asdict(one) for one in found])
        return
    heads = ("Address", "Status", "Quota", "Aliases", "Name")
    print_table(
        heads, [(one.address, one.status, one.quota_octets or "", len(one.aliases), one.name) for one in found], (2, 3)
    )


@user.command("show")
@click.argument("address", metavar="ADDRESS")
@_JSON
@click.pass_obj
def user_show(context: Context, address: str, as_json: bool) -> None:
    """Show the user ADDRESS."""
    with _accounts(context) as accounts:
        found = accounts.thd_user(address)
    _show(found, as_json)


@user.command("set")
@click.argument("address", metavar="ADDRESS")
@click.option("--name", help="The person's name.")
@click.option("--quota", type=_Size(), metavar="SIZE", help="Most octets of mail (500M, 2G); 0 = no limit.")
@click.option("--forward", multiple=True, metavar="ADDRESS", help="Send copies there, and to nobody else.")
@click.option("--no-forward", is_flag=True, help="Send no copies.")
@click.option(
    "--status",
    type=click.Choice(STATUSES),
    help="active; noaccess: mail but no login; disabled: neither; deleted: as if unknown.",
)
@click.pass_obj
def user_set(
    context: Context,
    address: str,
    name: str | None,
    quota: int | None,
    forward: tuple[str, ...],
    no_forward: bool,
    status: str | None,
) -> None:
    """Change the user ADDRESS."""
    forwards = () if no_forward else (forward or None)
    if forward and no_forward:
        raise click.UsageError("--forward and --no-forward exclude each other")
    if name is None and quota is None and forwards is None and status is None:
        raise click.UsageError("nothing to change")
    with _accounts(context) as accounts:
        changed = accounts.thd_set_user(address, name=name, quota_octets=quota, forwards=forwards, status=status)
    notify_directory_change(context.home, changed.address)
    print_line(f"changed {changed.address}")


@user.command("passwd")
@click.argument("address", metavar="ADDRESS")
@_PASSWORD
@click.pass_obj
def user_passwd(context: Context, address: str, password_stdin: bool) -> None:
    """Give the user ADDRESS another password."""
    with _accounts(context) as accounts:
        found = accounts.thd_user(address)
    secret = _secret(password_stdin)
    if secret is None:
        raise CommandError("no password given; --password-stdin reads one from standard input")
    with _accounts(context) as accounts:
        accounts.thd_set_password(address, secret)
    notify_directory_change(context.home, found.address)
    print_line(f"changed the password of {found.address}")


def _status(context: Context, address: str, status: str, word: str) -> None:
    with _accounts(context) as accounts:
        changed = accounts.thd_set_user(address, status=status)
    notify_directory_change(context.home, changed.address)
    print_line(f"{word} {changed.address}")


@user.command("suspend")
@click.argument("address", metavar="ADDRESS")
@click.pass_obj
def user_suspend(context: Context, address: str) -> None:
    """Refuse mail and login of the user ADDRESS; nothing is deleted."""
    _status(context, address, "disabled", "suspended")


@user.command("resume")
@click.argument("address", metavar="ADDRESS")
@click.pass_obj
def user_resume(context: Context, address: str) -> None:
    """Take mail and login of the user ADDRESS again."""
    _status(context, address, "active", "resumed")


@user.command("delete")
@click.argument("address", metavar="ADDRESS")
@_YES
@click.pass_obj
def user_delete(context: Context, address: str, yes: bool) -> None:
    """Delete the user ADDRESS and its aliases; its mail stays on disk."""
    with _accounts(context) as accounts:
        found = accounts.thd_user(address)
    _sure(f"Delete {found.address}?", yes)
    with _accounts(context) as accounts:
        accounts.thd_delete_user(address)
    notify_directory_change(context.home, found.address, *found.aliases)
    place = context.config.path("mail", found.store)
    print_line(f"deleted {found.address}" + (f"; its mail is still in {place}" if os.path.isdir(place) else ""))


@click.group()
def alias() -> None:
    """Addresses that stand for others."""


@alias.command("add")
@click.argument("address", metavar="ADDRESS")
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
@click.pass_obj
def alias_add(context: Context, address: str, targets: tuple[str, ...]) -> None:
    """Have mail for ADDRESS go to each TARGET."""
    with _accounts(context) as accounts:
        added = accounts.thd_add_alias(address, targets)
    notify_directory_change(context.home, added.address)
    print_line(f"added {added.address}")


@alias.command("list")
@click.argument("name", metavar="[DOMAIN]", required=False, default="")
@_JSON
@click.pass_obj
def alias_list(context: Context, name: str, as_json: bool) -> None:
    """List the aliases, of one DOMAIN or of all."""
    with _accounts(context) as accounts:
        found = accounts.thd_aliases(name)
    if as_json:
        print_json([attrs.asdict(one) for one in found])
        return
    print_table(("Address", "Leads to"), [(one.address, ", ".join(one.targets)) for one in found])


@alias.command("delete")
@click.argument("address", metavar="ADDRESS")
@click.pass_obj
def alias_delete(context: Context, address: str) -> None:
    """Take the alias ADDRESS away."""
    with _accounts(context) as accounts:
        accounts.thd_delete_alias(address)
    notify_directory_change(context.home, address)
    print_line(f"deleted {address.lower()}")


def _show(value: attrs.AttrsInstance, as_json: bool) -> None:
    fields = attrs.asdict(value)
    if as_json:
        print_json(fields)
        return
    width = max(map(len, fields))
    for key, one in fields.items():
        text = ", ".join(one) if isinstance(one, tuple | list) else str(one)
        print_line(f"{key.replace('_', ' '):{width}}  {text}".rstrip())
