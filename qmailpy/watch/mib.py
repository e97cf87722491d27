"""
A L{Look} as the objects of NETWORK-SERVICES-MIB (RFC 2788) and MTA-MIB (RFC 2789): a group is a channel.

    .1.3.6.1.2.1.27.1.1.COLUMN.APPL              applTable: the MTA, the directory, the POP3 server
    .1.3.6.1.2.1.27.2.1.COLUMN.APPL.ASSOC        assocTable: deliveries under way
    .1.3.6.1.2.1.28.1.1.COLUMN.APPL              mtaTable: sums of the channels
    .1.3.6.1.2.1.28.2.1.COLUMN.APPL.GROUP        mtaGroupTable
    .1.3.6.1.2.1.28.3.1.1.APPL.GROUP.ASSOC       mtaGroupAssociationTable: which of assocTable are a channel's
    .1.3.6.1.2.1.28.5.1.COLUMN.APPL.GROUP.CODE   mtaGroupErrorTable: inbound, internal, outbound, by status code

Volumes are in units of 1024 octets, intervals in hundredths of a second. docs/monitoring.md has a table of all objects:
where each comes from, and why the few that are left out are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping

from qmailpy.config.schema import Config
from qmailpy.stats.items import (
    DELIVERED,
    FAILED,
    IN_ASSOCIATIONS,
    OUT_ASSOCIATIONS,
    RECEIVED,
    REJECTED,
    STORED,
    Row,
    zeros,
)
from qmailpy.watch.activity import Activities
from qmailpy.watch.look import Look, number, rows
from qmailpy.watch.snmp_value import Oid, Value, counter, gauge, integer, interval, name_of, text, ticks

APPL = (1, 3, 6, 1, 2, 1, 27)
MTA = (1, 3, 6, 1, 2, 1, 28)
SUBTREE = len(APPL)
"""Parts of a name that tell which of the two it is in."""

_TCP = (*APPL, 4)  # applTCPProtoID; below it, the number of the port
_UP, _DOWN, _CONGESTED, _RESTARTING = 1, 2, 4, 5  # applOperStatus
_PEER_INITIATOR = 3  # assocApplicationType
_INDEX = {"mta": 1, "directory": 2, "access": 3}  # applIndex by role
_WORDS = {"mta": "mail transfer agent", "directory": "LDAP directory", "access": "POP3 server"}
_OF_ALL = frozenset({8, 9, 10, 12, 13, 14, 15})
"""Columns of applTable that are sums of what the processes of an application tell."""

_BREAKDOWN = -1  # mtaGroupHierarchy: the channels together are the whole of the MTA


class Objects:
    """All objects of a look, in the order of their names."""

    def __init__(self, values: Mapping[Oid, Value]) -> None:
        self._values = values
        self._names = sorted(values)

    def get(self, name: Oid) -> Value | None:
        """The object of that name."""
        return self._values.get(name)

    def next(self, name: Oid) -> tuple[Oid, Value] | None:
        """The one behind a name, in the same of the two modules."""
        at = bisect_right(self._names, name)
        if at == len(self._names):
            return None
        found = self._names[at]
        if len(name) >= SUBTREE and found[:SUBTREE] != name[:SUBTREE]:
            return None
        return found, self._values[found]


class Mib:
    """Remembers which channel has which index, which must not change."""

    def __init__(self, config: Config, version: str) -> None:
        self._config = config
        self._version = version
        self._groups: dict[str, int] = {}
        self._group_of(config.channels)

    def _group_of(self, channels: Iterable[str]) -> None:
        for name in sorted(channels):
            self._groups.setdefault(name, len(self._groups) + 1)

    def objects(self, look: Look, agent_start: float) -> Objects:
        """
        @param agent_start: of snmpd, in seconds since the epoch: when sysUpTime was 0.
        """
        self._group_of(look.table)
        self._group_of(one.channel for one in look.channels)
        self._group_of(one.channel for one in look.jobs)
        found: dict[Oid, Value] = {}
        self._applications(look, agent_start, found)
        self._associations(look, found)
        sums = zeros()
        converted = [0, 0]
        held = 0
        summaries = {one.channel: one for one in look.channels}
        inbound, rejected = self._inbound(look)
        activity = Activities(look)
        uptime = _uptime(look, "mta")
        for channel, index in self._groups.items():
            row = look.table.get(channel) or zeros()
            for at, value in enumerate(row):
                sums[at] += value if not STORED <= at < STORED + 3 else max(0, value)
            summary = summaries.get(channel)
            values = _volumes(row, 2, rejected=True)
            values[12] = interval(look.time - summary.oldest if summary is not None and summary.oldest else 0)
            values[13] = gauge(inbound.get(channel, 0))
            values[14] = gauge(_outbound(look, channel))
            values[15] = counter(row[IN_ASSOCIATIONS])
            values[16] = counter(row[OUT_ASSOCIATIONS])
            values |= activity.columns(channel)
            values[19] = counter(rejected.get(channel, 0))
            one = self._config.channels.get(channel)
            kind = one.kind if one is not None else ""
            if kind in ("smtp", "lmtp") and one is not None:
                values[24] = name_of((*_TCP, one.port))
            values[25] = text(channel)
            if kind == "conversion":
                failed = row[FAILED]
                values[26] = counter(row[DELIVERED] - failed)
                values[27] = counter(failed)
                converted[0] += row[DELIVERED] - failed
                converted[1] += failed
            values[28] = text(f"{self._config.server.hostname} MTA {channel} channel")
            values[31] = integer(_BREAKDOWN)
            values[33] = counter(summary.held if summary is not None else 0)
            held += summary.held if summary is not None else 0
            if summary is not None and summary.oldest_message:
                values[32] = text(summary.oldest_message)
            if uptime is not None:
                values[30] = interval(uptime)
            if not look.whole:  # sums without a worker that stands still, or starts, would look like a change
                for column in (12, 13, 14, 19, 32, 33, *activity.columns(channel)):
                    values.pop(column, None)
            for code, counts in activity.errors(channel) if look.whole else ():
                for column, count in enumerate(counts, 1):
                    found[(*MTA, 5, 1, column, _INDEX["mta"], index, code)] = counter(count)
            for column, one_value in values.items():
                found[(*MTA, 2, 1, column, _INDEX["mta"], index)] = one_value
        total = _volumes(sums, 1, rejected=False)
        total |= {10: counter(converted[0]), 11: counter(converted[1])}
        if look.whole:
            total[12] = counter(held)
        for column, one_value in total.items():
            found[(*MTA, 1, 1, column, _INDEX["mta"])] = one_value
        return Objects(found)

    def _applications(self, look: Look, agent_start: float, found: dict[Oid, Value]) -> None:
        roles = {one.role for one in look.processes} | {name.partition("-")[0] for name in look.missing} | {"mta"}
        for role in sorted(roles & set(_INDEX)):
            processes = [one for one in look.processes if one.role == role]
            uptime = _uptime(look, role)
            sites = [one for process in processes for one in rows(process.figures.get("listeners"))]
            values = {
                2: text(f"qmailpy {role}"),
                3: text(""),
                4: text(self._version),
                5: ticks(look.time - uptime - agent_start if uptime is not None else 0),
                6: integer(_status(look, role)),
                8: gauge(sum(number(one.get("sessions")) for one in sites)),
                10: counter(sum(number(one.get("connections")) - number(one.get("turned_away")) for one in sites)),
                14: counter(sum(number(one.get("turned_away")) for one in sites)),
                16: text(f"{self._config.server.hostname} {_WORDS[role]}"),
            }
            if role == "mta":
                activity = Activities(look)
                for column, at in ((12, activity.last_in), (13, activity.last_out)):
                    values[column] = ticks(at - agent_start if at else 0)
                values[15] = counter(activity.failed)
                values[9] = gauge(sum(_outbound(look, channel) for channel in self._groups))
                values[11] = counter(sum(row[OUT_ASSOCIATIONS] for row in look.table.values()))
            for column, value in values.items():
                if column in _OF_ALL and any(name.partition("-")[0] == role for name in look.silent):
                    continue
                found[(*APPL, 1, 1, column, _INDEX[role])] = value

    def _associations(self, look: Look, found: dict[Oid, Value]) -> None:
        remote = {name: one.port for name, one in self._config.channels.items() if one.kind in ("smtp", "lmtp")}
        for index, job in enumerate((job for job in look.jobs if job.channel in remote), 1):
            at = (_INDEX["mta"], index)
            found[(*APPL, 2, 1, 2, *at)] = text(job.host)
            found[(*APPL, 2, 1, 3, *at)] = name_of((*_TCP, remote[job.channel]))
            found[(*APPL, 2, 1, 4, *at)] = integer(_PEER_INITIATOR)
            found[(*MTA, 3, 1, 1, _INDEX["mta"], self._groups[job.channel], index)] = integer(index)

    def _inbound(self, look: Look) -> tuple[dict[str, float], dict[str, float]]:
        """By channel: sessions at its listeners, and clients they had no room for."""
        channel_of = {one.name: one.channel for one in self._config.listeners}
        sessions: dict[str, float] = {}
        refused: dict[str, float] = {}
        for process in look.processes:
            if process.role != "mta":
                continue
            for one in rows(process.figures.get("listeners")):
                channel = channel_of.get(str(one.get("listener")))
                if channel is not None:
                    sessions[channel] = sessions.get(channel, 0) + number(one.get("sessions"))
                    refused[channel] = refused.get(channel, 0) + number(one.get("turned_away"))
        return sessions, refused


def _volumes(row: Row, first: int, *, rejected: bool) -> dict[int, Value]:
    """The nine columns both tables have, or ten with Rejected, from C{first} on."""
    found = [counter(row[RECEIVED]), counter(row[REJECTED])][: 1 + rejected]
    found += [gauge(row[STORED]), counter(row[DELIVERED])]
    for unit in (2, 1):  # volume, recipients
        found += [counter(row[RECEIVED + unit]), gauge(row[STORED + unit]), counter(row[DELIVERED + unit])]
    return dict(enumerate(found, first))


def _outbound(look: Look, channel: str) -> float:
    found = 0.0
    for process in look.processes:
        one = process.figures.get("connections")
        if isinstance(one, Mapping) and isinstance(one.get(channel), Mapping):
            found += number(one[channel].get("open"))
    return found


def _uptime(look: Look, role: str) -> float | None:
    """Of the eldest process of a role."""
    found = [one.uptime for one in look.processes if one.role == role and one.uptime is not None]
    return max(found, default=None)


def _status(look: Look, role: str) -> int:
    processes = [one for one in look.processes if one.role == role]
    well = [one for one in processes if one.uptime is not None]
    if not well:
        return _DOWN
    if len(well) < len(processes) or any(name.partition("-")[0] == role for name in look.missing):
        return _RESTARTING
    return _CONGESTED if any(one.figures.get("short") for one in well) else _UP
