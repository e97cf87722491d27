"""
C{qmailpy test tls}: what TLS mail to a domain would have to have, and why.

Asks the DNS and the web as the daemon does, by the same code; nothing is sent to the mail hosts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import click
from attrs import frozen

from qmailpy.cli.asking import Web, answered, asking, in_thread
from qmailpy.cli.context import Context
from qmailpy.cli.output import print_json, print_line
from qmailpy.config.schema import ChannelConfig, Config
from qmailpy.directory.address import domain_key
from qmailpy.disk.files import RealFiles
from qmailpy.errors import CommandError
from qmailpy.remote.mx import Destination, Reach, destination, first_host
from qmailpy.remote.peers import Finder, Peer, is_address_of_this_machine
from qmailpy.remote.policy import Policies
from qmailpy.remote.protection import Planned, Protection, StsFound
from qmailpy.remote.resolver import Resolver
from qmailpy.remote.sts import StsPolicies
from qmailpy.remote.sts_file import Known, StsFile
from qmailpy.remote.tls import Contexts
from qmailpy.wire.client_events import Tls
from qmailpy.wire.sts import policy_id


class _ReadOnly(StsFile):
    """The daemon's file, which a command leaves alone."""

    def thd_merge(self, ours: Any, now: float) -> dict[str, Known]:
        return self.thd_read()


@frozen(kw_only=True)
class _Seen:
    """What was found."""

    goal: Destination
    channel: ChannelConfig
    explicit: str  # the word of the [[destination]] table, "" without
    sts: StsFound | None  # C{None}: not looked at
    known: Known | None
    record: str  # id of the TXT record
    validating: bool
    planned: Sequence[Planned]
    no_trust: str


@click.command("tls", short_help="Show what TLS mail to DOMAIN must have.")
@click.argument("domain", metavar="DOMAIN")
@click.option("--channel", default="tcp_local", show_default=True, metavar="CHANNEL", help="By which the mail goes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def tls(context: Context, domain: str, channel: str, as_json: bool) -> None:
    """Show what TLS mail to DOMAIN must have: DANE, MTA-STS, the configuration."""
    config = context.config
    table = config.channels.get(channel)
    if table is None or table.kind != "smtp":
        good = ", ".join(name for name, each in config.channels.items() if each.kind == "smtp")
        raise CommandError(f'"{channel}" is no channel to other hosts; right would be one of: {good}')
    seen = _look(config, table, domain)
    if as_json:
        print_json(_tree(domain, seen))
        return
    for line in _lines(domain, seen):
        print_line(line)


def _look(config: Config, table: ChannelConfig, domain: str) -> _Seen:
    try:
        name = domain_key(domain)
    except ValueError as error:
        raise CommandError(f"{domain} is no domain: {error}") from None
    where = table.relay or name
    policies = Policies(table, config.destinations)
    policy = policies.of(first_host(where))
    goal = destination(where, policy, trusted=bool(table.relay), of=policies.of)
    resolver = asking(config.dns)
    reach = Reach(allow_loopback=table.allow_loopback, is_ours=is_address_of_this_machine)
    finder = Finder(resolver, our_names=(config.server.hostname, "localhost"), reach=reach)
    peers = answered(finder.find(goal))
    contexts = Contexts(table.tls_ca_file, needed=False)
    web = Web(resolver, config.mta_sts.ca_file)
    policies_found = StsPolicies(
        resolver, web.get, time.time, in_thread, _ReadOnly(RealFiles(), config.path("queue", "tls-policies"))
    )
    policies_found.thd_load()
    looked = policy.mta_sts and bool(goal.domain)
    known = policies_found.known(goal.domain) if looked else None
    sts = answered(policies_found.find(goal.domain)) if looked else None
    record = _record(resolver, goal.domain) if looked else ""
    protection = Protection(resolver, policies_found, no_trust=contexts.missing)
    planned, _ = answered(protection.plan(goal, peers))
    explicit = _explicit(config, table, policies, first_host(where))
    return _Seen(
        goal=goal,
        channel=table,
        explicit=explicit,
        sts=sts,
        known=known,
        record=record,
        validating=resolver.validating and policy.dane,
        planned=planned,
        no_trust=contexts.missing,
    )


def _record(resolver: Resolver, domain: str) -> str:
    try:
        return policy_id(answered(resolver.text(f"_mta-sts.{domain}")))
    except CommandError:
        return ""


def _explicit(config: Config, table: ChannelConfig, policies: Policies, host: str) -> str:
    """The word of a [[destination]] table that counts for C{host}."""
    plain = Policies(table, [each for each in config.destinations if not each.tls])
    with_words = policies.of(host)
    without = plain.of(host)
    same = (with_words.tls, with_words.dane, with_words.mta_sts) == (without.tls, without.dane, without.mta_sts)
    return "" if same else with_words.tls.value


def _words(one: Planned) -> str:
    """What a host must have, in words."""
    peer = one.peer
    if one.barred is not None:
        return f"is not used: {one.barred.reply.text}"
    if peer.tlsas is not None:
        names = f", for the name {' or '.join(peer.names)}" if peer.names else ""
        return f"TLS with a certificate that its TLSA records describe{names} (DANE)"
    if peer.tls is Tls.VERIFY:
        why = " (MTA-STS)" if peer.how == "mta-sts" else ""
        return f"TLS with a certificate of a known authority for {' or '.join(peer.names)}{why}"
    if peer.tls is Tls.MUST:
        why = " (DANE: it has TLSA records, and none that mail can use)" if peer.how else ""
        return f"TLS with any certificate{why}"
    return "TLS when it offers it, with any certificate" if peer.tls is Tls.MAY else "no TLS"


def _sts_words(seen: _Seen) -> str:
    if seen.sts is None:
        return "not looked at: " + ("the mail goes to a relay" if not seen.goal.domain else "the configuration says so")
    policy, failure = seen.sts.policy, seen.sts.failure
    if seen.no_trust:
        return f"not followed, for there is no trust store: {seen.no_trust}"
    broken = f"; cannot be had now ({failure.kind}): {failure.why}" if failure is not None else ""
    if policy is None:
        return ("there is a record" + broken) if seen.record else "there is none"
    source = "kept by the daemon" if seen.known is not None else "fetched now"
    return (
        f"{policy.mode.value} for {' '.join(policy.mx) or 'no host'}, {source}, record {seen.record or 'gone'}{broken}"
    )


def _lines(domain: str, seen: _Seen) -> list[str]:
    policy = seen.goal.policy
    lines = [f"mail for {domain} by channel {seen.channel.name} to {seen.goal.name}"]
    if seen.explicit:
        lines.append(
            f'  configuration  tls = "{seen.explicit}" in a [[destination]] table, which counts for more than the rest'
        )
    else:
        lines.append(f'  configuration  tls = "{policy.tls.value}" of the channel, where nothing else is published')
    lines.append(f"  MTA-STS        {_sts_words(seen)}")
    if not policy.dane:
        dane = "not looked at: the configuration says so"
    elif not seen.validating:
        dane = "not looked at: that needs a resolver that validates ([dns] trusted = true)"
    else:
        with_records = {one.peer.host for one in seen.planned if one.applied.kind == "tlsa"}
        dane = f"TLSA records of {', '.join(sorted(with_records))}" if with_records else "no validated TLSA records"
    lines.append(f"  DANE           {dane}")
    for one in seen.planned:
        lines.append(f"  {_place(one.peer)}")
        lines.append(f"    {_words(one)}")
    return lines


def _place(peer: Peer) -> str:
    return f"{peer.host} [{peer.address}]:{peer.port}"


def _tree(domain: str, seen: _Seen) -> dict[str, Any]:
    sts = seen.sts
    policy = sts.policy if sts is not None else None
    failure = sts.failure if sts is not None else None
    return {
        "domain": domain,
        "channel": seen.channel.name,
        "to": seen.goal.name,
        "configured": seen.goal.policy.tls.value,
        "destination_table": seen.explicit,
        "mta_sts": {
            "looked_at": sts is not None,
            "record": seen.record,
            "mode": policy.mode.value if policy is not None else "",
            "mx": list(policy.mx) if policy is not None else [],
            "max_age_s": policy.max_age_s if policy is not None else 0,
            "kept": seen.known is not None,
            "failure": failure.kind if failure is not None else "",
            "why": failure.why if failure is not None else "",
        },
        "dane": {"looked_at": seen.validating},
        "hosts": [
            {
                "host": one.peer.host,
                "address": one.peer.address,
                "port": one.peer.port,
                "policy": one.applied.kind,
                "tls": one.peer.tls.value,
                "names": list(one.peer.names),
                "tlsa": list(one.applied.strings) if one.applied.kind == "tlsa" else [],
                "used": one.barred is None,
                "words": _words(one),
            }
            for one in seen.planned
        ],
    }
