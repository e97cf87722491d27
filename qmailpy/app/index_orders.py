"""
What the process that keeps the index is told (L{qmailpy.app.index_child}); who tells it has no need of the rest.
"""

from __future__ import annotations

import json
from typing import Any

import attrs
from attrs import frozen

from qmailpy.config.schema import LogConfig


@frozen(kw_only=True)
class Orders:
    """What is to be done."""

    log: LogConfig  # the options the log is written with, and when and how long
    directory: str  # HOME/log
    reserve_octets: int  # space that is for mail

    def encode(self) -> bytes:
        """As a line."""
        return json.dumps(attrs.asdict(self)).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Orders:
        """@raise ValueError: it is none."""
        values: dict[str, Any] = json.loads(line)
        return cls(**{**values, "log": LogConfig(**values["log"])})
