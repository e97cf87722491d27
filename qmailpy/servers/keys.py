"""
The certificates and keys of a home as files, and as what the supervisor hands to those who may not read the files.

    HOME/tls/cert.pem, key.pem          the server's own
    HOME/tls/NAME/cert.pem, key.pem     further ones
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from qmailpy.errors import ConfigError

OWN = ""
"""The name of the pair in HOME/tls itself."""

MOST_OCTETS = 1 << 20
MOST_PAIRS = 10000


@frozen(kw_only=True)
class Pair:
    """A certificate, with its chain behind it, and its key: PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


def thd_read_pairs(home: str) -> dict[str, Pair]:
    """
    The pairs of a home by name, L{OWN} for the server's own. Blocks.

    @raise ConfigError: one cannot be read; names every problem.
    """
    top = tls_path(home)
    problems: list[str] = []
    found: dict[str, Pair] = {}
    try:
        names = sorted(name for name in os.listdir(top) if os.path.isdir(os.path.join(top, name)))[:MOST_PAIRS]
    except OSError as error:
        raise ConfigError((f"{top}: cannot be read: {error.strerror or error}",)) from None
    for name in (OWN, *names):
        files = [os.path.join(top, name, each) if name else os.path.join(top, each) for each in ("cert.pem", "key.pem")]
        octets = []
        for path in files:
            try:
                with open(path, "rb") as source:
                    octets.append(source.read(MOST_OCTETS))
            except OSError as error:
                problems.append(f"{path}: cannot be read: {error.strerror or error}")
        if len(octets) == 2:
            found[name] = Pair(certificate=octets[0], key=octets[1])
    if problems:
        raise ConfigError(tuple(problems))
    return found


def tls_path(home: str) -> str:
    """Where the certificates and keys of a home are."""
    return os.path.join(home, "tls")


def thd_handed(home: str) -> dict[str, Any]:
    """What L{thd_read_pairs} finds, problems included, as JSON values. Blocks."""
    try:
        pairs = thd_read_pairs(home)
    except ConfigError as error:
        return {"problems": [*error.problems]}
    found = {name: (pair.certificate, pair.key) for name, pair in pairs.items()}
    return {"pairs": {name: [octets.decode("latin-1") for octets in both] for name, both in found.items()}}


def pairs_of(handed: Mapping[str, Any]) -> dict[str, Pair]:
    """
    What L{thd_handed} had found.

    @raise ConfigError: as L{thd_read_pairs}.
    """
    if "pairs" not in handed:
        raise ConfigError(tuple(handed.get("problems", ())))
    return {
        name: Pair(certificate=certificate.encode("latin-1"), key=key.encode("latin-1"))
        for name, (certificate, key) in handed["pairs"].items()
    }
