"""What holds for the sources as a whole and no tool of ours can express."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator

from twisted.trial.unittest import SynchronousTestCase

import qmailpy

TOP = os.path.dirname(qmailpy.__file__)


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Path below the package and syntax of every module."""
    for folder, folders, names in os.walk(TOP):
        folders.sort()
        for name in sorted(names):
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                with open(path, encoding="utf-8") as source:
                    yield os.path.relpath(path, TOP), ast.parse(source.read(), path)


def imports(tree: ast.Module) -> set[str]:
    """Full names of all that is imported, wherever in the module."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


class Imports(SynchronousTestCase):
    """import-linter takes a package of others as one thing; this is about parts of them."""

    def test_the_global_reactor_is_imported_by_app_alone(self) -> None:
        """Everybody else is given one; so that tests have a clock, and two parts never meet by accident."""
        users = {path for path, tree in modules() if "twisted.internet.reactor" in imports(tree)}
        self.assertEqual({path for path in users if not path.startswith("app/")}, set())
        self.assertIn("app/child.py", users, "the test itself finds what it looks for")

    def test_mail_is_never_given_to_the_email_package(self) -> None:
        """A header of 2,000 addresses takes it a second, 3,000 nested parts overflow the stack."""
        harmless = {"email.utils.formatdate"}
        for path, tree in modules():
            found = {name for name in imports(tree) - harmless if name.split(".")[0] == "email"}
            self.assertEqual(found, set(), path)
