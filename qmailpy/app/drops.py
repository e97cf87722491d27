"""Mail that commands have left in HOME/queue/drop: taken into the queue, and the file removed after that."""

from __future__ import annotations

import time
from contextlib import suppress

from attrs import evolve
from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from qmailpy.config.schema import Config
from qmailpy.disk.files import Files
from qmailpy.errors import Temporary
from qmailpy.interfaces import IEnqueue, InThread, IRouter
from qmailpy.rounds import Rounds
from qmailpy.values import Envelope, Notify, Posting, Recipient, Refused
from qmailpy.wire.drop import Drop, DropError, read_drop
from qmailpy.wire.headers import find, received_field
from qmailpy.wire.mime_values import VALUE, subject_of

LOOK_S = 5.0
BATCH = 50  # files read at once
ID_CHARACTERS = 250  # of a Message-ID, for the log


class Drops(Service):
    """Looks into the directory at the start and every few seconds."""

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        config: Config,
        files: Files,
        enqueue: IEnqueue,
        router: IRouter,
        in_thread: InThread,
    ) -> None:
        self._directory = config.path("queue", "drop")
        self._corrupt = config.path("queue", "drop-corrupt")
        self._files = files
        self._enqueue = enqueue
        self._router = router
        self._in_thread = in_thread
        self._source = next((each.channel for each in config.listeners if each.name == "inject"), "local")
        self._process = next((name for name, each in config.channels.items() if each.kind == "process"), "process")
        self._hostname = config.server.hostname
        self._rounds = Rounds(reactor, "the drop directory", self._look)

    def startService(self) -> None:
        super().startService()
        self._rounds.start(LOOK_S)

    def stopService(self) -> None:
        super().stopService()
        self._rounds.stop()

    async def _look(self) -> None:
        for name, octets in await self._in_thread(self._thd_read):
            path = f"{self._directory}/{name}"
            try:
                drop = read_drop(octets)
            except DropError as problem:
                self._log.error("{path} cannot be read: {problem}; moved to drop-corrupt", path=path, problem=problem)
                await self._in_thread(self._thd_set_aside, name)
                continue
            try:
                await self._take(drop)
            except Temporary:
                return  # the next look finds it again
            await self._in_thread(self._thd_remove, path)

    def _thd_read(self) -> list[tuple[str, bytes]]:
        files = self._files
        names = sorted(name for name in files.listdir(self._directory) if not name.startswith((".", "tmp")))
        found: list[tuple[str, bytes]] = []
        for name in names[:BATCH]:
            with suppress(FileNotFoundError):  # somebody has taken it back
                found.append((name, files.read(f"{self._directory}/{name}")))
        return found

    def _thd_set_aside(self, name: str) -> None:
        self._files.mkdir(self._corrupt)
        self._files.rename(f"{self._directory}/{name}", f"{self._corrupt}/{name}")

    def _thd_remove(self, path: str) -> None:
        self._files.unlink(path)
        self._files.sync_directory(self._directory)

    async def _take(self, drop: Drop) -> None:
        """
        Enqueue it. An address that leads nowhere, or not now, is left to the process channel, which gives it back to
        the sender or tries again: whoever dropped the mail was told that we have it.

        @raise Temporary: not now, all of it is to be tried again.
        """
        recipients: list[Recipient] = []
        queue_id = self._enqueue.new_id()
        now = time.time()
        about = Posting(sender=drop.sender, accepted=True)
        for address in drop.recipients:
            result = await self._router.route(address, self._source, about)
            if isinstance(result, Refused):
                recipients.append(
                    Recipient(address=address, original=address, channel=self._process, notify=drop.notify)
                )
            else:
                several = result.recipients
                if len(several) > 1 and drop.notify & Notify.SUCCESS and drop.sender:
                    # That it was expanded is told by the channel that does it (RFC 3461 s.5.2.7.3).
                    several = (Recipient(address=address, original=address, channel=self._process),)
                recipients += [evolve(each, notify=drop.notify) for each in several] if drop.notify else several
        trace = received_field(
            helo=self._hostname,
            ip="",
            host=self._hostname,
            protocol="SMTP",
            queue_id=queue_id,
            moment=now,
            recipient=drop.recipients[0] if len(drop.recipients) == 1 else "",
        )
        known = find(drop.content[:VALUE], "message-id", "subject")
        envelope = Envelope(
            sender=drop.sender,
            recipients=tuple(recipients),
            source=self._source,
            arrival=now,
            protocol="SMTP",
            message_id=known.get("message-id", "")[:ID_CHARACTERS],
            subject=subject_of(known.get("subject", "")),
            ret=drop.ret,
            envid=drop.envid,
        )
        intake = self._enqueue.begin(queue_id, None, len(drop.content))
        intake.write(trace)
        intake.write(drop.content)
        await intake.commit(envelope)
