"""AMP boxes without Twisted: the codec agrees with Twisted's and does not care how the octets arrive."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.protocols.amp import AmpBox
from twisted.protocols.amp import parseString as twisted_parse
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.control.boxes import Unpacker, pack

BOXES = st.dictionaries(st.binary(min_size=1, max_size=20), st.binary(max_size=300), min_size=1, max_size=5)


class Boxes(SynchronousTestCase):
    @given(BOXES)
    def test_octets_are_those_of_twisted(self, box: dict[bytes, bytes]) -> None:
        """What we pack, Twisted reads; what Twisted packs, we read."""
        self.assertEqual([dict(one) for one in twisted_parse(pack(box))], [box])
        self.assertEqual(Unpacker(65536).feed(AmpBox(box).serialize()), [box])

    @given(st.lists(BOXES, max_size=4), st.data())
    def test_octets_may_arrive_in_any_pieces(self, boxes: list[dict[bytes, bytes]], data: st.DataObject) -> None:
        octets = b"".join(pack(box) for box in boxes)
        reader = Unpacker(65536)
        found = []
        while octets:
            size = data.draw(st.integers(1, len(octets)))
            found += reader.feed(octets[:size])
            octets = octets[size:]
        self.assertEqual(found, boxes)

    @given(st.binary(max_size=2000))
    def test_garbage_is_refused_or_kept_within_the_limit(self, octets: bytes) -> None:
        reader = Unpacker(500)
        try:
            for at in range(0, len(octets), 7):
                reader.feed(octets[at : at + 7])
        except ValueError:
            return
        self.assertLessEqual(len(reader._buffer) + reader._size, 500 + 7)

    def test_a_box_of_endless_keys_is_refused(self) -> None:
        reader = Unpacker(1000)
        with self.assertRaises(ValueError):
            for number in range(1000):
                reader.feed(b"\0\4%04d\0\1x" % number)

    def test_a_value_too_long_is_not_packed(self) -> None:
        self.assertRaises(ValueError, pack, {b"key": bytes(65536)})
        self.assertRaises(ValueError, pack, {b"": b""})
