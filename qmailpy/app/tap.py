"""
What C{twistd qmailpy} calls: the options, and everything that must happen before the process goes to the background.

Configuration, locks and sockets come first, so that whatever is wrong with them is one line each on standard error and
exit status 1, in the foreground and in the background alike.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.application.service import IService
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python import usage

from qmailpy.app import log, steady
from qmailpy.app.alarm import Alarm
from qmailpy.app.daemon import Daemon, OneProcess, Running, Seat, places
from qmailpy.app.handover import Message
from qmailpy.app.host import ROLES
from qmailpy.app.instance import acquire, make_run
from qmailpy.app.notify import from_environment
from qmailpy.app.privileges import become, check_reach, raise_file_limit, users
from qmailpy.app.pulse import QUESTION_S
from qmailpy.app.sockets import Listening
from qmailpy.app.spawn import Processes, keys
from qmailpy.app.supervisor import OF_PROCESSES, Supervisor
from qmailpy.config.load import config_path, load
from qmailpy.config.schema import Config
from qmailpy.directory.paths import directory_path
from qmailpy.errors import ConfigError, QmailpyError
from qmailpy.events.log import FILE_NAME, EventLog
from qmailpy.events.reading import thd_lasting
from qmailpy.routing import srs_secret
from qmailpy.servers.keys import Pair, pairs_of, thd_read_pairs
from qmailpy.stats.health import tell_over

DEFAULT_HOME = "/var/lib/qmailpy"


class Options(usage.Options):
    """C{twistd [-n] qmailpy --home HOME}."""

    synopsis = "[--home HOME]"
    longdesc = "An all-in-one mail server. Make a home with: qmailpy init"
    optParameters = [
        ["home", "H", os.environ.get("QMAILPY_HOME", DEFAULT_HOME), "the home: configuration, queue, mail, logs"],
        ["roles", None, ROLES, "module the process roles come from (tests)"],
        ["silence", None, None, "seconds a process may stay without an answer, instead of frozen_s (tests)", float],
        ["question", None, QUESTION_S, "seconds between two questions whether a process lives (tests)", float],
    ]

    def postOptions(self) -> None:
        self["home"] = os.path.abspath(self["home"])
        twistd = self.parent
        if twistd is None:
            return
        if twistd.get("pidfile") == "twistd.pid":
            # Our lock is HOME's, not the current directory's, and survives neither a crash nor a reused process id.
            twistd["pidfile"] = ""
        own = twistd.get("logfile") or twistd.get("syslog") or twistd.get("logger")
        self["console"] = bool(twistd.get("nodaemon") or twistd.get("debug")) and not own
        if not own:
            twistd["logger"] = "qmailpy.app.log.Quiet"


def makeService(options: Options) -> IService:
    """
    The daemon, ready to start; called by twistd.

    @raise SystemExit: it cannot run; the text is for standard error.
    """
    from twisted.internet import reactor

    os.umask(0o077)
    steady.begin(reactor)
    try:
        service: IService = prepare(
            reactor,
            load(options["home"]),
            console=options.get("console", False),
            roles=options["roles"],
            silence_s=options["silence"],
            question_s=options["question"],
        )
    except ConfigError as error:
        sys.exit("\n".join(error.problems))
    except QmailpyError as error:
        sys.exit(f"qmailpy: {error}")
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.exit(f"qmailpy: {place}{error.strerror or error}")
    return service


def _look_for_passwords(config: Config) -> None:
    """@raise ConfigError: a relay's password is not there, without which no mail worker can take up its queue."""
    named = [(f"[channel.{one.name}] relay_password_file", one.relay_password_file) for one in config.channels.values()]
    named += [(f"[[destination]] {one.pattern} password_file", one.password_file) for one in config.destinations]
    right = "right would be a file with the password in its first line"
    problems = [
        f"{config_path(config.home)}: {where}: {os.path.join(config.home, file)} is not there; {right}"
        for where, file in named
        if file and not os.path.isfile(os.path.join(config.home, file))
    ]
    if problems:
        raise ConfigError(tuple(problems))


def prepare(
    reactor: Any,
    config: Config,
    *,
    console: bool,
    roles: str,
    silence_s: float | None = None,
    question_s: float = QUESTION_S,
) -> Daemon:
    """
    Take what the daemon needs while we may, and build it.

    @param console: also log to standard output.
    @param silence_s: how long a process may stay without an answer, if not C{[server] frozen_s}.
    @param question_s: how often each is asked.
    @raise ConfigError: user, group or listeners cannot be had.
    @raise CommandError: another daemon runs, or a user may not do what is to be his.
    @raise OSError: the log cannot be opened.
    """
    _look_for_passwords(config)
    raise_file_limit()
    ours = users(config)
    who = ours.workers
    make_run(config.home, who)
    if who is not None:
        check_reach(who, config.path("run"))
    if ours.directory is not None and ours.apart:
        check_reach(ours.directory, directory_path(config.home))
    instance = acquire(config.home)
    try:
        srs_secret.make(config.home, who.gid if who is not None else None)
    except OSError as error:
        # Forwarded mail keeps its senders then: no reason not to start.
        Logger().warn("{path} cannot be made: {error}", path=srs_secret.secret_path(config.home), error=str(error))
    listening = Listening(who)
    listening.open(config)
    logfile = log.LogFile(config.path("log", "qmailpy.log"), "qmailpy", console=console, owner=who)
    log.add(logfile)
    seat = Seat(instance=instance, listening=listening, logfile=logfile, notifier=from_environment(os.environ))
    session = secrets.token_hex(8)

    def make(ready: Callable[[], None], asked: Callable[[str], None]) -> Running:
        Logger().info("{word}", word=ours.word)
        if config.server.workers == 0:
            given = None
            if who is not None:
                given = partial(thd_current, config.home, keys("mta", config))
                become(who)
            return OneProcess(
                reactor,
                config,
                listening=listening,
                session=session,
                on_ready=ready,
                asked=asked,
                roles=roles,
                keys=given,
            )
        processes = Processes(
            reactor,
            sockets={role: listening.of(role) for role in ("directory", "mta", "access")},
            lock=instance.children_lock,
            session=session,
            users=ours,
            console=console,
            roles=roles,
        )
        alarm = Alarm(reactor, config, who=who)
        events = EventLog(config.path("log", FILE_NAME), "supervisor", time.time, owner=who, told=alarm.told)
        for left in thd_lasting(config.path("log"), OF_PROCESSES):  # what they were told of is gone, with its daemon
            tell_over(events, left.event, left.fields["worker"], time.time() - left.time)
        return Supervisor(
            reactor,
            places(config),
            processes,
            config,
            ready,
            asked,
            silence_s,
            question_s,
            keys,
            events,
            (alarm.reconfigure, alarm.stop),
        )

    in_thread = partial(deferToThreadPool, reactor, reactor.getThreadPool())
    return Daemon(reactor, config, seat, make, load, in_thread)


def thd_current(home: str, first: Message) -> dict[str, Pair]:
    """
    The certificates and keys of a process that gave up root's rights: as they are now, where it may read them itself;
    else as they were at its start. Blocks.

    @param first: what C{keys} gave then.
    @raise ConfigError: neither can be had.
    """
    try:
        return thd_read_pairs(home)
    except ConfigError as error:
        pairs = pairs_of(first["keys"])
        Logger().info("certificates are those of the start, others need a restart: {why}", why=error.problems[0])
        return pairs
