"""
What supervisor and children say to each other, as octets.

Down goes the configuration the supervisor has accepted, so that a child restarted after a bad edit still gets the good
one. A message is a JSON object with its length in four octets (big-endian) in front::

    down  {"do": "start", ...}     once, first            up  {"say": "ready"}          open for business
          {"do": "reload", "config": ...}                     {"say": "reloaded"}
          {"do": "reopen"}         log files were rolled      {"say": "refused", "why": TEXT}
          {"do": "ping"}           alive?                     {"say": "pong"}
          {"do": "flush", "what": [TEXT...]}                  {"say": "changed", "what": [TEXT...]}
                                                              {"say": "reload"}, {"say": "stop"}  asked for by a person

What the directory says has C{changed} (addresses, domains, "" for everything) the mail workers are told to C{flush}
from their caches.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping
from typing import Any

import attrs

from qmailpy.config.schema import Config

DOWN_LIMIT = 16 * 1024 * 1024
UP_LIMIT = 64 * 1024

Message = dict[str, Any]


def encode(config: Config) -> dict[str, Any]:
    """The configuration as JSON values."""
    return attrs.asdict(config)


def _value(kind: Any, value: Any) -> Any:
    if attrs.has(kind):
        known = typing.get_type_hints(kind)
        return kind(**{name: _value(known[name], part) for name, part in value.items() if name in known})
    origin = typing.get_origin(kind)
    if origin is tuple:
        return tuple(_value(typing.get_args(kind)[0], part) for part in value)
    if origin is Mapping:
        return {name: _value(typing.get_args(kind)[1], part) for name, part in value.items()}
    return float(value) if kind is float else value


def decode(values: dict[str, Any]) -> Config:
    """
    The other way round. Keys unknown here are left out and absent ones have their default: supervisor and child may be
    of two versions while an upgrade is under way.
    """
    config: Config = _value(Config, values)
    return config


def pack(message: Message) -> bytes:
    """The octets of a message."""
    octets = json.dumps(message).encode()
    return len(octets).to_bytes(4, "big") + octets


class Unpacker:
    """Octets in as they arrive, messages out."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, octets: bytes) -> list[Message]:
        """
        The messages that are complete with these octets.

        @raise ValueError: longer than the limit or no JSON object; the stream cannot be used any further.
        """
        self._buffer += octets
        done = []
        at = 0
        while len(self._buffer) - at >= 4:
            length = int.from_bytes(self._buffer[at : at + 4], "big")
            if length > self._limit:
                raise ValueError(f"a message of {length} octets")
            if len(self._buffer) - at - 4 < length:
                break
            message = json.loads(self._buffer[at + 4 : at + 4 + length])
            if not isinstance(message, dict):
                raise ValueError("a message that is no object")
            done.append(message)
            at += 4 + length
        del self._buffer[:at]
        return done
