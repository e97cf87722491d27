"""
C{qmailpy plan}, C{server}, C{group} and C{role}: classes of service, nodes, distribution lists, administrators.

They work as C{qmailpy user} does.
"""

from __future__ import annotations

import attrs
import click

from qmailpy.cli.context import Context
from qmailpy.cli.output import print_json, print_line, print_table
from qmailpy.cli.people import (
    JSON,
    SETTINGS,
    YES,
    accounts_of,
    keys_help,
    notify_directory_change,
    plain,
    print_entry,
    print_fields,
    read_some,
    sure,
    with_keys,
)
from qmailpy.directory.groups import Groups
from qmailpy.directory.plans import PLAN as PLANS
from qmailpy.directory.plans import SERVER as SERVERS
from qmailpy.directory.plans import Kind, Named
from qmailpy.directory.roles import RoleInfo, Roles
from qmailpy.directory.settings import GROUP, PLAN, SERVER, Key, read, show


def _named(kind: Kind, keys: tuple[Key, ...], text: str) -> click.Group:
    """The commands for entries of a kind; what is changed concerns everybody."""
    metavar = kind.word.upper()

    @click.group(kind.word, help=text)
    def group() -> None:
        pass

    @group.command("add", help=f"Add {metavar}.")
    @click.argument("name", metavar=metavar)
    @SETTINGS
    @click.pass_obj
    def add(context: Context, name: str, settings: tuple[str, ...]) -> None:
        values = read(keys, settings)
        with accounts_of(context) as accounts:
            added = Named(accounts.tree, kind).thd_add(name, values)
        notify_directory_change(context.home, "")
        print_line(f"added {added}")

    @group.command("list", help=f"List all {kind.word}s.")
    @JSON
    @click.pass_obj
    def list_(context: Context, as_json: bool) -> None:
        with accounts_of(context) as accounts:
            found = Named(accounts.tree, kind).thd_list()
        rows = [(entry.value("cn"), show(keys, entry)) for entry in found]
        if as_json:
            print_json([{"name": name, "settings": values} for name, values in rows])
            return
        heads = (kind.word.capitalize(), *(key.name.capitalize() for key in keys))
        cells = [(name, *("" if one is None else plain(one) for one in values.values())) for name, values in rows]
        print_table(heads, cells)

    @group.command("show", help=f"Show {metavar}.")
    @click.argument("name", metavar=metavar)
    @JSON
    @click.pass_obj
    def show_(context: Context, name: str, as_json: bool) -> None:
        with accounts_of(context) as accounts:
            entry = Named(accounts.tree, kind).thd_get(name)
        print_entry({"name": entry.value("cn")}, keys, entry, (), as_json)

    @group.command("set", help=f"Change {metavar}.")
    @click.argument("name", metavar=metavar)
    @SETTINGS
    @click.pass_obj
    def set_(context: Context, name: str, settings: tuple[str, ...]) -> None:
        values = read_some(keys, settings)
        with accounts_of(context) as accounts:
            changed = Named(accounts.tree, kind).thd_set(name, values)
        notify_directory_change(context.home, "")
        print_line(f"changed {changed}")

    @group.command("delete", help=f"Delete {metavar}.")
    @click.argument("name", metavar=metavar)
    @click.option("--force", is_flag=True, help="Even while others name it.")
    @YES
    @click.pass_obj
    def delete(context: Context, name: str, force: bool, yes: bool) -> None:
        with accounts_of(context) as accounts:
            label = Named(accounts.tree, kind).thd_get(name).value("cn")
        if force:
            sure(f"Delete the {kind.word} {label}?", yes)
        with accounts_of(context) as accounts:
            Named(accounts.tree, kind).thd_delete(label, force=force)
        notify_directory_change(context.home, "")
        print_line(f"deleted {label}")

    for command in (add, set_):
        command.help = f"{command.help}\n\n{keys_help(keys)}"
    return group


plan = _named(PLANS, PLAN, "Service plans: limits and features that users and domains refer to.")
server = _named(SERVERS, SERVER, "Nodes that users' mail may be on.")


@click.group()
def group() -> None:
    """Groups: an address that stands for its members, and who may write to it."""


@group.command("add")
@click.argument("address", metavar="ADDRESS")
@click.argument("words", metavar="[MEMBER...] [KEY=VALUE...]", nargs=-1)
@click.pass_obj
@with_keys(GROUP)
def group_add(context: Context, address: str, words: tuple[str, ...]) -> None:
    """Add the group ADDRESS; a MEMBER is any address, a group's too."""
    values = read(GROUP, [word for word in words if "=" in word])
    with accounts_of(context) as accounts:
        added = Groups(accounts.tree).thd_add(address, [word for word in words if "=" not in word], values)
    notify_directory_change(context.home, added)
    print_line(f"added {added}")


@group.command("list")
@click.argument("name", metavar="[DOMAIN]", required=False, default="")
@JSON
@click.pass_obj
def group_list(context: Context, name: str, as_json: bool) -> None:
    """List the groups, of one DOMAIN or of all."""
    with accounts_of(context) as accounts:
        found = Groups(accounts.tree).thd_list(name)
    if as_json:
        print_json([attrs.asdict(one) for one in found])
        return
    print_table(
        ("Address", "Posters", "Members"), [(one.address, one.posters, len(one.members)) for one in found], (2,)
    )


@group.command("show")
@click.argument("address", metavar="ADDRESS")
@JSON
@click.pass_obj
def group_show(context: Context, address: str, as_json: bool) -> None:
    """Show the group ADDRESS and its members."""
    with accounts_of(context) as accounts:
        groups = Groups(accounts.tree)
        entry = groups.thd_get(address)
        found = groups.info(entry)
    if as_json:
        print_entry(attrs.asdict(found), GROUP, entry, (), True)
        return
    print_entry({"address": found.address, "posters": found.posters}, GROUP, entry, (), False)
    for member in found.members:
        print_line(f"  {member}")


@group.command("set")
@click.argument("address", metavar="ADDRESS")
@SETTINGS
@click.pass_obj
@with_keys(GROUP)
def group_set(context: Context, address: str, settings: tuple[str, ...]) -> None:
    """Change the group ADDRESS."""
    values = read_some(GROUP, settings)
    with accounts_of(context) as accounts:
        groups = Groups(accounts.tree)
        before = groups.thd_get(address).values("mailAlternateAddress")
        changed = groups.thd_set(address, values)
        after = groups.thd_get(changed).values("mailAlternateAddress")
    notify_directory_change(context.home, *dict.fromkeys((changed, *before, *after)))
    print_line(f"changed {changed}")


@group.group("member")
def group_member() -> None:
    """Who is in a group."""


@group_member.command("add")
@click.argument("address", metavar="ADDRESS")
@click.argument("members", metavar="MEMBER...", nargs=-1, required=True)
@click.pass_obj
def member_add(context: Context, address: str, members: tuple[str, ...]) -> None:
    """Add each MEMBER to the group ADDRESS."""
    with accounts_of(context) as accounts:
        changed, new = Groups(accounts.tree).thd_add_members(address, members)
    notify_directory_change(context.home, changed)
    print_line(f"added {new} to {changed}")


@group_member.command("delete")
@click.argument("address", metavar="ADDRESS")
@click.argument("members", metavar="MEMBER...", nargs=-1, required=True)
@click.pass_obj
def member_delete(context: Context, address: str, members: tuple[str, ...]) -> None:
    """Take each MEMBER out of the group ADDRESS."""
    with accounts_of(context) as accounts:
        changed = Groups(accounts.tree).thd_remove_members(address, members)
    notify_directory_change(context.home, changed)
    print_line(f"changed {changed}")


@group.command("delete")
@click.argument("address", metavar="ADDRESS")
@YES
@click.pass_obj
def group_delete(context: Context, address: str, yes: bool) -> None:
    """Delete the group ADDRESS; its members stay."""
    with accounts_of(context) as accounts:
        found = Groups(accounts.tree).thd_get(address).value("mail")
    sure(f"Delete {found}?", yes)
    with accounts_of(context) as accounts:
        gone = Groups(accounts.tree).thd_delete(found)
    notify_directory_change(context.home, found, *gone.values("mailAlternateAddress"))
    print_line(f"deleted {found}")


@click.group()
def role() -> None:
    """Roles: who administers what."""


_WHAT = click.argument("what", metavar="operator|DOMAIN...", nargs=-1, required=True)


def _changed(context: Context, found: RoleInfo) -> None:
    notify_directory_change(context.home, found.address)
    print_line(f"{found.address}: {_line(found)}")


def _line(found: RoleInfo) -> str:
    return f"{found.role} of {', '.join(found.domains)}" if found.role == "domain administrator" else found.role


@role.command("add", short_help="Make the user ADDRESS an administrator.")
@click.argument("address", metavar="ADDRESS")
@_WHAT
@click.pass_obj
def role_add(context: Context, address: str, what: tuple[str, ...]) -> None:
    """Make the user ADDRESS an operator, or administrator of each DOMAIN."""
    with accounts_of(context) as accounts:
        found = Roles(accounts).thd_add(address, what)
    _changed(context, found)


@role.command("list")
@JSON
@click.pass_obj
def role_list(context: Context, as_json: bool) -> None:
    """List everybody who administers something."""
    with accounts_of(context) as accounts:
        found = Roles(accounts).thd_list()
    if as_json:
        print_json([attrs.asdict(one) for one in found])
        return
    print_table(("Address", "Role", "Domains"), [(one.address, one.role, ", ".join(one.domains)) for one in found])


@role.command("show")
@click.argument("address", metavar="ADDRESS")
@JSON
@click.pass_obj
def role_show(context: Context, address: str, as_json: bool) -> None:
    """Show what the user ADDRESS administers."""
    with accounts_of(context) as accounts:
        found = Roles(accounts).thd_get(address)
    print_fields(attrs.asdict(found), as_json)


@role.command("set")
@click.argument("address", metavar="ADDRESS")
@_WHAT
@click.pass_obj
def role_set(context: Context, address: str, what: tuple[str, ...]) -> None:
    """Give the user ADDRESS these roles and no other."""
    with accounts_of(context) as accounts:
        found = Roles(accounts).thd_set(address, what)
    _changed(context, found)


@role.command("delete")
@click.argument("address", metavar="ADDRESS")
@click.argument("what", metavar="[operator|DOMAIN...]", nargs=-1)
@click.pass_obj
def role_delete(context: Context, address: str, what: tuple[str, ...]) -> None:
    """Take these roles from the user ADDRESS, or all of them."""
    with accounts_of(context) as accounts:
        found = Roles(accounts).thd_delete(address, what)
    _changed(context, found)
