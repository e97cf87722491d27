"""A disk without room, for files that several processes share."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from twisted.trial.unittest import SynchronousTestCase


@contextmanager
def full_disk(case: SynchronousTestCase) -> Iterator[None]:
    """Within, nothing can be stored in a new place."""

    def refuse(handle: int, octets: bytes, at: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch = case.patch(os, "pwrite", refuse)
    try:
        yield
    finally:
        patch.restore()
