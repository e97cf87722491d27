"""Listeners of every kind on real sockets, for the tests that submit mail with clients that are not ours."""

from __future__ import annotations

import datetime
import os
import shutil
import ssl
from collections.abc import Callable
from typing import TypeVar

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IReactorTCP, IReactorTime
from twisted.internet.threads import deferToThread
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase

from qmailpy.auth.logins import Logins
from qmailpy.cli.certificate import self_signed
from qmailpy.config.schema import ListenerConfig, LogConfig, QueueConfig, TrustConfig
from qmailpy.servers.smtp import SmtpFactory
from qmailpy.servers.tls import OWN, Certificates, Pair
from qmailpy.testing.memory_directory import MemoryDirectory
from qmailpy.testing.memory_recorder import MemoryRecorder
from qmailpy.testing.scripted_router import ScriptedRouter, local, remote, unknown_user
from tests.integration.test_smtp_server import LaterQueue

T = TypeVar("T")
USER, PASSWORD = "joe@example.org", "sesame"
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LC_ALL": "C"}


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} is missing: make test installs it")
    return found


def made_pair(name: str) -> Pair:
    certificate, key = self_signed(name, datetime.datetime.now(datetime.UTC))
    return Pair(certificate=certificate, key=key)


class SubmissionCase(TestCase):
    """Listeners of every kind on ports of the loopback interface."""

    timeout = 60

    async def setUp(self) -> None:  # type: ignore[override]
        self.queue = LaterQueue()
        self.queue.reactor = IReactorTime(global_reactor)
        router = ScriptedRouter()
        for name in ("b", "c"):
            router.now[f"{name}@example.org"] = local(f"{name}@example.org")
        router.now["bad@example.org"] = unknown_user()
        router.now["out@example.com"] = remote("out@example.com")
        directory = MemoryDirectory(("example.org",), (USER,), passwords={USER: PASSWORD.encode()})
        self.recorder = MemoryRecorder()
        own = made_pair("localhost")
        self.certificates = Certificates({OWN: own, "two": made_pair("mail.example.net")})
        self.authority = self.file(own.certificate)
        self.context = ssl.create_default_context(cafile=self.authority)
        logins = Logins(IReactorTime(global_reactor), directory)
        self.factories: list[SmtpFactory] = []
        self.ports: dict[str, int] = {}
        for listener in (
            ListenerConfig(name="smtp", kind="smtp", endpoint="tcp:0"),
            ListenerConfig(name="submission", kind="submission", endpoint="tcp:0"),
            ListenerConfig(name="submissions", kind="submission", endpoint="tcp:0", tls="implicit"),
            ListenerConfig(name="lmtp", kind="lmtp", endpoint="tcp:0", tls="none"),
            ListenerConfig(name="behind", kind="smtp", endpoint="tcp:0", tls="implicit", proxy=("127.0.0.0/8",)),
        ):
            factory = SmtpFactory(
                IReactorTime(global_reactor),
                hostname="mx.example.org",
                listener=listener,
                enqueue=self.queue,
                router=router,
                recorder=self.recorder,
                queue=QueueConfig(),
                log=LogConfig(),
                trust=TrustConfig(networks=()),
                certificates=self.certificates,
                logins=logins,
                directory=directory,
            )
            port = await TCP4ServerEndpoint(IReactorTCP(global_reactor), 0, interface="127.0.0.1").listen(factory)
            self.factories.append(factory)
            self.ports[listener.name] = port.getHost().port
            self.addCleanup(self.stop, factory, port.stopListening)

    def file(self, octets: bytes) -> str:
        """The path of a new file."""
        path: str = os.path.abspath(self.mktemp())
        with open(path, "wb") as target:
            target.write(octets)
        return path

    async def _stop(self, factory: SmtpFactory, stop_listening: Callable[[], Deferred[None] | None]) -> None:
        await (stop_listening() or succeed(None))
        await factory.drain(grace_s=5)

    def stop(self, factory: SmtpFactory, stop_listening: Callable[[], Deferred[None] | None]) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop(factory, stop_listening))

    def in_thread(self, client: Callable[[], T]) -> Deferred[T]:
        return deferToThread(client)

    async def run_tool(self, name: str, *words: str, source: str = "/dev/null", **more: str) -> tuple[int, str]:
        """
        Exit status and output of a program.

        @param source: the file it reads.
        @param more: of its environment.
        """
        arguments = ["-c", 'source=$1; shift; exec timeout 20 "$@" < "$source"', "sh", source, tool(name), *words]
        out, err, code = await getProcessOutputAndValue("/bin/sh", arguments, env={**ENVIRONMENT, **more})
        return code, (out + err).decode("utf-8", "replace")

    async def swaks(self, listener: str, *words: str) -> tuple[int, str]:
        where = ("--server", "127.0.0.1", "--port", str(self.ports[listener]), "--helo", "client.example.net")
        return await self.run_tool("swaks", *where, "--from", USER, "--to", "out@example.com", *words)
