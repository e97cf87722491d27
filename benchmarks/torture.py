"""
C{make torture}: the real daemon under load, its processes killed with -9 at random moments, again and again.

Channels of every kind are busy (L{benchmarks.wide}). Afterwards every message that was acknowledged is in its Maildir,
whole and once, or at the sink, or back at its sender; nothing else is; the queue is empty and the books balance. Exit
status 0 when all of that holds.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random, SystemRandom

import click
from attrs import Factory, define

from benchmarks.ordeal import Ordeal, Verdict
from benchmarks.places import ended_by_signals, scratch
from benchmarks.showing import Showing

# How often each is killed, in relation.
VICTIMS = {"worker": 5, "worker twice": 2, "everything": 3, "everything twice": 2, "supervisor": 3, "directory": 1}


@define
class Tally:
    """How the kills went."""

    kinds: Counter[str] = Factory(Counter)
    back_s: dict[str, float] = Factory(dict)  # longest time until mail was taken again, by victim

    def note(self, victim: str, back_s: float) -> None:
        """One kill."""
        self.kinds[victim] += 1
        self.back_s[victim] = max(self.back_s.get(victim, 0.0), back_s)

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"killed {count} x {victim}: mail taken again after at most {self.back_s[victim]:.2f} s"
            for victim, count in sorted(self.kinds.items())
        ]


class Torture:
    """One run."""

    def __init__(self, ordeal: Ordeal, chance: Random) -> None:
        self._ordeal = ordeal
        self._node = ordeal.node
        self._chance = chance
        self.tally = Tally()

    def round(self, victim: str = "") -> str:
        """
        Let it work for a moment, kill, and see it come back.

        @param victim: of L{VICTIMS}; "" = by chance.
        @return: one line about it.
        @raise OSError: it does not come back.
        """
        time.sleep(self._chance.uniform(0.1, 1.2))
        victim = victim or self._chance.choices(list(VICTIMS), list(VICTIMS.values()))[0]
        self._kill(victim.removesuffix(" twice"))
        if victim.endswith("twice"):
            time.sleep(self._chance.uniform(0.0, 1.5))  # while it recovers, or just after
            self._kill(victim.removesuffix(" twice"))
        back = self._node.wait_open()
        self.tally.note(victim, back)
        return f"{victim}: back after {back:.2f} s, {self._ordeal.load.ledger.accepted()} messages acknowledged so far"

    def _kill(self, victim: str) -> None:
        node = self._node
        if victim == "worker":
            self._kill_role("mta")
        elif victim == "directory":
            self._kill_role("directory")
        elif victim == "supervisor":
            node.members()  # remember its children
            node.kill(node.pid)
            node.reap()
            node.launch()
        else:
            node.kill()
            node.reap()
            node.launch()

    def _kill_role(self, role: str) -> None:
        # One that is about to be started again may not be there at this moment.
        pids = [one.pid for one in self._node.members() if f"qmailpy.app.child {role}" in one.command]
        if pids:
            self._node.kill(*pids)


def torment(
    directory: str, victims: Sequence[str], *, seed: int, seconds: float, showing: Showing
) -> tuple[Verdict, Tally]:
    """
    A whole run.

    @param directory: where the home is made.
    @param victims: one a round: of L{VICTIMS}, "" by chance.
    @param seconds: no round begins later than this.
    @raise OSError: the daemon does not come back, or cannot be asked.
    """
    ordeal = Ordeal(os.path.join(directory, "home"), seed=seed, wide=True)
    try:
        ordeal.start()
        ordeal.load.go()
        torture = Torture(ordeal, Random(seed))  # noqa: S311 - reproducible
        begun = time.monotonic()
        for victim in victims:
            if time.monotonic() - begun > seconds:
                showing.say(f"{seconds:.0f} s are over")
                break
            showing.step(torture.round(victim))
        verdict = ordeal.reckon(showing.say)
        ordeal.close(verdict)
        return verdict, torture.tally
    finally:
        ordeal.stop()


def conclude(say: Callable[[str], None], verdict: Verdict, lines: list[str]) -> int:
    """Print how it ended; the exit status."""
    for line in [*lines, *verdict.lines()]:
        say(line)
    say("all promises kept" if verdict.kept else "NOT all promises kept")
    return 0 if verdict.kept else 1


@click.command()
@click.option("--rounds", default=50, show_default=True, help="How many kills.")
@click.option("--seed", default=0, help="For the same choices again (not the same moments); by chance unless given.")
@click.option("--seconds", default=1200.0, show_default=True, help="No round begins later than this.")
@click.option("--keep", type=click.Path(), help="Make the home here, and leave it.")
def main(rounds: int, seed: int, seconds: float, keep: str | None) -> None:
    """Kill the daemon under load and see that no acknowledged mail is lost."""
    seed = seed or SystemRandom().randrange(1, 1_000_000)
    with ended_by_signals(), scratch("torture") as directory, Showing("torture", rounds) as showing:
        showing.say(f"seed {seed}")
        try:
            if keep:
                os.makedirs(keep, exist_ok=True)
            verdict, tally = torment(keep or directory, [""] * rounds, seed=seed, seconds=seconds, showing=showing)
        except OSError as problem:
            showing.say(f"NOT all promises kept: {problem}")
            sys.exit(1)
        status = conclude(showing.say, verdict, tally.lines())
    sys.exit(status)


if __name__ == "__main__":
    main()
