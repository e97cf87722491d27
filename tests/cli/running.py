"""Command lines run in this process, as the console script would run them."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Mapping
from unittest import mock

from attrs import frozen

from qmailpy.cli.main import run


@frozen(kw_only=True)
class Outcome:
    """What a command line came to."""

    status: int
    out: str
    err: str


def invoke(*arguments: str, stdin: bytes = b"", environ: Mapping[str, str] | None = None) -> Outcome:
    """
    Run C{qmailpy ARGUMENTS}.

    @param environ: variables beside the bare ones; nothing of the tests' own environment is seen.
    """
    out, err = io.BytesIO(), io.BytesIO()
    with contextlib.ExitStack() as stack:
        for name, stream in (("stdin", io.BytesIO(stdin)), ("stdout", out), ("stderr", err)):
            wrapped = io.TextIOWrapper(stream, encoding="utf-8", write_through=True)
            stack.callback(wrapped.detach)
            stack.enter_context(mock.patch.object(sys, name, wrapped))
        variables = {"PATH": os.environ.get("PATH", ""), "USER": "joe", "NAME": "Joe Doe", **(environ or {})}
        stack.enter_context(mock.patch.dict(os.environ, variables, clear=True))
        status = run(arguments)
    return Outcome(status=status, out=out.getvalue().decode(), err=err.getvalue().decode())
