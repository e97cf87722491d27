"""
C{qmailpy status}: whether all is well, by the convention of Nagios and its kin.

Exit status 0 well, 1 warning, 2 critical, 3 unknown (it could not be found out). The first line is the verdict with
what led to it and the figures behind a bar, the others are the details.
"""

from __future__ import annotations

import datetime
import glob
import math
import os
import sys
import time
from collections.abc import Callable

import click
from attrs import asdict, evolve

from qmailpy.cli.context import need
from qmailpy.cli.counters import Homed
from qmailpy.cli.livequeue import LiveQueueView
from qmailpy.cli.output import print_json, print_line
from qmailpy.config.load import load
from qmailpy.config.schema import Config
from qmailpy.control.client import Json, ask_each, call, running
from qmailpy.disk.files import RealFiles
from qmailpy.errors import CommandError, ConfigError, QmailpyError
from qmailpy.events.catalogue import Severity
from qmailpy.events.reading import thd_events, thd_lasting
from qmailpy.stats import health
from qmailpy.stats.counters import CountersError, Mapped
from qmailpy.stats.health import Finding, Level, Limits, Queued

TIMEOUT_S = 8.0  # NRPE, which asks for Nagios, gives up after 10
CERTIFICATE = "tls/cert.pem"
WATCHED = ("channel.stuck", "journal.stuck", "channel.held", "log.behind", "counters.mismatch")
"""Conditions the server finds and we do not look for ourselves."""


@click.command()
@click.option("--queue-warning", type=click.IntRange(1), metavar="N", help="[default: [monitor] queue_messages]")
@click.option("--queue-critical", type=click.IntRange(1), default=Limits().messages, show_default=True, metavar="N")
@click.option(
    *("--age-warning", "age_warning"),
    type=click.FloatRange(0),
    metavar="HOURS",
    help="Age of the oldest message.  [default: [monitor] queue_age_s]",
)
@click.option(
    *("--age-critical", "age_critical"),
    type=click.FloatRange(0),
    default=Limits().age_s / 3600,
    show_default=True,
    metavar="HOURS",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def status(
    ctx: click.Context,
    queue_warning: int | None,
    queue_critical: int,
    age_warning: float | None,
    age_critical: float,
    as_json: bool,
) -> None:
    """
    Whether all is well: processes, queue, channels, directory, log, space, certificates, counters, events.

    Exit status 0 well, 1 warning, 2 critical, 3 unknown, as Nagios has it.
    """
    context: Homed = ctx.obj
    try:
        need(context.home)
        config = load(context.home)
        monitor = config.monitor
        limits = Limits(
            messages_warn=queue_warning or monitor.queue_messages or sys.maxsize,
            messages=queue_critical,
            age_warn_s=(monitor.queue_age_s or math.inf) if age_warning is None else age_warning * 3600,
            age_s=age_critical * 3600,
        )
        findings = examine(config, limits, time.time())
    except ConfigError as error:
        findings = [Finding(name="configuration", level=Level.CRITICAL, text=error.problems[0])]
    except (QmailpyError, OSError) as error:
        findings = [Finding(name="status", level=Level.UNKNOWN, text=str(error))]
    level = health.worst(findings)
    if as_json:
        print_json({"status": level.name.lower(), "code": int(level), "findings": [_json(one) for one in findings]})
    else:
        _print(level, findings)
    ctx.exit(int(level))


def examine(config: Config, limits: Limits, now: float) -> list[Finding]:
    """
    Look at everything.

    @raise CommandError: the processes may not be asked by this user.
    """
    uptimes, starting = _uptimes(config)
    dying: set[str] = set()
    if starting:
        dying = {one.fields["worker"] for one in thd_lasting(config.path("log"), {"worker.crash-loop"})}
    found = [health.processes(expected(config), uptimes, starting, dying)]
    workers = [name for name in uptimes if name.startswith("mta-")]
    late = [name for name in workers if name in starting]
    if late:
        text = f"not known yet: {', '.join(late)} starting"
        found += [Finding(name="queue", level=Level.OK, text=text)]
    elif silent := [name for name in workers if uptimes[name] is None]:
        # Asked once more for each finding it would keep a watchdog waiting longer than that has patience.
        found += [Finding(name="queue", level=Level.UNKNOWN, text=f"no answer from {', '.join(silent)}")]
    elif workers:
        found += _known("queue", lambda: _queue(config.home, workers, limits, now))
        found += _known("trouble", lambda: [_trouble(config.home, workers[0])])
        found += _known("directory", lambda: [_directory(config.home, workers)])
    found += _known("space", lambda: _space(config, limits))
    found += _known("certificate", lambda: _certificate(config, limits, now))
    found += _known("counters", lambda: [_counters(config.path("run", "counters"), bool(workers))])
    found += _known("events", lambda: [_events(config.path("log"), now)])
    return found


def _trouble(home: str, worker: str) -> Finding:
    """What the server has found out about itself, as far as it takes more than one look: channels stuck, log behind."""
    answer = call(home, worker, "watch.conditions", timeout_s=TIMEOUT_S)
    told = answer.get("conditions") if isinstance(answer, dict) else None
    conditions = [one for one in (told if isinstance(told, list) else []) if isinstance(one, dict)]
    return health.trouble(
        [(str(one.get("severity")), str(one.get("text"))) for one in conditions if one.get("event") in WATCHED]
    )


def _directory(home: str, workers: list[str]) -> Finding:
    """Whether the servers of users and domains are asked, as the workers see it."""
    up: dict[str, bool] = {}
    away = False
    for worker in workers:
        answer = call(home, worker, "directory.figures", timeout_s=TIMEOUT_S)
        away = away or (isinstance(answer, dict) and answer.get("away") is True)
        servers = answer.get("servers") if isinstance(answer, dict) else None
        for one in servers if isinstance(servers, list) else []:
            if isinstance(one, dict):
                name = str(one.get("server"))
                up[name] = up.get(name, True) and one.get("up") is True
    return health.directory(up, away=away)


def _events(directory: str, now: float) -> Finding:
    since = now - health.RECENT_S
    grave = [one.text for one in thd_events(directory, since, Severity.CRITICAL)]
    return health.events(grave)


def _known(name: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """What a look finds, or that it could not be had."""
    try:
        return look()
    except (QmailpyError, OSError) as error:
        return [Finding(name=name, level=Level.UNKNOWN, text=str(error))]


def _uptimes(config: Config) -> tuple[dict[str, float | None], set[str]]:
    """How long each has been there, in seconds (C{None}: it does not answer); and which of them are starting."""
    uptimes: dict[str, float | None] = {}
    starting: set[str] = set()

    def ask(name: str) -> Json:
        return call(config.home, name, "status", timeout_s=TIMEOUT_S)

    for name, answer in ask_each([endpoint.name for endpoint in running(config.home)], ask).items():
        uptimes[name] = None if isinstance(answer, CommandError) else _number(answer)
        if isinstance(answer, dict) and answer.get("ready") is False:
            starting.add(name)
    return uptimes, starting


def expected(config: Config) -> list[str]:
    """Names of the processes a configuration makes, as their control sockets have them."""
    ours = [] if config.directory.servers else ["directory-0"]
    names = [*ours, *(f"mta-{index}" for index in range(max(1, config.server.workers)))]
    if any(listener.kind == "pop3" for listener in config.listeners):
        names.append("access-0")
    return names


def _number(answer: Json) -> float:
    uptime = answer.get("uptime") if isinstance(answer, dict) else None
    return float(uptime) if isinstance(uptime, int | float) else 0.0


def _queue(home: str, workers: list[str], limits: Limits, now: float) -> list[Finding]:
    def ask(worker: str, method: str, arguments: dict[str, Json]) -> Json:
        return call(home, worker, method, timeout_s=TIMEOUT_S, **arguments)

    view = LiveQueueView(ask, workers)
    channels = [
        Queued(
            channel=one.channel,
            messages=one.messages,
            held=one.held,
            oldest_s=None if one.oldest is None or one.held >= one.messages else max(0.0, now - one.oldest),
            stopped=one.stopped,
        )
        for one in view.summary()
    ]
    return [health.queue(channels, limits), health.channels(channels)]


def _space(config: Config, limits: Limits) -> list[Finding]:
    """Of each file system that holds a part of the home."""
    found: dict[int, Finding] = {}
    for name in ("queue", "mail", "log"):
        path = config.path(name)
        device = os.stat(path).st_dev
        if device not in found:
            free = RealFiles().space(path)
            reserve = config.queue
            found[device] = health.space(
                free.octets, free.inodes, reserve.reserve_octets, reserve.reserve_inodes, path, limits
            )
    return list(found.values())


def _certificate(config: Config, limits: Limits, now: float) -> list[Finding]:
    if all(listener.tls == "none" for listener in config.listeners):
        return []
    more = sorted(glob.glob(config.path("tls", "*", "cert.pem")))
    return [_one_certificate(path, limits, now) for path in (config.path(CERTIFICATE), *more)]


def _one_certificate(path: str, limits: Limits, now: float) -> Finding:
    from cryptography import x509

    try:
        with open(path, "rb") as file:
            certificate = x509.load_pem_x509_certificate(file.read(1 << 20))
    except PermissionError:  # root's, with the keys: no trouble of the server
        text = f"{path}: not for this user to look at; run this as root"
        return Finding(name="certificate", level=Level.OK, text=text)
    except FileNotFoundError:
        return Finding(name="certificate", level=Level.WARNING, text=f"{path} is missing: there is no TLS")
    except ValueError:
        return Finding(name="certificate", level=Level.CRITICAL, text=f"{path}: is no certificate in PEM form")
    end = certificate.not_valid_after_utc - datetime.datetime.fromtimestamp(now, datetime.UTC)
    found = health.certificate(end.total_seconds(), limits)
    if path.endswith(f"/{CERTIFICATE}"):
        return found
    name = os.path.basename(os.path.dirname(path))
    return evolve(found, text=f"{name}: {found.text}", values={})  # figures are those of the first


def _counters(path: str, live: bool) -> Finding:
    try:
        Mapped(path, write=True).close()
    except FileNotFoundError:
        level = Level.WARNING if live else Level.OK
        return Finding(name="counters", level=level, text="there are none; the daemon makes them with the next mail")
    except CountersError as error:
        return Finding(name="counters", level=Level.WARNING, text=f"{error}: nothing is counted")
    return Finding(name="counters", level=Level.OK, text="can be written")


def _json(finding: Finding) -> dict[str, object]:
    return {**asdict(finding), "level": finding.level.name.lower(), "values": dict(finding.values)}


def _print(level: Level, findings: list[Finding]) -> None:
    bad = [one for one in findings if one.level is not Level.OK] or findings[:2]
    figures = " ".join(f"{name}={value:g}" for one in findings for name, value in one.values.items())
    summary = "; ".join(f"{one.name}: {one.text}" for one in bad)
    # What follows a bar is figures to those who read this line.
    print_line(f"QMAILPY {level.name} - {summary.replace('|', '/')}" + (f" | {figures}" if figures else ""))
    for one in findings:
        print_line(f"{one.level.name:<8}  {one.name}: {one.text}".replace("|", "/"))
