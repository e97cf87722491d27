"""
The AMP vocabulary of the control sockets.

One call is: any number of L{Part}, a L{Call}, then L{Next} until nothing remains. Arguments and results are JSON; a
value of AMP is at most 64 KiB, so both travel in pieces. One call at a time on a connection.
"""

from __future__ import annotations

from typing import ClassVar

from twisted.protocols.amp import Argument, Command, Integer, String, Unicode

PIECE = 60000
"""Octets of JSON in one box, below AMP's 65,535 a value."""

REQUEST_LIMIT = 4 * 1024 * 1024
"""Octets of JSON a call's arguments may have in all."""

RESPONSE_LIMIT = 16 * 1024 * 1024
"""Octets of JSON a result may have in all; methods with longer lists take and return a cursor."""


class RemoteError(Exception):
    """The process answered that it cannot do what it was asked; the text is one line for people."""


class Part(Command):
    """The next piece of the arguments of the call that follows; pieces are joined in order."""

    arguments = [(b"octets", String())]
    response: ClassVar[list[tuple[bytes, Argument]]] = []
    errors = {RemoteError: b"ERROR"}


class Call(Command):
    """Run a method; C{octets} are the last (mostly the only) piece of its arguments, a JSON object."""

    arguments = [(b"method", Unicode()), (b"octets", String())]
    response = [(b"octets", String()), (b"remaining", Integer())]
    errors = {RemoteError: b"ERROR"}


class Next(Command):
    """The next piece of the result; C{remaining} counts the octets still to be fetched after it."""

    arguments: ClassVar[list[tuple[bytes, Argument]]] = []
    response = [(b"octets", String()), (b"remaining", Integer())]
    errors = {RemoteError: b"ERROR"}
