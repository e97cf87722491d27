"""
What the keys of the schema may hold beyond their type: one line a key in L{CHECKS}, for those that need one.

A check takes the value, already of the right type, and says what is wrong with it and what would be right; "" when it
is good.
Keys without a line: text is one line without control characters, numbers are finite and not negative.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from qmailpy.config import conversion_schema, schema
from qmailpy.config.endpoint import parse_endpoint
from qmailpy.config.ldapurl import parse_ldap_url

Check = Callable[[Any], str]

_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,31}")
_ATOM = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_BASE = re.compile(
    r"[A-Za-z][A-Za-z0-9-]*=[^,+=\"\\<>;#\x00-\x1f]+(?:,[A-Za-z][A-Za-z0-9-]*=[^,+=\"\\<>;#\x00-\x1f]+)*"
)

_DN = r"[A-Za-z][A-Za-z0-9.-]*=[^\x00-\x1f]+"

KINDS_OF_CHANNEL = (
    "smtp",
    "lmtp",
    "local",
    "process",
    "hold",
    "bitbucket",
    "conversion",
    "reprocess",
    "defragment",
    "pipe",
    "autoreply",
)
TLS = ("none", "may", "must", "verify", "dane")
CHECKED = ("none", "tag", "reject")
KINDS_OF_LISTENER = ("smtp", "submission", "lmtp", "pop3")


def is_domain(text: str) -> bool:
    """Whether C{text} is a host or domain name in its ASCII form (RFC 1035, RFC 1123); the case does not matter."""
    return 0 < len(text) <= 253 and all(_LABEL.fullmatch(label) for label in text.split("."))


def is_address(text: str) -> bool:
    """Whether C{text} is C{local@domain} with an ordinary (dot-atom) local part."""
    local, _, domain = text.rpartition("@")
    return len(local) <= 64 and bool(_ATOM.fullmatch(local)) and is_domain(domain)


def plain_text(value: str) -> str:
    """The check of text keys that have none of their own."""
    return "holds control characters; right would be one line of text" if not value.isprintable() else ""


def plain_number(value: float) -> str:
    """The check of number keys that have none of their own."""
    return "" if math.isfinite(value) and value >= 0 else f"{value} is out of range; right would be 0 or more"


def between(low: float, high: float | None = None) -> Check:
    """A number from C{low} to C{high}, both included."""

    def check(value: float) -> str:
        if math.isfinite(value) and value >= low and (high is None or value <= high):
            return ""
        return f"{value} is out of range; right would be {low}" + (" or more" if high is None else f" to {high}")

    return check


def either(value: float, check: Check) -> Check:
    """One number, or what a check says."""
    return lambda given: "" if given == value else check(given)


def one_of(*words: str) -> Check:
    """One word of a closed set."""

    def check(value: str) -> str:
        return (
            "" if value in words else f'"{value}" is not known; right would be ' + " or ".join(f'"{w}"' for w in words)
        )

    return check


def every(check: Check, *, empty: bool = True) -> Check:
    """Each element of a list."""

    def check_all(values: tuple[Any, ...]) -> str:
        if not values and not empty:
            return "is empty; right would be one element at least"
        return next((said for said in map(check, values) if said), "")

    return check_all


def optional(check: Check) -> Check:
    """Text that may be empty."""
    return lambda value: check(value) if value else ""


def matching(pattern: str, what: str) -> Check:
    """Text that matches a regular expression as a whole."""
    compiled = re.compile(pattern)
    return lambda value: "" if compiled.fullmatch(value) else f'"{value}" is wrong; right would be {what}'


def name(value: str) -> str:
    """A short name, safe in file names and log lines."""
    return (
        "" if _NAME.fullmatch(value) else f'"{value}" is no name; right would be at most 32 letters, digits, "_", "-"'
    )


def domain(value: str) -> str:
    return "" if is_domain(value) else f'"{value}" is no domain name; right would be as in "example.org"'


def selector(value: str) -> str:
    """Names a DKIM key, in the DNS and in a file name."""
    good = is_domain(value) and len(value) <= 63
    return "" if good else f'"{value}" is no selector; right would be letters and digits, as in "tls2026"'


def hostname(value: str) -> str:
    if not is_domain(value):
        return f'"{value}" is no host name; right would be as in "mail.example.org"'
    return f'"{value}" is an IP address; right would be a host name' if value.replace(".", "").isdigit() else ""


def address(value: str) -> str:
    return "" if is_address(value) else f'"{value}" is no mail address; right would be as in "postmaster@example.org"'


def network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        try:
            right = str(ipaddress.ip_network(value, strict=False))
        except ValueError:
            right = "10.0.0.0/8"
        return f'"{value}" is no network; right would be as in "{right}"'
    return ""


def host_port(value: str) -> str:
    """C{HOST:PORT}, the port optional; IPv6 addresses in brackets."""
    match = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?", value)
    if match and (match[2] is None or 0 < int(match[2]) < 65536):
        host = match[1]
        if host.startswith("["):
            try:
                ipaddress.IPv6Address(host[1:-1].removeprefix("IPv6:"))
            except ValueError:
                host = ""
        elif not is_domain(host):
            host = ""
        if host:
            return ""
    return f'"{value}" is no host and port; right would be as in "relay.example.org:25" or "[2001:db8::1]:25"'


def relays(value: str) -> str:
    """C{HOST:PORT} or C{unix:PATH}, several separated by commas, in the order to try."""
    return next((said for said in map(_relay, (part.strip() for part in value.split(","))) if said), "")


def _relay(value: str) -> str:
    if value.startswith("unix:"):
        good = value.isprintable() and len(value) > 5
        return "" if good else f'"{value}" is no socket; right would be as in "unix:/run/dovecot/lmtp"'
    return host_port(value)


def own_addresses(values: tuple[str, ...]) -> str:
    """Where connections come from: at most an address of each family."""
    try:
        versions = [ipaddress.ip_address(value).version for value in values]
    except ValueError as error:
        return f'{error}; right would be as in ["192.0.2.5", "2001:db8::5"]'
    if len(versions) != len(set(versions)):
        return "has several addresses of a family; right would be one for IPv4, one for IPv6"
    return ""


def server_address(value: str) -> str:
    """An IP address of a name server, with C{:PORT} or without."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        host, _, port = value.rpartition(":")
        try:
            ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
            if port.isdigit() and 0 < int(port) < 65536:
                return ""
        except ValueError:
            pass
        return f'"{value}" is no name server; right would be as in "192.0.2.53" or "127.0.0.1:5353"'
    return ""


def endpoint(value: str) -> str:
    try:
        parse_endpoint(value, "/")
    except ValueError as error:
        return str(error)
    return ""


def ldap_server(value: str) -> str:
    try:
        parse_ldap_url(value)
    except ValueError as error:
        return str(error)
    return ""


def clock(value: str) -> str:
    match = re.fullmatch(r"([0-9]{2}):([0-9]{2})", value)
    good = match and int(match[1]) < 24 and int(match[2]) < 60
    return "" if good else f'"{value}" is no time of day; right would be as in "00:00"'


def pattern(value: str) -> str:
    """What a rewrite rule matches. A star stands for a whole label, never for a part of one."""
    if value in {".", "*", "[]"} or is_domain(value.removeprefix(".")):
        return ""
    if value.startswith("[") and value.endswith("]"):
        try:
            ipaddress.ip_network(value[1:-1].removeprefix("IPv6:"))
        except ValueError:
            pass
        else:
            return ""
    labels = value.split(".")
    if "*" in labels and is_domain(".".join("x" if label == "*" else label for label in labels)):
        return ""
    return (
        f'"{value}" matches nothing; right would be "host.example", ".example" (hosts below it), "*.example" (one name '
        'for the star), "[]", "[192.0.2.0/24]", "." or "*"'
    )


def destination_pattern(value: str) -> str:
    """What a destination table is for."""
    if value == "." or is_domain(value.removeprefix(".")):
        return ""
    return f'"{value}" matches nothing; right would be "host.example", ".example" (hosts below it) or "."'


def absolute(value: str) -> str:
    """The path of a file outside of HOME."""
    return plain_text(value) or ("" if value.startswith("/") else f'"{value}" is no path from "/" on')


def next_host(value: str) -> str:
    """A next hop: a domain, a host with a port or an address literal."""
    if value.startswith("[") and value.endswith("]"):
        try:
            ipaddress.ip_address(value[1:-1].removeprefix("IPv6:"))
        except ValueError:
            pass
        else:
            return ""
    return host_port(value)


def next_hosts(value: str) -> str:
    """A next hop, or several separated by commas, in the order to try."""
    parts = [part.strip() for part in value.split(",")]
    return next((said for said in map(next_host, parts) if said), "")


def rewritten(value: str) -> str:
    """The address of a rewrite rule, with its substitutions."""
    filled = re.sub(r"\$[0-9]?[A-Za-z]", "x", value)
    if value.count("@") == 1 and is_address(filled.lstrip(".")):
        return ""
    return f'"{value}" is no address; right would be as in "$U@other.example"'


def ascending(values: tuple[float, ...]) -> str:
    """Times, each later than the one before."""
    good = all(math.isfinite(v) and v > 0 for v in values) and list(values) == sorted(set(values))
    return "" if good else "is out of order; right would be rising numbers above 0, as in [14400, 86400]"


def access_text(value: str) -> str:
    """An entry of an access rule, for whatever it is compared with."""
    if not value or value == "list:" or not value.isprintable() or value != value.strip():
        return f'"{value}" matches nothing; right would be as in "joe@example.org", ".example.org" or "list:FILE"'
    return ""


def access_client(value: str) -> str:
    """The same for clients."""
    if value == "*":
        return ""
    return access_text(value) if value.startswith("list:") else network(value)


def reply_text(value: str) -> str:
    """What we say to a client: it must fit into a reply (RFC 5321 s.4.5.3.1.5)."""
    if not value.isprintable() or not value.isascii() or len(value) > 400:
        return "is no text for a reply; right would be a line of at most 400 ASCII characters"
    return ""


def glob(value: str) -> str:
    """A pattern as file names have it."""
    if not value or len(value) > 200:
        return 'is empty or too long; right would be as in "*.example"'
    return plain_text(value)


def program(values: tuple[str, ...]) -> str:
    """A program and its arguments."""
    if values and not values[0].startswith("/"):
        return f'"{values[0]}" is no path from "/" on; right would be as in ["/usr/bin/scan", "$INPUT_FILE"]'
    return next((said for said in map(plain_text, values) if said), "")


def text(value: str) -> str:
    """Text of several lines."""
    bad = [character for character in value if not character.isprintable() and character not in "\n\t"]
    return "holds control characters; right would be text" if bad else ""


def media_type(value: str) -> str:
    """A type that a part may get."""
    if re.fullmatch(r"(text|image|audio|video|font|model|application)/[A-Za-z0-9!#$&^_.+-]+", value):
        return ""
    return f'"{value}" is no type a part may get; right would be as in "application/pdf"'


seconds = between(0.1)
count = between(1)

CHECKS: Mapping[type, Mapping[str, Check]] = {
    schema.ServerConfig: {
        "hostname": hostname,
        "domain": optional(domain),
        "user": matching(r"[a-z0-9_][a-z0-9_.-]{0,31}", "the name of a system user"),
        "group": matching(r"[a-z0-9_][a-z0-9_.-]{0,31}", "the name of a system group"),
        "directory_user": optional(matching(r"[a-z0-9_][a-z0-9_.-]{0,31}", "the name of a system user")),
        "workers": between(0, 256),
        "postmaster": optional(address),
        "names": every(host_port),
        "store_channel": optional(name),
        "drain_s": between(0.1, 3600),
    },
    schema.QueueConfig: {
        "segment_octets": between(1 << 20, 1 << 30),
        "segments": between(2, 1024),
        "spill_octets": between(4096, 1 << 28),
        "roll_s": seconds,
        "lifetime_s": between(60),
        "warn_s": ascending,
        "message_octets": between(65536, 1 << 31),
        "recipients": between(100, 1_000_000),  # RFC 5321 s.4.5.3.1.8: 100 at least
        "received": between(10, 1000),
    },
    schema.BounceConfig: {"language": one_of("en", "zh", "both")},
    schema.LocalConfig: {
        "disabled": one_of("reject", "defer"),
        "quota_warn": between(0, 1),
        "program_s": between(0.1, 86400),
        "program_memory_octets": between(16 << 20),
        "program_file_octets": between(1024),
    },
    schema.ForwardConfig: {"domain": optional(domain), "srs_days": between(1, 365)},
    schema.LogConfig: {
        "roll": optional(clock),
        "index_days": between(1, 36500),
        "index_s": between(0, 86400),
        "compress": optional(one_of("zstd", "gzip")),
        "keep_days": between(0, 36500),
    },
    schema.ListenerConfig: {
        "name": name,
        "kind": one_of(*KINDS_OF_LISTENER),
        "endpoint": endpoint,
        "tls": one_of("starttls", "implicit", "none"),
        "auth": optional(one_of("none", "offered", "required")),
        "proxy": every(network),
        "connections": count,
        "connections_per_client": count,
        "command_timeout_s": seconds,
        "data_timeout_s": seconds,
        "errors": count,
        "messages": count,
        "bare_lf": one_of("refuse", "normalise"),
        "etrn": every(destination_pattern),
        "xclient": every(network),
        "client_certificates": one_of("none", "ask", "require"),
        "hold_s": between(0, 999_999_999),  # RFC 4865 s.4: nine digits
    },
    schema.ChannelConfig: {
        "name": name,
        "kind": one_of(*KINDS_OF_CHANNEL),
        "concurrency": between(1, 10000),
        "destination_concurrency": between(1, 10000),
        "backoff": every(between(1)),
        "quadratic_s": seconds,
        "jitter": between(0, 1),
        "recipients_per_job": between(1, 100000),
        "relay": optional(relays),
        "relay_order": one_of("given", "random"),
        "linelimit": either(0, between(78, 1 << 20)),
        "maxreceived": between(0, 1000),
        "logging": one_of("full", "brief"),
        "notices": ascending,
        "expandchannel": optional(name),
        "source_address": own_addresses,
        "helo": optional(hostname),
        "port": between(1, 65535),
        "tls": one_of(*TLS),
        "tls_ca_file": absolute,
        "messages_per_connection": count,
        "connect_timeout_s": seconds,
        "greeting_timeout_s": seconds,
        "command_timeout_s": seconds,
        "data_timeout_s": seconds,
        "command": program,
        "run_s": between(0.1, 86400),
        "run_memory_octets": between(16 << 20),
        "run_file_octets": between(1024),
    },
    schema.DestinationConfig: {
        "pattern": destination_pattern,
        "tls": optional(one_of(*TLS)),
        "port": between(0, 65535),
        "concurrency": between(0, 10000),
        "source_address": own_addresses,
        "helo": optional(hostname),
    },
    conversion_schema.ConversionConfig: {"sender": every(glob), "recipient_domain": optional(destination_pattern)},
    conversion_schema.EntryConfig: {
        "action": one_of(*conversion_schema.ACTIONS),
        "sender": every(glob),
        "recipient": every(glob),
        "type": every(matching(r"[A-Za-z0-9*?.+_-]+/[A-Za-z0-9*?.+_-]+", 'as in "application/pdf" or "image/*"')),
        "file": every(glob),
        "disposition": optional(one_of("attachment", "inline")),
        "command": program,
        "timeout_s": between(0.1, 3600),
        "memory_octets": between(16 << 20),
        "output_octets": between(1024),
        "out_type": optional(media_type),
        "out_disposition": optional(one_of("attachment", "inline")),
        "text": text,
        "html": text,
        "address": optional(address),
    },
    conversion_schema.StructureConfig: {
        "depth": between(1, 1000),
        "parts": between(1, 100_000),
        "header_octets": between(4096, 1 << 24),
        "part_octets": between(1024, 1 << 26),
        "broken": one_of("pass", "hold"),
    },
    schema.RuleConfig: {
        "pattern": pattern,
        "host": optional(next_hosts),
        "address": optional(rewritten),
        "sender": every(glob),
        "user": every(glob),
        "direction": one_of("to", "from"),
    },
    schema.DirectoryConfig: {
        "endpoint": optional(endpoint),
        "tls_endpoint": optional(endpoint),
        "base": matching(_BASE.pattern, 'a distinguished name, as in "o=qmailpy"'),
        "cache_entries": count,
        "timeout_s": seconds,
        "servers": every(ldap_server),
        "bind_dn": optional(matching(_DN, 'a distinguished name, as in "cn=service,o=qmailpy"')),
        "admin_dn": optional(matching(_DN, 'a distinguished name, as in "cn=admin,o=qmailpy"')),
        "starttls": one_of("none", "must", "verify"),
        "ca_file": absolute,
        "logins": one_of("bind", "compare"),
    },
    schema.DnsConfig: {"servers": every(server_address), "timeout_s": seconds},
    schema.MtaStsConfig: {"ca_file": absolute},
    schema.Pop3Config: {
        "port": between(1, 65535),
        "tls": one_of("none", "must", "verify"),
        "ca_file": absolute,
        "timeout_s": seconds,
    },
    schema.TlsrptConfig: {
        "contact": optional(address),
        "dkim_selector": optional(selector),
        "dkim_domain": optional(domain),
    },
    schema.MonitorConfig: {"endpoint": optional(endpoint), "interval_s": between(1, 86400)},
    schema.EventsConfig: {
        "command": program,
        "severity": one_of("notice", "warning", "critical"),
        "timeout_s": between(0.1, 3600),
        "waiting": between(1, 10000),
    },
    schema.TrustConfig: {"networks": every(network)},
    schema.LimitsConfig: {"ipv4_network": between(1, 32), "ipv6_network": between(1, 128)},
    schema.ChecksConfig: {
        "greet_delay_s": between(0, 60),
        "early_talkers": one_of(*CHECKED),
        "pipelining": one_of(*CHECKED),
        "helo_syntax": one_of(*CHECKED),
        "helo_ours": one_of(*CHECKED),
        "helo_literal": one_of(*CHECKED),
        "reverse_name": one_of("none", "exists", "confirmed"),
        "reverse_action": one_of("tag", "reject"),
        "sender_domain": one_of(*CHECKED),
        "lists_action": one_of("tag", "reject"),
        "dns_timeout_s": between(0.1, 60),
    },
    schema.DnsListConfig: {
        "zone": domain,
        "weight": between(-1000, 1000),
        "answers": every(network),
    },
    schema.GreylistConfig: {
        "delay_s": between(1, 86400),
        "retry_s": between(60),
        "lifetime_s": between(60),
        "entries": between(100, 100_000_000),
    },
    schema.AccessConfig: {
        "action": one_of("accept", "reject", "defer", "discard", "hold", "tag"),
        "client": every(access_client),
        "text": reply_text,
        "code": optional(matching(r"[45]\.[0-9]{1,3}\.[0-9]{1,3}", 'an enhanced code (RFC 3463), as in "5.7.1"')),
        "tag": optional(name),
        **{
            key: every(access_text)
            for key in ("listener", "helo", "user", "source", "sender", "destination", "recipient", "named", "tagged")
        },
    },
}
