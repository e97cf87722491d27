"""
C{make powercut}: the disk loses power under load, again and again (root, on a file system in a file).

A cut is ext4's own shutdown, without writing out its log (EXT4_IOC_SHUTDOWN): what was not yet durable at that moment
never becomes so, as with a real cut. Then the daemon is killed, the file system is mounted again, which replays its
journal, and the daemon is started on what is there. Each time everything acknowledged so far must be in place, whole.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import time
from random import Random, SystemRandom

import click

from benchmarks.ordeal import Ordeal, Verdict
from benchmarks.places import LoopImage, ended_by_signals, missing_for_loop, scratch
from benchmarks.promises import Findings
from benchmarks.showing import Showing
from benchmarks.torture import conclude

EXT4_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
NO_LOG_FLUSH = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH

OCTETS = 1500 << 20


def cut(mount_point: str) -> None:
    """Cut the power of an ext4 file system. @raise OSError: this kernel or file system cannot do it."""
    handle = os.open(mount_point, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(handle, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
    finally:
        os.close(handle)


def suffer(image: LoopImage, *, rounds: int, seed: int, showing: Showing, pause_s: float = 0.02) -> Verdict:
    """
    A whole run on a mounted image.

    @raise OSError: the daemon or the file system does not come back.
    """
    chance = Random(seed)  # noqa: S311 - reproducible
    ordeal = Ordeal(os.path.join(image.path, "home"), seed=seed, pause_s=pause_s)
    verdict = Verdict(Findings())
    try:
        ordeal.start()
        for number in range(1, rounds + 1):
            ordeal.load.go()
            time.sleep(chance.uniform(0.3, 3.0))
            cut(image.path)
            ordeal.node.kill()
            ordeal.node.reap()
            ordeal.load.pause()
            image.unmount()
            image.mount()
            ordeal.node.launch()
            back = ordeal.node.wait_open()
            verdict = ordeal.reckon(lambda text: None)
            showing.step(
                f"back after {back:.2f} s; {verdict.findings.accepted} messages acknowledged so far, "
                f"{len(verdict.findings.faults) + len(verdict.problems)} faults"
            )
            if not verdict.kept:
                showing.say(f"stopped after cut {number}")
                break
        ordeal.close(verdict)
        return verdict
    finally:
        ordeal.stop()


@click.command()
@click.option("--rounds", default=10, show_default=True, help="How many cuts.")
@click.option("--seed", default=0, help="For the same choices again (not the same moments); by chance unless given.")
def main(rounds: int, seed: int) -> None:
    """Cut the power under load and see that no acknowledged mail is lost."""
    seed = seed or SystemRandom().randrange(1, 1_000_000)
    with ended_by_signals(), scratch("powercut") as directory, Showing("powercut", rounds) as showing:
        why = missing_for_loop()
        image = LoopImage(directory, OCTETS)
        try:
            if not why:
                try:
                    image.make(fill=False)
                except OSError as problem:
                    why = str(problem)
            if why:
                showing.say(f"skipped: {why}")
                return
            showing.say(f"seed {seed}, on {image.device}")
            status = conclude(showing.say, suffer(image, rounds=rounds, seed=seed, showing=showing), [])
        except OSError as problem:
            showing.say(f"NOT all promises kept: {problem}")
            status = 1
        finally:
            image.remove()
    sys.exit(status)


if __name__ == "__main__":
    main()
