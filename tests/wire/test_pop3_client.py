"""Tests of the client side of a POP3 login, as nodes do it at each other."""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.wire.pop3_client import LINE_OCTETS, Broken, Guest, LetIn, NodeLogin, Outcome, TlsWanted, Turned

OURS = b"+OK [XCLIENT] mail.example.org POP3 qmailpy\r\n"
OTHERS = b"+OK Dovecot (Debian) ready.\r\n"
GUEST = Guest(login="bob@example.org", password=b"sesame", ip="192.0.2.7", hops=0)


def plain(*parts: bytes) -> bytes:
    return base64.b64encode(b"\0".join(parts)) + b"\r\n"


class LoginTests(SynchronousTestCase):
    def talk(self, login: NodeLogin, *lines: tuple[bytes, bytes]) -> Outcome | None:
        """What the node says, and what it is told then; the last outcome."""
        outcome = None
        for said, told in lines:
            outcome = login.receive(said)
            if isinstance(outcome, TlsWanted):
                login.secured()
            self.assertEqual(login.take(), told)
        return outcome

    def test_a_node_of_ours(self) -> None:
        """Under TLS before anything is told of the user."""
        outcome = self.talk(
            NodeLogin(GUEST, tls=True),
            (OURS, b"STLS\r\n"),
            (b"+OK Begin\r\n", b"XCLIENT ADDR=192.0.2.7 TTL=0\r\n"),
            (b"+OK\r\n", b"AUTH PLAIN\r\n"),
            (b"+ \r\n", plain(b"", b"bob@example.org", b"sesame")),
            (b"+OK 3 messages\r\n+OK 1 2\r\n", b""),
        )
        self.assertEqual(outcome, LetIn(b"+OK 3 messages\r\n", b"+OK 1 2\r\n"))

    def test_an_account_of_the_nodes(self) -> None:
        """RFC 4616: whom to act as comes first."""
        guest = Guest(login="bob@example.org", user="nodes", password=b"secret")
        outcome = self.talk(
            NodeLogin(guest, tls=False),
            (OURS, b"XCLIENT TTL=0\r\n"),
            (b"+OK\r\n", b"AUTH PLAIN\r\n"),
            (b"+\r\n", plain(b"bob@example.org", b"nodes", b"secret")),
            (b"-ERR [IN-USE] No\r\n", b""),
        )
        self.assertEqual(outcome, Turned("[IN-USE] No"))

    def test_another_server(self) -> None:
        self.talk(NodeLogin(GUEST, tls=False), (OTHERS, b"AUTH PLAIN\r\n"))

    def test_what_ends_it(self) -> None:
        for lines in (
            (b"-ERR [SYS/TEMP] Too many\r\n",),
            (b"* OK IMAP\r\n",),
            (b"+OK mail.example.org POP3 qmailpy\r\n",),  # it does not know us as a node
            (OURS, b"-ERR no TLS\r\n"),
            (OURS, b"+OK Begin\r\n+OK injected\r\n"),
            (OURS, b"+OK Begin\r\n", b"-ERR XCLIENT?\r\n"),
            (OURS, b"+OK Begin\r\n", b"+OK\r\n", b"-ERR AUTH?\r\n"),
            (OURS, b"+OK Begin\r\n", b"+OK\r\n", b"+ \r\n", b"* what\r\n"),
            (b"x" * (LINE_OCTETS + 1),),
        ):
            login = NodeLogin(GUEST, tls=True)
            outcome = None
            told = b""
            for line in lines:
                self.assertNotIsInstance(outcome, Broken)
                outcome = login.receive(line)
                if isinstance(outcome, TlsWanted):
                    login.secured()
                told += login.take()
            self.assertIsInstance(outcome, Broken, lines)
            self.assertNotIn(b"sesame", repr(outcome).encode())
            self.assertIsNone(login.receive(OURS))

    def test_passwords_are_not_for_the_log(self) -> None:
        self.assertNotIn("sesame", repr(GUEST))

    @given(st.lists(st.integers(min_value=1, max_value=9), max_size=40))
    def test_cut_anywhere(self, cuts: list[int]) -> None:
        said = OURS + b"+OK\r\n+ \r\n+OK in\r\nrest"
        login = NodeLogin(GUEST, tls=False)
        told, found, at = b"", None, 0
        for cut in [*cuts, len(said)]:
            outcome = login.receive(said[at : at + cut]) if said[at : at + cut] else None
            at += cut
            told += login.take()
            if outcome is not None:
                found = outcome
                break
        assert isinstance(found, LetIn)
        self.assertEqual(found.said, b"+OK in\r\n")
        self.assertTrue(b"rest".startswith(found.rest))
        self.assertEqual(
            told, b"XCLIENT ADDR=192.0.2.7 TTL=0\r\nAUTH PLAIN\r\n" + plain(b"", b"bob@example.org", b"sesame")
        )
