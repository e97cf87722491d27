"""
Tests for L{qmailpy.wire.transcript}.
"""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.wire.transcript import LINE, Transcript

SECRET = base64.b64encode(b"\0joe\0pencil-pencil")


class TranscriptTests(SynchronousTestCase):
    def lines(self, *said: str | bytes, content: bool = False, pop3: bool = False) -> list[str]:
        """
        @param said: what client ("C: ...") and server say; octets as they are, text with CRLF behind it.
        """
        found: list[str] = []
        transcript = Transcript(found.append, content=content, pop3=pop3)
        for one in said:
            octets = one if isinstance(one, bytes) else one.encode() + b"\r\n"
            (transcript.commands if octets.startswith(b"C: ") else transcript.replies)(octets[3:])
        transcript.end()
        return found

    def test_what_is_said_is_what_is_shown(self) -> None:
        said = ("S: 220 mx ESMTP", "C: EHLO a.example", b"S: 250-mx\r\n250 SIZE\r\n", "C: QUIT", "S: 221 bye")
        self.assertEqual(
            self.lines(*said),
            ["S: 220 mx ESMTP", "C: EHLO a.example", "S: 250-mx", "S: 250 SIZE", "C: QUIT", "S: 221 bye"],
        )

    def test_secrets_are_not_shown(self) -> None:
        """AUTH in one line, in several, refused, cancelled; LOGIN of XCLIENT."""
        for said, expected in (
            (
                (f"C: AUTH PLAIN {SECRET.decode()}", "S: 235 ok", "C: NOOP"),
                ["C: AUTH PLAIN ***", "S: 235 ok", "C: NOOP"],
            ),
            (
                (
                    "C: auth LOGIN",
                    "S: 334 VXNlcg==",
                    "C: am9l",
                    "S: 334 UGFzcw==",
                    "C: cGVuY2ls",
                    "S: 535 no",
                    "C: RSET",
                ),
                ["C: AUTH LOGIN", "S: 334 ***", "C: ***", "S: 334 ***", "C: ***", "S: 535 no", "C: RSET"],
            ),
            (("C: AUTH", "S: 501 what", "C: NOOP"), ["C: AUTH", "S: 501 what", "C: NOOP"]),
            ((f"C: AUTHPLAIN {SECRET.decode()}",), ["C: AUTH ***"]),
            (("C: XCLIENT ADDR=192.0.2.1 LOGIN=joe",), ["C: XCLIENT ADDR=192.0.2.1 LOGIN=***"]),
        ):
            found = self.lines(*said)
            self.assertEqual(found[: len(expected)], expected)
            self.assertNotIn(SECRET.decode(), "\n".join(found))

    def test_a_password_sent_ahead_is_none_to_be_shown(self) -> None:
        """In the octets behind AUTH, with other commands before it, or before its 334 is there."""
        for said in (
            (b"C: EHLO x\r\nAUTH LOGIN\r\n" + SECRET + b"\r\n", "S: 250 mx", "S: 334 x", "S: 334 y"),
            (b"C: EHLO x\r\nNOOP\r\nAUTH LOGIN\r\n", "S: 250 mx", b"C: " + SECRET + b"\r\n", "S: 250 ok", "S: 334 x"),
            (b"C: AUTH LOGIN\r\n" + SECRET[:5], "S: 334 x", b"C: " + SECRET[5:] + b"\r\n"),
            (b"C: AUTH LOGIN\r\n" + SECRET,),
            ("S: 334 out of the blue", b"C: " + SECRET + b"\r\n"),
        ):
            self.assertNotIn(SECRET.decode()[:5], "\n".join(self.lines(*said)))

    def test_messages_are_counted(self) -> None:
        """By DATA and by BDAT, whatever is in them; a DATA that was refused is none."""
        said = (
            b"C: MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n",
            b"S: 250 ok\r\n250 ok\r\n354 go\r\n",
            b"C: Subject: x\r\n\r\nRSET\r\n",
            b"C: .\r\n",
            "S: 250 queued",
            b"C: BDAT 10 LAST\r\n12345",
            b"C: 67890NOOP\r\n",
            b"S: 250 ok\r\n250 ok\r\n",
            "C: DATA",
            "S: 503 no",
            "C: QUIT",
        )
        self.assertEqual(
            self.lines(*said),
            [
                *("C: MAIL FROM:<a@b>", "C: RCPT TO:<c@d>", "C: DATA", "S: 250 ok", "S: 250 ok", "S: 354 go"),
                *("C: (23 octets of a message)", "S: 250 queued", "C: BDAT 10 LAST", "C: (10 octets of a message)"),
                *("C: NOOP", "S: 250 ok", "S: 250 ok", "C: DATA", "S: 503 no", "C: QUIT"),
            ],
        )

    def test_messages_are_shown_when_they_are_wanted(self) -> None:
        said = ("C: DATA", "S: 354 go", b"C: Subject: x\r\n.\r\n", "S: 250 ok", b"C: BDAT 6\r\nab\r\ncd")
        found = self.lines(*said, content=True)
        self.assertEqual(found[2:4], ["C: Subject: x", "C: ."])
        self.assertEqual(found[-2:], ["C: ab", "C: cd"])

    def test_pop3(self) -> None:
        said = (
            "S: +OK ready",
            "C: USER joe",
            "S: +OK",
            "C: PASS pencil",
            "S: +OK",
            "C: APOP joe 0123456789abcdef",
            "S: -ERR no",
            "C: AUTH PLAIN",
            "S: + ",
            b"C: " + SECRET + b"\r\n",
            "S: +OK",
            b"C: LIST\r\nRETR 1\r\nRETR 9\r\nQUIT\r\n",
            b"S: +OK\r\n1 20\r\n.\r\n+OK\r\nSubject: x\r\n",
            b"S: \r\n+OK no answer\r\n.\r\n-ERR none\r\n+OK bye\r\n",
        )
        found = self.lines(*said, pop3=True)
        self.assertEqual(
            found[3:11],
            ["C: PASS ***", "S: +OK", "C: APOP joe ***", "S: -ERR no", "C: AUTH PLAIN", "S: + ***", "C: ***", "S: +OK"],
        )
        self.assertIn("S: (29 octets of a message)", found)
        self.assertNotIn("no answer", "\n".join(found))
        self.assertEqual(found[-2:], ["S: -ERR none", "S: +OK bye"])

    def test_lines_are_cut_and_can_be_printed(self) -> None:
        found = self.lines(b"C: " + b"x" * (LINE + 7) + b"\r\n", b"S: 250 \x1b[2J\xff\r\n", b"C: NOO")
        self.assertEqual(found[0], f"C: {'x' * LINE} (and 8 octets)")
        self.assertEqual(found[1], "S: 250 \\x1b[2J\\xff")
        self.assertEqual(found[2], "C: *** (without its end)")

    @given(st.data())
    def test_pieces_do_not_matter(self, data: st.DataObject) -> None:
        """Whatever arrives together is shown as the same lines."""
        client = (
            b"EHLO x\r\nAUTH PLAIN " + SECRET + b"\r\n" + b"y" * 1200 + b"\r\nBDAT 5\r\nabcdeBDAT 0 LAST\r\nQUIT\r\n"
        )
        server = b"334 a\r\n235 ok\r\n250-a\r\n250 b\r\n"
        for octets, whose in ((client, "commands"), (server, "replies")):
            whole: list[str] = []
            getattr(Transcript(whole.append), whose)(octets)
            pieces: list[str] = []
            transcript = Transcript(pieces.append)
            at = 0
            while at < len(octets):
                size = data.draw(st.integers(1, 300))
                getattr(transcript, whose)(octets[at : at + size])
                at += size
            self.assertEqual(pieces, whole)

    @given(st.lists(st.tuples(st.booleans(), st.binary(max_size=60)), max_size=20), st.booleans(), st.booleans())
    def test_nothing_is_an_error(self, said: list[tuple[bool, bytes]], content: bool, pop3: bool) -> None:
        found: list[str] = []
        transcript = Transcript(found.append, content=content, pop3=pop3)
        for client, octets in said:
            (transcript.commands if client else transcript.replies)(octets)
        transcript.end()
        self.assertTrue(all(line.isprintable() for line in found))
