"""What the queue writes down it can read back."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.interfaces import BooksCheckpoint
from qmailpy.queue.codec import (
    Attempted,
    Checkpoint,
    Damaged,
    Enqueued,
    Held,
    Op,
    Outcome,
    Released,
    Requeued,
    Result,
    Warned,
    decode_ops,
    encode_op,
    is_checkpoint,
)
from qmailpy.queue.ids import IdSource, born, shard_of, to_id, to_number
from qmailpy.queue.papers import decode_copy, decode_info, encode_copy, encode_info
from qmailpy.queue.state import Copy, Done, Message, Pending
from qmailpy.values import Envelope, MemoryContent, Priority, Recipient

numbers = st.integers(0, 2**64 - 1)
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
lines = st.text(st.characters(codec="utf-8", exclude_characters="\0\n"), max_size=30)
names = st.sampled_from(["local", "tcp_local", "process"])
times = st.floats(0, 4e9)


@st.composite
def recipients(draw: st.DrawFn, text: st.SearchStrategy[str] = words) -> Recipient:
    address = draw(text)
    original = draw(text)
    return Recipient(
        address=address,
        original=original or address,
        channel=draw(names),
        host=draw(text),
        orcpt=draw(text),
        notify=draw(st.integers(0, 15)),
    )


soon = st.floats(1.0, 4e9)
modes = st.sampled_from(["N", "R", "NT", "RT"])


@st.composite
def envelopes(draw: st.DrawFn, text: st.SearchStrategy[str] = words) -> Envelope:
    return Envelope(
        sender=draw(text),
        recipients=tuple(draw(st.lists(recipients(text), max_size=4))),
        source=draw(names),
        arrival=draw(times),
        envid=draw(text),
        ret=draw(st.sampled_from(["", "FULL", "HDRS"])),
        body=draw(st.sampled_from(["7BIT", "8BITMIME"])),
        smtputf8=draw(st.booleans()),
        priority=draw(st.sampled_from(Priority)),
        message_id=draw(text),
        subject=draw(text),
        protocol=draw(st.sampled_from(["SMTP", "ESMTP", "ESMTPSA"])),
        user=draw(text),
        source_system=draw(text),
        hold_until=draw(times),
        **draw(st.just({}) | st.builds(lambda until, mode: {"deliver_by": until, "by_mode": mode}, soon, modes)),
        mt_priority=draw(st.integers(-9, 9)),
        require_tls=draw(st.booleans()),
        converted=draw(st.booleans()),
    )


results = st.builds(
    Result,
    st.integers(0, 2**32 - 1),
    st.sampled_from(Outcome),
    times,
    numbers,
    st.sampled_from(["", "E", "ES"]),
    words,
    words,
)
counters = st.dictionaries(names, st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(0, 5)))
ops: st.SearchStrategy[Op] = st.one_of(
    st.builds(
        lambda number, envelope, content, crc: Enqueued(number, envelope, len(content), crc, content),
        numbers,
        envelopes(),
        st.binary(max_size=100),
        st.integers(0, 2**32 - 1),
    ),
    st.builds(Enqueued, numbers, envelopes(), numbers, st.integers(0, 2**32 - 1), st.none()),
    st.builds(Attempted, numbers, names, times, st.lists(results, max_size=4).map(tuple)),
    st.builds(Held, numbers, names, words),
    st.builds(Released, numbers, names, times),
    st.builds(Requeued, numbers, names, st.lists(st.integers(0, 10**5), max_size=5).map(tuple)),
    st.builds(
        Warned, numbers, names, times, st.integers(0, 100), st.lists(st.integers(0, 2**31), max_size=3).map(tuple)
    ),
    st.builds(Checkpoint, numbers, numbers, numbers, st.builds(BooksCheckpoint, numbers, numbers, numbers, counters)),
)


class JournalFormTests(SynchronousTestCase):
    """The journal's form."""

    @given(st.lists(ops, max_size=4))
    def test_ops_come_back_as_they_were_written(self, some: list[Op]) -> None:
        """Any sequence of ops, whatever text they hold."""
        self.assertEqual(list(decode_ops(b"".join(encode_op(op) for op in some))), some)

    @given(ops)
    def test_a_checkpoint_is_known_without_decoding(self, op: Op) -> None:
        """Recovery looks for checkpoints among all records."""
        self.assertEqual(is_checkpoint(encode_op(op)), isinstance(op, Checkpoint))

    @given(st.binary(max_size=60))
    def test_garbage_is_damage_and_nothing_else(self, octets: bytes) -> None:
        """No other exception gets out."""
        with contextlib.suppress(Damaged):
            list(decode_ops(octets))


class FileFormTests(SynchronousTestCase):
    """The form of info/ and chan/."""

    @given(envelopes(lines), st.integers(0, 2**40), st.integers(0, 2**32 - 1))
    def test_an_info_file_comes_back_as_it_was_written(self, envelope: Envelope, size: int, crc: int) -> None:
        """All of an envelope but its recipients."""
        message = Message(7, "id", envelope, MemoryContent(b""), size, crc, {})
        message.channels = ("local", "tcp_local")
        found = decode_info(encode_info(message))
        self.assertEqual((found.size, found.crc, found.channels), (size, crc, ("local", "tcp_local")))
        self.assertEqual(
            encode_info(Message(7, "id", found.envelope, MemoryContent(b""), size, crc, {}, channels=found.channels)),
            encode_info(message),
        )

    @given(
        st.lists(st.tuples(recipients(lines), st.integers(0, 50), times, lines), max_size=4),
        st.lists(st.tuples(recipients(lines), st.sampled_from(Outcome), times), max_size=4),
        st.one_of(st.none(), lines),
        st.booleans(),
    )
    def test_a_chan_file_comes_back_as_it_was_written(
        self,
        pending: list[tuple[Recipient, int, float, str]],
        done: list[tuple[Recipient, Outcome, float]],
        held: str | None,
        released: bool,
    ) -> None:
        """Recipients to do and done, with their numbers."""
        copy = Copy("tcp_local", {}, held=held, released=released and held is None, warned=2, sequence=99)
        for number, item in enumerate(pending):
            copy.pending[2 * number] = Pending(*item)
        for number, past in enumerate(done):
            copy.done[2 * number + 1] = Done(*past)
        found = decode_copy(encode_copy(copy), "tcp_local")
        self.assertEqual(encode_copy(found), encode_copy(copy))
        self.assertEqual((found.sequence, found.filed, found.held, found.warned), (99, 99, held, 2))
        self.assertEqual(found.released, copy.released)

    @given(st.data())
    def test_a_file_with_one_octet_changed_is_known_for_damaged(self, data: st.DataObject) -> None:
        """Damage is seen, not guessed around."""
        copy = Copy("tcp_local", {0: Pending(Recipient(address="a@b.example", original="a@b.example", channel="x"))})
        octets = bytearray(encode_copy(copy))
        at = data.draw(st.integers(0, len(octets) - 2))
        octets[at] ^= data.draw(st.integers(1, 255))
        try:
            found = decode_copy(bytes(octets), "tcp_local")
        except Damaged:
            return
        self.assertEqual(encode_copy(found), encode_copy(copy))  # a change that says the same

    def test_a_file_repaired_by_hand_is_taken(self) -> None:
        """The checksum line may say that there is none."""
        copy = Copy("tcp_local", {0: Pending(Recipient(address="a@b.example", original="a@b.example", channel="x"))})
        lines_ = encode_copy(copy).replace(b"a@b", b"c@b").split(b"\n")
        lines_[-2] = b"Z-"
        self.assertEqual(decode_copy(b"\n".join(lines_), "x").pending[0].recipient.address, "c@b.example")


class IdTests(SynchronousTestCase):
    """Queue ids."""

    @given(numbers, st.integers(0, 1023))
    def test_an_id_gives_back_its_number_and_shard(self, number: int, shard: int) -> None:
        """And names nothing else."""
        source = IdSource(lambda: 0.0, str(shard))
        text = to_id(number, source.code)
        self.assertEqual((to_number(text), shard_of(text), len(text)), (number, str(shard), 15))

    @given(st.lists(numbers, min_size=2, max_size=2))
    def test_ids_sort_as_their_numbers(self, pair: list[int]) -> None:
        """Sortable by time."""
        self.assertEqual(to_id(pair[0], "00") < to_id(pair[1], "00"), pair[0] < pair[1])

    def test_numbers_rise_though_the_clock_is_set_back(self) -> None:
        """Never reused."""
        clock = [1.8e9]
        source = IdSource(lambda: clock[0], "3")
        first = source.next_number()
        clock[0] -= 3600
        second = source.next_number()
        self.assertGreater(second >> 10, first >> 10)
        again = IdSource(lambda: clock[0], "3", above=source.highest)
        self.assertGreater(again.next_number(), second)
        self.assertAlmostEqual(born(first), 1.8e9, places=3)

    def test_what_is_no_id_is_refused(self) -> None:
        """Whatever a user may type."""
        for text in (
            "",
            "x",
            "v" * 15,
            "0" * 14,
            "0" * 14 + "w",
            "../../../../etc",
            "0" * 16,
            "0" * 14 + "A",
            "0_" * 7 + "0",
        ):
            with self.assertRaises(ValueError):
                to_number(text)
