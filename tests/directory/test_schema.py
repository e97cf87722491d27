"""What entries mean and which may be stored."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.directory.names import parse
from qmailpy.directory.schema import Attributes, Entry, Invalid, checked

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
            {"description": ("x" * 600000,)},
            {"associateddomain": ("example.org",)},
            {"mailhost": ("no host",)},
            {"mailhost": ("a.example:99999",)},
            {"qmailfeature": ("flying",)},
            {"qmailsubfolders": ("perhaps",)},
            {"qmailreplyend": ("20261332000000Z",)},
            {"qmailreplyend": ("tomorrow",)},
            {"dnmember": ("nobody",)},
            {"rfc822member": ("nobody",)},
            {"qmailadministers": ("/etc",)},
            {"qmailplanname": ("a\nb",)},
        ]
        for attributes in bad:
            with self.assertRaises(Invalid, msg=str(attributes)[:100]):
                checked(_entry(**attributes))
