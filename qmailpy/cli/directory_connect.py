"""
C{qmailpy directory connect}: have LDAP servers hold the directory from now on, after all that can be tried was tried.

Nothing is changed before every step has succeeded: the servers answer and know us, our schema is there, the base is
there, the domains and users of this home are found there as the daemon will ask for them. Then the passwords are copied
to HOME/etc (the workers' user may read the one for looking up, root alone the other one), and the configuration is
changed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import click
from attrs import evolve

from qmailpy.cli.context import Context
from qmailpy.cli.directory_export import everything
from qmailpy.cli.home import owner as system_owner
from qmailpy.cli.output import print_error, print_line
from qmailpy.cli.store import closing_store
from qmailpy.config.edit import changed
from qmailpy.config.ldapurl import LdapUrl, parse_ldap_url
from qmailpy.config.load import config_path, parse
from qmailpy.config.schema import Config, DirectoryConfig
from qmailpy.directory import address as addresses
from qmailpy.directory import filters, ldif, meaning, names
from qmailpy.directory.attributes import ATTRIBUTES, CLASSES
from qmailpy.directory.blocking import BlockingLdap, LdapError
from qmailpy.directory.operations import Scope, StoreError
from qmailpy.directory.paths import SERVICE, directory_path, secret_path
from qmailpy.directory.setup import identity_name, store_path
from qmailpy.directory.store import Store
from qmailpy.disk.files import RealFiles, replace
from qmailpy.disk.rights import acting_as, owner, read_plain
from qmailpy.errors import CommandError, ConfigError

BIND_FILE = "etc/directory.secret"
ADMIN_FILE = "etc/directory-admin.secret"
SAMPLE = 200
"""So many users of the home so far are looked up."""

_BIND_FIRST = (1, 8, 50)
"""Result codes (RFC 4511 s.4.1.9) of servers that show nothing to nobody: operationsError, strongerAuthRequired,
insufficientAccessRights."""


@click.command("connect")
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
@click.option("--base", metavar="DN", help="What everything is below; as it is here unless given.")
@click.option("--bind-dn", metavar="DN", help="Whom the daemon looks up as; cn=service,BASE unless given.")
@click.option("--password-file", metavar="FILE", help="Its password; that of this home's cn=service unless given.")
@click.option("--admin-dn", metavar="DN", help="Whom commands change entries as; as --bind-dn unless given.")
@click.option("--admin-password-file", metavar="FILE", help="Its password.")
@click.option("--starttls", type=click.Choice(("none", "must", "verify")), default="verify", show_default=True)
@click.option("--ca-file", metavar="FILE", help="PEM with the authorities to trust; the system's unless given.")
@click.option("--logins", type=click.Choice(("bind", "compare")), default="bind", show_default=True)
@click.option(
    "--load", "load_file", metavar="LDIF", help="First add the entries of a file of qmailpy directory export."
)
@click.pass_obj
def connect(
    context: Context,
    urls: tuple[str, ...],
    base: str | None,
    bind_dn: str | None,
    password_file: str | None,
    admin_dn: str | None,
    admin_password_file: str | None,
    starttls: str,
    ca_file: str | None,
    logins: str,
    load_file: str | None,
) -> None:
    """
    Use the LDAP servers URL... as the directory, the first one that answers.

    Everything is tried before the configuration is changed.
    """
    config = context.config
    if bool(admin_dn) != bool(admin_password_file):
        raise click.UsageError("--admin-dn and --admin-password-file need each other")
    where = base or config.directory.base
    passwords = {
        BIND_FILE: _password(context.home, password_file),
        ADMIN_FILE: _password(context.home, admin_password_file) if admin_password_file else b"",
    }
    try:
        service = bind_dn or str(identity_name(where, SERVICE))
    except names.BadName as problem:
        raise CommandError(f"--base {where}: {problem}") from None
    new = evolve(
        config.directory,
        servers=urls,
        base=where,
        bind_dn=service,
        bind_password_file=BIND_FILE,
        admin_dn=admin_dn or "",
        admin_password_file=ADMIN_FILE if admin_dn else "",
        starttls=starttls,
        ca_file=os.path.abspath(ca_file) if ca_file else config.directory.ca_file,
        logins=logins,
    )
    text = _changed_text(context.home, new)
    targets = [parse_ldap_url(one) for one in urls]
    try:
        _try(config, new, targets, passwords, load_file)
    except LdapError as error:
        raise CommandError(f"{error}; nothing was changed here") from None
    _keep(config, passwords)
    from qmailpy.cli.config import _replace

    _replace(os.path.realpath(config_path(context.home)), text)
    print_line("the configuration is changed; it is in force after: systemctl reload qmailpy (or SIGHUP)")
    if not config.directory.servers:
        print_line("the embedded directory server ends with the next restart; HOME/directory stays as it is")


def _password(home: str, file: str | None) -> bytes:
    """The first line of a file; without one what this home's service identity shows."""
    try:
        if file is None:
            with acting_as(owner(directory_path(home))):
                octets = read_plain(secret_path(home, SERVICE), 4096)
        else:
            with open(file, "rb") as source:
                octets = source.read(4096)
    except OSError as error:
        raise CommandError(f"{error.filename or file}: {error.strerror}") from None
    found = octets.partition(b"\n")[0].strip()
    if not found:
        raise CommandError(f"{file}: its first line is no password")
    return found


def _changed_text(home: str, new: DirectoryConfig) -> str:
    """The configuration's text with the new keys. @raise CommandError: it would not be right."""
    path = os.path.realpath(config_path(home))
    with open(path, encoding="utf-8") as source:
        text = source.read()
    keys = ("servers", "base", "bind_dn", "bind_password_file", "admin_dn", "admin_password_file")
    values: dict[str, object] = {
        f"directory.{key}": getattr(new, key) for key in (*keys, "starttls", "ca_file", "logins")
    }
    values["directory.servers"] = list(new.servers)
    after = changed(text, values)
    try:
        parse(after, path, home)
    except ConfigError as error:
        raise CommandError(f"{error.problems[0]}; nothing was changed") from None
    return after


# --- what is tried -----------------------------------------------------------------------------------------------


def _try(
    config: Config, new: DirectoryConfig, targets: Sequence[LdapUrl], passwords: dict[str, bytes], load_file: str | None
) -> None:
    """@raise LdapError, CommandError: what is in the way."""
    if load_file is not None:
        _load(new, targets[0], passwords, load_file)
    for url in targets:
        for dn, file in ((new.admin_dn, ADMIN_FILE), (new.bind_dn, BIND_FILE)):
            if not dn:
                continue
            ldap = BlockingLdap(url, new)
            try:
                _bind(ldap, url, dn, passwords[file])
                if file == BIND_FILE:
                    _content(ldap, url, config, new)
            finally:
                ldap.close()


def _bind(ldap: BlockingLdap, url: LdapUrl, dn: str, password: bytes) -> None:
    """Log in at a server that has our schema: asked before we are anybody, as most allow; else behind it."""
    early = True
    try:
        _schema(ldap, url)
    except LdapError as error:
        if error.code not in _BIND_FIRST:
            raise
        early = False
    ldap.thd_bind(dn, password)
    if not early:
        _schema(ldap, url)


def _schema(ldap: BlockingLdap, url: LdapUrl) -> None:
    """Whether the server knows all our attributes and classes."""
    root = next(ldap.thd_search("", Scope.BASE, attributes=("subschemaSubentry",)), None)
    place = next(iter(root[1].get("subschemasubentry", ())), "cn=Subschema") if root else "cn=Subschema"
    found = next(ldap.thd_search(place, Scope.BASE, attributes=("attributeTypes", "objectClasses")), None)
    if found is None:
        print_error(f"{url}: does not show its schema; whether ours is loaded was not found out")
        return
    text = " ".join(value for values in found[1].values() for value in values).lower()
    ours = [*(one.name for one in ATTRIBUTES if one.ours), *(one.name for one in CLASSES if one.ours)]
    missing = [name for name in ours if f"'{name.lower()}'" not in text]
    if missing:
        some = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise CommandError(
            f"{url}: our schema is not there ({some}); load it on that machine with: "
            "qmailpy directory schema | ldapadd -Y EXTERNAL -H ldapi:///"
        )


def _load(new: DirectoryConfig, url: LdapUrl, passwords: dict[str, bytes], file: str) -> None:
    """Add the entries of a file; those that are there stay as they are."""
    dn, password = (new.admin_dn, passwords[ADMIN_FILE]) if new.admin_dn else (new.bind_dn, passwords[BIND_FILE])
    ldap = BlockingLdap(url, new)
    added = there = 0
    try:
        _bind(ldap, url, dn, password)
        with open(file, "rb") as source:
            for one in ldif.read(source):
                try:
                    ldap.thd_add(one.dn, one.attributes)
                    added += 1
                except LdapError as error:
                    if error.code != 68:  # entryAlreadyExists: an earlier try had come so far
                        raise CommandError(f"{file}:{one.line}: {error}") from None
                    there += 1
    except ldif.BadLdif as problem:
        raise CommandError(f"{file}: {problem}") from None
    finally:
        ldap.close()
    print_line(f"{url}: {added} entries added" + (f", {there} were there already" if there else ""))


def _content(ldap: BlockingLdap, url: LdapUrl, config: Config, new: DirectoryConfig) -> None:
    """Whether the daemon would find who is there, asking as it will."""
    if not any(True for _ in ldap.thd_search(new.base, Scope.BASE)):
        raise CommandError(f"{url}: there is no {new.base}, or {new.bind_dn} may not see it; see docs/directory.md")
    known = _here(config) if not config.directory.servers else []
    domains = [name for kind, name in known if kind == "domain"]
    found = list(
        ldap.thd_search(new.base, what=filters.Equal("objectclass", "qmailDomain"), attributes=("associatedDomain",))
    )
    there = {addresses.key(value) for _, attributes in found for value in attributes.get("associateddomain", ())}
    lost = [name for name in domains if name not in there]
    looked = 0
    for kind, name in known:
        if kind == "address" and looked < SAMPLE:
            looked += 1
            what = filters.Or([filters.Equal("mail", name), filters.Equal("mailAlternateAddress", name)])
            entries = list(ldap.thd_search(new.base, what=what, attributes=meaning.LOOKUP_ATTRIBUTES, most=2))
            if len(entries) != 1 or not entries[0][1].get("mail"):
                lost.append(name)
    if lost:
        some = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        raise CommandError(
            f"{url}: {new.bind_dn} does not find {some}, which are here; bring them there with: "
            "qmailpy directory export --ldif FILE, and --load FILE with this command"
        )
    if not there:
        print_error(f"{url}: there is no domain yet; add one with: qmailpy domain add DOMAIN")
    person = filters.And([filters.Equal("objectclass", "qmailUser"), filters.Present("userPassword")])
    if not any(True for _ in ldap.thd_search(new.base, what=person, attributes=("userPassword",), most=1)):
        if new.logins == "compare":
            raise CommandError(f"{url}: {new.bind_dn} sees no userPassword, which --logins compare needs")
        print_error(f"{url}: {new.bind_dn} sees no userPassword: nobody can log in by SCRAM")
    print_line(f"{url}: {len(there)} domains; {len(domains)} domains and {looked} users of this home are there")


def _here(config: Config) -> list[tuple[str, str]]:
    """Domains and some addresses of the embedded directory."""
    if not os.path.isdir(directory_path(config.home)):
        return []
    found: list[tuple[str, str]] = []
    users = 0
    with acting_as(owner(directory_path(config.home))), closing_store(Store(store_path(config.home))) as store:
        try:
            for entry in everything(store, config.directory.base):
                if entry.value("associatedDomain"):
                    found.append(("domain", entry.value("associatedDomain")))
                elif entry.value("mail") and users < SAMPLE:
                    users += 1
                    found.append(("address", entry.value("mail")))
        except StoreError as error:
            raise CommandError(str(error)) from None
    return found


# --- what is kept ------------------------------------------------------------------------------------------------


def _keep(config: Config, passwords: dict[str, bytes]) -> None:
    """The passwords into HOME/etc: for the workers' user the one, for root the other."""
    for file, password in passwords.items():
        if not password:
            continue
        path = config.path(file)
        with_group = file == BIND_FILE and os.geteuid() == 0 and os.stat(config.path("etc")).st_uid == 0
        temporary = path + ".tmp"
        if os.path.lexists(temporary):
            os.unlink(temporary)
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            if with_group:
                os.fchown(handle, 0, system_owner(config.server.user, config.server.group).gid)
                os.fchmod(handle, 0o640)
        finally:
            os.close(handle)
        replace(RealFiles(), path, password + b"\n")
