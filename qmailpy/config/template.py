"""
The commented template that homes are made from: C{qmailpy.toml} beside this module, also seen as etc/qmailpy.toml.

It is a working configuration as it stands, with every key at its default; L{home_text} fills in what a home of its own
has.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from attrs import frozen

from qmailpy.config.edit import changed

UNPRIVILEGED = 10000
"""Added to a standard port for a daemon without root (contract: smtp 10025, ldap 10389...)."""


@frozen(kw_only=True)
class HomeChoices:
    """What C{qmailpy init} was asked for."""

    hostname: str
    domain: str
    user: str = "qmailpy"
    group: str = "qmailpy"
    directory_user: str = "qmailpy-dir"
    unprivileged: bool = False  # everything on 127.0.0.1, at the standard ports + L{UNPRIVILEGED}
    relay: str = ""  # HOST:PORT for all outbound mail; "" = by MX
    trust: Sequence[str] = ()  # networks; empty = the template's


def template_text() -> str:
    """The template as it is shipped."""
    return files("qmailpy.config").joinpath("qmailpy.toml").read_text("utf-8")


@cache
def _restarts() -> frozenset[str]:
    """Keys whose remark in the template says "Restart.", as C{server.workers}; of listeners C{listener.endpoint}."""
    found = {"listener.endpoint", "listener.name"}  # which their remark tells in more words
    table = ""
    remark: list[str] = []
    for line in template_text().splitlines():
        if header := re.match(r"\[+([a-z_.]+)\]+$", line):
            table = header[1]
        elif line.startswith("#"):
            remark.append(line)
        elif not line:
            remark = []
        elif (key := re.match(r"(\w+) =", line)) and " Restart." in " ".join(remark):
            found.add(f"{table}.{key[1]}")
    return frozenset(found)


def needs_restart(key: str) -> bool:
    """Whether a running daemon goes on with the old value of a key, a reload or not: what the template says of it."""
    parts = key.split(".")
    return ".".join([parts[0], parts[-1]]) in _restarts()


def home_text(choices: HomeChoices) -> str:
    """
    The configuration text of a new home.

    @raise ConfigError: a choice is not what its key takes.
    """
    values: dict[str, object] = {
        "server.hostname": choices.hostname,
        "server.domain": choices.domain,
        "server.user": choices.user,
        "server.group": choices.group,
        "server.directory_user": choices.directory_user,
    }
    if choices.relay:
        values["channel.tcp_local.relay"] = choices.relay
    if choices.trust:
        values["trust.networks"] = list(choices.trust)
    if choices.unprivileged:
        for name, port in (
            ("smtp", 25),
            ("submissions", 465),
            ("submission", 587),
            ("lmtp", 24),
            ("pop3s", 995),
            ("pop3", 110),
        ):
            values[f"listener.{name}.endpoint"] = f"tcp:{UNPRIVILEGED + port}:interface=127.0.0.1"
        values["directory.endpoint"] = f"tcp:{UNPRIVILEGED + 389}:interface=127.0.0.1"
    return changed(template_text(), values)
