"""
C{qmailpy domain} and C{alias}: which domains are ours, and addresses that stand for others.

They work on the directory's file, as root or as its user, whether the daemon runs or not; one that runs is told, so
that its caches forget at once.
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
    notify_directory_change,
    print_entry,
    read_some,
    sure,
    with_keys,
)
from qmailpy.directory.settings import DOMAIN, read


@click.group()
def domain() -> None:
    """Domains whose users are ours."""


@domain.command("add")
@click.argument("name", metavar="DOMAIN")
@SETTINGS
@click.pass_obj
@with_keys(DOMAIN)
def domain_add(context: Context, name: str, settings: tuple[str, ...]) -> None:
    """Add DOMAIN."""
    values = read(DOMAIN, settings)
    with accounts_of(context) as accounts:
        added = accounts.thd_add_domain(name, values=values)
    notify_directory_change(context.home, added)
    print_line(f"added {added}")


@domain.command("list")
@JSON
@click.pass_obj
def domain_list(context: Context, as_json: bool) -> None:
    """List all domains."""
    with accounts_of(context) as accounts:
        found = accounts.thd_domains()
    if as_json:
        print_json([attrs.asdict(one) for one in found])
        return
    heads = ("Domain", "Status", "Users", "Aliases", "Groups", "Plan", "Catch-all")
    rows = [(one.name, one.status, one.users, one.aliases, one.groups, one.plan, one.catch_all) for one in found]
    print_table(heads, rows, (2, 3, 4))


@domain.command("show")
@click.argument("name", metavar="DOMAIN")
@JSON
@click.pass_obj
def domain_show(context: Context, name: str, as_json: bool) -> None:
    """Show DOMAIN."""
    with accounts_of(context) as accounts:
        found = accounts.thd_domain(name)
        entry = accounts.tree.thd_domain(found.name)
        plan = accounts.tree.thd_named("qmailPlan", found.plan) if found.plan else None
    head: dict[str, object] = attrs.asdict(found) if as_json else {"name": found.name, "holds": found.held}
    print_entry(head, DOMAIN, entry, [plan] if plan else [], as_json)


@domain.command("set")
@click.argument("name", metavar="DOMAIN")
@SETTINGS
@click.pass_obj
@with_keys(DOMAIN)
def domain_set(context: Context, name: str, settings: tuple[str, ...]) -> None:
    """Change DOMAIN."""
    values = read_some(DOMAIN, settings)
    with accounts_of(context) as accounts:
        changed = accounts.thd_set_domain(name, values=values)
    notify_directory_change(context.home, changed)
    print_line(f"changed {changed}")


@domain.command("delete")
@click.argument("name", metavar="DOMAIN")
@click.option("--force", is_flag=True, help="Delete all that is in it, too.")
@YES
@click.pass_obj
def domain_delete(context: Context, name: str, force: bool, yes: bool) -> None:
    """Delete DOMAIN; the mail of its users stays on disk."""
    with accounts_of(context) as accounts:
        found = accounts.thd_domain(name)
    if found.members and force:
        sure(f"Delete {found.name} with {found.held}?", yes)
    with accounts_of(context) as accounts:
        accounts.thd_delete_domain(name, force=force)
    notify_directory_change(context.home, found.name)
    print_line(f"deleted {found.name}")


@click.group()
def alias() -> None:
    """Addresses that stand for others."""


@alias.command("add")
@click.argument("address", metavar="ADDRESS")
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
@click.pass_obj
def alias_add(context: Context, address: str, targets: tuple[str, ...]) -> None:
    """Have mail for ADDRESS go to each TARGET."""
    with accounts_of(context) as accounts:
        added = accounts.thd_add_alias(address, targets)
    notify_directory_change(context.home, added.address)
    print_line(f"added {added.address}")


@alias.command("list")
@click.argument("name", metavar="[DOMAIN]", required=False, default="")
@JSON
@click.pass_obj
def alias_list(context: Context, name: str, as_json: bool) -> None:
    """List the aliases, of one DOMAIN or of all."""
    with accounts_of(context) as accounts:
        found = accounts.thd_aliases(name)
    if as_json:
        print_json([attrs.asdict(one) for one in found])
        return
    print_table(("Address", "Leads to"), [(one.address, ", ".join(one.targets)) for one in found])


@alias.command("show")
@click.argument("address", metavar="ADDRESS")
@JSON
@click.pass_obj
def alias_show(context: Context, address: str, as_json: bool) -> None:
    """Show where mail for ADDRESS goes."""
    with accounts_of(context) as accounts:
        found = accounts.thd_alias(address)
    if as_json:
        print_json(attrs.asdict(found))
        return
    for target in found.targets:
        print_line(target)


@alias.command("set")
@click.argument("address", metavar="ADDRESS")
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
@click.pass_obj
def alias_set(context: Context, address: str, targets: tuple[str, ...]) -> None:
    """Have mail for ADDRESS go to each TARGET, and to nobody else."""
    with accounts_of(context) as accounts:
        changed = accounts.thd_set_alias(address, targets)
    notify_directory_change(context.home, changed.address)
    print_line(f"changed {changed.address}")


@alias.command("delete")
@click.argument("address", metavar="ADDRESS")
@click.pass_obj
def alias_delete(context: Context, address: str) -> None:
    """Take the alias ADDRESS away."""
    with accounts_of(context) as accounts:
        accounts.thd_delete_alias(address)
    notify_directory_change(context.home, address)
    print_line(f"deleted {address.lower()}")
