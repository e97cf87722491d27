"""The pipe channel: what a program is given, and what its end means."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from qmailpy.channels.conversions.command import Ended
from qmailpy.channels.pipe import PipeChannel
from qmailpy.channels.programs import Limits, thd_file
from qmailpy.config.schema import ChannelConfig
from qmailpy.interfaces import IChannel
from qmailpy.values import Content, Disposition, Job, MemoryContent, Verdict
from tests.channels.common import make_config, make_job, make_parts

FAX = ChannelConfig(
    name="fax", kind="pipe", command=("/bin/fax", "-f", "$SENDER", "--to=${LOCAL}", "$RECIPIENT"), run_s=9.0
)


class ScriptedPrograms:
    """Programs that end as they are told to."""

    def __init__(self) -> None:
        self.ends: list[Ended] = []
        self.ran: list[tuple[Sequence[str], Mapping[str, str], bytes, Limits]] = []
        self.trouble: Exception | None = None

    async def run(
        self, argv: Sequence[str], environment: Mapping[str, str], directory: str, content: Content, limits: Limits
    ) -> Ended:
        if self.trouble and (isinstance(self.trouble, OSError) or self.ran):
            raise self.trouble
        self.ran.append((argv, environment, content.read(), limits))
        return self.ends.pop(0) if self.ends else Ended(status=0)


class PipeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.programs = ScriptedPrograms()
        config = make_config({"fax": FAX})
        self.channel = PipeChannel(config, FAX, make_parts(config), self.programs)

    def dequeue(self, job: Job) -> Sequence[Disposition]:
        return self.successResultOf(Deferred.fromCoroutine(self.channel.dequeue(job)))

    def ended(self, **how: object) -> tuple[Verdict, str, str]:
        self.programs.ends.append(Ended(**how))  # type: ignore[arg-type]
        [said] = self.dequeue(make_job("12@fax.example", channel="fax"))
        return said.verdict, said.reply.enhanced, said.reply.text

    def test_it_is_a_channel(self) -> None:
        self.assertTrue(verifyObject(IChannel, self.channel))
        self.successResultOf(Deferred.fromCoroutine(self.channel.stop()))

    def test_a_bug_costs_nobody_else_the_mark_of_what_a_program_has_got(self) -> None:
        """Else it would get it at each attempt."""
        self.programs.trouble = ZeroDivisionError()
        found = self.dequeue(make_job("12@fax.example", "13@fax.example", channel="fax"))
        self.assertEqual([one.verdict for one in found], [Verdict.DELIVERED, Verdict.DEFERRED])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_each_recipient_has_a_run_with_arguments_of_its_own(self) -> None:
        found = self.dequeue(make_job("12@fax.example", "$(reboot) '\"@fax.example", channel="fax"))
        self.assertEqual([one.verdict for one in found], [Verdict.DELIVERED] * 2)
        self.assertEqual(
            [list(argv) for argv, *_ in self.programs.ran],
            [
                ["/bin/fax", "-f", "bob@example.com", "--to=12", "12@fax.example"],
                ["/bin/fax", "-f", "bob@example.com", "--to=$(reboot) '\"", "$(reboot) '\"@fax.example"],
            ],
        )
        _, environment, _, limits = self.programs.ran[0]
        self.assertEqual((environment["RECIPIENT"], environment["HOST"]), ("12@fax.example", "fax.example"))
        self.assertEqual(limits.timeout_s, 9.0)

    def test_how_a_program_ends_says_what_becomes_of_the_recipient(self) -> None:
        """qmail-command(8) and sysexits.h; in doubt it is tried again."""
        for status, verdict, enhanced in (
            (0, Verdict.DELIVERED, "2.0.0"),
            (99, Verdict.DELIVERED, "2.0.0"),
            *((code, Verdict.FAILED, "5.3.0") for code in (64, 70, 76, 78, 100, 112)),
            (65, Verdict.FAILED, "5.6.0"),
            (67, Verdict.FAILED, "5.1.1"),
            (68, Verdict.FAILED, "5.1.2"),
            (77, Verdict.FAILED, "5.7.0"),
            *((code, Verdict.DEFERRED, "4.3.0") for code in (1, 69, 71, 75, 111, 125, 126, 127, 255)),
        ):
            self.assertEqual(self.ended(status=status)[:2], (verdict, enhanced), status)
        self.assertEqual(self.ended(why="killed by signal 9")[:2], (Verdict.DEFERRED, "4.3.0"))

    def test_the_sender_is_told_what_it_said_of_a_failure_and_nothing_of_trouble(self) -> None:
        self.assertEqual(self.ended(status=100, said="no such extension")[2], "no such extension")
        self.assertNotIn("secret", self.ended(status=1, said="secret path")[2])

    def test_addresses_that_look_like_options_fail(self) -> None:
        [said] = self.dequeue(make_job("-oQ/tmp@fax.example", channel="fax"))
        self.assertEqual((said.verdict, said.reply.enhanced), (Verdict.FAILED, "5.1.3"))
        job = make_job("12@fax.example", channel="fax")
        [said] = self.dequeue(evolve(job, envelope=evolve(job.envelope, sender="-x@y")))
        self.assertEqual((said.verdict, said.reply.enhanced), (Verdict.FAILED, "5.1.7"))
        self.assertEqual(self.programs.ran, [])

    def test_a_message_that_cannot_be_read_waits(self) -> None:
        self.programs.trouble = OSError(5, "unreadable")
        self.assertEqual([one.verdict for one in self.dequeue(make_job("1@x"))], [Verdict.DEFERRED])

    def test_another_command_is_in_force_from_the_next_job_on(self) -> None:
        self.channel.reconfigure(make_config({"fax": evolve(FAX, command=("/bin/other",))}))
        self.dequeue(make_job("1@x"))
        self.assertEqual(self.programs.ran[0][0], ("/bin/other",))
        self.channel.reconfigure(make_config({}))
        self.dequeue(make_job("1@x"))

    def test_the_message_has_unix_line_ends_in_a_file_without_a_name(self) -> None:
        scratch = os.path.abspath(self.mktemp())

        class Torn(MemoryContent):
            def chunks(self, octets: int = 65536) -> Iterator[bytes]:
                return iter((b"a\r", b"\nb\r", b"c\r\n", b"d\r"))

        handle = thd_file(scratch, Torn(b""))
        try:
            self.assertEqual(os.read(handle, 100), b"a\nb\rc\nd\r")
            self.assertEqual(os.listdir(scratch), [])
            self.assertEqual(stat.S_IMODE(os.stat(scratch).st_mode), 0o700)
        finally:
            os.close(handle)
