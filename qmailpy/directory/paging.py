"""
Paged results (RFC 2696): a search that the client takes in portions, one request each.

Pure. Where a search goes on is a key of the store, which is nobody's business: the cookie a client gets is a random
word for it, good on its connection for the same search alone, and for one portion.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Any

from attrs import frozen
from ldaptor.protocols import pureber

from qmailpy.directory import ber

CONTROL = b"1.2.840.113556.1.4.319"

_SEARCHES = 16  # unfinished, a connection; the oldest is forgotten


class BadPage(ValueError):
    """Not a control of ours, or a cookie we did not give for this search."""


@frozen
class Page:
    """A portion."""

    size: int  # most entries; 0 = the client has had enough
    after: str  # where to go on, "" = from the beginning


class Pages:
    """The unfinished paged searches of a connection."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, tuple[object, str]] = OrderedDict()

    def page(self, value: bytes | None, question: object) -> Page:
        """
        What a request asks for.

        @param value: the control's.
        @param question: what must be equal in all requests of a search.
        @raise BadPage: that is none.
        """
        try:
            octets = value or b""
            ber.check(octets)
            sequence = pureber.berDecodeObject(pureber.BERDecoderContext(), octets)[0]
            size, cookie = (part.value for part in sequence)
        except Exception:  # the client's octets in ldaptor's hands
            raise BadPage("not a page of a search") from None
        if not isinstance(size, int) or not isinstance(cookie, bytes) or size < 0:
            raise BadPage("not a page of a search")
        if not cookie:
            return Page(size, "")
        before, after = self._kept.pop(cookie, (None, ""))
        if before is None or before != question:
            raise BadPage("not a cookie of this search")
        return Page(size, after)

    def control(self, question: object, after: str) -> tuple[bytes, None, bytes]:
        """The control of an answer; C{after} as L{Page} has it, "" = that was all."""
        cookie = b""
        if after:
            cookie = os.urandom(16)
            self._kept[cookie] = (question, after)
            while len(self._kept) > _SEARCHES:
                self._kept.popitem(last=False)
        parts: list[Any] = [pureber.BERInteger(0), pureber.BEROctetString(cookie)]
        return CONTROL, None, pureber.BERSequence(parts).toWire()
