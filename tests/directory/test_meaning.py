"""What entries mean for mail."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.directory import meaning
from qmailpy.directory.schema import Attributes
from qmailpy.errors import Temporary
from qmailpy.values import FEATURES, Alias, AutoReply, Domain, Group, Mailbox

_USER: Attributes = {"objectclass": ("top", "qmailUser"), "mail": ("joe@example.org",)}


class MeaningTests(SynchronousTestCase):
    def test_a_user_is_a_mailbox(self) -> None:
        self.assertEqual(
            meaning.recipient({**_USER, "mailquotasize": ("500",)}),
            Mailbox(address="joe@example.org", path="example.org/joe/Maildir", quota_octets=500),
        )

    def test_a_store_of_its_own_is_kept(self) -> None:
        found = meaning.recipient({**_USER, "mailmessagestore": ("disk2/joe/Maildir/",)})
        assert isinstance(found, Mailbox)
        self.assertEqual(found.path, "disk2/joe/Maildir")

    def test_a_store_outside_makes_mail_wait(self) -> None:
        """An external directory may say anything: mail is kept, never written there."""
        for bad in ("/etc/cron.d/x", "../x", "a/./b", ".ssh"):
            with self.assertRaises(Temporary):
                meaning.recipient({**_USER, "mailmessagestore": (bad,)})

    def test_account_status_decides(self) -> None:
        """qmail-ldap: noaccess takes mail but no login, disabled neither, deleted is nobody."""
        expected = {
            "active": (True, True),
            "noaccess": (True, False),
            "nopop": (True, True),
            "disabled": (False, False),
            "odd": (True, True),
        }
        for status, (takes, opens) in expected.items():
            attributes = {**_USER, "accountstatus": (status,)}
            found = meaning.recipient(attributes)
            assert isinstance(found, Mailbox)
            self.assertEqual((found.active, meaning.may_log_in(attributes)), (takes, opens), status)
        self.assertIsNone(meaning.recipient({**_USER, "accountstatus": ("deleted",)}))

    def test_forward_only_is_an_alias_and_forwarding_besides_is_a_copy(self) -> None:
        forwards = {**_USER, "mailforwardingaddress": ("a@x.example", "broken", "b@x.example")}
        self.assertEqual(
            meaning.recipient({**forwards, "deliverymode": ("forwardOnly",)}),
            Alias(address="joe@example.org", targets=("a@x.example", "b@x.example")),
        )
        found = meaning.recipient(forwards)
        assert isinstance(found, Mailbox)
        self.assertEqual(found.forwards, ("a@x.example", "b@x.example"))
        kept = meaning.recipient({**forwards, "deliverymode": ("noforward",)})
        assert isinstance(kept, Mailbox)
        self.assertEqual(kept.forwards, ())

    def test_a_domain_entry_is_a_domain(self) -> None:
        attributes = {"associateddomain": ("example.org",), "mailcatchalladdress": ("all@example.org",)}
        self.assertEqual(meaning.domain(attributes), Domain(name="example.org", catch_all="all@example.org"))
        self.assertEqual(
            meaning.domain({**attributes, "accountstatus": ("disabled",)}),
            Domain(name="example.org", active=False, catch_all="all@example.org"),
        )
        self.assertIsNone(meaning.domain({**attributes, "accountstatus": ("deleted",)}))


class InheritanceTests(SynchronousTestCase):
    def _mailbox(self, own: Attributes, *inherited: Attributes) -> Mailbox:
        found = meaning.recipient({**_USER, **own}, *inherited)
        assert isinstance(found, Mailbox)
        return found

    def test_limits_come_from_user_then_plan_then_domain(self) -> None:
        plan = {"cn": ("gold",), "mailquotasize": ("20",), "mailsizemax": ("21",), "qmailfeature": ("pop3", "imap")}
        below = {"mailquotasize": ("30",), "qmailsendsaday": ("32",), "qmailplanname": ("Gold",)}
        domain = {"mailquotacount": ("41",), "qmailsendsaday": ("42",), "qmailsubfolders": ("TRUE",)}
        found = self._mailbox({"mailquotasize": ("10",)}, plan, below, domain)
        self.assertEqual((found.quota_octets, found.size_octets, found.sends_a_day), (10, 21, 32))
        self.assertEqual((found.quota_messages, found.subfolders, found.plan), (41, True, "gold"))
        self.assertEqual(found.features, {"pop3", "imap"})

    def test_nought_of_one_s_own_is_no_limit_whatever_the_plan_says(self) -> None:
        self.assertEqual(self._mailbox({"mailquotasize": ("0",)}, {"mailquotasize": ("20",)}).quota_octets, 0)

    def test_what_cannot_be_read_counts_as_absent(self) -> None:
        self.assertEqual(self._mailbox({"mailquotasize": ("much",)}, {"mailquotasize": ("20",)}).quota_octets, 20)

    def test_features_are_all_unless_named(self) -> None:
        self.assertEqual(self._mailbox({}).features, FEATURES)
        self.assertEqual(self._mailbox({"qmailfeature": ("none",)}, {"qmailfeature": ("pop3",)}).features, frozenset())
        self.assertEqual(self._mailbox({"qmailfeature": ("POP3", "flying")}).features, {"pop3"})

    def test_who_may_not_forward_does_not(self) -> None:
        own = {"mailforwardingaddress": ("a@x.example",), "deliverymode": ("reply",), "mailreplytext": ("Away",)}
        self.assertEqual(self._mailbox(own).forwards, ("a@x.example",))
        barred = self._mailbox(own, {"qmailfeature": ("pop3",)})
        self.assertEqual((barred.forwards, barred.auto_reply), ((), None))

    def test_nodes_are_the_user_s_or_the_domain_s(self) -> None:
        found = self._mailbox({"mailhost": ("A.example",)}, {"mailhost": ("b.example",), "popserver": ("c.example",)})
        self.assertEqual((found.host, found.pop_host), ("a.example", "c.example"))


class UserTests(SynchronousTestCase):
    def _mailbox(self, **own: tuple[str, ...]) -> Mailbox:
        found = meaning.recipient({**_USER, **own})
        assert isinstance(found, Mailbox)
        return found

    def test_who_may_not_fetch_logs_in_all_the_same(self) -> None:
        """nopop: mail is taken and may be sent; the POP3 server looks at the status."""
        found = self._mailbox(accountstatus=("nopop",))
        self.assertEqual((found.active, found.status), (True, "nopop"))
        self.assertTrue(meaning.may_log_in({**_USER, "accountstatus": ("nopop",)}))

    def test_an_answer_needs_text_and_mode(self) -> None:
        self.assertIsNone(self._mailbox(mailreplytext=("Away",)).auto_reply)
        self.assertIsNone(self._mailbox(deliverymode=("reply",)).auto_reply)
        found = self._mailbox(
            deliverymode=("reply",),
            mailreplytext=("Away",),
            qmailreplydays=("3",),
            qmailreplybegin=("20261224000000Z",),
            qmailreplyend=("soon",),
        ).auto_reply
        self.assertEqual(found, AutoReply(text="Away", days=3, begins=1798070400.0))

    def test_an_answer_may_bring_its_subject(self) -> None:
        found = self._mailbox(
            deliverymode=("reply",), mailreplytext=("%HEADER%\nX-A: b\nSubject: On holiday\n\nBack\nsoon\n",)
        ).auto_reply
        self.assertEqual(found, AutoReply(text="Back\nsoon", subject="On holiday"))

    def test_dot_qmail_files_count_when_the_entry_says_so(self) -> None:
        for own, expected in (
            ({}, False),
            ({"qmaildotmode": ("both",)}, True),
            ({"qmaildotmode": ("dotonly",)}, True),
            ({"qmaildotmode": ("ldaponly",), "deliverymode": ("program",)}, False),
            ({"deliverymode": ("program",)}, True),
        ):
            self.assertEqual(self._mailbox(**own).dot_qmail, expected, own)


class GroupTests(SynchronousTestCase):
    _GROUP: Attributes = {"objectclass": ("top", "organizationalRole", "qmailGroup"), "mail": ("Staff@example.org",)}

    def test_members_are_addresses_and_entries(self) -> None:
        attributes = {
            **self._GROUP,
            "rfc822member": ("a@x.example", "broken", "b@example.org"),
            "dnmember": ("uid=b,dc=example.org,o=q", "uid=c,dc=example.org,o=q", "uid=gone,o=q"),
            "dnsender": ("uid=boss,o=q",),
            "rfc822sender": ("s@x.example",),
            "qmailposters": ("members",),
            "qmailgroupowner": ("owner@example.org",),
        }
        self.assertEqual(set(meaning.dns(attributes)), {*attributes["dnmember"], "uid=boss,o=q"})
        known = {"uid=b,dc=example.org,o=q": "b@example.org", "uid=c,dc=example.org,o=q": "c@example.org"}
        self.assertEqual(
            meaning.recipient(attributes, addresses_of={**known, "uid=boss,o=q": "boss@example.org"}),
            Group(
                address="staff@example.org",
                members=("a@x.example", "b@example.org", "c@example.org"),
                posters="members",
                listed=("s@x.example", "boss@example.org"),
                owner="owner@example.org",
            ),
        )

    def test_who_may_write_is_everybody_only_when_nothing_else_is_said(self) -> None:
        for own, expected in (
            ({}, "anyone"),
            ({"membersonly": ("TRUE",)}, "members"),
            ({"membersonly": ("FALSE",)}, "anyone"),
            ({"qmailposters": ("domain",), "membersonly": ("TRUE",)}, "domain"),
            ({"qmailposters": ("friends",)}, "members"),
        ):
            found = meaning.recipient({**self._GROUP, **own})
            assert isinstance(found, Group)
            self.assertEqual(found.posters, expected, own)

    def test_nobody_logs_in_as_a_group(self) -> None:
        self.assertFalse(meaning.may_log_in(self._GROUP))
