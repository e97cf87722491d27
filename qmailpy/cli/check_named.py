"""
Programs and files that a configuration names: what is not there is told before mail has to wait for it.

Called by C{qmailpy check}; nothing is run, and files are only looked for.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

from qmailpy.config.schema import Config


def programs(config: Config, path: str, warnings: list[str]) -> None:
    """
    Programs that cannot be run: mail that needs them would wait, and events would be told to nobody.

    @param path: of qmailpy.toml, as it is to be named.
    """
    table = os.path.join(os.path.dirname(path), "conversions.toml")
    named = [(f"{path}: [channel.{one.name}]", one.command) for one in config.channels.values()]
    named.append((f"{path}: [events]", config.events.command))
    for number, entry in enumerate(config.conversions.entries, 1):
        called = f" ({entry.name})" if entry.name else ""
        named.append((f"{table}: [[entry]] {number}{called}", entry.command))
    for where, command in named:
        if command and not (os.path.isfile(command[0]) and os.access(command[0], os.X_OK)):
            warnings.append(f"{where} command: {command[0]} cannot be run; right would be an executable file")
    if any(entry.command for entry in config.conversions.entries):
        for program in ("setsid", "prlimit"):
            if shutil.which(program, path="/usr/bin:/bin:/usr/local/bin") is None:
                warnings.append(f"{table}: {program} is missing, which commands need: apt-get install util-linux")


def relay_passwords(config: Config, path: str, errors: list[str], readable: Callable[[str], bool]) -> None:
    """
    Files with passwords for relays that are not there, say nothing or are open: the daemon would not start with them.

    @param readable: whether the mail workers can read a file.
    """
    named = [(f"[channel.{one.name}] relay_password_file", one.relay_password_file) for one in config.channels.values()]
    named += [(f"[[destination]] {one.pattern} password_file", one.password_file) for one in config.destinations]
    user, group = config.server.user, config.server.group
    for key, file in named:
        before = len(errors)
        password(config, path, file, key, "the relay", errors)
        place = os.path.join(config.home, file)
        if file and len(errors) == before and not readable(place):
            remedy = f"right would be: chgrp {group} {place}; chmod 640 {place}"
            errors.append(f"{place}: cannot be read by user {user}; {remedy}")


def password(config: Config, path: str, file: str, key: str, whose: str, errors: list[str]) -> None:
    """
    Whether a file holds a password, for nobody else to read; nothing to do when there is none.

    @param file: as it is in the configuration.
    @param key: that names it there.
    """
    if not file:
        return
    from qmailpy.directory.service import thd_read_password

    place = os.path.join(config.home, file)
    try:
        if not thd_read_password(config, file):
            errors.append(f"{place}: its first line is no password; right would be that of {whose}")
        elif os.stat(place).st_mode & 0o007:
            errors.append(f"{place}: is open to others; right would be: chmod o-rwx {place}")
    except OSError as error:
        remedy = "right would be a file with the password in its first line"
        errors.append(f"{path}: {key}: {place}: {error.strerror or error}; {remedy}")


def authorities(config: Config, path: str, errors: list[str]) -> None:
    """Files of authorities that are missing although mail may go to verified hosts alone: all of it would wait."""
    for channel in config.channels.values():
        tables = [one.tls for one in config.destinations if one.channel in ("", channel.name)]
        if channel.kind in ("smtp", "lmtp") and "verify" in (channel.tls, *tables):
            _authorities(channel.tls_ca_file, f"{path}: [channel.{channel.name}] tls_ca_file", errors)
    if config.pop3.node_user and config.pop3.tls == "verify":
        _authorities(config.pop3.ca_file, f"{path}: [pop3] ca_file", errors)


def _authorities(file: str, where: str, errors: list[str]) -> None:
    if not os.path.isfile(file):
        right = "right would be a PEM file with those to trust (Debian's: apt-get install ca-certificates)"
        errors.append(f'{where}: {file} is missing, which tls = "verify" needs; {right}')
