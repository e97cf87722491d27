"""
Endpoint descriptions, as C{tcp:25:interface=127.0.0.1}: the part of Twisted's string form that listeners use.

Twisted's own parser needs a reactor and takes 100 ms to import; this one is for checking, for commands and for whoever
binds the sockets. C{tcp:PORT} without an interface means every address of both families, C{tcp6:PORT} those of IPv6.
"""

from __future__ import annotations

import ipaddress

from attrs import frozen


@frozen(kw_only=True)
class Endpoint:
    """Where something listens: a TCP port or a UNIX socket."""

    kind: str  # "tcp", "tcp6" or "unix"
    port: int = 0  # 0 = any free one (tests)
    interface: str = ""  # an IPv4 or IPv6 address; "" = all, both families
    path: str = ""  # of a UNIX socket, absolute
    mode: int = 0o666  # of a UNIX socket
    backlog: int = 0  # 0 = the daemon's choice

    def __str__(self) -> str:
        parts = [self.kind, quote(self.path) if self.kind == "unix" else str(self.port)]
        if self.interface:
            parts.append("interface=" + quote(self.interface))
        if self.kind == "unix" and self.mode != 0o666:
            parts.append(f"mode={self.mode:o}")
        if self.backlog:
            parts.append(f"backlog={self.backlog}")
        return ":".join(parts)


_OPTIONS = {"tcp": ("interface", "backlog"), "tcp6": ("interface", "backlog"), "unix": ("mode", "backlog")}


def quote(value: str) -> str:
    """C{value} with what has a meaning in a description escaped."""
    return value.replace("\\", "\\\\").replace(":", "\\:").replace("=", "\\=")


def _split(description: str) -> list[tuple[str, str]]:
    """(name, value) of each part; the name is "" for parts without C{=}."""
    parts: list[tuple[str, str]] = []
    name, word = "", ""
    escaped = False
    for character in description:
        if escaped:
            word += character
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == "=" and not name:
            name, word = word, ""
        elif character == ":":
            parts.append((name, word))
            name, word = "", ""
        else:
            word += character
    parts.append((name, word))
    return parts


def _number(name: str, text: str, low: int, high: int, base: int = 10) -> int:
    try:
        number = int(text, base)
    except ValueError:
        number = low - 1
    if not (low <= number <= high and text.isascii() and text.isalnum()):
        span = f"{low} to {high}" if base == 10 else f"{low:o} to {high:o} (octal)"
        raise ValueError(f'{name} "{text}" is not a number from {span}')
    return number


def parse_endpoint(description: str, home: str) -> Endpoint:
    """
    Read an endpoint description.

    @param description: C{tcp:PORT[:interface=ADDRESS][:backlog=N]} (or C{tcp6:}), or
        C{unix:PATH[:mode=OCTAL][:backlog=N]}.
    @param home: what a relative C{PATH} is relative to.
    @raise ValueError: it is none; the text says what is wrong and what would be right.
    """
    if len(description) > 512:
        raise ValueError("is longer than 512 characters")
    kind, *rest = _split(description)
    allowed = _OPTIONS.get(kind[1])
    if kind[0] or allowed is None:
        raise ValueError(
            f'"{description}" is no endpoint; right would be "tcp:25", "tcp:10025:interface=127.0.0.1" '
            'or "unix:run/inject.sock"'
        )
    place = rest[0][1] if rest and not rest[0][0] else ""
    if not place:
        raise ValueError(f'"{description}" lacks its {"path" if kind[1] == "unix" else "port"}; as in "tcp:25"')
    options: dict[str, str] = {}
    for name, value in rest[1:]:
        if name not in allowed or name in options:
            hint = " (a colon inside an IPv6 address is written \\\\: in the file)" if not name else ""
            raise ValueError(f'"{name or value}" is no option of {kind[1]}:; known are {", ".join(allowed)}{hint}')
        options[name] = value
    backlog = _number("backlog", options["backlog"], 1, 65535) if "backlog" in options else 0
    if kind[1] == "unix":
        path = place if place.startswith("/") else f"{home}/{place}"
        if not path.isprintable() or not 0 < len(path.rpartition("/")[2].encode()) <= 64:
            raise ValueError(f'"{place}" is no path of a socket; right would be as in "unix:run/inject.sock"')
        mode = _number("mode", options.get("mode", "666"), 0, 0o777, 8)
        return Endpoint(kind="unix", path=path, mode=mode, backlog=backlog)
    interface = options.get("interface", "")
    if interface:
        try:
            interface = str(ipaddress.ip_address(interface))
        except ValueError:
            raise ValueError(f'interface "{interface}" is no IP address; as in "interface=127.0.0.1"') from None
    if kind[1] == "tcp6" and interface and ":" not in interface:
        raise ValueError(f'interface "{interface}" is no IPv6 address, which tcp6: needs')
    return Endpoint(kind=kind[1], port=_number("port", place, 0, 65535), interface=interface, backlog=backlog)
