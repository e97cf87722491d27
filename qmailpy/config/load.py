"""
From HOME/etc/qmailpy.toml to a L{Config}: reads the file, and otherwise pure.

All problems are found in one go. What keys there are, their types and defaults come from L{qmailpy.config.schema};
what their values may be from L{qmailpy.config.checks}; what must fit together from L{_relations} here.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from typing import Any

import attrs

from qmailpy.config import conversions
from qmailpy.config.checks import CHECKS
from qmailpy.config.conversion_schema import ConversionConfig
from qmailpy.config.endpoint import Endpoint, parse_endpoint
from qmailpy.config.locate import Path
from qmailpy.config.problems import Problem, Reader, nearest
from qmailpy.config.relations import access, keywords, limits, logins, rewriting
from qmailpy.config.schema import (
    ACCESS_KEYS,
    AccessConfig,
    BounceConfig,
    ChannelConfig,
    ChecksConfig,
    Config,
    DestinationConfig,
    DirectoryConfig,
    DnsConfig,
    DnsListConfig,
    EventsConfig,
    ForwardConfig,
    GreylistConfig,
    LimitsConfig,
    ListenerConfig,
    LocalConfig,
    LogConfig,
    MonitorConfig,
    MtaStsConfig,
    Pop3Config,
    QueueConfig,
    RuleConfig,
    ServerConfig,
    TlsrptConfig,
    TrustConfig,
)
from qmailpy.config.tables import array, is_array, table
from qmailpy.errors import ConfigError

DEFAULT_HOME = "/var/lib/qmailpy"
DEFAULT_ETC = "/etc/qmailpy"
FILE_NAME = "qmailpy.toml"
MAX_OCTETS = 4 * 1024 * 1024
"""Largest configuration that is read; a real one has 10 KiB."""

TABLES: Mapping[str, type] = {
    "server": ServerConfig,
    "queue": QueueConfig,
    "bounce": BounceConfig,
    "local": LocalConfig,
    "forward": ForwardConfig,
    "log": LogConfig,
    "directory": DirectoryConfig,
    "dns": DnsConfig,
    "mta_sts": MtaStsConfig,
    "pop3": Pop3Config,
    "tlsrpt": TlsrptConfig,
    "monitor": MonitorConfig,
    "events": EventsConfig,
    "trust": TrustConfig,
    "limits": LimitsConfig,
    "checks": ChecksConfig,
    "greylist": GreylistConfig,
}
"""Tables there is one of; each is optional but [server]."""

ARRAYS: Mapping[str, type] = {
    "listener": ListenerConfig,
    "rewrite": RuleConfig,
    "destination": DestinationConfig,
    "dnslist": DnsListConfig,
    **dict.fromkeys(ACCESS_KEYS, AccessConfig),
    "conversion": ConversionConfig,
}
"""Arrays of tables."""


def config_path(home: str) -> str:
    """The configuration file of a home: HOME/etc/qmailpy.toml, for the default home without etc/ the one in /etc."""
    if os.path.abspath(home) == DEFAULT_HOME and not os.path.isdir(os.path.join(home, "etc")):
        return os.path.join(DEFAULT_ETC, FILE_NAME)
    return os.path.join(home, "etc", FILE_NAME)


def load(home: str) -> Config:
    """
    The configuration of a home.

    Called by the daemon at its start and on SIGHUP, and by commands.

    @param home: HOME, absolute or relative to the current directory.
    @raise ConfigError: it cannot be used; names every problem.
    """
    home = os.path.abspath(home)
    path = config_path(home)
    try:
        with open(path, "rb") as source:
            octets = source.read(MAX_OCTETS + 1)
    except FileNotFoundError:
        remedy = f"make a home with: qmailpy init {home} --hostname NAME --domain NAME (or name yours with --home)"
        raise ConfigError((f"{path}: there is no such file; {remedy}",)) from None
    except OSError as error:
        remedy = "; run this as root or as the server's user" if isinstance(error, PermissionError) else ""
        raise ConfigError((f"{path}: cannot be read: {error.strerror or error}{remedy}",)) from None
    if len(octets) > MAX_OCTETS:
        raise ConfigError((f"{path}: is larger than {MAX_OCTETS} octets",))
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        raise ConfigError((f"{path}:{line}: is not UTF-8; right would be text saved as UTF-8",)) from None
    config, problems = examine(text, path, home)
    if config is not None and any(channel.kind == "conversion" for channel in config.channels.values()):
        found, problems = conversions.load(os.path.dirname(path), config.channels)
        config = attrs.evolve(config, conversions=found)
    if config is None or problems:
        raise ConfigError(tuple(str(problem) for problem in problems))
    return config


def parse(text: str, file: str, home: str) -> Config:
    """
    The configuration a text stands for.

    @param text: TOML.
    @param file: the name problems are told with.
    @param home: absolute path of HOME, which relative paths in the text are relative to.
    @raise ConfigError: as L{load}.
    """
    config, problems = examine(text, file, home)
    if config is None:
        raise ConfigError(tuple(str(problem) for problem in problems))
    return config


def examine(text: str, file: str, home: str) -> tuple[Config | None, list[Problem]]:
    """As L{parse}, with the problems as values; C{None} when there are some."""
    try:
        tree = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        return None, [_syntax_problem(file, error)]
    reader = Reader(file, text)
    config = _build(reader, tree, home)
    reader.problems.sort(key=lambda problem: problem.line)  # stable: as found within a line
    return (None if reader.problems else config), reader.problems


def _syntax_problem(file: str, error: Exception) -> Problem:
    """What tomllib said, with its "(at line 3, column 5)" moved to where our lines have it."""
    said = str(error)
    match = re.search(r" \(at line (\d+), column (\d+)\)$", said)
    line = int(match[1]) if match else 0
    text = said[: match.start()] + f" in column {match[2]}" if match else said.removesuffix(" (at end of document)")
    return Problem(file=file, line=line, where="", text=f"is no TOML: {text}; see https://toml.io/en/v1.0.0")


def _build(reader: Reader, tree: Mapping[str, Any], home: str) -> Config | None:
    """The whole of it; C{None} or something incomplete when there are problems."""
    known = {*TABLES, *ARRAYS, "channel"}
    for key in tree:
        if key not in known:
            what = f"[{key}]" if isinstance(tree[key], dict) else f"[[{key}]]" if is_array(tree[key]) else f"key {key}"
            reader.add((key,), "", f"{what} is not known{nearest(key, known)}")
    if "server" not in tree:
        reader.add((), "", '[server] is missing; right would be a table with hostname = "mail.example.org"')
    tables = {key: table(reader, shape, (key,), tree.get(key, {})) for key, shape in TABLES.items()}
    channels = _channels(reader, tree.get("channel", {}))
    arrays: dict[str, list[Any]] = {key: array(reader, shape, key, tree.get(key, [])) for key, shape in ARRAYS.items()}
    _servers(reader, tables["directory"])
    if (pop3 := tables["pop3"]) is not None:
        for key, other in (("node_user", "node_password_file"), ("node_password_file", "node_user")):
            if getattr(pop3, key) and not getattr(pop3, other):
                reader.add(("pop3",), key, f"is nothing without {other}")
    _relations(reader, tree, channels, arrays["listener"], tables["queue"], home)
    dns = tables["dns"]
    if dns is not None and dns.trusted and not dns.servers:
        text = 'is nothing without servers, which it is about; right would be as in servers = ["127.0.0.1"]'
        reader.add(("dns",), "trusted", text)
    access(reader, tree, arrays)
    if dns is not None and not dns.trusted:
        places: list[tuple[Path, Any]] = [(("channel", name), channel) for name, channel in channels.items()]
        places += [(("destination", number), one) for number, one in enumerate(arrays["destination"])]
        for path, place in places:
            if place.tls == "dane":
                reader.add(path, "tls", 'is "dane", which needs a resolver that validates: [dns] trusted = true')
    if reader.problems:
        return None
    listeners = tuple(
        attrs.evolve(listener, endpoint=str(parse_endpoint(listener.endpoint, home))) for listener in arrays["listener"]
    )
    directory = tables.pop("directory")
    tables.update((key, tuple(arrays[key])) for key in ACCESS_KEYS)
    for key in ("endpoint", "tls_endpoint"):
        if getattr(directory, key):
            directory = attrs.evolve(directory, **{key: str(parse_endpoint(getattr(directory, key), home))})
    return Config(
        home=home,
        directory=directory,
        listeners=listeners,
        channels=channels,
        rules=tuple(arrays["rewrite"]),
        destinations=tuple(arrays["destination"]),
        dnslists=tuple(arrays["dnslist"]),
        selections=tuple(arrays["conversion"]),
        **tables,
    )


def _channels(reader: Reader, found: object) -> dict[str, ChannelConfig]:
    """The tables [channel.NAME]."""
    if not isinstance(found, dict):
        reader.add(("channel",), "", "is no table; right would be [channel.NAME] tables")
        return {}
    channels = {}
    for name, values in found.items():
        said = CHECKS[ChannelConfig]["name"](name)
        if said:
            reader.add(("channel", name), "", said)
        elif isinstance(values, dict) and "name" in values:
            reader.add(("channel", name), "name", "is not known; the name of a channel stands in the head of its table")
        else:
            channel = table(reader, ChannelConfig, ("channel", name), keywords(reader, name, values), name=name)
            if channel is not None:
                channels[name] = channel
    return channels


def _relations(
    reader: Reader,
    tree: Mapping[str, Any],
    channels: Mapping[str, ChannelConfig],
    listeners: list[ListenerConfig],
    queue: QueueConfig | None,
    home: str,
) -> None:
    """What must fit together: names that stand for something else, things there may be only one of."""
    written = tree.get("channel")
    names = list(written) if isinstance(written, dict) else list(channels)  # also those with problems of their own
    raw_listeners = tree.get("listener", [])
    for key, fields in (
        ("listener", ("channel",)),
        ("rewrite", ("channel", "source")),
        ("destination", ("channel",)),
        ("conversion", ("source", "destination", "channel")),
    ):
        raw = tree.get(key, [])
        for number, element in enumerate(raw if is_array(raw) else []):
            for field in fields:
                value = element.get(field)
                if isinstance(value, str) and value and value not in names:
                    text = f'there is no channel "{value}"{nearest(value, names)}'
                    called = element.get("name")
                    reader.add((key, number), field, text, called if isinstance(called, str) else "")
                elif value == "" and field == "channel" and key == "listener":
                    reader.add((key, number), field, f"is empty{nearest('', names)}")
    rewriting(reader, tree, names)
    logins(reader, tree)
    limits(reader, channels, names, queue)
    _duplicates(reader, raw_listeners, listeners, home)
    _selections(reader, tree, channels)
    kinds = {channel.kind for channel in channels.values()}
    for kind, why in (("process", "notices to senders"), ("local", "mail for users of the directory")):
        if isinstance(tree.get("channel", {}), dict) and len(channels) == len(names) and kind not in kinds:
            text = f'there is no channel of kind "{kind}", which {why} need; right would be [channel.{kind}]'
            reader.add(("channel",), "", f'{text} with kind = "{kind}"')
    server = tree.get("server")
    said = server.get("store_channel") if isinstance(server, dict) else None
    store = said if isinstance(said, str) else ServerConfig.__attrs_attrs__.store_channel.default
    if said and isinstance(said, str) and said in channels and channels[said].kind != "lmtp":
        text = f'channel "{said}" is not of kind "lmtp"; right would be one that is'
        reader.add(("server",), "store_channel", text)
    elif said and isinstance(said, str) and said not in names and said != "tcp_lmtp":
        reader.add(("server",), "store_channel", f'there is no channel "{said}"{nearest(said, names)}')
    for number, listener in enumerate(listeners):
        if listener.client_certificates != "none":
            said = ""
            if listener.kind == "pop3" or listener.tls == "none":
                said = "is nothing for pop3, and nothing without TLS"
            elif not (listener.client_ca_file or listener.client_map_file):
                said = "needs client_ca_file or client_map_file: somebody must say whose certificates count"
            if said:
                reader.add(("listener", number), "client_certificates", said, listener.name)
    for name, channel in channels.items():
        for key, other in (("relay_user", "relay_password_file"), ("relay_password_file", "relay_user")):
            if getattr(channel, key) and not getattr(channel, other):
                reader.add(("channel", name), key, f"is nothing without {other}")
        if channel.kind == "lmtp" and not channel.relay and name != store:  # the directory names the hosts of that one
            text = 'has no relay, which kind "lmtp" needs; right would be as in relay = "store.example.org:24"'
            reader.add(("channel", name), "", text)
        if channel.kind == "pipe" and not channel.command:
            text = 'has no command, which kind "pipe" needs; right would be as in command = ["/usr/bin/gate", "$LOCAL"]'
            reader.add(("channel", name), "", text)
        if channel.relay_user and not channel.relay:
            reader.add(("channel", name), "relay_user", "is nothing without relay")
    if queue is not None and queue.spill_octets * 4 > queue.segment_octets:
        right = queue.segment_octets // 4
        reader.add(
            ("queue",), "spill_octets", f"is more than a quarter of segment_octets; right would be at most {right}"
        )


def _servers(reader: Reader, directory: DirectoryConfig | None) -> None:
    """External LDAP servers need somebody to bind as, and whoever binds needs a password."""
    if directory is None:
        return
    if directory.servers and not directory.bind_dn:
        reader.add(("directory",), "servers", 'is nothing without bind_dn; right would be as in "cn=service,o=qmailpy"')
    for who in ("bind", "admin"):
        for key, other in ((f"{who}_dn", f"{who}_password_file"), (f"{who}_password_file", f"{who}_dn")):
            if getattr(directory, key) and not getattr(directory, other):
                reader.add(("directory",), key, f"is nothing without {other}")


def _selections(reader: Reader, tree: Mapping[str, Any], channels: Mapping[str, ChannelConfig]) -> None:
    """Mail that is to be converted needs a channel that does."""
    raw = tree.get("conversion", [])
    converting = [name for name, channel in channels.items() if channel.kind == "conversion"]
    gathering = [name for name, channel in channels.items() if channel.kind == "defragment"]
    for number, element in enumerate(raw if is_array(raw) else []):
        name = element.get("channel")
        if not converting and name not in gathering:
            text = 'needs a channel of kind "conversion"; right would be [channel.conversion] with kind = "conversion"'
            reader.add(("conversion", number), "", text)
        elif isinstance(name, str) and name in channels and name not in [*converting, *gathering]:
            text = f'"{name}" is of kind "{channels[name].kind}"; right would be "{converting[0]}"'
            reader.add(("conversion", number), "channel", text)


def _duplicates(reader: Reader, raw: object, listeners: list[ListenerConfig], home: str) -> None:
    """Listeners of one name, and two that want the same socket."""
    names: dict[str, int] = {}
    places: dict[tuple[str, int], list[tuple[str, Endpoint]]] = {}  # by path and port
    for number, element in enumerate(raw if isinstance(raw, list) and is_array(raw) else []):
        name = element.get("name")
        if not isinstance(name, str):
            continue
        if name in names:
            text = f'"{name}" is also the name of [[listener]] {names[name] + 1}; right would be a name of its own'
            reader.add(("listener", number), "name", text, name)
        names.setdefault(name, number)
        if not any(listener.name == name and listener.endpoint == element.get("endpoint") for listener in listeners):
            continue  # its endpoint is among the problems already
        endpoint = parse_endpoint(element["endpoint"], home)
        place = (endpoint.path, endpoint.port)
        for other, taken in places.get(place, []):
            same = taken.interface == endpoint.interface or not taken.interface or not endpoint.interface
            if same and place != ("", 0):
                text = f'is where "{other}" listens already; right would be another port or interface'
                reader.add(("listener", number), "endpoint", text, name)
                break
        places.setdefault(place, []).append((name, endpoint))
