"""Events as a list, for tests of what says them."""

from __future__ import annotations

from zope.interface import implementer

from qmailpy.events.catalogue import CATALOGUE
from qmailpy.interfaces import IEvents


@implementer(IEvents)
class MemoryEvents:
    """@ivar happenings: what was said, in order, as (name, fields)."""

    def __init__(self) -> None:
        self.happenings: list[tuple[str, dict[str, str | int | float]]] = []

    def happened(self, name: str, **fields: str | int | float) -> None:
        assert set(fields) == set(CATALOGUE[name].fields), (name, fields)
        self.happenings.append((name, fields))

    @property
    def names(self) -> list[str]:
        """The names alone."""
        return [name for name, _ in self.happenings]
