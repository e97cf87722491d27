"""Which mail goes through a conversion channel."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.conversion_schema import ConversionConfig
from qmailpy.config.schema import ChannelConfig, Config, ServerConfig
from qmailpy.routing.selection import Patterns, Selection, way
from qmailpy.values import Envelope, Recipient

KINDS = {
    "local": "local",
    "tcp_local": "smtp",
    "process": "process",
    "hold": "hold",
    "conversion": "conversion",
    "other": "conversion",
}
ANN = Recipient(address="ann@here.example", original="x@here.example", channel="local", notify=2)
OUT = Recipient(address="joe@a.out.example", original="joe@a.out.example", channel="tcp_local", host="mx.out.example")
MAIL = Envelope(sender="bob@out.example", recipients=(ANN, OUT), source="tcp_local", arrival=1.0)


def selection(*tables: dict[str, Any], kinds: dict[str, str] = KINDS) -> Selection:
    channels = {name: ChannelConfig(name=name, kind=kind) for name, kind in kinds.items()}
    chosen = tuple(ConversionConfig(**table) for table in tables)
    return Selection(Config(home="/h", server=ServerConfig(hostname="h"), channels=channels, selections=chosen))


class SelectionTests(SynchronousTestCase):
    def converted(self, *tables: dict[str, Any], envelope: Envelope = MAIL, size: int = 100) -> list[str]:
        """The addresses that are converted."""
        found = selection(*tables).redirect(envelope, size)
        return [one.address.partition("@")[0] for one in found.recipients if one.channel == "conversion"]

    def test_where_mail_would_have_gone_is_remembered(self) -> None:
        found = selection({}).redirect(MAIL, 1)
        self.assertEqual([way(one) for one in found.recipients], [("local", ""), ("tcp_local", "mx.out.example")])
        self.assertEqual(found.recipients[0], evolve(ANN, channel="conversion", host="local "))
        self.assertEqual(way(ANN), ("", ""))
        self.assertEqual(way(OUT), ("", ""))

    def test_each_key_narrows_it(self) -> None:
        for table, names in (
            ({}, ["ann", "joe"]),
            ({"source": "tcp_local"}, ["ann", "joe"]),
            ({"source": "local"}, []),
            ({"destination": "local"}, ["ann"]),
            ({"sender": ("*@OUT.example",)}, ["ann", "joe"]),
            ({"sender": ("<>", "x@*")}, []),
            ({"recipient_domain": "here.example"}, ["ann"]),
            ({"recipient_domain": ".out.example"}, ["joe"]),
            ({"recipient_domain": "out.example"}, []),
            ({"recipient_domain": "."}, ["ann", "joe"]),
            ({"min_octets": 100}, ["ann", "joe"]),
            ({"min_octets": 101}, []),
            ({"max_octets": 99}, []),
            ({"max_octets": 100}, ["ann", "joe"]),
        ):
            self.assertEqual(self.converted(table), names, table)

    def test_the_first_that_fits_decides(self) -> None:
        self.assertEqual(self.converted({"destination": "local", "convert": False}, {}), ["joe"])
        found = selection({"destination": "local", "channel": "other"}, {}).redirect(MAIL, 1)
        self.assertEqual([one.channel for one in found.recipients], ["other", "conversion"])

    def test_mail_from_a_conversion_is_not_converted(self) -> None:
        for source in ("conversion", "other"):
            envelope = evolve(MAIL, source=source)
            self.assertIs(selection({}, {"source": source}).redirect(envelope, 1), envelope)

    def test_what_was_converted_and_then_held_is_not_converted_again(self) -> None:
        """It only waited for an operator; a forward is another thing, and what was never converted too."""
        for source, converted, names in (
            ("hold", True, []),
            ("hold", False, ["ann", "joe"]),
            ("process", True, ["ann", "joe"]),
        ):
            envelope = evolve(MAIL, source=source, converted=converted)
            self.assertEqual(self.converted({}, envelope=envelope), names, (source, converted))

    def test_what_is_passed_on_is_converted_when_it_has_its_way(self) -> None:
        """Notices on their way to process, mail that is held: later, or when it is asked for."""
        for channel in ("process", "hold", "conversion"):
            envelope = evolve(MAIL, recipients=(evolve(ANN, channel=channel),))
            self.assertIs(selection({}).redirect(envelope, 1), envelope)
        envelope = evolve(MAIL, recipients=(evolve(ANN, channel="hold"),))
        self.assertEqual(self.converted({"destination": "hold"}, envelope=envelope), ["ann"])

    def test_the_null_sender_is_spoken_of(self) -> None:
        self.assertEqual(self.converted({"sender": ("<>",)}, envelope=evolve(MAIL, sender="")), ["ann", "joe"])

    def test_our_notices_are_converted_only_where_that_is_asked_for(self) -> None:
        """They enclose what they are about: what returned that would return them, and nobody would hear of it."""
        notice = evolve(MAIL, sender="", source="process", protocol="")
        for table in ({}, {"sender": ("<>",)}, {"destination": "local"}):
            self.assertEqual(self.converted(table, envelope=notice), [], table)
        self.assertEqual(self.converted({"source": "process"}, envelope=notice), ["ann", "joe"])
        bounce = evolve(MAIL, sender="", source="process")  # somebody else's, that one of ours has forwarded
        self.assertEqual(self.converted({}, envelope=bounce), ["ann", "joe"])

    def test_without_tables_or_channels_there_is_nothing_to_ask(self) -> None:
        self.assertFalse(selection())
        self.assertFalse(selection({}, kinds={"local": "local"}))
        self.assertTrue(selection({}))

    def test_patterns_are_those_of_file_names(self) -> None:
        self.assertTrue(Patterns(()).fit("anything"))
        self.assertTrue(Patterns(("a*", "?.[xy]")).fit("Q.X"))
        self.assertFalse(Patterns(("a*",)).fit("ba"))
