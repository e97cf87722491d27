"""
The kinds of channels, and the channels that a configuration asks for.

Several channels may be of one kind (C{tcp_local}, C{tcp_intranet}, C{tcp_partner} are all C{smtp}), each an object of
its own with its own limits. A new kind is a line in L{KINDS} and a class whose constructor is a
L{qmailpy.channels.parts.ChannelFactory}.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from qmailpy.channels.parts import ChannelFactory, Parts
from qmailpy.errors import ConfigError
from qmailpy.interfaces import IChannel

KINDS: Mapping[str, str] = {
    "smtp": "qmailpy.channels.smtp:SmtpChannel",
    "lmtp": "qmailpy.channels.smtp:SmtpChannel",
    "local": "qmailpy.channels.local:LocalChannel",
    "process": "qmailpy.channels.process:ProcessChannel",
    "hold": "qmailpy.channels.hold:HoldChannel",
    "conversion": "qmailpy.channels.conversion:ConversionChannel",
    "defragment": "qmailpy.channels.defragment:DefragmentChannel",
    "reprocess": "qmailpy.channels.reprocess:ReprocessChannel",
    "pipe": "qmailpy.channels.pipe:PipeChannel",
    "autoreply": "qmailpy.channels.autoreply:AutoReplyChannel",
    "bitbucket": "qmailpy.channels.bitbucket:BitbucketChannel",
}
"""C{[channel.NAME] kind}: where its factory is, so that a process loads only the kinds it uses."""


def factory(kind: str) -> ChannelFactory:
    """
    The factory of a kind.

    @raise KeyError: there is no such kind.
    """
    module, _, name = KINDS[kind].partition(":")
    found: ChannelFactory = getattr(import_module(module), name)
    return found


def make_channels(parts: Parts) -> dict[str, IChannel]:
    """
    The channels of C{parts.config}, by name.

    @raise ConfigError: kinds that do not exist, all of them named.
    """
    configured = parts.config.channels
    problems = tuple(
        f"[channel.{name}] kind: there is no kind {channel.kind!r}; it is one of {', '.join(sorted(KINDS))}"
        for name, channel in configured.items()
        if channel.kind not in KINDS
    )
    if problems:
        raise ConfigError(problems)
    return {name: factory(channel.kind)(parts.config, channel, parts) for name, channel in configured.items()}
