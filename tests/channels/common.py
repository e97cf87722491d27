"""What the tests of channels share: parts made of fakes, and a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from twisted.internet.task import Clock
from zope.interface import implementer

from qmailpy.channels.parts import IChannelReactor, Parts
from qmailpy.config.schema import BounceConfig, ChannelConfig, Config, ServerConfig
from qmailpy.interfaces import IDirectory, IResolver, IRouter
from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.testing.memory_directory import MemoryDirectory
from qmailpy.testing.memory_recorder import MemoryRecorder
from qmailpy.testing.scripted_router import ScriptedRouter
from qmailpy.values import Envelope, Job, MemoryContent, Recipient

MESSAGE = b"Received: from x\r\nSubject: hello\r\n\r\nbody\r\n"
QUEUE_ID = "abcdefghijklm00"


@implementer(IResolver)
class NoResolver:
    """A DNS that nobody may ask."""

    async def mx(self, domain: str) -> Sequence[tuple[int, str]]:
        raise AssertionError(domain)

    async def addresses(self, host: str) -> Sequence[str]:
        raise AssertionError(host)

    async def ipv4(self, host: str) -> Sequence[str]:
        raise NotImplementedError

    async def exists(self, domain: str) -> bool:
        raise AssertionError(domain)

    async def reverse(self, address: str) -> str:
        raise AssertionError(address)

    async def text(self, name: str) -> Sequence[str]:
        raise AssertionError(name)


def make_config(
    channels: Mapping[str, ChannelConfig] | None = None, bounce: BounceConfig | None = None, postmaster: str = ""
) -> Config:
    return Config(
        home="/home",
        server=ServerConfig(hostname="mx.example.org", postmaster=postmaster),
        bounce=bounce or BounceConfig(),
        channels=channels or {},
    )


def make_parts(
    config: Config | None = None,
    *,
    files: CrashDisk | None = None,
    directory: IDirectory | None = None,
    router: IRouter | None = None,
    clock: Clock | None = None,
) -> Parts:
    return Parts(
        reactor=cast(IChannelReactor, clock or Clock()),
        files=files or CrashDisk(directories=["/home"]),
        directory=directory or MemoryDirectory(),
        router=router or ScriptedRouter(),
        resolver=NoResolver(),
        recorder=MemoryRecorder(),
        config=config or make_config(),
    )


def make_job(*addresses: str, octets: bytes = MESSAGE, channel: str = "local", queue_id: str = QUEUE_ID) -> Job:
    recipients = tuple(Recipient(address=address, original=address, channel=channel) for address in addresses)
    return Job(
        id=queue_id,
        channel=channel,
        envelope=Envelope(sender="bob@example.com", recipients=recipients, source="tcp_local", arrival=1700000000.0),
        content=MemoryContent(octets),
        recipients=recipients,
        numbers=tuple(range(len(recipients))),
        attempt=1,
        said=("250 2.1.5 Delivered to the mailbox",) * len(recipients),  # for those that are replayed
    )
