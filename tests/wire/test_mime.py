"""MIME structure: verdicts and octets, whatever comes in, in linear time."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.wire.mime import Body, Entity, Event, Filler, MimeLimits, MimeVerdict, MimeWalker, PartBegin, raw

FREE = MimeLimits(depth=1 << 30, parts=1 << 30, header_octets=1 << 30)
HEAD = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"


def walk(message: bytes, limits: MimeLimits | None = None, step: int = 65536) -> tuple[MimeVerdict, list[Event]]:
    walker = MimeWalker(limits)
    events: list[Event] = []
    for at in range(0, len(message), step):
        events += walker.feed(message[at : at + step])
    events += walker.end()
    return walker.verdict, events


def told(events: list[Event]) -> list[tuple[str, str, bytes]]:
    """Events with octets side by side as one: the same whatever the pieces were."""
    found: list[tuple[str, str, bytes]] = []
    for event in events:
        kind, path = type(event).__name__, event.entity.path
        if found and isinstance(event, (Body, Filler)) and found[-1][:2] == (kind, path):
            found[-1] = (kind, path, found[-1][2] + event.octets)
        else:
            found.append((kind, path, event.octets))
    return found


def parts(message: bytes, limits: MimeLimits | None = None) -> list[tuple[str, str, bytes]]:
    """Path, type and body of each entity without parts."""
    bodies: dict[str, bytes] = {}
    kinds: dict[str, str] = {}
    for event in walk(message, limits)[1]:
        path = event.entity.path
        if isinstance(event, PartBegin) and not event.entity.container:
            kinds[path], bodies[path] = event.entity.media, b""
        elif isinstance(event, Body):
            bodies[path] += event.octets
    return [(path, kinds[path], bodies[path]) for path in kinds]


CODED = b"Content-Transfer-Encoding: base64\r\n\r\n"


class StructureTests(SynchronousTestCase):
    def test_a_message_that_is_no_mime_is_text(self) -> None:
        self.assertEqual(parts(b"Subject: x\r\n\r\nhello\r\n"), [("", "text/plain", b"hello\r\n")])
        self.assertEqual(parts(b""), [("", "text/plain", b"")])
        self.assertEqual(parts(b"\r\nbody"), [("", "text/plain", b"body")])

    def test_parts_end_before_the_line_end_of_the_boundary(self) -> None:
        """RFC 2046 s.5.1.1: it belongs to the boundary."""
        message = (
            HEAD
            + b"preamble\r\n--b\r\n\r\none\r\n\r\n--b \t\r\nContent-Type: image/png\r\n\r\ntwo\r\n--b--\r\nepilogue"
        )
        self.assertEqual(parts(message), [("1", "text/plain", b"one\r\n"), ("2", "image/png", b"two")])
        self.assertIs(walk(message)[0], MimeVerdict.OK)

    def test_multiparts_and_messages_are_gone_into(self) -> None:
        message = (
            HEAD + b"--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: in\r\n"
            b'Content-Type: multipart/alternative; boundary="c c"\r\n\r\n--c c\r\n\r\nx\r\n--c c--\r\n--b--\r\n'
        )
        self.assertEqual(parts(message), [("1.1.1", "text/plain", b"x")])
        closed = MimeLimits(enclosed=False)
        self.assertEqual([one[:2] for one in parts(message, closed)], [("1", "message/rfc822")])

    def test_parts_of_a_digest_are_messages(self) -> None:
        """RFC 2046 s.5.1.5."""
        message = b"Content-Type: multipart/digest; boundary=b\r\n\r\n--b\r\n\r\nSubject: x\r\n\r\nbody\r\n--b--\r\n"
        self.assertEqual(parts(message), [("1.1", "text/plain", b"body")])

    def test_a_boundary_ends_a_header(self) -> None:
        message = HEAD + b"--b\r\nX: y\r\n--b\r\n--b\r\n\r\nz\r\n--b--"
        self.assertEqual([body for _, _, body in parts(message)], [b"", b"", b"z"])

    def test_an_outer_boundary_ends_what_is_inside(self) -> None:
        message = (
            HEAD + b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--b\r\n\r\ny\r\n--b--"
        )
        self.assertEqual([(path, body) for path, _, body in parts(message)], [("1.1", b"x"), ("2", b"y")])
        self.assertIs(walk(message)[0], MimeVerdict.MALFORMED)

    def test_tricks_with_boundaries_end_in_a_verdict(self) -> None:
        for name, message, bodies in (
            ("none", b"Content-Type: multipart/mixed\r\n\r\n--b\r\n\r\nx", [b"--b\r\n\r\nx"]),
            ("empty", b'Content-Type: multipart/mixed; boundary=""\r\n\r\n--\r\n\r\nx\r\n--', [b"--\r\n\r\nx\r\n--"]),
            ("prefix", HEAD + b"--b\r\n\r\nx\r\n--bc\r\n\r\ny\r\n--b--", [b"x\r\n--bc\r\n\r\ny"]),
            ("no close", HEAD + b"--b\r\n\r\nx", [b"x"]),
            ("same nested", HEAD + b"--b\r\n" + HEAD + b"x\r\n--b--", [b"x"]),
            ("no parts", HEAD + b"nothing", []),
            ("encoded", CODED[:-2] + HEAD + b"--b", [b"--b"]),
            ("encoded message", b"Content-Type: message/rfc822\r\n" + CODED + b"eA==", [b"eA=="]),
            ("twice", b"Content-Type: text/html\r\n" + HEAD + b"x", [b"x"]),
            (
                "long",
                HEAD.replace(b"=b", b"=" + b"b" * 71) + b"--" + b"b" * 71 + b"\r\n\r\nx\r\n--" + b"b" * 71 + b"--",
                [b"x"],
            ),
            ("type", b"Content-Type: nonsense\r\n\r\nx", [b"x"]),
        ):
            verdict, events = walk(message)
            self.assertIs(verdict, MimeVerdict.MALFORMED, name)
            self.assertEqual(raw(events), message, name)
            self.assertEqual([body for _, _, body in parts(message)], bodies, name)

    def test_a_boundary_in_a_preamble_of_something_else_is_text(self) -> None:
        message = b"Content-Type: text/plain; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n"
        self.assertEqual(parts(message), [("", "text/plain", b"--b\r\n\r\nx\r\n--b--\r\n")])

    def test_limits_are_told_and_what_follows_is_a_body(self) -> None:
        nested = b"".join(HEAD.replace(b"=b", b"=b%d" % n) + b"--b%d\r\n" % n for n in range(9)) + b"\r\nx"
        for limits, message, verdict in (
            (MimeLimits(depth=3), nested, MimeVerdict.TOO_DEEP),
            (MimeLimits(parts=3), HEAD + b"--b\r\n\r\nx\r\n" * 9 + b"--b--", MimeVerdict.TOO_MANY_PARTS),
            (MimeLimits(parts=3), b"Content-Type: message/rfc822\r\n\r\n" * 9, MimeVerdict.TOO_MANY_PARTS),
            (MimeLimits(header_octets=40), HEAD + b"--b\r\n\r\nx", MimeVerdict.HEADER_TOO_LARGE),
        ):
            found, events = walk(message, limits)
            self.assertIs(found, verdict)
            self.assertEqual(raw(events), message)
            self.assertLessEqual(sum(isinstance(event, PartBegin) for event in events), 5)


PIECES = [
    HEAD,
    b"Content-Type: multipart/mixed; boundary=bb\r\n\r\n",
    b"Content-Type: multipart/digest; boundary=c\r\n\r\n",
    b"Content-Type: message/rfc822\r\n\r\n",
    b"Content-Type: text/plain; name*0*=utf-8''%41; name*1=b\r\n\r\n",
    b"--b",
    b"--b--",
    b"--bb",
    b"--bb--",
    b"--c",
    b"--c--",
    b"\r\n",
    b"\r",
    b"\n",
    b"-",
    b" ",
    b"x",
    b"X: y\r\n",
    b"x" * 1001,
    b"\xff\0",
]
LINES = [b"\r\n--b\r\n", b"\r\n--b\r\n\r\n", b"\r\n--b--\r\n", b"\r\n--bb\r\n", b"\r\n--bb--\r\n", b"\r\n\r\n"]
_anything = st.lists(st.sampled_from(PIECES + LINES), max_size=40).map(b"".join)
MESSAGES = st.one_of(_anything, st.tuples(st.just(HEAD), _anything).map(b"".join))
"""Octets that look like messages; half of them begin as one with parts."""


class AnythingTests(SynchronousTestCase):
    @given(
        MESSAGES, st.sampled_from([1, 2, 3, 7]), st.sampled_from([FREE, MimeLimits(depth=2, parts=4, header_octets=60)])
    )
    @settings(max_examples=600, deadline=None)
    def test_every_octet_is_told_once_and_the_same_in_pieces(
        self, message: bytes, step: int, limits: MimeLimits
    ) -> None:
        verdict, events = walk(message, limits)
        self.assertEqual(raw(events), message)
        slow_verdict, slow = walk(message, limits, step)
        self.assertEqual((slow_verdict, told(slow)), (verdict, told(events)))

    @given(MESSAGES)
    @settings(max_examples=200, deadline=None)
    def test_what_begins_ends_inside_out(self, message: bytes) -> None:
        opened: list[Entity] = []
        for event in walk(message)[1]:
            if isinstance(event, PartBegin):
                self.assertIs(event.entity.parent, opened[-1] if opened else None)
                opened.append(event.entity)
            elif type(event).__name__ == "PartEnd":
                self.assertIs(opened.pop(), event.entity)
            else:
                self.assertIs(opened[-1], event.entity)
        self.assertEqual(opened, [])


def nested(count: int) -> bytes:
    begin = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(count))
    return begin + b"\r\nx" + b"".join(b"\r\n--b%d--" % n for n in reversed(range(count)))


ORDEALS: dict[str, tuple[Callable[[int], bytes], int]] = {
    "nested": (nested, 3000),
    "flat": (lambda n: HEAD + b"--b\r\n\r\nx\r\n" * n + b"--b--", 50_000),
    "no empty lines": (lambda n: HEAD + b"--b\r\nX: y\r\n" * n, 50_000),
    "nearly boundaries": (lambda n: HEAD + b"--bx\r\n--x\r\n" * n, 50_000),
    "messages": (lambda n: b"Content-Type: message/rfc822\r\n\r\n" * n, 10_000),
    "addresses": (lambda n: b"To: " + b"a@b.example,\r\n " * n + b"\r\n\r\nx", 100_000),
    "long lines": (lambda n: HEAD + (b"\r\n--" + b"x" * 2000) * n, 2000),
    "line ends": (lambda n: HEAD + b"\r\n" * n + b"\r" * n + b"\n" * n, 200_000),
}


class TimeTests(SynchronousTestCase):
    def spent(self, message: bytes, limits: MimeLimits) -> float:
        """Seconds to walk through it."""
        walker = MimeWalker(limits)
        begin = time.process_time()
        for at in range(0, len(message), 65536):
            walker.feed(message[at : at + 65536])
        walker.end()
        return time.process_time() - begin

    def test_twice_as_much_takes_twice_as_long(self) -> None:
        """3,000 nested parts, 10^5 parts, 10^5 addresses, tricks; without limits and with those that are usual."""
        gc.disable()
        self.addCleanup(gc.enable)
        for name, (make, count) in ORDEALS.items():
            for _ in range(5):  # a busy machine may spoil some
                once, twice = (self.spent(make(n), FREE) for n in (count, 2 * count))
                if twice <= 2.3 * once + 0.01:
                    break
            else:
                self.fail(f"{name}: {once:.3f} s, then {twice:.3f} s")
            self.assertLess(twice, 5.0, name)
            self.assertLess(self.spent(make(count), MimeLimits()), 2.0, name)
