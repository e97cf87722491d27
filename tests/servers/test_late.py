"""Recipients that mind how large a message is: asked when it is named, and again when it is there."""

from __future__ import annotations

from attrs import evolve

from qmailpy.errors import Temporary
from qmailpy.records.record import Action
from qmailpy.testing.scripted_router import ScriptedRouter, local
from qmailpy.values import Posting, Refused, Reply, RouteResult
from tests.servers.test_smtp import CONTENT, SmtpTestCase

MAIL = b"MAIL FROM:<a@example.net>\r\n"
RCPT_B, RCPT_C = b"RCPT TO:<b@example.org>\r\n", b"RCPT TO:<c@example.org>\r\n"
FULL, LARGE = Reply(452, "4.2.2", "full"), Reply(552, "5.2.3", "too large")
MESSAGE = b"DATA\r\n" + CONTENT + b".\r\n"


class SizedRouter(ScriptedRouter):
    """
    Minds messages of 20 octets and more.

    @ivar refusing: what is said for an address then.
    @ivar known: whether figures are at hand.
    """

    def __init__(self) -> None:
        super().__init__()
        self.refusing: dict[str, Reply] = {}
        self.known = True

    def route_now(self, address: str, source: str, about: Posting | None = None) -> RouteResult | None:
        found = super().route_now(address, source, about)
        if about is None or about.size_octets < 20:
            return found
        if not self.known:
            return None
        return Refused(self.refusing[address]) if address in self.refusing else found


class LateTests(SmtpTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.router: SizedRouter = SizedRouter()
        self.factory = self.make()
        for name in ("b", "c"):
            address = f"{name}@example.org"
            self.router.now[address] = evolve(local(address), sized=True)

    def test_the_announced_size_is_known_when_recipients_are(self) -> None:
        self.router.refusing["b@example.org"] = FULL
        transport = self.ready()
        mail = b"MAIL FROM:<a@example.net> SIZE=30\r\n"
        self.assertEqual(self.ask(transport, mail + RCPT_B + RCPT_C), ["250", "452", "250"])
        self.assertEqual(
            self.router.abouts[-1], Posting(sender="a@example.net", size_octets=30, user="", handed_on=False)
        )

    def test_a_message_that_nobody_has_room_for_is_refused(self) -> None:
        """One that may have room later makes it a refusal for now; a J record each."""
        for refusing, code in (
            ({"b@example.org": FULL, "c@example.org": FULL}, "452"),
            ({"b@example.org": LARGE, "c@example.org": FULL}, "452"),
            ({"b@example.org": LARGE, "c@example.org": LARGE}, "552"),
        ):
            self.router.refusing = refusing
            self.recorder.records.clear()
            transport = self.ready()
            self.assertEqual(self.ask(transport, MAIL + RCPT_B + RCPT_C + MESSAGE), ["250", "250", "250", "354", code])
            self.assertEqual([one.destination for one in self.records(Action.REJECTED)], ["local", "local"])
            self.assertEqual(self.ask(transport, MAIL + b"RSET\r\n"), ["250", "250"])
        self.assertEqual(self.queue.messages, [])

    def test_a_message_that_some_have_room_for_is_accepted(self) -> None:
        self.router.refusing["b@example.org"] = FULL
        self.assertEqual(self.ask(self.ready(), MAIL + RCPT_B + RCPT_C + MESSAGE)[-1], "250")
        (message,) = self.queue.messages
        self.assertEqual(len(message.envelope.recipients), 2)

    def test_a_size_that_was_announced_is_not_asked_for_again(self) -> None:
        mail = b"MAIL FROM:<a@example.net> SIZE=5000\r\n"
        self.assertEqual(self.ask(self.ready(), mail + RCPT_B + MESSAGE)[-1], "250")
        self.assertEqual(len(self.router.asked), 1)

    def test_who_does_not_mind_is_not_asked_again(self) -> None:
        self.router.now["b@example.org"] = local("b@example.org")
        self.assertEqual(self.ask(self.ready(), MAIL + RCPT_B + MESSAGE)[-1], "250")
        self.assertEqual(len(self.router.asked), 1)

    def test_figures_that_are_not_at_hand_are_waited_for(self) -> None:
        for answer, code in ((Refused(FULL), "452"), (local("b@example.org"), "250")):
            self.router.known = False
            transport = self.ready()
            self.assertEqual(self.ask(transport, MAIL + RCPT_B + b"DATA\r\n")[-1], "354")
            kept = self.router.now.pop("b@example.org")
            self.assertEqual(self.ask(transport, CONTENT + b".\r\nNOOP\r\n"), [])
            self.router.tell("b@example.org", answer)
            self.assertEqual(self.codes(transport), [code, "250"])
            self.router.now["b@example.org"] = kept

    def test_a_client_that_leaves_meanwhile_has_sent_nothing(self) -> None:
        self.router.known = False
        transport = self.ready()
        self.ask(transport, MAIL + RCPT_B + b"DATA\r\n")
        del self.router.now["b@example.org"]
        self.ask(transport, CONTENT + b".\r\n")
        transport.lose()
        self.router.tell("b@example.org", local("b@example.org"))
        self.assertEqual(self.queue.messages, [])

    def test_lmtp_from_another_machine_comes_from_another_node(self) -> None:
        transport = self.connect(factory=self.make(kind="lmtp", tls="none"))
        self.ask(transport, b"LHLO x\r\n" + MAIL + RCPT_B)
        about = self.router.abouts[-1]
        self.assertTrue(about is not None and about.handed_on)

    def test_a_router_with_a_bug_or_no_directory_refuses_nothing(self) -> None:
        """They were accepted; the local channel will see."""
        self.router.known = False
        for trouble in (ValueError("a bug"), Temporary(Reply(451, "4.3.0", "away"))):
            self.router.later["b@example.org"] = trouble
            self.assertEqual(self.ask(self.ready(), MAIL + RCPT_B + MESSAGE)[-1], "250")
        self.flushLoggedErrors(ValueError, Temporary)
