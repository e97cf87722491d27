"""Tests of the PROXY protocol's headers, with the examples of its specification."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.wire.proxy import SIGNATURE, V1_OCTETS, BadProxy, Proxied, read

V4 = SIGNATURE + b"\x21\x11\x00\x0c" + bytes((192, 0, 2, 9, 203, 0, 113, 1)) + b"\x10\xe1\x00\x19"
V6 = SIGNATURE + b"\x21\x21\x00\x29" + b"\x20\x01\x0d\xb8" + bytes(11) + b"\x09" + bytes(15) + b"\x01"
V6 += b"\x10\xe1\x00\x19"
V6 += b"\x04\x00\x02xy"  # an extension
V1 = b"PROXY TCP4 192.0.2.9 203.0.113.1 4321 25\r\n"
GOOD = {
    V1: Proxied(ip="192.0.2.9", port=4321, our_ip="203.0.113.1", our_port=25, octets=len(V1)),
    b"PROXY TCP6 2001:db8::9 ::1 4321 25\r\n": Proxied(
        ip="2001:db8::9", port=4321, our_ip="::1", our_port=25, octets=36
    ),
    b"PROXY UNKNOWN\r\n": Proxied(ip="", octets=15),
    b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n": Proxied(ip="", octets=59),
    V4: Proxied(ip="192.0.2.9", port=4321, our_ip="203.0.113.1", our_port=25, octets=28),
    V6: Proxied(ip="2001:db8::9", port=4321, our_ip="::1", our_port=25, octets=57),
    SIGNATURE + b"\x20\x00\x00\x00": Proxied(ip="", octets=16),
    SIGNATURE + b"\x21\x31\x00\x00": Proxied(ip="", octets=16),
}


class ProxyTests(SynchronousTestCase):
    """L{read}."""

    def test_headers_of_both_versions(self) -> None:
        for octets, expected in GOOD.items():
            for behind in (b"", b"EHLO x\r\n"):
                self.assertEqual(read(octets + behind), expected, octets)

    def test_a_part_of_one_is_waited_for(self) -> None:
        for octets in GOOD:
            for size in range(len(octets)):
                self.assertIsNone(read(octets[:size]), octets[:size])

    def test_what_is_none_is_refused(self) -> None:
        for octets in (
            b"EHLO x\r\n",
            b"\r\n\r\n\0\r\nQUIT\r",
            b"PROXY \r\n",
            b"PROXY TCP4\r\n",
            b"PROXY TCP4 192.0.2.9 203.0.113.1 4321\r\n",
            b"PROXY TCP4 192.0.2.9 203.0.113.1 4321 25 x\r\n",
            b"PROXY TCP4 192.0.2.9 203.0.113.1 65536 25\r\n",
            b"PROXY TCP4 192.0.2.9 203.0.113.1 -1 25\r\n",
            b"PROXY TCP4 ::1 ::1 4321 25\r\n",
            b"PROXY TCP6 192.0.2.9 203.0.113.1 4321 25\r\n",
            b"PROXY TCP4 192.0.2.999 203.0.113.1 4321 25\r\n",
            b"PROXY TCP4 \xff 203.0.113.1 4321 25\r\n",
            b"PROXY UDP4 192.0.2.9 203.0.113.1 4321 25\r\n",
            b"PROXY TCP4 192.0.2.9 203.0.113.1 4321 25\n",
            b"PROXY " + b"x" * V1_OCTETS,
            SIGNATURE + b"\x11\x11\x00\x0c",
            SIGNATURE + b"\x22\x11\x00\x0c",
            SIGNATURE + b"\x21\x11\xff\xff",
            SIGNATURE + b"\x21\x11\x00\x03abc",
        ):
            self.assertRaises(BadProxy, read, octets)

    @given(st.binary(max_size=60), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21"]))
    def test_garbage_is_bad_or_waited_for(self, octets: bytes, before: bytes) -> None:
        try:
            found = read(before + octets)
        except BadProxy:
            return
        self.assertTrue(found is None or found.octets <= len(before + octets))
