"""Mail servers that Debian does not let be installed beside each other: scripts/bootstrap.sh unpacks them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile

from tests.integration.daemon_process import until
from tests.integration.peers.running import ended, free_port

PEERS = os.path.join(sys.prefix, "peers")


def program(*parts: str) -> str:
    """Where a program of theirs is. @raise RuntimeError: it is not there."""
    path = os.path.join(PEERS, *parts)
    if not os.access(path, os.X_OK):
        raise RuntimeError(f"{path} is missing: make test brings it, as root")
    return path


class Peer:
    """
    A server in the foreground, from its making to C{close}.

    @ivar base: its directory, which is removed.
    @ivar port: on 127.0.0.1.
    """

    def __init__(self, prefix: str) -> None:
        self.base = tempfile.mkdtemp(prefix=prefix)
        os.chmod(self.base, 0o755)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def path(self, *parts: str) -> str:
        return os.path.join(self.base, *parts)

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        with open(self.path(name), "w") as target:
            target.write(text)
        os.chmod(self.path(name), mode)

    def certificate(self, kind: tuple[str, ...] = ("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")) -> None:
        """cert.pem and key.pem, for nobody in particular."""
        files = ("-keyout", self.path("key.pem"), "-out", self.path("cert.pem"))
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", *kind, "-nodes", "-days", "2", "-subj", "/CN=peer.example", *files],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=30,
            check=True,
        )
        os.chmod(self.path("key.pem"), 0o600)

    def start(self, command: list[str]) -> None:
        """Returns when it greets."""
        with open(self.path("output"), "wb") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.base
            )
        try:
            until(self._greets)
        except BaseException as error:
            text = self.output()
            self.close()
            raise RuntimeError(f"{command[0]} does not answer: {text}") from error

    def _greets(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
                return connection.recv(3) == b"220"
        except OSError:
            return False

    def output(self) -> str:
        """What it has said so far."""
        with open(self.path("output"), errors="replace") as source:
            return source.read()

    def close(self) -> None:
        if self._process is not None:
            ended(self._process)
        shutil.rmtree(self.base, ignore_errors=True)
