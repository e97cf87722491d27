"""Whatever order things happen in, crashes among them: nothing is lost, nothing is invented, the books hold."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.stats.fold import balanced
from qmailpy.testing.crashdisk import CrashDisk
from tests.queue.world import HOME, World, configuration

AGES = (440.0, 4000.0)

ADDRESSES = (
    "bob@here.example",
    "eve@here.example",
    "ok@out.example",
    "later@out.example",
    "later@else.example",
    "bad@out.example",
)


class QueueMachine(RuleBasedStateMachine):
    """One node through anything."""

    @initialize()
    def begin(self) -> None:
        """A first life."""
        self.world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]), configuration(warn_s=AGES))
        self.world.up()

    @rule(
        to=st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=4, unique=True),
        sender=st.sampled_from(["ann@here.example", ""]),
        size=st.sampled_from([0, 50, 700, 3000]),
        hold=st.booleans(),
    )
    def send(self, to: list[str], sender: str, size: int, hold: bool) -> None:
        """Mail comes, perhaps several in a batch."""
        self.world.send(*to, sender=sender, body=b"m" * size, hold=hold)

    @rule(seconds=st.sampled_from([0, 1, 300, 450, 5000]))
    def wait(self, seconds: int) -> None:
        """Time passes."""
        self.world.wait(seconds)

    @rule(stopped=st.booleans())
    def switch(self, stopped: bool) -> None:
        """An operator stops the channel outside, or starts it."""
        assert self.world.shard is not None
        self.world.switches.thd_switch("tcp_local", stopped)
        runner = self.world.shard.runner("tcp_local")
        (runner.stop if stopped else runner.start)()

    @rule()
    def settle(self) -> None:
        """Into files."""
        self.world.settle()

    @rule(seed=st.integers(0, 2**16), how=st.sampled_from(["none", "all", "random", "killed"]))
    def crash(self, seed: int, how: str) -> None:
        """Power cut or kill, and the next life."""
        survivors = Random(seed) if how == "random" else how
        self.world = self.world.crash(survivors, killed=how == "killed")
        self.world.up(replay=how != "killed")

    @rule()
    @precondition(lambda self: self.world.shard is not None)
    def restart(self) -> None:
        """An orderly stop and start."""
        self.world.down()
        self.world = self.world.crash("none")
        self.world.up()

    def teardown(self) -> None:
        """What was promised."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.wait(400)
        warned = self.warned()
        self.switch(False)
        world.wait(20000)
        boxes = {name: world.mailbox(name) for name in ("ann", "bob", "eve")}
        for queue_id, (envelope, octets) in world.accepted.items():
            for recipient in envelope.recipients:
                user, _, domain = recipient.address.partition("@")
                if domain == "here.example":
                    assert boxes[user].count(octets) == 1, (queue_id, recipient.address)
                elif user != "bad":
                    assert world.outside.taken[recipient.address, octets] >= 1, (queue_id, recipient.address)
                elif envelope.sender:
                    assert sum(queue_id.encode() in each for each in boxes["ann"] if each[:6] == b"failed") == 1, (
                        queue_id
                    )
        sent = {octets for _, octets in world.offered.values()}
        for octets in [each for box in boxes.values() for each in box]:
            assert octets in sent or octets.startswith((b"failed: ", b"delayed: ")), octets[:100]
        self.all_were_told(warned)
        log, counters = world.books()
        assert log == counters
        assert all(balanced(row) for row in counters.values())
        assert world.stored() == {}

    def warned(self) -> dict[str, int]:
        """Notices of delay by message, of those that wait outside and have an age."""
        assert self.world.shard is not None
        now = self.world.clock.seconds()
        found = {}
        for number, message in self.world.shard.shard.state.messages.items():
            copy = message.copies.get("tcp_local")
            if copy is not None and message.envelope.sender and number:
                passed = sum(now - message.envelope.arrival >= age + 60 for age in AGES)
                found[message.id] = passed - copy.warned
        return found

    def all_were_told(self, behind: dict[str, int]) -> None:
        """Once an age at most, notice and record together; and where nothing was tried, too."""
        assert not any(one > 0 for one in behind.values()), behind
        told = [octets.split(b"\r\n")[0] for octets in self.world.mailbox("ann") if octets.startswith(b"delayed: ")]
        lines = Counter(
            one.file.id
            for one in self.world.log()
            if one.action.value == "W" and one.file is not None and not one.file.continued
        )
        assert sum(lines.values()) == len(told), (lines, told)
        assert all(count <= len(AGES) for count in lines.values()), lines


class MachineTests(SynchronousTestCase):
    """trial does not collect hypothesis's own test case."""

    def test_nothing_is_lost_in_any_order_of_events(self) -> None:
        """The state machine."""
        run_state_machine_as_test(
            QueueMachine,
            settings=settings(
                max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )
