"""
Channel kinds C{smtp} and C{lmtp}: mail to other hosts, by MX or over a relay (the client half of C{tcp_local} and its
like).

Thin: a Job becomes a transaction for L{qmailpy.remote}, connections become the records O, C and Y.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from attrs import evolve
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from qmailpy.channels.parts import Parts
from qmailpy.clocks import wall
from qmailpy.config.schema import ChannelConfig, Config
from qmailpy.errors import ConfigError
from qmailpy.interfaces import IChannel, IConnected, IForgiving, IShaped
from qmailpy.records.record import Action, LogRecord
from qmailpy.remote.delivery import Remote
from qmailpy.remote.memory import HostMemory
from qmailpy.remote.mx import Destination, Reach, at_home, destination, first_host
from qmailpy.remote.peers import Finder, Peer, is_address_of_this_machine
from qmailpy.remote.policy import Account, Policies
from qmailpy.remote.pool import Pool
from qmailpy.remote.protection import Protection
from qmailpy.remote.session import Session
from qmailpy.remote.shaping import Shaper
from qmailpy.remote.tls import Contexts
from qmailpy.routing.senders import Senders
from qmailpy.threads import in_pool
from qmailpy.values import Disposition, Job, Recipient, Reply, Verdict
from qmailpy.wire.client_events import Transaction, Wish
from qmailpy.wire.client_path import unsendable
from qmailpy.wire.sasl_client import Login


class Connections:
    """Writes a record for each connection made, closed, or not made (L{qmailpy.remote.session.Watcher})."""

    def __init__(self, channel: ChannelConfig, parts: Parts) -> None:
        self._channel = channel.name
        self._protocol = channel.kind.upper()
        self._wall = wall(parts.reactor)
        self._parts = parts
        self._wanted = parts.config.log.connections and channel.logging == "full"

    def opened(self, session: Session) -> None:
        session.application = f"{self._protocol}/{session.peer.host}"
        self._write(Action.OPENED, session.ends, session.application, "")

    def closed(self, session: Session, why: str) -> None:
        self._write(Action.CLOSED, session.ends, session.application, why)

    def unreached(self, peer: Peer, why: str) -> None:
        self._write(Action.UNREACHED, "", f"{self._protocol}/{peer.host}", why)

    def _write(self, action: Action, transport: str, application: str, diagnostic: str) -> None:
        if self._wanted:
            record = LogRecord(
                action=action,
                time=self._wall(),
                source=self._channel,
                direction="-",
                transport=transport,
                application=application,
                diagnostic=diagnostic,
            )
            self._parts.recorder.write([record])


TURN_S = 10.0
"""How long a job waits for its turn where there is a rate; it holds one of the channel's slots meanwhile."""


@implementer(IChannel, IConnected, IForgiving, IShaped)
class SmtpChannel:
    """Delivers to other hosts over SMTP, or to a mail store over LMTP."""

    _log = Logger()

    def __init__(self, config: Config, channel: ChannelConfig, parts: Parts) -> None:
        """
        @raise ValueError: C{channel.relay} is not a list of hosts.
        @raise ConfigError: a file the channel needs cannot be used.
        """
        self.name = channel.name
        self._channel = channel
        reactor = parts.reactor
        self._policies = policies = Policies(channel, config.destinations)
        self._relay: Destination | None = None
        if channel.relay:
            relay = at_home(channel.relay, config.home)
            shuffled = channel.relay_order == "random"
            first = policies.of(first_host(channel.relay))
            self._relay = destination(relay, first, trusted=True, of=policies.of, shuffled=shuffled)
        try:
            # For what domains publish we do without, where there is no trust store; for what we were told we do not.
            wanted = policies.verifying or (channel.kind == "smtp" and channel.mta_sts)
            contexts = Contexts(channel.tls_ca_file if wanted else "", needed=policies.verifying)
        except OSError as error:
            raise ConfigError((f"[channel.{channel.name}] tls_ca_file: {error}",)) from None
        if contexts.missing and wanted:
            self._log.warn("channel {name} follows no MTA-STS policy: {why}", name=channel.name, why=contexts.missing)
        memory = HostMemory(reactor.seconds)
        watcher = Connections(channel, parts)

        logins = {account: _login(config, channel, account) for account in policies.accounts}

        in_thread = in_pool(reactor)

        def new_session(peer: Peer) -> Session:
            return Session(
                reactor,
                peer,
                peer.helo or config.server.hostname,
                channel,
                watcher,
                in_thread,
                contexts,
                logins.get(peer.account),
            )

        finder = Finder(
            parts.resolver,
            our_names=(config.server.hostname, "localhost"),
            reach=Reach(allow_loopback=channel.allow_loopback, is_ours=is_address_of_this_machine),
        )
        self._senders = Senders(config, channel.name)
        self._clock = reactor
        self._shaper = Shaper(channel.destination_concurrency)
        self._pool = Pool(reactor, reactor, channel, memory, watcher, new_session)
        security = parts.security
        protection = Protection(
            parts.resolver, security.sts, no_trust=contexts.missing, watch=security.results is not None
        )
        self._remote = Remote(
            channel,
            finder,
            self._pool,
            memory,
            reactor.seconds,
            in_thread,
            protection,
            security.results,
            parts.traces,
            wall(reactor),
        )

    def connections(self) -> tuple[int, int]:
        """See L{IConnected}."""
        return self._pool.total, self._pool.idle

    async def dequeue(self, job: Job) -> Sequence[Disposition]:
        where = self._destination(job)
        if isinstance(where, Reply):
            return [Disposition(verdict=Verdict.FAILED, reply=where)] * len(job.recipients)
        put_off = await self._shape(where)
        if put_off is not None:
            return [put_off] * len(job.recipients)
        require = job.envelope.require_tls and self._channel.kind == "smtp"  # what LMTP leads to is the end of the way
        if require or job.envelope.tls_optional:
            # Connections are kept by it: that of a message which may do without is not one for others.
            policy = evolve(where.policy, required=require, optional=job.envelope.tls_optional and not require)
            where = evolve(where, policy=policy)
        sender = self._senders.outgoing(job.envelope)
        bad = [unsendable(sender) or unsendable(recipient.address) for recipient in job.recipients]
        taken = [recipient for recipient, reply in zip(job.recipients, bad, strict=True) if reply is None]
        good = tuple([recipient.address for recipient in taken])
        found: Sequence[Disposition] = ()
        if good:
            addresses = (sender, *good)
            transaction = Transaction(
                sender=sender,
                recipients=good,
                size=job.content.size,
                eight_bit=job.envelope.body != "7BIT",
                wishes=_wishes(taken),
                envid=job.envelope.envid,
                ret=job.envelope.ret,
                binary=job.envelope.body == "BINARYMIME",
                mt_priority=job.envelope.mt_priority,
                deliver_by=job.envelope.deliver_by,
                by_mode=job.envelope.by_mode,
                require_tls=require,
                utf8=job.envelope.smtputf8 or not all(map(str.isascii, addresses)),
            )
            found = await self._remote.send(where, transaction, job.content)
            self._shaper.learn(where.name, found, self._clock.seconds(), where.policy.concurrency)
        if len(good) == len(bad):
            return found
        answers = iter(found)
        return [next(answers) if reply is None else Disposition(verdict=Verdict.FAILED, reply=reply) for reply in bad]

    async def _shape(self, where: Destination) -> Disposition | None:
        """
        Wait for the turn of a message to that destination.

        @return: why it is not to be tried now.
        """
        seconds, said = self._shaper.pause(where.name, self._clock.seconds())
        if seconds:
            reply = Reply(451, "4.7.0", f"Host of {where.name} asked for less mail: {said}")
            return Disposition(verdict=Verdict.DEFERRED, reply=reply, retry_after=seconds)
        if where.policy.per_minute:
            wait = self._shaper.turn(where.name, where.policy.per_minute, self._clock.seconds(), TURN_S)
            if wait > TURN_S:
                reply = Reply(451, "4.4.5", f"{where.policy.per_minute:g} messages a minute go to {where.name}")
                return Disposition(verdict=Verdict.DEFERRED, reply=reply, retry_after=wait)
            if wait:
                await deferLater(self._clock, wait)
        return None

    def limit(self, host: str) -> int | None:
        if self._relay is not None:
            return self._shaper.limit(self._relay.name) or self._relay.policy.concurrency or None
        return self._shaper.limit(host) or self._policies.of(first_host(host)).concurrency or None

    def forgive(self, host: str) -> None:
        name = host if self._relay is None else self._relay.name
        self._shaper.forget(name)
        self._remote.pardon(name)

    def trouble(self, host: str) -> str:
        name = host if self._relay is None else self._relay.name
        seconds, said = self._shaper.pause(name, self._clock.seconds())
        return (
            f"{name} asked for less mail; nothing is tried there for another {seconds:.0f} s: {said}" if seconds else ""
        )

    def _destination(self, job: Job) -> Destination | Reply:
        """
        Where the job goes: the relay, or the host of its recipients. A host that is not the domain of their address can
        only come from a rewrite rule, so it may be anywhere.
        """
        if self._relay is not None:
            return self._relay
        first = job.recipients[0]
        domain = first.address.rpartition("@")[2]
        host = first.host or domain
        try:
            trusted = host.lower() != domain.lower()
            return destination(host, self._policies.of(first_host(host)), trusted=trusted, of=self._policies.of)
        except ValueError as error:
            return Reply(550, "5.1.2", f"Bad destination {host!r}: {error}")

    async def stop(self) -> None:
        await self._pool.stop()


def _wishes(recipients: Sequence[Recipient]) -> tuple[Wish, ...]:
    """What their senders want to be told, and under which name; nothing at all in most cases."""
    if any(one.notify or one.orcpt or one.original != one.address for one in recipients):
        return tuple([Wish(one.notify, one.orcpt or _original(one)) for one in recipients])
    return ()


def _original(recipient: Recipient) -> str:
    """An ORCPT for an address we have changed (RFC 3461 s.5.2.1 (d)): the one that came to us."""
    original = recipient.original
    if original == recipient.address or not original:
        return ""
    return f"{'rfc822' if original.isascii() else 'utf-8'};{original}"


PASSWORD_OCTETS = 1024
"""Longest password of a relay."""


def _login(config: Config, channel: ChannelConfig, account: Account) -> Login:
    """
    A login at a relay: the password is the first line of its file. Blocks, at the start only.

    @raise ConfigError: it cannot be read, or is none.
    """
    user, file = account
    own = file == channel.relay_password_file
    where = f"[channel.{channel.name}] relay_password_file" if own else "[[destination]] password_file"
    path = os.path.join(config.home, file)
    try:
        with open(path, "rb") as source:
            octets = source.read(PASSWORD_OCTETS + 2)
    except OSError as error:
        raise ConfigError((f"{where}: {path}: cannot be read: {error.strerror or error}",)) from None
    line = octets.partition(b"\n")[0].removesuffix(b"\r")
    try:
        password = line.decode("utf-8")
    except UnicodeDecodeError:
        password = ""
    if not password or "\0" in password or len(line) > PASSWORD_OCTETS:
        raise ConfigError((f"{where}: {path}: its first line is no password",))
    return Login(user=user, password=password)
