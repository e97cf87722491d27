"""Ctrl-C in work of many steps: it ends behind the step that is under way, and what was done is told."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

import click

from qmailpy.cli.output import ending_line
from qmailpy.cli.queueview import BATCH

T = TypeVar("T")


class Stop:
    """Whether somebody wants the work to end."""

    asked = False

    def __bool__(self) -> bool:
        return self.asked


@contextmanager
def stopping() -> Iterator[Stop]:
    """
    What is true once Ctrl-C was pressed; pressed again it interrupts as it always does.

    Without effect outside of the main thread, where no signals are handled.
    """
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True
        ending_line()
        click.echo("stopping behind this step; Ctrl-C again: at once", err=True)

    try:
        before = signal.signal(signal.SIGINT, handle)
    except ValueError:
        yield stop
        return
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def steps(items: Sequence[T], stop: Stop) -> Iterator[Sequence[T]]:
    """So many of them as go to the queue at once; none any more when the work is to end."""
    for at in range(0, len(items), BATCH):
        if stop:
            return
        yield items[at : at + BATCH]
