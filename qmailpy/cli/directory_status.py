"""C{qmailpy directory status} and C{qmailpy directory forgive}."""

from __future__ import annotations

import time
from typing import Any

import click
from attrs import asdict, frozen

from qmailpy.cli.context import Context
from qmailpy.cli.output import print_json, print_line, print_table
from qmailpy.config.ldapurl import LdapUrl, parse_ldap_url
from qmailpy.config.schema import Config
from qmailpy.control import call, running
from qmailpy.directory.blocking import BlockingLdap, LdapError
from qmailpy.directory.operations import Scope
from qmailpy.directory.paths import SERVICE, directory_path, socket_path, thd_read_secret
from qmailpy.directory.service import thd_read_password
from qmailpy.directory.setup import identity_name
from qmailpy.disk.rights import acting_as, owner
from qmailpy.errors import CommandError


@frozen(kw_only=True)
class _Server:
    """What a look at a server came to."""

    server: str
    up: bool
    latency_ms: float  # for connecting, binding and one search
    asked_by: tuple[str, ...]  # processes that use it now
    note: str = ""


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """
    Try each directory server, and show which one the processes ask.

    Exit status 1 when none can be used.
    """
    context: Context = ctx.obj
    caches = _figures(context.home)
    found = [_look(context.config, name, url, caches) for name, url in _servers(context.config)]
    if as_json:
        print_json({"servers": [asdict(one) for one in found], "processes": caches})
    else:
        heads = ("Server", "State", "Latency ms", "Asked by", "Note")
        rows = [
            (one.server, "up" if one.up else "down", f"{one.latency_ms:.1f}", ", ".join(one.asked_by), one.note)
            for one in found
        ]
        print_table(heads, rows, (2,))
        if caches:
            print_line()
            heads = ("Process", "Remembered", "Hits", "Misses", "Past lifetime")
            fields = ("entries", "hits", "misses", "stale")
            print_table(heads, [(name, *(each[f] for f in fields)) for name, each in caches.items()], (1, 2, 3, 4))
    ctx.exit(0 if any(one.up for one in found) else 1)


def _servers(config: Config) -> list[tuple[str, LdapUrl]]:
    if not config.directory.servers:
        return [("embedded", LdapUrl(scheme="ldapi", path=socket_path(config.home)))]
    urls = [parse_ldap_url(text) for text in config.directory.servers]
    return [(str(url), url) for url in urls]


def _figures(home: str) -> dict[str, Any]:
    """What each process says of its cache and its servers."""
    found: dict[str, Any] = {}
    for endpoint in running(home):
        if endpoint.role in ("mta", "access"):
            try:
                answer = call(home, endpoint.name, "directory.figures", timeout_s=5.0)
            except CommandError:
                continue
            if isinstance(answer, dict):
                found[endpoint.name] = answer
    return found


def _look(config: Config, name: str, url: LdapUrl, caches: dict[str, Any]) -> _Server:
    note = ""
    began = time.monotonic()
    try:
        dn, password = _identity(config)
        ldap = BlockingLdap(url, config.directory)
        try:
            ldap.thd_bind(dn, password)
            if not list(ldap.thd_search(config.directory.base, Scope.BASE)):
                note = f"there is no {config.directory.base}, or {dn} may not see it"
        finally:
            ldap.close()
    except (LdapError, OSError) as error:
        note = str(error).removeprefix(f"{url}: ")
    spent = time.monotonic() - began
    users = []
    for process, figures in caches.items():
        up = [one["server"] for one in figures["servers"] if one["up"]]
        if up and up[0] == name:
            users.append(process)
    return _Server(server=name, up=not note, latency_ms=round(spent * 1000, 1), asked_by=tuple(users), note=note)


def _identity(config: Config) -> tuple[str, bytes]:
    """Whom the daemon binds as. @raise OSError: the password cannot be read."""
    options = config.directory
    if options.servers:
        return options.bind_dn, thd_read_password(config, options.bind_password_file)
    with acting_as(owner(directory_path(config.home))):
        return str(identity_name(options.base, SERVICE)), thd_read_secret(config.home, SERVICE)


@click.command("forgive")
@click.argument("name", metavar="ADDRESS|LOGIN")
@click.pass_obj
def forgive(context: Context, name: str) -> None:
    """Forget the failed logins of a client (its IP ADDRESS) or an account (LOGIN), and let it in again."""
    told = [one for one in running(context.home) if one.role in ("mta", "access")]
    if not told:
        raise CommandError("the daemon is not running; what it has counted is in HOME/run/logins until then")
    for endpoint in told:
        call(context.home, endpoint.name, "logins.forgive", name=name)
    print_line(f"forgiven: {name}")
