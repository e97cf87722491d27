"""C{qm top} and C{qm clean}, over a queue in memory."""

from __future__ import annotations

import json

from tests.cli.fakequeue import IDS, entry
from tests.cli.test_qm import QmCase

SPAM = "win.a.million.dollars@spam.example"


class CleanCase(QmCase):
    """A queue somebody has filled: six messages of one sender and one of another; all have one content."""

    def setUp(self) -> None:
        super().setUp()
        self.queue.list = [
            *(entry(number, sender=SPAM, recipients=(f"r{number}@example.net",)) for number in range(1, 7)),
            entry(7, recipients=("r7@example.com",)),
        ]


class TopTests(CleanCase):
    """Counts."""

    def test_most_frequent_come_first_and_the_rare_are_left_out(self) -> None:
        """By subject unless something else is asked for."""
        self.assertEqual(self.out("top"), "     Count  subject\n         7  hello\n")
        self.assertEqual(self.out("top", "-from"), f"     Count  from\n         6  {SPAM}\n")
        none = "         -  none occurs 2 times; -min_count=1 shows all\n"
        self.assertEqual(self.out("top", "-to"), f"     Count  to\n{none}")
        self.assertEqual(self.out("top", "-domain_to", "local"), "     Count  domain_to\n")

    def test_several_kinds_are_counted_at_once(self) -> None:
        """As JSON, rare ones too."""
        found = json.loads(self.out("top", "-domain_to", "-from", "-min_count=1", "-top=1", "--json"))
        self.assertEqual(
            found,
            {
                "from": [{"value": SPAM, "count": 6}],
                "domain_to": [{"value": "example.net", "count": 6}],
            },
        )

    def test_a_range_compares_a_part_alone(self) -> None:
        """imta.md 3.1; what stands behind an option without one is the channel."""
        self.assertEqual(self.out("top", "-subject=(START=2,LENGTH=3)"), "     Count  subject\n         7  ell\n")
        self.assertEqual(self.out("top", "-to=start=3", "tcp*"), "     Count  to\n         6  @example.net\n")
        self.assertIn("Count  subject", self.out("top", "-subject", "nowhere"))
        for wrong in ("-subject=(BEGIN=2)", "-subject=(START=0)", "-content=(START=250,LENGTH=50)"):
            self.assertEqual(self.run_qm("top", wrong).exit_code, 2)

    def test_what_the_ancestor_took_is_taken(self) -> None:
        """Options that change nothing here, and -verbose."""
        expected = self.out("top")
        self.assertEqual(self.out("top", "-database", "-threads=5"), expected)
        self.assertEqual(self.out("top", "-verbose", "-nothreads"), "7 messages looked at\n" + expected)
        self.assertEqual(self.out("clean", f"-from={SPAM}", "-directory_tree", "-threads=4"), "6 messages held.\n")
        self.assertIn("gathered from the queue directory tree", self.out("view", "database"))

    def test_control_characters_of_a_body_do_not_reach_the_terminal(self) -> None:
        """Nor its line ends."""
        found = self.out("top", "-content")
        self.assertNotIn("\x1b", found)
        self.assertEqual(found.count("\n"), 2)


class CleanTests(CleanCase):
    """Holds, or deletes."""

    def test_what_fits_is_held(self) -> None:
        """And nothing else."""
        self.assertEqual(self.out("clean", f"-from={SPAM}"), "6 messages held.\n")
        self.assertEqual(sorted(one.id for one in self.queue.list if one.held), list(IDS[:6]))
        self.assertEqual(self.out("clean", f"-from={SPAM}"), "0 messages held.\n")

    def test_all_texts_must_fit_or_one(self) -> None:
        """As -match says."""
        words = (f"-from={SPAM}", "-domain_to=example.com", "-min_length=5")
        self.assertEqual(self.out("clean", *words), "0 messages held.\n")
        self.assertEqual(self.out("clean", "-match=or", *words), "7 messages held.\n")

    def test_subject_and_body_are_read(self) -> None:
        """Octets, whatever they are."""
        self.assertEqual(self.out("clean", "-subject=hello", "-content=text", "-min_length=4"), "7 messages held.\n")

    def test_nothing_is_deleted_without_a_yes(self) -> None:
        """Nobody is there to be asked."""
        self.assertIn("nothing was done", self.fails("clean", "-delete", f"-from={SPAM}"))
        self.assertEqual(len(self.queue.list), 7)
        self.assertIn("6 messages deleted.", self.out("clean", "-delete", "-yes", "-verbose", f"-from={SPAM}"))
        self.assertEqual([one.id for one in self.queue.list], [IDS[6]])

    def test_short_and_missing_texts_are_refused(self) -> None:
        """They would fit everything."""
        self.assertIn("shorter than 24", self.fails("clean", "-subject=a"))
        self.assertIn("at least one", self.fails("clean"))
        self.assertEqual(self.queue.done, [])
