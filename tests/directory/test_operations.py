"""
Tests for L{qmailpy.directory.operations}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.directory.names import parse
from qmailpy.directory.operations import Change, Modification, StoreError, Trouble, modified
from qmailpy.directory.schema import Entry


class ModifiedTests(SynchronousTestCase):
    def test_modifications_add_delete_and_replace(self) -> None:
        """RFC 4511 s.4.6."""
        entry = Entry(
            parse("uid=joe,dc=example.org,o=qmailpy"),
            {"objectclass": ("qmailUser",), "uid": ("joe",), "mail": ("joe@example.org",), "cn": ("a", "b")},
        )
        steps = [
            Modification(Change.ADD, "sn", ("Doe",)),
            Modification(Change.ADD, "cn", ("d",)),
            Modification(Change.DELETE, "cn", ("A",)),
            Modification(Change.REPLACE, "uid", ()),
            Modification(Change.DELETE, "mail", ()),
        ]
        self.assertEqual(
            modified(entry, steps).attributes, {"objectclass": ("qmailUser",), "sn": ("Doe",), "cn": ("b", "d")}
        )
        for step in (Modification(Change.DELETE, "sn", ()), Modification(Change.DELETE, "cn", ("c",))):
            problem = self.assertRaises(StoreError, modified, entry, [step])
            self.assertIs(problem.kind, Trouble.NO_VALUE)
