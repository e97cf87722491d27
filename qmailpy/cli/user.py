"""
C{qmailpy user}: mailboxes and passwords.

Passwords come from standard input or a terminal, never from the command line, where others could read them.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from typing import Any

import attrs
import click

from qmailpy.cli.context import Context
from qmailpy.cli.output import print_json, print_line, print_table
from qmailpy.cli.people import (
    JSON,
    PASSWORD,
    SETTINGS,
    YES,
    accounts_of,
    notify_directory_change,
    print_entry,
    print_fields,
    read_some,
    secret_of,
    sure,
    with_keys,
)
from qmailpy.cli.quota import quota, remembered
from qmailpy.cli.user_bulk import export, import_
from qmailpy.directory import meaning, schema
from qmailpy.directory.address import BadAddress, maildir, own
from qmailpy.directory.settings import USER, answer, read
from qmailpy.errors import CommandError

MOST_TEXT = 32768
"""Octets of an automatic answer."""


@click.group()
def user() -> None:
    """Users: mailboxes and passwords."""


user.add_command(import_)
user.add_command(export)
user.add_command(quota)


@user.command("add")
@click.argument("address", metavar="ADDRESS")
@SETTINGS
@PASSWORD
@click.option("--adopt", is_flag=True, help="Take over the mail an earlier user of that address has left.")
@click.pass_obj
@with_keys(USER)
def user_add(context: Context, address: str, settings: tuple[str, ...], password_stdin: bool, adopt: bool) -> None:
    """Add the mailbox ADDRESS."""
    values = read(USER, settings)
    with accounts_of(context) as accounts:
        known = accounts.thd_known(address)
    if not adopt and not known:
        _no_old_mail(context, address)  # with our own rights: HOME/mail is closed to the directory's user
    secret = secret_of(password_stdin)
    with accounts_of(context) as accounts:
        added = accounts.thd_add_user(address, secret=secret, values=values)
    notify_directory_change(context.home, added.address, *added.aliases)
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
@JSON
@click.pass_obj
def user_list(context: Context, name: str, as_json: bool) -> None:
    """List the users, of one DOMAIN or of all."""
    with accounts_of(context) as accounts:
        found = accounts.thd_users(name)
    if as_json:
        print_json([attrs.asdict(one) for one in found])
        return
    heads = ("Address", "Status", "Plan", "Quota", "Aliases", "Last login", "Name")
    rows = [
        (
            one.address,
            one.status,
            one.plan,
            one.quota_octets or "",
            len(one.aliases),
            one.last_login[:16].replace("T", " "),
            one.name,
        )
        for one in found
    ]
    print_table(heads, rows, (3, 4))


@user.command("show", short_help="Show the user ADDRESS.")
@click.argument("address", metavar="ADDRESS")
@JSON
@click.pass_obj
def user_show(context: Context, address: str, as_json: bool) -> None:
    """Show the user ADDRESS, and what it has from its plan and its domain."""
    with accounts_of(context) as accounts:
        found = accounts.thd_user(address)
        entry = accounts.thd_user_entry(address)
        inherited = accounts.tree.thd_inherited(entry)
    if as_json:
        print_entry(attrs.asdict(found), USER, entry, inherited, True)
        return
    in_use = remembered(context.config, found.store)
    login = " ".join(one for one in (found.last_login, found.last_service, found.last_address) if one)
    head: dict[str, object] = {
        "address": found.address,
        "password": found.has_password,
        "store": found.store,
        "in use": in_use or None,
        "last login": login or "never",
        "answers": "yes" if meaning.answers(entry.attributes) else None,
    }
    print_entry(head, [key for key in USER if key.name != "store"], entry, inherited, False)


@user.command("set")
@click.argument("address", metavar="ADDRESS")
@SETTINGS
@click.pass_obj
@with_keys(USER)
def user_set(context: Context, address: str, settings: tuple[str, ...]) -> None:
    """Change the user ADDRESS."""
    values = read_some(USER, settings)
    with accounts_of(context) as accounts:
        before = accounts.thd_user(address)
        changed = accounts.thd_set_user(address, values=values)
    notify_directory_change(context.home, *dict.fromkeys((changed.address, *before.aliases, *changed.aliases)))
    print_line(f"changed {changed.address}")


@user.command("passwd")
@click.argument("address", metavar="ADDRESS")
@PASSWORD
@click.pass_obj
def user_passwd(context: Context, address: str, password_stdin: bool) -> None:
    """Give the user ADDRESS another password."""
    with accounts_of(context) as accounts:
        found = accounts.thd_user(address)
    secret = secret_of(password_stdin)
    if secret is None:
        raise CommandError("no password given; --password-stdin reads one from standard input")
    with accounts_of(context) as accounts:
        accounts.thd_set_password(address, secret)
    notify_directory_change(context.home, found.address)
    print_line(f"changed the password of {found.address}")


def _status(context: Context, address: str, status: str, word: str) -> None:
    with accounts_of(context) as accounts:
        changed = accounts.thd_set_user(address, status=status)
    notify_directory_change(context.home, changed.address)
    print_line(f"{word} {changed.address}")


@user.command("suspend", short_help="Refuse mail and login of the user ADDRESS.")
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


@user.command("vacation", short_help="Answer mail to the user ADDRESS by itself.")
@click.argument("address", metavar="ADDRESS")
@click.option("--text-file", metavar="FILE", help="The text that is sent; - = standard input.")
@click.option("--subject", metavar="TEXT", help='Its subject; "" = made from the message that is answered.')
@click.option("--days", type=click.IntRange(1, 365), help="So long the same sender gets no second answer (7).")
@click.option("--from", "begins", metavar="DAY", help='Not before 2026-12-24 or 2026-12-24T18:00, UTC; "" = at once.')
@click.option("--to", "ends", metavar="DAY", help='Not after that day, or that time; "" = until --off.')
@click.option("--off", is_flag=True, help="No more answers; the text is kept.")
@JSON
@click.pass_obj
def user_vacation(
    context: Context,
    address: str,
    text_file: str | None,
    subject: str | None,
    days: int | None,
    begins: str | None,
    ends: str | None,
    off: bool,
    as_json: bool,
) -> None:
    """Answer mail to the user ADDRESS by itself; without options, tell whether that is so."""
    wishes = [one is not None for one in (text_file, subject, days, begins, ends)]
    if off and any(wishes):
        raise click.UsageError("--off goes with no other option")
    text = None if text_file is None else _text(text_file)
    with accounts_of(context) as accounts:
        entry = accounts.thd_user_entry(address)
        if not off and not any(wishes):
            state = _answer_state(entry.attributes, as_json)
        elif off:
            modes = tuple(mode for mode in entry.values("deliveryMode") if mode.lower() != "reply")
            accounts.tree.thd_set(entry.name, {"deliverymode": modes})
        else:
            values = answer(text=text, subject=subject, days=days, begins=begins, ends=ends, now=entry)
            accounts.tree.thd_set(entry.name, values)
    mail = entry.value("mail")
    if not off and not any(wishes):
        print_fields({"address": mail, **state}, as_json)
        return
    notify_directory_change(context.home, mail, *entry.values("mailAlternateAddress"))
    print_line(f"{mail} answers no more" if off else f"{mail} answers by itself")


def _text(path: str) -> str:
    """The text of an answer. @raise CommandError: it is none."""
    if path == "-":
        octets = sys.stdin.buffer.read(MOST_TEXT + 1)
    else:
        with open(path, "rb") as file:
            octets = file.read(MOST_TEXT + 1)
    if len(octets) > MOST_TEXT:
        raise CommandError(f"the text has more than {MOST_TEXT} octets")
    try:
        text = octets.decode("utf-8").replace("\r\n", "\n").rstrip("\n")
    except UnicodeDecodeError:
        raise CommandError(f"{path} is not UTF-8") from None
    if not text.strip():
        raise CommandError(f"there is no text in {path}")
    return text


def _answer_state(attributes: Any, as_json: bool) -> dict[str, object]:
    """What is set; times as the directory has them for programs, to be read for people."""
    days = meaning.first(attributes, "qmailreplydays")
    begin, end = (meaning.first(attributes, f"qmailreply{which}") for which in ("begin", "end"))
    if not as_json:
        begin, end = _readable(begin), _readable(end)
    return {
        "answers": meaning.answers(attributes),
        "subject": meaning.first(attributes, "qmailreplysubject") or None,
        "days": int(days) if days.isdigit() else 7,
        "from": begin or None,
        "to": end or None,
        "text": meaning.first(attributes, "mailreplytext") or None,
    }


def _readable(value: str) -> str:
    """A Generalized Time in words; what is none stays as it is."""
    try:
        return f"{datetime.fromtimestamp(schema.time_of(value), UTC):%Y-%m-%d %H:%M} UTC" if value else ""
    except (ValueError, OverflowError, OSError):
        return value


@user.command("delete")
@click.argument("address", metavar="ADDRESS")
@YES
@click.pass_obj
def user_delete(context: Context, address: str, yes: bool) -> None:
    """Delete the user ADDRESS and its aliases; its mail stays on disk."""
    with accounts_of(context) as accounts:
        found = accounts.thd_user(address)
    sure(f"Delete {found.address}?", yes)
    with accounts_of(context) as accounts:
        accounts.thd_delete_user(address)
    notify_directory_change(context.home, found.address, *found.aliases)
    place = context.config.path("mail", found.store)
    print_line(f"deleted {found.address}" + (f"; its mail is still in {place}" if os.path.isdir(place) else ""))
