"""
The demonstration's home: made once, kept from then on, with the passwords of its users in a file of its own.
"""

from __future__ import annotations

import json
import os
import secrets
from typing import Any

from attrs import frozen

from qmailpy.app.demo_programs import command
from qmailpy.config.endpoint import parse_endpoint
from qmailpy.config.load import config_path, load
from qmailpy.config.schema import Config
from qmailpy.disk.files import RealFiles, replace
from qmailpy.errors import CommandError

HOSTNAME = "mail.example.org"
DOMAIN = "example.org"
REMOTE = "example.net"
"""The domain of the outside world, played by the sink. All three are names reserved for examples (RFC 2606)."""

SINK_PORT = 11025
PASSWORDS = "demo-passwords"
USERS = ("alice", "bob")
LOOPBACK = "127.0.0.1"


@frozen(kw_only=True)
class Stage:
    """A home the demonstration can run on."""

    home: str
    config: Config
    made: bool  # just now
    domain: str
    passwords: dict[str, str]  # by address, as far as they are known
    port: int  # where mail is submitted, on 127.0.0.1
    sink_port: int

    def address(self, user: str) -> str:
        """The address of one of our users."""
        return f"{user}@{self.domain}"


async def prepare(reactor: Any, home: str) -> Stage:
    """
    Make the home if there is none, and its users if they are missing.

    @param home: absolute path.
    @raise CommandError: it cannot be made, or is no home for a demonstration.
    @raise ConfigError: its configuration has errors.
    """
    if os.path.isdir(home) and not os.access(home, os.R_OK | os.W_OK | os.X_OK):  # noqa: ASYNC240 - as below
        raise CommandError(f"{home} belongs to another user; choose another directory with --home")
    made = not os.path.exists(config_path(home))  # noqa: ASYNC240 - at once, and nothing else runs
    passwords: dict[str, str] = {}
    if made:
        options = ("--hostname", HOSTNAME, "--domain", DOMAIN, "--unprivileged", "--relay", f"{LOOPBACK}:{SINK_PORT}")
        told = json.loads((await command(reactor, home, "init", home, *options, "--json")).output)
        passwords[told["postmaster"]] = told["password"]
        _keep(home, passwords)
    config = load(home)
    port, sink_port = ports(config)
    domain = config.server.domain or config.server.hostname
    passwords = passwords or _known(home)
    users = json.loads((await command(reactor, home, "user", "list", "--json")).output)
    there = {user["address"] for user in users}
    for address in (f"{user}@{domain}" for user in USERS):
        if address not in there:
            password = secrets.token_urlsafe(9)
            await command(reactor, home, "user", "add", address, "--password-stdin", given=password + "\n")
            passwords[address] = password
            _keep(home, passwords)
    return Stage(
        home=home, config=config, made=made, domain=domain, passwords=passwords, port=port, sink_port=sink_port
    )


def ports(config: Config) -> tuple[int, int]:
    """Where mail is submitted, and where the sink has to be."""
    advice = "run the demonstration on another with --home (make run ARGS='--home DIRECTORY')"
    relay = next((one.relay for one in config.channels.values() if one.kind == "smtp"), "")
    host, _, sink_port = relay.partition(":")
    if host != LOOPBACK or not sink_port.isdecimal():
        raise CommandError(f"{config.home} sends its mail into the real world; {advice}")
    if not (config.log.message_id and config.log.filename):
        raise CommandError(f"{config.home}: [log] message_id and filename must be true; put them back, or {advice}")
    for listener in config.listeners:
        where = parse_endpoint(listener.endpoint, config.home)
        if where.kind == "tcp" and where.port and where.interface in ("", LOOPBACK):
            return where.port, int(sink_port)
    raise CommandError(f"{config.home} has no listener for SMTP on {LOOPBACK}; {advice}")


def _keep(home: str, passwords: dict[str, str]) -> None:
    path = os.path.join(home, PASSWORDS)
    # Nobody else can read it at any moment: the demonstration's umask is 077.
    replace(RealFiles(), path, "".join(f"{name} {word}\n" for name, word in sorted(passwords.items())).encode())
    os.chmod(path, 0o600)


def _known(home: str) -> dict[str, str]:
    try:
        with open(os.path.join(home, PASSWORDS), encoding="utf-8") as source:
            pairs = [line.split() for line in source]
    except OSError:
        return {}
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
