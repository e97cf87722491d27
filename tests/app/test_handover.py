"""The configuration survives its way to a child; messages survive any cut."""

from __future__ import annotations

import json

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.app.handover import Unpacker, decode, encode, pack
from qmailpy.config.schema import ChannelConfig, Config, ListenerConfig, RuleConfig, ServerConfig

CONFIG = Config(
    home="/var/lib/qmailpy",
    server=ServerConfig(hostname="mail.example.org", workers=3, drain_s=7.5),
    listeners=(ListenerConfig(name="smtp", kind="smtp", endpoint="tcp:25"),),
    channels={"tcp_local": ChannelConfig(name="tcp_local", kind="smtp", backoff=(1.0, 2.0))},
    rules=(RuleConfig(pattern=".", channel="tcp_local"),),
)


class Handover(SynchronousTestCase):
    def test_a_configuration_comes_out_as_it_went_in(self) -> None:
        again = decode(json.loads(json.dumps(encode(CONFIG))))
        self.assertEqual(again, CONFIG)
        self.assertIsInstance(again.queue.warn_s, tuple)
        self.assertIsInstance(again.listeners, tuple)

    def test_whole_numbers_become_seconds(self) -> None:
        values = json.loads(json.dumps(encode(CONFIG)))
        values["server"]["drain_s"] = 7
        self.assertIsInstance(decode(values).server.drain_s, float)

    def test_another_version_s_keys_do_no_harm(self) -> None:
        """An upgrade on disk while the supervisor of before still runs."""
        values = json.loads(json.dumps(encode(CONFIG)))
        values["server"]["colour"] = "green"
        values["orchestra"] = {"strings": 4}
        del values["server"]["drain_s"], values["dns"]
        again = decode(values)
        self.assertEqual(again, attrs.evolve(CONFIG, server=attrs.evolve(CONFIG.server, drain_s=20.0)))

    @given(st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=50), max_size=3), max_size=4), st.data())
    def test_messages_may_arrive_in_any_pieces(self, messages: list[dict[str, str]], data: st.DataObject) -> None:
        octets = b"".join(map(pack, messages))
        reader, found = Unpacker(10000), []
        while octets:
            size = data.draw(st.integers(1, len(octets)))
            found += reader.feed(octets[:size])
            octets = octets[size:]
        self.assertEqual(found, messages)

    def test_a_message_over_the_limit_is_refused_before_it_is_kept(self) -> None:
        self.assertRaises(ValueError, Unpacker(100).feed, (101).to_bytes(4, "big"))

    def test_what_is_no_object_is_refused(self) -> None:
        self.assertRaises(ValueError, Unpacker(100).feed, b"\0\0\0\x02[]")
        self.assertRaises(ValueError, Unpacker(100).feed, b"\0\0\0\x02{{")
