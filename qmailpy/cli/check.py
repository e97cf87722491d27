"""
C{qmailpy check}: everything that is wrong with a home's configuration and the files it needs, in one go.

Errors keep the daemon from working or lay open what should be kept; warnings do neither. The network is not asked: the
answer is the same on a machine that is not connected.
"""

from __future__ import annotations

import datetime
import os

import click

from qmailpy.cli.check_named import authorities, password, programs, relay_passwords
from qmailpy.cli.context import Context
from qmailpy.cli.home import DIRECTORIES, KEEPERS, WRITABLE, Keeper, Owners, make, owners
from qmailpy.cli.output import print_json, print_line, printable
from qmailpy.config.endpoint import parse_endpoint
from qmailpy.config.load import config_path
from qmailpy.config.schema import Config
from qmailpy.config.wording import thd_wordings
from qmailpy.errors import CommandError, ConfigError, QmailpyError

_INSIDE = ("etc", "tls", "directory")
"""Where what lies inside is looked at, too."""

_CLOSED = ("tls", "directory", "queue", "queue/drop", "mail", "run/control")
"""What nobody but the owner may pass through."""


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
    _directories(config, path, errors, warnings)
    _relays(config, path, errors)
    _lists(config, errors)
    errors.extend(map(str, thd_wordings(config.home)[1]))
    _servers(config, path, errors, warnings)
    _nodes(config, path, errors)
    _certificates(config, errors, warnings)
    _clients(config, errors)
    _reports(config, path, errors, warnings)
    _ports(config, path, warnings)
    programs(config, path, warnings)
    authorities(config, path, errors)
    relay_passwords(config, path, errors, lambda place: _readable(config, place))
    _rules(config, path, warnings)
    if "." not in config.server.hostname:
        text = f'hostname "{config.server.hostname}" has no domain; other servers may refuse mail from it'
        warnings.append(f"{path}: [server] {text}")
    return errors, warnings


def _directories(config: Config, path: str, errors: list[str], warnings: list[str]) -> None:
    """Whether the daemon can write where it must, and nobody else can read or write what is not for him."""
    server = config.server
    belong: Owners | None = None
    if os.geteuid() == 0:
        try:
            belong = owners(server.user, server.group, server.directory_user)
        except CommandError as error:
            errors.append(f"{path}: [server] user: {error}")
            return
    for name in WRITABLE:
        folder = config.path(name)
        if not os.path.isdir(folder):
            errors.append(f"{folder}: is no directory; right would be one that {server.user} may write to")
        elif belong is None and not os.access(folder, os.W_OK | os.X_OK):
            errors.append(f"{folder}: is not writable for you; run this as the daemon's user, or: chmod u+rwx {folder}")
    if belong is None or belong.workers.uid == 0:
        return
    for name in KEEPERS:
        if os.path.isdir(config.path(name)):
            _kept(config, name, belong, errors)
    if belong.directory == belong.workers:
        why = f"passwords are not kept from the mail workers, all being user {server.user}"
        folder, user = config.path("directory"), server.directory_user
        remedy = f"{make(user)}; chown -R {user}:{server.group} {folder}" if user else "a user of its own"
        warnings.append(f"{path}: [server] directory_user: {why}; better would be: {remedy}")


def _kept(config: Config, name: str, belong: Owners, errors: list[str]) -> None:
    """Whether a directory of a home, and what lies in it, belongs to who it should and is closed to others."""
    folder = config.path(name) if name else config.home
    keeper = KEEPERS[name]
    uid = belong.of(keeper).uid
    server = config.server
    if keeper is Keeper.ROOT:
        user = group = "root"
    else:
        user, group = (server.user if uid == belong.workers.uid else server.directory_user), server.group
    places = [folder]
    if name in _INSIDE:
        places += [os.path.join(folder, each) for each in sorted(os.listdir(folder))]
    for place in places:
        found = os.lstat(place) if place != folder else os.stat(place)
        if found.st_uid != uid:
            remedy = f"right would be: chown {'-R ' if name else ''}{user}:{group} {folder}"
            errors.append(f"{place}: belongs to user {found.st_uid} and not to {user}; {remedy}")
            break
    wanted = DIRECTORIES[name]
    if os.stat(folder).st_mode & ~wanted & (0o077 if name in _CLOSED else 0o022):
        what = "is open to others" if name in _CLOSED else "can be changed by others"
        errors.append(f"{folder}: {what}; right would be: chmod {wanted:o} {folder}")


def _certificates(config: Config, errors: list[str], warnings: list[str]) -> None:
    """The server's own certificate and the further ones, of which any that is bad keeps all of them from being used."""
    folder = config.path("tls")
    _certificate(folder, config.server.hostname, errors, warnings)
    try:
        names = sorted(name for name in os.listdir(folder) if os.path.isdir(os.path.join(folder, name)))
    except OSError:
        return  # told of as a directory
    for name in names:
        _certificate(os.path.join(folder, name), name, errors, warnings, further=True)


def _certificate(folder: str, hostname: str, errors: list[str], warnings: list[str], *, further: bool = False) -> None:
    """One pair. @param further: of a directory made for it, where it cannot be missing."""
    from qmailpy.cli.certificate import examine_pair

    paths = os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem")
    there = [os.path.exists(path) for path in paths]
    if not any(there):
        if further:
            errors.append(f"{paths[0]}: is missing; right would be a certificate, or no directory {folder}")
        else:
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
    wrong, dubious = examine_pair(octets[0], octets[1], hostname, datetime.datetime.now(datetime.UTC))
    errors.extend(f"{paths[0]}: {line}" for line in wrong)
    warnings.extend(f"{paths[0]}: {line}" for line in dubious)


def _clients(config: Config, errors: list[str]) -> None:
    """Whether the files can be used that say whose certificates clients may log in with."""
    if any(listener.client_certificates != "none" for listener in config.listeners):
        from qmailpy.auth.certificates import thd_read_clients

        try:
            thd_read_clients(config)
        except ConfigError as error:
            errors.extend(error.problems)


def _reports(config: Config, path: str, errors: list[str], warnings: list[str]) -> None:
    """Whether reports on TLS will be signed in the name of the domain they come from."""
    options = config.tlsrpt
    selector = options.dkim_selector
    if not selector:
        if options.send:
            what = "reports by mail are not signed, and many receivers drop them"
            warnings.append(f"{path}: [tlsrpt] dkim_selector: {what}; better would be one of: qmailpy dkim make NAME")
        return
    from qmailpy.auth.dkim import DkimError, key_path, thd_read_key

    place = key_path(config.home, selector, options.dkim_key)
    try:
        thd_read_key(place)
        if os.stat(place).st_mode & 0o007:
            errors.append(f"{place}: is open to others; right would be: chmod o-rwx {place}")
        elif not _readable(config, place):
            group = config.server.group
            remedy = f"right would be: chgrp {group} {place}; chmod 640 {place}"
            errors.append(f"{place}: cannot be read by user {config.server.user}; {remedy}")
    except DkimError as error:
        errors.append(f"{place}: {error}; right would be one of: qmailpy dkim make {selector}")
    except OSError as error:
        remedy = f"right would be: qmailpy dkim make {selector}"
        errors.append(f"{path}: [tlsrpt] dkim_selector: {place}: {error.strerror or error}; {remedy}")
    sender = config.report_sender.rpartition("@")[2].lower()
    if sender != config.report_signer and not sender.endswith("." + config.report_signer):
        what = f"{config.report_signer} is not the domain of {config.report_sender}, nor one above it"
        warnings.append(f"{path}: [tlsrpt] dkim_domain: {what}; receivers will not take the signature for the sender's")


def _readable(config: Config, place: str) -> bool:
    """Whether the mail workers can read a file; where we cannot tell, that we could is good enough."""
    server = config.server
    if os.geteuid() != 0:
        return True
    try:
        workers = owners(server.user, server.group, server.directory_user).workers
    except CommandError:
        return True  # told of already
    found = os.stat(place)
    if workers.uid in (0, found.st_uid):
        return workers.uid == 0 or bool(found.st_mode & 0o400)
    return found.st_gid == workers.gid and bool(found.st_mode & 0o040)


def _relays(config: Config, path: str, errors: list[str]) -> None:
    """Whether the channels will understand where they are to send their mail."""
    from qmailpy.remote.mx import at_home, destination

    for channel in config.channels.values():
        if channel.relay:
            try:
                destination(at_home(channel.relay, config.home), trusted=True)
            except ValueError as error:
                right = 'right would be as in "relay.example.org:25"'
                errors.append(f"{path}: [channel.{channel.name}] relay: {error}; {right}")


def _nodes(config: Config, path: str, errors: list[str]) -> None:
    """Whether the account by which nodes log in at each other has its password."""
    password(config, path, config.pop3.node_password_file, "[pop3] node_password_file", "[pop3] node_user", errors)


def _servers(config: Config, path: str, errors: list[str], warnings: list[str]) -> None:
    """Whether the daemon will have what it needs to ask external LDAP servers; they themselves are not asked."""
    options = config.directory
    if not options.servers:
        return
    from qmailpy.config.ldapurl import parse_ldap_url

    for key in ("bind_password_file", "admin_password_file"):
        password(config, path, getattr(options, key), f"[directory] {key}", f"[directory] {key}", errors)
    for text in options.servers:
        url = parse_ldap_url(text)
        if url.scheme == "ldap" and options.starttls == "none" and not url.here:
            what = f"passwords go to {url} in the clear"
            warnings.append(f'{path}: [directory] servers: {what}; better would be: starttls = "verify"')
    if options.starttls != "must" and not os.path.exists(options.ca_file):
        what = f"{options.ca_file} is missing"
        errors.append(f"{path}: [directory] ca_file: {what}; right would be a PEM file with those to trust")


def _lists(config: Config, errors: list[str]) -> None:
    """Whether the lists that access rules name can be read."""
    from qmailpy.policy.lists import thd_read_lists

    try:
        thd_read_lists(config)
    except ConfigError as error:
        errors.extend(error.problems)


def first_free_port() -> int:
    """The lowest port that any user may open."""
    try:
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as source:
            return int(source.read())
    except (OSError, ValueError):
        return 1024


def _rules(config: Config, path: str, warnings: list[str]) -> None:
    """Rewrite rules that no address comes to, or that send mail round in a circle."""
    from qmailpy.routing.review import circles, covered

    own = _own_domains(config)
    lines: list[tuple[int, str]] = []
    for one in covered(config.rules, own):
        if one.by is None:
            why = f"{one.rule.pattern} is a domain of ours: the directory is asked about it and not the rules"
            right = "none"
        else:
            why = f"no address comes here: rule {one.by_number} ({one.by.pattern}, line {one.by.line}) has them all"
            right = "this rule before that one, or none"
        where = f"{path}:{one.rule.line}: [[rewrite]] {one.number} ({one.rule.pattern})"
        lines.append((one.rule.line, f"{where}: {why}; right would be {right}"))
    for ring in circles(config.rules, config.channels, own):
        if ring.again == "reprocess":
            right = "another address, or an earlier rule for it"
        else:
            right = f'an earlier rule with source = "{ring.way[-1]}" that says where it goes from there'
        where = f"{path}:{ring.rule.line}: [[rewrite]] {ring.number} ({ring.rule.pattern})"
        why = f"mail for {ring.address} goes round: {' -> '.join(ring.way)}"
        lines.append((ring.rule.line, f"{where}: {why}; right would be {right}"))
    warnings += [text for _, text in sorted(lines)]


def _own_domains(config: Config) -> frozenset[str]:
    """Domains of ours, as far as they can be had without asking anybody."""
    from qmailpy.cli.store import open_store
    from qmailpy.directory.accounts import Accounts
    from qmailpy.directory.setup import store_path

    if config.directory.servers or not os.path.exists(store_path(config.home)):
        return frozenset()
    try:
        with open_store(config.home) as store:
            return frozenset(one.name.lower() for one in Accounts(store, config.directory.base).thd_domains())
    except (QmailpyError, OSError):
        return frozenset()


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
