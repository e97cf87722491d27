"""How a log is compared with a sample."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.scenarios.samples import FOLDER, differences, sample

_HEAD = "24-Nov-2026 10:00:00.00 1f.0.{} "
_ONE, _TWO = "065v9m526dft000", "065v9m54rbk5700"


def line(number: int, text: str) -> str:
    return _HEAD.format(number) + text


class MatchingTests(SynchronousTestCase):
    sample = (
        "<time> <process> a +            O TCP|<port>",
        "<time> <process> a E <id:a>.01",
        "<time> <process> a -            O TCP|<port>",
        "<time> <process> a D <id:a>.00 <seconds>",
        "<time> <process> a E <id:b>.01 <id:a>",
    )

    def log(self, *order: int, one: str = _ONE, two: str = _TWO, d: str = "a D {}.00 0.1") -> list[str]:
        made = [
            line(1, "a +            O TCP|25"),
            line(2, f"a E {one}.01"),
            line(3, "a -            O TCP|26"),
            line(4, d.format(one)),
            line(5, f"a E {two}.01 {one}"),
        ]
        return [made[index] for index in order or range(5)]

    def test_the_log_of_the_sample_is_the_sample(self) -> None:
        self.assertEqual(differences(self.sample, self.log()), [])

    def test_what_has_nothing_to_do_with_each_other_may_stand_in_any_order(self) -> None:
        self.assertEqual(differences(self.sample, self.log(2, 1, 0, 3, 4)), [])

    def test_a_messages_lines_may_not(self) -> None:
        self.assertNotEqual(differences(self.sample, self.log(0, 3, 2, 1, 4)), [])

    def test_another_field_a_line_too_many_and_one_too_few_are_told(self) -> None:
        self.assertIn("in the log only", differences(self.sample, self.log(d="a Q {}.00 0.1"))[-1])
        self.assertNotEqual(differences(self.sample, [*self.log(), line(6, "a E x")]), [])
        self.assertNotEqual(differences(self.sample, self.log(0, 1, 2, 3)), [])

    def test_one_id_is_one_and_two_are_two(self) -> None:
        self.assertNotEqual(differences(self.sample, self.log(two=_ONE)), [])
        swapped = self.log()
        swapped[4] = line(5, f"a E {_TWO}.01 {_TWO}")
        self.assertNotEqual(differences(self.sample, swapped), [])

    def test_every_sample_is_there_for_a_reader(self) -> None:
        """It begins with what it shows."""
        with open(f"{FOLDER}/bounce.log") as source:
            self.assertTrue(source.read().startswith("# "))
        self.assertGreater(len(sample("bounce")), 10)
