"""What every L{IDirectory} does, however it is reached: in memory, from the file, over LDAP, through the cache."""

from __future__ import annotations

from attrs import evolve
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from qmailpy.directory import password
from qmailpy.directory.cache import CachedDirectory, IPeek
from qmailpy.directory.embedded import EmbeddedDirectory
from qmailpy.directory.names import parse
from qmailpy.directory.schema import Entry
from qmailpy.directory.store import Store
from qmailpy.errors import Temporary
from qmailpy.interfaces import IDirectory
from qmailpy.testing.memory_directory import MemoryDirectory
from qmailpy.values import Alias, Domain, Group, Mailbox
from qmailpy.wire.sasl import derive
from tests.directory.parts import AskingTestCase, PumpedEndpoint, client, example, identity, served

_JOE = Mailbox(address="joe@example.org", path="example.org/joe/Maildir")
_ANN = Mailbox(
    address="ann@example.org",
    path="example.org/ann/Maildir",
    active=False,
    status="disabled",
    quota_octets=500,
    forwards=("x@y.example",),
)
_INFO = Alias(address="info@example.org", targets=("joe@example.org", "Bob@remote.example"))
_SUE = Mailbox(
    address="sue@plan.example",
    path="plan.example/sue/Maildir",
    plan="gold",
    quota_octets=1000,
    size_octets=77,
    sends_a_day=9,
    features=frozenset({"pop3"}),
    host="node2.example",
)
_STAFF = Group(address="staff@example.org", members=("x@remote.example", "joe@example.org"), posters="members")
_DOMAINS = (
    Domain(name="plan.example", plan="silver", host="node2.example", quota_octets=5000),
    Domain(name="example.org"),
    Domain(name="off.example", active=False, catch_all="joe@example.org"),
)


def full_store(case: AskingTestCase) -> Store:
    """The same people in a store."""
    accounts = example(case)
    accounts.thd_add_domain("off.example", "joe@example.org")
    accounts.thd_add_domain("plan.example")
    accounts.thd_set_domain("off.example", status="disabled")
    accounts.thd_add_user("joe@example.org", secret=b"sesame")
    accounts.thd_add_user("ann@example.org", secret=b"closed", quota_octets=500, forwards=["x@y.example"])
    accounts.thd_set_user("ann@example.org", status="disabled")
    accounts.thd_add_alias("j.doe@example.org", ["joe@example.org"])
    accounts.thd_add_alias("info@example.org", _INFO.targets)
    accounts.store.thd_modify(
        parse("dc=plan.example,o=qmailpy"),
        lambda entry: evolve(
            entry,
            attributes={
                **entry.attributes,
                "qmailplanname": ("Silver",),
                "mailhost": ("node2.example",),
                "qmaildomainquota": ("5000",),
                "qmailsendsaday": ("9",),
            },
        ),
    )
    plans = parse("ou=plans,o=qmailpy")
    accounts.store.thd_add(
        Entry(plans, {"objectclass": ("organizationalUnit",)}),
        Entry(plans.child("cn", "gold"), {"objectclass": ("qmailPlan",), "qmailfeature": ("pop3",)}),
        Entry(plans.child("cn", "silver"), {"objectclass": ("qmailPlan",), "mailsizemax": ("77",)}),
        Entry(
            parse("cn=staff,dc=example.org,o=qmailpy"),
            {
                "objectclass": ("organizationalRole", "qmailGroup"),
                "mail": ("staff@example.org",),
                "rfc822member": ("x@remote.example",),
                "dnmember": ("UID=joe, dc=example.org,o=qmailpy", "uid=gone,dc=example.org,o=qmailpy"),
                "qmailposters": ("members",),
            },
        ),
    )
    accounts.thd_add_user("sue@plan.example", quota_octets=1000)
    accounts.store.thd_modify(
        parse("uid=sue,dc=plan.example,o=qmailpy"),
        lambda entry: evolve(entry, attributes={**entry.attributes, "qmailplanname": ("gold",)}),
    )
    return accounts.store


class ContractMixin(AskingTestCase):
    """The contract; C{directory} holds the people above, C{break_off} makes it unreachable."""

    directory: IDirectory

    def break_off(self) -> None:
        raise NotImplementedError

    def test_it_provides_the_interface(self) -> None:
        verifyObject(IDirectory, self.directory)

    def test_domains_of_ours_are_known(self) -> None:
        for domain in _DOMAINS:
            self.assertEqual(self.ask(self.directory.domain(domain.name)), domain)

    def test_other_domains_are_not(self) -> None:
        for name in ("remote.example", "", "x" * 300, "*", "example.org)(objectClass=*", "exämple.org", "a\0b"):
            self.assertIsNone(self.ask(self.directory.domain(name)), name)

    def test_a_mailbox_is_found_by_its_address_whatever_the_case(self) -> None:
        self.assertEqual(self.ask(self.directory.lookup("joe@example.org")), _JOE)
        self.assertEqual(self.ask(self.directory.lookup("JOE@example.org")), _JOE)
        self.assertEqual(self.ask(self.directory.lookup("j.doe@example.org")), _JOE)
        self.assertEqual(self.ask(self.directory.lookup("ann@example.org")), _ANN)

    def test_what_plan_and_domain_add_is_in_it(self) -> None:
        self.assertEqual(self.ask(self.directory.lookup("sue@plan.example")), _SUE)

    def test_a_group_is_found_with_its_members(self) -> None:
        self.assertEqual(self.ask(self.directory.lookup("staff@example.org")), _STAFF)
        self.assertIsNone(self.ask(self.directory.authenticate("staff@example.org", b"")))

    def test_an_alias_is_found(self) -> None:
        self.assertEqual(self.ask(self.directory.lookup("info@example.org")), _INFO)

    def test_nobody_else_is(self) -> None:
        """No address means anything but itself: filters are not injected into, names are not guessed."""
        for address in (
            *("nobody@example.org", "joe@off.example", "", "@", "joe", "*", "*@example.org", "j*@example.org"),
            *("joe@example.org)(mail=*", "joe@example.org\0", "\\6aoe@example.org", "uid=joe,dc=example.org,o=qmailpy"),
            *('"joe"@example.org', "joe+x@example.org", "jöe@example.org", "\udcff@example.org", "x" * 1000),
        ):
            self.assertIsNone(self.ask(self.directory.lookup(address)), repr(address))

    def test_the_right_password_opens_the_mailbox(self) -> None:
        for login in ("joe@example.org", "JOE@Example.org", "j.doe@example.org"):
            self.assertEqual(self.ask(self.directory.authenticate(login, b"sesame")), _JOE)

    def test_nothing_else_does(self) -> None:
        for login, word in (
            *(("joe@example.org", b"Sesame"), ("joe@example.org", b""), ("joe@example.org", b"sesame\0")),
            *(("nobody@example.org", b"sesame"), ("ann@example.org", b"closed"), ("info@example.org", b"")),
            *(("", b"sesame"), ("*", b"sesame"), ("joe", b"sesame"), ("joe@example.org", b"x" * 5000)),
        ):
            self.assertIsNone(self.ask(self.directory.authenticate(login, word)), (login, word[:20]))

    def test_the_secret_of_scram_is_that_of_the_password(self) -> None:
        """RFC 5802 s.3: what is kept is derived from the password, the salt and the iterations beside it."""
        for login in ("joe@example.org", "JOE@example.org", "j.doe@example.org"):
            found = self.ask(self.directory.scram(login))
            assert found is not None
            self.assertEqual(derive(b"sesame", found.salt, found.iterations), found)

    def test_a_login_is_noted_and_that_of_nobody_is_no_fault(self) -> None:
        for address in ("joe@example.org", "nobody@example.org", "x" * 300, "*", "\udcff@example.org"):
            self.assertIsNone(self.ask(self.directory.logged_in(address, "pop3", "192.0.2.1")))

    def test_who_cannot_log_in_has_no_secret(self) -> None:
        for login in (
            "nobody@example.org",
            "ann@example.org",
            "info@example.org",
            "",
            "*",
            "joe",
            "\udcff@example.org",
        ):
            self.assertIsNone(self.ask(self.directory.scram(login)), repr(login))

    def test_away_is_temporary_and_never_nobody(self) -> None:
        self.break_off()
        for question in (
            lambda: self.directory.domain("fresh.example"),
            lambda: self.directory.lookup("fresh@example.org"),
            lambda: self.directory.authenticate("fresh@example.org", b"sesame"),
            lambda: self.directory.scram("fresh@example.org"),
            lambda: self.directory.logged_in("joe@example.org", "pop3", ""),
        ):
            answer = Deferred.fromCoroutine(question())
            self.step()
            problem = self.failureResultOf(answer, Temporary).value
            self.assertEqual((problem.reply.code, problem.reply.enhanced), (451, "4.3.0"))


class MemoryContractTests(ContractMixin):
    def setUp(self) -> None:
        self.memory = MemoryDirectory(
            _DOMAINS,
            (_JOE, _ANN, _INFO, _SUE, _STAFF),
            alternates={"j.doe@example.org": "joe@example.org"},
            passwords={"joe@example.org": b"sesame", "ann@example.org": b"closed"},
        )
        self.directory: IDirectory = self.memory

    def break_off(self) -> None:
        self.memory.away = True


class EmbeddedContractTests(ContractMixin):
    def setUp(self) -> None:
        self.store = full_store(self)
        self.directory: IDirectory = EmbeddedDirectory(self.store, maybeDeferred)

    def break_off(self) -> None:
        self.store.thd_close()
        with open(self.store._path, "wb") as file:
            file.write(b"no database" * 1000)


class LdapContractTests(ContractMixin):
    def setUp(self) -> None:
        store = full_store(self)
        service = identity(store, "service", password.ssha(b"machine"))
        self.clock = Clock()
        self.endpoint: PumpedEndpoint = served(store, self.clock)
        self.directory: IDirectory = client(self.clock, self.endpoint, service, lambda: b"machine")

    def step(self) -> None:
        self.endpoint.flush()

    def break_off(self) -> None:
        self.endpoint.refuse = True
        self.endpoint.cut()


class CachedContractTests(ContractMixin):
    def setUp(self) -> None:
        MemoryContractTests.setUp(self)  # type: ignore[arg-type]
        self.directory = CachedDirectory(Clock(), self.directory, 60, 10, 1000)

    def test_it_can_be_peeked_into(self) -> None:
        verifyObject(IPeek, self.directory)

    def break_off(self) -> None:
        self.memory.away = True

    memory: MemoryDirectory


del ContractMixin
