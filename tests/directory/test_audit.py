"""What is found to be wrong with a directory."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.directory.audit import Audit
from qmailpy.directory.names import parse
from qmailpy.directory.schema import Entry


def entry(dn: str, *classes: str, **more: tuple[str, ...]) -> Entry:
    return Entry(parse(f"{dn},o=q"), {"objectclass": classes, **more})


def user(name: str, domain: str = "example.org", **more: tuple[str, ...]) -> Entry:
    return entry(f"uid={name},dc={domain}", "qmailUser", mail=(f"{name}@{domain}",), **more)


def alias(name: str, *targets: str) -> Entry:
    return user(name, deliverymode=("forwardonly",), mailforwardingaddress=targets)


def group(name: str, *members: str, **more: tuple[str, ...]) -> Entry:
    where = f"cn={name},dc=example.org"
    return entry(where, "qmailGroup", mail=(f"{name}@example.org",), rfc822member=members, **more)


def domain(name: str = "example.org", **more: tuple[str, ...]) -> Entry:
    return entry(f"dc={name}", "domain", "qmailDomain", associateddomain=(name,), **more)


PLAN = entry("cn=gold,ou=plans", "qmailPlan", cn=("gold",))
NODE = entry("cn=node1.example,ou=servers", "qmailServer", cn=("node1.example",))


class AuditTests(SynchronousTestCase):
    def found(self, *entries: Entry, own: str = "") -> list[tuple[str, str]]:
        """Code and subject of what is found, in both orders of the entries."""
        results = []
        for some in (entries, entries[::-1]):
            audit = Audit(frozenset({own} - {""}))
            for one in some:
                audit.see(one)
            findings = audit.findings()
            self.assertTrue(all(one.problem and one.remedy for one in findings))
            results.append([(one.code, one.subject) for one in findings])
        self.assertEqual(*(sorted(code for code, _ in result) for result in results))
        return results[0]

    def test_nothing_is_found_where_all_is_well(self) -> None:
        entries = (
            *(domain(qmailplanname=("Gold",), mailcatchalladdress=("joe@example.org",)), PLAN, NODE),
            user(
                "joe", mailalternateaddress=("j@example.org",), mailhost=("node1.example:24",), qmailplanname=("gold",)
            ),
            user("ann", mailforwardingaddress=("x@remote.example", "joe+tag@example.org"), mailhost=("us.example",)),
            *(alias("info", "j@example.org", "staff@example.org"), alias("root", "postmaster@example.org")),
            group("staff", "joe@example.org", "all@example.org", dnmember=("UID=ann, dc=example.org,o=q",)),
            group("all", "a@x.example", qmailgroupowner=("joe@example.org",)),
            user("boss", qmailadministers=("example.org", "*")),
        )
        self.assertEqual(self.found(*entries, own="us.example"), [])

    def test_references_that_lead_nowhere(self) -> None:
        self.assertEqual(
            self.found(
                *(domain(qmaildomainplan=("lead",)), NODE),
                user("a", qmailplanname=("silver",)),
                user("b", mailhost=("node9.example",)),
                user("c", mailforwardingaddress=("nobody@example.org",)),
                alias("d", "nobody@example.org"),
                group("e", "nobody@example.org", qmailgroupowner=("none@example.org",)),
                group("f", dnmember=("uid=none,dc=example.org,o=q",)),
                user("g", "gone.example"),
                user("h", qmailadministers=("gone.example",)),
            ),
            [
                ("dangling", "a@example.org"),
                ("dangling", "b@example.org"),
                ("dangling", "c@example.org"),
                ("dangling", "d@example.org"),
                ("dangling", "e@example.org"),
                ("dangling", "e@example.org"),
                ("dangling", "example.org"),
                ("dangling", "f@example.org"),
                ("dangling", "g@gone.example"),
                ("dangling", "h@example.org"),
            ],
        )
        catching = domain(mailcatchalladdress=("nobody@example.org",))
        self.assertEqual(self.found(catching, alias("d", "x@example.org")), [("dangling", "example.org")])

    def test_hosts_are_looked_up_only_where_nodes_are_kept(self) -> None:
        self.assertEqual(self.found(domain(), user("b", mailhost=("node9.example",))), [])

    def test_what_is_there_twice(self) -> None:
        """An external server may hold what ours would refuse."""
        twice = entry(
            "uid=j,dc=example.org", "qmailUser", mail=("j@example.org",), mailalternateaddress=("x@example.org",)
        )
        found = self.found(domain(), user("joe", mailalternateaddress=("x@example.org",)), twice)
        self.assertEqual(found, [("duplicate", "x@example.org")])
        same = entry("uid=other,dc=example.org", "qmailUser", mail=("joe@example.org",))
        self.assertEqual(self.found(domain(), user("joe"), same), [("duplicate", "joe@example.org")])
        shared = user("b", mailmessagestore=("example.org/a/Maildir",))
        self.assertEqual(len(self.found(domain(), user("a"), shared)), 1)
        again = entry("dc=again", "qmailDomain", associateddomain=("example.org",))
        self.assertEqual(self.found(domain(), again), [("duplicate", "example.org")])
        self.assertEqual(len(self.found(PLAN, entry("cn=gold,ou=more", "qmailPlan", cn=("GOLD",)))), 1)

    def test_circles_of_aliases_and_groups_are_told_once(self) -> None:
        found = self.found(
            domain(),
            alias("a", "b@example.org"),
            group("b", "c2@example.org", "x@remote.example"),
            user(
                "c",
                deliverymode=("forwardonly",),
                mailforwardingaddress=("a@example.org",),
                mailalternateaddress=("c2@example.org",),
            ),
            alias("outside", "a@example.org"),
            group("self", "self@example.org"),
            group("left", "joe@example.org"),
            group("right", "joe@example.org"),
            group("both", "left@example.org", "right@example.org"),
            user("joe", mailforwardingaddress=("both@example.org",)),
        )
        self.assertEqual(found, [("loop", "a@example.org"), ("loop", "self@example.org")])

    def test_a_long_chain_is_no_trouble(self) -> None:
        chain = [alias(f"a{number}", f"a{number + 1}@example.org") for number in range(5000)]
        self.assertEqual(self.found(domain(), *chain, user("a5000")), [])

    def test_entries_that_mail_cannot_use(self) -> None:
        found = self.found(
            domain(),
            user("a", mailquotasize=("much",)),
            user("b", deliverymode=("reply",)),
            group("c"),
            entry("uid=d,dc=other", "qmailUser", mail=("d@example.org",)),
        )
        self.assertEqual(
            found,
            [
                ("invalid", "a@example.org"),
                ("useless", "b@example.org"),
                ("useless", "c@example.org"),
                ("misplaced", "d@example.org"),
            ],
        )
