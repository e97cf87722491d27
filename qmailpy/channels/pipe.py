"""
The C{pipe} kind of channel: each recipient's copy goes to the standard input of a program (docs/channels.md).

C{command} of the channel is the program and its arguments, in which C{$RECIPIENT} and its like stand for what they
name; each stays one argument, whatever is in it, and no shell is near. The same names are in the program's environment.
How it ends says what becomes of the recipient: L{qmailpy.channels.programs}.

An address that begins with a hyphen, where an argument is nothing but it, would be read as an option: it fails (5.1.3,
5.1.7). A program that is not there, or not to be run, makes mail wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.logger import Logger
from zope.interface import implementer

from qmailpy.channels.conversions.command import ReactorRun, filled
from qmailpy.channels.parts import Parts
from qmailpy.channels.programs import IPrograms, Limits, Programs, Took, not_taken, took
from qmailpy.config.schema import ChannelConfig, Config
from qmailpy.interfaces import IChannel, IReconfigured, IRunsPrograms
from qmailpy.threads import in_pool
from qmailpy.values import Disposition, Job, Recipient, Reply, Verdict

_TAKEN = Disposition(verdict=Verdict.DELIVERED, reply=Reply(250, "2.0.0", "Taken by the program"))
_UNREADABLE = Disposition(
    verdict=Verdict.DEFERRED, reply=Reply(451, "4.3.0", "The message cannot be read now; it is kept")
)
_BUG = Disposition(verdict=Verdict.DEFERRED, reply=Reply(451, "4.3.0", "internal error; the message is kept"))


def _bad(code: str, whose: str) -> Disposition:
    reply = Reply(553, code, f"The {whose}'s address begins with a hyphen, which the program would misunderstand")
    return Disposition(verdict=Verdict.FAILED, reply=reply)


@implementer(IChannel, IReconfigured, IRunsPrograms)
class PipeChannel:
    """Hands messages to a program; see the module's text."""

    log = Logger()

    def __init__(self, config: Config, channel: ChannelConfig, parts: Parts, programs: IPrograms | None = None) -> None:
        """@param programs: for tests; by default processes of the reactor."""
        self.name = channel.name
        reactor: Any = parts.reactor
        self._run = ReactorRun(reactor)
        self._programs = programs or Programs(self._run, in_pool(reactor), config.path("run", "programs"))
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        channel = config.channels.get(self.name)
        if channel is not None:
            self._command = channel.command
            self._home = config.home
            self._hostname = config.server.hostname
            self._limits = Limits(
                timeout_s=channel.run_s,
                memory_octets=channel.run_memory_octets,
                file_octets=channel.run_file_octets,
            )

    async def dequeue(self, job: Job) -> Sequence[Disposition]:
        return [await self._one(job, recipient) for recipient in job.recipients]

    async def stop(self) -> None:
        self.end_programs()

    def end_programs(self) -> None:
        self._run.stop()

    async def _one(self, job: Job, recipient: Recipient) -> Disposition:
        variables = _variables(job, recipient)
        bad = _misunderstood(self._command, variables)
        if bad is not None:
            return bad
        argv = filled(self._command, variables)
        environment = {**variables, "HOSTNAME": self._hostname}
        try:
            ended = await self._programs.run(argv, environment, self._home, job.content, self._limits)
        except OSError as problem:
            self.log.error("{channel}: message {id}: {why}", channel=self.name, id=job.id, why=str(problem))
            return _UNREADABLE
        except Exception:  # what programs have got of the others they would get again, were it the whole job's
            self.log.failure("bug in channel {name}, message {id}", name=self.name, id=job.id)
            return _BUG
        if took(ended) in (Took.TAKEN, Took.LAST):
            return _TAKEN
        said = not_taken(ended)
        if said.verdict is Verdict.DEFERRED:
            self.log.warn(
                "{channel}: {program} has not taken message {id}: {why}",
                channel=self.name,
                program=argv[0],
                id=job.id,
                why=said.diagnostic,
            )
        return said


def _variables(job: Job, recipient: Recipient) -> Mapping[str, str]:
    envelope = job.envelope
    local, _, host = recipient.address.rpartition("@")
    return {
        "SENDER": envelope.sender,
        "RECIPIENT": recipient.address,
        "ORIGINAL_RECIPIENT": recipient.original,
        "LOCAL": local,
        "HOST": host,
        "NEXT_HOP": recipient.host,
        "QUEUE_ID": job.id,
        "ENVELOPE_ID": envelope.envid,
        "LOGIN": envelope.user,
        "SOURCE_CHANNEL": envelope.source,
        "SIZE": str(job.content.size),
        "ATTEMPT": str(job.attempt),
    }


def _misunderstood(command: Sequence[str], variables: Mapping[str, str]) -> Disposition | None:
    for argument in command[1:]:
        if argument.startswith("$") and filled((argument,), variables)[0].startswith("-"):
            sender = argument.removeprefix("$").lstrip("{").startswith("SENDER")
            return _bad("5.1.7", "sender") if sender else _bad("5.1.3", "recipient")
    return None
