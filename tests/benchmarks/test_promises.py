"""The reckoning after torture finds every kind of broken promise."""

from __future__ import annotations

import os
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.mailing import (
    AGAIN,
    AWAY,
    AWAY_TEXT,
    CONVERTED,
    HELD,
    KEPT,
    LATER,
    MEMBERS,
    PIPED,
    REFUSED,
    SENDER,
    STORED,
    TAKEN,
    TEAM,
    USERS,
    Fate,
    Ledger,
    Mail,
    compose,
    digest_after_mark,
    digests_of_pieces,
    in_pieces,
)
from benchmarks.node import DOMAIN, VOID
from benchmarks.promises import Findings, Stored, check, thd_stored

RECEIVED = b"Received: from load.example.net\r\n\tby mail.example.org; today\r\n"
LOCAL = f"user1@{DOMAIN}"


def delivered(mail: Mail, address: str = LOCAL, content: bytes | None = None) -> Stored:
    """A Maildir file as it should be."""
    top = f"Return-Path: <{SENDER}@{DOMAIN}>\r\nDelivered-To: {address}\r\n".encode()
    octets = top + RECEIVED + (mail.content if content is None else content)
    return Stored(user=address.partition("@")[0], path="new/1", octets=octets)


def notice(*recipients: str) -> Stored:
    """A notice as it should be."""
    fields = "".join(f"Final-Recipient: rfc822;{one}\r\nAction: failed\r\n\r\n" for one in recipients)
    return Stored(user=SENDER, path="new/2", octets=b"Return-Path: <>\r\nSubject: failed\r\n\r\n" + fields.encode())


class CheckTests(SynchronousTestCase):
    """L{check}."""

    def setUp(self) -> None:
        self.ledger = Ledger()

    def mail(self, *recipients: str, fate: Fate = Fate.ACCEPTED) -> Mail:
        """A message that was sent to these."""
        mail = compose(f"T1x{len(self.ledger.sent)}", Random(1))
        mail.sent.recipients = mail.sent.accepted = recipients
        mail.sent.fate = fate
        self.ledger.sent[mail.sent.token] = mail.sent
        return mail

    def faults(self, *stored: Stored) -> list[str]:
        """What is found, as the first words of each."""
        return [fault.partition(":")[0] for fault in check(self.ledger, stored).faults]

    def test_what_is_in_place_is_no_fault(self) -> None:
        """Local, remote and returned."""
        mail = self.mail(LOCAL, "ok-T1x0@remote.example", "no-T1x0@remote.example")
        self.ledger.arrived["T1x0", "ok-T1x0@remote.example"] = [mail.sent.digest]
        found = check(self.ledger, [delivered(mail), notice("no-T1x0@remote.example")])
        self.assertEqual(
            found,
            Findings(accepted=1, stored=1, relayed=1, returned=1),
        )
        self.assertTrue(found.kept)

    def test_a_missing_delivery_of_each_kind_is_found(self) -> None:
        """Only what was acknowledged is missed."""
        self.mail(LOCAL, "ok-T1x0@remote.example", "no-T1x0@remote.example")
        self.mail(LOCAL, fate=Fate.UNKNOWN)
        self.assertEqual(self.faults(), ["lost"] * 3)

    def test_an_octet_that_differs_is_found(self) -> None:
        """In a Maildir and at the sink; and what is altered is missing, too."""
        mail = self.mail(LOCAL, "ok-T1x0@remote.example")
        self.ledger.arrived["T1x0", "ok-T1x0@remote.example"] = [b"another"]
        content = mail.content[:-3] + b"!\r\n"
        self.assertEqual(sorted(self.faults(delivered(mail, content=content))), ["altered", "altered", "lost", "lost"])

    def test_a_file_cut_short_or_empty_is_found(self) -> None:
        """As a power cut leaves it."""
        mail = self.mail(LOCAL)
        for octets, fault in ((b"", "invented"), (delivered(mail).octets[:-1], "altered")):
            self.assertEqual(self.faults(Stored(user="user1", path="new/1", octets=octets)), [fault, "lost"])

    def test_a_second_received_field_is_found(self) -> None:
        """The same message delivered to itself."""
        mail = self.mail(LOCAL)
        self.assertIn("altered", self.faults(delivered(mail, content=RECEIVED + mail.content)))

    def test_a_message_that_is_there_twice_is_found(self) -> None:
        """In a Maildir, and a notice that came twice; at the sink it is only counted."""
        mail = self.mail(LOCAL, "no-T1x0@remote.example", "ok-T1x0@remote.example")
        self.ledger.arrived["T1x0", "ok-T1x0@remote.example"] = [mail.sent.digest] * 3
        twice = [delivered(mail), notice("no-T1x0@remote.example")] * 2
        found = check(self.ledger, twice)
        self.assertEqual(len(found.duplicates), 2)
        self.assertFalse(found.kept)
        self.assertEqual(found.sink_duplicates, 2)

    def test_what_nobody_sent_is_found(self) -> None:
        """An unknown message, a known one for somebody else, notices about nobody and somebody else, at the sink."""
        mail = self.mail(LOCAL)
        stranger = compose("T9x9", Random(2))
        self.ledger.arrived["T1x0", "ok-T1x0@remote.example"] = [mail.sent.digest]
        faults = self.faults(
            delivered(mail),
            delivered(stranger),
            delivered(mail, f"user2@{DOMAIN}"),
            notice(),
            notice("no-T9x9@remote.example"),
        )
        self.assertEqual(faults, ["invented"] * 5)

    def test_a_recipient_refused_at_rcpt_must_get_nothing(self) -> None:
        """The others may."""
        mail = self.mail(LOCAL, f"user2@{DOMAIN}")
        mail.sent.accepted = (f"user2@{DOMAIN}",)
        faults = self.faults(delivered(mail), delivered(mail, f"user2@{DOMAIN}"))
        self.assertEqual(faults, ["delivered though refused"])

    def test_mail_whose_answer_was_lost_may_arrive(self) -> None:
        """It is counted."""
        mail = self.mail(LOCAL, fate=Fate.UNKNOWN)
        found = check(self.ledger, [delivered(mail)])
        self.assertEqual((found.extra, found.unanswered, found.kept), (1, 1, True))

    def test_a_group_is_mail_for_each_member_with_the_groups_field(self) -> None:
        """Members here and elsewhere; a field of the group on top, once."""
        mail = self.mail(TEAM)
        self.assertEqual(self.faults(), ["lost"] * 3)
        self.ledger.arrived["T1x0", MEMBERS[2]] = [mail.sent.digest]
        good = []
        for member in MEMBERS[:2]:
            one = delivered(mail, member)
            top = f"Delivered-To: {member}\r\n".encode()
            good.append(
                Stored(
                    user=one.user,
                    path=one.path,
                    octets=one.octets.replace(top, top + f"Delivered-To: {TEAM}\r\n".encode()),
                )
            )
        self.assertEqual(self.faults(*good), [])
        self.assertEqual(self.faults(good[0], delivered(mail, MEMBERS[1])), ["altered", "lost"])
        self.assertEqual(self.faults(*good, delivered(mail, f"{USERS[2]}@{DOMAIN}")), ["invented"])

    def test_what_is_thrown_away_must_not_arrive(self) -> None:
        mail = self.mail(f"ok-T1x0@{VOID}")
        self.assertEqual(check(self.ledger, []).discarded, 1)
        self.assertEqual(self.faults(), [])
        self.ledger.arrived["T1x0", f"ok-T1x0@{VOID}"] = [mail.sent.digest]
        self.assertEqual(self.faults(), ["invented"])

    def test_mail_routed_again_arrives_where_it_leads(self) -> None:
        mail = self.mail(f"ok-T1x0@{AGAIN}")
        self.assertEqual(self.faults(), ["lost"])
        self.ledger.arrived["T1x0", "ok-T1x0@remote.example"] = [mail.sent.digest]
        self.assertEqual(self.faults(), [])

    def test_a_user_who_is_away_answers_once(self) -> None:
        mail = self.mail(AWAY)
        octets = f"Return-Path: <>\r\nAuto-Submitted: auto-replied\r\n\r\n{AWAY_TEXT}\r\n".encode()
        said = Stored(user=SENDER, path="new/3", octets=octets)
        self.assertEqual(self.faults(delivered(mail, AWAY)), ["lost"])
        self.assertEqual(self.faults(delivered(mail, AWAY), said), [])
        self.assertEqual(self.faults(delivered(mail, AWAY), said, said), ["2 times"])


class MailTests(SynchronousTestCase):
    """L{compose} and L{digest_after_mark}."""

    def test_the_checksum_survives_fields_on_top_and_maildir_line_ends(self) -> None:
        """Whatever octets the body has, no CR or LF is alone in it."""
        for seed in range(30):
            mail = compose("T1x1", Random(seed))
            self.assertEqual(mail.content.count(b"\r"), mail.content.count(b"\r\n"))
            self.assertEqual(mail.content.count(b"\n"), mail.content.count(b"\r\n"))
            self.assertNotIn(b"\0", mail.content)
            kept = (RECEIVED + mail.content).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
            self.assertEqual(digest_after_mark(kept), ("T1x1", mail.sent.digest))

    def test_chance_covers_all_kinds_of_recipients(self) -> None:
        """Local, taken, late and refused ones; large messages now and then."""
        mails = [compose(f"T1x{number}", Random(number)) for number in range(300)]
        recipients = {recipient for mail in mails for recipient in mail.sent.recipients}
        for prefix in (TAKEN, LATER, REFUSED, *USERS):
            self.assertTrue(any(recipient.startswith(prefix) for recipient in recipients), prefix)
        self.assertTrue(any(mail.sent.size > 131072 for mail in mails))

    def test_each_kind_of_recipient_has_its_turn(self) -> None:
        """For channels of every kind nothing is left to chance at first."""
        named = {
            recipient
            for turn in range(30)
            for recipient in compose("T1x1", Random(turn), wide=True, turn=turn).sent.recipients
        }
        for recipient in (
            TEAM,
            AWAY,
            *(f"ok-T1x1@{one}" for one in (CONVERTED, KEPT, AGAIN, STORED, HELD, PIPED, VOID)),
        ):
            self.assertIn(recipient, named)

    def test_maildirs_are_read_in_new_and_in_cur(self) -> None:
        """With the line ends of the wire."""
        top = self.mktemp()
        for part, name in (("new", "a"), ("cur", "b:2,S"), ("tmp", "c")):
            directory = os.path.join(top, DOMAIN, "user1", "Maildir", part)
            os.makedirs(directory)
            with open(os.path.join(directory, name), "wb") as target:
                target.write(b"x\ny\n")
        found = [(one.user, one.path.rpartition("/")[2], one.octets) for one in thd_stored(top)]
        self.assertEqual(found, [("user1", "a", b"x\r\ny\r\n"), ("user1", "b:2,S", b"x\r\ny\r\n")])


class PiecesTests(SynchronousTestCase):
    """Messages in pieces."""

    def test_pieces_are_known_in_the_whole_and_alone(self) -> None:
        mails = in_pieces("T1x1", Random(1))
        whole = b"Subject: whole\r\n\r\n" + b"".join(
            b"X-Token: " + mail.content.partition(b"X-Token: ")[2] for mail in mails
        )
        self.assertEqual(digests_of_pieces(whole), [(mail.sent.token, mail.sent.digest) for mail in mails])
        for mail in mails:
            self.assertEqual(digests_of_pieces(mail.content), [(mail.sent.token, mail.sent.digest)])
            self.assertEqual(mail.sent.size, len(mail.content))
        self.assertEqual(len({mail.sent.recipients for mail in mails}), 1)
