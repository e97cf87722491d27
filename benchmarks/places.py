"""
Where a run happens: directories that vanish afterwards, free ports, and a file system of its own in a file.

A file system with a journal of its own makes runs comparable: the disk of some machines has none, and on some it ages.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType

COMMAND_S = 120.0
_FILL = bytes(4 * 1024 * 1024)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within: SIGTERM and SIGHUP clean up as Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def scratch(prefix: str) -> Iterator[str]:
    """A directory others may enter (a server's own user must), removed afterwards."""
    path = tempfile.mkdtemp(prefix=f"qmailpy-{prefix}-")
    os.chmod(path, 0o755)  # noqa: S103
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def run(*command: str, limit_s: float = COMMAND_S) -> str:
    """
    What a command prints.

    @raise OSError: it is not there or it failed; the text says what it said.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        raise OSError(f"{command[0]}: not finished after {limit_s:.0f} s") from None
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip() or done.returncode}")
    return done.stdout


def missing_for_loop() -> str:
    """Why there can be no file system in a file here; "" when there can."""
    if os.geteuid() != 0:
        return "not root"
    if not os.path.exists("/dev/loop-control"):
        return "no loop devices here (/dev/loop-control)"
    for tool in ("losetup", "mkfs.ext4", "mount", "umount"):
        if shutil.which(tool) is None:
            return f"no {tool} here (apt-get install {'e2fsprogs' if tool.startswith('mkfs') else 'mount'})"
    return ""


class LoopImage:
    """An ext4 file system with a journal, in a file of its own, on a loop device."""

    def __init__(self, directory: str, octets: int, inodes: int = 0) -> None:
        """
        @param directory: where the image (C{image}) and the mount point (C{disk}) are made.
        @param inodes: how many it shall have; 0 = as usual for its size.
        """
        self.image = os.path.join(directory, "image")
        self.path = os.path.join(directory, "disk")
        self.device = ""
        self._octets = octets
        self._inodes = inodes
        self._mounted = False

    def make(self, fill: bool = True) -> None:
        """
        Make and mount it.

        @param fill: write all of the image once, so that the disk below need not allocate while something is measured.
        @raise OSError: it cannot be had; nothing is left mounted.
        """
        handle = os.open(self.image, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.ftruncate(handle, self._octets)
            for at in range(0, self._octets if fill else 0, len(_FILL)):
                os.pwrite(handle, _FILL[: self._octets - at], at)
            os.fsync(handle)
        finally:
            os.close(handle)
        more = ("-N", str(self._inodes)) if self._inodes else ()
        # nodiscard: a discard would punch holes where the image has just been filled.
        run("mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", *more, self.image)
        os.mkdir(self.path)
        self.device = run("losetup", "--find", "--show", self.image).strip()
        try:
            self.mount()
        except OSError:
            self.remove()
            raise

    def mount(self) -> None:
        """@raise OSError: it cannot be mounted."""
        run("mount", "-t", "ext4", self.device, self.path)
        self._mounted = True
        os.chmod(self.path, 0o755)  # noqa: S103

    def unmount(self, limit_s: float = 10.0) -> None:
        """
        Unmount; waits for processes that are just ending.

        @raise OSError: somebody still has files open there.
        """
        deadline = time.monotonic() + limit_s
        while self._mounted:
            try:
                run("umount", self.path)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                self._mounted = False

    def remove(self) -> None:
        """Unmount and free the device, whatever it takes; safe to call twice."""
        try:
            self.unmount()
        except OSError:
            with suppress(OSError):
                run("umount", "-l", self.path)
            self._mounted = False
        if self.device:
            with suppress(OSError):
                run("losetup", "--detach", self.device)
            self.device = ""
        with suppress(OSError):
            os.unlink(self.image)


@contextmanager
def disk(prefix: str, octets: int, inodes: int = 0, *, loop: bool = True) -> Iterator[tuple[str, str]]:
    """
    A directory to work in, and in words what it is on.

    @param loop: try for a file system in a file; else, and where that cannot be had, the directory for temporary files.
    """
    with ExitStack() as stack:
        stack.enter_context(ended_by_signals())
        top = stack.enter_context(scratch(prefix))
        why = missing_for_loop() if loop else "as asked"
        if not why:
            made = LoopImage(top, octets, inodes)
            stack.callback(made.remove)
            try:
                made.make()
            except OSError as problem:
                why = str(problem)
            else:
                yield made.path, f"ext4 with a journal in a file on {filesystem(top)} (loop device, image filled first)"
                return
        os.makedirs(os.path.join(top, "disk"))
        yield os.path.join(top, "disk"), f"{filesystem(top)} of the machine ({why})"


def filesystem(path: str) -> str:
    """The kind of the file system a path is on: "ext4"."""
    try:
        return run("stat", "-f", "-c", "%T", path).strip().replace("ext2/ext3", "ext4")
    except OSError:
        return "a file system"
