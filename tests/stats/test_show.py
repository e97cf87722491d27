"""The counters as people see them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.stats import show
from qmailpy.stats.counters import Baseline, LaneState, Position, Sizes
from qmailpy.stats.items import FIRST_MESSAGES, IN_ASSOCIATIONS, LOWEST, OUT_ASSOCIATIONS, QUEUE_TIME_MS, zeros

# The document's own sample (mission s.4).
SAMPLE = """\
Channel          Messages    Recipients    Blocks
-------          --------    ----------    -------
tcp_local
   Received       29379       79714      982252
   Stored            61         113       -2004
   Delivered      29369       79723      983903 (29369 first time)
   Submitted      13698       13699       18261
   Attempted          0           0           0
   Rejected           1          10           0
   Failed           104         104        4681

   Queue time/count        16425/29440 = 0.56
   Queue first time/count  16425/29440 = 0.56

   Total In Assocs           297637
   Total Out Assocs           28306
"""
ROW = zeros()
ROW[:21] = [
    *(29379, 79714, 982252),
    *(61, 113, -2004),
    *(29369, 79723, 983903),
    *(13698, 13699, 18261),
    *(0, 0, 0),
    *(1, 10, 0),
    *(104, 104, 4681),
]
ROW[FIRST_MESSAGES] = 29369
ROW[QUEUE_TIME_MS : QUEUE_TIME_MS + 4] = [16425 * 1000, 29440, 16425 * 1000, 29440]
ROW[IN_ASSOCIATIONS] = 297637
ROW[OUT_ASSOCIATIONS] = 28306
ROW[LOWEST : LOWEST + 3] = [-5, -6, -2010]


class ShowTests(SynchronousTestCase):
    def test_the_layout_is_the_documents(self) -> None:
        """Mission s.4's sample, to the column (C9)."""
        self.assertEqual(show.text({"tcp_local": ROW}), SAMPLE)

    def test_parts_can_be_left_out(self) -> None:
        lines = SAMPLE.splitlines(keepends=True)
        self.assertEqual(show.text({"tcp_local": ROW}, headers=False), "".join(lines[2:]))
        self.assertEqual(show.text({"tcp_local": ROW}, associations=False), "".join(lines[:13]))
        self.assertEqual(show.text({"tcp_local": ROW}, channels=False), "".join(lines[:3] + lines[-2:]))

    def test_channels_come_by_name_with_a_line_between(self) -> None:
        found = show.text({"tcp_local": zeros(), "local": zeros()}, headers=False)
        self.assertTrue(found.startswith("local\n   Received           0"))
        self.assertIn("\n\ntcp_local\n", found)
        self.assertEqual(show.text({}, headers=False), "")

    def test_an_average_of_nothing_is_nothing(self) -> None:
        row = zeros()
        self.assertIn("Queue time/count        0/0 = 0.00", show.text({"a": row}))
        row[QUEUE_TIME_MS : QUEUE_TIME_MS + 2] = [120, 3]
        self.assertIn("Queue time/count        0/3 = 0.04", show.text({"a": row}))

    def test_programs_get_the_true_stored_too(self) -> None:
        """C6: current, minimum and true = current - minimum."""
        lane = LaneState(
            name="0",
            position=Position(7),
            baseline=Baseline(table={}),
            table={"tcp_local": ROW},
            settled=True,
        )
        found = show.as_json(Sizes(), [lane])
        stored = found["channels"]["tcp_local"]["stored"]
        self.assertEqual((stored["messages"], stored["minimum"]["messages"], stored["true"]["messages"]), (61, -5, 66))
        self.assertEqual(
            found["channels"]["tcp_local"]["queue_time"], {"seconds": 16425.0, "count": 29440, "average": 0.558}
        )
        self.assertEqual(found["lanes"], [{"name": "0", "line": 7, "cleared": None, "cleared_line": 0}])
