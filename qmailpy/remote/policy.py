"""
How a destination is to be treated: the channel's settings, and the [[destination]] tables that say otherwise for some.

The most exact pattern wins: the name itself, then the longest C{.suffix}, then C{.} (everything). What a table leaves
out is as the channel has it. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from qmailpy.config.schema import ChannelConfig, DestinationConfig
from qmailpy.wire.client_events import Tls

Account = tuple[str, str]
"""A login: its name, and the file of its password."""

NOBODY: Account = ("", "")


@frozen(kw_only=True, cache_hash=True)
class Policy:
    """For one destination."""

    tls: Tls = Tls.MAY
    dane: bool = False  # TLSA records count
    mta_sts: bool = False  # the domain's MTA-STS policy counts
    required: bool = False  # for a message that must have verified TLS (RFC 8689 s.4.2)
    optional: bool = (
        False  # for one whose sender would rather have it arrive (RFC 8689 s.3): what is published does not count
    )
    port: int = 25  # where none is named
    concurrency: int = 0  # connections and jobs at once; 0 = the channel's
    per_minute: float = 0.0  # messages; 0 = as many as there are
    implicit: bool = False  # TLS from the first octet
    account: Account = NOBODY  # the login where we are sent by the configuration
    source: tuple[str, ...] = ()  # our end of connections, at most an address of a family
    helo: str = ""  # what we call ourselves; "" = the host name


DEFAULT = Policy()


class Policies:
    """The policies of one channel."""

    def __init__(self, channel: ChannelConfig, destinations: Iterable[DestinationConfig] = ()) -> None:
        """
        @param destinations: those of other channels are left out. With a login TLS is a must: no password
            goes over the wire without.
        """

        follows = channel.kind == "smtp" and channel.tls != "none"

        def level(word: str, user: str) -> Tls:
            tls = Tls(word)
            return Tls.MUST if user and tls in (Tls.NONE, Tls.MAY) else tls

        account = (channel.relay_user, channel.relay_password_file)
        self._default = Policy(
            tls=level(channel.tls, channel.relay_user),
            implicit=channel.implicit_tls,
            account=account,
            source=channel.source_address,
            helo=channel.helo,
            port=channel.port,
            dane=follows and channel.dane,
            mta_sts=follows and channel.mta_sts,
        )
        self._found = {
            table.pattern.lower(): Policy(
                tls=level(table.tls or channel.tls, table.user or channel.relay_user),
                implicit=table.implicit_tls or channel.implicit_tls,
                account=(table.user, table.password_file) if table.user else account,
                source=table.source_address or channel.source_address,
                helo=table.helo or channel.helo,
                # What is said of a destination itself stands above what it publishes.
                dane=(follows and channel.dane and not table.tls) or table.tls == "dane",
                mta_sts=follows and channel.mta_sts and not table.tls,
                port=table.port or channel.port,
                concurrency=table.concurrency,
                per_minute=table.messages_per_minute,
            )
            for table in destinations
            if table.channel in ("", channel.name)
        }

    @property
    def verifying(self) -> bool:
        """Whether any destination must show a certificate of an authority."""
        return any(policy.tls is Tls.VERIFY for policy in (self._default, *self._found.values()))

    @property
    def accounts(self) -> frozenset[Account]:
        """The logins that may be needed."""
        return frozenset(policy.account for policy in (self._default, *self._found.values())) - {NOBODY}

    def of(self, host: str) -> Policy:
        """
        The policy for a domain, or for the host of a relay.

        @param host: in any case.
        """
        found = self._found
        if not found:
            return self._default
        name = host.lower().rstrip(".")
        policy = found.get(name)
        while policy is None and name:
            _, dot, name = name.partition(".")
            policy = found.get(f".{name}") if dot else None
        return policy or found.get(".", self._default)
