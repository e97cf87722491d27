"""
Tests for L{qmailpy.remote.dispositions}.
"""

from __future__ import annotations

from typing import Any, cast

from attrs import evolve, frozen
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.remote.dispositions import diagnostic, modifiers, name, of_trouble, skipped, weight, without_promise
from qmailpy.remote.peers import Peer
from qmailpy.remote.session import Session
from qmailpy.remote.trouble import Fault, Trouble, judge
from qmailpy.values import Disposition, Reply, Verdict
from qmailpy.wire.client_events import Stage

PEER = Peer(host="mx.out.example", address="192.0.2.1", port=25)
ENDS = "TCP|192.0.2.9|4000|192.0.2.1|25"


@frozen(kw_only=True)
class Core:
    banner: str = "mx ready"
    esmtp: bool = True
    chunked: bool = False
    secure: bool = False
    authenticated: bool = False
    lmtp: bool = False


@frozen(kw_only=True)
class Spoken:
    """As much of a session as words need."""

    peer: Peer = PEER
    ends: str = ENDS
    tls: str = ""
    core: Core = Core()


def session(**facts: Any) -> Session:
    return cast(Session, Spoken(**facts))


class DispositionTests(SynchronousTestCase):
    def test_a_diagnostic_names_host_connection_banner_protection_and_words(self) -> None:
        self.assertEqual(diagnostic(session(), "smtp;250 ok"), f"dns;mx.out.example ({ENDS}) (mx ready) smtp;250 ok")
        self.assertEqual(
            diagnostic(session(tls="TLSv1.3/X"), "smtp;250 ok"),
            f"dns;mx.out.example ({ENDS}) (mx ready) (TLSv1.3/X) smtp;250 ok",
        )

    def test_a_host_without_a_name_is_in_brackets(self) -> None:
        self.assertEqual(name(PEER), "mx.out.example")
        self.assertEqual(name(evolve(PEER, host="192.0.2.1")), "[192.0.2.1]")

    def test_the_letters_tell_what_was_spoken(self) -> None:
        every = Core(chunked=True, secure=True, authenticated=True)
        self.assertEqual(
            [modifiers(each) for each in (None, session(), session(core=every), session(core=Core(lmtp=True)))],
            ["", "E", "ECSA", "L"],
        )

    def test_a_refusal_is_told_in_the_words_of_the_peer(self) -> None:
        refused = Trouble(stage=Stage.GREETING, fault=Fault.REFUSED, reply=Reply(554, "5.3.2", "go away"))
        said = of_trouble(refused, judge(refused), PEER, session(), sent=7)
        self.assertEqual((said.remote_mta, said.transferred, said.modifiers), ("mx.out.example", 7, "E"))
        self.assertTrue(said.diagnostic.endswith(f"smtp;{said.reply}"))

    def test_what_nobody_answered_is_told_in_ours(self) -> None:
        unreached = Trouble(stage=Stage.CONNECT, fault=Fault.UNREACHED, why="refused")
        said = of_trouble(unreached, judge(unreached), PEER, None)
        self.assertEqual((said.diagnostic, said.modifiers), (said.reply.text, ""))

    def test_our_own_trouble_names_no_peer(self) -> None:
        ours = Trouble(stage=Stage.CONTENT, fault=Fault.OURS, why="Message cannot be read: EIO")
        self.assertEqual(of_trouble(ours, judge(ours), PEER, session()).remote_mta, "")

    def test_a_host_without_requiretls_fails_the_message(self) -> None:
        for spoken in (None, session()):
            said = without_promise(PEER, spoken)
            self.assertEqual((said.verdict, said.reply.enhanced), (Verdict.FAILED, "5.7.30"))
            self.assertIn("REQUIRETLS support required, which mx.out.example does not offer", said.diagnostic)

    def test_what_is_told_of_several_hosts(self) -> None:
        """A temporary failure above a permanent one, one met above one remembered."""
        failed = Disposition(verdict=Verdict.FAILED, reply=Reply(550, "5.1.1", "no"))
        remembered = skipped("it was down", 60.0, PEER)
        met = Disposition(verdict=Verdict.DEFERRED, reply=Reply(451, "4.4.1", "down"))
        self.assertEqual(sorted([met, failed, remembered], key=weight), [failed, remembered, met])
        self.assertEqual(remembered.retry_after, 60.0)
        self.assertIn("skipping this host: it was down", remembered.diagnostic)
