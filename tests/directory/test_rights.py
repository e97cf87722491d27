"""Who may see and change what, as rules."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.directory import rights
from qmailpy.directory.names import Name, parse
from qmailpy.directory.rights import Identity, Role, objection
from qmailpy.directory.schema import Entry

_BASE = "o=q"
_PLACE = parse(f"dc=example.org,{_BASE}")
_BOSS = parse(f"uid=boss,dc=other.example,{_BASE}")


def _entry(name: str, *, domain: str = "example.org", **more: tuple[str, ...]) -> Entry:
    attributes = {"objectclass": ("inetOrgPerson", "qmailUser"), "uid": (name,), "mail": (f"{name}@{domain}",), **more}
    return Entry(parse(f"uid={name},dc={domain},{_BASE}"), attributes)


def _user(name: Name) -> Identity:
    return Identity(Role.USER, name, roots=(name,))


def _administrator(*plans: str) -> Identity:
    roots = (_PLACE, _BOSS, parse(f"cn=gold,ou=plans,{_BASE}"))
    return Identity(Role.DOMAIN, _BOSS, ("example.org",), roots, (_PLACE,), frozenset(plans))


class UserTests(SynchronousTestCase):
    joe = _entry("joe", deliverymode=("noforward",))
    who = _user(joe.name)

    def change(self, **values: tuple[str, ...]) -> str:
        return objection(self.who, self.joe, Entry(self.joe.name, {**self.joe.attributes, **values}))

    def test_one_changes_what_is_one_s_own(self) -> None:
        for own in (
            {"userpassword": ("{ARGON2}x",)},
            {"displayname": ("Joe",)},
            {"mailforwardingaddress": ("a@x.example",)},
            {"mailreplytext": ("Away",), "deliverymode": ("noforward", "reply")},
        ):
            self.assertEqual(self.change(**own), "", own)

    def test_and_nothing_else(self) -> None:
        for other in (
            {"mail": ("root@example.org",)},
            {"mailquotasize": ("0",)},
            {"mailmessagestore": ("example.org/ann/Maildir",)},
            {"qmailadministers": ("*",)},
            {"qmailplanname": ("gold",)},
            {"accountstatus": ("active",)},
            {"objectclass": ("top", "qmailDomain")},
            {"deliverymode": ("noforward", "program")},
            {"deliverymode": ()},
            {"mailmessagestore;x": ("a/b",)},
        ):
            self.assertNotEqual(self.change(**other), "", other)

    def test_nor_anybody_else(self) -> None:
        ann = _entry("ann")
        self.assertNotEqual(objection(self.who, ann, _entry("ann", displayname=("x",))), "")
        self.assertNotEqual(objection(self.who, None, _entry("new")), "")
        self.assertNotEqual(objection(self.who, self.joe, None), "")
        self.assertNotEqual(objection(rights.NOBODY, self.joe, self.joe), "")


class DomainAdministratorTests(SynchronousTestCase):
    who = _administrator("gold")

    def test_people_and_groups_of_the_domain_are_added_changed_and_deleted(self) -> None:
        group = Entry(
            parse(f"cn=staff,{_PLACE}"),
            {"objectclass": ("organizationalRole", "qmailGroup"), "cn": ("staff",), "mail": ("staff@example.org",)},
        )
        usual = _entry("new", mailmessagestore=("example.org/new/Maildir",), qmailplanname=("Gold",))
        for entry in (usual, group, _entry("new", mailalternateaddress=("n@example.org",), accountstatus=("nopop",))):
            self.assertEqual(objection(self.who, None, entry), "")
            self.assertEqual(objection(self.who, entry, None), "")
        self.assertEqual(objection(self.who, _entry("joe"), _entry("joe", userpassword=("x",))), "")

    def test_what_operators_decide_stays(self) -> None:
        for other in (
            {"mailmessagestore": ("example.org/ann/Maildir",)},
            {"mailhost": ("node2.example",)},
            {"mailquotasize": ("0",)},
            {"qmailfeature": ("sms",)},
            {"qmailplanname": ("silver",)},
            {"qmailadministers": ("example.org",)},
            {"deliverymode": ("program",)},
            {"qmaildotmode": ("both",)},
            {"mailalternateaddress": ("ceo@other.example",)},
            {"mail": ("joe@other.example",)},
            {"objectclass": ("qmailDomain",)},
            {"objectclass": ("simpleSecurityObject", "qmailUser")},
        ):
            self.assertNotEqual(objection(self.who, _entry("joe"), _entry("joe", **other)), "", other)
            self.assertNotEqual(objection(self.who, None, _entry("joe", **other)), "", other)

    def test_limits_an_operator_set_do_not_stop_other_changes(self) -> None:
        before = _entry("joe", mailquotasize=("5",), mailhost=("n.example",), qmailplanname=("silver",))
        self.assertEqual(objection(self.who, before, Entry(before.name, {**before.attributes, "cn": ("J",)})), "")

    def test_other_domains_plans_and_identities_are_out_of_reach(self) -> None:
        strange = (
            _entry("joe", domain="other.example"),
            Entry(parse(f"cn=admin,{_BASE}"), {"userpassword": ("x",)}),
            Entry(parse(f"cn=gold,ou=plans,{_BASE}"), {"objectclass": ("qmailPlan",), "cn": ("gold",)}),
            Entry(parse(f"uid=x,cn=gold,ou=plans,{_BASE}"), _entry("x").attributes),
            Entry(parse(f"uid=x,{_BOSS}"), _entry("x").attributes),
        )
        for entry in strange:
            changed = Entry(entry.name, {**entry.attributes, "description": ("x",)})
            self.assertNotEqual(objection(self.who, entry, changed), "", str(entry.name))
            self.assertNotEqual(objection(self.who, None, entry), "", str(entry.name))
            self.assertNotEqual(objection(self.who, entry, None), "", str(entry.name))

    def test_of_the_domain_itself_only_the_catch_all(self) -> None:
        domain = Entry(_PLACE, {"objectclass": ("domain", "qmailDomain"), "associateddomain": ("example.org",)})
        for change, allowed in (
            ({"mailcatchalladdress": ("joe@example.org",)}, True),
            ({"qmaildomainplan": ("platinum",)}, False),
            ({"qmaildomainquota": ("0",)}, False),
            ({"accountstatus": ("active",)}, False),
            ({"associateddomain": ("other.example",)}, False),
        ):
            why = objection(self.who, domain, Entry(_PLACE, {**domain.attributes, **change}))
            self.assertEqual(not why, allowed, change)
        self.assertNotEqual(objection(self.who, domain, None), "")

    def test_nobody_takes_over_whoever_administers_more(self) -> None:
        """Else the password of an operator with a mailbox in the domain could be changed."""
        for more in ("*", "other.example"):
            operator = _entry("root", qmailadministers=(more, "example.org"))
            changed = Entry(operator.name, {**operator.attributes, "userpassword": ("x",)})
            self.assertNotEqual(objection(self.who, operator, changed), "")
            self.assertNotEqual(objection(self.who, operator, None), "")
        peer = _entry("peer", qmailadministers=("example.org",))
        self.assertEqual(objection(self.who, peer, Entry(peer.name, {**peer.attributes, "userpassword": ("x",)})), "")

    def test_the_own_entry_elsewhere_is_as_any_user_s(self) -> None:
        own = Entry(_BOSS, {**_entry("boss", domain="other.example").attributes})
        self.assertEqual(objection(self.who, own, Entry(_BOSS, {**own.attributes, "displayname": ("B",)})), "")
        self.assertNotEqual(objection(self.who, own, Entry(_BOSS, {**own.attributes, "qmailplanname": ("gold",)})), "")


class PlaceTests(SynchronousTestCase):
    def test_places_within_others_are_not_named_twice(self) -> None:
        found = rights.outermost([parse(f"uid=joe,{_PLACE}"), _PLACE, parse("dc=example.orgs,o=q")])
        self.assertEqual(found, (_PLACE, parse("dc=example.orgs,o=q")))
