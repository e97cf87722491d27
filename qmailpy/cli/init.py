"""
C{qmailpy init HOME}: a working home out of nothing.

All that was asked for is checked before the disk is touched. While it works, HOME holds a locked file C{.init}; a
failure takes away everything again, and what a power cut left behind is taken away by the next try, which knows it by
that file. So there is never half a home that passes for a whole one or stands in the way.
"""

from __future__ import annotations

import datetime
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import click
from attrs import frozen

from qmailpy.cli.home import DIRECTORIES, DIRECTORY_USER, KEEPERS, Keeper, Owners, caller_names, make, owners
from qmailpy.cli.output import print_json, print_line
from qmailpy.config.load import DEFAULT_ETC, DEFAULT_HOME, FILE_NAME, parse
from qmailpy.config.schema import Config
from qmailpy.config.template import HomeChoices, home_text
from qmailpy.disk.files import RealFiles, replace
from qmailpy.errors import CommandError
from qmailpy.routing import srs_secret

MARKER = ".init"
IGNORED = {MARKER, "lost+found"}
"""What may be in a HOME that counts as empty: the top of a file system of its own is as good a place."""


@frozen(kw_only=True)
class Made:
    """What L{make_home} made."""

    home: str
    config: Config
    config_file: str
    certificate: str
    certificate_until: str  # date
    postmaster: str
    password: str


@click.command()
@click.argument("home", type=click.Path())
@click.option("--hostname", required=True, help="Our name in the mail world, as in mail.example.org.")
@click.option("--domain", required=True, help="The first domain whose users are ours, as in example.org.")
@click.option("--unprivileged", is_flag=True, help="Everything on 127.0.0.1, at the standard ports + 10000.")
@click.option("--relay", default="", metavar="HOST:PORT", help="Send all outbound mail to this host.")
@click.option(
    "--trust",
    multiple=True,
    default=("127.0.0.0/8", "::1/128"),
    show_default=True,
    metavar="CIDR",
    help="Clients that may relay and are free of limits; may be repeated.",
)
@click.option("--user", default="qmailpy", show_default=True, help="System user of the daemon when started as root.")
@click.option("--group", default="", help="Its group; as the user unless given.")
@click.option(
    "--directory-user",
    default="",
    help=f"System user of the directory process, who alone can read passwords; {DIRECTORY_USER} if there is one.",
)
@click.option("--json", "as_json", is_flag=True, help="Tell what was made as JSON.")
def init(
    home: str,
    hostname: str,
    domain: str,
    unprivileged: bool,
    relay: str,
    trust: tuple[str, ...],
    user: str,
    group: str,
    directory_user: str,
    as_json: bool,
) -> None:
    """
    Make HOME, a new home with configuration, directory, queue and certificate.

    HOME must be empty or not there yet; nothing is ever overwritten.
    """
    belongs: Owners | None = None
    if unprivileged:
        user, group = caller_names()
    elif os.geteuid() == 0:
        belongs = owners(user, group or user, directory_user or DIRECTORY_USER, must=bool(directory_user))
    choices = HomeChoices(
        hostname=ascii_domain(hostname),
        domain=ascii_domain(domain),
        user=user,
        group=group or user,
        directory_user=directory_user or DIRECTORY_USER,
        unprivileged=unprivileged,
        relay=relay,
        trust=trust,
    )
    made = make_home(os.path.abspath(home), choices, belongs, datetime.datetime.now(datetime.UTC))
    if as_json:
        print_json(
            {
                "home": made.home,
                "configuration": made.config_file,
                "certificate": made.certificate,
                "certificate_until": made.certificate_until,
                "postmaster": made.postmaster,
                "password": made.password,
                "listeners": {listener.name: listener.endpoint for listener in made.config.listeners},
            }
        )
        return
    print_line(f"made {made.home}")
    print_line(f"  configuration  {made.config_file}")
    print_line(f"  certificate    {made.certificate} (self-made, until {made.certificate_until})")
    for listener in made.config.listeners:
        print_line(f"  listens on     {listener.endpoint} ({listener.name})")
    print_line(f"  first user     {made.postmaster}")
    print_line(f"  password       {made.password}    (not kept in clear: note it now)")
    if belongs is not None and belongs.directory == belongs.workers:
        print_line(f"note: passwords are not kept from the mail workers: the directory is {user}'s as well. Better:")
        print_line(f"  {make(choices.directory_user)}")
        print_line(f"  chown -R {choices.directory_user}:{choices.group} {made.home}/directory")
    print_line("next:")
    print_line(f"  twistd -n qmailpy --home {made.home}")
    print_line(f"  qmailpy --home {made.home} user add NAME@{choices.domain}")


def ascii_domain(text: str) -> str:
    """A domain as typed in its ASCII form (RFC 5891), lower case; what is none is returned for the checks to refuse."""
    if text.isascii():
        return text.lower().removesuffix(".")
    import idna

    try:
        return idna.encode(text, uts46=True).decode("ascii")
    except idna.IDNAError:
        return text


def make_home(
    home: str, choices: HomeChoices, belongs: Owners | None, now: datetime.datetime, etc: str | None = None
) -> Made:
    """
    Make a home.

    @param home: absolute path.
    @param belongs: who shall own what; C{None} leaves it to this process's user.
    @param now: with its time zone.
    @param etc: directory for the configuration that C{HOME/etc} becomes a link to; C{None} = /etc/qmailpy for the
        default home unless it is unprivileged, else C{HOME/etc} itself.
    @raise ConfigError: a choice is wrong.
    @raise CommandError: something is in the way, or cannot be made; nothing is left behind.
    """
    text = home_text(choices)
    if etc is None and home == DEFAULT_HOME and not choices.unprivileged:
        etc = DEFAULT_ETC
    config = parse(text, "the new " + FILE_NAME, home)
    with _new(home), _elsewhere(etc):
        try:
            made = _fill(home, text, config, choices, now, etc)
            if belongs is not None:
                _give(home, belongs)
            srs_secret.make(home, belongs.workers.gid if belongs is not None else None)
        except OSError as error:
            raise CommandError(f"{error.filename or home}: {error.strerror or error}; nothing was made") from error
    return made


@contextmanager
def _new(home: str) -> Iterator[None]:
    """HOME as an empty directory; taken away again (or emptied, when it was there before) if the body fails."""
    files = RealFiles()
    there = os.path.lexists(home)
    try:
        os.makedirs(home, exist_ok=True)
        names = set(os.listdir(home))
        if names - IGNORED and MARKER not in names:
            is_home = os.path.lexists(os.path.join(home, "etc"))
            what = (
                "is a home already; use it, or choose another directory" if is_home else "is not empty; choose another"
            )
            raise CommandError(f"{home} {what} (or move it away: nothing is ever overwritten)")
        lock = files.lock(os.path.join(home, MARKER))
    except BlockingIOError:
        raise CommandError(f"{home}: another qmailpy init is at work there") from None
    except FileExistsError:
        raise CommandError(f"{home} is no directory; choose another name") from None
    except OSError as error:
        raise CommandError(f"{error.filename or home}: {error.strerror or error}") from error
    try:
        _empty(home)  # what an init left that was killed
        yield
        os.unlink(os.path.join(home, MARKER))
        files.sync_directory(home)
    except BaseException:
        _empty(home)
        os.unlink(os.path.join(home, MARKER))
        if not there:
            os.rmdir(home)
        raise
    finally:
        files.close(lock)


def _empty(home: str) -> None:
    for name in sorted(set(os.listdir(home)) - IGNORED):
        path = os.path.join(home, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


@contextmanager
def _elsewhere(etc: str | None) -> Iterator[None]:
    """The directory for a configuration outside HOME, with the same promise."""
    if etc is None:
        yield
        return
    path = os.path.join(etc, FILE_NAME)
    if os.path.lexists(path):
        raise CommandError(f"{path} is there already; move it away (nothing is ever overwritten)")
    there = os.path.isdir(etc)
    os.makedirs(etc, exist_ok=True)
    secret = os.path.join(etc, srs_secret.NAME)
    made = [path] if os.path.lexists(secret) else [path, secret]
    try:
        yield
    except BaseException:
        for one in made:
            if os.path.lexists(one):
                os.unlink(one)
        if not there:
            os.rmdir(etc)
        raise


def _fill(home: str, text: str, config: Config, choices: HomeChoices, now: datetime.datetime, etc: str | None) -> Made:
    from qmailpy.cli.certificate import CERTIFICATE, KEY, self_signed
    from qmailpy.directory.setup import create as create_directory
    from qmailpy.stats.counters import Sizes
    from qmailpy.stats.counters import create as create_counters

    files = RealFiles()
    for name, mode in DIRECTORIES.items():
        path = os.path.join(home, name) if name else home
        if name == "etc" and etc is not None:
            os.symlink(etc, path)
        else:
            os.makedirs(path, exist_ok=True)
        os.chmod(path, mode & 0o700 if choices.unprivileged else mode)
    certificate, key = self_signed(config.server.hostname, now)
    for name, octets, mode in (
        (KEY, key, 0o600),
        (CERTIFICATE, certificate, 0o644),
    ):
        replace(files, os.path.join(home, name), octets)
        os.chmod(os.path.join(home, name), mode & 0o700 if choices.unprivileged else mode)
    password = create_directory(home, config.directory.base, choices.domain)
    create_counters(os.path.join(home, "run", "counters"), Sizes())
    path = os.path.join(home, "etc", FILE_NAME)  # last: a home is whole when it has its configuration
    replace(files, path, text.encode())
    os.chmod(path, 0o600 if choices.unprivileged else 0o644)
    from cryptography import x509

    until = x509.load_pem_x509_certificate(certificate).not_valid_after_utc
    return Made(
        home=home,
        config=config,
        config_file=path if etc is None else os.path.join(etc, FILE_NAME),
        certificate=os.path.join(home, CERTIFICATE),
        certificate_until=f"{until:%Y-%m-%d}",
        postmaster=f"postmaster@{choices.domain}",
        password=password,
    )


def _give(home: str, belongs: Owners) -> None:
    """
    Give the parts of a home to their users; what none of them may change (HOME itself, configuration, certificate)
    stays root's.
    """
    for top in ("", *os.listdir(home)):
        keeper = KEEPERS.get(top, Keeper.ROOT)
        who = belongs.of(keeper)
        uid = os.geteuid() if keeper is Keeper.ROOT else who.uid
        path = os.path.join(home, top) if top else home
        os.chown(path, uid, who.gid, follow_symlinks=False)
        if not top or os.path.islink(path):
            continue
        for folder, folders, names in os.walk(path):
            for name in (*folders, *names):
                os.chown(os.path.join(folder, name), uid, who.gid, follow_symlinks=False)
