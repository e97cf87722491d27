"""
The directory of a new home: its store, its identities, the first domain and its postmaster.

C{HOME/directory/} afterwards: C{directory.sqlite}, and two secrets (mode 0600, no line end, as C{ldapsearch -y} wants
them): C{admin.secret} of C{cn=admin,BASE}, who may change everything, and C{service.secret} of C{cn=service,BASE},
as whom the workers look up. Neither may read a password.
"""

from __future__ import annotations

import os
import secrets

from qmailpy.directory import accounts, names, password, store
from qmailpy.directory.operations import StoreError
from qmailpy.directory.paths import ADMIN, SERVICE, directory_path, secret_path, thd_read_secret
from qmailpy.directory.schema import Entry
from qmailpy.disk.files import RealFiles, replace_all
from qmailpy.errors import CommandError

__all__ = [
    "ADMIN",
    "SERVICE",
    "create",
    "directory_path",
    "identity_name",
    "secret_path",
    "store_path",
    "thd_read_secret",
]


def store_path(home: str) -> str:
    """The store's file."""
    return os.path.join(directory_path(home), store.FILE)


def identity_name(base: str, identity: str) -> names.Name:
    """The name L{ADMIN} or L{SERVICE} binds with."""
    return names.parse(base).child("cn", identity)


def create(home: str, base: str, domain: str) -> str:
    """
    Make the directory of a new home: called by C{qmailpy init}, once, without a reactor.

    The files belong to whoever calls; C{init} gives the home to the daemon's user afterwards.

    @param base: the name everything is below, C{"o=qmailpy"}.
    @param domain: the first domain.
    @return: the password generated for C{postmaster@domain}.
    @raise CommandError: there is one already, or it cannot be made.
    """
    files = RealFiles()
    try:
        root = names.parse(base)
    except names.BadName as problem:
        raise CommandError(f"the directory's base {base!r} is not a distinguished name: {problem}") from None
    identities = {identity: secrets.token_urlsafe(32).encode() for identity in (ADMIN, SERVICE)}
    try:
        files.mkdir(directory_path(home))
        made = store.create(store_path(home))
        try:
            made.thd_add(Entry(root, _root_attributes(root)))
            for identity, secret in identities.items():
                made.thd_add(
                    Entry(
                        identity_name(base, identity),
                        {
                            "objectclass": ("top", "applicationProcess", "simpleSecurityObject"),
                            "cn": (identity,),
                            "userpassword": (password.ssha(secret),),
                        },
                    )
                )
            first = accounts.Accounts(made, base)
            name = first.thd_add_domain(domain)
            generated = secrets.token_urlsafe(12)
            first.thd_add_user(f"postmaster@{name}", secret=generated.encode(), name="Postmaster")
        finally:
            made.thd_close()
        replace_all(files, [(secret_path(home, identity), secret) for identity, secret in identities.items()])
    except (StoreError, OSError) as problem:
        raise CommandError(f"the directory cannot be made: {problem}") from None
    return generated


def _root_attributes(root: names.Name) -> dict[str, tuple[str, ...]]:
    classes = {"o": "organization", "ou": "organizationalUnit", "dc": "dcObject"}
    kind = root.rdns[0][0][0].lower() if root.rdns else ""
    return {"objectclass": ("top", classes.get(kind, "extensibleObject"))}
