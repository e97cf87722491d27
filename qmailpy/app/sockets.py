"""
The listening sockets, made by the supervisor while it still may bind low ports, and passed to its children.

A listener is an endpoint description as L{qmailpy.config.endpoint} reads it; C{tcp:} without an interface listens on
IPv4 and, where the machine has it, IPv6.

The sockets listen from the beginning: while a worker is restarted, clients wait instead of being refused.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress

from qmailpy.config.endpoint import Endpoint, parse_endpoint
from qmailpy.config.schema import Config
from qmailpy.control.client import short_path
from qmailpy.directory.paths import SOCKET
from qmailpy.disk.rights import Identity, acting_as
from qmailpy.errors import ConfigError
from qmailpy.servers.ports import BACKLOG

LDAP = "ldap"
"""Name under which the directory role finds the sockets of C{[directory] endpoint}."""

LDAPS = "ldaps"
"""The same for those of C{[directory] tls_endpoint}."""

MONITOR = "monitor"
"""The same for that of C{[monitor] endpoint}."""

ROLES = {"pop3": "access"}
"""Roles that serve a kind of listener; all other kinds are the role mta's."""

_KEYS = {LDAP: "directory.endpoint", LDAPS: "directory.tls_endpoint", MONITOR: "monitor.endpoint"}

OWN = "ldap-own"
"""Name under which it finds the socket of our own workers, HOME/run/ldap.sock."""


def _bind_inet(family: socket.AddressFamily, address: str, where: Endpoint) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind((address, where.port))
        listening.setblocking(False)
        listening.listen(where.backlog or BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _bind_unix(path: str, where: Endpoint) -> socket.socket:
    if os.path.lexists(path):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "is there and no socket", path)
        os.unlink(path)  # of a daemon that was killed: ours, by the lock on HOME
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_path(path) as name:
            listening.bind(name)
        os.chmod(path, where.mode)  # nobody can connect before listen()
        listening.setblocking(False)
        listening.listen(where.backlog or BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def bind(where: Endpoint) -> list[socket.socket]:
    """
    The sockets of one listener: non-blocking, listening, not inherited by accident.

    @raise OSError: an address is taken, not ours or not allowed; nothing stays open.
    """
    if where.kind == "unix":
        return [_bind_unix(where.path, where)]
    if where.interface:
        family = socket.AF_INET6 if ":" in where.interface else socket.AF_INET
        return [_bind_inet(family, where.interface, where)]
    made = [_bind_inet(socket.AF_INET, "0.0.0.0", where)]
    if where.port == 0:
        return made  # IPv6 would get a number of its own
    try:
        made.append(_bind_inet(socket.AF_INET6, "::", where))
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            made[0].close()
            raise
    return made


def _remedy(error: OSError, where: Endpoint, name: str) -> str:
    """What helps against the usual mistakes, to be put behind the error."""
    if where.kind == "unix":
        return ""
    key = _KEYS.get(name, f"listener.{name}.endpoint")
    other = f"choose another with: qmailpy config set {key} tcp:PORT"
    if error.errno == errno.EADDRINUSE:
        return f'; see what has the port with: ss -ltnp "sport = {where.port}"; or {other}'
    if error.errno == errno.EACCES:
        return f"; ports below 1024 are root's: start as root, or {other}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"; this machine does not have that address; {other}"
    return ""


class Listening:
    """All sockets of the daemon, by role and listener."""

    def __init__(self, owner: Identity | None = None) -> None:
        """@param owner: the workers' user: makes and keeps the sockets below HOME. C{None} = who we are."""
        self._owner = owner
        self._home = ""
        self._made: dict[str, dict[str, list[socket.socket]]] = {}
        self._paths: list[str] = []
        self.endpoints: dict[str, str] = {}  # by listener name, as bound

    def open(self, config: Config) -> None:
        """
        Bind everything the configuration names.

        @raise ConfigError: what cannot be bound, one line each; then nothing is left open.
        """
        self._home = config.home
        wanted = [(ROLES.get(one.kind, "mta"), one.name, one.endpoint) for one in config.listeners]
        # For the workers alone: not even the directory's user needs its name.
        if not config.directory.servers:
            wanted.append(("directory", OWN, f"unix:{SOCKET}:mode=600"))
        if config.monitor.endpoint:
            wanted.append(("mta", MONITOR, config.monitor.endpoint))
        if config.directory.endpoint and not config.directory.servers:
            wanted.append(("directory", LDAP, config.directory.endpoint))
        if config.directory.tls_endpoint and not config.directory.servers:
            wanted.append(("directory", LDAPS, config.directory.tls_endpoint))
        problems = []
        for role, name, endpoint in wanted:
            try:
                where = parse_endpoint(endpoint, config.home)
                with self._acting(where.path):
                    made = bind(where)
            except ValueError as error:
                problems.append(f"listener {name}: {error}")
            except OSError as error:
                why = f"{error.strerror or error}{_remedy(error, where, name)}"
                problems.append(f"listener {name}: cannot listen on {endpoint}: {why}")
            else:
                self._made.setdefault(role, {})[name] = made
                self.endpoints[name] = endpoint
                if where.kind == "unix":
                    self._paths.append(where.path)
        if problems:
            self.close()
            raise ConfigError(tuple(problems))

    def of(self, role: str) -> Mapping[str, Sequence[socket.socket]]:
        """The sockets for a role, by listener name."""
        return self._made.get(role, {})

    def close(self) -> None:
        """Let go of all sockets: what no child holds any more is closed to clients. UNIX paths are removed."""
        for sockets in self._made.values():
            for listening in (one for made in sockets.values() for one in made):
                listening.close()
        self._made.clear()
        for path in self._paths:
            with suppress(FileNotFoundError), self._acting(path):
                os.unlink(path)
        self._paths.clear()

    def _acting(self, path: str) -> AbstractContextManager[None]:
        """As the workers below HOME, where they could have laid a trap for root; as ourselves elsewhere."""
        return acting_as(self._owner if path.startswith(self._home + "/") else None)
