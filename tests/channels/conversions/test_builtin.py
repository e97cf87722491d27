"""What is built in: disclaimer, notices for attachments, text for HTML, metadata, UTF-8."""

from __future__ import annotations

import base64
import quopri
import struct
import time

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.channels.conversions.images import stripped
from qmailpy.channels.conversions.markup import plain_text
from tests.channels.conversions.common import EXE, MULTI, ConverterCase, entry
from tests.wire.test_mime import parts

HTML = (
    b"Subject: x\r\nContent-Type: text/html; charset=utf-8\r\nContent-ID: <i>\r\n\r\n"
    b"<html><body><p>One &amp; <a href='https://x.example/'>two</a></p></body></html>\r\n"
)


class DisclaimerTests(ConverterCase):
    def test_text_and_html_get_it(self) -> None:
        message = (
            b"Content-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\n\r\nhello\r\n--b\r\n"
            b"Content-Type: text/html\r\n\r\n<body>hello</BODY>\r\n--b--\r\n"
        )
        octets = self.made(entry("disclaimer", text="No & never\n"), message=message)
        found = parts(octets)
        self.assertEqual(found[0], ("1", "text/plain", b"hello\r\n\r\nNo & never\r\n"))
        self.assertEqual(found[1], ("2", "text/html", b"<body>hello<p>No &amp; never</p>\r\n</BODY>"))
        self.assertEqual(self.made(entry("disclaimer", text="No & never\n"), message=octets), octets, "once")

    def test_only_what_is_read_first_gets_it(self) -> None:
        message = MULTI.replace(b"application/x-msdownload", b"text/plain")
        self.made(entry("disclaimer", text="bye"), message=message)
        self.assertEqual(self.did(), [("1", "disclaimer added")])

    def test_a_charset_that_cannot_say_it_becomes_utf_8(self) -> None:
        octets = self.made(entry("disclaimer", text="Schluß ☂"))
        self.assertIn(b"Content-Type: text/plain; charset=utf-8\r\n", octets)
        self.assertIn("café\r\n\r\nSchluß ☂".encode(), quopri.decodestring(parts(octets)[0][2]))

    def test_text_that_is_not_what_it_says_stays(self) -> None:
        message = MULTI.replace(b"iso-8859-1", b"utf-8")
        self.assertEqual(self.made(entry("disclaimer", text="bye"), message=message), message)


class ReplaceTests(ConverterCase):
    def test_an_attachment_becomes_a_notice(self) -> None:
        octets = self.made(entry("replace", file=("*.exe",), text="$NAME of $TYPE is gone.\n"))
        notice = (
            b'Content-Type: text/plain; charset=utf-8; name="run me.EXE.txt"\r\n'
            b'Content-Disposition: attachment; filename="run me.EXE.txt"\r\nContent-Transfer-Encoding: 7bit\r\n\r\n'
            b"run me.EXE of application/x-msdownload is gone.\r\n"
        )
        self.assertEqual(octets, MULTI.replace(EXE, notice))

    def test_names_beyond_ascii_and_long_ones_are_written(self) -> None:
        message = MULTI.replace(b"run me.EXE", "übel".encode() + b"x" * 500 + b".exe")
        octets = self.made(entry("replace", file=("*.exe",)), message=message)
        self.assertIn(b"filename*=utf-8''%C3%BCbelxxx", octets)
        self.assertLess(max(map(len, octets.split(b"\r\n"))), 998)


class AlternativeTests(ConverterCase):
    def test_html_alone_gets_text_beside_it(self) -> None:
        octets = self.made(entry("alternative"), message=HTML)
        self.assertTrue(octets.startswith(b"MIME-Version: 1.0\r\nSubject: x\r\nContent-Type: multipart/alternative"))
        self.assertEqual(
            parts(octets),
            [
                ("1", "text/plain", b"One & two <https://x.example/>\r\n"),
                ("2", "text/html", HTML[HTML.index(b"<html") :]),
            ],
        )
        self.assertEqual(octets.count(b"Content-ID"), 1)
        self.assertEqual(self.made(entry("alternative"), message=octets), octets, "once")

    def test_html_is_read(self) -> None:
        for source, text in (
            ("a<br>b<p>c</p>d", "a\nb\n\nc\n\nd\n"),
            ("<ul><li>one<li>two</ul>", "* one\n* two\n"),
            ("<table><tr><td>a<td>b</tr><tr><td>c</table>", "a b\n\nc\n"),
            ("<script>x<b>y</script>z<style>", "z\n"),
            ("a <!-- > --> b < c &lt;d&gt; &nbsp;", "a b < c <d>\n"),
            ("<pre> a\n  b</pre>", "a\n  b\n"),
            ("x <unclosed", "x\n"),
            ("", "\n"),
        ):
            self.assertEqual(plain_text(source).replace("\n ", "\n ").lstrip(" "), text, source)

    def test_html_is_read_in_linear_time(self) -> None:
        begin = time.process_time()
        for piece in ("<!--", "<a href='", "<a ", "<script>", "<", "&", "<p>", "</a>", "<li>", "<!", "<pre>", "\n"):
            plain_text(piece * 100_000)
        self.assertLess(time.process_time() - begin, 5.0)


def jpeg(*segments: tuple[int, bytes]) -> bytes:
    made = b"".join(b"\xff" + bytes([kind]) + (len(data) + 2).to_bytes(2, "big") + data for kind, data in segments)
    return b"\xff\xd8" + made + b"\xff\xda\x00\x02picture\xff\xd9"


def exif(order: str, orientation: int) -> bytes:
    sign = b"II*\0" if order == "<" else b"MM\0*"
    entries = struct.pack(f"{order}HHHIHH", 1, 0x0112, 3, 1, orientation, 0)
    return b"Exif\0\0" + sign + struct.pack(f"{order}I", 8) + entries


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big") + kind + data + b"crc!" for kind, data in chunks
    )


class StripTests(ConverterCase):
    def test_pictures_lose_what_they_tell(self) -> None:
        table = (0xDB, b"table")
        self.assertEqual(
            stripped(jpeg((0xE0, b"JFIF"), (0xE1, b"xmp"), (0xFE, b"me"), table)), jpeg((0xE0, b"JFIF"), table)
        )
        self.assertIsNone(stripped(jpeg((0xE0, b"JFIF"), table)))
        for order in "<>":
            less = stripped(jpeg((0xE0, b"JFIF"), (0xE1, exif(order, 6) + b"gps"), table))
            assert less is not None
            self.assertNotIn(b"gps", less)
            self.assertIn(struct.pack(">HHIH", 0x0112, 3, 1, 6), less)
            self.assertIsNone(stripped(less), "once")
        self.assertEqual(
            stripped(png((b"IHDR", b"h"), (b"tEXt", b"me"), (b"IDAT", b"d"), (b"IEND", b""))),
            png((b"IHDR", b"h"), (b"IDAT", b"d"), (b"IEND", b"")),
        )

    def test_broken_pictures_stay(self) -> None:
        whole = jpeg((0xE1, exif("<", 6)), (0xDB, b"t"))
        for cut in range(len(whole) - 12):
            stripped(whole[:cut])
        for data in (b"", b"\xff\xd8", b"\xff\xd8\xff\xe1\0\0", b"GIF89a", png((b"tEXt", b"x"))[:-3]):
            self.assertIsNone(stripped(data))

    def test_the_header_tells_no_software(self) -> None:
        self.assertEqual(self.made(entry("strip")), MULTI.replace(b"User-Agent: x 1.0\r\n", b""))
        picture = base64.encodebytes(jpeg((0xE1, b"me"), (0xDB, b"t"))).replace(b"\n", b"\r\n")
        message = MULTI.replace(b"application/x-msdownload", b"image/jpeg").replace(b"TVqQAAM=\r\n", picture)
        octets = self.made(entry("strip"), message=message)
        self.assertEqual(base64.b64decode(parts(octets)[1][2]), jpeg((0xDB, b"t")))
        self.assertNotIn(b"User-Agent", octets)


class Utf8Tests(ConverterCase):
    def test_text_becomes_utf_8(self) -> None:
        octets = self.made(entry("utf8"))
        self.assertEqual(octets, MULTI.replace(b"iso-8859-1", b"utf-8").replace(b"caf=E9", b"caf=C3=A9"))
        self.assertEqual(self.made(entry("utf8"), message=octets), octets)

    def test_html_says_so_itself(self) -> None:
        message = b'Content-Type: text/html; charset=koi8-r\r\n\r\n<meta charset="koi8-r">\xc1\r\n'
        octets = self.made(entry("utf8"), message=message)
        self.assertIn(
            b'<meta charset=3D"utf-8">=D0=B0' if b"=3D" in octets else base64.b64encode(b'<meta charset="utf-8">')[:20],
            octets,
        )

    def test_what_is_not_its_charset_stays(self) -> None:
        for charset in (b"us-ascii", b"utf-8", b"zlib", b"x-unknown", b"shift_jis"):
            message = b"Content-Type: text/plain; charset=" + charset + b"\r\n\r\n\xff\xff\r\n"
            self.assertEqual(self.made(entry("utf8"), message=message), message)


class PlainTests(SynchronousTestCase):
    def test_links_are_told(self) -> None:
        self.assertEqual(plain_text("<a href='mailto:a@b.example'>a@b.example</a>"), "a@b.example\n")
        self.assertEqual(plain_text("<a href=javascript:x>a</a>"), "a\n")
