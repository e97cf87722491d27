"""Who is told that a message is delayed, when its recipients are tried at times of their own."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.queue.notices import last_word
from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.values import Notify, Reply
from tests.queue.world import HOME, World, configuration


def node(jitter: float = 0.5) -> World:
    """Warns at 2,000 seconds; each recipient has its own times."""
    config = configuration(warn_s=(2000.0,))
    channel = evolve(config.channels["tcp_local"], backoff=(600.0,), jitter=jitter)
    world = World(
        CrashDisk(directories=[HOME, f"{HOME}/log"]),
        evolve(config, channels={**config.channels, "tcp_local": channel}),
    )
    world.up()
    return world


def warned(world: World) -> list[str]:
    """The lines W of the log."""
    return [line for line in world.disk.read(f"{HOME}/log/mail.log_current").decode().splitlines() if " W " in line]


class DelayTests(SynchronousTestCase):
    def told(self, world: World) -> list[bytes]:
        return sorted(
            address
            for octets in world.mailbox("ann")
            if octets.startswith(b"delayed")
            for address in octets.partition(b"\r\n")[0].rpartition(b" ")[2][15:].split(b",")
        )

    def test_all_who_wait_are_told_of_in_one_notice(self) -> None:
        """Recipients drift apart by chance; the notice is one, and nobody is left out."""
        world = node()
        world.send("never@a.example", "never@b.example", "never@c.example")
        world.wait(6000.0)
        self.assertEqual(self.told(world), [b"never@a.example", b"never@b.example", b"never@c.example"], warned(world))
        notices = [one for one in world.mailbox("ann") if one.startswith(b"delayed")]
        self.assertEqual((len(notices), len(warned(world))), (1, 3))

    def test_who_is_not_told_is_not_recorded_as_told(self) -> None:
        world = node()
        world.send("never@a.example", "never@b.example", notify=Notify.FAILURE)
        world.wait(6000.0)
        self.assertEqual((self.told(world), warned(world)), ([], []))

    def test_who_has_it_or_has_failed_is_not_told_of_as_delayed(self) -> None:
        world = node()
        world.send("never@a.example", "ok@b.example", "bad@c.example")
        world.wait(6000.0)
        self.assertEqual(self.told(world), [b"never@a.example"])


class LastWordTests(SynchronousTestCase):
    def test_what_a_host_said_is_told_as_its_word(self) -> None:
        said = last_word("dns;mx.example (TCP|a|1|b|25) (mx smtp;x) (TLSv1.3/X) smtp;450 4.2.0 not yet")
        self.assertEqual((said.remote_mta, said.reply), ("mx.example", Reply(450, "4.2.0", "not yet")))
        said = last_word("dns;mx.example (TCP|a|1|b|25) (mx) smtp;450 see (a) smtp;451 b")
        self.assertEqual(said.reply, Reply(450, "", "see (a) smtp;451 b"))

    def test_our_own_words_are_ours(self) -> None:
        for text, reply in (
            ("451 4.4.3 DNS lookup of x failed", Reply(451, "4.4.3", "DNS lookup of x failed")),
            ("TCP active open: connection refused", Reply(451, "4.4.0", "TCP active open: connection refused")),
            ("dns;mx.example (TCP|a|1|b|25) (mx) TLS failed: expired", Reply(451, "4.4.0", "TLS failed: expired")),
        ):
            said = last_word(text)
            self.assertEqual((said.remote_mta, said.reply), ("", reply), text)

    def test_who_was_never_tried_waits_for_others(self) -> None:
        self.assertEqual(last_word("").reply.enhanced, "4.4.5")
