"""What is selected for a conversion when it is enqueued, and in which jobs it leaves the queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from qmailpy.channels.parts import Parts
from qmailpy.config.conversion_schema import ConversionConfig
from qmailpy.config.schema import ChannelConfig, Config
from qmailpy.interfaces import IChannel
from qmailpy.queue.verdicts import INotices
from qmailpy.routing.selection import way
from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.values import Disposition, Envelope, Job, NewMail, Reply, Verdict
from tests.queue.world import HOME, PlainNotices, World, configuration


@implementer(IChannel)
class PassingOn:
    """Passes everything on as it is."""

    name = "conversion"

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.returned = False  # instead

    async def dequeue(self, job: Job) -> Sequence[Disposition]:
        self.jobs.append(job)
        if self.returned:
            said = Disposition(verdict=Verdict.FAILED, reply=Reply(554, "5.7.1", "returned"))
            return [said] * len(job.recipients)
        onward = tuple([evolve(one, channel=way(one)[0], host=way(one)[1]) for one in job.recipients])
        mail = NewMail(envelope=evolve(job.envelope, recipients=onward), content=job.content)
        said = Disposition(verdict=Verdict.FORWARDED, reply=Reply(250, "2.6.0", "ok"), mails=(mail,))
        return [said] * len(job.recipients)

    async def stop(self) -> None:
        """Nothing to end."""


class OurNotices(PlainNotices):
    """Notices that say what they are."""

    def build_failure(self, *args: Any, **more: Any) -> tuple[Envelope, bytes] | None:
        found = super().build_failure(*args, **more)
        return found and (evolve(found[0], protocol=""), found[1])


class Converting(World):
    """A node where all mail for elsewhere is converted, and what C{table} says besides."""

    table = ConversionConfig(destination="tcp_local")

    def __init__(self, disk: CrashDisk, config: Config | None = None) -> None:
        plain = configuration()
        conversion = ChannelConfig(name="conversion", kind="conversion")
        channels = {**plain.channels, "conversion": conversion}
        super().__init__(disk, config or evolve(plain, channels=channels, selections=(self.table,)))
        self.passing = PassingOn()

    def notices(self) -> INotices:
        return OurNotices(self)

    def channels(self, parts: Parts) -> dict[str, IChannel]:
        return {**super().channels(parts), "conversion": self.passing}


class ConvertingTests(SynchronousTestCase):
    def world(self) -> Converting:
        world = Converting(CrashDisk(directories=[HOME, f"{HOME}/log"]))
        world.up()
        return world

    def lines(self, world: World) -> list[tuple[str, str, str]]:
        return [(one.source, one.destination, one.action.value) for one in world.log()]

    def test_four_records_in_order(self) -> None:
        """Row C8."""
        world = self.world()
        world.send("ok@out.example")
        self.assertEqual(
            self.lines(world),
            [
                ("tcp_local", "conversion", "E"),
                ("conversion", "tcp_local", "E"),
                ("conversion", "", "D"),
                ("tcp_local", "", "D"),
            ],
        )
        self.assertEqual(*world.books())

    def test_what_goes_on_to_the_same_channel_is_one_job(self) -> None:
        """Whatever hosts it is for: a message is converted once a channel, not once a domain."""
        world = self.world()
        world.send("ok@a.example", "ok@b.example", "ok@c.example", "bob@here.example")
        self.assertEqual([len(job.recipients) for job in world.passing.jobs], [3])
        hosts = [one.host for job in world.passing.jobs for one in job.recipients]
        self.assertEqual(hosts, ["tcp_local a.example", "tcp_local b.example", "tcp_local c.example"])
        self.assertEqual(len(world.outside.taken), 3)

    def test_a_notice_is_not_selected_and_reaches_the_sender_of_what_was_returned(self) -> None:
        """It encloses what a conversion has returned, which would return it as well."""
        world = self.world()
        world.passing.returned = True
        world.send("ok@out.example", sender="joe@out.example")
        lines = self.lines(world)
        self.assertEqual(lines.count(("tcp_local", "conversion", "E")), 1)
        self.assertEqual([job.envelope.sender for job in world.passing.jobs], ["joe@out.example"])
        self.assertEqual(lines[-1], ("tcp_local", "", "D"))  # the notice

    def test_another_table_counts_from_the_next_message_on(self) -> None:
        world = self.world()
        assert world.shard is not None
        world.shard.reconfigure(evolve(world.config, selections=()), {})
        world.send("ok@out.example")
        self.assertEqual(world.actions(), "ED")
