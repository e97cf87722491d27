"""
C{make run}: the main job, for a person to see. C{python -m qmailpy.app.demo [--once] [--home DIRECTORY]}

Makes a home (C{./var}) when there is none, plays the outside world (L{qmailpy.app.demo_sink}), starts the daemon,
submits four messages over SMTP, waits for the transaction log to tell what became of each, and shows the delivered
message, the log and the counters with qmailpy's own commands. Then it stays up until Ctrl-C, or stops in order
(C{--once}).

Exit status 0 when every step went well, else 1 and one line that says which did not.
"""

from __future__ import annotations

import argparse
import os
import signal
import smtplib
import sys
import time
import traceback
from collections.abc import Sequence
from email.utils import formatdate
from typing import Any

from rich.console import Console
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.threads import deferToThreadPool

from qmailpy.app import demo_sink
from qmailpy.app.demo_home import REMOTE, Stage, prepare
from qmailpy.app.demo_mail import Ledger, Mail, mails, thd_submit
from qmailpy.app.demo_programs import Daemon, command, program
from qmailpy.app.demo_show import Show
from qmailpy.app.demo_watch import LogWatch
from qmailpy.cli.output import print_error
from qmailpy.errors import CommandError, ConfigError

START_S = 60.0  # for the daemon: a slow machine compiles all modules at the first start
MAIL_S = 60.0  # for all mail to arrive
STOP_MARGIN_S = 10.0  # beyond [server] drain_s


class Demonstration:
    """One run."""

    def __init__(self, reactor: Any, home: str, show: Show) -> None:
        """@param home: absolute path."""
        self._reactor = reactor
        self._home = home
        self._show = show
        self._daemon: Daemon | None = None
        self._sink: IListeningPort | None = None
        self._watch: LogWatch | None = None
        self._taken: list[demo_sink.Taken] = []
        self._drain_s = 20.0
        self.finished = False  # the show is over; what follows is the person's

    async def run(self, once: bool) -> None:
        """
        All of it.

        @raise CommandError: a step failed.
        """
        try:
            stage = await self._start()
            await self._mail(stage)
            self.finished = True
            if not once:
                self._show.by_hand(stage, os.path.dirname(program("qmailpy")), "Try it by hand")
                self._show.heading("Running until Ctrl-C")
                assert self._daemon is not None
                raise CommandError(f"the daemon ended by itself with status {await self._daemon.end()}; see its log")
        except BaseException:
            await self._stop()  # its status is no news beside what went wrong before
            raise
        status = await self._stop()
        if status:
            raise CommandError(f"the daemon did not stop in order (status {status}); see its log")
        self._show.heading("Stop")
        self._show.done("the daemon has stopped")
        self._show.by_hand(stage, os.path.dirname(program("qmailpy")), "To try by hand what stays up with: make run")

    async def _start(self) -> Stage:
        show = self._show
        show.heading("Start")
        stage = await prepare(self._reactor, self._home)
        self._drain_s = stage.config.server.drain_s
        show.done(f"home {stage.home}" + (", made just now" if stage.made else ", kept from before"))
        try:
            self._sink = demo_sink.listen(self._reactor, stage.sink_port, REMOTE, self._taken.append)
        except CannotListenError as error:
            raise CommandError(
                f"the sink cannot listen on port {stage.sink_port}: {error.socketError.strerror}; end what does "
                "(another demonstration?), or choose another port: "
                f"qmailpy --home {stage.home} config set channel.tcp_local.relay 127.0.0.1:PORT"
            ) from error
        show.done(f"sink for {REMOTE} on 127.0.0.1:{stage.sink_port}")
        self._daemon = Daemon()
        self._daemon.start(self._reactor, stage.home)
        began = time.monotonic()
        try:
            await self._daemon.ready.addTimeout(START_S, self._reactor)
        except defer.TimeoutError:
            raise CommandError(
                f"the daemon was not ready after {START_S:g} s; see {stage.home}/log/qmailpy.log"
            ) from None
        show.done(f"daemon ready after {time.monotonic() - began:.1f} s (its log: {stage.home}/log/qmailpy.log)")
        return stage

    async def _mail(self, stage: Stage) -> None:
        show, reactor = self._show, self._reactor
        self._watch = LogWatch(reactor, stage.config)
        run = f"{time.time():.0f}"
        sent = mails(stage, run)
        date = formatdate(localtime=True)
        ledger = Ledger(sent, [one.name for one in stage.config.channels.values() if one.kind == "local"])
        told = self._watch.until(ledger, MAIL_S)
        show.heading("Mail, submitted over SMTP")
        try:
            for mail in sent:
                try:
                    reply = await deferToThreadPool(
                        reactor, reactor.getThreadPool(), thd_submit, stage.port, mail, date
                    )
                except (smtplib.SMTPException, OSError) as error:
                    raise CommandError(f"mail to {', '.join(mail.recipients)} was not accepted: {error}") from error
                show.done(f"{mail.what}: {mail.sender} -> {', '.join(mail.recipients)}: {reply}")
            await told
        finally:
            told.addErrback(lambda _: None)
            told.cancel()
        show.done("the transaction log tells of every recipient, and of the failure notice")
        if (sent[2].sender, sent[2].recipients) not in {(one.sender, one.recipients) for one in self._taken}:
            raise CommandError(f"the sink did not get the mail of {sent[2].sender}")
        show.done(f"the sink took {len(self._taken)} messages")
        self._delivered(stage, sent[0], ledger.delivered.get(sent[0].message_id, "?"), date)
        await self._books(stage, self._watch.lines)

    def _delivered(self, stage: Stage, mail: Mail, queue_id: str, date: str) -> None:
        """Show the message in its Maildir, and see that it is what was sent."""
        folder = os.path.join(stage.home, "mail", stage.domain, "bob", "Maildir", "new")
        names = [name for name in os.listdir(folder) if f".Q{queue_id}R" in name]
        if len(names) != 1:
            raise CommandError(f"{folder} has {len(names)} files of message {queue_id}")
        path = os.path.join(folder, names[0])
        with open(path, "rb") as source:
            octets = source.read()
        if not octets.endswith(mail.octets(date).replace(b"\r\n", b"\n")):
            raise CommandError(f"{path} is not what was sent")
        self._show.heading("The delivered message")
        self._show.done(path)
        self._show.text(octets.decode("utf-8", "replace"))

    async def _books(self, stage: Stage, lines: int) -> None:
        """Show log and counters by the program's own commands."""
        for title, words in (
            ("The transaction log of it", ("log", "tail", "-n", str(lines))),
            ("The channel counters", ("qm", "counters", "show")),
            ("The books balance", ("qm", "counters", "verify")),
        ):
            self._show.heading(title)
            self._show.outcome(stage, await command(self._reactor, stage.home, *words))

    async def _stop(self) -> int:
        """Stop the daemon in order, and whatever else runs; the daemon's exit status."""
        status = 0
        if self._watch is not None:
            self._watch.stop()
        if self._daemon is not None:
            status = await self._daemon.stop(self._reactor, self._drain_s + STOP_MARGIN_S)
        if self._sink is not None:
            await _closed(self._sink)
        return status


async def _closed(port: IListeningPort) -> None:
    waiting = port.stopListening()
    if waiting is not None:
        await waiting


def main(arguments: Sequence[str] | None = None) -> int:
    """The whole program; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make run ARGS=...", description="A demonstration of qmailpy.")
    parser.add_argument("--once", action="store_true", help="stop after the show")
    parser.add_argument("--home", default="var", help="the home it runs on, made when it is not there (default: var)")
    options = parser.parse_args(arguments)
    os.umask(0o077)
    from twisted.internet import reactor as running_reactor

    reactor: Any = running_reactor

    show = Show(Console())
    demonstration = Demonstration(reactor, os.path.abspath(options.home), show)
    status = 1

    def begin() -> None:
        running = Deferred.fromCoroutine(demonstration.run(options.once))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Not Twisted's own, which would stop the reactor: the daemon is to be stopped first.
            signal.signal(number, lambda *_: reactor.callFromThread(running.cancel))
        running.addCallbacks(lambda _: succeeded(), lambda failure: failed(failure.value))
        running.addBoth(lambda _: reactor.stop())

    def succeeded() -> None:
        nonlocal status
        status = 0

    def failed(error: BaseException) -> None:
        nonlocal status
        if isinstance(error, CancelledError):
            status = 0 if demonstration.finished else 1
            if status:
                print_error("interrupted")
        elif isinstance(error, ConfigError):
            print_error(error.problems[0])
        elif isinstance(error, CommandError | OSError):
            print_error(error)
        else:
            if os.environ.get("QMAILPY_TRACE"):
                traceback.print_exception(error)
            print_error(
                f"internal error, please report it: {type(error).__name__}: {error}; QMAILPY_TRACE=1 tells more"
            )

    reactor.callWhenRunning(begin)
    reactor.run()
    return status


if __name__ == "__main__":
    sys.exit(main())
