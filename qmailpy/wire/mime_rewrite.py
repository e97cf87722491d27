"""
A MIME message with some of its parts replaced or left out, and everything else octet for octet as it was.

The walk that decided and the walk that writes are the same, so a part is known by its ordinal. Memory is bounded by
what the walker keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from attrs import frozen

from qmailpy.wire.mime import Delimiter, Entity, Event, MimeLimits, MimeWalker, PartBegin, PartEnd

_EMPTY = b"Content-Type: text/plain; charset=us-ascii\r\n\r\n"
"""Stands in for the parts of a multipart that has lost them all: RFC 2046 s.5.1.1 wants one."""


@frozen
class Replacement:
    """What stands in a part's place."""

    header: bytes  # with the empty line that ends it
    body: Callable[[], Iterable[bytes]] | None = None  # encoded; C{None} keeps what is there, parts and all


DELETED = None
"""In a plan: the part is left out."""

Plan = Mapping[int, Replacement | None]
"""By ordinal. The message itself can be replaced, not left out."""


def rewritten(chunks: Iterable[bytes], plan: Plan, limits: MimeLimits | None = None) -> Iterator[bytes]:
    """
    The message anew.

    @param chunks: the message; with the limits that the ordinals of C{plan} were found with.
    """
    walker = MimeWalker(limits)
    writer = _Writer(plan)
    for chunk in chunks:
        yield from writer.write(walker.feed(chunk))
    yield from writer.write(walker.end())


class _Writer:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._skipping: Entity | None = None
        self._delimiter = b""  # a boundary line that waits for what comes behind it
        self._left: dict[int, int] = {}  # parts written, by ordinal of an open multipart

    def write(self, events: list[Event]) -> Iterator[bytes]:
        for event in events:
            if self._skipping is not None:
                if isinstance(event, PartEnd) and event.entity is self._skipping:
                    self._skipping = None
                continue
            if isinstance(event, PartBegin):
                yield from self._begin(event.entity)
            elif isinstance(event, Delimiter):
                yield from self._between(event)
            elif isinstance(event, PartEnd):
                self._left.pop(event.entity.ordinal, None)
            else:
                yield event.octets

    def _begin(self, entity: Entity) -> Iterator[bytes]:
        if entity.ordinal in self._plan:
            replacement = self._plan[entity.ordinal]
            if replacement is None and entity.ordinal:
                self._delimiter = b""
                self._skipping = entity
                return
        else:
            replacement = None
        yield self._delimiter
        self._delimiter = b""
        if entity.parent is not None:
            self._left[entity.parent.ordinal] = self._left.get(entity.parent.ordinal, 0) + 1
        if replacement is None:
            yield entity.header
            return
        yield replacement.header
        if replacement.body is not None:
            yield from replacement.body()
            self._skipping = entity

    def _between(self, event: Delimiter) -> Iterator[bytes]:
        if not event.closing:
            self._delimiter = event.octets
            return
        if event.entity.children and not self._left.get(event.entity.ordinal):
            boundary = event.octets.strip().removesuffix(b"--")
            yield b"\r\n" + boundary + b"\r\n" + _EMPTY
        yield event.octets


def edit_header(header: bytes, remove: Collection[str] = (), add: bytes = b"") -> bytes:
    """
    A header section with some fields gone and others behind the rest; what stays is as it was.

    @param remove: names in lower case; C{"content-*"} stands for all that begin so.
    @param add: whole fields, each with its CRLF.
    @return: with the empty line that ends it.
    """
    prefixes = tuple(name[:-1].encode("ascii") for name in remove if name.endswith("*"))
    names = frozenset(name.encode("ascii") for name in remove)
    kept: list[bytes] = []
    dropping = False
    text = header.removesuffix(b"\r\n") if header.endswith(b"\r\n\r\n") or header == b"\r\n" else header
    for line in text.split(b"\r\n"):
        if not line:
            continue
        if not line.startswith((b" ", b"\t")):
            name = line.partition(b":")[0].rstrip(b" \t").lower()
            dropping = name in names or (bool(prefixes) and name.startswith(prefixes))
        if not dropping:
            kept.append(line + b"\r\n")
    return b"".join(kept) + add + b"\r\n"
