"""The schema as others read it."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.directory import attributes, meaning, rights, schema, subschema
from qmailpy.directory.attributes import ATTRIBUTES, BY_NAME, CLASSES

_DOC = os.path.join(os.path.dirname(__file__), "..", "..", "docs", "directory.md")


class TableTests(SynchronousTestCase):
    def test_no_number_and_no_name_is_there_twice(self) -> None:
        for some in (ATTRIBUTES, CLASSES):
            for key in ("oid", "name"):
                found = [getattr(one, key).lower() for one in some]
                self.assertEqual(len(found), len(set(found)), key)

    def test_classes_and_code_name_attributes_that_are_there(self) -> None:
        named = {name.lower() for one in CLASSES for name in (*one.must, *one.may)}
        for some in (meaning.LOOKUP_ATTRIBUTES, meaning.DOMAIN_ATTRIBUTES, meaning.PLAN_ATTRIBUTES):
            named |= {name.lower() for name in some}
        named |= schema.INDEXED | rights.OF_ONESELF | rights._OF_DOMAIN_ADMINISTRATORS
        self.assertEqual(named - BY_NAME.keys(), set())

    def test_what_is_ours_belongs_to_a_class(self) -> None:
        named = {name for one in CLASSES for name in (*one.must, *one.may)}
        self.assertEqual({one.name for one in ATTRIBUTES if one.ours} - named, set())

    def test_the_tables_in_the_manual_are_these(self) -> None:
        with open(_DOC, encoding="utf-8") as file:
            text = file.read()
        for table in subschema.markdown().split("\n\n"):
            self.assertIn(table.strip(), text, "write it anew: qmailpy directory schema --format table")
        self.assertIn(attributes.ARC, text)


class DefinitionTests(SynchronousTestCase):
    def test_definitions_are_those_of_rfc_4512(self) -> None:
        self.assertEqual(
            subschema.attribute_type(BY_NAME["qmaillastlogin"]),
            f"( {attributes.ARC}.1.18 NAME 'qmailLastLogin' DESC 'when the user last logged in, to the hour'"
            " EQUALITY generalizedTimeMatch ORDERING generalizedTimeOrderingMatch"
            " SYNTAX 1.3.6.1.4.1.1466.115.121.1.24 SINGLE-VALUE NO-USER-MODIFICATION USAGE directoryOperation )",
        )
        plan = next(one for one in CLASSES if one.name == "qmailPlan")
        self.assertTrue(subschema.object_class(plan).startswith(f"( {attributes.ARC}.2.2 NAME 'qmailPlan' DESC "))

    def test_every_rule_and_syntax_used_is_published(self) -> None:
        published = subschema.entry()
        rules = " ".join(published.values("matchingRules"))
        syntaxes = " ".join(published.values("ldapSyntaxes"))
        for one in ATTRIBUTES:
            for rule in (one.syntax.equality, one.syntax.ordering, one.syntax.substring):
                self.assertIn(f"NAME '{rule}'" if rule else "", rules)
            self.assertIn(f"( {one.syntax.oid} ", syntaxes)

    def test_the_ldif_has_no_line_too_long_and_names_the_arc_once(self) -> None:
        text = subschema.ldif()
        self.assertLessEqual(max(map(len, text.splitlines())), 76)
        self.assertEqual(text.replace("\n ", "").count(attributes.ARC), 1)
