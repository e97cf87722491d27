"""
The daily reports on TLS to the domains that ask for them (RFC 8460), by mail and by HTTPS; the first worker sends them.

A day is over at midnight UTC. Its reports go out some time after that, spread by chance over L{SPREAD_S} from node to
node (RFC 8460 s.4.1), domain by domain. Those by mail are signed (s.3) where C{[tlsrpt] dkim_selector} names a
key. One that could not be sent is tried again with the next look, for two days; then the day's figures are removed. A
crash in between may send a report twice, under the same report-id.
"""

from __future__ import annotations

import datetime
import hashlib
from functools import partial
from random import Random
from typing import Protocol

from attrs import evolve
from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from qmailpy.clocks import wall
from qmailpy.config.schema import Config
from qmailpy.errors import Temporary
from qmailpy.interfaces import IEnqueue, InThread, IResolver, IRouter
from qmailpy.remote.https import Https, HttpsFailed, host_of
from qmailpy.remote.tls_results import DAY_S, Day, ResultFiles, counted
from qmailpy.rounds import Rounds
from qmailpy.values import Envelope, Notify, Posting, Refused
from qmailpy.wire.headers import date
from qmailpy.wire.mime_values import subject_in
from qmailpy.wire.tlsa import Mismatch
from qmailpy.wire.tlsrpt import Reporter, packed, report, report_addresses, report_mail

LOOK_S = 900.0
FIRST_S = 600.0  # by then all processes have written what they saw before midnight
SPREAD_S = 3 * 3600.0
POST_S = 60.0
GIVE_UP_DAYS = 2

MEDIA_TYPE = "application/tlsrpt+gzip"
"""RFC 8460 s.5.4."""


class Chance(Protocol):
    """C{random.Random}, or what a test puts there."""

    def uniform(self, a: float, b: float) -> float:
        """A number between."""


class TlsReports(Service):
    """Looks now and then whether a day is over."""

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        config: Config,
        files: ResultFiles,
        resolver: IResolver,
        https: Https,
        enqueue: IEnqueue,
        router: IRouter,
        in_thread: InThread,
        chance: Chance | None = None,
    ) -> None:
        self._reactor = reactor
        self._wall = wall(reactor)
        self.config = config
        self._files = files
        self._resolver = resolver
        self._https = https
        self._enqueue = enqueue
        self._router = router
        self._in_thread = in_thread
        self._after_s = (chance or Random()).uniform(FIRST_S, SPREAD_S)  # noqa: S311 - spreads load
        self._done: set[tuple[int, str, str]] = set()
        self._rounds = Rounds(reactor, "reports on TLS", self.look)

    def startService(self) -> None:
        super().startService()
        self._rounds.start(LOOK_S, now=False)

    def stopService(self) -> None:
        super().stopService()
        self._rounds.stop()

    async def look(self) -> None:
        """Send what is due."""
        if not self.config.tlsrpt.send:
            return
        now = self._wall()
        today = int(now // DAY_S)
        for day in await self._in_thread(self._files.thd_days):
            if day >= today or now - (day + 1) * DAY_S < self._after_s:
                continue
            found: Day = await self._in_thread(partial(self._files.thd_read, day))
            sent = True
            for domain in sorted(found):
                sent = await self._report(day, domain, found) and sent
            if sent or today - day > GIVE_UP_DAYS:
                try:
                    await self._in_thread(partial(self._files.thd_remove, day))
                except OSError as error:
                    self._log.error("results of TLS cannot be removed: {why}", why=str(error))
                    continue
                self._done = {key for key in self._done if key[0] != day}

    async def _report(self, day: int, domain: str, found: Day) -> bool:
        """Report to one domain; whether that is done with."""
        try:
            addresses = report_addresses(await self._resolver.text(f"_smtp._tls.{domain}"))
        except Temporary:
            return False
        done = True
        over = datetime.date(1970, 1, 1) + datetime.timedelta(days=day)
        for address in addresses:
            key = day, domain, address
            if key in self._done:
                continue
            reporter = self._reporter()
            # The same when it is sent again: whoever gets it twice can tell.
            report_id = f"{over}.{hashlib.sha256(domain.encode()).hexdigest()[:16]}@{self.config.server.hostname}"
            zipped = packed(report(domain, over, counted(found, domain), reporter, report_id))
            try:
                if address.startswith("mailto:"):
                    to = address[len("mailto:") :]
                    mail = report_mail(domain, over, zipped, reporter, report_id, to, date(self._wall()))
                    await self._mail(reporter.contact, to, await self._in_thread(self._thd_signed, self.config, mail))
                else:
                    answer = await self._https.post(address, MEDIA_TYPE, zipped, POST_S)
                    if answer.status // 100 == 5:
                        raise HttpsFailed(Mismatch("", f"{host_of(address)} answers {answer.status}"))
                    if answer.status // 100 != 2:
                        said = f"{host_of(address)} answers {answer.status}"
                        self._log.warn("TLS report to {domain} is not taken: {why}", domain=domain, why=said)
            except (Temporary, HttpsFailed) as error:
                self._log.info("TLS report to {domain} waits: {why}", domain=domain, why=str(error)[:200])
                done = False
                continue
            self._done.add(key)
        return done

    def _thd_signed(self, config: Config, mail: bytes) -> bytes:
        """
        The message with a signature; without one where there is no key that can be used: some take that, too.
        """
        selector = config.tlsrpt.dkim_selector
        if not selector:
            return mail
        from qmailpy.auth.dkim import DkimError, key_path, thd_signer  # large, and used once a day

        path = key_path(config.home, selector, config.tlsrpt.dkim_key)
        try:
            signature = thd_signer(path, config.report_signer, selector).thd_sign(mail, report=True)
        except (OSError, DkimError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            self._log.error("TLS reports are not signed: {path}: {why}", path=path, why=why)
            return mail
        return signature + mail

    def _reporter(self) -> Reporter:
        config = self.config
        contact = config.report_sender
        organization = config.tlsrpt.organization or config.server.hostname
        return Reporter(organization=organization, contact=contact, domain=contact.rpartition("@")[2].lower())

    async def _mail(self, sender: str, to: str, octets: bytes) -> None:
        """
        Put a report into the queue: nobody is told what becomes of it, and it does not fail for want of TLS.

        @raise Temporary: not now.
        """
        local, _, domain = to.rpartition("@")
        address = f"{local}@{domain.lower()}"
        source = next((name for name, each in self.config.channels.items() if each.kind == "process"), "process")
        result = await self._router.route(address, source, Posting(sender=sender, accepted=True))
        if isinstance(result, Refused):
            self._log.warn("TLS report to {address} leads nowhere: {why}", address=address, why=str(result.reply))
            return
        recipients = [evolve(recipient, notify=Notify.NEVER) for recipient in result.recipients]
        envelope = Envelope(
            sender=sender,
            recipients=tuple(recipients),
            source=source,
            arrival=self._wall(),
            tls_optional=True,
            subject=subject_in(octets),
        )
        intake = self._enqueue.begin(self._enqueue.new_id(), None, len(octets))
        intake.write(octets)
        await intake.commit(envelope)
