"""
Users whose own .qmail files say what is done with their mail (L{qmailpy.local.dotqmail}), as the local channel does it.

As qmail-local does, lines are done in order, until one fails; what they forward to goes out last, in the transaction in
which the recipient is done. When a line cannot be done now, the recipient is tried again, with all its lines: what an
mbox or a program has got it gets once more (a Maildir has it once all the same, as long as nobody has moved it). Where
that can be seen before, nothing is begun: a file that is not followed, an address that cannot be routed now, a program
that may not be run.

Forwards have a C{Delivered-To} field of the recipient, and a sender of ours that leads back to the first one when they
leave the house (SRS). With an C{-owner} file their sender is that address, and with an C{-owner-default} file one that
tells for each of them who could not be reached (VERP).

Programs are run by C{/bin/sh -c}, as qmail does, and only where C{[local] programs} and the user's plan say so.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

from attrs import evolve, frozen
from twisted.internet.defer import DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from qmailpy.channels.forward import Forwards, Marked
from qmailpy.channels.parts import Parts
from qmailpy.channels.programs import IPrograms, Limits, Took, not_taken, took
from qmailpy.clocks import latest
from qmailpy.config.schema import Config
from qmailpy.errors import Temporary
from qmailpy.interfaces import InThread
from qmailpy.local.dotqmail import Does, Found, Line, NotFollowed, thd_find
from qmailpy.local.loops import delivered_to
from qmailpy.local.maildir import Delivery, mailbox_path, thd_octets, trouble
from qmailpy.local.mbox import from_line, quoted, thd_append
from qmailpy.routing.expand import SUBADDRESS
from qmailpy.routing.posting import accepted
from qmailpy.values import Disposition, Job, Mailbox, NewMail, Notify, Recipient, Refused, Reply, Verdict
from qmailpy.wire.address import parse_mailbox

_DONE = Disposition(verdict=Verdict.DELIVERED, reply=Reply(250, "2.1.5", "Delivered as .qmail says"))
_FORWARDED = Reply(250, "2.1.5", "Forwarded as .qmail says")
_LOOP = Disposition(
    verdict=Verdict.FAILED,
    reply=Reply(554, "5.4.6", "Mail loop: the message has been delivered to this address before"),
)
_NOBODY = Disposition(verdict=Verdict.FAILED, reply=Reply(550, "5.1.1", "There is no such address here"))

_BUG = Disposition(verdict=Verdict.DEFERRED, reply=Reply(451, "4.3.0", "internal error; the message is kept"))

AT_ONCE = 10
"""Programs that run together, for all users of a channel."""

LOCK_S = 30.0
"""How long an mbox that somebody else has locked is waited for."""

Deliver = Callable[[Delivery], Awaitable[Disposition]]

Find = Callable[[str, str, Sequence[int]], Found | None]
"""As L{thd_find}."""


def _later(why: str) -> Disposition:
    """What the log says of a file that is not followed; senders need not know what users write."""
    reply = Reply(451, "4.3.5", "The mailbox's own rules cannot be followed now")
    return Disposition(verdict=Verdict.DEFERRED, reply=reply, diagnostic=f"{reply}: .qmail: {why}")


@frozen(kw_only=True)
class Case:
    """One recipient of one job."""

    job: Job
    recipient: Recipient
    mailbox: Mailbox
    delivery: Delivery  # into the mailbox, as it were without a .qmail file

    @property
    def local(self) -> str:
        return self.recipient.address.rpartition("@")[0]

    @property
    def extension(self) -> str:
        return self.local.partition(SUBADDRESS)[2]

    @property
    def host(self) -> str:
        return self.recipient.address.rpartition("@")[2]


class DotQmail:
    """What is done for such users."""

    log = Logger()

    def __init__(
        self,
        config: Config,
        name: str,
        parts: Parts,
        in_thread: InThread,
        programs: IPrograms,
        deliver: Deliver,
        find: Find = thd_find,
    ) -> None:
        """
        @param name: of the channel.
        @param deliver: carries out a delivery into a Maildir below HOME/mail.
        @param find: for tests: reads the .qmail files.
        """
        self._find = find
        self._started = latest(parts.reactor)
        self._name = name
        self._parts = parts
        self._clock: IReactorTime = parts.reactor
        self._in_thread = in_thread
        self._programs = programs
        self._deliver = deliver
        self._running = DeferredSemaphore(AT_ONCE)
        self._owners = (0, os.geteuid())
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """Use these settings from now on."""
        local = config.local
        self._allowed = local.programs
        self._root = config.path("mail")
        self._limits = Limits(
            timeout_s=local.program_s,
            memory_octets=local.program_memory_octets,
            file_octets=local.program_file_octets,
        )
        self._forwards = Forwards(config, self._parts.directory, self._parts.srs_secret, self._parts.seconds)
        self._bad = next((name for name, one in config.channels.items() if one.kind == "local"), self._name)

    def home(self, mailbox: Mailbox) -> str:
        """A user's directory. @raise OSError: the mailbox has no place."""
        return mailbox_path(self._root, mailbox.path).rpartition("/")[0]

    async def done(self, case: Case) -> Disposition:
        """Do what the user's file says; never fails."""
        try:
            return await self._done(case)
        except NotFollowed as problem:
            said = _later(str(problem))
        except Temporary as error:
            said = Disposition(verdict=Verdict.DEFERRED, reply=error.reply)
        except OSError as error:
            said = Disposition(verdict=Verdict.DEFERRED, reply=trouble(error), diagnostic=f"{trouble(error)}: {error}")
        except Exception:  # it must not cost other recipients the marks of what they have got
            self.log.failure("bug in channel {name}, message {id}", name=self._name, id=case.job.id)
            return _BUG
        self.log.warn(
            "{channel}: message {id} for {address} waits: {why}",
            channel=self._name,
            id=case.job.id,
            address=case.recipient.address,
            why=said.diagnostic or str(said.reply),
        )
        return said

    async def _done(self, case: Case) -> Disposition:
        found: Found | None = await self._in_thread(self._find, self.home(case.mailbox), case.extension, self._owners)
        if found is None or found.empty:
            if found is None and case.extension and not case.mailbox.subfolders:
                return _NOBODY
            return await self._deliver(case.delivery)
        content = case.job.content
        header: bytes = content.header() if content.in_memory else await self._in_thread(content.header)
        if case.recipient.address.lower() in delivered_to(header):
            return _LOOP
        targets = self._checked(case, found)
        routed = [await self._route(case, one) for one in targets]
        sender = self._sender(case, found)
        environment = self._environment(case, found, sender)
        forwards = stored = 0
        notes: tuple[NewMail, ...] = ()  # of a mailbox that is nearly full
        for line in found.lines:
            if line.does is Does.FORWARD:
                forwards += 1
                continue
            said, last = await self._line(case, line, environment)
            if said.verdict is not Verdict.DELIVERED:
                return said
            stored += 1
            notes += said.mails
            if last:
                break
        mails = await self._mails(case, sender, routed[:forwards], kept=stored > 0)
        if mails and not stored:
            return Disposition(verdict=Verdict.FORWARDED, reply=_FORWARDED, mails=mails)
        return evolve(_DONE, mails=(*notes, *mails))

    def _checked(self, case: Case, found: Found) -> list[str]:
        """The addresses that are forwarded to. @raise NotFollowed: something will not be done."""
        targets = []
        for line in found.lines:
            if line.does is Does.FORWARD:
                if "forwarding" not in case.mailbox.features:
                    raise NotFollowed("it forwards, which the user's plan does not allow")
                text = line.what.removeprefix("<").removesuffix(">")
                address = parse_mailbox(text if "@" in text else f"{text}@{case.host}", utf8=True)
                if isinstance(address, Reply):
                    raise NotFollowed(f"{line.what!r} is no address")
                targets.append(address)
            elif line.does is Does.PROGRAM:
                if not self._may_run(case.mailbox):
                    raise NotFollowed("it names a program, and programs are off ([local] programs, or the user's plan)")
            else:
                self._place(case, line)
        return targets

    def _may_run(self, mailbox: Mailbox) -> bool:
        return self._allowed and "programs" in mailbox.features

    def _place(self, case: Case, line: Line) -> str:
        """
        The path of a Maildir below HOME/mail, or of an mbox.

        All users' files belong to one user of the system, so who may not run programs has no others than those of the
        user's own directory.
        """
        home = self.home(case.mailbox)
        path = os.path.normpath(line.what if line.what.startswith("/") else f"{home}/{line.what}")
        own = os.path.realpath(path).startswith(os.path.realpath(home) + "/")
        if not own and not self._may_run(case.mailbox):
            raise NotFollowed(f"{line.what} is not in the user's directory")
        if line.does is Does.MBOX:
            return path
        if not path.startswith(f"{self._root}/"):
            raise NotFollowed(f"{line.what}/ is not below {self._root}")
        return path.removeprefix(f"{self._root}/")

    # --- lines -----------------------------------------------------------------------------------------------

    async def _line(self, case: Case, line: Line, environment: Mapping[str, str]) -> tuple[Disposition, bool]:
        """What a line comes to, and whether the rest is left out."""
        if line.does is Does.PROGRAM:
            return await self._program(case, line.what, environment)
        place = self._place(case, line)
        if line.does is Does.MBOX:
            await self._mbox(case, place)
            return _DONE, False
        delivery = case.delivery
        if place != delivery.mailbox:
            delivery = Delivery(
                id=delivery.id,
                number=delivery.number,
                arrival=delivery.arrival,
                sender=delivery.sender,
                address=delivery.address,
                mailbox=place,
                content=delivery.content,
                binary=delivery.binary,
            )
        # A tag has its own file here; the line says where mail goes.
        return await self._deliver(evolve(delivery, tag="", at_once=True)), False

    async def _program(self, case: Case, command: str, environment: Mapping[str, str]) -> tuple[Disposition, bool]:
        home = self.home(case.mailbox)
        await self._running.acquire()
        try:
            ended = await self._programs.run(
                ("/bin/sh", "-c", command), environment, home, case.job.content, self._limits
            )
        finally:
            self._running.release()
        said = took(ended)
        if said in (Took.TAKEN, Took.LAST):
            return _DONE, said is Took.LAST
        return not_taken(ended), False

    async def _mbox(self, case: Case, path: str) -> None:
        """@raise OSError: it cannot be written, or is locked."""
        until = self._clock.seconds() + LOCK_S
        while not await self._in_thread(self._thd_mbox, case, path):
            if self._clock.seconds() >= until:
                raise OSError(11, "it is locked by somebody else", path)
            await deferLater(self._clock, 0.5)

    def _thd_mbox(self, case: Case, path: str) -> bool:
        delivery = case.delivery

        def text() -> Iterator[bytes]:
            # The time of arrival, so that it is the same at each attempt.
            yield from_line(delivery.sender, delivery.arrival)
            yield from quoted(thd_octets(delivery))

        former = delivery.arrival < self._started
        return thd_append(self._parts.files, path, text, again=case.job.attempt > 1, former=former)

    # --- forwards --------------------------------------------------------------------------------------------

    async def _route(self, case: Case, address: str) -> tuple[bool, str, tuple[Recipient, ...]]:
        """
        Where a forward leads: whether it is an address of ours, the address, and its recipients. One that leads nowhere
        fails in the local channel, which tells the sender.

        @raise Temporary: it cannot be told now.
        """
        route = await self._parts.router.route(address, self._name, accepted(case.job.envelope))
        if isinstance(route, Refused):
            if route.reply.temporary and route.reply.enhanced != "4.2.1":  # that is a mailbox that is disabled
                raise Temporary(route.reply)
            return True, address, (Recipient(address=address, original=address, channel=self._bad),)
        return route.local, address, route.recipients

    def _sender(self, case: Case, found: Found) -> str:
        """NEWSENDER: that of the message, or the -owner address."""
        sender = case.job.envelope.sender
        if not found.owner or not sender or sender == "#@[]":
            return sender
        dash = "-" if case.extension else SUBADDRESS
        if found.verp:
            return f"{case.local}{dash}owner-@{case.host}-@[]"
        return f"{case.local}{dash}owner@{case.host}"

    async def _mails(
        self,
        case: Case,
        sender: str,
        routed: Sequence[tuple[bool, str, tuple[Recipient, ...]]],
        *,
        kept: bool,
    ) -> tuple[NewMail, ...]:
        """@param kept: the message was delivered here as well, and that is what its sender is told."""
        if not routed:
            return ()
        job, recipient = case.job, case.recipient
        envelope = job.envelope
        address = recipient.address
        owned = sender != envelope.sender
        notify, orcpt = recipient.notify, recipient.orcpt
        if owned:  # a list (RFC 3461 s.5.2.7.1)
            envelope = evolve(envelope, envid="", ret="")
            notify, orcpt = 0, ""
        elif kept and notify & Notify.SUCCESS:
            notify = notify & ~Notify.SUCCESS or int(Notify.NEVER)
        content = Marked(f"Delivered-To: {address}\r\n".encode("utf-8", "replace"), job.content)
        by_sender: dict[str, dict[tuple[str, str], Recipient]] = {}
        for ours, target, recipients in routed:
            if owned:
                name, _, host = target.rpartition("@")
                from_ = sender.removesuffix(f"-@{case.host}-@[]")
                from_ = f"{from_}-{name}={host}@{case.host}" if from_ != sender else sender
            else:
                from_ = sender if ours else await self._forwards.sender(sender, address)
            some = by_sender.setdefault(from_, {})
            for one in recipients:
                some.setdefault((one.address.lower(), one.channel), evolve(one, notify=notify, orcpt=orcpt))
        return tuple(
            NewMail(envelope=evolve(envelope, sender=from_, recipients=tuple(some.values())), content=content)
            for from_, some in by_sender.items()
        )

    # --- what programs know ----------------------------------------------------------------------------------

    def _environment(self, case: Case, found: Found, sender: str) -> dict[str, str]:
        """As qmail-command(8) lists it."""
        first = case.job.envelope.sender
        extension, host = case.extension, case.host
        user = case.mailbox.address.rpartition("@")[0]
        made = {
            "SENDER": first,
            "NEWSENDER": sender,
            "RECIPIENT": case.recipient.address,
            "USER": user,
            "LOGNAME": user,
            "HOME": self.home(case.mailbox),
            "SHELL": "/bin/sh",
            "LOCAL": case.local,
            "HOST": host,
            "EXT": extension,
            "DEFAULT": found.default,
            "RPLINE": f"Return-Path: <{first}>\n",
            "DTLINE": f"Delivered-To: {case.recipient.address}\n",
            "UFLINE": from_line(first, self._parts.seconds()).decode("utf-8", "replace"),
        }
        for number in (2, 3, 4):
            host = host.rpartition(".")[0]
            made[f"HOST{number}"] = host
            extension = extension.partition("-")[2]
            made[f"EXT{number}"] = extension
        return made
