"""Cutting LDAP messages out of a stream."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from ldaptor.protocols import pureldap
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.directory.ber import BadMessage, Frames, check

_MESSAGES = [
    pureldap.LDAPMessage(pureldap.LDAPBindRequest(dn="cn=x", auth="y" * 300), id=1).toWire(),
    pureldap.LDAPMessage(pureldap.LDAPUnbindRequest(), id=2).toWire(),
    pureldap.LDAPMessage(pureldap.LDAPSearchRequest(baseObject="o=x", attributes=["mail"]), id=70000).toWire(),
]


def _nested(depth: int) -> bytes:
    octets = b"\x05\x00"
    for _ in range(depth):
        length = len(octets)
        head = bytes([length]) if length < 128 else b"\x82" + length.to_bytes(2, "big")
        octets = b"\x30" + head + octets
    return octets


class FrameTests(SynchronousTestCase):
    @given(st.lists(st.integers(1, 60), max_size=40))
    def test_the_same_messages_come_out_however_the_stream_is_cut(self, sizes: list[int]) -> None:
        stream, frames, found, at = b"".join(_MESSAGES), Frames(1000), list[bytes](), 0
        for size in sizes:
            found += frames.feed(stream[at : at + size])
            at += size
        found += frames.feed(stream[at:])
        self.assertEqual(found, _MESSAGES)
        for message in found:
            check(message)

    def test_a_message_too_large_is_refused_by_its_length_alone(self) -> None:
        with self.assertRaises(BadMessage):
            Frames(1000).feed(b"\x30\x82\x10\x00")

    def test_what_is_no_message_is_refused_at_once(self) -> None:
        for octets in (b"GET / HTTP/1.0", b"\x30\x80", b"\x30\x85\1\1\1\1\1", b"\x30\xff", b"\x3f\x01"):
            with self.assertRaises(BadMessage, msg=repr(octets)):
                Frames(1000).feed(octets)

    @given(st.binary(max_size=200))
    def test_garbage_raises_nothing_else(self, octets: bytes) -> None:
        try:
            for message in Frames(100).feed(octets):
                check(message)
        except BadMessage:
            pass

    def test_nesting_is_bounded(self) -> None:
        check(_nested(39))
        with self.assertRaises(BadMessage):
            check(_nested(5000))

    def test_the_number_of_elements_is_bounded(self) -> None:
        content = b"\x05\x00" * 20001
        with self.assertRaises(BadMessage):
            check(b"\x30\x83" + len(content).to_bytes(3, "big") + content)

    def test_an_element_may_not_reach_beyond_what_holds_it(self) -> None:
        with self.assertRaises(BadMessage):
            check(b"\x30\x04\x30\x03\x05\x00")
        with self.assertRaises(BadMessage):
            check(b"\x30\x03\x30\x01\x05")
