"""
Programs and files that a configuration names: what is not there is told before mail has to wait for it.

Called by C{qmailpy check}; nothing is run, and files are only looked for.
"""

from __future__ import annotations

import os
import shutil

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
