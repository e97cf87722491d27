"""
Which version of its files a channel was made with: passwords and authorities may change while the configuration does
not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from qmailpy.config.schema import ChannelConfig, Config

_FILES = ("relay_password_file", "tls_ca_file")
"""Keys of a channel that name files; a path is relative to HOME."""

_KINDS = ("smtp", "lmtp")
"""Kinds of channels that are made anew while the daemon runs."""

Marks = tuple[tuple[str, int, int, int], ...]


def thd_marks(config: Config, channel: ChannelConfig) -> Marks:
    """What differs when a file of the channel was written, replaced, made or removed. Blocks, for a moment."""
    found = []
    names = [getattr(channel, key) for key in _FILES]
    names += [one.password_file for one in config.destinations if one.channel in ("", channel.name)]
    for name in filter(None, names):
        path = os.path.join(config.home, name)
        try:
            status = os.stat(path)
        except OSError:
            found.append((path, 0, 0, 0))
        else:
            found.append((path, status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


def thd_marks_of_all(config: Config) -> dict[str, Marks]:
    """The same for each channel that has such files."""
    return {name: thd_marks(config, channel) for name, channel in config.channels.items() if channel.kind in _KINDS}


def to_remake(
    config: Config, before: Config, marks: Mapping[str, Marks], marks_before: Mapping[str, Marks]
) -> dict[str, ChannelConfig]:
    """
    The channels, by name, that another configuration or other files make others of.

    @param marks: of C{thd_marks_of_all}, now; C{marks_before}: when they were made.
    """
    shared = (config.destinations, config.rules, config.tlsrpt.send) != (
        before.destinations,
        before.rules,
        before.tlsrpt.send,
    )
    return {
        name: channel
        for name, channel in config.channels.items()
        if channel.kind in _KINDS
        and (shared or channel != before.channels.get(name) or marks[name] != marks_before.get(name))
    }
