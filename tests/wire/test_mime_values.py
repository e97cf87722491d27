"""Parameters, encoded words and encodings: read right, bounded, never an exception."""

from __future__ import annotations

import binascii
import quopri
import time

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.wire.mime_encoding import Decoder, Survey, encoded
from qmailpy.wire.mime_rewrite import Replacement, edit_header, rewritten
from qmailpy.wire.mime_values import LENGTH, codec, decode, decode_words, parse_value, subject_in, subject_of
from tests.wire.test_mime import HEAD, MESSAGES


class ParameterTests(SynchronousTestCase):
    def test_parameters_are_read(self) -> None:
        for text, main, parameters in (
            ("text/Plain", "text/plain", {}),
            ('text/plain; charset="UTF-8"; X=y', "text/plain", {"charset": "UTF-8", "x": "y"}),
            ('a/b; name="a \\"b\\"; c" ; d = e', "a/b", {"name": 'a "b"; c', "d": "e"}),
            ("a/b (what; x=y) ; z(c)=w", "a/b", {"z": "w"}),
            ("a/b; n; =x; m=1; m=2", "a/b", {"m": "1"}),
            ('a/b; open="never closed', "a/b", {"open": "never closed"}),
            ("attachment; filename=a b.txt", "attachment", {"filename": "ab.txt"}),
            ("", "", {}),
        ):
            value = parse_value(text)
            self.assertEqual((value.main, dict(value.parameters)), (main, parameters), text)

    def test_rfc_2231_is_put_together(self) -> None:
        for text, expected in (
            ("a; f*=iso-8859-1'de'%E4.txt", "ä.txt"),
            ("a; f*0*=utf-8''%c3; f*1*=%a4; f*2=\".t'xt\"; f=plain", "ä.t'xt"),
            ("a; f*1=b; f*0=a; f*3=d", "ab"),
            ("a; f*=nothing%41", "nothingA"),
            ("a; f*=unknown-8bit''%e4", "ä"),
        ):
            self.assertEqual(parse_value(text).parameters["f"], expected, text)

    def test_bombs_are_bounded(self) -> None:
        for text in (
            "a/b" + "".join(f"; n*{number}*=%41" for number in range(50_000)),
            "a/b; n*0=" + "x" * 100_000,
            "a/b" + "; x=y" * 100_000,
            "a/b; x=" + '"\\' * 100_000,
            "a/b; x=" + "(" * 100_000,
            "a/b; n*9999999999999*=x; n*00000=y",
        ):
            begin = time.process_time()
            value = parse_value(text)
            self.assertLess(time.process_time() - begin, 0.5)
            self.assertLessEqual(sum(map(len, value.parameters.values())), LENGTH)

    @given(st.text(st.sampled_from("ab*0123=;\"'\\()%?_-/ =\ud800ä"), max_size=200))
    @settings(max_examples=300, deadline=None)
    def test_anything_is_read(self, text: str) -> None:
        parse_value(text)
        decode_words(text)
        decode_words(f"=?utf-8?q?{text}?=")
        codec(text)


class WordTests(SynchronousTestCase):
    def test_words_are_read(self) -> None:
        for text, expected in (
            ("plain", "plain"),
            ("=?utf-8?q?a_b=C3=A4?= c", "a bä c"),
            ("=?utf-8?B?w6Q=?= \t=?UTF-8?b?w6Q?=", "ää"),
            ("=?utf-8?q?=C3?= =?utf-8?q?=A4?=", "ä"),
            ("=?iso-8859-1?q?=E4?= =?utf-8?q?x?= y", "äx y"),
            ("=?us-ascii*en?q?x?=", "x"),
            ("=?utf-8?b?!?=", ""),
            ("=?nope", "=?nope"),
        ):
            self.assertEqual(decode_words(text), expected, text)

    def test_a_subject_for_the_log_is_read_and_short(self) -> None:
        self.assertEqual(subject_of("=?utf-8?b?5Lya6K6u?=  at\t=?iso-8859-1?q?K=F6ln=0A?="), "会议 at Köln")
        self.assertEqual(subject_of("x" * 1_000_000), "x" * 80)
        self.assertEqual(subject_of(""), "")
        self.assertEqual(subject_in(b"A: b\r\nsubject: one\r\n two\r\n\r\nSubject: no\r\n"), "one two")

    def test_charsets_are_of_a_list(self) -> None:
        """Some codecs unpack, or are slow: bz2, punycode, idna."""
        for name in ("zlib", "bz2", "hex", "punycode", "idna", "unicode_escape", "utf-7", "rot13", "mbcs", "x" * 99):
            self.assertEqual(codec(name), "", name)
        for name in (
            "UTF-8",
            "iso-8859-15",
            "windows-1252",
            "GB18030",
            "iso-2022-jp",
            "KOI8-R",
            "shift_jis",
            "ks_c_5601-1987",
        ):
            self.assertTrue(codec(name), name)
        self.assertEqual(decode(b"\xe4", "nope"), "ä")

    def test_bombs_are_linear(self) -> None:
        begin = time.process_time()
        for text in ("=?a?q?" * 50_000, "=?" * 100_000, "=?a?b?" + "A" * 300_000, "=?utf-8?q?x?= " * 30_000):
            decode_words(text)
        self.assertLess(time.process_time() - begin, 1.0)


DATA = st.one_of(st.binary(max_size=300), st.text(max_size=200).map(lambda text: text.replace("\n", "\r\n").encode()))


def through(data: bytes, encoding: str, step: int) -> bytes:
    decoder = Decoder(encoding)
    return b"".join(decoder.feed(data[at : at + step]) for at in range(0, len(data), step)) + decoder.end()


class EncodingTests(SynchronousTestCase):
    @given(DATA, st.booleans(), st.sampled_from([1, 5, 1000]))
    @settings(max_examples=300, deadline=None)
    def test_what_is_encoded_is_decoded(self, data: bytes, text: bool, step: int) -> None:
        survey = Survey()
        pieces = [data[at : at + step] for at in range(0, len(data), step)]
        for piece in pieces:
            survey.feed(piece)
        encoding = survey.encoding(text=text)
        octets = b"".join(encoded(pieces, encoding))
        self.assertEqual(through(octets, encoding, step), data)
        self.assertTrue(octets.isascii())
        self.assertNotIn(b"\r\n--", b"\r\n" + octets)
        self.assertLessEqual(max(map(len, octets.split(b"\r\n"))), 998)
        if encoding == "base64":
            self.assertEqual(binascii.a2b_base64(octets), data)
        elif encoding == "quoted-printable":
            self.assertEqual(quopri.decodestring(octets), data)

    def test_decoding_is_tolerant(self) -> None:
        self.assertEqual(through(b"aGV*s\r\nbG8", "base64", 1), b"hello")
        self.assertEqual(through(b"aGVsbG8=trailing", "base64", 3), b"hello")
        self.assertEqual(through(b"a=\r\nb=C3=a4 =", "quoted-printable", 1), "abä ".encode())
        self.assertEqual(through(b"x", "x-uuencode", 1), b"x")
        self.assertEqual(len(through(b"=41" * 100_000, "quoted-printable", 65536)), 100_000)


class RewriteTests(SynchronousTestCase):
    MESSAGE = HEAD + b"pre\r\n--b\r\nA: 1\r\n\r\none\r\n--b\r\nA: 2\r\n\r\ntwo\r\n--b--\r\nepi"

    def make(self, plan: dict[int, Replacement | None]) -> bytes:
        return b"".join(rewritten([self.MESSAGE], plan))

    def test_parts_are_replaced_and_left_out(self) -> None:
        new = Replacement(b"N: n\r\n\r\n", lambda: [b"n", b"ew"])
        self.assertEqual(self.make({1: new}), self.MESSAGE.replace(b"A: 1\r\n\r\none", b"N: n\r\n\r\nnew"))
        self.assertEqual(self.make({1: None}), self.MESSAGE.replace(b"\r\n--b\r\nA: 1\r\n\r\none", b""))
        self.assertEqual(self.make({0: Replacement(b"X: y\r\n" + HEAD)}), b"X: y\r\n" + self.MESSAGE)
        self.assertEqual(self.make({0: new}), b"N: n\r\n\r\nnew")

    def test_a_multipart_keeps_one_part(self) -> None:
        """RFC 2046 s.5.1.1: one at least."""
        empty = b"Content-Type: text/plain; charset=us-ascii\r\n\r\n"
        self.assertEqual(self.make({1: None, 2: None}), HEAD + b"pre\r\n--b\r\n" + empty + b"\r\n--b--\r\nepi")

    @given(MESSAGES)
    @settings(max_examples=200, deadline=None)
    def test_without_a_plan_nothing_changes(self, message: bytes) -> None:
        self.assertEqual(b"".join(rewritten([message], {})), message)

    def test_fields_go_and_come(self) -> None:
        header = b"A: 1\r\n x\r\nContent-Type: a\r\n b\r\nB : 2\r\nContent-ID: c\r\n\r\n"
        self.assertEqual(edit_header(header, ["content-*"], b"N: n\r\n"), b"A: 1\r\n x\r\nB : 2\r\nN: n\r\n\r\n")
        self.assertEqual(
            edit_header(header, ["b", "a"]), header[header.index(b"Content-T") :].replace(b"B : 2\r\n", b"")
        )
        self.assertEqual(edit_header(b"\r\n"), b"\r\n")
        self.assertEqual(edit_header(b"A: 1"), b"A: 1\r\n\r\n")
