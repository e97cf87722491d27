"""
Tests for L{qmailpy.remote.forms}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from errno import EIO

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.remote.forms import Forms, thd_short_lines
from qmailpy.values import Content, MemoryContent, Reply

LATIN = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\r\nGr\xfc\xdfe\r\n"
LONG = b"MIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\n" + b"y" * 300 + b"\r\n"


class Pieces(MemoryContent):
    """A content that comes in small pieces."""

    def chunks(self, octets: int = 65536) -> Iterator[bytes]:
        for at in range(0, len(self.octets), 7):
            yield self.octets[at : at + 7]


class Filed:
    """A content in a file, for threads only."""

    in_memory = False

    def __init__(self, octets: bytes, *, broken: bool = False) -> None:
        self._content = MemoryContent(octets)
        self.size = len(octets)
        self._broken = broken

    def read(self) -> bytes:
        if self._broken:
            raise OSError(EIO, "Input/output error")
        return self._content.read()

    def chunks(self, octets: int = 65536) -> Iterator[bytes]:
        self.read()
        return self._content.chunks(octets)

    def header(self, limit: int = 65536) -> bytes:
        self.read()
        return self._content.header(limit)


class LinesTests(SynchronousTestCase):
    def test_a_long_line_is_found_over_many_pieces(self) -> None:
        """Also the last one, without an end; one octet less is none."""
        for tail in (b"\r\n", b"", b"\r\nmore\r\n"):
            for length in (99, 100, 101, 102, 500):
                content = Pieces(b"Subject: x\r\n\r\n" + b"y" * length + tail)
                self.assertEqual(thd_short_lines(content, 100) is not None, length > 100, (tail, length))


class FormsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.threads = 0

    async def in_thread(self, function: Callable[[], bytes | None]) -> bytes | None:
        self.threads += 1
        return function()

    def forms(self, content: Content, *, binary: bool = False) -> Forms:
        return Forms(content, binary=binary, linelimit=100, in_thread=self.in_thread)

    def seven_bit(self, forms: Forms) -> tuple[Content, Reply | None]:
        return self.successResultOf(Deferred.fromCoroutine(forms.seven_bit()))

    def short_lines(self, forms: Forms, content: Content) -> tuple[Content, Reply | None]:
        return self.successResultOf(Deferred.fromCoroutine(forms.short_lines(content)))

    def test_each_is_made_once_an_attempt(self) -> None:
        forms = self.forms(MemoryContent(LATIN))
        made, refusal = self.seven_bit(forms)
        self.assertTrue(made.read().isascii())
        self.assertIs(self.seven_bit(forms)[0], made)
        self.assertEqual((refusal, self.threads), (None, 1))
        content = MemoryContent(LONG)
        forms = self.forms(content)
        short, refusal = self.short_lines(forms, content)
        self.assertLess(max(map(len, short.read().splitlines())), 101)
        self.assertIs(self.short_lines(forms, content)[0], short)
        self.assertEqual((refusal, self.threads), (None, 2))

    def test_short_lines_of_another_form_are_made_anew(self) -> None:
        """One peer takes 8 bits, the next takes 7 only: what was made for the first is not for the second."""
        content = MemoryContent(LONG.replace(b"yyy", b"\xfc\xfcy").replace(b"plain", b"plain; charset=iso-8859-1"))
        forms = self.forms(content)
        first, _ = self.short_lines(forms, content)
        seven, _ = self.seven_bit(forms)
        second, _ = self.short_lines(forms, seven)
        self.assertIs(second, seven)
        self.assertIsNot(second, first)

    def test_what_is_good_as_it_is_stays_and_costs_no_thread(self) -> None:
        content = MemoryContent(b"Subject: x\r\n\r\nhello\r\n")
        self.assertEqual(self.seven_bit(self.forms(content)), (content, None))
        self.assertEqual(self.threads, 0)
        self.assertEqual(self.short_lines(self.forms(content), content), (content, None))

    def test_what_is_in_a_file_is_read_in_a_thread(self) -> None:
        content = Filed(b"Subject: x\r\n\r\nhello\r\n")
        forms = self.forms(content)
        self.assertEqual(self.seven_bit(forms), (content, None))
        plain = self.successResultOf(Deferred.fromCoroutine(forms.plain_header()))
        self.assertEqual((plain, self.threads), ((True, None), 2))

    def test_what_cannot_be_converted_is_refused_for_good(self) -> None:
        elsewhere = MemoryContent(LATIN.replace(b"text/plain; charset=iso-8859-1", b"message/external-body"))
        _, refusal = self.seven_bit(self.forms(elsewhere))
        assert refusal is not None
        self.assertEqual((refusal.code, refusal.enhanced), (554, "5.6.3"))
        self.assertIn("takes 7 bits only", refusal.text)
        header = MemoryContent(b"X-Long: " + b"y" * 300 + b"\r\n\r\n")
        _, refusal = self.short_lines(self.forms(header), header)
        assert refusal is not None
        self.assertEqual((refusal.code, refusal.enhanced), (554, "5.6.0"))
        self.assertIn("more than 100 octets", refusal.text)

    def test_what_cannot_be_read_is_tried_again(self) -> None:
        content = Filed(LATIN, broken=True)
        forms = self.forms(content)
        answers = [
            self.seven_bit(forms)[1],
            self.short_lines(forms, content)[1],
            self.successResultOf(Deferred.fromCoroutine(forms.plain_header()))[1],
        ]
        self.assertEqual(answers, [Reply(451, "4.3.0", "Message cannot be read: Input/output error")] * 3)
