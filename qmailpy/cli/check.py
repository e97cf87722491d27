"""
C{qmailpy check}: everything that is wrong with a home's configuration and the files it needs, in one go.

Errors keep the daemon from working, warnings do not. The network is not asked: the answer is the same on a machine that
is not connected.
"""

from __future__ import annotations

import datetime
import os

import click

from qmailpy.cli.context import Context
from qmailpy.cli.home import WRITABLE, owner
from qmailpy.cli.output import print_json, print_line, printable
from qmailpy.config.endpoint import parse_endpoint
from qmailpy.config.load import config_path
from qmailpy.config.schema import Config
from qmailpy.errors import CommandError, ConfigError


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON: errors and warnings.")
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> None:
    """
    Report every error of the configuration, with file, line and remedy.

    Looks at the directories, the certificate and the ports as well. Exit status 1 when there are errors; warnings alone
    are none.
    """
    context: Context = ctx.obj
    errors, warnings = examine_home(context)
    if as_json:
        print_json({"file": config_path(context.home), "errors": errors, "warnings": warnings})
    else:
        for line in errors:
            click.echo(printable(line), err=True)
        for line in warnings:
            click.echo(f"warning: {printable(line)}", err=True)
        if not errors:
            print_line(f"{config_path(context.home)} is good")
    ctx.exit(1 if errors else 0)


def examine_home(context: Context) -> tuple[list[str], list[str]]:
    """Errors and warnings, a line each."""
    try:
        config = context.config
    except ConfigError as error:
        return list(error.problems), []
    errors: list[str] = []
    warnings: list[str] = []
    path = config_path(context.home)
    _directories(config, path, errors)
    _certificate(config, errors, warnings)
    _ports(config, path, warnings)
    if "." not in config.server.hostname:
        text = f'hostname "{config.server.hostname}" has no domain; other servers may refuse mail from it'
        warnings.append(f"{path}: [server] {text}")
    return errors, warnings


def _directories(config: Config, path: str, errors: list[str]) -> None:
    """Whether the daemon can write where it must."""
    root = os.geteuid() == 0
    uid = os.geteuid()
    if root:
        try:
            uid = owner(config.server.user, config.server.group).uid
        except CommandError as error:
            errors.append(f"{path}: [server] user: {error}")
            return
    for name in WRITABLE:
        folder = config.path(name)
        if not os.path.isdir(folder):
            errors.append(f"{folder}: is no directory; right would be one that {config.server.user} may write to")
        elif root and uid != 0:
            found = os.stat(folder)
            if found.st_uid != uid:
                remedy = f"right would be: chown -R {config.server.user}:{config.server.group} {folder}"
                errors.append(f"{folder}: belongs to user {found.st_uid} and not to {config.server.user}; {remedy}")
        elif not os.access(folder, os.W_OK | os.X_OK):
            errors.append(f"{folder}: is not writable for you; run this as the daemon's user, or: chmod u+rwx {folder}")


def _certificate(config: Config, errors: list[str], warnings: list[str]) -> None:
    from qmailpy.cli.certificate import CERTIFICATE, KEY, examine_pair

    paths = config.path(CERTIFICATE), config.path(KEY)
    there = [os.path.exists(path) for path in paths]
    if not any(there):
        warnings.append(f"{paths[0]}: is missing; there is no TLS without it")
        return
    if not all(there):
        missing, other = paths if not there[0] else paths[::-1]
        errors.append(f"{missing}: is missing; right would be the one that belongs to {other}")
        return
    try:
        octets = []
        for path in paths:
            with open(path, "rb") as source:
                octets.append(source.read(1 << 20))
    except OSError as error:
        errors.append(f"{error.filename}: cannot be read: {error.strerror}")
        return
    wrong, dubious = examine_pair(octets[0], octets[1], config.server.hostname, datetime.datetime.now(datetime.UTC))
    errors.extend(f"{paths[0]}: {line}" for line in wrong)
    warnings.extend(f"{paths[0]}: {line}" for line in dubious)


def first_free_port() -> int:
    """The lowest port that any user may open."""
    try:
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as source:
            return int(source.read())
    except (OSError, ValueError):
        return 1024


def _ports(config: Config, path: str, warnings: list[str]) -> None:
    """Ports that this user may not open; told as a warning, since the daemon may be started by another."""
    if os.geteuid() == 0:
        return
    free = first_free_port()
    places = [(f"[[listener]] {listener.name}", listener.endpoint) for listener in config.listeners]
    if config.directory.endpoint:
        places.append(("[directory]", config.directory.endpoint))
    for where, description in places:
        port = parse_endpoint(description, config.home).port
        if 0 < port < free:
            text = f"port {port} needs root or CAP_NET_BIND_SERVICE; you have neither as user {os.geteuid()}"
            warnings.append(f"{path}: {where} endpoint: {text}")
