"""
Tests for L{qmailpy.remote.trouble}.
"""

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.remote.trouble import Fate, Fault, Scope, Trouble, fates, judge
from qmailpy.values import Reply, Verdict
from qmailpy.wire.client_events import Outcome, Stage

OK = Reply(250, "", "ok")
NO = Reply(550, "5.1.1", "no")
LATER = Reply(451, "4.3.0", "later")
BYE = Reply(421, "4.3.2", "bye")
D, Q, R = Verdict.DELIVERED, Verdict.DEFERRED, Verdict.FAILED


class JudgeTests(SynchronousTestCase):
    """What a trouble means."""

    def test_every_failure_has_its_scope(self) -> None:
        """The module's table, row by row: scope, verdict, next host, blame, connection kept."""
        for stage, fault, reply, expected in (
            (Stage.CONNECT, Fault.UNREACHED, None, (Scope.HOST, Q, True, True, False)),
            (Stage.GREETING, Fault.TIMED_OUT, None, (Scope.HOST, Q, True, True, False)),
            (Stage.GREETING, Fault.LOST, None, (Scope.HOST, Q, True, False, False)),
            (Stage.GREETING, Fault.VIOLATED, None, (Scope.HOST, Q, True, False, False)),
            (Stage.GREETING, Fault.REFUSED, NO, (Scope.HOST, R, True, False, False)),
            (Stage.GREETING, Fault.REFUSED, LATER, (Scope.HOST, Q, True, False, False)),
            (Stage.EHLO, Fault.REFUSED, BYE, (Scope.HOST, Q, True, False, False)),
            (Stage.HELO, Fault.REFUSED, NO, (Scope.HOST, R, True, False, False)),
            (Stage.MAIL, Fault.REFUSED, BYE, (Scope.CONNECTION, Q, True, False, False)),
            (Stage.MAIL, Fault.LOST, None, (Scope.CONNECTION, Q, True, False, False)),
            (Stage.RCPT, Fault.REFUSED, BYE, (Scope.CONNECTION, Q, False, False, False)),
            (Stage.RCPT, Fault.TIMED_OUT, None, (Scope.CONNECTION, Q, False, False, False)),
            (Stage.DATA, Fault.LOST, None, (Scope.CONNECTION, Q, False, False, False)),
            (Stage.CONTENT, Fault.LOST, None, (Scope.CONNECTION, Q, False, False, False)),
            (Stage.FINAL, Fault.LOST, None, (Scope.CONNECTION, Q, False, False, False)),
            (Stage.FINAL, Fault.VIOLATED, None, (Scope.CONNECTION, Q, False, False, False)),
            (Stage.MAIL, Fault.REFUSED, NO, (Scope.MESSAGE, R, False, False, True)),
            (Stage.DATA, Fault.REFUSED, LATER, (Scope.MESSAGE, Q, False, False, True)),
            (Stage.FINAL, Fault.REFUSED, NO, (Scope.MESSAGE, R, False, False, True)),
            (Stage.CONTENT, Fault.REFUSED, NO, (Scope.MESSAGE, R, False, False, False)),
            (Stage.RCPT, Fault.REFUSED, NO, (Scope.RECIPIENT, R, False, False, True)),
            (Stage.RCPT, Fault.REFUSED, LATER, (Scope.RECIPIENT, Q, False, False, True)),
            (Stage.CONNECT, Fault.OURS, None, (Scope.NODE, Q, False, False, False)),
            (Stage.CONTENT, Fault.OURS, None, (Scope.NODE, Q, False, False, False)),
        ):
            judged = judge(Trouble(stage=stage, fault=fault, reply=reply))
            self.assertEqual(
                (judged.scope, judged.verdict, judged.next_host, judged.blame, judged.keep), expected, (stage, fault)
            )
            if reply is not None:
                self.assertEqual(judged.reply, reply)

    def test_only_the_end_of_the_message_leaves_a_doubt(self) -> None:
        """RFC 1047."""
        for stage in Stage:
            for fault in (Fault.LOST, Fault.TIMED_OUT, Fault.VIOLATED):
                text = judge(Trouble(stage=stage, fault=fault, why="x")).reply.text
                self.assertEqual("possible duplicate" in text, stage is Stage.FINAL, text)

    def test_an_unsure_end_never_goes_to_the_next_host(self) -> None:
        """Nor anything after MAIL was answered: the mail might arrive twice in one attempt."""
        for stage in (Stage.RCPT, Stage.DATA, Stage.CONTENT, Stage.FINAL):
            for fault in (Fault.LOST, Fault.TIMED_OUT, Fault.VIOLATED):
                self.assertFalse(judge(Trouble(stage=stage, fault=fault)).next_host)


class FatesTests(SynchronousTestCase):
    """What the replies of a transaction decide."""

    def verdicts(self, outcome: Outcome) -> list[Verdict | None]:
        return [fate.verdict if fate else None for fate in fates(outcome)]

    def test_delivered_means_accepted_by_rcpt_and_final_dot(self) -> None:
        """Both."""
        self.assertEqual(self.verdicts(Outcome(mail=OK, recipients=(OK, NO, LATER), final=OK)), [D, R, Q])
        self.assertEqual(self.verdicts(Outcome(mail=OK, recipients=(OK, NO), final=LATER)), [Q, R])
        self.assertEqual(self.verdicts(Outcome(mail=OK, recipients=(OK, LATER), data=NO)), [R, Q])

    def test_a_refused_sender_is_everybodys_refusal(self) -> None:
        """Whatever was said to RCPT."""
        self.assertEqual(self.verdicts(Outcome(mail=NO, recipients=(OK, None))), [R, R])

    def test_without_an_answer_nothing_is_decided(self) -> None:
        """Accepted by RCPT is not delivered."""
        self.assertEqual(self.verdicts(Outcome(mail=OK, recipients=(OK, NO, None), stage=Stage.FINAL)), [None, R, None])
        self.assertEqual(self.verdicts(Outcome(recipients=(None,))), [None])

    def test_too_many_recipients_is_worth_another_transaction(self) -> None:
        """Only after one was accepted, and only when the code says nothing of the mailbox."""
        many, old = Reply(452, "4.5.3", "too many"), Reply(552, "", "too many")
        found = fates(Outcome(mail=OK, recipients=(many, OK, many, old, Reply(452, "4.2.2", "full")), final=OK))
        self.assertEqual([fate.again for fate in found if fate], [False, False, True, True, False])
        self.assertEqual([fate.verdict for fate in found if fate], [Q, D, Q, Q, Q])
        full = fates(Outcome(mail=OK, recipients=(OK, Reply(552, "5.2.2", "full")), final=OK))[1]
        assert full is not None
        self.assertEqual((full.verdict, full.again), (R, False))

    def test_only_after_the_whole_message_its_size_was_transferred(self) -> None:
        """For the size of a Q record."""
        self.assertEqual(
            fates(Outcome(mail=OK, recipients=(OK,), final=LATER)),
            (Fate(verdict=Q, reply=LATER, scope=Scope.MESSAGE, whole=True),),
        )
        early = fates(Outcome(mail=OK, recipients=(OK,), final=LATER, stage=Stage.CLOSED))[0]
        self.assertFalse(early is None or early.whole)
