"""What entries mean and which may be stored."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.directory import schema
from qmailpy.directory.names import parse
from qmailpy.directory.schema import Attributes, Entry, Invalid, checked
from qmailpy.errors import Temporary
from qmailpy.values import Alias, Domain, Mailbox

_USER: Attributes = {"objectclass": ("qmailUser",), "mail": ("joe@example.org",)}


def _entry(**more: tuple[str, ...]) -> Entry:
    return Entry(parse("uid=joe,dc=example.org,o=qmailpy"), {**_USER, **more})


class CheckTests(SynchronousTestCase):
    def test_values_are_normalised_and_single(self) -> None:
        entry = checked(
            _entry(mail=("Joe@Example.ORG",), accountstatus=("Active",), mailforwardingaddress=("A@B.Example",))
        )
        self.assertEqual(entry.values("mail"), ("joe@example.org",))
        self.assertEqual(entry.value("accountStatus"), "active")
        self.assertEqual(entry.value("mailForwardingAddress"), "A@b.example")
        self.assertEqual(
            checked(_entry(mail=("joe@example.org", "JOE@example.org"))).values("mail"), ("joe@example.org",)
        )

    def test_the_name_s_own_value_is_added(self) -> None:
        self.assertEqual(checked(_entry()).values("uid"), ("joe",))
        self.assertEqual(checked(_entry(uid=("JOE",))).values("uid"), ("JOE",))

    def test_what_would_break_mail_is_refused(self) -> None:
        bad: list[dict[str, tuple[str, ...]]] = [
            {"mail": ("no address",)},
            {"mail": ("a@example.org", "b@example.org")},
            {"mail": ()},
            {"mailalternateaddress": ("../../etc@x/y",)},
            {"mailmessagestore": ("/var/mail/joe",)},
            {"mailmessagestore": ("example.org/../../joe",)},
            {"accountstatus": ("sleepy",)},
            {"deliverymode": ("forwardonly",)},
            {"userpassword": ("clear text",)},
            {"userpassword": ("{MD5}abc",)},
            {"mailquotasize": ("-1",)},
            {"mailforwardingaddress": ("|/bin/sh",)},
            {"objectclass": ()},
            {"bad name": ("x",)},
            {"uid": ("a\nb",)},
            {"description": ("x" * 300000,)},
            {"associateddomain": ("example.org",)},
        ]
        for attributes in bad:
            with self.assertRaises(Invalid, msg=str(attributes)[:100]):
                checked(_entry(**attributes))


class MeaningTests(SynchronousTestCase):
    def test_a_user_is_a_mailbox(self) -> None:
        self.assertEqual(
            schema.recipient({**_USER, "mailquotasize": ("500",)}),
            Mailbox(address="joe@example.org", path="example.org/joe/Maildir", quota_octets=500),
        )

    def test_a_store_of_its_own_is_kept(self) -> None:
        found = schema.recipient({**_USER, "mailmessagestore": ("disk2/joe/Maildir/",)})
        assert isinstance(found, Mailbox)
        self.assertEqual(found.path, "disk2/joe/Maildir")

    def test_a_store_outside_makes_mail_wait(self) -> None:
        """An external directory may say anything: mail is kept, never written there."""
        for bad in ("/etc/cron.d/x", "../x", "a/./b", ".ssh"):
            with self.assertRaises(Temporary):
                schema.recipient({**_USER, "mailmessagestore": (bad,)})

    def test_account_status_decides(self) -> None:
        """qmail-ldap: noaccess takes mail but no login, disabled neither, deleted is nobody."""
        expected = {"active": (True, True), "noaccess": (True, False), "disabled": (False, False), "odd": (True, True)}
        for status, (takes, opens) in expected.items():
            attributes = {**_USER, "accountstatus": (status,)}
            found = schema.recipient(attributes)
            assert isinstance(found, Mailbox)
            self.assertEqual((found.active, schema.may_log_in(attributes)), (takes, opens), status)
        self.assertIsNone(schema.recipient({**_USER, "accountstatus": ("deleted",)}))

    def test_forward_only_is_an_alias_and_forwarding_besides_is_a_copy(self) -> None:
        forwards = {**_USER, "mailforwardingaddress": ("a@x.example", "broken", "b@x.example")}
        self.assertEqual(
            schema.recipient({**forwards, "deliverymode": ("forwardOnly",)}),
            Alias(address="joe@example.org", targets=("a@x.example", "b@x.example")),
        )
        found = schema.recipient(forwards)
        assert isinstance(found, Mailbox)
        self.assertEqual(found.forwards, ("a@x.example", "b@x.example"))
        kept = schema.recipient({**forwards, "deliverymode": ("noforward",)})
        assert isinstance(kept, Mailbox)
        self.assertEqual(kept.forwards, ())

    def test_a_domain_entry_is_a_domain(self) -> None:
        attributes = {"associateddomain": ("example.org",), "mailcatchalladdress": ("all@example.org",)}
        self.assertEqual(schema.domain(attributes), Domain(name="example.org", catch_all="all@example.org"))
        self.assertEqual(
            schema.domain({**attributes, "accountstatus": ("disabled",)}),
            Domain(name="example.org", active=False, catch_all="all@example.org"),
        )
        self.assertIsNone(schema.domain({**attributes, "accountstatus": ("deleted",)}))
